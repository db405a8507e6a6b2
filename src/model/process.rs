//! Users, groups, capabilities and system call filters of a process, as asked for.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::LabelParts;

/// Everything that decides what a process may do (CRI `LinuxContainerSecurityContext`, and the part of
/// `LinuxSandboxSecurityContext` that it shares).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Security {
    /// `privileged`.
    pub privileged: bool,
    /// `readonly_rootfs`.
    pub readonly_rootfs: bool,
    /// `no_new_privs` (prctl(2), `PR_SET_NO_NEW_PRIVS`).
    pub no_new_privs: bool,
    /// `run_as_user`, `run_as_username`, `run_as_group` and the supplemental groups.
    pub user: UserChoice,
    /// `capabilities`.
    pub capabilities: Capabilities,
    /// `seccomp`.
    pub seccomp: SeccompChoice,
    pub apparmor: AppArmorChoice,
    /// `selinux_options`.
    #[serde(skip_serializing_if = "LabelParts::is_empty")]
    pub selinux: LabelParts,
    /// `None`: pintle's own list. `Some`: exactly these, also when empty.
    pub masked_paths: Option<Vec<String>>,
    /// As `masked_paths`.
    pub readonly_paths: Option<Vec<String>>,
}

/// The user of a process, as asked for; names are resolved in the image.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct UserChoice {
    /// `run_as_user`; wins over `name`.
    pub uid: Option<u32>,
    /// `run_as_username`; empty is "not given". The image's `User` is used when neither is.
    pub name: String,
    /// `run_as_group`.
    pub gid: Option<u32>,
    /// `supplemental_groups`: ids.
    pub supplemental_groups: Vec<u32>,
    /// `supplemental_groups_policy`.
    pub groups_policy: GroupsPolicy,
}

/// CRI `SupplementalGroupsPolicy`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum GroupsPolicy {
    /// The given groups and those that the image's `/etc/group` lists the user in.
    #[default]
    Merge,
    /// The given groups only.
    Strict,
}

/// The user of a process, resolved; shown in `ContainerStatus.user`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct ResolvedUser {
    /// The user id.
    pub uid: u32,
    /// The primary group id.
    pub gid: u32,
    /// The primary group is always among them.
    pub groups: Vec<u32>,
}

/// Changes to the default capabilities. Names are upper case without `CAP_`; `ALL` is all.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Capabilities {
    /// `add_capabilities`.
    pub add: BTreeSet<String>,
    /// `drop_capabilities`.
    pub drop: BTreeSet<String>,
    /// `add_ambient_capabilities`.
    pub ambient: BTreeSet<String>,
}

/// Which AppArmor profile (CRI `SecurityProfile`).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum AppArmorChoice {
    /// No profile is named: the one of the handler.
    #[default]
    Unsaid,
    /// pintle's own profile, on a kernel that has AppArmor on.
    RuntimeDefault,
    Unconfined,
    /// A profile of this name that is loaded on the host.
    Localhost(String),
}

/// Which system call filter (CRI `SecurityProfile`).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub enum SeccompChoice {
    /// No profile is named: the one of the handler, which is none unless it is configured.
    #[default]
    Unsaid,
    /// pintle's own profile.
    RuntimeDefault,
    /// No filter.
    Unconfined,
    /// An OCI seccomp profile in JSON at this absolute path on the host.
    Localhost(String),
}
