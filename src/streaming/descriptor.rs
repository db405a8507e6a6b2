//! A pipe, socket or terminal of a workload, read and written without blocking.

use std::{io, os::fd::OwnedFd};

use tokio::io::{Interest, unix::AsyncFd};

use crate::{model::TerminalSize, sys};

/// The daemon's end of a standard stream.
#[derive(Debug)]
pub(super) struct Descriptor(AsyncFd<OwnedFd>);

impl Descriptor {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self(sys::ready::watch(fd)?))
    }

    /// Waits for data and reads at most `max` bytes behind `room` bytes of `chunk`, which becomes as long as both;
    /// `Ok(false)` is the end. While it waits, `chunk` takes no memory.
    pub(super) async fn read(&self, chunk: &mut Vec<u8>, room: usize, max: usize) -> io::Result<bool> {
        loop {
            let mut ready = self.0.readable().await?;
            chunk.resize(room + max, 0);
            let space = chunk.get_mut(room..).unwrap_or_default();
            match ready.try_io(|fd| Ok(rustix::io::read(fd, space)?)) {
                Ok(Ok(count)) => {
                    chunk.truncate(room + count);
                    return Ok(count > 0);
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                // What a terminal says when its last user is gone.
                Ok(Err(error)) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                    return Ok(false);
                }
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => *chunk = Vec::new(),
            }
        }
    }

    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = self.0.async_io(Interest::WRITABLE, |fd| Ok(rustix::io::write(fd, bytes)?));
            match written.await {
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sets the size of a terminal; its foreground processes get SIGWINCH.
    pub(super) fn resize(&self, size: TerminalSize) -> io::Result<()> {
        sys::terminal::resize(self.0.get_ref(), size.columns, size.rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_go_through_and_the_end_is_seen() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let (read, write) = (Descriptor::new(read).unwrap(), Descriptor::new(write).unwrap());
        let sent = vec![7; 300_000];
        let expected = sent.clone();
        let writer = crate::telemetry::task::spawn("test", async move { write.write_all(&sent).await });
        let (mut chunk, mut got) = (Vec::new(), Vec::<u8>::new());
        while read.read(&mut chunk, 8, 1000).await.unwrap() {
            assert!((9..=1008).contains(&chunk.len()));
            got.extend(&chunk[8..]);
        }
        writer.await.unwrap().unwrap();
        assert_eq!(got, expected);
    }

    #[tokio::test]
    async fn the_end_of_a_terminal_is_no_error() {
        let flags = rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY;
        let master = rustix::pty::openpt(flags).unwrap();
        rustix::pty::unlockpt(&master).unwrap();
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).unwrap();
        let master = Descriptor::new(master).unwrap();
        master.resize(TerminalSize { columns: 65_535, rows: 24 }).unwrap();
        let size = rustix::termios::tcgetwinsize(&slave).unwrap();
        assert_eq!((size.ws_col, size.ws_row), (65_535, 24));
        rustix::io::write(&slave, b"bye").unwrap();
        drop(slave);
        let mut chunk = Vec::new();
        assert!(master.read(&mut chunk, 0, 10).await.unwrap());
        assert_eq!(chunk, b"bye");
        assert!(!master.read(&mut chunk, 0, 10).await.unwrap());
    }
}
