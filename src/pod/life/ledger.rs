//! The ledger of one pod: what is true of it and its containers, who waits for what, and what is to be done.
//!
//! This file takes the inputs apart. What is decided for the pod as a whole is in `sandbox.rs`, for one of its
//! containers in `containers.rs`, `stop.rs` and `limits.rs`.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    container::{Container, PendingContainer, PendingState, Remembered},
    limits::Changes,
    order::{Answer, Call, Input, Order, Outcome, PodRecordReason, Ticket, Work, Write, Written},
    pod::{Link, PodFacts, PodInput, PodPhase, PodRemoval, PodState, Stopping, TearDown},
};
use crate::{
    model::{ContainerId, Failure, PodLimits, Stage},
    network::Attachment,
    pod::{error::Error, view::PodView},
};

/// The ledger of one pod. See the module.
#[derive(Debug)]
pub(in crate::pod) struct Ledger {
    pub(super) pod: PodFacts,
    pub(super) state: PodState,
    pub(super) limits: PodLimits,
    pub(super) changes: Changes<PodLimits>,
    /// Nobody knows their ids yet.
    pub(super) pending: Vec<PendingContainer>,
    /// Oldest first.
    pub(super) containers: Vec<Container>,
    /// Containers that only a later release can read: none of our business.
    pub(super) foreign: HashSet<ContainerId>,
    /// After a start of the daemon: it is not known yet whether the supervisor answers.
    pub(super) finding_out: bool,
    /// When what could not be written is written again.
    pub(super) rewrite: Rewrite,
    /// The pod's own record is older than it: a write for this reason failed.
    unwritten: Option<PodRecordReason>,
    /// Given since the input that is being applied.
    pub(super) orders: Vec<Order>,
}

/// When records that could not be written are tried again: soon, then less and less often.
#[derive(Debug)]
pub(super) struct Rewrite {
    at: Option<Instant>,
    pause: Duration,
}

impl Rewrite {
    const PAUSE_MIN: Duration = Duration::from_secs(1);
    const PAUSE_MAX: Duration = Duration::from_secs(60);

    pub(super) fn failed(&mut self, now: Instant) {
        if self.at.is_none() {
            self.at = Some(now + self.pause);
            self.pause = (self.pause * 2).min(Self::PAUSE_MAX);
        }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        self.at.take_if(|at| *at <= now).is_some()
    }
}

impl Default for Rewrite {
    fn default() -> Self {
        Self { at: None, pause: Self::PAUSE_MIN }
    }
}

/// What the records of an earlier daemon say of a pod.
#[derive(Debug)]
pub(in crate::pod) struct Recovered {
    pub(in crate::pod) phase: PodPhase,
    pub(in crate::pod) attachment: Option<Attachment>,
    pub(in crate::pod) supervisor_pid: u32,
    pub(in crate::pod) limits: PodLimits,
    pub(in crate::pod) containers: Vec<Remembered>,
    /// Half-made ones, to be undone.
    pub(in crate::pod) leftovers: Vec<ContainerId>,
    pub(in crate::pod) foreign: HashSet<ContainerId>,
}

impl Ledger {
    /// A pod that is to be made.
    pub(in crate::pod) fn new(pod: PodFacts) -> (Self, Vec<Order>) {
        let limits = pod.config.limits();
        let ledger = Self::with(pod, PodState::Starting { waiting: Vec::new() }, limits);
        (ledger, vec![Order::Work(Work::MakePod)])
    }

    fn with(pod: PodFacts, state: PodState, limits: PodLimits) -> Self {
        Self {
            pod,
            state,
            limits,
            changes: Changes::default(),
            pending: Vec::new(),
            containers: Vec::new(),
            foreign: HashSet::new(),
            finding_out: false,
            rewrite: Rewrite::default(),
            unwritten: None,
            orders: Vec::new(),
        }
    }

    /// A pod of an earlier daemon.
    pub(in crate::pod) fn recovered(pod: PodFacts, found: Recovered, now: Instant) -> (Self, Vec<Order>) {
        let Recovered { phase, attachment, supervisor_pid, limits, containers, leftovers, foreign } = found;
        let link = Link::Lost { pid: supervisor_pid };
        let state = match phase {
            PodPhase::Ready => PodState::Ready { attachment, link },
            PodPhase::NotReady => PodState::NotReady(PodRemoval::No),
            // Recovery undoes what never was ready; here it could only be ended.
            PodPhase::Starting | PodPhase::Stopping => PodState::Stopping(Stopping {
                tear_down: TearDown::Wanted,
                ..Stopping::new(attachment, link)
            }),
        };
        let mut ledger = Self::with(pod, state, limits);
        ledger.foreign = foreign;
        let leftover = |id| PendingContainer { id, state: PendingState::Leftover };
        ledger.pending = leftovers.into_iter().map(leftover).collect();
        ledger.containers = containers.into_iter().map(Container::recovered).collect();
        ledger.show();
        for at in 0..ledger.containers.len() {
            ledger.announce_life(at);
        }
        if phase == PodPhase::NotReady {
            ledger.undo_leftovers();
            // A pod is torn down when all its containers have ended; how one did may not have been written.
            ledger.containers_orphaned(now);
        } else {
            ledger.finding_out = true;
            ledger.work(Work::Reach { pid: supervisor_pid, once: true });
        }
        let orders = std::mem::take(&mut ledger.orders);
        (ledger, orders)
    }

