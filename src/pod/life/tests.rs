//! Long: stories of a ledger, each a few lines; the rules they are about are in six files. Random lives are in
//! `pod/sim.rs`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    desk::{Desk, Heard, PID, exited, failure, id},
    order::Work,
    *,
};
use crate::{
    cgroup,
    model::{
        ContainerConfig, ExitReason, Handler, HugepageLimit, PodConfig, PodLabels, PodLimits, ResolvedUser,
        Resources, Stage, UnixNanos,
    },
    pod::{
        error::Error,
        view::{ContainerState, ContainerView, fake_config},
    },
    supervisor::ContainerFacts,
};

const RUNNING: ContainerState = ContainerState::Running { pid: u32::MAX, started_at: UnixNanos(5) };
const CREATED: ContainerState = ContainerState::Created { pid: u32::MAX };
const GRACE: Duration = Duration::from_secs(60);

#[test]
fn a_pod_is_listed_and_announced_before_anybody_is_told_its_id() {
    let mut desk = Desk::new();
    let first = desk.ask(Call::Run { config: Arc::new(fake_config("web")) });
    let retry = desk.ask(Call::Run { config: Arc::new(fake_config("web")) });
    assert!(desk.shown.is_none() && desk.waits(first) && desk.waits(retry));
    let cgroup = cgroup::Handle::fake(&Desk::facts().id);
    let made = MadePod { cgroup: cgroup.clone(), supervisor_pid: PID, attachment: None };
    desk.finish(Outcome::PodMade(Ok(Box::new(made))));
    assert_eq!((desk.answer(first).unwrap(), desk.answer(retry).unwrap()), (Answer::Done, Answer::Done));
    let view = desk.view();
    assert_eq!((view.ready, view.supervisor_pid, view.cgroup.as_ref()), (true, PID, Some(&cgroup)));
    let heard = [Change::Created, Change::Started].map(|change| (None, change, String::new()));
    assert_eq!((desk.heard().as_slice(), desk.phases.as_slice()), (&heard[..], &[PodPhase::Ready][..]));
    let again = desk.ask(Call::Run { config: Arc::new(fake_config("web")) });
    assert_eq!(desk.answer(again).unwrap(), Answer::Done);
    // What is settled at the making is no part of the request: a daemon may have another configuration by now.
    let label = || "u:r:t:s0".parse().unwrap();
    let settled = PodConfig {
        selinux: Some(PodLabels { process: label(), unconfined: None, file: label() }),
        handler: Handler { privileged_without_host_devices: true, ..Handler::default() },
        ..fake_config("web")
    };
    let again = desk.ask(Call::Run { config: Arc::new(settled) });
    assert_eq!(desk.answer(again).unwrap(), Answer::Done);
    let other =
        desk.ask(Call::Run { config: Arc::new(PodConfig { hostname: "x".into(), ..fake_config("web") }) });
    assert!(matches!(desk.answer(other), Err(Error::WrongState { .. })));
}

#[test]
fn a_pod_that_cannot_be_made_or_recorded_is_undone_and_everybody_hears_why() {
    for disk_full in [false, true] {
        let mut desk = Desk::new();
        let tickets = [(); 2].map(|()| desk.ask(Call::Run { config: Arc::new(fake_config("web")) }));
        desk.disk_full = disk_full;
        let made = || MadePod {
            cgroup: cgroup::Handle::fake(&Desk::facts().id),
            supervisor_pid: PID,
            attachment: None,
        };
        let made = if disk_full { Ok(Box::new(made())) } else { Err(Error::Defect("no")) };
        desk.finish(Outcome::PodMade(made));
        assert!(tickets.iter().all(|ticket| desk.waits(*ticket)), "not before it is undone");
        desk.finish(Outcome::PodUndone);
        for ticket in tickets {
            assert!(matches!(desk.answer(ticket), Err(Error::Shared(_))));
        }
        assert!(desk.shown.is_none() && desk.withdrawn && desk.ledger.is_over() && desk.heard().is_empty());
    }
}

#[test]
fn a_stop_returns_when_the_exit_is_written_and_shown() {
    let mut desk = Desk::ready(&[(1, RUNNING)]);
    let stop = desk.ask(Call::Stop { id: id(1), grace: GRACE });
    assert!(desk.waits(stop) && desk.work.is_empty());
    desk.apply(Input::Exited(id(1), exited(143)));
    desk.answer(stop).unwrap();
    let expected = ContainerState::Exited { started_at: Some(UnixNanos(5)), exit: exited(143) };
    assert_eq!((desk.state(1), &desk.record(1).state), (expected.clone(), &expected));
}

