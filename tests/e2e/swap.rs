//! Swap: who may have how much of it, and what is reported of it. A host without any says so.

use std::{collections::BTreeMap, fs, path::PathBuf};

use crate::{
    harness::{BUSYBOX, Container, ContainerState, Node, Pod, is_unified, runner::tests, v1, wait_until},
    stats::{pod_stats_of, stats_of, value},
    update::{Limits, cgroup_file},
};

tests![
    what_does_not_fit_into_memory_is_swapped_and_told,
    who_may_not_swap_is_killed_beside_one_that_may,
    limited_swap_is_what_the_kubelet_computed,
];

const MIB: i64 = 1 << 20;
const MIB_U: u64 = 1 << 20;

/// The host's memory and swap in bytes, if it has swap and accounts it by container.
fn memory_and_swap() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/meminfo").unwrap();
    let kib = |name: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    let (memory, swap) = (kib("MemTotal:") * 1024, kib("SwapTotal:") * 1024);
    if !is_unified() || swap < 256 * MIB_U {
        eprintln!("skipped: no cgroup v2 with 256 MiB of swap");
        return None;
    }
    Some((memory, swap))
}

/// A container that puts `held` MiB into memory that can be swapped, and keeps them.
fn holder<'n>(pod: &Pod<'n>, name: &str, held: i64, limits: Limits) -> Container<'n> {
    let script =
        format!("dd if=/dev/zero of=/dev/shm/held bs=1M count={held} && touch /dev/shm/done; sleep 1000");
    let container = pod.create_with(name, BUSYBOX, ["sh", "-c", &script], |config| {
        config.linux.get_or_insert_default().resources = Some(limits);
    });
    container.start();
    container
}

#[track_caller]
fn wait_until_held(container: &Container<'_>) {
    wait_until("all is held", || container.exec(["test", "-e", "/dev/shm/done"]).code == 0);
}

/// Memory of its own, and with swap; MiB.
fn limits(memory: i64, with_swap: i64) -> Limits {
    Limits {
        memory_limit_in_bytes: memory * MIB,
        memory_swap_limit_in_bytes: with_swap * MIB,
        ..Default::default()
    }
}

/// Bytes in use and bytes left, as the container's statistics have them.
#[track_caller]
fn swap_of(stats: &v1::ContainerStats) -> (u64, u64) {
    let swap = stats.swap.expect("swap is accounted");
    assert!(swap.timestamp > 0);
    assert!(swap.swap_usage_bytes.is_some() && swap.swap_available_bytes.is_some(), "{swap:?}");
    (value(swap.swap_usage_bytes), value(swap.swap_available_bytes))
}

/// A number in one file of the cgroup that the container's first process is in.
#[track_caller]
fn of_kernel(node: &Node, container: &Container<'_>, file: &str) -> u64 {
    let path: PathBuf = cgroup_file(node, container.pid(), "memory", "", file);
    fs::read_to_string(&path).unwrap().trim().parse().unwrap()
}

/// Most that it ever had swapped out, bytes; kernels before 6.5 do not say.
#[track_caller]
fn peak(node: &Node, container: &Container<'_>) -> Option<u64> {
    let path = cgroup_file(node, container.pid(), "memory", "", "memory.swap.peak");
    path.exists().then(|| of_kernel(node, container, "memory.swap.peak"))
}

fn what_does_not_fit_into_memory_is_swapped_and_told() {
    if memory_and_swap().is_none() {
        return;
    }
    let node = Node::start();
    let pod = node.run_pod("web");
    let holder = holder(&pod, "holder", 48, limits(24, 24 + 60));
    let dry = pod.create_with("dry", BUSYBOX, ["sleep", "1000"], |config| {
        config.linux.get_or_insert_default().resources = Some(limits(24, 24));
    });
    dry.start();
    wait_until_held(&holder);

    let check = |holder_limit: u64| {
        let stats = stats_of(&node, &holder);
        let (used, left) = swap_of(&stats);
        // 48 held and 24 of memory: no less than the rest is swapped, and nothing twice.
        assert!((20 * MIB_U..60 * MIB_U).contains(&used), "{used}");
        assert!(used.abs_diff(of_kernel(&node, &holder, "memory.swap.current")) < MIB_U, "{used}");
        assert_eq!(used + left, holder_limit, "what is left is what the limit leaves");
        let memory = stats.memory.expect("memory");
        assert!(value(memory.usage_bytes) <= 24 * MIB_U, "swap is no memory: {memory:?}");
        assert_eq!(swap_of(&stats_of(&node, &dry)), (0, 0));
    };
    check(60 * MIB_U);

    // The pod's statistics have those of its containers, and the metrics the same figure.
    let whole = pod_stats_of(&node, &pod);
    let name = |stats: &v1::ContainerStats| stats.attributes.clone().unwrap().metadata.unwrap().name;
    let of_pod: BTreeMap<String, (u64, u64)> =
        whole.containers.iter().map(|stats| (name(stats), swap_of(stats))).collect();
    let (used, left) = of_pod["holder"];
    assert!(used >= 20 * MIB_U && used + left == 60 * MIB_U, "{of_pod:?}");
    assert_eq!(of_pod["dry"], (0, 0));
    let metrics = node.cri().list_pod_sandbox_metrics(v1::ListPodSandboxMetricsRequest {}).unwrap();
    let of_holder = metrics.pod_metrics.iter().flat_map(|pod| &pod.container_metrics);
    let of_holder = of_holder.filter(|metrics| metrics.container_id == holder.id);
    let swapped = of_holder.flat_map(|one| &one.metrics).find(|one| one.name == "container_memory_swap");
    assert!(value(swapped.expect("its metric").value).abs_diff(used) < MIB_U);

    node.restart_daemon();
    check(60 * MIB_U);
    holder.update(limits(24, 24 + 90)).unwrap();
    check(90 * MIB_U);

    holder.shell("rm /dev/shm/held");
    wait_until("what is gone is not swapped", || swap_of(&stats_of(&node, &holder)).0 < 4 * MIB_U);
    node.assert_clean();
}

