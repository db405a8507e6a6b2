//! Plans of containers: from the request, the pod and the image to one [`ContainerPlan`].
//!
//! ```text
//! build.rs        puts the plan together, and the OCI spec in it
//! environment.rs  arguments, environment, working directory
//! security.rs     user, capabilities, masked paths, which filter
//! mounts.rs       what libcontainer mounts, and the volumes in their order
//! devices.rs      device files and cgroup device rules
//! lsm.rs          which AppArmor profile
//! selinux.rs      which SELinux labels
//! capability.rs   capabilities by name and bit
//! seccomp/        system call filters
//! ```
//! libcontainer gets a container of root with a few capabilities too many, no filter, no limits and no
//! volumes; the rest of the plan is carried out by pintle's own code around it, just before execve.
//!
//! Invariant: pure. The same inputs give the same plan, byte for byte; no file, clock or environment is read.
//! Invariant: what is missing is refused, never guessed weaker: no filter where one was asked for, no
//! unknown capability, no unknown user.
//! Invariant: only what is set here gets into the OCI spec. Annotations and labels do not.
//! Not here: what must be looked up on the node or in the image (user names, HOME, device numbers, the
//! host's devices of a privileged container, `/dev/shm`, `/sys/fs/cgroup`, namespaces). The supervisor's
//! helper adds those.

mod build;
mod capability;
mod devices;
mod environment;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod lsm;
mod mounts;
pub mod seccomp;
mod security;
mod selinux;

use std::{path::PathBuf, sync::Arc};

pub use self::{
    build::build,
    capability::is_capability,
    lsm::{APPARMOR_DEFAULT, APPARMOR_PARSERS, apparmor, apparmor_default_text, apparmor_lists},
    security::{MASKED_PATHS, READONLY_PATHS},
    selinux::{SelinuxContexts, pod_labels, selinux_contexts, selinux_policy},
};
use crate::model::{ContainerConfig, ContainerId, ImageConfig, PodConfig, ProcessPlan, RootfsLayers};

/// Why a container cannot be as asked. All but [`Error::Oci`] and [`Error::NoFilter`] are the caller's to mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("unknown capability {name:?}")]
    Capability { name: String },
    #[error("device {path}: permissions {permissions:?} are not some of r, w and m")]
    DevicePermissions { path: String, permissions: String },
    #[error("two mounts at {path}")]
    DuplicateMount { path: String },
    #[error("environment variable {key:?}: {problem}")]
    Environment { key: String, problem: &'static str },
    #[error("run_as_group without run_as_user or run_as_username")]
    GroupWithoutUser,
    #[error("{what}: {given} exceed the limit of {max}")]
    Limit { what: &'static str, given: usize, max: usize },
    #[error("mount at {path}: {problem}")]
    Mount { path: String, problem: &'static str },
    #[error("no command: neither the request nor the image names one")]
    NoCommand,
    #[error("AppArmor profile {profile}: AppArmor is off on this node, so nothing would enforce it")]
    NoAppArmor { profile: String },
    /// The caller forgot to compile the filter. Running without would be worse.
    #[error("no system call filter was compiled for a container that asks for one")]
    NoFilter,
    /// The caller looked up fewer images than mounts ask for.
    #[error("no layers were looked up for a mount of an image")]
    NoVolumeLayers,
    #[error("encode OCI spec")]
    Oci(#[source] serde_json::Error),
    #[error("oom_score_adj {value} is outside -1000 to 1000")]
    OomScore { value: i64 },
    #[error("{what} {path:?}: {problem}")]
    Path { what: &'static str, path: String, problem: &'static str },
    #[error("user {user:?}: {problem}")]
    User { user: String, problem: &'static str },
}

/// The inputs of [`build`].
#[derive(Debug)]
pub struct Inputs<'a> {
    pub id: &'a ContainerId,
    /// Its `hostname` becomes HOSTNAME. With the host's network fill in the host's name first, else a
    /// container there has no HOSTNAME.
    pub pod: &'a PodConfig,
    pub container: &'a ContainerConfig,
    pub image: &'a ImageConfig,
    pub layers: &'a RootfsLayers,
    /// The layers of the images that are the content of mounts, in the order of those in `container`.
    pub volume_layers: &'a [RootfsLayers],
    /// Folder for `upper` and `work`.
    pub writable: PathBuf,
    /// The pod's folder, with `hostname`, `resolv.conf` and `hosts`.
    pub pod_dir: PathBuf,
    /// The compiled filter for the container's `SeccompChoice`; `None` is "no filter", and an error
    /// unless the container is unconfined or privileged.
    pub seccomp: Option<Arc<[u8]>>,
    /// How that filter is loaded: `SECCOMP_FILTER_FLAG_*` (seccomp(2)).
    pub seccomp_flags: u32,
    /// The AppArmor profile, as [`apparmor`] has decided; empty: none.
    pub apparmor: String,
    /// The capabilities that this node can give: its own bounding set.
    pub held_capabilities: u64,
}

/// The capabilities (bit N is capability N) that the container's processes will have, for [`seccomp::default`]
/// and [`seccomp::from_json`].
///
/// # Errors
/// [`Error::Capability`] for a name that is none.
pub fn capabilities(container: &ContainerConfig) -> Result<u64, Error> {
    security::capabilities(&container.security)
}

/// The plan of an exec in a container whose init was planned as `init`: the same user, environment,
/// directory, rights and filter.
pub fn exec(init: &ProcessPlan, command: Vec<Vec<u8>>, tty: bool) -> ProcessPlan {
    let mut env = init.env.clone();
    if tty {
        environment::add_term(&mut env);
    }
    ProcessPlan { args: command, env, tty, ..init.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::UserChoice;

    #[test]
    fn an_exec_is_confined_as_the_init_was() {
        let init = ProcessPlan {
            args: vec![b"/init".to_vec()],
            env: vec![b"PATH=/bin".to_vec()],
            cwd: "/srv".into(),
            user: UserChoice { uid: Some(7), ..UserChoice::default() },
            image_user: "web".into(),
            tty: false,
            capabilities: 5,
            ambient: 1,
            no_new_privs: true,
            seccomp: Some([1, 2].as_slice().into()),
            seccomp_flags: 0,
            apparmor: String::new(),
            selinux: "u:r:t:s0:c1".into(),
            oom_score_adj: 9,
            nofile: (3, 4),
        };
        let plain = exec(&init, vec![b"ls".to_vec()], false);
        assert_eq!(plain, ProcessPlan { args: vec![b"ls".to_vec()], ..init.clone() });
        let tty = exec(&init, vec![b"sh".to_vec()], true);
        let env = vec![b"PATH=/bin".to_vec(), b"TERM=xterm".to_vec()];
        assert_eq!(tty, ProcessPlan { args: vec![b"sh".to_vec()], env, tty: true, ..init });
    }
}
