//! One container as its supervisor knows it.

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use super::{
    super::ContainerFacts,
    attach::{Attached, Input},
    connection::Waiter,
    exit::{End, Killed},
    inspection::{Bounds, PlannedUsers},
};
use crate::{
    cgroup::{self, OomCounts, OomWatch},
    launcher::{Identity, Reporter},
    logs::{CriLog, Stream},
    model::{ContainerId, ContainerPlan, Exit, Failure, PidMode, UnixNanos},
    sys::{
        pids::Slot,
        process::{self, Ended, Namespaces, Pid},
    },
};

/// Looks at the count of kills after v1 has said that memory is short: it says so before it kills, and prints
/// a page to the kernel's log in between. When it has killed decides whose fault an exit is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) due: Instant,
    pause: Duration,
    until: Instant,
}

/// Pause before the second look; each is twice as long as the one before.
const LOOK_PAUSE: Duration = Duration::from_millis(2);
const LOOK_PAUSE_MAX: Duration = Duration::from_millis(100);
/// When memory was found without a kill after all.
const LOOK_MAX: Duration = Duration::from_secs(2);

impl Look {
    fn after(now: Instant) -> Self {
        Self { due: now + LOOK_PAUSE, pause: LOOK_PAUSE, until: now + LOOK_MAX }
    }

    fn next(self, now: Instant) -> Option<Self> {
        let pause = (self.pause * 2).min(LOOK_PAUSE_MAX);
        (now < self.until).then(|| Self { due: now + pause, pause, ..self })
    }
}

/// Where in its life a container is, with what only that part of it has.
#[derive(Debug)]
pub(super) enum Phase {
    Making(Making),
    Alive(Init),
    /// Its init was reaped; its output may not have ended.
    Ended {
        /// Host pid of its init.
        pid: Pid,
        start: Start,
        ended: Ended,
        at: UnixNanos,
        drain_until: Instant,
    },
    /// The exit is recorded.
    Exited {
        /// Host pid of its init.
        pid: Pid,
        started_at: Option<UnixNanos>,
        exit: Exit,
        acknowledged: bool,
    },
}

/// A create that a helper is at.
#[derive(Debug)]
pub(super) struct Making {
    /// `None` once it was reaped.
    pub(super) helper: Option<Pid>,
    /// Where the init's pid is left.
    pub(super) slot: Slot,
    pub(super) waiter: Waiter,
    pub(super) deadline: Instant,
    pub(super) failure: Option<Failure>,
    /// `None` once its end was seen.
    pub(super) report: Option<Channel>,
    /// The container may speak on the report in our processes' place.
    pub(super) sealed: bool,
    /// libcontainer's own error lines, the cause behind a failure.
    pub(super) trace: String,
}

/// The first process of a container, from its wait at the barrier until it is reaped.
#[derive(Debug)]
pub(super) struct Init {
    /// Its host pid.
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    pub(super) step: Step,
}

/// How far an init has come.
#[derive(Debug)]
pub(super) enum Step {
    /// It waits at the barrier; `None`: the barrier was closed, so it ends.
    Created { barrier: Option<Channel> },
    /// It has been let go; execve has not answered yet.
    Starting { report: Channel, waiter: Waiter },
    /// The start is over.
    Started(Start),
}

/// What came of a container's start.
#[derive(Clone, Debug)]
pub(super) enum Start {
    /// It executed its program.
    At(UnixNanos),
    /// It could not execute its program, for this reason.
    Failed(String),
    /// It ended before it came to that, or before it was to.
    Never,
}

/// The supervisor's end of a launch's report, which is also the start barrier.
#[derive(Debug)]
pub(super) struct Channel {
    /// Its number in the event loop.
    pub(super) token: u64,
    pub(super) report: Reporter,
}

impl Phase {
    /// Host pid of the init; `None` while it is being made.
    pub(super) fn pid(&self) -> Option<Pid> {
        match self {
            Self::Making(_) => None,
            Self::Alive(Init { pid, .. }) | Self::Ended { pid, .. } | Self::Exited { pid, .. } => Some(*pid),
        }
    }