fn who_may_not_swap_is_killed_beside_one_that_may() {
    if memory_and_swap().is_none() {
        return;
    }
    let node = Node::start();
    let pod = node.run_pod("batch");
    let may = holder(&pod, "may", 48, limits(24, 24 + 60));
    let may_not = pod.create_with("may-not", BUSYBOX, ["sleep", "1000"], |config| {
        config.linux.get_or_insert_default().resources = Some(limits(24, 24));
    });
    may_not.start();
    assert_eq!(may_not.exec(["tail", "/dev/zero"]).code, 137);
    assert!(peak(&node, &may_not).is_none_or(|peak| peak == 0), "{:?}", peak(&node, &may_not));
    wait_until_held(&may);
    assert_eq!(may.state(), ContainerState::ContainerRunning);
    node.assert_clean();
}

/// The kubelet gives a container of a burstable pod the part of the node's swap that its request is of the
/// node's memory (KEP-2400), to the byte, by the raw key of cgroup v2; any other gets none.
fn limited_swap_is_what_the_kubelet_computed() {
    let Some((node_memory, node_swap)) = memory_and_swap() else { return };
    let (request, limit) = (96 * MIB_U, 104 * MIB);
    let share = (request as f64 / node_memory as f64 * node_swap as f64) as u64;
    assert!((4 * MIB_U..100 * MIB_U).contains(&share), "{share}");
    let node = Node::start();
    let pod = node.run_pod("burstable");
    let limited = |swap: u64| Limits {
        memory_limit_in_bytes: limit,
        unified: [("memory.swap.max".to_owned(), swap.to_string())].into(),
        ..Default::default()
    };
    let some = pod.create_with("some", BUSYBOX, ["sleep", "1000"], |config| {
        config.linux.get_or_insert_default().resources = Some(limited(share));
    });
    let none = pod.create_with("none", BUSYBOX, ["sleep", "1000"], |config| {
        config.linux.get_or_insert_default().resources = Some(limited(0));
    });
    some.start();
    none.start();
    let pages = |bytes: u64| bytes / 4096 * 4096;
    assert_eq!(of_kernel(&node, &some, "memory.swap.max"), pages(share));
    assert_eq!(swap_of(&stats_of(&node, &some)), (0, pages(share)));
    assert_eq!(swap_of(&stats_of(&node, &none)), (0, 0));

    // More than both: the greedy is killed, when all of the swap was used and not a page more.
    assert_eq!(some.exec(["tail", "/dev/zero"]).code, 137);
    let events = || {
        let path = cgroup_file(&node, some.pid(), "memory", "", "memory.swap.events");
        let text = fs::read_to_string(path).unwrap();
        text.lines().find_map(|line| line.strip_prefix("fail ")?.parse::<u64>().ok()).unwrap()
    };
    assert!(events() > 0, "its swap was used up");
    if let Some(peak) = peak(&node, &some) {
        assert!((pages(share) - MIB_U..=pages(share)).contains(&peak), "{peak}");
    }
    wait_until("what the dead had is free", || swap_of(&stats_of(&node, &some)).0 < MIB_U);

    // Resized in place: the request grew, and the kubelet computes anew.
    some.update(limited(2 * share)).unwrap();
    assert_eq!(swap_of(&stats_of(&node, &some)).1 / MIB_U, 2 * share / MIB_U);
    assert_eq!(some.limits().unified["memory.swap.max"], (2 * share).to_string());
    node.assert_clean();
}
