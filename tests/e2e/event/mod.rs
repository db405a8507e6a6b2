//! Events: each reaches everyone who follows, once, in order, and with the state it led to.
//!
//! `churn.rs` compares the events of many lives with what was done and what lists showed.

mod churn;

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use tonic::Code;

use crate::harness::{
    BUSYBOX, ContainerState, Cri, Messages, Node,
    runner::{Test, tests},
    v1, wait_until,
};
use v1::{ContainerEventResponse, ContainerEventType as Kind, PodSandboxState};

tests![
    a_life_is_told_step_by_step_with_the_state_each_led_to,
    an_end_that_comes_at_once_is_told_after_the_start,
    a_start_that_fails_is_told_as_an_end,
    all_followers_are_told_the_same,
    places_are_limited_and_free_when_their_followers_hang_up,
    a_follower_that_does_not_read_is_told_that_it_has_lost_events,
    an_exit_while_no_daemon_ran_is_told_by_the_next,
    a_daemon_that_stops_says_so_and_does_not_wait_for_its_followers,
    the_status_of_a_pod_can_be_sorted_among_the_events,
    the_newest_attempt_comes_first,
];

pub(crate) const CHURN_TESTS: &[Test] = churn::TESTS;

/// How long a silence shows that no more events come.
const SILENCE: Duration = Duration::from_millis(300);

/// Subscribers that the daemon has places for.
const PLACES: usize = 16;

/// Entries and bytes that the daemon holds for those who are behind.
const HELD_BYTES: usize = 64 << 20;

pub(super) type Follower = Messages<ContainerEventResponse>;

#[track_caller]
pub(super) fn follow(cri: &Cri) -> Follower {
    cri.get_container_events(v1::GetEventsRequest {}).unwrap()
}

/// The next event.
#[track_caller]
pub(super) fn next(follower: &mut Follower) -> ContainerEventResponse {
    follower.next().expect("the stream ended").unwrap()
}

/// All until one of `id` is of `kind`.
#[track_caller]
fn until(follower: &mut Follower, id: &str, kind: Kind) -> Vec<ContainerEventResponse> {
    let mut events = Vec::new();
    loop {
        let event = next(follower);
        let last = event.container_id == id && event.container_event_type() == kind;
        events.push(event);
        if last {
            return events;
        }
    }
}

fn kinds(events: &[ContainerEventResponse]) -> Vec<(&str, Kind)> {
    events.iter().map(|event| (event.container_id.as_str(), event.container_event_type())).collect()
}

/// The state of each container in the event's statuses, by id.
fn states(event: &ContainerEventResponse) -> BTreeMap<&str, ContainerState> {
    event.containers_statuses.iter().map(|status| (status.id.as_str(), status.state())).collect()
}

fn a_life_is_told_step_by_step_with_the_state_each_led_to() {
    use ContainerState::{ContainerCreated, ContainerExited, ContainerRunning};
    use Kind::{ContainerCreatedEvent, ContainerDeletedEvent, ContainerStartedEvent, ContainerStoppedEvent};
    let node = Node::start();
    let mut follower = follow(node.cri());
    let pod = node.run_pod("web");
    let main = pod.create("main", BUSYBOX, ["sh", "-c", "sleep 0.5; exit 3"]);
    main.start();
    main.wait();
    let listed = main.status();
    pod.stop();
    main.remove();
    pod.remove();

    let events = until(&mut follower, &pod.id, ContainerDeletedEvent);
    assert!(follower.within(SILENCE).is_none(), "more is told than happened");
    let expected = [
        (pod.id.as_str(), ContainerCreatedEvent),
        (&pod.id, ContainerStartedEvent),
        (&main.id, ContainerCreatedEvent),
        (&main.id, ContainerStartedEvent),
        (&main.id, ContainerStoppedEvent),
        (&pod.id, ContainerStoppedEvent),
        (&main.id, ContainerDeletedEvent),
        (&pod.id, ContainerDeletedEvent),
    ];
    assert_eq!(kinds(&events), expected);
    assert!(events.is_sorted_by(|one, other| one.created_at < other.created_at));
    let shown = |state| BTreeMap::from([(main.id.as_str(), state)]);
    let none = BTreeMap::new();
    let expected = [
        none.clone(),
        none.clone(),
        shown(ContainerCreated),
        shown(ContainerRunning),
        shown(ContainerExited),
        shown(ContainerExited),
        none.clone(),
        none,
    ];
    assert_eq!(events.iter().map(states).collect::<Vec<_>>(), expected);
    assert_eq!(events[4].containers_statuses, [listed]);
    assert_eq!(events[4].containers_statuses[0].exit_code, 3);
    let status = |event: &ContainerEventResponse| event.pod_sandbox_status.clone().expect("a pod's status");
    assert!(events.iter().all(|event| status(event).metadata == pod.config.metadata));
    let ready: Vec<_> = events.iter().map(|event| status(event).state()).collect();
    let (up, down) = (PodSandboxState::SandboxReady, PodSandboxState::SandboxNotready);
    assert_eq!(ready, [up, up, up, up, up, down, down, down]);
    node.assert_clean();
}

