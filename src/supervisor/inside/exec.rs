//! One process run in a container, in a cgroup of its own below it, so that its whole tree can be killed.

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
    connection::Waiter,
    event_loop::{Source, Supervisor},
    inspection::Bounds,
    lifecycle::excess_failure,
    pid_slots::fork_failure,
};
use crate::{
    cgroup,
    launcher::{self, ExecStdio, Report, Reporter},
    model::{ContainerId, Failure, ResolvedUser, Stage, TerminalSize},
    sys::{
        pids::Slot,
        process::{self, Ended, Pid},
    },
};

use v1::reply::Result as Answer;

/// Looks at whether a killed tree is gone, and the pause between two: 200 ms in all.
const GONE_LOOKS_MAX: u32 = 400;
const GONE_PAUSE: Duration = Duration::from_micros(500);

#[derive(Debug)]
pub(super) struct Exec {
    pub(super) waiter: Waiter,
    container: ContainerId,
    /// `None` once it was reaped.
    pub(super) helper: Option<Pid>,
    /// Where its pid is left, by the kernel and before the process runs.
    slot: Slot,
    /// `None` when its end was seen: then execve has worked, or `failure` says why not.
    pub(super) report: Option<(u64, Reporter)>,
    leaf: cgroup::Container,
    bounds: Bounds,
    user: ResolvedUser,
    pub(super) deadline: Option<Instant>,
    timed_out: bool,
    ended: Option<Ended>,
    failure: Option<Failure>,
}

impl Exec {
    /// Its process was reaped.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// The helper was reaped, and so was its process, if it made one.
    fn is_over(&self) -> bool {
        self.helper.is_none() && (self.ended.is_some() || self.pid().is_none())
    }

    /// Its host pid, once there is one.
    pub(super) fn pid(&self) -> Option<Pid> {
        self.slot.pid().ok().flatten()
    }
}

impl Supervisor {
    pub(super) fn exec(&mut self, waiter: Waiter, exec: v1::Exec, fds: Vec<OwnedFd>) -> Result<(), Failure> {
        let stdio = stdio(&exec, fds)?;
        let plan = wire::process_plan(exec.process.unwrap_or_default());
        let number = self.next_exec;
        let container = self.find(&exec.container_id)?;
        let id = container.id.clone();
        let Some(init) = container.running() else {
            return Err(Failure::new(Stage::WrongState, id.as_str(), "it is not running"));
        };
        let failed = |error: io::Error| Failure::io(Stage::Internal, id.as_str(), "exec", &error);
        let init = init.pidfd.try_clone().map_err(failed)?;
        let (report, their_report) = helper::report_pair().map_err(failed)?;
        let leaf = container.cgroup.exec_leaf(number);
        let identity = container.identity.clone();
        let (own, own_cgroup_namespace) = (container.own, container.own_cgroup_namespace);
        let bounds = container.bounds.of_another(&plan);
        self.next_exec += 1;
        // Before the fork: a process that nobody listens to would be nobody's.
        let token = self.watch(report.as_fd(), Source::ExecReport(number)).map_err(failed)?;
        let slot = self.pid_slots.take();
        let launched = slot.and_then(|slot| {
            let pod = self
                .pod
                .as_ref()
                .ok_or_else(|| Failure::new(Stage::WrongState, "pod", "it is not set up"))?;
            let run = launcher::Exec {
                container: &id,
                plan: &plan,
                identity: &identity,
                init,
                pod: &pod.namespaces,
                own,
                own_cgroup_namespace,
                stdio,
                pid: slot,
                report: their_report,
            };
            let helper = helper::exec(&pod.id, &run, &leaf);
            helper.map(|helper| (helper, slot)).inspect_err(|_| self.pid_slots.give_back(slot))
        });
        let (helper, slot) = match launched {
            Ok(launched) => launched,
            Err(failure) => {
                self.unwatch(report.as_fd(), token);
                return Err(failure);
            }
        };
        let timeout = (exec.timeout_ms > 0).then(|| Duration::from_millis(exec.timeout_ms));
        let exec = Exec {
            waiter,
            container: id,
            helper: Some(helper),
            slot,
            report: Some((token, report)),
            leaf,
            bounds,
            user: identity.user,
            deadline: timeout.map(|timeout| Instant::now() + timeout),
            timed_out: false,
            ended: None,
            failure: None,
        };
        self.execs.insert(number, exec);
        Ok(())
    }

