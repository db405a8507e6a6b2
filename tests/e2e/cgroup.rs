//! Who makes the cgroups of pods, and what they keep from whom. What needs systemd says so where there is none.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use tonic::Code;

use crate::harness::{
    BUSYBOX, Container, ContainerState, Driver, Frozen, Node, Pod, is_unified, pintle, runner::tests, v1,
    wait_until,
};
use crate::stats::{pod_stats_of, stats_of, value};

tests![
    a_disk_of_the_host_is_opened_only_by_whom_it_was_given_to,
    nothing_above_a_pod_hands_down_more_than_before,
    a_driver_that_cannot_work_here_is_refused_with_the_reason,
    a_parent_in_the_other_form_works_where_it_can_and_is_told,
    a_pod_that_somebody_froze_is_stopped,
    the_last_pod_of_a_parent_takes_it_along,
    a_supervisor_survives_the_signals_of_a_service_manager,
    the_driver_may_change_while_pods_run,
    a_pod_costs_one_call_to_systemd_and_a_container_none,
    limits_of_a_pod_survive_what_systemd_does_to_its_neighbours,
    a_bus_that_hangs_costs_one_pod_and_nothing_else,
];

const MIB: i64 = 1 << 20;

/// A disk of the host: a file behind a loop device, taken back with it.
struct Disk {
    device: String,
}

impl Disk {
    fn new(node: &Node) -> Self {
        let file = node.path("disk.img");
        fs::write(&file, "secret of the host".repeat(4096)).unwrap();
        let made = Command::new("losetup").args(["--find", "--show"]).arg(&file).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self { device: String::from_utf8(made.stdout).unwrap().trim().into() }
    }

    /// `b MAJOR MINOR`, for mknod.
    fn numbers(&self) -> String {
        let number = std::os::unix::fs::MetadataExt::rdev(&fs::metadata(&self.device).unwrap());
        format!("b {} {}", rustix::fs::major(number), rustix::fs::minor(number))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.device).status();
    }
}

fn a_disk_of_the_host_is_opened_only_by_whom_it_was_given_to() {
    let node = Node::start();
    let disk = Disk::new(&node);
    let pod = node.run_pod_with("web", |config| {
        let linux = config.linux.get_or_insert_default();
        linux.security_context.get_or_insert_default().privileged = true;
    });
    let make = |name: &str, change: &dyn Fn(&mut v1::ContainerConfig)| {
        let container = pod.create_with(name, BUSYBOX, ["sleep", "1000"], |config| change(config));
        container.start();
        container.shell(&format!("[ -e /disk ] || mknod /disk {}", disk.numbers()));
        container
    };
    let read = |container: &Container<'_>| container.exec(["head", "-c", "6", "/disk"]);
    let write = |container: &Container<'_>| container.exec(["sh", "-c", "echo x 1<> /disk"]).code;

    let plain = make("plain", &|_| {});
    assert!(read(&plain).stderr.contains("Operation not permitted"), "{:?}", read(&plain));
    assert_ne!(write(&plain), 0);
    assert_eq!(plain.shell("head -c 1 /dev/zero | wc -c"), "1\n");

    let given = make("given", &|config| {
        config.devices = vec![v1::Device {
            container_path: "/disk".into(),
            host_path: disk.device.clone(),
            permissions: "r".into(),
        }];
    });
    assert_eq!(read(&given).stdout, "secret");
    assert_ne!(write(&given), 0, "it was given for reading");

    let privileged = make("privileged", &|config| {
        let linux = config.linux.get_or_insert_default();
        linux.security_context.get_or_insert_default().privileged = true;
    });
    assert_eq!((read(&privileged).stdout.as_str(), write(&privileged)), ("secret", 0));
    node.assert_clean();
}

/// The cgroup v2 of a container's first process and those above it, nearest first, but for the root.
fn ancestors(node: &Node, container: &Container<'_>) -> Vec<PathBuf> {
    let groups = node.read(&format!("/proc/{}/cgroup", container.pid()));
    let path = PathBuf::from(groups.lines().find_map(|line| line.strip_prefix("0::/")).expect("a cgroup v2"));
    let all = path.ancestors().filter(|path| !path.as_os_str().is_empty());
    all.map(|path| PathBuf::from("/sys/fs/cgroup").join(path)).collect()
}