fn an_end_that_comes_at_once_is_told_after_the_start() {
    let node = Node::start();
    let pod = node.run_pod("batch");
    let mut follower = follow(node.cri());
    for nth in 0..10 {
        let main = pod.run_in(&format!("main-{nth}"), ["true"]);
        main.wait();
        main.remove();
        let events = until(&mut follower, &main.id, Kind::ContainerDeletedEvent);
        let own = kinds(&events).into_iter().filter(|(id, _)| *id == main.id).map(|(_, kind)| kind as i32);
        assert_eq!(own.collect::<Vec<_>>(), [0, 1, 2, 3]);
    }
    node.assert_clean();
}

fn a_start_that_fails_is_told_as_an_end() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let mut follower = follow(node.cri());
    let main = pod.create("main", BUSYBOX, ["/no/such/program"]);
    main.try_start().unwrap_err();
    main.remove();
    let events = until(&mut follower, &main.id, Kind::ContainerDeletedEvent);
    let own: Vec<_> = events.iter().filter(|event| event.container_id == main.id).collect();
    let kinds: Vec<_> = own.iter().map(|event| event.container_event_type).collect();
    assert_eq!(kinds, [0, 2, 3]);
    let status = &own[1].containers_statuses[0];
    assert_eq!((status.exit_code, status.reason.as_str(), status.started_at), (128, "StartError", 0));
    node.assert_clean();
}

fn all_followers_are_told_the_same() {
    let node = Node::start();
    let other = node.connect();
    let mut followers = [follow(node.cri()), follow(node.cri()), follow(&other)];
    let pod = node.run_pod("web");
    pod.run_in("main", ["true"]).wait();
    pod.stop();
    pod.remove();
    let [one, two, three] =
        followers.each_mut().map(|each| until(each, &pod.id, Kind::ContainerDeletedEvent));
    assert_eq!(one.len(), 8);
    assert!(one == two && two == three);
    drop((followers, other));
    node.assert_clean();
}

fn places_are_limited_and_free_when_their_followers_hang_up() {
    let node = Node::start();
    for _ in 0..3 {
        let followers: Vec<_> = (0..PLACES).map(|_| follow(node.cri())).collect();
        let error = node.cri().get_container_events(v1::GetEventsRequest {}).unwrap_err();
        assert_eq!(
            (error.code(), error.message()),
            (Code::ResourceExhausted, "16 subscribers follow the events already")
        );
        drop(followers);
        // The daemon hears of a hang-up a moment later.
        wait_until("a place is free", || node.cri().get_container_events(v1::GetEventsRequest {}).is_ok());
        thread::sleep(SILENCE);
    }
    let mut follower = follow(node.cri());
    let pod = node.run_pod("web");
    assert_eq!(next(&mut follower).container_id, pod.id);
    node.assert_clean();
}

