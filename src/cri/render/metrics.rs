//! The metrics that replace the kubelet's own reading of cgroups (`/metrics/cadvisor`): names, labels and
//! meaning as dashboards know them.
//!
//! The set never changes while the daemon runs: the kubelet reads the descriptors once. One table holds both a
//! metric's description and where its values come from, so that the two cannot differ. A container that runs
//! has a value of every metric but those of devices it has not used, of a quota it does not have, and of huge
//! pages on a machine without them: a counter that the kernel lacks is zero (`docs/metrics.md`).

use crate::{
    cgroup::{DeviceIo, Memory, Pressure, Stall},
    cri::wire,
    meter::{ContainerMetrics, PodMetrics},
    model::UnixNanos,
    network::InterfaceTraffic,
};
use wire::MetricType::{Counter, Gauge};

/// Labels of every metric, in order.
const BASE: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

/// The container that a pod's own metrics are said to be of.
const POD: &str = "POD";

/// Bytes of one label's value. Names have 253 at most; what is longer is cut, for it is repeated in some eighty
/// values of a container, and an answer has 16 MiB at most.
const LABEL_BYTES_MAX: usize = 1024;

/// Nanoseconds of a second: values are whole numbers, and these metrics count seconds.
const SECOND_NS: u64 = 1_000_000_000;

/// Period of CPU quotas unless one is asked for, µs (the kernel's default).
const CPU_PERIOD_US: u64 = 100_000;

/// Weight of a cgroup for which nothing is asked for (the kernel's default).
const CPU_SHARES: u64 = 1024;

/// One metric.
struct Row {
    name: &'static str,
    kind: wire::MetricType,
    /// Beside [`BASE`].
    labels: &'static [&'static str],
    values: Values,
    help: &'static str,
}

/// Takes one value: a text for each label, in order, and the number.
type Tell<'a> = &'a mut dyn FnMut(&[&str], u64);

