//! Statistics of pods and containers, model → wire.

use super::{container::metadata as container_metadata, fs_usage, pod::metadata as pod_metadata};
use crate::{
    cgroup::{Pressure, Stall},
    cri::wire,
    meter::{ContainerStats, PodStats, TrafficStats, UsageStats},
    model::UnixNanos,
    network::InterfaceTraffic,
    pod::{ContainerView, PodView},
};

/// The attributes are always set: the kubelet reads them without asking. What is not known is absent.
pub(crate) fn container_stats(stats: &ContainerStats) -> wire::ContainerStats {
    let usage = stats.usage.as_ref();
    wire::ContainerStats {
        attributes: Some(container_attributes(&stats.container)),
        cpu: usage.map(cpu),
        memory: usage.and_then(memory),
        writable_layer: stats.writable.as_ref().map(fs_usage),
        swap: usage.and_then(swap),
        io: usage.and_then(io),
    }
}

/// As [`container_stats`].
pub(crate) fn pod_stats(stats: &PodStats) -> wire::PodSandboxStats {
    let usage = stats.usage.as_ref();
    let main = stats.pod.attachment.as_ref().map_or("eth0", |attachment| &attachment.interface);
    wire::PodSandboxStats {
        attributes: Some(pod_attributes(&stats.pod)),
        linux: Some(wire::LinuxPodSandboxStats {
            cpu: usage.map(cpu),
            memory: usage.and_then(memory),
            network: stats.traffic.as_ref().map(|traffic| network(traffic, main)),
            process: usage.and_then(process),
            containers: stats.containers.iter().map(container_stats).collect(),
            io: usage.and_then(io),
        }),
        windows: None,
    }
}

fn container_attributes(view: &ContainerView) -> wire::ContainerAttributes {
    wire::ContainerAttributes {
        id: view.id.to_string(),
        metadata: Some(container_metadata(&view.config.metadata)),
        labels: view.config.labels.clone().into_iter().collect(),
        annotations: view.config.annotations.clone().into_iter().collect(),
    }
}

fn pod_attributes(view: &PodView) -> wire::PodSandboxAttributes {
    wire::PodSandboxAttributes {
        id: view.id.to_string(),
        metadata: Some(pod_metadata(&view.config)),
        labels: view.config.labels.clone().into_iter().collect(),
        annotations: view.config.annotations.clone().into_iter().collect(),
    }
}

fn cpu(usage: &UsageStats) -> wire::CpuUsage {
    wire::CpuUsage {
        timestamp: usage.at.0,
        usage_core_nano_seconds: usage.figures.cpu_ns.and_then(value),
        usage_nano_cores: usage.nano_cores.and_then(value),
        psi: usage.figures.cpu_pressure.as_ref().map(psi),
    }
}

fn memory(usage: &UsageStats) -> Option<wire::MemoryUsage> {
    let memory = usage.figures.memory?;
    Some(wire::MemoryUsage {
        timestamp: usage.at.0,
        working_set_bytes: value(memory.working_set),
        available_bytes: memory.limit.and_then(|limit| value(limit.saturating_sub(memory.working_set))),
        usage_bytes: value(memory.usage),
        rss_bytes: value(memory.rss),
        page_faults: value(memory.page_faults),
        major_page_faults: value(memory.major_page_faults),
        psi: usage.figures.memory_pressure.as_ref().map(psi),
    })
}

fn swap(usage: &UsageStats) -> Option<wire::SwapUsage> {
    let swap = usage.figures.swap?;
    Some(wire::SwapUsage {
        timestamp: usage.at.0,
        swap_available_bytes: usage.swap_available.and_then(value),
        swap_usage_bytes: value(swap.usage),
    })
}

fn io(usage: &UsageStats) -> Option<wire::IoUsage> {
    let pressure = usage.figures.io_pressure.as_ref()?;
    Some(wire::IoUsage { timestamp: usage.at.0, psi: Some(psi(pressure)) })
}

fn process(usage: &UsageStats) -> Option<wire::ProcessUsage> {
    let process_count = value(usage.figures.tasks?);
    Some(wire::ProcessUsage { timestamp: usage.at.0, process_count })
}

/// `main` is the interface that the pod's address is on.
fn network(traffic: &TrafficStats, main: &str) -> wire::NetworkUsage {
    let UnixNanos(timestamp) = traffic.at;
    let (default, others): (Vec<_>, Vec<_>) = traffic.interfaces.iter().partition(|one| one.name == main);
    wire::NetworkUsage {
        timestamp,
        default_interface: default.first().map(|one| interface(one)),
        interfaces: others.into_iter().map(interface).collect(),
    }
}

fn interface(traffic: &InterfaceTraffic) -> wire::NetworkInterfaceUsage {
    wire::NetworkInterfaceUsage {
        name: traffic.name.clone(),
        rx_bytes: value(traffic.received.bytes),
        rx_errors: value(traffic.received.errors),
        tx_bytes: value(traffic.sent.bytes),
        tx_errors: value(traffic.sent.errors),
    }
}

