//! What is asked of a supervisor, and how one is reached again.

use std::{sync::Arc, time::Duration};

use rustix::process::Pid;
use tokio::time;
use tracing::warn;

use super::{super::pod::Pod, Report};
use crate::{
    model::{ContainerId, Failure, Stage},
    pod::{keep::blocking, life::Outcome},
    supervisor::{Client, ContainerFacts},
    sys::descriptors,
};

/// Descriptors of a connection to a supervisor: its socket, its process, and a file that is open only while connecting.
const DESCRIPTORS_PER_CONNECT: u64 = 3;

/// Between two tries to reach a supervisor: short at first, then often enough to be seen as soon.
const REACH_PAUSE_MIN: Duration = Duration::from_millis(20);
const REACH_PAUSE_MAX: Duration = Duration::from_secs(5);

pub(super) async fn start(pod: Arc<Pod>, client: Option<Client>, id: ContainerId) -> Report {
    let result = match client {
        Some(client) => client.start(&id).await,
        None => Err(Failure::new(Stage::Connection, format!("of pod {}", pod.id), "")),
    };
    crate::failpoint!("container.started");
    Report::Outcome(Outcome::Started(id, result, std::time::SystemTime::now().into()))
}

pub(super) async fn acknowledge(client: Option<Client>, id: ContainerId) -> Report {
    if let Some(client) = client {
        // If this is lost, the exit is repeated on the next connection.
        let _acknowledged = client.acknowledge(&id).await;
        crate::failpoint!("container.exit-acknowledged");
    }
    Report::Nothing
}

/// A container that no record knows: a create that was undone while its supervisor could not be reached.
pub(super) async fn disown(client: Option<Client>, id: ContainerId) -> Report {
    if let Some(client) = client
        && let Err(error) = client.remove(&id).await
    {
        warn!(container = %id, %error, "could not remove a container that no record knows");
    }
    Report::Nothing
}

/// One try to reach the supervisor of an earlier daemon.
pub(super) async fn try_once(pod: Arc<Pod>, pid: u32) -> Report {
    match connect(&pod).await {
        Ok((client, facts)) => reached(client, facts),
        Err(failure) if certainly_gone(&pod, &failure, pid).await => Report::SupervisorEnded,
        Err(failure) => {
            warn!(pod = %pod.id, error = %failure, "the supervisor does not answer yet");
            Report::Outcome(Outcome::Silent)
        }
    }
}

/// Tries until the supervisor answers or is certainly gone. With `lost` its end is seen at once.
pub(super) async fn keep_trying(pod: Arc<Pod>, lost: Option<Client>, pid: u32) -> Report {
    let ended = async {
        match &lost {
            Some(client) => client.ended().await,
            None => std::future::pending().await,
        }
    };
    let reach = async {
        let mut pause = REACH_PAUSE_MIN;
        loop {
            match connect(&pod).await {
                Ok((client, facts)) => return reached(client, facts),
                Err(failure) if certainly_gone(&pod, &failure, pid).await => return Report::SupervisorEnded,
                Err(_) => {}
            }
            time::sleep(pause).await;
            pause = (pause * 2).min(REACH_PAUSE_MAX);
        }
    };
    tokio::select! {
        () = ended => Report::SupervisorEnded,
        report = reach => report,
    }
}

/// A connection is for as long as the pod lives, so it does not take the last descriptors: those are for ending pods,
/// which needs no supervisor, and gives descriptors back.
async fn connect(pod: &Pod) -> Result<(Client, Vec<ContainerFacts>), Failure> {
    descriptors::has_room_for(DESCRIPTORS_PER_CONNECT).map_err(|(open, limit)| {
        let text = format!("{open} of {limit} files open, those that are left are kept for ending pods");
        Failure::new(Stage::Limit, format!("connection to the supervisor of pod {}", pod.id), text)
    })?;
    Client::connect(&pod.id, &pod.folder).await
}

fn reached(client: Client, facts: Vec<ContainerFacts>) -> Report {
    let pid = client.pid();
    Report::Connected(client, Outcome::Reached(facts, pid))
}

/// Whether a failed connection means that the process is gone. On any doubt it is not: a stopped or a busy
/// supervisor still holds its containers.
async fn certainly_gone(pod: &Arc<Pod>, failure: &Failure, pid: u32) -> bool {
    use rustix::io::Errno;
    // Numbers, because the failure came from another process and may hold any: `Errno` takes no others than its own.
    if [Errno::CONNREFUSED, Errno::NOENT, Errno::SRCH].map(Errno::raw_os_error).contains(&failure.errno) {
        return true;
    }
    let alive = i32::try_from(pid).ok().and_then(Pid::from_raw).map(rustix::process::test_kill_process);
    if alive == Some(Err(Errno::SRCH)) {
        return true;
    }
    let Some(handle) = pod.cgroup.clone() else { return false };
    matches!(blocking(move || Ok(handle.populated())).await, Ok(Ok(false)))
}
