//! The user namespace of a pod: how it is made, and whose the files are that the pod's containers get.
//!
//! Three views of one file: `root:root` in the container is the first ids of the pod's range on the host; on the disk it
//! is root's where the mount is id-mapped (layers, volumes with a map), else the range's (the writable layer, the pod's
//! files, terminals and pipes).
//!
//! Invariant: no other file of this room changes an owner for the sake of a user namespace.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::fs::{AtFlags, Gid, Uid};

use super::user::Identity;
use crate::{
    model::{Failure, IdMap, IdRange, ResolvedUser, Stage},
    sys::{
        idmap, privilege,
        process::{self, Fork, Namespaces, OneThread, Pid},
    },
};

/// A user namespace, and what it makes of ids.
#[derive(Debug)]
pub struct Users {
    namespace: OwnedFd,
    identity: idmap::Identity,
    map: IdMap,
}

impl Users {
    /// Makes a user namespace below this process's own, without a process in it.
    ///
    /// # Errors
    /// Stage `Namespace`. `ENOSPC` means that the node has as many as it may have (`user.max_user_namespaces`).
    pub fn make(map: &IdMap) -> Result<Self, Failure> {
        let failed = |error: &io::Error| Failure::io(Stage::Namespace, "user", "", error);
        let made = make(map).and_then(|namespace| Ok((idmap::identity(namespace.as_fd())?, namespace)));
        let (identity, namespace) = made.map_err(|error| match error.raw_os_error() {
            Some(NO_SPACE) => Failure {
                text: "there are as many as the node may have (sysctl user.max_user_namespaces)".into(),
                ..failed(&error)
            },
            _ => failed(&error),
        })?;
        Ok(Self { namespace, identity, map: map.clone() })
    }

    /// The descriptor of the namespace.
    pub fn namespace(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }

    /// Which namespace it is.
    pub fn identity(&self) -> idmap::Identity {
        self.identity
    }

    /// The map of the namespace.
    pub fn map(&self) -> &IdMap {
        &self.map
    }

    /// Enters the namespace, as its root with every capability in it and none outside.
    ///
    /// # Errors
    /// As setns(2), setresuid(2).
    pub fn enter(&self) -> io::Result<()> {
        process::enter(self.namespace(), Namespaces::USER)?;
        become_root()
    }

    /// Maps the ids on a detached mount, with `recursive` also on those below it, as the pod sees them.
    pub(super) fn map_mount(&self, mount: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
        idmap::map_mount(mount, self.namespace(), recursive).map_err(|error| match error.raw_os_error() {
            Some(INVALID) => {
                io::Error::other("its file system, or that of a mount below it, cannot have its ids mapped")
            }
            _ => error,
        })
    }

    /// Gives an open file to the container's root.
    pub(super) fn give_to_root(&self, file: impl AsFd) -> io::Result<()> {
        let (uid, gid) = self.root()?;
        Ok(rustix::fs::fchown(file, Some(uid), Some(gid))?)
    }

    /// Gives what is at `name` in a directory to the container's root; links are not followed.
    pub(super) fn give_entry_to_root(&self, directory: impl AsFd, name: &str) -> io::Result<()> {
        let (uid, gid) = self.root()?;
        Ok(rustix::fs::chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Mount options that make the container's root the owner of a tmpfs.
    pub(super) fn tmpfs_options(&self) -> String {
        match (self.map.host_uid(0), self.map.host_gid(0)) {
            (Some(uid), Some(gid)) => format!(",uid={uid},gid={gid}"),
            _ => String::new(),
        }
    }

    fn root(&self) -> io::Result<(Uid, Gid)> {
        let ids = self.map.host_uid(0).zip(self.map.host_gid(0));
        let (uid, gid) = ids.ok_or_else(|| io::Error::other("the user namespace has no root"))?;
        Ok((Uid::from_raw(uid), Gid::from_raw(gid)))
    }

    /// Whether the namespace has all ids that a process is to have.
    ///
    /// # Errors
    /// Stage `User`, naming the id.
    pub(super) fn check(&self, identity: &Identity) -> Result<(), Failure> {
        let user = &identity.user;
        let missing = |kind: &str, id: u32| {
            let text = format!("the pod's user namespace has no {kind} {id}");
            Failure::new(Stage::User, format!("{id:?}"), text)
        };
        if self.map.host_uid(user.uid).is_none() {
            return Err(missing("user", user.uid));
        }
        let groups = std::iter::once(&user.gid).chain(&user.groups);
        match groups.into_iter().find(|gid| self.map.host_gid(**gid).is_none()) {
            Some(gid) => Err(missing("group", *gid)),
            None => Ok(()),
        }
    }
}

/// The user of the host that a container's user is.
pub(super) fn host_uid(users: Option<&Users>, uid: u32) -> u32 {
    users.and_then(|users| users.map.host_uid(uid)).unwrap_or(uid)
}

/// The user and group of the host that those of the container are; their other groups are left out.
pub(super) fn on_host(users: Option<&Users>, user: &ResolvedUser) -> ResolvedUser {
    let gid = users.and_then(|users| users.map.host_gid(user.gid)).unwrap_or(user.gid);
    ResolvedUser { uid: host_uid(users, user.uid), gid, groups: Vec::new() }
}

/// In a user namespace that this process has entered: its root, who may make files there.
fn become_root() -> io::Result<()> {
    privilege::become_user(0, 0, &[])
}

/// errno(3).
const NO_SPACE: i32 = 28;
const INVALID: i32 = 22;

/// A process makes it, waits until we have written its maps and hold it, and ends.
fn make(map: &IdMap) -> io::Result<OwnedFd> {
    let (ours, theirs) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    match process::fork(OneThread::prove()?)? {
        Fork::Child => {
            drop(ours);
            let errno = process::unshare(Namespaces::USER).err().map_or(0, |error| {
                // All of unshare(2)'s have a number.
                error.raw_os_error().unwrap_or(INVALID)
            });
            // Whoever does not read it is gone.
            let told = rustix::io::write(&theirs, &errno.to_ne_bytes());
            let _end = told.and_then(|_| rustix::io::read(&theirs, &mut [0; 1]));
            process::exit_now(0)
        }
        Fork::Parent(pid) => {
            drop(theirs);
            let namespace = mapped(pid, &ours, map);
            drop(ours);
            // What it was for is done, or has failed.
            let _ended: io::Result<process::Ended> = process::wait(pid);
            namespace
        }
    }
}

fn mapped(pid: Pid, child: &OwnedFd, map: &IdMap) -> io::Result<OwnedFd> {
    let mut errno = [0; 4];
    if rustix::io::read(child, &mut errno)? != errno.len() {
        return Err(io::Error::other("the process that makes it died"));
    }
    match i32::from_ne_bytes(errno) {
        0 => {}
        errno => return Err(io::Error::from_raw_os_error(errno)),
    }
    idmap::write_maps(pid.get(), &lines(&map.uids), &lines(&map.gids))?;
    Ok(File::open(format!("/proc/{pid}/ns/user"))?.into())
}

/// A map as the kernel reads it.
fn lines(ranges: &[IdRange]) -> String {
    let line = |range: &IdRange| format!("{} {} {}\n", range.container, range.host, range.length);
    ranges.iter().map(line).collect()
}
