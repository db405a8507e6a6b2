//! Clients that are attached to a container: each has a socket of its own, over which it gets what the container
//! writes and sends what it types.
//!
//! The log comes first, and neither it nor the workload waits for a client: one whose socket is full is dropped. A
//! container that does not read stops the clients that type.

use std::{
    io::IoSlice,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    event::epoll,
    io::Errno,
    net::{RecvFlags, SendAncillaryBuffer, SendFlags},
};

use super::{
    super::wire::{
        attach::{self, FromClient, PACKET_BYTES_MAX},
        v1,
    },
    container::{Container, Phase},
    event_loop::{Source, Supervisor},
};
use crate::{
    logs::Stream,
    model::{ContainerId, Failure, Stage},
    sys,
};

/// Clients of one container. Each costs a descriptor here.
const ATTACHED_MAX: usize = 512;

/// A client.
#[derive(Debug)]
pub(super) struct Attached {
    token: u64,
    socket: OwnedFd,
    stdin: bool,
    stdout: bool,
    stderr: bool,
    /// It has to wait with what it types.
    waits: bool,
}

/// Our end of a container's standard input.
#[derive(Debug)]
pub(super) struct Input {
    fd: OwnedFd,
    pending: Option<Pending>,
}

/// What the container has not taken yet.
#[derive(Debug)]
struct Pending {
    bytes: Vec<u8>,
    /// Watched for room. A copy: a terminal's master is watched for its output already.
    fd: OwnedFd,
    token: u64,
}

impl Input {
    pub(super) fn new(fd: OwnedFd) -> std::io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self { fd, pending: None })
    }
}

impl Container {
    /// Copies what was written to every client that wants it. Gives the tokens of those that cannot keep up.
    fn late_after(&self, stream: Stream, bytes: &[u8]) -> Vec<u64> {
        let mut late = Vec::new();
        for client in &self.attached {
            let wanted = match stream {
                Stream::Stdout => client.stdout,
                Stream::Stderr => client.stderr,
            };
            let mut chunks = bytes.chunks(PACKET_BYTES_MAX);
            if wanted && !chunks.all(|chunk| client.send(attach::of(stream), chunk)) {
                late.push(client.token);
            }
        }
        late
    }
}

impl Attached {
    /// `false`: it has gone, or does not read.
    fn send(&self, kind: u8, bytes: &[u8]) -> bool {
        let kind = [kind];
        let parts = [IoSlice::new(&kind), IoSlice::new(bytes)];
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        rustix::net::sendmsg(&self.socket, &parts, &mut SendAncillaryBuffer::default(), flags).is_ok()
    }
}

impl Supervisor {
    /// Takes a client for a container that has not ended.
    pub(super) fn attach(&mut self, request: &v1::Attach, fds: Vec<OwnedFd>) -> Result<(), Failure> {
        let [socket] = <[OwnedFd; 1]>::try_from(fds)
            .map_err(|_| Failure::new(Stage::Request, "attach", "it needs one descriptor"))?;
        let container = self.find(&request.container_id)?;
        let id = container.id.clone();
        match container.phase {
            Phase::Alive(_) => {}
            Phase::Making(_) | Phase::Ended { .. } | Phase::Exited { .. } => {
                return Err(Failure::new(
                    Stage::WrongState,
                    id.as_str(),
                    "it is not there to be attached to",
                ));
            }
        }
        if container.attached.len() >= ATTACHED_MAX {
            let text = format!("{ATTACHED_MAX} clients are attached already");
            return Err(Failure::new(Stage::Limit, id.as_str(), text));
        }
        let watched = self.watch(socket.as_fd(), Source::Attached(id.clone()));
        let token = watched.map_err(|error| Failure::io(Stage::Internal, id.as_str(), "epoll", &error))?;
        let v1::Attach { stdin, stdout, stderr, .. } = *request;
        if let Some(container) = self.containers.get_mut(&id) {
            container.attached.push(Attached { token, socket, stdin, stdout, stderr, waits: false });
        }
        Ok(())
    }

    /// Shows output to the clients.
    pub(super) fn show(&mut self, id: &ContainerId, stream: Stream, length: usize) {
        let Some(container) = self.containers.get_mut(id).filter(|one| !one.attached.is_empty()) else {
            return;
        };
        for token in container.late_after(stream, self.buffer.get(..length).unwrap_or_default()) {
            self.detach(id, token);
        }
    }

