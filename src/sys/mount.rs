//! What the new mount API has and rustix lacks: `mount_setattr(2)`.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::mount::OpenTreeFlags;

use super::process::check;

/// How mount events travel to and from a mount (mount_namespaces(7)).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PeerGroup {
    Private,
    Slave,
    Shared,
}

impl PeerGroup {
    fn flag(self) -> u64 {
        match self {
            Self::Private => libc::MS_PRIVATE,
            Self::Slave => libc::MS_SLAVE,
            Self::Shared => libc::MS_SHARED,
        }
    }
}

/// Changes to a mount (mount_setattr(2)).
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    /// `MOUNT_ATTR_RDONLY`.
    pub read_only: bool,
    /// No device file on it works.
    pub nodev: bool,
    /// No program on it can be executed.
    pub noexec: bool,
    /// No program on it changes the user or gains capabilities.
    pub nosuid: bool,
    /// Its propagation; `None` leaves it as it is.
    pub peers: Option<PeerGroup>,
    /// Also all mounts below.
    pub recursive: bool,
}

impl Change {
    /// The flags that are set; what is not named keeps its value.
    fn attributes(self) -> u64 {
        let all = [
            (self.read_only, libc::MOUNT_ATTR_RDONLY),
            (self.nodev, libc::MOUNT_ATTR_NODEV),
            (self.noexec, libc::MOUNT_ATTR_NOEXEC),
            (self.nosuid, libc::MOUNT_ATTR_NOSUID),
        ];
        all.into_iter().filter(|(set, _)| *set).fold(0, |flags, (_, flag)| flags | flag)
    }
}

/// Applies `change` to the mount that `mount` is on.
///
/// # Errors
/// As mount_setattr(2).
pub fn change(mount: BorrowedFd<'_>, change: Change) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: change.attributes(),
        attr_clr: 0,
        propagation: change.peers.map_or(0, PeerGroup::flag),
        userns_fd: 0,
    };
    set_attributes(mount, &attributes, change.recursive)
}

/// mount_setattr(2) on the mount that `mount` is on, and with `recursive` on all below it.
pub(super) fn set_attributes(
    mount: BorrowedFd<'_>,
    attributes: &libc::mount_attr,
    recursive: bool,
) -> io::Result<()> {
    let recursive = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: an empty C string and a live, initialised structure of the size that is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &raw const *attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    check(result).map(drop)
}

/// A detached copy of the mount at `path` (open_tree(2) with `OPEN_TREE_CLONE`), changed before anyone sees it.
///
/// # Errors
/// As open_tree(2) and mount_setattr(2).
pub fn detached(at: BorrowedFd<'_>, path: &Path, change_to: Change) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if change_to.recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    if path.as_os_str().is_empty() {
        flags |= OpenTreeFlags::AT_EMPTY_PATH;
    }
    let tree = rustix::mount::open_tree(at, path, flags)?;
    change(tree.as_fd(), change_to)?;
    Ok(tree)
}

/// Attaches a detached tree over the file or directory that `target` is.
///
/// # Errors
/// As move_mount(2).
pub fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    use rustix::mount::MoveMountFlags as Flags;
    let flags = Flags::MOVE_MOUNT_F_EMPTY_PATH | Flags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(tree, "", target, "", flags)?)
}
