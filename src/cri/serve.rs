//! Assembles the gRPC server on a unix socket, with a limit on everything a client can make us hold.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{FutureExt as _, Stream, StreamExt as _, stream};
use rustix::io::Errno;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::Sleep,
};
use tonic::transport::{
    Server,
    server::{Connected, Router, UdsConnectInfo},
};

use super::wire::{image_service_server as image_wire, runtime_service_server as runtime_wire};
use crate::sys::descriptors;

/// Bytes of one message either way: what the kubelet and crictl take and send at most.
pub(super) const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Calls at a time on one connection. The kubelet has one connection and two or three calls a pod.
const STREAMS_MAX: u32 = 256;
/// Connections at a time. A kubelet has two, a crictl one. There is room for a client that opens a thousand
/// by mistake (they end after [`FIRST_BYTE_WAIT_MAX`]), so that it does not lock the kubelet out, but not for
/// as many as would take the descriptors that pods need.
const CONNECTIONS_MAX: usize = 2048;
/// Of all descriptors that the daemon may have, the connections get one in so many at most.
const CONNECTIONS_SHARE: u64 = 8;
/// How long a new connection may be silent before it is closed: a client's first bytes need no waiting.
const FIRST_BYTE_WAIT_MAX: Duration = Duration::from_secs(10);
/// How often a silent connection is asked whether anyone is there, and how long it may think about it.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);
const KEEPALIVE_WAIT_MAX: Duration = Duration::from_secs(20);
/// Pause after a failed accept: without descriptors it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long calls in flight may take to end when the server does. Their work goes on without them.
const DRAIN_WAIT_MAX: Duration = Duration::from_secs(2);

/// Why the kubelet could no longer be served.
#[derive(Debug, thiserror::Error)]
#[error("serve CRI requests")]
pub(crate) struct ServeError(#[source] tonic::transport::Error);

/// Serves both services on one socket until `until` is ready; calls in flight then have [`DRAIN_WAIT_MAX`].
///
/// # Errors
/// [`ServeError`] if the server fails as a whole; a bad connection only ends itself.
pub(crate) async fn serve<R, I>(
    listener: UnixListener,
    runtime: R,
    image: I,
    until: impl Future<Output = ()>,
) -> Result<(), ServeError>
where
    R: runtime_wire::RuntimeService,
    I: image_wire::ImageService,
{
    let share = usize::try_from(descriptors::limit() / CONNECTIONS_SHARE).unwrap_or(CONNECTIONS_MAX);
    serve_at_most(share.min(CONNECTIONS_MAX), listener, runtime, image, until).await
}

async fn serve_at_most<R, I>(
    connections_max: usize,
    listener: UnixListener,
    runtime: R,
    image: I,
    until: impl Future<Output = ()>,
) -> Result<(), ServeError>
where
    R: runtime_wire::RuntimeService,
    I: image_wire::ImageService,
{
    let connections = connections(listener, connections_max);
    let (stop, stopped) = oneshot::channel::<()>();
    let drained = async {
        until.await;
        let _ = stop.send(());
        tokio::time::sleep(DRAIN_WAIT_MAX).await;
    };
    let stopped = async {
        let _ = stopped.await;
    };
    let serving = router(runtime, image).serve_with_incoming_shutdown(connections, stopped);
    tokio::select! {
        result = serving => result.map_err(ServeError),
        () = drained => Ok(()),
    }
}

fn router<R, I>(runtime: R, image: I) -> Router
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
    Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_WAIT_MAX))
        .add_service(runtime)
        .add_service(image)
}

