//! Stories of a ledger, and random lives of one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::{
    order::{Ends, Work, Write},
    *,
};
use crate::{
    cgroup,
    model::{
        ContainerConfig, ContainerId, Exit, ExitReason, Failure, HugepageLimit, PodConfig, PodId, PodLimits,
        ResolvedUser, Resources, Stage, UnixNanos,
    },
    pod::{
        error::Error,
        view::{ContainerState, ContainerView, PodView, fake_config},
    },
    supervisor::ContainerFacts,
};

const RUNNING: ContainerState = ContainerState::Running { pid: u32::MAX, started_at: UnixNanos(5) };
const CREATED: ContainerState = ContainerState::Created { pid: u32::MAX };
const GRACE: Duration = Duration::from_secs(60);
const PID: u32 = 77;

fn id(byte: u8) -> ContainerId {
    ContainerId::from_bytes([byte; 32])
}

fn exited(code: i32) -> Exit {
    Exit { code, reason: ExitReason::Error, at: UnixNanos(9), message: String::new() }
}

fn failure(stage: Stage) -> Failure {
    Failure { stage, object: String::new(), errno: 2, path: "/bin/nope".into(), text: String::new() }
}

/// What followers heard: the container's number, if it is one, what happened, and the states of all containers
/// as they were shown then, by their first letters.
type Heard = (Option<u8>, Change, String);

/// A ledger with a driver that does nothing but keep account.
struct Desk {
    ledger: Ledger,
    now: Instant,
    asked: u64,
    answers: BTreeMap<Ticket, Result<Answer, Error>>,
    /// Begun and not over.
    work: Vec<Work>,
    heard: Vec<Heard>,
    shown: Option<Arc<PodView>>,
    /// As on the disk.
    records: BTreeMap<ContainerId, (ContainerState, Resources, bool)>,
    phases: Vec<PodPhase>,
    pod_limits: Option<PodLimits>,
    owed: Option<(bool, bool)>,
    disk_full: bool,
    withdrawn: bool,
    notices: Vec<Notice>,
}

impl Desk {
    fn with((ledger, orders): (Ledger, Vec<Order>)) -> Self {
        let mut desk = Self {
            ledger,
            now: Instant::now(),
            asked: 0,
            answers: BTreeMap::new(),
            work: Vec::new(),
            heard: Vec::new(),
            shown: None,
            records: BTreeMap::new(),
            phases: Vec::new(),
            pod_limits: None,
            owed: None,
            disk_full: false,
            withdrawn: false,
            notices: Vec::new(),
        };
        desk.carry_out(orders);
        desk
    }

    fn facts() -> PodFacts {
        let id = PodId::from_bytes([0xab; 32]);
        let cgroup = Some(cgroup::Handle::fake(&id));
        PodFacts { config: Arc::new(fake_config("web")), created_at: UnixNanos(1), cgroup, id }
    }

    /// A pod of which nothing is there yet.
    fn new() -> Self {
        Self::with(Ledger::new(PodFacts { cgroup: None, ..Self::facts() }))
    }

    /// A pod that has just been recovered.
    fn recovered(phase: PodPhase, containers: &[(u8, ContainerState)]) -> Self {
        let facts = Self::facts();
        let remembered = containers.iter().map(|(byte, state)| Remembered {
            view: ContainerView::fake(&facts.id, *byte, state.clone()),
            starting: false,
            unheard_end: false,
        });
        let found = Recovered {
            phase,
            attachment: None,
            supervisor_pid: PID,
            limits: PodLimits::default(),
            containers: remembered.collect(),
            leftovers: Vec::new(),
            foreign: [].into(),
        };
        Self::with(Ledger::recovered(facts, found))
    }

    /// A pod that is ready, with a supervisor that answers.
    fn ready(containers: &[(u8, ContainerState)]) -> Self {
        let mut desk = Self::recovered(PodPhase::Ready, containers);
        let facts = desk.view().containers.iter().map(|view| fact_of(view)).collect();
        desk.finish(Outcome::Reached(facts, PID));
        desk.work.clear();
        desk
    }

    fn view(&self) -> Arc<PodView> {
        Arc::clone(self.shown.as_ref().expect("it is shown"))
    }

    fn state(&self, byte: u8) -> ContainerState {
        let view = self.view();
        view.containers.iter().find(|view| view.id == id(byte)).expect("it is listed").state.clone()
    }

    fn apply(&mut self, input: Input) {
        let orders = self.ledger.apply(input, self.now);
        self.carry_out(orders);
    }

