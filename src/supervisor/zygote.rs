//! The process that supervisors and image workers are forked from.
//!
//! It has done nothing yet when it forks: so all supervisors share its relocated pages, and nothing of the
//! daemon is in any of them.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::{AsFd, OwnedFd},
    process::ExitCode,
};

use super::{
    inside::Supervisor,
    wire::{self, Assembler, Outgoing, v1},
};
use crate::{
    image,
    model::{Failure, Stage},
    sys::{
        descriptors, heap, privilege,
        process::{self, Fork, Kept, OneThread},
        signal, title,
    },
};

/// The umask of the zygote and of every process that comes from it, workloads too: 022, as everywhere in the field.
/// Directories become 0755 and files 0644 unless a stricter mode is asked for.
const UMASK_OF_WORKLOADS: rustix::fs::Mode = rustix::fs::Mode::WGRP.union(rustix::fs::Mode::WOTH);

/// What `pintle zygote` does: forks a supervisor or an image worker for each request on standard input, until its end.
///
/// Standard error is a pipe to the daemon, which logs what is written there. A supervisor has it until its pod is set up:
/// so long it does not outlive the daemon.
pub fn zygote_main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("it ends: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Writes a line for the daemon to log.
fn say(text: std::fmt::Arguments<'_>) {
    // Without a daemon there is nobody to hear it.
    let _written: io::Result<()> = writeln!(io::stderr(), "{text}");
}

fn serve() -> io::Result<()> {
    /// SIGCHLD, SIGTERM, SIGINT, SIGHUP, SIGPIPE.
    const IGNORED: [i32; 5] = [17, 15, 2, 1, 13];
    for number in IGNORED {
        // With SIGCHLD ignored the kernel reaps the supervisors; the daemon watches them by pidfd.
        signal::ignore(number, true)?;
    }
    // Supervisors and helpers make what workloads walk through and read: mount points, working directories,
    // cgroups, logs. The daemon's own umask (`daemon/process.rs`) would close all of that to them.
    rustix::process::umask(UMASK_OF_WORKLOADS);
    // How a service manager has the daemon scheduled (`Nice=`, `CPUAffinity=` and their like) is not for workloads.
    process::schedule_as_usual();
    // A daemon that does not read must not make it wait.
    rustix::io::ioctl_fionbio(rustix::stdio::stderr(), true)?;
    title::claim()?;
    title::set("pintle: zygote", "pintle:zygote")?;
    // A service manager's sockets, say: a supervisor must not hold open what the daemon was given.
    // Neither this process nor its supervisors ever start a thread.
    let one_thread = OneThread::prove()?;
    process::close_all_but(&Kept::from_iter([]), one_thread)?;
    let socket = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    rustix::stdio::dup2_stdin(&File::open("/dev/null")?)?;
    let mut incoming = Assembler::default();
    while incoming.fill(socket.as_fd())? {
        while let Some(fork) = incoming.next::<v1::Fork>()? {
            let connection = incoming.take_fds(1)?.pop().ok_or(io::ErrorKind::InvalidData)?;
            let gate = incoming.take_fds(fork.gate.into())?.pop();
            let forked = match fork.image_worker {
                // The daemon's child: it has to see how a worker ends.
                true => process::fork_sibling(one_thread),
                false => process::fork_into(gate.as_ref().map(AsFd::as_fd), one_thread),
            };
            let answer = match forked {
                Ok(Fork::Child) if fork.image_worker => {
                    drop(socket);
                    image::worker_main(connection, one_thread)
                }
                Ok(Fork::Child) => {
                    drop((socket, gate));
                    supervise(&fork.pod_id, connection);
                    process::exit_now(0)
                }
                Ok(Fork::Parent(pid)) => {
                    if fork.image_worker {
                        crate::failpoint!("supervisor.image-worker-forked");
                    }
                    process::pidfd(pid).map(|pidfd| (pid, pidfd))
                }
                Err(error) => Err(error),
            };
            let frame = match answer {
                Ok((pid, pidfd)) => wire::encode(&v1::Forked { pid: pid.get(), failure: None }, vec![pidfd]),
                Err(error) => {
                    let failure = Failure::io(Stage::Internal, "fork", "", &error);
                    let failure = Some(wire::failure_message(failure));
                    wire::encode(&v1::Forked { pid: 0, failure }, Vec::new())
                }
            };
            let mut outgoing = Outgoing::default();
            outgoing.push(frame);
            outgoing.flush(socket.as_fd())?;
        }
    }
    Ok(())
}

/// The life of a supervisor, in the process that the zygote has just forked.
fn supervise(pod: &str, connection: OwnedFd) {
    /// SIGCHLD.
    const CHILD: i32 = 17;
    let ready = || -> io::Result<OwnedFd> {
        signal::ignore(CHILD, false)?;
        process::adopt_orphans()?;
        // Its memory has held what containers were given; its forks stand in their namespaces until execve.
        privilege::forbid_inspection()?;
        heap::wipe_freed();
        // A helper holds one for each volume and layer.
        descriptors::raise_limit()?;
        rustix::process::setsid()?;
        title::set(
            &format!("pintle: supervisor of pod {pod}"),
            &format!("pintle:{}", pod.get(..8).unwrap_or(pod)),
        )?;
        // Its containers set their own before they start.
        process::set_oom_score(-998);
        crate::failpoint_error!("supervisor.begins")?;
        connection.try_clone()
    };
    match ready().and_then(Supervisor::new) {
        Ok(supervisor) => {
            drop(connection);
            supervisor.run();
        }
        // While the connection is open: the daemon kills a supervisor that has hung up.
        Err(error) => say(format_args!("the supervisor of pod {pod} ends before it began: {error}")),
    }
}
