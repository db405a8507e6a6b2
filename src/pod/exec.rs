//! ExecSync: a command in a running container, to its end.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustix::pipe::PipeFlags;
use tokio::net::unix::pipe;

use super::{
    admission::{Execs, open_files_allow},
    error::Error,
    keep,
    node::Node,
    reach::Reach,
    view::{ContainerState, ContainerView},
};
use crate::{
    model::{Failure, ProcessPlan, Stage},
    spec,
    supervisor::{Client, ExecStdio},
};

/// Bytes of both streams together. The reply has to fit into the 16 MiB that the kubelet receives.
pub(super) const EXEC_OUTPUT_BYTES_MAX: usize = (16 << 20) - (64 << 10);

/// Bytes of output that an exec may hold whatever the others do. No probe says more, and 512 of them are 32 MiB.
const EXEC_OUTPUT_BYTES_SURE: usize = 64 << 10;

/// How long a process in the background may hold the output open after the command has ended.
const EXEC_DRAIN_MAX: Duration = Duration::from_secs(1);

/// How much longer than its time-out an ExecSync may take in all: to reach the supervisor, to kill the command, or
/// to give a supervisor up that does not answer. CRI names no figure; a probe of the kubelet waits two seconds.
const EXEC_ANSWER_MAX: Duration = Duration::from_millis(1_900);

/// Both ends of those.
const DESCRIPTORS_PER_EXEC: u64 = 4;

/// What a finished ExecSync gives.
#[derive(Clone, Debug, Default)]
pub struct ExecOutput {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit_code: i32,
}

/// Runs `command` in the container, and answers soon after `timeout` whatever happens. Dropping the future kills the
/// command.
pub(super) async fn exec_sync(
    node: &Node,
    reach: &Reach,
    container: &ContainerView,
    command: Vec<String>,
    timeout: Option<Duration>,
) -> Result<ExecOutput, Error> {
    let run = run(node, reach, container, command, timeout);
    let Some(limit) = timeout else { return run.await };
    let late = || {
        let text = format!("it was to take {limit:?}, and there is no answer {EXEC_ANSWER_MAX:?} later");
        Error::Supervisor(Failure::new(Stage::Deadline, format!("exec in container {}", container.id), text))
    };
    tokio::time::timeout(limit.saturating_add(EXEC_ANSWER_MAX), run).await.unwrap_or_else(|_| Err(late()))
}

async fn run(
    node: &Node,
    reach: &Reach,
    container: &ContainerView,
    command: Vec<String>,
    timeout: Option<Duration>,
) -> Result<ExecOutput, Error> {
    let id = &container.id;
    if command.is_empty() {
        return Err(Error::EmptyCommand);
    }
    let client = client_of(reach, container).await?;
    let _turn = node.execs.enter(id)?;
    open_files_allow(DESCRIPTORS_PER_EXEC)?;
    let plan = exec_plan(node, reach, container, command, false).await?;

    let (stdout, stdout_writer) = pipe_pair()?;
    let (stderr, stderr_writer) = pipe_pair()?;
    let output = Output::new(&node.execs);
    let stdio = ExecStdio::Pipes { stdin: None, stdout: stdout_writer, stderr: stderr_writer };
    let run = client.exec(id, &plan, stdio, timeout);
    let drain = async { tokio::join!(output.drain(stdout, false), output.drain(stderr, true)) };
    tokio::pin!(run, drain);
    let exit = tokio::select! {
        exit = &mut run => {
            if matches!(&exit, Ok(exit) if !exit.timed_out) {
                // What holds the output open longer than that is not the command.
                let _late = tokio::time::timeout(EXEC_DRAIN_MAX, &mut drain).await;
            }
            exit
        }
        // The command has closed its output and goes on.
        _ = &mut drain => run.await,
    }?;
    if exit.timed_out {
        return Err(Error::ExecTimeout(timeout.unwrap_or_default()));
    }
    let (stdout, stderr) = output.take();
    Ok(ExecOutput { stdout, stderr, exit_code: exit.code })
}

/// The supervisor of a container that runs.
///
/// # Errors
/// When it does not run, or its supervisor cannot be reached.
pub(super) async fn client_of(reach: &Reach, container: &ContainerView) -> Result<Client, Error> {
    let (state, wanted) = match container.state {
        ContainerState::Running { .. } => match reach.access.client().await {
            Some(client) => return Ok(client),
            None => ("without a supervisor", "it is killed when that is gone for good"),
        },
        ContainerState::Created { .. } => ("created", "it must be running"),
        ContainerState::Exited { .. } => ("exited", "it must be running"),
    };
    Err(Error::WrongState { object: format!("container {}", container.id), state, wanted })
}

/// What a command in the container is run as.
pub(super) async fn exec_plan(
    node: &Node,
    reach: &Reach,
    container: &ContainerView,
    command: Vec<String>,
    tty: bool,
) -> Result<ProcessPlan, Error> {
    let init = init_plan(node, reach, container).await?;
    let command = command.into_iter().map(String::into_bytes).collect();
    let mut plan = spec::exec(&init, command, tty);
    // The init's may have been changed since.
    plan.oom_score_adj = container.resources.oom_score_adj;
    Ok(plan)
}

/// What the container's init was planned as: kept by this daemon, or written by an earlier one.
async fn init_plan(node: &Node, reach: &Reach, container: &ContainerView) -> Result<Arc<ProcessPlan>, Error> {
    if let Some(plan) = reach.access.init(&container.id) {
        return Ok(plan);
    }
    let path = keep::init_file(&node.places.live(&container.pod), &container.id);
    let plan = Arc::new(keep::get::<ProcessPlan>(path).await?);
    reach.access.keep_init(&container.id, Arc::clone(&plan));
    Ok(plan)
}