    /// As the driver does it.
    fn carry_out(&mut self, orders: Vec<Order>) {
        let mut written = Vec::new();
        for order in orders {
            match order {
                Order::Write(write) => {
                    let which = write.written();
                    written.push((which, self.write(write)));
                }
                Order::Work(work) => self.begin(work),
                Order::Show(view) => self.shown = Some(view),
                Order::Announce(event) => self.hear(&event),
                Order::Withdraw => self.withdrawn = true,
                Order::Reply(ticket, answer) => {
                    assert!(ticket.0 < self.asked, "an answer to a call that was never made");
                    let again = self.answers.insert(ticket, answer);
                    assert!(again.is_none(), "{ticket:?} is answered twice");
                }
                Order::Notice(notice) => self.notices.push(notice),
            }
        }
        for (which, result) in written {
            self.apply(Input::Written(which, result));
        }
    }

    fn write(&mut self, write: Write) -> Result<(), Error> {
        if self.disk_full {
            let error = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(Error::Io { doing: "write".into(), source: error });
        }
        match write {
            Write::Pod { phase, limits, .. } => {
                self.phases.push(phase);
                self.pod_limits = Some(*limits);
            }
            Write::Container { view, starting, .. } => {
                let record = (view.state.clone(), view.resources.clone(), starting);
                self.records.insert(view.id.clone(), record);
            }
            Write::Owed { network, cgroup } => self.owed = Some((network, cgroup)),
        }
        Ok(())
    }

    fn begin(&mut self, work: Work) {
        let Some(name) = name_of(&work) else { return };
        let twice = self.work.iter().any(|other| name_of(other).as_ref() == Some(&name));
        assert!(!twice, "{name} is ordered twice");
        self.work.push(work);
    }

    fn hear(&mut self, event: &Event) {
        let number =
            event.container.as_ref().map(|told| (1..=u8::MAX).find(|byte| id(*byte) == *told).unwrap());
        let states = event.pod.containers.iter().map(|container| match container.state {
            ContainerState::Created { .. } => 'c',
            ContainerState::Running { .. } => 'r',
            ContainerState::Exited { .. } => 'e',
        });
        self.heard.push((number, event.change, states.collect()));
    }

    fn ask(&mut self, call: Call) -> Ticket {
        let ticket = Ticket(self.asked);
        self.asked += 1;
        self.apply(Input::Call(ticket, call));
        ticket
    }

    fn answer(&mut self, ticket: Ticket) -> Result<Answer, Error> {
        self.answers.remove(&ticket).expect("it is answered")
    }

    fn waits(&self, ticket: Ticket) -> bool {
        !self.answers.contains_key(&ticket)
    }

    /// The work that ends with this outcome is over.
    fn finish(&mut self, outcome: Outcome) {
        let name = name_of_outcome(&outcome);
        let at = self.work.iter().position(|work| name_of(work).as_ref() == Some(&name));
        self.work.remove(at.unwrap_or_else(|| panic!("{name} was not ordered")));
        self.apply(Input::Done(outcome));
    }

    fn is_at_work(&self, name: &str) -> bool {
        self.work.iter().any(|work| name_of(work).is_some_and(|other| other == name))
    }

    fn config(byte: u8) -> Arc<ContainerConfig> {
        Arc::clone(&ContainerView::fake(&Self::facts().id, byte, CREATED).config)
    }
}

fn fact_of(view: &ContainerView) -> ContainerFacts {
    let (started_at, exit) = match &view.state {
        ContainerState::Created { .. } => (None, None),
        ContainerState::Running { started_at, .. } => (Some(*started_at), None),
        ContainerState::Exited { started_at, exit } => (*started_at, Some(exit.clone())),
    };
    ContainerFacts { id: view.id.clone(), pid: 40, user: ResolvedUser::default(), started_at, exit }
}

