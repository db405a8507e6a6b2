//! What a ledger decides for the containers of its pod.

use std::{sync::Arc, time::Instant};

use super::{
    announce::Change,
    container::{Container, ContainerInput, PendingContainer, PendingState, Released, Request},
    ledger::Ledger,
    order::{Answer, Ends, Notice, Order, RecordReason, Ticket, Work, Write},
    stop::Ending,
};
use crate::{
    model::{ContainerConfig, ContainerId, Exit, ExitReason, Failure, PidMode, Stage, UnixNanos},
    pod::{
        error::{Error, Refusal},
        view::{ContainerState, ContainerView},
    },
    supervisor::ContainerFacts,
};

/// What a create of a name finds.
enum Found {
    Nothing,
    /// Its own earlier call, still at work: its place among `pending`.
    Making(usize),
    Made(ContainerId),
}

impl Ledger {
    pub(super) fn find(&self, id: &ContainerId) -> Option<usize> {
        self.containers.iter().position(|container| container.id() == id)
    }

    // ---- CreateContainer ----

    pub(super) fn create(&mut self, ticket: Ticket, id: ContainerId, config: Arc<ContainerConfig>) {
        match self.may_create(&config) {
            Ok(Found::Nothing) => {
                let request = Request { config, waiting: vec![ticket], ended: None };
                self.pending.push(PendingContainer { id: id.clone(), state: PendingState::Queued(request) });
                self.work(Work::AwaitTurn(id));
            }
            Ok(Found::Making(at)) => match self.pending[at].request() {
                Some(request) => request.waiting.push(ticket),
                None => self.refuse(ticket, Error::NoSuchContainer(id.to_string())),
            },
            Ok(Found::Made(id)) => self.orders.push(Order::Reply(ticket, Ok(Answer::Created(id)))),
            Err(error) => self.refuse(ticket, error),
        }
    }

    /// A retry of a create finds the work of the first call, or its result.
    fn may_create(&mut self, config: &ContainerConfig) -> Result<Found, Error> {
        self.usable()?;
        let name = &config.metadata;
        let taken = |state, wanted| {
            let object = format!("container {} (attempt {})", name.name, name.attempt);
            Err(Error::WrongState { object, state, wanted })
        };
        for (at, pending) in self.pending.iter_mut().enumerate() {
            let Some(request) = pending.request().filter(|request| request.config.metadata == *name) else {
                continue;
            };
            return if *request.config == *config {
                Ok(Found::Making(at))
            } else {
                taken("being made", "take another attempt")
            };
        }
        if let Some(other) = self.containers.iter().find(|other| other.shown().config.metadata == *name) {
            let fresh = matches!(other.shown().state, ContainerState::Created { .. });
            let same = fresh && *other.shown().config == *config && !other.is_being_removed();
            return if same {
                Ok(Found::Made(other.id().clone()))
            } else {
                taken("there already", "take another attempt")
            };
        }
        self.fits(config)?;
        Ok(Found::Nothing)
    }

    /// What a container may not ask of its pod.
    fn fits(&self, config: &ContainerConfig) -> Result<(), Error> {
        if config.security.privileged && !self.pod.config.security.privileged {
            return Err(Error::PrivilegedContainer);
        }
        let users = &self.pod.config.namespaces.users;
        users.admits(&config.namespaces).map_err(Error::OtherUsers)?;
        let PidMode::Target(target) = &config.namespaces.pid else { return Ok(()) };
        let found = self.containers.iter().find(|container| container.id().as_str() == target.as_str());
        match found.map(|container| &container.shown().state) {
            Some(ContainerState::Running { .. }) => Ok(()),
            Some(ContainerState::Created { .. } | ContainerState::Exited { .. }) => Err(Error::WrongState {
                object: format!("target container {target}"),
                state: "not running",
                wanted: "its pid namespace can be shared only while it runs",
            }),
            None => Err(Error::NoSuchContainer(target.to_string())),
        }
    }

    /// Its turn has come, or the queue was full. A create whose pod was stopped meanwhile is not known any more.
    pub(super) fn turn(&mut self, id: &ContainerId, turn: Result<(), Error>) {
        let reachable = self.reachable();
        let Some(at) = self.pending.iter().position(|pending| pending.id == *id) else { return };
        let PendingState::Queued(request) = &mut self.pending[at].state else { return };
        let (config, waiting) = (Arc::clone(&request.config), std::mem::take(&mut request.waiting));
        match turn.and(reachable) {
            Ok(()) => {
                let request = Request { config: Arc::clone(&config), waiting, ended: None };
                self.pending[at].state = PendingState::Making(request);
                self.work(Work::MakeContainer { id: id.clone(), config });
            }
            Err(error) => {
                self.pending.remove(at);
                self.refuse_all(waiting, error);
            }
        }
    }

