//! A layer's directory: every write goes by descriptor below it.

use std::{io, os::fd::OwnedFd, rc::Rc};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, XattrFlags},
    io::Errno,
};

use super::{LayerError, XATTR_BYTES_MAX, archive::Entry, name::Name};
use crate::image::erase;

/// Descriptors of directories kept open between entries. Tars are written directory by directory, so a few
/// save nearly every walk.
const OPEN_DIRECTORIES_MAX: usize = 8;
/// Symbolic links followed for one name, as in the kernel.
const LINKS_FOLLOWED_MAX: usize = 40;
/// The attribute by which overlayfs hides a directory's lower layers.
const OPAQUE: &str = "trusted.overlay.opaque";

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// A layer directory. Names in it are resolved from its root, one descriptor at a time; no link is ever
/// followed by the kernel.
#[derive(Debug)]
pub(in crate::image) struct Tree {
    root: Rc<OwnedFd>,
    open: Vec<(Vec<u8>, Rc<OwnedFd>)>,
}

/// The kind of file at a name before it was cleared.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Was {
    Nothing,
    /// The mark that hides the lower layers' file of that name.
    Whiteout,
    Directory,
    Other,
}

impl Tree {
    pub(in crate::image) fn new(root: OwnedFd) -> Self {
        Self { root: Rc::new(root), open: Vec::new() }
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// The directory `name`, which must be there and must not be reached through a link.
    pub(super) fn directory(&mut self, name: &Name) -> io::Result<Rc<OwnedFd>> {
        if name.parts().is_empty() {
            return Ok(self.root.clone());
        }
        let path = name.to_bytes();
        if let Some(found) = self.open.iter().position(|(open, _)| *open == path) {
            let hit = self.open.remove(found);
            self.open.push(hit);
            return Ok(self.open[self.open.len() - 1].1.clone());
        }
        let fd = Rc::new(fs::openat2(&self.root, path.as_slice(), DIRECTORY, Mode::empty(), BENEATH)?);
        if self.open.len() == OPEN_DIRECTORIES_MAX {
            self.open.remove(0);
        }
        self.open.push((path, fd.clone()));
        Ok(fd)
    }

    /// The same directory, without the links of *this* layer that its name leads through. A link is read
    /// as if the layer were `/`, so no target leads out. The name may point at what does not exist.
    pub(super) fn resolve(&mut self, name: &Name) -> Result<Name, LayerError> {
        match self.directory(name) {
            // A link at the end of a name that must be a directory is "not a directory".
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::LOOP | Errno::NOTDIR)) => {}
            _ => return Ok(name.clone()),
        }
        let mut ahead: Vec<Vec<u8>> = name.parts().iter().rev().cloned().collect();
        let mut done = Vec::new();
        let mut followed = 0;
        while let Some(part) = ahead.pop() {
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    done.pop();
                    continue;
                }
                _ => {}
            }
            let link = self
                .directory(&Name::of(&done))
                .and_then(|dir| Ok(fs::readlinkat(&dir, part.as_slice(), Vec::new())?));
            let Ok(target) = link else {
                done.push(part);
                continue;
            };
            followed += 1;
            if followed > LINKS_FOLLOWED_MAX {
                return Err(LayerError::entry(&name.to_bytes(), "it goes through too many links"));
            }
            let target = target.into_bytes();
            if target.starts_with(b"/") {
                done.clear();
            }
            ahead.extend(target.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
        }
        let resolved = Name::of(&done);
        if resolved.to_bytes().len() > super::PATH_BYTES_MAX as usize {
            return Err(LayerError::entry(&name.to_bytes(), "its links make it too long"));
        }
        Ok(resolved)
    }

    /// Makes the directory `name` and every one above it that is missing; tells `made` of each.
    pub(super) fn make_directories(
        &mut self,
        name: &Name,
        mut made: impl FnMut(Made<'_>) -> Result<(), LayerError>,
    ) -> Result<Rc<OwnedFd>, LayerError> {
        if let Ok(fd) = self.directory(name) {
            return Ok(fd);
        }
        let mut above = self.root.clone();
        for depth in 1..=name.parts().len() {
            let here = Name::of(&name.parts()[..depth]);
            let path = here.to_bytes();
            above = match self.directory(&here) {
                Ok(fd) => fd,
                Err(error) => {
                    let file = name.parts()[depth - 1].as_slice();
                    let hides =
                        match kind_at(&above, file).map_err(|e| LayerError::write("look at", &path, e))? {
                            Was::Nothing => false,
                            Was::Whiteout => true,
                            Was::Directory => return Err(LayerError::write("open directory", &path, error)),
                            Was::Other => {
                                return Err(LayerError::entry(&path, "a file is where a directory must be"));
                            }
                        };
                    make_directory(&above, file, hides)
                        .map_err(|e| LayerError::write("make directory", &path, e))?;
                    let fd =
                        self.directory(&here).map_err(|e| LayerError::write("open directory", &path, e))?;
                    made(Made { path, directory: &fd, hides })?;
                    fd
                }
            };
        }
        Ok(above)
    }

    /// Takes away whatever is at `file`, a whole directory too.
    pub(super) fn clear(&mut self, parent: &OwnedFd, file: &[u8]) -> io::Result<Was> {
        let was = kind_at(parent, file)?;
        match was {
            Was::Nothing => {}
            Was::Whiteout | Was::Other => fs::unlinkat(parent, file, AtFlags::empty())?,
            Was::Directory => {
                self.open.clear();
                erase::at(parent, file)?;
            }
        }
        Ok(was)
    }
}

