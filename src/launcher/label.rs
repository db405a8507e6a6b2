//! SELinux labels of files: of all that is mounted for a container alone, and of its volumes where that is asked for.

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::PathBuf,
};

use libcontainer::oci_spec::runtime::{Mount, Spec};
use rustix::{
    buffer::spare_capacity,
    fs::{Dir, FileType, Mode, OFlags, ResolveFlags, XattrFlags},
    io::Errno,
};

use crate::telemetry;

/// The attribute that holds a file's label (xattr(7)).
const ATTRIBUTE: &str = "security.selinux";
/// Bytes of a label that is compared with a new one. A longer one is another.
const LABEL_BYTES_MAX: usize = 4096;
/// Directories in one another that get a label; each level holds three descriptors.
const DEPTH_MAX: usize = 256;
/// Files of one volume that get a label. Ten million take minutes, and the kubelet waits two.
const FILES_MAX: usize = 10_000_000;

/// Directories of the host that never get the label of a container: the host would not work any more. As under the
/// peers; what is in them may be relabelled if it is named.
const PROTECTED: [&str; 26] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/etc/passwd",
    "/etc/pki",
    "/etc/shadow",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/usr/bin",
    "/var",
    "/var/lib",
    "/var/log",
];

/// The label of all files on a file system that is about to be mounted (mount(8), `context=`); empty: none.
#[derive(Clone, Copy, Debug)]
pub(super) struct MountLabel<'a>(pub(super) &'a str);

impl MountLabel<'_> {
    /// The value of the option; `None` also where a folder stands in for SELinux.
    fn context(&self) -> Option<&str> {
        (!self.0.is_empty() && telemetry::selinux_stand_in().is_none()).then_some(self.0)
    }

    /// The option among others for mount(2), with a comma before it.
    pub(super) fn option(&self) -> String {
        self.context().map(|label| format!(",context=\"{label}\"")).unwrap_or_default()
    }

    /// Has the file systems of the container's own that take a label mounted with it. Not the spec's `mountLabel`:
    /// libcontainer would ask for it also of the message queues, which take none ([`label_queues`]).
    pub(super) fn add_to(&self, spec: &mut Spec) {
        let Some(label) = self.context() else { return };
        let mut mounts = spec.mounts().clone().unwrap_or_default();
        let labelled = |mount: &&mut Mount| matches!(mount.typ().as_deref(), Some("tmpfs" | "devpts"));
        for mount in mounts.iter_mut().filter(labelled) {
            let mut options = mount.options().clone().unwrap_or_default();
            options.push(format!("context={label}"));
            mount.set_options(Some(options));
        }
        spec.set_mounts(Some(mounts));
    }

    /// Sets the option in a file system context (fsconfig(2)).
    pub(super) fn configure(&self, context: BorrowedFd<'_>) -> rustix::io::Result<()> {
        let Some(label) = self.context() else { return Ok(()) };
        rustix::mount::fsconfig_set_string(context, "context", label)
    }

    /// Puts the label on the root of the file system that is mounted now, where a folder stands in for SELinux.
    pub(super) fn stand_in(&self, root: impl AsFd) -> io::Result<()> {
        if self.0.is_empty() || telemetry::selinux_stand_in().is_none() {
            return Ok(());
        }
        set(root.as_fd(), self.0)
    }

    /// As [`Self::stand_in`], by path.
    pub(super) fn stand_in_at(&self, root: impl rustix::path::Arg) -> io::Result<()> {
        self.stand_in(rustix::fs::open(root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
    }
}

/// A file that could not be labelled, relative to the volume.
#[derive(Debug)]
pub(super) struct NotLabelled {
    pub(super) path: PathBuf,
    pub(super) error: io::Error,
}

/// Gives `label` to a volume's file or directory and to all that is in it, also on file systems that are mounted there.
/// No link is followed, and what is on a file system without labels keeps none.
///
/// # Errors
/// The first file that cannot be labelled; those before it have the label.
pub(super) fn relabel(volume: &OwnedFd, label: &str) -> Result<(), NotLabelled> {
    let mut walk = Walk { label, at: PathBuf::new(), depth: 0, files: 0 };
    match refuse_protected(volume.as_fd()).and_then(|()| walk.file(volume.as_fd())) {
        Ok(()) => Ok(()),
        Err(error) => Err(NotLabelled { path: walk.at, error }),
    }
}

fn refuse_protected(volume: BorrowedFd<'_>) -> io::Result<()> {
    let found = rustix::fs::fstat(volume)?;
    let is_it = |path: &&&str| {
        // One that is not there is not the volume.
        rustix::fs::stat(**path).is_ok_and(|one| (one.st_dev, one.st_ino) == (found.st_dev, found.st_ino))
    };
    match PROTECTED.iter().find(is_it) {
        None => Ok(()),
        Some(path) => Err(io::Error::other(format!("{path} of the host must keep its SELinux labels"))),
    }
}

struct Walk<'a> {
    label: &'a str,
    /// The current path below the volume; after an error, the path that failed.
    at: PathBuf,
    depth: usize,
    files: usize,
}

