//! The daemon's side of a worker.

use std::{
    io::{self, BufReader, Read, Write},
    net::Shutdown,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tracing::warn;

use super::{
    super::unpack::{self, LayerError, Limits, Unpacked},
    Workers,
    answer::Answer,
    inside::Job,
};
use crate::sys::{
    process::{self, Ended},
    signal,
};

/// How long a worker may be waited for, in all, before it has taken anything of a tar. Then it is killed: its disk or the
/// worker itself stands still.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// Bytes of a tar and an answer for each further second of waiting. Thirty empty files of a tar: a disk is faster, and a
/// worker that hands on a byte at a time does not last.
const BYTES_PER_SECOND_MIN: u64 = 16 << 10;
/// How long a worker that has closed its connection may take to end: it has nothing more to do.
const END_MAX: Duration = Duration::from_secs(5);
/// Handed on at once; bytes.
const BUFFER_BYTES: usize = 128 << 10;
/// On its way to a worker; bytes.
const CONNECTION_BYTES: usize = 1 << 20;
/// SIGKILL.
const KILL: i32 = 9;

/// A process that unpacks one layer, a child of this one. Dropped, it is killed and reaped.
#[derive(Debug)]
pub struct Worker {
    connection: UnixStream,
    process: Process,
}

#[derive(Debug)]
enum Process {
    /// Its pidfd.
    Child(OwnedFd),
    #[cfg(test)]
    Thread,
    Reaped,
}

impl Worker {
    /// A child with the pidfd `process` that runs [`super::worker_main`] on the other end of `connection`.
    pub fn new(connection: UnixStream, process: OwnedFd) -> Self {
        Self { connection, process: Process::Child(process) }
    }

    #[cfg(test)]
    pub(super) fn thread(connection: UnixStream) -> Self {
        Self { connection, process: Process::Thread }
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
        let Process::Child(pidfd) = &self.process else { return };
        // That it has ended already is what was wanted.
        let _ended: io::Result<()> = signal::send(pidfd.as_fd(), KILL);
        if let Err(error) = self.reap() {
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

/// The unpacking of one layer, by a worker that has its job and waits for the tar.
#[derive(Debug)]
pub(in crate::image) struct Unpacking {
    worker: Worker,
    root: OwnedFd,
}

impl Unpacking {
    /// Forks a worker and gives it the empty directory `root`. `layer` is for people. Blocks.
    ///
    /// # Errors
    /// [`LayerError::Worker`] when there is no worker to be had.
    pub(in crate::image) fn begin(
        workers: &dyn Workers,
        leash: &Leash,
        layer: &str,
        root: OwnedFd,
        limits: Limits,
    ) -> Result<Self, LayerError> {
        let begin = || {
            let worker = workers.fork()?;
            leash.hold(&worker)?;
            rustix::net::sockopt::set_socket_send_buffer_size(&worker.connection, CONNECTION_BYTES)?;
            let job = Job { layer: layer.into(), file_bytes_max: limits.file_bytes_max };
            job.send(worker.connection.as_fd(), &root)?;
            Ok(worker)
        };
        let worker =
            begin().map_err(|error: io::Error| LayerError::Worker(format!("has no job: {error}")))?;
        Ok(Self { worker, root })
    }

    /// Gives it the tar, to its end, and takes the answer. When this returns, the worker is gone and the layer complete.
    /// Blocks.
    ///
    /// # Errors
    /// [`LayerError::Read`] when the tar cannot be read; the worker's reason, or how it ended.
    pub(in crate::image) fn finish(mut self, tar: &mut impl Read) -> Result<Unpacked, LayerError> {
        let mut connection = Patient::new(&self.worker.connection, WAIT_MAX);
        let took_all = feed(&mut connection, tar)?;
        let answer = Answer::read(BufReader::new(connection));
        match answer {
            Ok(Answer::Done(unpacked)) if took_all => {
                // Nothing may change any more once a digest was compared.
                self.end()?;
                unpack::mark_opaque(self.root, &unpacked.opaque)?;
                Ok(unpacked)
            }
            Ok(Answer::Done(_)) => Err(LayerError::Worker("did not read all of it".into())),
            Ok(Answer::Failed { is_full, reason }) => Err(LayerError::Reported { is_full, reason }),
            Err(error) if is_late(&error) => Err(too_slow()),
            Err(error) => Err(self.failure(&error)),
        }
    }

    /// Waits until a worker that is done is gone. It ends by itself, or is killed.
    fn end(&mut self) -> Result<(), LayerError> {
        let Process::Child(pidfd) = &self.worker.process else { return Ok(()) };
        // That it has ended already is what is wanted.
        let _ended: io::Result<()> = signal::send(pidfd.as_fd(), KILL);
        let seen = self.worker.reap();
        seen.map(drop).map_err(|error| LayerError::Worker(format!("does not end: {error}")))
    }

    /// Why there is no answer.
    fn failure(&mut self, error: &io::Error) -> LayerError {
        if error.kind() == io::ErrorKind::InvalidData {
            return LayerError::Worker(format!("gave an answer that is none: {error}"));
        }
        if let Process::Child(pidfd) = &self.worker.process
            && !process::wait_for_end(pidfd, END_MAX)
        {
            return LayerError::Worker("hung up without an answer and did not end".into());
        }
        match self.worker.reap() {
            Ok(Some(Ended::Signal(signal))) => LayerError::Worker(format!("was killed by signal {signal}")),
            Ok(Some(Ended::Code(code))) => {
                LayerError::Worker(format!("ended with code {code} and without an answer"))
            }
            Ok(None) => LayerError::Worker("ended without an answer".into()),
            Err(error) => LayerError::Worker(format!("ended, and how was not seen: {error}")),
        }
    }
}

/// Hands a worker the tar. Whether it was read to its end: a worker that has failed reads no more, and says why.
fn feed(connection: &mut Patient<'_>, tar: &mut impl Read) -> Result<bool, LayerError> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let length = match tar.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(LayerError::Read(error)),
        };
        match connection.write_all(&buffer[..length]) {
            Ok(()) => {}
            Err(error) if is_late(&error) => return Err(too_slow()),
            Err(_) => return Ok(false),
        }
    }
    Ok(connection.stream.shutdown(Shutdown::Write).is_ok())
}

/// A worker's connection. All waiting for the worker has one limit, which grows with the bytes that it takes and gives.
#[derive(Debug)]
struct Patient<'a> {
    stream: &'a UnixStream,
    /// [`WAIT_MAX`], but for tests.
    wait_max: Duration,
    waited: Duration,
    bytes: u64,
}

impl<'a> Patient<'a> {
    fn new(stream: &'a UnixStream, wait_max: Duration) -> Self {
        Self { stream, wait_max, waited: Duration::ZERO, bytes: 0 }
    }

    /// The time that is left for the next call.
    fn left(&self) -> io::Result<Option<Duration>> {
        let earned = Duration::from_secs(self.bytes / BYTES_PER_SECOND_MIN);
        let left = (self.wait_max + earned).saturating_sub(self.waited).min(self.wait_max);
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }

    fn count(&mut self, since: Instant, passed: io::Result<usize>) -> io::Result<usize> {
        self.waited += since.elapsed();
        self.bytes += passed.as_ref().map_or(0, |length| *length as u64);
        passed
    }
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        let since = Instant::now();
        let passed = self.stream.read(buffer);
        self.count(since, passed)
    }
}

