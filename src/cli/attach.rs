//! `pintle attach`: this process's streams, connected to those of a container's own program.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{
    client::{self, Client, Streams},
    console::Console,
    detach::DetachKeys,
    exit::Exit,
    lookup,
    place::Place,
    run::{self, DAEMON_AWAY_MAX},
    session::{self, End, Session},
    signals::Signals,
    tls::{self, Trust},
};
use crate::cri::wire::{ContainerState, ContainerStatus};

/// Between two looks at a container that is about to be ended, and two tries to attach.
const POLL: Duration = Duration::from_millis(50);
/// Sessions in a row that showed nothing before they failed.
const FAILURES_MAX: u32 = 5;

/// What `pintle attach` was asked for.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) no_stdin: bool,
    pub(super) detach_keys: DetachKeys,
    pub(super) tls: tls::Files,
    pub(super) container: String,
}

/// Why a container was not attached to, to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Daemon(#[from] client::Error),
    #[error(transparent)]
    Lookup(#[from] lookup::Error),
    #[error(transparent)]
    Session(#[from] session::Error),
    #[error("connect the standard streams")]
    Streams(#[source] io::Error),
    #[error("write the container's output")]
    Write(#[source] io::Error),
    #[error("{0}")]
    Failed(String),
    #[error("ended by signal {0}; the container goes on")]
    Signal(u8),
    #[error("remove folder {}", path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// How it ended to be attached to a container.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ended {
    /// The container has ended, or is about to.
    Container,
    /// The person has typed the keys, or nobody reads the output.
    Person,
}

/// `pintle attach`: ends with the container's own exit code.
pub(super) fn attach(place: Place, order: Order) -> Result<Exit, Exit> {
    let config = place.load(None)?.config;
    let runtime = client::runtime()?;
    let listen = config.listen();
    let trust = Trust::new(order.tls.clone(), &config.streaming);
    runtime.block_on(visit(listen.path(), trust, order)).map_err(|error| match &error {
        Error::Signal(number) => Exit::of_signal(*number),
        Error::Write(cause) if cause.kind() == io::ErrorKind::BrokenPipe => Exit::BROKEN_PIPE,
        _ => Exit::RUN.because(&error),
    })
}

async fn visit(socket: &Path, trust: Trust, order: Order) -> Result<Exit, Error> {
    let mut signals = Signals::listen().map_err(Error::Streams)?;
    let mut client = Client::connect(socket).await?.trusting(trust);
    let container = lookup::container(&mut client, &order.container).await?;
    let has = client.streams_of(&container.id).await?;
    let stdin = has.stdin && !order.no_stdin;
    let streams = Streams { stdin, ..has };
    let work = async {
        let session = open(&mut client, &container.id, streams).await?;
        let mut console = Console::open(stdin, has.tty, order.detach_keys).map_err(Error::Streams)?;
        let ended = stay(&mut client, &container.id, streams, session, &mut console).await;
        console.close().await.map_err(Error::Write)?;
        match ended? {
            Ended::Container => exit_of(&mut client, &container.id).await.map(Some),
            Ended::Person => Ok(None),
        }
    };
    // A signal drops the work, and with it the connection and the terminal's modes.
    let status = tokio::select! {
        biased;
        number = signals.next() => Err(Error::Signal(number)),
        status = work => status,
    }?;
    let Some(status) = status else { return Ok(Exit::OK) };
    if container.namespace == run::NAMESPACE {
        // Whoever sees the end of a `pintle run` takes away what it has made.
        run::remove(&mut client, &container.pod_id, &status.log_path).await?;
    }
    Ok(Exit::of_container(&status))
}

/// Attaches to a container that has not ended.
pub(super) async fn open(client: &mut Client, container: &str, streams: Streams) -> Result<Session, Error> {
    let url = client.attach(container, streams).await?;
    Ok(Session::open(&url, client.trust()).await?)
}

/// Stays attached until the container has ended or the person has gone: attaches again when the daemon was restarted,
/// or when output came faster than it was shown.
pub(super) async fn stay(
    client: &mut Client,
    container: &str,
    streams: Streams,
    mut session: Session,
    console: &mut Console,
) -> Result<Ended, Error> {
    let mut failures = 0;
    loop {
        let before = console.shown();
        let why = match session.run(console).await {
            End::Exited(_) => return Ok(Ended::Container),
            End::Detached | End::Unheard => return Ok(Ended::Person),
            End::Failed(why) => why,
            End::Lost => "lost the connection to the daemon".to_owned(),
        };
        failures = if console.shown() == before { failures + 1 } else { 0 };
        if failures > FAILURES_MAX {
            return Err(Error::Failed(why));
        }
        let Some(again) = reopen(client, container, streams).await? else { return Ok(Ended::Container) };
        console.say(&format!("{why}; attached again, and what was written meanwhile is in the log"));
        session = again;
    }
}

/// `None`: the container has ended.
async fn reopen(client: &mut Client, container: &str, streams: Streams) -> Result<Option<Session>, Error> {
    let since = Instant::now();
    loop {
        sleep(POLL).await;
        let opened = match client.status(container).await {
            Ok(status) if has_exited(&status) => return Ok(None),
            Ok(_) => open(client, container, streams).await.map(Some),
            Err(error) => Err(error.into()),
        };
        match opened {
            // The daemon is about to start, or its streaming server is.
            Err(error) if error.is_passing() && since.elapsed() < DAEMON_AWAY_MAX => {}
            opened => return opened,
        }
    }
}

impl Error {
    fn is_passing(&self) -> bool {
        match self {
            Self::Daemon(error) => error.is_away() || error.is_precondition(),
            Self::Session(_) => true,
            _ => false,
        }
    }
}

fn has_exited(status: &ContainerStatus) -> bool {
    status.state == i32::from(ContainerState::ContainerExited)
}

/// Waits until the daemon has seen the end of a container.
pub(super) async fn exit_of(client: &mut Client, container: &str) -> Result<ContainerStatus, Error> {
    let mut away_since = None;
    loop {
        match client.status(container).await {
            Ok(status) if has_exited(&status) => return Ok(status),
            Ok(_) => away_since = None,
            Err(error) if error.is_away() => {
                if away_since.get_or_insert_with(Instant::now).elapsed() > DAEMON_AWAY_MAX {
                    return Err(error.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
        sleep(POLL).await;
    }
}
