//! The daemon dies, at any moment; the pods do not notice.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    env, fs,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use tonic::{Code, Status};

use crate::harness::{
    BUSYBOX, Container, ContainerState, Node, Pod, Setup, pod_config, runner::tests, v1, wait_until,
};

tests![
    a_container_outlives_the_daemon,
    a_start_that_a_death_cut_short_is_finished_by_its_retry,
    an_exit_while_the_daemon_is_away_is_not_missed,
    everything_is_told_as_before,
    no_line_is_lost_while_the_daemon_is_away,
    daemons_share_the_copy_of_the_program_that_their_pods_run_from,
    an_idle_daemon_stops_when_asked_and_pods_go_on,
    no_point_of_death_loses_anything,
    a_damaged_record_does_not_end_a_pod_that_runs,
];

fn a_container_outlives_the_daemon() {
    let node = Node::start();
    let container = node.run_pod("web").run_in("main", ["sleep", "1000"]);
    let pid = container.pid();

    node.kill_daemon();
    node.start_daemon();

    assert_eq!((container.state(), container.pid()), (ContainerState::ContainerRunning, pid));
    assert_eq!(container.shell("echo still here"), "still here\n");
    container.kill();
    assert_eq!(container.status().exit_code, 137);
    node.assert_clean();
}

fn a_start_that_a_death_cut_short_is_finished_by_its_retry() {
    let node = Node::start();
    let container = node.run_pod("web").create("main", BUSYBOX, ["sleep", "1000"]);
    let init = container.pid().to_string();
    let state = || node.read(&format!("/proc/{init}/status")).lines().nth(2).map(str::to_owned);
    // Let go, but not yet executing anything: so it is neither created nor running.
    node.run("kill", ["-STOP", &init]);
    thread::scope(|scope| {
        scope.spawn(|| assert!(container.try_start().is_err()));
        thread::sleep(Duration::from_millis(300));
        node.kill_daemon();
    });
    node.start_daemon();
    assert_eq!(state().as_deref(), Some("State:\tT (stopped)"));

    thread::scope(|scope| {
        scope.spawn(|| container.start());
        thread::sleep(Duration::from_millis(300));
        node.run("kill", ["-CONT", &init]);
    });

    assert_eq!((container.state(), container.pid().to_string()), (ContainerState::ContainerRunning, init));
    assert!(container.status().started_at > container.status().created_at);
    node.assert_clean();
}

fn an_exit_while_the_daemon_is_away_is_not_missed() {
    let node = Node::start();
    let pod = node.run_pod("batch");
    let container = pod.run_in("main", ["sh", "-c", "sleep 1; echo bye; exit 42"]);

    node.kill_daemon();
    wait_until("the container ends", || container.log_texts() == ["bye"]);
    thread::sleep(Duration::from_millis(500));
    let before = now_ns();
    node.start_daemon();

    let status = container.status();
    assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 42));
    assert!(status.finished_at < before, "finished when it was noticed, not when it ended");
    node.assert_clean();
}

fn everything_is_told_as_before() {
    let node = Node::start();
    let (web, batch) = (node.run_pod("web"), node.run_pod("batch"));
    let running = web.run_in("running", ["sleep", "1000"]);
    let created = web.create("created", BUSYBOX, ["sleep", "1000"]);
    let exited = batch.run_in("exited", ["sh", "-c", "exit 3"]);
    exited.wait();
    let stopped = node.run_pod("stopped");
    stopped.stop();
    let answers = || {
        let pods: BTreeMap<_, _> =
            node.pods().into_iter().map(|id| (id.clone(), pod_status(&node, &id))).collect();
        let containers = [&running, &created, &exited].map(|container| container.status());
        (pods, containers)
    };
    let before = answers();

    node.restart_daemon();
    assert_eq!(answers(), before);
    node.kill_daemon();
    node.start_daemon();
    assert_eq!(answers(), before);

    created.start();
    assert_eq!(created.state(), ContainerState::ContainerRunning);
    node.assert_clean();
}

