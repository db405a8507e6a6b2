//! The daemon's side of a supervisor: requests with deadlines, and what it says unasked.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::{
    io::unix::AsyncFd,
    sync::{Mutex as AsyncMutex, mpsc, oneshot},
};

use super::super::{
    ContainerFacts, Event, ExecExit, Ready,
    wire::{self, Assembler, Frame, v1},
};
use crate::{
    model::{ContainerId, ContainerPlan, Failure, PodId, ProcessPlan, Stage, UnixNanos},
    telemetry::task,
};

use v1::{reply::Result as Answer, request::Call};

/// How long a supervisor may take for what it does itself. It is idle nearly always, so a supervisor that
/// needs longer is stopped, or waits for its log's disk.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// A create opens volumes; the supervisor itself gives up on one after a minute.
const CREATE_MAX: Duration = Duration::from_secs(65);
/// execve reads the program from disk.
const START_MAX: Duration = Duration::from_secs(30);
/// Removing and shutting down kill first, and wait for processes to die.
const REMOVE_MAX: Duration = Duration::from_secs(15);
/// Exits that wait for the driver; a pod has far fewer containers.
const EVENTS_MAX: usize = 4096;

type Pending = oneshot::Sender<(Result<Answer, Failure>, Vec<OwnedFd>)>;

/// A connection to one supervisor. Cheap to clone; every call has a deadline.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    socket: AsyncFd<OwnedFd>,
    /// One frame goes out at a time.
    outgoing: Arc<AsyncMutex<()>>,
    /// `None` once the connection is lost.
    pending: Mutex<Option<HashMap<u64, Pending>>>,
    next: AtomicU64,
    events: AsyncMutex<mpsc::Receiver<Event>>,
    pid: u32,
    ended: AsyncFd<OwnedFd>,
}

impl Client {
    /// Connects to the supervisor of an earlier daemon; also gives what it knows of its containers.
    ///
    /// # Errors
    /// Stage `Connection` when there is none; stage `Request` when it speaks another protocol.
    pub async fn connect(pod: &PodId, dir: &Path) -> Result<(Self, Vec<ContainerFacts>), Failure> {
        let lost = |error: io::Error| Failure::io(Stage::Connection, pod.as_str(), dir, &error);
        let (socket, pid) = dial(dir).map_err(lost)?;
        let ended = crate::sys::process::pidfd(pid).map_err(lost)?;
        let client = tokio::time::timeout(ANSWER_MAX, Self::new(socket, pid, ended))
            .await
            .map_err(|_| Failure::new(Stage::Deadline, pod.as_str(), "its supervisor does not answer"))??;
        let facts = match client.ask(Call::Snapshot(v1::Snapshot {}), Vec::new(), ANSWER_MAX).await? {
            (Answer::All(all), _) => all.containers.into_iter().map(wire::facts).collect::<Result<_, _>>()?,
            _ => return Err(unexpected()),
        };
        Ok((client, facts))
    }

