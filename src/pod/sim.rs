//! The simulator: random lives of one pod, in simulated time, over daemons that die at any write.
//!
//! The rules are the real ones: [`Ledger`] and `recover::decide`. What they stand on is a [`World`] of records,
//! processes and a kernel, in which work is done step by step; a daemon that dies leaves each piece of its work at
//! some step, and the next one begins with what is on disk.
//!
//! Always: every call is answered once, no work is ordered twice, an exit is announced once and keeps its code, nothing
//! that lives is listed as exited, nothing is killed that nobody wanted ended. After each death and recovery: what a
//! caller got an answer about is there. In the end: nothing is left.
//!
//! Long: one world, and what each kind of work does in it.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    error::Error,
    keep::{ContainerRecord, EndRecord, PodRecord},
    life::{
        Answer, Call, Change, Ends, Input, Ledger, Limited, MadePod, Outcome, PodPhase, TearDownError,
        Ticket, Work,
        desk::{Death, Desk, PID, exited, failure, id},
    },
    recover::{
        decide::{Decision, Here, Probe, decide, proven},
        survey::{FolderRest, FolderSurvey, PodSurvey, Survey},
    },
    view::{ContainerState, ContainerView, fake_config},
};
use crate::{
    cgroup,
    model::{ContainerId, PodLimits, ResolvedUser, Resources, Stage, UnixNanos},
    store::BadRecord,
    supervisor::ContainerFacts,
};

// ---- chance ----

/// Numbers that look random (SplitMix64, public domain).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.roll() % end
    }
}

/// One step of a random life.
#[derive(Clone, Copy, Debug)]
enum Step {
    Run,
    Create(u8),
    Start(u8),
    Stop(u8, u64),
    Remove(u8),
    Update(u8),
    UpdatePod,
    StopPod,
    RemovePod,
    /// Some work ends, well or badly.
    Finish(u64, bool),
    /// A container's process ends by itself.
    Exit(u64),
    LoseConnection,
    EndSupervisor,
    Pass(u64),
    Disk {
        full: bool,
    },
    /// The daemon dies at a later write, or now.
    Die {
        writes: Option<u8>,
        after: bool,
        with: Loss,
        luck: u64,
    },
}

/// What is lost besides the daemon.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Loss {
    Nothing,
    Supervisor,
    /// The machine restarts.
    Boot,
    /// Somebody empties the state folder.
    State,
    /// The pod's record is damaged.
    Record,
}

impl Step {
    fn random(dice: &mut Dice) -> Self {
        let byte = |dice: &mut Dice| u8::try_from(1 + dice.below(5)).unwrap();
        match dice.below(64) {
            0 => Self::Run,
            1..=5 => Self::Create(byte(dice)),
            6..=10 => Self::Start(byte(dice)),
            11..=13 => Self::Stop(byte(dice), dice.below(100)),
            14..=16 => Self::Remove(byte(dice)),
            17 | 18 => Self::Update(byte(dice)),
            19 => Self::UpdatePod,
            20 => Self::StopPod,
            21 => Self::RemovePod,
            22..=47 => Self::Finish(dice.below(8), dice.below(5) > 0),
            48..=51 => Self::Exit(dice.below(5)),
            52 => Self::LoseConnection,
            53 => Self::EndSupervisor,
            54..=56 => Self::Pass(dice.below(100)),
            57 | 58 => Self::Disk { full: dice.below(3) == 0 },
            _ => {
                let writes = (dice.below(4) > 0).then(|| u8::try_from(dice.below(3)).unwrap());
                let with = match dice.below(16) {
                    0 => Loss::Supervisor,
                    1 => Loss::Boot,
                    2 => Loss::State,
                    3 => Loss::Record,
                    _ => Loss::Nothing,
                };
                Self::Die { writes, after: dice.below(2) == 0, with, luck: dice.roll() }
            }
        }
    }
}

// ---- the world ----

/// What there is, whatever the ledger believes.
#[derive(Default)]
struct World {
    boot: u8,
    live: Option<Folder>,
    known: Option<Folder>,
    cgroup: bool,
    network: bool,
    supervisor: Option<BTreeMap<ContainerId, Child>>,
    connected: bool,
    /// Containers with a process.
    alive: BTreeSet<ContainerId>,
    writable: BTreeSet<ContainerId>,
    /// Ids, and exit codes, are given once.
    created: u8,
    codes: i32,
    /// What the records say is not believed any more: somebody has taken them away.
    robbed: bool,
    /// A record said that the pod is ready.
    was_ready: bool,
    /// The supervisor's socket went with the state folder.
    unreachable: bool,
    debt: bool,
    callers: Callers,
}