    /// The report, as long as somebody may speak on it.
    pub(super) fn report(&self) -> Option<&Reporter> {
        let channel = match self {
            Self::Making(making) => making.report.as_ref(),
            Self::Alive(Init { step: Step::Created { barrier }, .. }) => barrier.as_ref(),
            Self::Alive(Init { step: Step::Starting { report, .. }, .. }) => Some(report),
            Self::Alive(Init { step: Step::Started(_), .. }) | Self::Ended { .. } | Self::Exited { .. } => {
                None
            }
        };
        channel.map(|channel| &channel.report)
    }

    /// When it executed its program, if it has.
    pub(super) fn started_at(&self) -> Option<UnixNanos> {
        match self {
            Self::Alive(Init { step: Step::Started(start), .. }) | Self::Ended { start, .. } => start.at(),
            Self::Exited { started_at, .. } => *started_at,
            Self::Making(_) | Self::Alive(_) => None,
        }
    }
}

impl Start {
    pub(super) fn at(&self) -> Option<UnixNanos> {
        match self {
            Self::At(at) => Some(*at),
            Self::Failed(_) | Self::Never => None,
        }
    }
}

impl Init {
    /// What came of its start, as far as is known.
    pub(super) fn start(&self) -> Start {
        match &self.step {
            Step::Started(start) => start.clone(),
            Step::Created { .. } | Step::Starting { .. } => Start::Never,
        }
    }

    pub(super) fn is_starting(&self) -> bool {
        matches!(self.step, Step::Starting { .. })
    }
}

#[derive(Debug)]
pub(super) struct Container {
    pub(super) id: ContainerId,
    pub(super) phase: Phase,
    /// The namespaces of its init that an exec enters; the others are the pod's.
    pub(super) own: Namespaces,
    pub(super) own_cgroup_namespace: bool,
    /// Of its init.
    pub(super) bounds: Bounds,
    pub(super) oom_score_adj: i64,
    pub(super) cgroup: cgroup::Container,
    pub(super) identity: Identity,
    /// What it writes: token and pipe (or the terminal's master) of each stream that has not ended.
    pub(super) outputs: Vec<(u64, Stream, OwnedFd)>,
    /// Our end of its standard input, kept for those who attach.
    pub(super) stdin: Option<Input>,
    /// It was made with one.
    pub(super) has_stdin: bool,
    pub(super) stdin_once: bool,
    /// Its input is closed when what was typed is written.
    pub(super) input_ends: bool,
    pub(super) tty: bool,
    pub(super) attached: Vec<Attached>,
    pub(super) log: Option<CriLog>,
    pub(super) killed: Option<Killed>,
    pub(super) oom_watch: Option<(u64, OomWatch)>,
    /// How many kills had been seen, and when the last of them was.
    oom_seen: u64,
    oom_seen_at: Option<UnixNanos>,
    /// The kernel is about to kill: when the count is to be looked at again.
    pub(super) oom_look: Option<Look>,
    /// Leaves of execs that had left something running.
    pub(super) busy_leaves: Vec<cgroup::Container>,
    pub(super) removers: Vec<Waiter>,
}

impl Container {
    /// A container whose helper is about to be forked.
    pub(super) fn new(
        plan: &ContainerPlan,
        shared: Namespaces,
        users: Option<PlannedUsers>,
        cgroup: cgroup::Container,
        phase: Phase,
    ) -> Self {
        let own_pid = plan.pid != PidMode::Node;
        let own = Namespaces::MOUNT.and_if(own_pid, Namespaces::PID);
        let own_cgroup_namespace = !plan.privileged;
        Self {
            id: plan.id.clone(),
            phase,
            own,
            own_cgroup_namespace,
            bounds: Bounds::new(
                &plan.process,
                shared.and(own).and_if(own_cgroup_namespace, Namespaces::CGROUP),
                users,
            ),
            oom_score_adj: plan.process.oom_score_adj,
            cgroup,
            identity: Identity::default(),
            outputs: Vec::with_capacity(2),
            stdin: None,
            has_stdin: plan.stdin,
            stdin_once: plan.stdin_once,
            input_ends: false,
            tty: plan.process.tty,
            attached: Vec::new(),
            log: None,
            killed: None,
            oom_watch: None,
            oom_seen: 0,
            oom_seen_at: None,
            oom_look: None,
            busy_leaves: Vec::new(),
            removers: Vec::new(),
        }
    }

