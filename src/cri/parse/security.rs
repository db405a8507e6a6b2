//! Namespaces, users, capabilities, profiles.

use std::collections::BTreeSet;

use super::{
    At as _, Refusal, Under as _, Why, absent, id,
    limits::*,
    selinux,
    text::{absolute_path, count, known, line, no_way_up, quote},
    users,
};
use crate::{
    cri::wire,
    model::{
        AppArmorChoice, Capabilities, GroupsPolicy, IpcMode, NamespaceModes, NetworkMode, PidMode,
        SeccompChoice, Security, UserChoice, UserMode,
    },
    spec::is_capability,
};

/// The highest user or group id; the one above it means "leave as it is" to the kernel.
const USER_ID_MAX: u32 = u32::MAX - 1;

const NOT_WITH_USERS: &str = "is NODE, which a pod with a user namespace of its own cannot have";

/// The pod's own rights.
#[expect(deprecated, reason = "seccomp_profile_path is still honoured")]
pub(super) fn sandbox(wire: wire::LinuxSandboxSecurityContext) -> Result<Security, Refusal> {
    absent("run_as_group", wire.run_as_group.is_some() && wire.run_as_user.is_none(), "needs run_as_user")?;
    Ok(Security {
        privileged: wire.privileged,
        readonly_rootfs: wire.readonly_rootfs,
        user: UserChoice {
            uid: user_id(wire.run_as_user).at("run_as_user")?,
            name: String::new(),
            gid: user_id(wire.run_as_group).at("run_as_group")?,
            supplemental_groups: groups(&wire.supplemental_groups).at("supplemental_groups")?,
            groups_policy: policy(wire.supplemental_groups_policy).at("supplemental_groups_policy")?,
        },
        seccomp: seccomp(wire.seccomp, &wire.seccomp_profile_path, wire.privileged)?,
        apparmor: apparmor(wire.apparmor, "")?,
        selinux: selinux::parts(wire.selinux_options)?,
        ..Security::default()
    })
}

/// A container's rights.
#[expect(deprecated, reason = "seccomp_profile_path and apparmor_profile are still honoured")]
pub(super) fn container(wire: wire::LinuxContainerSecurityContext) -> Result<Security, Refusal> {
    let names_user = wire.run_as_user.is_some() || !wire.run_as_username.is_empty();
    absent(
        "run_as_group",
        wire.run_as_group.is_some() && !names_user,
        "needs run_as_user or run_as_username",
    )?;
    absent(
        "run_as_username",
        wire.run_as_user.is_some() && !wire.run_as_username.is_empty(),
        "excludes run_as_user",
    )?;
    Ok(Security {
        privileged: wire.privileged,
        readonly_rootfs: wire.readonly_rootfs,
        no_new_privs: wire.no_new_privs,
        user: UserChoice {
            uid: user_id(wire.run_as_user).at("run_as_user")?,
            name: user_name(wire.run_as_username).at("run_as_username")?,
            gid: user_id(wire.run_as_group).at("run_as_group")?,
            supplemental_groups: groups(&wire.supplemental_groups).at("supplemental_groups")?,
            groups_policy: policy(wire.supplemental_groups_policy).at("supplemental_groups_policy")?,
        },
        capabilities: capabilities(wire.capabilities.unwrap_or_default()).under("capabilities")?,
        seccomp: seccomp(wire.seccomp, &wire.seccomp_profile_path, wire.privileged)?,
        apparmor: apparmor(wire.apparmor, &wire.apparmor_profile)?,
        selinux: selinux::parts(wire.selinux_options)?,
        masked_paths: Some(paths(wire.masked_paths).at("masked_paths")?),
        readonly_paths: Some(paths(wire.readonly_paths).at("readonly_paths")?),
    })
}

/// The defaults for a caller that gives no security context at all.
pub(super) fn unsaid() -> Security {
    Security::default()
}

/// The kind of a request: only a container may name another as the owner of its PID namespace.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Asker {
    Pod,
    Container,
}

