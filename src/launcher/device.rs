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
    model::{DeviceForm, DeviceNode, DeviceRule, Failure, ResolvedUser, Stage},
    sys::mount::{Change, PeerGroup, detached},
};

/// Devices of one container at most: a machine with thousands of disks would make every privileged start slow.
const DEVICES_MAX: usize = 2_000;
/// Directories of devices that are looked into, one in another.
const DEPTH_MAX: u32 = 4;
/// Permissions of a device file that is like none of the host and says nothing of its own, as under runc.
const MODE_DEFAULT: u32 = 0o666;
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
    major: u32,
    minor: u32,
    mode: u32,
    /// `None`: the container's user.
    uid: Option<u32>,
    gid: Option<u32>,
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
        if device.form.is_whole() {
            found.push(
                Device::unseen(device).ok_or_else(|| failed(&io::Error::other("is no kind of device")))?,
            );
            continue;
        }
        let metadata = fs::metadata(&device.source).map_err(|error| failed(&error))?;
        if metadata.is_dir() {
            for (path, metadata) in below(&device.source, DEVICES_MAX + 1) {
                let below = path.strip_prefix(&device.source).unwrap_or(&path).to_string_lossy().into_owned();
                let target = format!("{}/{below}", device.target.trim_end_matches('/'));
                found.extend(Device::new(path, target, &device.access, &metadata));
            }
        } else {
            let one = Device::new(device.source.clone(), device.target.clone(), &device.access, &metadata);
            let mut one =
                one.ok_or_else(|| failed(&io::Error::other("is neither a device nor a directory")))?;
            one.take_form(&device.form).map_err(|error| failed(&error))?;
            found.push(one);
        }
        if found.len() > DEVICES_MAX {
            return Err(failed(&io::Error::other(format!("more than {DEVICES_MAX} devices"))));
        }
    }
    Ok(found)
}

impl Device {
    /// `None` for what is no device.
    fn new(source: PathBuf, target: String, access: &str, metadata: &fs::Metadata) -> Option<Self> {
        let kind = FileType::from_raw_mode(metadata.mode());
        let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        is_device.then(|| Self {
            source,
            target,
            access: access.into(),
            kind,
            major: rustix::fs::major(metadata.rdev()),
            minor: rustix::fs::minor(metadata.rdev()),
            mode: metadata.mode() & 0o777,
            uid: Some(metadata.uid()),
            gid: Some(metadata.gid()),
        })
    }

    /// One that says all of itself. `None` for what is no kind of device.
    fn unseen(asked: &DeviceNode) -> Option<Self> {
        let form = &asked.form;
        let ((major, minor), kind) = (form.numbers?, kind_of(form.kind?)?);
        let owner = |id: Option<u32>| if form.of_user { id } else { Some(id.unwrap_or(0)) };
        Some(Self {
            source: asked.source.clone(),
            target: asked.target.clone(),
            access: asked.access.clone(),
            kind,
            major,
            minor,
            mode: form.mode.unwrap_or(MODE_DEFAULT),
            uid: owner(form.uid),
            gid: owner(form.gid),
        })
    }

    /// Becomes what was asked for, as far as that differs from the host's.
    fn take_form(&mut self, form: &DeviceForm) -> io::Result<()> {
        if let Some(kind) = form.kind
            && kind_of(kind) != Some(self.kind)
        {
            return Err(io::Error::other(format!("is no device of the kind {kind:?}")));
        }
        (self.major, self.minor) = form.numbers.unwrap_or((self.major, self.minor));
        self.mode = form.mode.unwrap_or(self.mode);
        let hosts = |id: Option<u32>| id.filter(|_| !form.of_user);
        (self.uid, self.gid) = (form.uid.or(hosts(self.uid)), form.gid.or(hosts(self.gid)));
        Ok(())
    }

    /// The cgroup rule that lets the container use it.
    pub fn rule(&self) -> DeviceRule {
        DeviceRule {
            allow: true,
            kind: if self.kind == FileType::BlockDevice { 'b' } else { 'c' },
            major: Some(self.major),
            minor: Some(self.minor),
            access: self.access.clone(),
        }
    }

    /// Makes a node like it at `path`, as a tree of one file; its cgroup rule says what may be done with it. `user` is the
    /// container's.
    ///
    /// # Errors
    /// Stage `Device`, naming the host's path.
    pub(super) fn make(&self, path: &Path, user: &ResolvedUser) -> Result<Tree, Failure> {
        let mode = Mode::from_raw_mode(self.mode);
        let make = || -> io::Result<Tree> {
            rustix::fs::mknodat(CWD, path, self.kind, mode, rustix::fs::makedev(self.major, self.minor))?;
            let owner = (self.uid.unwrap_or(user.uid), self.gid.unwrap_or(user.gid));
            rustix::fs::chown(path, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)))?;
            // mknod(2) obeys the umask.
            rustix::fs::chmod(path, mode)?;
            let private = Change { peers: Some(PeerGroup::Private), ..Change::default() };
            Tree::new(detached(CWD, path, private)?, &self.target)
        };
        make().map_err(|error| Failure::io(Stage::Device, self.target.as_str(), &self.source, &error))
    }
}

/// By its letter; `None` for what is no device.
fn kind_of(letter: char) -> Option<FileType> {
    match letter {
        'b' => Some(FileType::BlockDevice),
        'c' => Some(FileType::CharacterDevice),
        _ => None,
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
        let form = DeviceForm::default();
        DeviceNode { source: source.into(), target: target.into(), access: "rw".into(), form }
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
    fn a_device_is_the_hosts_as_far_as_it_does_not_say_more() {
        let form = |kind, numbers| DeviceForm { kind, numbers, ..DeviceForm::default() };
        let null = |form: DeviceForm| DeviceNode { form, ..asked(Path::new("/dev/null"), "/dev/x") };
        let one = |node: DeviceNode| find_devices(&[node]).map(|mut found| found.remove(0));
        let host = one(null(form(Some('c'), None))).unwrap();
        assert_eq!((host.major, host.minor, host.mode, host.uid), (1, 3, 0o666, Some(0)));
        let other = one(null(DeviceForm {
            mode: Some(0o640),
            of_user: true,
            gid: Some(6),
            ..form(None, Some((1, 5)))
        }));
        let other = other.unwrap();
        assert_eq!(
            (other.major, other.minor, other.mode, other.uid, other.gid),
            (1, 5, 0o640, None, Some(6))
        );
        let refused = one(null(form(Some('b'), None))).unwrap_err().to_string();
        assert!(refused.contains("/dev/null") && refused.contains("'b'"), "{refused}");

        let absent = |form| DeviceNode { form, ..asked(Path::new("/dev/no-such-device"), "/dev/x") };
        assert!(
            one(absent(form(Some('c'), None))).is_err() && one(absent(form(None, Some((1, 3))))).is_err()
        );
        let made = one(absent(form(Some('b'), Some((7, 9))))).unwrap();
        assert_eq!((made.rule().kind, made.rule().major, made.rule().minor), ('b', Some(7), Some(9)));
        assert_eq!((made.mode, made.uid, made.gid), (0o666, Some(0), Some(0)));
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
