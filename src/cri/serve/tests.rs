//! Tests of the gRPC server's limits and its shutdown, over real unix sockets.

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::oneshot,
    task::JoinHandle,
    time::Instant,
};
use tonic::{
    Code, Request, Response, Status,
    codegen::{BoxStream, http},
    transport::{Channel, Endpoint},
};

use super::*;
use crate::{
    cri::wire::{self, runtime_service_client::RuntimeServiceClient},
    telemetry::task,
};

/// Answers Version, never answers Status, has no events, and knows nothing else.
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

    async fn get_container_events(
        &self,
        _: Request<wire::GetEventsRequest>,
    ) -> Result<Response<BoxStream<wire::ContainerEventResponse>>, Status> {
        Ok(Response::new(Box::pin(futures_util::stream::pending())))
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
    served: JoinHandle<()>,
}

fn socket() -> Socket {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("s")).unwrap();
    let (stop, stopped) = oneshot::channel();
    let until = async {
        let _ = stopped.await;
    };
    let served = task::spawn("test server", serve_at_most(4, listener, routes(Stand, Stand), until));
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
    let status = client.checkpoint_container(wire::CheckpointContainerRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    let status = client.checkpoint_pod(wire::CheckpointPodRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test]
async fn the_server_ends_when_told_also_with_a_call_that_never_ends() {
    let Socket { dir, stop, served } = socket();
    let socket = Socket { dir, stop: oneshot::channel().0, served: task::spawn("none", async {}) };
    let mut client = socket.client().await;
    client.version(version(1)).await.unwrap();
    let hanging =
        task::spawn("hanging call", async move { client.status(wire::StatusRequest::default()).await });
    tokio::task::yield_now().await;
    stop.send(()).unwrap();
    within("the server ends", served).await.unwrap();
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

/// A client without a clock of its own: what it says of a deadline, the server said.
async fn patient_client(
    socket: &Socket,
) -> RuntimeServiceClient<impl tonic::client::GrpcService<Body, ResponseBody = Incoming>> {
    let io = TokioIo::new(socket.raw().await);
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    task::spawn("client", connection);
    let call = tower::service_fn(move |request: http::Request<Body>| {
        let mut sender = sender.clone();
        async move { sender.send_request(request).await }
    });
    RuntimeServiceClient::with_origin(call, "http://localhost".parse().unwrap())
}

fn due<T>(timeout: &'static str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("grpc-timeout", timeout.parse().unwrap());
    request
}

#[tokio::test]
async fn a_passed_deadline_has_its_own_code_and_names_the_call() {
    let socket = socket();
    let mut client = patient_client(&socket).await;
    let status = client.status(due("20m", wire::StatusRequest::default())).await.unwrap_err();
    let text = "Status was not done within the caller's 20ms; what it began goes on";
    assert_eq!((status.code(), status.message()), (Code::DeadlineExceeded, text));
    // A call that is answered in time, and one without a deadline that can be read.
    client.version(due("1H", version(1))).await.unwrap();
    client.version(due("soon", version(1))).await.unwrap();
}

#[tokio::test]
async fn a_stream_ends_with_its_callers_deadline() {
    let socket = socket();
    let mut client = patient_client(&socket).await;
    let mut events =
        client.get_container_events(due("20m", wire::GetEventsRequest {})).await.unwrap().into_inner();
    let status = within("the end", events.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

/// A frame of HTTP/2: its type, flags and stream, and the payload.
async fn frame(client: &mut UnixStream) -> (u8, u8, u32, Vec<u8>) {
    let mut head = [0; 9];
    client.read_exact(&mut head).await.unwrap();
    let [a, b, c, kind, flags, s0, s1, s2, s3] = head;
    let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
    client.read_exact(&mut payload).await.unwrap();
    (kind, flags, u32::from_be_bytes([s0, s1, s2, s3]), payload)
}

/// A call of Version on a stream, with `authority` as a field of the header block.
fn call(stream: u8, authority: &[u8]) -> Vec<u8> {
    let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    let block = [
        vec![0x83, 0x86, 0x04],
        text("/runtime.v1.RuntimeService/Version"),
        authority.into(),
        vec![0x0f, 0x10],
        text("application/grpc"),
    ]
    .concat();
    let headers = [&[0, 0, block.len() as u8, 1, 4, 0, 0, 0, stream], block.as_slice()].concat();
    [headers, vec![0, 0, 5, 0, 1, 0, 0, 0, stream], vec![0; 5]].concat()
}

#[tokio::test]
async fn a_client_that_names_the_socket_as_its_host_is_answered() {
    let socket = socket();
    let mut client = socket.raw().await;
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let path = [&[0x41, 22], b"/run/pintle/pintle.soc".as_slice()].concat();
    // The second call names the entry that the first made.
    for part in
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &settings, &call(1, &path), &call(3, &[0xbe])]
    {
        client.write_all(part).await.unwrap();
    }
    let mut answered = Vec::new();
    while answered.len() < 2 {
        let (kind, _, stream, payload) = within("an answer", frame(&mut client)).await;
        assert!(kind != 3 && kind != 7, "stream {stream} was reset: {payload:?}");
        // The head of an answer begins with the status 200, an entry of the static table.
        if kind == 1 && payload[0] == 0x88 {
            answered.push(stream);
        }
    }
    answered.sort_unstable();
    assert_eq!(answered, [1, 3]);
}
