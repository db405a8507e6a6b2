//! A ledger on a desk: a driver that does nothing but keep account. Stories and the simulator use it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Instant,
};

use super::{
    order::{Ends, Work, Write},
    *,
};
use crate::{
    cgroup,
    model::{
        ContainerConfig, ContainerId, Exit, ExitReason, Failure, PodId, PodLimits, ResolvedUser, Stage,
        UnixNanos,
    },
    pod::{
        error::Error,
        keep::{ContainerRecord, Made, PodRecord},
        view::{ContainerState, ContainerView, PodView, fake_config},
    },
    supervisor::ContainerFacts,
};

const CREATED: ContainerState = ContainerState::Created { pid: u32::MAX };
pub(in crate::pod) const PID: u32 = 77;

pub(in crate::pod) fn id(byte: u8) -> ContainerId {
    ContainerId::from_bytes([byte; 32])
}

pub(in crate::pod) fn exited(code: i32) -> Exit {
    Exit { code, reason: ExitReason::Error, at: UnixNanos(9), message: String::new() }
}

pub(in crate::pod) fn failure(stage: Stage) -> Failure {
    Failure { stage, object: String::new(), errno: 2, path: "/bin/nope".into(), text: String::new() }
}

/// What followers heard: the container's number, if it is one, what happened, and the states of all containers
/// as they were shown then, by their first letters.
pub(super) type Heard = (Option<u8>, Change, String);

/// A ledger with a driver that does nothing but keep account.
#[derive(Debug)]
pub(in crate::pod) struct Desk {
    pub(in crate::pod) ledger: Ledger,
    pub(in crate::pod) now: Instant,
    pub(in crate::pod) asked: u64,
    pub(in crate::pod) answers: BTreeMap<Ticket, Result<Answer, Error>>,
    /// Begun and not over.
    pub(in crate::pod) work: Vec<Work>,
    /// Work of which nothing is heard again.
    pub(in crate::pod) silent: Vec<Work>,
    pub(in crate::pod) events: Vec<Event>,
    pub(in crate::pod) shown: Option<Arc<PodView>>,
    /// As written last.
    pub(in crate::pod) records: BTreeMap<ContainerId, ContainerRecord>,
    pub(in crate::pod) pod_record: Option<PodRecord>,
    pub(super) phases: Vec<PodPhase>,
    pub(in crate::pod) debt: Option<(bool, bool)>,
    pub(in crate::pod) disk_full: bool,
    /// Containers whose last record could not be written.
    pub(in crate::pod) unwritten: BTreeSet<ContainerId>,
    /// The pod's last record could not be written.
    pub(in crate::pod) pod_unwritten: bool,
    /// The daemon dies at this write: so many are before it.
    pub(in crate::pod) death: Option<Death>,
    pub(in crate::pod) withdrawn: bool,
    pub(in crate::pod) notices: Vec<Notice>,
}

/// Where a daemon dies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::pod) struct Death {
    /// Writes before it.
    pub(in crate::pod) writes: u8,
    /// The write itself has succeeded.
    pub(in crate::pod) after: bool,
    pub(in crate::pod) happened: bool,
}

impl Desk {
    pub(in crate::pod) fn with((ledger, orders): (Ledger, Vec<Order>)) -> Self {
        let mut desk = Self {
            ledger,
            now: Instant::now(),
            asked: 0,
            answers: BTreeMap::new(),
            work: Vec::new(),
            silent: Vec::new(),
            events: Vec::new(),
            shown: None,
            records: BTreeMap::new(),
            pod_record: None,
            phases: Vec::new(),
            debt: None,
            disk_full: false,
            unwritten: BTreeSet::new(),
            pod_unwritten: false,
            death: None,
            withdrawn: false,
            notices: Vec::new(),
        };
        desk.carry_out(orders);
        desk
    }

    pub(in crate::pod) fn facts() -> PodFacts {
        let id = PodId::from_bytes([0xab; 32]);
        let cgroup = Some(cgroup::Handle::fake(&id));
        PodFacts { config: Arc::new(fake_config("web")), created_at: UnixNanos(1), cgroup, id }
    }

    /// A pod of which nothing is there yet.
    pub(in crate::pod) fn new() -> Self {
        Self::with(Ledger::new(PodFacts { cgroup: None, ..Self::facts() }))
    }

