//! The daemon's handle on the zygote, and on a supervisor that has no pod yet.
//!
//! A daemon's zygote is executed from a sealed copy of this binary, that of a command which only unpacks layers from the
//! binary itself ([`Program`]); `supervisor/zygote.rs` is its inside. One task keeps it: one that has died is reaped and
//! replaced at once, also while nobody needs it; one that does not answer is killed first.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader, unix::AsyncFd},
    process::Child,
    sync::{mpsc, oneshot},
    time,
};
use tracing::{error, info, warn};

use super::{
    super::{
        Ready,
        allowance::Allowance,
        wire::{self, Assembler, Outgoing, v1},
    },
    Client, workers,
};
use crate::{
    cgroup,
    model::{Failure, PodId, PodPlan, Stage},
    sys::{memfd, process::Pid, spawn, title},
    telemetry::task,
};

/// How long a fork may take; it takes 1 ms. A zygote that needs longer is stopped, or was never executed.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// Zygotes that are tried for one fork: the kernel may take more than one when memory is short.
const TRIES_MAX: u32 = 3;

/// How long a killed zygote may take to be gone before it is left to end by itself.
const DEATH_MAX: Duration = Duration::from_secs(1);

/// Pause before a zygote that could not be started is tried again, at first and at most. Who needs one does not
/// wait for it.
const RESTART_PAUSE_MIN: Duration = Duration::from_millis(100);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(10);

/// Bytes of a line of the zygote's that are logged together.
const LINE_BYTES_MAX: u64 = 1024;

/// Forks that may wait for the zygote: as many as there may be pods that are being made.
const FORKS_MAX: usize = 1024;

/// The process that supervisors are forked from. One for each daemon; cheap to clone.
#[derive(Clone, Debug)]
pub struct Zygote {
    forks: mpsc::Sender<Fork>,
}

/// A process that is wanted.
#[derive(Debug)]
struct Fork {
    wanted: Wanted,
    reply: oneshot::Sender<Result<Forked, Failure>>,
}

#[derive(Debug)]
pub(super) enum Wanted {
    /// With the cgroup that it is to be born in.
    Supervisor(PodId, Option<OwnedFd>),
    /// A child of this process.
    ImageWorker,
}

/// The file that a zygote is executed from, and all that it forks run from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Program {
    /// A copy in memory that nobody can write any more: a container can reach what its supervisor and helpers run from.
    SealedCopy,
    /// This process's own file: where nothing is forked that has to do with containers.
    OwnFile,
}

impl Program {
    async fn open(self) -> io::Result<OwnedFd> {
        match self {
            Self::SealedCopy => task::blocking("sealed copy", memfd::sealed_self).await,
            Self::OwnFile => Ok(File::open("/proc/self/exe")?.into()),
        }
    }
}

/// A process that nobody has greeted yet.
#[derive(Debug)]
pub(super) struct Forked {
    pid: u32,
    process: Unattended,
    connection: UnixStream,
}

impl Forked {
    /// Its connection and its pidfd, for one who kills it when it is not wanted any more.
    pub(super) fn attended(self) -> io::Result<(UnixStream, OwnedFd)> {
        let mut process = self.process;
        let pidfd = process.pidfd.try_clone()?;
        process.may_stay = true;
        Ok((self.connection, pidfd))
    }
}

/// A process that is killed unless it is given something to stay for. It would end with its connection, too; one
/// that hangs ends with this.
#[derive(Debug)]
struct Unattended {
    pidfd: OwnedFd,
    may_stay: bool,
}

impl Drop for Unattended {
    fn drop(&mut self) {
        if !self.may_stay {
            // That it has ended already is what was wanted.
            let _ended: rustix::io::Result<()> =
                rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL);
        }
    }
}

impl Zygote {
    /// Executes the zygote from a sealed memory copy of this binary.
    ///
    /// # Errors
    /// When there is no memory for the copy, or it cannot be executed.
    pub async fn start() -> io::Result<Self> {
        Self::start_from(Program::SealedCopy).await
    }

    pub(super) async fn start_from(program: Program) -> io::Result<Self> {
        let first = Process::start(program).await?;
        let (forks, wanted) = mpsc::channel(FORKS_MAX);
        let start = move || Process::start(program);
        let keeper = Keeper { start, answer_max: ANSWER_MAX, process: Some(first) };
        task::spawn("zygote-keeper", keeper.run(wanted));
        Ok(Self { forks })
    }