#[test]
fn a_grace_only_shrinks_and_its_end_is_a_kill() {
    let mut desk = Desk::ready(&[(1, RUNNING)]);
    let start = desk.now;
    desk.ask(Call::Stop { id: id(1), grace: GRACE });
    assert_eq!(desk.ledger.wake_at(), Some(start + GRACE));
    desk.ask(Call::Stop { id: id(1), grace: GRACE * 2 });
    assert_eq!(desk.ledger.wake_at(), Some(start + GRACE));
    desk.ask(Call::Stop { id: id(1), grace: GRACE / 2 });
    assert_eq!(desk.ledger.wake_at(), Some(start + GRACE / 2));
    desk.now += GRACE / 2;
    desk.apply(Input::Time);
    assert!(desk.is_at_work("kill 01") && desk.ledger.wake_at().is_none());
    // A stop without a grace kills at once, and what was never started has no use for one.
    for state in [RUNNING, CREATED] {
        let mut desk = Desk::ready(&[(1, state.clone())]);
        desk.ask(Call::Stop { id: id(1), grace: if state == RUNNING { Duration::ZERO } else { GRACE } });
        assert!(desk.is_at_work("kill 01"));
    }
}

#[test]
fn those_who_wait_for_what_does_not_die_are_told_and_the_killing_goes_on() {
    let mut desk = Desk::ready(&[(1, RUNNING)]);
    let (stop, remove) = (desk.ask(Call::StopPod), desk.ask(Call::Remove { id: id(1) }));
    for _ in 0..5 {
        assert!(desk.waits(stop) && desk.waits(remove));
        desk.finish(Outcome::KillChecked(id(1), None));
    }
    for ticket in [stop, remove] {
        let Err(Error::Supervisor(failure)) = desk.answer(ticket) else { panic!("it must fail") };
        assert_eq!(failure.stage, Stage::Deadline);
    }
    assert!(desk.is_at_work("kill 01"));
    desk.finish(Outcome::KillChecked(id(1), Some(exited(137))));
    assert!(desk.is_at_work("erase 01") && desk.is_at_work("tear down"));
}

#[test]
fn stop_and_remove_of_what_is_not_there_succeed_and_start_does_not() {
    let gone = ContainerState::Exited { started_at: None, exit: exited(1) };
    let mut desk = Desk::ready(&[(1, gone)]);
    for target in [1, 2] {
        let stop = desk.ask(Call::Stop { id: id(target), grace: Duration::ZERO });
        desk.answer(stop).unwrap();
    }
    let remove = desk.ask(Call::Remove { id: id(2) });
    desk.answer(remove).unwrap();
    let start = desk.ask(Call::Start { id: id(2) });
    assert!(matches!(desk.answer(start), Err(Error::NoSuchContainer(_))));
    let start = desk.ask(Call::Start { id: id(1) });
    assert!(matches!(desk.answer(start), Err(Error::WrongState { state: "exited", .. })));
}

#[test]
fn a_start_is_written_before_it_is_asked_for_and_a_full_disk_refuses_it() {
    let mut desk = Desk::ready(&[(1, CREATED)]);
    desk.disk_full = true;
    let refused = desk.ask(Call::Start { id: id(1) });
    assert!(matches!(desk.answer(refused), Err(Error::Io { .. })));
    assert!(desk.work.is_empty() && desk.state(1) == CREATED);
    desk.disk_full = false;
    let (start, retry) = (desk.ask(Call::Start { id: id(1) }), desk.ask(Call::Start { id: id(1) }));
    assert!(desk.is_at_work("start 01") && desk.record(1).starting, "the intent is on the disk");
    desk.finish(Outcome::Started(id(1), Ok(UnixNanos(5)), UnixNanos(6)));
    for ticket in [start, retry] {
        desk.answer(ticket).unwrap();
    }
    assert!(!desk.record(1).starting && matches!(desk.state(1), ContainerState::Running { .. }));
}

