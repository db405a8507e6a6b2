//! The containers' half of a pod's driver.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::OwnedSemaphorePermit;
use tracing::{error, info, warn};

use super::{
    driver::{Driver, Link, Reply, send_all},
    effect,
    error::{Error, chain},
    record::{self, ContainerRecord, EndRecord},
    state::{Input, KillAt, PodState},
    view::{ContainerState, ContainerView},
};
use crate::{
    model::{ContainerConfig, ContainerId, Exit, ExitReason, Failure, PidMode, Stage, UnixNanos},
    supervisor::{self, ContainerFacts},
};

/// Rounds of killing, two seconds each and more, after which those who wait are told that it does not die.
/// The killing goes on.
const KILL_ROUNDS_QUIET_MAX: u32 = 5;

/// A container that is being made.
#[derive(Debug)]
pub(super) struct Making {
    pub(super) id: ContainerId,
    config: Arc<ContainerConfig>,
    replies: Vec<Reply<ContainerId>>,
    /// It ended before the answer to its create was read.
    ended: Option<Exit>,
}

/// A container that is there, and who waits for what of it.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) view: Arc<ContainerView>,
    /// `Some` while its start is on the way.
    start: Option<Vec<Reply<()>>>,
    stop: Option<Stop>,
    removal: Removal,
}

/// A stop on the way.
#[derive(Debug)]
struct Stop {
    kill_at: KillAt,
    /// Rounds of killing so far; `None` before the first.
    rounds: Option<u32>,
    replies: Vec<Reply<()>>,
}

#[derive(Debug)]
enum Removal {
    No,
    AfterExit(Vec<Reply<()>>),
    Running(Vec<Reply<()>>),
}

impl Container {
    pub(super) fn new(view: ContainerView) -> Self {
        Self { view: Arc::new(view), start: None, stop: None, removal: Removal::No }
    }
}

impl Driver {
    fn find(&self, id: &ContainerId) -> Option<usize> {
        self.containers.iter().position(|container| container.view.id == *id)
    }

    // ---- CreateContainer ----

