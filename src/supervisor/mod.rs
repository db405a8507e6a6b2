//! supervisor

use std::{
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    cgroup,
    model::{
        ContainerId, ContainerPlan, Exit, Failure, PodId, PodPlan, ProcessPlan, ResolvedUser, Stage,
        UnixNanos,
    },
};

/// The process that supervisors are forked from. One for each daemon.
#[derive(Debug)]
pub struct Zygote {}

/// What the supervisor of a new pod has made.
#[derive(Debug)]
pub struct Ready {
    /// Host pid of the supervisor.
    pub pid: u32,
    /// The pod's network namespace; `None` with the host's.
    pub netns: Option<OwnedFd>,
}

/// What a container is, as its supervisor knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerFacts {
    pub id: ContainerId,
    /// Host pid of its init.
    pub pid: u32,
    pub user: ResolvedUser,
    pub started_at: Option<UnixNanos>,
    pub exit: Option<Exit>,
}

/// What a supervisor says unasked.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Its init was reaped and its log is complete. Repeated on each connection until `acknowledge`.
    Exited { id: ContainerId, exit: Exit },
    /// The connection is gone; the supervisor may still live (see [`Client::alive`]).
    Lost,
}

/// What a finished exec left.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ExecExit {
    /// Exit code, or 128 + signal.
    pub code: i32,
    /// It was killed at its deadline.
    pub timed_out: bool,
}

fn stub() -> Failure {
    Failure {
        stage: Stage::Internal,
        object: String::new(),
        errno: 0,
        path: String::new(),
        text: "not built".into(),
    }
}

impl Zygote {
    /// Executes the zygote from a sealed memory copy of this binary.
    pub async fn start() -> std::io::Result<Self> {
        Ok(Self {})
    }
    /// Forks a supervisor and has it make the pod's namespaces. `dir` is the pod's folder under the state
    /// directory; the supervisor keeps its socket (`supervisor.sock`) and exit records (`<container>.exit`) there.
    /// On failure nothing is left but `dir`.
    pub async fn spawn(
        &self,
        _pod: &PodId,
        _dir: &Path,
        _plan: &PodPlan,
        _cgroup: &cgroup::Handle,
    ) -> Result<(Client, Ready), Failure> {
        Err(stub())
    }
}

/// A connection to one supervisor. Cheap to clone; every call has a deadline.
#[derive(Clone, Debug)]
pub struct Client {}

impl Client {
    /// Connects to the supervisor of an earlier daemon; also gives what it knows of its containers.
    pub async fn connect(_pod: &PodId, _dir: &Path) -> Result<(Self, Vec<ContainerFacts>), Failure> {
        Err(stub())
    }
    pub fn pid(&self) -> u32 {
        0
    }
    /// Waits until the supervisor process has ended (pidfd).
    pub async fn ended(&self) {}
    /// The next event. One task of the pod's driver calls it.
    pub async fn event(&self) -> Event {
        Event::Lost
    }
    /// Makes the container, up to the start barrier.
    pub async fn create(&self, _plan: &ContainerPlan) -> Result<ContainerFacts, Failure> {
        Err(stub())
    }
    /// Lets it go; the answer is that execve worked, or why not.
    pub async fn start(&self, _id: &ContainerId) -> Result<UnixNanos, Failure> {
        Err(stub())
    }
    /// One signal to its init.
    pub async fn signal(&self, _id: &ContainerId, _signal: i32) -> Result<(), Failure> {
        Err(stub())
    }
    /// SIGKILL to all of it. The exit follows as an event.
    pub async fn kill(&self, _id: &ContainerId) -> Result<(), Failure> {
        Err(stub())
    }
    /// Runs a process in it until it ends; at `timeout` its whole process tree is killed before the answer.
    /// Dropping the future kills it too.
    pub async fn exec(
        &self,
        _id: &ContainerId,
        _process: &ProcessPlan,
        _stdout: OwnedFd,
        _stderr: OwnedFd,
        _timeout: Option<Duration>,
    ) -> Result<ExecExit, Failure> {
        Err(stub())
    }
    pub async fn reopen_log(&self, _id: &ContainerId) -> Result<(), Failure> {
        Err(stub())
    }
    /// The daemon has stored the exit.
    pub async fn acknowledge(&self, _id: &ContainerId) -> Result<(), Failure> {
        Err(stub())
    }
    /// Forgets a container: kills what is left of it, removes its cgroup and exit record. Unknown is success.
    pub async fn remove(&self, _id: &ContainerId) -> Result<(), Failure> {
        Err(stub())
    }
    /// Kills every container, then the supervisor ends itself.
    pub async fn shutdown(&self) -> Result<(), Failure> {
        Err(stub())
    }
}

/// Reads the exit record that the supervisor of `dir` wrote for `id`, also when that supervisor is gone.
pub fn recorded_exit(_dir: &Path, _id: &ContainerId) -> Option<Exit> {
    None
}

/// The path of a pod's supervisor socket.
pub fn socket_path(dir: &Path) -> PathBuf {
    dir.join("supervisor.sock")
}

/// Stub.
pub fn zygote_main() -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}

/// Stub.
pub fn anchor_main() -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
