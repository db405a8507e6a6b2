//! The states of a pod, and what belongs to it in each.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::order::Ticket;
use crate::{
    cgroup,
    model::{PodConfig, PodId, UnixNanos},
    network::Attachment,
    pod::error::{Error, Refusal},
};

/// What a pod is for its whole life.
#[derive(Clone, Debug)]
pub(in crate::pod) struct PodFacts {
    pub(in crate::pod) id: PodId,
    pub(in crate::pod) config: Arc<PodConfig>,
    pub(in crate::pod) created_at: UnixNanos,
    /// `None`: it has none yet, or the machine was restarted since.
    pub(in crate::pod) cgroup: Option<cgroup::Handle>,
}

/// What a pod can do, as its record says it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(in crate::pod) enum PodPhase {
    /// Being made. Nobody knows its id yet.
    Starting,
    /// Its supervisor holds its namespaces, its network is up, and containers may be made.
    Ready,
    /// To be torn down, or being torn down. Takes no new containers and is shown as not ready.
    Stopping,
    /// Nothing is left of it but what is shown.
    NotReady,
}

/// What can happen to a pod.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum PodInput {
    /// All of it is there.
    Started,
    /// A container is to be made or started in it.
    Use,
    /// StopPodSandbox, or RemovePodSandbox of a pod that was not stopped.
    Stop,
    /// Its supervisor is gone, and with it the namespaces.
    SupervisorEnded,
    /// Processes, network and cgroup are gone.
    TornDown,
}

impl PodPhase {
    /// The whole policy.
    pub(super) fn step(self, input: PodInput) -> Result<Self, Refusal> {
        use PodInput::{Started, Stop, SupervisorEnded, TornDown, Use};
        use PodPhase::{NotReady, Ready, Starting, Stopping};
        let refuse = |wanted| Err(Refusal { state: self.as_str(), wanted });
        match (self, input) {
            (Starting, Started) | (Ready, Use) => Ok(Ready),
            (Starting | Ready | Stopping, Stop | SupervisorEnded) => Ok(Stopping),
            (Stopping | NotReady, TornDown) | (NotReady, Stop | SupervisorEnded) => Ok(NotReady),
            (Starting | Stopping | NotReady, Use) => refuse("it must be ready"),
            (Ready | Stopping | NotReady, Started) => refuse("a pod starts once"),
            (Starting | Ready, TornDown) => refuse("it must be stopping"),
        }
    }

    pub(in crate::pod) fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "being made",
            Self::Ready => "ready",
            Self::Stopping => "being stopped",
            Self::NotReady => "not ready",
        }
    }
}

/// The way to the supervisor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Link {
    Up {
        pid: u32,
    },
    /// It may live; we are trying to reach it.
    Lost {
        pid: u32,
    },
    /// The process is gone.
    Gone,
}

impl Link {
    /// Host pid of the supervisor, while there is one.
    pub(super) fn pid(self) -> Option<u32> {
        match self {
            Self::Up { pid } | Self::Lost { pid } => Some(pid),
            Self::Gone => None,
        }
    }
}

/// The state of a pod, with what only that state has.
#[derive(Debug)]
pub(super) enum PodState {
    Starting {
        waiting: Vec<Ticket>,
    },
    /// All of it is there; the record that says so is being written.
    Made {
        waiting: Vec<Ticket>,
        attachment: Option<Attachment>,
        link: Link,
    },
    /// It could not be made, for this reason; what there is of it is being taken away.
    Undoing {
        waiting: Vec<Ticket>,
        error: Error,
    },
    Ready {
        attachment: Option<Attachment>,
        link: Link,
    },
    Stopping(Stopping),
    NotReady(PodRemoval),
    /// Removed, or never made.
    Gone,
}

/// A pod whose end has begun.
#[derive(Debug)]
pub(super) struct Stopping {
    pub(super) attachment: Option<Attachment>,
    pub(super) link: Link,
    pub(super) tear_down: TearDown,
    pub(super) failed_releases: u32,
    pub(super) stops: Vec<Ticket>,
    pub(super) removes: Vec<Ticket>,
}

/// Where the end of a stopping pod stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum TearDown {
    /// The last try failed and nobody has asked since.
    Idle,
    /// Asked for; its containers are ending.
    Wanted,
    Running,
}