/// Where the values of a metric come from.
enum Values {
    /// One value.
    One(fn(&ContainerMetrics) -> u64),
    /// Any number of values, each with one text for every label.
    Many(fn(&ContainerMetrics, Tell<'_>)),
    /// One for each interface of the pod.
    Interface(fn(&InterfaceTraffic) -> u64),
}
use Values::{Interface, Many, One};

const fn row(
    name: &'static str,
    kind: wire::MetricType,
    labels: &'static [&'static str],
    values: Values,
    help: &'static str,
) -> Row {
    Row { name, kind, labels, values, help }
}

const DEVICE: &[&str] = &["device"];
const PAGE_SIZE: &[&str] = &["pagesize"];
const INTERFACE: &[&str] = &["interface"];

/// In order of name. All 56 are on, always.
#[rustfmt::skip]
const ROWS: [Row; 56] = [
    row("container_blkio_device_usage_total", Counter, &["device", "major", "minor", "operation"], Many(blkio), "Bytes read from and written to a block device."),
    row("container_cpu_cfs_periods_total", Counter, &[], One(|c| c.detail.cpu_periods), "Periods of the CPU quota in which it could run."),
    row("container_cpu_cfs_throttled_periods_total", Counter, &[], One(|c| c.detail.cpu_throttled_periods), "Periods in which its CPU quota ran out."),
    row("container_cpu_cfs_throttled_seconds_total", Counter, &[], One(|c| seconds(c.detail.cpu_throttled_ns)), "Seconds for which it was held back by its CPU quota."),
    row("container_cpu_system_seconds_total", Counter, &[], One(|c| seconds(c.detail.cpu_system_ns)), "Seconds of CPU time used in the kernel."),
    row("container_cpu_usage_seconds_total", Counter, &["cpu"], Many(cpu_usage), "Seconds of CPU time used on all CPUs."),
    row("container_cpu_user_seconds_total", Counter, &[], One(|c| seconds(c.detail.cpu_user_ns)), "Seconds of CPU time used in programs."),
    row("container_file_descriptors", Gauge, &[], One(|c| c.processes.descriptors), "Open descriptors of all its processes."),
    row("container_fs_inodes_free", Gauge, DEVICE, Many(|c, tell| tell(&[&c.disk.device], c.disk.capacity.inodes_free)), "Free inodes of the file system that holds its writable layer."),
    row("container_fs_inodes_total", Gauge, DEVICE, Many(|c, tell| tell(&[&c.disk.device], c.disk.capacity.inodes)), "Inodes of the file system that holds its writable layer."),
    row("container_fs_limit_bytes", Gauge, DEVICE, Many(|c, tell| tell(&[&c.disk.device], c.disk.capacity.bytes)), "Size of the file system that holds its writable layer."),
    row("container_fs_reads_bytes_total", Counter, DEVICE, Many(|c, tell| each_device(c, tell, |io| io.read_bytes)), "Bytes read from a block device."),
    row("container_fs_reads_total", Counter, DEVICE, Many(|c, tell| each_device(c, tell, |io| io.reads)), "Reads from a block device."),
    row("container_fs_usage_bytes", Gauge, DEVICE, Many(|c, tell| tell(&[&c.disk.device], c.writable.as_ref().map_or(0, |layer| layer.used_bytes))), "Bytes of its writable layer."),
    row("container_fs_writes_bytes_total", Counter, DEVICE, Many(|c, tell| each_device(c, tell, |io| io.written_bytes)), "Bytes written to a block device."),
    row("container_fs_writes_total", Counter, DEVICE, Many(|c, tell| each_device(c, tell, |io| io.writes)), "Writes to a block device."),
    row("container_hugetlb_max_usage_bytes", Gauge, PAGE_SIZE, Many(|c, tell| c.detail.hugepages.iter().for_each(|pages| tell(&[&pages.page_size], pages.peak))), "The most bytes of huge pages it ever had."),
    row("container_hugetlb_usage_bytes", Gauge, PAGE_SIZE, Many(|c, tell| c.detail.hugepages.iter().for_each(|pages| tell(&[&pages.page_size], pages.usage))), "Bytes of huge pages it has."),
    row("container_last_seen", Gauge, &[], One(|c| unix_seconds(c.at)), "When it was last looked at, in seconds since 1970."),
    row("container_memory_cache", Gauge, &[], One(|c| memory(c).cache), "Bytes of file pages charged to it."),
    row("container_memory_failcnt", Counter, &[], One(|c| c.detail.memory_failures), "Times that it ran into its memory limit."),
    row("container_memory_failures_total", Counter, &["failure_type", "scope"], Many(page_faults), "Page faults, by kind."),
    row("container_memory_kernel_usage", Gauge, &[], One(|c| memory(c).kernel), "Bytes that the kernel holds for it."),
    row("container_memory_mapped_file", Gauge, &[], One(|c| memory(c).mapped_file), "Bytes of mapped file pages."),
    row("container_memory_max_usage_bytes", Gauge, &[], One(|c| c.detail.memory_peak), "The most bytes of memory it ever had."),
    row("container_memory_rss", Gauge, &[], One(|c| memory(c).rss), "Bytes of anonymous memory."),
    row("container_memory_swap", Gauge, &[], One(|c| c.detail.usage.swap.map_or(0, |swap| swap.usage)), "Bytes that are swapped out."),
    row("container_memory_usage_bytes", Gauge, &[], One(|c| memory(c).usage), "Bytes of memory charged to it, caches included."),
    row("container_memory_working_set_bytes", Gauge, &[], One(|c| memory(c).working_set), "Bytes of memory without file pages that were not used lately."),
    row("container_network_receive_bytes_total", Counter, INTERFACE, Interface(|one| one.received.bytes), "Bytes received."),
    row("container_network_receive_errors_total", Counter, INTERFACE, Interface(|one| one.received.errors), "Errors while receiving."),
    row("container_network_receive_packets_dropped_total", Counter, INTERFACE, Interface(|one| one.received.dropped), "Packets dropped while receiving."),
    row("container_network_receive_packets_total", Counter, INTERFACE, Interface(|one| one.received.packets), "Packets received."),
    row("container_network_transmit_bytes_total", Counter, INTERFACE, Interface(|one| one.sent.bytes), "Bytes sent."),
    row("container_network_transmit_errors_total", Counter, INTERFACE, Interface(|one| one.sent.errors), "Errors while sending."),
    row("container_network_transmit_packets_dropped_total", Counter, INTERFACE, Interface(|one| one.sent.dropped), "Packets dropped while sending."),
    row("container_network_transmit_packets_total", Counter, INTERFACE, Interface(|one| one.sent.packets), "Packets sent."),
    row("container_oom_events_total", Counter, &[], One(|c| c.detail.oom_kills), "Processes killed for want of memory."),
    row("container_pressure_cpu_stalled_seconds_total", Counter, &[], One(|c| full(c.detail.usage.cpu_pressure)), "Seconds in which all its tasks waited for a CPU."),
    row("container_pressure_cpu_waiting_seconds_total", Counter, &[], One(|c| some(c.detail.usage.cpu_pressure)), "Seconds in which any of its tasks waited for a CPU."),
    row("container_pressure_io_stalled_seconds_total", Counter, &[], One(|c| full(c.detail.usage.io_pressure)), "Seconds in which all its tasks waited for a disk."),
    row("container_pressure_io_waiting_seconds_total", Counter, &[], One(|c| some(c.detail.usage.io_pressure)), "Seconds in which any of its tasks waited for a disk."),
    row("container_pressure_memory_stalled_seconds_total", Counter, &[], One(|c| full(c.detail.usage.memory_pressure)), "Seconds in which all its tasks waited for memory."),
    row("container_pressure_memory_waiting_seconds_total", Counter, &[], One(|c| some(c.detail.usage.memory_pressure)), "Seconds in which any of its tasks waited for memory."),
    row("container_processes", Gauge, &[], One(|c| c.processes.processes), "Its processes."),
    row("container_sockets", Gauge, &[], One(|c| c.processes.sockets), "Open sockets of all its processes."),
    row("container_spec_cpu_period", Gauge, &[], One(|c| or_default(c.container.resources.cpu_period_us, CPU_PERIOD_US)), "Period of its CPU quota, in microseconds."),
    row("container_spec_cpu_quota", Gauge, &[], Many(cpu_quota), "Microseconds of CPU time it may use in each period; absent without a quota."),
    row("container_spec_cpu_shares", Gauge, &[], One(|c| or_default(c.container.resources.cpu_shares, CPU_SHARES)), "Its share of the CPU relative to others."),
    row("container_spec_memory_limit_bytes", Gauge, &[], One(|c| limit(c.container.resources.memory_bytes)), "Its memory limit; 0 is none."),
    row("container_spec_memory_reservation_limit_bytes", Gauge, &[], One(reservation), "Memory that is kept for it (memory.low); 0 is none."),
    row("container_spec_memory_swap_limit_bytes", Gauge, &[], One(|c| limit(c.container.resources.memory_and_swap_bytes)), "Its limit of memory and swap together; 0 is none."),
    row("container_start_time_seconds", Gauge, &[], One(|c| unix_seconds(c.started_at)), "When it was started, in seconds since 1970."),
    row("container_threads", Gauge, &[], One(|c| c.detail.usage.tasks.unwrap_or(0)), "Its threads, those of all processes."),
    row("container_threads_max", Gauge, &[], One(|c| c.detail.tasks_max.unwrap_or(0)), "Threads that it may have; 0 is no limit."),
    row("container_ulimits_soft", Gauge, &["ulimit"], Many(|c, tell| tell(&["max_open_files"], c.processes.open_files_soft)), "Soft limits of its first process."),
];

/// For ListMetricDescriptors.
pub(crate) fn metric_descriptors() -> Vec<wire::MetricDescriptor> {
    let descriptor = |row: &Row| wire::MetricDescriptor {
        name: row.name.into(),
        help: row.help.into(),
        label_keys: BASE.iter().chain(row.labels).map(|&key| key.into()).collect(),
    };
    ROWS.iter().map(descriptor).collect()
}

/// For ListPodSandboxMetrics.
pub(crate) fn pod_metrics(pod: &PodMetrics) -> wire::PodSandboxMetrics {
    wire::PodSandboxMetrics {
        pod_sandbox_id: pod.pod.id.to_string(),
        metrics: network(pod),
        container_metrics: pod.containers.iter().map(|container| container_metrics(pod, container)).collect(),
    }
}

fn network(pod: &PodMetrics) -> Vec<wire::Metric> {
    let Some(traffic) = &pod.traffic else { return Vec::new() };
    let metadata = &pod.pod.config.metadata;
    let cgroup = pod.pod.cgroup.as_ref().map_or("", |handle| handle.path());
    let base = base([POD, cgroup, "", pod.pod.id.as_str(), &metadata.namespace, &metadata.name]);
    let mut metrics = Vec::new();
    for row in &ROWS {
        let Interface(value) = row.values else { continue };
        for one in &traffic.interfaces {
            metrics.push(metric(row, traffic.at, &base, &[&one.name], value(one)));
        }
    }
    metrics
}

fn container_metrics(pod: &PodMetrics, container: &ContainerMetrics) -> wire::ContainerMetrics {
    let (view, metadata) = (&container.container, &pod.pod.config.metadata);
    let base = base([
        &view.config.metadata.name,
        &container.cgroup,
        &view.image_name,
        view.id.as_str(),
        &metadata.namespace,
        &metadata.name,
    ]);
    let mut metrics = Vec::with_capacity(ROWS.len());
    for row in &ROWS {
        let mut tell = |labels: &[&str], value| metrics.push(metric(row, container.at, &base, labels, value));
        match row.values {
            One(value) => tell(&[], value(container)),
            Many(values) => values(container, &mut tell),
            Interface(_) => {}
        }
    }
    wire::ContainerMetrics { container_id: view.id.to_string(), metrics }
}

fn metric(row: &Row, at: UnixNanos, base: &[String], labels: &[&str], value: u64) -> wire::Metric {
    debug_assert_eq!(labels.len(), row.labels.len(), "{}", row.name);
    wire::Metric {
        name: row.name.into(),
        timestamp: at.0,
        metric_type: row.kind.into(),
        label_values: base.iter().cloned().chain(labels.iter().map(|text| cut(text))).collect(),
        value: Some(wire::UInt64Value { value }),
    }
}

/// Values of [`BASE`], in its order.
fn base(values: [&str; BASE.len()]) -> [String; BASE.len()] {
    values.map(cut)
}

fn cut(text: &str) -> String {
    text[..text.floor_char_boundary(LABEL_BYTES_MAX)].to_owned()
}

// ---- values ----

fn cpu_usage(container: &ContainerMetrics, tell: Tell<'_>) {
    tell(&["total"], seconds(container.detail.usage.cpu_ns.unwrap_or(0)));
}

fn cpu_quota(container: &ContainerMetrics, tell: Tell<'_>) {
    if let Ok(quota @ 1..) = u64::try_from(container.container.resources.cpu_quota_us) {
        tell(&[], quota);
    }
}

/// The kernel counts both kinds with all below; `container` and `hierarchy` are the same here.
fn page_faults(container: &ContainerMetrics, tell: Tell<'_>) {
    let memory = memory(container);
    for scope in ["container", "hierarchy"] {
        tell(&["pgfault", scope], memory.page_faults);
        tell(&["pgmajfault", scope], memory.major_page_faults);
    }
}

fn blkio(container: &ContainerMetrics, tell: Tell<'_>) {
    for (io, device) in container.detail.io.iter().zip(&container.devices) {
        let (major, minor) = (io.major.to_string(), io.minor.to_string());
        tell(&[device, &major, &minor, "Read"], io.read_bytes);
        tell(&[device, &major, &minor, "Write"], io.written_bytes);
    }
}

fn each_device(container: &ContainerMetrics, tell: Tell<'_>, value: fn(&DeviceIo) -> u64) {
    for (io, device) in container.detail.io.iter().zip(&container.devices) {
        tell(&[device], value(io));
    }
}

fn reservation(container: &ContainerMetrics) -> u64 {
    let low = container.container.resources.unified.get("memory.low");
    low.and_then(|low| low.trim().parse().ok()).unwrap_or(0)
}

fn memory(container: &ContainerMetrics) -> Memory {
    container.detail.usage.memory.unwrap_or_default()
}

fn some(pressure: Option<Pressure>) -> u64 {
    pressure.map_or(0, |Pressure { some: Stall { total_ns, .. }, .. }| seconds(total_ns))
}

fn full(pressure: Option<Pressure>) -> u64 {
    pressure.map_or(0, |Pressure { full: Stall { total_ns, .. }, .. }| seconds(total_ns))
}

fn seconds(nanos: u64) -> u64 {
    nanos / SECOND_NS
}

fn unix_seconds(at: UnixNanos) -> u64 {
    u64::try_from(at.0).unwrap_or(0) / SECOND_NS
}

/// Zero is "not asked for".
fn or_default(asked: u64, default: u64) -> u64 {
    if asked == 0 { default } else { asked }
}

/// Negative is "none".
fn limit(asked: i64) -> u64 {
    u64::try_from(asked).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        sync::Arc,
    };

