//! What plugins are told of a pod: `CNI_ARGS` as Calico, Cilium, Flannel and Multus read them, and arguments by capability
//! as containerd and CRI-O give them. Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::invocation::is_argument;
use crate::model::{Dns, PodConfig, PodId, PortMapping, PortProtocol};

/// The annotations of a pod that limit its traffic, each with a quantity of bits per second.
const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// The burst that goes with a rate, bits: as much as the plugin takes, for it limits rates and not bursts.
const BURST_BITS: u64 = i32::MAX as u64;
/// The limits of the kubelet for those annotations, bits per second.
const RATE_BITS_MIN: u64 = 1_000;
const RATE_BITS_MAX: u64 = 1_000_000_000_000_000;

/// Why a pod cannot be described to plugins.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{what}: {reason}")]
pub struct BadPod {
    what: String,
    reason: String,
}

/// `CNI_ARGS`, in containerd's order.
///
/// # Errors
/// [`BadPod`] for a name that cannot be written there.
pub(super) fn args(pod: &PodId, config: &PodConfig) -> Result<Vec<(String, String)>, BadPod> {
    let metadata = &config.metadata;
    let args = [
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", &metadata.namespace),
        ("K8S_POD_NAME", &metadata.name),
        ("K8S_POD_INFRA_CONTAINER_ID", pod.as_str()),
        ("K8S_POD_UID", &metadata.uid),
    ];
    let own = |(key, value): (&str, &str)| {
        if is_argument(value) {
            return Ok((key.to_owned(), value.to_owned()));
        }
        let reason = format!("{value:?} has a ';', a '=' or a control character, which CNI_ARGS cannot hold");
        Err(BadPod { what: key.into(), reason })
    };
    args.into_iter().map(own).collect()
}

/// The arguments by capability. `ranges`: the node's pod CIDRs, if the kubelet has named any.
///
/// # Errors
/// [`BadPod`] for a bandwidth that is none.
pub(super) fn capabilities(config: &PodConfig, ranges: &[String]) -> Result<Map<String, Value>, BadPod> {
    let mut all = Map::new();
    let ports: Vec<Value> = config.port_mappings.iter().filter(|port| port.host_port > 0).map(port).collect();
    if !ports.is_empty() {
        all.insert("portMappings".into(), ports.into());
    }
    if let Some(bandwidth) = bandwidth(&config.annotations)? {
        all.insert("bandwidth".into(), bandwidth);
    }
    if let Some(Dns { servers, searches, options }) = &config.dns {
        all.insert("dns".into(), json!({"servers": servers, "searches": searches, "options": options}));
    }
    if !ranges.is_empty() {
        let sets: Vec<Value> = ranges.iter().map(|range| json!([{"subnet": range}])).collect();
        all.insert("ipRanges".into(), sets.into());
    }
    if !config.annotations.is_empty() {
        all.insert("io.kubernetes.cri.pod-annotations".into(), json!(config.annotations));
    }
    if !config.cgroup_parent.is_empty() {
        all.insert("cgroupPath".into(), config.cgroup_parent.clone().into());
    }
    Ok(all)
}

fn port(mapping: &PortMapping) -> Value {
    let protocol = match mapping.protocol {
        PortProtocol::Tcp => "tcp",
        PortProtocol::Udp => "udp",
        PortProtocol::Sctp => "sctp",
    };
    json!({
        "hostPort": mapping.host_port,
        "containerPort": mapping.container_port,
        "protocol": protocol,
        "hostIP": mapping.host_ip,
    })
}

fn bandwidth(annotations: &BTreeMap<String, String>) -> Result<Option<Value>, BadPod> {
    let mut limits = Map::new();
    for (annotation, rate, burst) in
        [(INGRESS, "ingressRate", "ingressBurst"), (EGRESS, "egressRate", "egressBurst")]
    {
        if let Some(text) = annotations.get(annotation) {
            limits.insert(rate.into(), bits(annotation, text)?.into());
            limits.insert(burst.into(), BURST_BITS.into());
        }
    }
    Ok((!limits.is_empty()).then_some(Value::Object(limits)))
}

