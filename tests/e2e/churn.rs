//! The daemon is killed again and again while pods come and go, and nobody who asks patiently can tell.
//!
//! Several clients lead pods through their lives, repeating every call that a death interrupted until it
//! succeeds, as a kubelet does. Meanwhile the daemon is killed at random moments, now and then while it is
//! still starting. After each death, and at the end, what was true before must still be.
//!
//! `PINTLE_E2E_KILLS` is how many deaths, `PINTLE_E2E_SEED` repeats a run's chances, `PINTLE_E2E_FIGURES` names
//! a file for the figures.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use tonic::{Code, Status};

use crate::harness::{
    BUSYBOX, Container, ContainerState, Node, Pod, Setup, chance::Chance, pod_config, runner::tests, v1,
};

tests![random_kills_under_churn_lose_nothing];

/// Deaths where nobody asked for more: a quarter of a minute of dying.
const KILLS: u32 = 15;

/// What comes and goes beside the pods.
const IMAGE: &str = "registry.test/pintle/layers:1";

/// Between two of its pulls, so that the pods get their share of the machine.
const IMAGE_PAUSE: Duration = Duration::from_millis(100);

/// Clients at once, on machines of two cores.
const CLIENTS: u64 = 3;

/// A call that takes longer hangs. Far more than any takes on a busy machine.
const CALL_MAX: Duration = Duration::from_secs(30);

/// Interrupted again and again, a call gets through within this.
const INSIST_MAX: Duration = Duration::from_secs(90);

/// Between two tries of an interrupted call.
const AGAIN_AFTER: Duration = Duration::from_millis(25);

/// How long a worker may take to be seen as exited, deaths included.
const EXIT_MAX: Duration = Duration::from_secs(60);

/// Longer than any daemon lives, but the last.
const SLOW_EXEC_S: i64 = 10;

/// How long the process of an exec whose caller has gone may be seen; shorter than it would live by itself.
const GONE_MAX: Duration = Duration::from_secs(5);

/// Milliseconds between a daemon's first answer and its death.
const LIFE_MS: (u64, u64) = (100, 1500);

/// Milliseconds for which there is no daemon, now and then.
const AWAY_MS: (u64, u64) = (50, 800);

/// Milliseconds that a daemon gets which is killed while it starts.
const START_MS: (u64, u64) = (1, 250);

/// Points of a daemon at which it, and the supervisors it makes, are slow a few times.
const SLOW_POINTS_MAX: u64 = 4;
const SLOW_MS: (u64, u64) = (20, 400);

/// The file of the points that were passed.
const TRACE: &str = "points";

/// How the container that writes all the time ends when it is told to.
const WRITER_CODE: i32 = 43;

fn random_kills_under_churn_lose_nothing() {
    let kills = setting("PINTLE_E2E_KILLS").unwrap_or(u64::from(KILLS));
    let seed = setting("PINTLE_E2E_SEED").unwrap_or_else(seed_of_the_clock);
    println!("churn: {kills} kills, PINTLE_E2E_SEED={seed}");
    let started = Instant::now();
    let node = Node::start();
    fs::write(node.path(TRACE), "").unwrap();
    node.kill_daemon();
    node.start_daemon_with(&Setup { trace: Some(node.path(TRACE)), ..Setup::default() });
    let world = World::new(&node);
    node.pull(BUSYBOX);
    let residents = Residents::new(&world);
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let world = &world;
            scope.spawn(move || world.lead_lives(client, Chance::new(seed ^ ((client + 1) << 32))));
        }
        scope.spawn(|| world.come_and_go_of_an_image());
        world.kill_again_and_again(kills, Chance::new(seed), &residents);
        world.over.store(true, Relaxed);
    });
    world.note(residents.end(&world));
    let broken = lock(&world.broken).clone();
    if broken.is_empty() {
        node.assert_clean();
    }
    let figures = world.figures(seed, started.elapsed(), broken.len());
    print!("{figures}");
    if let Some(path) = env::var_os("PINTLE_E2E_FIGURES") {
        fs::write(path, figures).unwrap();
    }
    assert_eq!(broken, [""; 0], "PINTLE_E2E_SEED={seed}");
}

