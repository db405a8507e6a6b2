//! One task owns one pod: its mailbox, its effects, its record and its view.
//!
//! A call is decided at once; whatever takes time (the supervisor, an image, the network, a process that will
//! not die) is an effect, polled by this same task beside the mailbox. So a stop is decided while a create
//! hangs, and no state is ever shared or locked. Each decision is written before the next one is taken.
//!
//! This file has the loop and what concerns the pod as a whole; `container.rs` the containers' half;
//! `effect.rs` what takes time.

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tracing::{error, info, warn};

use super::{
    container::{Container, Making},
    effect::{self, Done, Effect, TearDownError},
    error::{Error, chain},
    node::{Line, Node, Reach},
    owed,
    record::{self, PodRecord},
    state::{PodInput, PodState},
    view::PodView,
};
use crate::{
    cgroup,
    model::{ContainerConfig, ContainerId, Failure, PodConfig, PodId, Stage, UnixNanos},
    network::Attachment,
    supervisor::{Client, ContainerFacts, Event},
};

/// Calls that wait for a driver's attention: a moment each, so this is never full unless the disk hangs.
const MAILBOX_CALLS_MAX: usize = 256;

/// Failed releases of the network after which a stop succeeds and the release is owed: the kubelet never
/// calls RemovePodSandbox after a failed StopPodSandbox.
const RELEASES_MAX: u32 = 3;

/// Where an answer goes. The caller may be gone; the work is not.
pub(super) type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What is asked of a pod.
#[derive(Debug)]
pub(super) enum Call {
    Create { config: Box<ContainerConfig>, turn: OwnedSemaphorePermit, reply: Reply<ContainerId> },
    Start { id: ContainerId, reply: Reply<()> },
    Stop { id: ContainerId, grace: Duration, reply: Reply<()> },
    Remove { id: ContainerId, reply: Reply<()> },
    StopPod { reply: Reply<()> },
    RemovePod { reply: Reply<()> },
}

/// What a pod is for its whole life.
#[derive(Debug)]
pub(super) struct Pod {
    pub(super) node: Arc<Node>,
    pub(super) id: PodId,
    pub(super) config: Arc<PodConfig>,
    pub(super) created_at: UnixNanos,
    /// Its folder under the state directory.
    pub(super) folder: PathBuf,
    /// `None`: it had none, or the machine was restarted since.
    pub(super) cgroup: Option<cgroup::Handle>,
    pub(super) line: Arc<Line>,
}

/// The way to the supervisor.
#[derive(Debug)]
pub(super) enum Link {
    Up(Client),
    /// It may live; we are trying to reach it.
    Lost,
    /// The process is gone.
    Gone,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Driver {
    pub(super) pod: Arc<Pod>,
    pub(super) state: PodState,
    pub(super) link: Link,
    /// Containers that are being made: nobody knows their ids yet.
    pub(super) making: Vec<Making>,
    /// Oldest first.
    pub(super) containers: Vec<Container>,
    pub(super) effects: FuturesUnordered<Effect>,
    attachment: Option<Attachment>,
    supervisor_pid: u32,
    calls: mpsc::Receiver<Call>,
    stop_replies: Vec<Reply<()>>,
    remove_replies: Vec<Reply<()>>,
    tear_down: TearDown,
    failed_releases: u32,
    erasing: bool,
    over: bool,
}

/// Where the end of a stopping pod stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum TearDown {
    /// Nobody asked, or the last try failed and nobody has asked since.
    Idle,
    /// Asked for; its containers are ending.
    Wanted,
    Running,
}

/// What a driver starts from.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) pod: Pod,
    pub(super) state: PodState,
    pub(super) attachment: Option<Attachment>,
    pub(super) supervisor_pid: u32,
    pub(super) containers: Vec<Container>,
}

impl Driver {
    /// A driver and how to reach it. It does nothing until `serve`.
    pub(super) fn new(start: Start) -> (Self, Reach) {
        let Start { pod, state, attachment, supervisor_pid, containers } = start;
        let (sender, calls) = mpsc::channel(MAILBOX_CALLS_MAX);
        let reach = Reach { calls: sender, line: Arc::clone(&pod.line) };
        let driver = Self {
            pod: Arc::new(pod),
            state,
            link: Link::Gone,
            making: Vec::new(),
            containers,
            effects: FuturesUnordered::new(),
            attachment,
            supervisor_pid,
            calls,
            stop_replies: Vec::new(),
            remove_replies: Vec::new(),
            tear_down: if state == PodState::Stopping { TearDown::Wanted } else { TearDown::Idle },
            failed_releases: 0,
            erasing: false,
            over: false,
        };
        (driver, reach)
    }

    /// Until the pod is removed.
    pub(super) async fn serve(mut self) {
        self.advance();
        while !self.over {
            tokio::select! {
                Some(done) = self.effects.next(), if !self.effects.is_empty() => self.settle(done).await,
                call = self.calls.recv() => match call {
                    Some(call) => self.answer(call).await,
                    None => break,
                },
            }
            self.advance();
        }
    }