/// Accepted connections, without end: a failed accept is logged and tried again. One above
/// `max` is closed at once, so that its client knows and those at work are not disturbed.
fn connections(listener: UnixListener, max: usize) -> impl Stream<Item = io::Result<Connection>> {
    let places = Arc::new(Semaphore::new(max));
    stream::unfold((listener, places), move |(listener, places)| async move {
        loop {
            match accept(&listener).await {
                Ok(io) => match Arc::clone(&places).try_acquire_owned() {
                    Ok(place) => return Some((Ok(Connection::new(io, place)), (listener, places))),
                    Err(_) => tracing::warn!(max, "connection refused, too many are open"),
                },
                Err(error) => {
                    tracing::warn!(%error, "accept failed, will retry");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
    .boxed()
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

/// A client's connection and its place among [`CONNECTIONS_MAX`].
struct Connection {
    io: UnixStream,
    /// Until the first byte has come.
    patience: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    fn new(io: UnixStream, place: OwnedSemaphorePermit) -> Self {
        Self { io, patience: Some(Box::pin(tokio::time::sleep(FIRST_BYTE_WAIT_MAX))), _place: place }
    }
}

impl Connected for Connection {
    type ConnectInfo = UdsConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Poll::Ready(result) = Pin::new(&mut this.io).poll_read(cx, buf) {
            this.patience = None;
            return Poll::Ready(result);
        }
        match &mut this.patience {
            Some(patience) => {
                ready!(patience.as_mut().poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            None => Poll::Pending,
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use hyper_util::rt::TokioIo;
    use tempfile::TempDir;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        task::JoinHandle,
        time::Instant,
    };
    use tonic::{
        Code, Request, Response, Status,
        transport::{Channel, Endpoint},
    };

    use super::*;
    use crate::{
        cri::wire::{self, runtime_service_client::RuntimeServiceClient},
        telemetry::task,
    };

    /// Answers Version, never answers Status, and knows nothing else.
    struct Stand;

    #[tonic::async_trait]
    impl runtime_wire::RuntimeService for Stand {
        async fn version(
            &self,
            request: Request<wire::VersionRequest>,
        ) -> Result<Response<wire::VersionResponse>, Status> {
            let version = request.into_inner().version;
            Ok(Response::new(wire::VersionResponse { version, ..Default::default() }))
        }

        async fn status(
            &self,
            _: Request<wire::StatusRequest>,
        ) -> Result<Response<wire::StatusResponse>, Status> {
            std::future::pending().await
        }
    }

    #[tonic::async_trait]
    impl image_wire::ImageService for Stand {}

    /// More than any wait of a server that works.
    const WAIT_MAX: Duration = Duration::from_secs(10);

    async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
        tokio::time::timeout(WAIT_MAX, future).await.unwrap_or_else(|_| panic!("timed out: {what}"))
    }

    struct Socket {
        dir: TempDir,
        stop: oneshot::Sender<()>,
        served: JoinHandle<Result<(), ServeError>>,
    }

    fn socket() -> Socket {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let (stop, stopped) = oneshot::channel();
        let until = async {
            let _ = stopped.await;
        };
        let served = task::spawn("test server", serve_at_most(4, listener, Stand, Stand, until));
        Socket { dir, stop, served }
    }

    impl Socket {
        async fn raw(&self) -> UnixStream {
            UnixStream::connect(self.dir.path().join("s")).await.unwrap()
        }

        async fn client(&self) -> RuntimeServiceClient<Channel> {
            let path = self.dir.path().join("s");
            let connect = move |_| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            };
            let endpoint = Endpoint::from_static("http://localhost");
            let channel = endpoint.connect_with_connector(tower::service_fn(connect)).await.unwrap();
            RuntimeServiceClient::new(channel)
                .max_decoding_message_size(usize::MAX)
                .max_encoding_message_size(usize::MAX)
        }
    }

    fn version(bytes: usize) -> wire::VersionRequest {
        wire::VersionRequest { version: "v".repeat(bytes) }
    }

    #[tokio::test]
    async fn a_message_of_17_mib_is_refused_with_both_sizes_and_the_connection_lives_on() {
        let socket = socket();
        let mut client = socket.client().await;
        let status = client.version(version(17 << 20)).await.unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange);
        assert!(status.message().contains("16777216"), "{status}");
        let answer = client.version(version(15 << 20)).await.unwrap().into_inner();
        assert_eq!(answer.version.len(), 15 << 20);
    }

    #[tokio::test]
    async fn what_is_not_built_says_so_at_once() {
        let socket = socket();
        let mut client = socket.client().await;
        let status =
            client.checkpoint_container(wire::CheckpointContainerRequest::default()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
        let status = client.get_container_events(wire::GetEventsRequest {}).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
    }

    #[tokio::test]
    async fn the_server_ends_when_told_also_with_a_call_that_never_ends() {
        let Socket { dir, stop, served } = socket();
        let socket =
            Socket { dir, stop: oneshot::channel().0, served: task::spawn("none", async { Ok(()) }) };
        let mut client = socket.client().await;
        client.version(version(1)).await.unwrap();
        let hanging =
            task::spawn("hanging call", async move { client.status(wire::StatusRequest::default()).await });
        tokio::task::yield_now().await;
        stop.send(()).unwrap();
        within("the server ends", served).await.unwrap().unwrap();
        hanging.abort();
    }

    #[tokio::test]
    async fn a_connection_too_many_is_closed_and_the_others_work() {
        let socket = socket();
        let mut client = socket.client().await;
        client.version(version(1)).await.unwrap();
        let mut others = Vec::new();
        for _ in 0..3 {
            others.push(socket.raw().await);
        }
        // Our own connections are accepted in order, so this one is the first above the limit.
        let mut surplus = socket.raw().await;
        assert_eq!(within("it is closed", surplus.read(&mut [0; 64])).await.unwrap(), 0);
        client.version(version(1)).await.unwrap();

        // A freed place is taken again. Its end reaches the server a moment later.
        drop(others);
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            let mut again = socket.raw().await;
            let silence = tokio::time::timeout(Duration::from_millis(50), again.read(&mut [0; 64])).await;
            if silence.is_err() || matches!(silence, Ok(Ok(1..))) {
                break;
            }
            assert!(Instant::now() < deadline, "timed out: a place is free again");
        }
    }

    fn connection(patience: Duration) -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let mut connection = Connection::new(ours, place);
        connection.patience = Some(Box::pin(tokio::time::sleep(patience)));
        (connection, theirs)
    }

    #[tokio::test]
    async fn a_client_that_says_nothing_is_hung_up_on() {
        let (mut connection, mut theirs) = connection(Duration::from_millis(20));
        let error = within("it gives up", connection.read(&mut [0; 1])).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(connection);
        assert_eq!(within("the end", theirs.read(&mut [0; 1])).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_client_that_has_spoken_may_be_silent_as_long_as_it_likes() {
        let (mut connection, mut theirs) = connection(Duration::from_millis(20));
        theirs.write_all(b"P").await.unwrap();
        assert_eq!(connection.read(&mut [0; 1]).await.unwrap(), 1);
        let silence = tokio::time::timeout(Duration::from_millis(60), connection.read(&mut [0; 1])).await;
        assert!(silence.is_err(), "{silence:?}");
    }
}
