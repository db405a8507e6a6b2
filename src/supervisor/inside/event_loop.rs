//! The supervisor's loop: one thread, one epoll, everything that is due in one place.
//!
//! Nothing here waits for a workload, a daemon or a foreign path: helpers do, with a deadline. A slow log
//! disk is the one thing that slows the pod it belongs to.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

use rustix::event::epoll;

use super::{
    super::wire::v1,
    chores::Chores,
    connection::{Connection, Waiter},
    container::{Container, Phase},
    exec::Exec,
};
use crate::{
    cgroup,
    launcher::PodNamespaces,
    logs::Stream,
    model::{ContainerId, Failure, PodId, Stage, UnixNanos},
    sys::process::{self, Ended},
};

/// Bytes read from a container's output at a time: what a pipe holds.
const OUTPUT_BYTES: usize = 64 * 1024;
/// Reads from one container's output before others have their turn.
const READS_PER_TURN: usize = 16;
/// How long after the end of a container its output may still come. All its processes are dead by then, so
/// this only bounds a log disk that hangs.
const DRAIN_MAX: Duration = Duration::from_secs(10);
/// Exits of processes that no report has named yet.
const UNCLAIMED_MAX: usize = 256;
/// Events taken from the kernel at a time.
const EVENTS: usize = 32;

/// What a descriptor that became ready belongs to.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Listener,
    Signals,
    Connection,
    Output(ContainerId, Stream),
    Report(ContainerId),
    ExecReport(u64),
    Oom(ContainerId),
}

/// What `Setup` made.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) id: PodId,
    pub(super) dir: PathBuf,
    pub(super) cgroup: cgroup::Handle,
    pub(super) namespaces: PodNamespaces,
    /// The first process of the shared pid namespace, and that namespace.
    pub(super) anchor: Option<(u32, OwnedFd)>,
}

/// The end of a process that no report has named yet.
#[derive(Clone, Copy, Debug)]
struct Unclaimed {
    pid: u32,
    ended: Ended,
    /// The last launch before it was reaped.
    launch: u64,
}

#[derive(Debug)]
pub(in crate::supervisor) struct Supervisor {
    pub(super) epoll: OwnedFd,
    signals: OwnedFd,
    pub(super) listener: Option<OwnedFd>,
    sources: BTreeMap<u64, Source>,
    next_token: u64,
    pub(super) connections: BTreeMap<u64, Connection>,
    pub(super) pod: Option<Pod>,
    pub(super) containers: BTreeMap<ContainerId, Container>,
    pub(super) execs: BTreeMap<u64, Exec>,
    pub(super) next_exec: u64,
    pub(super) chores: Chores,
    /// Counts what was forked, so that an end is not taken for that of a later process of the same number.
    launches: u64,
    unclaimed: Vec<Unclaimed>,
    /// Those who wait for the end of the pod.
    pub(super) shutdown: Vec<Waiter>,
    buffer: Vec<u8>,
}

impl Supervisor {
    /// A supervisor whose first daemon is at the other end of `socket`.
    pub(in crate::supervisor) fn new(socket: OwnedFd) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let signals = crate::sys::signal::child_ended()?;
        let mut this = Self {
            epoll,
            signals,
            listener: None,
            sources: BTreeMap::new(),
            next_token: 0,
            connections: BTreeMap::new(),
            pod: None,
            containers: BTreeMap::new(),
            execs: BTreeMap::new(),
            next_exec: 1,
            chores: Chores::default(),
            launches: 0,
            unclaimed: Vec::new(),
            shutdown: Vec::new(),
            buffer: vec![0; OUTPUT_BYTES],
        };
        let token = this.token(Source::Signals);
        epoll::add(&this.epoll, &this.signals, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?;
        this.connect(socket)?;
        Ok(this)
    }

