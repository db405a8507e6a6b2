//! The daemon's side of a decompressor: hands it compressed bytes as they come and takes the tar, on one thread.

#[cfg(any(test, feature = "fuzzing"))]
use std::os::unix::net::UnixStream;
use std::{
    io::{self, BufRead, Read},
    net::Shutdown,
    time::Instant,
};

use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, recv, send},
};

use super::{
    Leash, Worker, Workers,
    answer::shown,
    job::{Job, Task},
    patience::{Patience, Patient, is_late, too_slow},
    piece::{HEAD_BYTES, Head},
};
use crate::sys::ready;

/// The tar that a worker makes of the compressed bytes of `source`. Reading it blocks.
///
/// What comes out is a stranger's word: only digests of both ends say that one is the other.
#[derive(Debug)]
pub(in crate::image) struct Decompression<R> {
    source: R,
    feeding: Feeding,
    worker: Worker,
    patience: Patience,
    incoming: Incoming,
}

/// How far the worker has the source.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Feeding {
    Underway,
    /// The source was handed over to its end.
    Done,
    /// The worker takes no more of it; it says why, or has ended.
    Refused,
}

/// The place of the next byte in the pieces of the tar.
#[derive(Debug)]
enum Incoming {
    /// In a head, of which there are so many bytes.
    Head([u8; HEAD_BYTES], usize),
    /// In a piece, with so many bytes to come.
    Piece(usize),
    Ended,
}

const NEXT: Incoming = Incoming::Head([0; HEAD_BYTES], 0);

impl<R: BufRead> Decompression<R> {
    /// Forks a worker for `source`. `layer` is for people. Blocks.
    ///
    /// # Errors
    /// When there is no worker to be had.
    pub(in crate::image) fn begin(
        workers: &dyn Workers,
        leash: &Leash,
        layer: &str,
        source: R,
    ) -> io::Result<Self> {
        let job = Job { layer: layer.into(), task: Task::Decompress };
        let worker = Worker::employ(workers, leash, &job);
        Ok(Self::of(worker.map_err(|what| failed(&what))?, source))
    }

    /// A decompression by whoever is at the other end of `connection`.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(in crate::image) fn by(connection: UnixStream, source: R) -> Self {
        Self::of(Worker::thread(connection), source)
    }

    fn of(worker: Worker, source: R) -> Self {
        let (patience, incoming) = (Patience::default(), NEXT);
        Self { source, feeding: Feeding::Underway, worker, patience, incoming }
    }

    /// Takes what there is of the tar; nothing at its end.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing yet; the worker's reason, or how it ended.
    fn take(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            match &mut self.incoming {
                Incoming::Ended => return Ok(0),
                Incoming::Piece(left) => {
                    let most = into.len().min(*left);
                    let got = receive(&mut self.worker, &mut into[..most])?;
                    self.patience.count_bytes(got);
                    *left -= got;
                    if *left == 0 {
                        self.incoming = NEXT;
                    }
                    return Ok(got);
                }
                Incoming::Head(bytes, length) => {
                    *length += receive(&mut self.worker, &mut bytes[*length..])?;
                    if *length == HEAD_BYTES {
                        let head = Head::parse(*bytes);
                        self.incoming = self.begin_piece(head)?;
                    }
                }
            }
        }
    }

    fn begin_piece(&mut self, head: Option<Head>) -> io::Result<Incoming> {
        match head {
            Some(Head::Tar(length)) => Ok(Incoming::Piece(length)),
            Some(Head::End) if self.feeding == Feeding::Done => Ok(Incoming::Ended),
            Some(Head::End) => Err(failed("did not read all of it")),
            Some(Head::Failed(length)) => {
                let mut reason = vec![0; length];
                let got = Patient::new(&self.worker.connection, &mut self.patience).read_exact(&mut reason);
                got.map_err(|error| failed(&if is_late(&error) { too_slow() } else { self.worker.fate() }))?;
                Err(io::Error::new(io::ErrorKind::InvalidData, shown(&reason)))
            }
            None => Err(failed("gave an answer that is none")),
        }
    }

    /// Hands on what there is of the source, as far as it fits; waits for the source, and not for the worker. Whether
    /// anything was handed on, its end too.
    fn feed(&mut self) -> io::Result<bool> {
        if self.feeding != Feeding::Underway {
            return Ok(false);
        }
        let held = match self.source.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            held => held?,
        };
        if held.is_empty() {
            let ended = self.worker.connection.shutdown(Shutdown::Write);
            self.feeding = if ended.is_ok() { Feeding::Done } else { Feeding::Refused };
            return Ok(true);
        }
        match send(&self.worker.connection, held, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(length) => {
                self.source.consume(length);
                self.patience.count_bytes(length);
                Ok(true)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(_) => {
                self.feeding = Feeding::Refused;
                Ok(true)
            }
        }
    }

    /// Waits until the worker gives something, or takes something while there is something for it.
    fn wait(&mut self) -> io::Result<()> {
        let left = self.patience.left().map_err(|_| failed(&too_slow()))?;
        let since = Instant::now();
        let connection = &self.worker.connection;
        match self.feeding {
            Feeding::Underway => ready::wait_readable_or_writable(connection, left)?,
            Feeding::Done | Feeding::Refused => ready::wait_readable(connection, left)?,
        };
        self.patience.count_wait(since);
        Ok(())
    }
}

