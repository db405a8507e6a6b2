//! A daemon's connection as the supervisor holds it: it never waits for the other side.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use super::super::wire::{Assembler, Frame, Outgoing};

/// Bytes that may wait for a daemon that does not read; past it the connection is closed, and the next one
/// begins with all the facts anyway.
const WAITING_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Who waits for an answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Waiter {
    /// Token of the connection.
    pub(super) connection: u64,
    pub(super) sequence: u64,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: OwnedFd,
    pub(super) incoming: Assembler,
    /// The other side has said a hello that we understand.
    pub(super) greeted: bool,
    outgoing: Outgoing,
}

impl Connection {
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self { socket, incoming: Assembler::default(), greeted: false, outgoing: Outgoing::default() })
    }

    /// Queues a frame.
    pub(super) fn push(&mut self, frame: Frame) -> io::Result<()> {
        self.outgoing.push(frame);
        if self.outgoing.bytes() > WAITING_BYTES_MAX {
            return Err(io::Error::other("the daemon does not read"));
        }
        self.flush()
    }

    /// Sends what the socket takes now.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match self.outgoing.flush(self.socket.as_fd()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            flushed => flushed,
        }
    }

    /// Bytes that the socket has not taken yet.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.outgoing.bytes()
    }

    /// Whether to be told when the socket takes more.
    pub(super) fn has_waiting(&self) -> bool {
        !self.outgoing.is_empty()
    }
}