    /// Forks a supervisor that has no pod yet, into the pod's cgroup where that is there.
    ///
    /// # Errors
    /// A [`Failure`] that names the step.
    pub async fn fork(&self, pod: &PodId, cgroup: &cgroup::Handle) -> Result<Newborn, Failure> {
        let cgroup = cgroup.clone();
        let gate = task::blocking("supervisor gate", move || cgroup.supervisor_gate()).await;
        let gate = gate.map_err(|error| error.failure(pod.as_str()))?;
        let forked = self.ask(Wanted::Supervisor(pod.clone(), gate)).await?;
        let Forked { pid, process, connection } = forked;
        let ended = process.pidfd.try_clone();
        let ended = ended.map_err(|error| Failure::io(Stage::Internal, "zygote", "", &error))?;
        let client = Client::new(pod, connection.into(), pid, ended).await?;
        Ok(Newborn { client, pid, process })
    }

    async fn ask(&self, wanted: Wanted) -> Result<Forked, Failure> {
        let (reply, forked) = oneshot::channel();
        self.forks.send(Fork { wanted, reply }).await.map_err(|_| is_ending())?;
        forked.await.map_err(|_| is_ending())?
    }

    /// As [`Self::ask`], on a thread that may block.
    pub(super) fn ask_blocking(&self, wanted: Wanted) -> Result<Forked, Failure> {
        let (reply, forked) = oneshot::channel();
        self.forks.blocking_send(Fork { wanted, reply }).map_err(|_| is_ending())?;
        forked.blocking_recv().map_err(|_| is_ending())?
    }
}

fn is_ending() -> Failure {
    Failure::new(Stage::Internal, "zygote", "the daemon is ending")
}

/// A supervisor without a pod. Dropped, it is killed.
#[derive(Debug)]
pub struct Newborn {
    client: Client,
    pid: u32,
    process: Unattended,
}

impl Newborn {
    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.process.pidfd.as_fd()
    }

    /// Has it join the pod's cgroup and make the pod's namespaces. `dir` is the pod's folder under the state
    /// directory; the supervisor keeps its socket and exit records there. On failure nothing is left but
    /// `dir`.
    ///
    /// # Errors
    /// A [`Failure`] that names the step.
    pub async fn set_up(
        mut self,
        pod: &PodId,
        dir: &Path,
        plan: &PodPlan,
        cgroup: &cgroup::Handle,
    ) -> Result<(Client, Ready), Failure> {
        self.client.is_set_up_in(dir);
        let ready = self.client.set_up(wire::setup_request(pod, dir, plan, cgroup)).await?;
        self.process.may_stay = true;
        Ok((self.client.clone(), ready))
    }
}

/// What keeps the zygote: starts it, asks it, buries it.
struct Keeper<F> {
    start: F,
    /// [`ANSWER_MAX`], but for tests.
    answer_max: Duration,
    /// `None` while there is none.
    process: Option<Process>,
}

