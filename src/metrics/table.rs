//! The 56 metrics: names, labels and meaning as dashboards know them from the kubelet's own reading of cgroups
//! (`/metrics/cadvisor`), and where each value comes from.
//!
//! The set never changes while the daemon runs: the kubelet reads the descriptors once. One table holds both a metric's
//! description and where its values come from, so that the two cannot differ. A container that runs has a value of
//! every metric but those of devices it has not used, of a quota it does not have, and of huge pages on a machine
//! without them: a counter that the kernel lacks is zero (`docs/metrics.md`).

use std::fmt;

use crate::{
    cgroup::{DeviceIo, Memory, Pressure, Stall},
    meter::{ContainerMetrics, PodMetrics},
    model::UnixNanos,
    network::InterfaceTraffic,
};
use Kind::{Counter, Gauge};
use Value::{Nanos, Whole};
use Values::{Interface, Many, One, Seconds};

/// Labels of every metric, in order.
pub const BASE: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

/// The values of [`BASE`], in its order.
pub type Base = [String; BASE.len()];

/// The container that a pod's own metrics are said to be of.
const POD: &str = "POD";

/// Bytes of one label's value. Names have 253 at most; what is longer is cut, for it is repeated in some eighty
/// values of a container, and an answer has 16 MiB at most.
const LABEL_BYTES_MAX: usize = 1024;

/// Nanoseconds of a second: these metrics count seconds.
const SECOND_NS: u64 = 1_000_000_000;

/// Period of CPU quotas unless one is asked for, µs (the kernel's default).
const CPU_PERIOD_US: u64 = 100_000;

/// Weight of a cgroup for which nothing is asked for (the kernel's default).
const CPU_SHARES: u64 = 1024;

/// One metric.
pub struct Row {
    pub name: &'static str,
    pub kind: Kind,
    /// Beside [`BASE`].
    labels: &'static [&'static str],
    values: Values,
    pub help: &'static str,
}

/// The course of a metric's values over time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Values only rise, until the container ends.
    Counter,
    Gauge,
}

/// One value of a metric.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Value {
    Whole(u64),
    /// Of a metric that counts seconds.
    Nanos(u64),
}

impl Value {
    /// Without the fraction of a second.
    pub fn whole(self) -> u64 {
        match self {
            Whole(value) => value,
            Nanos(nanos) => nanos / SECOND_NS,
        }
    }
}

/// With the fraction of a second.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Whole(value) => write!(f, "{value}"),
            Nanos(nanos) => write!(f, "{}.{:09}", nanos / SECOND_NS, nanos % SECOND_NS),
        }
    }
}

/// Takes one value: a text for each label, in order, and the number.
pub type Tell<'a> = &'a mut dyn FnMut(&[&str], Value);

/// The source of a metric's values.
enum Values {
    /// One value.
    One(fn(&ContainerMetrics) -> u64),
    /// One value, in nanoseconds.
    Seconds(fn(&ContainerMetrics) -> u64),
    /// Any number of values, each with one text for every label.
    Many(fn(&ContainerMetrics, Tell<'_>)),
    /// One for each interface of the pod.
    Interface(fn(&InterfaceTraffic) -> u64),
}

impl Row {
    /// The keys of all its labels, in the order of their values.
    pub fn label_keys(&self) -> impl Iterator<Item = &'static str> {
        BASE.iter().chain(self.labels).copied()
    }

    /// The keys of the labels that it has beside [`BASE`].
    pub fn more_keys(&self) -> &'static [&'static str] {
        self.labels
    }

    /// Its values of the pod itself.
    pub fn of_pod(&self, pod: &PodMetrics, tell: Tell<'_>) {
        let (Interface(value), Some(traffic)) = (&self.values, &pod.traffic) else { return };
        for one in &traffic.interfaces {
            self.tell_cut(&[&one.name], Whole(value(one)), tell);
        }
    }

    /// Its values of a container.
    pub fn of_container(&self, container: &ContainerMetrics, tell: Tell<'_>) {
        match self.values {
            One(value) => tell(&[], Whole(value(container))),
            Seconds(value) => tell(&[], Nanos(value(container))),
            Many(values) => values(container, &mut |labels, value| self.tell_cut(labels, value, tell)),
            Interface(_) => {}
        }
    }

    fn tell_cut(&self, labels: &[&str], value: Value, tell: Tell<'_>) {
        debug_assert_eq!(labels.len(), self.labels.len(), "{}", self.name);
        let cut: Vec<&str> = labels.iter().map(|label| cut(label)).collect();
        tell(&cut, value);
    }
}

/// Whose the values of [`Row::of_pod`] are.
pub fn base_of_pod(pod: &PodMetrics) -> Base {
    let metadata = &pod.pod.config.metadata;
    let cgroup = pod.pod.cgroup.as_ref().map_or("", |handle| handle.path());
    base([POD, cgroup, "", pod.pod.id.as_str(), &metadata.namespace, &metadata.name])
}

