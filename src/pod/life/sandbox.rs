//! What a ledger decides for its pod as a whole: its making, its end, its supervisor.

use std::{sync::Arc, time::Instant};

use super::{
    announce::Change,
    container::PendingState,
    ledger::Ledger,
    order::{MadePod, Order, PodRecordReason, TearDownError, Ticket, Work, Write},
    pod::{Link, PodInput, PodPhase, PodRemoval, PodState, Stopping, TearDown},
};
use crate::{
    model::{ContainerId, PodConfig},
    pod::error::{Error, chain},
    supervisor::ContainerFacts,
};

/// Failed releases of the network after which a stop succeeds and the release is a debt: the kubelet never
/// calls RemovePodSandbox after a failed StopPodSandbox.
const RELEASES_MAX: u32 = 3;

impl Ledger {
    // ---- RunPodSandbox ----

    /// A retry of a call that is still at work waits for its result; one of a pod that is ready gets it.
    pub(super) fn run(&mut self, ticket: Ticket, config: &PodConfig) {
        let (state, wanted) = match &mut self.state {
            PodState::Starting { waiting }
            | PodState::Made { waiting, .. }
            | PodState::Undoing { waiting, .. } => {
                return waiting.push(ticket);
            }
            PodState::Ready { .. } if self.pod.config.asks_for_the_same(config) => return self.reply(ticket),
            PodState::Ready { .. } => {
                ("ready, with another configuration", "remove it or take another attempt")
            }
            PodState::Stopping(_) | PodState::NotReady(_) | PodState::Gone => {
                (PodPhase::NotReady.as_str(), "remove it or take another attempt")
            }
        };
        let object = format!("pod {} of that name", self.pod.id);
        self.refuse(ticket, Error::WrongState { object, state, wanted });
    }

    pub(super) fn pod_made(&mut self, made: Result<MadePod, Error>) {
        let PodState::Starting { waiting } = &mut self.state else { return };
        let waiting = std::mem::take(waiting);
        match made {
            Ok(MadePod { cgroup, supervisor_pid, attachment }) => {
                self.pod.cgroup = Some(cgroup);
                self.state = PodState::Made { waiting, attachment, link: Link::Up { pid: supervisor_pid } };
                self.write_pod(PodRecordReason::Ready, self.limits.clone());
            }
            Err(error) => self.undo(waiting, error),
        }
    }

    /// From here on the pod can be listed and found. It has to be before anybody gets its id.
    pub(super) fn ready_written(&mut self, result: Result<(), Error>) {
        let starts = self.after(PodInput::Started) == Some(PodPhase::Ready);
        let (PodState::Made { waiting, attachment, link }, true) = (&mut self.state, starts) else { return };
        let (waiting, attachment, link) = (std::mem::take(waiting), attachment.take(), *link);
        if let Err(error) = result {
            return self.undo(waiting, error);
        }
        self.state = PodState::Ready { attachment, link };
        let view = self.show();
        self.announce(None, Change::Created, &view);
        self.announce(None, Change::Started, &view);
        self.reply_all(waiting);
    }

    fn undo(&mut self, waiting: Vec<Ticket>, error: Error) {
        self.state = PodState::Undoing { waiting, error };
        self.work(Work::UndoPod);
    }

    pub(super) fn pod_undone(&mut self) {
        if !matches!(self.state, PodState::Undoing { .. }) {
            return;
        }
        if let PodState::Undoing { waiting, error } = std::mem::replace(&mut self.state, PodState::Gone) {
            self.orders.push(Order::Withdraw);
            self.refuse_all(waiting, error);
        }
    }

    // ---- StopPodSandbox, RemovePodSandbox ----

    pub(super) fn stop_pod(&mut self, ticket: Ticket) {
        self.begin_stop(PodInput::Stop);
        if let PodState::Stopping(stopping) = &mut self.state {
            stopping.stops.push(ticket);
        } else {
            self.reply(ticket);
        }
    }

    pub(super) fn remove_pod(&mut self, ticket: Ticket) {
        self.begin_stop(PodInput::Stop);
        if let PodState::Stopping(stopping) = &mut self.state {
            stopping.removes.push(ticket);
        } else if let PodState::NotReady(removal) = &mut self.state {
            removal.join(ticket);
        } else {
            self.reply(ticket);
        }
    }

    /// What the policy makes of `input`.
    fn after(&self, input: PodInput) -> Option<PodPhase> {
        self.state.phase()?.step(input).ok()
    }

    /// The state goes first, so that no create slips in between the kill and the end.
    fn begin_stop(&mut self, input: PodInput) {
        let stops = self.after(input) == Some(PodPhase::Stopping);
        if let (PodState::Ready { attachment, link }, true) = (&mut self.state, stops) {
            self.state = PodState::Stopping(Stopping::new(attachment.take(), *link));
            self.write_pod(PodRecordReason::Stopping, self.limits.clone());
            self.show();
            self.drop_queued();
        }
        if let PodState::Stopping(stopping) = &mut self.state
            && stopping.tear_down == TearDown::Idle
        {
            stopping.tear_down = TearDown::Wanted;
        }
    }