#[test]
fn a_pod_that_was_torn_down_has_no_container_whose_end_is_not_looked_for() {
    // The exit could not be written, the end of the pod could, and the daemon died.
    let mut desk = Desk::recovered(PodPhase::NotReady, &[(1, RUNNING)]);
    assert!(desk.is_at_work("find 01"));
    let remove = desk.ask(Call::RemovePod);
    desk.finish(Outcome::EndsFound(vec![(id(1), Some(exited(5)))]));
    desk.finish(Outcome::Erased(id(1), Ok(())));
    desk.finish(Outcome::PodErased(Ok(())));
    desk.answer(remove).unwrap();
}

#[test]
fn what_may_have_been_started_has_its_grace() {
    // An earlier daemon has asked for the start and died before the answer.
    for starting in [true, false] {
        let facts = Desk::facts();
        let view = ContainerView::fake(&facts.id, 1, CREATED);
        let found = Recovered {
            phase: PodPhase::Ready,
            attachment: None,
            supervisor_pid: PID,
            limits: PodLimits::default(),
            containers: vec![Remembered { view, starting, unheard_end: false }],
            leftovers: Vec::new(),
            foreign: [].into(),
        };
        let mut desk = Desk::with(Ledger::recovered(facts, found, Instant::now()));
        desk.finish(Outcome::Silent);
        desk.ask(Call::Stop { id: id(1), grace: GRACE });
        assert_eq!(desk.is_at_work("kill 01"), !starting);
    }
    // An answer that never came is no answer.
    let mut desk = Desk::ready(&[(1, CREATED)]);
    desk.ask(Call::Start { id: id(1) });
    desk.finish(Outcome::Started(id(1), Err(failure(Stage::Connection)), UnixNanos(6)));
    assert!(desk.state(1) == CREATED && desk.record(1).starting);
    desk.ask(Call::Stop { id: id(1), grace: GRACE });
    assert!(!desk.is_at_work("kill 01"));
}

#[test]
fn a_dead_supervisor_ends_its_containers_and_then_its_pod() {
    let done = ContainerState::Exited { started_at: None, exit: exited(7) };
    let mut desk = Desk::ready(&[(1, RUNNING), (2, done.clone())]);
    desk.apply(Input::SupervisorEnded);
    assert!(!desk.view().ready);
    assert_eq!(desk.state(1), RUNNING, "nothing has ended before somebody looked");
    assert!(desk.is_at_work("find 01") && !desk.is_at_work("tear down"));
    let stop = desk.ask(Call::StopPod);
    desk.finish(Outcome::EndsFound(vec![(id(1), Some(exited(137)))]));
    let expected = ContainerState::Exited { started_at: Some(UnixNanos(5)), exit: exited(137) };
    assert_eq!((desk.state(1), desk.state(2)), (expected, done));
    desk.finish(Outcome::TornDown(Ok(())));
    desk.answer(stop).unwrap();
    assert_eq!(desk.phases, [PodPhase::Stopping, PodPhase::NotReady]);
}

#[test]
fn what_survives_its_supervisor_is_killed_further_and_not_told_to_have_ended() {
    let mut desk = Desk::ready(&[(1, RUNNING)]);
    desk.apply(Input::SupervisorEnded);
    desk.finish(Outcome::EndsFound(vec![(id(1), None)]));
    assert!(desk.state(1) == RUNNING && desk.is_at_work("kill 01"));
    desk.finish(Outcome::KillChecked(id(1), Some(exited(137))));
    assert!(desk.state(1).is_exited() && desk.is_at_work("tear down"));
}

#[test]
fn a_failed_release_fails_the_stop_twice_and_is_owed_the_third_time() {
    let mut desk = Desk::ready(&[]);
    for round in 1..=3 {
        let stop = desk.ask(Call::StopPod);
        let error = Error::Defect("plugin is down");
        let failure = TearDownError { error, network_held: true, cgroup_held: false, hopeless: false };
        desk.finish(Outcome::TornDown(Err(failure)));
        assert_eq!(desk.answer(stop).is_ok(), round == 3, "round {round}");
    }
    assert_eq!((desk.ledger.phase(), desk.debt), (Some(PodPhase::NotReady), Some((true, false))));
}

