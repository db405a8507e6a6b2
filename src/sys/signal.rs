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
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
    let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    // SAFETY: duplicating an open descriptor; `SignalFd` gives no way to take the one it owns.
    let copy = unsafe { std::os::fd::BorrowedFd::borrow_raw(std::os::fd::AsRawFd::as_raw_fd(&signals)) }
        .try_clone_to_owned()?;
    Ok(copy)
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
    for signal in 1..=64 {
        // KILL, STOP and glibc's own two refuse; that is fine.
        let _ = ignore(signal, false);
    }
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?)
}