    /// Decides what follows from `input`.
    pub(in crate::pod) fn apply(&mut self, input: Input, now: Instant) -> Vec<Order> {
        match input {
            Input::Call(ticket, call) => self.call(ticket, call, now),
            Input::Exited(id, exit) => self.exit_reported(&id, exit),
            Input::SupervisorLost => self.supervisor_lost(),
            Input::SupervisorEnded => self.supervisor_ended(now),
            Input::Done(outcome) => self.done(outcome, now),
            Input::Written(written, result) => self.written(written, result, now),
            Input::Time => {}
        }
        if self.rewrite.is_due(now) {
            self.write_unwritten();
            if let Some(reason) = self.unwritten {
                self.write_pod(reason, self.limits.clone());
            }
        }
        self.kill_due(now);
        self.advance(now);
        std::mem::take(&mut self.orders)
    }

    /// When [`Input::Time`] is wanted next.
    pub(in crate::pod) fn wake_at(&self) -> Option<Instant> {
        let kills = self.containers.iter().filter_map(|container| container.ending()?.kill_at());
        kills.chain(self.rewrite.at).min()
    }

    /// No call can be decided yet: whether the supervisor of an earlier daemon answers is being found out.
    pub(in crate::pod) fn is_finding_out(&self) -> bool {
        self.finding_out
    }

    /// Nothing is left to decide.
    pub(in crate::pod) fn is_over(&self) -> bool {
        matches!(self.state, PodState::Gone)
    }

    pub(in crate::pod) fn phase(&self) -> Option<PodPhase> {
        self.state.phase()
    }

    fn call(&mut self, ticket: Ticket, call: Call, now: Instant) {
        let call = match (&mut self.state, call) {
            (_, Call::Run { config }) => return self.run(ticket, &config),
            (
                PodState::Starting { .. } | PodState::Made { .. } | PodState::Undoing { .. } | PodState::Gone,
                _,
            ) => {
                return self.refuse(ticket, Error::NoSuchPod(self.pod.id.to_string()));
            }
            (PodState::Ready { .. } | PodState::Stopping(_) | PodState::NotReady(_), call) => call,
        };
        match call {
            Call::Run { .. } => {}
            Call::Create { id, config } => self.create(ticket, id, config),
            Call::Start { id } => self.start(ticket, &id),
            Call::Stop { id, grace } => self.stop(ticket, &id, grace, now),
            Call::Remove { id } => self.remove(ticket, &id, now),
            Call::Update { id, change } => self.update(ticket, &id, *change),
            Call::UpdatePod { change } => self.update_pod(ticket, *change),
            Call::StopPod => self.stop_pod(ticket),
            Call::RemovePod => self.remove_pod(ticket),
        }
    }

    pub(super) fn done(&mut self, outcome: Outcome, now: Instant) {
        match outcome {
            Outcome::PodMade(made) => self.pod_made(made.map(|made| *made)),
            Outcome::PodUndone => self.pod_undone(),
            Outcome::Reached(facts, pid) => self.supervisor_reached(facts, pid, now),
            Outcome::Silent => self.supervisor_silent(),
            Outcome::Turn(id, turn) => self.turn(&id, turn),
            Outcome::Made(id, made) => self.made(&id, made),
            Outcome::Unmade(id) => self.pending.retain(|pending| pending.id != id),
            Outcome::Started(id, result, at) => self.started(&id, result, at),
            Outcome::KillChecked(id, end) => self.kill_checked(&id, end),
            Outcome::EndsFound(ends) => self.ends_found(ends, now),
            Outcome::Limited(id, limited) => self.limited(&id, limited.map(|limited| *limited)),
            Outcome::PodLimited(limited) => self.pod_limited(limited.map(|limited| *limited)),
            Outcome::TakenBack(Some(id)) => self.limits_taken_back(&id),
            Outcome::TakenBack(None) => self.pod_limits_taken_back(),
            Outcome::Erased(id, result) => self.erased(&id, result),
            Outcome::TornDown(result) => self.torn_down(result),
            Outcome::PodErased(result) => self.pod_erased(result),
        }
    }

