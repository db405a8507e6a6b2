//! The daemon's connection to one supervisor: requests out in their order, each answer to whom it belongs, and the
//! moment at which anything was last heard.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use tokio::{
    io::unix::AsyncFd,
    sync::{Notify, oneshot},
};

use super::super::wire::{self, Frame, Outgoing, v1};
use crate::model::{Failure, Stage};

use v1::{reply::Result as Answer, request::Call};

/// Bytes that may wait for a supervisor that does not read. One that is stopped is asked the same few small things
/// again and again; past this it is as good as lost, and what it missed is sent to its next connection.
const WAITING_BYTES_MAX: usize = 8 * 1024 * 1024;

/// An answer, with the descriptors that came with it.
type Answered = (Result<Answer, Failure>, Vec<OwnedFd>);

#[derive(Debug)]
pub(super) struct Transport {
    socket: AsyncFd<OwnedFd>,
    state: Mutex<State>,
    /// The socket is full: [`Transport::drained`] has to wait until it takes more.
    full: Notify,
    next: AtomicU64,
}

#[derive(Debug)]
struct State {
    outgoing: Outgoing,
    /// Who waits for which answer; `None` once the connection is lost.
    waiting: Option<HashMap<u64, oneshot::Sender<Answered>>>,
    heard_at: Instant,
}

impl Transport {
    /// # Errors
    /// When the socket cannot be watched.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        let state =
            State { outgoing: Outgoing::default(), waiting: Some(HashMap::new()), heard_at: Instant::now() };
        Ok(Self {
            socket: crate::sys::ready::watch(socket)?,
            state: Mutex::new(state),
            full: Notify::new(),
            next: AtomicU64::new(1),
        })
    }

    pub(super) fn socket(&self) -> &AsyncFd<OwnedFd> {
        &self.socket
    }

    /// Asks. Never waits: what the socket does not take goes out later, whole and in order, also if nobody waits
    /// for the answer any more.
    ///
    /// # Errors
    /// Stage `Connection` when it is lost, `Limit` for a request that is too large, `Deadline` when too much waits
    /// for the supervisor already.
    pub(super) fn ask(&self, call: Call, fds: Vec<OwnedFd>) -> Result<Waiting<'_>, Failure> {
        let sequence = self.next.fetch_add(1, Ordering::Relaxed);
        let count = u32::try_from(fds.len()).unwrap_or(0);
        let frame = wire::encode(&v1::Request { sequence, fds: count, call: Some(call) }, fds);
        if frame.bytes.len() > wire::FRAME_BYTES_MAX {
            return Err(Failure::new(Stage::Limit, "request", format!("{} bytes", frame.bytes.len())));
        }
        let (sender, answer) = oneshot::channel();
        let mut state = self.state();
        state.waiting.as_mut().ok_or_else(lost)?.insert(sequence, sender);
        let waiting = Waiting { transport: self, sequence, answer };
        let sent = self.send(&mut state, frame);
        drop(state);
        sent.map(|()| waiting)
    }

    pub(super) fn greet(&self) -> Result<(), Failure> {
        self.send(&mut self.state(), wire::encode(&wire::hello(""), Vec::new()))
    }

    fn send(&self, state: &mut State, frame: Frame) -> Result<(), Failure> {
        if state.outgoing.bytes() + frame.bytes.len() > WAITING_BYTES_MAX {
            return Err(Failure::new(Stage::Deadline, "supervisor", "it has not read its requests for long"));
        }
        state.outgoing.push(frame);
        match state.outgoing.flush(self.socket.get_ref().as_fd()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.full.notify_one();
                Ok(())
            }
            Err(error) => Err(Failure::io(Stage::Connection, "", "", &error)),
        }
    }

    /// Sends what the socket did not take at once. Returns only with an error; what was not sent yet stays queued.
    pub(super) async fn drain(&self) -> io::Error {
        loop {
            self.full.notified().await;
            loop {
                let mut writable = match self.socket.writable().await {
                    Ok(writable) => writable,
                    Err(error) => return error,
                };
                match writable.try_io(|socket| self.state().outgoing.flush(socket.as_fd())) {
                    Ok(Ok(())) => break,
                    Ok(Err(error)) => return error,
                    Err(_would_block) => {}
                }
            }
        }
    }

    /// Something came from the supervisor.
    pub(super) fn hear(&self) {
        self.state().heard_at = Instant::now();
    }

    pub(super) fn heard_at(&self) -> Instant {
        self.state().heard_at
    }

    /// Gives an answer to whom it belongs; nobody may be waiting any more.
    pub(super) fn answer(&self, reply: v1::Reply, fds: Vec<OwnedFd>) {
        let waiting = self.state().waiting.as_mut().and_then(|waiting| waiting.remove(&reply.sequence));
        let result = match reply.result {
            Some(Answer::Failure(failure)) => Err(wire::failure(failure)),
            Some(answer) => Ok(answer),
            None => Err(unexpected()),
        };
        if let Some(waiting) = waiting {
            // Whoever waited has just stopped.
            let _unread: Result<(), Answered> = waiting.send((result, fds));
        }
    }

    /// Nothing comes any more: everybody who waits learns of it through the dropped channel.
    pub(super) fn lose(&self) {
        self.state().waiting = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.state().waiting.as_ref().map_or(0, HashMap::len)
    }
}

/// A question that was asked. Dropped, nobody waits for its answer.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    transport: &'a Transport,
    sequence: u64,
    answer: oneshot::Receiver<Answered>,
}

impl Waiting<'_> {
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// May be called again if it was cancelled.
    ///
    /// # Errors
    /// What the supervisor says; stage `Connection` when the connection ends first.
    pub(super) async fn answer(&mut self) -> Result<(Answer, Vec<OwnedFd>), Failure> {
        let (result, fds) = (&mut self.answer).await.map_err(|_| lost())?;
        Ok((result?, fds))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.transport.state().waiting.as_mut() {
            waiting.remove(&self.sequence);
        }
    }
}

pub(super) fn lost() -> Failure {
    Failure::new(Stage::Connection, "", "it closed the connection")
}

pub(super) fn unexpected() -> Failure {
    Failure::new(Stage::Internal, "supervisor", "it answered something else than was asked")
}