    /// `None` while it is being made.
    pub(super) fn facts(&self) -> Option<ContainerFacts> {
        Some(ContainerFacts {
            id: self.id.clone(),
            pid: self.phase.pid()?.get(),
            user: self.identity.user.clone(),
            started_at: self.phase.started_at(),
            exit: self.exit().cloned(),
        })
    }

    /// Its init, while it runs: its start is over and it has not been reaped.
    pub(super) fn running(&self) -> Option<&Init> {
        match &self.phase {
            Phase::Alive(init) => matches!(init.step, Step::Started(_)).then_some(init),
            Phase::Making(_) | Phase::Ended { .. } | Phase::Exited { .. } => None,
        }
    }

    pub(super) fn exit(&self) -> Option<&Exit> {
        match &self.phase {
            Phase::Exited { exit, .. } => Some(exit),
            Phase::Making(_) | Phase::Alive(_) | Phase::Ended { .. } => None,
        }
    }

    /// SIGKILL to all of it, or the steps of that. With `explains` it remembers what the kernel had done before.
    pub(super) fn begin_kill(&mut self, explains: bool) -> Result<Option<cgroup::Killing>, cgroup::Error> {
        let (cgroup, pid, killed) = (&self.cgroup, self.phase.pid(), &mut self.killed);
        cgroup.begin_kill(&mut || look_before_kill(cgroup, pid, killed, explains))
    }

    /// The next step; how long to wait before the one after it.
    pub(super) fn kill_further(
        &mut self,
        steps: &mut cgroup::Killing,
        explains: bool,
    ) -> Result<Option<Duration>, cgroup::Error> {
        let (cgroup, pid, killed) = (&self.cgroup, self.phase.pid(), &mut self.killed);
        steps.step(&mut || look_before_kill(cgroup, pid, killed, explains))
    }

    /// The kernel has said that memory is short in it, or that it has killed.
    pub(super) fn out_of_memory(&mut self, at: UnixNanos) {
        let Some((_, watch)) = &self.oom_watch else { return };
        watch.acknowledge();
        let (early, seen) = (watch.is_early(), self.oom_seen);
        self.look_for_oom(at);
        self.oom_look = (early && self.oom_seen == seen).then(|| Look::after(Instant::now()));
    }

    /// Looks again, if it is time.
    pub(super) fn look_again(&mut self, now: Instant, at: UnixNanos) {
        let Some(look) = self.oom_look.filter(|look| look.due <= now) else { return };
        let seen = self.oom_seen;
        self.look_for_oom(at);
        self.oom_look = if self.oom_seen == seen { look.next(now) } else { None };
    }

    /// Looks whether the kernel has killed in it since the last look.
    pub(super) fn look_for_oom(&mut self, at: UnixNanos) -> OomCounts {
        // A count that cannot be read is the cause of nothing.
        let counts = self.cgroup.oom_counts().unwrap_or_default();
        if counts.oom_kill > self.oom_seen {
            self.oom_seen = counts.oom_kill;
            self.oom_seen_at = Some(at);
        }
        counts
    }

    /// What `exit::decide` decides on.
    pub(super) fn end(&mut self, ended: Ended, at: UnixNanos, start_error: Option<String>) -> End {
        End {
            ended,
            at,
            oom: self.look_for_oom(at),
            oom_seen_at: self.oom_seen_at,
            killed: self.killed,
            start_error,
        }
    }

    /// Best effort: lowering it needs a capability that the node may not have.
    pub(super) fn set_oom_score(&self, pid: Pid) {
        let path = format!("/proc/{pid}/oom_score_adj");
        let _written: io::Result<()> = std::fs::write(path, self.oom_score_adj.to_string());
    }
}

fn look_before_kill(
    cgroup: &cgroup::Container,
    pid: Option<Pid>,
    killed: &mut Option<Killed>,
    explains: bool,
) {
    // Of several kills the first is the one that explains the end.
    if explains && killed.is_none() {
        *killed = Some(Killed {
            oom: cgroup.oom_counts().unwrap_or_default(),
            dying: pid.is_some_and(process::is_dying),
            alone: cgroup.processes().is_ok_and(|processes| processes == 1),
        });
    }
}
