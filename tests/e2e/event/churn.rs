//! Many lives at once, and followers that read all of it: what was done, what lists showed and what was told
//! must be one story.
//!
//! `PINTLE_E2E_EVENT_PODS` is how many pods, `PINTLE_E2E_FIGURES` names a file for the figures.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use super::{Follower, Kind, follow};
use crate::harness::{BUSYBOX, ContainerState, Node, figures, runner::tests, v1};
use v1::ContainerEventResponse;

tests![none_is_lost_over_churn];

/// Pods where nobody asked for more: a few seconds.
const PODS: u64 = 60;

/// Clients at once, on machines of two cores.
const CLIENTS: u64 = 3;

/// A follower compares every so many events with lists, which cost more than events.
const COMPARED_EVERY: usize = 7;

/// Between two looks at everything, so that the pods get their share of the machine.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// How long nothing comes when nothing more will.
const SILENCE: Duration = Duration::from_millis(500);

/// What was done, and how often somebody looked.
#[derive(Default)]
struct Story {
    /// Every pod and container that was made.
    made: Mutex<BTreeSet<String>>,
    /// Of all lists: each object, and whether it was seen as up.
    listed: Mutex<BTreeSet<(String, State)>>,
    over: AtomicBool,
    looks: AtomicU64,
    hang_ups: AtomicU64,
}

/// How far an object is in its life; a follower must be told of it in this order.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum State {
    Created,
    Up,
    Down,
    Gone,
}

fn none_is_lost_over_churn() {
    let pods = env::var("PINTLE_E2E_EVENT_PODS").ok().and_then(|count| count.parse().ok()).unwrap_or(PODS);
    let node = Node::start();
    node.pull(BUSYBOX);
    let (story, started) = (Story::default(), Instant::now());
    let connections = [node.connect(), node.connect()];
    let [one, two] = connections.each_ref().map(follow);
    let (mut events, mut also) = (Vec::new(), Vec::new());
    thread::scope(|scope| {
        let followers = [(one, &mut events), (two, &mut also)].map(|(follower, events)| {
            let (story, node) = (&story, &node);
            scope.spawn(move || *events = story.read(node, follower))
        });
        scope.spawn(|| story.look(&node));
        scope.spawn(|| story.come_and_go(&node));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (story, node) = (&story, &node);
                scope.spawn(move || {
                    (client..pods).step_by(CLIENTS as usize).for_each(|nth| story.lead(node, nth))
                })
            })
            .collect();
        let ended: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        story.over.store(true, Relaxed);
        ended.into_iter().for_each(|ended| ended.unwrap());
        followers.into_iter().for_each(|follower| follower.join().unwrap());
    });
    let took = started.elapsed();
    assert!(events == also, "two followers were told different stories");
    story.judge(&events);
    figures::keep(&story.figures(pods, &events, took));
    drop(connections);
    node.assert_clean();
}

impl Story {
    /// A pod with a container that ends by itself and one that has to be killed.
    fn lead(&self, node: &Node, nth: u64) {
        let pod = node.run_pod(&format!("pod-{nth}"));
        self.made.lock().unwrap().insert(pod.id.clone());
        let short = pod.run_in("short", ["true"]);
        let long = pod.run_in("long", ["sleep", "1000"]);
        self.made.lock().unwrap().extend([short.id.clone(), long.id.clone()]);
        match nth % 3 {
            0 => {
                long.kill();
                short.remove();
                long.remove();
                pod.stop();
            }
            1 => pod.stop(),
            // Everything at once.
            _ => {}
        }
        pod.remove();
    }

    /// Reads until the story is over and nothing comes any more; looks now and then whether lists agree.
    fn read(&self, node: &Node, mut follower: Follower) -> Vec<Told> {
        let mut events = Vec::new();
        loop {
            let Some(message) = follower.within(SILENCE) else {
                if self.over.load(Relaxed) {
                    return events;
                }
                continue;
            };
            let event = message.expect("the stream ended").expect("an event");
            if events.len() % COMPARED_EVERY == 0 {
                compare(node, &event);
            }
            events.push(Told::of(&event));
        }
    }

    /// What lists show, at any moment.
    fn look(&self, node: &Node) {
        while !self.over.load(Relaxed) {
            let pods = node.cri().list_pod_sandbox(v1::ListPodSandboxRequest::default()).unwrap().items;
            let containers =
                node.cri().list_containers(v1::ListContainersRequest::default()).unwrap().containers;
            let mut listed = self.listed.lock().unwrap();
            listed.extend(pods.into_iter().map(|pod| {
                let up = pod.state() == v1::PodSandboxState::SandboxReady;
                (pod.id, if up { State::Up } else { State::Down })
            }));
            listed.extend(containers.into_iter().map(|container| {
                let state = state_of(container.state());
                (container.id, state)
            }));
            drop(listed);
            self.looks.fetch_add(1, Relaxed);
            thread::sleep(LOOK_EVERY);
        }
    }

    /// A follower that hangs up after a few events, again and again.
    fn come_and_go(&self, node: &Node) {
        let cri = node.connect();
        while !self.over.load(Relaxed) {
            let mut follower = follow(&cri);
            for _ in 0..5 {
                if follower.within(Duration::from_millis(100)).is_none() {
                    break;
                }
            }
            self.hang_ups.fetch_add(1, Relaxed);
            drop(follower);
            thread::sleep(LOOK_EVERY);
        }
    }