fn pod_status(node: &Node, id: &str) -> v1::PodSandboxStatus {
    let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
    node.cri().pod_sandbox_status(request).unwrap().status.expect("a status")
}

fn no_line_is_lost_while_the_daemon_is_away() {
    let node = Node::start();
    let script = "for n in $(seq 1 400); do echo $n; sleep 0.01; done";
    let container = node.run_pod("web").run_in("main", ["sh", "-c", script]);
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(300));
        node.kill_daemon();
        thread::sleep(Duration::from_millis(300));
        node.start_daemon();
    }

    assert_eq!(container.wait(), 0);
    assert_eq!(container.log_texts(), numbers(400));
    node.assert_clean();
}

/// Each copy is as large as the program, and held for as long as a pod of that daemon lives.
fn daemons_share_the_copy_of_the_program_that_their_pods_run_from() {
    use std::os::unix::fs::MetadataExt as _;

    let node = Node::start();
    node.run_pod("first");
    for number in 0..3 {
        node.restart_daemon();
        node.run_pod(&format!("later-{number}"));
    }
    let proc = node.namespaces().root().join("proc");
    let copies: BTreeSet<u64> = (node.namespaces().pids().into_iter())
        .map(|pid| proc.join(format!("{pid}/exe")))
        .filter(|exe| fs::read_link(exe).is_ok_and(|target| target.starts_with("/memfd:pintle (deleted)")))
        .map(|exe| fs::metadata(exe).unwrap().ino())
        .collect();
    assert_eq!(copies.len(), 1, "{copies:?}");
    node.assert_clean();
}

fn an_idle_daemon_stops_when_asked_and_pods_go_on() {
    let node = Node::start();
    let container = node.run_pod("web").run_in("main", ["sleep", "1000"]);

    let asked = Instant::now();
    node.restart_daemon();

    assert!(asked.elapsed() < Duration::from_secs(10), "took {:?}", asked.elapsed());
    assert_eq!(container.state(), ContainerState::ContainerRunning);
    node.assert_clean();
}

/// Lives at once: the machines that run this have two cores.
const LIVES_AT_ONCE: usize = 2;

/// Lines that a container of a life writes.
const LINES: usize = 60;

/// Learns from one undisturbed life which failpoints it passes, then lives it again for each, with a death
/// at that point. `PINTLE_E2E_POINTS=name,name` takes only those.
fn no_point_of_death_loses_anything() {
    let points = Mutex::new(points_of_a_life());
    let total = lock(&points).len();
    assert!(total > 0, "no failpoint was passed: is this pintle built with the feature failpoints?");
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..LIVES_AT_ONCE {
            scope.spawn(|| {
                while let Some(point) = take(&points) {
                    let name = format!("death at {point}");
                    let life = thread::Builder::new().name(name).spawn({
                        let point = point.clone();
                        move || survive(&point)
                    });
                    if life.unwrap().join().is_err() {
                        lock(&failed).push(point);
                    }
                }
            });
        }
    });
    let failed = lock(&failed);
    println!("deaths survived: {} of {total}", total - failed.len());
    assert_eq!(*failed, [""; 0], "not survived");
}

fn points_of_a_life() -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("points");
    let setup = Setup { trace: Some(trace.clone()), ..Setup::default() };
    let node = Node::start_with(&setup);
    live(&Insist::on_node(&node), "traced", &setup).unwrap();
    node.assert_clean();
    let names = fs::read_to_string(trace).unwrap_or_default();
    let chosen = env::var("PINTLE_E2E_POINTS").unwrap_or_default();
    let names = if chosen.is_empty() { names } else { chosen.replace(',', "\n") };
    names.lines().map(str::to_owned).collect::<BTreeSet<_>>().into_iter().collect()
}

