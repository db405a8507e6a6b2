//! One task drives one pod: it takes what happens, tells the ledger, and carries out what the ledger orders.
//!
//! What takes time is polled by this same task beside the mailbox. So a stop is decided while a create hangs,
//! and no state is ever shared or locked.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time,
};
use tracing::{error, warn};

use super::{
    log,
    pod::Pod,
    records::write_record,
    work::{self, Leftovers, Means, Report, Running},
};
use crate::{
    model::ContainerId,
    pod::{
        life::{self, Input, Ledger, Order, Outcome, PodPhase, Recovered, Ticket, Work},
        reach::{Mail, Reach, Reply},
        view::PodView,
    },
    supervisor::{self, Client, Zygote},
};

/// Calls that wait for a driver's attention: a moment each, so this is never full unless the disk hangs.
const MAILBOX_CALLS_MAX: usize = 256;

/// The longest that a timer is set for at once.
const TIMER_MAX: Duration = Duration::from_secs(86_400);

/// The driver of one pod. See the module.
#[derive(Debug)]
pub(in crate::pod) struct Driver {
    pod: Arc<Pod>,
    ledger: Ledger,
    /// The supervisor, while there is a connection.
    client: Option<Client>,
    /// The supervisor to which the connection was lost, until somebody tries to reach it.
    lost: Option<Client>,
    work: FuturesUnordered<Running>,
    calls: mpsc::Receiver<Mail>,
    waiting: HashMap<Ticket, Reply>,
    tickets: u64,
    /// Of the containers that are to be made now.
    turns: HashMap<ContainerId, OwnedSemaphorePermit>,
    /// Where the supervisor of a pod that is to be made comes from.
    zygote: Option<Arc<Zygote>>,
    leftovers: Option<Leftovers>,
    /// Dropped once it is known whether the supervisor of an earlier daemon answers.
    finding_out: Option<oneshot::Sender<()>>,
}

impl Driver {
    /// The driver of a pod that is to be made, and how to reach it.
    pub(in crate::pod) fn of_new(pod: Pod, zygote: Arc<Zygote>) -> (Self, Reach) {
        let (ledger, orders) = Ledger::new(pod.facts());
        let (mut driver, reach) = Self::with(pod, ledger);
        driver.zygote = Some(zygote);
        driver.carry_out_all(orders);
        (driver, reach)
    }

    /// The driver of a pod of an earlier daemon, which is shown at once. The receiver ends when it is known
    /// whether its supervisor answers.
    pub(in crate::pod) fn of_recovered(pod: Pod, found: Recovered) -> (Self, Reach, oneshot::Receiver<()>) {
        let (ledger, orders) = Ledger::recovered(pod.facts(), found, Instant::now());
        let (mut driver, reach) = Self::with(pod, ledger);
        let (sender, known) = oneshot::channel();
        driver.finding_out = Some(sender);
        driver.carry_out_all(orders);
        driver.settle();
        (driver, reach, known)
    }

    fn with(pod: Pod, ledger: Ledger) -> (Self, Reach) {
        let (sender, calls) = mpsc::channel(MAILBOX_CALLS_MAX);
        let reach = Reach { calls: sender, access: Arc::clone(&pod.access) };
        let driver = Self {
            pod: Arc::new(pod),
            ledger,
            client: None,
            lost: None,
            work: FuturesUnordered::new(),
            calls,
            waiting: HashMap::new(),
            tickets: 0,
            turns: HashMap::new(),
            zygote: None,
            leftovers: None,
            finding_out: None,
        };
        (driver, reach)
    }

    /// Until the pod is removed.
    pub(in crate::pod) async fn serve(mut self) {
        while !self.ledger.is_over() {
            let Some(input) = self.next().await else { return };
            self.apply(input).await;
        }
    }

    /// As `serve`, beginning with a call.
    pub(in crate::pod) async fn serve_first(mut self, first: Option<Mail>) {
        if let Some(mail) = first {
            let input = self.opened(mail);
            self.apply(input).await;
        }
        self.serve().await;
    }

