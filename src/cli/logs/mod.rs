//! `pintle logs`: the log of a container, from the file that the CRI names, as the output that it was.
//!
//! - `record`: one record of the kubelet's format. Pure.
//! - `lines`: a file's lines, forwards and backwards.
//! - `files`: the file that is written, and those that were rotated away from it.
//! - `tail`, `moment`: where the last lines begin; what `--since` means. Pure.
//! - `printer`: records back into output, each stream to its own.
//! - `follow`: one file from its beginning to its present end, also for `pintle run`.
//! - `reading`: all of them together, also while the log grows and is rotated.

mod files;
mod follow;
mod lines;
mod moment;
mod printer;
mod reading;
mod record;
mod tail;

use std::{
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

pub(super) use follow::{Error as FollowError, Follow};
use jiff::Timestamp;
pub(super) use printer::Printer;

use self::reading::Reading;
use super::{
    client::{self, Client},
    exit::Exit,
    lookup,
    place::Place,
};
use crate::cri::wire::ContainerState;

/// How often the log is looked at: below what a person notices.
const POLL: Duration = Duration::from_millis(50);
/// How often the daemon is asked whether the container has ended.
const POLL_STATE: Duration = Duration::from_millis(250);

/// What `pintle logs` was asked for.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) container: String,
    pub(super) follow: bool,
    /// The last so many lines; `None`: all.
    pub(super) tail: Option<u64>,
    pub(super) since: Option<String>,
    pub(super) timestamps: bool,
}

/// Why the log was not shown to its end.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Daemon(#[from] client::Error),
    #[error(transparent)]
    Lookup(#[from] lookup::Error),
    #[error("--since")]
    Since(#[from] moment::NotAMoment),
    #[error("container {0} has no log: it was made without a log path")]
    NoLog(String),
    #[error("read log {}", path.display())]
    Log {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Output(#[from] FollowError),
}

/// `pintle logs`
pub(super) fn logs(place: Place, order: &Order) -> Result<Exit, Exit> {
    let config = place.load(None)?.config;
    let runtime = client::runtime()?;
    let listen = config.listen();
    match runtime.block_on(show(listen.path(), order)) {
        Ok(()) => Ok(Exit::OK),
        Err(Error::Output(FollowError::Write(error))) if error.kind() == io::ErrorKind::BrokenPipe => {
            Err(Exit::BROKEN_PIPE)
        }
        Err(error) => Err(Exit::RUN.because(&error)),
    }
}

async fn show(socket: &std::path::Path, order: &Order) -> Result<(), Error> {
    let since = order.since.as_deref().map(|text| moment::parse(text, Timestamp::now())).transpose()?;
    let mut client = Client::connect(socket).await?;
    let container = lookup::container(&mut client, &order.container).await?;
    let path = PathBuf::from(client.status(&container.id).await?.log_path);
    if path.as_os_str().is_empty() {
        return Err(Error::NoLog(container.id));
    }
    let mut reading = Reading::begin(path, order.tail, since, order.timestamps)?;
    reading.copy()?;
    if order.follow {
        follow(&mut reading, &mut client, &container.id).await?;
    }
    reading.finish();
    Ok(())
}

/// Goes on until the container has ended and its log is at its end.
async fn follow(reading: &mut Reading, client: &mut Client, container: &str) -> Result<(), Error> {
    let (mut asked, mut ended) = (None::<Instant>, false);
    loop {
        // Asked before reading: the log of a container that has exited is complete.
        if asked.is_none_or(|asked| asked.elapsed() > POLL_STATE) {
            ended = has_ended(client, container).await?;
            asked = Some(Instant::now());
        }
        let more = reading.copy()?;
        if ended && !more {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// A daemon that is away does not end a container, nor keep its log from growing.
async fn has_ended(client: &mut Client, container: &str) -> Result<bool, Error> {
    match client.status(container).await {
        Ok(status) => Ok(status.state == i32::from(ContainerState::ContainerExited)),
        Err(error) if error.is_away() => Ok(false),
        Err(error) if error.is_unknown() => Ok(true),
        Err(error) => Err(error.into()),
    }
}