/// A folder of the pod.
#[derive(Clone, Debug, Default)]
struct Folder {
    pod: Option<PodRecord>,
    damaged: bool,
    cgroup: bool,
    containers: BTreeMap<ContainerId, ContainerRecord>,
    ends: BTreeMap<ContainerId, EndRecord>,
    /// The supervisor's own records.
    exits: BTreeMap<ContainerId, i32>,
    was_made: bool,
}

/// What a supervisor knows of a container.
#[derive(Clone, Copy, Debug, Default)]
struct Child {
    started: bool,
    exit: Option<i32>,
}

/// What those who call know, over all daemons.
#[derive(Default)]
struct Callers {
    /// RunPodSandbox succeeded.
    has_pod: bool,
    stops_pod: bool,
    removes_pod: bool,
    /// CreateContainer succeeded.
    has: BTreeSet<ContainerId>,
    stops: BTreeSet<ContainerId>,
    removes: BTreeSet<ContainerId>,
    /// Answered calls that matter, by ticket, in this daemon.
    runs: Vec<Ticket>,
    creates: Vec<Ticket>,
    /// What was announced of each last.
    heard: BTreeMap<Option<ContainerId>, Change>,
    /// Containers of which the last daemon knew what it could not write.
    forgotten: BTreeSet<ContainerId>,
    pod_forgotten: bool,
    /// The code with which each was shown as exited.
    codes: BTreeMap<ContainerId, i32>,
}

/// How many steps of a piece of work are still done before the daemon dies.
struct Steps(u64);

impl Steps {
    const ALL: u64 = u64::MAX;

    /// `None`: the daemon is dead.
    fn one(&mut self) -> Option<()> {
        self.0 = self.0.checked_sub(1)?;
        Some(())
    }
}

impl World {
    /// A process ends, for whatever reason.
    fn end(&mut self, id: &ContainerId, code: i32) {
        if !self.alive.remove(id) {
            return;
        }
        let child = self.supervisor.as_mut().and_then(|children| children.get_mut(id));
        if let (Some(child), Some(live)) = (child, &mut self.live) {
            child.exit = Some(code);
            live.exits.insert(id.clone(), code);
        }
    }

    /// A process is killed by us: somebody must have wanted that.
    fn kill(&mut self, id: &ContainerId) {
        if !self.alive.contains(id) {
            return;
        }
        let callers = &self.callers;
        let wanted = callers.stops_pod
            || callers.removes_pod
            || callers.stops.contains(id)
            || callers.removes.contains(id)
            || !callers.has.contains(id)
            || self.supervisor.is_none()
            || self.robbed;
        assert!(wanted, "a healthy container is killed: {id}");
        self.end(id, 137);
    }

    fn kill_all(&mut self) {
        for id in self.alive.clone() {
            self.kill(&id);
        }
    }

    fn end_supervisor(&mut self) {
        (self.supervisor, self.connected) = (None, false);
    }

    fn facts(&self) -> Vec<ContainerFacts> {
        let fact = |(id, child): (&ContainerId, &Child)| ContainerFacts {
            id: id.clone(),
            pid: 40,
            user: ResolvedUser::default(),
            started_at: child.started.then_some(UnixNanos(5)),
            exit: child.exit.map(exited),
        };
        self.supervisor.iter().flatten().map(fact).collect()
    }

    /// How a container ended, as far as it was written down.
    fn recorded_end(&self, id: &ContainerId) -> Option<i32> {
        let live = self.live.as_ref().and_then(|live| live.exits.get(id).copied());
        live.or_else(|| Some(self.known.as_ref()?.ends.get(id)?.exit.code))
    }

    fn survey(&self) -> Survey {
        let folder = |folder: &Folder| {
            let rest = FolderRest {
                cgroup: folder.cgroup.then(|| cgroup::Handle::fake(&Desk::facts().id)),
                containers: folder
                    .containers
                    .iter()
                    .map(|(id, record)| (id.clone(), Ok(record.clone())))
                    .collect(),
                ends: folder.ends.clone(),
                was_made: folder.was_made,
            };
            let pod = match &folder.pod {
                Some(_) if folder.damaged => Err(BadRecord::Damaged(String::new())),
                Some(record) => Ok(record.clone()),
                None => Err(BadRecord::Absent),
            };
            FolderSurvey { pod, rest }
        };
        let (live, known) = (self.live.as_ref().map(folder), self.known.as_ref().map(folder));
        if live.is_none() && known.is_none() {
            return Survey { pods: vec![] };
        }
        let pod = Desk::facts().id;
        let planned = Some(cgroup::Handle::fake(&pod));
        Survey { pods: vec![PodSurvey { id: pod, live, known, planned }] }
    }

