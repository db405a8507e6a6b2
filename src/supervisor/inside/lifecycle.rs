//! A container from its create to the moment it is forgotten.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use super::{
    super::{
        child::helper,
        wire::{self, v1},
    },
    attach::Input,
    connection::Waiter,
    container::{Channel, Container, Init, Making, Phase, Start, Step},
    event_loop::{Source, Supervisor, now},
    exit,
    inspection::PlannedUsers,
    pid_slots::fork_failure,
    requests::shared_namespaces,
    voice::Level,
};
use crate::{
    launcher::{Report, Reporter, Stdio},
    logs::{CriLog, Stream},
    model::{ContainerId, ContainerPlan, Failure, Stage},
    store::{self, Durability},
    sys::process,
    telemetry::log::chain,
};

use v1::reply::Result as Answer;

/// How long a helper may take. A local create takes milliseconds; a volume on a dead server takes for ever,
/// and the kubelet gives a create two minutes.
const CREATE_MAX: Duration = Duration::from_secs(60);
/// How long a killed helper may take to be gone; only one that hangs in the kernel takes longer than some
/// microseconds, and that one has made its cgroup long ago.
const HELPER_DEATH_MAX: Duration = Duration::from_millis(100);
/// Bytes of libcontainer's error lines that go with a failure.
const TRACE_BYTES_MAX: usize = 4 * 1024;

/// Why a start has failed whose process has not got as far as its program.
pub(super) fn never_executed(id: &ContainerId) -> Failure {
    let text = "it was killed before it could execute its program; if nobody stopped it, its memory limit is too low";
    Failure::new(Stage::Launch, id.as_str(), text)
}

/// What is said of a process that is killed for its power.
pub(super) fn excess_failure(object: &str, excess: &str) -> Failure {
    Failure::new(
        Stage::Privileges,
        object,
        format!("it was killed, for it has more than was planned: {excess}"),
    )
}

/// Our ends of a container's standard streams.
struct OurEnds {
    stdin: Option<OwnedFd>,
    outputs: [(Stream, OwnedFd); 2],
}

fn streams(plan: &ContainerPlan) -> io::Result<(Option<Stdio>, Option<OurEnds>)> {
    if plan.process.tty {
        return Ok((None, None));
    }
    let (stdin, ours) = if plan.stdin {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        (read, Some(write))
    } else {
        (helper::no_input()?, None)
    };
    let (out_read, stdout) = helper::output_pipe()?;
    let (err_read, stderr) = helper::output_pipe()?;
    let outputs = [(Stream::Stdout, out_read), (Stream::Stderr, err_read)];
    Ok((Some(Stdio { stdin, stdout, stderr }), Some(OurEnds { stdin: ours, outputs })))
}

impl Supervisor {
    /// Forks a helper that makes the container; the waiter is answered when it has.
    pub(super) fn create(&mut self, waiter: Waiter, create: v1::Create) -> Result<(), Failure> {
        let plan = wire::container_plan(create)?;
        let id = plan.id.clone();
        if !self.shutdown.is_empty() {
            return Err(Failure::new(Stage::WrongState, "pod", "it is being shut down"));
        }
        if self.containers.contains_key(&id) {
            return Err(Failure::new(Stage::WrongState, id.as_str(), "it exists already"));
        }
        let failed = |error: io::Error| Failure::io(Stage::Internal, id.as_str(), "", &error);
        let joined = self.joined(&plan.pid)?;
        let Some(pod) = &self.pod else {
            return Err(Failure::new(Stage::WrongState, "pod", "it is not set up"));
        };
        let log = match &plan.log {
            Some(log) => Some(
                CriLog::open(&log.directory, &log.file)
                    .map_err(|error| Failure::io(Stage::Log, "", log.whole(), &error))?,
            ),
            None => None,
        };
        pod.namespaces.keep_files(&plan.volumes)?;
        let (theirs, ours) = streams(&plan).map_err(failed)?;
        let (report, their_report) = helper::report_pair().map_err(failed)?;
        let cgroup = pod.cgroup.container(&id);
        let shared = shared_namespaces(pod);
        let users = pod.namespaces.users.as_ref().map(PlannedUsers::of);
        let slot = self.pid_slots.take()?;
        let helper = helper::create(helper::Create {
            pod: &pod.id,
            plan: &plan,
            namespaces: &pod.namespaces,
            joined,
            cgroup: &cgroup,
            stdio: theirs,
            pid: slot,
            report: their_report,
        });
        let helper = helper.inspect_err(|_| self.pid_slots.give_back(slot))?;
        let making = Making {
            helper: Some(helper),
            slot,
            waiter,
            deadline: Instant::now() + CREATE_MAX,
            failure: None,
            report: None,
            sealed: false,
            trace: String::new(),
        };
        let mut container = Container::new(&plan, shared, users, cgroup, Phase::Making(making));
        container.log = log;
        self.containers.insert(id.clone(), container);
        if let Err(error) = self.listen_to(&id, report, ours) {
            // From here on there is something to take back, and the answer goes out with that.
            self.abandon(&id, Failure::io(Stage::Internal, id.as_str(), "epoll", &error));
        }
        Ok(())
    }