/// Its supervisor stands still too, so that nobody but the daemon can help.
fn a_pod_that_somebody_froze_is_stopped() {
    let node = Node::start();
    let container = node.run_pod("web").run_in("main", ["sleep", "1000"]);
    let init = format!("/proc/{}", container.pid());
    let frozen = Frozen::with_its_pod(&node, &container);

    container.pod.stop();

    assert!(!node.has(&init) && !frozen.exists());
    node.assert_clean();
}

fn the_last_pod_of_a_parent_takes_it_along() {
    let node = Node::start();
    if Driver::chosen() == Driver::Systemd {
        eprintln!("skipped: slices are systemd's");
        return;
    }
    let parent = format!("{}/burstable/podx", node.folders().cgroups.configured_parent());
    let run = |name: &str| {
        node.run_pod_with(name, |config| config.linux.get_or_insert_default().cgroup_parent = parent.clone())
    };
    let (first, second) = (run("first"), run("second"));
    for pod in [&first, &second] {
        pod.run_in("main", ["sleep", "1000"]);
        pod.stop();
        pod.remove();
    }
    node.assert_clean();
}

fn nothing_above_a_pod_hands_down_more_than_before() {
    if !is_unified() {
        eprintln!("skipped: no cgroup v2");
        return;
    }
    let node = Node::start();
    // The first pod makes the parent; what it hands down from then on is the parent's own.
    let first = node.run_pod("web").run_in("main", ["sleep", "1000"]);
    // Container, pod, for systemd its scope; then what is not ours.
    let ours = if Driver::chosen() == Driver::Systemd { 3 } else { 2 };
    let mut above: Vec<PathBuf> = ancestors(&node, &first).into_iter().skip(ours).collect();
    above.push("/sys/fs/cgroup".into());
    let given = || -> Vec<String> {
        above.iter().map(|path| fs::read_to_string(path.join("cgroup.subtree_control")).unwrap()).collect()
    };
    let before = given();
    assert!(before.len() >= 2, "{above:?}");

    let second = first.pod.create("second", BUSYBOX, ["sleep", "1000"]);
    second.start();
    second.exec(["true"]);
    assert_eq!(given(), before);
    let linux = first.pod.config.linux.clone().unwrap();
    let other = node.run_pod_with("other", |config| {
        config.linux.get_or_insert_default().cgroup_parent = linux.cgroup_parent;
    });
    other.run_in("main", ["true"]).wait();
    assert_eq!(given(), before);
    other.stop();
    other.remove();
    assert_eq!(given(), before);
    node.assert_clean();
}

/// What a daemon says that is told to use `driver` and `parent` and refuses.
fn refusal(driver: &str, parent: &str) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    let text = format!(
        "root = {:?}\nstate = {:?}\n[cgroup]\ndriver = {driver:?}\nparent = {parent:?}\n",
        folder.path().join("root"),
        folder.path().join("state")
    );
    fs::write(&config, text).unwrap();
    let mut daemon = Command::new("timeout");
    daemon.args(["--signal", "TERM", "5"]).arg(pintle()).args(["serve", "--config"]).arg(&config);
    let output = daemon.output().unwrap();
    // It is a line of JSON, whose quotes are escaped.
    let said = String::from_utf8_lossy(&output.stderr).replace("\\\"", "\"");
    (!output.status.success()).then_some(said).filter(|said| said.contains("set up cgroups"))
}

fn systemd_works_here() -> bool {
    is_unified() && PathBuf::from("/run/systemd/system").exists()
}

fn a_driver_that_cannot_work_here_is_refused_with_the_reason() {
    let said = refusal("systemd", "/pods").expect("a path is no parent for systemd");
    if systemd_works_here() {
        assert!(said.contains("parent = \"/pods\"") && said.contains("slice"), "{said}");
    } else {
        assert!(said.contains("driver = \"systemd\" cannot work on this host"), "{said}");
        let said = refusal("auto", "pods.slice").expect("no slice without systemd");
        assert!(said.contains("cgroupfs") && said.contains("systemd cannot make it"), "{said}");
    }
    let said = refusal("cgroupfs", "pods.slice").expect("a slice is no parent for cgroupfs");
    assert!(said.contains("absolute path"), "{said}");
}

fn info(node: &Node) -> serde_json::Value {
    let status = node.cri().status(v1::StatusRequest { verbose: true }).unwrap();
    serde_json::from_str(&status.info["info"]).unwrap()
}

