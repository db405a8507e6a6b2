//! The kubelet's side of the protocol, without the waiting: every call blocks and has an end.

use std::{path::Path, sync::LazyLock, time::Duration};

use tokio::runtime::Runtime;
use tonic::{
    Response, Status,
    transport::{Channel, Endpoint},
};

pub(crate) mod v1 {
    //! The messages, compiled for these tests from `proto/runtime/v1/api.proto`.
    #![allow(
        clippy::allow_attributes_without_reason,
        clippy::all,
        dead_code,
        missing_debug_implementations,
        unreachable_pub,
        reason = "generated code"
    )]

    use std::fmt;

    tonic::include_proto!("runtime.v1");

    /// The crate's own build leaves this to be written by hand, so that no credential is ever printed.
    impl fmt::Debug for AuthConfig {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("AuthConfig").finish_non_exhaustive()
        }
    }
}

use v1::{image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient};

/// As long as the kubelet's own shortest deadline.
const CALL_MAX: Duration = Duration::from_secs(120);

/// One for all tests.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
});

/// A connection that is made again whenever the daemon was restarted.
#[derive(Clone, Debug)]
pub(crate) struct Cri {
    runtime: RuntimeServiceClient<Channel>,
    image: ImageServiceClient<Channel>,
}

impl Cri {
    pub(crate) fn new(socket: &Path) -> Self {
        let _inside = RUNTIME.enter();
        let endpoint =
            Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap().timeout(CALL_MAX);
        let channel = endpoint.connect_lazy();
        Self { runtime: RuntimeServiceClient::new(channel.clone()), image: ImageServiceClient::new(channel) }
    }
}

macro_rules! calls {
    ($($service:ident: $name:ident($request:ident) -> $reply:ident;)*) => {
        impl Cri {
            $(pub(crate) fn $name(&self, request: v1::$request) -> Result<v1::$reply, Status> {
                let mut client = self.$service.clone();
                RUNTIME.block_on(async move { client.$name(request).await.map(Response::into_inner) })
            })*
        }
    };
}

calls! {
    runtime: version(VersionRequest) -> VersionResponse;
    runtime: status(StatusRequest) -> StatusResponse;
    runtime: runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse;
    runtime: run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse;
    runtime: stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse;
    runtime: remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse;
    runtime: pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse;
    runtime: list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse;
    runtime: create_container(CreateContainerRequest) -> CreateContainerResponse;
    runtime: start_container(StartContainerRequest) -> StartContainerResponse;
    runtime: stop_container(StopContainerRequest) -> StopContainerResponse;
    runtime: remove_container(RemoveContainerRequest) -> RemoveContainerResponse;
    runtime: list_containers(ListContainersRequest) -> ListContainersResponse;
    runtime: container_status(ContainerStatusRequest) -> ContainerStatusResponse;
    runtime: update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse;
    runtime: reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse;
    runtime: exec_sync(ExecSyncRequest) -> ExecSyncResponse;
    runtime: container_stats(ContainerStatsRequest) -> ContainerStatsResponse;
    image: list_images(ListImagesRequest) -> ListImagesResponse;
    image: image_status(ImageStatusRequest) -> ImageStatusResponse;
    image: pull_image(PullImageRequest) -> PullImageResponse;
    image: remove_image(RemoveImageRequest) -> RemoveImageResponse;
    image: image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse;
}