/// Work that reports back, by name: `None` is work from which nothing comes.
fn name_of(work: &Work) -> Option<String> {
    let of = |what: &str, id: &ContainerId| Some(format!("{what} {}", &id.as_str()[..2]));
    match work {
        Work::MakePod => Some("make pod".into()),
        Work::UndoPod => Some("undo pod".into()),
        Work::Reach { .. } => Some("reach".into()),
        Work::AwaitTurn(id) => of("turn", id),
        Work::MakeContainer { id, .. } => of("make", id),
        Work::UnmakeContainer(id) => of("unmake", id),
        Work::Start(id) => of("start", id),
        Work::KillRound { id, .. } => of("kill", id),
        Work::FindEnds(Ends::Orphaned(ids)) => of("find", &ids[0]),
        Work::FindEnds(Ends::Unknown(id)) => of("find", id),
        Work::Limit(change) => of("limit", &change.id),
        Work::LimitPod { .. } => Some("limit pod".into()),
        Work::TakeBack(Some(id), _) => of("take back", id),
        Work::TakeBack(None, _) => Some("take back pod".into()),
        Work::EraseContainer(id) => of("erase", id),
        Work::TearDown => Some("tear down".into()),
        Work::ErasePod => Some("erase pod".into()),
        Work::Signal { .. }
        | Work::KillLeaf(_)
        | Work::Disown(_)
        | Work::Acknowledge(_)
        | Work::KeepEnd { .. } => None,
    }
}

fn name_of_outcome(outcome: &Outcome) -> String {
    let of = |what: &str, id: &ContainerId| format!("{what} {}", &id.as_str()[..2]);
    match outcome {
        Outcome::PodMade(_) => "make pod".into(),
        Outcome::PodUndone => "undo pod".into(),
        Outcome::Reached(..) | Outcome::Silent => "reach".into(),
        Outcome::Turn(id, _) => of("turn", id),
        Outcome::Made(id, _) => of("make", id),
        Outcome::Unmade(id) => of("unmake", id),
        Outcome::Started(id, ..) => of("start", id),
        Outcome::KillChecked(id, _) => of("kill", id),
        Outcome::EndsFound(ends) => of("find", &ends[0].0),
        Outcome::Limited(id, _) => of("limit", id),
        Outcome::PodLimited(_) => "limit pod".into(),
        Outcome::TakenBack(Some(id)) => of("take back", id),
        Outcome::TakenBack(None) => "take back pod".into(),
        Outcome::Erased(id, _) => of("erase", id),
        Outcome::TornDown(_) => "tear down".into(),
        Outcome::PodErased(_) => "erase pod".into(),
    }
}

// ---- stories ----

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
    assert_eq!((desk.heard.as_slice(), desk.phases.as_slice()), (&heard[..], &[PodPhase::Ready][..]));
    let again = desk.ask(Call::Run { config: Arc::new(fake_config("web")) });
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
        assert!(desk.shown.is_none() && desk.withdrawn && desk.ledger.is_over() && desk.heard.is_empty());
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
    assert_eq!((desk.state(1), &desk.records[&id(1)].0), (expected.clone(), &expected));
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
    assert!(desk.is_at_work("start 01") && desk.records[&id(1)].2, "the intent is on the disk");
    desk.finish(Outcome::Started(id(1), Ok(UnixNanos(5)), UnixNanos(6)));
    for ticket in [start, retry] {
        desk.answer(ticket).unwrap();
    }
    assert!(!desk.records[&id(1)].2 && matches!(desk.state(1), ContainerState::Running { .. }));
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
        let mut desk = Desk::with(Ledger::recovered(facts, found));
        desk.finish(Outcome::Silent);
        desk.ask(Call::Stop { id: id(1), grace: GRACE });
        assert_eq!(desk.is_at_work("kill 01"), !starting);
    }
    // An answer that never came is no answer.
    let mut desk = Desk::ready(&[(1, CREATED)]);
    desk.ask(Call::Start { id: id(1) });
    desk.finish(Outcome::Started(id(1), Err(failure(Stage::Connection)), UnixNanos(6)));
    assert!(desk.state(1) == CREATED && desk.records[&id(1)].2);
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
    assert_eq!((desk.ledger.phase(), desk.owed), (Some(PodPhase::NotReady), Some((true, false))));
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
    assert!(desk.records[&id(1)].0.is_exited());
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
    assert!(desk.records[&id(1)].0.is_exited() && desk.records[&id(2)].0.is_exited());
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
    assert_eq!((&desk.view().containers[0].resources, &desk.records[&id(1)].1), (&granted(), &granted()));
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
    assert_eq!((desk.view().limits.clone(), desk.pod_limits), (change.clone(), Some(change)));
}

// ---- events ----

#[test]
fn an_end_that_is_reported_before_the_start_is_told_after_it_and_once() {
    let mut desk = Desk::ready(&[(1, CREATED)]);
    desk.ask(Call::Start { id: id(1) });
    desk.apply(Input::Exited(id(1), exited(3)));
    assert_eq!(desk.heard.len(), 0);
    desk.finish(Outcome::Started(id(1), Ok(UnixNanos(5)), UnixNanos(6)));
    desk.apply(Input::Exited(id(1), exited(3)));
    let expected = [Change::Started, Change::Stopped].map(|change| (Some(1), change, "e".to_owned()));
    assert_eq!(desk.heard, expected);
}

