//! The kubelet's side of the protocol, without the waiting: every call blocks and has an end.

use std::{path::Path, sync::LazyLock, time::Duration};

use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::UnixStream, runtime::Runtime};
use tonic::{
    Request, Response, Status, Streaming,
    body::Body,
    codegen::http,
    transport::{Channel, Endpoint},
};
use tower::util::BoxCloneService;

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

/// What the kubelet takes.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

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
        let runtime = RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let image = ImageServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        Self { runtime, image }
    }

    /// Asks so many times and takes each call back once it is under way, as a reset of its stream.
    pub(crate) fn version_and_reset(&self, times: usize) {
        let mut client = self.runtime.clone();
        RUNTIME.block_on(async move {
            client.version(v1::VersionRequest::default()).await.unwrap();
            for _ in 0..times {
                let mut call = std::pin::pin!(client.version(v1::VersionRequest::default()));
                // Polled a few times, so that the head has left when it is dropped; an answer is fine too.
                for _ in 0..3 {
                    if futures_util::poll!(call.as_mut()).is_ready() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            }
        });
    }
}

/// A connection that only passes calls on. Tonic's own ends a call itself when its deadline passes.
#[derive(Debug)]
pub(crate) struct ClocklessCri(BoxCloneService<http::Request<Body>, http::Response<Incoming>, hyper::Error>);

impl ClocklessCri {
    pub(crate) fn new(socket: &Path) -> Self {
        let sender = RUNTIME.block_on(async {
            let io = TokioIo::new(UnixStream::connect(socket).await.unwrap());
            let (sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
            RUNTIME.spawn(connection);
            sender
        });
        let call = move |request| {
            let mut sender = sender.clone();
            async move { sender.send_request(request).await }
        };
        Self(BoxCloneService::new(tower::service_fn(call)))
    }

    pub(crate) fn pull_image_within(
        &self,
        timeout: &'static str,
        request: v1::PullImageRequest,
    ) -> Result<(), Status> {
        let mut client = ImageServiceClient::with_origin(self.0.clone(), http::Uri::from_static(ORIGIN));
        RUNTIME.block_on(client.pull_image(due(timeout, request))).map(drop)
    }

    pub(crate) fn stop_container_within(
        &self,
        timeout: &'static str,
        request: v1::StopContainerRequest,
    ) -> Result<(), Status> {
        RUNTIME.block_on(self.runtime().stop_container(due(timeout, request))).map(drop)
    }

    pub(crate) fn exec_sync_within(
        &self,
        timeout: &'static str,
        request: v1::ExecSyncRequest,
    ) -> Result<(), Status> {
        RUNTIME.block_on(self.runtime().exec_sync(due(timeout, request))).map(drop)
    }

    /// How following the events ends.
    pub(crate) fn events_within(&self, timeout: &'static str) -> Status {
        RUNTIME.block_on(async {
            let request = due(timeout, v1::GetEventsRequest {});
            let mut events = self.runtime().get_container_events(request).await.unwrap().into_inner();
            loop {
                if let Err(status) = events.message().await {
                    return status;
                }
            }
        })
    }

    fn runtime(
        &self,
    ) -> RuntimeServiceClient<BoxCloneService<http::Request<Body>, http::Response<Incoming>, hyper::Error>>
    {
        RuntimeServiceClient::with_origin(self.0.clone(), http::Uri::from_static(ORIGIN))
    }
}

/// Nobody looks at it.
const ORIGIN: &str = "http://localhost";

/// A call with a deadline, as `grpc-timeout` has it.
fn due<T>(timeout: &'static str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("grpc-timeout", timeout.parse().unwrap());
    request
}

/// What the daemon sends one after the other. Dropped, it hangs up.
#[derive(Debug)]
pub(crate) struct Messages<T>(Streaming<T>);

impl<T> Messages<T> {
    /// The next message, `None` at the end. The test fails if the daemon is silent for [`CALL_MAX`].
    #[track_caller]
    pub(crate) fn next(&mut self) -> Option<Result<T, Status>> {
        self.within(CALL_MAX).unwrap_or_else(|| panic!("no message for {CALL_MAX:?}"))
    }

    /// As `next`; `None` if the daemon is silent for so long.
    pub(crate) fn within(&mut self, time: Duration) -> Option<Option<Result<T, Status>>> {
        let next = async { tokio::time::timeout(time, self.0.message()).await };
        RUNTIME.block_on(next).ok().map(Result::transpose)
    }

    /// All of them, to the end.
    #[track_caller]
    pub(crate) fn all(mut self) -> Vec<T> {
        std::iter::from_fn(|| self.next()).map(|message| message.unwrap()).collect()
    }
}

macro_rules! streams {
    ($($service:ident: $name:ident($request:ident) -> $message:ident;)*) => {
        impl Cri {
            $(pub(crate) fn $name(&self, request: v1::$request) -> Result<Messages<v1::$message>, Status> {
                let mut client = self.$service.clone();
                RUNTIME.block_on(async move { client.$name(request).await.map(|reply| Messages(reply.into_inner())) })
            })*
        }
    };
}

streams! {
    runtime: get_container_events(GetEventsRequest) -> ContainerEventResponse;
    runtime: stream_pod_sandboxes(StreamPodSandboxesRequest) -> StreamPodSandboxesResponse;
    runtime: stream_containers(StreamContainersRequest) -> StreamContainersResponse;
    runtime: stream_container_stats(StreamContainerStatsRequest) -> StreamContainerStatsResponse;
    runtime: stream_pod_sandbox_stats(StreamPodSandboxStatsRequest) -> StreamPodSandboxStatsResponse;
    runtime: stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest) -> StreamPodSandboxMetricsResponse;
    image: stream_images(StreamImagesRequest) -> StreamImagesResponse;
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
    runtime: update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse;
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
    runtime: update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest) -> UpdatePodSandboxResourcesResponse;
    runtime: reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse;
    runtime: exec_sync(ExecSyncRequest) -> ExecSyncResponse;
    runtime: exec(ExecRequest) -> ExecResponse;
    runtime: attach(AttachRequest) -> AttachResponse;
    runtime: port_forward(PortForwardRequest) -> PortForwardResponse;
    runtime: container_stats(ContainerStatsRequest) -> ContainerStatsResponse;
    runtime: list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse;
    runtime: pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse;
    runtime: list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse;
    runtime: list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse;
    runtime: list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse;
    image: list_images(ListImagesRequest) -> ListImagesResponse;
    image: image_status(ImageStatusRequest) -> ImageStatusResponse;
    image: pull_image(PullImageRequest) -> PullImageResponse;
    image: remove_image(RemoveImageRequest) -> RemoveImageResponse;
    image: image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse;
}
