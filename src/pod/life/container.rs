//! The states of a container, with who waits for what in each.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    announce::Change,
    limits::Changes,
    order::{Init, RecordReason, Ticket},
    pod::Link,
    stop::Ending,
};
use crate::{
    model::{ContainerConfig, ContainerId, Exit, Resources, UnixNanos},
    pod::{
        error::Refusal,
        view::{ContainerState, ContainerView},
    },
};

/// What can happen to a container.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum ContainerInput {
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
    pub(super) fn step(self, input: ContainerInput) -> Result<Self, Refusal> {
        use ContainerInput as Input;
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
    pub(in crate::pod) fn pid(&self) -> Option<u32> {
        match self {
            Self::Created { pid } | Self::Running { pid, .. } => Some(*pid),
            Self::Exited { .. } => None,
        }
    }
}

/// A container that is being made, or taken away before anybody knew of it.
#[derive(Debug)]
pub(super) struct PendingContainer {
    pub(super) id: ContainerId,
    pub(super) state: PendingState,
}

/// How far it is.
#[derive(Debug)]
pub(super) enum PendingState {
    /// It waits for its turn; nothing of it has been made.
    Queued(Request),
    Making(Request),
    /// Made; the record that says so is being written.
    Made(Request, Box<ContainerView>),
    Undoing,
    /// An earlier daemon left it half-made. To be undone when it is known how to reach its supervisor.
    Leftover,
}

/// What was asked for, and who waits for it.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub(super) config: Arc<ContainerConfig>,
    pub(super) waiting: Vec<Ticket>,
    /// It ended before the answer to its create was read.
    pub(super) ended: Option<Exit>,
}

impl PendingContainer {
    /// `None`: it holds no name.
    pub(super) fn request(&mut self) -> Option<&mut Request> {
        match &mut self.state {
            PendingState::Queued(request)
            | PendingState::Making(request)
            | PendingState::Made(request, _) => Some(request),
            PendingState::Undoing | PendingState::Leftover => None,
        }
    }
}

/// A container that is there.
#[derive(Debug)]
pub(super) struct Container {
    /// As readers are to see it: `life` and what does not change.
    shown: Arc<ContainerView>,
    life: Life,
    /// Its record is older than it: a write for this reason failed.
    pub(super) unwritten: Option<RecordReason>,
    pub(super) limits: Changes<Resources>,
    /// What was announced of it last.
    pub(super) announced: Change,
}

/// The state of a container, with who waits for what in it.
#[derive(Debug)]
pub(super) enum Life {
    Created {
        pid: u32,
        start: Option<Start>,
        /// A start was asked of its supervisor and no answer is known: it may be running.
        asked: bool,
        ending: Option<Ending>,
    },
    Running {
        pid: u32,
        started_at: UnixNanos,
        ending: Option<Ending>,
    },
    Exited {
        started_at: Option<UnixNanos>,
        exit: Exit,
        /// Its end was reported before the answer to its start.
        start: Option<Start>,
        /// It is being erased for these.
        erasing: Option<Vec<Ticket>>,
    },
}

/// A start on the way.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) waiting: Vec<Ticket>,
}

/// Those who have waited for the end of a container.
#[derive(Debug, Default)]
pub(super) struct Released {
    pub(super) stops: Vec<Ticket>,
    /// `Some`: it is to be erased now.
    pub(super) removes: Option<Vec<Ticket>>,
}

/// What a recovered container is, besides what is shown of it.
#[derive(Debug)]
pub(in crate::pod) struct Remembered {
    pub(in crate::pod) view: ContainerView,
    /// A start was asked of its supervisor, and its answer is not recorded.
    pub(in crate::pod) starting: bool,
    /// Its end was not announced.
    pub(in crate::pod) unheard_end: bool,
}

impl Life {
    fn of(state: &ContainerState) -> Self {
        match state.clone() {
            ContainerState::Created { pid } => Self::Created { pid, start: None, asked: false, ending: None },
            ContainerState::Running { pid, started_at } => Self::Running { pid, started_at, ending: None },
            ContainerState::Exited { started_at, exit } => {
                Self::Exited { started_at, exit, start: None, erasing: None }
            }
        }
    }

    fn state(&self) -> ContainerState {
        match self {
            Self::Created { pid, .. } => ContainerState::Created { pid: *pid },
            Self::Running { pid, started_at, .. } => {
                ContainerState::Running { pid: *pid, started_at: *started_at }
            }
            Self::Exited { started_at, exit, .. } => {
                ContainerState::Exited { started_at: *started_at, exit: exit.clone() }
            }
        }
    }