/// A promise that was broken, in words.
type Broken = String;

/// What the clients and the killer share.
struct World<'n> {
    node: &'n Node,
    /// By container id: what must be true of it.
    ledger: Mutex<BTreeMap<String, Truth>>,
    broken: Mutex<Vec<Broken>>,
    /// No new lives.
    over: AtomicBool,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    kills: AtomicU64,
    kills_while_starting: AtomicU64,
    pods: AtomicU64,
    containers: AtomicU64,
    execs: AtomicU64,
    images: AtomicU64,
    slow_points: AtomicU64,
    lines: AtomicU64,
    calls: AtomicU64,
    interrupted: AtomicU64,
    looks: AtomicU64,
    call_ms_max: AtomicU64,
    start_ms_max: AtomicU64,
    start_ms_sum: AtomicU64,
}

/// What a client knows of a container.
#[derive(Clone, Debug, Default)]
struct Truth {
    name: String,
    /// Its first process, once seen.
    pid: Option<u32>,
    /// With which code it ends by itself; `None`: not at all.
    code: Option<i32>,
    /// It was seen to have ended.
    exited: bool,
    /// It may have been stopped or removed by now.
    going: bool,
}

impl<'n> World<'n> {
    fn new(node: &'n Node) -> Self {
        let (ledger, broken) = (Mutex::default(), Mutex::default());
        Self { node, ledger, broken, over: AtomicBool::new(false), counts: Counts::default() }
    }

    fn note(&self, outcome: Result<(), Broken>) {
        if let Err(broken) = outcome {
            eprintln!("churn: {broken}");
            lock(&self.broken).push(broken);
            self.over.store(true, Relaxed);
        }
    }

    fn learn(&self, id: &str, change: impl FnOnce(&mut Truth)) {
        change(lock(&self.ledger).entry(id.into()).or_default());
    }

    /// Repeats a call until no death interrupts it. `Ok(Err(_))`: it was refused, after this many interruptions.
    fn insist<T>(
        &self,
        what: &str,
        call: impl Fn() -> Result<T, Status>,
    ) -> Result<Result<T, (Status, u32)>, Broken> {
        let (since, mut interruptions) = (Instant::now(), 0);
        loop {
            let begun = Instant::now();
            let outcome = call();
            let took = begun.elapsed();
            self.counts.calls.fetch_add(1, Relaxed);
            self.counts.call_ms_max.fetch_max(millis(took), Relaxed);
            if took > CALL_MAX {
                return Err(format!("{what}: no answer for {took:?}"));
            }
            let error = match outcome {
                Ok(reply) => return Ok(Ok(reply)),
                Err(error) => error,
            };
            if !is_interruption(&error) {
                return Ok(Err((error, interruptions)));
            }
            if since.elapsed() > INSIST_MAX {
                return Err(format!("{what}: still {error} after {:?}", since.elapsed()));
            }
            interruptions += 1;
            self.counts.interrupted.fetch_add(1, Relaxed);
            thread::sleep(AGAIN_AFTER);
        }
    }

    /// As `insist`, where no refusal is right.
    fn must<T>(&self, what: &str, call: impl Fn() -> Result<T, Status>) -> Result<T, Broken> {
        self.insist(what, call)?
            .map_err(|(error, interruptions)| format!("{what}, interrupted {interruptions} times: {error}"))
    }

    // ---- a client ----

    fn lead_lives(&self, client: u64, mut chance: Chance) {
        for nth in 0.. {
            if self.over.load(Relaxed) {
                return;
            }
            self.note(self.lead_life(&format!("churn-{client}-{nth}"), &mut chance));
        }
    }