#[test]
fn a_failed_start_is_an_exit_with_its_cause() {
    let mut desk = Desk::ready(&[(1, CREATED)]);
    let start = desk.ask(Call::Start { id: id(1) });
    // The init ends too, and may be reported first.
    desk.apply(Input::Exited(id(1), exited(255)));
    desk.finish(Outcome::Started(id(1), Err(failure(Stage::Execve)), UnixNanos(8)));
    let ContainerState::Exited { started_at: None, exit } = desk.state(1) else { panic!("it never ran") };
    let expected = (128, ExitReason::StartError, failure(Stage::Execve).to_string(), UnixNanos(8));
    assert_eq!((exit.code, exit.reason, exit.message, exit.at), expected);
    assert!(matches!(desk.answer(start), Err(Error::Supervisor(_))));
}

#[test]
fn a_pod_that_is_being_stopped_takes_no_container_and_starts_none() {
    let mut desk = Desk::ready(&[(1, CREATED)]);
    desk.ask(Call::StopPod);
    for call in [Call::Create { id: id(9), config: Arc::default() }, Call::Start { id: id(1) }] {
        let ticket = desk.ask(call);
        assert!(matches!(desk.answer(ticket), Err(Error::WrongState { state: "being stopped", .. })));
    }
}

#[test]
fn a_retried_create_gets_the_id_of_the_first_and_another_one_is_refused() {
    let mut desk = Desk::ready(&[(1, CREATED)]);
    let other = Arc::new(ContainerConfig { tty: true, ..ContainerConfig::clone(&Desk::config(1)) });
    for (config, same) in [(Desk::config(1), true), (other, false)] {
        let ticket = desk.ask(Call::Create { id: id(8), config });
        assert_eq!(desk.answer(ticket).ok(), same.then(|| Answer::Created(id(1))));
    }
    let (first, retry) = (
        desk.ask(Call::Create { id: id(2), config: Desk::config(2) }),
        desk.ask(Call::Create { id: id(3), config: Desk::config(2) }),
    );
    desk.finish(Outcome::Turn(id(2), Ok(())));
    let view = ContainerView::fake(&Desk::facts().id, 2, CREATED);
    desk.finish(Outcome::Made(id(2), Ok(Box::new(view))));
    for ticket in [first, retry] {
        assert_eq!(desk.answer(ticket).unwrap(), Answer::Created(id(2)));
    }
}

#[test]
fn a_retried_create_joins_the_first_in_the_queue_and_a_stop_ends_both() {
    let mut desk = Desk::ready(&[]);
    let create = |byte| Call::Create { id: id(byte), config: Desk::config(2) };
    let tickets = [desk.ask(create(2)), desk.ask(create(3))];
    let other = desk.ask(Call::Create { id: id(4), config: Desk::config(4) });
    desk.finish(Outcome::Turn(id(4), Err(Error::Busy { waiting: 1 })));
    assert!(matches!(desk.answer(other), Err(Error::Busy { waiting: 1 })));
    assert!(tickets.iter().all(|ticket| desk.waits(*ticket)), "they wait, and together");
    desk.ask(Call::StopPod);
    for ticket in tickets {
        let Err(Error::Shared(error)) = desk.answer(ticket) else { panic!("one error for both") };
        assert!(matches!(*error, Error::WrongState { state: "being stopped", .. }), "{error}");
    }
    // A turn that comes too late is nobody's.
    desk.finish(Outcome::Turn(id(2), Ok(())));
    assert!(desk.ledger.pending.is_empty() && !desk.is_at_work("make 02"));
}

#[test]
fn a_container_that_is_made_too_late_or_cannot_be_recorded_is_unmade() {
    for disk_full in [false, true] {
        let mut desk = Desk::ready(&[]);
        let create = desk.ask(Call::Create { id: id(2), config: Desk::config(2) });
        desk.finish(Outcome::Turn(id(2), Ok(())));
        if disk_full {
            desk.disk_full = true;
        } else {
            desk.ask(Call::StopPod);
        }
        let view = ContainerView::fake(&Desk::facts().id, 2, CREATED);
        desk.finish(Outcome::Made(id(2), Ok(Box::new(view))));
        assert!(desk.answer(create).is_err() && desk.view().containers.is_empty());
        desk.finish(Outcome::Unmade(id(2)));
    }
}

