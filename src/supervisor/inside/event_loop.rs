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
    super::{allowance::Allowance, wire::v1},
    chores::Chores,
    connection::{Connection, Waiter},
    container::{Container, Making, Phase, Start},
    exec::Exec,
    lifecycle::never_executed,
    pid_slots::PidSlots,
    voice::Level,
};
use crate::{
    cgroup,
    launcher::PodNamespaces,
    logs::Stream,
    model::{ContainerId, Failure, PodId, Stage, UnixNanos},
    sys::process::{self, Ended, Pid},
};

/// Bytes read from a container's output at a time: what a pipe holds.
const OUTPUT_BYTES: usize = 64 * 1024;
/// Reads from one container's output before others have their turn.
const READS_PER_TURN: usize = 16;
/// How long after the end of a container its output may still come. What its own processes wrote is in the pipe by then;
/// this bounds a pipe that others hold open: a container that shares its processes, or one of its own in the kernel's
/// hands.
const DRAIN_MAX: Duration = Duration::from_secs(10);
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
    /// A client that is attached.
    Attached(ContainerId),
    /// Room in a container's standard input.
    Input(ContainerId),
}

/// What of a container a child is.
#[derive(Clone, Copy, Debug)]
enum Child {
    Helper,
    Init,
}

/// What `Setup` made.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) id: PodId,
    pub(super) dir: PathBuf,
    pub(super) cgroup: cgroup::Handle,
    pub(super) namespaces: PodNamespaces,
    /// The first process of the shared pid namespace, and that namespace.
    pub(super) anchor: Option<(Pid, OwnedFd)>,
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
    /// Of the log lines that it says.
    pub(super) allowance: Allowance,
    /// Where what is being launched leaves its pid.
    pub(super) pid_slots: PidSlots,
    /// Those who wait for the end of the pod.
    pub(super) shutdown: Vec<Waiter>,
    pub(super) buffer: Vec<u8>,
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
            allowance: Allowance::new(Instant::now()),
            pid_slots: PidSlots::new()?,
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
            let waited = crate::failpoint_error!("supervisor.waits").and_then(|()| {
                Ok(epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref())?)
            });
            match waited {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nothing is left to wait on; what runs is found by the daemon through the cgroup.
                Err(error) => return self.say_last(format!("it ends: epoll_wait: {error}")),
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
            // One that has ended by itself is what was wanted.
            let _ended: io::Result<()> = process::kill(*pid);
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
            Source::Attached(id) => self.read_attached(&id, token),
            Source::Input(id) => self.write_input(&id),
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
        // Its close, which follows, takes it out too.
        let _deleted: rustix::io::Result<()> = epoll::delete(&self.epoll, fd);
        self.sources.remove(&token);
    }

    // Output --------------------------------------------------------------------------------------------

    fn read_output(&mut self, id: &ContainerId, stream: Stream) {
        for _ in 0..READS_PER_TURN {
            let Some(container) = self.containers.get_mut(id) else { return };
            let Some(index) = container.outputs.iter().position(|(_, of, _)| *of == stream) else { return };
            let Some((_, _, output)) = container.outputs.get(index) else { return };
            match rustix::io::read(output, &mut self.buffer) {
                Err(rustix::io::Errno::AGAIN) => return,
                Err(rustix::io::Errno::INTR) => {}
                // A terminal says EIO when its last user is gone. Whatever else it says, it will say again.
                ended @ (Ok(0) | Err(_)) => {
                    let (token, _, fd) = container.outputs.swap_remove(index);
                    if let Some(log) = &mut container.log {
                        log.finish(stream, SystemTime::now());
                    }
                    self.unwatch(fd.as_fd(), token);
                    if let Err(error) = ended
                        && error != rustix::io::Errno::IO
                    {
                        self.say(Level::Warn, Some(id), format!("could not read its {stream}: {error}"));
                    }
                    self.settle_end(id);
                    return;
                }
                Ok(length) => {
                    if let Some(log) = &mut container.log {
                        log.append(stream, self.buffer.get(..length).unwrap_or_default(), SystemTime::now());
                    }
                    self.show(id, stream, length);
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
        // It only says that there is something to reap, which is found without it too.
        let _read: rustix::io::Result<usize> = rustix::io::read(&self.signals, &mut [0; 512]);
        loop {
            match self.reap() {
                Ok(Some((pid, ended))) => self.child_ended(pid, ended),
                Ok(None) => return,
                Err(error) => {
                    return self.say(Level::Error, None, format!("could not reap a child: {error}"));
                }
            }
        }
    }

    /// Reaps a child. One that was being started is looked at before: then it can still be seen whether it has
    /// executed its program.
    fn reap(&mut self) -> io::Result<Option<(Pid, Ended)>> {
        let is_starting = |one: &Container| matches!(&one.phase, Phase::Alive(init) if init.is_starting());
        if !self.containers.values().any(is_starting) {
            return process::reap();
        }
        let Some(pid) = process::ended_child()? else { return Ok(None) };
        let is_it = |one: &&Container| one.phase.pid() == Some(pid) && is_starting(one);
        if let Some(id) = self.containers.values().find(is_it).map(|one| one.id.clone()) {
            self.read_reports(&id);
            // Its helper may hold the report open a moment longer than a short program runs.
            self.started(&id);
        }
        process::wait(pid).map(|ended| Some((pid, ended)))
    }

    fn child_ended(&mut self, pid: Pid, ended: Ended) {
        let of = |container: &Container| match &container.phase {
            Phase::Making(making) if making.helper == Some(pid) => Some(Child::Helper),
            // A fork that failed has left its error there, and no process.
            Phase::Making(making) if making.slot.pid().ok().flatten() == Some(pid) => Some(Child::Init),
            Phase::Alive(init) if init.pid == pid => Some(Child::Init),
            // The number of an init that was reaped may be another process's by now.
            Phase::Making(_) | Phase::Alive(_) | Phase::Ended { .. } | Phase::Exited { .. } => None,
        };
        let found = self.containers.values().find_map(|one| Some((one.id.clone(), of(one)?)));
        match found {
            Some((id, Child::Helper)) => return self.helper_ended(&id, ended),
            Some((id, Child::Init)) => return self.init_ended(&id, ended),
            None => {}
        }
        if let Some(pod) = &mut self.pod {
            // The next container that shares the pod's processes gets a new one.
            if pod.anchor.take_if(|(anchor, _)| *anchor == pid).is_some() && self.shutdown.is_empty() {
                let code = ended.code();
                let text = format!("the first process of the shared pid namespace ended with {code}");
                self.say(Level::Warn, None, text);
            }
        }
        let is_its = |exec: &Exec| exec.helper == Some(pid) || (exec.pid() == Some(pid) && !exec.has_ended());
        let exec = self.execs.iter().find(|(_, exec)| is_its(exec));
        match exec.map(|(number, exec)| (*number, exec.helper == Some(pid))) {
            Some((number, true)) => self.exec_helper_ended(number, ended),
            Some((number, false)) => self.exec_ended(number, ended),
            // An orphan that we adopted, or a process of libcontainer's.
            None => {}
        }
    }

    fn helper_ended(&mut self, id: &ContainerId, ended: Ended) {
        if let Some(Phase::Making(making)) = self.containers.get_mut(id).map(|one| &mut one.phase) {
            // Its number may be given to another process now.
            making.helper = None;
        } else if ended != Ended::Code(0) {
            let text = format!("the helper that made it ended with {} afterwards", ended.code());
            self.say(Level::Warn, Some(id), text);
        }
        // One that has done its work leaves an init that reports when it waits, or whose end will be reported.
        if ended != Ended::Code(0) {
            let text = format!("the helper that made it ended with {}", ended.code());
            self.died_while_made(id, &text);
        }
    }

    fn init_ended(&mut self, id: &ContainerId, ended: Ended) {
        let at = now();
        // What it had to say about its start comes first.
        self.read_reports(id);
        self.died_while_made(
            id,
            &format!("its first process ended with {} before it waited for its start", ended.code()),
        );
        if let Some(waiter) = self.end_start(id, Start::Never) {
            // It has let somebody else keep the report open.
            self.answer(waiter, Err(never_executed(id)));
        }
        self.close_report(id);
        let Some(container) = self.containers.get_mut(id) else { return };
        if !matches!(container.phase, Phase::Alive(_)) {
            return;
        }
        // Whatever is left of it ends with it, also where it shares its pid namespace. The counters say
        // what the kernel did before; this kill is not one that explains the end.
        if container.cgroup.populated().unwrap_or(true) {
            // What it does not reach goes with the removal.
            self.kill_or_say(id, false);
        }
        let Some(container) = self.containers.get_mut(id) else { return };
        let Phase::Alive(init) = &container.phase else { return };
        let drain_until = Instant::now() + DRAIN_MAX;
        container.phase = Phase::Ended { pid: init.pid, start: init.start(), ended, at, drain_until };
        self.settle_end(id);
    }

    // Time ----------------------------------------------------------------------------------------------

    fn next_deadline(&self) -> Option<Instant> {
        let containers = self.containers.values().filter_map(|container| match &container.phase {
            Phase::Making(Making { deadline, .. }) => Some(*deadline),
            Phase::Ended { drain_until, .. } => Some(*drain_until),
            Phase::Alive(_) | Phase::Exited { .. } => None,
        });
        let looks = self.containers.values().filter_map(|container| Some(container.oom_look?.due));
        let execs = self.execs.values().filter_map(|exec| exec.deadline);
        containers
            .chain(looks)
            .chain(execs)
            .chain(self.chores.next_due())
            .chain(self.allowance.report_due())
            .min()
    }

    fn enforce_deadlines(&mut self) {
        let now = Instant::now();
        self.go_on_with_chores(now);
        self.report_dropped_lines(now);
        for container in self.containers.values_mut() {
            container.look_again(now, self::now());
        }
        let mut late = Vec::new();
        let mut undrained = Vec::new();
        for container in self.containers.values() {
            match &container.phase {
                Phase::Making(Making { deadline, .. }) => {
                    late.extend((*deadline <= now).then(|| container.id.clone()));
                }
                Phase::Ended { drain_until, .. } => {
                    undrained.extend((*drain_until <= now).then(|| container.id.clone()));
                }
                Phase::Alive(_) | Phase::Exited { .. } => {}
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