    fn here(&self) -> Here {
        Here { boot_id: format!("boot {}", self.boot), root: "/lib".into(), now: UnixNanos(9) }
    }

    fn pod_record(&self, state: PodPhase) -> PodRecord {
        let facts = Desk::facts();
        PodRecord {
            id: facts.id,
            boot_id: self.here().boot_id,
            state,
            config: facts.config,
            created_at: facts.created_at,
            attachment: None,
            supervisor_pid: PID,
            limits: None,
            cgroup: None,
            root: Some("/lib".into()),
        }
    }

    /// Takes away all of a pod; `None`: the daemon died over it.
    fn take_down(&mut self, steps: &mut Steps) -> Option<()> {
        steps.one()?;
        self.end_supervisor();
        self.kill_all();
        steps.one()?;
        self.network = false;
        steps.one()?;
        self.cgroup = false;
        Some(())
    }

    fn erase_folders(&mut self, steps: &mut Steps) -> Option<()> {
        steps.one()?;
        self.known = None;
        steps.one()?;
        self.live = None;
        Some(())
    }

    fn erase(&mut self, id: &ContainerId, steps: &mut Steps) -> Option<()> {
        steps.one()?;
        self.kill(id);
        if let Some(children) = &mut self.supervisor {
            children.remove(id);
        }
        steps.one()?;
        self.writable.remove(id);
        steps.one()?;
        if let Some(known) = &mut self.known {
            known.containers.remove(id);
            known.ends.remove(id);
        }
        steps.one()?;
        if let Some(live) = &mut self.live {
            live.exits.remove(id);
            live.containers.remove(id);
        }
        Some(())
    }
}

// ---- work ----

fn bad_luck() -> Error {
    Error::Defect("bad luck")
}

fn granted() -> Resources {
    Resources { memory_bytes: 1 << 20, ..Resources::default() }
}

