//! One container as its supervisor knows it.

use std::{io, os::fd::OwnedFd, time::Instant};

use super::{ContainerFacts, connection::Waiter, exit::End, inspection::Bounds};
use crate::{
    cgroup::{self, OomCounts, OomWatch},
    launcher::{Identity, Reporter},
    logs::{CriLog, Stream},
    model::{ContainerId, ContainerPlan, Exit, Failure, PidMode, UnixNanos},
    sys::process::{Ended, Namespaces},
};

/// Where in its life it is.
#[derive(Debug)]
pub(super) enum Phase {
    /// A helper is at it.
    Making {
        /// 0 once it was reaped.
        helper: u32,
        launch: u64,
        waiter: Waiter,
        deadline: Instant,
        failure: Option<Failure>,
    },
    /// Its init waits at the barrier.
    Created,
    /// It has been let go; execve has not answered yet.
    Starting {
        waiter: Waiter,
    },
    Running,
    /// Its init was reaped; its output may not have ended.
    Ended {
        ended: Ended,
        at: UnixNanos,
        drain_until: Instant,
    },
    /// The exit is recorded.
    Exited {
        exit: Exit,
        acknowledged: bool,
    },
}

#[derive(Debug)]
pub(super) struct Container {
    pub(super) id: ContainerId,
    pub(super) phase: Phase,
    /// Those that an exec enters.
    pub(super) namespaces: Namespaces,
    pub(super) own_cgroup_namespace: bool,
    /// Of its init.
    pub(super) bounds: Bounds,
    pub(super) oom_score_adj: i64,
    pub(super) cgroup: cgroup::Container,
    pub(super) identity: Identity,
    /// Host pid of its init; 0 while there is none.
    pub(super) pid: u32,
    pub(super) pidfd: Option<OwnedFd>,
    pub(super) report: Option<(u64, Reporter)>,
    /// What it writes: token and pipe (or the terminal's master) of each stream that has not ended.
    pub(super) outputs: Vec<(u64, Stream, OwnedFd)>,
    /// Our end of its standard input, kept for those who attach.
    pub(super) stdin: Option<OwnedFd>,
    pub(super) log: Option<CriLog>,
    pub(super) started_at: Option<UnixNanos>,
    pub(super) start_error: Option<String>,
    pub(super) killed_at: Option<OomCounts>,
    pub(super) oom_watch: Option<(u64, OomWatch)>,
    /// How many kills had been seen, and when the last of them was.
    oom_seen: u64,
    oom_seen_at: Option<UnixNanos>,
    /// Leaves of execs that had left something running.
    pub(super) busy_leaves: Vec<cgroup::Container>,
    pub(super) removers: Vec<Waiter>,
    /// libcontainer's own error lines, the cause behind a failure.
    pub(super) trace: String,
}

impl Container {
    /// A container whose helper is about to be forked.
    pub(super) fn new(
        plan: &ContainerPlan,
        shared: Namespaces,
        cgroup: cgroup::Container,
        phase: Phase,
    ) -> Self {
        let own_pid = plan.pid != PidMode::Node;
        let namespaces = shared.and(Namespaces::MOUNT).and_if(own_pid, Namespaces::PID);
        let own_cgroup_namespace = !plan.privileged;
        Self {
            id: plan.id.clone(),
            phase,
            namespaces,
            own_cgroup_namespace,
            bounds: Bounds::new(&plan.process, namespaces.and_if(own_cgroup_namespace, Namespaces::CGROUP)),
            oom_score_adj: plan.process.oom_score_adj,
            cgroup,
            identity: Identity::default(),
            pid: 0,
            pidfd: None,
            report: None,
            outputs: Vec::with_capacity(2),
            stdin: None,
            log: None,
            started_at: None,
            start_error: None,
            killed_at: None,
            oom_watch: None,
            oom_seen: 0,
            oom_seen_at: None,
            busy_leaves: Vec::new(),
            removers: Vec::new(),
            trace: String::new(),
        }
    }

    pub(super) fn facts(&self) -> ContainerFacts {
        ContainerFacts {
            id: self.id.clone(),
            pid: self.pid,
            user: self.identity.user.clone(),
            started_at: self.started_at,
            exit: self.exit().cloned(),
        }
    }

    pub(super) fn exit(&self) -> Option<&Exit> {
        match &self.phase {
            Phase::Exited { exit, .. } => Some(exit),
            Phase::Making { .. }
            | Phase::Created
            | Phase::Starting { .. }
            | Phase::Running
            | Phase::Ended { .. } => None,
        }
    }

    /// SIGKILL to all of it; remembers what the kernel had killed before.
    pub(super) fn kill(&mut self) -> Result<(), cgroup::Error> {
        if self.killed_at.is_none() {
            self.killed_at = Some(self.cgroup.oom_counts().unwrap_or_default());
        }
        self.cgroup.kill()
    }

    /// Looks whether the kernel has killed in it since the last look.
    pub(super) fn look_for_oom(&mut self, at: UnixNanos) -> OomCounts {
        let counts = self.cgroup.oom_counts().unwrap_or_default();
        if counts.oom_kill > self.oom_seen {
            self.oom_seen = counts.oom_kill;
            self.oom_seen_at = Some(at);
        }
        counts
    }

    /// What `exit::decide` decides on.
    pub(super) fn end(&mut self, ended: Ended, at: UnixNanos) -> End {
        End {
            ended,
            at,
            oom: self.look_for_oom(at),
            oom_seen_at: self.oom_seen_at,
            killed_at: self.killed_at,
            start_error: self.start_error.clone(),
        }
    }

    /// Best effort: lowering it needs a capability that the node may not have.
    pub(super) fn set_oom_score(&self) {
        let path = format!("/proc/{}/oom_score_adj", self.pid);
        let _: io::Result<()> = std::fs::write(path, self.oom_score_adj.to_string());
    }
}
