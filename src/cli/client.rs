//! A small CRI client over the daemon's unix socket.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    net::UnixStream,
    runtime::{self, Runtime},
    time::timeout,
};
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use super::{exit::Exit, tls::Trust};
use crate::cri::wire::{
    AttachRequest, Container, ContainerConfig, ContainerStatus, ContainerStatusRequest,
    CreateContainerRequest, ExecRequest, Image, ImageSpec, ImageStatusRequest, ListContainersRequest,
    ListImagesRequest, ListPodSandboxRequest, PodSandbox, PodSandboxConfig, PullImageRequest,
    RemoveImageRequest, RemovePodSandboxRequest, RunPodSandboxRequest, StartContainerRequest, StatusRequest,
    StopContainerRequest, StopPodSandboxRequest, image_service_client::ImageServiceClient,
    runtime_service_client::RuntimeServiceClient,
};

/// As the kubelet's: a long list of images must fit.
const REPLY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Lists and status are answered from memory: a daemon that takes longer is stuck.
const QUICK_REPLY_MAX: Duration = Duration::from_secs(10);

/// The runtime of a command that waits for one thing at a time.
pub(super) fn runtime() -> Result<Runtime, Exit> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Exit::SOFTWARE.because(&error))
}

/// A CRI client of the daemon on this host. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pods: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    trust: Arc<Trust>,
}

/// Why the daemon did not do it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("no `pintle serve` answers on {}", path.display())]
    Connect {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{doing}: {}", status.message())]
    Refused { doing: String, status: Status },
    #[error("{doing}: the reply lacks what was asked for")]
    Empty { doing: String },
}

/// Which streams a client of an exec or attach wants.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Streams {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

impl Error {
    /// The object is in another state than the request needs.
    pub(super) fn is_precondition(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if status.code() == Code::FailedPrecondition)
    }

    /// What was asked about does not exist (any more).
    pub(super) fn is_unknown(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if status.code() == Code::NotFound)
    }

    /// The daemon is restarting, or was stopped: asking again may help.
    pub(super) fn is_away(&self) -> bool {
        match self {
            Self::Connect { .. } => true,
            Self::Refused { status, .. } => status.code() == Code::Unavailable,
            Self::Empty { .. } => false,
        }
    }
}