    use prost::Message as _;

    use super::*;
    use crate::{
        cgroup::{Detail, Hugepages, Usage},
        cri::render::tests,
        image::FsUsage,
        meter::TrafficStats,
        model::Resources,
        network::Counters,
    };

    fn container() -> ContainerMetrics {
        let mut view = tests::container();
        view.resources = Resources {
            cpu_period_us: 100_000,
            cpu_quota_us: 20_000,
            cpu_shares: 1024,
            memory_bytes: 64 << 20,
            memory_and_swap_bytes: 64 << 20,
            ..Resources::default()
        };
        let stall = |seconds| Stall { total_ns: seconds * SECOND_NS, ..Stall::default() };
        let usage = Usage {
            cpu_ns: Some(7 * SECOND_NS + 1),
            memory: Some(Memory { usage: 10, working_set: 9, page_faults: 8, ..Memory::default() }),
            cpu_pressure: Some(Pressure { some: stall(5), full: stall(4) }),
            tasks: Some(3),
            ..Usage::default()
        };
        let io = DeviceIo { major: 8, read_bytes: 11, written_bytes: 12, ..DeviceIo::default() };
        let detail = Detail {
            usage,
            io: vec![io],
            hugepages: vec![Hugepages { page_size: "2MB".into(), usage: 0, peak: 0 }],
            ..Detail::default()
        };
        ContainerMetrics {
            container: Arc::new(view),
            at: UnixNanos(2_500_000_000),
            started_at: UnixNanos(1_000_000_000),
            cgroup: format!("/kubepods/burstable/pod{0}/{0}/{0}", "01".repeat(32)),
            detail,
            devices: vec!["/dev/sda".into()],
            processes: Default::default(),
            writable: Some(FsUsage {
                at: UnixNanos(1),
                mountpoint: "/".into(),
                used_bytes: 5,
                inodes_used: 1,
            }),
            disk: Default::default(),
        }
    }

