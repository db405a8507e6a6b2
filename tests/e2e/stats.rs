//! What pods and containers use, as statistics and as metrics.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use tonic::Code;

use crate::{
    harness::{BUSYBOX, Container, Node, Pod, Setup, is_unified, runner::tests, v1, wait_until},
    update::cgroup_file,
};

tests![
    figures_are_of_what_was_really_used,
    the_working_set_leaves_out_what_the_kernel_may_drop,
    pressure_is_what_the_kernel_says,
    the_rate_of_cpu_use_is_held_down_by_a_quota,
    what_was_written_is_counted_without_links_and_given_back,
    traffic_is_told_by_interface_and_not_for_the_hosts_network,
    traffic_of_a_pod_is_told_also_when_no_container_of_it_lives,
    lists_hold_what_passes_the_filter,
    what_has_ended_is_listed_without_figures,
    containers_that_come_and_go_fail_no_list,
    counters_go_on_after_a_restart_of_the_daemon,
    every_metric_has_a_value_with_the_labels_it_is_described_by,
    prometheus_can_scrape_what_the_kubelet_is_given,
];

const MIB: u64 = 1024 * 1024;

pub(crate) fn value(value: Option<v1::UInt64Value>) -> u64 {
    value.map_or(0, |value| value.value)
}

#[track_caller]
pub(crate) fn stats_of(node: &Node, container: &Container<'_>) -> v1::ContainerStats {
    let request = v1::ContainerStatsRequest { container_id: container.id.clone() };
    node.cri().container_stats(request).unwrap().stats.expect("statistics")
}

#[track_caller]
pub(crate) fn pod_stats_of(node: &Node, pod: &Pod<'_>) -> v1::LinuxPodSandboxStats {
    let request = v1::PodSandboxStatsRequest { pod_sandbox_id: pod.id.clone() };
    node.cri().pod_sandbox_stats(request).unwrap().stats.expect("statistics").linux.expect("of Linux")
}

#[track_caller]
fn listed(node: &Node, filter: Option<v1::ContainerStatsFilter>) -> BTreeMap<String, v1::ContainerStats> {
    let list = node.cri().list_container_stats(v1::ListContainerStatsRequest { filter }).unwrap().stats;
    list.into_iter().map(|stats| (stats.attributes.clone().expect("attributes").id, stats)).collect()
}

#[track_caller]
fn listed_pods(node: &Node, filter: Option<v1::PodSandboxStatsFilter>) -> BTreeSet<String> {
    let list = node.cri().list_pod_sandbox_stats(v1::ListPodSandboxStatsRequest { filter }).unwrap().stats;
    list.into_iter().map(|stats| stats.attributes.expect("attributes").id).collect()
}

fn cpu_ns(stats: &v1::ContainerStats) -> u64 {
    stats.cpu.as_ref().map_or(0, |cpu| value(cpu.usage_core_nano_seconds))
}

/// Whether this kernel says how long a cgroup's tasks waited.
fn has_pressure() -> bool {
    ["/sys/fs/cgroup/cpu.pressure", "/sys/fs/cgroup/unified/cpu.pressure"]
        .iter()
        .any(|file| Path::new(file).exists())
}

