//! RPCs of one container: create, start, stop, remove, status, update, reopen its log.

use tonic::{Status, codegen::BoxStream};

use super::RuntimeService;
use crate::cri::{chunk::chunks, code, parse, render, wire};

impl RuntimeService {
    pub(super) async fn create_container(
        &self,
        request: wire::CreateContainerRequest,
    ) -> Result<wire::CreateContainerResponse, Status> {
        let (pod, config) = parse::create_container(request).map_err(code::of)?;
        let id = self.pods.create(&pod, config).await.map_err(code::of)?;
        Ok(wire::CreateContainerResponse { container_id: id.to_string() })
    }

    pub(super) async fn start_container(
        &self,
        request: wire::StartContainerRequest,
    ) -> Result<wire::StartContainerResponse, Status> {
        let id = parse::id("container_id", &request.container_id).map_err(code::of)?;
        self.pods.start(&id).await.map_err(code::of)?;
        Ok(wire::StartContainerResponse {})
    }

    pub(super) async fn stop_container(
        &self,
        request: wire::StopContainerRequest,
    ) -> Result<wire::StopContainerResponse, Status> {
        let id = parse::id("container_id", &request.container_id).map_err(code::of)?;
        let grace = parse::grace(request.timeout).map_err(code::of)?;
        self.pods.stop(&id, grace).await.map_err(code::of)?;
        Ok(wire::StopContainerResponse {})
    }

    pub(super) async fn remove_container(
        &self,
        request: wire::RemoveContainerRequest,
    ) -> Result<wire::RemoveContainerResponse, Status> {
        let id = parse::id("container_id", &request.container_id).map_err(code::of)?;
        self.pods.remove(&id).await.map_err(code::of)?;
        Ok(wire::RemoveContainerResponse {})
    }

    pub(super) async fn list_containers(
        &self,
        request: wire::ListContainersRequest,
    ) -> Result<wire::ListContainersResponse, Status> {
        Ok(wire::ListContainersResponse { containers: self.listed_containers(request.filter)?.collect() })
    }

    pub(super) async fn stream_containers(
        &self,
        request: wire::StreamContainersRequest,
    ) -> Result<BoxStream<wire::StreamContainersResponse>, Status> {
        let containers = self.listed_containers(request.filter)?;
        Ok(chunks(containers, |containers| wire::StreamContainersResponse { containers }))
    }

    /// Of one snapshot, rendered one after the other.
    fn listed_containers(
        &self,
        filter: Option<wire::ContainerFilter>,
    ) -> Result<impl Iterator<Item = wire::Container> + Send + use<>, Status> {
        let filter = parse::ContainerFilter::parse(filter).map_err(code::of)?;
        let containers = self.containers_with(&filter).into_iter();
        Ok(containers.map(|container| render::container(&container)))
    }

    pub(super) async fn container_status(
        &self,
        request: wire::ContainerStatusRequest,
    ) -> Result<wire::ContainerStatusResponse, Status> {
        let id = parse::id("container_id", &request.container_id).map_err(code::of)?;
        let container = self.pods.container(&id).map_err(code::of)?;
        Ok(wire::ContainerStatusResponse {
            status: Some(render::container_status(&container)),
            info: if request.verbose { render::container_info(&container) } else { Default::default() },
        })
    }

    /// `annotations` are for plugins that change containers, and pintle has none.
    pub(super) async fn update_container_resources(
        &self,
        request: wire::UpdateContainerResourcesRequest,
    ) -> Result<wire::UpdateContainerResourcesResponse, Status> {
        let (id, change) = parse::update_container(request).map_err(code::of)?;
        self.pods.update(&id, change).await.map_err(code::of)?;
        Ok(wire::UpdateContainerResourcesResponse {})
    }

    pub(super) async fn reopen_container_log(
        &self,
        request: wire::ReopenContainerLogRequest,
    ) -> Result<wire::ReopenContainerLogResponse, Status> {
        let id = parse::id("container_id", &request.container_id).map_err(code::of)?;
        self.pods.reopen_log(&id).await.map_err(code::of)?;
        Ok(wire::ReopenContainerLogResponse {})
    }
}