    /// The pod is being stopped: a create that has not begun never does, and its callers need not wait for that.
    pub(super) fn drop_queued(&mut self) {
        let Err(error) = self.usable() else { return };
        let mut waiting = Vec::new();
        self.pending.retain_mut(|pending| match &mut pending.state {
            PendingState::Queued(request) => {
                waiting.append(&mut request.waiting);
                false
            }
            PendingState::Making(_)
            | PendingState::Made(..)
            | PendingState::Undoing
            | PendingState::Leftover => true,
        });
        self.refuse_all(waiting, error);
    }

    pub(super) fn made(&mut self, id: &ContainerId, made: Result<Box<ContainerView>, Error>) {
        let usable = self.usable();
        let Some(at) = self.pending.iter().position(|pending| pending.id == *id) else { return };
        let pending = &mut self.pending[at];
        let PendingState::Making(request) = &mut pending.state else { return };
        let request = std::mem::take(request);
        match (made, usable) {
            (Ok(view), Ok(())) => {
                let shown = Arc::new(ContainerView::clone(&view));
                pending.state = PendingState::Made(request, view);
                let reason = RecordReason::Created;
                self.orders.push(Order::Write(Write::Container { reason, view: shown, starting: false }));
            }
            (Ok(_), Err(error)) => self.unmake(at, request, error),
            (Err(error), _) => {
                // The work has undone itself.
                self.pending.remove(at);
                self.refuse_all(request.waiting, error);
            }
        }
    }

    fn unmake(&mut self, at: usize, request: Request, error: Error) {
        let id = self.pending[at].id.clone();
        self.pending[at].state = PendingState::Undoing;
        self.work(Work::UnmakeContainer(id));
        self.refuse_all(request.waiting, error);
    }

    /// The container counts from here on.
    pub(super) fn created(&mut self, id: &ContainerId, result: Result<(), Error>) {
        let Some(at) = self.pending.iter().position(|pending| pending.id == *id) else { return };
        let pending = &mut self.pending[at];
        let PendingState::Made(request, view) = &mut pending.state else { return };
        let (request, view) = (std::mem::take(request), ContainerView::clone(view));
        if let Err(error) = result.and_then(|()| self.usable()) {
            return self.unmake(at, request, error);
        }
        self.pending.remove(at);
        self.containers.push(Container::new(view));
        self.containers.sort_by_key(|container| container.shown().created_at);
        let shown = self.show();
        self.announce(Some(id), Change::Created, &shown);
        if let Some(exit) = request.ended {
            self.exit_reported(id, exit);
        }
        for ticket in request.waiting {
            self.orders.push(Order::Reply(ticket, Ok(Answer::Created(id.clone()))));
        }
    }

    // ---- StartContainer ----

    pub(super) fn start(&mut self, ticket: Ticket, id: &ContainerId) {
        let Some(at) = self.find(id) else {
            return self.refuse(ticket, Error::NoSuchContainer(id.to_string()));
        };
        if let Some(start) = self.containers[at].start_mut() {
            return start.waiting.push(ticket);
        }
        match self.may_start(at, ticket) {
            Ok(()) => self.write(at, RecordReason::Starting),
            Err(error) => self.refuse(ticket, error),
        }
    }

    pub(super) fn may_start(&mut self, at: usize, ticket: Ticket) -> Result<(), Error> {
        self.usable()?;
        let reachable = self.reachable();
        let container = &mut self.containers[at];
        let refused = |refusal: Refusal, object| Error::refused(object, refusal);
        container.may_start().map_err(|refusal| refused(refusal, container.object()))?;
        reachable?;
        container.begin_start(ticket);
        Ok(())
    }

    /// The intent is written, so the start may be asked for.
    fn start_written(&mut self, at: usize, result: Result<(), Error>) {
        let container = &mut self.containers[at];
        match result {
            Ok(()) => {
                let id = container.id().clone();
                self.work(Work::Start(id));
            }
            Err(error) => {
                container.has_not_started();
                let waiting = container.end_start();
                self.refuse_all(waiting, error);
            }
        }
    }

