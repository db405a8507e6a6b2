//! The containers' half of a pod's driver.

use std::{sync::Arc, time::SystemTime};

use tokio::sync::OwnedSemaphorePermit;
use tracing::{error, info, warn};

use super::{
    announce::Change,
    driver::{Driver, Reply, send_all},
    effect,
    error::{Error, chain},
    keep::{self, ContainerRecord, EndRecord},
    make,
    state::Input,
    stop::Stop,
    update::Queue,
    view::{ContainerState, ContainerView},
};
use crate::{
    model::{ContainerConfig, ContainerId, Exit, ExitReason, Failure, PidMode, Resources, Stage, UnixNanos},
    supervisor::{self, ContainerFacts},
};

/// A container that is being made.
#[derive(Debug)]
pub(super) struct PendingContainer {
    pub(super) id: ContainerId,
    config: Arc<ContainerConfig>,
    /// It waits for its turn; nothing of it has been made.
    queued: bool,
    replies: Vec<Reply<ContainerId>>,
    /// It ended before the answer to its create was read.
    ended: Option<Exit>,
}

/// A container that is there, and who waits for what of it.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) view: Arc<ContainerView>,
    /// `Some` while its start is on the way.
    pub(super) start: Option<Vec<Reply<()>>>,
    pub(super) stop: Option<Stop>,
    pub(super) removal: Removal,
    pub(super) updates: Queue<Resources>,
    /// What followers were told of it last.
    pub(super) told: Change,
}

/// Whether it is being removed.
#[derive(Debug)]
pub(super) enum Removal {
    No,
    AfterExit(Vec<Reply<()>>),
    Running(Vec<Reply<()>>),
}

impl Container {
    pub(super) fn new(view: ContainerView) -> Self {
        let told = Change::reached(&view.state);
        Self {
            view: Arc::new(view),
            start: None,
            stop: None,
            removal: Removal::No,
            updates: Queue::default(),
            told,
        }
    }
}

impl Driver {
    pub(super) fn find(&self, id: &ContainerId) -> Option<usize> {
        self.containers.iter().position(|container| container.view.id == *id)
    }

    // ---- CreateContainer ----

