//! A process in a container that runs already: all its namespaces at once, by the pidfd of its init.
//!
//! libcontainer is not asked: in 0.7 its way into a container has no seccomp filter.

use std::os::fd::{AsFd, OwnedFd};

use super::{
    finish::{Identity, finish},
    libcontainer::{Stdio, own_null},
    report::{Report, Reporter},
};
use rustix::fs::{Mode, OFlags};

use crate::{
    model::{Failure, ProcessPlan, Stage},
    sys::process::{self, Fork, Namespaces},
};

/// What a helper is given to run one process.
#[derive(Debug)]
pub struct Exec<'a> {
    pub plan: &'a ProcessPlan,
    pub identity: &'a Identity,
    /// Of the container's init.
    pub init: OwnedFd,
    /// Of the kinds that the container does not share with the host.
    pub namespaces: Namespaces,
    /// Give it a cgroup namespace, so that it sees its own leaf as the root and so the container's limits.
    pub own_cgroup_namespace: bool,
    pub stdio: Stdio,
    pub report: Reporter,
}

/// Makes the process, as a child of this process's parent, and gives its host pid. What becomes of it is in
/// the report: `Failed`, or the end of the stream for an execve that worked.
///
/// # Errors
/// Stage `Namespace`.
pub fn exec(exec: &Exec<'_>) -> Result<u32, Failure> {
    let failed = |what: &str, error: &std::io::Error| Failure::io(Stage::Namespace, what, "", error);
    let owner = rustix::fs::Uid::from_raw(exec.identity.user.uid);
    for fd in [&exec.stdio.stdout, &exec.stdio.stderr] {
        let _ = rustix::fs::fchown(fd, Some(owner), None);
    }
    if exec.own_cgroup_namespace {
        process::unshare(Namespaces::CGROUP).map_err(|error| failed("cgroup", &error))?;
    }
    process::enter(exec.init.as_fd(), exec.namespaces).map_err(|error| failed("setns", &error))?;
    match process::fork_sibling().map_err(|error| failed("clone3", &error))? {
        Fork::Parent(pid) => Ok(pid),
        Fork::Child => {
            let failure = match standard_streams(&exec.stdio) {
                Ok(()) => finish(exec.plan, exec.identity),
                Err(error) => failed("standard streams", &error),
            };
            exec.report.send(&Report::Failed(failure));
            process::exit_now(127)
        }
    }
}

fn standard_streams(stdio: &Stdio) -> std::io::Result<()> {
    rustix::process::setsid()?;
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    match own_null(root.as_fd()) {
        Some(null) => rustix::stdio::dup2_stdin(null)?,
        None => rustix::stdio::dup2_stdin(&stdio.stdin)?,
    }
    rustix::stdio::dup2_stdout(&stdio.stdout)?;
    rustix::stdio::dup2_stderr(&stdio.stderr)?;
    Ok(())
}