    /// Watches what a container that is being made has to say.
    fn listen_to(&mut self, id: &ContainerId, report: Reporter, ours: Option<OurEnds>) -> io::Result<()> {
        let token = self.watch(report.as_fd(), Source::Report(id.clone()))?;
        let mut outputs = Vec::with_capacity(2);
        let (stdin, streams) = ours.map_or((None, None), |ours| (ours.stdin, Some(ours.outputs)));
        for (stream, fd) in streams.into_iter().flatten() {
            outputs.push((self.watch(fd.as_fd(), Source::Output(id.clone(), stream))?, stream, fd));
        }
        if let Some(container) = self.containers.get_mut(id) {
            if let Phase::Making(making) = &mut container.phase {
                making.report = Some(Channel { token, report });
            }
            container.stdin = stdin.map(Input::new).transpose()?;
            container.outputs = outputs;
        }
        Ok(())
    }

    /// Takes every report that is there.
    pub(super) fn read_reports(&mut self, id: &ContainerId) {
        loop {
            let Some(report) = self.containers.get(id).and_then(|one| one.phase.report()) else { return };
            match report.receive() {
                Ok(Some((report, fd))) => self.reported(id, report, fd),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                ended @ (Ok(None) | Err(_)) => {
                    if let Err(error) = ended
                        && self.is_believed(id)
                    {
                        self.say(
                            Level::Warn,
                            Some(id),
                            format!("could not read a report of its helper: {error}"),
                        );
                    }
                    return self.reports_ended(id);
                }
            }
        }
    }

    /// No process on the other side is still ours; or it has said all that it is believed.
    fn reports_ended(&mut self, id: &ContainerId) {
        self.close_report(id);
        match self.containers.get(id).map(|one| &one.phase) {
            Some(Phase::Alive(init)) if init.is_starting() => self.started(id),
            Some(Phase::Making(_)) => self.died_while_made(id, "its first process died at once"),
            Some(Phase::Alive(_) | Phase::Ended { .. } | Phase::Exited { .. }) | None => {}
        }
    }

    /// Whether nobody but our own processes can speak on its report.
    fn is_believed(&self, id: &ContainerId) -> bool {
        let phase = self.containers.get(id).map(|one| &one.phase);
        matches!(phase, Some(Phase::Making(Making { sealed: false, .. })))
    }

    fn close_oom_watch(&mut self, id: &ContainerId) {
        let Some(container) = self.containers.get_mut(id) else { return };
        container.oom_look = None;
        let watch = container.oom_watch.take();
        if let Some((token, watch)) = watch {
            self.unwatch(watch.as_fd(), token);
        }
    }