    pub(super) fn read_exec_reports(&mut self, number: u64) {
        loop {
            let Some(exec) = self.execs.get_mut(&number) else { return };
            let Some((_, report)) = &exec.report else { return };
            match report.receive() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The helper and its process have this one thing to say. A process that others can see may be in
                // their hands: it is believed no more, and not listened to without end.
                Ok(Some((Report::Failed(failure), _))) => {
                    exec.failure = Some(failure);
                    return self.exec_report_ended(number);
                }
                Ok(_) | Err(_) => return self.exec_report_ended(number),
            }
        }
    }

    fn exec_report_ended(&mut self, number: u64) {
        let Some(exec) = self.execs.get_mut(&number) else { return };
        if let Some((token, report)) = exec.report.take() {
            self.unwatch(report.as_fd(), token);
        }
        self.inspect_exec(number);
        self.settle_exec(number);
    }

    /// After its execve.
    fn inspect_exec(&mut self, number: u64) {
        let Some(exec) = self.execs.get_mut(&number) else { return };
        let (Some(pid), None, None) = (exec.pid(), &exec.ended, &exec.failure) else { return };
        if let Err(excess) = exec.bounds.inspect(pid.get(), &exec.user) {
            exec.failure = Some(excess_failure("exec", &excess));
            self.kill_exec_tree(number);
        }
    }

    pub(super) fn exec_helper_ended(&mut self, number: u64, ended: Ended) {
        self.read_exec_reports(number);
        let Some(exec) = self.execs.get_mut(&number) else { return };
        // Its number may be given to another process now.
        exec.helper = None;
        if exec.pid().is_none() && exec.failure.is_none() {
            let text = || format!("the helper that starts it ended with {}", ended.code());
            let failure = fork_failure("exec", exec.slot);
            exec.failure = failure.or_else(|| Some(Failure::new(Stage::Launch, "exec", text())));
        }
        self.close_exec_report(number);
    }

    pub(super) fn exec_ended(&mut self, number: u64, ended: Ended) {
        self.read_exec_reports(number);
        if let Some(exec) = self.execs.get_mut(&number) {
            exec.ended = Some(ended);
        }
        self.close_exec_report(number);
    }

    /// Once both have ended there is nothing more to hear, also if somebody else holds the report open.
    fn close_exec_report(&mut self, number: u64) {
        let Some(exec) = self.execs.get_mut(&number) else { return };
        if exec.is_over()
            && let Some((token, report)) = exec.report.take()
        {
            self.unwatch(report.as_fd(), token);
        }
        self.settle_exec(number);
    }

    /// Answers once the process has ended and nothing more can be said about its start.
    fn settle_exec(&mut self, number: u64) {
        let Some(exec) = self.execs.get(&number) else { return };
        if !exec.is_over() || exec.report.is_some() {
            return;
        }
        let Some(exec) = self.execs.remove(&number) else { return };
        self.pid_slots.give_back(exec.slot);
        self.remove_leaf(&exec.container, exec.leaf);
        let answer = match (exec.failure, exec.ended) {
            // Also when the time was up before there was a process.
            _ if exec.timed_out => Ok((128 + 9, true)),
            (Some(failure), _) => Err(failure),
            (None, Some(ended)) => Ok((ended.code(), false)),
            (None, None) => Err(Failure::new(Stage::Internal, "exec", "its end was not seen")),
        };
        let answer = answer.map(|(code, timed_out)| Answer::ExecExit(v1::ExecExit { code, timed_out }));
        self.answer(exec.waiter, answer);
    }

    /// What an exec left running in the background stays, and so does its leaf, until a later look or the end
    /// of the container.
    fn remove_leaf(&mut self, id: &ContainerId, leaf: cgroup::Container) {
        let Some(container) = self.containers.get_mut(id) else {
            // Its helper may have made it while the container was removed.
            if leaf.remove().is_err() {
                self.chores.remove_later(leaf);
            }
            return;
        };
        let mut leaves = std::mem::take(&mut container.busy_leaves);
        leaves.push(leaf);
        leaves.retain(|leaf| leaf.populated().unwrap_or(true) || leaf.remove().is_err());
        container.busy_leaves = leaves;
    }

    /// Its time is up: the whole tree is killed, and only then the answer goes out.
    pub(super) fn time_out_exec(&mut self, number: u64) {
        let Some(exec) = self.execs.get_mut(&number) else { return };
        exec.deadline = None;
        exec.timed_out = true;
        self.kill_exec_tree(number);
    }

    fn kill_exec_tree(&mut self, number: u64) {
        let Some(exec) = self.execs.get_mut(&number) else { return };
        // The helper goes first: one that has not joined the leaf yet would make the process after the kill.
        // What it made before its end is in the leaf, and is killed with it.
        if let Some(helper) = exec.helper {
            end_helper(helper);
        }
        let leaf = exec.leaf.clone();
        let all_signalled = self.kill_cgroup(&leaf).unwrap_or(false);
        let Some(exec) = self.execs.get_mut(&number) else { return };
        if let (Some(pid), None) = (exec.pid(), exec.ended) {
            // A privileged one may have left its cgroup; it must go, or nobody is ever answered.
            // One that has ended by now is what was wanted.
            let _ended: io::Result<()> = process::kill(pid);
        }
        crate::failpoint!("supervisor.exec-killed");
        // A killed process needs some microseconds to be gone; only one in the kernel's hands needs long.
        // And what has not got its signal yet is not waited for here.
        for _ in 0..if all_signalled { GONE_LOOKS_MAX } else { 0 } {
            if !leaf.populated().unwrap_or(false) {
                break;
            }
            std::thread::sleep(GONE_PAUSE);
        }
        self.settle_exec(number);
    }

    /// Kills the exec that `waiter` waits for.
    pub(super) fn kill_exec(&mut self, waiter: Waiter) {
        let number = self.execs.iter().find(|(_, exec)| exec.waiter == waiter).map(|(number, _)| *number);
        if let Some(number) = number {
            self.kill_exec_tree(number);
        }
    }

    /// Kills the execs whose caller has gone.
    pub(super) fn kill_execs_of(&mut self, connection: u64) {
        let theirs = self.execs.iter().filter(|(_, exec)| exec.waiter.connection == connection);
        for number in theirs.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.kill_exec_tree(number);
        }
    }
}

/// What the descriptors that came with the request are.
fn stdio(exec: &v1::Exec, fds: Vec<OwnedFd>) -> Result<ExecStdio, Failure> {
    let mut fds = fds.into_iter();
    let stdio = if exec.process.as_ref().is_some_and(|process| process.tty) {
        let size = TerminalSize::new(exec.columns, exec.rows);
        fds.next().map(|to| ExecStdio::Terminal { to, size })
    } else {
        let stdin = if exec.stdin { fds.next() } else { None };
        let outputs = fds.next().zip(fds.next());
        outputs.map(|(stdout, stderr)| ExecStdio::Pipes { stdin, stdout, stderr })
    };
    let stdio = stdio.filter(|_| fds.next().is_none());
    stdio.ok_or_else(|| Failure::new(Stage::Request, "exec", "it came with other descriptors than it needs"))
}

/// Kills a helper and waits a moment until it can do nothing more. It stays to be reaped with the others.
fn end_helper(helper: Pid) {
    // One that has ended by now is what was wanted.
    let _ended: io::Result<()> = process::kill(helper);
    for _ in 0..GONE_LOOKS_MAX {
        if process::has_ended(helper) {
            return;
        }
        std::thread::sleep(GONE_PAUSE);
    }
}