/// Does a piece of work, as far as the daemon lives, and gives what comes of it.
fn perform(work: &Work, well: bool, desk: &Desk, world: &mut World, steps: &mut Steps) -> Option<Input> {
    let done = |result: bool| if result { Ok(()) } else { Err(bad_luck()) };
    Some(Input::Done(match work {
        Work::MakePod => Outcome::PodMade(make_pod(well, desk, world, steps)?.map(Box::new)),
        Work::UndoPod => {
            if well {
                world.take_down(steps)?;
                world.erase_folders(steps)?;
            } else {
                world.debt = true;
            }
            Outcome::PodUndone
        }
        Work::Reach { .. } if world.supervisor.is_none() || world.unreachable => {
            return Some(Input::SupervisorEnded);
        }
        Work::Reach { once: true, .. } if !well => Outcome::Silent,
        Work::Reach { .. } => {
            world.connected = true;
            Outcome::Reached(world.facts(), PID)
        }
        Work::AwaitTurn(id) => Outcome::Turn(id.clone(), done(well)),
        Work::MakeContainer { id, config } => {
            let view = ContainerView {
                id: id.clone(),
                config: Arc::clone(config),
                ..ContainerView::fake(&Desk::facts().id, 1, ContainerState::Created { pid: 40 })
            };
            let made = make_container(&view, well && !desk.disk_full, world, steps)?;
            Outcome::Made(id.clone(), if made { Ok(Box::new(view)) } else { Err(bad_luck()) })
        }
        Work::UnmakeContainer(id) => {
            world.erase(id, steps)?;
            Outcome::Unmade(id.clone())
        }
        Work::Start(id) => start(id, well, world, steps)?,
        Work::KillRound { id, .. } => {
            steps.one()?;
            if well {
                world.kill(id);
            }
            let end = world.recorded_end(id).or((!world.alive.contains(id)).then_some(137));
            Outcome::KillChecked(id.clone(), end.map(exited))
        }
        Work::FindEnds(ends) => find_ends(ends, well, world, steps)?,
        Work::Limit(change) => {
            let limited = Limited { after: change.after.clone(), changed: cgroup::Changed::default() };
            Outcome::Limited(change.id.clone(), if well { Ok(Box::new(limited)) } else { Err(refused()) })
        }
        Work::LimitPod { after } => {
            let limited = Limited { after: PodLimits::clone(after), changed: cgroup::Changed::default() };
            Outcome::PodLimited(if well { Ok(Box::new(limited)) } else { Err(refused()) })
        }
        Work::TakeBack(id, _) => Outcome::TakenBack(id.clone()),
        Work::EraseContainer(id) => {
            assert!(!world.alive.contains(id), "erased while it lives");
            if well {
                world.erase(id, steps)?;
            }
            Outcome::Erased(id.clone(), done(well))
        }
        Work::TearDown => {
            let listed = desk.shown.iter().flat_map(|view| &view.containers);
            let over_the_living = listed.filter(|view| world.alive.contains(&view.id)).count();
            assert_eq!(over_the_living, 0, "torn down over living containers");
            if well {
                world.take_down(steps)?;
            } else {
                steps.one()?;
                world.end_supervisor();
                world.kill_all();
            }
            let failure =
                TearDownError { error: bad_luck(), network_held: true, cgroup_held: true, hopeless: false };
            Outcome::TornDown(if well { Ok(()) } else { Err(failure) })
        }
        Work::ErasePod => {
            if well {
                world.erase_folders(steps)?;
            }
            Outcome::PodErased(done(well))
        }
        Work::Disown(id) | Work::KillLeaf(id) => {
            steps.one()?;
            world.kill(id);
            if let (Work::Disown(_), Some(children)) = (work, &mut world.supervisor) {
                children.remove(id);
            }
            return None;
        }
        Work::KeepEnd { id, started_at, exit } => {
            steps.one()?;
            if let (Some(known), false) = (&mut world.known, desk.disk_full) {
                let end = EndRecord { started_at: *started_at, exit: exit.as_ref().clone() };
                known.ends.insert(id.clone(), end);
            }
            return None;
        }
        Work::Signal { .. } | Work::Acknowledge(_) => return None,
    }))
}

fn refused() -> cgroup::Error {
    cgroup::Error::Foreign { path: "/x".into() }
}

fn make_pod(well: bool, desk: &Desk, world: &mut World, steps: &mut Steps) -> Option<Result<MadePod, Error>> {
    let intent = Folder { pod: Some(world.pod_record(PodPhase::Starting)), ..Folder::default() };
    if desk.disk_full {
        return Some(Err(bad_luck()));
    }
    steps.one()?;
    world.live = Some(intent.clone());
    steps.one()?;
    world.known = Some(intent);
    steps.one()?;
    world.live.as_mut()?.cgroup = true;
    world.cgroup = true;
    steps.one()?;
    world.supervisor = Some(BTreeMap::new());
    world.connected = true;
    if !well {
        return Some(Err(bad_luck()));
    }
    steps.one()?;
    world.network = true;
    steps.one()?;
    world.live.as_mut()?.was_made = true;
    let cgroup = cgroup::Handle::fake(&Desk::facts().id);
    Some(Ok(MadePod { cgroup, supervisor_pid: PID, attachment: None }))
}

/// Whether it is made; a failure has undone itself.
fn make_container(view: &ContainerView, well: bool, world: &mut World, steps: &mut Steps) -> Option<bool> {
    let id = &view.id;
    let intent = ContainerRecord { made: None, ..ContainerRecord::of(view) };
    steps.one()?;
    if let Some(live) = &mut world.live {
        live.containers.insert(id.clone(), intent.clone());
    }
    steps.one()?;
    if let Some(known) = &mut world.known {
        known.containers.insert(id.clone(), intent);
    }
    steps.one()?;
    world.writable.insert(id.clone());
    steps.one()?;
    match &mut world.supervisor {
        Some(children) if well && world.connected => {
            children.insert(id.clone(), Child::default());
            world.alive.insert(id.clone());
            Some(true)
        }
        Some(_) | None => {
            world.erase(id, steps)?;
            Some(false)
        }
    }
}