impl<F, S> Keeper<F>
where
    F: FnMut() -> S,
    S: Future<Output = io::Result<Process>> + Send,
{
    /// Until nobody holds a [`Zygote`] any more.
    async fn run(mut self, mut wanted: mpsc::Receiver<Fork>) {
        let mut pause = RESTART_PAUSE_MIN;
        loop {
            let Some(process) = &mut self.process else {
                match (self.start)().await {
                    Ok(process) => {
                        info!(pid = process.child.id(), "another zygote was started");
                        self.process = Some(process);
                        pause = RESTART_PAUSE_MIN;
                        continue;
                    }
                    Err(error) => {
                        error!(%error, "the zygote cannot be started: without it there are no new pods")
                    }
                }
                tokio::select! {
                    () = time::sleep(pause) => {}
                    fork = wanted.recv() => match fork {
                        Some(fork) => self.answer(fork).await,
                        None => return,
                    },
                }
                pause = (pause * 2).min(RESTART_PAUSE_MAX);
                continue;
            };
            tokio::select! {
                biased;
                fork = wanted.recv() => match fork {
                    Some(fork) => self.answer(fork).await,
                    None => return,
                },
                // This reaps it.
                ended = process.child.wait() => {
                    warn!(status = ended.map(|status| status.to_string()).unwrap_or_default(), "the zygote has died");
                    self.process = None;
                }
            }
        }
    }

    async fn answer(&mut self, fork: Fork) {
        let forked = self.fork(&fork.wanted).await;
        // Nobody may be waiting any more: then the process is killed where it is dropped.
        let _unread: Result<(), Result<Forked, Failure>> = fork.reply.send(forked);
    }

    /// Each try has a pair of sockets of its own. So there are never two supervisors for one pod: one that was forked
    /// by a zygote which could not say so any more has a connection without another end, and ends.
    async fn fork(&mut self, wanted: &Wanted) -> Result<Forked, Failure> {
        let failed = |error: io::Error| Failure::io(Stage::Internal, "zygote", "", &error);
        for attempt in 1.. {
            let (ours, theirs) = UnixStream::pair().map_err(failed)?;
            let (pod, gate) = match wanted {
                Wanted::Supervisor(pod, gate) => (Some(pod), gate.as_ref()),
                Wanted::ImageWorker => (None, None),
            };
            let gate = gate.map(OwnedFd::try_clone).transpose().map_err(failed)?;
            let fork = v1::Fork {
                pod_id: pod.map(PodId::to_string).unwrap_or_default(),
                gate: gate.is_some(),
                image_worker: pod.is_none(),
            };
            let frame = wire::encode(&fork, [theirs.into()].into_iter().chain(gate).collect());
            let error = match self.ask(frame).await {
                Ok((v1::Forked { failure: Some(failure), .. }, _)) => return Err(wire::failure(failure)),
                Ok((v1::Forked { pid, failure: None }, Some(pidfd))) => {
                    let process = Unattended { pidfd, may_stay: false };
                    return Ok(Forked { pid, process, connection: ours });
                }
                Ok((_, None)) => io::Error::new(io::ErrorKind::InvalidData, "it sent no pidfd"),
                Err(error) => error,
            };
            warn!(?wanted, attempt, %error, "the zygote is of no use any more");
            // A process that it has forked and not reported ends with its connection.
            drop(ours);
            if let Some(process) = self.process.take() {
                process.end().await;
            }
            if attempt == TRIES_MAX {
                return Err(failed(error));
            }
        }
        Err(Failure::new(Stage::Internal, "zygote", "it was not tried"))
    }

    async fn ask(&mut self, frame: wire::Frame) -> io::Result<(v1::Forked, Option<OwnedFd>)> {
        let process = match &mut self.process {
            Some(process) => process,
            none @ None => none.insert((self.start)().await?),
        };
        let late = format!("no answer within {:?}", self.answer_max);
        let answered = time::timeout(self.answer_max, process.exchange(frame)).await;
        answered.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, late)))
    }
}

/// Logs what the zygote writes to standard error (why it ends, a panic), and what its supervisors write there that have
/// no pod yet, until the last of them has ended.
async fn log_lines(written: impl AsyncRead + Unpin) {
    let mut written = BufReader::new(written);
    let mut allowance = Allowance::new(Instant::now());
    loop {
        let mut line = Vec::new();
        let read = (&mut written).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await;
        let dropped = allowance.take_dropped(Instant::now());
        if let Some(dropped) = dropped {
            warn!(dropped, "messages of the zygote were dropped");
        }
        match read {
            Ok(0) | Err(_) => return,
            Ok(_) if allowance.admits_line(Instant::now()) => {
                let text = String::from_utf8_lossy(&line);
                warn!(text = text.trim_end(), "message from the zygote");
            }
            Ok(_) => {}
        }
    }
}

/// A zygote that was started.
#[derive(Debug)]
struct Process {
    socket: AsyncFd<OwnedFd>,
    incoming: Assembler,
    child: Child,
}

