//! The changes that devices make to a container, purely.

use std::path::Path;

use super::catalog::Device;
use crate::model::{ContainerConfig, DeviceMapping, Mount};

/// Changes to a container. Those that come later win.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Edits {
    pub(super) env: Vec<(String, Vec<u8>)>,
    pub(super) devices: Vec<DeviceMapping>,
    pub(super) mounts: Vec<Mount>,
    pub(super) groups: Vec<u32>,
    /// Needs that are not met.
    pub(super) refusals: Vec<Refusal>,
}

/// Something that a device needs and pintle does not do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Refusal {
    Hook {
        /// When it is to run (OCI runtime spec).
        name: String,
        /// The program.
        path: String,
    },
    /// In words that follow the device's name.
    Other(String),
}

impl Edits {
    /// Of the devices in their order; what all devices of a file have in common is there once, before the first of them.
    pub(super) fn of(devices: &[Device]) -> Self {
        let mut edits = Self::default();
        let mut seen: Vec<&Path> = Vec::new();
        for device in devices {
            if !seen.contains(&device.file()) {
                seen.push(device.file());
                edits.append(device.common());
            }
            edits.append(device.own());
        }
        edits
    }

    fn append(&mut self, other: &Self) {
        self.env.extend_from_slice(&other.env);
        self.devices.extend_from_slice(&other.devices);
        self.mounts.extend_from_slice(&other.mounts);
        self.groups.extend_from_slice(&other.groups);
        self.refusals.extend_from_slice(&other.refusals);
    }

    pub(super) fn refuse(&mut self, what: String) {
        self.refusals.push(Refusal::Other(what));
    }

    /// The hooks among its needs, which the operator has decided to go without: `createContainer /usr/bin/hook`.
    pub fn ignored_hooks(&self) -> Vec<String> {
        let hook = |refusal: &Refusal| match refusal {
            Refusal::Hook { name, path } => Some(format!("{name} {path}")),
            Refusal::Other(_) => None,
        };
        self.refusals.iter().filter_map(hook).collect()
    }

    /// Makes the changes. What was asked for at the same place, a variable, device or mount, gives way.
    pub fn apply(self, config: &mut ContainerConfig) {
        config.envs.extend(self.env);
        for device in self.devices {
            config.devices.retain(|known| !same(&known.container_path, &device.container_path));
            config.devices.push(device);
        }
        for mount in self.mounts {
            config.mounts.retain(|known| !same(&known.container_path, &mount.container_path));
            config.mounts.push(mount);
        }
        config.security.user.supplemental_groups.extend(self.groups);
    }
}

/// Whether two paths are one, by their letters: `/dev//x/` is `/dev/x`.
fn same(one: &str, other: &str) -> bool {
    Path::new(one) == Path::new(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_device_needs_takes_the_place_of_what_was_asked_for_there() {
        let device = |path: &str, host: &str| DeviceMapping {
            container_path: path.into(),
            host_path: host.into(),
            ..DeviceMapping::default()
        };
        let mount = |path: &str, host: &str| Mount {
            container_path: path.into(),
            host_path: host.into(),
            ..Mount::default()
        };
        let mut config = ContainerConfig {
            envs: vec![("A".into(), b"0".into())],
            devices: vec![device("/dev//x", "/dev/asked"), device("/dev/y", "/dev/y")],
            mounts: vec![mount("/lib/x/", "/asked"), mount("/lib", "/lib")],
            ..ContainerConfig::default()
        };
        config.security.user.supplemental_groups = vec![7];
        let edits = Edits {
            env: vec![("A".into(), b"1".into())],
            devices: vec![device("/dev/x", "/dev/first"), device("/dev/x", "/dev/second")],
            mounts: vec![mount("/lib/x", "/needed")],
            groups: vec![44],
            refusals: vec![],
        };
        edits.apply(&mut config);
        assert_eq!(config.devices, [device("/dev/y", "/dev/y"), device("/dev/x", "/dev/second")]);
        assert_eq!(config.mounts, [mount("/lib", "/lib"), mount("/lib/x", "/needed")]);
        // Of two variables of one name the plan takes the last.
        assert_eq!(config.envs.last(), Some(&("A".into(), b"1".into())));
        assert_eq!(config.security.user.supplemental_groups, [7, 44]);
    }
}
