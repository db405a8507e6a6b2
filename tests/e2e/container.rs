//! The life of a container.

use std::{
    fs,
    time::{Duration, Instant},
};

use tonic::Code;

use crate::harness::{BUSYBOX, ContainerState, Node, runner::tests, v1, wait_until};

tests![
    an_exit_is_reported_with_its_code_and_its_times,
    stop_asks_first_and_kills_after_the_grace,
    a_shorter_stop_overtakes_a_longer_one,
    the_images_own_settings_hold_unless_overridden,
    a_container_starts_once,
    a_program_that_is_not_there_is_told_at_start,
    a_running_container_is_removed_by_force,
    a_repeated_create_finds_the_same_container,
    volumes_are_seen_and_a_read_only_one_is_not_written,
    a_symlink_as_source_leads_to_what_it_names,
    a_read_only_root_is_read_only_and_memory_files_are_not,
    each_process_is_in_its_place_in_every_hierarchy,
    limits_are_set_and_can_be_changed,
    too_much_memory_is_told_apart_from_an_error,
    statistics_count_what_was_used,
];

fn an_exit_is_reported_with_its_code_and_its_times() {
    let node = Node::start();
    let pod = node.run_pod("batch");
    let (good, bad) = (pod.run_in("good", ["true"]), pod.run_in("bad", ["sh", "-c", "exit 42"]));

    assert_eq!((good.wait(), good.status().reason.as_str()), (0, "Completed"));
    assert_eq!((bad.wait(), bad.status().reason.as_str()), (42, "Error"));
    let status = bad.status();
    assert!(0 < status.created_at, "{status:?}");
    assert!(status.created_at <= status.started_at && status.started_at <= status.finished_at, "{status:?}");
    node.assert_clean();
}

fn stop_asks_first_and_kills_after_the_grace() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let polite = pod.run_in("polite", ["sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.1; done"]);
    let deaf = pod.run_in("deaf", ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"]);
    for container in [&polite, &deaf] {
        wait_until("the trap is set", || {
            !container.shell("grep SigCgt /proc/1/status; grep SigIgn /proc/1/status").is_empty()
        });
    }
    std::thread::sleep(Duration::from_millis(300)); // the shell's first command comes after its start

    polite.stop_within(10);
    let asked = Instant::now();
    deaf.stop_within(2);

    assert_eq!(polite.status().exit_code, 7);
    assert_eq!(deaf.status().exit_code, 137);
    assert!(asked.elapsed() >= Duration::from_secs(2), "killed before its grace was over");
    node.assert_clean();
}

fn a_shorter_stop_overtakes_a_longer_one() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let deaf = pod.run_in("deaf", ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"]);
    std::thread::sleep(Duration::from_millis(300));

    let asked = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| deaf.stop_within(60));
        std::thread::sleep(Duration::from_millis(200));
        deaf.stop_within(1);
    });

    assert!(asked.elapsed() < Duration::from_secs(20), "took {:?}", asked.elapsed());
    assert_eq!(deaf.status().exit_code, 137);
    node.assert_clean();
}

fn the_images_own_settings_hold_unless_overridden() {
    /// In a mask of signals (proc(5)).
    const USR1_BIT: u64 = 1 << 9;
    let node = Node::start();
    let pod = node.run_pod("web");
    let as_made = pod.create("as-made", "registry.test/pintle/config:1", []);
    as_made.start();
    wait_until("it speaks", || !as_made.log_texts().is_empty());

    assert_eq!(as_made.log_texts(), ["hello from /not/there/yet as 1002"]);
    // It speaks before it listens.
    wait_until("it catches USR1", || {
        let status = node.read(&format!("/proc/{}/status", as_made.pid()));
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:\t")).expect("a mask");
        u64::from_str_radix(caught, 16).unwrap() & USR1_BIT != 0
    });
    as_made.stop();
    assert_eq!(as_made.status().exit_code, 7, "its stop signal is USR1");

    let overridden = pod.create_with("overridden", "registry.test/pintle/config:1", [], |config| {
        config.args = vec!["echo $GREETING from $(pwd)".into()];
        config.working_dir = "/tmp".into();
        config.envs = vec![v1::KeyValue { key: "GREETING".into(), value: "good day".into() }];
    });
    overridden.start();
    assert_eq!(overridden.wait(), 0);
    assert_eq!(overridden.log_texts(), ["good day from /tmp"]);
    node.assert_clean();
}