impl Process {
    async fn start(program: Program) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let program = program.open().await?;
        let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
        command
            .arg0(title::room("pintle: zygote"))
            .arg("zygote")
            .env_clear()
            .envs(crate::telemetry::failpoint_environment())
            .current_dir("/");
        // Its image workers are in its group until they have a job.
        command.process_group(0);
        // What outlives the daemon must not hold the daemon's output open.
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut command = tokio::process::Command::from(command);
        let mut child = spawn::once_written(|| command.spawn()).await?;
        if let Some(written) = child.stderr.take() {
            task::spawn("zygote-log", log_lines(written));
        }
        Self::new(ours.into(), child)
    }

    fn new(socket: OwnedFd, child: Child) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self { socket: crate::sys::ready::watch(socket)?, incoming: Assembler::default(), child })
    }

    /// One question, one answer.
    async fn exchange(&mut self, frame: wire::Frame) -> io::Result<(v1::Forked, Option<OwnedFd>)> {
        let mut outgoing = Outgoing::default();
        outgoing.push(frame);
        while !outgoing.is_empty() {
            // What was sent of a frame is remembered in the queue.
            if let Ok(sent) = self.socket.writable().await?.try_io(|socket| outgoing.flush(socket.as_fd())) {
                sent?;
            }
        }
        loop {
            if let Some(forked) = self.incoming.next::<v1::Forked>()? {
                let count = u32::from(forked.failure.is_none());
                return Ok((forked, self.incoming.take_fds(count)?.pop()));
            }
            let incoming = &mut self.incoming;
            if let Ok(more) = self.socket.readable().await?.try_io(|socket| incoming.fill(socket.as_fd()))
                && !more?
            {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the zygote is dead"));
            }
        }
    }

    /// Kills and reaps it, and what it has forked and not reported.
    async fn end(mut self) {
        let group = self.child.id().and_then(|pid| Pid::try_from(pid).ok());
        if let Err(error) = self.child.start_kill() {
            warn!(%error, "could not kill the zygote");
        }
        let is_late = time::timeout(DEATH_MAX, self.child.wait()).await.is_err();
        if is_late {
            warn!(pid = self.child.id(), "a killed zygote does not end; the next one is started beside it");
        }
        task::spawn("zygote-reaper", async move {
            if let Err(error) = self.child.wait().await {
                warn!(%error, "the end of a zygote was not seen");
            } else if let Some(group) = group {
                workers::reap_strays(group).await;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        io::Read,
        sync::{Arc, Mutex},
    };

    use super::*;

    /// What a zygote does with the forks that it is asked for.
    #[derive(Clone, Copy, Debug)]
    enum Behaviour {
        Answers,
        /// It forks, and is gone before it has said so.
        Dies,
        /// It takes the question, and no more.
        Hangs,
        CannotBeStarted,
    }

    /// Zygotes that behave as written, one after the other; after them none can be started.
    #[derive(Clone, Debug, Default)]
    struct Script(Arc<Mutex<Played>>);

    #[derive(Debug, Default)]
    struct Played {
        next: VecDeque<Behaviour>,
        /// The processes that passed for zygotes.
        pids: Vec<u32>,
        /// What their supervisors were born with.
        connections: Vec<UnixStream>,
    }

    impl Script {
        /// A handle on the zygotes of this script.
        fn zygote(&self, behaviours: &[Behaviour]) -> Zygote {
            self.0.lock().unwrap().next.extend(behaviours);
            let script = self.clone();
            let (forks, wanted) = mpsc::channel(1);
            let start = move || std::future::ready(script.start());
            let keeper = Keeper { start, answer_max: Duration::from_secs(1), process: None };
            task::spawn("zygote-keeper", keeper.run(wanted));
            Zygote { forks }
        }

        fn start(&self) -> io::Result<Process> {
            let behaviour = self.0.lock().unwrap().next.pop_front();
            let behaviour = behaviour.unwrap_or(Behaviour::CannotBeStarted);
            if matches!(behaviour, Behaviour::CannotBeStarted) {
                return Err(io::ErrorKind::OutOfMemory.into());
            }
            let child = tokio::process::Command::new("sleep").arg("1000").kill_on_drop(true).spawn().unwrap();
            self.0.lock().unwrap().pids.push(child.id().unwrap());
            let (ours, theirs) = UnixStream::pair().unwrap();
            let script = self.clone();
            std::thread::spawn(move || script.play(behaviour, &theirs));
            Process::new(ours.into(), child)
        }

        fn play(&self, behaviour: Behaviour, socket: &UnixStream) {
            let mut incoming = Assembler::default();
            while incoming.fill(socket.as_fd()).unwrap_or(false) {
                while incoming.next::<v1::Fork>().unwrap().is_some() {
                    let connection = incoming.take_fds(1).unwrap().pop().unwrap();
                    self.0.lock().unwrap().connections.push(connection.into());
                    match behaviour {
                        Behaviour::Answers => {
                            let pid = std::process::Command::new("sleep").arg("1000").spawn().unwrap().id();
                            let pidfd = crate::sys::process::pidfd(pid.try_into().unwrap()).unwrap();
                            let frame = wire::encode(&v1::Forked { pid, failure: None }, vec![pidfd]);
                            frame.send_from(0, socket.as_fd()).unwrap();
                        }
                        Behaviour::Dies | Behaviour::CannotBeStarted => return,
                        Behaviour::Hangs => {}
                    }
                }
            }
        }

        fn pids(&self) -> Vec<u32> {
            self.0.lock().unwrap().pids.clone()
        }

        /// For each supervisor that was forked, whether its daemon is still there.
        fn connected(&self) -> Vec<bool> {
            let connected = |mut connection: &UnixStream| {
                connection.set_nonblocking(true).unwrap();
                connection.read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
            };
            self.0.lock().unwrap().connections.iter().map(connected).collect()
        }
    }

    fn lives(pid: &u32) -> bool {
        std::path::Path::new(&format!("/proc/{pid}")).exists()
    }

    async fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !ready() {
            assert!(Instant::now() < deadline, "timed out: {what}");
            time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn wanted() -> Wanted {
        Wanted::Supervisor(PodId::from_bytes([7; 32]), None)
    }

    #[tokio::test]
    async fn a_fork_that_met_a_dead_or_a_hanging_zygote_is_tried_again_and_one_supervisor_comes_of_it() {
        use Behaviour::{Answers, Dies, Hangs};
        for behaviours in [[Dies, Dies, Answers], [Hangs, Dies, Answers], [Hangs, Hangs, Answers]] {
            let script = Script::default();
            let zygote = script.zygote(&behaviours);
            let forked = zygote.ask(wanted()).await.unwrap();
            // Children of other tests have each connection until they are executed.
            wait_until(&format!("{behaviours:?}: the last alone is connected"), || {
                script.connected() == [false, false, true]
            })
            .await;
            assert_eq!(script.pids().iter().map(lives).collect::<Vec<_>>(), [false, false, true]);
            let (supervisor, again) = (forked.pid, zygote.ask(wanted()).await.unwrap().pid);
            assert_ne!(supervisor, again, "the last one goes on answering");
            drop(forked);
            let status = rustix::process::Pid::from_raw(supervisor.cast_signed());
            let ended = rustix::process::waitpid(status, rustix::process::WaitOptions::empty()).unwrap();
            assert_eq!(ended.and_then(|(_, status)| status.terminating_signal()), Some(9));
        }
    }

    #[tokio::test]
    async fn a_fork_is_not_tried_for_ever() {
        let script = Script::default();
        let zygote =
            script.zygote(&[Behaviour::Hangs, Behaviour::Dies, Behaviour::Hangs, Behaviour::Answers]);
        let failure = zygote.ask(wanted()).await.unwrap_err();
        assert_eq!(failure.to_string(), "internal error zygote: no answer within 1s");
        wait_until("none is connected", || script.connected() == [false; 3]).await;
        assert!(zygote.ask(wanted()).await.is_ok());
    }

    #[tokio::test]
    async fn a_dead_zygote_is_reaped_and_replaced_though_nobody_needs_it() {
        let script = Script::default();
        let _zygote = script.zygote(&[Behaviour::Answers, Behaviour::Answers]);
        wait_until("it is there", || script.pids().len() == 1).await;
        let first = script.pids()[0];
        let killed = rustix::process::Pid::from_raw(first.cast_signed()).unwrap();
        rustix::process::kill_process(killed, rustix::process::Signal::KILL).unwrap();
        wait_until("another one is there", || script.pids().len() == 2).await;
        assert!(!lives(&first), "not even as a zombie");
    }

    #[tokio::test]
    async fn without_a_zygote_the_next_fork_starts_one_or_says_why_not() {
        use Behaviour::{Answers, CannotBeStarted};
        let script = Script::default();
        let zygote = script.zygote(&[CannotBeStarted]);
        let failure = zygote.ask(wanted()).await.unwrap_err();
        assert_eq!(failure.to_string(), "internal error zygote: out of memory");
        script.0.lock().unwrap().next.extend([Answers; 2]);
        assert!(zygote.ask(wanted()).await.is_ok());
    }
}
