use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{NamespaceModes, Resources, Security};

/// What CreateContainer asked for (CRI `ContainerConfig`), checked.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ContainerConfig {
    pub metadata: ContainerMetadata,
    /// What to look the image up by: the id that PullImage gave, or a reference.
    pub image: String,
    /// What the pod's author wrote; shown in `ContainerStatus.image`.
    pub user_specified_image: String,
    /// Replaces the image's entrypoint when not empty.
    pub command: Vec<String>,
    /// Replaces the image's command when not empty.
    pub args: Vec<String>,
    /// Empty: the image's, else `/`.
    pub working_dir: String,
    /// Added over the image's. A value may be any bytes without NUL.
    pub envs: Vec<(String, Vec<u8>)>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<DeviceMapping>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// Relative to the pod's log directory; empty is "no log".
    pub log_path: String,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    pub resources: Resources,
    /// What this container shares; only `pid` may differ from the pod's.
    pub namespaces: NamespaceModes,
    pub security: Security,
    /// Number of the stop signal; `None`: the image's, else SIGTERM.
    pub stop_signal: Option<i32>,
}

/// A container's name within its pod.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct ContainerMetadata {
    pub name: String,
    pub attempt: u32,
}

/// A volume (CRI `Mount`).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Mount {
    pub container_path: String,
    pub host_path: String,
    pub readonly: bool,
    pub recursive_read_only: bool,
    pub propagation: Propagation,
    /// Asked for and echoed; there is no SELinux here to obey it.
    pub selinux_relabel: bool,
}

/// How mounts made later travel between host and container (CRI `MountPropagation`).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum Propagation {
    /// Neither way (`rprivate`).
    #[default]
    Private,
    /// The host's appear in the container (`rslave`).
    HostToContainer,
    /// Both ways (`rshared`).
    Bidirectional,
}

/// A host device given to a container (CRI `Device`).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct DeviceMapping {
    pub container_path: String,
    pub host_path: String,
    /// Any of `r`, `w`, `m`.
    pub permissions: String,
}