fn survive(point: &str) {
    let setup = Setup { failpoints: format!("{point}=1*kill"), ..Setup::default() };
    let node = Node::start_with(&setup);
    let insist = Insist::on_node(&node);
    if let Err(error) = live(&insist, "first", &setup) {
        // Not the daemon died but a process of the pod: that may cost the pod, and only the pod.
        assert_eq!(*insist.deaths.borrow(), 0, "the repetition failed: {error}");
        node.kill_daemon();
        node.start_daemon();
        node.remove_pods();
        live(&Insist::on_node(&node), "second", &Setup::default()).unwrap();
    }
    if !node.daemon_lives() {
        node.start_daemon();
    }
    node.assert_clean();
}

/// A pod's whole life as a kubelet leads it, every interrupted call repeated. What was said once must hold.
/// Half-way the daemon is killed and started as `later` says.
fn live(insist: &Insist<'_>, name: &str, later: &Setup) -> Result<(), Status> {
    let node = insist.node;
    insist.on(|| node.try_pull(BUSYBOX))?;
    let config = pod_config(node, name);
    let pod = insist.on(|| Pod::run_config(node, config.clone(), ""))?;
    let script = format!("for n in $(seq 1 {LINES}); do echo $n; sleep 0.01; done; exit 42");
    let worker = insist.on(|| pod.try_create("worker", BUSYBOX, ["sh", "-c", &script], |_| {}))?;
    start(insist, &worker)?;
    let server = insist.on(|| pod.try_create("server", BUSYBOX, ["sleep", "1000"], |_| {}))?;
    start(insist, &server)?;
    let said = insist.on(|| server.try_exec(["echo", "hello"], 10))?;
    assert_eq!((said.stdout.as_str(), said.code), ("hello\n", 0));
    let limits = |bytes| v1::LinuxContainerResources { memory_limit_in_bytes: bytes, ..Default::default() };
    insist.on(|| pod.update(Some(limits(1 << 30)), None))?;
    insist.on(|| server.update(limits(64 << 20)))?;
    assert_eq!(
        insist.on(|| server.try_status())?.resources.and_then(|all| all.linux),
        Some(limits(64 << 20))
    );

    node.kill_daemon();
    node.start_daemon_with(later);
    let ready = insist.on(|| node.cri().list_pod_sandbox(ready_pods()))?.items;
    // On a slow machine the worker has ended by now, and with it a supervisor that dies of that. What it recorded
    // of the worker stands; the server ends with nothing else.
    if ready.is_empty() && wait_for_exit(insist, &server)?.reason == "SupervisorDied" {
        return Err(Status::aborted("the supervisor died"));
    }
    assert_eq!(ready.iter().map(|pod| pod.id.as_str()).collect::<Vec<_>>(), [pod.id.as_str()]);
    let ended = wait_for_exit(insist, &worker)?;
    if ended.reason == "SupervisorDied" {
        return Err(Status::aborted("the supervisor died"));
    }
    assert_eq!((ended.exit_code, ended.reason.as_str()), (42, "Error"));
    assert_eq!(worker.log_texts(), numbers(LINES));

    let cri = node.cri();
    let stop = || v1::StopContainerRequest { container_id: server.id.clone(), timeout: 0 };
    insist.on(|| cri.stop_container(stop()))?;
    let killed = insist.on(|| server.try_status())?;
    assert_eq!((killed.state(), killed.exit_code), (ContainerState::ContainerExited, 137));
    for container in [&worker, &server] {
        insist
            .on(|| cri.remove_container(v1::RemoveContainerRequest { container_id: container.id.clone() }))?;
    }
    insist.on(|| cri.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() }))?;
    insist.on(|| cri.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: pod.id.clone() }))?;
    let image = Some(v1::ImageSpec { image: BUSYBOX.into(), ..Default::default() });
    insist.on(|| cri.remove_image(v1::RemoveImageRequest { image: image.clone() }))?;
    Ok(())
}