impl Walk<'_> {
    /// Labels what a descriptor with `O_PATH` is of, and what is in it.
    fn file(&mut self, file: BorrowedFd<'_>) -> io::Result<()> {
        self.files += 1;
        if self.files > FILES_MAX {
            return Err(io::Error::other(format!("more than {FILES_MAX} files to label")));
        }
        match set(file, self.label) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::OPNOTSUPP) => {}
            done => done?,
        }
        let kind = FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode);
        if kind == FileType::Directory { self.content(file) } else { Ok(()) }
    }

    fn content(&mut self, directory: BorrowedFd<'_>) -> io::Result<()> {
        if self.depth >= DEPTH_MAX {
            return Err(io::Error::other(format!("more than {DEPTH_MAX} directories in one another")));
        }
        self.depth += 1;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(directory, ".", flags, Mode::empty())?;
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.at.push(std::ffi::OsStr::from_bytes(name.to_bytes()));
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            match rustix::fs::openat2(&directory, name, flags, Mode::empty(), resolve) {
                Ok(file) => self.file(file.as_fd())?,
                // It was removed meanwhile.
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
            self.at.pop();
        }
        self.depth -= 1;
        Ok(())
    }
}

/// Sets the label of what a descriptor is of, be it a link, unless it has it.
fn set(file: BorrowedFd<'_>, label: &str) -> io::Result<()> {
    // The call that takes a descriptor takes none with O_PATH; this link is no path, it leads to the very file.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let mut held = Vec::with_capacity(LABEL_BYTES_MAX);
    let held = match rustix::fs::getxattr(&path, ATTRIBUTE, spare_capacity(&mut held)) {
        Ok(_) => held.strip_suffix(b"\0").unwrap_or(&held),
        Err(Errno::NODATA | Errno::RANGE) => &[],
        Err(error) => return Err(error.into()),
    };
    if held == label.as_bytes() {
        return Ok(());
    }
    Ok(rustix::fs::setxattr(&path, ATTRIBUTE, &value_of(label), XattrFlags::empty())?)
}

/// A label as chcon(1) writes it: with its NUL.
fn value_of(label: &str) -> Vec<u8> {
    [label.as_bytes(), b"\0"].concat()
}

/// Gives the label to the root of the message queues in this mount namespace: the kernel takes no `context=` for a file
/// system of the IPC namespace, which is there before it is mounted.
///
/// # Errors
/// As setxattr(2).
pub(super) fn label_queues(root: BorrowedFd<'_>, label: &str) -> io::Result<()> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let queues = match rustix::fs::openat2(root, "dev/mqueue", flags, Mode::empty(), resolve) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    match rustix::fs::fsetxattr(&queues, ATTRIBUTE, &value_of(label), XattrFlags::empty()) {
        Err(Errno::OPNOTSUPP) => Ok(()),
        done => Ok(done?),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink, path::Path};

    use rustix::fs::CWD;

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    fn label_of(path: &Path) -> Option<String> {
        let mut value = Vec::with_capacity(LABEL_BYTES_MAX);
        rustix::fs::lgetxattr(path, ATTRIBUTE, spare_capacity(&mut value)).ok()?;
        Some(String::from_utf8(value).unwrap().trim_end_matches('\0').to_owned())
    }

    #[test]
    fn everything_in_a_volume_is_labelled_and_no_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (volume, outside) = (folder.path().join("volume"), folder.path().join("outside"));
        fs::create_dir_all(volume.join("a/b")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(volume.join("a/b/file"), "x").unwrap();
        fs::write(outside.join("file"), "x").unwrap();
        symlink(&outside, volume.join("a/directory")).unwrap();
        symlink(outside.join("file"), volume.join("link")).unwrap();
        symlink("/nowhere", volume.join("dangling")).unwrap();
        rustix::fs::mkfifoat(CWD, volume.join("fifo"), Mode::RUSR).unwrap();
        for label in ["u:o:f:s0:c1", "u:o:f:s0:c1", "u:o:f:s0:c2,c3"] {
            relabel(&open(&volume), label).unwrap();
            for path in ["", "a", "a/b", "a/b/file", "a/directory", "link", "dangling", "fifo"] {
                assert_eq!(label_of(&volume.join(path)).as_deref(), Some(label), "{path}");
            }
        }
        for path in [&outside, &outside.join("file"), folder.path()] {
            assert_eq!(label_of(path), None, "{}", path.display());
        }
        relabel(&open(&volume.join("a/b/file")), "u:o:f:s0").unwrap();
        assert_eq!(
            label_of(&volume.join("a/b/file")).as_deref(),
            Some("u:o:f:s0"),
            "a volume that is a file"
        );
    }

    #[test]
    fn directories_of_the_host_keep_their_labels_by_whatever_name() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        symlink("/usr/../etc", &link).unwrap();
        for path in [Path::new("/"), Path::new("/usr"), Path::new("/proc"), &link] {
            let refused = relabel(&open(path), "u:o:f:s0").unwrap_err();
            assert!(refused.error.to_string().contains("must keep its SELinux labels"), "{refused:?}");
        }
    }

    #[test]
    fn a_volume_that_is_too_deep_is_an_error_that_names_where() {
        let folder = tempfile::tempdir().unwrap();
        let mut at = open(folder.path());
        for _ in 0..=DEPTH_MAX {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "d", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        }
        let refused = relabel(&open(folder.path()), "u:o:f:s0").unwrap_err();
        assert_eq!(refused.path.components().count(), DEPTH_MAX);
        assert!(refused.error.to_string().contains("in one another"), "{refused:?}");
    }

    #[test]
    fn a_file_system_without_labels_is_passed_over() {
        let proc = open(Path::new("/proc/self/attr"));
        relabel(&proc, "u:o:f:s0").unwrap();
    }
}
