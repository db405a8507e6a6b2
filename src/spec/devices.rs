//! Which devices a container has.

use std::path::PathBuf;

use super::{Error, mounts};
use crate::model::{ContainerConfig, DeviceNode, DeviceRule};

/// Devices in one request at most.
const DEVICES_MAX: usize = 500;

/// Character devices that every container may use: null, zero, full, random, urandom, tty, ptmx and all pts
/// (Documentation/admin-guide/devices.txt). libcontainer makes the files.
const USABLE: [(u32, Option<u32>); 8] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(2)),
    (136, None),
];

/// The device files asked for, in their order. What is at a path on the host is for the helper to see.
pub(super) fn nodes(container: &ContainerConfig) -> Result<Vec<DeviceNode>, Error> {
    let given = container.devices.len();
    if given > DEVICES_MAX {
        return Err(Error::Limit { what: "devices", given, max: DEVICES_MAX });
    }
    let nodes = container.devices.iter().map(|device| {
        mounts::absolute("device", &device.host_path)?;
        mounts::absolute("device", &device.container_path)?;
        let permissions = &device.permissions;
        if permissions.is_empty() || permissions.contains(|c| !matches!(c, 'r' | 'w' | 'm')) {
            let (path, permissions) = (device.host_path.clone(), permissions.clone());
            return Err(Error::DevicePermissions { path, permissions });
        }
        Ok(DeviceNode {
            source: PathBuf::from(&device.host_path),
            target: mounts::clean(&device.container_path),
            access: permissions.clone(),
            form: device.form.clone(),
        })
    });
    nodes.collect()
}

/// cgroup rules: nothing, then what everybody may. Those of [`nodes`] come after, from the helper, which
/// knows their numbers.
pub(super) fn rules(all: bool) -> Vec<DeviceRule> {
    let rule = |allow, kind, major, minor, access: &str| DeviceRule {
        allow,
        kind,
        major,
        minor,
        access: access.into(),
    };
    if all {
        return vec![rule(true, 'a', None, None, "rwm")];
    }
    let mut rules = vec![
        rule(false, 'a', None, None, "rwm"),
        // Making the file of a device is harmless; opening it is not.
        rule(true, 'c', None, None, "m"),
        rule(true, 'b', None, None, "m"),
    ];
    rules.extend(USABLE.map(|(major, minor)| rule(true, 'c', Some(major), minor, "rwm")));
    rules
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DeviceForm, DeviceMapping};

    fn asking(host_path: &str, container_path: &str, permissions: &str) -> ContainerConfig {
        let device = DeviceMapping {
            container_path: container_path.into(),
            host_path: host_path.into(),
            permissions: permissions.into(),
            ..DeviceMapping::default()
        };
        ContainerConfig { devices: vec![device], ..Default::default() }
    }

    #[test]
    fn everything_is_denied_first_and_disks_cannot_be_opened() {
        let rules = rules(false);
        assert_eq!((rules[0].allow, rules[0].kind, rules[0].access.as_str()), (false, 'a', "rwm"));
        let opens = |rule: &&DeviceRule| rule.allow && rule.access != "m";
        assert!(rules.iter().filter(opens).all(|rule| rule.kind == 'c' && rule.major.is_some()));
        assert_eq!(rules.iter().filter(opens).count(), 8);
    }

    #[test]
    fn a_privileged_container_may_open_all() {
        let all = DeviceRule { allow: true, kind: 'a', major: None, minor: None, access: "rwm".into() };
        assert_eq!(rules(true), [all]);
    }

    #[test]
    fn a_device_is_two_absolute_paths_and_some_of_rwm() {
        let form = DeviceForm { mode: Some(0o640), of_user: true, ..DeviceForm::default() };
        let (source, target) = ("/dev/sda".into(), "/dev/disk".into());
        let node = DeviceNode { source, target, access: "rm".into(), form: form.clone() };
        let mut config = asking("/dev/sda", "/dev//disk", "rm");
        config.devices[0].form = form;
        assert_eq!(nodes(&config).unwrap(), [node]);
        for (host, container, permissions) in [
            ("/dev/a", "/dev/a", ""),
            ("/dev/a", "/dev/a", "rx"),
            ("/dev/a", "/dev/a", "RW"),
            ("dev/a", "/dev/a", "r"),
            ("/dev/a", "", "r"),
            ("/dev/a", "/dev/a\0", "r"),
        ] {
            assert!(
                nodes(&asking(host, container, permissions)).is_err(),
                "{host} {container} {permissions}"
            );
        }
        let mut many = asking("/dev/a", "/dev/a", "r");
        many.devices = vec![many.devices[0].clone(); DEVICES_MAX + 1];
        assert!(matches!(nodes(&many), Err(Error::Limit { given: 501, .. })));
    }
}
