//! The daemon's handle on the zygote, and on a supervisor that has no pod yet.
//!
//! The zygote is executed once, from a sealed copy of this binary (`supervisor/zygote.rs` is its inside).

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use tokio::sync::Mutex;

use super::{
    super::{
        Ready,
        wire::{self, Assembler, v1},
    },
    Client,
};
use crate::{
    cgroup,
    model::{Failure, PodId, PodPlan, Stage},
    sys::memfd,
    telemetry::task,
};

/// How long a fork and a set-up of namespaces may take; they take 3 ms.
const SPAWN_MAX: Duration = Duration::from_secs(30);

/// The process that supervisors are forked from. One for each daemon.
#[derive(Clone, Debug)]
pub struct Zygote {
    channel: Arc<Mutex<Channel>>,
}

#[derive(Debug)]
struct Channel {
    socket: tokio::io::unix::AsyncFd<OwnedFd>,
    incoming: Assembler,
    /// Reaps it.
    _child: tokio::process::Child,
}

impl Zygote {
    /// Executes the zygote from a sealed memory copy of this binary.
    ///
    /// # Errors
    /// When there is no memory for the copy, or it cannot be executed.
    pub async fn start() -> io::Result<Self> {
        Ok(Self { channel: Arc::new(Mutex::new(Channel::start().await?)) })
    }

    /// Forks a supervisor that has no pod yet, into the pod's cgroup where that is there.
    ///
    /// # Errors
    /// A [`Failure`] that names the step.
    pub async fn fork(&self, pod: &PodId, cgroup: &cgroup::Handle) -> Result<Newborn, Failure> {
        let late = |_| not_up(pod);
        tokio::time::timeout(SPAWN_MAX, self.fork_now(pod, cgroup)).await.map_err(late)?
    }

    async fn fork_now(&self, pod: &PodId, cgroup: &cgroup::Handle) -> Result<Newborn, Failure> {
        let failed = |error: io::Error| Failure::io(Stage::Internal, "zygote", "", &error);
        let cgroup = cgroup.clone();
        let gate = task::blocking("supervisor gate", move || cgroup.supervisor_gate()).await;
        let gate = gate.map_err(|error| error.failure(pod.as_str()))?;
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed)?;
        let fork = v1::Fork { pod_id: pod.to_string(), gate: gate.is_some() };
        let frame = wire::encode(&fork, [theirs.into()].into_iter().chain(gate).collect());
        let channel = Arc::clone(&self.channel);
        // In a task of its own: a caller that stops waiting must not leave an answer for the next one to take.
        let exchange = async move { channel.lock().await.ask(&frame).await };
        let forked = task::spawn("zygote-fork", exchange).await;
        let (forked, pidfd) = forked.map_err(io::Error::other).flatten().map_err(failed)?;
        if let Some(failure) = forked.failure {
            return Err(wire::failure(failure));
        }
        let pidfd = pidfd.ok_or_else(|| Failure::new(Stage::Internal, "zygote", "it sent no pidfd"))?;
        let ended = pidfd.try_clone().map_err(failed)?;
        let client = Client::new(ours.into(), forked.pid, ended).await?;
        Ok(Newborn { client, pid: forked.pid, pidfd, has_pod: false })
    }
}

fn not_up(pod: &PodId) -> Failure {
    Failure::new(Stage::Deadline, pod.as_str(), "its supervisor did not come up")
}

/// A supervisor without a pod. Dropped, it is killed.
#[derive(Debug)]
pub struct Newborn {
    client: Client,
    pid: u32,
    pidfd: OwnedFd,
    has_pod: bool,
}

impl Newborn {
    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Has it join the pod's cgroup and make the pod's namespaces. `dir` is the pod's folder under the state
    /// directory; the supervisor keeps its socket and exit records there. On failure nothing is left but
    /// `dir`.
    ///
    /// # Errors
    /// A [`Failure`] that names the step.
    pub async fn set_up(
        mut self,
        pod: &PodId,
        dir: &Path,
        plan: &PodPlan,
        cgroup: &cgroup::Handle,
    ) -> Result<(Client, Ready), Failure> {
        let setup = wire::setup_request(pod, dir, plan, cgroup)?;
        let ready = tokio::time::timeout(SPAWN_MAX, self.client.set_up(setup)).await;
        let ready = ready.unwrap_or_else(|_| Err(not_up(pod)))?;
        self.has_pod = true;
        Ok((self.client.clone(), ready))
    }
}

impl Drop for Newborn {
    fn drop(&mut self) {
        if !self.has_pod {
            // It would end with its connection; one that hangs ends with this.
            let _ = rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL);
        }
    }
}

impl Channel {
    async fn start() -> io::Result<Self> {
        let (ours, theirs) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        let program = task::blocking("sealed copy", memfd::sealed_self).await?;
        let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
        command
            .arg0("pintle")
            .arg("zygote")
            .env_clear()
            .envs(crate::telemetry::failpoint_environment())
            .current_dir("/");
        // What outlives the daemon must not hold the daemon's output open.
        command.stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(Stdio::null());
        let child = tokio::process::Command::from(command).spawn()?;
        drop(program);
        let socket = crate::sys::ready::watch(ours)?;
        Ok(Self { socket, incoming: Assembler::default(), _child: child })
    }

    /// Asks; a zygote that has died (the kernel may take it when memory is short) is replaced and asked again.
    async fn ask(&mut self, frame: &wire::Frame) -> io::Result<(v1::Forked, Option<OwnedFd>)> {
        match self.exchange(frame).await {
            Err(error) => {
                tracing::warn!(%error, "the zygote is gone, starting another");
                *self = Self::start().await?;
                self.exchange(frame).await
            }
            answered => answered,
        }
    }

    /// One question, one answer. The zygote is ours and does nothing else, so it answers at once or is dead.
    async fn exchange(&mut self, frame: &wire::Frame) -> io::Result<(v1::Forked, Option<OwnedFd>)> {
        super::send(&self.socket, frame).await?;
        loop {
            if let Some(forked) = self.incoming.next::<v1::Forked>()? {
                let count = u32::from(forked.failure.is_none());
                return Ok((forked, self.incoming.take_fds(count)?.pop()));
            }
            let mut guard = self.socket.readable().await?;
            let incoming = &mut self.incoming;
            if let Ok(more) = guard.try_io(|socket| incoming.fill(socket.as_fd()))
                && !more?
            {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the zygote is dead"));
            }
        }
    }
}