    /// As `serve`, with a turn that is held until it is known whether its supervisor answers.
    pub(in crate::pod) async fn serve_in<T>(mut self, turn: T) {
        while self.ledger.is_finding_out() {
            let Some(input) = self.next().await else { return };
            self.apply(input).await;
        }
        drop(turn);
        self.serve().await;
    }

    /// The next thing that happens. `None`: nothing can any more.
    async fn next(&mut self) -> Option<Input> {
        loop {
            let wake = self.ledger.wake_at().map(|at| at.min(Instant::now() + TIMER_MAX));
            let takes_calls = !self.ledger.is_finding_out();
            let input = tokio::select! {
                Some(report) = self.work.next(), if !self.work.is_empty() => self.reported(report),
                mail = self.calls.recv(), if takes_calls => match mail {
                    Some(mail) => Some(self.opened(mail)),
                    None => return None,
                },
                event = next_event(self.client.as_ref()) => Some(self.heard(event)),
                () = end_of(self.client.as_ref()) => Some(self.supervisor_ended()),
                () = sleep_until(wake) => Some(Input::Time),
            };
            if let Some(input) = input {
                return Some(input);
            }
        }
    }

    /// Decide, write, do, show, answer.
    async fn apply(&mut self, input: Input) {
        let answered = self.waiting.values().any(|reply| !reply.is_closed());
        log::input(&self.pod.id, &input, answered);
        let orders = self.ledger.apply(input, Instant::now());
        self.carry_out(orders).await;
        self.settle();
    }

    async fn carry_out(&mut self, orders: Vec<Order>) {
        let mut orders = VecDeque::from(orders);
        let mut written = VecDeque::new();
        loop {
            while let Some(order) = orders.pop_front() {
                if let Order::Write(write) = order {
                    let which = write.written();
                    let result = write_record(&self.pod, write).await;
                    written.push_back(Input::Written(which, result));
                } else {
                    self.carry_out_one(order);
                }
            }
            let Some(input) = written.pop_front() else { return };
            orders.extend(self.ledger.apply(input, Instant::now()));
        }
    }

    /// Orders among which there is no write.
    fn carry_out_all(&mut self, orders: Vec<Order>) {
        orders.into_iter().for_each(|order| self.carry_out_one(order));
    }

    fn carry_out_one(&mut self, order: Order) {
        match order {
            Order::Write(write) => {
                error!(pod = %self.pod.id, ?write, "a record is not written: nobody waits")
            }
            Order::Work(work) => self.begin(work),
            Order::Show(view) => self.pod.node.board.publish(PodView::clone(&view)),
            Order::Announce(event) => {
                log::event(&self.pod, &event);
                let weight = life::weight(&event);
                self.pod.node.events.publish(event, weight);
            }
            Order::Withdraw => {
                let Pod { node, id, config, .. } = &*self.pod;
                node.board.withdraw(id);
                node.names().forget(&config.metadata, id);
                node.selinux.free(id);
            }
            Order::Reply(ticket, answer) => {
                if let Some(reply) = self.waiting.remove(&ticket) {
                    // A caller that is gone has no more use for it.
                    let _unread = reply.send(answer);
                }
            }
            Order::Notice(notice) => log::notice(&self.pod.id, &notice),
        }
    }

    fn begin(&mut self, work: Work) {
        let means = Means {
            client: self.client.clone(),
            lost: if let Work::Reach { .. } = work { self.lost.take() } else { None },
            zygote: if let Work::MakePod = work { self.zygote.take() } else { None },
            leftovers: if let Work::UndoPod = work { self.leftovers.take() } else { None },
            turn: if let Work::MakeContainer { id, .. } = &work { self.turns.remove(id) } else { None },
            pod: Arc::clone(&self.pod),
        };
        self.work.push(work::begin(work, means));
    }

    /// What the driver itself holds follows the ledger.
    fn settle(&mut self) {
        // Turns that came too late.
        self.turns.clear();
        if !self.ledger.is_finding_out() {
            self.finding_out = None;
        }
        if self.ledger.phase() == Some(PodPhase::NotReady) {
            self.hang_up();
        }
    }

