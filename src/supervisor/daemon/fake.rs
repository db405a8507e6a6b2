//! A supervisor that does what a test says, on the real wire: for those who talk to one.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    process::{Child, Command},
    time::Duration,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use tokio::io::unix::AsyncFd;

use super::{
    super::{
        ContainerFacts, ExecExit,
        wire::{self, Assembler, v1},
    },
    Client,
};
use crate::model::{ContainerId, ContainerPlan, Exit, Failure, PodId, UnixNanos};

use v1::{reply::Result as Answer, request::Call};

/// Dropped, it hangs up and has died.
#[derive(Debug)]
pub(crate) struct FakeSupervisor {
    socket: AsyncFd<OwnedFd>,
    incoming: Assembler,
    /// The process that it passes for.
    process: Child,
}

/// What a daemon asked, with the number that its answer has to have.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) sequence: u64,
    pub(crate) asked: Asked,
    /// What a create is to make, and whether limits are in it as in version 1 of the protocol.
    pub(crate) plan: Option<(ContainerPlan, bool)>,
    pub(crate) fds: Vec<OwnedFd>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Asked {
    SetUp,
    Create(ContainerId),
    Start(ContainerId),
    Signal(ContainerId, i32),
    Kill(ContainerId),
    Exec(ContainerId),
    /// Of the exec that was asked for under this number.
    KillExec(u64),
    ReopenLog(ContainerId),
    Acknowledge(ContainerId),
    Remove(ContainerId),
    Shutdown,
    Snapshot,
    Ping,
    Socket,
    Attach(ContainerId),
}

fn pod() -> PodId {
    PodId::from_bytes([1; 32])
}

impl FakeSupervisor {
    /// One that has greeted, and its daemon's end.
    pub(crate) async fn new() -> (Client, Self) {
        let (ours, mut fake) = Self::silent();
        let (pod, pid, pidfd) = (pod(), fake.process.id(), fake.pidfd());
        let (client, ()) = tokio::join!(Client::new(&pod, ours, pid, pidfd), fake.greet());
        (client.unwrap(), fake)
    }

    /// As [`Self::new`], with a client that takes silence for an end after other times than usual: until it asks,
    /// and until it must have been answered.
    pub(crate) async fn with_patience(silence_max: [Duration; 2]) -> (Client, Self) {
        let (ours, mut fake) = Self::silent();
        let (pod, pid, pidfd) = (pod(), fake.process.id(), fake.pidfd());
        let client = Client::with_patience(&pod, ours, pid, pidfd, silence_max);
        let (client, ()) = tokio::join!(client, fake.greet());
        (client.unwrap(), fake)
    }

    /// One that has said nothing yet, and the other end of its socket.
    pub(crate) fn silent() -> (OwnedFd, Self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        (ours, Self::on(theirs))
    }

    /// One that a later daemon has found: `socket` is the accepted end.
    pub(crate) fn on(socket: OwnedFd) -> Self {
        rustix::io::ioctl_fionbio(&socket, true).unwrap();
        let process = Command::new("sleep").arg("1000").spawn().unwrap();
        let socket = crate::sys::ready::watch(socket).unwrap();
        Self { socket, incoming: Assembler::default(), process }
    }

    /// Of the process that it passes for.
    pub(crate) fn pidfd(&self) -> OwnedFd {
        crate::sys::process::pidfd(self.process.id().try_into().unwrap()).unwrap()
    }

    /// Says hello and hears it.
    pub(crate) async fn greet(&mut self) {
        self.greet_as(wire::PROTOCOL_MAX).await;
    }

    /// As a supervisor of the release whose newest protocol is `version`.
    pub(crate) async fn greet_as(&mut self, version: u32) {
        let hello = v1::Hello { protocol_max: version, ..wire::hello("") };
        self.say(v1::message::Body::Hello(hello), Vec::new()).await;
        let hello: v1::Hello = self.hear(Assembler::next).await.expect("a greeting");
        assert!(wire::common_version(&hello).is_some());
    }

