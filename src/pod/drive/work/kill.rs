//! Killing a container, and finding out how it has ended.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use rustix::process::Signal;
use tokio::time;
use tracing::warn;

use super::{
    super::pod::Pod,
    Report, answered,
    signal::signal_directly,
    tear_down::{CGROUP_EMPTY_MAX, CGROUP_POLL, kill_pod},
};
use crate::{
    model::{ContainerId, Exit, ExitReason},
    pod::{
        error::chain,
        keep::{self, EndRecord, blocking},
        life::{Init, Outcome},
    },
    store,
    supervisor::{self, Client},
    sys::descriptors,
};

/// Between two looks at whether a kill has worked. An exit is reported long before the first.
const KILL_CHECK: Duration = Duration::from_secs(2);

/// One round of killing and a look, a while later, at whether it has worked.
pub(super) async fn round(
    pod: Arc<Pod>,
    client: Option<Client>,
    id: ContainerId,
    init: Option<Init>,
    round: u32,
) -> Report {
    let asked = match &client {
        Some(client) => answered(client.kill(&id)).await,
        None => false,
    };
    if !asked || round > 0 {
        kill_directly(&pod, &id).await;
        signal_directly(init, Signal::KILL.as_raw()).await;
    }
    crate::failpoint!("container.killed");
    time::sleep(KILL_CHECK).await;
    let end = found_end(&pod, &id, round).await;
    Report::Outcome(Outcome::KillChecked(id, end))
}

/// How a killed container ended, if its supervisor has written it down; and if no process is left of it after
/// the supervisor has had a second chance to tell, that too is an end.
async fn found_end(pod: &Arc<Pod>, id: &ContainerId, round: u32) -> Option<Exit> {
    match look(pod, id).await {
        Look::Recorded(exit) => Some(exit),
        Look::Empty if round > 0 => {
            Some(exit(137, ExitReason::Error, "killed; its supervisor does not answer".into()))
        }
        Look::Empty | Look::Alive => None,
    }
}

/// What disk and kernel say of a container.
enum Look {
    /// Its supervisor has written down how it ended.
    Recorded(Exit),
    /// No process is left in its cgroup.
    Empty,
    /// There are processes, or it is not known.
    Alive,
}

async fn look(pod: &Arc<Pod>, id: &ContainerId) -> Look {
    let _reserve = descriptors::lend_reserve();
    let (folder, leaf, id) =
        (pod.folder.clone(), pod.cgroup.as_ref().map(|handle| handle.container(id)), id.clone());
    let end = keep::end_file(&pod.node.places.known(&pod.id), &id);
    let look = move || {
        let empty = leaf.is_none_or(|leaf| matches!(leaf.populated(), Ok(false)));
        // What was reported once holds: the disk may know what the supervisor cannot say any more.
        let kept = || store::get::<EndRecord>(&end).ok().map(|end| end.exit);
        Ok((supervisor::recorded_exit(&folder, &id).or_else(kept), empty))
    };
    match blocking(look).await {
        Ok((Some(exit), _)) => Look::Recorded(exit),
        Ok((None, true)) => Look::Empty,
        Ok((None, false)) | Err(_) => Look::Alive,
    }
}

/// SIGKILL to a container that no answer came for.
pub(super) async fn leaf(pod: Arc<Pod>, id: ContainerId) -> Report {
    kill_directly(&pod, &id).await;
    Report::Nothing
}

async fn kill_directly(pod: &Arc<Pod>, id: &ContainerId) {
    let _reserve = descriptors::lend_reserve();
    let Some(leaf) = pod.cgroup.as_ref().map(|handle| handle.container(id)) else { return };
    if let Ok(Err(error)) = blocking(move || Ok(leaf.kill())).await {
        warn!(pod = %pod.id, container = %id, error = %chain(&error), "could not kill by cgroup");
    }
}

/// Kills what a dead supervisor has left, and finds out how it ended. Containers whose end it wrote down keep
/// that end; what has processes still is not reported as ended.
pub(super) async fn orphans(pod: Arc<Pod>, ids: Vec<ContainerId>) -> Report {
    kill_pod(&pod).await;
    let mut ends = Vec::new();
    for id in ids {
        let end = match wait_for_end(&pod, &id).await {
            Look::Recorded(exit) => Some(exit),
            Look::Empty => {
                let message = "its supervisor died, so it was killed".into();
                Some(exit(137, ExitReason::SupervisorDied, message))
            }
            Look::Alive => None,
        };
        ends.push((id, end));
    }
    Report::Outcome(Outcome::EndsFound(ends))
}

/// Kills a container that its supervisor does not know, and finds out how it ended.
pub(super) async fn unknown(pod: Arc<Pod>, id: ContainerId) -> Report {
    kill_directly(&pod, &id).await;
    let end = match wait_for_end(&pod, &id).await {
        Look::Recorded(exit) => Some(exit),
        Look::Empty => Some(exit(255, ExitReason::Unknown, "its supervisor does not know it".into())),
        Look::Alive => None,
    };
    Report::Outcome(Outcome::EndsFound(vec![(id, end)]))
}

/// Killed processes take a moment to leave their cgroup.
async fn wait_for_end(pod: &Arc<Pod>, id: &ContainerId) -> Look {
    let deadline = Instant::now() + CGROUP_EMPTY_MAX;
    loop {
        let seen = look(pod, id).await;
        if !matches!(seen, Look::Alive) || Instant::now() >= deadline {
            return seen;
        }
        time::sleep(CGROUP_POLL).await;
    }
}

/// An end that nobody reaped, now.
fn exit(code: i32, reason: ExitReason, message: String) -> Exit {
    Exit { code, reason, at: SystemTime::now().into(), message }
}
