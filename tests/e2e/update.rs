//! Limits that change while a container is there.

use std::{fs, path::PathBuf};

use tonic::Code;

use crate::harness::{BUSYBOX, Container, ContainerState, Node, Pod, is_unified, runner::tests, v1};

tests![
    every_limit_can_be_changed_before_the_start_and_after_it,
    a_refusal_names_file_and_value_and_changes_nothing,
    less_memory_than_is_in_use_is_refused_and_nothing_is_killed,
    what_has_ended_or_never_was_cannot_be_changed,
    changed_limits_outlive_the_daemon,
    memory_and_swap_are_limited_together,
    raw_settings_belong_to_cgroup_v2,
    an_out_of_memory_score_follows_where_the_node_may_set_it,
    changes_at_once_are_made_one_after_the_other,
    a_pod_in_pintles_own_cgroup_is_limited_with_its_overhead,
    the_limits_of_a_pod_in_the_kubelets_cgroup_are_shown,
];

const MIB: i64 = 1024 * 1024;

pub(crate) type Limits = v1::LinuxContainerResources;

fn limited<'n>(pod: &Pod<'n>, name: &str, limits: Limits) -> Container<'n> {
    pod.create_with(name, BUSYBOX, ["sleep", "1000"], |config| {
        config.linux.get_or_insert_default().resources = Some(limits);
    })
}

/// A file of the cgroup that a process of the node is in: `v1` of that controller, or `v2`.
pub(crate) fn cgroup_file(node: &Node, pid: u32, controller: &str, v1: &str, v2: &str) -> PathBuf {
    let groups = node.read(&format!("/proc/{pid}/cgroup"));
    let of = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let mine = controllers.split(',').any(|name| name == controller);
        mine.then(|| (controllers.to_owned(), path.to_owned()))
    };
    match groups.lines().find_map(of) {
        Some((controllers, path)) => format!("/sys/fs/cgroup/{controllers}{path}/{v1}").into(),
        None => {
            let path = groups.lines().find_map(|line| line.strip_prefix("0::")).expect("a cgroup");
            format!("/sys/fs/cgroup{path}/{v2}").into()
        }
    }
}

fn read(path: &PathBuf) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().into()
}

/// What the kernel holds a container to: memory in bytes, CPU as quota and period, share or weight, CPUs.
fn in_force(node: &Node, container: &Container<'_>) -> [String; 4] {
    let file = |controller, v1, v2| read(&cgroup_file(node, container.pid(), controller, v1, v2));
    let cpu = if is_unified() {
        file("cpu", "", "cpu.max")
    } else {
        format!("{} {}", file("cpu", "cpu.cfs_quota_us", ""), file("cpu", "cpu.cfs_period_us", ""))
    };
    [
        file("memory", "memory.limit_in_bytes", "memory.max"),
        cpu,
        file("cpu", "cpu.shares", "cpu.weight"),
        file("cpuset", "cpuset.cpus", "cpuset.cpus"),
    ]
}

fn every_limit_can_be_changed_before_the_start_and_after_it() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = limited(&pod, "main", Limits { memory_limit_in_bytes: 64 * MIB, ..Default::default() });
    let share = |v1: &str, v2: &str| if is_unified() { v2.to_owned() } else { v1.to_owned() };

    let first = Limits {
        cpu_period: 50_000,
        cpu_quota: 25_000,
        cpu_shares: 1024,
        memory_limit_in_bytes: 80 * MIB,
        cpuset_cpus: "0".into(),
        ..Default::default()
    };
    container.update(first.clone()).unwrap();
    assert_eq!(container.state(), ContainerState::ContainerCreated);
    let expected = [(80 * MIB).to_string(), "25000 50000".into(), share("1024", "100"), "0".into()];
    assert_eq!(in_force(&node, &container), expected);

    container.start();
    let second = Limits { cpu_quota: 30_000, memory_limit_in_bytes: 96 * MIB, ..Default::default() };
    container.update(second).unwrap();
    let expected = [(96 * MIB).to_string(), "30000 50000".into(), share("1024", "100"), "0".into()];
    assert_eq!(in_force(&node, &container), expected);
    let shown = container.limits();
    let all = Limits { cpu_quota: 30_000, memory_limit_in_bytes: 96 * MIB, ..first };
    assert_eq!(Limits { oom_score_adj: 0, ..shown }, all);

    let shorter =
        Limits { cpu_period: 20_000, cpu_quota: -1, memory_limit_in_bytes: 32 * MIB, ..Default::default() };
    container.update(shorter).unwrap();
    let none = if is_unified() { "max 20000" } else { "-1 20000" };
    let expected = [(32 * MIB).to_string(), none.into(), share("1024", "100"), "0".into()];
    assert_eq!(in_force(&node, &container), expected);
    container.update(Limits::default()).unwrap();
    assert_eq!(in_force(&node, &container), expected, "nothing set, nothing changed");
    node.assert_clean();
}