fn psi(pressure: &Pressure) -> wire::PsiStats {
    let line = |stall: &Stall| wire::PsiData {
        total: stall.total_ns,
        avg10: stall.avg10,
        avg60: stall.avg60,
        avg300: stall.avg300,
    };
    wire::PsiStats { full: Some(line(&pressure.full)), some: Some(line(&pressure.some)) }
}

#[expect(clippy::unnecessary_wraps, reason = "every field of the wire that takes it is an Option")]
fn value(value: u64) -> Option<wire::UInt64Value> {
    Some(wire::UInt64Value { value })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        cgroup::{Memory, Swap, Usage},
        cri::render::tests,
        image::FsUsage,
        network::Counters,
    };

    fn usage() -> UsageStats {
        let some = Stall { total_ns: 9, avg10: 1.0, avg60: 2.0, avg300: 3.0 };
        let figures = Usage {
            cpu_ns: Some(70),
            memory: Some(Memory {
                usage: 1000,
                working_set: 700,
                limit: Some(4000),
                rss: 600,
                page_faults: 5,
                major_page_faults: 1,
                ..Memory::default()
            }),
            swap: Some(Swap { usage: 30, limit: Some(100) }),
            io_pressure: Some(Pressure { some, full: Stall::default() }),
            tasks: Some(3),
            ..Usage::default()
        };
        UsageStats { at: UnixNanos(11), figures, nano_cores: Some(8), swap_available: Some(70) }
    }

    fn stats(usage: Option<UsageStats>) -> ContainerStats {
        let writable =
            FsUsage { at: UnixNanos(4), mountpoint: "/lib".into(), used_bytes: 10, inodes_used: 2 };
        ContainerStats { container: Arc::new(tests::container()), usage, writable: Some(writable) }
    }

    #[test]
    fn every_figure_has_its_place() {
        let wire = container_stats(&stats(Some(usage())));
        let attributes = wire.attributes.unwrap();
        assert_eq!((attributes.id, attributes.metadata.unwrap().name), ("02".repeat(32), "main".into()));
        assert_eq!(attributes.labels["role"], "main");
        let cpu = wire::CpuUsage {
            timestamp: 11,
            usage_core_nano_seconds: value(70),
            usage_nano_cores: value(8),
            psi: None,
        };
        assert_eq!(wire.cpu, Some(cpu));
        let memory = wire::MemoryUsage {
            timestamp: 11,
            working_set_bytes: value(700),
            available_bytes: value(3300),
            usage_bytes: value(1000),
            rss_bytes: value(600),
            page_faults: value(5),
            major_page_faults: value(1),
            psi: None,
        };
        assert_eq!(wire.memory, Some(memory));
        let swap =
            wire::SwapUsage { timestamp: 11, swap_available_bytes: value(70), swap_usage_bytes: value(30) };
        assert_eq!(wire.swap, Some(swap));
        let psi = wire.io.unwrap().psi.unwrap();
        assert_eq!((psi.some.unwrap().total, psi.full.unwrap().total), (9, 0));
        let layer = wire.writable_layer.unwrap();
        assert_eq!((layer.fs_id.unwrap().mountpoint, layer.used_bytes), ("/lib".into(), value(10)));
    }

    #[test]
    fn a_container_that_has_ended_has_attributes_and_a_layer() {
        let wire = container_stats(&stats(None));
        assert!(wire.cpu.is_none() && wire.memory.is_none() && wire.swap.is_none() && wire.io.is_none());
        assert!(wire.attributes.unwrap().metadata.is_some() && wire.writable_layer.is_some());
    }

    #[test]
    fn without_a_limit_nothing_is_said_of_what_is_available() {
        let mut usage = usage();
        usage.figures.memory = Some(Memory { limit: None, ..usage.figures.memory.unwrap() });
        assert_eq!(memory(&usage).unwrap().available_bytes, None);
        usage.figures.memory = Some(Memory { limit: Some(1), ..usage.figures.memory.unwrap() });
        assert_eq!(memory(&usage).unwrap().available_bytes, value(0));
    }

    #[test]
    fn the_pods_own_interface_is_told_apart() {
        let one = |name: &str, bytes| InterfaceTraffic {
            name: name.into(),
            received: Counters { bytes, errors: 3, ..Counters::default() },
            sent: Counters { bytes: bytes + 1, errors: 4, ..Counters::default() },
        };
        let traffic = TrafficStats { at: UnixNanos(5), interfaces: vec![one("tun0", 1), one("eth0", 2)] };
        let stats = PodStats {
            pod: Arc::new(tests::pod()),
            usage: Some(usage()),
            traffic: Some(traffic),
            containers: vec![stats(None)],
        };
        let wire = pod_stats(&stats);
        assert_eq!(wire.attributes.unwrap().metadata.unwrap().uid, "u-1");
        let linux = wire.linux.unwrap();
        let network = linux.network.unwrap();
        let main = wire::NetworkInterfaceUsage {
            name: "eth0".into(),
            rx_bytes: value(2),
            rx_errors: value(3),
            tx_bytes: value(3),
            tx_errors: value(4),
        };
        assert_eq!(network.default_interface, Some(main));
        assert_eq!(network.interfaces.len(), 1);
        assert_eq!(linux.process.unwrap().process_count, value(3));
        assert_eq!(linux.containers.len(), 1);
    }
}
