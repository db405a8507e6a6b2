//! Fills the volume that an image asks for with what the image has at its place: every kind of file, with owner,
//! mode, times, attributes and hard links, as if it had been written there.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::PathBuf,
};

use rustix::{
    buffer::spare_capacity,
    ffi::CStr,
    fs::{
        self, AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, Uid,
        XattrFlags,
    },
    io::Errno,
};

/// Directories in one another that are copied; each level holds three descriptors.
const DEPTH_MAX: usize = 256;
/// Names of all attributes of a file, and the value of one; bytes (xattr(7)).
const XATTR_BYTES_MAX: usize = 64 << 10;

/// A file that could not be copied, relative to the volume.
#[derive(Debug)]
pub(super) struct NotCopied {
    pub(super) path: PathBuf,
    pub(super) error: io::Error,
}

/// Copies what is in the directory `from`, which nobody changes meanwhile, into the empty directory `to`; `to` gets
/// the owner and mode of `from` too.
///
/// # Errors
/// The first file that cannot be copied; what was copied before it stays.
pub(super) fn copy_up(from: &OwnedFd, to: &OwnedFd) -> Result<(), NotCopied> {
    let mut copy =
        Copy { top: to.as_fd(), at: PathBuf::new(), depth: 0, linked: HashMap::new(), names: Vec::new() };
    match copy.directory(from, to) {
        Ok(()) => Ok(()),
        Err(error) => Err(NotCopied { path: copy.at, error }),
    }
}

struct Copy<'a> {
    /// The volume.
    top: BorrowedFd<'a>,
    /// The current path below the volume; after an error, the path that failed.
    at: PathBuf,
    depth: usize,
    /// Files with several names: device and inode, and the first name that was copied.
    linked: HashMap<(u64, u64), PathBuf>,
    /// Room for names of attributes.
    names: Vec<u8>,
}

impl Copy<'_> {
    fn directory(&mut self, from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
        if self.depth > DEPTH_MAX {
            return Err(io::Error::other(format!("more than {DEPTH_MAX} directories in one another")));
        }
        self.depth += 1;
        for entry in Dir::read_from(from)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.at.push(OsStr::from_bytes(name.to_bytes()));
            self.entry(from, to, name)?;
            self.at.pop();
        }
        self.depth -= 1;
        self.dress(from, to)
    }

    fn entry(&mut self, from: &OwnedFd, to: &OwnedFd, name: &CStr) -> io::Result<()> {
        let found = fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(found.st_mode);
        let several = kind != FileType::Directory && found.st_nlink > 1;
        let key = (found.st_dev, found.st_ino);
        if let Some(first) = self.linked.get(&key).filter(|_| several) {
            return Ok(fs::linkat(self.top, first, to, name, AtFlags::empty())?);
        }
        match kind {
            FileType::Directory => {
                fs::mkdirat(to, name, Mode::RWXU)?;
                let (below, made) = (open_directory(from, name)?, open_directory(to, name)?);
                self.directory(&below, &made)?;
            }
            FileType::RegularFile => self.file(from, to, name)?,
            FileType::Symlink => {
                let target = fs::readlinkat(from, name, Vec::new())?;
                fs::symlinkat(target, to, name)?;
                dress_by_name(to, name, &found)?;
            }
            FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo | FileType::Socket => {
                fs::mknodat(to, name, kind, Mode::RUSR, found.st_rdev)?;
                dress_by_name(to, name, &found)?;
                fs::chmodat(to, name, Mode::from_raw_mode(found.st_mode), AtFlags::empty())?;
            }
            FileType::Unknown => return Err(io::Error::other("a file of no known kind")),
        }
        if several {
            self.linked.insert(key, self.at.clone());
        }
        Ok(())
    }

    fn file(&mut self, from: &OwnedFd, to: &OwnedFd, name: &CStr) -> io::Result<()> {
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let source = fs::openat(from, name, flags | OFlags::RDONLY, Mode::empty())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
        let (mut source, mut target) = (File::from(source), File::from(target));
        io::copy(&mut source, &mut target)?;
        self.dress(&source.into(), &target.into())
    }

    /// Gives `to` the owner, mode, attributes and time of `from`. In this order: the kernel takes set-user-id and
    /// capabilities off a file whose owner changes.
    fn dress(&mut self, from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
        let found = fs::fstat(from)?;
        fs::fchown(to, Some(Uid::from_raw(found.st_uid)), Some(Gid::from_raw(found.st_gid)))?;
        fs::fchmod(to, Mode::from_raw_mode(found.st_mode))?;
        self.names.clear();
        self.names.reserve(XATTR_BYTES_MAX);
        match fs::flistxattr(from, spare_capacity(&mut self.names)) {
            Ok(_) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        for name in self.names.split(|byte| *byte == 0).filter(|name| is_the_images(name)) {
            let mut value = Vec::with_capacity(XATTR_BYTES_MAX);
            fs::fgetxattr(from, name, spare_capacity(&mut value))?;
            fs::fsetxattr(to, name, &value, XattrFlags::empty())?;
        }
        Ok(fs::futimens(to, &times(&found))?)
    }
}