impl<R: BufRead> Read for Decompression<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        loop {
            // First what the worker has: it may be full of it.
            match self.take(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                taken => return taken,
            }
            if !self.feed()? {
                self.wait()?;
            }
        }
    }
}

/// Receives what there is, at least one byte.
fn receive(worker: &mut Worker, into: &mut [u8]) -> io::Result<usize> {
    match recv(&worker.connection, &mut *into, RecvFlags::DONTWAIT) {
        Ok((1.., got)) => Ok(got),
        Err(Errno::AGAIN | Errno::INTR) => Err(io::ErrorKind::WouldBlock.into()),
        Ok(_) | Err(_) => Err(failed(&worker.fate())),
    }
}

/// The error that `what` has become of the worker.
fn failed(what: &str) -> io::Error {
    io::Error::other(format!("the process that decompresses it {what}"))
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Write as _};

    use super::{
        super::{Threads, piece},
        *,
    };

    fn decompress(source: impl BufRead) -> io::Result<Vec<u8>> {
        let mut tar = Vec::new();
        Decompression::begin(&Threads, &Leash::default(), "sha256:ab", source)?.read_to_end(&mut tar)?;
        Ok(tar)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// More than a connection holds, packed or not.
    fn noise() -> Vec<u8> {
        let numbers = (0..1_500_000u64).map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 13);
        numbers.flat_map(|n| n.to_le_bytes()).collect()
    }

    #[test]
    fn a_layer_comes_out_as_it_was_packed_however_it_arrives() {
        let tar = noise();
        for packed in [gzip(&tar), zstd::encode_all(&tar[..], 1).unwrap()] {
            for capacity in [7, 64 << 10, 16 << 20] {
                let source = BufReader::with_capacity(capacity, &packed[..]);
                assert!(decompress(source).unwrap() == tar, "{capacity}");
            }
        }
        assert_eq!(decompress(&gzip(b"")[..]).unwrap(), b"");
    }

    #[test]
    fn a_worker_may_take_for_long_and_give_nothing() {
        // A frame of zstd that is skipped, larger than the connection, before one that is not.
        let length = 8u32 << 20;
        let skipped =
            [&[0x50, 0x2a, 0x4d, 0x18][..], &length.to_le_bytes(), &vec![7; length as usize]].concat();
        let packed = [skipped, zstd::encode_all(&b"tar"[..], 1).unwrap()].concat();
        assert_eq!(decompress(&packed[..]).unwrap(), b"tar");
    }

    #[test]
    fn the_reason_of_a_failure_is_reported_though_most_was_not_read() {
        let mut packed = gzip(&noise());
        packed[100..200].fill(0xff);
        let source = BufReader::new(packed.as_slice().chain(io::repeat(b'x').take(64 << 20)));
        let error = decompress(source).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (io::ErrorKind::InvalidData, "corrupt deflate stream")
        );
    }

    #[test]
    fn a_source_that_fails_is_the_error() {
        struct Fails;
        impl Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::ConnectionAborted.into())
            }
        }
        let packed = gzip(&noise());
        let source = BufReader::new(packed[..9].chain(Fails));
        assert_eq!(decompress(source).unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }

    /// The tar of `source` by a worker at the other end of `connection`.
    fn by(connection: UnixStream, source: impl BufRead) -> Result<Vec<u8>, String> {
        let mut tar = Vec::new();
        let read = Decompression::by(connection, source).read_to_end(&mut tar);
        read.map(|_| tar).map_err(|error| error.to_string())
    }

    /// The tar of a worker that answers with `bytes`, whatever it is given.
    fn answered(bytes: &[u8]) -> Result<Vec<u8>, String> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(bytes).unwrap();
        theirs.shutdown(Shutdown::Write).unwrap();
        by(ours, &b"packed"[..])
    }

    #[test]
    fn a_worker_that_ends_while_it_is_fed_has_said_why() {
        /// Has the worker fail just before it would be given something.
        struct Fails(Option<UnixStream>);
        impl Read for Fails {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                if let Some(mut worker) = self.0.take() {
                    worker.write_all(&piece::failure("the reason"))?;
                }
                into.fill(0);
                Ok(into.len())
            }
        }
        let (ours, theirs) = UnixStream::pair().unwrap();
        assert_eq!(by(ours, BufReader::new(Fails(Some(theirs)))).unwrap_err(), "the reason");
    }

    #[test]
    fn a_worker_that_breaks_the_form_is_an_error() {
        let piece = |tag: u8, length: u32, bytes: &[u8]| [&[tag][..], &length.to_le_bytes(), bytes].concat();
        for (bytes, expected) in [
            (piece(b'x', 0, b""), "gave an answer that is none"),
            (piece(b'p', u32::MAX, b""), "gave an answer that is none"),
            (piece(b'e', u32::MAX, b""), "gave an answer that is none"),
            (piece(b'z', 0, b""), "did not read all of it"),
            (piece(b'p', 4, b"ta"), "ended without an answer"),
            (piece(b'e', 4, b"wh"), "ended without an answer"),
            (vec![b'p', 1], "ended without an answer"),
            (Vec::new(), "ended without an answer"),
        ] {
            let error = answered(&bytes).unwrap_err();
            assert_eq!(error, format!("the process that decompresses it {expected}"), "{bytes:?}");
        }
        assert_eq!(answered(&piece::failure("no\x1b[31m way\n")).unwrap_err(), "no[31m way");
    }
}
