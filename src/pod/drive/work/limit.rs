//! Changing limits in the kernel, and setting them back.

use std::{io, sync::Arc};

use rustix::fs::{Mode, OFlags};
use tracing::warn;

use super::{super::pod::Pod, Report, signal::parent_of};
use crate::{
    cgroup::{self, Changed},
    model::{ContainerId, PodLimits},
    pod::{
        error::chain,
        keep::blocking,
        life::{Init, LimitChange, Limited, Outcome},
    },
    telemetry::task,
};

pub(super) async fn container(pod: Arc<Pod>, change: LimitChange) -> Report {
    let LimitChange { id, step, mut after, score, score_before } = change;
    let cgroup = pod.cgroup.as_ref().map(|handle| handle.container(&id));
    let changed = match cgroup {
        Some(cgroup) => in_kernel(move || cgroup.update(&step)).await,
        None => Ok(Changed::default()),
    };
    let wanted = after.oom_score_adj;
    if let (true, Some(init)) = (changed.is_ok(), score)
        && let Err(error) = blocking(move || set_oom_score(init, wanted)).await
    {
        // As at its start: lowering takes a capability that a node may not have.
        warn!(container = %id, %error, wanted, "the OOM score stays as it was");
        after.oom_score_adj = score_before;
    }
    crate::failpoint!("container.limits-changed");
    let limited = changed.map(|changed| Box::new(Limited { after, changed }));
    if let Err(error) = &limited {
        warn!(pod = %pod.id, container = %id, error = %chain(error), "limits were not changed");
    }
    Report::Outcome(Outcome::Limited(id, limited))
}

pub(super) async fn pod(pod: Arc<Pod>, after: PodLimits) -> Report {
    let total = after.total();
    let changed = match pod.cgroup.clone() {
        Some(handle) => in_kernel(move || handle.update(&total)).await,
        None => Ok(Changed::default()),
    };
    crate::failpoint!("pod.limits-changed");
    let limited = changed.map(|changed| Box::new(Limited { after, changed }));
    if let Err(error) = &limited {
        warn!(pod = %pod.id, error = %chain(error), "limits of the pod were not changed");
    }
    Report::Outcome(Outcome::PodLimited(limited))
}

/// For limits that could not be written down.
pub(super) async fn take_back(pod: Arc<Pod>, id: Option<ContainerId>, changed: Changed) -> Report {
    if let Ok(Err(error)) = blocking(move || Ok(changed.take_back())).await {
        warn!(pod = %pod.id, error = %chain(&error), "a change of limits could not be taken back");
    }
    Report::Outcome(Outcome::TakenBack(id))
}

/// v1 gives memory back before it refuses a limit, and that may take a while.
async fn in_kernel(
    work: impl FnOnce() -> Result<Changed, cgroup::Error> + Send + 'static,
) -> Result<Changed, cgroup::Error> {
    task::blocking("limits", work).await
}

/// The folder pins the process: a later one of the same number is not reached through it.
fn set_oom_score(init: Init, score: i64) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(format!("/proc/{}", init.pid), flags, Mode::empty())?;
    let open = |name, flags| rustix::fs::openat(&folder, name, flags | OFlags::CLOEXEC, Mode::empty());
    let status = io::read_to_string(std::fs::File::from(open("status", OFlags::RDONLY)?))?;
    if parent_of(&status) != Some(init.parent) {
        return Err(io::ErrorKind::NotFound.into());
    }
    let file = open("oom_score_adj", OFlags::WRONLY)?;
    rustix::io::write(&file, score.to_string().as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_of_a_process_with_another_parent_is_left_alone() {
        let init = Init { pid: std::process::id(), parent: 1 };
        let own_parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
        if own_parent != 1 {
            assert_eq!(set_oom_score(init, 7).unwrap_err().kind(), io::ErrorKind::NotFound);
        }
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let path = format!("/proc/{}/oom_score_adj", child.id());
        set_oom_score(Init { pid: child.id(), parent: std::process::id() }, 777).unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "777\n");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