fn figures_are_of_what_was_really_used() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let limited = |config: &mut v1::ContainerConfig| {
        config.linux.get_or_insert_default().resources = Some(v1::LinuxContainerResources {
            memory_limit_in_bytes: 128 << 20,
            memory_swap_limit_in_bytes: 128 << 20,
            ..Default::default()
        });
    };
    let script =
        "dd if=/dev/zero of=/dev/shm/held bs=1M count=32 && touch /dev/shm/done; while :; do :; done";
    let busy = pod.create_with("busy", BUSYBOX, ["sh", "-c", script], limited);
    busy.start();
    let idle = pod.run_in("idle", ["sleep", "1000"]);
    wait_until("memory is held", || busy.exec(["test", "-e", "/dev/shm/done"]).code == 0);
    wait_until("it has computed", || cpu_ns(&stats_of(&node, &busy)) > 200_000_000);

    let stats = stats_of(&node, &busy);
    let memory = stats.memory.expect("memory");
    let (usage, working_set) = (value(memory.usage_bytes), value(memory.working_set_bytes));
    assert!((32 * MIB..128 * MIB).contains(&working_set) && working_set <= usage, "{memory:?}");
    assert_eq!(value(memory.available_bytes), 128 * MIB - working_set);
    assert!(value(memory.page_faults) > 0);
    // Counted by the container itself, as it sees its own first process and those it has waited for.
    let ticks = busy.shell("cat /proc/1/stat");
    let ticks: u64 = ticks.split(' ').skip(13).take(4).map(|field| field.parse::<u64>().unwrap()).sum();
    assert!(cpu_ns(&stats_of(&node, &busy)) + 100_000_000 >= ticks * 10_000_000, "{ticks}");
    assert!(cpu_ns(&stats_of(&node, &idle)) < 1_000_000_000);
    assert_eq!(value(stats_of(&node, &idle).memory.expect("memory").available_bytes), 0, "it has no limit");
    if has_pressure() {
        assert!(stats.cpu.expect("cpu").psi.expect("pressure").some.is_some());
        assert!(stats.io.expect("io").psi.is_some() && memory.psi.is_some());
    }

    let whole = pod_stats_of(&node, &pod);
    let of_pod = whole.cpu.expect("cpu");
    assert!(value(of_pod.usage_core_nano_seconds) >= cpu_ns(&stats), "a pod is all that is in it");
    assert!(value(whole.memory.expect("memory").usage_bytes) >= 32 * MIB);
    assert!(value(whole.process.expect("processes").process_count) >= 3, "two and the supervisor");
    assert_eq!(whole.containers.len(), 2);
    node.assert_clean();
}

/// The number after `key` in a text of the kernel's: `key 5`, or `key=5` as a word of a line.
fn number_after(text: &str, key: &str) -> u64 {
    let mut words = text.split([' ', '=', '\n']).skip_while(|word| *word != key).skip(1);
    words.next().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("no {key} in {text}"))
}

fn the_working_set_leaves_out_what_the_kernel_may_drop() {
    const KEPT: u64 = 24 * MIB;
    let node = Node::start();
    let pod = node.run_pod("web");
    let reader = pod.run_in("reader", ["sleep", "1000"]);
    let file = |v1, v2| cgroup_file(&node, reader.pid(), "memory", v1, v2);
    let stat = file("memory.stat", "memory.stat");
    let key = if is_unified() { "inactive_file" } else { "total_inactive_file" };
    let dropped = || number_after(&node.read(stat.to_str().expect("a path")), key);
    // Written once and never read: pages of a file that the kernel may drop, unless it lies in memory anyway.
    reader.shell(&format!("dd if=/dev/zero of=/file bs=1M count={} && sync", KEPT / MIB));
    let in_memory = reader.shell("stat -f -c %T /").contains("tmpfs");

    let memory = stats_of(&node, &reader).memory.expect("memory");
    let (usage, working_set, rest) = (value(memory.usage_bytes), value(memory.working_set_bytes), dropped());
    assert!((working_set + rest).abs_diff(usage) < MIB, "{memory:?}, {key} {rest}");
    assert!(in_memory || rest >= KEPT / 2, "{key} {rest} of {usage}");
    node.assert_clean();
}

