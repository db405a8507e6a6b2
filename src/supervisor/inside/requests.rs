//! What a daemon may ask, one function each.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::{
    super::{
        child::helper,
        last_words,
        wire::{self, v1},
    },
    connection::Waiter,
    container::{Container, Phase, Step},
    event_loop::{Pod, Source, Supervisor},
    lifecycle::never_executed,
};
use crate::{
    launcher::{self, Joined},
    model::{ContainerId, Failure, PidMode, Stage},
    sys::{self, process::Pid, signal, title},
};

use v1::{reply::Result as Answer, request::Call};

/// Connections that may wait to be accepted; there is one daemon.
const BACKLOG: i32 = 8;

/// Why a create has failed whose container was not wanted any more.
fn killed_early(id: &ContainerId) -> Failure {
    Failure::new(Stage::Launch, id.as_str(), "it was killed while it was being made")
}

impl Supervisor {
    /// Acts on a request. It is answered here, or later by whoever keeps the waiter.
    pub(super) fn handle(&mut self, waiter: Waiter, call: Option<Call>, fds: Vec<OwnedFd>) {
        let done = |()| Answer::Done(v1::Done {});
        let answer = match call {
            Some(Call::Setup(setup)) => match self.set_up(setup) {
                Ok((ready, network)) => return self.answer_with(waiter, Ok(Answer::Ready(ready)), network),
                Err(failure) => Err(failure),
            },
            Some(Call::Create(create)) => match self.create(waiter, create) {
                Ok(()) => return,
                Err(failure) => Err(failure),
            },
            Some(Call::Start(start)) => match self.start(waiter, &start.container_id) {
                Ok(()) => return,
                Err(failure) => Err(failure),
            },
            Some(Call::Exec(exec)) => match self.exec(waiter, exec, fds) {
                Ok(()) => return,
                Err(failure) => Err(failure),
            },
            Some(Call::Attach(attach)) => self.attach(&attach, fds).map(done),
            Some(Call::Socket(v1::Socket { ipv6 })) => match self.socket(ipv6) {
                Ok(socket) => return self.answer_with(waiter, Ok(done(())), vec![socket]),
                Err(failure) => Err(failure),
            },
            Some(Call::Remove(remove)) => match self.remove(waiter, &remove.container_id) {
                Ok(true) => Ok(Answer::Done(v1::Done {})),
                Ok(false) => return,
                Err(failure) => Err(failure),
            },
            Some(Call::Shutdown(_)) => {
                self.shut_down(waiter);
                return;
            }
            Some(Call::Signal(v1::Signal { container_id, signal })) => {
                self.signal(&container_id, signal).map(done)
            }
            Some(Call::Kill(kill)) => self.kill(&kill.container_id).map(done),
            Some(Call::KillExec(kill)) => {
                self.kill_exec(Waiter { sequence: kill.sequence, ..waiter });
                Ok(done(()))
            }
            Some(Call::ReopenLog(reopen)) => self.reopen_log(&reopen.container_id).map(done),
            Some(Call::Acknowledge(ack)) => self.acknowledge(&ack.container_id).map(done),
            Some(Call::Snapshot(_)) => {
                let facts = self.containers.values().filter_map(Container::facts);
                let containers = facts.map(|facts| wire::facts_message(&facts)).collect();
                Ok(Answer::All(v1::AllFacts { containers }))
            }
            Some(Call::Ping(_)) => Ok(done(())),
            None => Err(Failure::new(Stage::Request, "", "this supervisor is older than that request")),
        };
        self.answer(waiter, answer);
    }

    fn set_up(&mut self, setup: v1::Setup) -> Result<(v1::Ready, Vec<OwnedFd>), Failure> {
        if self.pod.is_some() {
            return Err(Failure::new(Stage::WrongState, "pod", "it is set up already"));
        }
        let (id, dir, plan, cgroup) = wire::pod_plan(setup)?;
        keep_words_in(&dir)
            .map_err(|error| Failure::io(Stage::Internal, "standard error", "/dev/null", &error))?;
        // The title is for people; the supervisor has one without the name already.
        let _titled: io::Result<()> = title::set(
            &format!("pintle: supervisor of pod {} {id}", plan.name),
            &format!("pintle:{}", id.as_str().get(..8).unwrap_or_default()),
        );
        cgroup.join_supervisor(0).map_err(|error| error.failure(id.as_str()))?;
        crate::failpoint!("supervisor.joined");
        let failed = |stage: Stage, what: &str, error: &io::Error| Failure::io(stage, what, &dir, error);
        let listener = listen(&dir).map_err(|error| failed(Stage::Internal, "socket in", &error))?;
        let namespaces = launcher::build_namespaces(&plan)?;
        let network = namespaces.network.as_ref().map(OwnedFd::try_clone).transpose();
        let network = network.map_err(|error| failed(Stage::Namespace, "network", &error))?;
        self.watch(listener.as_fd(), Source::Listener)
            .map_err(|error| failed(Stage::Internal, "epoll", &error))?;
        self.listener = Some(listener);
        self.pod = Some(Pod { id, dir, cgroup, namespaces, anchor: None });
        crate::failpoint!("supervisor.set-up");
        Ok((v1::Ready { pid: std::process::id() }, network.into_iter().collect()))
    }