/// A quantity of Kubernetes, as far as one makes sense for a rate: `10M`, `1.5Gi`, `800000`, `1e9`.
fn bits(annotation: &str, text: &str) -> Result<u64, BadPod> {
    let bad = |reason: String| BadPod { what: format!("annotation {annotation}"), reason };
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let scale = match text.get(number.len()..).unwrap_or_default() {
        "" => 1.0,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "Ki" => 1024.0,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        _ => return Err(bad(format!("{text:?} is not a quantity such as 10M"))),
    };
    let plain =
        number.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'));
    let rate = number.parse::<f64>().ok().filter(|rate| plain && rate.is_finite());
    let rate = rate.ok_or_else(|| bad(format!("{text:?} is not a quantity such as 10M")))? * scale;
    if !(RATE_BITS_MIN as f64..=RATE_BITS_MAX as f64).contains(&rate) {
        return Err(bad(format!("{text:?} is not between 1k and 1P bits per second")));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "its range was just checked")]
    Ok(rate.ceil() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PodMetadata;

    fn pod() -> PodConfig {
        let metadata =
            PodMetadata { name: "web".into(), uid: "u-1".into(), namespace: "default".into(), attempt: 2 };
        PodConfig { metadata, ..PodConfig::default() }
    }

    fn with(annotation: &str, value: &str) -> PodConfig {
        PodConfig { annotations: [(annotation.to_owned(), value.to_owned())].into(), ..pod() }
    }

    #[test]
    fn plugins_learn_whose_pod_it_is() {
        let id = PodId::from_bytes([7; 32]);
        let args = args(&id, &pod()).unwrap();
        let args: Vec<_> = args.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let expected = [
            ("IgnoreUnknown", "1"),
            ("K8S_POD_NAMESPACE", "default"),
            ("K8S_POD_NAME", "web"),
            ("K8S_POD_INFRA_CONTAINER_ID", id.as_str()),
            ("K8S_POD_UID", "u-1"),
        ];
        assert_eq!(args, expected);
    }

    #[test]
    fn a_name_cannot_pass_for_another_argument() {
        let mut config = pod();
        config.metadata.name = "web;K8S_POD_NAMESPACE=kube-system".into();
        let error = args(&PodId::from_bytes([7; 32]), &config).unwrap_err().to_string();
        assert!(error.starts_with("K8S_POD_NAME: \"web;"), "{error}");
    }

    #[test]
    fn each_capability_has_its_argument() {
        let port = |host_port, protocol, host_ip: &str| PortMapping {
            protocol,
            container_port: 80,
            host_port,
            host_ip: host_ip.into(),
        };
        let config = PodConfig {
            port_mappings: vec![
                port(8080, PortProtocol::Tcp, ""),
                port(0, PortProtocol::Tcp, ""),
                port(53, PortProtocol::Udp, "127.0.0.1"),
            ],
            dns: Some(Dns { servers: vec!["1.1.1.1".into()], searches: vec!["a.b".into()], options: vec![] }),
            cgroup_parent: "/kubepods/pod1".into(),
            ..with(INGRESS, "10M")
        };
        let expected = json!({
            "portMappings": [
                {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""},
                {"hostPort": 53, "containerPort": 80, "protocol": "udp", "hostIP": "127.0.0.1"},
            ],
            "bandwidth": {"ingressRate": 10_000_000, "ingressBurst": 2_147_483_647},
            "dns": {"servers": ["1.1.1.1"], "searches": ["a.b"], "options": []},
            "ipRanges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]],
            "io.kubernetes.cri.pod-annotations": {"kubernetes.io/ingress-bandwidth": "10M"},
            "cgroupPath": "/kubepods/pod1",
        });
        let ranges = ["10.1.0.0/24".to_owned(), "fd00::/64".to_owned()];
        assert_eq!(Value::Object(capabilities(&config, &ranges).unwrap()), expected);
        assert_eq!(capabilities(&pod(), &[]).unwrap(), Map::new());
    }

    #[test]
    fn a_bandwidth_is_a_quantity_of_bits() {
        for (text, expected) in [
            ("1k", 1_000),
            ("1000000", 1_000_000),
            ("10M", 10_000_000),
            ("1.5G", 1_500_000_000),
            ("1Mi", 1_048_576),
            ("2e6", 2_000_000),
            ("1500000m", 1_500),
            ("1P", 1_000_000_000_000_000),
        ] {
            assert_eq!(bits(EGRESS, text).unwrap(), expected, "{text}");
        }
        for text in ["", "M", "999", "2P", "-1M", "10MB", "1 M", "inf", "NaN", "0x10", "1e999"] {
            let error = capabilities(&with(EGRESS, text), &[]).unwrap_err().to_string();
            assert!(error.starts_with("annotation kubernetes.io/egress-bandwidth: "), "{text:?}: {error}");
        }
    }
}
