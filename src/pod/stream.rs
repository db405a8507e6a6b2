//! What clients of streams are connected to: commands in running containers, ports of pods.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd as _, OwnedFd},
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::{
    Pods,
    admission::open_files_allow,
    error::Error,
    exec::{client_of, exec_plan, pipe_pair},
    view::{ContainerState, ContainerView},
};
use crate::{
    model::{ContainerId, IdPrefix, PodId, TerminalSize},
    supervisor::{Attachment, Client, ExecStdio},
    sys::{self, fdpass},
};

/// How long a port may take to answer: on loopback, one with a full queue of connections.
const DIAL_MAX: Duration = Duration::from_secs(10);

/// Both ends of three pipes, and the client's socket.
const DESCRIPTORS_PER_EXEC: u64 = 7;

/// Whether a command gets a terminal, and if not, whether it gets input.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wanted {
    Pipes {
        stdin: bool,
    },
    /// `None`: without a size.
    Terminal {
        size: Option<TerminalSize>,
    },
}

/// The daemon's ends of the standard streams of a command.
#[derive(Debug)]
pub enum ExecEnds {
    Pipes {
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// The master of its terminal. When it is closed, the command's session is hung up.
    Terminal(OwnedFd),
}

/// A command that is being run.
pub struct RunningExec {
    pub ends: ExecEnds,
    /// Its exit code, or why it could not be run. Dropping it kills the command with all its processes.
    pub exit: BoxFuture<'static, Result<i32, Error>>,
}

impl Pods {
    /// The container that `id` names, if a command could run in it now.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::Ambiguous`], [`Error::WrongState`].
    pub fn running_container(&self, id: &IdPrefix) -> Result<ContainerId, Error> {
        let container = self.container(id)?;
        running(&container).map(|()| container.id.clone())
    }

    /// The pod that `id` names, if its ports could be connected to now.
    ///
    /// # Errors
    /// [`Error::NoSuchPod`], [`Error::Ambiguous`], [`Error::WrongState`].
    pub fn ready_pod(&self, id: &IdPrefix) -> Result<PodId, Error> {
        let pod = self.pod(id)?;
        if pod.ready {
            return Ok(pod.id.clone());
        }
        Err(Error::WrongState {
            object: format!("pod {}", pod.id),
            state: "not ready",
            wanted: "it must be ready",
        })
    }

    /// Connects to a port of the pod's loopback, 127.0.0.1 and then ::1.
    ///
    /// # Errors
    /// [`Error::Io`] when nobody listens on either.
    pub async fn dial(&self, id: &PodId, port: u16) -> Result<TcpStream, Error> {
        let client = self.pod_client(id).await?;
        open_files_allow(1)?;
        let mut first = None;
        for address in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
            let address = SocketAddr::new(address, port);
            let socket = client.socket(address.is_ipv6()).await?;
            match timeout(DIAL_MAX, connect(socket, address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(source)) => {
                    first.get_or_insert(Error::Io {
                        doing: format!("connect to {address} in pod {id}"),
                        source,
                    });
                }
                Err(_) => {
                    let source = io::ErrorKind::TimedOut.into();
                    first.get_or_insert(Error::Io {
                        doing: format!("connect to {address} in pod {id}"),
                        source,
                    });
                }
            }
        }
        Err(first.unwrap_or_else(|| Error::NoSuchPod(id.to_string())))
    }

    /// Waits until the pod is stopped: its supervisor has ended.
    pub async fn stopped(&self, id: &PodId) {
        if let Ok(client) = self.pod_client(id).await {
            client.ended().await;
        }
    }

    async fn pod_client(&self, id: &PodId) -> Result<Client, Error> {
        let reach = self.reach_pod(&id.into())?.ok_or_else(|| Error::NoSuchPod(id.to_string()))?;
        let client = reach.access.client().await;
        client.ok_or_else(|| Error::WrongState {
            object: format!("pod {id}"),
            state: "without a supervisor",
            wanted: "it must be ready",
        })
    }

    /// The container that `id` names, if a client could be attached to it now.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::Ambiguous`], [`Error::WrongState`] once it has exited.
    pub fn attachable_container(&self, id: &IdPrefix) -> Result<ContainerId, Error> {
        let container = self.container(id)?;
        match container.state {
            ContainerState::Created { .. } | ContainerState::Running { .. } => Ok(container.id.clone()),
            ContainerState::Exited { .. } => Err(Error::WrongState {
                object: format!("container {}", container.id),
                state: "exited",
                wanted: "it must be created or running",
            }),
        }
    }