fn start(id: &ContainerId, well: bool, world: &mut World, steps: &mut Steps) -> Option<Outcome> {
    steps.one()?;
    let (alive, connected) = (world.alive.contains(id), world.connected);
    let child = world.supervisor.as_mut().and_then(|children| children.get_mut(id));
    let Some(child) = child.filter(|_| connected) else {
        return Some(Outcome::Started(id.clone(), Err(failure(Stage::Connection)), UnixNanos(6)));
    };
    if well && alive {
        child.started = true;
        return Some(Outcome::Started(id.clone(), Ok(UnixNanos(5)), UnixNanos(6)));
    }
    world.end(id, 255);
    Some(Outcome::Started(id.clone(), Err(failure(Stage::Execve)), UnixNanos(6)))
}

fn find_ends(ends: &Ends, well: bool, world: &mut World, steps: &mut Steps) -> Option<Outcome> {
    steps.one()?;
    let ids = match ends {
        Ends::Orphaned(ids) => ids.clone(),
        Ends::Unknown(id) => vec![id.clone()],
    };
    let mut found = Vec::new();
    for id in ids {
        if well {
            world.kill(&id);
        }
        let end = world.recorded_end(&id).or((!world.alive.contains(&id)).then_some(137));
        found.push((id, end.map(exited)));
    }
    Some(Outcome::EndsFound(found))
}

// ---- a life ----

/// A daemon, and the world that it is in.
struct Life {
    desk: Desk,
    world: World,
    with: (Loss, u64),
    /// Nothing of the pod is left.
    over: bool,
}

fn life(steps: &[Step]) {
    let world = World { created: 10, ..World::default() };
    let mut life = Life { desk: Desk::new(), world, with: (Loss::Nothing, 0), over: false };
    for step in steps {
        life.take(*step);
        if life.over {
            return life.check_end();
        }
    }
    // Everything comes to an end once what fails is over.
    (life.desk.disk_full, life.desk.death) = (false, None);
    for _ in 0..300 {
        if life.over {
            break;
        }
        if life.desk.work.is_empty() {
            life.desk.now += Duration::from_secs(3600);
            life.take(Step::RemovePod);
        } else {
            life.take(Step::Finish(0, true));
        }
    }
    assert!(life.over, "it has no end: {:?} {:?}", life.desk.ledger, life.desk.work);
    life.check_end();
}

impl Life {
    fn take(&mut self, step: Step) {
        if let Step::Die { writes, after, with, luck } = step {
            self.with = (with, luck);
            self.desk.death = Some(Death { writes: writes.unwrap_or(0), after, happened: writes.is_none() });
        } else {
            self.begin(step);
            self.sync();
        }
        if self.desk.is_dead() {
            self.die();
        }
        if self.over {
            return;
        }
        self.check();
        self.over |= self.desk.ledger.is_over();
    }

    fn begin(&mut self, step: Step) {
        let (desk, world) = (&mut self.desk, &mut self.world);
        match step {
            Step::Run => {
                let ticket = desk.ask(Call::Run { config: Arc::new(fake_config("web")) });
                world.callers.runs.push(ticket);
            }
            Step::Create(byte) => {
                world.created = world.created.wrapping_add(1).max(10);
                let ticket = desk.ask(Call::Create { id: id(world.created), config: Desk::config(byte) });
                world.callers.creates.push(ticket);
            }
            Step::Start(at) => {
                desk.ask(Call::Start { id: nth(desk, at) });
            }
            Step::Stop(at, grace) => {
                let id = nth(desk, at);
                world.callers.stops.insert(id.clone());
                desk.ask(Call::Stop { id, grace: Duration::from_secs(grace) });
            }
            Step::Remove(at) => {
                let id = nth(desk, at);
                world.callers.removes.insert(id.clone());
                desk.ask(Call::Remove { id });
            }
            Step::Update(at) => {
                desk.ask(Call::Update { id: nth(desk, at), change: Box::new(granted()) });
            }
            Step::UpdatePod => {
                let change = PodLimits { resources: Some(granted()), overhead: None };
                desk.ask(Call::UpdatePod { change: Box::new(change) });
            }
            Step::StopPod => {
                world.callers.stops_pod |= !is_unfinished(desk);
                desk.ask(Call::StopPod);
            }
            Step::RemovePod => {
                world.callers.removes_pod |= !is_unfinished(desk);
                desk.ask(Call::RemovePod);
            }
            Step::Finish(at, well) => self.finish(at, well),
            Step::Exit(at) => self.exit(at),
            Step::LoseConnection => {
                if std::mem::take(&mut world.connected) {
                    desk.apply(Input::SupervisorLost);
                }
            }
            Step::EndSupervisor => {
                if world.supervisor.take().is_some() && std::mem::take(&mut world.connected) {
                    desk.apply(Input::SupervisorEnded);
                }
            }
            Step::Pass(seconds) => {
                desk.now += Duration::from_secs(seconds);
                desk.apply(Input::Time);
            }
            Step::Disk { full } => desk.disk_full = full,
            Step::Die { .. } => {}
        }
    }

