//! A pod's configuration, as it passed the door of `cri`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{PodLimits, Resources, Security};

/// What RunPodSandbox asked for (CRI `PodSandboxConfig`), checked. Labels and annotations are kept byte for
/// byte: the kubelet has no other copy.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct PodConfig {
    pub metadata: PodMetadata,
    /// Empty: the host's name with a host network, else the pod's name.
    pub hostname: String,
    /// Folder of the container logs on the host; empty is "no logs".
    pub log_directory: String,
    /// `None`: the host's resolv.conf.
    pub dns: Option<Dns>,
    pub port_mappings: Vec<PortMapping>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// The kubelet's cgroup for this pod: a path, or a name ending in `.slice`; empty is "configured".
    pub cgroup_parent: String,
    pub namespaces: NamespaceModes,
    /// Namespaced kernel settings, dots in the key.
    pub sysctls: BTreeMap<String, String>,
    pub security: Security,
    /// Under a cgroup parent of the kubelet's these are informative: it has limited that itself.
    pub overhead: Option<Resources>,
    pub resources: Option<Resources>,
    /// The RuntimeClass handler; empty is the default one.
    pub runtime_handler: String,
}

impl PodConfig {
    /// As they were asked for.
    pub fn limits(&self) -> PodLimits {
        PodLimits { resources: self.resources.clone(), overhead: self.overhead.clone() }
    }
}

/// A pod's name. Unique over all four parts.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct PodMetadata {
    pub name: String,
    pub uid: String,
    pub namespace: String,
    pub attempt: u32,
}

/// The pod's resolv.conf (CRI `DNSConfig`).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Dns {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

/// A port of the pod that the host forwards (CRI `PortMapping`).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PortMapping {
    pub protocol: PortProtocol,
    pub container_port: u16,
    /// 0: informative only, nothing is forwarded.
    pub host_port: u16,
    /// Empty: every address of the host.
    pub host_ip: String,
}

/// Transport of a port mapping.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum PortProtocol {
    Tcp,
    Udp,
    Sctp,
}

impl PortProtocol {
    /// As in protocols(5).
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// As in an IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// Which namespaces a pod or container shares (CRI `NamespaceOption`).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct NamespaceModes {
    pub network: NetworkMode,
    pub pid: PidMode,
    pub ipc: IpcMode,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum NetworkMode {
    /// The pod's own.
    #[default]
    Pod,
    /// The host's.
    Node,
}

#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum PidMode {
    /// One namespace for all containers of the pod.
    #[default]
    Pod,
    /// One for each container.
    Container,
    /// The host's.
    Node,
    /// That of the container whose id is given (containers only).
    Target(String),
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum IpcMode {
    /// The pod's own.
    #[default]
    Pod,
    /// The host's.
    Node,
}