fn pressure_is_what_the_kernel_says() {
    if !has_pressure() || !is_unified() {
        eprintln!("skipped: no pressure in cgroup v2");
        return;
    }
    let node = Node::start();
    let pod = node.run_pod("web");
    let script = "for n in 1 2 3 4; do while :; do :; done & done; wait";
    let busy = pod.run_in("busy", ["sh", "-c", script]);
    let kernel = || {
        let file = cgroup_file(&node, busy.pid(), "cpu", "", "cpu.pressure");
        number_after(&node.read(file.to_str().expect("a path")), "total") * 1000
    };
    wait_until("its processes wait for each other", || kernel() > 100_000_000);
    let before = kernel();
    let reported = stats_of(&node, &busy).cpu.expect("cpu").psi.expect("pressure").some.expect("some");
    assert!((before..=kernel()).contains(&reported.total), "{before} {reported:?}");
    let pods = pod_stats_of(&node, &pod).cpu.expect("cpu").psi.expect("pressure").some.expect("some");
    assert!(pods.total >= reported.total && pods.avg10 <= 100.0, "{pods:?} {reported:?}");
    node.assert_clean();
}

fn the_rate_of_cpu_use_is_held_down_by_a_quota() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let busy = pod.create_with("busy", BUSYBOX, ["sh", "-c", "while :; do :; done"], |config| {
        config.linux.get_or_insert_default().resources = Some(v1::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 20_000,
            ..Default::default()
        });
    });
    busy.start();
    let rate = || stats_of(&node, &busy).cpu.expect("cpu").usage_nano_cores.map(|rate| rate.value);

    assert_eq!(rate(), None, "one reading makes no rate");
    wait_until("there are two readings", || rate().is_some_and(|rate| rate > 0));
    let now = rate().expect("a rate");
    assert!(now < 300_000_000, "a fifth of a core was allowed, {now} of a billion are told");
    let of_pod = || pod_stats_of(&node, &pod).cpu.expect("cpu").usage_nano_cores.is_some();
    wait_until("the pod has a rate too", of_pod);
    node.assert_clean();
}

fn what_was_written_is_counted_without_links_and_given_back() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let writer = pod.run_in("writer", ["sleep", "1000"]);
    let layer = || stats_of(&node, &writer).writable_layer.expect("a new layer is known at once");
    let image_fs = node.cri().image_fs_info(v1::ImageFsInfoRequest::default()).unwrap();
    let places: Vec<String> = image_fs
        .container_filesystems
        .into_iter()
        .map(|usage| usage.fs_id.expect("a file system").mountpoint)
        .collect();
    assert_eq!(vec![layer().fs_id.expect("a file system").mountpoint], places);
    let before = (value(layer().used_bytes), value(layer().inodes_used));
    assert!(before.0 < MIB && before.1 < 20, "{before:?}");

    // A link to the host's root, followed, would be seen by the count; five more names of one file, too.
    writer.shell(
        "dd if=/dev/zero of=/file bs=1M count=8 && ln -s / /everything && ln -s /proc /processes && \
         for n in 1 2 3 4 5; do ln /file /again-$n; done",
    );
    wait_until("the file is counted", || value(layer().used_bytes) >= 8 * MIB);
    let after = (value(layer().used_bytes), value(layer().inodes_used));
    assert!(after.0 < 10 * MIB, "{after:?}");
    // One file, two links, and a handful of folders that a start makes for mounts.
    assert!((before.1 + 3..before.1 + 20).contains(&after.1), "{before:?} {after:?}");

    writer.shell("rm /file /again-*");
    wait_until("it is counted no more", || value(layer().used_bytes) < MIB);
    node.assert_clean();
}