    fn finish(&mut self, at: u64, well: bool) {
        let (desk, world) = (&mut self.desk, &mut self.world);
        let Ok(count @ 1..) = u64::try_from(desk.work.len()) else { return };
        let work = desk.work.remove(usize::try_from(at % count).unwrap());
        if let Some(input) = perform(&work, well, desk, world, &mut Steps(Steps::ALL)) {
            desk.apply(input);
        }
    }

    fn exit(&mut self, at: u64) {
        let (desk, world) = (&mut self.desk, &mut self.world);
        let Some(id) = world.alive.iter().nth(usize::try_from(at).unwrap()).cloned() else { return };
        world.codes = world.codes % 100 + 1;
        let code = world.codes;
        world.end(&id, code);
        if world.connected {
            desk.apply(Input::Exited(id, exited(code)));
        }
    }

    /// Records that were written are in the folder, and what nobody waits for is done.
    fn sync(&mut self) {
        let (desk, world) = (&mut self.desk, &mut self.world);
        if let (Some(live), Some(record)) = (&mut world.live, desk.pod_record.take()) {
            let boot_id = format!("boot {}", world.boot);
            let record_is_ready = record.state == PodPhase::Ready;
            live.pod = Some(PodRecord { boot_id, root: Some("/lib".into()), ..record });
            live.damaged = false;
            world.was_ready |= record_is_ready;
        }
        if let Some(live) = &mut world.live {
            live.containers.append(&mut desk.records);
        }
        if desk.debt.take().is_some() {
            world.debt = true;
        }
        if !desk.is_dead() {
            for work in std::mem::take(&mut desk.silent) {
                perform(&work, true, desk, world, &mut Steps(Steps::ALL));
            }
        }
        self.hear();
    }

    /// What callers and followers have heard.
    fn hear(&mut self) {
        let (desk, callers) = (&mut self.desk, &mut self.world.callers);
        for event in desk.events.drain(..) {
            let before = callers.heard.insert(event.container.clone(), event.change);
            let in_order = before.is_none_or(|before| before < event.change);
            assert!(in_order, "{:?} of {:?} is announced after {before:?}", event.change, event.container);
        }
        for ticket in callers.runs.extract_if(.., |ticket| desk.answers.contains_key(ticket)) {
            callers.has_pod |= desk.answers[&ticket].is_ok();
        }
        for ticket in callers.creates.extract_if(.., |ticket| desk.answers.contains_key(ticket)) {
            if let Ok(Answer::Created(id)) = &desk.answers[&ticket] {
                callers.has.insert(id.clone());
            }
        }
    }

    /// What always holds.
    fn check(&mut self) {
        let (desk, world) = (&self.desk, &mut self.world);
        let Some(view) = &desk.shown else { return };
        let ids: BTreeSet<_> = view.containers.iter().map(|view| &view.id).collect();
        assert_eq!(ids.len(), view.containers.len(), "a container is listed twice");
        for container in &view.containers {
            let ContainerState::Exited { exit, .. } = &container.state else { continue };
            assert!(!world.alive.contains(&container.id), "it is listed as exited and lives");
            let shown = *world.callers.codes.entry(container.id.clone()).or_insert(exit.code);
            // Why a start failed says more than the exit of the half-made init.
            let same = shown == exit.code || exit.code == 128;
            let forgotten = world.callers.forgotten.contains(&container.id);
            assert!(same || forgotten || world.robbed, "its exit code was {shown} and is {}", exit.code);
            world.callers.codes.insert(container.id.clone(), exit.code);
        }
        if desk.ledger.phase() == Some(PodPhase::Ready) && world.connected {
            assert_eq!(desk.ledger.view().supervisor_pid, PID, "its supervisor answers and is not asked");
        }
        if !desk.ledger.is_over() {
            let ready = desk.ledger.phase() == Some(PodPhase::Ready);
            assert_eq!(view.ready, ready, "what is shown is not what is true");
            let callers = &world.callers;
            let gone = callers.has.iter().find(|id| !ids.contains(id) && !callers.removes.contains(id));
            assert!(gone.is_none() || callers.removes_pod, "a container is lost: {gone:?}");
        }
    }

