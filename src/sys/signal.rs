//! Signal dispositions and masks.

use std::{io, os::fd::OwnedFd};

use nix::sys::{
    signal::{SigSet, SigmaskHow, Signal, sigprocmask},
    signalfd::{SfdFlags, SignalFd},
};

/// Blocks SIGCHLD and gives a descriptor that is readable when a child has ended (signalfd(2)).
///
/// # Errors
/// As signalfd(2).
pub fn child_ended() -> io::Result<OwnedFd> {
    block_child_ended()?;
    let signals = SignalFd::with_flags(&child_set(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    // SAFETY: duplicating an open descriptor; `SignalFd` gives no way to take the one it owns.
    let copy = unsafe { std::os::fd::BorrowedFd::borrow_raw(std::os::fd::AsRawFd::as_raw_fd(&signals)) }
        .try_clone_to_owned()?;
    Ok(copy)
}

fn child_set() -> SigSet {
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    set
}

/// Keeps SIGCHLD pending until it is asked for.
///
/// # Errors
/// As sigprocmask(2).
pub fn block_child_ended() -> io::Result<()> {
    Ok(sigprocmask(SigmaskHow::SIG_BLOCK, Some(&child_set()), None)?)
}

/// Sleeps until a SIGCHLD is or becomes pending; it must be blocked.
///
/// # Errors
/// As sigwait(3).
pub fn wait_for_child() -> io::Result<()> {
    Ok(child_set().wait().map(drop)?)
}

/// Sends signal `number` to the process behind a pidfd (pidfd_send_signal(2)).
///
/// # Errors
/// `ESRCH` when it has ended, `EINVAL` for no signal.
pub fn send(pidfd: std::os::fd::BorrowedFd<'_>, number: i32) -> io::Result<()> {
    let fd = std::os::fd::AsRawFd::as_raw_fd(&pidfd);
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a borrowed, open descriptor, an integer, and no siginfo.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, number, none, 0) };
    super::process::check(result).map(drop)
}

/// Ignores `signal`, or gives it its default disposition back.
///
/// # Errors
/// As sigaction(2).
pub fn ignore(signal: i32, ignored: bool) -> io::Result<()> {
    let disposition = if ignored { libc::SIG_IGN } else { libc::SIG_DFL };
    // SAFETY: no handler function is installed.
    let before = unsafe { libc::signal(signal, disposition) };
    if before == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Every signal has its default disposition and none is blocked, as a new program expects it.
///
/// # Errors
/// As sigprocmask(2).
pub fn reset_all() -> io::Result<()> {
    for number in 1..=64 {
        // KILL and STOP refuse: nobody can have ignored them.
        let _kept: io::Result<()> = set(number, libc::SIG_DFL);
    }
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?)
}

/// Sets a disposition by the system call: libc keeps signals 32 and 33 for itself and changes nothing about them.
fn set(number: i32, disposition: libc::sighandler_t) -> io::Result<()> {
    const MASK_BYTES: usize = 8;
    // `struct sigaction` of the kernel: handler, flags, restorer, mask.
    let action = [disposition, 0, 0, 0];
    let before = std::ptr::null_mut::<usize>();
    // SAFETY: the structure is as large as the kernel's; the handler is no function but one of the two words for
    // none; what was before is not asked for.
    let result =
        unsafe { libc::syscall(libc::SYS_rt_sigaction, number, action.as_ptr(), before, MASK_BYTES) };
    super::process::check(result).map(drop)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Set in the process whose signals are reset: they are its own for all threads.
    const RESET_HERE: &str = "PINTLE_TEST_RESET_SIGNALS";

    #[test]
    fn no_signal_stays_ignored_or_blocked_not_even_those_of_libc() {
        if std::env::var_os(RESET_HERE).is_none() {
            let this = "sys::signal::tests::no_signal_stays_ignored_or_blocked_not_even_those_of_libc";
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", "--test-threads=1", this]).env(RESET_HERE, "1");
            assert!(child.status().unwrap().success());
            return;
        }
        for number in (1..=64).filter(|number| ![9, 11, 19].contains(number)) {
            set(number, libc::SIG_IGN).unwrap();
        }
        block_child_ended().unwrap();
        reset_all().unwrap();
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        for name in ["SigIgn", "SigBlk"] {
            assert_eq!(super::super::process::field(&status, name), Some("0000000000000000"), "{name}");
        }
    }
}