    /// The next request, `None` when the daemon has hung up.
    pub(crate) async fn next(&mut self) -> Option<Request> {
        let request: v1::Request = self.hear(Assembler::next).await?;
        let fds = self.incoming.take_fds(request.fds).unwrap();
        let id = |id: &str| ContainerId::parse(id).unwrap();
        let call = request.call.expect("a call");
        let plan = match &call {
            Call::Create(create) => {
                let plan = wire::container_plan(create.clone()).expect("a plan");
                Some((plan, create.resources.is_none()))
            }
            _ => None,
        };
        let asked = match call {
            Call::Setup(_) => Asked::SetUp,
            Call::Create(create) => Asked::Create(id(&create.container_id)),
            Call::Start(start) => Asked::Start(id(&start.container_id)),
            Call::Signal(signal) => Asked::Signal(id(&signal.container_id), signal.signal),
            Call::Kill(kill) => Asked::Kill(id(&kill.container_id)),
            Call::Exec(exec) => Asked::Exec(id(&exec.container_id)),
            Call::KillExec(kill) => Asked::KillExec(kill.sequence),
            Call::ReopenLog(reopen) => Asked::ReopenLog(id(&reopen.container_id)),
            Call::Acknowledge(ack) => Asked::Acknowledge(id(&ack.container_id)),
            Call::Remove(remove) => Asked::Remove(id(&remove.container_id)),
            Call::Shutdown(_) => Asked::Shutdown,
            Call::Snapshot(_) => Asked::Snapshot,
            Call::Ping(_) => Asked::Ping,
            Call::Socket(_) => Asked::Socket,
            Call::Attach(attach) => Asked::Attach(id(&attach.container_id)),
        };
        Some(Request { sequence: request.sequence, asked, plan, fds })
    }

    pub(crate) async fn done(&mut self, request: &Request) {
        self.answer(request, Answer::Done(v1::Done {})).await;
    }

    pub(crate) async fn fail(&mut self, request: &Request, failure: Failure) {
        self.answer(request, Answer::Failure(wire::failure_message(failure))).await;
    }

    /// To a create.
    pub(crate) async fn facts(&mut self, request: &Request, facts: &ContainerFacts) {
        self.answer(request, Answer::Facts(wire::facts_message(facts))).await;
    }

    /// To a snapshot.
    pub(crate) async fn all(&mut self, request: &Request, facts: &[ContainerFacts]) {
        let containers = facts.iter().map(wire::facts_message).collect();
        self.answer(request, Answer::All(v1::AllFacts { containers })).await;
    }

    pub(crate) async fn started(&mut self, request: &Request, at: UnixNanos) {
        self.answer(request, Answer::Started(v1::Started { at: at.0 })).await;
    }

    pub(crate) async fn exec_ended(&mut self, request: &Request, exit: ExecExit) {
        let exit = v1::ExecExit { code: exit.code, timed_out: exit.timed_out };
        self.answer(request, Answer::ExecExit(exit)).await;
    }

    /// Tells an exit.
    pub(crate) async fn exited(&mut self, id: &ContainerId, exit: &Exit) {
        self.send(&wire::exited_frame(id, exit)).await;
    }

    async fn answer(&mut self, request: &Request, answer: Answer) {
        let reply = v1::Reply { sequence: request.sequence, fds: 0, result: Some(answer) };
        self.say(v1::message::Body::Reply(reply), Vec::new()).await;
    }

    async fn say(&mut self, body: v1::message::Body, fds: Vec<OwnedFd>) {
        self.send(&wire::encode(&v1::Message { body: Some(body) }, fds)).await;
    }

    async fn send(&mut self, frame: &wire::Frame) {
        let mut sent = 0;
        while sent < frame.bytes.len() {
            let mut writable = self.socket.writable().await.unwrap();
            if let Ok(count) = writable.try_io(|socket| frame.send_from(sent, socket.as_fd())) {
                sent += count.unwrap();
            }
        }
    }

    async fn hear<M>(&mut self, next: fn(&mut Assembler) -> io::Result<Option<M>>) -> Option<M> {
        loop {
            if let Some(message) = next(&mut self.incoming).unwrap() {
                return Some(message);
            }
            let incoming = &mut self.incoming;
            let read = self.socket.readable().await.unwrap().try_io(|socket| incoming.fill(socket.as_fd()));
            match read {
                Ok(Ok(true)) | Err(_) => {}
                Ok(Ok(false)) => return None,
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                Ok(Err(error)) => panic!("read a request: {error}"),
            }
        }
    }
}

impl Drop for FakeSupervisor {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}
