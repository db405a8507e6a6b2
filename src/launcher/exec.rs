//! A process in a container that runs already.
//!
//! Its init may have gone into other namespaces since, also into a user namespace that it has made, where it has every
//! capability. It does not choose where an exec lands: those of the pod are entered by the descriptors that its
//! supervisor has held since they were made, and a process cannot leave its pid namespace. Its mount namespace alone is
//! followed, as runc and crun do: what the container has mounted for itself is what its user asks to see, and is its
//! own files anyway.
//!
//! libcontainer is not asked: in 0.7 its route into a container has no seccomp filter.

use std::os::fd::{AsFd, OwnedFd};

use super::{
    finish::{Keyring, Route, confine},
    lsm::NodeProc,
    report::Reporter,
    stdio::ExecStdio,
    template::PodNamespaces,
    user::Identity,
    users,
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
    /// The namespaces of the pod.
    pub pod: &'a PodNamespaces,
    /// The kinds that are the container's own: mount and, unless it has the host's, pid.
    pub own: Namespaces,
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
    exec.stdio.give_to(users::host_uid(exec.pod.users.as_ref(), exec.identity.user.uid));
    // As root of the node still: what init executes may be out of reach for root of the pod (ptrace(2)).
    process::enter(exec.init.as_fd(), exec.own).map_err(|error| failed("setns", &error))?;
    exec.pod.enter_shared().map_err(|error| failed("of the pod", &error))?;
    // The user namespace's own, if the pod has one.
    if exec.own_cgroup_namespace {
        process::unshare(Namespaces::CGROUP).map_err(|error| failed("cgroup", &error))?;
    }
    exec.stdio.take_up(exec.identity.user.uid).map_err(|error| failed("standard streams", &error))
}
