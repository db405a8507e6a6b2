//! Serves both gRPC services on a unix socket, with a limit on everything a client can make us hold.
//!
//! The server is hyper's, and the services are tonic's. tonic's own server answers a passed deadline with CANCELLED
//! and lets no layer stand before that.

use std::{
    convert::Infallible,
    io,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt as _;
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2, service::Service};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use rustix::io::Errno;
use tokio::{
    net::{UnixListener, UnixStream},
    select,
    sync::Semaphore,
    time::{sleep, timeout},
};
use tonic::{body::Body, service::Routes};

use self::connection::Connection;
use super::{
    deadline::Deadline,
    wire::{image_service_server as image_wire, runtime_service_server as runtime_wire},
};
use crate::{sys::descriptors, telemetry::task};

mod connection;

/// Bytes of one message either way: what the kubelet and crictl take and send at most.
pub(super) const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Calls at a time on one connection. The kubelet has one connection and two or three calls a pod.
const STREAMS_MAX: u32 = 256;
/// Connections at a time. A kubelet has two, a crictl one. There is room for a client that opens a thousand
/// by mistake (they end after [`connection::FIRST_BYTE_WAIT_MAX`]), so that it does not lock the kubelet out, but
/// not for as many as would take the descriptors that pods need.
const CONNECTIONS_MAX: usize = 2048;
/// Of all descriptors that the daemon may have, the connections get one in so many at most.
const CONNECTIONS_SHARE: u64 = 8;
/// How often a silent connection is asked whether anyone is there, and how long it may think about it.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);
const KEEPALIVE_WAIT_MAX: Duration = Duration::from_secs(20);
/// Pause after a failed accept: without descriptors it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long calls in flight may take to end when the server does. Their work goes on without them, and what is
/// lost is only a reply: the client's retry joins what was done.
const DRAIN_WAIT_MAX: Duration = Duration::from_secs(2);

/// Serves both services on one socket until `until` is ready; calls in flight then have [`DRAIN_WAIT_MAX`]. A bad
/// connection only ends itself.
pub(crate) async fn serve<R, I>(listener: UnixListener, runtime: R, image: I, until: impl Future<Output = ()>)
where
    R: runtime_wire::RuntimeService,
    I: image_wire::ImageService,
{
    let share = usize::try_from(descriptors::limit() / CONNECTIONS_SHARE).unwrap_or(CONNECTIONS_MAX);
    serve_at_most(share.min(CONNECTIONS_MAX), listener, routes(runtime, image), until).await;
}

async fn serve_at_most(
    connections_max: usize,
    listener: UnixListener,
    routes: Routes,
    until: impl Future<Output = ()>,
) {
    let places = Arc::new(Semaphore::new(connections_max));
    let (http, connections) = (http(), GracefulShutdown::new());
    let mut until = pin!(until);
    loop {
        let connection = select! {
            () = &mut until => break,
            connection = next_connection(&listener, &places, connections_max) => connection,
        };
        let serving = http.serve_connection(TokioIo::new(connection), Calls(routes.clone()));
        let serving = connections.watch(serving);
        task::spawn("connection", async move {
            if let Err(error) = serving.await {
                tracing::debug!(%error, "a connection ended");
            }
        });
    }
    // Nobody new is to wait for an answer.
    drop(listener);
    if timeout(DRAIN_WAIT_MAX, connections.shutdown()).await.is_err() {
        tracing::warn!(waited = ?DRAIN_WAIT_MAX, "requests are still at work, leaving them");
    }
}

fn http() -> http2::Builder<TokioExecutor> {
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(Some(KEEPALIVE_INTERVAL))
        .keep_alive_timeout(KEEPALIVE_WAIT_MAX);
    http
}

fn routes<R, I>(runtime: R, image: I) -> Routes
where
    R: runtime_wire::RuntimeService,
    I: image_wire::ImageService,
{
    let runtime = runtime_wire::RuntimeServiceServer::new(runtime)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let image = image_wire::ImageServiceServer::new(image)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    Routes::new(runtime).add_service(image).prepare()
}

/// The calls of a connection, each within its caller's deadline.
#[derive(Clone)]
struct Calls(Routes);

impl Service<Request<Incoming>> for Calls {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let deadline = Deadline::of(&request);
        let answer = tower::Service::call(&mut self.0.clone(), request.map(Body::new));
        match deadline {
            Some(deadline) => Box::pin(async move { Ok(deadline.keep(answer).await) }),
            None => Box::pin(answer),
        }
    }
}

/// The next accepted connection: a failed accept is logged and tried again. One above `max` is closed at once, so
/// that its client knows and those at work are not disturbed.
async fn next_connection(listener: &UnixListener, places: &Arc<Semaphore>, max: usize) -> Connection {
    loop {
        match accept(listener).await {
            Ok(io) => match Arc::clone(places).try_acquire_owned() {
                Ok(place) => return Connection::new(io, place),
                Err(_) => tracing::warn!(max, "connection refused, too many are open"),
            },
            Err(error) => {
                tracing::warn!(%error, "accept failed, will retry");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Without descriptors a client is given one of the reserve: what it asks for may be to end something.
async fn accept(listener: &UnixListener) -> io::Result<UnixStream> {
    match listener.accept().await {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::MFILE) => {
            let _reserve = descriptors::lend_reserve();
            // It is waiting; if not, the reserve is not to be lent while we do.
            listener.accept().now_or_never().unwrap_or_else(|| Err(error)).map(|(io, _)| io)
        }
        accepted => Ok(accepted?.0),
    }
}

#[cfg(test)]
mod tests;