    fn hang_up(&mut self) {
        if self.client.take().is_some() {
            self.pod.access.set_client(None);
        }
    }

    // ---- what happens ----

    fn opened(&mut self, mail: Mail) -> Input {
        let Mail { call, reply } = mail;
        let ticket = Ticket(self.tickets);
        self.tickets += 1;
        self.waiting.insert(ticket, reply);
        Input::Call(ticket, call)
    }

    fn reported(&mut self, report: Report) -> Option<Input> {
        match report {
            Report::Nothing => None,
            Report::Outcome(outcome) => Some(Input::Done(outcome)),
            Report::Connected(client, outcome) => {
                if let Outcome::PodMade(Ok(made)) = &outcome {
                    self.pod = Arc::new(Pod { cgroup: Some(made.cgroup.clone()), ..Pod::clone(&self.pod) });
                }
                self.pod.access.set_client(Some(client.clone()));
                self.client = Some(client);
                Some(Input::Done(outcome))
            }
            Report::Turn(id, turn) => {
                self.turns.insert(id.clone(), turn);
                Some(Input::Done(Outcome::Turn(id, Ok(()))))
            }
            Report::SupervisorEnded => Some(self.supervisor_ended()),
            Report::PodFailed(leftovers, error) => {
                self.leftovers = Some(leftovers);
                Some(Input::Done(Outcome::PodMade(Err(error))))
            }
        }
    }

    fn heard(&mut self, event: supervisor::Event) -> Input {
        match event {
            supervisor::Event::Exited { id, exit } => {
                crate::failpoint!("container.exit-seen");
                Input::Exited(id, exit)
            }
            supervisor::Event::Lost => {
                // One that was asked to end is expected to hang up.
                if self.ledger.phase() == Some(PodPhase::Ready) {
                    warn!(pod = %self.pod.id, "lost the connection to the supervisor");
                }
                self.lost = self.client.take();
                self.pod.access.set_client(None);
                Input::SupervisorLost
            }
        }
    }

    fn supervisor_ended(&mut self) -> Input {
        // One that was asked to end is expected to.
        if self.ledger.phase() == Some(PodPhase::Ready) {
            error!(pod = %self.pod.id, "the supervisor has ended; its containers are killed");
        }
        self.hang_up();
        Input::SupervisorEnded
    }
}

async fn next_event(client: Option<&Client>) -> supervisor::Event {
    match client {
        Some(client) => client.event().await,
        None => std::future::pending().await,
    }
}