/// A start that the death hid may have happened: then the repetition is refused, and that is right.
fn start(insist: &Insist<'_>, container: &Container<'_>) -> Result<(), Status> {
    match insist.on(|| container.try_start()) {
        Err(error) if error.code() == Code::FailedPrecondition && *insist.deaths.borrow() > 0 => {
            let status = insist.on(|| container.try_status())?;
            if status.started_at > 0 { Ok(()) } else { Err(error) }
        }
        outcome => outcome,
    }
}

fn wait_for_exit(insist: &Insist<'_>, container: &Container<'_>) -> Result<v1::ContainerStatus, Status> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let status = insist.on(|| container.try_status())?;
        if status.state() == ContainerState::ContainerExited {
            return Ok(status);
        }
        assert!(Instant::now() < deadline, "the container never exits: {status:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn ready_pods() -> v1::ListPodSandboxRequest {
    let state = Some(v1::PodSandboxStateValue { state: v1::PodSandboxState::SandboxReady.into() });
    v1::ListPodSandboxRequest { filter: Some(v1::PodSandboxFilter { state, ..Default::default() }) }
}

/// Repeats a call that the daemon's death interrupted, once there is a daemon again.
struct Insist<'n> {
    node: &'n Node,
    deaths: RefCell<u32>,
}

/// How long after a lost connection the daemon's end shows.
const DEATH_SHOWS: Duration = Duration::from_secs(1);

impl<'n> Insist<'n> {
    fn on_node(node: &'n Node) -> Self {
        Self { node, deaths: RefCell::new(0) }
    }

    fn on<T>(&self, call: impl Fn() -> Result<T, Status>) -> Result<T, Status> {
        loop {
            let error = match call() {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            if !self.daemon_died(&error) {
                return Err(error);
            }
            *self.deaths.borrow_mut() += 1;
            self.node.start_daemon();
        }
    }

    fn daemon_died(&self, error: &Status) -> bool {
        let lost = matches!(error.code(), Code::Unavailable | Code::Unknown | Code::Cancelled);
        let deadline = Instant::now() + DEATH_SHOWS;
        while lost && Instant::now() < deadline {
            if !self.node.daemon_lives() {
                return true;
            }
            thread::sleep(Duration::from_millis(10));
        }
        !self.node.daemon_lives()
    }
}

fn numbers(last: usize) -> Vec<String> {
    (1..=last).map(|nth| nth.to_string()).collect()
}

fn now_ns() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_nanos()).unwrap()
}

fn take(points: &Mutex<Vec<String>>) -> Option<String> {
    lock(points).pop()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn a_damaged_record_does_not_end_a_pod_that_runs() {
    let node = Node::start();
    let (cut, missing, foreign) = (node.run_pod("cut"), node.run_pod("missing"), node.run_pod("foreign"));
    let pods = [&cut, &missing, &foreign];
    let containers = pods.map(|pod| pod.run_in("main", ["sleep", "1000"]));
    let before: Vec<_> = pods.iter().map(|pod| (pod.ip(), pod.status().created_at)).collect();
    let pids = containers.each_ref().map(|container| container.pid());
    let record = |pod: &Pod<'_>| node.path("state/pods").join(&pod.id).join("pod.record");

    node.kill_daemon();
    let whole = fs::read(record(&cut)).unwrap();
    fs::write(record(&cut), &whole[..whole.len() / 2]).unwrap();
    fs::remove_file(record(&missing)).unwrap();
    fs::write(record(&foreign), &whole).unwrap();
    node.start_daemon();

    for ((pod, container), (pid, (ip, created_at))) in
        pods.iter().zip(&containers).zip(pids.iter().zip(&before))
    {
        assert_eq!(pod.status().state(), v1::PodSandboxState::SandboxReady);
        assert_eq!((pod.ip(), pod.status().created_at), (ip.clone(), *created_at));
        assert_eq!((container.state(), container.pid()), (ContainerState::ContainerRunning, *pid));
        assert_eq!(container.shell("echo alive"), "alive\n");
    }
    // What was rebuilt is a record like any other.
    node.restart_daemon();
    assert_eq!(containers.each_ref().map(|container| container.pid()), pids);
    node.assert_clean();
}