impl Write for Patient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        let since = Instant::now();
        let passed = self.stream.write(bytes);
        self.count(since, passed)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn too_slow() -> LayerError {
    let (minutes, kib) = (WAIT_MAX.as_secs() / 60, BYTES_PER_SECOND_MIN >> 10);
    LayerError::Worker(format!(
        "was waited for longer than {minutes} minutes and a second for each {kib} KiB"
    ))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            super::{folder, unpack::testtar::TestTar},
            Threads,
        },
        *,
    };

    const LIMITS: Limits = Limits { file_bytes_max: 1 << 20 };

    fn unpack(tar: &mut impl Read) -> Result<Unpacked, LayerError> {
        let folder = tempfile::tempdir().unwrap();
        let root = folder::open(folder.path()).unwrap();
        Unpacking::begin(&Threads, &Leash::default(), "sha256:ab", root, LIMITS)?.finish(tar)
    }

    #[test]
    fn the_reason_of_a_failure_is_told_though_most_of_the_tar_was_not_read() {
        let tar = TestTar::new().file("../out", "evil").done();
        let error = unpack(&mut tar.as_slice().chain(io::repeat(b'x').take(64 << 20))).unwrap_err();
        assert!(
            matches!(&error, LayerError::Reported { reason, .. } if reason.contains("../out")),
            "{error:?}"
        );
    }

    #[test]
    fn a_worker_that_trickles_is_waited_for_no_longer_than_one_that_stands_still() {
        const PATIENCE: Duration = Duration::from_millis(20);
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let trickle = move || {
            for _ in 0..10_000 {
                let Ok(()) = theirs.write_all(b"x") else { return };
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        std::thread::spawn(trickle);
        let mut connection = Patient::new(&ours, PATIENCE);
        let error = io::copy(&mut connection, &mut io::sink()).unwrap_err();
        assert!(is_late(&error), "{error}");
        // What has passed buys time.
        connection.bytes += 3600 * BYTES_PER_SECOND_MIN;
        assert_eq!(connection.left().unwrap(), Some(PATIENCE));
        assert!(connection.read(&mut [0]).is_ok());
    }

    #[test]
    fn a_worker_that_hangs_up_and_lives_on_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pidfd = process::pidfd(child.id().try_into().unwrap()).unwrap();
        let worker = Worker::new(UnixStream::pair().unwrap().0, pidfd);
        let unpacking = Unpacking { worker, root: folder::open(folder.path()).unwrap() };
        let error = unpacking.finish(&mut io::repeat(0).take(1 << 20)).unwrap_err();
        assert!(error.to_string().ends_with("hung up without an answer and did not end"), "{error}");
        assert!(child.try_wait().is_err(), "it was killed and reaped");
    }

    #[test]
    fn a_worker_on_a_leash_that_was_cut_gets_no_job() {
        let (leash, folder) = (Leash::default(), tempfile::tempdir().unwrap());
        drop(leash.cut_on_drop());
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pidfd = process::pidfd(child.id().try_into().unwrap()).unwrap();
        let worker = Worker::new(UnixStream::pair().unwrap().0, pidfd);
        assert!(leash.hold(&worker).is_err());
        drop(worker);
        assert!(child.try_wait().is_err(), "it was killed and reaped");
        let root = folder::open(folder.path()).unwrap();
        let error = Unpacking::begin(&Threads, &leash, "sha256:ab", root, LIMITS).unwrap_err();
        assert_eq!(error.to_string(), "the process that unpacks it has no job: nobody wants it any more");
    }
}