    /// Runs until the pod is shut down, or until its daemon goes away before there is a pod.
    pub(in crate::supervisor) fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            let timeout = self.next_deadline().map(|at| at.saturating_duration_since(Instant::now()));
            let timeout = timeout.map(|left| rustix::time::Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                // Rounded up, so that a deadline is over when we wake for it.
                tv_nsec: i64::from(left.subsec_nanos().saturating_add(1).min(999_999_999)),
            });
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                // Nothing is left to wait on; what runs is found by the daemon through the cgroup.
                Err(_) => return,
            }
            for event in &events {
                self.dispatch(event.data.u64(), event.flags);
            }
            self.enforce_deadlines();
            if self.is_done() {
                return;
            }
        }
    }

    fn is_done(&mut self) -> bool {
        if self.shutdown.is_empty() {
            return self.pod.is_none() && self.connections.is_empty();
        }
        if self.containers.values().any(|container| container.exit().is_none()) {
            return false;
        }
        for waiter in std::mem::take(&mut self.shutdown) {
            self.answer(waiter, Ok(v1::reply::Result::Done(v1::Done {})));
        }
        if let Some((pid, _)) = self.pod.as_ref().and_then(|pod| pod.anchor.as_ref()) {
            let _ = process::kill(*pid);
        }
        true
    }

    fn dispatch(&mut self, token: u64, flags: epoll::EventFlags) {
        // An earlier event of this round may have closed it.
        let Some(source) = self.sources.get(&token).cloned() else { return };
        match source {
            Source::Listener => self.accept(),
            Source::Signals => self.children_ended(),
            Source::Connection => self.serve(token, flags),
            Source::Output(id, stream) => self.read_output(&id, stream),
            Source::Report(id) => self.read_reports(&id),
            Source::ExecReport(number) => self.read_exec_reports(number),
            Source::Oom(id) => self.out_of_memory(&id),
        }
    }

    // Descriptors ---------------------------------------------------------------------------------------

    fn token(&mut self, source: Source) -> u64 {
        self.next_token += 1;
        self.sources.insert(self.next_token, source);
        self.next_token
    }

    /// Starts to watch a descriptor for input.
    pub(super) fn watch(&mut self, fd: impl AsFd, source: Source) -> io::Result<u64> {
        self.watch_for(fd, source, epoll::EventFlags::IN)
    }

    /// Starts to watch a descriptor for what `flags` say.
    pub(super) fn watch_for(
        &mut self,
        fd: impl AsFd,
        source: Source,
        flags: epoll::EventFlags,
    ) -> io::Result<u64> {
        let token = self.token(source);
        let added = epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), flags);
        if added.is_err() {
            self.sources.remove(&token);
        }
        Ok(added.map(|()| token)?)
    }

    /// Forgets a descriptor that is about to be closed.
    pub(super) fn unwatch(&mut self, fd: impl AsFd, token: u64) {
        let _ = epoll::delete(&self.epoll, fd);
        self.sources.remove(&token);
    }

    // Output --------------------------------------------------------------------------------------------

    fn read_output(&mut self, id: &ContainerId, stream: Stream) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Some(index) = container.outputs.iter().position(|(_, of, _)| *of == stream) else { return };
        for _ in 0..READS_PER_TURN {
            let Some((_, _, output)) = container.outputs.get(index) else { return };
            match rustix::io::read(output, &mut self.buffer) {
                Err(rustix::io::Errno::AGAIN) => return,
                Err(rustix::io::Errno::INTR) => {}
                // A terminal says EIO when its last user is gone. Whatever else it says, it will say again.
                Ok(0) | Err(_) => {
                    let (token, _, fd) = container.outputs.swap_remove(index);
                    if let Some(log) = &mut container.log {
                        log.finish(stream, SystemTime::now());
                    }
                    self.unwatch(fd.as_fd(), token);
                    self.settle_end(id);
                    return;
                }
                Ok(length) => {
                    if let Some(log) = &mut container.log {
                        log.append(stream, self.buffer.get(..length).unwrap_or_default(), SystemTime::now());
                    }
                }
            }
        }
    }

    /// The kernel killed in it: remember when.
    fn out_of_memory(&mut self, id: &ContainerId) {
        if let Some(container) = self.containers.get_mut(id) {
            container.out_of_memory(now());
        }
    }

    // Children ------------------------------------------------------------------------------------------

    fn children_ended(&mut self) {
        let _ = rustix::io::read(&self.signals, &mut [0; 512]);
        while let Ok(Some((pid, ended))) = process::reap() {
            self.child_ended(pid, ended);
        }
    }

    fn child_ended(&mut self, pid: u32, ended: Ended) {
        let helped = self.containers.values().find_map(|container| match &container.phase {
            Phase::Making { helper, .. } => (*helper == pid).then(|| container.id.clone()),
            Phase::Created
            | Phase::Starting { .. }
            | Phase::Running
            | Phase::Ended { .. }
            | Phase::Exited { .. } => None,
        });
        if let Some(id) = helped {
            self.helper_ended(&id, ended);
            return;
        }
        // The number of an init that was reaped may be another process's by now.
        let is_init = |one: &&Container| one.pid == pid && one.pidfd.is_some();
        if let Some(id) = self.containers.values().find(is_init).map(|one| one.id.clone()) {
            self.init_ended(&id, ended);
            return;
        }
        if let Some(pod) = &mut self.pod {
            // The next container that shares the pod's processes gets a new one.
            pod.anchor.take_if(|(anchor, _)| *anchor == pid);
        }
        let is_its = |exec: &Exec| exec.helper == pid || (exec.pid == Some(pid) && !exec.has_ended());
        let exec = self.execs.iter().find(|(_, exec)| is_its(exec));
        match exec.map(|(number, exec)| (*number, exec.helper == pid)) {
            Some((number, true)) => self.exec_helper_ended(number, ended),
            Some((number, false)) => self.exec_ended(number, ended),
            None => {
                // It may be an exec that was faster than the report of its pid. The oldest go: they are
                // orphans that we adopted.
                if self.unclaimed.len() == UNCLAIMED_MAX {
                    self.unclaimed.remove(0);
                }
                self.unclaimed.push(Unclaimed { pid, ended, launch: self.launches });
            }
        }
    }

    /// The number of a launch that begins now.
    pub(super) fn next_launch(&mut self) -> u64 {
        self.launches += 1;
        self.launches
    }

    /// How `pid`, which `launch` has made, ended, if it did before anyone knew it.
    pub(super) fn claim(&mut self, pid: u32, launch: u64) -> Option<Ended> {
        let is_it = |one: &Unclaimed| one.pid == pid && one.launch >= launch;
        let index = self.unclaimed.iter().rposition(is_it)?;
        Some(self.unclaimed.remove(index).ended)
    }

    fn helper_ended(&mut self, id: &ContainerId, ended: Ended) {
        if let Some(Phase::Making { helper, .. }) = self.containers.get_mut(id).map(|one| &mut one.phase) {
            // Its number may be given to another process now.
            *helper = 0;
        }
        self.read_reports(id);
        let Some(container) = self.containers.get(id) else { return };
        if let Phase::Making { failure, .. } = &container.phase {
            let text = format!("the helper that made it ended with {}", ended.code());
            let failure = failure.clone().unwrap_or_else(|| Failure::new(Stage::Launch, id.as_str(), text));
            self.abandon(id, failure);
        }
    }

    fn init_ended(&mut self, id: &ContainerId, ended: Ended) {
        let at = now();
        // What it had to say about its start comes first.
        self.read_reports(id);
        let Some(container) = self.containers.get_mut(id) else { return };
        if let Phase::Starting { .. } = container.phase {
            self.started(id);
        }
        let Some(container) = self.containers.get_mut(id) else { return };
        if matches!(container.phase, Phase::Ended { .. } | Phase::Exited { .. }) {
            return;
        }
        // Whatever is left of it ends with it, also where it shares its pid namespace. The counters say
        // what the kernel did before; this kill is not one that explains the end.
        if container.cgroup.populated().unwrap_or(true) {
            // What it does not reach goes with the removal.
            let _killed: Result<(), cgroup::Error> = self.kill_container(id, false);
        }
        let Some(container) = self.containers.get_mut(id) else { return };
        container.phase = Phase::Ended { ended, at, drain_until: Instant::now() + DRAIN_MAX };
        container.pidfd = None;
        self.settle_end(id);
    }

    // Time ----------------------------------------------------------------------------------------------

    fn next_deadline(&self) -> Option<Instant> {
        let containers = self.containers.values().filter_map(|container| match &container.phase {
            Phase::Making { deadline, .. } => Some(*deadline),
            Phase::Ended { drain_until, .. } => Some(*drain_until),
            Phase::Created | Phase::Starting { .. } | Phase::Running | Phase::Exited { .. } => None,
        });
        let looks = self.containers.values().filter_map(|container| Some(container.oom_look?.due));
        let execs = self.execs.values().filter_map(|exec| exec.deadline);
        containers.chain(looks).chain(execs).chain(self.chores.next_due()).min()
    }

    fn enforce_deadlines(&mut self) {
        let now = Instant::now();
        self.go_on_with_chores(now);
        for container in self.containers.values_mut() {
            container.look_again(now, self::now());
        }
        let mut late = Vec::new();
        let mut undrained = Vec::new();
        for container in self.containers.values() {
            match &container.phase {
                Phase::Making { deadline, .. } => {
                    late.extend((*deadline <= now).then(|| container.id.clone()));
                }
                Phase::Ended { drain_until, .. } => {
                    undrained.extend((*drain_until <= now).then(|| container.id.clone()));
                }
                Phase::Created | Phase::Starting { .. } | Phase::Running | Phase::Exited { .. } => {}
            }
        }
        for id in late {
            let text = "the helper that makes it hangs, most likely on a volume that does not answer";
            self.abandon(&id, Failure::new(Stage::Deadline, id.as_str(), text));
        }
        for id in undrained {
            self.close_outputs(&id);
            self.settle_end(&id);
        }
        let late: Vec<u64> = self
            .execs
            .iter()
            .filter(|(_, exec)| exec.deadline.is_some_and(|deadline| deadline <= now))
            .map(|(number, _)| *number)
            .collect();
        for number in late {
            self.time_out_exec(number);
        }
    }
}