    #[track_caller]
    fn judge(&self, events: &[Told]) {
        assert!(events.is_sorted_by(|one, other| one.at < other.at), "moments do not grow");
        let mut lives = BTreeMap::<&str, Vec<Kind>>::new();
        for event in events {
            lives.entry(&event.id).or_default().push(event.kind);
        }
        let made = self.made.lock().unwrap();
        assert_eq!(lives.keys().map(|id| (*id).to_owned()).collect::<BTreeSet<_>>(), *made);
        use Kind::{
            ContainerCreatedEvent, ContainerDeletedEvent, ContainerStartedEvent, ContainerStoppedEvent,
        };
        let life =
            [ContainerCreatedEvent, ContainerStartedEvent, ContainerStoppedEvent, ContainerDeletedEvent];
        let odd: Vec<_> = lives.iter().filter(|(_, events)| **events != life).collect();
        assert!(odd.is_empty(), "lives that were not told step by step: {odd:?}");
        // Lists show nothing that was never told.
        for (id, state) in &*self.listed.lock().unwrap() {
            assert!(lives.contains_key(id.as_str()), "{id} was listed as {state:?} and never told");
        }
        let wrong: Vec<_> = events.iter().filter(|event| !event.shows_it).collect();
        assert!(wrong.is_empty(), "events whose statuses do not show the change: {wrong:?}");
    }

    fn figures(&self, pods: u64, events: &[Told], took: Duration) -> String {
        let count = |kind| events.iter().filter(|event| event.kind == kind).count() as u64;
        let made = self.made.lock().unwrap().len() as u64;
        let rows = [
            ("pods led from run to remove", pods),
            ("containers run", made - pods),
            ("seconds", took.as_secs()),
            ("events told to each of two followers", events.len() as u64),
            ("of them created", count(Kind::ContainerCreatedEvent)),
            ("of them started", count(Kind::ContainerStartedEvent)),
            ("of them stopped", count(Kind::ContainerStoppedEvent)),
            ("of them deleted", count(Kind::ContainerDeletedEvent)),
            ("events compared with a list when they came", 2 * events.len().div_ceil(COMPARED_EVERY) as u64),
            ("looks at all lists meanwhile", self.looks.load(Relaxed)),
            ("states that they showed", self.listed.lock().unwrap().len() as u64),
            ("followers that came and hung up meanwhile", self.hang_ups.load(Relaxed)),
            ("events missing, doubled or out of order", 0),
        ];
        rows.iter().map(|(name, value)| format!("{name}: {value}\n")).collect()
    }
}

/// What is kept of an event.
#[derive(Debug, PartialEq)]
struct Told {
    id: String,
    kind: Kind,
    at: i64,
    /// Whether its statuses show what it tells.
    shows_it: bool,
}

impl Told {
    fn of(event: &ContainerEventResponse) -> Self {
        let (id, kind) = (event.container_id.clone(), event.container_event_type());
        let pod = event.pod_sandbox_status.as_ref().expect("a pod's status");
        let shown = if pod.id == id {
            // A pod that was deleted is shown as it was last.
            let up = pod.state() == v1::PodSandboxState::SandboxReady;
            if up { State::Up } else { State::Down }
        } else {
            let status = event.containers_statuses.iter().find(|status| status.id == id);
            status.map_or(State::Gone, |status| state_of(status.state()))
        };
        let shows_it = match kind {
            Kind::ContainerCreatedEvent => shown <= State::Up,
            Kind::ContainerStartedEvent => (State::Up..=State::Down).contains(&shown),
            Kind::ContainerStoppedEvent => shown == State::Down,
            Kind::ContainerDeletedEvent => shown == if pod.id == id { State::Down } else { State::Gone },
        };
        Self { id, kind, at: event.created_at, shows_it }
    }
}

fn state_of(state: ContainerState) -> State {
    match state {
        ContainerState::ContainerCreated => State::Created,
        ContainerState::ContainerRunning => State::Up,
        ContainerState::ContainerExited | ContainerState::ContainerUnknown => State::Down,
    }
}

/// A list that is asked for after an event shows at least as much.
#[track_caller]
fn compare(node: &Node, event: &ContainerEventResponse) {
    let id = event.container_id.clone();
    let events = match event.container_event_type() {
        Kind::ContainerCreatedEvent => State::Created,
        Kind::ContainerStartedEvent => State::Up,
        Kind::ContainerStoppedEvent => State::Down,
        Kind::ContainerDeletedEvent => State::Gone,
    };
    let listed = if event.pod_sandbox_status.as_ref().is_some_and(|pod| pod.id == id) {
        let filter = Some(v1::PodSandboxFilter { id: id.clone(), ..Default::default() });
        let pods = node.cri().list_pod_sandbox(v1::ListPodSandboxRequest { filter }).unwrap().items;
        pods.first().map_or(State::Gone, |pod| match pod.state() {
            v1::PodSandboxState::SandboxReady => State::Up,
            v1::PodSandboxState::SandboxNotready => State::Down,
        })
    } else {
        let filter = Some(v1::ContainerFilter { id: id.clone(), ..Default::default() });
        let containers = node.cri().list_containers(v1::ListContainersRequest { filter }).unwrap().containers;
        containers.first().map_or(State::Gone, |container| state_of(container.state()))
    };
    assert!(listed >= events, "{id} was told as {events:?} and then listed as {listed:?}");
}
