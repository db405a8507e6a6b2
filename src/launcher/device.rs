//! The host's devices: those that were asked for, and all of them for a privileged container, as under every
//! other runtime. A container gets nodes of its own: the host's could be given another owner or mode from inside.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use libcontainer::oci_spec::runtime::{LinuxDevice, LinuxDeviceBuilder, LinuxDeviceType};
use rustix::fs::{CWD, FileType, Gid, Mode, Uid};

use super::volume::Tree;
use crate::{
    model::{DeviceNode, Failure, Stage},
    sys::mount::{Change, PeerGroup, detached},
};

/// Devices at most: a machine with thousands of disks would make every privileged start slow.
const DEVICES_MAX: usize = 2_000;
/// Folders below `/dev` that are looked into, one in another.
const DEPTH_MAX: u32 = 4;
/// What every container has of its own.
const OWN: [&str; 12] =
    ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "console", "pts", "shm", "mqueue", "fd"];

/// A device of the host as it was found.
#[derive(Debug)]
pub(super) struct Found<'a> {
    device: &'a DeviceNode,
    kind: FileType,
    metadata: fs::Metadata,
}

/// Looks at a device in the host's mount namespace.
///
/// # Errors
/// Stage `Device`, naming the host's path.
pub(super) fn look(device: &DeviceNode) -> Result<Found<'_>, Failure> {
    let failed =
        |error: &io::Error| Failure::io(Stage::Device, device.target.as_str(), &device.source, error);
    let metadata = fs::metadata(&device.source).map_err(|error| failed(&error))?;
    let kind = FileType::from_raw_mode(metadata.mode());
    match kind {
        FileType::CharacterDevice | FileType::BlockDevice => Ok(Found { device, kind, metadata }),
        _ => Err(failed(&io::Error::other("is no device"))),
    }
}

impl Found<'_> {
    /// Makes a node like it at `path`, as a tree of one file; its cgroup rule says what may be done with it.
    ///
    /// # Errors
    /// Stage `Device`, naming the host's path.
    pub(super) fn make(&self, path: &Path) -> Result<Tree, Failure> {
        let mode = Mode::from_raw_mode(self.metadata.mode() & 0o777);
        let make = || -> io::Result<Tree> {
            rustix::fs::mknodat(CWD, path, self.kind, mode, self.metadata.rdev())?;
            let owner = (Uid::from_raw(self.metadata.uid()), Gid::from_raw(self.metadata.gid()));
            rustix::fs::chown(path, Some(owner.0), Some(owner.1))?;
            // mknod(2) obeys the umask.
            rustix::fs::chmod(path, mode)?;
            let private = Change { peers: Some(PeerGroup::Private), ..Change::default() };
            Tree::new(detached(CWD, path, private)?, &self.device.target)
        };
        let target = self.device.target.as_str();
        make().map_err(|error| Failure::io(Stage::Device, target, &self.device.source, &error))
    }
}

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
