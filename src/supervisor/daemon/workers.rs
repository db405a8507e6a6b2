//! Image workers from a zygote.

use std::{
    io,
    time::{Duration, Instant},
};

use tokio::time;
use tracing::warn;

use super::zygote::{Program, Wanted, Zygote};
use crate::{
    image::{Worker, Workers},
    sys::process::{self, Pid},
};

/// How long the image workers of a dead zygote are looked for. One of which nobody knows has lost its connection and ends
/// at once.
const STRAYS_MAX: Duration = Duration::from_secs(10);
/// Pause between two looks.
const STRAYS_PAUSE: Duration = Duration::from_millis(20);

impl Workers for Zygote {
    fn fork(&self) -> io::Result<Worker> {
        let forked = self.ask_blocking(Wanted::ImageWorker).map_err(io::Error::other)?;
        let (connection, process) = forked.attended()?;
        Ok(Worker::new(connection, process))
    }
}

/// A zygote that forks image workers and nothing else, for a command that unpacks layers and ends. Cheap to clone.
///
/// It runs from this program's own file. The copy in memory that a daemon's zygote runs from costs more than unpacking
/// a small archive does, and is for containers, which can reach the file that their supervisor and helpers run from
/// (CVE-2019-5736). An image worker executes nothing, has no proc(5), and the only files in its reach are its layer's.
#[derive(Clone, Debug)]
pub struct ImageWorkers(Zygote);

impl ImageWorkers {
    /// Executes the zygote.
    ///
    /// # Errors
    /// When this program's file cannot be opened or executed.
    pub async fn start() -> io::Result<Self> {
        Zygote::start_from(Program::OwnFile).await.map(Self)
    }
}

impl Workers for ImageWorkers {
    fn fork(&self) -> io::Result<Worker> {
        Workers::fork(&self.0)
    }
}

/// Reaps image workers that `zygote`, which has ended and was reaped, had forked and not reported: they are children of
/// this process, and nobody else knows of them. They are in the zygote's process group, which a worker leaves with its
/// first job.
pub(super) async fn reap_strays(zygote: Pid) {
    let until = Instant::now() + STRAYS_MAX;
    loop {
        match process::reap_group(zygote) {
            Ok(true) if Instant::now() < until => time::sleep(STRAYS_PAUSE).await,
            Ok(_) => return,
            Err(error) => {
                warn!(%error, "image workers of a dead zygote could not be reaped");
                return;
            }
        }
    }
}