fn a_container_starts_once() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = pod.create("main", BUSYBOX, ["sleep", "1000"]);
    assert_eq!(container.state(), ContainerState::ContainerCreated);
    container.start();
    assert_eq!(container.state(), ContainerState::ContainerRunning);

    assert_eq!(container.try_start().unwrap_err().code(), Code::FailedPrecondition);
    container.kill();
    assert_eq!(container.try_start().unwrap_err().code(), Code::FailedPrecondition);
    node.assert_clean();
}

fn a_program_that_is_not_there_is_told_at_start() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = pod.create("main", "registry.test/broken/no-such-program:1", []);

    let refused = container.try_start().unwrap_err();

    assert!(refused.message().contains("/no/such/program"), "{refused}");
    assert!(refused.message().contains("No such file"), "{refused}");
    let status = container.status();
    assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 128));
    assert_eq!(status.reason, "StartError");
    node.assert_clean();
}

fn a_running_container_is_removed_by_force() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = pod.run_in("main", ["sleep", "1000"]);

    container.remove();

    assert!(container.is_unknown());
    assert_eq!(node.containers(), [""; 0]);
    node.assert_clean();
}

fn a_repeated_create_finds_the_same_container() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let first = pod.create("main", BUSYBOX, ["sleep", "1000"]);
    let second = pod.create("main", BUSYBOX, ["sleep", "1000"]);

    assert_eq!(second.id, first.id);
    assert_eq!(node.containers(), [first.id.as_str()]);
    node.assert_clean();
}

fn volumes_are_seen_and_a_read_only_one_is_not_written() {
    let node = Node::start();
    fs::write(node.path("shared/letter"), "hello\n").unwrap();
    let pod = node.run_pod("web");
    let container = pod.create_with("main", BUSYBOX, ["sleep", "1000"], |config| {
        let host_path = node.path("shared").to_string_lossy().into_owned();
        let mount = v1::Mount { container_path: "/rw".into(), host_path, ..Default::default() };
        let read_only = v1::Mount { container_path: "/ro".into(), readonly: true, ..mount.clone() };
        config.mounts = vec![mount, read_only];
    });
    container.start();

    assert_eq!(container.shell("cat /rw/letter /ro/letter"), "hello\nhello\n");
    container.shell("echo answer >/rw/answer");
    assert_eq!(fs::read_to_string(node.path("shared/answer")).unwrap(), "answer\n");
    let refused = container.exec(["touch", "/ro/new"]);
    assert!(refused.code != 0 && refused.stderr.contains("Read-only"), "{refused:?}");
    node.assert_clean();
}

fn a_symlink_as_source_leads_to_what_it_names() {
    let node = Node::start();
    fs::create_dir(node.path("shared/real")).unwrap();
    fs::write(node.path("shared/real/letter"), "hello\n").unwrap();
    std::os::unix::fs::symlink(node.path("shared/real"), node.path("shared/link")).unwrap();
    let pod = node.run_pod("web");
    let container = pod.create_with("main", BUSYBOX, ["cat", "/data/letter"], |config| {
        let host_path = node.path("shared/link").to_string_lossy().into_owned();
        config.mounts = vec![v1::Mount { container_path: "/data".into(), host_path, ..Default::default() }];
    });
    container.start();

    assert_eq!((container.wait(), container.log_texts()), (0, vec!["hello".to_owned()]));
    node.assert_clean();
}

fn a_read_only_root_is_read_only_and_memory_files_are_not() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = pod.create_with("main", BUSYBOX, ["sleep", "1000"], |config| {
        config.linux.get_or_insert_default().security_context.get_or_insert_default().readonly_rootfs = true;
    });
    container.start();

    let refused = container.exec(["touch", "/tmp/new"]);
    assert!(refused.code != 0 && refused.stderr.contains("Read-only"), "{refused:?}");
    container.shell("touch /dev/shm/new && echo >/dev/null");
    node.assert_clean();
}

