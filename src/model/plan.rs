//! Plans: all that is decided about a container or pod before anything is made.

use std::{path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    ContainerId, DeviceForm, IdMap, IpcMode, MountOptions, NetworkMode, PidMode, Propagation, Resources,
    UserChoice,
};

/// Everything a pod's supervisor needs to make one container. Pure data: decided in the daemon, obeyed in
/// the supervisor and its helper.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerPlan {
    /// Which container it is.
    pub id: ContainerId,
    /// The OCI runtime spec, as JSON, for libcontainer. It has no namespaces, root path or cgroups path
    /// (the helper adds them), and never `linux.resources`, `linux.seccomp` or `process.oomScoreAdj`.
    pub oci: Vec<u8>,
    /// Its init.
    pub process: ProcessPlan,
    /// Layer directories, top first.
    pub lower: Vec<PathBuf>,
    /// Host folder that holds (or will hold) `upper` and `work`.
    pub writable: PathBuf,
    /// The SELinux label of its root and of what is mounted for it alone; empty: none.
    pub mount_label: String,
    /// The root is mounted read-only once all is in place.
    pub readonly_rootfs: bool,
    /// In the order in which they are mounted: parents before children.
    pub volumes: Vec<Volume>,
    /// The devices that were asked for.
    pub devices: Vec<DeviceNode>,
    /// cgroup device rules, in order; later ones win.
    pub device_rules: Vec<DeviceRule>,
    /// Limits of its cgroup.
    pub resources: Resources,
    /// The pid namespace that it is in.
    pub pid: PidMode,
    /// Whether it sees the host's devices, and cgroups writable.
    pub privileged: bool,
    /// Whether it has every device of the host, as a privileged one has.
    pub host_devices: bool,
    /// The file of the CRI log; `None` is "discard".
    pub log: Option<LogPath>,
    /// Keep a pipe to the container's stdin.
    pub stdin: bool,
    /// Close it after the first client that attached.
    pub stdin_once: bool,
}

/// One process to run: a container's init, or an exec. An init's is also a record (`CONTAINER.init`), for the
/// execs of a later daemon: fields are only ever added, each with a default.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct ProcessPlan {
    /// Never empty. `args[0]` without a slash is looked up in the environment's PATH, in the container.
    pub args: Vec<Vec<u8>>,
    /// `KEY=value`, without NUL. PATH is always among them; HOME is added by the helper when missing.
    pub env: Vec<Vec<u8>>,
    /// Absolute, in the container; made when missing.
    pub cwd: String,
    /// The user and groups to run as.
    pub user: UserChoice,
    /// The image's `User`; used when `user` names nobody.
    pub image_user: String,
    /// Its standard streams are one terminal.
    pub tty: bool,
    /// Bit N is capability N (capabilities(7)): bounding, permitted and effective sets.
    pub capabilities: u64,
    /// Ambient and inheritable sets, for a user other than root.
    pub ambient: u64,
    /// prctl(2), `PR_SET_NO_NEW_PRIVS`.
    pub no_new_privs: bool,
    /// A ready BPF program (`struct sock_filter` after `struct sock_filter`, native byte order); `None` is no filter.
    pub seccomp: Option<Arc<[u8]>>,
    /// How the program is loaded: `SECCOMP_FILTER_FLAG_*` (seccomp(2)).
    #[serde(default)]
    pub seccomp_flags: u32,
    /// The AppArmor profile that the program runs under (apparmor(7)); empty: the node's, which is none as a rule.
    #[serde(default)]
    pub apparmor: String,
    /// The SELinux label that the program runs under; empty: as the policy has it.
    #[serde(default)]
    pub selinux: String,
    /// proc(5), `oom_score_adj`: -1000 to 1000.
    pub oom_score_adj: i64,
    /// Soft and hard RLIMIT_NOFILE.
    pub nofile: (u64, u64),
}

/// The place of a container's log on the host, in the two halves that the kubelet gives.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogPath {
    /// Absolute (CRI `PodSandboxConfig.log_directory`); made when missing. Symbolic links are followed: operators
    /// move `/var/log` to a disk of its own.
    pub directory: PathBuf,
    /// Relative to it (CRI `ContainerConfig.log_path`). No part of it may be a symbolic link.
    pub file: PathBuf,
}

impl LogPath {
    /// Both halves together, for messages.
    pub fn whole(&self) -> PathBuf {
        self.directory.join(&self.file)
    }
}

/// The source of a volume's content.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum VolumeSource {
    /// A file or directory of the host, absolute; made as a directory when missing. Symbolic links are followed
    /// there.
    Host(PathBuf),
    /// One of the files in the pod's folder that all its containers share (`hostname`, `hosts`, `resolv.conf`),
    /// absolute on the host. What containers see is the pod's copy in memory, which has a limit.
    PodFile(PathBuf),
    /// A directory of the container's own beside its writable layer, absolute on the host; made with what the image
    /// has at the target (OCI image config, `Volumes`).
    Image(PathBuf),
    /// The read-only content of an image (CRI `Mount.image`): its layer directories on the host, top first, and the
    /// file or directory in them, empty for all of it.
    Layers { lower: Vec<PathBuf>, sub_path: String },
}

/// A volume as the helper mounts it.
#[derive(Clone, Debug, PartialEq)]
pub struct Volume {
    /// The source of its content.
    pub source: VolumeSource,
    /// Absolute in the container, made when missing, resolved inside its root.
    pub target: String,
    /// Whether it is mounted read-only.
    pub readonly: bool,
    /// `readonly` also for mounts below it.
    pub recursive_read_only: bool,
    /// How mounts travel between host and container.
    pub propagation: Propagation,
    /// Of the volume itself; mounts below it keep their own.
    pub options: MountOptions,
    /// How the ids on it, and on the mounts below it, are mapped. `None`: a host path is not; an image is as the root
    /// file system.
    pub id_map: Option<IdMap>,
    /// Whether its files get the container's SELinux label of files.
    pub relabel: bool,
}

/// A device file in the container's `/dev` or elsewhere in it, or a directory of such.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceNode {
    /// On the host. A directory stands for all devices below it.
    pub source: PathBuf,
    /// In the container; of a directory, what the names below it are appended to.
    pub target: String,
    /// Any of `rwm`, for the cgroup rule that goes with it (the helper reads the numbers from `source`).
    pub access: String,
    pub form: DeviceForm,
}

/// One line for cgroup v1's `devices.allow` or `devices.deny` (and v2's program).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DeviceRule {
    /// Whether it allows; else it denies.
    pub allow: bool,
    /// `a`, `b` or `c`.
    pub kind: char,
    /// `None` is any.
    pub major: Option<u32>,
    /// `None` is any.
    pub minor: Option<u32>,
    /// Any of `rwm`.
    pub access: String,
}

/// The plan of what a new pod's supervisor makes before the first container.
#[derive(Clone, Debug, PartialEq)]
pub struct PodPlan {
    /// `namespace/name`, which ps(1) shows beside the id.
    pub name: String,
    /// The network namespace of its containers.
    pub network: NetworkMode,
    /// The IPC namespace of its containers.
    pub ipc: IpcMode,
    /// Not used with the host's network, which goes with the host's name.
    pub hostname: String,
    /// Names with dots, and values.
    pub sysctls: Vec<(String, String)>,
    /// Size of the pod's `/dev/shm`; bytes.
    pub shm_bytes: u64,
    /// The map of the pod's user namespace; `None`: its users are the host's.
    pub users: Option<IdMap>,
    /// The SELinux label of what its containers share; empty: none.
    pub mount_label: String,
}
