//! A pod's configuration, as it passed the door of `cri`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Handler, IdPrefix, PodLabels, PodLimits, Resources, Security, UserMode};

/// The request of RunPodSandbox (CRI `PodSandboxConfig`), checked. Labels and annotations are kept byte for
/// byte: the kubelet has no other copy.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct PodConfig {
    /// `metadata`: what the kubelet knows it by.
    pub metadata: PodMetadata,
    /// Empty: the host's name with a host network, else the pod's name.
    pub hostname: String,
    /// Folder of the container logs on the host; empty is "no logs".
    pub log_directory: String,
    /// `None`: the host's resolv.conf.
    pub dns: Option<Dns>,
    /// `port_mappings`.
    pub port_mappings: Vec<PortMapping>,
    /// `labels`, given back unchanged.
    pub labels: BTreeMap<String, String>,
    /// `annotations`, given back unchanged.
    pub annotations: BTreeMap<String, String>,
    /// The kubelet's cgroup for this pod: a path, or a name ending in `.slice`; empty is "configured".
    pub cgroup_parent: String,
    /// `linux.security_context.namespace_options`.
    pub namespaces: NamespaceModes,
    /// Namespaced kernel settings, dots in the key.
    pub sysctls: BTreeMap<String, String>,
    /// `linux.security_context`: what containers without one of their own have.
    pub security: Security,
    /// Under a cgroup parent of the kubelet's these are informative: it has limited that itself.
    pub overhead: Option<Resources>,
    /// `linux.resources`: of all containers together.
    pub resources: Option<Resources>,
    /// The RuntimeClass handler; empty is the default one.
    pub runtime_handler: String,
    /// The settings of that handler as of now; a pod of an earlier release has those that all had then.
    #[serde(default)]
    pub handler: Handler,
    /// The labels of SELinux that its containers get; `None`: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selinux: Option<PodLabels>,
}

impl PodConfig {
    /// Whether this is the request `other`, apart from what a node settles when it makes the pod: a retry may come
    /// when it would settle that otherwise.
    pub fn asks_for_the_same(&self, other: &Self) -> bool {
        let settled = Self { handler: other.handler.clone(), selinux: other.selinux.clone(), ..self.clone() };
        settled == *other
    }

    /// As they were asked for.
    pub fn limits(&self) -> PodLimits {
        PodLimits { resources: self.resources.clone(), overhead: self.overhead.clone() }
    }
}

/// A pod's name. Unique over all four parts.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct PodMetadata {
    /// `name`.
    pub name: String,
    /// `uid`.
    pub uid: String,
    /// `namespace`, of Kubernetes.
    pub namespace: String,
    /// `attempt`, from 0.
    pub attempt: u32,
}

/// The pod's resolv.conf (CRI `DNSConfig`).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Dns {
    /// `servers`: IP addresses.
    pub servers: Vec<String>,
    /// `searches`: domains.
    pub searches: Vec<String>,
    /// `options` of resolv.conf(5).
    pub options: Vec<String>,
}

/// A port of the pod that the host forwards (CRI `PortMapping`).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PortMapping {
    /// `protocol`.
    pub protocol: PortProtocol,
    /// `container_port`.
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
    /// `network`.
    pub network: NetworkMode,
    /// `pid`, and `target_id` with it.
    pub pid: PidMode,
    /// `ipc`.
    pub ipc: IpcMode,
    /// `userns_options`.
    #[serde(default, skip_serializing_if = "UserMode::is_unsaid")]
    pub users: UserMode,
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
    /// The namespace of the container with this id (containers only).
    Target(IdPrefix),
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum IpcMode {
    /// The pod's own.
    #[default]
    Pod,
    /// The host's.
    Node,
}