impl Client {
    /// Connects to the socket at `path`; connects again by itself when the daemon was restarted.
    pub(super) async fn connect(path: &Path) -> Result<Self, Error> {
        // tonic would hide why: try once by hand.
        UnixStream::connect(path).await.map_err(|source| Error::Connect { path: path.into(), source })?;
        let path = path.to_owned();
        // The name is never looked up: the connector knows where to go.
        let channel =
            Endpoint::from_static("http://pintle").connect_with_connector_lazy(service_fn(move |_| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            }));
        Ok(Self {
            pods: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(REPLY_BYTES_MAX),
            images: ImageServiceClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX),
            trust: Arc::default(),
        })
    }

    /// The same client, whose sessions know the streaming server by `trust` where that speaks TLS.
    pub(super) fn trusting(self, trust: Trust) -> Self {
        Self { trust: Arc::new(trust), ..self }
    }

    /// The certificates for sessions.
    pub(super) fn trust(&self) -> &Trust {
        &self.trust
    }

    /// What the daemon says of itself in Status, as it says it to `crictl info`.
    pub(super) async fn info(&mut self) -> Result<String, Error> {
        let doing = || "ask for the status".to_owned();
        let request = StatusRequest { verbose: true };
        let reply = answer(soon(self.pods.status(request)).await, doing)?;
        reply.info.get("info").cloned().ok_or_else(|| Error::Empty { doing: doing() })
    }

    pub(super) async fn images(&mut self) -> Result<Vec<Image>, Error> {
        let reply = soon(self.images.list_images(ListImagesRequest::default())).await;
        Ok(answer(reply, || "list images".into())?.images)
    }

    /// The id of a local image.
    pub(super) async fn find_image(&mut self, reference: &str) -> Result<Option<String>, Error> {
        let request = ImageStatusRequest { image: Some(spec(reference)), verbose: false };
        let reply =
            answer(soon(self.images.image_status(request)).await, || format!("look for image {reference}"))?;
        Ok(reply.image.map(|image| image.id))
    }

    /// Pulls; the answer is the id.
    pub(super) async fn pull_image(&mut self, reference: &str) -> Result<String, Error> {
        let request = PullImageRequest { image: Some(spec(reference)), ..Default::default() };
        Ok(answer(self.images.pull_image(request).await, || format!("pull {reference}"))?.image_ref)
    }

    pub(super) async fn remove_image(&mut self, reference: &str) -> Result<(), Error> {
        let request = RemoveImageRequest { image: Some(spec(reference)) };
        answer(self.images.remove_image(request).await, || format!("remove image {reference}")).map(drop)
    }

    pub(super) async fn containers(&mut self) -> Result<Vec<Container>, Error> {
        let reply = soon(self.pods.list_containers(ListContainersRequest::default())).await;
        Ok(answer(reply, || "list containers".into())?.containers)
    }

    pub(super) async fn pods(&mut self) -> Result<Vec<PodSandbox>, Error> {
        let reply = soon(self.pods.list_pod_sandbox(ListPodSandboxRequest::default())).await;
        Ok(answer(reply, || "list pods".into())?.items)
    }

    /// The id of the new pod.
    pub(super) async fn run_pod(&mut self, config: PodSandboxConfig) -> Result<String, Error> {
        let request = RunPodSandboxRequest { config: Some(config), ..Default::default() };
        Ok(answer(self.pods.run_pod_sandbox(request).await, || "run pod".into())?.pod_sandbox_id)
    }

    /// The id of the new container.
    pub(super) async fn create(
        &mut self,
        pod: &str,
        pod_config: PodSandboxConfig,
        config: ContainerConfig,
    ) -> Result<String, Error> {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.into(),
            config: Some(config),
            sandbox_config: Some(pod_config),
        };
        Ok(answer(self.pods.create_container(request).await, || "create container".into())?.container_id)
    }

    pub(super) async fn start(&mut self, container: &str) -> Result<(), Error> {
        let request = StartContainerRequest { container_id: container.into() };
        answer(self.pods.start_container(request).await, || "start container".into()).map(drop)
    }

    pub(super) async fn stop(&mut self, container: &str, grace: Duration) -> Result<(), Error> {
        let timeout = grace.as_secs().cast_signed();
        let request = StopContainerRequest { container_id: container.into(), timeout };
        answer(self.pods.stop_container(request).await, || "stop container".into()).map(drop)
    }

    pub(super) async fn status(&mut self, container: &str) -> Result<ContainerStatus, Error> {
        let doing = || "ask for the container's status".to_owned();
        let request = ContainerStatusRequest { container_id: container.into(), verbose: false };
        let reply = answer(soon(self.pods.container_status(request)).await, doing)?;
        reply.status.ok_or_else(|| Error::Empty { doing: doing() })
    }

    /// The streams that a container was made with.
    pub(super) async fn streams_of(&mut self, container: &str) -> Result<Streams, Error> {
        let doing = || "ask for the container's config".to_owned();
        let request = ContainerStatusRequest { container_id: container.into(), verbose: true };
        let reply = answer(soon(self.pods.container_status(request)).await, doing)?;
        let info = reply.info.get("info").and_then(|info| serde_json::from_str::<Value>(info).ok());
        let info = info.ok_or_else(|| Error::Empty { doing: doing() })?;
        let has = |key: &str| info["config"][key].as_bool().unwrap_or(false);
        Ok(Streams { stdin: has("stdin"), stdout: true, stderr: !has("tty"), tty: has("tty") })
    }

    /// The URL at which the command is run, once.
    pub(super) async fn exec(
        &mut self,
        container: &str,
        command: Vec<String>,
        streams: Streams,
    ) -> Result<String, Error> {
        let Streams { stdin, stdout, stderr, tty } = streams;
        let request =
            ExecRequest { container_id: container.into(), cmd: command, tty, stdin, stdout, stderr };
        Ok(answer(soon(self.pods.exec(request)).await, || "exec".into())?.url)
    }

    /// The URL at which the container is attached to, once.
    pub(super) async fn attach(&mut self, container: &str, streams: Streams) -> Result<String, Error> {
        let Streams { stdin, stdout, stderr, tty } = streams;
        let request = AttachRequest { container_id: container.into(), stdin, tty, stdout, stderr };
        Ok(answer(soon(self.pods.attach(request)).await, || "attach".into())?.url)
    }

    /// Stops and removes the pod with all its containers.
    pub(super) async fn remove_pod(&mut self, pod: &str) -> Result<(), Error> {
        let request = StopPodSandboxRequest { pod_sandbox_id: pod.into() };
        answer(self.pods.stop_pod_sandbox(request).await, || format!("stop pod {pod}"))?;
        let request = RemovePodSandboxRequest { pod_sandbox_id: pod.into() };
        answer(self.pods.remove_pod_sandbox(request).await, || format!("remove pod {pod}")).map(drop)
    }
}

fn spec(reference: &str) -> ImageSpec {
    ImageSpec { image: reference.into(), user_specified_image: reference.into(), ..Default::default() }
}

/// What should take no time.
async fn soon<T>(reply: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let late = || Status::deadline_exceeded(format!("the daemon did not answer in {QUICK_REPLY_MAX:?}"));
    timeout(QUICK_REPLY_MAX, reply).await.unwrap_or_else(|_| Err(late()))
}

fn answer<T>(reply: Result<Response<T>, Status>, doing: impl FnOnce() -> String) -> Result<T, Error> {
    reply.map(Response::into_inner).map_err(|status| Error::Refused { doing: doing(), status })
}