/// Attributes that a layer can have (`image::unpack`); others are this host's or overlayfs's.
fn is_the_images(attribute: &[u8]) -> bool {
    attribute == b"security.capability" || attribute.starts_with(b"user.")
}

/// Owner and time of what is not opened: links, devices, pipes.
fn dress_by_name(to: &OwnedFd, name: &CStr, found: &Stat) -> io::Result<()> {
    let owner = (Some(Uid::from_raw(found.st_uid)), Some(Gid::from_raw(found.st_gid)));
    fs::chownat(to, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(fs::utimensat(to, name, &times(found), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn times(found: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: found.st_mtime, tv_nsec: found.st_mtime_nsec as _ },
    }
}

fn open_directory(at: &OwnedFd, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(fs::openat(at, name, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};

    use rustix::fs::CWD;

    use super::*;

    fn open(path: &std::path::Path) -> OwnedFd {
        File::open(path).unwrap().into()
    }

    #[test]
    fn every_kind_of_file_is_copied_whatever_its_name() {
        let top = tempfile::tempdir().unwrap();
        let (from, to) = (top.path().join("from"), top.path().join("to"));
        for path in [&from, &to] {
            std::fs::create_dir(path).unwrap();
        }
        let odd = OsStr::from_bytes(b"\xff name\n");
        std::fs::create_dir(from.join(odd)).unwrap();
        std::fs::write(from.join(odd).join("file"), "text").unwrap();
        std::fs::hard_link(from.join(odd).join("file"), from.join("second")).unwrap();
        fs::setxattr(from.join("second"), "user.note", b"kept", XattrFlags::empty()).unwrap();
        std::fs::set_permissions(from.join("second"), std::fs::Permissions::from_mode(0o604)).unwrap();
        std::os::unix::fs::symlink("/nowhere", from.join("link")).unwrap();
        for (name, kind) in [("pipe", FileType::Fifo), ("socket", FileType::Socket)] {
            fs::mknodat(CWD, from.join(name), kind, Mode::RUSR, 0).unwrap();
        }

        copy_up(&open(&from), &open(&to)).unwrap();

        assert_eq!(std::fs::read_to_string(to.join(odd).join("file")).unwrap(), "text");
        let (first, second) =
            (to.join(odd).join("file").metadata().unwrap(), to.join("second").metadata().unwrap());
        assert_eq!((first.ino(), first.mode() & 0o7777), (second.ino(), 0o604));
        assert_eq!(second.modified().unwrap(), from.join("second").metadata().unwrap().modified().unwrap());
        let mut note = [0; 8];
        assert_eq!(fs::getxattr(to.join("second"), "user.note", &mut note).unwrap(), 4);
        assert_eq!(std::fs::read_link(to.join("link")).unwrap(), std::path::Path::new("/nowhere"));
        assert!(to.join("pipe").metadata().unwrap().file_type().is_fifo());
        assert!(to.join("socket").metadata().unwrap().file_type().is_socket());
        assert_eq!(std::fs::read_dir(&to).unwrap().count(), std::fs::read_dir(&from).unwrap().count());
    }

    #[test]
    fn directories_without_end_are_an_error_that_names_the_place() {
        let top = tempfile::tempdir().unwrap();
        let (from, to) = (top.path().join("from"), top.path().join("to"));
        std::fs::create_dir(&to).unwrap();
        let mut path = from.clone();
        (0..=DEPTH_MAX).for_each(|_| path.push("d"));
        std::fs::create_dir_all(&path).unwrap();
        let NotCopied { path, error } = copy_up(&open(&from), &open(&to)).unwrap_err();
        assert!(path.starts_with("d/d"), "{path:?}");
        assert!(error.to_string().contains("256"), "{error}");
    }
}
