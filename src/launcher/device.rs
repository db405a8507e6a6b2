//! The host's devices, for privileged containers: such a container sees them all, as under every other runtime.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use libcontainer::oci_spec::runtime::{LinuxDevice, LinuxDeviceBuilder, LinuxDeviceType};

/// Devices at most: a machine with thousands of disks would make every privileged start slow.
const DEVICES_MAX: usize = 2_000;
/// Folders below `/dev` that are looked into, one in another.
const DEPTH_MAX: u32 = 4;
/// What every container has of its own.
const OWN: [&str; 12] =
    ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "console", "pts", "shm", "mqueue", "fd"];

/// Every device node below `/dev` that a container has not of its own. What cannot be read is passed over: it
/// may have gone this moment.
pub(super) fn of_host() -> Vec<LinuxDevice> {
    let mut found = Vec::new();
    collect(Path::new("/dev"), DEPTH_MAX, &mut found);
    found
}

fn collect(folder: &Path, depth: u32, found: &mut Vec<LinuxDevice>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let top = folder == Path::new("/dev");
        if top && OWN.iter().any(|own| entry.file_name() == *own) || found.len() >= DEVICES_MAX {
            continue;
        }
        let Ok(metadata) = entry.metadata() else { continue };
        let kind = match metadata.file_type() {
            kind if kind.is_dir() => {
                if depth > 1 {
                    collect(&entry.path(), depth - 1, found);
                }
                continue;
            }
            kind if kind.is_char_device() => LinuxDeviceType::C,
            kind if kind.is_block_device() => LinuxDeviceType::B,
            _ => continue,
        };
        let device = LinuxDeviceBuilder::default()
            .path(entry.path())
            .typ(kind)
            .major(rustix::fs::major(metadata.rdev()))
            .minor(rustix::fs::minor(metadata.rdev()))
            .file_mode(metadata.mode() & 0o7777)
            .uid(metadata.uid())
            .gid(metadata.gid())
            .build();
        found.extend(device);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_device_is_listed_that_a_container_has_of_its_own() {
        let found = of_host();
        for own in OWN {
            assert!(!found.iter().any(|device| device.path() == &Path::new("/dev").join(own)), "{own}");
        }
        assert!(found.iter().all(|device| device.path().starts_with("/dev")));
    }
}