    // ---- death and recovery ----

    /// The daemon dies: each piece of work stands at some step, and those who waited hear nothing.
    fn die(&mut self) {
        self.sync();
        let (loss, luck) = self.with;
        let mut dice = Dice(luck);
        let work: Vec<Work> = self.desk.work.drain(..).chain(self.desk.silent.drain(..)).collect();
        for work in work {
            let well = dice.below(5) > 0;
            perform(&work, well, &self.desk, &mut self.world, &mut Steps(dice.below(8)));
        }
        let world = &mut self.world;
        world.connected = false;
        (world.callers.runs, world.callers.creates) = (Vec::new(), Vec::new());
        world.lose(loss);
        for _ in 0..dice.below(3) {
            // Daemons that die while they start.
            let died = Self::recover(world, &mut dice, true);
            assert!(died.is_none());
        }
        let now = self.desk.now;
        self.world.callers.forgotten.append(&mut self.desk.unwritten);
        self.world.callers.pod_forgotten |= self.desk.pod_unwritten;
        match Self::recover(&mut self.world, &mut dice, false) {
            Some(mut desk) => {
                let finished = self.world.was_ready || self.world.robbed;
                assert!(finished, "a pod is listed that was never made");
                desk.now = now;
                self.desk = desk;
            }
            None => self.over = true,
        }
        if !self.over {
            self.forgive();
            self.sync();
        }
    }

    /// What was announced and could not be written, or was taken away, is not known to the next daemon, and announced
    /// again.
    fn forgive(&mut self) {
        let (callers, robbed) = (&mut self.world.callers, self.world.robbed);
        let (forgotten, pod_forgotten) = (&callers.forgotten, callers.pod_forgotten);
        let is_known =
            |of: &Option<ContainerId>| of.as_ref().map_or(!pod_forgotten, |id| !forgotten.contains(id));
        callers.heard.retain(|of, _| !robbed && is_known(of));
    }

    /// The next daemon; `None`: there is no pod, or this daemon dies too.
    fn recover(world: &mut World, dice: &mut Dice, dies: bool) -> Option<Desk> {
        let mut steps = Steps(if dies { dice.below(8) } else { Steps::ALL });
        let mut plan = decide(world.survey(), &world.here());
        let Some((_, decision)) = plan.pods.pop() else {
            // The sweep at start.
            world.network = false;
            let unknown = world.callers.has_pod && !world.callers.removes_pod && !world.robbed;
            assert!(!unknown, "the pod is lost");
            return None;
        };
        let decision = match decision {
            Decision::Probe(found, remains) => {
                let in_cgroup = world.cgroup;
                let answers = Probe::Answers { pid: PID, in_cgroup };
                let probe = world.supervisor.as_ref().map_or(Probe::Nobody, |_| answers);
                if let (Probe::Answers { .. }, Some(live)) = (probe, &mut world.live) {
                    steps.one()?;
                    live.damaged = false;
                    live.pod = Some(PodRecord { state: PodPhase::Ready, ..found.record.clone() });
                    // All of it was there, whether or not a caller got an answer.
                    world.was_ready = true;
                }
                proven(found, remains, probe)
            }
            decision @ (Decision::Resume(_)
            | Decision::TakeOver(_)
            | Decision::Undo(_)
            | Decision::LeaveAlone(_)) => decision,
        };
        match decision {
            Decision::Undo(_) => {
                let known = world.callers.has_pod && !world.callers.removes_pod;
                assert!(!known || world.robbed, "a pod that a caller knows is undone");
                world.writable.clear();
                world.take_down(&mut steps)?;
                world.erase_folders(&mut steps)?;
                None
            }
            Decision::TakeOver(found) => {
                let containers = found.containers.iter().map(|own| (own.id.clone(), own.clone())).collect();
                let live = Folder { containers, pod: Some(found.record.clone()), ..Folder::default() };
                steps.one()?;
                world.live = Some(live);
                (!dies).then(|| Desk::with(resumed(*found)))
            }
            Decision::Resume(found) => (!dies).then(|| Desk::with(resumed(*found))),
            Decision::LeaveAlone(why) => panic!("its own pod is left alone: {why}"),
            Decision::Probe(..) => unreachable!("it was probed"),
        }
    }

