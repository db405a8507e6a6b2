//! `pintle exec`: a command in a running container, with the streams of this process.

use std::io;

use super::{
    client::{self, Client},
    console::Console,
    detach::DetachKeys,
    exit::Exit,
    lookup,
    place::Place,
    session::{self, End, Session},
    signals::Signals,
    tls::{self, Trust},
};

/// What `pintle exec` was asked for.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) interactive: bool,
    pub(super) tty: bool,
    pub(super) tls: tls::Files,
    pub(super) container: String,
    pub(super) command: Vec<String>,
}

/// Why the command was not run to its end.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Daemon(#[from] client::Error),
    #[error(transparent)]
    Lookup(#[from] lookup::Error),
    #[error(transparent)]
    Session(#[from] session::Error),
    #[error("connect the standard streams")]
    Streams(#[source] io::Error),
    #[error("write the command's output")]
    Write(#[source] io::Error),
    #[error("{0}")]
    Failed(String),
    #[error("lost the connection to the daemon, which ends the command")]
    Lost,
    #[error("ended by signal {0}")]
    Signal(u8),
}

/// `pintle exec`: ends with the command's own exit code.
pub(super) fn exec(place: Place, order: Order) -> Result<Exit, Exit> {
    let config = place.load(None)?.config;
    let runtime = client::runtime()?;
    let listen = config.listen();
    let trust = Trust::new(order.tls.clone(), &config.streaming);
    runtime.block_on(run(listen.path(), trust, order)).map_err(|error| match &error {
        Error::Signal(number) => Exit::of_signal(*number),
        Error::Write(cause) if cause.kind() == io::ErrorKind::BrokenPipe => Exit::BROKEN_PIPE,
        Error::Failed(why) => Exit::of_start_failure(why).because(&error),
        _ => Exit::RUN.because(&error),
    })
}

async fn run(socket: &std::path::Path, trust: Trust, order: Order) -> Result<Exit, Error> {
    let mut signals = Signals::listen().map_err(Error::Streams)?;
    let work = async {
        let mut client = Client::connect(socket).await?.trusting(trust);
        let container = lookup::container(&mut client, &order.container).await?;
        let streams =
            client::Streams { stdin: order.interactive, stdout: true, stderr: !order.tty, tty: order.tty };
        let url = client.exec(&container.id, order.command, streams).await?;
        let session = Session::open(&url, client.trust()).await?;
        // A command in a terminal ends with its client, so there is no detaching from one.
        let console = Console::open(order.interactive, order.tty, DetachKeys::none());
        let mut console = console.map_err(Error::Streams)?;
        let end = session.run(&mut console).await;
        console.close().await.map_err(Error::Write)?;
        Ok(end)
    };
    // A signal drops the work, and with it the connection and the terminal's modes.
    let end = tokio::select! {
        biased;
        number = signals.next() => Err(Error::Signal(number)),
        end = work => end,
    };
    match end? {
        End::Exited(code) => Ok(Exit::of_program(code)),
        End::Failed(why) => Err(Error::Failed(why)),
        // Of these, the second is reported when the output is closed, and the first asks for keys.
        End::Lost | End::Detached | End::Unheard => Err(Error::Lost),
    }
}