pub(super) fn namespaces(
    wire: Option<wire::NamespaceOption>,
    asker: Asker,
) -> Result<NamespaceModes, Refusal> {
    use wire::NamespaceMode::{Container, Node, Pod, Target};
    let Some(wire) = wire else { return Ok(NamespaceModes::default()) };
    let only = |modes: &'static str| Why::from(modes);
    let users = match wire.userns_options {
        Some(users) => users::mode(users).under("userns_options")?,
        None => UserMode::Unsaid,
    };
    let network = match known(wire.network).at("network")? {
        Pod => NetworkMode::Pod,
        Node => NetworkMode::Node,
        Container | Target => return Err(only("may only be POD or NODE")).at("network"),
    };
    let ipc = match known(wire.ipc).at("ipc")? {
        Pod => IpcMode::Pod,
        Node => IpcMode::Node,
        Container | Target => return Err(only("may only be POD or NODE")).at("ipc"),
    };
    let pid = match (known(wire.pid).at("pid")?, asker) {
        (Pod, _) => PidMode::Pod,
        (Container, _) => PidMode::Container,
        (Node, _) => PidMode::Node,
        (Target, Asker::Container) => PidMode::Target(id("target_id", &wire.target_id)?),
        (Target, Asker::Pod) => return Err(only("may be TARGET for a container only")).at("pid"),
    };
    // The kernel gives no proc(5) and no message queues of the host's namespaces to another user namespace.
    let shared = |shared: bool| users.map().is_some() && shared;
    absent("ipc", shared(ipc == IpcMode::Node), NOT_WITH_USERS)?;
    absent("pid", shared(pid == PidMode::Node), NOT_WITH_USERS)?;
    Ok(NamespaceModes { network, pid, ipc, users })
}

fn user_id(wire: Option<wire::Int64Value>) -> Result<Option<u32>, Why> {
    wire.map(|wire| one_id(wire.value)).transpose()
}

fn one_id(value: i64) -> Result<u32, Why> {
    match u32::try_from(value) {
        Ok(value) if value <= USER_ID_MAX => Ok(value),
        _ => Err(format!("is {value}, not 0 to {USER_ID_MAX}").into()),
    }
}

/// A name to look up in the image. One that is a number is checked as one, or it would wrap later.
fn user_name(value: String) -> Result<String, Why> {
    line(NAME_BYTES_MAX, &value)?;
    if value.contains(|c: char| c.is_whitespace() || c == ':') {
        return Err(format!("{} has a space or colon", quote(&value)).into());
    }
    let digits = value.strip_prefix(['+', '-']).unwrap_or(&value);
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let number = value.parse().ok().filter(|_| digits.len() == value.len());
        one_id(number.unwrap_or(-1)).map_err(|_| format!("{} is no user id", quote(&value)))?;
    }
    Ok(value)
}

fn groups(values: &[i64]) -> Result<Vec<u32>, Why> {
    count(GROUPS_MAX, values.len())?;
    values.iter().map(|&value| one_id(value)).collect()
}

fn policy(value: i32) -> Result<GroupsPolicy, Why> {
    Ok(match known(value)? {
        wire::SupplementalGroupsPolicy::Merge => GroupsPolicy::Merge,
        wire::SupplementalGroupsPolicy::Strict => GroupsPolicy::Strict,
    })
}

fn capabilities(wire: wire::Capability) -> Result<Capabilities, Refusal> {
    Ok(Capabilities {
        add: capability_set(wire.add_capabilities).at("add_capabilities")?,
        drop: dropped_set(wire.drop_capabilities).at("drop_capabilities")?,
        ambient: capability_set(wire.add_ambient_capabilities).at("add_ambient_capabilities")?,
    })
}

fn capability_set(names: Vec<String>) -> Result<BTreeSet<String>, Why> {
    count(CAPABILITIES_MAX, names.len())?;
    let known = |name: String| {
        capability(&name).ok_or_else(|| Why::from(format!("has {}, which is no capability", quote(&name))))
    };
    names.into_iter().map(known).collect()
}