fn a_follower_that_does_not_read_is_told_that_it_has_lost_events() {
    let node = Node::start();
    let (quick_one, slow_one) = (node.connect(), node.connect());
    let (mut quick, mut slow) = (follow(&quick_one), follow(&slow_one));
    let bulk = "x".repeat(250 << 10);
    let (mut events, mut bytes) = (Vec::new(), 0);
    // What is held, and what may be on the way to a client that does not read.
    for nth in 0.. {
        let pod = node.run_pod_with(&format!("big-{nth}"), |config| {
            config.annotations.insert("bulk".into(), bulk.clone());
        });
        pod.stop();
        pod.remove();
        let new = until(&mut quick, &pod.id, Kind::ContainerDeletedEvent);
        bytes += new.len() * bulk.len();
        events.extend(new.into_iter().map(|event| event.created_at));
        if bytes > HELD_BYTES + (16 << 20) {
            break;
        }
    }
    assert_eq!(events.len() % 4, 0, "the quick one is not held up and misses nothing");

    let mut read = Vec::new();
    let error = loop {
        match slow.next().expect("an error, not an end") {
            Ok(event) => read.push(event.created_at),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), Code::DataLoss);
    assert!(error.message().contains("list again"), "{error}");
    assert!(
        read.len() < events.len() && events.starts_with(&read),
        "{} of {} were read",
        read.len(),
        events.len()
    );
    let mut again = follow(&slow_one);
    let pod = node.run_pod("after");
    until(&mut again, &pod.id, Kind::ContainerStartedEvent);
    drop((quick, slow, again, quick_one, slow_one));
    node.assert_clean();
}

fn an_exit_while_no_daemon_ran_is_told_by_the_next() {
    let node = Node::start();
    let pod = node.run_pod("batch");
    let main = pod.run_in("main", ["sh", "-c", "sleep 0.5; echo bye; exit 42"]);
    let mut follower = follow(node.cri());
    node.kill_daemon();
    while let Some(Ok(_)) = follower.next() {}
    wait_until("the container ends", || main.log_texts() == ["bye"]);
    thread::sleep(SILENCE);
    node.start_daemon();

    // Each of those who come back.
    for _ in 0..2 {
        let mut follower = follow(node.cri());
        let event = next(&mut follower);
        assert_eq!(
            (&event.container_id, event.container_event_type()),
            (&main.id, Kind::ContainerStoppedEvent)
        );
        assert_eq!(event.containers_statuses, [main.status()]);
        assert_eq!(event.containers_statuses[0].exit_code, 42);
        assert!(follower.within(SILENCE).is_none(), "what was told before is told again");
    }
    node.assert_clean();
}

fn a_daemon_that_stops_says_so_and_does_not_wait_for_its_followers() {
    let node = Node::start();
    let mut follower = follow(node.cri());
    let pod = node.run_pod("web");
    let started = Instant::now();
    node.restart_daemon();
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(next(&mut follower).container_id, pod.id);
    next(&mut follower);
    let error = follower.next().expect("an error, not an end").unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::Unavailable, "the daemon is stopping"));
    node.assert_clean();
}

fn the_status_of_a_pod_can_be_sorted_among_the_events() {
    let node = Node::start();
    let mut follower = follow(node.cri());
    let pod = node.run_pod("web");
    let main = pod.run_in("main", ["sleep", "1000"]);
    let events = until(&mut follower, &main.id, Kind::ContainerStartedEvent);
    let request = v1::PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: false };
    let status = node.cri().pod_sandbox_status(request).unwrap();
    assert_eq!(status.containers_statuses, [main.status()]);
    assert!(status.timestamp >= events.last().unwrap().created_at);
    main.kill();
    let events = until(&mut follower, &main.id, Kind::ContainerStoppedEvent);
    assert!(events.last().unwrap().created_at > status.timestamp);
    node.assert_clean();
}

/// A kubelet that follows the events takes the first of a name, and never restarts a container whose first attempt
/// it takes for the last.
fn the_newest_attempt_comes_first() {
    let node = Node::start();
    let mut follower = follow(node.cri());
    let pod = node.run_pod("web");
    let attempts: Vec<_> = (0..3)
        .map(|attempt| {
            let main = pod.create_with("main", BUSYBOX, ["sh", "-c", "exit 3"], |config| {
                config.metadata.as_mut().unwrap().attempt = attempt;
            });
            main.start();
            main.wait();
            main.id
        })
        .collect();
    let newest_first: Vec<_> = attempts.iter().rev().cloned().collect();
    let ids = |statuses: Vec<v1::ContainerStatus>| statuses.into_iter().map(|one| one.id).collect::<Vec<_>>();

    let mut events = until(&mut follower, &attempts[2], Kind::ContainerStoppedEvent);
    assert_eq!(ids(events.pop().unwrap().containers_statuses), newest_first);
    let status = || {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: false };
        ids(node.cri().pod_sandbox_status(request).unwrap().containers_statuses)
    };
    assert_eq!(status(), newest_first);
    node.restart_daemon();
    assert_eq!(status(), newest_first);
    node.assert_clean();
}
