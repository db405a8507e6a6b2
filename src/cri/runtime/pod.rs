use std::sync::Arc;

use tonic::Status;

use super::RuntimeService;
use crate::{
    cri::{code, parse, render, wire},
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

    /// `containers_statuses` and `timestamp` stay empty: they belong to GetContainerEvents.
    pub(super) async fn pod_sandbox_status(
        &self,
        request: wire::PodSandboxStatusRequest,
    ) -> Result<wire::PodSandboxStatusResponse, Status> {
        let id = parse::id("pod_sandbox_id", &request.pod_sandbox_id).map_err(code::of)?;
        let pod = self.pods.pod(&id).map_err(code::of)?;
        Ok(wire::PodSandboxStatusResponse {
            status: Some(render::pod_status(&pod)),
            info: if request.verbose { render::pod_info(&pod) } else { Default::default() },
            ..wire::PodSandboxStatusResponse::default()
        })
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
        let filter = parse::PodFilter::parse(request.filter).map_err(code::of)?;
        let pods = self.pods_with(filter.id.as_deref());
        let items = pods.iter().filter(|pod| filter.admits(pod)).map(|pod| render::pod(pod)).collect();
        Ok(wire::ListPodSandboxResponse { items })
    }

    /// All pods, or the one that the id or prefix names; an id that names none gives an empty list.
    pub(super) fn pods_with(&self, id: Option<&str>) -> Vec<Arc<PodView>> {
        match id {
            Some(id) => self.pods.pod(id).into_iter().collect(),
            None => self.pods.view().pods.clone(),
        }
    }
}
