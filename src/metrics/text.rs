//! Prometheus' text format, version 0.0.4: each metric with its description and all its values, one after the other.

use std::fmt::Write as _;

use super::table::{BASE, Base, Kind, ROWS, Row, Value, base_of_container, base_of_pod};
use crate::meter::PodMetrics;

/// The `Content-Type` of the page.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The figures of one moment, to be written metric by metric.
#[derive(Debug)]
pub(super) struct Page {
    pods: Vec<Labelled>,
    /// The row of the table that is next.
    next: usize,
}

/// A pod, and the labels that all its values share, as they are written.
#[derive(Debug)]
struct Labelled {
    pod: PodMetrics,
    own: String,
    /// Of each container, in their order.
    containers: Vec<String>,
}

impl Page {
    pub(super) fn new(pods: Vec<PodMetrics>) -> Self {
        let labelled = |pod: PodMetrics| {
            let containers =
                pod.containers.iter().map(|one| written(&base_of_container(&pod, one))).collect();
            Labelled { own: written(&base_of_pod(&pod)), containers, pod }
        };
        Self { pods: pods.into_iter().map(labelled).collect(), next: 0 }
    }

    /// The next metric that has a value. Timestamps are left out: the values are of now, and a value with a
    /// timestamp is not noticed to be gone.
    fn write(&self, row: &Row) -> String {
        let mut text = String::new();
        for Labelled { pod, own, containers } in &self.pods {
            row.of_pod(pod, &mut |labels, value| sample(&mut text, row, own, labels, value));
            for (container, base) in pod.containers.iter().zip(containers) {
                row.of_container(container, &mut |labels, value| sample(&mut text, row, base, labels, value));
            }
        }
        text
    }
}

impl Iterator for Page {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        loop {
            let row = ROWS.get(self.next)?;
            self.next += 1;
            let samples = self.write(row);
            if !samples.is_empty() {
                return Some(head(row) + &samples);
            }
        }
    }
}

fn head(row: &Row) -> String {
    let Row { name, help, .. } = row;
    let kind = match (row.kind, name.ends_with("_total")) {
        (Kind::Counter, true) => "counter",
        (Kind::Gauge, false) => "gauge",
        // Prometheus has counters, and nothing else, end in `_total`; dashboards know these by the names they have.
        (Kind::Counter, false) | (Kind::Gauge, true) => "untyped",
    };
    format!("# HELP {name} {help}\n# TYPE {name} {kind}\n")
}

fn sample(text: &mut String, row: &Row, base: &str, labels: &[&str], value: Value) {
    text.push_str(row.name);
    text.push('{');
    text.push_str(base);
    for (key, label) in row.more_keys().iter().zip(labels) {
        text.push(',');
        label_to(text, key, label);
    }
    // Writing to a String cannot fail.
    let _written = writeln!(text, "}} {value}");
}

fn written(base: &Base) -> String {
    let mut text = String::new();
    for (key, value) in BASE.iter().zip(base) {
        if !text.is_empty() {
            text.push(',');
        }
        label_to(&mut text, key, value);
    }
    text
}

fn label_to(text: &mut String, key: &str, value: &str) {
    text.push_str(key);
    text.push_str("=\"");
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{super::fixture, *};

    fn page() -> String {
        Page::new(vec![fixture::pod()]).collect()
    }

    #[test]
    fn a_value_has_all_its_labels_and_its_metric_is_described() {
        let page = page();
        let id = "02".repeat(32);
        let cgroup = format!("/kubepods/burstable/pod{0}/{0}/{0}", "01".repeat(32));
        let expected = format!(
            "# HELP container_cpu_usage_seconds_total Seconds of CPU time used on all CPUs.\n\
             # TYPE container_cpu_usage_seconds_total counter\n\
             container_cpu_usage_seconds_total{{container=\"main\",id=\"{cgroup}\",image=\"docker.io/library/busybox:latest\",\
             name=\"{id}\",namespace=\"default\",pod=\"web\",cpu=\"total\"}} 7.000000001\n"
        );
        assert!(page.contains(&expected), "{page}");
        assert!(page.contains("container=\"POD\""), "{page}");
        let untyped: Vec<_> = page.lines().filter(|line| line.ends_with(" untyped")).collect();
        let expected =
            ["# TYPE container_fs_inodes_total untyped", "# TYPE container_memory_failcnt untyped"];
        assert_eq!(untyped, expected);
    }

    #[test]
    fn every_metric_is_there_once_in_order_and_each_value_once() {
        let page = page();
        let names: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let expected: Vec<_> = ROWS.iter().map(|row| row.name).collect();
        let names: Vec<_> = names.iter().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(names, expected);
        let series: Vec<_> = page.lines().filter(|line| !line.starts_with('#')).collect();
        let labelled: BTreeSet<_> = series.iter().map(|line| line.rsplit_once(' ').unwrap().0).collect();
        assert_eq!(labelled.len(), series.len());
    }

    #[test]
    fn a_label_cannot_end_itself_or_its_line() {
        let mut text = String::new();
        label_to(&mut text, "image", "a\"b\\c\nd\u{2713}");
        assert_eq!(text, "image=\"a\\\"b\\\\c\\nd\u{2713}\"");
    }

    #[test]
    fn a_node_without_pods_has_an_empty_page() {
        assert_eq!(Page::new(Vec::new()).next(), None);
    }
}
