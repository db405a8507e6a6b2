//! The maps of user namespaces, and mounts whose ids are mapped by one (user_namespaces(7), mount_setattr(2)).

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::fs::MetadataExt as _,
    },
};

use super::process::check;

/// What tells one user namespace from another for as long as either lives (namespaces(7)).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// That of another user namespace, whose inode is known.
    #[cfg(test)]
    pub fn of_inode(self, inode: u64) -> Self {
        Self { inode, ..self }
    }
}

/// The user namespace of a process: its pid, or `self`.
///
/// # Errors
/// As stat(2) of `/proc/PID/ns/user`; `NotFound` or `ESRCH` for one that has ended.
pub fn identity_of(process: &str) -> io::Result<Identity> {
    let found = fs::metadata(format!("/proc/{process}/ns/user"))?;
    Ok(Identity { device: found.dev(), inode: found.ino() })
}

/// Which user namespace a descriptor is of.
///
/// # Errors
/// As fstat(2).
pub fn identity(users: BorrowedFd<'_>) -> io::Result<Identity> {
    let found = rustix::fs::fstat(users)?;
    Ok(Identity { device: found.st_dev, inode: found.st_ino })
}

/// Whether the user namespace of process `pid` is below `above`, at any distance.
///
/// # Errors
/// As open(2) of `/proc/PID/ns/user`.
pub fn is_below(pid: u32, above: Identity) -> io::Result<bool> {
    /// Namespaces in one another at most (user_namespaces(7)).
    const DEPTH_MAX: usize = 33;
    let mut at = OwnedFd::from(File::open(format!("/proc/{pid}/ns/user"))?);
    for _ in 0..DEPTH_MAX {
        // None is shown that is not below our own.
        let Ok(parent) = parent(&at) else { return Ok(false) };
        if identity(parent.as_fd())? == above {
            return Ok(true);
        }
        at = parent;
    }
    Ok(false)
}

/// The user namespace in which this one was made (ioctl_ns(2), `NS_GET_PARENT`).
fn parent(users: &OwnedFd) -> io::Result<OwnedFd> {
    /// linux/nsfs.h.
    const NS_GET_PARENT: libc::c_ulong = 0xb702;
    // SAFETY: an open descriptor and no argument.
    let parent = check(unsafe { libc::ioctl(users.as_raw_fd(), NS_GET_PARENT as _) }.into())?;
    let parent = i32::try_from(parent).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(parent) })
}

/// Writes the maps of the user namespace that process `pid`, a child, has just made: lines of the first id inside, the
/// first one of ours, and the number of ids. They are written once, as a whole.
///
/// # Errors
/// As write(2): `EINVAL` for ranges that overlap, `EPERM` without CAP_SETUID and CAP_SETGID.
pub fn write_maps(pid: u32, uids: &str, gids: &str) -> io::Result<()> {
    for (file, lines) in [("uid_map", uids), ("gid_map", gids)] {
        let mut file = File::options().write(true).open(format!("/proc/{pid}/{file}"))?;
        io::Write::write_all(&mut file, lines.as_bytes())?;
    }
    Ok(())
}

/// Maps the ids on a detached mount as the user namespace `users` does: the owner 5 on the disk is seen as the host's id
/// for 5 in there. With `recursive` also on the mounts below it.
///
/// # Errors
/// As mount_setattr(2): `EINVAL` for a file system that cannot be mapped, `EPERM` for a mount that is mapped already.
pub fn map_mount(mount: BorrowedFd<'_>, users: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(users.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?,
    };
    super::mount::set_attributes(mount, &attributes, recursive)
}
