//! A container in the pid namespace of others: the pod's, or that of one container.
//!
//! Those others may take over whatever comes into it, if they have CAP_SYS_PTRACE. So libcontainer's process stays
//! outside, with all its privileges, and the container's init is forked into it last. A proc(5) file system shows
//! the pid namespace of whoever mounts it, so it cannot be mounted outside: the anchor mounts the pod's, while it is
//! alone in there; that of one container is what that container has.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use libcontainer::oci_spec::runtime::Spec;
use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags},
    mount::{MountFlags, UnmountFlags},
};

use crate::{
    model::{Failure, Stage},
    sys::{
        mount::{Change, PeerGroup, attach, detached},
        path::is_in_proc,
        process::{self, Ended, Fork, Namespaces, OneThread},
    },
};

/// The path in the template, or in a helper's copy of it, of the proc(5) of others.
pub(super) const PROC: &str = "/joined-proc";

/// A pid namespace that others are in.
#[derive(Debug)]
pub struct Joined {
    pub pid_namespace: OwnedFd,
    /// The mount namespace of the container whose processes they are; `None`: they are the pod's.
    pub target_mounts: Option<OwnedFd>,
}

impl Joined {
    /// A copy of the target's proc(5), as long as it is one of that pid namespace. Leaves this process in the
    /// target's mount namespace.
    pub(super) fn clone_target_proc(&self) -> Result<Option<OwnedFd>, Failure> {
        let Some(mounts) = &self.target_mounts else { return Ok(None) };
        let copy = || -> io::Result<OwnedFd> {
            process::enter(mounts.as_fd(), Namespaces::MOUNT)?;
            let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let proc = rustix::fs::openat2(CWD, "/proc", flags, Mode::empty(), resolve)?;
            self.check(&proc)?;
            let private = Change { peers: Some(PeerGroup::Private), ..Change::default() };
            detached(proc.as_fd(), Path::new(""), private)
        };
        let copied = copy().map_err(|error| Failure::io(Stage::Namespace, "of the target", "/proc", &error));
        copied.map(Some)
    }

    fn check(&self, proc: &OwnedFd) -> io::Result<()> {
        let foreign = || io::Error::other("the target container has something else there");
        if !is_in_proc(proc.as_fd())? {
            return Err(foreign());
        }
        // The first process of a pid namespace lives as long as that does.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let shown = rustix::fs::openat(proc, "1/ns/pid", flags, Mode::empty()).map_err(|_| foreign())?;
        let (shown, joined) = (rustix::fs::fstat(&shown)?, rustix::fs::fstat(&self.pid_namespace)?);
        let same = (shown.st_dev, shown.st_ino) == (joined.st_dev, joined.st_ino);
        if same { Ok(()) } else { Err(foreign()) }
    }
}

/// Puts a copy of the target's proc(5) where the pod's is else.
pub(super) fn attach_target_proc(proc: &OwnedFd) -> io::Result<()> {
    let place = rustix::fs::open(PROC, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    attach(proc.as_fd(), place.as_fd())
}

/// Has the container get its `/proc` from [`PROC`].
pub(super) fn use_joined_proc(spec: &mut Spec) {
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for mount in mounts.iter_mut().filter(|mount| mount.destination() == Path::new("/proc")) {
        let mut options = mount.options().clone().unwrap_or_default();
        options.push("bind".into());
        mount.set_typ(Some("bind".into())).set_source(Some(PROC.into())).set_options(Some(options));
    }
    spec.set_mounts(Some(mounts));
}

/// Mounts proc(5) of the pid namespace that this process is in, alone still, in the pod's template.
///
/// # Errors
/// As setns(2), mount(2).
pub fn mount_pod_proc(template: &OwnedFd) -> io::Result<()> {
    let own = rustix::fs::open("/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    process::enter(template.as_fd(), Namespaces::MOUNT)?;
    mount_over()?;
    process::enter(own.as_fd(), Namespaces::MOUNT)
}

/// Mounts proc(5) of the pid namespace of a pod with a user namespace, in which nobody is but the anchor: that may not
/// mount in the template, which is the host's. Two processes do, the second of them in the pid namespace for a moment.
///
/// # Errors
/// As fork(2), setns(2), mount(2).
pub fn mount_pod_proc_from_outside(template: &OwnedFd, pid_namespace: &OwnedFd) -> io::Result<()> {
    let ended = in_child(|| {
        process::enter(pid_namespace.as_fd(), Namespaces::PID)?;
        let ended = in_child(|| {
            process::enter(template.as_fd(), Namespaces::MOUNT)?;
            mount_over()
        })?;
        if ended == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(ended)) }
    })?;
    if ended == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(ended)) }
}

/// Runs `work` in a process of its own; its errno, or 0.
fn in_child(work: impl FnOnce() -> io::Result<()>) -> io::Result<i32> {
    /// errno(3): for an error that has no number, and a process that was killed.
    const EIO: i32 = 5;
    match process::fork(OneThread::prove()?)? {
        Fork::Child => process::exit_now(work().err().map_or(0, |error| error.raw_os_error().unwrap_or(EIO))),
        Fork::Parent(pid) => Ok(match process::wait(pid)? {
            Ended::Code(code) => code,
            Ended::Signal(_) => EIO,
        }),
    }
}

fn mount_over() -> io::Result<()> {
    // One of a pid namespace that is gone, if there was one.
    match rustix::mount::unmount(PROC, UnmountFlags::DETACH) {
        Ok(()) | Err(rustix::io::Errno::INVAL) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(rustix::mount::mount("proc", PROC, "proc", flags, None)?)
}
