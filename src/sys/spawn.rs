//! Starting a program: once nobody writes it any more, and without a copy of this process's memory.
//!
//! fork(2) copies the page tables of the whole daemon, about a millisecond, and every page that one of its threads writes
//! meanwhile faults. The standard library spares that (posix_spawn(3)) only where nothing else is to be done between the
//! two processes, and a stranger needs more.

use std::{
    cell::Cell,
    ffi::CStr,
    io,
    os::fd::{BorrowedFd, FromRawFd as _, OwnedFd},
    time::Duration,
};

use nix::sys::signal::{SigSet, SigmaskHow};
use tokio::time::{Instant, sleep};

use super::{
    process::{self, NullTerminated, Pid},
    signal,
};

/// How long a program may be open for writing before it is given up; libcni waits as long for a plugin.
const WRITING_MAX: Duration = Duration::from_secs(5);
/// Pause before the next try to execute such a program.
const WRITING_PAUSE: Duration = Duration::from_millis(20);

/// Starts a program once nobody has its file open for writing, which keeps it from being executed (execve(2), `ETXTBSY`):
/// an installer copies it; or this process has written it, and a child that another thread has started meanwhile has not
/// come to its own execve yet.
///
/// # Errors
/// As `start`; `ExecutableFileBusy` after 5 s.
pub async fn once_written<T>(mut start: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let last = Instant::now() + WRITING_MAX;
    loop {
        match start() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && Instant::now() < last => {
                sleep(WRITING_PAUSE).await;
            }
            started => return started,
        }
    }
}

/// A program that is to run as a stranger to this process.
#[derive(Clone, Copy, Debug)]
pub struct Stranger<'a> {
    /// Path of the file.
    pub program: &'a CStr,
    /// With the program's name first.
    pub arguments: &'a NullTerminated<'a>,
    /// All of it: nothing of this process's own environment.
    pub environment: &'a NullTerminated<'a>,
    /// Standard input, output and error. None of them may be one of this process's own standard descriptors.
    pub stdio: [BorrowedFd<'a>; 3],
}

/// A child that runs its program, and is to be reaped.
#[derive(Debug)]
pub struct Started {
    pub pid: Pid,
    pub pidfd: OwnedFd,
}

/// The child's view of its parent's memory: the program that it is to become, and a place for the reason why it could not.
struct Birth<'a> {
    stranger: &'a Stranger<'a>,
    parent: Option<rustix::process::Pid>,
    error: Cell<i32>,
}

/// Stack of the child until its execve: some system calls, one below the other. Bytes.
const STACK_BYTES: usize = 64 << 10;

impl Stranger<'_> {
    /// Starts it: in a session and process group of its own and in `/`, with the usual umask (022), with every signal as a
    /// new program expects it, and with no descriptor but the three standard ones. It is killed when the thread that
    /// starts it ends, as all do with the process.
    ///
    /// The thread waits until the program is executed; the others go on.
    ///
    /// # Errors
    /// As clone(2); what came between it and execve(2); as execve(2). Then there is no child.
    pub fn start(&self) -> io::Result<Started> {
        let parent = Some(rustix::process::getpid());
        let birth = Birth { stranger: self, parent, error: Cell::new(0) };
        // Aligned as every processor's calling convention asks for.
        let mut stack: Vec<u128> = Vec::with_capacity(STACK_BYTES / size_of::<u128>());
        let top = stack.spare_capacity_mut().as_mut_ptr_range().end;
        let mut pidfd: libc::c_int = -1;
        // No handler may run in the child: it would do so in this process's memory.
        let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
        // SAFETY: the child has a stack of its own and this thread stands still until it has executed its program or ended
        // (CLONE_VFORK), so all that it is given outlives it. It allocates nothing and takes no lock.
        let cloned = process::check(
            unsafe {
                libc::clone(run, top.cast(), flags, (&raw const birth).cast_mut().cast(), &raw mut pidfd)
            }
            .into(),
        );
        before.thread_set_mask()?;
        let pid = u32::try_from(cloned?).map_err(|_| io::ErrorKind::InvalidData)?.try_into()?;
        // SAFETY: with CLONE_PIDFD the kernel has opened it for this process, and nobody else has its number.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        match birth.error.get() {
            0 => Ok(Started { pid, pidfd }),
            error => {
                process::wait(pid)?;
                Err(io::Error::from_raw_os_error(error))
            }
        }
    }
}

