//! One task owns one pod: its mailbox, its effects, its record and its view.
//!
//! A call is decided at once; whatever takes time (the supervisor, an image, the network, a process that will
//! not die) is an effect, polled by this same task beside the mailbox. So a stop is decided while a create
//! hangs, and no state is ever shared or locked. Each decision is written before the next one is taken.
//!
//! This file has the loop and what concerns the pod as a whole; `container.rs` and `stop.rs` the containers'
//! half; `effect.rs` and `make.rs` what takes time.

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::sync::{mpsc, oneshot};
use tracing::{error, info, warn};

use super::{
    announce::Change,
    container::{Container, PendingContainer},
    effect::{self, Done, Effect, TearDownError},
    error::{Error, chain},
    keep::{self, PodRecord, owed},
    node::{Node, Reach, SupervisorAccess},
    state::{PodInput, PodState},
    update::Queue,
    view::PodView,
};
use crate::{
    cgroup,
    model::{
        ContainerConfig, ContainerId, Failure, PodConfig, PodId, PodLimits, Resources, Stage, UnixNanos,
    },
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
    Create { config: Box<ContainerConfig>, reply: Reply<ContainerId> },
    Start { id: ContainerId, reply: Reply<()> },
    Stop { id: ContainerId, grace: Duration, reply: Reply<()> },
    Remove { id: ContainerId, reply: Reply<()> },
    Update { id: ContainerId, change: Box<Resources>, reply: Reply<()> },
    UpdatePod { change: Box<PodLimits>, reply: Reply<()> },
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
    pub(super) access: Arc<SupervisorAccess>,
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
    pub(super) making: Vec<PendingContainer>,
    /// Oldest first.
    pub(super) containers: Vec<Container>,
    pub(super) effects: FuturesUnordered<Effect>,
    pub(super) limits: PodLimits,
    pub(super) updates: Queue<PodLimits>,
    attachment: Option<Attachment>,
    pub(super) supervisor_pid: u32,
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
    pub(super) limits: PodLimits,
    pub(super) attachment: Option<Attachment>,
    pub(super) supervisor_pid: u32,
    pub(super) containers: Vec<Container>,
}

