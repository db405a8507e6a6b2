//! The metrics of `metrics::table` for the kubelet.

use crate::{
    cri::wire,
    meter::{ContainerMetrics, PodMetrics},
    metrics::table::{Base, Kind, ROWS, Row, Value, base_of_container, base_of_pod},
    model::UnixNanos,
};

/// For ListMetricDescriptors.
pub(crate) fn metric_descriptors() -> Vec<wire::MetricDescriptor> {
    let descriptor = |row: &Row| wire::MetricDescriptor {
        name: row.name.into(),
        help: row.help.into(),
        label_keys: row.label_keys().map(Into::into).collect(),
    };
    ROWS.iter().map(descriptor).collect()
}

/// For ListPodSandboxMetrics.
pub(crate) fn pod_metrics(pod: &PodMetrics) -> wire::PodSandboxMetrics {
    wire::PodSandboxMetrics {
        pod_sandbox_id: pod.pod.id.to_string(),
        metrics: own_metrics(pod),
        container_metrics: pod.containers.iter().map(|container| container_metrics(pod, container)).collect(),
    }
}

fn own_metrics(pod: &PodMetrics) -> Vec<wire::Metric> {
    let Some(traffic) = &pod.traffic else { return Vec::new() };
    let (base, mut metrics) = (base_of_pod(pod), Vec::new());
    for row in &ROWS {
        row.of_pod(pod, &mut |labels, value| metrics.push(metric(row, traffic.at, &base, labels, value)));
    }
    metrics
}

fn container_metrics(pod: &PodMetrics, container: &ContainerMetrics) -> wire::ContainerMetrics {
    let (base, mut metrics) = (base_of_container(pod, container), Vec::with_capacity(ROWS.len()));
    for row in &ROWS {
        let mut tell = |labels: &[&str], value| metrics.push(metric(row, container.at, &base, labels, value));
        row.of_container(container, &mut tell);
    }
    wire::ContainerMetrics { container_id: container.container.id.to_string(), metrics }
}

fn metric(row: &Row, at: UnixNanos, base: &Base, labels: &[&str], value: Value) -> wire::Metric {
    let kind = match row.kind {
        Kind::Counter => wire::MetricType::Counter,
        Kind::Gauge => wire::MetricType::Gauge,
    };
    wire::Metric {
        name: row.name.into(),
        timestamp: at.0,
        metric_type: kind.into(),
        label_values: base.iter().cloned().chain(labels.iter().map(|&label| label.into())).collect(),
        value: Some(wire::UInt64Value { value: value.whole() }),
    }
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
        metrics::{fixture, table::BASE},
        model::Resources,
        pod::ContainerView,
    };

    /// Name → label values without the common ones, and value, of every sample.
    fn samples() -> Vec<(String, Vec<String>, u64)> {
        let wire = pod_metrics(&fixture::pod());
        let all = wire.metrics.into_iter().chain(wire.container_metrics.into_iter().flat_map(|c| c.metrics));
        all.map(|metric| {
            (metric.name, metric.label_values[BASE.len()..].to_vec(), metric.value.unwrap().value)
        })
        .collect()
    }

    #[track_caller]
    fn check(name: &str, labels: &[&str], value: u64) {
        assert!(
            samples()
                .iter()
                .any(|sample| (sample.0.as_str(), sample.2) == (name, value) && sample.1 == labels),
            "{name} {labels:?} {value}: {:?}",
            samples().into_iter().filter(|sample| sample.0 == name).collect::<Vec<_>>()
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
        let samples: BTreeMap<String, usize> =
            samples().into_iter().map(|(name, labels, _)| (name, labels.len() + BASE.len())).collect();
        assert_eq!(samples, keys);
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
        let wire = pod_metrics(&fixture::pod());
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
        let mut pod = fixture::pod();
        let mut view = ContainerView::clone(&pod.containers[0].container);
        view.resources = Resources { cpu_quota_us: -1, memory_bytes: -1, ..Resources::default() };
        pod.containers[0].container = Arc::new(view);
        let metrics = pod_metrics(&pod).container_metrics.remove(0).metrics;
        let value = |name: &str| {
            metrics.iter().find(|metric| metric.name == name).map(|metric| metric.value.unwrap().value)
        };
        assert_eq!(value("container_spec_cpu_quota"), None);
        assert_eq!(value("container_spec_memory_limit_bytes"), Some(0));
        assert_eq!(value("container_spec_cpu_period"), Some(100_000));
        assert_eq!(value("container_spec_cpu_shares"), Some(1024));
    }

    /// The kubelet takes 16 MiB, and allows 110 pods by default.
    #[test]
    fn the_metrics_of_a_full_node_fit_into_one_message() {
        let size = pod_metrics(&fixture::pod()).encoded_len();
        eprintln!("{size} bytes for a pod of one container");
        assert!(size * 110 * 2 < 16 << 20, "{size}");
    }
}
