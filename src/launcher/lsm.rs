//! The label of a Linux security module that a process changes to when it executes its program: AppArmor's profile, or
//! SELinux's label.

use std::{io, os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{Mode, OFlags, PROC_SUPER_MAGIC},
    io::Errno,
};

use crate::{
    model::{Failure, ProcessPlan, Stage},
    telemetry,
};

/// The files in which a process asks AppArmor for a profile (proc(5), `/proc/PID/attr`). Older kernels have the second
/// alone.
const APPARMOR_EXEC: [&str; 2] = ["self/attr/apparmor/exec", "self/attr/exec"];

/// The files in which a process asks SELinux for the label of its next program, and of the keys that it makes until then.
const SELINUX_EXEC: &str = "self/attr/exec";
const SELINUX_KEYS: &str = "self/attr/keycreate";

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
        if plan.apparmor.is_empty() && plan.selinux.is_empty() {
            return Ok(Self(None));
        }
        let stand_in = telemetry::selinux_stand_in();
        let folder = stand_in.unwrap_or(Path::new("/proc"));
        let open = || -> io::Result<OwnedFd> {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let proc = rustix::fs::open(folder, flags, Mode::empty())?;
            if stand_in.is_none() && rustix::fs::fstatfs(&proc)?.f_type != PROC_SUPER_MAGIC {
                return Err(io::Error::other("is no procfs"));
            }
            Ok(proc)
        };
        let proc = open().map_err(|error| Failure::io(Stage::Privileges, "", folder, &error))?;
        Ok(Self(Some(proc)))
    }

    /// Has this process, and those that it forks, change to the planned label at their next execve(2). Keys that are made
    /// until then get it too.
    ///
    /// # Errors
    /// Stage `Privileges`, naming the profile or label.
    pub(super) fn label_next_program(&self, plan: &ProcessPlan) -> Result<(), Failure> {
        let Some(proc) = &self.0 else { return Ok(()) };
        if !plan.selinux.is_empty() {
            ask_selinux(proc, &plan.selinux)?;
        }
        if plan.apparmor.is_empty() { Ok(()) } else { ask_apparmor(proc, plan) }
    }
}

fn ask_selinux(proc: &OwnedFd, label: &str) -> Result<(), Failure> {
    for path in [SELINUX_KEYS, SELINUX_EXEC] {
        let ask = || -> rustix::io::Result<()> {
            let attribute = rustix::fs::openat(proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
            rustix::io::write(&attribute, label.as_bytes()).map(drop)
        };
        ask().map_err(|error| {
            let label = format!("SELinux label {label}");
            match error {
                Errno::INVAL => {
                    Failure::new(Stage::Privileges, label, "the policy of this node does not know it")
                }
                _ => Failure::io(Stage::Privileges, label, path, &error.into()),
            }
        })?;
    }
    Ok(())
}

fn ask_apparmor(proc: &OwnedFd, plan: &ProcessPlan) -> Result<(), Failure> {
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
