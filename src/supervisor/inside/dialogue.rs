//! What goes between the supervisor and its daemons: connections, requests in, answers and exits out.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::event::epoll;

use super::{
    super::wire::{self, v1},
    connection::{Connection, Waiter},
    container::{Container, Making, Phase},
    event_loop::{Source, Supervisor},
    voice::Level,
};
use crate::model::{ContainerId, Failure, Stage};

impl Supervisor {
    pub(super) fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        let accepted = rustix::net::accept_with(listener, rustix::net::SocketFlags::CLOEXEC);
        let connected = accepted.map_err(io::Error::from).and_then(|socket| {
            // Who is not root has not found the way to this socket by itself; it gets no answer.
            let is_root = rustix::net::sockopt::socket_peercred(&socket)?.uid.is_root();
            if is_root { self.connect(socket) } else { Ok(()) }
        });
        if let Err(error) = connected
            && error.kind() != io::ErrorKind::WouldBlock
            && !wire::is_hang_up(&error)
        {
            self.say(Level::Warn, None, format!("could not accept a connection of a daemon: {error}"));
        }
    }

    /// Greets a daemon and tells it every exit that no daemon has stored yet.
    pub(super) fn connect(&mut self, socket: OwnedFd) -> io::Result<()> {
        let mut connection = Connection::new(socket)?;
        let pod = self.pod.as_ref().map_or(String::new(), |pod| pod.id.to_string());
        let hello = v1::message::Body::Hello(wire::hello(&pod));
        connection.push(wire::encode(&v1::Message { body: Some(hello) }, Vec::new()))?;
        for container in self.containers.values() {
            if let Phase::Exited { exit, acknowledged: false, .. } = &container.phase {
                connection.push(wire::exited_frame(&container.id, exit))?;
            }
        }
        let token = self.watch(connection.socket.as_fd(), Source::Connection)?;
        self.connections.insert(token, connection);
        // What did not fit into the socket goes out later.
        self.rewatch(token)
    }

    fn disconnect(&mut self, token: u64) {
        if let Some(connection) = self.connections.remove(&token) {
            self.unwatch(connection.socket.as_fd(), token);
        }
        // An exec and a create belong to the caller that waits for them; a container does not.
        self.kill_execs_of(token);
        let is_theirs = |one: &&Container| matches!(&one.phase, Phase::Making(Making { waiter, .. }) if waiter.connection == token);
        let unfinished: Vec<_> =
            self.containers.values().filter(is_theirs).map(|one| one.id.clone()).collect();
        for id in unfinished {
            self.abandon(&id, Failure::new(Stage::Connection, id.as_str(), "who asked for it is gone"));
        }
    }

    pub(super) fn serve(&mut self, token: u64, flags: epoll::EventFlags) {
        let served = self.exchange(token, flags);
        if !matches!(served, Ok(true)) {
            self.disconnect(token);
        }
        if let Err(error) = served
            && !wire::is_hang_up(&error)
        {
            self.say(Level::Warn, None, format!("a connection of a daemon is closed: {error}"));
        }
    }

    /// `Ok(false)` is the end of the connection.
    fn exchange(&mut self, token: u64, flags: epoll::EventFlags) -> io::Result<bool> {
        let Some(connection) = self.connections.get_mut(&token) else { return Ok(true) };
        if flags.contains(epoll::EventFlags::OUT) {
            connection.flush()?;
        }
        if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
            match connection.incoming.fill(connection.socket.as_fd()) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        while let Some(connection) = self.connections.get_mut(&token) {
            if !connection.greeted {
                let Some(hello) = connection.incoming.next::<v1::Hello>()? else { break };
                connection.greeted = wire::common_version(&hello).is_some();
                if !connection.greeted {
                    return Ok(false);
                }
                continue;
            }
            let Some(request) = connection.incoming.next::<v1::Request>()? else { break };
            let fds = connection.incoming.take_fds(request.fds)?;
            let waiter = Waiter { connection: token, sequence: request.sequence };
            self.handle(waiter, request.call, fds);
        }
        self.rewatch(token)?;
        Ok(true)
    }

    /// Asks to be told when a socket that is full takes more.
    fn rewatch(&mut self, token: u64) -> io::Result<()> {
        let Some(connection) = self.connections.get(&token) else { return Ok(()) };
        let mut flags = epoll::EventFlags::IN;
        flags.set(epoll::EventFlags::OUT, connection.has_waiting());
        Ok(epoll::modify(&self.epoll, &connection.socket, epoll::EventData::new_u64(token), flags)?)
    }

    /// Answers a request; a caller that is gone is not an error.
    pub(super) fn answer(&mut self, waiter: Waiter, result: Result<v1::reply::Result, Failure>) {
        self.answer_with(waiter, result, Vec::new());
    }

    pub(super) fn answer_with(
        &mut self,
        waiter: Waiter,
        result: Result<v1::reply::Result, Failure>,
        fds: Vec<OwnedFd>,
    ) {
        let result =
            result.unwrap_or_else(|failure| v1::reply::Result::Failure(wire::failure_message(failure)));
        let count = u32::try_from(fds.len()).unwrap_or(0);
        let reply = v1::Reply { sequence: waiter.sequence, fds: count, result: Some(result) };
        let body = v1::message::Body::Reply(reply);
        self.send(waiter.connection, wire::encode(&v1::Message { body: Some(body) }, fds));
    }

    pub(super) fn send(&mut self, token: u64, frame: wire::Frame) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        let Err(error) = connection.push(frame).and_then(|()| self.rewatch(token)) else { return };
        self.disconnect(token);
        if !wire::is_hang_up(&error) {
            self.say(Level::Warn, None, format!("a connection of a daemon is closed: {error}"));
        }
    }

    /// Tells every daemon that listens (there is one, but for the moment of an upgrade).
    pub(super) fn tell_exit(&mut self, id: &ContainerId) {
        let Some(exit) = self.containers.get(id).and_then(Container::exit).cloned() else { return };
        let tokens: Vec<u64> = self.connections.keys().copied().collect();
        for token in tokens {
            self.send(token, wire::exited_frame(id, &exit));
        }
    }
}