impl Driver {
    /// A driver and how to reach it. It does nothing until `serve`.
    pub(super) fn new(start: Start) -> (Self, Reach) {
        let Start { pod, state, limits, attachment, supervisor_pid, containers } = start;
        let (sender, calls) = mpsc::channel(MAILBOX_CALLS_MAX);
        let reach = Reach { calls: sender, access: Arc::clone(&pod.access) };
        let driver = Self {
            pod: Arc::new(pod),
            state,
            link: Link::Gone,
            making: Vec::new(),
            containers,
            effects: FuturesUnordered::new(),
            limits,
            updates: Queue::default(),
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

    pub(super) async fn answer(&mut self, call: Call) {
        match call {
            Call::Create { config, reply } => self.create(*config, reply),
            Call::Start { id, reply } => self.start(&id, reply),
            Call::Stop { id, grace, reply } => self.stop(&id, grace, reply),
            Call::Remove { id, reply } => self.remove(&id, reply),
            Call::Update { id, change, reply } => self.update(&id, *change, reply),
            Call::UpdatePod { change, reply } => self.update_pod(*change, reply),
            Call::StopPod { reply } => self.stop_pod(reply).await,
            Call::RemovePod { reply } => self.remove_pod(reply).await,
        }
    }

    pub(super) async fn settle(&mut self, done: Done) {
        match done {
            Done::Nothing => {}
            Done::Event(Event::Exited { id, exit }) => {
                self.watch_events();
                self.exit_reported(&id, exit).await;
            }
            Done::Event(Event::Lost) => self.supervisor_lost(),
            Done::Reached(client, facts) => self.supervisor_reached(client, facts).await,
            Done::SupervisorEnded => self.supervisor_ended().await,
            Done::Turn(id, turn) => self.begin_create(&id, turn),
            Done::Made(id, made) => self.made(&id, made.map(|view| *view)).await,
            Done::Unmade(id) => self.making.retain(|making| making.id != id),
            Done::Started(id, result) => self.started(&id, result).await,
            Done::KillDue(id) => self.kill_due(&id),
            Done::KillChecked(id, end) => self.kill_checked(&id, end).await,
            Done::Updated(id, made) => self.updated(&id, made).await,
            Done::PodUpdated(made) => self.pod_updated(made).await,
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
            self.drop_queued();
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
        self.pod.access.set_client(None);
        self.supervisor_pid = 0;
        self.attachment = None;
        self.write_and_publish().await;
        self.tell(None, Change::Stopped);
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
        self.tell(None, Change::Deleted);
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
        self.pod.access.set_client(Some(client.clone()));
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
        self.pod.access.set_client(None);
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
        self.pod.access.set_client(None);
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
            limits: Some(self.limits.clone()),
        }
    }

    /// A state that cannot be written is still true: it is shown, and recovery finds it again by the facts.
    async fn write_and_publish(&mut self) {
        let path = keep::pod_file(&self.pod.folder);
        if let Err(error) = keep::put(path, self.record()).await {
            error!(pod = %self.pod.id, error = %chain(&error), "could not write the pod's record");
        }
        self.publish();
    }

    pub(super) fn publish(&self) {
        self.pod.node.board.publish(self.view());
    }

    pub(super) fn view(&self) -> PodView {
        PodView {
            id: self.pod.id.clone(),
            config: Arc::clone(&self.pod.config),
            ready: self.state == PodState::Ready,
            created_at: self.pod.created_at,
            attachment: self.attachment.clone(),
            supervisor_pid: self.supervisor_pid,
            limits: self.limits.clone(),
            cgroup: self.pod.cgroup.clone(),
            containers: self.containers.iter().map(|container| Arc::clone(&container.view)).collect(),
        }
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

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use futures_util::FutureExt;

    use super::*;
    use crate::{
        cgroup,
        image::{self, Images},
        model::{Exit, ExitReason, ResolvedUser},
        network::{self, Network},
        pod::{
            Config, ContainerState, ContainerView,
            keep::{Made, Places},
        },
        store,
    };

    /// A node in a folder of its own: no processes, no cgroups, no network.
    pub(in crate::pod) fn node(folder: &Path) -> Arc<Node> {
        node_with(folder, Config::default())
    }

    fn node_with(folder: &Path, config: Config) -> Arc<Node> {
        let (state, root) = (folder.join("run"), folder.join("lib"));
        let images = Images::open(&folder.join("images"), &image::Config::default()).unwrap();
        let network = Network::open(&network::Config::default(), &folder.join("leases")).unwrap();
        let places = Places { state, root };
        places.make().unwrap();
        let boot_id = "this boot".to_owned();
        Arc::new(Node::on(cgroups(), network, images, places, boot_id, config))
    }

    fn cgroups() -> cgroup::Manager {
        cgroup::Manager::Fake
    }

    /// With the host's network, so that nothing is released anywhere.
    pub(in crate::pod) fn pod_config(name: &str) -> PodConfig {
        let mut config = PodConfig::default();
        config.metadata.name = name.into();
        config.namespaces.network = crate::model::NetworkMode::Node;
        config
    }

    pub(in crate::pod) fn driver(
        node: &Arc<Node>,
        state: PodState,
        containers: &[(u8, ContainerState)],
    ) -> Driver {
        let id = PodId::from_bytes([0xab; 32]);
        let folder = node.places.live(&id);
        keep::make_folder(&folder).unwrap();
        keep::make_folder(&node.places.known(&id)).unwrap();
        let containers = containers
            .iter()
            .map(|(byte, state)| Container::new(ContainerView::fake(&id, *byte, state.clone())))
            .collect();
        let config = Arc::new(pod_config("web"));
        let (mut driver, reach) = Driver::new(Start {
            pod: Pod {
                node: Arc::clone(node),
                id: id.clone(),
                config: Arc::clone(&config),
                created_at: UnixNanos(1),
                folder,
                cgroup: None,
                access: Arc::default(),
            },
            state,
            limits: PodLimits::default(),
            attachment: None,
            supervisor_pid: 0,
            containers,
        });
        driver.link = Link::Lost;
        driver.publish();
        node.names().hold(&config.metadata, id, reach);
        driver
    }

    pub(in crate::pod) const RUNNING: ContainerState =
        ContainerState::Running { pid: u32::MAX, started_at: UnixNanos(5) };

    pub(in crate::pod) fn exited(code: i32) -> Exit {
        Exit { code, reason: ExitReason::Error, at: UnixNanos(9), message: String::new() }
    }

    pub(in crate::pod) fn id(byte: u8) -> ContainerId {
        ContainerId::from_bytes([byte; 32])
    }

    pub(in crate::pod) fn asked<T>() -> (Reply<T>, oneshot::Receiver<Result<T, Error>>) {
        oneshot::channel()
    }

    fn state_shown(node: &Node, byte: u8) -> ContainerState {
        node.board.view().container(id(byte).as_str()).unwrap().state.clone()
    }

    #[tokio::test]
    async fn a_stop_returns_when_the_exit_is_written_and_shown() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(folder.path());
        let mut driver = driver(&node, PodState::Ready, &[(1, RUNNING)]);
        let (reply, mut answer) = asked();
        driver.answer(Call::Stop { id: id(1), grace: Duration::from_secs(60), reply }).await;
        assert!(answer.try_recv().is_err());
        driver.settle(Done::Event(Event::Exited { id: id(1), exit: exited(143) })).await;
        answer.try_recv().unwrap().unwrap();
        let expected = ContainerState::Exited { started_at: Some(UnixNanos(5)), exit: exited(143) };
        assert_eq!(state_shown(&node, 1), expected);
        let path = keep::container_file(&driver.pod.folder, &id(1));
        let written: keep::ContainerRecord = store::get(&path).unwrap();
        assert_eq!(written.made, Some(Made { state: expected, user: ResolvedUser::default() }));
    }

    #[tokio::test]
    async fn stop_and_remove_of_what_is_not_there_succeed_and_start_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(folder.path());
        let gone = ContainerState::Exited { started_at: None, exit: exited(1) };
        let mut driver = driver(&node, PodState::Ready, &[(1, gone)]);
        for target in [1, 2] {
            let (reply, mut answer) = asked();
            driver.answer(Call::Stop { id: id(target), grace: Duration::ZERO, reply }).await;
            answer.try_recv().unwrap().unwrap();
        }
        let (reply, mut answer) = asked();
        driver.answer(Call::Remove { id: id(2), reply }).await;
        answer.try_recv().unwrap().unwrap();
        let (reply, mut answer) = asked();
        driver.answer(Call::Start { id: id(2), reply }).await;
        assert!(matches!(answer.try_recv().unwrap(), Err(Error::NoSuchContainer(_))));
        let (reply, mut answer) = asked();
        driver.answer(Call::Start { id: id(1), reply }).await;
        assert!(matches!(answer.try_recv().unwrap(), Err(Error::WrongState { state: "exited", .. })));
    }

    #[tokio::test]
    async fn a_dead_supervisor_ends_its_containers_and_then_its_pod() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(folder.path());
        let done = ContainerState::Exited { started_at: None, exit: exited(7) };
        let mut driver = driver(&node, PodState::Ready, &[(1, RUNNING), (2, done.clone())]);
        driver.settle(Done::SupervisorEnded).await;
        let ContainerState::Exited { started_at, exit } = state_shown(&node, 1) else { panic!() };
        assert_eq!(
            (started_at, exit.code, exit.reason),
            (Some(UnixNanos(5)), 137, ExitReason::SupervisorDied)
        );
        assert_eq!(state_shown(&node, 2), done);
        assert!(!node.board.view().pods[0].ready);
        let (reply, mut answer) = asked();
        driver.answer(Call::StopPod { reply }).await;
        driver.advance();
        while driver.state != PodState::NotReady {
            let done = driver.effects.next().await.unwrap();
            driver.settle(done).await;
            driver.advance();
        }
        answer.try_recv().unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_removed_pod_leaves_no_file_no_name_and_no_view() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(folder.path());
        let mut driver = driver(&node, PodState::Ready, &[(1, RUNNING), (2, RUNNING)]);
        driver.write_and_publish().await;
        driver.settle(Done::SupervisorEnded).await;
        let (reply, answer) = asked();
        driver.answer(Call::RemovePod { reply }).await;
        driver.serve().await;
        answer.await.unwrap().unwrap();
        assert_eq!(node.board.view().pods.len(), 0);
        assert!(node.names().claim_of(&pod_config("web").metadata).is_none());
        for pods in [node.places.live_pods(), node.places.known_pods()] {
            assert_eq!(std::fs::read_dir(pods).unwrap().count(), 0);
        }
    }