    /// Pulls an image and removes it, again and again.
    fn come_and_go_of_an_image(&self) {
        while !self.over.load(Relaxed) {
            self.note(self.pull_and_remove());
            thread::sleep(IMAGE_PAUSE);
        }
    }

    fn pull_and_remove(&self) -> Result<(), Broken> {
        let (node, image) = (self.node, || Some(v1::ImageSpec { image: IMAGE.into(), ..Default::default() }));
        let id = self.must("pull", || node.try_pull(IMAGE))?;
        let status = || node.cri().image_status(v1::ImageStatusRequest { image: image(), verbose: false });
        let found = self.must("image status", status)?.image.map(|image| image.id);
        if found.as_ref() != Some(&id) {
            return Err(format!("{IMAGE} was pulled as {id} and is {found:?}"));
        }
        self.must("remove image", || node.cri().remove_image(v1::RemoveImageRequest { image: image() }))?;
        self.counts.images.fetch_add(1, Relaxed);
        let found = self.must("image status", status)?.image;
        found.map_or(Ok(()), |found| Err(format!("{IMAGE} was removed and is there: {found:?}")))
    }

    /// A pod from the first call to the last.
    fn lead_life(&self, name: &str, chance: &mut Chance) -> Result<(), Broken> {
        let pod = self.run_pod(name)?;
        let (lines, code) = (chance.between(20, 80), i32::try_from(chance.between(1, 120)).unwrap_or(1));
        let pause = chance.between(5, 30);
        let script = format!("for n in $(seq 1 {lines}); do echo $n; sleep 0.0{pause:02}; done; exit {code}");
        let worker = self.run_container(&pod, "worker", &script, Some(code))?;
        let server = self.run_container(&pod, "server", "sleep 1000", None)?;
        let pid = self.pid(&server)?;
        self.learn(&server.id, |truth| truth.pid = Some(pid));
        for _ in 0..chance.between(1, 4) {
            self.exec(&server, chance.between(0, 255))?;
        }
        if chance.one_in(3) {
            self.slow_exec(&server, chance)?;
        }
        self.ended_by_itself(&worker, code, lines)?;
        let again = self.pid(&server)?;
        if again != pid {
            return Err(format!("{name}: the server ran as {pid} and now as {again}"));
        }
        self.end_life(&pod, &[worker, server], chance)
    }

