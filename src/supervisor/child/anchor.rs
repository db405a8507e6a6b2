//! The first process of a pid namespace that all containers of a pod share: it adopts, it reaps, and it does
//! nothing else. Executed from the sealed copy of this binary, so that it holds nothing of the supervisor's.

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, OwnedFd},
    process::ExitCode,
};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use crate::{
    launcher::{self, Report, Reporter},
    model::{Failure, PodId, Stage},
    sys::{
        privilege,
        process::{self, Kept, OneThread},
        signal, title,
    },
};

/// What the first process of a shared pid namespace is called elsewhere, so that those who list processes inside
/// know it.
const PAUSE: &str = "/pause";
/// The folder over which its empty root is mounted; it exists on every Linux.
const STAGE: &str = "/tmp";

/// In the new process: mounts a proc(5) of its pid namespace in the pod's `template`, if it may, and becomes `pintle anchor`. The
/// report's socket stays open across that, as standard input.
pub(super) fn execute(pod: &PodId, template: Option<&OwnedFd>, report: &Reporter) -> ! {
    let run = || -> io::Result<()> {
        if let Some(template) = template {
            launcher::mount_pod_proc(template)?;
        }
        rustix::stdio::dup2_stdin(report)?;
        signal::reset_all()?;
        let args = [CString::new(title::room(PAUSE))?, c"anchor".into(), CString::new(pod.as_str())?];
        let args = process::NullTerminated::new(args.iter().map(CString::as_c_str));
        Err(process::execve(c"/proc/self/exe", &args, &process::NullTerminated::new(std::iter::empty())))
    };
    if let Err(error) = run() {
        report.send(&Report::Failed(Failure::io(Stage::Namespace, "anchor", "/proc/self/exe", &error)));
    }
    process::exit_now(1)
}

/// What `pintle anchor` does. Standard input is the report's socket: its end says that the anchor is ready.
pub fn anchor_main() -> ExitCode {
    let pod = std::env::args().nth(2).unwrap_or_default();
    // What it is called is for people: it is an anchor under any name.
    let _named: io::Result<()> = title::claim()
        .and_then(|()| title::set(&format!("{PAUSE} (pintle: shared processes of pod {pod})"), "pause"));
    let Ok(report) = take_report() else { return ExitCode::FAILURE };
    if let Err(error) = close_off(&report) {
        report.send(&Report::Failed(Failure::io(Stage::Namespace, "anchor", "", &error)));
        return ExitCode::FAILURE;
    }
    drop(report);
    // SIGTERM and its like mean nothing to a first process without handlers; SIGKILL from outside ends it.
    loop {
        while matches!(process::reap(), Ok(Some(_))) {}
        if signal::wait_for_child().is_err() {
            return ExitCode::FAILURE;
        }
    }
}

/// The report from where it was put for the execve.
fn take_report() -> io::Result<Reporter> {
    let report = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    rustix::stdio::dup2_stdin(rustix::stdio::stdout())?;
    Ok(Reporter::new(report))
}

/// Gives up everything: an empty root, no capability, no descriptor but the report, no system call but those that a
/// reaper makes. All of the pod's containers may take this process over.
fn close_off(report: &Reporter) -> io::Result<()> {
    // As long as there is a /proc.
    let one_thread = OneThread::prove()?;
    signal::block_child_ended()?;
    process::unshare(process::Namespaces::MOUNT)?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    rustix::mount::mount("anchor", STAGE, "tmpfs", MountFlags::RDONLY, c"mode=0555,size=0")?;
    rustix::process::chdir(STAGE)?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    process::close_all_but(&Kept::from_iter([report.as_fd()]), one_thread)?;
    privilege::forbid_inspection()?;
    privilege::limit_capabilities(0)?;
    privilege::set_capabilities(0, 0)?;
    privilege::allow_only(&privilege::CALLS_OF_A_REAPER, &[])
}