fn traffic_is_told_by_interface_and_not_for_the_hosts_network() {
    let node = Node::start();
    let (pod, other) = (node.run_pod("web"), node.run_pod("other"));
    let container = pod.run_in("main", ["sleep", "1000"]);
    other.run_in("main", ["sleep", "1000"]);
    let main = || pod_stats_of(&node, &pod).network.expect("traffic").default_interface.expect("eth0");
    let before = main();
    assert_eq!(before.name, "eth0");

    assert_eq!(container.exec(["ping", "-c", "5", "-i", "0.2", "-s", "1000", &other.ip()]).code, 0);
    let after = main();
    assert!(value(after.tx_bytes) >= value(before.tx_bytes) + 5000, "{before:?} {after:?}");
    assert!(value(after.rx_bytes) >= value(before.rx_bytes) + 5000, "{before:?} {after:?}");
    assert!(value(after.tx_bytes) < value(before.tx_bytes) + 100_000, "only this pod's: {after:?}");

    let host = node.run_pod_with("host", |config| {
        let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
        security.namespace_options.get_or_insert_default().network = v1::NamespaceMode::Node.into();
    });
    host.run_in("main", ["sleep", "1000"]);
    let stats = pod_stats_of(&node, &host);
    assert!(stats.network.is_none() && stats.cpu.is_some(), "{stats:?}");
    node.assert_clean();
}

fn traffic_of_a_pod_is_told_also_when_no_container_of_it_lives() {
    let node = Node::start();
    let (pod, other) = (node.run_pod("web"), node.run_pod("other"));
    let interface = || pod_stats_of(&node, &pod).network.expect("traffic").default_interface.expect("eth0");
    assert_eq!(interface().name, "eth0", "of a pod that is still empty");

    let container = pod.run_in("main", ["sleep", "1000"]);
    assert_eq!(container.exec(["ping", "-c", "5", "-i", "0.2", "-s", "1000", &other.ip()]).code, 0);
    container.kill();
    assert!(value(interface().tx_bytes) >= 5000, "{:?}", interface());
    node.restart_daemon();
    assert!(value(interface().tx_bytes) >= 5000, "{:?}", interface());
    container.remove();
    assert!(value(interface().tx_bytes) >= 5000, "{:?}", interface());
    node.assert_clean();
}

fn lists_hold_what_passes_the_filter() {
    let node = Node::start();
    let (web, db) = (node.run_pod("web"), node.run_pod("db"));
    let (one, two) = (web.run_in("one", ["sleep", "1000"]), web.run_in("two", ["sleep", "1000"]));
    let three = db.run_in("three", ["sleep", "1000"]);
    let created = db.create("created", BUSYBOX, ["sleep", "1000"]);

    let ids = |filter: Option<v1::ContainerStatsFilter>| listed(&node, filter).into_keys().collect();
    let all = BTreeSet::from([&one, &two, &three, &created].map(|container| container.id.clone()));
    let check = |filter, expected: &[&Container<'_>]| {
        let expected: BTreeSet<String> = expected.iter().map(|container| container.id.clone()).collect();
        let found: BTreeSet<String> = ids(Some(filter));
        assert_eq!(found, expected);
    };
    assert_eq!(ids(None), all);
    let empty = v1::ContainerStatsFilter::default();
    check(v1::ContainerStatsFilter { id: one.id.clone(), ..empty.clone() }, &[&one]);
    check(v1::ContainerStatsFilter { id: one.id[..20].into(), ..empty.clone() }, &[&one]);
    check(v1::ContainerStatsFilter { id: "no-such".into(), ..empty.clone() }, &[]);
    check(v1::ContainerStatsFilter { pod_sandbox_id: web.id.clone(), ..empty.clone() }, &[&one, &two]);
    let labels: std::collections::HashMap<String, String> =
        [("io.kubernetes.container.name".into(), "two".into())].into();
    check(v1::ContainerStatsFilter { label_selector: labels.clone(), ..empty.clone() }, &[&two]);
    let both = v1::ContainerStatsFilter { label_selector: labels, pod_sandbox_id: db.id.clone(), ..empty };
    check(both, &[]);

    assert_eq!(listed_pods(&node, None), BTreeSet::from([web.id.clone(), db.id.clone()]));
    let by_label = v1::PodSandboxStatsFilter {
        label_selector: [("app".into(), "db".into())].into(),
        ..Default::default()
    };
    assert_eq!(listed_pods(&node, Some(by_label)), BTreeSet::from([db.id.clone()]));
    let by_id = v1::PodSandboxStatsFilter { id: web.id.clone(), ..Default::default() };
    assert_eq!(listed_pods(&node, Some(by_id)), BTreeSet::from([web.id.clone()]));

    let unknown = v1::ContainerStatsRequest { container_id: "no-such".into() };
    assert_eq!(node.cri().container_stats(unknown).unwrap_err().code(), Code::NotFound);
    let unknown = v1::PodSandboxStatsRequest { pod_sandbox_id: "no-such".into() };
    assert_eq!(node.cri().pod_sandbox_stats(unknown).unwrap_err().code(), Code::NotFound);
    node.assert_clean();
}

