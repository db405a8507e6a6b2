//! The process that unpacks a layer: one for each, forked by the zygote from nothing of the daemon's.
//!
//! ```text
//! registry ──► daemon: digests, limits ── tar ──► image worker ──► the layer's directory
//!                     ▲                               │
//!                     └───────── answer ──────────────┘
//! ```
//! - `answer`: what a worker says of a layer, as it goes over the connection. Untrusted where it is read.
//! - `handle`: the daemon's side: gives a worker its job and the tar, takes the answer, kills and reaps.
//! - `inside`: the worker's side. `confinement`: what it gives up before it reads the first byte of a tar.
//!
//! Invariant: a worker that fails, dies or hangs is the error of its own layer. None outlives its layer or this process.
//! Invariant: nothing that a worker says or does changes anything but its own layer, and what is known about that.
//! Not here: forking (`supervisor`, whose zygote is pristine), unpacking itself (`unpack`).

mod answer;
mod confinement;
mod handle;
mod inside;

use std::{fmt, io};

#[cfg(any(test, feature = "fuzzing"))]
pub(super) use answer::Answer;
pub use handle::Worker;
pub(super) use handle::{Leash, Unpacking};
pub use inside::worker_main;

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
