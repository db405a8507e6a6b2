//! A process in a container that runs already: all its namespaces at once, by the pidfd of its init.
//!
//! libcontainer is not asked: in 0.7 its route into a container has no seccomp filter.

use std::os::fd::{AsFd, OwnedFd};

use super::{
    finish::{Keyring, Route, confine},
    lsm::NodeProc,
    report::Reporter,
    stdio::ExecStdio,
    user::Identity,
    users::{self, Users},
};
use crate::{
    model::{ContainerId, Failure, ProcessPlan, Stage},
    sys::{
        pids::Slot,
        process::{self, Namespaces, OneThread},
    },
};

/// The input of a helper that runs one process.
#[derive(Debug)]
pub struct Exec<'a> {
    pub container: &'a ContainerId,
    pub plan: &'a ProcessPlan,
    pub identity: &'a Identity,
    /// Of the container's init.
    pub init: OwnedFd,
    /// Of the kinds that the container does not share with the host.
    pub namespaces: Namespaces,
    /// Of the pod; among `namespaces`.
    pub users: Option<&'a Users>,
    /// Give it a cgroup namespace, so that it sees its own leaf as the root and so the container's limits.
    pub own_cgroup_namespace: bool,
    pub stdio: ExecStdio,
    /// The slot for the host pid of the process, which becomes a child of this process's parent.
    pub pid: Slot,
    pub report: Reporter,
}

/// Makes the process and ends. What becomes of it is in the report: `Failed`, or the end of the stream for an
/// execve that worked. Comes back only if there will be no process.
pub fn exec(exec: &Exec<'_>, one_thread: OneThread) -> Failure {
    let proc = match NodeProc::open(exec.plan) {
        Ok(proc) => proc,
        Err(failure) => return failure,
    };
    if let Err(failure) = enter(exec) {
        return failure;
    }
    let keyring = Keyring::of(exec.container, false);
    let route = Route { fork: Some(exec.pid), terminal: exec.stdio.is_terminal(), one_thread };
    match confine(exec.plan, exec.identity, &keyring, &proc, route, &exec.report) {
        Err(failure) => failure,
        Ok(confined) => {
            confined.fork_if_needed();
            confined.execute()
        }
    }
}

/// The container's namespaces, the pid namespace for what is forked from now on; and the standard streams.
fn enter(exec: &Exec<'_>) -> Result<(), Failure> {
    let failed = |what: &str, error: &std::io::Error| Failure::io(Stage::Namespace, what, "", error);
    exec.stdio.give_to(users::host_uid(exec.users, exec.identity.user.uid));
    process::enter(exec.init.as_fd(), exec.namespaces).map_err(|error| failed("setns", &error))?;
    if exec.users.is_some() {
        users::become_root().map_err(|error| failed("user", &error))?;
    }
    // The user namespace's own, if the pod has one.
    if exec.own_cgroup_namespace {
        process::unshare(Namespaces::CGROUP).map_err(|error| failed("cgroup", &error))?;
    }
    exec.stdio.take_up(exec.identity.user.uid).map_err(|error| failed("standard streams", &error))
}