    async fn answer(&mut self, call: Call) {
        match call {
            Call::Create { config, turn, reply } => self.create(*config, turn, reply),
            Call::Start { id, reply } => self.start(&id, reply),
            Call::Stop { id, grace, reply } => self.stop(&id, grace, reply),
            Call::Remove { id, reply } => self.remove(&id, reply),
            Call::StopPod { reply } => self.stop_pod(reply).await,
            Call::RemovePod { reply } => self.remove_pod(reply).await,
        }
    }

    async fn settle(&mut self, done: Done) {
        match done {
            Done::Nothing => {}
            Done::Event(Event::Exited { id, exit }) => {
                self.watch_events();
                self.exit_reported(&id, exit).await;
            }
            Done::Event(Event::Lost) => self.supervisor_lost(),
            Done::Reached(client, facts) => self.supervisor_reached(client, facts).await,
            Done::SupervisorEnded => self.supervisor_ended().await,
            Done::Made(id, made) => self.made(&id, made.map(|view| *view)).await,
            Done::Unmade(id) => self.making.retain(|making| making.id != id),
            Done::Started(id, result) => self.started(&id, result).await,
            Done::KillDue(id) => self.kill_due(&id),
            Done::KillChecked(id, end) => self.kill_checked(&id, end).await,
            Done::Erased(id, result) => self.erased(&id, result),
            Done::TornDown(result) => self.torn_down(result).await,
            Done::PodErased(result) => self.pod_erased(result),
        }
    }

    /// Does what has become possible. Called after each step, so no step has to know what waits for it.
    fn advance(&mut self) {
        if self.state == PodState::Stopping && self.tear_down == TearDown::Wanted {
            self.kill_all();
            if self.containers.iter().all(|container| container.view.state.is_exited()) {
                crate::failpoint!("pod.containers-killed");
                self.tear_down = TearDown::Running;
                self.push(effect::tear_down(Arc::clone(&self.pod), self.client()));
            }
        }
        if self.remove_replies.is_empty() || self.state != PodState::NotReady || self.erasing {
            return;
        }
        self.erase_all();
        if self.containers.is_empty() && self.making.is_empty() {
            self.erasing = true;
            self.push(effect::erase_pod(Arc::clone(&self.pod)));
        }
    }

    // ---- the pod's calls ----

    async fn stop_pod(&mut self, reply: Reply<()>) {
        self.begin_stop(PodInput::Stop).await;
        if self.state == PodState::NotReady {
            let _ = reply.send(Ok(()));
        } else {
            self.stop_replies.push(reply);
        }
    }

    async fn remove_pod(&mut self, reply: Reply<()>) {
        self.begin_stop(PodInput::Stop).await;
        self.remove_replies.push(reply);
    }

    /// The state goes first, so that no create slips in between the kill and the end.
    async fn begin_stop(&mut self, input: PodInput) {
        let Ok(next) = self.state.step(input) else { return };
        if next != self.state {
            self.state = next;
            self.write_and_publish().await;
            crate::failpoint!("pod.stopping-written");
        }
        if self.state == PodState::Stopping && self.tear_down == TearDown::Idle {
            self.tear_down = TearDown::Wanted;
        }
    }

    async fn torn_down(&mut self, result: Result<(), TearDownError>) {
        self.tear_down = TearDown::Idle;
        let pod = &self.pod.id;
        if let Err(failure) = result {
            self.failed_releases += 1;
            warn!(%pod, error = %chain(&failure.error), "stop of the pod failed");
            if self.failed_releases < RELEASES_MAX && !failure.hopeless {
                self.fail_pod_calls(failure.error);
                return;
            }
            if failure.network_held {
                owed::note(&self.pod.node, pod).await;
            }
        }
        if let Ok(next) = self.state.step(PodInput::TornDown) {
            self.state = next;
        }
        self.link = Link::Gone;
        self.pod.line.client.store(None);
        self.supervisor_pid = 0;
        self.attachment = None;
        self.write_and_publish().await;
        crate::failpoint!("pod.notready-written");
        info!(pod = %self.pod.id, "pod stopped");
        for reply in self.stop_replies.drain(..) {
            let _ = reply.send(Ok(()));
        }
    }

    fn pod_erased(&mut self, result: Result<(), Error>) {
        self.erasing = false;
        if let Err(error) = result {
            warn!(pod = %self.pod.id, error = %chain(&error), "removal of the pod failed");
            return self.fail_pod_calls(error);
        }
        let Pod { node, id, config, .. } = &*self.pod;
        // The view goes before the name: a new pod of this name is never listed beside the old one.
        node.board.withdraw(id);
        node.names().forget(&config.metadata, id);
        info!(pod = %id, "pod removed");
        self.over = true;
        for reply in self.remove_replies.drain(..).chain(self.stop_replies.drain(..)) {
            let _ = reply.send(Ok(()));
        }
    }

    /// Tells everybody who waits for the pod's end why it does not come. They will ask again.
    pub(super) fn fail_pod_calls(&mut self, error: Error) {
        send_all(self.stop_replies.drain(..).chain(self.remove_replies.drain(..)), error);
    }