    fn pod() -> PodMetrics {
        let sent = Counters { bytes: 1, packets: 2, errors: 3, dropped: 4 };
        let eth0 = InterfaceTraffic { name: "eth0".into(), received: sent, sent };
        PodMetrics {
            pod: Arc::new(tests::pod()),
            traffic: Some(TrafficStats { at: UnixNanos(3), interfaces: vec![eth0] }),
            containers: vec![container()],
        }
    }

    /// Name → label values without the common ones, and value, of everything that is told.
    fn told() -> Vec<(String, Vec<String>, u64)> {
        let wire = pod_metrics(&pod());
        let all = wire.metrics.into_iter().chain(wire.container_metrics.into_iter().flat_map(|c| c.metrics));
        all.map(|metric| {
            (metric.name, metric.label_values[BASE.len()..].to_vec(), metric.value.unwrap().value)
        })
        .collect()
    }

    #[track_caller]
    fn check(name: &str, labels: &[&str], value: u64) {
        assert!(
            told().iter().any(|told| (told.0.as_str(), told.2) == (name, value) && told.1 == labels),
            "{name} {labels:?} {value}: {:?}",
            told().into_iter().filter(|told| told.0 == name).collect::<Vec<_>>()
        );
    }

    #[test]
    fn every_metric_is_described_once_in_order_with_help_and_labels() {
        let names: Vec<String> = metric_descriptors().into_iter().map(|one| one.name).collect();
        let sorted: BTreeSet<String> = names.iter().cloned().collect();
        assert_eq!(names, sorted.into_iter().collect::<Vec<_>>());
        assert!(
            metric_descriptors()
                .iter()
                .all(|one| one.help.ends_with('.') && one.label_keys.len() >= BASE.len())
        );
    }