    /// A state that cannot be written is still true: it is shown, and written when that can be done again.
    pub(super) fn written(&mut self, written: Written, result: Result<(), Error>, now: Instant) {
        match written {
            Written::Pod(PodRecordReason::Ready) => self.ready_written(result),
            Written::Pod(PodRecordReason::Limits) => self.pod_limits_written(result),
            Written::Container(id, reason) => self.container_written(&id, reason, result, now),
            Written::Pod(reason @ (PodRecordReason::Stopping | PodRecordReason::NotReady)) => {
                self.unwritten = result.is_err().then_some(reason);
                if result.is_err() {
                    self.rewrite.failed(now);
                }
            }
            Written::Debt => {}
        }
    }

    /// Does what has become possible, so that no step has to know what waits for it.
    fn advance(&mut self, now: Instant) {
        if self.finding_out {
            return;
        }
        if let PodState::Stopping(Stopping { tear_down: TearDown::Wanted, .. }) = &self.state {
            self.kill_all(now);
            // What is being undone has its cgroup in the pod's.
            let undoing = self.pending.iter().any(|pending| matches!(pending.state, PendingState::Undoing));
            if !undoing
                && self.containers.iter().all(Container::is_exited)
                && let PodState::Stopping(stopping) = &mut self.state
            {
                stopping.tear_down = TearDown::Running;
                self.work(Work::TearDown);
            }
        }
        if let PodState::NotReady(PodRemoval::Wanted(_)) = &self.state {
            self.erase_all();
            if self.containers.is_empty()
                && self.pending.is_empty()
                && let PodState::NotReady(removal) = &mut self.state
            {
                removal.begin_erase();
                self.work(Work::ErasePod);
            }
        }
    }

    // ---- what all use ----

    /// # Errors
    /// When no container may be made or started here.
    pub(super) fn usable(&self) -> Result<(), Error> {
        let object = || format!("pod {}", self.pod.id);
        let phase = self.state.phase().ok_or_else(|| Error::NoSuchPod(self.pod.id.to_string()))?;
        phase.step(PodInput::Use).map(|_| ()).map_err(|refusal| Error::refused(object(), refusal))
    }

    /// # Errors
    /// When the supervisor cannot be reached.
    pub(super) fn reachable(&self) -> Result<(), Error> {
        match self.state.link() {
            Link::Up { .. } => Ok(()),
            Link::Lost { .. } | Link::Gone => Err(self.unreachable()),
        }
    }

    pub(super) fn unreachable(&self) -> Error {
        Error::Supervisor(Failure {
            stage: Stage::Connection,
            object: format!("of pod {}", self.pod.id),
            errno: 0,
            path: String::new(),
            text: String::new(),
        })
    }

    pub(super) fn work(&mut self, work: Work) {
        self.orders.push(Order::Work(work));
    }

    pub(super) fn write_pod(&mut self, reason: PodRecordReason, limits: PodLimits) {
        let Some(phase) = self.state.phase() else { return };
        self.orders.push(Order::Write(Write::Pod {
            reason,
            phase: if reason == PodRecordReason::Ready { PodPhase::Ready } else { phase },
            attachment: self.state.attachment().cloned(),
            supervisor_pid: self.state.link().pid().unwrap_or(0),
            limits: Box::new(limits),
        }));
    }

    /// Has readers see what is true now.
    pub(super) fn show(&mut self) -> Arc<PodView> {
        let view = Arc::new(self.view());
        self.orders.push(Order::Show(Arc::clone(&view)));
        view
    }

    pub(in crate::pod) fn view(&self) -> PodView {
        PodView {
            id: self.pod.id.clone(),
            config: Arc::clone(&self.pod.config),
            ready: self.state.phase() == Some(PodPhase::Ready),
            created_at: self.pod.created_at,
            attachment: self.state.attachment().cloned(),
            supervisor_pid: self.state.link().pid().unwrap_or(0),
            limits: self.limits.clone(),
            cgroup: self.pod.cgroup.clone(),
            containers: self.containers.iter().map(|container| Arc::clone(container.shown())).collect(),
        }
    }

    pub(super) fn reply(&mut self, ticket: Ticket) {
        self.orders.push(Order::Reply(ticket, Ok(Answer::Done)));
    }

    pub(super) fn reply_all(&mut self, tickets: Vec<Ticket>) {
        self.orders.extend(tickets.into_iter().map(|ticket| Order::Reply(ticket, Ok(Answer::Done))));
    }

    pub(super) fn answer(&mut self, ticket: Ticket, result: Result<(), Error>) {
        self.orders.push(Order::Reply(ticket, result.map(|()| Answer::Done)));
    }

    pub(super) fn refuse(&mut self, ticket: Ticket, error: Error) {
        self.orders.push(Order::Reply(ticket, Err(error)));
    }

    /// One error for all who wait.
    pub(super) fn refuse_all(&mut self, tickets: Vec<Ticket>, error: Error) {
        if let [only] = tickets[..] {
            return self.refuse(only, error);
        }
        let error = Arc::new(error);
        for ticket in tickets {
            self.refuse(ticket, Error::Shared(Arc::clone(&error)));
        }
    }
}
