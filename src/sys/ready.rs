//! Waiting for a descriptor in the async runtime.

use std::{io, os::fd::OwnedFd};

use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the runtime's reactor.
///
/// # Errors
/// As epoll_ctl(2).
pub fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` gives the same open descriptor for as long as it lives, and `AsyncFd` owns it.
    Ok(unsafe { AsyncFd::register(fd) }?)
}
