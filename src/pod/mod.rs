//! pod

use std::{sync::Arc, time::Duration};

use crate::{
    image::Images,
    model::{
        ContainerConfig, ContainerId, Digest, Exit, Failure, PodConfig, PodId, ResolvedUser, Resources,
        UnixNanos,
    },
    network::{self, Attachment},
};

/// Stub.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {}

/// Why a pod or container could not be had, made, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no pod {0}")]
    NoSuchPod(String),
    #[error("no container {0}")]
    NoSuchContainer(String),
    #[error("id prefix {0} matches more than one")]
    Ambiguous(String),
    #[error("image {0} is not here; pull it first")]
    NoSuchImage(String),
    #[error("{object} is {state}; {wanted}")]
    WrongState { object: String, state: &'static str, wanted: &'static str },
    #[error("unknown runtime handler {0:?}")]
    UnknownHandler(String),
    #[error("{0}")]
    Invalid(String),
    #[error("{waiting} creates are waiting already")]
    Busy { waiting: usize },
    #[error("command timed out after {0:?}")]
    ExecTimeout(Duration),
    #[error(transparent)]
    Supervisor(#[from] Failure),
    #[error(transparent)]
    Network(#[from] network::Error),
    #[error(transparent)]
    Cgroup(#[from] crate::cgroup::Error),
    #[error(transparent)]
    Image(#[from] crate::image::Error),
    #[error(transparent)]
    Spec(#[from] crate::spec::Error),
    #[error("{doing}")]
    Io {
        doing: String,
        #[source]
        source: std::io::Error,
    },
}

/// A pod as readers see it: immutable, replaced as a whole.
#[derive(Clone, Debug)]
pub struct PodView {
    pub id: PodId,
    pub config: Arc<PodConfig>,
    pub ready: bool,
    pub created_at: UnixNanos,
    pub attachment: Option<Attachment>,
    /// Host pid of the supervisor; 0 when it is gone.
    pub supervisor_pid: u32,
    /// Oldest first.
    pub containers: Vec<Arc<ContainerView>>,
}

/// A container as readers see it.
#[derive(Clone, Debug)]
pub struct ContainerView {
    pub id: ContainerId,
    pub pod: PodId,
    pub config: Arc<ContainerConfig>,
    pub image_id: Digest,
    /// Repo digest, else the id.
    pub image_ref: String,
    /// For people: what the pod's author wrote, else the first tag.
    pub image_name: String,
    pub state: ContainerState,
    pub created_at: UnixNanos,
    pub user: ResolvedUser,
    /// Absolute; `None` is "no log".
    pub log_path: Option<String>,
    pub resources: Resources,
    /// Number of the effective stop signal.
    pub stop_signal: i32,
}

/// There is no pid to read after `Exited`, and no exit to read before it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ContainerState {
    Created { pid: u32 },
    Running { pid: u32, started_at: UnixNanos },
    Exited { started_at: Option<UnixNanos>, exit: Exit },
}

/// All pods at one moment.
#[derive(Clone, Debug, Default)]
pub struct View {
    pub pods: Vec<Arc<PodView>>,
}

/// What a finished ExecSync gives.
#[derive(Clone, Debug, Default)]
pub struct ExecOutput {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit_code: i32,
}

/// Stub.
#[derive(Debug)]
pub struct Parts {
    pub cgroups: crate::cgroup::Manager,
    pub images: Images,
    pub network: network::Network,
    pub zygote: crate::supervisor::Zygote,
}

/// Every pod and container of the node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pods {}

impl Pods {
    /// Stub.
    pub async fn start_up(
        _config: &Config,
        _root: &std::path::Path,
        _state: &std::path::Path,
        _parts: Parts,
    ) -> Result<Self, Error> {
        Ok(Self {})
    }
    pub async fn run(&self, _config: PodConfig) -> Result<PodId, Error> {
        Err(Error::NoSuchPod(String::new()))
    }
    pub async fn stop_pod(&self, _id: &str) -> Result<(), Error> {
        Ok(())
    }
    pub async fn remove_pod(&self, _id: &str) -> Result<(), Error> {
        Ok(())
    }
    pub async fn create(&self, pod: &str, _config: ContainerConfig) -> Result<ContainerId, Error> {
        Err(Error::NoSuchPod(pod.into()))
    }
    pub async fn start(&self, id: &str) -> Result<(), Error> {
        Err(Error::NoSuchContainer(id.into()))
    }
    pub async fn stop(&self, _id: &str, _grace: Duration) -> Result<(), Error> {
        Ok(())
    }
    pub async fn remove(&self, _id: &str) -> Result<(), Error> {
        Ok(())
    }
    pub async fn exec_sync(
        &self,
        id: &str,
        _command: Vec<String>,
        _timeout: Option<Duration>,
    ) -> Result<ExecOutput, Error> {
        Err(Error::NoSuchContainer(id.into()))
    }
    pub async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        Err(Error::NoSuchContainer(id.into()))
    }
    /// Everything, for lists; never waits.
    pub fn view(&self) -> Arc<View> {
        Arc::default()
    }
    /// One pod, by id or unique prefix.
    pub fn pod(&self, id: &str) -> Result<Arc<PodView>, Error> {
        Err(Error::NoSuchPod(id.into()))
    }
    /// One container, by id or unique prefix.
    pub fn container(&self, id: &str) -> Result<Arc<ContainerView>, Error> {
        Err(Error::NoSuchContainer(id.into()))
    }
    /// Whether pods can be attached to the network; else why not.
    pub fn network_ready(&self) -> Result<(), network::Error> {
        Ok(())
    }
    pub fn images(&self) -> &Images {
        unreachable!("stub")
    }
}