/// A directory that [`Tree::make_directories`] has just made.
#[derive(Debug)]
pub(super) struct Made<'a> {
    pub(super) path: Vec<u8>,
    directory: &'a OwnedFd,
    /// Whether it has the place of a whiteout, which said that the lower layers' directory is gone: it has to be marked as
    /// opaque, or it would bring that back.
    pub(super) hides: bool,
}

impl Made<'_> {
    /// Marks it as opaque if it has to be.
    pub(super) fn mark(&self) -> Result<(), LayerError> {
        if self.hides {
            set_opaque(self.directory).map_err(|e| LayerError::write("mark opaque", &self.path, e))?;
        }
        Ok(())
    }
}

/// The kind of file at `file`, links not followed.
pub(super) fn kind_at(parent: &OwnedFd, file: &[u8]) -> io::Result<Was> {
    match fs::statat(parent, file, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(Was::Nothing),
        Err(error) => Err(error.into()),
        Ok(stat) => Ok(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Was::Directory,
            FileType::CharacterDevice if stat.st_rdev == 0 => Was::Whiteout,
            _ => Was::Other,
        }),
    }
}

/// Makes a directory, as every tool makes one that nobody described: 0755, root's. One that replaces a whiteout is
/// still to be marked as opaque.
pub(super) fn make_directory(parent: &OwnedFd, file: &[u8], replaces_whiteout: bool) -> io::Result<()> {
    if replaces_whiteout {
        fs::unlinkat(parent, file, AtFlags::empty())?;
    }
    fs::mkdirat(parent, file, Mode::from_raw_mode(0o700))?;
    let fd = fs::openat2(parent, file, DIRECTORY, Mode::empty(), BENEATH)?;
    Ok(fs::fchmod(&fd, Mode::from_raw_mode(0o755))?)
}

/// Hides the lower layers' directory of the same name. Takes CAP_SYS_ADMIN, which an image worker does not have.
pub(super) fn set_opaque(directory: &OwnedFd) -> io::Result<()> {
    Ok(fs::fsetxattr(directory, OPAQUE, b"y", XattrFlags::empty())?)
}

/// Whether [`set_opaque`] was done to it.
pub(super) fn is_opaque(directory: &OwnedFd) -> bool {
    let mut value = [0_u8; 1];
    matches!(fs::fgetxattr(directory, OPAQUE, &mut value), Ok(1) if value == *b"y")
}