    // ---- the supervisor ----

    /// A supervisor that was just made or reached; it is watched from now on.
    pub(super) fn supervise(&mut self, client: Client, pid: u32) {
        self.supervisor_pid = pid;
        self.push(effect::until_ended(client.clone()));
        self.link_up(client);
    }

    fn link_up(&mut self, client: Client) {
        self.pod.line.client.store(Some(Arc::new(client.clone())));
        self.link = Link::Up(client);
        self.watch_events();
    }

    fn watch_events(&mut self) {
        if let Link::Up(client) = &self.link {
            let effect = effect::next_event(client.clone());
            self.push(effect);
        }
    }

    fn supervisor_lost(&mut self) {
        let Link::Up(old) = std::mem::replace(&mut self.link, Link::Lost) else {
            self.link = Link::Gone;
            return;
        };
        // One that was told to end is expected to hang up.
        if matches!(self.state, PodState::Starting | PodState::Ready) {
            warn!(pod = %self.pod.id, "lost the connection to the supervisor");
        }
        self.pod.line.client.store(None);
        self.push(effect::reach(Arc::clone(&self.pod), Some(old), self.supervisor_pid));
    }

    /// For recovery: the supervisor of an earlier daemon could not be reached at once.
    pub(super) fn keep_reaching(&mut self) {
        self.link = Link::Lost;
        self.push(effect::reach(Arc::clone(&self.pod), None, self.supervisor_pid));
    }

    pub(super) async fn supervisor_reached(&mut self, client: Client, facts: Vec<ContainerFacts>) {
        if matches!(self.link, Link::Gone) {
            return;
        }
        info!(pod = %self.pod.id, "reached the supervisor");
        let pid = client.pid();
        // Not `link_up`: after a recovery nobody watches its end yet, and watching it twice is harmless.
        self.supervise(client, pid);
        self.take_facts(facts).await;
    }

    /// The namespaces went with it, and nobody will reap what is left: so nothing is left.
    pub(super) async fn supervisor_ended(&mut self) {
        if matches!(self.link, Link::Gone) {
            return;
        }
        self.link = Link::Gone;
        self.supervisor_pid = 0;
        self.pod.line.client.store(None);
        if self.tear_down == TearDown::Running {
            return;
        }
        error!(pod = %self.pod.id, "the supervisor has ended; its containers are killed");
        self.containers_orphaned().await;
        self.begin_stop(PodInput::SupervisorEnded).await;
    }

    // ---- what all use ----

    pub(super) fn client(&self) -> Option<Client> {
        match &self.link {
            Link::Up(client) => Some(client.clone()),
            Link::Lost | Link::Gone => None,
        }
    }

    /// # Errors
    /// When it cannot be reached.
    pub(super) fn reachable(&self) -> Result<Client, Error> {
        self.client().ok_or_else(|| {
            Error::Supervisor(Failure {
                stage: Stage::Connection,
                object: format!("of pod {}", self.pod.id),
                errno: 0,
                path: String::new(),
                text: String::new(),
            })
        })
    }

    /// # Errors
    /// When no container may be made or started here.
    pub(super) fn usable(&self) -> Result<(), Error> {
        let usable = self.state.step(PodInput::Use);
        usable.map(|_| ()).map_err(|refusal| Error::refused(format!("pod {}", self.pod.id), refusal))
    }

    pub(super) fn push(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub(super) fn record(&self) -> PodRecord {
        PodRecord {
            id: self.pod.id.clone(),
            boot_id: self.pod.node.boot_id.clone(),
            state: self.state,
            config: Arc::clone(&self.pod.config),
            created_at: self.pod.created_at,
            attachment: self.attachment.clone(),
            supervisor_pid: self.supervisor_pid,
        }
    }

    /// A state that cannot be written is still true: it is shown, and recovery finds it again by the facts.
    async fn write_and_publish(&mut self) {
        let path = record::pod_file(&self.pod.folder);
        if let Err(error) = record::put(path, self.record()).await {
            error!(pod = %self.pod.id, error = %chain(&error), "could not write the pod's record");
        }
        self.publish();
    }

    pub(super) fn publish(&self) {
        self.pod.node.board.publish(PodView {
            id: self.pod.id.clone(),
            config: Arc::clone(&self.pod.config),
            ready: self.state == PodState::Ready,
            created_at: self.pod.created_at,
            attachment: self.attachment.clone(),
            supervisor_pid: self.supervisor_pid,
            containers: self.containers.iter().map(|container| Arc::clone(&container.view)).collect(),
        });
    }
}

/// One error for all who wait.
pub(super) fn send_all<T>(replies: impl Iterator<Item = Reply<T>>, error: Error) {
    let mut replies = replies.peekable();
    let Some(first) = replies.next() else { return };
    if replies.peek().is_none() {
        let _ = first.send(Err(error));
        return;
    }
    let error = Arc::new(error);
    for reply in std::iter::once(first).chain(replies) {
        let _ = reply.send(Err(Error::Shared(Arc::clone(&error))));
    }
}