/// A pipe that the daemon reads without blocking and the process writes as it likes.
pub(super) fn pipe_pair() -> Result<(OwnedFd, OwnedFd), Error> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
        .map_err(|errno| Error::Io { doing: "make a pipe for the command".into(), source: errno.into() })
}

/// Both streams of a command, under two limits: its own, and what is left of that of all. First come, first
/// kept; what is over is dropped, as the peers do, and is no failure of the command.
#[derive(Debug)]
struct Output<'a> {
    streams: Mutex<[Vec<u8>; 2]>,
    execs: &'a Execs,
    /// Of the bytes of all; given back at the end.
    taken: AtomicUsize,
}

impl Drop for Output<'_> {
    fn drop(&mut self) {
        self.execs.give_back_output(*self.taken.get_mut());
    }
}

impl<'a> Output<'a> {
    fn new(execs: &'a Execs) -> Self {
        Self { streams: Mutex::default(), execs, taken: AtomicUsize::new(0) }
    }

    /// Reads to the end of the stream. What is over the limit is read and dropped, so that the command never
    /// waits for a reader.
    async fn drain(&self, from: OwnedFd, second: bool) {
        let Ok(reader) = pipe::Receiver::from_owned_fd(from) else { return };
        let mut chunk = vec![0; 32 << 10];
        while reader.readable().await.is_ok() {
            match reader.try_read(&mut chunk) {
                Ok(0) => return,
                Ok(count) => self.keep(&chunk[..count], second),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    }

    fn keep(&self, bytes: &[u8], second: bool) {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let held = streams[0].len() + streams[1].len();
        let wanted = bytes.len().min(EXEC_OUTPUT_BYTES_MAX - held);
        let sure = wanted.min(EXEC_OUTPUT_BYTES_SURE.saturating_sub(held));
        let taken = self.execs.take_output(wanted - sure);
        self.taken.fetch_add(taken, Ordering::Relaxed);
        let stream = &mut streams[usize::from(second)];
        // By a quarter, not to twice the size: what is not used counts for nobody and is there all the same.
        if stream.capacity() < stream.len() + sure + taken {
            stream.reserve_exact((sure + taken).max(stream.len() / 4));
        }
        stream.extend_from_slice(&bytes[..sure + taken]);
    }

    fn take(&self) -> (Vec<u8>, Vec<u8>) {
        let [stdout, stderr] = &mut *self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(stdout), std::mem::take(stderr))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write};

    use super::*;
    use crate::pod::admission::OUTPUT_BYTES_MAX;

    #[tokio::test]
    async fn both_streams_share_one_limit_and_the_writer_never_blocks() {
        let (out, out_writer) = pipe_pair().unwrap();
        let (err, err_writer) = pipe_pair().unwrap();
        let writer = std::thread::spawn(move || {
            let mebibyte = vec![b'x'; 1 << 20];
            let (mut out, mut err) = (File::from(out_writer), File::from(err_writer));
            for _ in 0..10 {
                out.write_all(&mebibyte).unwrap();
                err.write_all(&mebibyte).unwrap();
            }
        });
        let execs = Execs::default();
        let output = Output::new(&execs);
        tokio::join!(output.drain(out, false), output.drain(err, true));
        writer.join().unwrap();
        let (stdout, stderr) = output.take();
        assert_eq!(stdout.len() + stderr.len(), EXEC_OUTPUT_BYTES_MAX);
    }

    #[test]
    fn all_outputs_share_one_limit_and_each_has_a_little_for_sure() {
        let execs = Execs::default();
        let mebibyte = vec![b'x'; 1 << 20];
        let outputs: Vec<_> = (0..60).map(|_| Output::new(&execs)).collect();
        for _ in 0..17 {
            outputs.iter().for_each(|output| output.keep(&mebibyte, false));
        }
        let lengths: Vec<_> = outputs.iter().map(|output| output.take().0.len()).collect();
        let all: usize = lengths.iter().sum();
        assert_eq!(all, OUTPUT_BYTES_MAX + 60 * EXEC_OUTPUT_BYTES_SURE);
        assert!(lengths.iter().all(|length| *length >= EXEC_OUTPUT_BYTES_SURE), "{lengths:?}");
        // A probe that comes now still says what it has to say.
        let probe = Output::new(&execs);
        probe.keep(b"ok", false);
        probe.keep(&mebibyte, true);
        assert_eq!(probe.take().0, b"ok");
        drop((outputs, probe));
        let whole = Output::new(&execs);
        (0..17).for_each(|_| whole.keep(&mebibyte, false));
        assert_eq!(whole.take().0.len(), EXEC_OUTPUT_BYTES_MAX);
        drop(whole);
        assert_eq!(execs.output_bytes(), 0);
    }

    #[tokio::test]
    async fn each_stream_keeps_its_own_bytes() {
        let (out, out_writer) = pipe_pair().unwrap();
        let (err, err_writer) = pipe_pair().unwrap();
        File::from(out_writer).write_all(b"to out").unwrap();
        File::from(err_writer).write_all(b"to err").unwrap();
        let execs = Execs::default();
        let output = Output::new(&execs);
        tokio::join!(output.drain(out, false), output.drain(err, true));
        assert_eq!(output.take(), (b"to out".to_vec(), b"to err".to_vec()));
    }
}