fn a_refusal_names_file_and_value_and_changes_nothing() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = limited(&pod, "main", Limits { memory_limit_in_bytes: 64 * MIB, ..Default::default() });
    container.start();
    let (force, shown) = (in_force(&node, &container), container.limits());

    let wish = Limits {
        cpu_shares: 2048,
        memory_limit_in_bytes: 96 * MIB,
        cpuset_cpus: "4000".into(),
        ..Default::default()
    };
    let refused = container.update(wish).unwrap_err();

    assert!(refused.message().contains("cpuset.cpus"), "{refused}");
    assert!(refused.message().contains("4000"), "{refused}");
    assert_eq!((in_force(&node, &container), container.limits()), (force.clone(), shown.clone()));

    let nonsense = Limits { cpu_period: 7, ..Default::default() };
    let refused = container.update(nonsense).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert_eq!((in_force(&node, &container), container.limits()), (force, shown));
    node.assert_clean();
}

fn less_memory_than_is_in_use_is_refused_and_nothing_is_killed() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = limited(&pod, "main", Limits { memory_limit_in_bytes: 96 * MIB, ..Default::default() });
    container.start();
    container.shell("dd if=/dev/zero of=/dev/shm/held bs=1M count=40");
    // Swap would take what is held, and this is about memory that stays.
    let swapless = node.read("/proc/swaps").lines().count() < 2;

    let wish = Limits { memory_limit_in_bytes: 8 * MIB, cpu_shares: 2048, ..Default::default() };
    let outcome = container.update(wish);

    if swapless {
        let refused = outcome.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        let file = if is_unified() { "memory.max" } else { "memory.limit_in_bytes" };
        assert!(refused.message().contains(file), "{refused}");
        assert!(refused.message().contains(&(8 * MIB).to_string()), "{refused}");
        assert_eq!(in_force(&node, &container)[0], (96 * MIB).to_string());
        assert_eq!(container.limits().cpu_shares, 0);
    }
    assert_eq!(container.state(), ContainerState::ContainerRunning);
    assert_eq!(container.shell("ls /dev/shm"), "held\n");
    node.assert_clean();
}

fn what_has_ended_or_never_was_cannot_be_changed() {
    let node = Node::start();
    let pod = node.run_pod("batch");
    let container = pod.run_in("main", ["true"]);
    container.wait();
    let wish = Limits { cpu_shares: 2048, ..Default::default() };

    let refused = container.update(wish.clone()).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    container.remove();
    let refused = container.update(wish.clone()).unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
    let request = v1::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: "0".repeat(64),
        resources: Some(wish.clone()),
        overhead: None,
    };
    assert_eq!(node.cri().update_pod_sandbox_resources(request).unwrap_err().code(), Code::NotFound);
    pod.stop();
    assert_eq!(pod.update(Some(wish), None).unwrap_err().code(), Code::FailedPrecondition);
    node.assert_clean();
}

fn changed_limits_outlive_the_daemon() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = limited(&pod, "main", Limits { memory_limit_in_bytes: 64 * MIB, ..Default::default() });
    container.start();
    container.update(Limits { memory_limit_in_bytes: 80 * MIB, ..Default::default() }).unwrap();
    let (force, shown) = (in_force(&node, &container), container.limits());

    node.kill_daemon();
    node.start_daemon();

    assert_eq!((in_force(&node, &container), container.limits()), (force, shown.clone()));
    container.update(Limits { cpu_shares: 2048, ..Default::default() }).unwrap();
    assert_eq!(container.limits(), Limits { cpu_shares: 2048, ..shown });
    assert_eq!(in_force(&node, &container)[0], (80 * MIB).to_string());
    node.assert_clean();
}

