//! The daemon's hold on a worker, whatever its job is.

use std::{
    io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tracing::warn;

use super::{Workers, job::Job};
use crate::sys::{
    process::{self, Ended},
    signal,
};

/// How long a worker that has closed its connection may take to end: it has nothing more to do.
const END_MAX: Duration = Duration::from_secs(5);
/// On its way to a worker; bytes.
const CONNECTION_BYTES: usize = 1 << 20;
/// SIGKILL.
const KILL: i32 = 9;

/// A process that works on one layer, a child of this one. Dropped, it is killed and reaped.
#[derive(Debug)]
pub struct Worker {
    pub(super) connection: UnixStream,
    process: Process,
}

#[derive(Debug)]
enum Process {
    /// Its pidfd.
    Child(OwnedFd),
    #[cfg(any(test, feature = "fuzzing"))]
    Thread,
    Reaped,
}

impl Worker {
    /// A child with the pidfd `process` that runs [`super::worker_main`] on the other end of `connection`.
    pub fn new(connection: UnixStream, process: OwnedFd) -> Self {
        Self { connection, process: Process::Child(process) }
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn thread(connection: UnixStream) -> Self {
        Self { connection, process: Process::Thread }
    }

    /// Forks one that is held by `leash`, and gives it its job. Blocks.
    ///
    /// # Errors
    /// When there is none, or nobody wants it any more: what it lacks, in words.
    pub(super) fn employ(
        workers: &dyn Workers,
        leash: &Leash,
        job: &Job<BorrowedFd<'_>>,
    ) -> Result<Self, String> {
        let employ = || -> io::Result<Self> {
            let worker = workers.fork()?;
            leash.hold(&worker)?;
            rustix::net::sockopt::set_socket_send_buffer_size(&worker.connection, CONNECTION_BYTES)?;
            job.send(worker.connection.as_fd())?;
            Ok(worker)
        };
        employ().map_err(|error| format!("has no job: {error}"))
    }

    /// Waits until one that is done is gone. It ends by itself, or is killed.
    ///
    /// # Errors
    /// When its end was not seen.
    pub(super) fn end(&mut self) -> io::Result<()> {
        let Process::Child(pidfd) = &self.process else { return Ok(()) };
        // That it has ended already is what is wanted.
        let _ended: io::Result<()> = signal::send(pidfd.as_fd(), KILL);
        self.reap().map(drop)
    }

    /// Why there is no answer, or none to the end: what has become of the process.
    pub(super) fn fate(&mut self) -> String {
        if let Process::Child(pidfd) = &self.process
            && !process::wait_for_end(pidfd, END_MAX)
        {
            return "hung up without an answer and did not end".into();
        }
        match self.reap() {
            Ok(Some(Ended::Signal(signal))) => format!("was killed by signal {signal}"),
            Ok(Some(Ended::Code(code))) => format!("ended with code {code} and without an answer"),
            Ok(None) => "ended without an answer".into(),
            Err(error) => format!("ended, and how was not seen: {error}"),
        }
    }

    /// Waits for its end. `None` when it was not seen.
    fn reap(&mut self) -> io::Result<Option<Ended>> {
        let Process::Child(pidfd) = std::mem::replace(&mut self.process, Process::Reaped) else {
            return Ok(None);
        };
        process::wait_by_pidfd(pidfd.as_fd()).map(Some)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            warn!(%error, "the end of an image worker was not seen");
        }
    }
}

/// Holds the workers of one piece of work, so that they can be killed from elsewhere while a thread waits for them.
#[derive(Clone, Debug, Default)]
pub(in crate::image) struct Leash(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    is_cut: bool,
    workers: Vec<OwnedFd>,
}

/// Kills the workers of a [`Leash`] when it is dropped, also those that come later.
#[derive(Debug)]
pub(in crate::image) struct Cut(Leash);

impl Leash {
    /// The guard of the one who wants the work.
    pub(in crate::image) fn cut_on_drop(&self) -> Cut {
        Cut(self.clone())
    }

    fn hold(&self, worker: &Worker) -> io::Result<()> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &worker.process {
            Process::Child(pidfd) if !held.is_cut => held.workers.push(pidfd.try_clone()?),
            _ if held.is_cut => return Err(io::Error::other("nobody wants it any more")),
            _ => {}
        }
        Ok(())
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        let mut held = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.is_cut = true;
        for worker in held.workers.drain(..) {
            // One that has ended is what is wanted.
            let _ended: io::Result<()> = signal::send(worker.as_fd(), KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Threads, job::Task},
        *,
    };

    #[test]
    fn a_worker_on_a_leash_that_was_cut_is_killed() {
        let leash = Leash::default();
        drop(leash.cut_on_drop());
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pidfd = process::pidfd(child.id().try_into().unwrap()).unwrap();
        let worker = Worker::new(UnixStream::pair().unwrap().0, pidfd);
        assert!(leash.hold(&worker).is_err());
        drop(worker);
        assert!(child.try_wait().is_err(), "it was killed and reaped");
        let job = Job { layer: "sha256:ab".into(), task: Task::Decompress };
        let error = Worker::employ(&Threads, &leash, &job).unwrap_err();
        assert_eq!(error, "has no job: nobody wants it any more");
    }
}
