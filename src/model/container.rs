//! A container's configuration, as it passed the door of `cri`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{CdiDeviceName, IdMap, NamespaceModes, Resources, Security};

/// The request of CreateContainer (CRI `ContainerConfig`), checked.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ContainerConfig {
    /// `metadata`: what the kubelet knows it by.
    pub metadata: ContainerMetadata,
    /// The text to look the image up by: the id that PullImage gave, or a reference.
    pub image: String,
    /// The image as the pod's author wrote it; shown in `ContainerStatus.image`.
    pub user_specified_image: String,
    /// Replaces the image's entrypoint when not empty.
    pub command: Vec<String>,
    /// Replaces the image's command when not empty.
    pub args: Vec<String>,
    /// Empty: the image's, else `/`.
    pub working_dir: String,
    /// Added over the image's. A value may be any bytes without NUL.
    pub envs: Vec<(String, Vec<u8>)>,
    /// `mounts`, in their order.
    pub mounts: Vec<Mount>,
    /// `devices`.
    pub devices: Vec<DeviceMapping>,
    /// Devices by the Container Device Interface, each once. What that changes is looked up when the container is made,
    /// and is not in this record.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cdi_devices: Vec<CdiDeviceName>,
    /// `labels`, given back unchanged.
    pub labels: BTreeMap<String, String>,
    /// `annotations`, given back unchanged.
    pub annotations: BTreeMap<String, String>,
    /// Relative to the pod's log directory; empty is "no log".
    pub log_path: String,
    /// `stdin`: standard input stays open for those who attach.
    pub stdin: bool,
    /// `stdin_once`: it is closed with the first of them.
    pub stdin_once: bool,
    /// `tty`: the standard streams are one terminal.
    pub tty: bool,
    /// `linux.resources`.
    pub resources: Resources,
    /// Namespaces that this container shares; only `pid` may differ from the pod's, and `users` may be unsaid.
    pub namespaces: NamespaceModes,
    /// `linux.security_context`.
    pub security: Security,
    /// Number of the stop signal; `None`: the image's, else SIGTERM.
    pub stop_signal: Option<i32>,
}

/// A container's name within its pod.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct ContainerMetadata {
    /// `name`.
    pub name: String,
    /// `attempt`, from 0.
    pub attempt: u32,
}

/// A volume (CRI `Mount`).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Mount {
    /// `container_path`.
    pub container_path: String,
    /// `host_path`.
    pub host_path: String,
    /// `readonly`.
    pub readonly: bool,
    /// `recursive_read_only`: the mounts below it are read-only too.
    pub recursive_read_only: bool,
    /// `propagation`.
    pub propagation: Propagation,
    /// `selinux_relabel`: its files get the label of the container's, where that has one.
    pub selinux_relabel: bool,
    /// The content is that of an image, and `host_path` is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageVolume>,
    #[serde(default, skip_serializing_if = "MountOptions::is_empty")]
    pub options: MountOptions,
    /// How the ids of the files on it are mapped; `None`: they are not (CRI `Mount.uidMappings`, `Mount.gidMappings`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_map: Option<IdMap>,
}

/// An image as the content of a volume (CRI `Mount.image`): always read-only.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ImageVolume {
    /// The text to look the image up by; it is never pulled here.
    pub reference: String,
    /// The file or directory in the image that is the content, relative to its root (CRI `image_sub_path`). Empty:
    /// the whole image.
    pub sub_path: String,
}

/// Restrictions of a mount on the files in it (CRI `Mount.mount_options`, mount(8)).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct MountOptions {
    /// No device file works.
    pub nodev: bool,
    /// No program can be executed.
    pub noexec: bool,
    /// No program changes the user or gains capabilities.
    pub nosuid: bool,
}

impl MountOptions {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The options by the names that mount(8) has for them.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        let all = [(self.nodev, "nodev"), (self.noexec, "noexec"), (self.nosuid, "nosuid")];
        all.into_iter().filter_map(|(set, name)| set.then_some(name))
    }
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
    /// `container_path`.
    pub container_path: String,
    /// `host_path`.
    pub host_path: String,
    /// Any of `r`, `w`, `m`.
    pub permissions: String,
    #[serde(default, skip_serializing_if = "DeviceForm::is_hosts")]
    pub form: DeviceForm,
}

/// The form of a device file in a container; what is not set is as on the host (CDI spec, `deviceNodes`).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct DeviceForm {
    /// `b` or `c`; the host's must be the same.
    pub kind: Option<char>,
    /// Major and minor number.
    pub numbers: Option<(u32, u32)>,
    /// Permission bits.
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// An owner or group that is not set is the container's user, instead of the host's.
    pub of_user: bool,
}

impl DeviceForm {
    /// Whether all is as on the host.
    pub fn is_hosts(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the file can be made without looking at the host's, which then need not be there.
    pub fn is_whole(&self) -> bool {
        self.kind.is_some() && self.numbers.is_some()
    }
}