/// CRI has one limit for memory and swap together; v1 has the same, v2 one for swap alone.
fn memory_and_swap_are_limited_together() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let limits = Limits {
        memory_limit_in_bytes: 64 * MIB,
        memory_swap_limit_in_bytes: 96 * MIB,
        ..Default::default()
    };
    let container = limited(&pod, "main", limits);
    container.start();
    let file =
        || cgroup_file(&node, container.pid(), "memory", "memory.memsw.limit_in_bytes", "memory.swap.max");
    if !file().exists() {
        println!("skipped: this kernel does not account swap");
        return node.assert_clean();
    }
    let expect = |memory: i64, sum: i64| {
        let swap = if is_unified() { sum - memory } else { sum };
        assert_eq!(read(&file()), swap.to_string());
        assert_eq!(in_force(&node, &container)[0], memory.to_string());
        let shown = container.limits();
        assert_eq!((shown.memory_limit_in_bytes, shown.memory_swap_limit_in_bytes), (memory, sum));
    };
    expect(64 * MIB, 96 * MIB);
    // Memory alone keeps the sum, up past the old sum both go, and down again.
    container.update(Limits { memory_limit_in_bytes: 80 * MIB, ..Default::default() }).unwrap();
    expect(80 * MIB, 96 * MIB);
    for (memory, sum) in [(128 * MIB, 192 * MIB), (32 * MIB, 48 * MIB), (40 * MIB, 40 * MIB)] {
        let both =
            Limits { memory_limit_in_bytes: memory, memory_swap_limit_in_bytes: sum, ..Default::default() };
        container.update(both).unwrap();
        expect(memory, sum);
    }
    // More memory than memory and swap together.
    let refused =
        container.update(Limits { memory_limit_in_bytes: 64 * MIB, ..Default::default() }).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    expect(40 * MIB, 40 * MIB);
    node.assert_clean();
}

/// The kubelet's LimitedSwap and its memory reservation come by this way.
fn raw_settings_belong_to_cgroup_v2() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let unified = |settings: &[(&str, i64)]| Limits {
        memory_limit_in_bytes: 64 * MIB,
        unified: settings.iter().map(|(file, value)| ((*file).to_owned(), value.to_string())).collect(),
        ..Default::default()
    };
    let wish = unified(&[("memory.swap.max", 12 * MIB), ("memory.low", 8 * MIB)]);
    if !is_unified() {
        let container = limited(&pod, "main", Limits::default());
        let refused = container.update(wish).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains("cgroup v2"), "{refused}");
        assert_eq!(container.limits(), Limits::default());
        return node.assert_clean();
    }
    let container = limited(&pod, "main", wish);
    container.start();
    let file = |name| read(&cgroup_file(&node, container.pid(), "memory", "", name));
    assert_eq!([file("memory.swap.max"), file("memory.low")], [12 * MIB, 8 * MIB].map(|n| n.to_string()));

    container.update(unified(&[("memory.swap.max", 0), ("memory.high", 48 * MIB)])).unwrap();

    assert_eq!([file("memory.swap.max"), file("memory.high")], [0, 48 * MIB].map(|n| n.to_string()));
    let expected = unified(&[("memory.swap.max", 0), ("memory.high", 48 * MIB), ("memory.low", 8 * MIB)]);
    assert_eq!(container.limits(), expected);
    for (file, value) in [("memory.nothing", "1"), ("memory.reclaim", "4096"), ("cgroup.freeze", "1")] {
        let unified = [(file.to_owned(), value.to_owned())].into();
        let refused = container.update(Limits { unified, ..Default::default() }).unwrap_err();
        assert!(refused.message().contains(file), "{refused}");
    }
    assert_eq!(container.limits(), expected);
    node.assert_clean();
}

fn an_out_of_memory_score_follows_where_the_node_may_set_it() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = limited(&pod, "main", Limits { oom_score_adj: 500, ..Default::default() });
    container.start();

    container.update(Limits { oom_score_adj: 700, ..Default::default() }).unwrap();

    let score = || node.read(&format!("/proc/{}/oom_score_adj", container.pid())).trim().to_owned();
    assert_eq!((score().as_str(), container.limits().oom_score_adj), ("700", 700));
    assert_eq!(container.shell("cat /proc/self/oom_score_adj"), "700\n");
    // Lowering takes a capability that the node may not have: then the status tells the truth.
    container.update(Limits { oom_score_adj: 600, ..Default::default() }).unwrap();
    assert_eq!(score(), container.limits().oom_score_adj.to_string());
    node.assert_clean();
}

