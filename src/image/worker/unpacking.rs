//! The daemon's side of the unpacking of a layer: gives a worker its job and the tar, takes the answer.

use std::{
    io::{self, BufReader, Read, Write as _},
    net::Shutdown,
    os::fd::{AsFd as _, OwnedFd},
};

use super::{
    super::unpack::{self, LayerError, Limits, Unpacked},
    Leash, Worker, Workers,
    answer::Answer,
    job::{Job, Task},
    patience::{Patience, Patient, is_late, too_slow},
};

/// Handed on at once; bytes.
const BUFFER_BYTES: usize = 128 << 10;

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
        let task = Task::Unpack { directory: root.as_fd(), file_bytes_max: limits.file_bytes_max };
        let worker = Worker::employ(workers, leash, &Job { layer: layer.into(), task });
        Ok(Self { worker: worker.map_err(LayerError::Worker)?, root })
    }

    /// Gives it the tar, to its end, and takes the answer. When this returns, the worker is gone and the layer complete.
    /// Blocks.
    ///
    /// # Errors
    /// [`LayerError::Read`] when the tar cannot be read; the worker's reason, or how it ended.
    pub(in crate::image) fn finish(mut self, tar: &mut impl Read) -> Result<Unpacked, LayerError> {
        let mut patience = Patience::default();
        let mut connection = Patient::new(&self.worker.connection, &mut patience);
        let took_all = feed(&mut connection, tar)?;
        let answer = Answer::read(BufReader::new(connection));
        match answer {
            Ok(Answer::Done(unpacked)) if took_all => {
                // Nothing may change any more once a digest was compared.
                let ended = self.worker.end();
                ended.map_err(|error| LayerError::Worker(format!("does not end: {error}")))?;
                unpack::mark_opaque(self.root, &unpacked.opaque)?;
                Ok(unpacked)
            }
            Ok(Answer::Done(_)) => Err(LayerError::Worker("did not read all of it".into())),
            Ok(Answer::Failed { is_full, reason }) => Err(LayerError::Reported { is_full, reason }),
            Err(error) if is_late(&error) => Err(LayerError::Worker(too_slow())),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(LayerError::Worker(format!("gave an answer that is none: {error}")))
            }
            Err(_) => Err(LayerError::Worker(self.worker.fate())),
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
            Err(error) if is_late(&error) => return Err(LayerError::Worker(too_slow())),
            Err(_) => return Ok(false),
        }
    }
    Ok(connection.stream.shutdown(Shutdown::Write).is_ok())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::{
        super::{
            super::{folder, unpack::testtar::TestTar},
            Threads,
        },
        *,
    };
    use crate::sys::process;

    const LIMITS: Limits = Limits { file_bytes_max: 1 << 20 };

    fn begin(leash: &Leash) -> Result<Unpacking, LayerError> {
        let folder = tempfile::tempdir().unwrap();
        let root = folder::open(folder.path()).unwrap();
        Unpacking::begin(&Threads, leash, "sha256:ab", root, LIMITS)
    }

    #[test]
    fn the_reason_of_a_failure_is_told_though_most_of_the_tar_was_not_read() {
        let tar = TestTar::new().file("../out", "evil").done();
        let mut tar = tar.as_slice().chain(io::repeat(b'x').take(64 << 20));
        let error = begin(&Leash::default()).unwrap().finish(&mut tar).unwrap_err();
        assert!(
            matches!(&error, LayerError::Reported { reason, .. } if reason.contains("../out")),
            "{error:?}"
        );
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
    fn a_leash_that_was_cut_gives_no_worker() {
        let leash = Leash::default();
        drop(leash.cut_on_drop());
        let error = begin(&leash).unwrap_err();
        assert_eq!(error.to_string(), "the process that unpacks it has no job: nobody wants it any more");
    }
}