async fn end_of(client: Option<&Client>) {
    match client {
        Some(client) => client.ended().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(wake: Option<Instant>) {
    match wake {
        Some(wake) => time::sleep_until(wake.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        cgroup,
        model::{HugepageLimit, PodId, PodLimits, Resources, UnixNanos},
        pod::{
            error::Error,
            keep::{self, ContainerRecord},
            life::{Answer, Call, Remembered},
            node::Node,
            view::{ContainerState, ContainerView, fake_config},
        },
        store,
    };

    const RUNNING: ContainerState = ContainerState::Running { pid: u32::MAX, started_at: UnixNanos(5) };

    fn id(byte: u8) -> ContainerId {
        ContainerId::from_bytes([byte; 32])
    }

    /// A ready pod of an earlier daemon, with running containers, in cgroups that have no controller. Its
    /// supervisor is gone.
    fn recovered(folder: &Path, containers: &[u8]) -> (Driver, Reach) {
        let node = Node::fake(folder);
        let pod_id = PodId::from_bytes([0xab; 32]);
        let live = node.places.live(&pod_id);
        keep::make_folder(&live).unwrap();
        keep::make_folder(&node.places.known(&pod_id)).unwrap();
        let remembered = containers.iter().map(|byte| Remembered {
            view: ContainerView::fake(&pod_id, *byte, RUNNING),
            starting: false,
            unheard_end: false,
        });
        let found = Recovered {
            phase: PodPhase::Ready,
            attachment: None,
            supervisor_pid: i32::MAX.cast_unsigned(),
            limits: PodLimits::default(),
            containers: remembered.collect(),
            leftovers: Vec::new(),
            foreign: [].into(),
        };
        let pod = Pod {
            config: Arc::new(fake_config("web")),
            created_at: UnixNanos(1),
            folder: live,
            cgroup: Some(cgroup::Handle::fake(&pod_id)),
            access: Arc::default(),
            node: Arc::clone(&node),
            id: pod_id.clone(),
        };
        let name = pod.config.metadata.clone();
        let (driver, reach, _known) = Driver::of_recovered(pod, found);
        node.names().hold(&name, pod_id, reach.clone());
        (driver, reach)
    }

    async fn ask(reach: &Reach, call: Call) -> oneshot::Receiver<Result<Answer, Error>> {
        let (reply, answer) = oneshot::channel();
        reach.calls.send(Mail { call, reply }).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_removed_pod_leaves_no_file_no_name_and_no_view() {
        let folder = tempfile::tempdir().unwrap();
        let (driver, reach) = recovered(folder.path(), &[1, 2]);
        let node = Arc::clone(&driver.pod.node);
        assert_eq!(node.board.view().pods[0].containers.len(), 2);
        let answer = ask(&reach, Call::RemovePod).await;
        driver.serve().await;
        answer.await.unwrap().unwrap();
        assert_eq!(node.board.view().pods.len(), 0);
        assert!(node.names().holder(&fake_config("web").metadata).is_none());
        for pods in [node.places.live_pods(), node.places.known_pods()] {
            assert_eq!(std::fs::read_dir(pods).unwrap().count(), 0);
        }
    }

    /// Without the controller this asks for nothing, so it is granted.
    fn granted() -> Resources {
        let hugepages = vec![HugepageLimit { page_size: "2MB".into(), limit_bytes: 0 }];
        Resources { hugepages, ..Resources::default() }
    }

    async fn update(driver: &mut Driver, change: Resources) -> Result<Answer, Error> {
        let (reply, mut answer) = oneshot::channel();
        let call = Call::Update { id: id(1), change: Box::new(change) };
        let mut input = driver.opened(Mail { call, reply });
        loop {
            driver.apply(input).await;
            if let Ok(answer) = answer.try_recv() {
                return answer;
            }
            let report = driver.work.next().await.unwrap();
            input = driver.reported(report).unwrap_or(Input::Time);
        }
    }

    #[tokio::test]
    async fn limits_are_the_kernels_the_records_and_the_views_or_none_of_them() {
        let folder = tempfile::tempdir().unwrap();
        let (mut driver, _reach) = recovered(folder.path(), &[1]);
        // It is not asked about its supervisor, which is gone.
        driver.work.clear();
        driver.apply(Input::Done(Outcome::Silent)).await;
        driver.work.clear();
        let shown = |driver: &Driver| driver.pod.node.board.view().pods[0].containers[0].resources.clone();
        let refused = Resources { memory_bytes: 4096, ..Resources::default() };
        let error = update(&mut driver, refused).await.unwrap_err();
        assert!(matches!(error, Error::Cgroup(cgroup::Error::NoController { .. })), "{error}");
        assert_eq!(shown(&driver), Resources::default());
        update(&mut driver, granted()).await.unwrap();
        let path = keep::container_file(&driver.pod.folder, &id(1));
        let written = store::get::<ContainerRecord>(&path).unwrap().resources;
        assert_eq!((shown(&driver), written), (granted(), granted()));
        std::fs::remove_dir_all(&driver.pod.folder).unwrap();
        let hugepages = vec![HugepageLimit { page_size: "1GB".into(), limit_bytes: 0 }];
        let other = Resources { hugepages, ..Resources::default() };
        assert!(matches!(update(&mut driver, other).await, Err(Error::Io { .. })));
        assert_eq!(shown(&driver), granted());
    }
}
