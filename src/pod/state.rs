//! The rules of a pod's and a container's life. Pure: no clock, no disk, no lock.
//!
//! ```text
//! pod        Starting ──Started──► Ready ──Stop, SupervisorEnded──► Stopping ──TornDown──► NotReady
//! container  Created ──Started──► Running ──Exited──► Exited
//!               └──────────Exited, StartFailed──────────┘
//! ```
//! A pod that is still Starting at a start of the daemon is undone, never finished. Half-made containers have
//! no state: they are an intent on disk and a line in the driver.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::view::ContainerState;
use crate::model::{Exit, UnixNanos};

/// What a pod can do.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) enum PodState {
    /// Being made. Nobody has been told its id.
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

/// Why an input is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Refusal {
    /// What it is.
    pub(super) state: &'static str,
    /// What the caller could have known.
    pub(super) wanted: &'static str,
}

impl PodState {
    /// The whole policy.
    pub(super) fn step(self, input: PodInput) -> Result<Self, Refusal> {
        use PodInput::{Started, Stop, SupervisorEnded, TornDown, Use};
        use PodState::{NotReady, Ready, Starting, Stopping};
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

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "being made",
            Self::Ready => "ready",
            Self::Stopping => "being stopped",
            Self::NotReady => "not ready",
        }
    }
}

/// What can happen to a container.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Input {
    /// StartContainer.
    Start,
    /// UpdateContainerResources.
    Update,
    /// Its execve worked.
    Started(UnixNanos),
    /// It never ran.
    StartFailed(Exit),
    /// Its init was reaped.
    Exited(Exit),
}

impl ContainerState {
    /// The whole policy.
    pub(super) fn step(self, input: Input) -> Result<Self, Refusal> {
        use ContainerState::{Created, Exited, Running};
        let refuse = |state, wanted| Err(Refusal { state, wanted });
        match (self, input) {
            (Created { pid }, Input::Start) => Ok(Created { pid }),
            (Running { .. }, Input::Start) => refuse("running", "a container starts once"),
            (Exited { .. }, Input::Start) => refuse("exited", "a container starts once"),

            (state @ (Created { .. } | Running { .. }), Input::Update) => Ok(state),
            (Exited { .. }, Input::Update) => refuse("exited", "its limits cannot be changed any more"),

            (Created { pid }, Input::Started(at)) => Ok(Running { pid, started_at: at }),
            // A container may end before the answer to its start has been read.
            (Exited { started_at: None, exit }, Input::Started(at)) => {
                Ok(Exited { started_at: Some(at), exit })
            }
            (state @ (Running { .. } | Exited { started_at: Some(_), .. }), Input::Started(_)) => Ok(state),

            // Why it could not start says more than the exit code of the half-made init.
            (Created { .. } | Exited { started_at: None, .. }, Input::StartFailed(exit)) => {
                Ok(Exited { started_at: None, exit })
            }
            (Running { .. }, Input::StartFailed(_)) => refuse("running", "its start cannot fail any more"),
            (state @ Exited { started_at: Some(_), .. }, Input::StartFailed(_)) => Ok(state),

            (Created { .. }, Input::Exited(exit)) => Ok(Exited { started_at: None, exit }),
            (Running { started_at, .. }, Input::Exited(exit)) => {
                Ok(Exited { started_at: Some(started_at), exit })
            }
            // The supervisor repeats an exit until it is acknowledged.
            (state @ Exited { .. }, Input::Exited(_)) => Ok(state),
        }
    }

    /// Whether its init has ended.
    pub(crate) fn is_exited(&self) -> bool {
        match self {
            Self::Created { .. } | Self::Running { .. } => false,
            Self::Exited { .. } => true,
        }
    }

    /// Host pid of its init, while there is one.
    pub(super) fn pid(&self) -> Option<u32> {
        match self {
            Self::Created { pid } | Self::Running { pid, .. } => Some(*pid),
            Self::Exited { .. } => None,
        }
    }
}

/// When a container that is being stopped will be killed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct KillAt(Instant);

impl KillAt {
    pub(super) fn after(now: Instant, grace: Duration) -> Self {
        // A grace that no clock can hold is one nobody will see the end of.
        Self(now.checked_add(grace).unwrap_or(now + GRACE_MAX))
    }

    /// A further stop: a shorter grace counts, a longer one changes nothing. `true` if it was shortened.
    pub(super) fn again(&mut self, now: Instant, grace: Duration) -> bool {
        let other = Self::after(now, grace);
        let shorter = other.0 < self.0;
        if shorter {
            *self = other;
        }
        shorter
    }