    fn run_pod(&self, name: &str) -> Result<Pod<'n>, Broken> {
        let config = pod_config(self.node, name);
        let what = format!("{name}: run the pod");
        let run = || Pod::run_config(self.node, config.clone(), "");
        let pod = self.must(&what, run)?;
        let same = self.must(&what, run)?;
        if pod.id != same.id {
            return Err(format!("{name}: one name, two pods: {} and {}", pod.id, same.id));
        }
        self.counts.pods.fetch_add(1, Relaxed);
        Ok(pod)
    }

    fn run_container(
        &self,
        pod: &Pod<'n>,
        name: &str,
        script: &str,
        code: Option<i32>,
    ) -> Result<Container<'n>, Broken> {
        let name_full = format!("{}/{name}", pod.config.hostname);
        let create = || pod.try_create(name, BUSYBOX, ["sh", "-c", script], |_| {});
        let container = self.must(&format!("{name_full}: create"), create)?;
        let truth = Truth { name: name_full.clone(), code, ..Truth::default() };
        self.learn(&container.id, |entry| *entry = truth);
        match self.insist(&format!("{name_full}: start"), || container.try_start())? {
            Ok(()) => {}
            // The start that a death hid may have happened; then the repetition is rightly refused.
            Err((error, 1..)) if error.code() == Code::FailedPrecondition => {
                let status = self.must("status", || container.try_status())?;
                if status.started_at == 0 {
                    return Err(format!("{name_full}: not started, and cannot be: {error}; {status:?}"));
                }
            }
            Err((error, interruptions)) => {
                return Err(format!("{name_full}: start, interrupted {interruptions} times: {error}"));
            }
        }
        self.counts.containers.fetch_add(1, Relaxed);
        Ok(container)
    }

    fn exec(&self, container: &Container<'n>, code: u64) -> Result<(), Broken> {
        let script = format!("echo said {code}; exit {code}");
        let said = self.must("exec", || container.try_exec(["sh", "-c", &script], 20))?;
        self.counts.execs.fetch_add(1, Relaxed);
        if (said.stdout.as_str(), u64::try_from(said.code)) == (&format!("said {code}\n"), Ok(code)) {
            return Ok(());
        }
        Err(format!("{}: exec of {script:?} gave {said:?}", container.id))
    }

    /// One that a death may well interrupt. It is not repeated; but it must not go on with nobody there.
    fn slow_exec(&self, container: &Container<'n>, chance: &mut Chance) -> Result<(), Broken> {
        let script = format!("sleep 55.{}", chance.between(1, 999_999));
        match container.try_exec(["sh", "-c", &script], SLOW_EXEC_S) {
            Err(error) if error.code() == Code::DeadlineExceeded => {
                self.counts.execs.fetch_add(1, Relaxed);
            }
            Err(error) if is_interruption(&error) => {
                self.counts.interrupted.fetch_add(1, Relaxed);
            }
            other => {
                return Err(format!("{}: {script}, with {SLOW_EXEC_S} s: {other:?}", self.name(container)));
            }
        }
        // The brackets keep grep from finding itself.
        let look = format!("cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c '[s]leep {}'", &script[6..]);
        let since = Instant::now();
        loop {
            let seen = self.must("exec", || container.try_exec(["sh", "-c", &look], 20))?;
            if seen.stdout == "0\n" {
                return Ok(());
            }
            if since.elapsed() > GONE_MAX {
                return Err(format!(
                    "{}: {script} goes on with nobody there: {seen:?}",
                    self.name(container)
                ));
            }
            thread::sleep(AGAIN_AFTER);
        }
    }

    fn ended_by_itself(&self, worker: &Container<'n>, code: i32, lines: u64) -> Result<(), Broken> {
        let since = Instant::now();
        loop {
            let status = self.must("status", || worker.try_status())?;
            if status.state() == ContainerState::ContainerExited {
                self.learn(&worker.id, |truth| truth.exited = true);
                break;
            }
            if since.elapsed() > EXIT_MAX {
                return Err(format!("{}: never exits: {status:?}", self.name(worker)));
            }
            thread::sleep(AGAIN_AFTER);
        }
        let status = self.must("status", || worker.try_status())?;
        if (status.exit_code, status.reason.as_str()) != (code, "Error") {
            return Err(format!("{}: ended with {code}, told as {status:?}", self.name(worker)));
        }
        self.log_is_whole(worker, lines)
    }

    /// Its log is the numbers to `lines`, each once and in order.
    fn log_is_whole(&self, container: &Container<'n>, lines: u64) -> Result<(), Broken> {
        let (found, expected) =
            (container.log_texts(), (1..=lines).map(|n| n.to_string()).collect::<Vec<_>>());
        self.counts.lines.fetch_add(lines, Relaxed);
        if found == expected {
            return Ok(());
        }
        let at = found.iter().zip(&expected).take_while(|(found, expected)| found == expected).count();
        let around = &found[at.saturating_sub(2)..found.len().min(at + 4)];
        let (name, count) = (self.name(container), found.len());
        Err(format!("{name}: {count} log lines where {lines} were written; from line {at}: {around:?}"))
    }

    /// Stops and removes, sometimes one by one and sometimes all with the pod.
    fn end_life(
        &self,
        pod: &Pod<'n>,
        containers: &[Container<'n>; 2],
        chance: &mut Chance,
    ) -> Result<(), Broken> {
        let (cri, name) = (self.node.cri(), &pod.config.hostname);
        for container in containers {
            self.learn(&container.id, |truth| truth.going = true);
        }
        if chance.one_in(2) {
            let server = &containers[1];
            let stop = || cri.stop_container(stop_of(&server.id));
            self.must(&format!("{name}: stop the server"), stop)?;
            let status = self.must("status", || server.try_status())?;
            if (status.state(), status.exit_code) != (ContainerState::ContainerExited, 137) {
                return Err(format!("{name}: the server was killed, told as {status:?}"));
            }
            for Container { id, .. } in containers {
                let remove = || cri.remove_container(v1::RemoveContainerRequest { container_id: id.clone() });
                self.must(&format!("{name}: remove {id}"), remove)?;
            }
        }
        let id = || pod.id.clone();
        let stop = || cri.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: id() });
        self.must(&format!("{name}: stop the pod"), stop)?;
        let remove = || cri.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: id() });
        self.must(&format!("{name}: remove the pod"), remove)?;
        for Container { id, .. } in containers {
            lock(&self.ledger).remove(id);
        }
        let request = || v1::PodSandboxStatusRequest { pod_sandbox_id: id(), verbose: false };
        match self.insist("status", || cri.pod_sandbox_status(request()))? {
            Err((error, _)) if error.code() == Code::NotFound => Ok(()),
            other => Err(format!("{name}: removed, and yet {other:?}")),
        }
    }

    fn pid(&self, container: &Container<'n>) -> Result<u32, Broken> {
        let request = || v1::ContainerStatusRequest { container_id: container.id.clone(), verbose: true };
        let reply = self.must("status", || self.node.cri().container_status(request()))?;
        pid_in(&reply).ok_or_else(|| format!("{}: no pid in {reply:?}", self.name(container)))
    }

    fn name(&self, container: &Container<'n>) -> String {
        lock(&self.ledger).get(&container.id).map_or_else(|| container.id.clone(), |truth| truth.name.clone())
    }

    // ---- the killer ----

    fn kill_again_and_again(&self, kills: u64, mut chance: Chance, residents: &Residents<'n>) {
        while self.counts.kills.load(Relaxed) < kills && !self.over.load(Relaxed) {
            thread::sleep(Duration::from_millis(chance.between(LIFE_MS.0, LIFE_MS.1)));
            self.node.kill_daemon();
            self.counts.kills.fetch_add(1, Relaxed);
            if chance.one_in(4) && self.counts.kills.load(Relaxed) < kills {
                self.node.kill_starting_daemon(Duration::from_millis(chance.between(START_MS.0, START_MS.1)));
                self.counts.kills.fetch_add(1, Relaxed);
                self.counts.kills_while_starting.fetch_add(1, Relaxed);
            }
            if chance.one_in(4) {
                thread::sleep(Duration::from_millis(chance.between(AWAY_MS.0, AWAY_MS.1)));
            }
            // The last daemon is an ordinary one: what it has at the end is compared with what the first had.
            let last = self.counts.kills.load(Relaxed) >= kills;
            let setup = if last { Setup::default() } else { self.slow_at_random(&mut chance) };
            let started = Instant::now();
            self.node.start_daemon_with(&setup);
            let took = millis(started.elapsed());
            self.counts.start_ms_max.fetch_max(took, Relaxed);
            self.counts.start_ms_sum.fetch_add(took, Relaxed);
            self.note(self.look());
            self.note(residents.untouched(self));
        }
    }

    /// Delays at some of the points that were passed so far, so that deaths come between two steps that are
    /// otherwise too close together.
    fn slow_at_random(&self, chance: &mut Chance) -> Setup {
        let trace = self.node.path(TRACE);
        let passed = fs::read_to_string(&trace).unwrap_or_default();
        let points: Vec<&str> = passed.lines().collect::<BTreeSet<_>>().into_iter().collect();
        let mut scripts = BTreeMap::new();
        for _ in 0..if points.is_empty() { 0 } else { chance.between(0, SLOW_POINTS_MAX) } {
            let nth = usize::try_from(chance.between(0, points.len() as u64 - 1)).unwrap_or(0);
            scripts.insert(points[nth], chance.between(SLOW_MS.0, SLOW_MS.1));
        }
        self.counts.slow_points.fetch_add(scripts.len() as u64, Relaxed);
        let scripts = scripts.into_iter().map(|(point, ms)| format!("{point}=4*delay({ms});"));
        Setup { failpoints: scripts.collect(), trace: Some(trace), ..Setup::default() }
    }

    /// What must be true at any moment. The clients go on meanwhile, so what they may be changing is left out.
    fn look(&self) -> Result<(), Broken> {
        self.counts.looks.fetch_add(1, Relaxed);
        self.one_of_each_name()?;
        let known = lock(&self.ledger).clone();
        for (id, truth) in known.into_iter().filter(|(_, truth)| !truth.going) {
            let request = || v1::ContainerStatusRequest { container_id: id.clone(), verbose: true };
            let told = self.insist("status", || self.node.cri().container_status(request()))?;
            // Asked again afterwards: its client may have gone on.
            let now = lock(&self.ledger).get(&id).cloned();
            if now.is_none_or(|now| now.going) {
                continue;
            }
            let reply = told.map_err(|(error, _)| format!("{}: it is lost: {error}", truth.name))?;
            contradicts(&truth, &reply)
                .map_or(Ok(()), |why| Err(format!("{}: {why}: {reply:?}", truth.name)))?;
            let exited = state_in(&reply) == ContainerState::ContainerExited;
            if let Some(truth) = lock(&self.ledger).get_mut(&id) {
                truth.exited |= exited;
            }
        }
        Ok(())
    }

    /// No two pods, and no two containers of a pod, have one name.
    fn one_of_each_name(&self) -> Result<(), Broken> {
        let cri = self.node.cri();
        let pods = self.must("list pods", || cri.list_pod_sandbox(v1::ListPodSandboxRequest::default()))?;
        let containers =
            self.must("list containers", || cri.list_containers(v1::ListContainersRequest::default()))?;
        let mut seen = BTreeSet::new();
        let pods = pods.items.iter().map(|pod| format!("pod {:?}", pod.metadata));
        let containers = containers.containers.iter();
        let containers = containers.map(|one| format!("{} in {}", one.pod_sandbox_id, named(one)));
        match pods.chain(containers).find(|name| !seen.insert(name.clone())) {
            None => Ok(()),
            Some(name) => Err(format!("listed twice: {name}")),
        }
    }

    fn figures(&self, seed: u64, took: Duration, broken: usize) -> String {
        let get = |count: &AtomicU64| count.load(Relaxed);
        let counts = &self.counts;
        let starts = get(&counts.looks).max(1);
        let rows = [
            ("seed", seed),
            ("seconds", took.as_secs()),
            ("kills of the daemon", get(&counts.kills)),
            ("of them while it was starting", get(&counts.kills_while_starting)),
            ("steps made slow", get(&counts.slow_points)),
            ("pods led from run to remove", get(&counts.pods)),
            ("containers run", get(&counts.containers)),
            ("execs answered", get(&counts.execs)),
            ("images pulled and removed", get(&counts.images)),
            ("log lines checked", get(&counts.lines)),
            ("calls made", get(&counts.calls)),
            ("calls interrupted and repeated", get(&counts.interrupted)),
            ("looks at everything after a death", get(&counts.looks)),
            ("longest call, ms", get(&counts.call_ms_max)),
            ("start until the first answer, mean ms", get(&counts.start_ms_sum) / starts),
            ("start until the first answer, longest ms", get(&counts.start_ms_max)),
            ("promises broken", broken as u64),
        ];
        rows.map(|(name, value)| format!("{name}: {value}\n")).concat()
    }
}