    fn check_end(&mut self) {
        let (desk, world) = (&self.desk, &mut self.world);
        if std::mem::take(&mut world.debt) {
            // The reconciler comes round.
            world.end_supervisor();
            world.kill_all();
            (world.network, world.cgroup) = (false, false);
            world.erase_folders(&mut Steps(Steps::ALL));
        }
        assert!(
            world.live.is_none() && world.known.is_none(),
            "records are left: {:?} {:?}",
            world.live,
            world.known
        );
        assert!(
            world.supervisor.is_none() && world.alive.is_empty(),
            "processes are left: {:?}",
            world.alive
        );
        assert!(!world.cgroup && !world.network, "cgroup {}, network {}", world.cgroup, world.network);
        assert!(world.writable.is_empty(), "writable layers are left: {:?}", world.writable);
        if desk.is_dead() {
            return;
        }
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
        assert!(desk.withdrawn);
    }
}

impl World {
    fn lose(&mut self, loss: Loss) {
        match loss {
            Loss::Nothing => {}
            Loss::Supervisor => self.end_supervisor(),
            Loss::Boot => {
                self.boot += 1;
                (self.live, self.supervisor, self.cgroup, self.unreachable) = (None, None, false, false);
                self.alive.clear();
                self.robbed = true;
            }
            Loss::State => {
                self.live = None;
                self.unreachable = true;
                self.robbed = true;
            }
            Loss::Record => {
                if let Some(live) = &mut self.live {
                    live.damaged = true;
                    self.robbed |= self.supervisor.is_none();
                }
            }
        }
    }
}

fn resumed(found: super::recover::decide::Found) -> (Ledger, Vec<super::life::Order>) {
    let (facts, recovered) = found.recovered();
    Ledger::recovered(facts, recovered, Instant::now())
}

/// Nobody has got an answer about the pod, so a call that is about it changes nothing.
fn is_unfinished(desk: &Desk) -> bool {
    matches!(desk.ledger.phase(), None | Some(PodPhase::Starting))
}

fn nth(desk: &Desk, at: u8) -> ContainerId {
    let mut ids = desk.shown.iter().flat_map(|view| &view.containers).map(|view| view.id.clone());
    ids.nth(usize::from(at) - 1).unwrap_or_else(|| id(9))
}

// ---- many lives ----

/// Kinds of failure after which nobody reads on.
const FAILURES_SHOWN_MAX: usize = 8;

/// Lives, in each of two tests, which run side by side.
const LIVES: u64 = 50_000;

fn steps_of(seed: u64) -> Vec<Step> {
    let mut dice = Dice(seed);
    let count = dice.below(80);
    (0..count).map(|_| Step::random(&mut dice)).collect()
}

/// Why this life fails, if it does.
fn failure_of(steps: &[Step]) -> Option<String> {
    let panic = catch_unwind(AssertUnwindSafe(|| life(steps))).err()?;
    let text = panic.downcast_ref::<String>().map(String::as_str);
    Some(text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default().to_owned())
}

/// The same failure in as few steps as can be had by leaving some out.
fn shortened(mut steps: Vec<Step>, kind: &str) -> Vec<Step> {
    let mut at = 0;
    while at < steps.len() {
        let mut fewer = steps.clone();
        fewer.remove(at);
        if failure_of(&fewer).is_some_and(|failure| kind_of(&failure) == kind) {
            (steps, at) = (fewer, 0);
        } else {
            at += 1;
        }
    }
    steps
}

/// Two failures with the same beginning are the same.
fn kind_of(failure: &str) -> String {
    failure.chars().take(20).collect()
}

/// Runs lives; of each kind of failure one is shown, as short as it can be.
fn run(seeds: std::ops::Range<u64>) {
    let mut failures = BTreeMap::new();
    for seed in seeds {
        let steps = steps_of(seed);
        let Some(failure) = failure_of(&steps) else { continue };
        let kind = kind_of(&failure);
        if let Entry::Vacant(place) = failures.entry(kind.clone()) {
            place.insert(format!("life {seed}: {failure}\n{:?}", shortened(steps, &kind)));
        }
        if failures.len() == FAILURES_SHOWN_MAX {
            break;
        }
    }
    let shown: Vec<_> = failures.into_values().collect();
    assert!(shown.is_empty(), "{}", shown.join("\n\n"));
}

#[test]
fn many_lives_lose_nothing_and_leave_nothing() {
    run(0..LIVES);
}

#[test]
fn many_more_lives_lose_nothing_and_leave_nothing() {
    run(LIVES..2 * LIVES);
}