    #[tokio::test]
    async fn a_failed_release_fails_the_stop_twice_and_is_owed_the_third_time() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(folder.path());
        let mut driver = driver(&node, PodState::Ready, &[]);
        let failure = || {
            let error = Error::Invalid("plugin is down".into());
            Done::TornDown(Err(TearDownError { error, network_held: true, hopeless: false }))
        };
        for round in 1..=RELEASES_MAX {
            let (reply, mut answer) = asked();
            driver.answer(Call::StopPod { reply }).await;
            driver.advance();
            assert_eq!(driver.tear_down, TearDown::Running);
            driver.settle(failure()).await;
            assert_eq!(answer.try_recv().unwrap().is_ok(), round == RELEASES_MAX, "round {round}");
        }
        assert_eq!(driver.state, PodState::NotReady);
        assert_eq!(owed::list(&node), [driver.pod.id.clone()]);
    }

    #[tokio::test]
    async fn a_failed_start_is_an_exit_with_its_cause() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(folder.path());
        let mut driver = driver(&node, PodState::Ready, &[(1, ContainerState::Created { pid: u32::MAX })]);
        let failure = Failure {
            stage: Stage::Execve,
            object: String::new(),
            errno: 2,
            path: "/bin/nope".into(),
            text: String::new(),
        };
        // The init ends too, and may be reported first.
        driver.settle(Done::Event(Event::Exited { id: id(1), exit: exited(255) })).await;
        driver.settle(Done::Started(id(1), Err(failure.clone()))).await;
        let ContainerState::Exited { started_at: None, exit } = state_shown(&node, 1) else { panic!() };
        assert_eq!(
            (exit.code, exit.reason, exit.message),
            (128, ExitReason::StartError, failure.to_string())
        );
    }

    #[tokio::test]
    async fn a_pod_that_is_being_stopped_takes_no_container_and_starts_none() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(folder.path());
        let mut driver = driver(&node, PodState::Ready, &[(1, ContainerState::Created { pid: u32::MAX })]);
        let (reply, _answer) = asked();
        driver.answer(Call::StopPod { reply }).await;
        let (reply, mut answer) = asked();
        driver.answer(Call::Create { config: Box::default(), reply }).await;
        assert!(matches!(answer.try_recv().unwrap(), Err(Error::WrongState { state: "being stopped", .. })));
        let (reply, mut answer) = asked();
        driver.answer(Call::Start { id: id(1), reply }).await;
        assert!(matches!(answer.try_recv().unwrap(), Err(Error::WrongState { state: "being stopped", .. })));
    }

    #[tokio::test]
    async fn a_retried_create_gets_the_id_of_the_first_and_another_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(folder.path());
        let mut driver = driver(&node, PodState::Ready, &[(1, ContainerState::Created { pid: u32::MAX })]);
        let config = (*driver.containers[0].view.config).clone();
        let other = ContainerConfig { tty: true, ..config.clone() };
        for (config, same) in [(config, true), (other, false)] {
            let (reply, mut answer) = asked();
            driver.answer(Call::Create { config: Box::new(config), reply }).await;
            assert_eq!(answer.try_recv().unwrap().ok(), same.then(|| id(1)));
        }
    }

    #[tokio::test]
    async fn a_retried_create_joins_the_first_in_the_queue_and_a_stop_ends_both() {
        let folder = tempfile::tempdir().unwrap();
        let limits = Config { creates_running_max: 1, creates_waiting_max: 1, ..Config::default() };
        let node = node_with(folder.path(), limits);
        let mut driver = driver(&node, PodState::Ready, &[]);
        let _busy = node.creates.enter().await.unwrap();
        let named = |name: &str| {
            let mut config = Box::<ContainerConfig>::default();
            config.metadata.name = name.into();
            config
        };
        let mut answers = Vec::new();
        for name in ["main", "main", "other"] {
            let (reply, answer) = asked();
            driver.answer(Call::Create { config: named(name), reply }).await;
            while let Some(Some(done)) = driver.effects.next().now_or_never() {
                driver.settle(done).await;
            }
            answers.push(answer);
        }
        assert!(matches!(answers[2].try_recv().unwrap(), Err(Error::Busy { waiting: 1 })));
        assert!(answers[0].try_recv().is_err() && answers[1].try_recv().is_err(), "they wait, and together");

        let (reply, _answer) = asked();
        driver.answer(Call::StopPod { reply }).await;
        for mut answer in answers.drain(..2) {
            let Err(Error::Shared(error)) = answer.try_recv().unwrap() else { panic!("one error for both") };
            assert!(matches!(*error, Error::WrongState { state: "being stopped", .. }), "{error}");
        }
        assert!(driver.making.is_empty());
    }

    #[tokio::test]
    async fn facts_of_a_supervisor_win_over_what_was_believed() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(folder.path());
        let created = ContainerState::Created { pid: 40 };
        let mut driver =
            driver(&node, PodState::Ready, &[(1, created.clone()), (2, RUNNING), (3, RUNNING), (4, created)]);
        let fact = |byte, started_at, exit| ContainerFacts {
            id: id(byte),
            pid: 40,
            user: ResolvedUser::default(),
            started_at,
            exit,
        };
        let at = Some(UnixNanos(5));
        driver
            .take_facts(vec![fact(1, at, None), fact(2, at, Some(exited(3))), fact(4, at, Some(exited(4)))])
            .await;
        assert_eq!(state_shown(&node, 1), ContainerState::Running { pid: 40, started_at: UnixNanos(5) });
        assert_eq!(state_shown(&node, 2), ContainerState::Exited { started_at: at, exit: exited(3) });
        let ContainerState::Exited { exit, .. } = state_shown(&node, 3) else { panic!() };
        assert_eq!((exit.code, exit.reason), (255, ExitReason::Unknown));
        assert_eq!(state_shown(&node, 4), ContainerState::Exited { started_at: at, exit: exited(4) });
    }
}