fn what_has_ended_is_listed_without_figures() {
    let node = Node::start();
    let pod = node.run_pod("batch");
    let done = pod.run_in("done", ["sh", "-c", "dd if=/dev/zero of=/file bs=1M count=4"]);
    assert_eq!(done.wait(), 0);

    let stats = listed(&node, None).remove(&done.id).expect("it is listed");
    assert!(stats.cpu.is_none() && stats.memory.is_none() && stats.swap.is_none(), "{stats:?}");
    assert_eq!(stats.attributes.expect("attributes").metadata.expect("metadata").name, "done");
    let layer = || stats_of(&node, &done).writable_layer.expect("its layer is still there");
    wait_until("what it wrote is counted", || value(layer().used_bytes) >= 4 * MIB);

    pod.stop();
    assert_eq!(listed_pods(&node, None), BTreeSet::new());
    let stats = pod_stats_of(&node, &pod);
    assert!(stats.cpu.is_none() && stats.network.is_none() && stats.containers.len() == 1, "{stats:?}");
    node.assert_clean();
    assert_eq!(listed(&node, None), BTreeMap::new());
}

fn containers_that_come_and_go_fail_no_list() {
    const CHURN: Duration = Duration::from_secs(6);
    let node = Node::start();
    let pod = node.run_pod("stable");
    let stable = pod.run_in("main", ["sleep", "1000"]);
    let over = AtomicBool::new(false);
    let lists = thread::scope(|scope| {
        let lister = scope.spawn(|| {
            let mut lists = 0_u32;
            while !over.load(Ordering::Relaxed) {
                assert!(listed(&node, None)[&stable.id].cpu.is_some());
                assert!(listed_pods(&node, None).contains(&pod.id));
                let metrics = node.cri().list_pod_sandbox_metrics(v1::ListPodSandboxMetricsRequest {});
                let metrics = metrics.unwrap().pod_metrics;
                assert!(metrics.iter().any(|metrics| metrics.pod_sandbox_id == pod.id));
                lists += 1;
            }
            lists
        });
        let churner = |name: &'static str| {
            let node = &node;
            move || {
                let began = Instant::now();
                while began.elapsed() < CHURN {
                    let pod = node.run_pod(name);
                    let brief = pod.run_in("brief", ["true"]);
                    let killed = pod.run_in("killed", ["sleep", "1000"]);
                    killed.kill();
                    brief.remove();
                    pod.remove();
                }
            }
        };
        let churners = ["one", "two"].map(|name| scope.spawn(churner(name)));
        let churned = churners.map(|churner| churner.join());
        over.store(true, Ordering::Relaxed);
        churned.into_iter().for_each(|churned| churned.unwrap());
        lister.join().unwrap()
    });
    println!("{lists} rounds of lists while containers came and went");
    assert!(lists > 3, "{lists}");
    node.assert_clean();
}