    /// Closes the report of a container that is being made or waits at the barrier. That of one that is being started
    /// is closed by [`Self::end_start`].
    pub(super) fn close_report(&mut self, id: &ContainerId) {
        let channel = match self.containers.get_mut(id).map(|one| &mut one.phase) {
            Some(Phase::Making(making)) => making.report.take(),
            Some(Phase::Alive(Init { step: Step::Created { barrier }, .. })) => barrier.take(),
            Some(Phase::Alive(_) | Phase::Ended { .. } | Phase::Exited { .. }) | None => None,
        };
        if let Some(Channel { token, report }) = channel {
            self.unwatch(report.as_fd(), token);
        }
    }

    /// Ends the start of a container and closes its report; gives who waits for the answer. `None`: it is not being
    /// started.
    pub(super) fn end_start(&mut self, id: &ContainerId, start: Start) -> Option<Waiter> {
        let Phase::Alive(init) = &mut self.containers.get_mut(id)?.phase else { return None };
        if !init.is_starting() {
            return None;
        }
        let step = std::mem::replace(&mut init.step, Step::Started(start));
        let Step::Starting { report: Channel { token, report }, waiter } = step else { return None };
        self.unwatch(report.as_fd(), token);
        Some(waiter)
    }

    fn reported(&mut self, id: &ContainerId, report: Report, fd: Option<OwnedFd>) {
        let Some(Container { phase, identity: known, .. }) = self.containers.get_mut(id) else { return };
        let Phase::Making(making) = phase else {
            // More than a failure is not believed, nor listened to without end.
            return if let Report::Failed(failure) = report {
                self.launch_failed(id, failure);
            } else {
                self.reports_ended(id);
            };
        };
        match report {
            Report::Waiting => self.made(id),
            Report::Failed(failure) => self.launch_failed(id, failure),
            _ if making.sealed => self.reports_ended(id),
            Report::Sealed => making.sealed = true,
            Report::Identity(identity) => *known = identity,
            Report::Trace(line) => {
                if making.trace.len() + line.len() <= TRACE_BYTES_MAX {
                    making.trace.push_str("; ");
                    making.trace.push_str(&line);
                }
            }
            Report::Terminal => {
                if let Some(master) = fd
                    && let Err(error) = self.watch_terminal(id, master)
                {
                    self.abandon(id, Failure::io(Stage::Internal, id.as_str(), "terminal", &error));
                }
            }
        }
    }