/// The child.
extern "C" fn run(birth: *mut libc::c_void) -> libc::c_int {
    // SAFETY: the parent has handed over a `Birth`, and stands still.
    let birth = unsafe { &*birth.cast::<Birth<'_>>() };
    let error = match birth.leave_home() {
        Ok(()) => {
            process::execve(birth.stranger.program, birth.stranger.arguments, birth.stranger.environment)
        }
        Err(error) => error,
    };
    birth.error.set(error.raw_os_error().unwrap_or(libc::EIO));
    process::exit_now(127)
}

impl Birth<'_> {
    /// System calls and nothing else: every value of the parent's that is written here stays written there.
    fn leave_home(&self) -> io::Result<()> {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        if rustix::process::getppid() != self.parent {
            // It has died before that.
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        rustix::process::setsid()?;
        rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
        rustix::process::chdir(c"/")?;
        let [input, output, error] = self.stranger.stdio;
        rustix::stdio::dup2_stdin(input)?;
        rustix::stdio::dup2_stdout(output)?;
        rustix::stdio::dup2_stderr(error)?;
        // SAFETY: it closes nothing before the execve.
        process::check(unsafe {
            libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
        })?;
        // Last, for it lets signals through.
        signal::reset_all()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read as _, os::fd::AsFd as _};

    use super::*;
    use crate::sys::process::Ended;

    fn start(script: &CStr) -> io::Result<(Started, File)> {
        run_program(c"/bin/sh", &[c"sh", c"-c", script])
    }

    fn run_program(program: &CStr, arguments: &[&CStr]) -> io::Result<(Started, File)> {
        let null = File::open("/dev/null")?;
        let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let stranger = Stranger {
            program,
            arguments: &NullTerminated::new(arguments.iter().copied()),
            environment: &NullTerminated::new([c"A=1"].into_iter()),
            stdio: [null.as_fd(), theirs.as_fd(), theirs.as_fd()],
        };
        Ok((stranger.start()?, ours.into()))
    }

    fn said(script: &CStr) -> (String, Ended) {
        let (started, mut output) = start(script).unwrap();
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        (text, process::wait_by_pidfd(started.pidfd.as_fd()).unwrap())
    }

    #[test]
    fn a_stranger_has_nothing_of_this_process() {
        // One that children would inherit.
        let ours = File::open("/dev/null").unwrap();
        rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::empty()).unwrap();
        let script = c"env | grep -v '^[_P]'; pwd; umask; ls /proc/self/fd | wc -l; exit 7";
        let with_a_umask_of_its_own = || {
            // Of this thread alone.
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).unwrap();
            rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
            said(script)
        };
        let (text, ended) = std::thread::spawn(with_a_umask_of_its_own).join().unwrap();
        // ls has the folder open.
        assert_eq!((text.as_str(), ended), ("A=1\n/\n0022\n4\n", Ended::Code(7)));
        let (status, _) = said(c"cat /proc/self/status");
        for name in ["SigBlk", "SigIgn"] {
            assert_eq!(process::field(&status, name), Some("0000000000000000"), "{name}");
        }
    }

    #[test]
    fn a_stranger_leads_a_session_and_a_group() {
        let (text, _) = said(c"cut -d' ' -f1,5,6 /proc/$$/stat");
        let numbers: Vec<_> = text.split_whitespace().collect();
        assert!(matches!(numbers[..], [pid, group, session] if pid == group && pid == session), "{text}");
    }

    #[test]
    fn this_process_is_as_it_was() {
        let mask = || SigSet::thread_get_mask().unwrap();
        let (before, folder) = (mask(), std::env::current_dir().unwrap());
        said(c"true");
        assert_eq!((mask(), std::env::current_dir().unwrap()), (before, folder));
    }

    #[test]
    fn a_program_that_cannot_be_executed_is_an_error_and_no_child() {
        let error = run_program(c"/no/such/program", &[c"x"]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let error = run_program(c"/dev/null", &[c"x"]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        let children = std::fs::read_to_string("/proc/thread-self/children").unwrap();
        assert_eq!(children, "");
    }

    #[tokio::test]
    async fn a_program_that_is_written_for_ever_is_given_up() {
        let mut program = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut program, b"#!/bin/sh\n").unwrap();
        rustix::fs::fchmod(program.as_file(), rustix::fs::Mode::RWXU).unwrap();
        let path = std::ffi::CString::new(program.path().as_os_str().as_encoded_bytes()).unwrap();
        let mut tries = 0;
        let start = || {
            tries += 1;
            run_program(&path, &[c"x"])
        };
        let error = once_written(start).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ExecutableFileBusy);
        assert!(tries > 1, "it was waited for");
    }

    #[test]
    fn a_stranger_dies_with_the_thread_that_started_it() {
        let (started, _output) = std::thread::spawn(|| start(c"exec sleep 1000").unwrap()).join().unwrap();
        assert_eq!(process::wait_by_pidfd(started.pidfd.as_fd()).unwrap(), Ended::Signal(libc::SIGKILL));
    }
}