    pub(super) fn instant(self) -> Instant {
        self.0
    }
}

/// A century.
const GRACE_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::ExitReason;

    fn exit(code: i32) -> Exit {
        Exit { code, reason: ExitReason::Error, at: UnixNanos(9), message: String::new() }
    }

    #[test]
    fn the_pod_table_is_this_one() {
        use PodInput::*;
        use PodState::*;
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

    #[test]
    fn the_container_table_is_this_one() {
        use ContainerState::*;
        let at = UnixNanos(5);
        let (created, running) = (Created { pid: 7 }, Running { pid: 7, started_at: UnixNanos(3) });
        let unstarted = Exited { started_at: None, exit: exit(1) };
        let ended = Exited { started_at: Some(UnixNanos(3)), exit: exit(1) };
        let failed = Exited { started_at: None, exit: exit(128) };
        let inputs =
            [Input::Start, Input::Started(at), Input::StartFailed(exit(128)), Input::Exited(exit(2))];
        let table = [
            (
                created.clone(),
                [
                    Some(created),
                    Some(Running { pid: 7, started_at: at }),
                    Some(failed.clone()),
                    Some(Exited { started_at: None, exit: exit(2) }),
                ],
            ),
            (
                running.clone(),
                [None, Some(running), None, Some(Exited { started_at: Some(UnixNanos(3)), exit: exit(2) })],
            ),
            (
                unstarted.clone(),
                [None, Some(Exited { started_at: Some(at), exit: exit(1) }), Some(failed), Some(unstarted)],
            ),
            (ended.clone(), [None, Some(ended.clone()), Some(ended.clone()), Some(ended)]),
        ];
        for (state, expected) in table {
            for (input, expected) in inputs.iter().cloned().zip(expected) {
                assert_eq!(state.clone().step(input.clone()).ok(), expected, "{state:?} {input:?}");
            }
        }
    }

    fn any_input() -> impl Strategy<Value = Input> {
        prop_oneof![
            Just(Input::Start),
            (1i64..100).prop_map(|at| Input::Started(UnixNanos(at))),
            Just(Input::StartFailed(exit(128))),
            (0i32..4).prop_map(|code| Input::Exited(exit(code))),
        ]
    }

    proptest! {
        #[test]
        fn an_exit_is_final_and_a_start_time_never_changes(inputs in prop::collection::vec(any_input(), 0..40)) {
            let mut state = ContainerState::Created { pid: 7 };
            let mut started = None;
            let mut exited = false;
            for input in inputs {
                let Ok(next) = state.clone().step(input) else { continue };
                let now_started = match &next {
                    ContainerState::Created { .. } => None,
                    ContainerState::Running { started_at, .. } => Some(*started_at),
                    ContainerState::Exited { started_at, .. } => *started_at,
                };
                prop_assert!(started.is_none() || now_started == started);
                prop_assert!(!exited || next.is_exited());
                if started.is_some() && exited {
                    prop_assert_eq!(&next, &state);
                }
                started = now_started;
                exited = next.is_exited();
                state = next;
            }
        }

        #[test]
        fn a_pod_is_never_ready_again(inputs in prop::collection::vec(0usize..5, 0..40)) {
            let all = [PodInput::Started, PodInput::Use, PodInput::Stop, PodInput::SupervisorEnded, PodInput::TornDown];
            let mut state = PodState::Starting;
            let mut stopped = false;
            for input in inputs {
                let Ok(next) = state.step(all[input]) else { continue };
                stopped |= next == PodState::Stopping;
                prop_assert!(!(stopped && next == PodState::Ready));
                prop_assert!(next != PodState::NotReady || stopped);
                state = next;
            }
        }

        #[test]
        fn the_moment_of_the_kill_only_comes_nearer(calls in prop::collection::vec((0u64..1000, 0u64..1000), 1..20)) {
            let start = Instant::now();
            let mut kill = KillAt::after(start, Duration::from_secs(500));
            let mut earliest = Duration::from_secs(500);
            for (at, grace) in calls {
                let before = kill;
                let due = Duration::from_secs(at + grace);
                let shortened = kill.again(start + Duration::from_secs(at), Duration::from_secs(grace));
                prop_assert_eq!(shortened, due < earliest);
                earliest = earliest.min(due);
                prop_assert_eq!(kill.instant(), start + earliest);
                prop_assert!(kill.instant() <= before.instant());
            }
        }
    }

    #[test]
    fn an_endless_grace_is_no_panic() {
        KillAt::after(Instant::now(), Duration::MAX);
    }
}
