//! Walking a file system that somebody else filled, without ever leaving it (openat2(2)).

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    io::Errno,
};

/// Opens `path` inside `root` as that root's own processes would: symbolic links are followed, but none
/// leads out, and none of `/proc`'s magic ones is.
///
/// # Errors
/// As openat2(2).
pub fn open_in_root(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(root, relative, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
}

/// What `make_in_root` makes at the end of the path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Make {
    Directory,
    File,
}

/// As [`open_in_root`] with `O_PATH`, making what is missing (directories 0755, a file 0644).
///
/// # Errors
/// As openat2(2), mkdirat(2); `ELOOP` for a dangling link on the way.
pub fn make_in_root(root: BorrowedFd<'_>, path: &Path, last: Make) -> io::Result<OwnedFd> {
    let mut done = PathBuf::from(".");
    let mut at = open_in_root(root, &done, OFlags::PATH | OFlags::DIRECTORY)?;
    let names: Vec<_> = path
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name),
            Component::ParentDir => Some("..".as_ref()),
            Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
        })
        .collect();
    for (index, name) in names.iter().enumerate() {
        done.push(name);
        let is_last = index + 1 == names.len();
        at = match open_in_root(root, &done, OFlags::PATH) {
            Ok(found) => found,
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {
                make_one(&at, name, is_last && last == Make::File)?;
                open_in_root(root, &done, OFlags::PATH)?
            }
            Err(error) => return Err(error),
        };
    }
    Ok(at)
}

fn make_one(at: &OwnedFd, name: &std::ffi::OsStr, file: bool) -> io::Result<()> {
    let made = if file {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
        rustix::fs::openat(at, name, flags, Mode::from_raw_mode(0o644)).map(drop)
    } else {
        rustix::fs::mkdirat(at, name, Mode::from_raw_mode(0o755))
    };
    match made {
        // Another container of the pod made it in a shared volume just now.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