/// A capability that does not exist here is held by nobody, so to drop it is done: pods are written for many
/// kernels and engines.
fn dropped_set(names: Vec<String>) -> Result<BTreeSet<String>, Why> {
    count(CAPABILITIES_MAX, names.len())?;
    Ok(names.iter().filter_map(|name| capability(name)).collect())
}

/// In capitals and without `CAP_`; `None` if there is none of that name.
fn capability(name: &str) -> Option<String> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    (short == "ALL" || is_capability(short)).then(|| short.to_owned())
}

fn paths(values: Vec<String>) -> Result<Vec<String>, Why> {
    count(HIDDEN_PATHS_MAX, values.len())?;
    values.into_iter().map(|value| absolute_path(value).and_then(no_way_up)).collect()
}

/// No profile at all is no filter, as with the peers and as critest wants it; the kubelet always sends one.
fn seccomp(
    profile: Option<wire::SecurityProfile>,
    deprecated: &str,
    privileged: bool,
) -> Result<SeccompChoice, Refusal> {
    use wire::security_profile::ProfileType;
    let choice = match profile {
        Some(profile) => match known(profile.profile_type).at("seccomp.profile_type")? {
            ProfileType::RuntimeDefault => SeccompChoice::RuntimeDefault,
            ProfileType::Unconfined => SeccompChoice::Unconfined,
            ProfileType::Localhost => localhost(profile.localhost_ref).at("seccomp.localhost_ref")?,
        },
        None => deprecated_seccomp(deprecated).at("seccomp_profile_path")?,
    };
    Ok(if privileged { SeccompChoice::Unconfined } else { choice })
}

fn deprecated_seccomp(value: &str) -> Result<SeccompChoice, Why> {
    match value {
        "" => Ok(SeccompChoice::Unsaid),
        "unconfined" => Ok(SeccompChoice::Unconfined),
        "runtime/default" | "docker/default" => Ok(SeccompChoice::RuntimeDefault),
        _ => match value.strip_prefix("localhost/") {
            Some(path) => localhost(path.to_owned()),
            None => Err(format!("{} is no profile", quote(value)).into()),
        },
    }
}

/// An empty path must never mean "no filter".
fn localhost(path: String) -> Result<SeccompChoice, Why> {
    absolute_path(path).and_then(no_way_up).map(SeccompChoice::Localhost)
}

/// The new field wins over the deprecated one, as in the kubelet.
fn apparmor(profile: Option<wire::SecurityProfile>, deprecated: &str) -> Result<AppArmorChoice, Refusal> {
    use wire::security_profile::ProfileType;
    match profile {
        Some(profile) => match known(profile.profile_type).at("apparmor.profile_type")? {
            ProfileType::RuntimeDefault => Ok(AppArmorChoice::RuntimeDefault),
            ProfileType::Unconfined => Ok(AppArmorChoice::Unconfined),
            ProfileType::Localhost => {
                // The kubelet of Kubernetes 1.30 puts the annotation's prefix before it.
                let name = profile.localhost_ref.strip_prefix("localhost/").unwrap_or(&profile.localhost_ref);
                apparmor_profile(name).at("apparmor.localhost_ref")
            }
        },
        None => match deprecated {
            "" => Ok(AppArmorChoice::Unsaid),
            "runtime/default" => Ok(AppArmorChoice::RuntimeDefault),
            "unconfined" => Ok(AppArmorChoice::Unconfined),
            _ => match deprecated.strip_prefix("localhost/") {
                Some(name) => apparmor_profile(name).at("apparmor_profile"),
                None => Err(Why::from(format!("{} is no profile", quote(deprecated)))).at("apparmor_profile"),
            },
        },
    }
}