    /// The same life in its next state; who waited for an end is released by it.
    fn into_state(self, next: ContainerState) -> (Self, Released) {
        let (start, ending, erasing) = match self {
            Self::Created { start, ending, .. } => (start, ending, None),
            Self::Running { ending, .. } => (None, ending, None),
            Self::Exited { start, erasing, .. } => (start, None, erasing),
        };
        match next {
            ContainerState::Created { pid } => {
                (Self::Created { pid, start, asked: false, ending }, Released::default())
            }
            ContainerState::Running { pid, started_at } => {
                (Self::Running { pid, started_at, ending }, Released::default())
            }
            ContainerState::Exited { started_at, exit } => {
                let released = ending.map_or_else(Released::default, |ending| Released {
                    stops: ending.stops,
                    removes: ending.removes,
                });
                (Self::Exited { started_at, exit, start, erasing }, released)
            }
        }
    }
}

impl Container {
    pub(super) fn new(view: ContainerView) -> Self {
        Self {
            life: Life::of(&view.state),
            announced: Change::reached(&view.state),
            shown: Arc::new(view),
            unwritten: None,
            limits: Changes::default(),
        }
    }

    /// One of an earlier daemon.
    pub(super) fn recovered(found: Remembered) -> Self {
        let mut container = Self::new(found.view);
        if found.unheard_end {
            container.announced = Change::Created;
        }
        if let Life::Created { asked, .. } = &mut container.life {
            *asked = found.starting;
        }
        container
    }

    pub(super) fn id(&self) -> &ContainerId {
        &self.shown.id
    }

    pub(super) fn shown(&self) -> &Arc<ContainerView> {
        &self.shown
    }

    pub(super) fn is_exited(&self) -> bool {
        self.shown.state.is_exited()
    }

    /// For errors.
    pub(super) fn object(&self) -> String {
        format!("container {}", self.shown.id)
    }

    /// Decides what follows from `input`. `None`: nothing changes.
    ///
    /// # Errors
    /// What the policy refuses.
    pub(super) fn change(&mut self, input: ContainerInput) -> Result<Option<Released>, Refusal> {
        let next = self.life.state().step(input)?;
        if next == self.shown.state {
            return Ok(None);
        }
        let placeholder = Life::of(&next);
        let (life, released) = std::mem::replace(&mut self.life, placeholder).into_state(next);
        self.life = life;
        self.shown =
            Arc::new(ContainerView { state: self.life.state(), ..ContainerView::clone(&self.shown) });
        Ok(Some(released))
    }

    pub(super) fn set_resources(&mut self, resources: Resources) {
        self.shown = Arc::new(ContainerView { resources, ..ContainerView::clone(&self.shown) });
    }

    // ---- its start ----

    /// The start that is on the way.
    pub(super) fn start_mut(&mut self) -> Option<&mut Start> {
        match &mut self.life {
            Life::Created { start, .. } | Life::Exited { start, .. } => start.as_mut(),
            Life::Running { .. } => None,
        }
    }

    pub(super) fn is_starting(&self) -> bool {
        match &self.life {
            Life::Created { start, .. } | Life::Exited { start, .. } => start.is_some(),
            Life::Running { .. } => false,
        }
    }

    /// # Errors
    /// When it cannot be started.
    pub(super) fn may_start(&self) -> Result<(), Refusal> {
        self.shown.state.clone().step(ContainerInput::Start)?;
        match &self.life {
            Life::Created { ending: None, .. } => Ok(()),
            Life::Created { .. } | Life::Running { .. } | Life::Exited { .. } => {
                Err(Refusal { state: "being stopped", wanted: "it cannot be started" })
            }
        }
    }

    pub(super) fn begin_start(&mut self, ticket: Ticket) {
        if let Life::Created { start, asked, .. } = &mut self.life {
            *asked = true;
            start.get_or_insert_with(|| Start { waiting: Vec::new() }).waiting.push(ticket);
        }
    }

    /// A start was asked of its supervisor, and nobody knows what came of it.
    pub(super) fn may_have_started(&self) -> bool {
        matches!(self.life, Life::Created { asked: true, .. })
    }

    /// It is certain that it was not started.
    pub(super) fn has_not_started(&mut self) {
        if let Life::Created { asked, .. } = &mut self.life {
            *asked = false;
        }
    }