fn a_parent_in_the_other_form_works_where_it_can_and_is_told() {
    let node = Node::start();
    let (other, named) = match Driver::chosen() {
        Driver::Cgroupfs => ("pintle_e2e_other.slice", "systemd"),
        Driver::Systemd => ("/pintle-e2e-other", "cgroupfs"),
    };
    assert!(info(&node).get("cgroupNotice").is_none());
    let config = node.cri().runtime_config(v1::RuntimeConfigRequest {}).unwrap().linux.unwrap();
    assert_eq!(config.cgroup_driver().as_str_name().to_lowercase(), Driver::chosen().name());

    let made =
        node.try_run_pod("web", |config| config.linux.get_or_insert_default().cgroup_parent = other.into());
    match made {
        Ok(pod) => {
            assert!(systemd_works_here());
            assert_eq!(pod.run_in("main", ["sh", "-c", "exit 7"]).wait(), 7);
            let notice = info(&node)["cgroupNotice"].as_str().unwrap().to_owned();
            assert!(notice.contains(&format!("of the driver {named}")), "{notice}");
            pod.stop();
            pod.remove();
            // The connection to systemd that it was made over stays with the daemon.
            node.restart_daemon();
        }
        Err(error) => {
            assert!(!systemd_works_here(), "{error}");
            let text = error.message();
            assert!(["systemd", "cgroupfs", other].iter().all(|word| text.contains(word)), "{text}");
        }
    }
    node.assert_clean();
}

fn a_supervisor_survives_the_signals_of_a_service_manager() {
    let node = Node::start();
    let container = node.run_pod("web").run_in("main", ["sleep", "1000"]);
    let supervisor = supervisor_of(&node, &container);
    for signal in ["-TERM", "-HUP", "-INT"] {
        node.run("kill", [signal, &supervisor.to_string()]);
    }
    thread::sleep(Duration::from_millis(200));
    assert_eq!(container.shell("echo here"), "here\n");
    assert_eq!(supervisor_of(&node, &container), supervisor);
    node.assert_clean();
}

/// The parent of a container's first process.
fn supervisor_of(node: &Node, container: &Container<'_>) -> u32 {
    let status = node.read(&format!("/proc/{}/status", container.pid()));
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    parent.trim().parse().unwrap()
}

/// Under the configured parent, as `crictl runp` without a cgroup parent.
fn run_limited<'n>(node: &'n Node, name: &str) -> Pod<'n> {
    node.run_pod_with(name, |config| {
        let linux = config.linux.get_or_insert_default();
        linux.cgroup_parent = String::new();
        linux.resources = Some(v1::LinuxContainerResources {
            memory_limit_in_bytes: 256 * MIB,
            cpu_shares: 2048,
            ..Default::default()
        });
    })
}

/// By a daemon whose driver is another one than made it: the first that this daemon is asked about it.
fn an_old_pod_is_read_and_changed(node: &Node, pod: &Pod<'_>, container: &Container<'_>) {
    let stats = stats_of(node, container);
    let own = ancestors(node, container)[0].clone();
    let pods = own.parent().unwrap().to_owned();
    let number = |file: PathBuf| fs::read_to_string(file).unwrap().trim().parse::<u64>().unwrap();
    let memory = stats.memory.expect("memory");
    assert!(
        value(memory.usage_bytes).abs_diff(number(own.join("memory.current"))) < MIB as u64,
        "{memory:?}"
    );
    assert!(value(stats.cpu.expect("cpu").usage_core_nano_seconds) > 0);
    let swap = stats.swap.expect("swap is accounted");
    assert!(swap.swap_usage_bytes.is_some() && swap.swap_available_bytes.is_some(), "{swap:?}");
    let whole = pod_stats_of(node, pod);
    let (memory, process) = (whole.memory.expect("memory"), whole.process.expect("processes"));
    assert!(value(memory.usage_bytes).abs_diff(number(pods.join("memory.current"))) < 4 * MIB as u64);
    assert_eq!(value(process.process_count), number(pods.join("pids.current")));
    assert_eq!(whole.containers.len(), 1);
    assert!(whole.containers[0].swap.is_some() && whole.cpu.is_some());
    assert_eq!(whole.network.expect("traffic").default_interface.expect("an interface").name, "eth0");

    let limits = |memory: i64| v1::LinuxContainerResources {
        memory_limit_in_bytes: memory * MIB,
        memory_swap_limit_in_bytes: (memory + 8) * MIB,
        cpu_quota: 30_000,
        cpu_period: 100_000,
        ..Default::default()
    };
    container.update(limits(64)).unwrap();
    let in_force = |folder: &PathBuf| {
        ["memory.max", "memory.swap.max", "cpu.max"]
            .map(|file| fs::read_to_string(folder.join(file)).unwrap().trim().to_owned())
    };
    let expected =
        |memory: i64| [(memory * MIB).to_string(), (8 * MIB).to_string(), "30000 100000".to_owned()];
    assert_eq!(in_force(&own), expected(64));
    assert_eq!(container.limits().memory_limit_in_bytes, 64 * MIB);
    pod.update(Some(limits(128)), None).unwrap();
    assert_eq!(in_force(&pods), expected(128));
    let swap = stats_of(node, container).swap.expect("swap is accounted");
    assert_eq!(value(swap.swap_available_bytes), 8 * MIB as u64 - value(swap.swap_usage_bytes));
}

