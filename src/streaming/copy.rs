//! Bytes between a client and the standard streams of a process, until one of the two has gone.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    descriptor::Descriptor,
    heartbeat::while_not_reading,
    remote::{CHUNK_ROOM, Input, Output, Receiver, Sender},
    status::Outcome,
};

/// How long nothing may come from a process that has ended, before its output is taken to be complete: another
/// process in the background may hold it open for as long as it likes.
const DRAIN_IDLE_MAX: Duration = Duration::from_secs(1);
/// Chunks of standard input that wait for a process which does not read. Then the client has to wait.
const STDIN_CHUNKS_MAX: usize = 8;

/// The daemon's ends of the standard streams of a process.
#[derive(Clone, Debug, Default)]
pub(super) struct Ends {
    pub(super) stdin: Option<Arc<Descriptor>>,
    pub(super) stdout: Option<Arc<Descriptor>>,
    pub(super) stderr: Option<Arc<Descriptor>>,
    /// The master of its terminal, which then is also `stdout` and may be `stdin`.
    pub(super) terminal: Option<Arc<Descriptor>>,
}

/// Why copying ended before the process did.
#[derive(Debug)]
pub(super) enum Gone {
    /// The client closed its connection, or that broke.
    Client(io::Result<()>),
    /// Nothing went over it for too long.
    Idle,
}

/// Copies until `exit` says how the process ended and its output is at its end.
///
/// # Errors
/// When the client has gone before; then `exit` goes on for whoever has it.
pub(super) async fn run(
    receiver: &mut Receiver,
    sender: &Sender,
    ends: Ends,
    exit: impl Future<Output = Outcome>,
    idle_max: Duration,
) -> Result<Outcome, Gone> {
    let Ends { stdin, stdout, stderr, terminal } = ends;
    let ended = CancellationToken::new();
    let activity = receiver.activity();
    let output = async {
        let (outcome, stdout, stderr) = tokio::join!(
            async {
                let outcome = exit.await;
                ended.cancel();
                outcome
            },
            show(stdout.as_deref(), sender, Output::Stdout, &ended),
            show(stderr.as_deref(), sender, Output::Stderr, &ended),
        );
        stdout.and(stderr).map(|()| outcome)
    };
    let input = feed(receiver, sender, stdin, terminal.as_deref());
    tokio::select! {
        biased;
        finished = output => finished.map_err(|error| Gone::Client(Err(error))),
        gone = input => Err(Gone::Client(gone)),
        () = activity.idle(idle_max) => Err(Gone::Idle),
    }
}

/// Shows the client one output stream to its end.
async fn show(
    from: Option<&Descriptor>,
    sender: &Sender,
    output: Output,
    ended: &CancellationToken,
) -> io::Result<()> {
    let Some(from) = from else { return Ok(()) };
    let mut chunk = Vec::new();
    loop {
        let late = async {
            ended.cancelled().await;
            tokio::time::sleep(DRAIN_IDLE_MAX).await;
        };
        let more = tokio::select! {
            biased;
            more = from.read(&mut chunk, CHUNK_ROOM, sender.chunk_bytes_max()) => more,
            () = late => Ok(false),
        };
        // What cannot be read any more is at its end.
        if !more.unwrap_or(false) {
            return sender.finish(output).await;
        }
        sender.write(output, &mut chunk).await?;
    }
}

/// Gives the process what the client types, until the client has gone.
async fn feed(
    receiver: &mut Receiver,
    sender: &Sender,
    stdin: Option<Arc<Descriptor>>,
    terminal: Option<&Descriptor>,
) -> io::Result<()> {
    let (queue, waiting) = mpsc::channel(STDIN_CHUNKS_MAX);
    let receive = async {
        let mut queue = Some(queue);
        loop {
            match receiver.next().await? {
                None => return Ok(()),
                Some(Input::Stdin(bytes)) => {
                    if let Some(open) = &queue
                        && while_not_reading(open.send(bytes), || sender.heartbeat()).await?.is_err()
                    {
                        // The process has closed its end. The client may go on, as writing to a closed pipe would.
                        queue = None;
                    }
                }
                Some(Input::StdinEnded) => queue = None,
                Some(Input::Resize(size)) => {
                    // Of a terminal that has gone there is no size to set.
                    let _ = terminal.map(|terminal| terminal.resize(size));
                }
            }
        }
    };
    let write = async {
        write_all(stdin, waiting).await;
        std::future::pending().await
    };
    tokio::select! { gone = receive => gone, () = write => Ok(()) }
}

/// Closes standard input when the client has ended it, or the process does not take it.
async fn write_all(stdin: Option<Arc<Descriptor>>, mut waiting: mpsc::Receiver<Bytes>) {
    let Some(stdin) = stdin else { return };
    while let Some(bytes) = waiting.recv().await {
        if stdin.write_all(&bytes).await.is_err() {
            return;
        }
    }
}