/// The name of a profile of the host; it becomes a word of what is written to the kernel. `unconfined` names no profile:
/// whoever means that has a type of its own for it.
fn apparmor_profile(name: &str) -> Result<AppArmorChoice, Why> {
    line(NAME_BYTES_MAX, name)?;
    if name.is_empty() || name == "unconfined" {
        return Err(format!("{} names no profile", quote(name)).into());
    }
    Ok(AppArmorChoice::Localhost(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use wire::{NamespaceMode, security_profile::ProfileType};

    use super::*;
    use crate::model::{IdMap, IdRange, LabelParts};

    fn context() -> wire::LinuxContainerSecurityContext {
        wire::LinuxContainerSecurityContext::default()
    }

    fn id_of(value: i64) -> Option<wire::Int64Value> {
        Some(wire::Int64Value { value })
    }

    fn profile(kind: ProfileType, path: &str) -> Option<wire::SecurityProfile> {
        Some(wire::SecurityProfile { profile_type: kind.into(), localhost_ref: path.into() })
    }

    #[test]
    #[expect(deprecated, reason = "the new field wins over apparmor_profile")]
    fn everything_a_container_may_ask_for_arrives() {
        let parsed = container(wire::LinuxContainerSecurityContext {
            readonly_rootfs: true,
            no_new_privs: true,
            run_as_user: id_of(i64::from(USER_ID_MAX)),
            run_as_group: id_of(0),
            supplemental_groups: vec![3, 1],
            supplemental_groups_policy: 1,
            capabilities: Some(wire::Capability {
                add_capabilities: vec!["CAP_NET_ADMIN".into(), "sys_time".into()],
                drop_capabilities: vec!["ALL".into(), "OF_TOMORROW".into(), "".into()],
                add_ambient_capabilities: vec!["KILL".into()],
            }),
            seccomp: profile(ProfileType::RuntimeDefault, ""),
            apparmor: profile(ProfileType::Localhost, "localhost/web"),
            apparmor_profile: "unconfined".into(),
            selinux_options: Some(wire::SeLinuxOption { r#type: "web_t".into(), ..Default::default() }),
            masked_paths: vec!["/proc/kcore".into()],
            ..context()
        });
        let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let expected = Security {
            privileged: false,
            readonly_rootfs: true,
            no_new_privs: true,
            user: UserChoice {
                uid: Some(USER_ID_MAX),
                name: String::new(),
                gid: Some(0),
                supplemental_groups: vec![3, 1],
                groups_policy: GroupsPolicy::Strict,
            },
            capabilities: Capabilities {
                add: set(&["NET_ADMIN", "SYS_TIME"]),
                drop: set(&["ALL"]),
                ambient: set(&["KILL"]),
            },
            seccomp: SeccompChoice::RuntimeDefault,
            apparmor: AppArmorChoice::Localhost("web".into()),
            selinux: LabelParts { kind: "web_t".into(), ..LabelParts::default() },
            masked_paths: Some(vec!["/proc/kcore".into()]),
            readonly_paths: Some(vec![]),
        };
        assert_eq!(parsed, Ok(expected));
    }

    #[test]
    fn a_context_decides_hidden_paths_exactly_and_none_leaves_them_to_us() {
        assert_eq!(container(context()).unwrap().masked_paths, Some(vec![]));
        assert_eq!(unsaid().masked_paths, None);
        assert_eq!(unsaid().seccomp, SeccompChoice::Unsaid);
    }

    #[test]
    #[expect(deprecated, reason = "seccomp_profile_path is still honoured")]
    fn seccomp_is_what_was_said_and_nothing_when_nothing_was() {
        let path = "/var/lib/kubelet/seccomp/a.json";
        let old = |value: &str| wire::LinuxContainerSecurityContext {
            seccomp_profile_path: value.into(),
            ..context()
        };
        let new = |kind, path| wire::LinuxContainerSecurityContext {
            seccomp: profile(kind, path),
            ..old("unconfined")
        };
        let privileged = |context| wire::LinuxContainerSecurityContext { privileged: true, ..context };
        for (context, expected) in [
            (context(), SeccompChoice::Unsaid),
            (new(ProfileType::RuntimeDefault, ""), SeccompChoice::RuntimeDefault),
            (new(ProfileType::Unconfined, ""), SeccompChoice::Unconfined),
            (new(ProfileType::Localhost, path), SeccompChoice::Localhost(path.into())),
            (old("runtime/default"), SeccompChoice::RuntimeDefault),
            (old("docker/default"), SeccompChoice::RuntimeDefault),
            (old("unconfined"), SeccompChoice::Unconfined),
            (old(&format!("localhost/{path}")), SeccompChoice::Localhost(path.into())),
            (privileged(new(ProfileType::Localhost, path)), SeccompChoice::Unconfined),
            (privileged(new(ProfileType::RuntimeDefault, "")), SeccompChoice::Unconfined),
        ] {
            assert_eq!(container(context).unwrap().seccomp, expected);
        }
    }

    #[test]
    #[expect(deprecated, reason = "the deprecated fields are still honoured")]
    fn what_cannot_be_done_or_makes_no_sense_is_refused_by_name() {
        type Change = fn(&mut wire::LinuxContainerSecurityContext);
        let bad: [(&str, Change); 27] = [
            ("run_as_group", |c| c.run_as_group = id_of(1)),
            ("run_as_user", |c| c.run_as_user = id_of(-1)),
            ("run_as_user", |c| c.run_as_user = id_of(i64::from(u32::MAX))),
            ("run_as_user", |c| c.run_as_user = id_of(1 << 32)),
            ("run_as_user", |c| c.run_as_user = id_of(i64::MAX)),
            ("run_as_username", |c| c.run_as_username = "4294967295".into()),
            ("run_as_username", |c| c.run_as_username = "99999999999999999999999".into()),
            ("run_as_username", |c| c.run_as_username = "+1".into()),
            ("run_as_username", |c| c.run_as_username = "-1".into()),
            ("run_as_username", |c| c.run_as_username = " 0".into()),
            ("run_as_username", |c| c.run_as_username = "root\nx::0:0".into()),
            ("run_as_username", |c| c.run_as_username = "1:2".into()),
            ("supplemental_groups", |c| c.supplemental_groups = vec![1, -1]),
            ("supplemental_groups", |c| c.supplemental_groups = vec![1; GROUPS_MAX + 1]),
            ("supplemental_groups_policy", |c| c.supplemental_groups_policy = 2),
            ("capabilities.add_capabilities", |c| {
                c.capabilities =
                    Some(wire::Capability { add_capabilities: vec!["FLY".into()], ..Default::default() });
            }),
            ("seccomp.profile_type", |c| {
                c.seccomp = Some(wire::SecurityProfile { profile_type: 3, ..Default::default() })
            }),
            ("seccomp.localhost_ref", |c| c.seccomp = profile(ProfileType::Localhost, "")),
            ("seccomp.localhost_ref", |c| c.seccomp = profile(ProfileType::Localhost, "a.json")),
            ("seccomp.localhost_ref", |c| c.seccomp = profile(ProfileType::Localhost, "/a/../../b")),
            ("seccomp_profile_path", |c| c.seccomp_profile_path = "localhost/".into()),
            ("apparmor.localhost_ref", |c| c.apparmor = profile(ProfileType::Localhost, "")),
            ("apparmor.localhost_ref", |c| c.apparmor = profile(ProfileType::Localhost, "a\nb")),
            ("apparmor.localhost_ref", |c| c.apparmor = profile(ProfileType::Localhost, "unconfined")),
            ("apparmor_profile", |c| c.apparmor_profile = "localhost/".into()),
            ("apparmor_profile", |c| c.apparmor_profile = "web".into()),
            ("masked_paths", |c| c.masked_paths = vec!["proc/kcore".into()]),
        ];
        for (field, change) in bad {
            let mut context = context();
            change(&mut context);
            assert_eq!(container(context).unwrap_err().field, field);
        }
    }

    #[test]
    fn a_group_needs_a_user_in_a_pod_too() {
        let mut pod = wire::LinuxSandboxSecurityContext { run_as_group: id_of(1), ..Default::default() };
        assert_eq!(sandbox(pod.clone()).unwrap_err().to_string(), "run_as_group needs run_as_user");
        pod.run_as_user = id_of(2);
        let user = sandbox(pod).unwrap().user;
        assert_eq!((user.uid, user.gid), (Some(2), Some(1)));
    }

    #[test]
    fn an_apparmor_profile_is_that_of_the_new_field_and_else_of_the_old_one() {
        let web = || AppArmorChoice::Localhost("web".into());
        for (new, old, expected) in [
            (None, "", AppArmorChoice::Unsaid),
            (None, "runtime/default", AppArmorChoice::RuntimeDefault),
            (None, "unconfined", AppArmorChoice::Unconfined),
            (None, "localhost/web", web()),
            (profile(ProfileType::Localhost, "web"), "unconfined", web()),
            (profile(ProfileType::RuntimeDefault, ""), "localhost/web", AppArmorChoice::RuntimeDefault),
            (profile(ProfileType::Unconfined, ""), "", AppArmorChoice::Unconfined),
        ] {
            assert_eq!(apparmor(new, old), Ok(expected), "{old}");
        }
    }

    #[test]
    fn namespace_modes_are_what_they_may_be() {
        let range = wire::IdMapping { host_id: 65_536, container_id: 0, length: 65_536 };
        let parse = |network: i32, pid: i32, ipc: i32, userns: Option<i32>, asker| {
            let (uids, gids) = (vec![range], vec![range]);
            let userns_options = userns.map(|mode| wire::UserNamespace { mode, uids, gids });
            let wire = wire::NamespaceOption { network, pid, ipc, target_id: "abc".into(), userns_options };
            namespaces(Some(wire), asker).map_err(|refusal| refusal.field)
        };
        let modes = |network, pid, ipc| Ok(NamespaceModes { network, pid, ipc, users: UserMode::Unsaid });
        let range = vec![IdRange { container: 0, host: 65_536, length: 65_536 }];
        let users = |users| Ok(NamespaceModes { users, ..Default::default() });
        let own = UserMode::Pod(IdMap { uids: range.clone(), gids: range });
        let target = PidMode::Target(id("target_id", "abc").unwrap());
        let cases = [
            (parse(0, 0, 0, None, Asker::Pod), modes(NetworkMode::Pod, PidMode::Pod, IpcMode::Pod)),
            (parse(2, 2, 2, None, Asker::Pod), modes(NetworkMode::Node, PidMode::Node, IpcMode::Node)),
            (parse(0, 0, 0, Some(2), Asker::Pod), users(UserMode::Node)),
            (parse(0, 0, 0, Some(0), Asker::Container), users(own.clone())),
            (
                parse(2, 1, 0, Some(0), Asker::Pod),
                Ok(NamespaceModes {
                    network: NetworkMode::Node,
                    pid: PidMode::Container,
                    ipc: IpcMode::Pod,
                    users: own,
                }),
            ),
            (parse(0, 2, 0, Some(0), Asker::Pod), Err("pid".into())),
            (parse(0, 0, 2, Some(0), Asker::Pod), Err("ipc".into())),
            (parse(0, 1, 0, None, Asker::Pod), modes(NetworkMode::Pod, PidMode::Container, IpcMode::Pod)),
            (parse(0, 3, 0, None, Asker::Container), modes(NetworkMode::Pod, target, IpcMode::Pod)),
            (parse(0, 3, 0, None, Asker::Pod), Err("pid".into())),
            (parse(1, 0, 0, None, Asker::Pod), Err("network".into())),
            (parse(0, 0, 3, None, Asker::Pod), Err("ipc".into())),
            (parse(9, 0, 0, None, Asker::Pod), Err("network".into())),
            (parse(0, -1, 0, None, Asker::Pod), Err("pid".into())),
        ];
        for (parsed, expected) in cases {
            assert_eq!(parsed, expected);
        }
        for mode in [NamespaceMode::Container, NamespaceMode::Target] {
            let refused = parse(0, 0, 0, Some(mode.into()), Asker::Container);
            assert_eq!(refused, Err("userns_options.mode".into()));
        }
        let unnamed = wire::NamespaceOption { pid: NamespaceMode::Target.into(), ..Default::default() };
        assert_eq!(
            namespaces(Some(unnamed), Asker::Container).unwrap_err().to_string(),
            "target_id is empty"
        );
    }
}
