//! The page of metrics, if the operator wants one: a task beside everything else. An address that is taken, by whoever on
//! this node, must not keep the daemon from its pods.

use std::{io, sync::Arc, time::Duration};

use tokio::{net::TcpListener, select, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use super::socket::{self, SocketFile};
use crate::{
    meter::Meter,
    metrics::{Address, Listener, serve},
    pod::Pods,
    telemetry::{log::chain, task},
};

/// Pause between tries to listen.
const BIND_PAUSE: Duration = Duration::from_secs(10);

/// Why the page cannot be served where it should be.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Socket(#[from] socket::Error),
    #[error("listen")]
    Listen(#[source] io::Error),
}

/// Serves the page until `stop`.
pub(super) fn start(address: Address, pods: Pods, meter: Arc<Meter>, stop: CancellationToken) {
    task::spawn("metrics listener", async move {
        let Some((listener, _file)) = listen(&address, &stop).await else { return };
        info!(%address, "serving metrics");
        let read = move || {
            let (pods, meter) = (pods.clone(), Arc::clone(&meter));
            async move { meter.metrics(pods.view().pods.clone()).await }
        };
        serve(listener, read, stop.cancelled()).await;
    });
}

/// Tries until it can listen, and logs the first failure.
async fn listen(address: &Address, stop: &CancellationToken) -> Option<(Listener, Option<SocketFile>)> {
    for tries in 1_u32.. {
        match bind(address).await {
            Ok(listening) => return Some(listening),
            Err(error) if tries == 1 => {
                error!(%address, error = %chain(&error), "cannot serve metrics yet, will retry");
            }
            Err(error) => debug!(%address, tries, error = %chain(&error), "still cannot serve metrics"),
        }
        select! {
            () = stop.cancelled() => break,
            () = sleep(BIND_PAUSE) => {}
        }
    }
    None
}

async fn bind(address: &Address) -> Result<(Listener, Option<SocketFile>), Error> {
    match address {
        Address::Unix(path) => {
            let (listener, file) = socket::bind(path)?;
            Ok((Listener::Unix(listener), Some(file)))
        }
        Address::Loopback(address) => {
            let listener = TcpListener::bind(address).await.map_err(Error::Listen)?;
            Ok((Listener::Tcp(listener), None))
        }
    }
}
