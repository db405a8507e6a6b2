//! A daemon's connection as the supervisor holds it: it never waits for the other side.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, OwnedFd},
};

use super::wire::{Assembler, Frame};
use crate::sys::fdpass;

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
    outgoing: VecDeque<Frame>,
    /// Bytes of the first waiting frame that are gone already.
    sent: usize,
    waiting: usize,
}

impl Connection {
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self {
            socket,
            incoming: Assembler::default(),
            greeted: false,
            outgoing: VecDeque::new(),
            sent: 0,
            waiting: 0,
        })
    }

    /// Queues a frame.
    pub(super) fn push(&mut self, frame: Frame) -> io::Result<()> {
        self.waiting += frame.bytes.len();
        if self.waiting > WAITING_BYTES_MAX {
            return Err(io::Error::other("the daemon does not read"));
        }
        self.outgoing.push_back(frame);
        self.flush()
    }

    /// Sends what the socket takes now.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while let Some(frame) = self.outgoing.front() {
            let fds: Vec<_> =
                if self.sent == 0 { frame.fds.iter().map(AsFd::as_fd).collect() } else { Vec::new() };
            match fdpass::send(self.socket.as_fd(), &frame.bytes[self.sent..], &fds) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
            if self.sent == frame.bytes.len() {
                self.waiting -= self.sent;
                self.sent = 0;
                self.outgoing.pop_front();
            }
        }
        Ok(())
    }

    /// Whether to be told when the socket takes more.
    pub(super) fn has_waiting(&self) -> bool {
        !self.outgoing.is_empty()
    }
}
