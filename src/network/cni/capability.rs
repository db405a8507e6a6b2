//! What plugins are given of a pod: `CNI_ARGS` as Calico, Cilium, Flannel and Multus read them, and arguments by capability
//! as containerd and CRI-O give them. Pure.

use serde_json::{Map, Value, json};

use super::invocation::is_argument;
use crate::{
    model::{Dns, PodConfig, PodId, PortMapping, PortProtocol},
    network::bandwidth::{BadRate, Bandwidth},
};

/// The burst that goes with a rate, bits: as much as the plugin takes, for it limits rates and not bursts.
const BURST_BITS: u64 = i32::MAX as u64;

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
/// [`BadRate`] for a limit that is none.
pub(super) fn capabilities(config: &PodConfig, ranges: &[String]) -> Result<Map<String, Value>, BadRate> {
    let mut all = Map::new();
    let ports: Vec<Value> = config.port_mappings.iter().filter(|port| port.host_port > 0).map(port).collect();
    if !ports.is_empty() {
        all.insert("portMappings".into(), ports.into());
    }
    if let Some(bandwidth) = bandwidth(Bandwidth::of(&config.annotations)?) {
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

/// `None` where nothing is limited.
fn bandwidth(limits: Bandwidth) -> Option<Value> {
    let limits =
        [(limits.ingress, "ingressRate", "ingressBurst"), (limits.egress, "egressRate", "egressBurst")];
    let set = limits.into_iter().filter_map(|(rate, name, burst)| Some((rate?, name, burst)));
    let set: Map<String, Value> = set
        .flat_map(|(rate, name, burst)| {
            [(name.to_owned(), rate.into()), (burst.to_owned(), BURST_BITS.into())]
        })
        .collect();
    (!set.is_empty()).then_some(Value::Object(set))
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
            annotations: [("kubernetes.io/ingress-bandwidth".to_owned(), "10M".to_owned())].into(),
            ..pod()
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
}