fn the_driver_may_change_while_pods_run() {
    if !systemd_works_here() {
        eprintln!("skipped: no systemd with cgroup v2");
        return;
    }
    let node = Node::start();
    let (ours, other) = match Driver::chosen() {
        Driver::Cgroupfs => (Driver::Cgroupfs, Driver::Systemd),
        Driver::Systemd => (Driver::Systemd, Driver::Cgroupfs),
    };
    let switch = |driver: Driver| {
        let parent = match driver {
            Driver::Cgroupfs => "/pintle-e2e-switched",
            Driver::Systemd => "pintle_e2e_switched.slice",
        };
        let text = format!("[cgroup]\ndriver = {:?}\nparent = {parent:?}\n", driver.name());
        fs::write(node.path("conf.d/test.toml"), text).unwrap();
        node.restart_daemon();
        assert_eq!(info(&node)["cgroupDriver"].as_str().unwrap().to_lowercase(), driver.name());
    };
    let made_by = |container: &Container<'_>| {
        if node.read(&format!("/proc/{}/cgroup", container.pid())).contains(".scope/") {
            Driver::Systemd
        } else {
            Driver::Cgroupfs
        }
    };
    for (before, after, round) in [(ours, other, "first"), (other, ours, "second")] {
        switch(before);
        let old = run_limited(&node, &format!("old-{round}"));
        let running = old.run_in("running", ["sleep", "1000"]);
        assert_eq!(made_by(&running), before);

        switch(after);
        an_old_pod_is_read_and_changed(&node, &old, &running);
        assert_eq!(running.shell("echo still here"), "still here\n");
        let more = old.run_in("more", ["sleep", "1000"]);
        assert_eq!((made_by(&running), made_by(&more)), (before, before), "an old pod keeps its driver");
        let new = run_limited(&node, &format!("new-{round}"));
        assert_eq!(made_by(&new.run_in("main", ["sleep", "1000"])), after);
        let both =
            node.cri().list_pod_sandbox_stats(v1::ListPodSandboxStatsRequest::default()).unwrap().stats;
        let known =
            both.iter().filter(|stats| stats.linux.as_ref().is_some_and(|linux| linux.memory.is_some()));
        assert_eq!(known.count(), 2, "{both:?}");
        running.stop();
        assert_eq!(running.state(), ContainerState::ContainerExited);
        old.stop();
        old.remove();
        new.stop();
        new.remove();
        wait_until("nothing is left of either", || !has_scope(&old.id) && !has_scope(&new.id));
    }
    let _ = fs::remove_dir("/sys/fs/cgroup/pintle-e2e-switched");
    node.assert_clean();
}