/// Opens a directory below `root`, through no link.
pub(super) fn open_directory(root: &OwnedFd, path: &[u8]) -> io::Result<OwnedFd> {
    Ok(fs::openat2(root, path, DIRECTORY, Mode::empty(), BENEATH)?)
}

/// Name and value.
pub(super) type Xattr = (Vec<u8>, Vec<u8>);

/// The attributes of `fd` that a layer may have given it.
pub(super) fn allowed_xattrs(fd: &OwnedFd) -> Result<Vec<Xattr>, Errno> {
    let mut names = vec![0_u8; XATTR_BYTES_MAX];
    let length = match fs::flistxattr(fd, &mut names) {
        Err(Errno::OPNOTSUPP) => 0,
        result => result?,
    };
    let mut found = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| is_allowed_xattr(name)) {
        let mut value = vec![0_u8; XATTR_BYTES_MAX];
        let length = fs::fgetxattr(fd, name, &mut value)?;
        value.truncate(length);
        found.push((name.to_vec(), value));
    }
    Ok(found)
}

/// Makes a device or fifo.
pub(super) fn make_node(
    parent: &OwnedFd,
    file: &[u8],
    kind: FileType,
    (major, minor): (u32, u32),
    entry: &Entry,
) -> io::Result<()> {
    fs::mknodat(parent, file, kind, Mode::from_raw_mode(0o600), fs::makedev(major, minor))?;
    dress_link(parent, file, entry)?;
    // Follows links, but the name was made a line above in a folder that only we can write to.
    Ok(fs::chmodat(parent, file, Mode::from_raw_mode(entry.mode), AtFlags::empty())?)
}

/// Makes the mark that hides the lower layers' file of that name.
pub(in crate::image) fn make_whiteout(parent: &OwnedFd, file: &[u8]) -> io::Result<()> {
    Ok(fs::mknodat(parent, file, FileType::CharacterDevice, Mode::empty(), fs::makedev(0, 0))?)
}

/// Owner and time of what must not be opened: links, devices, fifos.
pub(super) fn dress_link(parent: &OwnedFd, file: &[u8], entry: &Entry) -> io::Result<()> {
    fs::chownat(parent, file, owner(entry.uid), group(entry.gid), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(fs::utimensat(parent, file, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Owner, mode and attributes of an open file or directory. The order matters: the kernel takes set-user-id
/// and capabilities off a file whose owner changes.
pub(super) fn dress(fd: &OwnedFd, entry: &Entry) -> Result<(), LayerError> {
    let failed = |operation| move |source: Errno| LayerError::write(operation, &entry.path, source);
    fs::fchown(fd, owner(entry.uid), group(entry.gid)).map_err(failed("set owner of"))?;
    fs::fchmod(fd, Mode::from_raw_mode(entry.mode)).map_err(failed("set mode of"))?;
    for (name, value) in entry.xattrs.iter().filter(|(name, _)| is_allowed_xattr(name)) {
        if value.len() > XATTR_BYTES_MAX {
            return Err(LayerError::Limit { what: "extended attribute", limit: XATTR_BYTES_MAX as u64 });
        }
        match fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()) {
            // A file system without user attributes still holds the file. Capabilities are another matter.
            Err(Errno::OPNOTSUPP) if name.starts_with(b"user.") => {}
            result => result.map_err(failed(SET_ATTRIBUTE))?,
        }
    }
    Ok(())
}

/// ext4 says "no space" when an attribute is too large for it; that is no full disk.
pub(super) const SET_ATTRIBUTE: &str = "set attribute of";

/// Attributes that mean the same on every machine and give nobody power over ours. `trusted.*` belongs to
/// overlayfs here, `security.selinux` and `system.*` to this host's policy.
fn is_allowed_xattr(name: &[u8]) -> bool {
    name == b"security.capability" || (name.starts_with(b"user.") && !name.starts_with(b"user.overlay."))
}

pub(super) fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() },
    }
}

fn owner(uid: u32) -> Option<fs::Uid> {
    Some(fs::Uid::from_raw(uid))
}

fn group(gid: u32) -> Option<fs::Gid> {
    Some(fs::Gid::from_raw(gid))
}