fn counters_go_on_after_a_restart_of_the_daemon() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let busy = pod.run_in("busy", ["sh", "-c", "while :; do :; done"]);
    wait_until("it has computed", || cpu_ns(&stats_of(&node, &busy)) > 100_000_000);
    let before = stats_of(&node, &busy);

    node.restart_daemon();

    let after = stats_of(&node, &busy);
    assert!(cpu_ns(&after) >= cpu_ns(&before), "{before:?} {after:?}");
    assert_eq!(after.cpu.expect("cpu").usage_nano_cores, None, "what is not known is not made up");
    wait_until("the rate is known again", || {
        stats_of(&node, &busy).cpu.expect("cpu").usage_nano_cores.is_some()
    });
    wait_until("the layer is known again", || stats_of(&node, &busy).writable_layer.is_some());
    assert!(pod_stats_of(&node, &pod).network.is_some());
    node.assert_clean();
}

/// What the specification's tests let be without a value: no disk may be there to be counted.
const OF_DEVICES: [&str; 5] = [
    "container_blkio_device_usage_total",
    "container_fs_reads_bytes_total",
    "container_fs_reads_total",
    "container_fs_writes_bytes_total",
    "container_fs_writes_total",
];

fn every_metric_has_a_value_with_the_labels_it_is_described_by() {
    let node = Node::start();
    let describe = || {
        let described = node.cri().list_metric_descriptors(v1::ListMetricDescriptorsRequest {}).unwrap();
        described.descriptors
    };
    let descriptors = describe();
    assert_eq!(descriptors.len(), 56);
    assert!(descriptors.iter().all(|one| !one.help.is_empty() && !one.label_keys.is_empty()));
    let pod = node.run_pod("web");
    let container = pod.create_with("main", BUSYBOX, ["sleep", "1000"], |config| {
        config.linux.get_or_insert_default().resources = Some(v1::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 20_000,
            cpu_shares: 1024,
            memory_limit_in_bytes: 64 << 20,
            memory_swap_limit_in_bytes: 64 << 20,
            ..Default::default()
        });
    });
    container.start();
    container.shell("for i in 1 2 3; do echo hi >/file-$i; done; sync");

    let metrics =
        node.cri().list_pod_sandbox_metrics(v1::ListPodSandboxMetricsRequest {}).unwrap().pod_metrics;
    assert_eq!(describe(), descriptors, "the kubelet asks only once");
    let [metrics] = &metrics[..] else { panic!("one pod: {metrics:?}") };
    assert_eq!(metrics.pod_sandbox_id, pod.id);
    assert_eq!(metrics.container_metrics[0].container_id, container.id);
    let all = metrics.metrics.iter().chain(&metrics.container_metrics[0].metrics);
    let mut reported: BTreeMap<&str, Vec<&v1::Metric>> = BTreeMap::new();
    all.for_each(|metric| reported.entry(&metric.name).or_default().push(metric));
    for descriptor in &descriptors {
        let name = descriptor.name.as_str();
        let huge = name.starts_with("container_hugetlb") && !Path::new("/sys/kernel/mm/hugepages").exists();
        if OF_DEVICES.contains(&name) || huge {
            continue;
        }
        let values = reported.get(name).unwrap_or_else(|| panic!("{name} has no value"));
        for metric in values {
            assert_eq!(metric.label_values.len(), descriptor.label_keys.len(), "{name}");
            assert!(metric.value.is_some() && metric.timestamp > 0, "{metric:?}");
            let counter = name.ends_with("_total") && name != "container_fs_inodes_total";
            let counter = counter || name == "container_memory_failcnt";
            assert_eq!(metric.metric_type() == v1::MetricType::Counter, counter, "{name}");
        }
        let distinct: BTreeSet<&Vec<String>> = values.iter().map(|metric| &metric.label_values).collect();
        assert_eq!(distinct.len(), values.len(), "{name} is told twice");
    }
    let known: BTreeSet<&str> = descriptors.iter().map(|descriptor| descriptor.name.as_str()).collect();
    assert!(reported.keys().all(|name| known.contains(name)), "what is not described is dropped");

    let one = |name: &str| value(reported[name][0].value);
    assert_eq!(one("container_spec_memory_limit_bytes"), 64 * MIB);
    assert_eq!(one("container_spec_cpu_quota"), 20_000);
    assert_eq!(one("container_processes"), 1);
    assert!(one("container_file_descriptors") >= 1 && one("container_ulimits_soft") >= 1024);
    assert!(one("container_memory_working_set_bytes") > 0 && one("container_fs_limit_bytes") > 0);
    assert!(one("container_memory_max_usage_bytes") >= one("container_memory_working_set_bytes"));
    assert_eq!(one("container_start_time_seconds"), container.status().started_at as u64 / 1_000_000_000);
    let keys =
        &descriptors.iter().find(|one| one.name == "container_processes").expect("described").label_keys;
    let labels: BTreeMap<&String, &String> =
        keys.iter().zip(&reported["container_processes"][0].label_values).collect();
    let label = |key: &str| labels[&key.to_owned()].as_str();
    assert_eq!((label("namespace"), label("pod"), label("container")), ("e2e", "web", "main"));
    assert!(label("id").ends_with(&format!("{}/{}", pod.id, container.id)), "{}", label("id"));

    pod.stop();
    let metrics = node.cri().list_pod_sandbox_metrics(v1::ListPodSandboxMetricsRequest {}).unwrap();
    assert_eq!(metrics.pod_metrics, []);
    node.assert_clean();
}

