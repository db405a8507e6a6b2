//! RPCs of pods: run, stop, remove, status, list, update.

use std::sync::Arc;

use prost::Message as _;
use tonic::{Status, codegen::BoxStream};

use super::RuntimeService;
use crate::{
    cri::{chunk::chunks, code, parse, render, serve::MESSAGE_BYTES_MAX, wire},
    model::IdPrefix,
    pod::PodView,
};

impl RuntimeService {
    pub(super) async fn run_pod_sandbox(
        &self,
        request: wire::RunPodSandboxRequest,
    ) -> Result<wire::RunPodSandboxResponse, Status> {
        let config = parse::run_pod(request).map_err(code::of)?;
        let id = self.pods.run(config).await.map_err(code::of)?;
        Ok(wire::RunPodSandboxResponse { pod_sandbox_id: id.to_string() })
    }

    pub(super) async fn stop_pod_sandbox(
        &self,
        request: wire::StopPodSandboxRequest,
    ) -> Result<wire::StopPodSandboxResponse, Status> {
        let id = parse::id("pod_sandbox_id", &request.pod_sandbox_id).map_err(code::of)?;
        self.pods.stop_pod(&id).await.map_err(code::of)?;
        Ok(wire::StopPodSandboxResponse {})
    }

    pub(super) async fn remove_pod_sandbox(
        &self,
        request: wire::RemovePodSandboxRequest,
    ) -> Result<wire::RemovePodSandboxResponse, Status> {
        let id = parse::id("pod_sandbox_id", &request.pod_sandbox_id).map_err(code::of)?;
        self.pods.remove_pod(&id).await.map_err(code::of)?;
        Ok(wire::RemovePodSandboxResponse {})
    }

    /// With the statuses of all containers, which spares a kubelet that follows the events a call for each.
    /// It sorts this answer among them by its timestamp, so that is of before the look.
    pub(super) async fn pod_sandbox_status(
        &self,
        request: wire::PodSandboxStatusRequest,
    ) -> Result<wire::PodSandboxStatusResponse, Status> {
        let id = parse::id("pod_sandbox_id", &request.pod_sandbox_id).map_err(code::of)?;
        let moment = self.pods.moment();
        let pod = self.pods.pod(&id).map_err(code::of)?;
        let answer = wire::PodSandboxStatusResponse {
            status: Some(render::pod_status(&pod)),
            info: if request.verbose { render::pod_info(&pod) } else { Default::default() },
            containers_statuses: render::container_statuses(&pod),
            timestamp: moment.0,
        };
        Ok(fitting(answer))
    }

    pub(super) async fn update_pod_sandbox_resources(
        &self,
        request: wire::UpdatePodSandboxResourcesRequest,
    ) -> Result<wire::UpdatePodSandboxResourcesResponse, Status> {
        let (id, change) = parse::update_pod(request).map_err(code::of)?;
        self.pods.update_pod(&id, change).await.map_err(code::of)?;
        Ok(wire::UpdatePodSandboxResourcesResponse {})
    }

    pub(super) async fn list_pod_sandbox(
        &self,
        request: wire::ListPodSandboxRequest,
    ) -> Result<wire::ListPodSandboxResponse, Status> {
        Ok(wire::ListPodSandboxResponse { items: self.listed_pods(request.filter)?.collect() })
    }

    pub(super) async fn stream_pod_sandboxes(
        &self,
        request: wire::StreamPodSandboxesRequest,
    ) -> Result<BoxStream<wire::StreamPodSandboxesResponse>, Status> {
        let pods = self.listed_pods(request.filter)?;
        Ok(chunks(pods, |pod_sandboxes| wire::StreamPodSandboxesResponse { pod_sandboxes }))
    }

    /// Of one snapshot, rendered one after the other.
    fn listed_pods(
        &self,
        filter: Option<wire::PodSandboxFilter>,
    ) -> Result<impl Iterator<Item = wire::PodSandbox> + Send + use<>, Status> {
        let filter = parse::PodFilter::parse(filter).map_err(code::of)?;
        let pods = self.pods_with(filter.id.as_ref()).into_iter();
        Ok(pods.filter(move |pod| filter.admits(pod)).map(|pod| render::pod(&pod)))
    }

    /// All pods, or the one that the id or prefix names; an id that names none gives an empty list.
    pub(super) fn pods_with(&self, id: Option<&IdPrefix>) -> Vec<Arc<PodView>> {
        match id {
            Some(id) => self.pods.pod(id).into_iter().collect(),
            None => self.pods.view().pods.clone(),
        }
    }
}

/// A pod with a great many containers may be more than one message. Without a timestamp the kubelet asks for
/// its containers one by one.
fn fitting(answer: wire::PodSandboxStatusResponse) -> wire::PodSandboxStatusResponse {
    if answer.encoded_len() <= MESSAGE_BYTES_MAX {
        return answer;
    }
    wire::PodSandboxStatusResponse { containers_statuses: Vec::new(), timestamp: 0, ..answer }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_that_is_more_than_a_message_goes_without_its_containers() {
        let answer = |count, bytes| {
            let status = wire::ContainerStatus { message: "x".repeat(bytes), ..Default::default() };
            let status = vec![status; count];
            fitting(wire::PodSandboxStatusResponse {
                containers_statuses: status,
                timestamp: 7,
                ..Default::default()
            })
        };
        let sizes =
            |answer: wire::PodSandboxStatusResponse| (answer.containers_statuses.len(), answer.timestamp);
        assert_eq!(sizes(answer(15, 1 << 20)), (15, 7));
        assert_eq!(sizes(answer(16, 1 << 20)), (0, 0));
    }
}