#[test]
fn a_start_that_failed_is_an_end_whatever_is_heard_first() {
    for stage in [Stage::Execve, Stage::Connection] {
        let mut desk = Desk::ready(&[(1, CREATED)]);
        desk.ask(Call::Start { id: id(1) });
        desk.apply(Input::Exited(id(1), exited(3)));
        desk.finish(Outcome::Started(id(1), Err(failure(stage)), UnixNanos(6)));
        assert_eq!(desk.heard, [(Some(1), Change::Stopped, "e".to_owned())], "{stage:?}");
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
    assert_eq!(desk.heard, expected);
    assert!(desk.withdrawn && desk.ledger.is_over());
}

// ---- random lives ----

/// One step of a random life.
#[derive(Clone, Debug)]
enum Step {
    Run,
    Create(u8),
    Start(u8),
    Stop(u8, u16),
    Remove(u8),
    Update(u8),
    UpdatePod,
    StopPod,
    RemovePod,
    /// Some work ends, well or badly.
    Finish(usize, bool),
    Exit(u8),
    Lose,
    End,
    Pass(u16),
    Disk(bool),
}

fn any_step() -> impl Strategy<Value = Step> {
    let byte = || 1u8..6;
    prop_oneof![
        1 => Just(Step::Run),
        4 => byte().prop_map(Step::Create),
        4 => byte().prop_map(Step::Start),
        2 => (byte(), 0u16..100).prop_map(|(byte, grace)| Step::Stop(byte, grace)),
        2 => byte().prop_map(Step::Remove),
        2 => byte().prop_map(Step::Update),
        1 => Just(Step::UpdatePod),
        1 => Just(Step::StopPod),
        1 => Just(Step::RemovePod),
        16 => (0usize..8, prop::bool::weighted(0.8)).prop_map(|(at, well)| Step::Finish(at, well)),
        3 => byte().prop_map(Step::Exit),
        1 => Just(Step::Lose),
        1 => Just(Step::End),
        2 => (0u16..100).prop_map(Step::Pass),
        1 => prop::bool::weighted(0.3).prop_map(Step::Disk),
    ]
}

/// What there is, whatever the ledger believes.
#[derive(Default)]
struct World {
    /// Containers that the supervisor has made, and whether they live.
    made: BTreeMap<ContainerId, bool>,
    supervisor: bool,
    connected: bool,
    /// Cgroup, network and records of the pod.
    pod: bool,
    /// Containers that can be listed.
    listed: BTreeSet<ContainerId>,
    /// Ids are given once.
    created: u8,
}

impl World {
    fn end(&mut self, id: &ContainerId) {
        if let Some(lives) = self.made.get_mut(id) {
            *lives = false;
        }
    }
}

fn life(steps: Vec<Step>) {
    let mut desk = Desk::new();
    let mut world = World { pod: true, created: 10, ..World::default() };
    for step in steps {
        take(&mut desk, &mut world, step);
        check(&desk);
        if desk.ledger.is_over() {
            break;
        }
    }
    // Everything comes to an end once what fails is over.
    desk.disk_full = false;
    for _ in 0..200 {
        if desk.ledger.is_over() {
            break;
        }
        if desk.work.is_empty() {
            desk.now += Duration::from_secs(3600);
            desk.ask(Call::RemovePod);
        } else {
            take(&mut desk, &mut world, Step::Finish(0, true));
        }
        check(&desk);
    }
    assert!(desk.ledger.is_over(), "it has no end: {:?} {:?}", desk.ledger, desk.work);
    let open: Vec<_> = (0..desk.asked).filter(|ticket| desk.waits(Ticket(*ticket))).collect();
    assert!(open.is_empty(), "calls without an answer: {open:?}");
    // Who looks at what is gone by now finds nothing.
    let looks = |work: &Work| {
        use Work::{AwaitTurn, FindEnds, KillRound, Limit, LimitPod, Reach, TakeBack};
        let limits = matches!(work, Limit(_) | LimitPod { .. } | TakeBack(..));
        limits || matches!(work, AwaitTurn(_) | FindEnds(_) | KillRound { .. } | Reach { .. })
    };
    let forgotten: Vec<_> = desk.work.iter().filter(|work| !looks(work)).collect();
    assert!(forgotten.is_empty(), "ordered and forgotten: {forgotten:?}");
    assert!(!world.pod && world.made.is_empty(), "left behind: {:?}", world.made);
    assert!(desk.withdrawn);
}

fn take(desk: &mut Desk, world: &mut World, step: Step) {
    match step {
        Step::Run => drop(desk.ask(Call::Run { config: Arc::new(fake_config("web")) })),
        Step::Create(byte) => {
            world.created += 1;
            let config = Desk::config(byte);
            desk.ask(Call::Create { id: id(world.created), config });
        }
        Step::Start(at) => with_nth(desk, at, |desk, id| {
            desk.ask(Call::Start { id });
        }),
        Step::Stop(at, grace) => with_nth(desk, at, |desk, id| {
            desk.ask(Call::Stop { id, grace: Duration::from_secs(grace.into()) });
        }),
        Step::Remove(at) => with_nth(desk, at, |desk, id| {
            desk.ask(Call::Remove { id });
        }),
        Step::Update(at) => with_nth(desk, at, |desk, id| {
            desk.ask(Call::Update { id, change: Box::new(granted()) });
        }),
        Step::UpdatePod => {
            let change = PodLimits { resources: Some(granted()), overhead: None };
            desk.ask(Call::UpdatePod { change: Box::new(change) });
        }
        Step::StopPod => drop(desk.ask(Call::StopPod)),
        Step::RemovePod => drop(desk.ask(Call::RemovePod)),
        Step::Finish(at, well) => {
            if !desk.work.is_empty() {
                let work = desk.work.remove(at % desk.work.len());
                let listed = desk.shown.iter().flat_map(|view| &view.containers);
                world.listed = listed.map(|view| view.id.clone()).collect();
                let input = outcome(&work, well, world);
                desk.apply(input);
            }
        }
        Step::Exit(at) => {
            let alive: Vec<_> =
                world.made.iter().filter(|(_, lives)| **lives).map(|(id, _)| id.clone()).collect();
            if let (Some(id), true) = (alive.get(usize::from(at)), world.connected) {
                world.made.insert(id.clone(), false);
                desk.apply(Input::Exited(id.clone(), exited(3)));
            }
        }
        Step::Lose => {
            if std::mem::take(&mut world.connected) {
                desk.apply(Input::SupervisorLost);
            }
        }
        Step::End => {
            if world.supervisor && std::mem::take(&mut world.connected) {
                world.supervisor = false;
                desk.apply(Input::SupervisorEnded);
            }
        }
        Step::Pass(seconds) => {
            desk.now += Duration::from_secs(seconds.into());
            desk.apply(Input::Time);
        }
        Step::Disk(full) => desk.disk_full = full,
    }
}

fn with_nth(desk: &mut Desk, at: u8, ask: impl FnOnce(&mut Desk, ContainerId)) {
    let ids: Vec<_> =
        desk.shown.iter().flat_map(|view| &view.containers).map(|view| view.id.clone()).collect();
    let unknown = id(9);
    let id = ids.get(usize::from(at) - 1).cloned().unwrap_or(unknown);
    ask(desk, id);
}

/// What comes of the work in this world.
fn outcome(work: &Work, well: bool, world: &mut World) -> Input {
    let bad = || Error::Defect("bad luck");
    let done = |result: bool| if result { Ok(()) } else { Err(bad()) };
    Input::Done(match work {
        Work::MakePod if well => {
            (world.supervisor, world.connected) = (true, true);
            let cgroup = cgroup::Handle::fake(&Desk::facts().id);
            Outcome::PodMade(Ok(Box::new(MadePod { cgroup, supervisor_pid: PID, attachment: None })))
        }
        Work::MakePod => Outcome::PodMade(Err(bad())),
        Work::UndoPod => {
            *world = World { created: world.created, ..World::default() };
            Outcome::PodUndone
        }
        Work::Reach { .. } if !world.supervisor => return Input::SupervisorEnded,
        Work::Reach { .. } => {
            world.connected = true;
            let facts = world.made.iter().map(|(id, lives)| ContainerFacts {
                id: id.clone(),
                pid: 40,
                user: ResolvedUser::default(),
                started_at: None,
                exit: (!lives).then(|| exited(3)),
            });
            Outcome::Reached(facts.collect(), PID)
        }
        Work::AwaitTurn(id) => Outcome::Turn(id.clone(), done(well)),
        Work::MakeContainer { id, config } => {
            if well && world.supervisor {
                world.made.insert(id.clone(), true);
                let view = ContainerView {
                    id: id.clone(),
                    config: Arc::clone(config),
                    ..ContainerView::fake(&Desk::facts().id, 1, CREATED)
                };
                Outcome::Made(id.clone(), Ok(Box::new(view)))
            } else {
                Outcome::Made(id.clone(), Err(bad()))
            }
        }
        Work::UnmakeContainer(id) => {
            world.made.remove(id);
            Outcome::Unmade(id.clone())
        }
        Work::Start(id) if well && world.made.get(id) == Some(&true) => {
            Outcome::Started(id.clone(), Ok(UnixNanos(5)), UnixNanos(6))
        }
        Work::Start(id) => {
            let stage = if world.connected { Stage::Execve } else { Stage::Connection };
            if let (Stage::Execve, Some(lives)) = (stage, world.made.get_mut(id)) {
                *lives = false;
            }
            Outcome::Started(id.clone(), Err(failure(stage)), UnixNanos(6))
        }
        Work::KillRound { id, .. } => {
            if well {
                world.end(id);
            }
            Outcome::KillChecked(id.clone(), well.then(|| exited(137)))
        }
        Work::FindEnds(ends) => {
            let ids = match ends {
                Ends::Orphaned(ids) => ids.clone(),
                Ends::Unknown(id) => vec![id.clone()],
            };
            let found = ids.into_iter().map(|id| {
                if well {
                    world.end(&id);
                }
                (id, well.then(|| exited(137)))
            });
            Outcome::EndsFound(found.collect())
        }
        Work::Limit(change) => {
            let limited = Limited { after: change.after.clone(), changed: cgroup::Changed::default() };
            let refused = cgroup::Error::Foreign { path: "/x".into() };
            Outcome::Limited(change.id.clone(), if well { Ok(Box::new(limited)) } else { Err(refused) })
        }
        Work::LimitPod { after } => {
            let limited = Limited { after: PodLimits::clone(after), changed: cgroup::Changed::default() };
            let refused = cgroup::Error::Foreign { path: "/x".into() };
            Outcome::PodLimited(if well { Ok(Box::new(limited)) } else { Err(refused) })
        }
        Work::TakeBack(id, _) => Outcome::TakenBack(id.clone()),
        Work::EraseContainer(id) => {
            if well {
                assert_eq!(world.made.remove(id), Some(false), "erased while it lives");
            }
            Outcome::Erased(id.clone(), done(well))
        }
        Work::TearDown => {
            let alive: Vec<_> = world.made.iter().filter(|(_, lives)| **lives).map(|(id, _)| id).collect();
            assert!(alive.iter().all(|id| !world.listed.contains(id)), "torn down over living containers");
            // What is being made dies with it.
            world.made.values_mut().for_each(|lives| *lives = false);
            (world.supervisor, world.connected) = (false, false);
            let failure =
                TearDownError { error: bad(), network_held: true, cgroup_held: false, hopeless: false };
            Outcome::TornDown(if well { Ok(()) } else { Err(failure) })
        }
        Work::ErasePod => {
            assert!(world.made.is_empty(), "the pod went before its containers: {:?}", world.made);
            world.pod = !well;
            Outcome::PodErased(done(well))
        }
        Work::Signal { .. }
        | Work::KillLeaf(_)
        | Work::Disown(_)
        | Work::Acknowledge(_)
        | Work::KeepEnd { .. } => unreachable!("nothing comes of it"),
    })
}

/// What always holds.
fn check(desk: &Desk) {
    let mut last: BTreeMap<Option<u8>, Change> = BTreeMap::new();
    for (number, change, _) in &desk.heard {
        let before = last.insert(*number, *change);
        assert!(
            before.is_none_or(|before| before < *change),
            "{number:?} told twice or out of order: {:?}",
            desk.heard
        );
    }
    let Some(view) = &desk.shown else { return };
    let ids: BTreeSet<_> = view.containers.iter().map(|view| &view.id).collect();
    assert_eq!(ids.len(), view.containers.len(), "a container is listed twice");
    if !desk.ledger.is_over() {
        assert_eq!(
            view.ready,
            desk.ledger.phase() == Some(PodPhase::Ready),
            "what is shown is not what is true"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_random_life_answers_every_call_and_leaves_nothing(steps in prop::collection::vec(any_step(), 0..120)) {
        life(steps);
    }
}