/// Whose the values of [`Row::of_container`] are.
pub fn base_of_container(pod: &PodMetrics, container: &ContainerMetrics) -> Base {
    let (view, metadata) = (&container.container, &pod.pod.config.metadata);
    base([
        &view.config.metadata.name,
        &container.cgroup,
        &view.image_name,
        view.id.as_str(),
        &metadata.namespace,
        &metadata.name,
    ])
}

fn base(values: [&str; BASE.len()]) -> Base {
    values.map(|value| cut(value).to_owned())
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(LABEL_BYTES_MAX)]
}

const fn row(
    name: &'static str,
    kind: Kind,
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
pub const ROWS: [Row; 56] = [
    row("container_blkio_device_usage_total", Counter, &["device", "major", "minor", "operation"], Many(blkio), "Bytes read from and written to a block device."),
    row("container_cpu_cfs_periods_total", Counter, &[], One(|c| c.detail.cpu_periods), "Periods of the CPU quota in which it could run."),
    row("container_cpu_cfs_throttled_periods_total", Counter, &[], One(|c| c.detail.cpu_throttled_periods), "Periods in which its CPU quota ran out."),
    row("container_cpu_cfs_throttled_seconds_total", Counter, &[], Seconds(|c| c.detail.cpu_throttled_ns), "Seconds for which it was held back by its CPU quota."),
    row("container_cpu_system_seconds_total", Counter, &[], Seconds(|c| c.detail.cpu_system_ns), "Seconds of CPU time used in the kernel."),
    row("container_cpu_usage_seconds_total", Counter, &["cpu"], Many(cpu_usage), "Seconds of CPU time used on all CPUs."),
    row("container_cpu_user_seconds_total", Counter, &[], Seconds(|c| c.detail.cpu_user_ns), "Seconds of CPU time used in programs."),
    row("container_file_descriptors", Gauge, &[], One(|c| c.processes.descriptors), "Open descriptors of all its processes."),
    row("container_fs_inodes_free", Gauge, DEVICE, Many(|c, tell| tell(&[&c.disk.device], Whole(c.disk.capacity.inodes_free))), "Free inodes of the file system that holds its writable layer."),
    row("container_fs_inodes_total", Gauge, DEVICE, Many(|c, tell| tell(&[&c.disk.device], Whole(c.disk.capacity.inodes))), "Inodes of the file system that holds its writable layer."),
    row("container_fs_limit_bytes", Gauge, DEVICE, Many(|c, tell| tell(&[&c.disk.device], Whole(c.disk.capacity.bytes))), "Size of the file system that holds its writable layer."),
    row("container_fs_reads_bytes_total", Counter, DEVICE, Many(|c, tell| each_device(c, tell, |io| io.read_bytes)), "Bytes read from a block device."),
    row("container_fs_reads_total", Counter, DEVICE, Many(|c, tell| each_device(c, tell, |io| io.reads)), "Reads from a block device."),
    row("container_fs_usage_bytes", Gauge, DEVICE, Many(|c, tell| tell(&[&c.disk.device], Whole(c.writable.as_ref().map_or(0, |layer| layer.used_bytes)))), "Bytes of its writable layer."),
    row("container_fs_writes_bytes_total", Counter, DEVICE, Many(|c, tell| each_device(c, tell, |io| io.written_bytes)), "Bytes written to a block device."),
    row("container_fs_writes_total", Counter, DEVICE, Many(|c, tell| each_device(c, tell, |io| io.writes)), "Writes to a block device."),
    row("container_hugetlb_max_usage_bytes", Gauge, PAGE_SIZE, Many(|c, tell| c.detail.hugepages.iter().for_each(|pages| tell(&[&pages.page_size], Whole(pages.peak)))), "The most bytes of huge pages it ever had."),
    row("container_hugetlb_usage_bytes", Gauge, PAGE_SIZE, Many(|c, tell| c.detail.hugepages.iter().for_each(|pages| tell(&[&pages.page_size], Whole(pages.usage)))), "Bytes of huge pages it has."),
    row("container_last_seen", Gauge, &[], Seconds(|c| unix_nanos(c.at)), "When it was last looked at, in seconds since 1970."),
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
    row("container_pressure_cpu_stalled_seconds_total", Counter, &[], Seconds(|c| full(c.detail.usage.cpu_pressure)), "Seconds in which all its tasks waited for a CPU."),
    row("container_pressure_cpu_waiting_seconds_total", Counter, &[], Seconds(|c| some(c.detail.usage.cpu_pressure)), "Seconds in which any of its tasks waited for a CPU."),
    row("container_pressure_io_stalled_seconds_total", Counter, &[], Seconds(|c| full(c.detail.usage.io_pressure)), "Seconds in which all its tasks waited for a disk."),
    row("container_pressure_io_waiting_seconds_total", Counter, &[], Seconds(|c| some(c.detail.usage.io_pressure)), "Seconds in which any of its tasks waited for a disk."),
    row("container_pressure_memory_stalled_seconds_total", Counter, &[], Seconds(|c| full(c.detail.usage.memory_pressure)), "Seconds in which all its tasks waited for memory."),
    row("container_pressure_memory_waiting_seconds_total", Counter, &[], Seconds(|c| some(c.detail.usage.memory_pressure)), "Seconds in which any of its tasks waited for memory."),
    row("container_processes", Gauge, &[], One(|c| c.processes.processes), "Its processes."),
    row("container_sockets", Gauge, &[], One(|c| c.processes.sockets), "Open sockets of all its processes."),
    row("container_spec_cpu_period", Gauge, &[], One(|c| or_default(c.container.resources.cpu_period_us, CPU_PERIOD_US)), "Period of its CPU quota, in microseconds."),
    row("container_spec_cpu_quota", Gauge, &[], Many(cpu_quota), "Microseconds of CPU time it may use in each period; absent without a quota."),
    row("container_spec_cpu_shares", Gauge, &[], One(|c| or_default(c.container.resources.cpu_shares, CPU_SHARES)), "Its share of the CPU relative to others."),
    row("container_spec_memory_limit_bytes", Gauge, &[], One(|c| limit(c.container.resources.memory_bytes)), "Its memory limit; 0 is none."),
    row("container_spec_memory_reservation_limit_bytes", Gauge, &[], One(reservation), "Memory that is kept for it (memory.low); 0 is none."),
    row("container_spec_memory_swap_limit_bytes", Gauge, &[], One(|c| limit(c.container.resources.memory_and_swap_bytes)), "Its limit of memory and swap together; 0 is none."),
    row("container_start_time_seconds", Gauge, &[], Seconds(|c| unix_nanos(c.started_at)), "When it was started, in seconds since 1970."),
    row("container_threads", Gauge, &[], One(|c| c.detail.usage.tasks.unwrap_or(0)), "Its threads, those of all processes."),
    row("container_threads_max", Gauge, &[], One(|c| c.detail.tasks_max.unwrap_or(0)), "Threads that it may have; 0 is no limit."),
    row("container_ulimits_soft", Gauge, &["ulimit"], Many(|c, tell| tell(&["max_open_files"], Whole(c.processes.open_files_soft))), "Soft limits of its first process."),
];

// ---- values ----

fn cpu_usage(container: &ContainerMetrics, tell: Tell<'_>) {
    tell(&["total"], Nanos(container.detail.usage.cpu_ns.unwrap_or(0)));
}

fn cpu_quota(container: &ContainerMetrics, tell: Tell<'_>) {
    if let Ok(quota @ 1..) = u64::try_from(container.container.resources.cpu_quota_us) {
        tell(&[], Whole(quota));
    }
}

/// The kernel counts both kinds with all below; `container` and `hierarchy` are the same here.
fn page_faults(container: &ContainerMetrics, tell: Tell<'_>) {
    let memory = memory(container);
    for scope in ["container", "hierarchy"] {
        tell(&["pgfault", scope], Whole(memory.page_faults));
        tell(&["pgmajfault", scope], Whole(memory.major_page_faults));
    }
}

fn blkio(container: &ContainerMetrics, tell: Tell<'_>) {
    for (io, device) in container.detail.io.iter().zip(&container.devices) {
        let (major, minor) = (io.major.to_string(), io.minor.to_string());
        tell(&[device, &major, &minor, "Read"], Whole(io.read_bytes));
        tell(&[device, &major, &minor, "Write"], Whole(io.written_bytes));
    }
}

fn each_device(container: &ContainerMetrics, tell: Tell<'_>, value: fn(&DeviceIo) -> u64) {
    for (io, device) in container.detail.io.iter().zip(&container.devices) {
        tell(&[device], Whole(value(io)));
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
    pressure.map_or(0, |Pressure { some: Stall { total_ns, .. }, .. }| total_ns)
}

fn full(pressure: Option<Pressure>) -> u64 {
    pressure.map_or(0, |Pressure { full: Stall { total_ns, .. }, .. }| total_ns)
}

fn unix_nanos(at: UnixNanos) -> u64 {
    u64::try_from(at.0).unwrap_or(0)
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
    use super::*;

    #[test]
    fn a_long_label_is_cut_between_characters() {
        let long = "\u{2713}".repeat(1000);
        let cut = cut(&long);
        assert!(cut.len() <= LABEL_BYTES_MAX && long.starts_with(cut) && cut.len() > LABEL_BYTES_MAX - 4);
    }

    #[test]
    fn seconds_have_a_fraction_where_it_can_be_said() {
        let value = Nanos(7 * SECOND_NS + 1);
        assert_eq!((value.whole(), value.to_string().as_str()), (7, "7.000000001"));
        assert_eq!((Whole(7).whole(), Whole(7).to_string().as_str()), (7, "7"));
    }
}
