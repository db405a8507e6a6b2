//! The first process of a pid namespace that all containers of a pod share: it adopts, it reaps, and it does
//! nothing else. Executed from the sealed copy of this binary, so that it holds nothing of the supervisor's.

use std::{io, process::ExitCode};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use crate::{
    launcher::{Report, Reporter},
    model::{Failure, Stage},
    sys::{privilege, process, signal},
};

/// In the new process: becomes `pintle anchor`. The report's socket stays open across it, as standard input.
pub(super) fn execute(report: &Reporter) -> ! {
    let run = || -> io::Result<()> {
        rustix::stdio::dup2_stdin(report)?;
        signal::reset_all()?;
        let args = [c"pintle", c"anchor"];
        let args = process::NullTerminated::new(args.into_iter());
        Err(process::execve(c"/proc/self/exe", &args, &process::NullTerminated::new(std::iter::empty())))
    };
    if let Err(error) = run() {
        report.send(&Report::Failed(Failure::io(Stage::Namespace, "anchor", "/proc/self/exe", &error)));
    }
    process::exit_now(1)
}

/// What `pintle anchor` does. Standard input is the report's socket: its end says that the anchor is ready.
pub fn anchor_main() -> ExitCode {
    if let Err(error) = signal::block_child_ended().and_then(|()| close_off()) {
        let report = rustix::io::dup(rustix::stdio::stdin()).map(Reporter::new);
        if let Ok(report) = report {
            report.send(&Report::Failed(Failure::io(Stage::Namespace, "anchor", "", &error)));
        }
        return ExitCode::FAILURE;
    }
    // SIGTERM and its like mean nothing to a first process without handlers; SIGKILL from outside ends it.
    loop {
        while matches!(process::reap(), Ok(Some(_))) {}
        if signal::wait_for_child().is_err() {
            return ExitCode::FAILURE;
        }
    }
}

/// Gives up everything: an empty root, no capability, no descriptor.
fn close_off() -> io::Result<()> {
    process::unshare(process::Namespaces::MOUNT)?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    rustix::mount::mount("anchor", "/tmp", "tmpfs", MountFlags::RDONLY, c"mode=0555,size=0")?;
    rustix::process::chdir("/tmp")?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    process::close_all_but(&mut [])?;
    privilege::forbid_inspection()?;
    privilege::limit_capabilities(0)?;
    privilege::set_capabilities(0, 0)?;
    // Last: its end is the word that all went well.
    rustix::stdio::dup2_stdin(rustix::stdio::stdout())?;
    Ok(())
}
