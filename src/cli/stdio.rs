//! The standard streams of this process, as whoever started it left them.

use std::{
    io::{self, Write},
    os::fd::{BorrowedFd, OwnedFd},
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use bytes::Bytes;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
};
use tokio::sync::{mpsc, oneshot};

use crate::logs::Stream;

/// Bytes of standard input that are read at a time.
const READ_BYTES: usize = 32 * 1024;
/// Pieces of input, and of output, that wait for whoever takes them.
const PIECES_MAX: usize = 8;

/// A standard output that is written at once. It may be one that does not block, because another process that has it
/// too wants it so: then this waits for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct StandardOutput(BorrowedFd<'static>);

pub(super) fn stdout() -> StandardOutput {
    StandardOutput(rustix::stdio::stdout())
}

pub(super) fn stderr() -> StandardOutput {
    StandardOutput(rustix::stdio::stderr())
}

impl Write for StandardOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(self.0, bytes) {
                Err(Errno::AGAIN) => wait(&mut [PollFd::new(&self.0, PollFlags::OUT)])?,
                Err(Errno::INTR) => {}
                written => return Ok(written?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits until one of `fds` is ready, or broken.
fn wait(fds: &mut [PollFd<'_>]) -> io::Result<()> {
    match poll(fds, None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Standard input, read by a thread of its own: reading a terminal may take for ever, and must not keep this process
/// from ending. Dropped, it takes nothing more, so that what is typed then is for the next program.
#[derive(Debug)]
pub(super) struct Input {
    pieces: mpsc::Receiver<Bytes>,
    _stop: OwnedFd,
}

impl Input {
    pub(super) fn start() -> io::Result<Self> {
        let (stopped, stop) = pipe_with(PipeFlags::CLOEXEC)?;
        let (give, pieces) = mpsc::channel(PIECES_MAX);
        let read = move || read_all(&stopped, &give);
        thread::Builder::new().name("stdin".into()).spawn(read)?;
        Ok(Self { pieces, _stop: stop })
    }

    /// `None`: it is at its end.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        self.pieces.recv().await
    }
}

/// What cannot be read any more is at its end.
fn read_all(stopped: &OwnedFd, give: &mpsc::Sender<Bytes>) {
    let stdin = rustix::stdio::stdin();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let mut fds = [PollFd::new(&stdin, PollFlags::IN), PollFd::new(stopped, PollFlags::empty())];
        if wait(&mut fds).is_err() || !fds[1].revents().is_empty() {
            return;
        }
        match rustix::io::read(stdin, &mut buffer) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Ok(0) | Err(_) => return,
            Ok(count) => {
                if give.blocking_send(Bytes::copy_from_slice(&buffer[..count])).is_err() {
                    return;
                }
            }
        }
    }
}

/// Both standard outputs, written by a thread of its own: whoever reads them may take for ever, and signals must be
/// heard meanwhile.
#[derive(Debug)]
pub(super) struct Output {
    pieces: mpsc::Sender<(Stream, Bytes)>,
    count: AtomicU64,
    written: oneshot::Receiver<io::Result<()>>,
}

impl Output {
    pub(super) fn start() -> io::Result<Self> {
        let (pieces, take) = mpsc::channel(PIECES_MAX);
        let (ended, written) = oneshot::channel();
        let write = move || {
            // Nobody is left to be told when this process ends before.
            let _unread = ended.send(write_all(take));
        };
        thread::Builder::new().name("stdout".into()).spawn(write)?;
        Ok(Self { pieces, count: AtomicU64::new(0), written })
    }

    /// `false`: it cannot be written any more; [`Output::finish`] says why.
    pub(super) async fn write(&self, stream: Stream, bytes: Bytes) -> bool {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.pieces.send((stream, bytes)).await.is_ok()
    }

    /// How many pieces there were.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Waits until all is written.
    ///
    /// # Errors
    /// As write(2).
    pub(super) async fn finish(self) -> io::Result<()> {
        drop(self.pieces);
        // The thread ends in no other way.
        self.written.await.unwrap_or(Ok(()))
    }
}

fn write_all(mut pieces: mpsc::Receiver<(Stream, Bytes)>) -> io::Result<()> {
    while let Some((stream, bytes)) = pieces.blocking_recv() {
        let mut output = if stream == Stream::Stdout { stdout() } else { stderr() };
        output.write_all(&bytes)?;
    }
    Ok(())
}