/// The wall clock.
pub(super) fn now() -> UnixNanos {
    SystemTime::now().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One whose daemon does not listen.
    fn supervisor() -> (Supervisor, std::os::unix::net::UnixStream) {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        (Supervisor::new(theirs.into()).unwrap(), ours)
    }

    #[test]
    fn an_end_is_taken_only_for_that_of_a_process_launched_before_it() {
        let (mut supervisor, _daemon) = supervisor();
        let first = supervisor.next_launch();
        supervisor.child_ended(77, Ended::Code(1));
        let second = supervisor.next_launch();
        assert_eq!(supervisor.claim(77, second), None, "an older process had the same number");
        supervisor.child_ended(77, Ended::Code(2));
        assert_eq!(supervisor.claim(77, second), Some(Ended::Code(2)));
        assert_eq!(supervisor.claim(77, first), Some(Ended::Code(1)));
        assert_eq!(supervisor.claim(77, first), None);
    }

    #[test]
    fn ends_that_nobody_claims_do_not_pile_up() {
        let (mut supervisor, _daemon) = supervisor();
        let launch = supervisor.next_launch();
        for pid in 0..1_000 {
            supervisor.child_ended(10 + pid, Ended::Code(0));
        }
        assert_eq!(supervisor.unclaimed.len(), UNCLAIMED_MAX);
        assert_eq!(supervisor.claim(10, launch), None);
        assert_eq!(supervisor.claim(1_009, launch), Some(Ended::Code(0)));
    }
}