    fn watch_terminal(&mut self, id: &ContainerId, master: OwnedFd) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&master, true)?;
        let token = self.watch(master.as_fd(), Source::Output(id.clone(), Stream::Stdout))?;
        if let Some(container) = self.containers.get_mut(id) {
            if container.has_stdin {
                container.stdin = Some(Input::new(master.try_clone()?)?);
            }
            container.outputs.push((token, Stream::Stdout, master));
        }
        Ok(())
    }

    /// Its init exists, has given up what its program is not to have, and waits at the barrier.
    fn made(&mut self, id: &ContainerId) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Phase::Making(making) = &mut container.phase else { return };
        making.sealed = true;
        let (waiter, slot) = (making.waiter, making.slot);
        let pid = match slot.pid() {
            Ok(Some(pid)) => pid,
            Ok(None) | Err(_) => {
                return self.abandon(id, Failure::new(Stage::Internal, id.as_str(), "its pid is not known"));
            }
        };
        let looked = process::pidfd(pid)
            .map_err(|error| Failure::io(Stage::Launch, id.as_str(), "pidfd", &error))
            .and_then(|pidfd| {
                let within = container.bounds.inspect_waiting(pid.get(), &container.identity.user);
                within.map(|()| pidfd).map_err(|excess| excess_failure(id.as_str(), &excess))
            });
        let pidfd = match looked {
            Ok(pidfd) => pidfd,
            Err(failure) => return self.abandon(id, failure),
        };
        let (barrier, trace) = (making.report.take(), std::mem::take(&mut making.trace));
        container.phase = Phase::Alive(Init { pid, pidfd, step: Step::Created { barrier } });
        self.pid_slots.give_back(slot);
        container.set_oom_score(pid);
        crate::failpoint!("supervisor.container-made");
        let facts = container.facts();
        if let Err(error) = self.watch_oom(id) {
            // A shell whose child was killed is an Error then; nothing worse.
            self.say(Level::Warn, Some(id), format!("could not watch for kills for memory: {error}"));
        }
        let unknown = || Failure::new(Stage::Internal, id.as_str(), "its pid is not known");
        let facts = facts.ok_or_else(unknown).map(|facts| Answer::Facts(wire::facts_message(&facts)));
        self.answer(waiter, facts);
        if let Some(trace) = trace.strip_prefix("; ") {
            self.say(Level::Warn, Some(id), format!("libcontainer made it, and said: {trace}"));
        }
    }

    fn watch_oom(&mut self, id: &ContainerId) -> Result<(), String> {
        let Some(container) = self.containers.get(id) else { return Ok(()) };
        let watch = container.cgroup.watch_oom().map_err(|error| chain(&error))?;
        let Some(watch) = watch else { return Ok(()) };
        let token = self
            .watch_for(watch.as_fd(), Source::Oom(id.clone()), watch.readiness())
            .map_err(|error| error.to_string())?;
        if let Some(container) = self.containers.get_mut(id) {
            container.oom_watch = Some((token, watch));
        }
        Ok(())
    }

    fn launch_failed(&mut self, id: &ContainerId, failure: Failure) {
        let Some(container) = self.containers.get_mut(id) else { return };
        match &mut container.phase {
            // The init tells first and exactly; what the helper says after it is libcontainer's summary.
            Phase::Making(making) => match making.failure.take() {
                Some(failure) => self.abandon(id, failure),
                None if failure.stage == Stage::Launch => {
                    let text = format!("{}{}", failure.text, making.trace);
                    self.abandon(id, Failure { text, ..failure });
                }
                // The helper's own word is its last; an init's is followed by the helper's.
                None => making.failure = Some(failure),
            },
            Phase::Alive(_) => match self.end_start(id, Start::Failed(failure.to_string())) {
                Some(waiter) => self.answer(waiter, Err(failure)),
                // Nobody has let it go: this end of its report is what it waits at, so it ends.
                None => self.close_report(id),
            },
            Phase::Ended { .. } | Phase::Exited { .. } => {}
        }
    }

    /// The end of the report, or of the init: execve has worked, or the init was killed before it.
    pub(super) fn started(&mut self, id: &ContainerId) {
        let at = now();
        let Some(pid) = self.containers.get(id).and_then(|one| one.phase.pid()) else { return };
        let executed = process::has_executed(pid);
        let start = if matches!(executed, Ok(true)) { Start::At(at) } else { Start::Never };
        let Some(waiter) = self.end_start(id, start) else { return };
        let answer = match executed {
            Ok(true) => Ok(Answer::Started(v1::Started { at: at.0 })),
            Ok(false) => {
                // One that is not dying has closed the report by itself, which it does only in strange hands.
                // A kill that fails is repeated by whoever stops the container.
                self.kill_or_say(id, true);
                Err(never_executed(id))
            }
            Err(error) => {
                self.kill_or_say(id, true);
                Err(Failure::io(Stage::Internal, id.as_str(), "its state cannot be read", &error))
            }
        };
        self.answer(waiter, answer);
    }

    /// Gives up a create whose process has ended without a word of ours; its own word comes first.
    pub(super) fn died_while_made(&mut self, id: &ContainerId, text: &str) {
        // What it had to say comes first.
        self.read_reports(id);
        let Some(Phase::Making(making)) = self.containers.get(id).map(|one| &one.phase) else { return };
        let failure = making.failure.clone().or_else(|| fork_failure(id.as_str(), making.slot));
        self.abandon(id, failure.unwrap_or_else(|| Failure::new(Stage::Launch, id.as_str(), text)));
    }

    /// A create that came to nothing: nothing of it is left when the answer goes out.
    pub(super) fn abandon(&mut self, id: &ContainerId, failure: Failure) {
        let Some(container) = self.containers.get(id) else { return };
        let Phase::Making(Making { helper, waiter, slot, .. }) = container.phase else { return };
        // It may not have joined the container's cgroup yet; once it is dead it makes nothing more.
        if let Some(Ok(helper)) = helper.map(process::pidfd) {
            // One that has ended by itself needs none.
            let _ended: rustix::io::Result<()> =
                rustix::process::pidfd_send_signal(&helper, rustix::process::Signal::KILL);
            process::wait_for_end(&helper, HELPER_DEATH_MAX);
        }
        self.pid_slots.give_back(slot);
        let cgroup = container.cgroup.clone();
        let removed = self.kill_cgroup(&cgroup).and_then(|_| cgroup.remove());
        let failure = match removed {
            Ok(()) => failure,
            Err(error) => {
                // A helper in the kernel's hands: its cgroup goes when it does.
                self.chores.remove_later(cgroup);
                let text = format!("{}; and {error}", failure.text);
                Failure { text, ..failure }
            }
        };
        let removers = self.drop_container(id);
        if !self.connections.contains_key(&waiter.connection) {
            self.say(Level::Warn, Some(id), format!("nobody waits for the answer to its create: {failure}"));
        }
        self.answer(waiter, Err(failure));
        for waiter in removers {
            self.answer(waiter, Ok(Answer::Done(v1::Done {})));
        }
    }

    /// Closes all that a container holds and forgets it.
    fn drop_container(&mut self, id: &ContainerId) -> Vec<Waiter> {
        self.close_report(id);
        self.close_oom_watch(id);
        self.close_outputs(id);
        self.end_attached(id);
        self.containers.remove(id).map(|container| container.removers).unwrap_or_default()
    }

    pub(super) fn close_outputs(&mut self, id: &ContainerId) {
        let outputs =
            self.containers.get_mut(id).map(|one| std::mem::take(&mut one.outputs)).unwrap_or_default();
        for (token, _, fd) in outputs {
            self.unwatch(fd.as_fd(), token);
        }
    }

    /// Records the exit once the init is reaped and the output has ended.
    pub(super) fn settle_end(&mut self, id: &ContainerId) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Phase::Ended { pid, ref start, ended, at, .. } = container.phase else { return };
        if !container.outputs.is_empty() || self.chores.are_killing(id) {
            return;
        }
        let (started_at, start_error) = match start {
            Start::At(at) => (Some(*at), None),
            Start::Failed(error) => (None, Some(error.clone())),
            Start::Never => (None, None),
        };
        let exit = exit::decide(&container.end(ended, at, start_error));
        container.log = None;
        container.phase = Phase::Exited { pid, started_at, exit: exit.clone(), acknowledged: false };
        self.end_attached(id);
        self.close_oom_watch(id);
        crate::failpoint!("supervisor.exit-decided");
        if let Some(pod) = &self.pod {
            // On a state directory that is full the exit is still reported to the daemon, which has its own record.
            if let Err(error) = store::put(&super::super::exit_path(&pod.dir, id), &exit, Durability::Process)
            {
                self.say(Level::Error, Some(id), format!("could not record its exit: {error}"));
            }
        }
        crate::failpoint!("supervisor.exit-recorded");
        self.tell_exit(id);
        let removers = self.containers.get_mut(id).map(|one| std::mem::take(&mut one.removers));
        for waiter in removers.unwrap_or_default() {
            let answer = self.forget(id).map(|()| Answer::Done(v1::Done {}));
            self.answer(waiter, answer);
        }
    }

    /// Removes the cgroup and the exit record of a container that has exited.
    pub(super) fn forget(&mut self, id: &ContainerId) -> Result<(), Failure> {
        let Some(container) = self.containers.get(id) else { return Ok(()) };
        container.cgroup.remove().map_err(|error| error.failure(id.as_str()))?;
        if let Some(pod) = &self.pod {
            let path = super::super::exit_path(&pod.dir, id);
            store::remove(&path, Durability::Process)
                .map_err(|error| Failure::io(Stage::Record, "", &path, &error))?;
        }
        self.drop_container(id);
        Ok(())
    }
}