    pub(super) fn started(
        &mut self,
        id: &ContainerId,
        result: Result<UnixNanos, Failure>,
        at_time: UnixNanos,
    ) {
        let Some(at) = self.find(id) else { return };
        let waiting = self.containers[at].end_start();
        let failure = match result {
            Ok(started_at) => {
                self.change(at, ContainerInput::Started(started_at));
                return self.reply_all(waiting);
            }
            Err(failure) => failure,
        };
        // Without an answer nobody knows. When the supervisor is reached again it will say, and if it has
        // died, that is the container's end.
        if failure.stage != Stage::Connection {
            if failure.stage == Stage::Deadline {
                self.work(Work::KillLeaf(id.clone()));
            }
            let (code, reason, message) = (128, ExitReason::StartError, failure.to_string());
            self.change(at, ContainerInput::StartFailed(Exit { code, reason, at: at_time, message }));
        }
        self.announce_life(at);
        self.refuse_all(waiting, failure.into());
    }

    // ---- its end ----

    pub(super) fn exit_reported(&mut self, id: &ContainerId, exit: Exit) {
        if let Some(at) = self.find(id) {
            return self.exited(at, exit);
        }
        let pending = self.pending.iter_mut().find(|pending| pending.id == *id);
        match pending.and_then(PendingContainer::request) {
            Some(request) => request.ended = Some(exit),
            None => self.orders.push(Order::Notice(Notice::UnknownExit(id.clone()))),
        }
    }

    pub(super) fn exited(&mut self, at: usize, exit: Exit) {
        if !self.containers[at].is_exited() {
            return self.change(at, ContainerInput::Exited(exit));
        }
        // A repetition: the supervisor has not heard that its word is on the disk, or it is not.
        if self.containers[at].unwritten.is_some() {
            self.write(at, RecordReason::Exited);
        } else {
            self.acknowledge(at);
        }
    }

    fn acknowledge(&mut self, at: usize) {
        if self.reachable().is_ok() {
            let id = self.containers[at].id().clone();
            self.work(Work::Acknowledge(id));
        }
    }

    /// Decides, has it written, shown and announced; whoever waited for it is answered. What cannot be written
    /// is shown all the same, because it is true.
    pub(super) fn change(&mut self, at: usize, input: ContainerInput) {
        let reason = match &input {
            ContainerInput::Started(_) => RecordReason::Started,
            ContainerInput::StartFailed(_) => RecordReason::StartFailed,
            ContainerInput::Start | ContainerInput::Update | ContainerInput::Exited(_) => {
                RecordReason::Exited
            }
        };
        let container = &mut self.containers[at];
        let was_exited = container.is_exited();
        let released = match container.change(input) {
            Ok(Some(released)) => released,
            Ok(None) => return,
            Err(refusal) => {
                let (id, state) = (container.id().clone(), refusal.state);
                return self.orders.push(Order::Notice(Notice::Impossible { id, state }));
            }
        };
        self.write(at, reason);
        self.show();
        self.announce_life(at);
        if self.containers[at].is_exited() && !was_exited {
            self.keep_end(at);
        }
        self.release(at, released);
    }

    fn keep_end(&mut self, at: usize) {
        let view = self.containers[at].shown();
        if let ContainerState::Exited { started_at, exit } = &view.state {
            let (id, started_at, exit) = (view.id.clone(), *started_at, Box::new(exit.clone()));
            self.work(Work::KeepEnd { id, started_at, exit });
        }
    }

    /// Those who waited for the end, and the removal that did.
    pub(super) fn release(&mut self, at: usize, released: Released) {
        self.reply_all(released.stops);
        if let Some(removes) = released.removes {
            self.erase(at, removes);
        }
    }

    /// Writes again what could not be written.
    pub(super) fn write_unwritten(&mut self) {
        for at in 0..self.containers.len() {
            if let Some(reason) = self.containers[at].unwritten {
                self.write(at, reason);
            }
        }
    }

    pub(super) fn write(&mut self, at: usize, reason: RecordReason) {
        let container = &self.containers[at];
        let (view, starting) = (Arc::clone(container.shown()), container.may_have_started());
        self.orders.push(Order::Write(Write::Container { reason, view, starting }));
    }

