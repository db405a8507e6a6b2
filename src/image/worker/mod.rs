//! The processes that take a layer apart: one unpacks its tar, one before it decompresses what came from a registry. Each
//! is forked for that layer, by the zygote, from nothing of the daemon's.
//!
//! ```text
//! registry ──► daemon: digest ── compressed ──► image worker: decompressor
//!                                                    │
//!              daemon: digest, limits ◄──── tar ─────┘
//!                │        ▲
//!               tar       └───────── answer ─────────┐
//!                └──────────────────────────► image worker: unpacker ──► the layer's directory
//! ```
//! - `handle`: the daemon's hold on a worker: forks, kills and reaps it. `patience`: how long it is waited for.
//! - `job`: what it is to do. `unpacking`, `decompression`: the daemon's side of either.
//! - `answer`, `piece`: what a worker says of a layer, and the tar that it gives, as they go over the connection. Untrusted
//!   where they are read.
//! - `inside`: the worker's side. `confinement`: what it gives up before it reads the first byte of a stranger's.
//!
//! Invariant: a worker that fails, dies or hangs is the error of its own layer. None outlives its layer or this process.
//! Invariant: nothing that a worker says or does changes anything but its own layer, and what is known about that.
//! Invariant: who has read the tar never says what its digest is; so the two jobs are never one process's.
//! Not here: forking (`supervisor`, whose zygote is pristine), unpacking itself (`unpack`), the decoders (`content`).

mod answer;
mod confinement;
mod decompression;
mod handle;
mod inside;
mod job;
mod patience;
mod piece;
mod unpacking;

use std::{fmt, io};

#[cfg(any(test, feature = "fuzzing"))]
pub(super) use answer::Answer;
pub(super) use decompression::Decompression;
pub(super) use handle::Leash;
pub use handle::Worker;
pub use inside::worker_main;
pub(super) use unpacking::Unpacking;

/// The source of image workers.
pub trait Workers: fmt::Debug + Send + Sync {
    /// Forks a process, a child of this one, that runs [`worker_main`]. Blocks; not for a task.
    ///
    /// # Errors
    /// When there is none, in words.
    fn fork(&self) -> io::Result<Worker>;
}

/// For one who unpacks nothing: lists, removes.
#[derive(Clone, Copy, Debug)]
pub struct NoWorkers;

impl Workers for NoWorkers {
    fn fork(&self) -> io::Result<Worker> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "this process unpacks no layers"))
    }
}

/// Workers that are threads: the test harness has threads, and cannot fork. They take the same way over the same
/// connection, unconfined.
#[cfg(test)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Threads;

#[cfg(test)]
impl Workers for Threads {
    fn fork(&self) -> io::Result<Worker> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        std::thread::spawn(move || inside::work_in_thread(theirs.into()));
        Ok(Worker::thread(ours))
    }
}