#[test]
fn facts_of_a_supervisor_win_over_what_was_believed() {
    let mut desk =
        Desk::recovered(PodPhase::Ready, &[(1, CREATED), (2, RUNNING), (3, RUNNING), (4, CREATED)]);
    assert!(desk.ledger.is_finding_out());
    let fact = |byte, started_at, exit| ContainerFacts {
        id: id(byte),
        pid: 40,
        user: ResolvedUser::default(),
        started_at,
        exit,
    };
    let at = Some(UnixNanos(5));
    let facts = vec![fact(1, at, None), fact(2, at, Some(exited(3))), fact(4, at, Some(exited(4)))];
    desk.finish(Outcome::Reached(facts, PID));
    assert!(!desk.ledger.is_finding_out());
    assert_eq!(desk.state(1), ContainerState::Running { pid: u32::MAX, started_at: UnixNanos(5) });
    assert_eq!(desk.state(2), ContainerState::Exited { started_at: at, exit: exited(3) });
    assert_eq!(desk.state(4), ContainerState::Exited { started_at: at, exit: exited(4) });
    // Nobody knows it: it has not ended before somebody looked.
    assert_eq!(desk.state(3), RUNNING);
    desk.finish(Outcome::EndsFound(vec![(id(3), Some(exited(255)))]));
    assert_eq!(desk.state(3), ContainerState::Exited { started_at: at, exit: exited(255) });
}

#[test]
fn an_exit_is_acknowledged_once_it_is_on_the_disk() {
    let mut desk = Desk::ready(&[(1, RUNNING)]);
    desk.disk_full = true;
    desk.apply(Input::Exited(id(1), exited(5)));
    assert!(desk.state(1).is_exited() && !desk.records.contains_key(&id(1)), "true, and not written");
    let orders = desk.ledger.apply(Input::Exited(id(1), exited(5)), desk.now);
    assert!(matches!(orders[..], [Order::Write(_)]), "{orders:?}");
    desk.disk_full = false;
    desk.carry_out(orders);
    let orders = desk.ledger.apply(Input::Exited(id(1), exited(5)), desk.now);
    assert!(matches!(&orders[..], [Order::Work(Work::Acknowledge(_))]), "{orders:?}");
    assert!(desk.record(1).state.is_exited());
}

#[test]
fn what_could_not_be_written_is_written_when_space_returns() {
    let mut desk = Desk::ready(&[(1, RUNNING), (2, RUNNING)]);
    let start = desk.now;
    desk.disk_full = true;
    desk.apply(Input::Exited(id(1), exited(5)));
    desk.apply(Input::Exited(id(2), exited(6)));
    desk.ask(Call::StopPod);
    assert!(desk.records.is_empty() && desk.phases.is_empty());
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let wake = desk.ledger.wake_at().expect("it is tried again");
        pauses.push((wake - desk.now).as_secs());
        desk.now = wake;
        desk.apply(Input::Time);
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    desk.disk_full = false;
    desk.now = desk.ledger.wake_at().unwrap();
    desk.apply(Input::Time);
    assert!(desk.record(1).state.is_exited() && desk.record(2).state.is_exited());
    assert_eq!((desk.phases.as_slice(), desk.ledger.wake_at()), (&[PodPhase::Stopping][..], None));
    assert!(desk.now > start);
}

// ---- limits ----

fn granted() -> Resources {
    let hugepages = vec![HugepageLimit { page_size: "2MB".into(), limit_bytes: 0 }];
    Resources { hugepages, ..Resources::default() }
}

fn update(desk: &mut Desk, change: &Resources) -> Ticket {
    desk.ask(Call::Update { id: id(1), change: Box::new(change.clone()) })
}

fn taken(after: Resources) -> Outcome {
    Outcome::Limited(id(1), Ok(Box::new(Limited { after, changed: cgroup::Changed::default() })))
}

#[test]
fn limits_are_written_and_shown_once_the_kernel_has_taken_them() {
    let mut desk = Desk::ready(&[(1, RUNNING)]);
    let refused = update(&mut desk, &granted());
    let error = cgroup::Error::Foreign { path: "/x".into() };
    desk.finish(Outcome::Limited(id(1), Err(error)));
    assert!(matches!(desk.answer(refused), Err(Error::Cgroup(_))));
    assert_eq!(desk.view().containers[0].resources, Resources::default());
    let made = update(&mut desk, &granted());
    desk.finish(taken(granted()));
    desk.answer(made).unwrap();
    assert_eq!(
        (&desk.view().containers[0].resources, &desk.records[&id(1)].resources),
        (&granted(), &granted())
    );
}