    pub(super) fn container_written(
        &mut self,
        id: &ContainerId,
        reason: RecordReason,
        result: Result<(), Error>,
        now: Instant,
    ) {
        if self.pending.iter().any(|pending| pending.id == *id) {
            return self.created(id, result);
        }
        let Some(at) = self.find(id) else { return };
        match reason {
            RecordReason::Created => {}
            RecordReason::Starting => self.start_written(at, result),
            RecordReason::Limits => self.limits_written(at, result),
            RecordReason::Started | RecordReason::StartFailed | RecordReason::Exited => {
                self.containers[at].unwritten = result.is_err().then_some(reason);
                if result.is_err() {
                    self.rewrite.failed(now);
                } else if reason == RecordReason::Exited {
                    self.acknowledge(at);
                }
            }
        }
    }

    // ---- RemoveContainer ----

    pub(super) fn remove(&mut self, ticket: Ticket, id: &ContainerId, now: Instant) {
        let Some(at) = self.find(id) else { return self.reply(ticket) };
        if self.containers[at].is_exited() {
            return self.erase(at, vec![ticket]);
        }
        self.kill(at, now);
        if let Some(ending) = self.containers[at].ending_mut() {
            ending.removes.get_or_insert_default().push(ticket);
        }
    }

    pub(super) fn erase(&mut self, at: usize, tickets: Vec<Ticket>) {
        let container = &mut self.containers[at];
        if container.begin_erase(tickets) {
            let id = container.id().clone();
            self.work(Work::EraseContainer(id));
        }
    }

    pub(super) fn erase_all(&mut self) {
        for at in 0..self.containers.len() {
            self.erase(at, Vec::new());
        }
    }

    pub(super) fn erased(&mut self, id: &ContainerId, result: Result<(), Error>) {
        let Some(at) = self.find(id) else { return };
        let waiting = self.containers[at].end_erase();
        if let Err(error) = result {
            let error = Arc::new(error);
            self.fail_pod_calls(Error::Shared(Arc::clone(&error)));
            return self.refuse_all(waiting, Error::Shared(error));
        }
        self.announce_whole_life(at);
        let mut gone = self.containers.remove(at);
        let shown = self.show();
        self.announce(Some(id), Change::Deleted, &shown);
        self.reply_all(waiting);
        self.refuse_all(gone.take_all_waiting(), Error::NoSuchContainer(id.to_string()));
    }

    // ---- facts from outside ----

    /// What a supervisor that was reached again knows, against what we believe.
    pub(super) fn take_facts(&mut self, facts: Vec<ContainerFacts>, now: Instant) {
        for at in 0..self.containers.len() {
            let id = self.containers[at].id().clone();
            match facts.iter().find(|fact| fact.id == id) {
                Some(fact) => self.take_fact(at, fact),
                None if self.containers[at].is_exited() => {}
                None if self.containers[at].search_end(now) => self.work(Work::FindEnds(Ends::Unknown(id))),
                None => {}
            }
        }
        for id in facts.into_iter().map(|fact| fact.id) {
            let known = self.find(&id).is_some() || self.pending.iter().any(|pending| pending.id == id);
            if !known && !self.is_foreign(&id) {
                self.work(Work::Disown(id));
            }
        }
    }

    fn take_fact(&mut self, at: usize, fact: &ContainerFacts) {
        match fact.started_at {
            // The answer to its start is on the way.
            _ if self.containers[at].is_starting() => {}
            Some(started_at) => self.change(at, ContainerInput::Started(started_at)),
            None => self.containers[at].has_not_started(),
        }
        if let Some(exit) = &fact.exit {
            self.exited(at, exit.clone());
        }
    }

    /// The supervisor is gone, and what it has left is killed with the pod.
    pub(super) fn containers_orphaned(&mut self, now: Instant) {
        let orphaned = self
            .containers
            .iter_mut()
            .filter_map(|container| container.search_end(now).then(|| container.id().clone()));
        let ids: Vec<_> = orphaned.collect();
        if !ids.is_empty() {
            self.work(Work::FindEnds(Ends::Orphaned(ids)));
        }
    }

    /// How those ended that no supervisor answers for. One that has processes still is killed further.
    pub(super) fn ends_found(&mut self, ends: Vec<(ContainerId, Option<Exit>)>, now: Instant) {
        for (id, end) in ends {
            let Some(at) = self.find(&id).filter(|at| !self.containers[*at].is_exited()) else { continue };
            match end {
                Some(exit) => self.exited(at, exit),
                None if self.containers[at].ending_mut().is_some_and(Ending::search_failed) => {
                    self.kill_round(at, 0);
                }
                None => self.kill(at, now),
            }
        }
    }
}