    #[test]
    fn every_metric_has_a_value_and_as_many_labels_as_its_descriptor() {
        let keys: BTreeMap<String, usize> =
            metric_descriptors().into_iter().map(|one| (one.name, one.label_keys.len())).collect();
        let told: BTreeMap<String, usize> =
            told().into_iter().map(|(name, labels, _)| (name, labels.len() + BASE.len())).collect();
        assert_eq!(told, keys);
    }

    #[test]
    fn values_are_where_dashboards_look_for_them() {
        check("container_cpu_usage_seconds_total", &["total"], 7);
        check("container_memory_working_set_bytes", &[], 9);
        check("container_memory_failures_total", &["pgfault", "hierarchy"], 8);
        check("container_blkio_device_usage_total", &["/dev/sda", "8", "0", "Write"], 12);
        check("container_pressure_cpu_waiting_seconds_total", &[], 5);
        check("container_pressure_cpu_stalled_seconds_total", &[], 4);
        check("container_pressure_io_waiting_seconds_total", &[], 0);
        check("container_network_receive_packets_dropped_total", &["eth0"], 4);
        check("container_network_transmit_errors_total", &["eth0"], 3);
        check("container_spec_cpu_quota", &[], 20_000);
        check("container_spec_memory_limit_bytes", &[], 64 << 20);
        check("container_start_time_seconds", &[], 1);
        check("container_last_seen", &[], 2);
        check("container_hugetlb_usage_bytes", &["2MB"], 0);
        check("container_fs_usage_bytes", &[""], 5);
    }

