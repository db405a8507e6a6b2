//! The daemon's side of a supervisor: requests with deadlines, and what it says unasked.
//!
//! Long: a method for each call of the protocol.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::{
    io::unix::AsyncFd,
    sync::{Mutex, mpsc, oneshot},
    task::AbortHandle,
    time::{self, Instant},
};

use super::{
    super::{
        ContainerFacts, Event, ExecExit, ExecStdio, Ready, last_words,
        wire::{self, Assembler, v1},
    },
    Attachment,
    transport::{Transport, Waiting, lost, unexpected},
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
/// What an exec may take beyond its own time, which the supervisor keeps: the killing of its processes, and the
/// answer. ExecSync answers within two seconds of its time-out.
const EXEC_ANSWER_MAX: Duration = Duration::from_millis(1500);
/// How long the greeting of a new connection may take.
const GREETING_MAX: Duration = Duration::from_secs(5);
/// How long a supervisor may say nothing at all while it does what takes long (a create, an exec without a
/// time-out): it is asked whether it is there after the first part, and has the second for the answer. It may
/// wait so long for its log's disk.
const SILENCE_MAX: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(5)];
/// A daemon that was stopped itself finds its timers over, and the answer not read yet.
const SECOND_LOOK: Duration = Duration::from_secs(1);
/// Exits that wait for the driver; a pod has far fewer containers.
const EVENTS_MAX: usize = 4096;