    pub(super) fn find(&mut self, id: &str) -> Result<&mut Container, Failure> {
        let parsed = ContainerId::parse(id).ok();
        parsed
            .and_then(|id| self.containers.get_mut(&id))
            .ok_or_else(|| Failure::new(Stage::NotFound, id, "this supervisor has no such container"))
    }

    /// A daemon that died in the middle of a start has asked already; the next one asks again, and gets the answer
    /// that the first one was to have.
    fn start(&mut self, waiter: Waiter, id: &str) -> Result<(), Failure> {
        let container = self.find(id)?;
        // Also when it has ended since: that is told apart.
        let started_at = container.phase.started_at();
        let step = match &mut container.phase {
            Phase::Alive(init) => Some(&mut init.step),
            Phase::Making(_) | Phase::Ended { .. } | Phase::Exited { .. } => None,
        };
        match (step, started_at) {
            (Some(step @ Step::Created { .. }), _) => return release(step, &container.id, waiter),
            (Some(Step::Starting { waiter: earlier, .. }), _) => *earlier = waiter,
            (_, Some(at)) => self.answer(waiter, Ok(Answer::Started(v1::Started { at: at.0 }))),
            (_, None) => {
                return Err(Failure::new(Stage::WrongState, id, "only a created container can be started"));
            }
        }
        Ok(())
    }

    fn signal(&mut self, id: &str, number: i32) -> Result<(), Failure> {
        let container = self.find(id)?;
        let Phase::Alive(init) = &container.phase else {
            return Err(Failure::new(Stage::WrongState, id, "it has ended"));
        };
        signal::send(init.pidfd.as_fd(), number)
            .map_err(|error| Failure::io(Stage::Internal, "signal", "", &error))
    }

    fn kill(&mut self, id: &str) -> Result<(), Failure> {
        let container = self.find(id)?;
        match container.phase {
            Phase::Ended { .. } | Phase::Exited { .. } => Ok(()),
            Phase::Making(_) => {
                let id = container.id.clone();
                self.abandon(&id, killed_early(&id));
                Ok(())
            }
            Phase::Alive(_) => {
                let container = container.id.clone();
                self.kill_container(&container, true).map_err(|error| error.failure(id))
            }
        }
    }

    fn reopen_log(&mut self, id: &str) -> Result<(), Failure> {
        let container = self.find(id)?;
        match (container.running().is_some(), &mut container.log) {
            (true, Some(log)) => log.reopen().map_err(|error| Failure::io(Stage::Log, id, "", &error)),
            (true, None) => Err(Failure::new(Stage::WrongState, id, "it has no log")),
            (false, _) => Err(Failure::new(Stage::WrongState, id, "it is not running")),
        }
    }

    fn acknowledge(&mut self, id: &str) -> Result<(), Failure> {
        if let Phase::Exited { acknowledged, .. } = &mut self.find(id)?.phase {
            *acknowledged = true;
        }
        Ok(())
    }

    /// `Ok(true)`: it is gone. `Ok(false)`: the waiter is answered when it is.
    fn remove(&mut self, waiter: Waiter, id: &str) -> Result<bool, Failure> {
        let Ok(container) = self.find(id) else { return Ok(true) };
        if container.exit().is_some() {
            let id = container.id.clone();
            self.forget(&id)?;
            return Ok(true);
        }
        if let Phase::Making(_) = container.phase {
            let id = container.id.clone();
            self.abandon(&id, killed_early(&id));
            return Ok(true);
        }
        let container = container.id.clone();
        self.kill_container(&container, true).map_err(|error| error.failure(id))?;
        self.find(id)?.removers.push(waiter);
        Ok(false)
    }

    fn shut_down(&mut self, waiter: Waiter) {
        self.shutdown.push(waiter);
        let is_made = |one: &&Container| matches!(one.phase, Phase::Making(_));
        let unfinished: Vec<_> = self.containers.values().filter(is_made).map(|one| one.id.clone()).collect();
        for id in unfinished {
            self.abandon(&id, killed_early(&id));
        }
        let living = self.containers.values().filter(|container| container.exit().is_none());
        for id in living.map(|container| container.id.clone()).collect::<Vec<_>>() {
            // What stays is killed with the pod's cgroup.
            self.kill_or_say(&id, true);
        }
    }
}