fn changes_at_once_are_made_one_after_the_other() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = limited(&pod, "main", Limits { memory_limit_in_bytes: 32 * MIB, ..Default::default() });
    container.start();

    std::thread::scope(|scope| {
        for number in 1..=12 {
            let container = &container;
            scope.spawn(move || {
                let wish = match number % 3 {
                    0 => Limits { cpu_shares: 1000 + number, ..Default::default() },
                    1 => Limits { memory_limit_in_bytes: (32 + number) * MIB, ..Default::default() },
                    _ => Limits { cpu_quota: 10_000 + number, ..Default::default() },
                };
                container.update(wish).unwrap();
            });
        }
    });

    let shown = container.limits();
    assert_eq!(in_force(&node, &container)[0], shown.memory_limit_in_bytes.to_string());
    assert!(in_force(&node, &container)[1].starts_with(&shown.cpu_quota.to_string()), "{shown:?}");
    assert!(shown.cpu_shares > 1000, "{shown:?}");
    node.assert_clean();
}

/// The limits of a pod as its verbose status shows them: of its containers, and of its overhead.
fn pod_memory_shown(node: &Node, pod: &Pod<'_>) -> [i64; 2] {
    let request = v1::PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: true };
    let info = node.cri().pod_sandbox_status(request).unwrap().info;
    let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
    ["resources", "overhead"].map(|name| info[name]["memory_bytes"].as_i64().unwrap_or(0))
}

fn memory(bytes: i64) -> Option<Limits> {
    Some(Limits { memory_limit_in_bytes: bytes, ..Default::default() })
}

fn a_pod_in_pintles_own_cgroup_is_limited_with_its_overhead() {
    let node = Node::start();
    let pod = node.run_pod_with("web", |config| {
        let linux = config.linux.get_or_insert_default();
        linux.cgroup_parent = String::new();
        (linux.resources, linux.overhead) = (memory(64 * MIB), memory(16 * MIB));
    });
    let container = pod.run_in("main", ["sleep", "1000"]);
    let limit = || {
        let own = cgroup_file(&node, container.pid(), "memory", "memory.limit_in_bytes", "memory.max");
        let pods = own.parent().unwrap().parent().unwrap().join(own.file_name().unwrap());
        read(&pods).parse::<i64>().unwrap()
    };
    assert_eq!((limit(), pod_memory_shown(&node, &pod)), (80 * MIB, [64 * MIB, 16 * MIB]));

    pod.update(memory(96 * MIB), None).unwrap();
    assert_eq!((limit(), pod_memory_shown(&node, &pod)), (112 * MIB, [96 * MIB, 16 * MIB]));
    pod.update(None, memory(32 * MIB)).unwrap();
    pod.update(None, memory(32 * MIB)).unwrap();
    assert_eq!((limit(), pod_memory_shown(&node, &pod)), (128 * MIB, [96 * MIB, 32 * MIB]));

    let cpus = Limits { cpuset_cpus: "4000".into(), memory_limit_in_bytes: 99 * MIB, ..Default::default() };
    let refused = pod.update(Some(cpus), None).unwrap_err();
    assert!(refused.message().contains("cpuset.cpus") && refused.message().contains("4000"), "{refused}");
    node.kill_daemon();
    node.start_daemon();
    assert_eq!((limit(), pod_memory_shown(&node, &pod)), (128 * MIB, [96 * MIB, 32 * MIB]));
    pod.update(memory(64 * MIB), None).unwrap();
    assert_eq!(limit(), 96 * MIB);
    node.assert_clean();
}

/// There the kubelet has limited the pod's cgroup itself, and pintle's is one below it.
fn the_limits_of_a_pod_in_the_kubelets_cgroup_are_shown() {
    let node = Node::start();
    let pod = node.run_pod_with("web", |config| {
        config.linux.get_or_insert_default().resources = memory(64 * MIB);
    });
    let container = pod.run_in("main", ["sleep", "1000"]);
    let own = cgroup_file(&node, container.pid(), "memory", "memory.limit_in_bytes", "memory.max");
    let pods = own.parent().unwrap().parent().unwrap().join(own.file_name().unwrap());
    let before = read(&pods);

    pod.update(memory(96 * MIB), memory(8 * MIB)).unwrap();

    assert_eq!(pod_memory_shown(&node, &pod), [96 * MIB, 8 * MIB]);
    assert_eq!(read(&pods), before);
    node.assert_clean();
}
