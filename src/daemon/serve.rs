//! The daemon's life: start, signals, the watchdog of systemd, stop.

use std::{io, pin::pin, sync::Arc};

use sd_notify::NotifyState;
use tokio::{
    runtime::{self, Runtime},
    select,
    signal::unix::{Signal, SignalKind, signal},
    time::interval,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    metrics,
    notify::ServiceManager,
    process,
    roots::{self, Roots},
    socket, wire,
};
use crate::{
    config::{Config, Loaded},
    cri,
    telemetry::{log, task},
};

/// The daemon; there is one in a process.
#[derive(Debug)]
pub struct Daemon {
    config: Config,
    /// Dropped last: the next daemon may start.
    _roots: Roots,
}

/// Why the daemon did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("set up logging")]
    Log(#[from] log::Error),
    #[error("use the folders of pintle")]
    Roots(#[from] roots::Error),
    #[error("start the runtime")]
    Runtime(#[source] io::Error),
    #[error("start")]
    Rooms(#[from] wire::Error),
    #[error("serve the CRI")]
    Socket(#[from] socket::Error),
}

impl Daemon {
    /// Serves until SIGTERM or SIGINT. Pods go on running. What goes wrong is logged, except for what keeps
    /// the log from being set up ([`Error::Log`]).
    pub fn run(loaded: Loaded) -> Result<(), Error> {
        log::init(&loaded.config.log)?;
        task::log_panics();
        let result = Self::start(loaded);
        if let Err(error) = &result {
            error!(error = %log::chain(error), "the daemon ends");
        }
        log::flush();
        result
    }

    fn start(loaded: Loaded) -> Result<(), Error> {
        process::prepare();
        let Loaded { config, files } = loaded;
        info!(version = env!("CARGO_PKG_VERSION"), ?files, root = %config.root.display(), "starting");
        let roots = Roots::open(&config.root, &config.state)?;
        crate::failpoint!("daemon.roots-locked");
        let daemon = Self { config, _roots: roots };
        let runtime = runtime()?;
        let result = runtime.block_on(daemon.serve());
        // What did not drain in time is not waited for again.
        runtime.shutdown_background();
        result
    }

    async fn serve(&self) -> Result<(), Error> {
        let mut signals = Signals::listen()?;
        let listen = self.config.listen();
        let claim = socket::claim(listen.path())?;
        let rooms = select! {
            rooms = wire::build(&self.config) => rooms?,
            name = signals.next() => {
                info!(signal = name, "stopped while starting");
                return Ok(());
            }
        };
        let (listener, _file) = claim.listen()?;
        crate::failpoint!("daemon.socket-bound");
        let stop = CancellationToken::new();
        let image = cri::ImageService::new(rooms.pods.images().clone());
        let pods = rooms.pods.clone();
        if let Some(address) = &self.config.metrics.listen {
            metrics::start(address.clone(), pods.clone(), Arc::clone(&rooms.meter), stop.clone());
        }
        let runtime = cri::RuntimeService::new(rooms.pods, rooms.meter, rooms.streams, rooms.node);
        let mut serving = pin!(cri::serve(listener, runtime, image, stop.clone().cancelled_owned()));
        let systemd = ServiceManager::find();
        systemd.tell(NotifyState::Ready);
        keep_watchdog(systemd.clone());
        info!(%listen, "ready");

        select! {
            // It ends when it is told to.
            () = &mut serving => return Ok(()),
            name = signals.next() => info!(signal = name, "stopping, pods go on"),
        }
        systemd.tell(NotifyState::Stopping);
        // Their calls have no end of their own.
        pods.end_following();
        stop.cancel();
        select! {
            () = &mut serving => {}
            name = signals.next() => warn!(signal = name, "told to stop twice, leaving requests at work"),
        }
        info!("stopped");
        Ok(())
    }
}

fn runtime() -> Result<Runtime, Error> {
    runtime::Builder::new_multi_thread().thread_name("pintle").enable_all().build().map_err(Error::Runtime)
}

/// The two signals that mean "stop".
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self, Error> {
        let listen = |kind| signal(kind).map_err(Error::Runtime);
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Says "alive" twice in the time that systemd allows (`WatchdogSec=`). Proves that the runtime turns, no more.
fn keep_watchdog(systemd: ServiceManager) {
    let Some(allowed) = sd_notify::watchdog_enabled().filter(|allowed| !allowed.is_zero()) else { return };
    task::spawn("watchdog", async move {
        let mut beat = interval(allowed / 2);
        loop {
            beat.tick().await;
            systemd.tell(NotifyState::Watchdog);
        }
    });
}