    /// Attaches a client to the streams of the container's own process.
    ///
    /// # Errors
    /// When the container has ended, or its supervisor cannot be reached.
    pub async fn attach(
        &self,
        id: &ContainerId,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    ) -> Result<Attachment, Error> {
        let container = self.container(&id.into())?;
        let client = self.pod_client(&container.pod).await?;
        open_files_allow(2)?;
        Ok(client.attach(id, stdin, stdout, stderr).await?)
    }

    /// Runs `command` in the container, as ExecSync does, with its streams in the caller's hands.
    ///
    /// # Errors
    /// When it could not be asked for; what keeps it from running is in `exit`.
    pub async fn exec(
        &self,
        id: &ContainerId,
        command: Vec<String>,
        wanted: Wanted,
    ) -> Result<RunningExec, Error> {
        let (container, reach) = self.reach_container(&id.into())?;
        let client = client_of(&reach, &container).await?;
        open_files_allow(DESCRIPTORS_PER_EXEC)?;
        let node = self.node();
        let tty = matches!(wanted, Wanted::Terminal { .. });
        let plan = exec_plan(&node, &reach, &container, command, tty).await?;
        let start = move |stdio: ExecStdio| {
            async move {
                let _turn = node.execs.enter(&container.id)?;
                Ok(client.exec(&container.id, &plan, stdio, None).await?.code)
            }
            .boxed()
        };
        match wanted {
            Wanted::Pipes { stdin } => {
                let (their_stdin, stdin) = if stdin {
                    pipe_pair().map(|(read, write)| (Some(read), Some(write)))?
                } else {
                    (None, None)
                };
                let (stdout, their_stdout) = pipe_pair()?;
                let (stderr, their_stderr) = pipe_pair()?;
                let theirs =
                    ExecStdio::Pipes { stdin: their_stdin, stdout: their_stdout, stderr: their_stderr };
                Ok(RunningExec { ends: ExecEnds::Pipes { stdin, stdout, stderr }, exit: start(theirs) })
            }
            Wanted::Terminal { size } => {
                let (ours, to) = socket_pair()?;
                let mut exit = start(ExecStdio::Terminal { to, size });
                let ended = tokio::select! {
                    biased;
                    master = receive_master(&ours) => match master {
                        Some(master) => return Ok(RunningExec { ends: ExecEnds::Terminal(master), exit }),
                        // Nobody is left who could send one: the answer says why.
                        None => exit.await?,
                    },
                    ended = &mut exit => ended?,
                };
                // It was quicker than we.
                match receive_now(&ours) {
                    Ok(Some(master)) => Ok(RunningExec {
                        ends: ExecEnds::Terminal(master),
                        exit: async move { Ok(ended) }.boxed(),
                    }),
                    Ok(None) | Err(_) => {
                        Err(Error::Defect("a command in a terminal ended and its terminal never came"))
                    }
                }
            }
        }
    }
}

fn running(container: &ContainerView) -> Result<(), Error> {
    let state = match container.state {
        ContainerState::Running { .. } => return Ok(()),
        ContainerState::Created { .. } => "created",
        ContainerState::Exited { .. } => "exited",
    };
    Err(Error::WrongState {
        object: format!("container {}", container.id),
        state,
        wanted: "it must be running",
    })
}

async fn connect(socket: OwnedFd, address: SocketAddr) -> io::Result<TcpStream> {
    let stream = std::net::TcpStream::from(socket);
    stream.set_nonblocking(true)?;
    let stream = TcpSocket::from_std_stream(stream).connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A socket over which a terminal comes: (ours, theirs).
fn socket_pair() -> Result<(tokio::io::unix::AsyncFd<OwnedFd>, OwnedFd), Error> {
    let made = || -> io::Result<_> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        Ok((sys::ready::watch(ours)?, theirs))
    };
    made().map_err(|source| Error::Io { doing: "make a socket for the command's terminal".into(), source })
}

/// `None`: the other end is closed.
async fn receive_master(socket: &tokio::io::unix::AsyncFd<OwnedFd>) -> Option<OwnedFd> {
    loop {
        let mut ready = socket.readable().await.ok()?;
        match ready.try_io(|socket| receive(socket.get_ref())) {
            Ok(received) => return received.ok().flatten(),
            Err(_would_block) => {}
        }
    }
}

fn receive_now(socket: &tokio::io::unix::AsyncFd<OwnedFd>) -> io::Result<Option<OwnedFd>> {
    receive(socket.get_ref())
}

fn receive(socket: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    let mut fds = Vec::new();
    fdpass::receive(socket.as_fd(), &mut [0; 1], &mut fds)?;
    Ok(fds.pop())
}
