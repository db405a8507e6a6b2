use tonic::Status;

use super::RuntimeService;
use crate::cri::{code, parse, render, wire};

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
        let filter = parse::ContainerFilter::parse(request.filter).map_err(code::of)?;
        let containers = self.containers_with(&filter);
        let containers = containers.iter().map(|container| render::container(container)).collect();
        Ok(wire::ListContainersResponse { containers })
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

    pub(super) async fn reopen_container_log(
        &self,
        request: wire::ReopenContainerLogRequest,
    ) -> Result<wire::ReopenContainerLogResponse, Status> {
        let id = parse::id("container_id", &request.container_id).map_err(code::of)?;
        self.pods.reopen_log(&id).await.map_err(code::of)?;
        Ok(wire::ReopenContainerLogResponse {})
    }
}