/// The scopes of pods that systemd knows.
fn scopes() -> Vec<String> {
    let listed = Command::new("systemctl")
        .args(["list-units", "--all", "--plain", "--no-legend", "pintle-*.scope"])
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    listed.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

fn has_scope(pod: &str) -> bool {
    scopes().contains(&format!("pintle-{pod}.scope"))
}

/// True where systemd makes the pods' cgroups in this run.
fn with_systemd() -> bool {
    let with = Driver::chosen() == Driver::Systemd;
    if !with {
        eprintln!("skipped: not with the driver systemd");
    }
    with
}

fn a_pod_costs_one_call_to_systemd_and_a_container_none() {
    if !with_systemd() {
        return;
    }
    let node = Node::start();
    // The connection is made for the first pod.
    node.run_pod("first");
    let log = node.path("bus.json");
    let mut monitor = Command::new("busctl")
        .args(["--system", "--json=short", "monitor", "org.freedesktop.systemd1"])
        .stdout(fs::File::create(&log).unwrap())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let calls = || -> Vec<serde_json::Value> {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let messages = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        messages.filter(|message| message["type"] == "method_call").collect()
    };
    wait_until("the monitor listens", || {
        // A call of somebody else's shows that it does.
        let _ = Command::new("busctl")
            .args(["--system", "get-property", "org.freedesktop.systemd1", "/org/freedesktop/systemd1"])
            .args(["org.freedesktop.systemd1.Manager", "Version"])
            .output();
        !calls().is_empty()
    });
    let pod = node.run_pod("counted");
    for number in 0..3 {
        let container = pod.run_in(&format!("c{number}"), ["sleep", "1000"]);
        container.exec(["true"]);
        container.kill();
        container.remove();
    }
    pod.stop();
    pod.remove();
    let of_ours = |calls: Vec<serde_json::Value>| -> Vec<String> {
        let unit = format!("pintle-{}.scope", pod.id);
        let start = |call: &serde_json::Value| call["payload"]["data"][0] == unit;
        let sender = calls.iter().find(|call| start(call)).map(|call| call["sender"].clone());
        let ours = calls.into_iter().filter(|call| Some(&call["sender"]) == sender.as_ref());
        ours.map(|call| call["member"].as_str().unwrap_or_default().to_owned()).collect()
    };
    wait_until("its call is seen", || !of_ours(calls()).is_empty());
    thread::sleep(Duration::from_millis(300));
    let _ = monitor.kill();
    let _ = monitor.wait();
    assert_eq!(of_ours(calls()), ["StartTransientUnit"]);
    node.assert_clean();
}

fn limits_of_a_pod_survive_what_systemd_does_to_its_neighbours() {
    if !with_systemd() {
        return;
    }
    let node = Node::start();
    let pod = run_limited(&node, "web");
    let container = pod.run_in("main", ["sleep", "1000"]);
    let pods = ancestors(&node, &container)[1].clone();
    let limits = || ["memory.max", "cpu.weight"].map(|file| fs::read_to_string(pods.join(file)).unwrap());
    let before = limits();
    assert_eq!(before[0].trim(), (256 * MIB).to_string());
    // A unit beside the scope, in the same slice: systemd then writes anew what it thinks of them all.
    let slice = node.folders().cgroups.configured_parent();
    let beside = Command::new("systemd-run")
        .args(["--quiet", "--wait", "--property=MemoryMax=64M", "--property=CPUWeight=20"])
        .args([&format!("--slice={slice}"), "true"])
        .status();
    assert!(beside.unwrap().success());
    let _ = Command::new("systemctl").arg("daemon-reload").status();
    assert_eq!(limits(), before);
    node.assert_clean();
}

/// The bus of the machine stands still until this is dropped.
struct Stopped(String);

impl Stopped {
    fn bus() -> Self {
        let shown = Command::new("systemctl").args(["show", "-p", "MainPID", "--value", "dbus"]).output();
        let pid = String::from_utf8(shown.unwrap().stdout).unwrap().trim().to_owned();
        assert!(Command::new("kill").args(["-STOP", &pid]).status().unwrap().success());
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-CONT", &self.0]).status();
    }
}

fn a_bus_that_hangs_costs_one_pod_and_nothing_else() {
    if !with_systemd() {
        return;
    }
    let node = Node::start();
    let old = node.run_pod("old");
    let running = old.run_in("running", ["sleep", "1000"]);
    let stopped = Stopped::bus();
    let started = Instant::now();
    let error = node.try_run_pod("unlucky", |_| {}).map(|pod| pod.id).unwrap_err();
    let took = started.elapsed();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    assert!(error.message().contains("no answer over D-Bus within 10 s"), "{error}");
    assert!(took < Duration::from_secs(15), "{took:?}");
    // All else goes on.
    assert_eq!(node.pods(), std::slice::from_ref(&old.id));
    assert_eq!(running.shell("echo here"), "here\n");
    let second = old.run_in("second", ["sleep", "1000"]);
    second.stop();
    running.stop();
    old.stop();
    old.remove();
    assert_eq!(node.pods(), Vec::<String>::new());
    drop(stopped);

    // What was asked of it and given up is not carried out, and a retry of the same pod works.
    let retried = node.run_pod("unlucky");
    assert_eq!(retried.run_in("main", ["sh", "-c", "exit 3"]).wait(), 3);
    wait_until("only the new pod has a scope", || scopes() == [format!("pintle-{}.scope", retried.id)]);
    node.assert_clean();
}
