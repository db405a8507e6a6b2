//! The label of a Linux security module that a process changes to when it executes its program.

use std::{io, os::fd::OwnedFd};

use rustix::{
    fs::{Mode, OFlags, PROC_SUPER_MAGIC},
    io::Errno,
};

use crate::model::{Failure, ProcessPlan, Stage};

/// The files in which a process asks AppArmor for a profile (proc(5), `/proc/PID/attr`). Older kernels have the second
/// alone.
const APPARMOR_EXEC: [&str; 2] = ["self/attr/apparmor/exec", "self/attr/exec"];

/// The node's `/proc`, by which a process reaches its own attributes from within a container: what is at `/proc` there
/// may be the container's doing.
#[derive(Debug)]
pub(super) struct NodeProc(Option<OwnedFd>);

impl NodeProc {
    /// To be opened in the node's mount and pid namespaces. Nothing is opened for a plan that has no label.
    ///
    /// # Errors
    /// Stage `Privileges`, naming `/proc`.
    pub(super) fn open(plan: &ProcessPlan) -> Result<Self, Failure> {
        if plan.apparmor.is_empty() {
            return Ok(Self(None));
        }
        let open = || -> io::Result<OwnedFd> {
            let proc =
                rustix::fs::open("/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            match rustix::fs::fstatfs(&proc)?.f_type {
                PROC_SUPER_MAGIC => Ok(proc),
                _ => Err(io::Error::other("is no procfs")),
            }
        };
        let proc = open().map_err(|error| Failure::io(Stage::Privileges, "", "/proc", &error))?;
        Ok(Self(Some(proc)))
    }

    /// Has this process, and those that it forks, change to the planned label at their next execve(2).
    ///
    /// # Errors
    /// Stage `Privileges`, naming the profile.
    pub(super) fn label_next_program(&self, plan: &ProcessPlan) -> Result<(), Failure> {
        let Some(proc) = &self.0 else { return Ok(()) };
        let ask = || -> io::Result<()> {
            let open = |path| rustix::fs::openat(proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
            let attribute = match open(APPARMOR_EXEC[0]) {
                Err(Errno::NOENT) => open(APPARMOR_EXEC[1])?,
                opened => opened?,
            };
            rustix::io::write(&attribute, format!("exec {}", plan.apparmor).as_bytes())?;
            Ok(())
        };
        let profile = format!("AppArmor profile {}", plan.apparmor);
        ask().map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::NOENT) => Failure::new(Stage::Privileges, profile, "it is not loaded"),
            _ => Failure::io(Stage::Privileges, profile, "", &error),
        })
    }
}