#[test]
fn limits_that_cannot_be_written_down_are_set_back_before_anybody_hears() {
    let mut desk = Desk::ready(&[(1, RUNNING)]);
    let ticket = update(&mut desk, &granted());
    desk.disk_full = true;
    desk.finish(taken(granted()));
    assert!(desk.waits(ticket) && desk.is_at_work("take back 01"));
    desk.finish(Outcome::TakenBack(Some(id(1))));
    assert!(matches!(desk.answer(ticket), Err(Error::Io { .. })));
    assert_eq!(desk.view().containers[0].resources, Resources::default());
}

#[test]
fn the_second_of_two_changes_at_once_waits_for_the_first() {
    let mut desk = Desk::ready(&[(1, RUNNING)]);
    let tickets = [update(&mut desk, &granted()), update(&mut desk, &granted())];
    assert_eq!(desk.work.len(), 1);
    desk.finish(Outcome::Limited(id(1), Err(cgroup::Error::Foreign { path: "/x".into() })));
    desk.finish(taken(granted()));
    assert_eq!(tickets.map(|ticket| desk.answer(ticket).is_ok()), [false, true]);
}

#[test]
fn what_has_exited_is_not_changed() {
    let mut desk = Desk::ready(&[(1, RUNNING)]);
    desk.apply(Input::Exited(id(1), exited(0)));
    let ticket = update(&mut desk, &granted());
    assert!(matches!(desk.answer(ticket), Err(Error::WrongState { state: "exited", .. })));
}

#[test]
fn a_pods_limits_are_kept_in_its_record() {
    let mut desk = Desk::ready(&[]);
    let change = PodLimits { resources: Some(granted()), overhead: None };
    let ticket = desk.ask(Call::UpdatePod { change: Box::new(change.clone()) });
    let limited = Limited { after: change.clone(), changed: cgroup::Changed::default() };
    desk.finish(Outcome::PodLimited(Ok(Box::new(limited))));
    desk.answer(ticket).unwrap();
    assert_eq!(
        (desk.view().limits.clone(), desk.pod_record.as_ref().and_then(|record| record.limits.clone())),
        (change.clone(), Some(change))
    );
}

// ---- events ----

#[test]
fn an_end_that_is_reported_before_the_start_is_told_after_it_and_once() {
    let mut desk = Desk::ready(&[(1, CREATED)]);
    desk.ask(Call::Start { id: id(1) });
    desk.apply(Input::Exited(id(1), exited(3)));
    assert_eq!(desk.heard().len(), 0);
    desk.finish(Outcome::Started(id(1), Ok(UnixNanos(5)), UnixNanos(6)));
    desk.apply(Input::Exited(id(1), exited(3)));
    let expected = [Change::Started, Change::Stopped].map(|change| (Some(1), change, "e".to_owned()));
    assert_eq!(desk.heard(), expected);
}

#[test]
fn a_start_that_failed_is_an_end_whatever_is_heard_first() {
    for stage in [Stage::Execve, Stage::Connection] {
        let mut desk = Desk::ready(&[(1, CREATED)]);
        desk.ask(Call::Start { id: id(1) });
        desk.apply(Input::Exited(id(1), exited(3)));
        desk.finish(Outcome::Started(id(1), Err(failure(stage)), UnixNanos(6)));
        assert_eq!(desk.heard(), [(Some(1), Change::Stopped, "e".to_owned())], "{stage:?}");
    }
}

#[test]
fn the_end_of_a_pod_is_told_from_its_containers_up() {
    let gone = ContainerState::Exited { started_at: None, exit: exited(1) };
    let mut desk = Desk::ready(&[(1, RUNNING), (2, gone)]);
    desk.apply(Input::SupervisorEnded);
    let remove = desk.ask(Call::RemovePod);
    desk.finish(Outcome::EndsFound(vec![(id(1), Some(exited(137)))]));
    desk.finish(Outcome::TornDown(Ok(())));
    desk.finish(Outcome::Erased(id(2), Ok(())));
    desk.finish(Outcome::Erased(id(1), Ok(())));
    desk.finish(Outcome::PodErased(Ok(())));
    desk.answer(remove).unwrap();
    let expected: [Heard; 5] = [
        (Some(1), Change::Stopped, "ee".into()),
        (None, Change::Stopped, "ee".into()),
        (Some(2), Change::Deleted, "e".into()),
        (Some(1), Change::Deleted, String::new()),
        (None, Change::Deleted, String::new()),
    ];
    assert_eq!(desk.heard(), expected);
    assert!(desk.withdrawn && desk.ledger.is_over());
}