/// Containers that live from before the first death until after the last.
struct Residents<'n> {
    sleeper: (Container<'n>, u32),
    /// Writes numbers until it is told to end.
    writer: (Container<'n>, u32),
}

impl<'n> Residents<'n> {
    fn new(world: &World<'n>) -> Self {
        let pod = world.run_pod("resident").unwrap();
        let count = "n=0; while [ ! -e /stop ]; do n=$((n+1)); echo $n; sleep 0.02; done";
        let run = |name, script: &str| {
            let container = world.run_container(&pod, name, script, None).unwrap();
            let pid = world.pid(&container).unwrap();
            world.learn(&container.id, |truth| truth.pid = Some(pid));
            (container, pid)
        };
        let sleeper = run("sleeper", "sleep 100000");
        Self { sleeper, writer: run("writer", &format!("{count}; exit {WRITER_CODE}")) }
    }

    fn untouched(&self, world: &World<'n>) -> Result<(), Broken> {
        for (container, pid) in [&self.sleeper, &self.writer] {
            let now = world.pid(container)?;
            if now != *pid {
                return Err(format!("{} ran as {pid} and now as {now}", world.name(container)));
            }
        }
        Ok(())
    }

    fn end(&self, world: &World<'n>) -> Result<(), Broken> {
        self.untouched(world)?;
        let (writer, _) = &self.writer;
        world.must("exec", || writer.try_exec(["touch", "/stop"], 20))?;
        let lines = writer.log_texts().len();
        let since = Instant::now();
        while world.must("status", || writer.try_status())?.state() != ContainerState::ContainerExited {
            if since.elapsed() > EXIT_MAX {
                return Err("the writer never exits".into());
            }
            thread::sleep(AGAIN_AFTER);
        }
        let written = writer.log_texts().len();
        if written < lines {
            return Err(format!("the writer's log had {lines} lines and has {written}"));
        }
        world.ended_by_itself(writer, WRITER_CODE, written as u64)
    }
}

/// What a client sees of a daemon that dies, or is not there yet.
fn is_interruption(error: &Status) -> bool {
    matches!(error.code(), Code::Unavailable | Code::Unknown | Code::Cancelled)
}

/// Why what is told of a container cannot be.
fn contradicts(truth: &Truth, reply: &v1::ContainerStatusResponse) -> Option<String> {
    let status = reply.status.as_ref()?;
    match status.state() {
        ContainerState::ContainerExited => match truth.code {
            None => Some("it never ends, and is told as exited".into()),
            Some(code) if status.exit_code != code => Some(format!("it ends with {code}")),
            Some(_) => None,
        },
        ContainerState::ContainerRunning if truth.exited => Some("it was exited and runs again".into()),
        ContainerState::ContainerRunning => match (truth.pid, pid_in(reply)) {
            (Some(before), Some(now)) if before != now => Some(format!("it ran as {before}")),
            _ => None,
        },
        ContainerState::ContainerCreated if truth.pid.is_some() => Some("it ran already".into()),
        ContainerState::ContainerCreated => None,
        ContainerState::ContainerUnknown => Some("nobody knows its state".into()),
    }
}

fn state_in(reply: &v1::ContainerStatusResponse) -> ContainerState {
    reply.status.as_ref().map_or(ContainerState::ContainerUnknown, v1::ContainerStatus::state)
}

fn pid_in(reply: &v1::ContainerStatusResponse) -> Option<u32> {
    let info: serde_json::Value = serde_json::from_str(reply.info.get("info")?).ok()?;
    u32::try_from(info["pid"].as_u64()?).ok()
}

fn named(container: &v1::Container) -> String {
    format!("container {:?}", container.metadata)
}

fn stop_of(id: &str) -> v1::StopContainerRequest {
    v1::StopContainerRequest { container_id: id.into(), timeout: 0 }
}

fn setting(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

fn seed_of_the_clock() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    u64::try_from(now.as_micros()).unwrap_or(1)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