    pub(super) fn create(
        &mut self,
        config: ContainerConfig,
        turn: OwnedSemaphorePermit,
        reply: Reply<ContainerId>,
    ) {
        let refused = match self.may_create(&config) {
            Ok(None) => self.begin_create(config, turn, reply),
            Ok(Some(Same::Made(id))) => return drop(reply.send(Ok(id))),
            Ok(Some(Same::Making(at))) => return self.making[at].replies.push(reply),
            Err(error) => Err((error, reply)),
        };
        if let Err((error, reply)) = refused {
            let _ = reply.send(Err(error));
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

    fn begin_create(
        &mut self,
        config: ContainerConfig,
        turn: OwnedSemaphorePermit,
        reply: Reply<ContainerId>,
    ) -> Result<(), (Error, Reply<ContainerId>)> {
        let ready = || Ok::<_, Error>((self.reachable()?, ContainerId::from_bytes(random_bytes()?)));
        let (client, id) = match ready() {
            Ok(ready) => ready,
            Err(error) => return Err((error, reply)),
        };
        let config = Arc::new(config);
        let making =
            Making { id: id.clone(), config: Arc::clone(&config), replies: vec![reply], ended: None };
        self.making.push(making);
        self.push(effect::make(Arc::clone(&self.pod), client, id, config, turn));
        Ok(())
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
            self.push(effect::unmake(Arc::clone(&self.pod), self.client(), id.clone(), image));
            return send_all(replies.into_iter(), error);
        }
        let ended = self.making.remove(at).ended;
        self.publish();
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
        let path = record::container_file(&self.pod.folder, &view.id);
        if let Err(error) = record::put(path, ContainerRecord::of(&view)).await {
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
        send_all(replies.into_iter(), failure.into());
    }

    // ---- StopContainer ----

    pub(super) fn stop(&mut self, id: &ContainerId, grace: Duration, reply: Reply<()>) {
        let Some(at) = self.find(id) else { return drop(reply.send(Ok(()))) };
        let container = &mut self.containers[at];
        let now = Instant::now();
        let grace = match container.view.state {
            ContainerState::Exited { .. } => return drop(reply.send(Ok(()))),
            // It has no workload that could use the time.
            ContainerState::Created { .. } if container.start.is_none() => Duration::ZERO,
            ContainerState::Created { .. } | ContainerState::Running { .. } => grace,
        };
        let changed = match &mut container.stop {
            None => {
                let kill_at = KillAt::after(now, grace);
                container.stop = Some(Stop { kill_at, rounds: None, replies: vec![reply] });
                if !grace.is_zero() {
                    self.signal(at);
                }
                true
            }
            Some(stop) => {
                stop.replies.push(reply);
                stop.kill_at.again(now, grace) && stop.rounds.is_none()
            }
        };
        if changed && grace.is_zero() {
            self.kill(at);
        } else if changed {
            self.push(effect::kill_timer(id.clone(), now + grace.min(effect::TIMER_MAX)));
        }
    }

    fn signal(&mut self, at: usize) {
        let view = &self.containers[at].view;
        let (id, signal, init) = (view.id.clone(), view.stop_signal, self.init(at));
        self.push(effect::signal(self.client(), id, signal, init));
    }

    /// How the daemon finds the init itself. With the supervisor gone it may have been reaped.
    fn init(&self, at: usize) -> Option<effect::Init> {
        match (&self.link, self.containers[at].view.state.pid()) {
            (Link::Up(_) | Link::Lost, Some(pid)) => Some(effect::Init { pid, parent: self.supervisor_pid }),
            (Link::Gone, _) | (_, None) => None,
        }
    }

    pub(super) fn kill_due(&mut self, id: &ContainerId) {
        let Some(at) = self.find(id) else { return };
        let Some(stop) = &self.containers[at].stop else { return };
        if stop.rounds.is_some() {
            return;
        }
        let now = Instant::now();
        if stop.kill_at.instant() <= now {
            self.kill(at);
        } else {
            // A timer is never set for longer than a day.
            let next = stop.kill_at.instant().min(now + effect::TIMER_MAX);
            self.push(effect::kill_timer(id.clone(), next));
        }
    }

    /// Begins to kill, once.
    fn kill(&mut self, at: usize) {
        let container = &mut self.containers[at];
        if container.view.state.is_exited() {
            return;
        }
        let new =
            || Stop { kill_at: KillAt::after(Instant::now(), Duration::ZERO), rounds: None, replies: vec![] };
        let stop = container.stop.get_or_insert_with(new);
        if stop.rounds.is_none() {
            stop.rounds = Some(0);
            self.kill_round(at, 0);
        }
    }

    pub(super) fn kill_all(&mut self) {
        for at in 0..self.containers.len() {
            self.kill(at);
        }
    }

    fn kill_round(&mut self, at: usize, round: u32) {
        let (id, init) = (self.containers[at].view.id.clone(), self.init(at));
        self.push(effect::kill_round(Arc::clone(&self.pod), self.client(), id, init, round));
    }

    /// `end` is how it ended, when that could be found out without the supervisor's word.
    pub(super) async fn kill_checked(&mut self, id: &ContainerId, end: Option<Exit>) {
        let Some(at) = self.find(id) else { return };
        if self.containers[at].view.state.is_exited() {
            return;
        }
        if let Some(end) = end {
            return self.exited(at, end).await;
        }
        let Some(rounds) = self.containers[at].stop.as_mut().and_then(|stop| stop.rounds.as_mut()) else {
            return;
        };
        *rounds += 1;
        let round = *rounds;
        if round == KILL_ROUNDS_QUIET_MAX {
            self.report_undying(at);
        }
        self.kill_round(at, round);
    }

    /// A process in uninterruptible sleep: those who wait are told, and nobody else is held up.
    fn report_undying(&mut self, at: usize) {
        let view = Arc::clone(&self.containers[at].view);
        error!(pod = %self.pod.id, container = %view.id, pid = view.state.pid(), "container does not die");
        let late = || {
            Error::Supervisor(Failure {
                stage: Stage::Deadline,
                object: format!("kill of container {}", view.id),
                errno: 0,
                path: String::new(),
                text: format!("process {} does not end", view.state.pid().unwrap_or(0)),
            })
        };
        let container = &mut self.containers[at];
        let mut waiting =
            container.stop.as_mut().map(|stop| std::mem::take(&mut stop.replies)).unwrap_or_default();
        if let Removal::AfterExit(replies) = &mut container.removal {
            waiting.append(replies);
        }
        send_all(waiting.into_iter(), late());
        if self.state == PodState::Stopping {
            self.fail_pod_calls(late());
        }
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

    async fn exited(&mut self, at: usize, exit: Exit) {
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
        let path = record::container_file(&self.pod.folder, &next.id);
        let written = record::put(path, ContainerRecord::of(&next)).await;
        if let Err(error) = &written {
            error!(pod = %self.pod.id, container = %next.id, error = %chain(error), "could not write the record");
        }
        self.containers[at].view = Arc::new(next);
        self.publish();
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
        self.containers.remove(at);
        self.publish();
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
