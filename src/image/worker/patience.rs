//! How long a worker is waited for.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

/// How long a worker may be waited for, in all, before it has taken or given anything. Then it is killed: its disk or the
/// worker itself stands still.
const WAIT_MAX: Duration = Duration::from_secs(600);
/// Bytes taken and given for each further second of waiting. Thirty empty files of a tar: a disk is faster, and a
/// worker that hands on a byte at a time does not last.
const BYTES_PER_SECOND_MIN: u64 = 16 << 10;

/// One limit for all waiting for a worker, which grows with the bytes that it takes and gives.
#[derive(Debug)]
pub(super) struct Patience {
    /// [`WAIT_MAX`], but for tests.
    wait_max: Duration,
    waited: Duration,
    bytes: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self { wait_max: WAIT_MAX, waited: Duration::ZERO, bytes: 0 }
    }
}

impl Patience {
    /// The time that is left for the next wait.
    ///
    /// # Errors
    /// `TimedOut` when there is none.
    pub(super) fn left(&self) -> io::Result<Duration> {
        let earned = Duration::from_secs(self.bytes / BYTES_PER_SECOND_MIN);
        let left = (self.wait_max + earned).saturating_sub(self.waited).min(self.wait_max);
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }

    /// Counts bytes that the worker has taken or given.
    pub(super) fn count_bytes(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// Counts a wait that began at `since`.
    pub(super) fn count_wait(&mut self, since: Instant) {
        self.waited += since.elapsed();
    }
}

/// A worker's connection, read and written with patience.
#[derive(Debug)]
pub(super) struct Patient<'a> {
    pub(super) stream: &'a UnixStream,
    patience: &'a mut Patience,
}

impl<'a> Patient<'a> {
    pub(super) fn new(stream: &'a UnixStream, patience: &'a mut Patience) -> Self {
        Self { stream, patience }
    }

    fn count(&mut self, since: Instant, passed: io::Result<usize>) -> io::Result<usize> {
        self.patience.count_wait(since);
        self.patience.count_bytes(*passed.as_ref().unwrap_or(&0));
        passed
    }
}

impl Read for Patient<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.patience.left()?))?;
        let since = Instant::now();
        let passed = self.stream.read(buffer);
        self.count(since, passed)
    }
}

impl Write for Patient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.patience.left()?))?;
        let since = Instant::now();
        let passed = self.stream.write(bytes);
        self.count(since, passed)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether patience has ended.
pub(super) fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// The fate of a worker whose time is up, in words.
pub(super) fn too_slow() -> String {
    let (minutes, kib) = (WAIT_MAX.as_secs() / 60, BYTES_PER_SECOND_MIN >> 10);
    format!("was waited for longer than {minutes} minutes and a second for each {kib} KiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_trickles_is_waited_for_no_longer_than_one_that_stands_still() {
        const WAIT: Duration = Duration::from_millis(20);
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let trickle = move || {
            for _ in 0..10_000 {
                let Ok(()) = theirs.write_all(b"x") else { return };
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        std::thread::spawn(trickle);
        let mut patience = Patience { wait_max: WAIT, ..Patience::default() };
        let error = io::copy(&mut Patient::new(&ours, &mut patience), &mut io::sink()).unwrap_err();
        assert!(is_late(&error), "{error}");
        // What has passed buys time.
        patience.bytes += 3600 * BYTES_PER_SECOND_MIN;
        assert_eq!(patience.left().unwrap(), WAIT);
        assert!(Patient::new(&ours, &mut patience).read(&mut [0]).is_ok());
    }
}