    #[test]
    fn who_it_is_of_is_told_as_the_kubelet_looks_for_it() {
        let wire = pod_metrics(&pod());
        let labels = |metric: &wire::Metric| -> BTreeMap<&str, String> {
            BASE.into_iter().zip(metric.label_values.clone()).collect()
        };
        let container = labels(&wire.container_metrics[0].metrics[0]);
        assert_eq!((container["namespace"].as_str(), container["pod"].as_str()), ("default", "web"));
        assert_eq!((container["container"].as_str(), container["name"].clone()), ("main", "02".repeat(32)));
        assert_eq!(container["image"], "docker.io/library/busybox:latest");
        let network = labels(&wire.metrics[0]);
        assert_eq!((network["namespace"].as_str(), network["container"].as_str()), ("default", "POD"));
    }

    #[test]
    fn no_quota_is_no_value_and_no_limit_is_zero() {
        let mut pod = pod();
        let mut view = tests::container();
        view.resources = Resources { cpu_quota_us: -1, memory_bytes: -1, ..Resources::default() };
        pod.containers[0].container = Arc::new(view);
        let metrics = pod_metrics(&pod).container_metrics.remove(0).metrics;
        let value = |name: &str| {
            metrics.iter().find(|metric| metric.name == name).map(|metric| metric.value.unwrap().value)
        };
        assert_eq!(value("container_spec_cpu_quota"), None);
        assert_eq!(value("container_spec_memory_limit_bytes"), Some(0));
        assert_eq!(value("container_spec_cpu_period"), Some(CPU_PERIOD_US));
        assert_eq!(value("container_spec_cpu_shares"), Some(CPU_SHARES));
    }

    #[test]
    fn a_long_label_is_cut_between_characters() {
        let long = "\u{2713}".repeat(1000);
        let cut = cut(&long);
        assert!(cut.len() <= LABEL_BYTES_MAX && long.starts_with(&cut) && cut.len() > LABEL_BYTES_MAX - 4);
    }

    /// The kubelet takes 16 MiB, and allows 110 pods by default.
    #[test]
    fn the_metrics_of_a_full_node_fit_into_one_message() {
        let size = pod_metrics(&pod()).encoded_len();
        eprintln!("{size} bytes for a pod of one container");
        assert!(size * 110 * 2 < 16 << 20, "{size}");
    }
}