const MIB: i64 = 1024 * 1024;

fn limits_are_set_and_can_be_changed() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = pod.create_with("main", BUSYBOX, ["sleep", "1000"], |config| {
        config.linux.get_or_insert_default().resources = Some(v1::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 50_000,
            memory_limit_in_bytes: 64 * MIB,
            ..Default::default()
        });
    });
    container.start();
    assert_eq!(memory_limit(&node, container.pid()), 64 * MIB);

    let linux = v1::LinuxContainerResources { memory_limit_in_bytes: 96 * MIB, ..Default::default() };
    let request = v1::UpdateContainerResourcesRequest {
        container_id: container.id.clone(),
        linux: Some(linux),
        ..Default::default()
    };
    node.cri().update_container_resources(request).unwrap();

    assert_eq!(memory_limit(&node, container.pid()), 96 * MIB);
    let shown = container.status().resources.unwrap().linux.unwrap();
    assert_eq!((shown.memory_limit_in_bytes, shown.cpu_quota), (96 * MIB, 50_000));
    node.assert_clean();
}

fn each_process_is_in_its_place_in_every_hierarchy() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = pod.run_in("main", ["sleep", "1000"]);
    let init = container.pid();
    let status = node.read(&format!("/proc/{init}/status"));
    let supervisor = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().to_owned();

    let below_pod = |pid: &str| -> Vec<String> {
        let groups = node.read(&format!("/proc/{pid}/cgroup"));
        let parts = groups.lines().map(|line| match line.split_once(&format!("/{}/", pod.id)) {
            Some((_, below)) => below.to_owned(),
            None => line.to_owned(),
        });
        parts.collect()
    };
    let hierarchies = below_pod(&supervisor).len();
    assert_eq!(below_pod(&supervisor), vec!["supervisor".to_owned(); hierarchies]);
    assert_eq!(below_pod(&init.to_string()), vec![container.id.clone(); hierarchies]);
    node.assert_clean();
}

/// What the kernel holds a process of the node to.
fn memory_limit(node: &Node, pid: u32) -> i64 {
    let groups = node.read(&format!("/proc/{pid}/cgroup"));
    let of = |controller: &str| {
        let line = groups.lines().find(|line| line.split(':').nth(1) == Some(controller))?;
        line.splitn(3, ':').nth(2).map(str::to_owned)
    };
    let file = match of("memory") {
        Some(path) => format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes"),
        None => format!("/sys/fs/cgroup{}/memory.max", of("").expect("a cgroup")),
    };
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}")).trim().parse().unwrap()
}

fn too_much_memory_is_told_apart_from_an_error() {
    let node = Node::start();
    let pod = node.run_pod("batch");
    let greedy = pod.create_with("greedy", BUSYBOX, ["tail", "/dev/zero"], |config| {
        config.linux.get_or_insert_default().resources = Some(v1::LinuxContainerResources {
            memory_limit_in_bytes: 32 * MIB,
            memory_swap_limit_in_bytes: 32 * MIB,
            ..Default::default()
        });
    });
    greedy.start();

    assert_eq!(greedy.wait(), 137);
    assert_eq!(greedy.status().reason, "OOMKilled");
    node.assert_clean();
}

fn statistics_count_what_was_used() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let busy =
        pod.run_in("busy", ["sh", "-c", "dd if=/dev/zero of=/file bs=1M count=4; while :; do :; done"]);
    let stats = || {
        let request = v1::ContainerStatsRequest { container_id: busy.id.clone() };
        node.cri().container_stats(request).unwrap().stats.expect("statistics")
    };

    let used_ns = || stats().cpu.and_then(|cpu| cpu.usage_core_nano_seconds).map_or(0, |used| used.value);
    wait_until("processor time is counted", || used_ns() > 50_000_000);
    let memory = stats().memory.and_then(|memory| memory.working_set_bytes).map_or(0, |used| used.value);
    assert!(memory > 0);
    assert_eq!(stats().attributes.expect("attributes").id, busy.id);
    node.assert_clean();
}
