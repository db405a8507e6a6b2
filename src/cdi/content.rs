//! The part of a spec file about one device (or all of its devices), and what it means for a container.

use serde::Deserialize;

use super::{
    edits::{Edits, Refusal},
    spec::{Uses, nullable},
};
use crate::model::{DeviceForm, DeviceMapping, Mount, MountOptions, Propagation};

/// Bytes of a path (`PATH_MAX` without its NUL).
const PATH_BYTES_MAX: usize = 4095;
/// The highest major and minor numbers of a device (`MINORBITS` of the kernel is 20).
const MAJOR_MAX: u32 = (1 << 12) - 1;
const MINOR_MAX: u32 = (1 << 20) - 1;
/// OCI runtime spec, POSIX-platform hooks.
const HOOKS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// `containerEdits` as it is written. Without a `read`, a field only has to be of its type.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct ContainerEdits {
    #[serde(default, deserialize_with = "nullable")]
    env: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    device_nodes: Vec<DeviceNode>,
    #[serde(default, deserialize_with = "nullable")]
    net_devices: Vec<NetDevice>,
    #[serde(default, deserialize_with = "nullable")]
    mounts: Vec<BindMount>,
    #[serde(default, deserialize_with = "nullable")]
    hooks: Vec<Hook>,
    #[serde(default, deserialize_with = "nullable")]
    additional_gids: Vec<u32>,
    intel_rdt: Option<IntelRdt>,
}

impl ContainerEdits {
    /// Adds what is used here and has not been there from the first version on.
    pub(super) fn uses(&self, uses: &mut Uses) {
        let rdt = self.intel_rdt.as_ref();
        let newer = rdt.is_some_and(|rdt| rdt.schemata.is_some() || rdt.enable_monitoring.is_some());
        let typed = self.mounts.iter().any(|mount| !mount.kind.is_empty());
        let on_host = self.device_nodes.iter().any(|node| !node.host_path.is_empty());
        for (used, version, what) in [
            (typed, "0.4.0", "the type of a mount"),
            (on_host, "0.5.0", "hostPath of a device node"),
            (rdt.is_some(), "0.7.0", "intelRdt"),
            (!self.additional_gids.is_empty(), "0.7.0", "additionalGids"),
            (!self.net_devices.is_empty(), "1.1.0", "netDevices"),
            (newer, "1.1.0", "schemata and enableMonitoring of intelRdt"),
        ] {
            if used {
                uses.insert((version, what));
            }
        }
    }

    /// The changes to a container that it means.
    ///
    /// # Errors
    /// What nobody could mean, in words that follow the device's name.
    pub(super) fn read(self) -> Result<Edits, String> {
        let mut edits = Edits {
            env: self.env.iter().map(|entry| variable(entry)).collect::<Result<_, _>>()?,
            // 0 adds nothing: that is how other writers leave it out.
            groups: self.additional_gids.into_iter().filter(|group| *group != 0).collect(),
            ..Edits::default()
        };
        if edits.groups.contains(&u32::MAX) {
            return Err(format!("additionalGids: {} is no group", u32::MAX));
        }
        for node in self.device_nodes {
            let path = node.path.clone();
            let of_node = |error| format!("device node {path:?}: {error}");
            match node.kind.as_str() {
                "p" => edits.refuse(format!("it needs a pipe at {path:?}, and pintle makes devices only")),
                _ => edits.devices.push(node.read().map_err(of_node)?),
            }
        }
        for mount in self.mounts {
            let (path, kind) = (mount.container_path.clone(), mount.kind.clone());
            let of_mount = |error| format!("mount at {path:?}: {error}");
            match kind.as_str() {
                "" | "none" | "bind" => edits.mounts.push(mount.read().map_err(of_mount)?),
                _ => edits
                    .refuse(format!("it needs a mount of type {kind:?}, and pintle makes bind mounts only")),
            }
        }
        for hook in self.hooks {
            edits.refusals.push(hook.read()?);
        }
        if let Some(NetDevice { host_interface_name, .. }) = self.net_devices.first() {
            edits.refuse(format!(
                "it needs the host's interface {host_interface_name:?}, which pintle does not move"
            ));
        }
        if self.intel_rdt.is_some() {
            edits.refuse("it needs intelRdt, which pintle does not set".into());
        }
        Ok(edits)
    }
}