    /// A client on a fresh connection; says hello and waits for the other one.
    pub(super) async fn new(socket: OwnedFd, pid: u32, ended: OwnedFd) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::io(Stage::Connection, "supervisor", "", &error);
        rustix::io::ioctl_fionbio(&socket, true).map_err(|error| failed(error.into()))?;
        let (tell, events) = mpsc::channel(EVENTS_MAX);
        let (greeted, greeting) = oneshot::channel();
        let shared = Arc::new(Shared {
            socket: crate::sys::ready::watch(socket).map_err(failed)?,
            outgoing: Arc::default(),
            pending: Mutex::new(Some(HashMap::new())),
            next: AtomicU64::new(1),
            events: AsyncMutex::new(events),
            pid,
            ended: crate::sys::ready::watch(ended).map_err(failed)?,
        });
        let reader = Reader { incoming: Assembler::default(), tell, greeted: Some(greeted) };
        task::spawn("supervisor-reader", reader.run(Arc::downgrade(&shared)));
        let client = Self { shared };
        client.send(wire::encode(&wire::hello(""), Vec::new())).await.map_err(failed)?;
        let hello: v1::Hello = greeting.await.map_err(|_| lost())?;
        if wire::speaks_with_us(&hello) {
            return Ok(client);
        }
        let text = format!(
            "it speaks protocols {} to {} (build {})",
            hello.protocol_min, hello.protocol_max, hello.build_id
        );
        Err(Failure::new(Stage::Request, "supervisor", text))
    }

    /// Host pid of the supervisor.
    pub fn pid(&self) -> u32 {
        self.shared.pid
    }

    /// Waits until the supervisor process has ended (pidfd).
    pub async fn ended(&self) {
        let _ = self.shared.ended.readable().await;
    }

    /// The next event. One task of the pod's driver calls it.
    pub async fn event(&self) -> Event {
        self.shared.events.lock().await.recv().await.unwrap_or(Event::Lost)
    }

    pub(super) async fn set_up(&self, setup: v1::Setup) -> Result<Ready, Failure> {
        match self.ask(Call::Setup(setup), Vec::new(), START_MAX).await? {
            (Answer::Ready(ready), mut fds) => Ok(Ready { pid: ready.pid, netns: fds.pop() }),
            _ => Err(unexpected()),
        }
    }

    /// Makes the container, up to the start barrier.
    ///
    /// # Errors
    /// What failed; nothing of the container is left then.
    pub async fn create(&self, plan: &ContainerPlan) -> Result<ContainerFacts, Failure> {
        let call = Call::Create(wire::create_request(plan)?);
        match self.ask(call, Vec::new(), CREATE_MAX).await? {
            (Answer::Facts(facts), _) => wire::facts(facts),
            _ => Err(unexpected()),
        }
    }

    /// Lets it go; the answer is that execve worked, or why not.
    ///
    /// # Errors
    /// Stage `WrongState`, `NotFound`, or what kept the program from being executed.
    pub async fn start(&self, id: &ContainerId) -> Result<UnixNanos, Failure> {
        let call = Call::Start(v1::Start { container_id: id.to_string() });
        match self.ask(call, Vec::new(), START_MAX).await? {
            (Answer::Started(started), _) => Ok(UnixNanos(started.at)),
            _ => Err(unexpected()),
        }
    }

    /// One signal to its init.
    ///
    /// # Errors
    /// Stage `WrongState` when it has ended.
    pub async fn signal(&self, id: &ContainerId, signal: i32) -> Result<(), Failure> {
        self.done(Call::Signal(v1::Signal { container_id: id.to_string(), signal }), ANSWER_MAX).await
    }

    /// SIGKILL to all of it. The exit follows as an event.
    ///
    /// # Errors
    /// Stage `Cgroup` when not all of it could be killed.
    pub async fn kill(&self, id: &ContainerId) -> Result<(), Failure> {
        self.done(Call::Kill(v1::Kill { container_id: id.to_string() }), ANSWER_MAX).await
    }

    /// Runs a process in it until it ends; at `timeout` its whole process tree is killed before the answer.
    /// Dropping the future kills it too.
    ///
    /// # Errors
    /// Stage `WrongState` when the container is not running, or what kept the program from being executed.
    pub async fn exec(
        &self,
        id: &ContainerId,
        process: &ProcessPlan,
        stdout: OwnedFd,
        stderr: OwnedFd,
        timeout: Option<Duration>,
    ) -> Result<ExecExit, Failure> {
        let timeout_ms = timeout.map_or(0, |timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
        let process = Some(wire::process_message(process));
        let call = Call::Exec(v1::Exec { container_id: id.to_string(), process, timeout_ms });
        let sequence = self.next_sequence();
        // From here on, for the request may be on its way before this future hears of it.
        let mut abandoned = Abandoned { client: self, sequence: Some(sequence) };
        let answer = self.request(sequence, call, vec![stdout, stderr]).await?;
        // The supervisor itself keeps the time.
        let (result, _) = answer.await.map_err(|_| lost())?;
        abandoned.sequence = None;
        match result? {
            Answer::ExecExit(exit) => Ok(ExecExit { code: exit.code, timed_out: exit.timed_out }),
            _ => Err(unexpected()),
        }
    }

    /// Goes on in a new log file at the same path.
    ///
    /// # Errors
    /// Stage `WrongState` unless it is running; stage `Log`.
    pub async fn reopen_log(&self, id: &ContainerId) -> Result<(), Failure> {
        self.done(Call::ReopenLog(v1::ReopenLog { container_id: id.to_string() }), ANSWER_MAX).await
    }

    /// The daemon has stored the exit.
    ///
    /// # Errors
    /// Stage `NotFound`.
    pub async fn acknowledge(&self, id: &ContainerId) -> Result<(), Failure> {
        self.done(Call::Acknowledge(v1::Acknowledge { container_id: id.to_string() }), ANSWER_MAX).await
    }

    /// Forgets a container: kills what is left of it, removes its cgroup and exit record. Unknown is success.
    ///
    /// # Errors
    /// Stage `Cgroup` when it could not be removed.
    pub async fn remove(&self, id: &ContainerId) -> Result<(), Failure> {
        self.done(Call::Remove(v1::Remove { container_id: id.to_string() }), REMOVE_MAX).await
    }

    /// Kills every container, then the supervisor ends itself.
    ///
    /// # Errors
    /// Stage `Deadline` or `Connection`.
    pub async fn shutdown(&self) -> Result<(), Failure> {
        self.done(Call::Shutdown(v1::Shutdown {}), REMOVE_MAX).await
    }

    async fn done(&self, call: Call, within: Duration) -> Result<(), Failure> {
        match self.ask(call, Vec::new(), within).await? {
            (Answer::Done(_), _) => Ok(()),
            _ => Err(unexpected()),
        }
    }

    async fn ask(
        &self,
        call: Call,
        fds: Vec<OwnedFd>,
        within: Duration,
    ) -> Result<(Answer, Vec<OwnedFd>), Failure> {
        let answered = async {
            let answer = self.request(self.next_sequence(), call, fds).await?;
            let (result, fds) = answer.await.map_err(|_| lost())?;
            Ok((result?, fds))
        };
        let late = || Failure::new(Stage::Deadline, "supervisor", format!("no answer within {within:?}"));
        tokio::time::timeout(within, answered).await.unwrap_or_else(|_| Err(late()))
    }

    fn next_sequence(&self) -> u64 {
        self.shared.next.fetch_add(1, Ordering::Relaxed)
    }

    async fn request(
        &self,
        sequence: u64,
        call: Call,
        fds: Vec<OwnedFd>,
    ) -> Result<oneshot::Receiver<(Result<Answer, Failure>, Vec<OwnedFd>)>, Failure> {
        let (tell, answer) = oneshot::channel();
        let fds_count = u32::try_from(fds.len()).unwrap_or(0);
        let frame = wire::encode(&v1::Request { sequence, fds: fds_count, call: Some(call) }, fds);
        if frame.bytes.len() > wire::FRAME_BYTES_MAX {
            return Err(Failure::new(Stage::Limit, "request", format!("{} bytes", frame.bytes.len())));
        }
        self.shared.pending().as_mut().ok_or_else(lost)?.insert(sequence, tell);
        self.send(frame).await.map_err(|error| Failure::io(Stage::Connection, "", "", &error))?;
        Ok(answer)
    }

    /// A frame goes out whole: a caller that stops waiting must not leave half of one behind. And frames go out
    /// in the order of their turns: one that takes another back never overtakes it.
    async fn send(&self, frame: Frame) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let turn = Arc::clone(&self.shared.outgoing).lock_owned().await;
        task::spawn("supervisor-writer", async move {
            let _turn = turn;
            super::send(&shared.socket, &frame).await
        })
        .await
        .map_err(io::Error::other)?
    }
}

