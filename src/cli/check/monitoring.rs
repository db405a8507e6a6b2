//! `pintle check`: the metrics listener.

use super::{Finding, ok, warn};
use crate::metrics::Config;

pub(super) fn questions(config: &Config) -> Vec<Finding> {
    vec![metrics(config)]
}

/// What a kubelet shows cannot be asked here: its configuration is not ours, and it may not run yet.
fn metrics(config: &Config) -> Finding {
    let topic = "metrics";
    match &config.listen {
        Some(address) => ok(topic, format!("served for Prometheus at {address}")),
        None => warn(
            topic,
            "a kubelet without the feature gate PodAndContainerStatsFromCRI shows no container by name in \
             /metrics/cadvisor, and no network in /stats/summary: set the gate, or let Prometheus scrape pintle \
             (`[metrics] listen`); see docs/metrics.md",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};
    use crate::metrics::Address;

    #[test]
    fn whoever_scrapes_us_needs_no_gate() {
        let unset = metrics(&Config::default());
        assert_eq!(unset.level, Level::Warn);
        assert!(unset.text.contains("PodAndContainerStatsFromCRI"), "{}", unset.text);
        let listen = Address::try_from("127.0.0.1:9880".to_owned()).ok();
        assert_eq!(
            metrics(&Config { listen }),
            ok("metrics", "served for Prometheus at http://127.0.0.1:9880/metrics")
        );
    }
}
