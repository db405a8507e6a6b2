//! What the log says of a pod's life.

use tracing::{debug, error, info, warn};

use super::pod::Pod;
use crate::{
    model::PodId,
    pod::{
        error::chain,
        life::{Change, Event, Input, Notice, Outcome},
        view::ContainerState,
    },
};

/// A failure: for the log, unless a caller is answered with it. That is logged where it leaves the program, once.
macro_rules! failed {
    ($answered:expr, $($line:tt)*) => {
        if $answered { debug!($($line)*) } else { warn!($($line)*) }
    };
}

/// `answered`: callers wait for what comes of it.
pub(super) fn input(pod: &PodId, input: &Input, answered: bool) {
    let Input::Done(outcome) = input else { return };
    match outcome {
        Outcome::Reached(..) => info!(%pod, "reached the supervisor"),
        Outcome::Started(container, Err(failure), _) => {
            failed!(answered, %pod, %container, error = %failure, "container did not start");
        }
        Outcome::Erased(container, Err(error)) => {
            failed!(answered, %pod, %container, error = %chain(error), "removal failed");
        }
        Outcome::TornDown(Err(failure)) => {
            failed!(answered, %pod, error = %chain(&failure.error), "stop of the pod failed");
        }
        Outcome::PodErased(Err(error)) => {
            failed!(answered, %pod, error = %chain(error), "removal of the pod failed");
        }
        Outcome::PodMade(Err(error)) => {
            failed!(answered, %pod, error = %chain(error), "pod could not be made");
        }
        Outcome::EndsFound(ends) => {
            let alive = ends.iter().filter(|(_, end)| end.is_none()).count();
            warn!(%pod, containers = ends.len(), alive, "containers without a supervisor were killed");
        }
        Outcome::PodMade(Ok(_))
        | Outcome::PodUndone
        | Outcome::Silent
        | Outcome::Turn(..)
        | Outcome::Made(..)
        | Outcome::Unmade(_)
        | Outcome::Started(_, Ok(_), _)
        | Outcome::KillChecked(..)
        | Outcome::Limited(..)
        | Outcome::PodLimited(_)
        | Outcome::TakenBack(_)
        | Outcome::Erased(_, Ok(()))
        | Outcome::TornDown(Ok(()))
        | Outcome::PodErased(Ok(())) => {}
    }
}

pub(super) fn event(pod: &Pod, event: &Event) {
    let Pod { id, config, .. } = pod;
    let name = &config.metadata;
    let Some(container) = &event.container else {
        return match event.change {
            Change::Created => {}
            Change::Started => info!(pod = %id, name = name.name, namespace = name.namespace, "pod ready"),
            Change::Stopped => info!(pod = %id, "pod stopped"),
            Change::Deleted => info!(pod = %id, "pod removed"),
        };
    };
    match event.change {
        Change::Created => info!(pod = %id, %container, "container created"),
        Change::Started => info!(pod = %id, %container, "container started"),
        Change::Stopped => {
            let view = event.pod.containers.iter().find(|view| view.id == *container);
            if let Some(ContainerState::Exited { exit, .. }) = view.map(|view| &view.state) {
                info!(pod = %id, %container, code = exit.code, reason = exit.reason.as_str(), "container exited");
            }
        }
        Change::Deleted => info!(pod = %id, %container, "container removed"),
    }
}

pub(super) fn notice(pod: &PodId, notice: &Notice) {
    match notice {
        Notice::Undying { id, pid } => error!(%pod, container = %id, pid, "container does not die"),
        Notice::Impossible { id, state } => warn!(%pod, container = %id, state, "impossible report"),
        Notice::UnknownExit(id) => info!(%pod, container = %id, "exit of a container that was undone"),
        Notice::Limited(Some(id)) => info!(%pod, container = %id, "limits changed"),
        Notice::Limited(None) => info!(%pod, "limits of the pod changed"),
    }
}