impl Shared {
    fn pending(&self) -> std::sync::MutexGuard<'_, Option<HashMap<u64, Pending>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Kills an exec whose caller went away before its end.
struct Abandoned<'a> {
    client: &'a Client,
    sequence: Option<u64>,
}

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        if let Some(sequence) = self.sequence {
            let client = self.client.clone();
            task::spawn("exec-abandoned", async move {
                let _ = client.done(Call::KillExec(v1::KillExec { sequence }), ANSWER_MAX).await;
            });
        }
    }
}

/// Reads what the supervisor says, for as long as anybody holds a client.
struct Reader {
    incoming: Assembler,
    tell: mpsc::Sender<Event>,
    greeted: Option<oneshot::Sender<v1::Hello>>,
}

impl Reader {
    async fn run(mut self, shared: std::sync::Weak<Shared>) {
        let ended = loop {
            let Some(shared) = shared.upgrade() else { return };
            match self.read(&shared).await {
                Ok(true) => {}
                Ok(false) => break None,
                Err(error) => break Some(error),
            }
        };
        if let Some(error) = ended {
            tracing::warn!(%error, "connection to supervisor broke");
        }
        if let Some(shared) = shared.upgrade() {
            // Every caller that waits learns of it through its dropped channel.
            *shared.pending() = None;
        }
        let _ = self.tell.send(Event::Lost).await;
    }