    pub(super) fn torn_down(&mut self, result: Result<(), TearDownError>) {
        let PodState::Stopping(stopping) = &mut self.state else { return };
        stopping.tear_down = TearDown::Idle;
        if let Err(failure) = result {
            stopping.failed_releases += 1;
            if stopping.failed_releases < RELEASES_MAX && !failure.hopeless {
                return self.fail_pod_calls(failure.error);
            }
            let (network, cgroup) = (failure.network_held, failure.cgroup_held);
            let cause = chain(&failure.error).to_string();
            self.orders.push(Order::Write(Write::Debt { network, cgroup, cause }));
        }
        let over = self.after(PodInput::TornDown) == Some(PodPhase::NotReady);
        let (PodState::Stopping(stopping), true) = (&mut self.state, over) else { return };
        let (stops, removes) = (std::mem::take(&mut stopping.stops), std::mem::take(&mut stopping.removes));
        self.state = PodState::NotReady(PodRemoval::of(removes));
        self.write_pod(PodRecordReason::NotReady, self.limits.clone());
        let view = self.show();
        self.announce(None, Change::Stopped, &view);
        self.reply_all(stops);
    }

    pub(super) fn pod_erased(&mut self, result: Result<(), Error>) {
        let PodState::NotReady(removal) = &mut self.state else { return };
        let waiting = removal.end();
        if let Err(error) = result {
            return self.refuse_all(waiting, error);
        }
        let view = Arc::new(self.view());
        self.state = PodState::Gone;
        // The view goes before the name: a new pod of this name is never listed beside the old one.
        self.orders.push(Order::Withdraw);
        self.announce(None, Change::Deleted, &view);
        self.reply_all(waiting);
        let abandoned = self.changes.take_all();
        self.refuse_all(abandoned, Error::NoSuchPod(self.pod.id.to_string()));
    }

    /// Tells everybody who waits for the pod's end why it does not come. They will ask again.
    pub(super) fn fail_pod_calls(&mut self, error: Error) {
        let waiting = match &mut self.state {
            PodState::Stopping(stopping) => {
                let mut waiting = std::mem::take(&mut stopping.stops);
                waiting.append(&mut stopping.removes);
                waiting
            }
            PodState::NotReady(removal @ PodRemoval::Wanted(_)) => removal.end(),
            PodState::NotReady(PodRemoval::No | PodRemoval::Erasing(_))
            | PodState::Starting { .. }
            | PodState::Made { .. }
            | PodState::Undoing { .. }
            | PodState::Ready { .. }
            | PodState::Gone => return,
        };
        self.refuse_all(waiting, error);
    }

    // ---- the supervisor ----

    pub(super) fn supervisor_lost(&mut self) {
        if let Some(link) = self.state.link_mut()
            && let Link::Up { pid } = *link
        {
            *link = Link::Lost { pid };
            self.work(Work::Reach { pid, once: false });
        }
    }

    pub(super) fn supervisor_reached(&mut self, facts: Vec<ContainerFacts>, pid: u32, now: Instant) {
        if let Some(link @ Link::Lost { .. }) = self.state.link_mut() {
            *link = Link::Up { pid };
            self.take_facts(facts, now);
        }
        self.found_out();
    }

    /// One of an earlier daemon that is still there, as far as anybody knows.
    pub(super) fn supervisor_silent(&mut self) {
        if let Link::Lost { pid } = self.state.link() {
            self.work(Work::Reach { pid, once: false });
        }
        self.found_out();
    }

    /// The namespaces went with it, and nobody will reap what is left: so nothing is left.
    pub(super) fn supervisor_ended(&mut self, now: Instant) {
        match self.state.link_mut() {
            Some(link @ (Link::Up { .. } | Link::Lost { .. })) => *link = Link::Gone,
            Some(Link::Gone) | None => return,
        }
        self.found_out();
        if let PodState::Made { waiting, .. } = &mut self.state {
            let waiting = std::mem::take(waiting);
            return self.undo(waiting, self.unreachable());
        }
        // That was asked of it.
        if let PodState::Stopping(Stopping { tear_down: TearDown::Running, .. }) = &self.state {
            return;
        }
        self.containers_orphaned(now);
        self.begin_stop(PodInput::SupervisorEnded);
    }

    fn found_out(&mut self) {
        if std::mem::take(&mut self.finding_out) {
            self.undo_leftovers();
        }
    }

    pub(super) fn undo_leftovers(&mut self) {
        for pending in &mut self.pending {
            if let PendingState::Leftover = pending.state {
                pending.state = PendingState::Undoing;
                self.orders.push(Order::Work(Work::UnmakeContainer(pending.id.clone())));
            }
        }
    }

    /// Not one of ours, and not a stranger either.
    pub(super) fn is_foreign(&self, id: &ContainerId) -> bool {
        self.foreign.contains(id)
    }
}