/// A connection to one supervisor. Cheap to clone; every call has a deadline.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    transport: Arc<Transport>,
    events: Mutex<mpsc::Receiver<Event>>,
    reader: AbortHandle,
    pid: u32,
    ended: AsyncFd<OwnedFd>,
    pod: PodId,
    /// The pod's folder, once it is set up.
    folder: OnceLock<PathBuf>,
    /// [`SILENCE_MAX`], but for tests.
    silence_max: [Duration; 2],
    /// The version of the protocol that both sides know, once the supervisor has greeted.
    version: OnceLock<u32>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Client {
    /// Connects to the supervisor of an earlier daemon; also gives what it knows of its containers. What it has said
    /// while there was no daemon is logged, also when it is gone.
    ///
    /// # Errors
    /// Stage `Connection` when there is none; stage `Request` when it speaks another protocol; stage `Deadline` when
    /// it does not answer.
    pub async fn connect(pod: &PodId, dir: &Path) -> Result<(Self, Vec<ContainerFacts>), Failure> {
        let connected = Self::connect_to(pod, dir).await;
        // It has answered, so it knows that there is a daemon and writes no more.
        log_last_words(pod, dir).await;
        connected
    }

    async fn connect_to(pod: &PodId, dir: &Path) -> Result<(Self, Vec<ContainerFacts>), Failure> {
        let lost = |error: io::Error| Failure::io(Stage::Connection, pod.as_str(), dir, &error);
        let (socket, pid) = dial(dir).map_err(lost)?;
        let ended = pid.try_into().and_then(crate::sys::process::pidfd).map_err(lost)?;
        let client = Self::new(pod, socket, pid, ended).await?;
        client.is_set_up_in(dir);
        let facts = match client.ask(Call::Snapshot(v1::Snapshot {}), Some(ANSWER_MAX)).await? {
            (Answer::All(all), _) => all.containers.into_iter().map(wire::facts).collect::<Result<_, _>>()?,
            _ => return Err(unexpected()),
        };
        Ok((client, facts))
    }

    /// A client on a fresh connection; says hello and waits for the other one.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub(super) async fn new(pod: &PodId, socket: OwnedFd, pid: u32, ended: OwnedFd) -> Result<Self, Failure> {
        Self::with_patience(pod, socket, pid, ended, SILENCE_MAX).await
    }

    pub(super) async fn with_patience(
        pod: &PodId,
        socket: OwnedFd,
        pid: u32,
        ended: OwnedFd,
        silence_max: [Duration; 2],
    ) -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::io(Stage::Connection, "supervisor", "", &error);
        let transport = Arc::new(Transport::new(socket).map_err(failed)?);
        let ended = crate::sys::ready::watch(ended).map_err(failed)?;
        let (tell, events) = mpsc::channel(EVENTS_MAX);
        let (greeted, greeting) = oneshot::channel();
        let reader =
            Reader { pod: pod.clone(), incoming: Assembler::default(), tell, greeted: Some(greeted) };
        let reader = task::spawn("supervisor-reader", reader.run(Arc::clone(&transport))).abort_handle();
        let events = Mutex::new(events);
        let (pod, folder) = (pod.clone(), OnceLock::new());
        let shared = Arc::new(Shared {
            transport,
            events,
            reader,
            pid,
            ended,
            pod,
            folder,
            silence_max,
            version: OnceLock::new(),
        });
        let client = Self { shared };
        client.shared.transport.greet()?;
        let hello = time::timeout(GREETING_MAX, greeting).await;
        let hello = hello.map_err(|_| client.late(GREETING_MAX))?.map_err(|_| lost())?;
        if let Some(version) = wire::common_version(&hello) {
            client.shared.version.get_or_init(|| version);
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

    /// The pod is set up: its supervisor may leave its last words in `dir`, the pod's folder.
    pub(super) fn is_set_up_in(&self, dir: &Path) {
        self.shared.folder.get_or_init(|| dir.to_owned());
    }

    /// Waits until the supervisor process has ended (pidfd), and logs its last words.
    pub async fn ended(&self) {
        // It fails only when the runtime is shutting down.
        let _ended: io::Result<_> = self.shared.ended.readable().await;
        if let Some(folder) = self.shared.folder.get() {
            log_last_words(&self.shared.pod, folder).await;
        }
    }

    /// The next event. One task of the pod's driver calls it.
    pub async fn event(&self) -> Event {
        self.shared.events.lock().await.recv().await.unwrap_or(Event::Lost)
    }

    pub(super) async fn set_up(&self, setup: v1::Setup) -> Result<Ready, Failure> {
        match self.ask(Call::Setup(setup), Some(START_MAX)).await? {
            (Answer::Ready(ready), mut fds) => Ok(Ready { pid: ready.pid, netns: fds.pop() }),
            _ => Err(unexpected()),
        }
    }

    /// Makes the container, up to the start barrier.
    ///
    /// # Errors
    /// What failed; nothing of the container is left then.
    pub async fn create(&self, plan: &ContainerPlan) -> Result<ContainerFacts, Failure> {
        // No client leaves `new` without one.
        let version = self.shared.version.get().copied().unwrap_or(wire::PROTOCOL_MIN);
        let call = Call::Create(wire::create_request(plan, version)?);
        match self.ask(call, Some(CREATE_MAX)).await? {
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
        match self.ask(call, Some(START_MAX)).await? {
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
    /// Stage `WrongState` when the container is not running, or what kept the program from being executed. Stage
    /// `Deadline` when the supervisor has not answered soon after `timeout`, or without one, when it says nothing at
    /// all for some ten seconds; the process is killed then, as soon as the supervisor goes on.
    pub async fn exec(
        &self,
        id: &ContainerId,
        process: &ProcessPlan,
        stdio: ExecStdio,
        timeout: Option<Duration>,
    ) -> Result<ExecExit, Failure> {
        let timeout_ms = timeout.map_or(0, |timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
        let process = Some(wire::process_message(process));
        let mut exec = v1::Exec { container_id: id.to_string(), process, timeout_ms, ..v1::Exec::default() };
        let fds = match stdio {
            ExecStdio::Pipes { stdin, stdout, stderr } => {
                exec.stdin = stdin.is_some();
                stdin.into_iter().chain([stdout, stderr]).collect()
            }
            ExecStdio::Terminal { to, size } => {
                (exec.columns, exec.rows) =
                    size.map_or((0, 0), |size| (size.columns.into(), size.rows.into()));
                vec![to]
            }
        };
        let waiting = self.shared.transport.ask(Call::Exec(exec), fds)?;
        let mut abandoned = Abandoned { client: self, sequence: Some(waiting.sequence()) };
        let within = timeout.map(|timeout| timeout.saturating_add(EXEC_ANSWER_MAX));
        let answer = self.answer(waiting, within).await;
        // One that is late is killed when the supervisor goes on.
        if answer.as_ref().err().is_none_or(|failure| failure.stage != Stage::Deadline) {
            abandoned.sequence = None;
        }
        match answer? {
            (Answer::ExecExit(exit), _) => Ok(ExecExit { code: exit.code, timed_out: exit.timed_out }),
            _ => Err(unexpected()),
        }
    }

    /// Attaches a client to a container that has not ended: it gets what is written from now on.
    ///
    /// # Errors
    /// Stage `WrongState` when it has ended, `Limit` when too many are attached.
    pub async fn attach(
        &self,
        id: &ContainerId,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    ) -> Result<Attachment, Failure> {
        let failed = |error: io::Error| Failure::io(Stage::Internal, id.as_str(), "attach", &error);
        let (attachment, theirs) = Attachment::pair().map_err(failed)?;
        let attach = v1::Attach { container_id: id.to_string(), stdin, stdout, stderr };
        match self
            .answer(self.shared.transport.ask(Call::Attach(attach), vec![theirs])?, Some(ANSWER_MAX))
            .await?
        {
            (Answer::Done(_), _) => Ok(attachment),
            _ => Err(unexpected()),
        }
    }

    /// A TCP socket of the pod's network that is not connected yet.
    ///
    /// # Errors
    /// Stage `Namespace`.
    pub async fn socket(&self, ipv6: bool) -> Result<OwnedFd, Failure> {
        match self.ask(Call::Socket(v1::Socket { ipv6 }), Some(ANSWER_MAX)).await? {
            (Answer::Done(_), mut fds) => fds.pop().ok_or_else(unexpected),
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
        match self.ask(call, Some(within)).await? {
            (Answer::Done(_), _) => Ok(()),
            _ => Err(unexpected()),
        }
    }

    async fn ask(&self, call: Call, within: Option<Duration>) -> Result<(Answer, Vec<OwnedFd>), Failure> {
        self.answer(self.shared.transport.ask(call, Vec::new())?, within).await
    }

    /// Waits for an answer, as long as it may take and the supervisor is there.
    async fn answer(
        &self,
        mut waiting: Waiting<'_>,
        within: Option<Duration>,
    ) -> Result<(Answer, Vec<OwnedFd>), Failure> {
        let late = async {
            match within {
                Some(within) => {
                    time::sleep(within).await;
                    self.late(within)
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            answer = waiting.answer() => answer,
            failure = late => Err(failure),
            failure = self.silence() => Err(failure),
        }
    }

    /// Returns when the supervisor is certain not to answer: it has said nothing for long, also when asked whether it
    /// is there.
    async fn silence(&self) -> Failure {
        let [until_asked, until_answered] = self.shared.silence_max;
        let heard_at = || Instant::from_std(self.shared.transport.heard_at());
        let started = Instant::now();
        loop {
            let silent_until = heard_at().max(started) + until_asked;
            let asked = Instant::now();
            if asked < silent_until {
                time::sleep_until(silent_until).await;
                continue;
            }
            let mut ping = match self.shared.transport.ask(Call::Ping(v1::Ping {}), Vec::new()) {
                Ok(ping) => ping,
                Err(failure) => return failure,
            };
            // One that is older than the question says so, and is there.
            let mut answer = pin!(ping.answer());
            let answered = time::timeout(until_answered, &mut answer).await.is_ok()
                || time::timeout(SECOND_LOOK, answer).await.is_ok();
            if !answered && heard_at() < asked {
                return self.late(until_asked + until_answered);
            }
        }
    }

    fn late(&self, within: Duration) -> Failure {
        let object = format!("supervisor (process {})", self.shared.pid);
        Failure::new(Stage::Deadline, object, format!("no answer within {within:?}"))
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
                if let Err(error) = client.done(Call::KillExec(v1::KillExec { sequence }), ANSWER_MAX).await {
                    tracing::debug!(%error, "an exec that nobody waits for could not be killed yet");
                }
            });
        }
    }
}

/// Reads what the supervisor says, and sends what its socket did not take at once.
struct Reader {
    pod: PodId,
    incoming: Assembler,
    tell: mpsc::Sender<Event>,
    greeted: Option<oneshot::Sender<v1::Hello>>,
}

impl Reader {
    async fn run(mut self, transport: Arc<Transport>) {
        let ended = tokio::select! {
            ended = self.read_all(&transport) => ended,
            error = transport.drain() => Err(error),
        };
        if let Err(error) = ended
            && !wire::is_hang_up(&error)
        {
            tracing::warn!(pod = %self.pod, %error, "connection to supervisor broke");
        }
        transport.lose();
        self.tell(Event::Lost).await;
    }

    /// Until the end of the connection.
    async fn read_all(&mut self, transport: &Transport) -> io::Result<()> {
        loop {
            let incoming = &mut self.incoming;
            match transport.socket().readable().await?.try_io(|socket| incoming.fill(socket.as_fd())) {
                Ok(Ok(false)) => return Ok(()),
                Ok(Ok(true)) => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => continue,
            }
            transport.hear();
            let mut exits = Vec::new();
            while let Some(message) = self.incoming.next::<v1::Message>()? {
                match message.body {
                    Some(v1::message::Body::Hello(hello)) => {
                        if let Some(greeted) = self.greeted.take() {
                            // Whoever waited has just stopped.
                            let _unread: Result<(), v1::Hello> = greeted.send(hello);
                        }
                    }
                    Some(v1::message::Body::Reply(reply)) => {
                        let fds = self.incoming.take_fds(reply.fds)?;
                        transport.answer(reply, fds);
                    }
                    Some(v1::message::Body::Exited(exited)) => exits.push(exited),
                    Some(v1::message::Body::LogLine(line)) => log_line(&self.pod, &line),
                    // Of a later release.
                    None => {}
                }
            }
            for exited in exits {
                let id = ContainerId::parse(&exited.container_id).map_err(io::Error::other)?;
                let exit = exited.exit.map(wire::exit).ok_or(io::ErrorKind::InvalidData)?;
                self.tell(Event::Exited { id, exit }).await;
            }
        }
    }

    async fn tell(&self, event: Event) {
        // It is reported again on the next connection; without a client there is nobody to report it to.
        let _unread: Result<(), mpsc::error::SendError<Event>> = self.tell.send(event).await;
    }
}

/// Logs what a supervisor has to say.
fn log_line(pod: &PodId, line: &v1::LogLine) {
    const MESSAGE: &str = "message from a supervisor";
    let container = Some(line.container_id.as_str()).filter(|id| !id.is_empty());
    let text = line.text.as_str();
    match line.level() {
        v1::Level::Info => tracing::info!(%pod, container, text, "{MESSAGE}"),
        v1::Level::Warn => tracing::warn!(%pod, container, text, "{MESSAGE}"),
        v1::Level::Error => tracing::error!(%pod, container, text, "{MESSAGE}"),
    }
}

/// Logs what a supervisor said while there was no daemon, and forgets it. All of that also if nobody waits for it any
/// more.
async fn log_last_words(pod: &PodId, dir: &Path) {
    let (pod, folder) = (pod.clone(), dir.to_owned());
    let log = move || match last_words::take_from(&folder) {
        Ok(lines) => lines.iter().for_each(|line| log_line(&pod, line)),
        Err(error) => {
            tracing::warn!(%pod, %error, "could not read what a supervisor said without a daemon");
        }
    };
    task::blocking("last words", log).await;
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

#[cfg(test)]
mod tests {
    use super::{
        super::fake::{Asked, FakeSupervisor},
        *,
    };
    use crate::model::{Exit, ExitReason, ResolvedUser};

    fn id(byte: u8) -> ContainerId {
        ContainerId::from_bytes([byte; 32])
    }

    /// Where an exec writes to; nobody reads it.
    fn streams() -> ExecStdio {
        let null = || File::options().write(true).open("/dev/null").unwrap().into();
        ExecStdio::Pipes { stdin: None, stdout: null(), stderr: null() }
    }

    async fn exec(client: &Client, timeout: Option<Duration>) -> Result<ExecExit, Failure> {
        client.exec(&id(1), &wire::tests::plan().process, streams(), timeout).await
    }

    #[tokio::test]
    async fn answers_go_to_those_who_asked_in_whatever_order_they_come() {
        let (client, mut fake) = FakeSupervisor::new().await;
        let (first, second) = (id(1), id(2));
        let script = async {
            let (start, kill) = (fake.next().await.unwrap(), fake.next().await.unwrap());
            assert_eq!((&start.asked, &kill.asked), (&Asked::Start(id(1)), &Asked::Kill(id(2))));
            fake.fail(&kill, Failure::new(Stage::NotFound, "x", "y")).await;
            fake.started(&start, UnixNanos(7)).await;
            fake
        };
        let (started, killed, _fake) = tokio::join!(client.start(&first), client.kill(&second), script);
        assert_eq!((started, killed), (Ok(UnixNanos(7)), Err(Failure::new(Stage::NotFound, "x", "y"))));
    }

    #[tokio::test]
    async fn a_supervisor_that_says_nothing_costs_each_call_its_deadline_and_is_not_waited_for() {
        let (client, mut fake) = FakeSupervisor::new().await;
        let (one, two) = (id(1), id(2));
        let (killed, reopened) = tokio::join!(client.kill(&one), client.reopen_log(&two));
        for late in [killed, reopened] {
            let late = late.unwrap_err();
            assert_eq!((late.stage, late.text.as_str()), (Stage::Deadline, "no answer within 2s"));
            assert!(late.object.starts_with("supervisor (process "), "{late}");
        }
        assert_eq!(client.shared.transport.waiting(), 0);
        // When it goes on, it finds what it was asked, and its answers reach nobody else.
        let late = fake.next().await.unwrap();
        fake.fail(&late, Failure::new(Stage::Internal, "", "")).await;
        let answered = async {
            assert_eq!(fake.next().await.unwrap().asked, Asked::ReopenLog(id(2)));
            let request = fake.next().await.unwrap();
            fake.done(&request).await;
        };
        let acknowledged = client.acknowledge(&one);
        assert_eq!(tokio::join!(acknowledged, answered).0, Ok(()));
    }

    #[tokio::test]
    async fn an_exec_is_answered_soon_after_its_time_is_up_whatever_the_supervisor_does() {
        let (client, mut fake) = FakeSupervisor::new().await;
        let late = exec(&client, Some(Duration::from_millis(100))).await.unwrap_err();
        assert_eq!((late.stage, late.text.as_str()), (Stage::Deadline, "no answer within 1.6s"));
        let asked = fake.next().await.unwrap();
        assert_eq!(asked.fds.len(), 2, "its output's");
        let sequence = asked.sequence;
        // And when the supervisor goes on, it kills what nobody waits for.
        assert_eq!(fake.next().await.unwrap().asked, Asked::KillExec(sequence));
    }

    const IMPATIENT: [Duration; 2] = [Duration::from_millis(50); 2];

    #[tokio::test]
    async fn an_exec_without_a_limit_ends_with_a_supervisor_that_is_silent() {
        let (client, mut fake) = FakeSupervisor::with_patience(IMPATIENT).await;
        let late = exec(&client, None).await.unwrap_err();
        assert_eq!((late.stage, late.text.as_str()), (Stage::Deadline, "no answer within 100ms"));
        let mut asked = Vec::new();
        while asked.len() < 3 {
            asked.push(fake.next().await.unwrap().asked);
        }
        assert_eq!(asked[..2], [Asked::Exec(id(1)), Asked::Ping]);
        assert!(matches!(asked[2], Asked::KillExec(_)), "{asked:?}");
    }

    #[tokio::test]
    async fn an_exec_without_a_limit_takes_its_time_while_the_supervisor_is_there() {
        let (client, mut fake) = FakeSupervisor::with_patience(IMPATIENT).await;
        let exit = ExecExit { code: 3, timed_out: false };
        let script = async {
            let exec = fake.next().await.unwrap();
            for nth in 0..4 {
                let ping = fake.next().await.unwrap();
                assert_eq!(ping.asked, Asked::Ping);
                match nth % 2 {
                    0 => fake.done(&ping).await,
                    // As one says that does not know the question.
                    _ => fake.fail(&ping, Failure::new(Stage::Request, "", "older")).await,
                }
            }
            fake.exec_ended(&exec, exit).await;
            fake
        };
        let (ended, _fake) = tokio::join!(exec(&client, None), script);
        assert_eq!(ended, Ok(exit));
    }

    #[tokio::test]
    async fn a_create_ends_with_a_supervisor_that_is_silent() {
        let (client, _fake) = FakeSupervisor::with_patience(IMPATIENT).await;
        let plan = wire::tests::plan();
        let late = client.create(&plan).await.unwrap_err();
        assert_eq!((late.stage, late.text.as_str()), (Stage::Deadline, "no answer within 100ms"));
    }

    #[tokio::test]
    async fn a_supervisor_of_another_release_is_spoken_to_in_the_newest_version_that_both_know() {
        for (newest, in_version_1) in
            [(1, true), (wire::PROTOCOL_MAX, false), (wire::PROTOCOL_MAX + 1, false)]
        {
            let (socket, mut fake) = FakeSupervisor::silent();
            let (pod, pidfd) = (PodId::from_bytes([1; 32]), fake.pidfd());
            let (client, ()) = tokio::join!(Client::new(&pod, socket, 5, pidfd), fake.greet_as(newest));
            let (client, plan) = (client.unwrap(), wire::tests::plan());
            let script = async {
                let create = fake.next().await.unwrap();
                fake.facts(&create, &facts(7, None)).await;
                create
            };
            let (created, create) = tokio::join!(client.create(&plan), script);
            assert_eq!(created, Ok(facts(7, None)));
            assert_eq!(create.plan, Some((plan, in_version_1)), "version {newest}");
        }
        let (socket, mut fake) = FakeSupervisor::silent();
        let (pod, pidfd) = (PodId::from_bytes([1; 32]), fake.pidfd());
        let (refused, ()) = tokio::join!(Client::new(&pod, socket, 5, pidfd), fake.greet_as(0));
        assert_eq!(refused.unwrap_err().stage, Stage::Request);
    }

    #[tokio::test]
    async fn a_supervisor_that_never_greets_is_given_up() {
        let (socket, fake) = FakeSupervisor::silent();
        let late = Client::new(&PodId::from_bytes([1; 32]), socket, 5, fake.pidfd()).await.unwrap_err();
        assert_eq!(late.to_string(), "deadline exceeded: supervisor (process 5): no answer within 5s");
    }

    #[tokio::test]
    async fn what_the_socket_does_not_take_goes_out_later_in_order_and_no_more_than_some_megabytes() {
        const PLANS_MAX: usize = 12;
        let (client, mut fake) = FakeSupervisor::new().await;
        let plan = |byte| ContainerPlan { id: id(byte), oci: vec![byte; 1 << 20], ..wire::tests::plan() };
        let asked = |byte| {
            let call = Call::Create(wire::create_request(&plan(byte), wire::PROTOCOL_MAX).unwrap());
            client.shared.transport.ask(call, Vec::new()).map(drop)
        };
        let refused = (1..=PLANS_MAX as u8).map(asked).position(|sent| sent.is_err()).unwrap();
        assert!((7..9).contains(&refused), "{refused} MiB were taken");
        for byte in 1..=refused {
            assert_eq!(fake.next().await.unwrap().asked, Asked::Create(id(u8::try_from(byte).unwrap())));
        }
        assert_eq!(asked(99), Ok(()));
        assert_eq!(fake.next().await.unwrap().asked, Asked::Create(id(99)));
    }

    #[tokio::test]
    async fn exits_are_told_and_after_the_last_that_the_connection_is_lost() {
        let (client, mut fake) = FakeSupervisor::new().await;
        let exit = Exit { code: 3, reason: ExitReason::Error, at: UnixNanos(5), message: String::new() };
        fake.exited(&id(1), &exit).await;
        assert_eq!(client.event().await, Event::Exited { id: id(1), exit });
        let first = id(1);
        let (waiting, ()) = tokio::join!(client.kill(&first), async { drop(fake) });
        assert_eq!(waiting.unwrap_err().stage, Stage::Connection);
        client.ended().await;
        assert_eq!(client.event().await, Event::Lost);
        assert_eq!(client.kill(&id(1)).await.unwrap_err().stage, Stage::Connection);
    }

    fn facts(byte: u8, exit: Option<Exit>) -> ContainerFacts {
        ContainerFacts { id: id(byte), pid: 4, user: ResolvedUser::default(), started_at: None, exit }
    }

    #[tokio::test]
    async fn a_later_daemon_is_told_all_that_there_is() {
        let folder = tempfile::tempdir().unwrap();
        let listener = std::os::unix::net::UnixListener::bind(folder.path().join("supervisor.sock")).unwrap();
        let exit = Exit { code: 3, reason: ExitReason::Error, at: UnixNanos(5), message: String::new() };
        let known = [facts(1, None), facts(2, Some(exit))];
        let script = async {
            let mut fake = FakeSupervisor::on(listener.accept().unwrap().0.into());
            fake.greet().await;
            let snapshot = fake.next().await.unwrap();
            assert_eq!(snapshot.asked, Asked::Snapshot);
            fake.all(&snapshot, &known).await;
            fake
        };
        let pod = PodId::from_bytes([1; 32]);
        let (connected, _fake) = tokio::join!(Client::connect(&pod, folder.path()), script);
        let (client, told) = connected.unwrap();
        assert_eq!((told, client.pid()), (known.to_vec(), std::process::id()));
        let nobody = tempfile::tempdir().unwrap();
        assert_eq!(Client::connect(&pod, nobody.path()).await.unwrap_err().stage, Stage::Connection);
    }

    #[tokio::test]
    async fn the_connection_ends_with_the_last_client() {
        let (client, mut fake) = FakeSupervisor::new().await;
        let other = client.clone();
        drop(client);
        let facts = facts(1, None);
        let plan = ContainerPlan { id: id(1), ..wire::tests::plan() };
        let script = async {
            let create = fake.next().await.unwrap();
            fake.facts(&create, &facts).await;
        };
        assert_eq!(tokio::join!(other.create(&plan), script).0, Ok(facts.clone()));
        drop(other);
        assert!(fake.next().await.is_none());
    }
}
