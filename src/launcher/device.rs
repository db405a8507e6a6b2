//! The host's devices: those that were asked for, and all of them for a privileged container, as under every
//! other runtime. A container gets nodes of its own: the host's could be given another owner or mode from inside.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use libcontainer::oci_spec::runtime::{LinuxDevice, LinuxDeviceBuilder, LinuxDeviceType};
use rustix::fs::{CWD, FileType, Gid, Mode, Uid};

use super::volume::Tree;
use crate::{
    model::{DeviceNode, DeviceRule, Failure, Stage},
    sys::mount::{Change, PeerGroup, detached},
};

/// Devices of one container at most: a machine with thousands of disks would make every privileged start slow.
const DEVICES_MAX: usize = 2_000;
/// Directories of devices that are looked into, one in another.
const DEPTH_MAX: u32 = 4;
/// Devices that every container has.
const OWN: [&str; 12] =
    ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "console", "pts", "shm", "mqueue", "fd"];

/// A device of the host as it was found, and what a container gets of it.
#[derive(Debug)]
pub struct Device {
    /// On the host.
    source: PathBuf,
    /// In the container.
    target: String,
    access: String,
    kind: FileType,
    metadata: fs::Metadata,
}

/// Looks at the devices that were asked for, in the host's mount namespace. A directory stands for every device node
/// below it, as under containerd and CRI-O; what else is in there, links too, is passed over.
///
/// # Errors
/// Stage `Device`, naming the host's path: what is neither, or more than [`DEVICES_MAX`].
pub fn find_devices(asked: &[DeviceNode]) -> Result<Vec<Device>, Failure> {
    let mut found = Vec::with_capacity(asked.len());
    for device in asked {
        let failed =
            |error: &io::Error| Failure::io(Stage::Device, device.target.as_str(), &device.source, error);
        let metadata = fs::metadata(&device.source).map_err(|error| failed(&error))?;
        if metadata.is_dir() {
            for (path, metadata) in below(&device.source, DEVICES_MAX + 1) {
                let below = path.strip_prefix(&device.source).unwrap_or(&path).to_string_lossy().into_owned();
                let target = format!("{}/{below}", device.target.trim_end_matches('/'));
                found.extend(Device::new(path, target, &device.access, metadata));
            }
        } else {
            let one = Device::new(device.source.clone(), device.target.clone(), &device.access, metadata);
            found.push(one.ok_or_else(|| failed(&io::Error::other("is neither a device nor a directory")))?);
        }
        if found.len() > DEVICES_MAX {
            return Err(failed(&io::Error::other(format!("more than {DEVICES_MAX} devices"))));
        }
    }
    Ok(found)
}

impl Device {
    /// `None` for what is no device.
    fn new(source: PathBuf, target: String, access: &str, metadata: fs::Metadata) -> Option<Self> {
        let kind = FileType::from_raw_mode(metadata.mode());
        let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        is_device.then(|| Self { source, target, access: access.into(), kind, metadata })
    }

    /// The cgroup rule that lets the container use it.
    pub fn rule(&self) -> DeviceRule {
        DeviceRule {
            allow: true,
            kind: if self.kind == FileType::BlockDevice { 'b' } else { 'c' },
            major: Some(rustix::fs::major(self.metadata.rdev())),
            minor: Some(rustix::fs::minor(self.metadata.rdev())),
            access: self.access.clone(),
        }
    }

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
            Tree::new(detached(CWD, path, private)?, &self.target)
        };
        make().map_err(|error| Failure::io(Stage::Device, self.target.as_str(), &self.source, &error))
    }
}

/// Every device node below `/dev` that a container has not of its own, for a privileged one.
pub(super) fn of_host() -> Vec<LinuxDevice> {
    let device = |(path, metadata): (PathBuf, fs::Metadata)| {
        let kind =
            if metadata.file_type().is_block_device() { LinuxDeviceType::B } else { LinuxDeviceType::C };
        let device = LinuxDeviceBuilder::default()
            .path(path)
            .typ(kind)
            .major(rustix::fs::major(metadata.rdev()))
            .minor(rustix::fs::minor(metadata.rdev()))
            .file_mode(metadata.mode() & 0o7777)
            .uid(metadata.uid())
            .gid(metadata.gid());
        // It fails for a field that is not set; all are.
        device.build().ok()
    };
    below(Path::new("/dev"), DEVICES_MAX).into_iter().filter_map(device).collect()
}

/// The device nodes below `folder` by name, at most `max`; of `/dev` without those that every container has of its
/// own. What cannot be read is passed over: it may have gone this moment.
fn below(folder: &Path, max: usize) -> Vec<(PathBuf, fs::Metadata)> {
    let mut found = Vec::new();
    collect(folder, DEPTH_MAX, max, &mut found);
    found
}

fn collect(folder: &Path, depth: u32, max: usize, found: &mut Vec<(PathBuf, fs::Metadata)>) {
    let mut entries: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let top = folder == Path::new("/dev");
        if top && OWN.iter().any(|own| entry.file_name() == *own) || found.len() >= max {
            continue;
        }
        let Ok(metadata) = entry.metadata() else { continue };
        let kind = metadata.file_type();
        if kind.is_dir() && depth > 1 {
            collect(&entry.path(), depth - 1, max, found);
        } else if kind.is_char_device() || kind.is_block_device() {
            found.push((entry.path(), metadata));
        }
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

    fn asked(source: &Path, target: &str) -> DeviceNode {
        DeviceNode { source: source.into(), target: target.into(), access: "rw".into() }
    }

    #[test]
    fn a_directory_is_all_device_nodes_below_it_and_nothing_else() {
        let top = tempfile::tempdir().unwrap();
        let node = |path: &str, minor| {
            let path = top.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let device = rustix::fs::makedev(116, minor);
            rustix::fs::mknodat(CWD, &path, FileType::CharacterDevice, Mode::RUSR, device).unwrap();
        };
        for (path, minor) in [("timer", 33), ("by-path/deep/seq", 1), ("null", 7)] {
            node(path, minor);
        }
        fs::write(top.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink("timer", top.path().join("link")).unwrap();
        let found = find_devices(&[asked(top.path(), "/dev/snd/")]).unwrap();
        let found: Vec<_> = found.iter().map(|device| (device.target.as_str(), device.rule())).collect();
        let rule = |minor| DeviceRule {
            allow: true,
            kind: 'c',
            major: Some(116),
            minor: Some(minor),
            access: "rw".into(),
        };
        let expected = [("/dev/snd/by-path/deep/seq", 1), ("/dev/snd/null", 7), ("/dev/snd/timer", 33)];
        assert_eq!(found, expected.map(|(target, minor)| (target, rule(minor))));
    }

    #[test]
    fn what_is_neither_a_device_nor_a_directory_is_refused_by_name() {
        let top = tempfile::tempdir().unwrap();
        let file = top.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(
            find_devices(&[asked(&file, "/dev/x")]).unwrap_err().to_string().contains("neither a device")
        );
        let absent = find_devices(&[asked(&top.path().join("absent"), "/dev/x")]).unwrap_err();
        assert!(absent.to_string().contains("absent"), "{absent}");
        assert!(find_devices(&[asked(top.path(), "/dev/x")]).unwrap().iter().all(|_| false));
    }
}