/// Lets the init of container `id` go, which waits at the barrier.
fn release(step: &mut Step, id: &ContainerId, waiter: Waiter) -> Result<(), Failure> {
    let Step::Created { barrier } = step else { return Ok(()) };
    let no_barrier = || Failure::new(Stage::Internal, id.as_str(), "no start barrier");
    barrier.as_ref().ok_or_else(no_barrier)?.report.go().map_err(|error| {
        // It is dead, which was not seen yet.
        if wire::is_hang_up(&error) {
            return never_executed(id);
        }
        Failure::io(Stage::Launch, id.as_str(), "", &error)
    })?;
    crate::failpoint!("supervisor.released");
    let report = barrier.take().ok_or_else(no_barrier)?;
    *step = Step::Starting { report, waiter };
    Ok(())
}

/// From now on the supervisor may outlive its daemon: what it says goes into the pod's folder when there is none, and
/// no more to the daemon's pipe.
fn keep_words_in(dir: &Path) -> io::Result<()> {
    last_words::keep_in(dir);
    Ok(rustix::stdio::dup2_stderr(File::options().write(true).open("/dev/null")?)?)
}

/// The socket on which a later daemon finds this supervisor. Bound through the folder's descriptor, since the
/// path of a unix socket must be short (108 bytes).
fn listen(dir: &Path) -> io::Result<OwnedFd> {
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    let folder = File::open(dir)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(super::super::socket_through(&folder))?)?;
    rustix::fs::chmod(super::super::socket_path(dir), rustix::fs::Mode::from_raw_mode(0o600))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

impl Supervisor {
    /// The pid namespace of others that a container joins; `None`: it has its own, or the host's.
    pub(super) fn joined(&mut self, mode: &PidMode) -> Result<Option<Joined>, Failure> {
        match mode {
            PidMode::Container | PidMode::Node => Ok(None),
            PidMode::Pod => {
                let pid_namespace = self.shared_pid_namespace()?;
                Ok(Some(Joined { pid_namespace, target_mounts: None }))
            }
            PidMode::Target(target) => {
                let found = self.containers.values().find(|one| one.id.as_str() == target.as_str());
                let running = found.and_then(Container::running).ok_or_else(|| {
                    let text = "the target container is not running in this pod";
                    Failure::new(Stage::NotFound, target.as_str(), text)
                })?;
                let pid = running.pid;
                Ok(Some(Joined {
                    pid_namespace: namespace_of(pid, "pid")?,
                    target_mounts: Some(namespace_of(pid, "mnt")?),
                }))
            }
        }
    }

    /// The pid namespace that containers share when asked to; made with its anchor for the first that asks.
    fn shared_pid_namespace(&mut self) -> Result<OwnedFd, Failure> {
        let no_pod = || Failure::new(Stage::WrongState, "pod", "it is not set up");
        let Self { pod, pid_slots, .. } = self;
        let pod = pod.as_mut().ok_or_else(no_pod)?;
        let namespace = match &pod.anchor {
            Some((_, namespace)) => namespace,
            None => {
                let slot = pid_slots.take()?;
                let pid = helper::anchor(&pod.id, &pod.namespaces, slot);
                pid_slots.give_back(slot);
                let pid = pid?;
                let namespace = namespace_of(pid, "pid")?;
                &pod.anchor.insert((pid, namespace)).1
            }
        };
        namespace.try_clone().map_err(|error| Failure::io(Stage::Namespace, "pid", "", &error))
    }
}

fn namespace_of(pid: Pid, kind: &str) -> Result<OwnedFd, Failure> {
    let path = format!("/proc/{pid}/ns/{kind}");
    let namespace = File::open(&path).map_err(|error| Failure::io(Stage::Namespace, "", &path, &error))?;
    Ok(namespace.into())
}

/// The kinds of namespaces that the pod does not share with the host.
pub(super) fn shared_namespaces(pod: &Pod) -> sys::process::Namespaces {
    use sys::process::Namespaces;
    Namespaces::NONE
        .and_if(pod.namespaces.users.is_some(), Namespaces::USER)
        .and_if(pod.namespaces.network.is_some(), Namespaces::NETWORK)
        .and_if(pod.namespaces.ipc.is_some(), Namespaces::IPC)
        .and_if(pod.namespaces.uts.is_some(), Namespaces::UTS)
}