/// `NAME=value`. What else a variable must be is checked with the container's others.
fn variable(entry: &str) -> Result<(String, Vec<u8>), String> {
    match entry.split_once('=') {
        Some((name, value)) if !name.is_empty() && !entry.contains('\0') => Ok((name.into(), value.into())),
        _ => Err(format!("env {entry:?} is not NAME=value")),
    }
}

fn check_path(what: &str, path: &str) -> Result<(), String> {
    let problem = if path.is_empty() {
        "is empty"
    } else if !path.starts_with('/') {
        "is not absolute"
    } else if path.len() > PATH_BYTES_MAX {
        "is longer than 4095 bytes"
    } else if path.contains('\0') || path.split('/').any(|part| part == "..") {
        "has a NUL or a part \"..\""
    } else {
        return Ok(());
    };
    Err(format!("{what} {path:?} {problem}"))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct DeviceNode {
    path: String,
    #[serde(default)]
    host_path: String,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    major: i64,
    #[serde(default)]
    minor: i64,
    file_mode: Option<u32>,
    #[serde(default)]
    permissions: String,
    uid: Option<u32>,
    gid: Option<u32>,
}

impl DeviceNode {
    fn read(self) -> Result<DeviceMapping, String> {
        let host_path = if self.host_path.is_empty() { self.path.clone() } else { self.host_path };
        check_path("path", &self.path)?;
        check_path("hostPath", &host_path)?;
        let kind = match self.kind.as_str() {
            "" => None,
            "b" => Some('b'),
            "c" | "u" => Some('c'),
            other => return Err(format!("type {other:?} is none of b, c, u and p")),
        };
        let number = |what, value: i64, max| {
            let number = u32::try_from(value).ok().filter(|number| *number <= max);
            number.ok_or_else(|| format!("{what} {value} is not 0 to {max}"))
        };
        let (major, minor) =
            (number("major", self.major, MAJOR_MAX)?, number("minor", self.minor, MINOR_MAX)?);
        let permissions = if self.permissions.is_empty() { "rwm".into() } else { self.permissions };
        if permissions.len() > 3 || permissions.contains(|c| !matches!(c, 'r' | 'w' | 'm')) {
            return Err(format!("permissions {permissions:?} are not some of r, w and m"));
        }
        if [self.uid, self.gid].contains(&Some(u32::MAX)) {
            return Err(format!("{} is no owner", u32::MAX));
        }
        let form = DeviceForm {
            kind,
            // A major number of 0 is how other writers leave both out.
            numbers: (major != 0).then_some((major, minor)),
            mode: self.file_mode.map(|mode| mode & 0o777),
            uid: self.uid,
            gid: self.gid,
            of_user: true,
        };
        Ok(DeviceMapping { container_path: self.path, host_path, permissions, form })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct NetDevice {
    host_interface_name: String,
    #[serde(default, rename = "name")]
    _name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct BindMount {
    host_path: String,
    container_path: String,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default, deserialize_with = "nullable")]
    options: Vec<String>,
}

impl BindMount {
    fn read(self) -> Result<Mount, String> {
        check_path("hostPath", &self.host_path)?;
        check_path("containerPath", &self.container_path)?;
        let mut mount =
            Mount { container_path: self.container_path, host_path: self.host_path, ..Mount::default() };
        for option in &self.options {
            set_option(&mut mount, option)?;
        }
        Ok(mount)
    }
}

/// One of mount(8)'s options, as far as a bind mount has them. Later ones win, as there.
fn set_option(mount: &mut Mount, option: &str) -> Result<(), String> {
    let MountOptions { nodev, noexec, nosuid } = &mut mount.options;
    match option {
        "bind" | "rbind" | "defaults" | "relatime" | "norelatime" => {}
        "ro" => mount.readonly = true,
        "rro" => (mount.readonly, mount.recursive_read_only) = (true, true),
        "rw" => (mount.readonly, mount.recursive_read_only) = (false, false),
        "nodev" => *nodev = true,
        "dev" => *nodev = false,
        "noexec" => *noexec = true,
        "exec" => *noexec = false,
        "nosuid" => *nosuid = true,
        "suid" => *nosuid = false,
        "private" | "rprivate" => mount.propagation = Propagation::Private,
        "slave" | "rslave" => mount.propagation = Propagation::HostToContainer,
        "shared" | "rshared" => mount.propagation = Propagation::Bidirectional,
        other => return Err(format!("option {other:?} is not known")),
    }
    Ok(())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Hook {
    hook_name: String,
    path: String,
    #[serde(default, deserialize_with = "nullable", rename = "args")]
    _args: Vec<String>,
    #[serde(default, deserialize_with = "nullable", rename = "env")]
    _env: Vec<String>,
    #[serde(rename = "timeout")]
    _timeout: Option<i64>,
}

impl Hook {
    fn read(self) -> Result<Refusal, String> {
        let Self { hook_name: name, path, .. } = self;
        if !HOOKS.contains(&name.as_str()) {
            return Err(format!("hook {name:?} is none of {}", HOOKS.join(", ")));
        }
        check_path("path of a hook", &path)?;
        Ok(Refusal::Hook { name, path })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct IntelRdt {
    #[serde(rename = "closID")]
    _clos_id: Option<String>,
    #[serde(rename = "l3CacheSchema")]
    _l3_cache_schema: Option<String>,
    #[serde(rename = "memBwSchema")]
    _mem_bw_schema: Option<String>,
    #[serde(rename = "enableCMT")]
    _enable_cmt: Option<bool>,
    #[serde(rename = "enableMBM")]
    _enable_mbm: Option<bool>,
    schemata: Option<Vec<String>>,
    #[serde(rename = "enableMonitoring")]
    enable_monitoring: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Edits, String> {
        serde_json::from_str::<ContainerEdits>(json).unwrap().read()
    }

    #[test]
    fn a_device_node_is_the_hosts_unless_it_says_more() {
        let node = |json: &str| {
            read(&format!(r#"{{"deviceNodes": [{json}]}}"#)).map(|edits| edits.devices[0].clone())
        };
        let plain = node(r#"{"path": "/dev/x"}"#).unwrap();
        let form = DeviceForm { of_user: true, ..DeviceForm::default() };
        let expected = DeviceMapping {
            container_path: "/dev/x".into(),
            host_path: "/dev/x".into(),
            permissions: "rwm".into(),
            form,
        };
        assert_eq!(plain, expected);
        assert!(!plain.form.is_whole());
        let full = node(
            r#"{"path": "/dev/x", "hostPath": "/dev/y", "type": "u", "major": 195, "minor": 0, "fileMode": 8630,
                "permissions": "r", "uid": 0, "gid": 44}"#,
        );
        let full = full.unwrap();
        assert_eq!((full.host_path.as_str(), full.permissions.as_str()), ("/dev/y", "r"));
        let form = DeviceForm {
            kind: Some('c'),
            numbers: Some((195, 0)),
            mode: Some(0o666),
            uid: Some(0),
            gid: Some(44),
            of_user: true,
        };
        assert!(form.is_whole());
        assert_eq!(full.form, form);
        for (bad, word) in [
            (r#"{"path": ""}"#, "is empty"),
            (r#"{"path": "dev/x"}"#, "is not absolute"),
            (r#"{"path": "/dev/../x"}"#, "a part \"..\""),
            (r#"{"path": "/dev/x", "hostPath": "/dev/\u0000"}"#, "a NUL"),
            (r#"{"path": "/dev/x", "type": "d"}"#, "type \"d\" is none of"),
            (r#"{"path": "/dev/x", "major": 4096}"#, "major 4096"),
            (r#"{"path": "/dev/x", "minor": -1}"#, "minor -1"),
            (r#"{"path": "/dev/x", "permissions": "rwx"}"#, "permissions \"rwx\""),
            (r#"{"path": "/dev/x", "uid": 4294967295}"#, "is no owner"),
        ] {
            let problem = node(bad).unwrap_err();
            assert!(problem.starts_with("device node ") && problem.contains(word), "{bad}: {problem}");
        }
        let long = format!(r#"{{"path": "/{}"}}"#, "x".repeat(PATH_BYTES_MAX));
        assert!(node(&long).unwrap_err().contains("longer than 4095"));
    }

    #[test]
    fn a_mount_is_a_bind_with_the_options_that_such_have() {
        let mount = |options: &str| {
            let json = format!(
                r#"{{"mounts": [{{"hostPath": "/usr/lib/x.so", "containerPath": "/lib/x.so", "options": {options}}}]}}"#
            );
            read(&json).map(|edits| edits.mounts[0].clone())
        };
        let plain = Mount {
            host_path: "/usr/lib/x.so".into(),
            container_path: "/lib/x.so".into(),
            ..Mount::default()
        };
        assert_eq!(mount("null"), Ok(plain.clone()));
        let locked = Mount {
            readonly: true,
            options: MountOptions { nodev: true, noexec: false, nosuid: true },
            propagation: Propagation::HostToContainer,
            ..plain.clone()
        };
        assert_eq!(mount(r#"["ro", "nosuid", "nodev", "noexec", "exec", "rbind", "rslave"]"#), Ok(locked));
        let all = Mount { readonly: true, recursive_read_only: true, ..plain.clone() };
        assert_eq!(mount(r#"["bind", "rro", "shared", "rprivate"]"#), Ok(all));
        assert_eq!(mount(r#"["rro", "rw"]"#), Ok(plain));
        assert_eq!(
            mount(r#"["size=1m"]"#).unwrap_err(),
            "mount at \"/lib/x.so\": option \"size=1m\" is not known"
        );
        let relative = read(r#"{"mounts": [{"hostPath": "a", "containerPath": "/b"}]}"#).unwrap_err();
        assert_eq!(relative, "mount at \"/b\": hostPath \"a\" is not absolute");
    }

    #[test]
    fn groups_are_added_but_for_zero() {
        let groups = |json: &str| read(&format!(r#"{{"additionalGids": {json}}}"#)).map(|edits| edits.groups);
        assert_eq!(groups("[0, 44, 0, 109]"), Ok(vec![44, 109]));
        assert!(groups("[4294967295]").is_err());
    }

    #[test]
    fn what_pintle_does_not_do_is_kept_as_a_refusal_that_names_it() {
        let hook = |name: &str| {
            format!(r#"{{"hooks": [{{"hookName": "{name}", "path": "/bin/h", "args": ["h"]}}]}}"#)
        };
        for name in HOOKS {
            let expected = Refusal::Hook { name: name.into(), path: "/bin/h".into() };
            assert_eq!(read(&hook(name)).unwrap().refusals, [expected]);
        }
        assert!(read(&hook("onError")).unwrap_err().starts_with("hook \"onError\" is none of prestart"));
        assert!(read(r#"{"hooks": [{"hookName": "poststop", "path": "h"}]}"#).is_err());
        for (json, word) in [
            (r#"{"netDevices": [{"hostInterfaceName": "eth1", "name": "net1"}]}"#, "interface \"eth1\""),
            (r#"{"intelRdt": {"closID": "gold", "enableCMT": true}}"#, "intelRdt"),
            (r#"{"deviceNodes": [{"path": "/dev/p", "type": "p"}]}"#, "a pipe at \"/dev/p\""),
            (r#"{"mounts": [{"hostPath": "x", "containerPath": "/t", "type": "tmpfs"}]}"#, "type \"tmpfs\""),
        ] {
            let edits = read(json).unwrap();
            let [Refusal::Other(what)] = &edits.refusals[..] else { panic!("{json}: {edits:?}") };
            assert!(what.contains(word), "{what}");
            assert_eq!((edits.devices.len(), edits.mounts.len()), (0, 0));
        }
    }
}