/// Each series of a page, without its value: `name{labels}`.
fn series(page: &str) -> BTreeSet<String> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.rsplit_once(' ').expect("a value").0.to_owned()).collect()
}

/// The same of what the kubelet is given.
fn series_for_the_kubelet(node: &Node) -> BTreeSet<String> {
    let described =
        node.cri().list_metric_descriptors(v1::ListMetricDescriptorsRequest {}).unwrap().descriptors;
    let keys: BTreeMap<String, Vec<String>> =
        described.into_iter().map(|one| (one.name, one.label_keys)).collect();
    let pods = node.cri().list_pod_sandbox_metrics(v1::ListPodSandboxMetricsRequest {}).unwrap().pod_metrics;
    let all = pods.into_iter().flat_map(|pod| {
        pod.metrics.into_iter().chain(pod.container_metrics.into_iter().flat_map(|one| one.metrics))
    });
    let written = |metric: v1::Metric| {
        let labels = keys[&metric.name].iter().zip(&metric.label_values);
        let labels: Vec<_> = labels.map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        format!("{}{{{}}}", metric.name, labels.join(","))
    };
    all.map(written).collect()
}

fn prometheus_can_scrape_what_the_kubelet_is_given() {
    let place = "127.0.0.1:9880/metrics";
    let config = "[metrics]\nlisten = \"127.0.0.1:9880\"\n".into();
    let node = Node::start_with(&Setup { config, ..Setup::default() });
    let (web, batch) = (node.run_pod("web"), node.run_pod("batch"));
    web.run_in("main", ["sleep", "1000"]);
    batch.run_in("side", ["sh", "-c", "while :; do :; done"]);

    let answer = node.http_get(place);
    let (head, page) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    assert!(head.starts_with("HTTP/1.0 200 OK"), "{head}");
    assert_eq!(series(page), series_for_the_kubelet(&node));
    let cpu = |page: &str| -> f64 {
        let line = page.lines().find(|line| {
            line.starts_with("container_cpu_usage_seconds_total") && line.contains("container=\"side\"")
        });
        line.unwrap().rsplit_once(' ').unwrap().1.parse().unwrap()
    };
    let first = cpu(page);
    wait_until("a fraction of a second is counted", || {
        let now = cpu(&node.http_get(place));
        now > first && now.fract() > 0.0
    });

    let mut promtool = std::process::Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(std::process::Stdio::piped());
    let mut check =
        promtool.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    check.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let checked = check.wait_with_output().unwrap();
    let said = [checked.stdout, checked.stderr].concat();
    assert!(checked.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
    node.assert_clean();
}
