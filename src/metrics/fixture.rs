//! Figures of one pod with one container, for tests: it has a value of every metric.

use std::sync::Arc;

use crate::{
    cgroup::{Detail, DeviceIo, Hugepages, Memory, Pressure, Stall, Usage},
    image::FsUsage,
    meter::{ContainerMetrics, PodMetrics, TrafficStats},
    model::{
        ContainerConfig, ContainerId, ContainerMetadata, Digest, PodConfig, PodId, PodLimits, PodMetadata,
        ResolvedUser, Resources, UnixNanos,
    },
    network::{Counters, InterfaceTraffic},
    pod::{ContainerState, ContainerView, PodView},
};

const SECOND_NS: u64 = 1_000_000_000;

/// Pod `default/web` with container `main`.
pub fn pod() -> PodMetrics {
    let sent = Counters { bytes: 1, packets: 2, errors: 3, dropped: 4 };
    let eth0 = InterfaceTraffic { name: "eth0".into(), received: sent, sent };
    let metadata =
        PodMetadata { name: "web".into(), uid: "u-1".into(), namespace: "default".into(), attempt: 2 };
    let container = container();
    let pod = PodView {
        id: PodId::from_bytes([1; 32]),
        config: Arc::new(PodConfig { metadata, ..PodConfig::default() }),
        ready: true,
        created_at: UnixNanos(1000),
        attachment: None,
        supervisor_pid: 42,
        limits: PodLimits::default(),
        cgroup: None,
        containers: vec![Arc::clone(&container.container)],
    };
    PodMetrics {
        pod: Arc::new(pod),
        traffic: Some(TrafficStats { at: UnixNanos(3), interfaces: vec![eth0] }),
        containers: vec![container],
    }
}

fn view() -> ContainerView {
    let resources = Resources {
        cpu_period_us: 100_000,
        cpu_quota_us: 20_000,
        cpu_shares: 1024,
        memory_bytes: 64 << 20,
        memory_and_swap_bytes: 64 << 20,
        ..Resources::default()
    };
    let metadata = ContainerMetadata { name: "main".into(), attempt: 3 };
    ContainerView {
        id: ContainerId::from_bytes([2; 32]),
        pod: PodId::from_bytes([1; 32]),
        config: Arc::new(ContainerConfig { metadata, ..ContainerConfig::default() }),
        image_id: Digest::from_bytes([3; 32]),
        image_ref: String::new(),
        volume_images: Vec::new(),
        image_name: "docker.io/library/busybox:latest".into(),
        state: ContainerState::Running { pid: 7, started_at: UnixNanos(1_000_000_000) },
        created_at: UnixNanos(2000),
        user: ResolvedUser { uid: 0, gid: 0, groups: Vec::new() },
        log_path: None,
        resources,
        stop_signal: 15,
    }
}

fn container() -> ContainerMetrics {
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
        container: Arc::new(view()),
        at: UnixNanos(2_500_000_000),
        started_at: UnixNanos(1_000_000_000),
        cgroup: format!("/kubepods/burstable/pod{0}/{0}/{0}", "01".repeat(32)),
        detail,
        devices: vec!["/dev/sda".into()],
        processes: Default::default(),
        writable: Some(FsUsage { at: UnixNanos(1), mountpoint: "/".into(), used_bytes: 5, inodes_used: 1 }),
        disk: Default::default(),
    }
}