    /// One read of the socket. It looks up now and then whether anybody still holds the client.
    async fn read(&mut self, shared: &Shared) -> io::Result<bool> {
        const LOOK_UP: Duration = Duration::from_secs(5);
        let Ok(guard) = tokio::time::timeout(LOOK_UP, shared.socket.readable()).await else {
            return Ok(true);
        };
        let incoming = &mut self.incoming;
        match guard?.try_io(|socket| incoming.fill(socket.as_fd())) {
            Ok(more) => {
                if !more? {
                    return Ok(false);
                }
            }
            Err(_would_block) => return Ok(true),
        }
        let mut exits = VecDeque::new();
        while let Some(message) = self.incoming.next::<v1::Message>()? {
            match message.body {
                Some(v1::message::Body::Hello(hello)) => {
                    if let Some(greeted) = self.greeted.take() {
                        let _ = greeted.send(hello);
                    }
                }
                Some(v1::message::Body::Reply(reply)) => {
                    let fds = self.incoming.take_fds(reply.fds)?;
                    let waiting = shared.pending().as_mut().and_then(|map| map.remove(&reply.sequence));
                    if let Some(waiting) = waiting {
                        let result = match reply.result {
                            Some(Answer::Failure(failure)) => Err(wire::failure(failure)),
                            Some(answer) => Ok(answer),
                            None => Err(unexpected()),
                        };
                        let _ = waiting.send((result, fds));
                    }
                }
                Some(v1::message::Body::Exited(exited)) => exits.push_back(exited),
                // Of a later release.
                None => {}
            }
        }
        for exited in exits {
            let id = ContainerId::parse(&exited.container_id).map_err(io::Error::other)?;
            let exit = exited.exit.map(wire::exit).ok_or(io::ErrorKind::InvalidData)?;
            let _ = self.tell.send(Event::Exited { id, exit }).await;
        }
        Ok(true)
    }
}

fn lost() -> Failure {
    Failure::new(Stage::Connection, "", "it closed the connection")
}

fn unexpected() -> Failure {
    Failure::new(Stage::Internal, "supervisor", "it answered something else than was asked")
}

/// Connects to the socket in `dir`, through the folder's descriptor; gives the pid of the other side.
fn dial(dir: &Path) -> io::Result<(OwnedFd, u32)> {
    let folder = File::open(dir)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(super::super::socket_through(&folder))?)?;
    let peer = rustix::net::sockopt::socket_peercred(&socket)?;
    Ok((socket, peer.pid.as_raw_nonzero().get().cast_unsigned()))
}