    /// A client has something to say, or has gone.
    pub(super) fn read_attached(&mut self, id: &ContainerId, token: u64) {
        loop {
            let Some(container) = self.containers.get_mut(id) else { return };
            let busy = container.stdin.as_ref().is_some_and(|input| input.pending.is_some());
            let Some(client) = container.attached.iter_mut().find(|client| client.token == token) else {
                return;
            };
            if busy {
                // Its turn comes when the container has read.
                client.waits = true;
                self.watch_attached(id, token);
                return;
            }
            let mut packet = [0; PACKET_BYTES_MAX + 1];
            match rustix::net::recv(&client.socket, &mut packet, RecvFlags::DONTWAIT).map(|(count, _)| count)
            {
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => {}
                Ok(0) | Err(_) => {
                    let typed = client.stdin;
                    self.detach(id, token);
                    if typed {
                        self.input_ended(id);
                    }
                    return;
                }
                Ok(count) => {
                    let said = attach::from_client(packet.get(..count).unwrap_or_default());
                    let typed = client.stdin;
                    match said {
                        Some(FromClient::Stdin(bytes)) if typed => self.type_into(id, bytes),
                        Some(FromClient::StdinEnded) if typed => {
                            client.stdin = false;
                            self.input_ended(id);
                        }
                        Some(FromClient::Resize(size)) => {
                            if let Some((_, _, master)) = container.outputs.first().filter(|_| container.tty)
                            {
                                // Of a terminal that has gone there is no size to set.
                                let _resized = sys::terminal::resize(master, size.columns, size.rows);
                            }
                        }
                        Some(FromClient::Stdin(_) | FromClient::StdinEnded) | None => {}
                    }
                }
            }
        }
    }

    /// The first client that ends its input, or goes, ends that of a container with `stdin_once`. A terminal has no
    /// end of input.
    fn input_ended(&mut self, id: &ContainerId) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if container.stdin_once && !container.tty {
            container.input_ends = true;
            self.close_input_if_done(id);
        }
    }

    fn close_input_if_done(&mut self, id: &ContainerId) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if container.input_ends && container.stdin.as_ref().is_none_or(|input| input.pending.is_none()) {
            container.stdin = None;
        }
    }

    /// Gives the container what was typed; what it does not take now, when it does.
    fn type_into(&mut self, id: &ContainerId, bytes: &[u8]) {
        let Some(input) = self.containers.get_mut(id).and_then(|one| one.stdin.as_mut()) else { return };
        let rest = match write(&input.fd, bytes) {
            Ok(count) => bytes.get(count..).unwrap_or_default(),
            // Nobody reads it any more, and nobody will.
            Err(_) => return,
        };
        if rest.is_empty() {
            return;
        }
        let (bytes, fd) = (rest.to_vec(), input.fd.try_clone());
        let Ok(fd) = fd else { return };
        let watched = self.watch_for(fd.as_fd(), Source::Input(id.clone()), epoll::EventFlags::OUT);
        if let Ok(token) = watched
            && let Some(input) = self.containers.get_mut(id).and_then(|one| one.stdin.as_mut())
        {
            input.pending = Some(Pending { bytes, fd, token });
        }
    }

    /// The container takes input again.
    pub(super) fn write_input(&mut self, id: &ContainerId) {
        let Some(input) = self.containers.get_mut(id).and_then(|one| one.stdin.as_mut()) else { return };
        let Some(mut pending) = input.pending.take() else { return };
        match write(&pending.fd, &pending.bytes) {
            Ok(count) if count < pending.bytes.len() => {
                pending.bytes.drain(..count);
                input.pending = Some(pending);
                return;
            }
            // Written, or nobody reads it any more.
            Ok(_) | Err(_) => self.unwatch(pending.fd.as_fd(), pending.token),
        }
        self.close_input_if_done(id);
        let Some(container) = self.containers.get_mut(id) else { return };
        let waiting: Vec<u64> =
            container.attached.iter().filter(|one| one.waits).map(|one| one.token).collect();
        for token in waiting {
            if let Some(client) = self
                .containers
                .get_mut(id)
                .and_then(|one| one.attached.iter_mut().find(|one| one.token == token))
            {
                client.waits = false;
                self.watch_attached(id, token);
            }
        }
    }

    fn watch_attached(&mut self, id: &ContainerId, token: u64) {
        let Some(container) = self.containers.get(id) else { return };
        let Some(client) = container.attached.iter().find(|client| client.token == token) else { return };
        let flags = if client.waits { epoll::EventFlags::empty() } else { epoll::EventFlags::IN };
        if epoll::modify(&self.epoll, &client.socket, epoll::EventData::new_u64(token), flags).is_err() {
            self.detach(id, token);
        }
    }

    /// Closes a client's socket. One that is not sent the end before has been dropped, or has gone.
    fn detach(&mut self, id: &ContainerId, token: u64) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let Some(index) = container.attached.iter().position(|client| client.token == token) else { return };
        let client = container.attached.swap_remove(index);
        self.unwatch(client.socket.as_fd(), token);
    }

    /// Tells every client that the container has ended and all of its output was sent.
    pub(super) fn end_attached(&mut self, id: &ContainerId) {
        let attached = self.containers.get_mut(id).map(|one| std::mem::take(&mut one.attached));
        for client in attached.unwrap_or_default() {
            let _ = client.send(attach::ENDED, &[]);
            self.unwatch(client.socket.as_fd(), client.token);
        }
        let Some(container) = self.containers.get_mut(id) else { return };
        if let Some(Input { pending: Some(pending), .. }) = container.stdin.take() {
            self.unwatch(pending.fd.as_fd(), pending.token);
        }
    }
}

/// Writes what fits; 0 when nothing does now.
fn write(fd: &OwnedFd, bytes: &[u8]) -> Result<usize, Errno> {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        match rustix::io::write(fd, rest) {
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}
