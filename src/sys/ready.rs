//! Waiting for a descriptor, in the async runtime and without one.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    time::Timespec,
};
use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the runtime's reactor.
///
/// # Errors
/// As epoll_ctl(2).
pub fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` gives the same open descriptor for as long as it lives, and `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register(fd) }?)
}

/// Waits until a descriptor can be read or has hung up, at most for `limit`. False: the time is up. Blocking. A signal does
/// not end it: whoever has a handler for SIGCHLD is interrupted by the end of any child.
///
/// # Errors
/// As poll(2), but not `EINTR`.
pub fn wait_readable(fd: impl AsFd, limit: Duration) -> io::Result<bool> {
    wait_for(PollFlags::IN, fd, limit)
}

/// As [`wait_readable`], or until it can be written.
///
/// # Errors
/// As poll(2), but not `EINTR`.
pub fn wait_readable_or_writable(fd: impl AsFd, limit: Duration) -> io::Result<bool> {
    wait_for(PollFlags::IN | PollFlags::OUT, fd, limit)
}

fn wait_for(events: PollFlags, fd: impl AsFd, limit: Duration) -> io::Result<bool> {
    let began = Instant::now();
    loop {
        let left = limit.saturating_sub(began.elapsed());
        let left = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(&fd, events)], Some(&left)) {
            Err(Errno::INTR) => {}
            ready => return Ok(ready? > 0),
        }
    }
}