/// Whether a pod that is not ready is being removed.
#[derive(Debug)]
pub(super) enum PodRemoval {
    No,
    /// Its containers are being erased.
    Wanted(Vec<Ticket>),
    Erasing(Vec<Ticket>),
}

impl Stopping {
    pub(super) fn new(attachment: Option<Attachment>, link: Link) -> Self {
        Self {
            attachment,
            link,
            tear_down: TearDown::Idle,
            failed_releases: 0,
            stops: Vec::new(),
            removes: Vec::new(),
        }
    }
}

impl PodRemoval {
    /// For these, if there are any.
    pub(super) fn of(waiting: Vec<Ticket>) -> Self {
        if waiting.is_empty() { Self::No } else { Self::Wanted(waiting) }
    }

    pub(super) fn join(&mut self, ticket: Ticket) {
        match self {
            Self::No => *self = Self::Wanted(vec![ticket]),
            Self::Wanted(waiting) | Self::Erasing(waiting) => waiting.push(ticket),
        }
    }

    pub(super) fn begin_erase(&mut self) {
        if let Self::Wanted(waiting) = self {
            *self = Self::Erasing(std::mem::take(waiting));
        }
    }

    /// It is over, one way or the other: who waited for it.
    pub(super) fn end(&mut self) -> Vec<Ticket> {
        match std::mem::replace(self, Self::No) {
            Self::No => Vec::new(),
            Self::Wanted(waiting) | Self::Erasing(waiting) => waiting,
        }
    }
}

impl PodState {
    /// `None`: there is no such pod, or none any more.
    pub(super) fn phase(&self) -> Option<PodPhase> {
        match self {
            Self::Starting { .. } | Self::Made { .. } => Some(PodPhase::Starting),
            Self::Ready { .. } => Some(PodPhase::Ready),
            Self::Stopping(_) => Some(PodPhase::Stopping),
            Self::NotReady(_) => Some(PodPhase::NotReady),
            Self::Undoing { .. } | Self::Gone => None,
        }
    }

    pub(super) fn link(&self) -> Link {
        match self {
            Self::Made { link, .. } | Self::Ready { link, .. } => *link,
            Self::Stopping(stopping) => stopping.link,
            Self::Starting { .. } | Self::Undoing { .. } | Self::NotReady(_) | Self::Gone => Link::Gone,
        }
    }

    /// Where there is a way to a supervisor at all.
    pub(super) fn link_mut(&mut self) -> Option<&mut Link> {
        match self {
            Self::Made { link, .. } | Self::Ready { link, .. } => Some(link),
            Self::Stopping(stopping) => Some(&mut stopping.link),
            Self::Starting { .. } | Self::Undoing { .. } | Self::NotReady(_) | Self::Gone => None,
        }
    }

    pub(super) fn attachment(&self) -> Option<&Attachment> {
        match self {
            Self::Made { attachment, .. } | Self::Ready { attachment, .. } => attachment.as_ref(),
            Self::Stopping(stopping) => stopping.attachment.as_ref(),
            Self::Starting { .. } | Self::Undoing { .. } | Self::NotReady(_) | Self::Gone => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_pod_table_is_this_one() {
        use PodInput::*;
        use PodPhase::*;
        let table = [
            (Starting, [Some(Ready), None, Some(Stopping), Some(Stopping), None]),
            (Ready, [None, Some(Ready), Some(Stopping), Some(Stopping), None]),
            (Stopping, [None, None, Some(Stopping), Some(Stopping), Some(NotReady)]),
            (NotReady, [None, None, Some(NotReady), Some(NotReady), Some(NotReady)]),
        ];
        for (state, expected) in table {
            for (input, expected) in [Started, Use, Stop, SupervisorEnded, TornDown].into_iter().zip(expected)
            {
                assert_eq!(state.step(input).ok(), expected, "{state:?} {input:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_pod_is_never_ready_again(inputs in prop::collection::vec(0usize..5, 0..40)) {
            let all = [PodInput::Started, PodInput::Use, PodInput::Stop, PodInput::SupervisorEnded, PodInput::TornDown];
            let mut state = PodPhase::Starting;
            let mut stopped = false;
            for input in inputs {
                let Ok(next) = state.step(all[input]) else { continue };
                stopped |= next == PodPhase::Stopping;
                prop_assert!(!(stopped && next == PodPhase::Ready));
                prop_assert!(next != PodPhase::NotReady || stopped);
                state = next;
            }
        }
    }
}