    pub(super) fn create(&mut self, config: ContainerConfig, reply: Reply<ContainerId>) {
        let new = match self.may_create(&config) {
            Ok(None) => random_bytes().map(ContainerId::from_bytes),
            Ok(Some(Same::Made(id))) => return drop(reply.send(Ok(id))),
            Ok(Some(Same::Making(at))) => return self.making[at].replies.push(reply),
            Err(error) => Err(error),
        };
        match new {
            Ok(id) => {
                let config = Arc::new(config);
                self.making.push(PendingContainer {
                    id: id.clone(),
                    config,
                    queued: true,
                    replies: vec![reply],
                    ended: None,
                });
                self.push(make::wait(Arc::clone(&self.pod), id));
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    /// A retry of a create finds the work of the first call, or its result.
    fn may_create(&self, config: &ContainerConfig) -> Result<Option<Same>, Error> {
        self.usable()?;
        let name = &config.metadata;
        let taken = |state, wanted| {
            let object = format!("container {} (attempt {})", name.name, name.attempt);
            Err(Error::WrongState { object, state, wanted })
        };
        if let Some(at) = self.making.iter().position(|making| making.config.metadata == *name) {
            let same = *self.making[at].config == *config && !self.making[at].replies.is_empty();
            return if same {
                Ok(Some(Same::Making(at)))
            } else {
                taken("being made", "take another attempt")
            };
        }
        if let Some(other) = self.containers.iter().find(|other| other.view.config.metadata == *name) {
            let fresh = matches!(other.view.state, ContainerState::Created { .. });
            let same = fresh && *other.view.config == *config && matches!(other.removal, Removal::No);
            let id = other.view.id.clone();
            return if same {
                Ok(Some(Same::Made(id)))
            } else {
                taken("there already", "take another attempt")
            };
        }
        self.fits(config)?;
        Ok(None)
    }

    /// What a container may not ask of its pod.
    fn fits(&self, config: &ContainerConfig) -> Result<(), Error> {
        if config.security.privileged && !self.pod.config.security.privileged {
            return Err(Error::Invalid("a privileged container needs a privileged pod".into()));
        }
        let PidMode::Target(target) = &config.namespaces.pid else { return Ok(()) };
        let found = self.containers.iter().find(|container| container.view.id.as_str() == target);
        match found.map(|container| &container.view.state) {
            Some(ContainerState::Running { .. }) => Ok(()),
            Some(ContainerState::Created { .. } | ContainerState::Exited { .. }) => Err(Error::WrongState {
                object: format!("target container {target}"),
                state: "not running",
                wanted: "its pid namespace can be shared only while it runs",
            }),
            None => Err(Error::NoSuchContainer(target.clone())),
        }
    }

    /// Its turn has come, or the queue was full. A create whose pod was stopped meanwhile is not known any more.
    pub(super) fn begin_create(&mut self, id: &ContainerId, turn: Result<OwnedSemaphorePermit, Error>) {
        let Some(at) = self.making.iter().position(|making| making.id == *id) else { return };
        match turn.and_then(|turn| Ok((turn, self.reachable()?))) {
            Ok((turn, client)) => {
                self.making[at].queued = false;
                let config = Arc::clone(&self.making[at].config);
                self.push(make::make(Arc::clone(&self.pod), client, id.clone(), config, turn));
            }
            Err(error) => send_all(self.making.remove(at).replies.into_iter(), error),
        }
    }

    /// The pod is being stopped: a create that has not begun never does, and its callers need not wait for that.
    pub(super) fn drop_queued(&mut self) {
        let Err(error) = self.usable() else { return };
        let queued: Vec<_> = self.making.extract_if(.., |making| making.queued).collect();
        send_all(queued.into_iter().flat_map(|making| making.replies), error);
    }

    pub(super) async fn made(&mut self, id: &ContainerId, made: Result<ContainerView, Error>) {
        let Some(at) = self.making.iter().position(|making| making.id == *id) else { return };
        let replies = std::mem::take(&mut self.making[at].replies);
        let kept = match made {
            Ok(view) => self.keep(view).await,
            Err(error) => {
                // The effect has undone itself.
                self.making.remove(at);
                return send_all(replies.into_iter(), error);
            }
        };
        if let Err((error, image)) = kept {
            self.push(make::unmake(Arc::clone(&self.pod), self.client(), id.clone(), image));
            return send_all(replies.into_iter(), error);
        }
        let ended = self.making.remove(at).ended;
        self.publish();
        self.tell(Some(id), Change::Created);
        info!(pod = %self.pod.id, container = %id, "container created");
        if let (Some(exit), Some(at)) = (ended, self.find(id)) {
            self.exited(at, exit).await;
        }
        for reply in replies {
            let _ = reply.send(Ok(id.clone()));
        }
    }

    /// The container counts from here on, unless the pod has been stopped meanwhile.
    async fn keep(&mut self, view: ContainerView) -> Result<(), (Error, crate::model::Digest)> {
        if let Err(error) = self.usable() {
            return Err((error, view.image_id));
        }
        let path = keep::container_file(&self.pod.folder, &view.id);
        if let Err(error) = keep::put(path, ContainerRecord::of(&view)).await {
            return Err((error, view.image_id));
        }
        crate::failpoint!("container.created-written");
        self.containers.push(Container::new(view));
        self.containers.sort_by_key(|container| container.view.created_at);
        Ok(())
    }

    // ---- StartContainer ----

    pub(super) fn start(&mut self, id: &ContainerId, reply: Reply<()>) {
        let Some(at) = self.find(id) else {
            return drop(reply.send(Err(Error::NoSuchContainer(id.to_string()))));
        };
        if let Some(waiting) = &mut self.containers[at].start {
            return waiting.push(reply);
        }
        match self.may_start(at) {
            Ok(client) => {
                self.containers[at].start = Some(vec![reply]);
                crate::failpoint!("container.starting");
                self.push(effect::start(client, id.clone()));
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn may_start(&self, at: usize) -> Result<supervisor::Client, Error> {
        self.usable()?;
        let container = &self.containers[at];
        let object = || format!("container {}", container.view.id);
        container
            .view
            .state
            .clone()
            .step(Input::Start)
            .map_err(|refusal| Error::refused(object(), refusal))?;
        if container.stop.is_some() || !matches!(container.removal, Removal::No) {
            return Err(Error::WrongState {
                object: object(),
                state: "being stopped",
                wanted: "it cannot be started",
            });
        }
        self.reachable()
    }

    pub(super) async fn started(&mut self, id: &ContainerId, result: Result<UnixNanos, Failure>) {
        let Some(at) = self.find(id) else { return };
        let replies = self.containers[at].start.take().unwrap_or_default();
        crate::failpoint!("container.started");
        let failure = match result {
            Ok(started_at) => {
                self.change(at, Input::Started(started_at)).await;
                crate::failpoint!("container.started-written");
                info!(pod = %self.pod.id, container = %id, "container started");
                for reply in replies {
                    let _ = reply.send(Ok(()));
                }
                return;
            }
            Err(failure) => failure,
        };
        warn!(pod = %self.pod.id, container = %id, error = %failure, "container did not start");
        // Without an answer nobody knows. When the supervisor is reached again it will say, and if it has
        // died, that is the container's end.
        if failure.stage != Stage::Connection {
            if failure.stage == Stage::Deadline {
                self.push(effect::kill_leaf(Arc::clone(&self.pod), id.clone()));
            }
            let exit = exit(128, ExitReason::StartError, failure.to_string());
            self.change(at, Input::StartFailed(exit)).await;
            self.after_exit(at);
        }
        self.tell_life(at);
        send_all(replies.into_iter(), failure.into());
    }

    // ---- its end ----

    pub(super) async fn exit_reported(&mut self, id: &ContainerId, exit: Exit) {
        crate::failpoint!("container.exit-seen");
        match self.find(id) {
            Some(at) => self.exited(at, exit).await,
            None => match self.making.iter_mut().find(|making| making.id == *id) {
                Some(making) => making.ended = Some(exit),
                None => info!(pod = %self.pod.id, container = %id, "exit of a container that was undone"),
            },
        }
    }

    pub(super) async fn exited(&mut self, at: usize, exit: Exit) {
        let fresh = !self.containers[at].view.state.is_exited();
        let written = self.change(at, Input::Exited(exit)).await;
        crate::failpoint!("container.exit-written");
        let view = Arc::clone(&self.containers[at].view);
        if let (true, Some(client)) = (written, self.client()) {
            self.push(effect::acknowledge(client, view.id.clone()));
        }
        if !fresh {
            return;
        }
        if let ContainerState::Exited { started_at, exit } = &view.state {
            info!(pod = %self.pod.id, container = %view.id, code = exit.code, reason = exit.reason.as_str(), "container exited");
            let end = EndRecord { started_at: *started_at, exit: exit.clone() };
            self.push(effect::keep_end(Arc::clone(&self.pod), view.id.clone(), end));
        }
        self.after_exit(at);
    }

    /// Those who waited for the end, and the removal that did.
    fn after_exit(&mut self, at: usize) {
        let container = &mut self.containers[at];
        if !container.view.state.is_exited() {
            return;
        }
        for reply in container.stop.take().into_iter().flat_map(|stop| stop.replies) {
            let _ = reply.send(Ok(()));
        }
        if let Removal::AfterExit(replies) = std::mem::replace(&mut container.removal, Removal::No) {
            self.erase(at, replies);
        }
    }

    /// Decide, write, publish. `false` if it could not be written: it is shown all the same, because it is true.
    async fn change(&mut self, at: usize, input: Input) -> bool {
        let view = &self.containers[at].view;
        let next = match view.state.clone().step(input) {
            Ok(next) => next,
            Err(refusal) => {
                warn!(pod = %self.pod.id, container = %view.id, state = refusal.state, "impossible report");
                return false;
            }
        };
        if next == view.state {
            return true;
        }
        let next = ContainerView { state: next, ..ContainerView::clone(view) };
        let path = keep::container_file(&self.pod.folder, &next.id);
        let written = keep::put(path, ContainerRecord::of(&next)).await;
        if let Err(error) = &written {
            error!(pod = %self.pod.id, container = %next.id, error = %chain(error), "could not write the record");
        }
        self.containers[at].view = Arc::new(next);
        self.publish();
        self.tell_life(at);
        written.is_ok()
    }

    // ---- RemoveContainer ----

    pub(super) fn remove(&mut self, id: &ContainerId, reply: Reply<()>) {
        let Some(at) = self.find(id) else { return drop(reply.send(Ok(()))) };
        let container = &mut self.containers[at];
        match &mut container.removal {
            Removal::AfterExit(replies) | Removal::Running(replies) => replies.push(reply),
            Removal::No if container.view.state.is_exited() => self.erase(at, vec![reply]),
            Removal::No => {
                container.removal = Removal::AfterExit(vec![reply]);
                self.kill(at);
            }
        }
    }

    fn erase(&mut self, at: usize, replies: Vec<Reply<()>>) {
        let container = &mut self.containers[at];
        container.removal = Removal::Running(replies);
        let (id, image) = (container.view.id.clone(), container.view.image_id.clone());
        self.push(effect::erase(Arc::clone(&self.pod), self.client(), id, image));
    }

    pub(super) fn erase_all(&mut self) {
        for at in 0..self.containers.len() {
            if matches!(self.containers[at].removal, Removal::No) {
                self.erase(at, Vec::new());
            }
        }
    }

    pub(super) fn erased(&mut self, id: &ContainerId, result: Result<(), Error>) {
        let Some(at) = self.find(id) else { return };
        let removal = std::mem::replace(&mut self.containers[at].removal, Removal::No);
        let replies = match removal {
            Removal::No => Vec::new(),
            Removal::AfterExit(replies) | Removal::Running(replies) => replies,
        };
        if let Err(error) = result {
            warn!(pod = %self.pod.id, container = %id, error = %chain(&error), "removal failed");
            let error = Arc::new(error);
            self.fail_pod_calls(Error::Shared(Arc::clone(&error)));
            return send_all(replies.into_iter(), Error::Shared(error));
        }
        self.tell_whole_life(at);
        self.containers.remove(at);
        self.publish();
        self.tell(Some(id), Change::Deleted);
        info!(pod = %self.pod.id, container = %id, "container removed");
        for reply in replies {
            let _ = reply.send(Ok(()));
        }
    }

    // ---- facts from outside ----

    /// What a supervisor that was reached again knows, against what we believe.
    pub(super) async fn take_facts(&mut self, facts: Vec<ContainerFacts>) {
        for at in 0..self.containers.len() {
            let id = self.containers[at].view.id.clone();
            match facts.iter().find(|fact| fact.id == id) {
                Some(fact) => self.take_fact(at, fact).await,
                None if self.containers[at].view.state.is_exited() => {}
                None => {
                    let end = supervisor::recorded_exit(&self.pod.folder, &id).unwrap_or_else(|| {
                        exit(255, ExitReason::Unknown, "its supervisor does not know it".into())
                    });
                    self.push(effect::kill_leaf(Arc::clone(&self.pod), id));
                    self.exited(at, end).await;
                }
            }
        }
        let strangers = facts
            .into_iter()
            .map(|fact| fact.id)
            .filter(|id| self.find(id).is_none() && !self.making.iter().any(|making| making.id == *id));
        for id in strangers.collect::<Vec<_>>() {
            if let Some(client) = self.client() {
                self.push(effect::disown(client, id));
            }
        }
    }

    async fn take_fact(&mut self, at: usize, fact: &ContainerFacts) {
        if let (Some(started_at), None) = (fact.started_at, &self.containers[at].start) {
            self.change(at, Input::Started(started_at)).await;
        }
        if let Some(exit) = &fact.exit {
            self.exited(at, exit.clone()).await;
        }
    }

    /// The supervisor has died. Containers whose end it wrote down keep that end.
    pub(super) async fn containers_orphaned(&mut self) {
        if self.containers.iter().any(|container| !container.view.state.is_exited()) {
            effect::kill_pod(&self.pod).await;
        }
        for at in 0..self.containers.len() {
            let view = &self.containers[at].view;
            if view.state.is_exited() {
                continue;
            }
            let end = supervisor::recorded_exit(&self.pod.folder, &view.id).unwrap_or_else(|| {
                exit(137, ExitReason::SupervisorDied, "its supervisor died, so it was killed".into())
            });
            self.exited(at, end).await;
        }
    }
}

enum Same {
    Making(usize),
    Made(ContainerId),
}

/// An end that nobody reaped, now.
pub(super) fn exit(code: i32, reason: ExitReason, message: String) -> Exit {
    Exit { code, reason, at: SystemTime::now().into(), message }
}

/// # Errors
/// Never on a kernel that has been up for a second.
pub(super) fn random_bytes() -> Result<[u8; 32], Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| Error::Io {
        doing: "make an id".into(),
        source: std::io::Error::other(error.to_string()),
    })?;
    Ok(bytes)
}