    /// The start is over: who waited for it.
    pub(super) fn end_start(&mut self) -> Vec<Ticket> {
        match &mut self.life {
            Life::Created { start, .. } | Life::Exited { start, .. } => {
                start.take().map_or_else(Vec::new, |start| start.waiting)
            }
            Life::Running { .. } => Vec::new(),
        }
    }

    // ---- its end ----

    /// `None`: it has ended, or nobody wants it to.
    pub(super) fn ending_mut(&mut self) -> Option<&mut Ending> {
        match &mut self.life {
            Life::Created { ending, .. } | Life::Running { ending, .. } => ending.as_mut(),
            Life::Exited { .. } => None,
        }
    }

    pub(super) fn ending(&self) -> Option<&Ending> {
        match &self.life {
            Life::Created { ending, .. } | Life::Running { ending, .. } => ending.as_ref(),
            Life::Exited { .. } => None,
        }
    }

    /// A stop. `true`: it is the first, so the stop signal is due if there is a grace.
    pub(super) fn stop(&mut self, ticket: Ticket, now: Instant, grace: Duration) -> bool {
        let (Life::Created { ending, .. } | Life::Running { ending, .. }) = &mut self.life else {
            return false;
        };
        let fresh = ending.is_none();
        let ending = ending.get_or_insert_with(|| Ending::after(now, grace));
        ending.again(now, grace);
        ending.stops.push(ticket);
        fresh
    }

    /// The grace that it has any use for.
    pub(super) fn usable_grace(&self, asked: Duration) -> Duration {
        match &self.life {
            // It has no workload that could use the time.
            Life::Created { asked: false, .. } => Duration::ZERO,
            Life::Created { asked: true, .. } | Life::Running { .. } | Life::Exited { .. } => asked,
        }
    }

    /// Begins to kill it, once. `true`: a first round is due.
    pub(super) fn kill(&mut self, now: Instant) -> bool {
        let (Life::Created { ending, .. } | Life::Running { ending, .. }) = &mut self.life else {
            return false;
        };
        ending.get_or_insert_with(|| Ending::after(now, Duration::ZERO)).begin()
    }

    /// Nobody answers for it any more: its end is to be searched for. `false`: that is going on already.
    pub(super) fn search_end(&mut self, now: Instant) -> bool {
        let (Life::Created { ending, .. } | Life::Running { ending, .. }) = &mut self.life else {
            return false;
        };
        ending.get_or_insert_with(|| Ending::after(now, Duration::ZERO)).search()
    }

    /// How the daemon finds its init itself. With the supervisor gone it may have been reaped.
    pub(super) fn init(&self, link: Link) -> Option<Init> {
        Some(Init { pid: self.shown.state.pid()?, parent: link.pid()? })
    }

    // ---- its removal ----

    pub(super) fn is_being_removed(&self) -> bool {
        match &self.life {
            Life::Created { ending, .. } | Life::Running { ending, .. } => {
                ending.as_ref().is_some_and(|ending| ending.removes.is_some())
            }
            Life::Exited { erasing, .. } => erasing.is_some(),
        }
    }

    /// Begins to erase it, for these. `false`: that is going on already, or it has not ended.
    pub(super) fn begin_erase(&mut self, tickets: Vec<Ticket>) -> bool {
        match &mut self.life {
            Life::Exited { erasing: Some(waiting), .. } => {
                waiting.extend(tickets);
                false
            }
            Life::Exited { erasing, .. } => {
                *erasing = Some(tickets);
                true
            }
            Life::Created { .. } | Life::Running { .. } => false,
        }
    }

    /// The erasing is over: who waited for it.
    pub(super) fn end_erase(&mut self) -> Vec<Ticket> {
        match &mut self.life {
            Life::Exited { erasing, .. } => erasing.take().unwrap_or_default(),
            Life::Created { .. } | Life::Running { .. } => Vec::new(),
        }
    }

    /// Everybody who waits for anything of it.
    pub(super) fn take_all_waiting(&mut self) -> Vec<Ticket> {
        let mut all = self.end_start();
        all.extend(self.end_erase());
        all.extend(self.ending_mut().map(Ending::take_waiting).unwrap_or_default());
        all.extend(self.limits.take_all());
        all
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{ContainerInput as Input, *};
    use crate::model::ExitReason;

    fn exit(code: i32) -> Exit {
        Exit { code, reason: ExitReason::Error, at: UnixNanos(9), message: String::new() }
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
    }
}