    /// A pod that has just been recovered.
    pub(super) fn recovered(phase: PodPhase, containers: &[(u8, ContainerState)]) -> Self {
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
        Self::with(Ledger::recovered(facts, found, Instant::now()))
    }

    /// A pod that is ready, with a supervisor that answers.
    pub(super) fn ready(containers: &[(u8, ContainerState)]) -> Self {
        let mut desk = Self::recovered(PodPhase::Ready, containers);
        let facts = desk.view().containers.iter().map(|view| fact_of(view)).collect();
        desk.finish(Outcome::Reached(facts, PID));
        desk.work.clear();
        desk
    }

    pub(super) fn view(&self) -> Arc<PodView> {
        Arc::clone(self.shown.as_ref().expect("it is shown"))
    }

    pub(super) fn state(&self, byte: u8) -> ContainerState {
        let view = self.view();
        view.containers.iter().find(|view| view.id == id(byte)).expect("it is listed").state.clone()
    }

    pub(in crate::pod) fn apply(&mut self, input: Input) {
        let orders = self.ledger.apply(input, self.now);
        self.carry_out(orders);
    }

    /// As the driver does it, unless the daemon dies.
    pub(in crate::pod) fn carry_out(&mut self, orders: Vec<Order>) {
        let mut written = Vec::new();
        for order in orders {
            if self.is_dead() {
                return;
            }
            match order {
                Order::Write(write) => {
                    let which = write.written();
                    if let Some(result) = self.write_or_die(write) {
                        written.push((which, result));
                    }
                }
                Order::Work(work) => self.begin(work),
                Order::Show(view) => self.shown = Some(view),
                Order::Announce(event) => self.events.push(event),
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

    /// `None`: the daemon died.
    fn write_or_die(&mut self, write: Write) -> Option<Result<(), Error>> {
        match &mut self.death {
            Some(death) if death.writes == 0 => {
                death.happened = true;
                if death.after {
                    let _written = self.write(write);
                }
                return None;
            }
            Some(death) => death.writes -= 1,
            None => {}
        }
        Some(self.write(write))
    }

    pub(in crate::pod) fn is_dead(&self) -> bool {
        self.death.is_some_and(|death| death.happened)
    }

    fn write(&mut self, write: Write) -> Result<(), Error> {
        if let Write::Debt { network, cgroup, .. } = &write {
            // A daemon remembers what it cannot write.
            self.debt = Some((*network, *cgroup));
        }
        if self.disk_full {
            match &write {
                Write::Container { view, .. } => drop(self.unwritten.insert(view.id.clone())),
                Write::Pod { .. } => self.pod_unwritten = true,
                Write::Debt { .. } => {}
            }
            let error = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(Error::Io { doing: "write".into(), source: error });
        }
        match write {
            Write::Pod { phase, attachment, supervisor_pid, limits, .. } => {
                self.phases.push(phase);
                self.pod_unwritten = false;
                let facts = Self::facts();
                self.pod_record = Some(PodRecord {
                    id: facts.id,
                    boot_id: String::new(),
                    state: phase,
                    config: facts.config,
                    created_at: facts.created_at,
                    attachment,
                    supervisor_pid,
                    limits: Some(*limits),
                    cgroup: facts.cgroup,
                    root: None,
                });
            }
            Write::Container { view, starting, .. } => {
                let made = Made { state: view.state.clone(), user: view.user.clone(), starting };
                let record = ContainerRecord { made: Some(made), ..ContainerRecord::of(&view) };
                self.unwritten.remove(&view.id);
                self.records.insert(view.id.clone(), record);
            }
            Write::Debt { .. } => {}
        }
        Ok(())
    }

    fn begin(&mut self, work: Work) {
        let Some(name) = name_of(&work) else { return self.silent.push(work) };
        let twice = self.work.iter().any(|other| name_of(other).as_ref() == Some(&name));
        assert!(!twice, "{name:?} is ordered twice");
        self.work.push(work);
    }

    /// What followers have heard.
    pub(super) fn heard(&self) -> Vec<Heard> {
        let heard = self.events.iter().map(|event| {
            let number = event.container.as_ref();
            let number = number.map(|known| (1..=u8::MAX).find(|byte| id(*byte) == *known).unwrap());
            let states = event.pod.containers.iter().map(|container| match container.state {
                ContainerState::Created { .. } => 'c',
                ContainerState::Running { .. } => 'r',
                ContainerState::Exited { .. } => 'e',
            });
            (number, event.change, states.collect())
        });
        heard.collect()
    }

    /// The state of a container as it was written last, and whether a start was asked for.
    pub(super) fn record(&self, byte: u8) -> &Made {
        self.records[&id(byte)].made.as_ref().expect("it is made")
    }

    pub(in crate::pod) fn ask(&mut self, call: Call) -> Ticket {
        let ticket = Ticket(self.asked);
        self.asked += 1;
        self.apply(Input::Call(ticket, call));
        ticket
    }

    pub(super) fn answer(&mut self, ticket: Ticket) -> Result<Answer, Error> {
        self.answers.remove(&ticket).expect("it is answered")
    }

    pub(in crate::pod) fn waits(&self, ticket: Ticket) -> bool {
        !self.answers.contains_key(&ticket)
    }

    /// The work that ends with this outcome is over.
    pub(super) fn finish(&mut self, outcome: Outcome) {
        let name = name_of_outcome(&outcome);
        let at = self.work.iter().position(|work| name_of(work).as_ref() == Some(&name));
        self.work.remove(at.unwrap_or_else(|| panic!("{name:?} was not ordered")));
        self.apply(Input::Done(outcome));
    }

    pub(super) fn is_at_work(&self, name: &str) -> bool {
        let is = |(what, of): (&str, Option<&ContainerId>)| {
            name == what || of.is_some_and(|of| name == format!("{what} {}", &of.as_str()[..2]))
        };
        self.work.iter().any(|work| name_of(work).is_some_and(is))
    }

    pub(in crate::pod) fn config(byte: u8) -> Arc<ContainerConfig> {
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

/// Work that reports back, by name and container: `None` is work from which nothing comes.
fn name_of(work: &Work) -> Option<(&'static str, Option<&ContainerId>)> {
    match work {
        Work::MakePod => Some(("make pod", None)),
        Work::UndoPod => Some(("undo pod", None)),
        Work::Reach { .. } => Some(("reach", None)),
        Work::AwaitTurn(id) => Some(("turn", Some(id))),
        Work::MakeContainer { id, .. } => Some(("make", Some(id))),
        Work::UnmakeContainer(id) => Some(("unmake", Some(id))),
        Work::Start(id) => Some(("start", Some(id))),
        Work::KillRound { id, .. } => Some(("kill", Some(id))),
        Work::FindEnds(Ends::Orphaned(ids)) => Some(("find", ids.first())),
        Work::FindEnds(Ends::Unknown(id)) => Some(("find", Some(id))),
        Work::Limit(change) => Some(("limit", Some(&change.id))),
        Work::LimitPod { .. } => Some(("limit pod", None)),
        Work::TakeBack(Some(id), _) => Some(("take back", Some(id))),
        Work::TakeBack(None, _) => Some(("take back pod", None)),
        Work::EraseContainer(id) => Some(("erase", Some(id))),
        Work::TearDown => Some(("tear down", None)),
        Work::ErasePod => Some(("erase pod", None)),
        Work::Signal { .. }
        | Work::KillLeaf(_)
        | Work::Disown(_)
        | Work::Acknowledge(_)
        | Work::KeepEnd { .. } => None,
    }
}

fn name_of_outcome(outcome: &Outcome) -> (&'static str, Option<&ContainerId>) {
    match outcome {
        Outcome::PodMade(_) => ("make pod", None),
        Outcome::PodUndone => ("undo pod", None),
        Outcome::Reached(..) | Outcome::Silent => ("reach", None),
        Outcome::Turn(id, _) => ("turn", Some(id)),
        Outcome::Made(id, _) => ("make", Some(id)),
        Outcome::Unmade(id) => ("unmake", Some(id)),
        Outcome::Started(id, ..) => ("start", Some(id)),
        Outcome::KillChecked(id, _) => ("kill", Some(id)),
        Outcome::EndsFound(ends) => ("find", ends.first().map(|(id, _)| id)),
        Outcome::Limited(id, _) => ("limit", Some(id)),
        Outcome::PodLimited(_) => ("limit pod", None),
        Outcome::TakenBack(Some(id)) => ("take back", Some(id)),
        Outcome::TakenBack(None) => ("take back pod", None),
        Outcome::Erased(id, _) => ("erase", Some(id)),
        Outcome::TornDown(_) => ("tear down", None),
        Outcome::PodErased(_) => ("erase pod", None),
    }
}
