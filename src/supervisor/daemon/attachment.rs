//! A client's end of an attachment to a container.

use std::{io, os::fd::OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use tokio::io::{Interest, unix::AsyncFd};

use super::super::wire::attach::{self, PACKET_BYTES_MAX};
use crate::{model::TerminalSize, sys};

/// A socket over which a supervisor shows what a container writes, and takes what it shall read. Dropped, it detaches.
#[derive(Debug)]
pub struct Attachment {
    socket: AsyncFd<OwnedFd>,
}

/// What a supervisor shows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Shown {
    Stdout,
    Stderr,
    /// The container has ended, and this was all of its output.
    Ended,
}

impl Attachment {
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        rustix::io::ioctl_fionbio(&ours, true)?;
        Ok((Self { socket: sys::ready::watch(ours)? }, theirs))
    }

    /// Waits for output, which comes behind `room` bytes of `chunk` (at least one). `None`: the supervisor has dropped
    /// this client, which did not read, or is gone. While it waits, `chunk` takes no memory.
    ///
    /// # Errors
    /// As recv(2).
    pub async fn next(&self, chunk: &mut Vec<u8>, room: usize) -> io::Result<Option<Shown>> {
        let head = room.saturating_sub(1);
        loop {
            let mut ready = self.socket.readable().await?;
            chunk.resize(room + PACKET_BYTES_MAX, 0);
            let space = chunk.get_mut(head..).unwrap_or_default();
            match ready.try_io(|socket| Ok(rustix::net::recv(socket, space, RecvFlags::DONTWAIT)?.0)) {
                Ok(Ok(0)) => return Ok(None),
                Ok(Ok(count)) => {
                    chunk.truncate(head + count);
                    match chunk.get(head) {
                        Some(&attach::STDOUT) => return Ok(Some(Shown::Stdout)),
                        Some(&attach::STDERR) => return Ok(Some(Shown::Stderr)),
                        Some(&attach::ENDED) => return Ok(Some(Shown::Ended)),
                        // Of a later supervisor.
                        _ => {}
                    }
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => *chunk = Vec::new(),
            }
        }
    }

    /// Types `bytes`; waits while the container does not read.
    ///
    /// # Errors
    /// As send(2): `BrokenPipe` when the supervisor has closed its end.
    pub async fn stdin(&self, bytes: &[u8]) -> io::Result<()> {
        for part in bytes.chunks(PACKET_BYTES_MAX) {
            self.send(&attach::packet(attach::STDIN, part)).await?;
        }
        Ok(())
    }

    /// Nothing more will be typed.
    ///
    /// # Errors
    /// As `stdin`.
    pub async fn end_stdin(&self) -> io::Result<()> {
        self.send(&[attach::STDIN_ENDED]).await
    }

    /// Sets the size of the container's terminal.
    ///
    /// # Errors
    /// As `stdin`.
    pub async fn resize(&self, size: TerminalSize) -> io::Result<()> {
        self.send(&attach::resize_packet(size)).await
    }

    async fn send(&self, packet: &[u8]) -> io::Result<()> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        self.socket
            .async_io(Interest::WRITABLE, |socket| Ok(rustix::net::send(socket, packet, flags)?))
            .await
            .map(drop)
    }
}
