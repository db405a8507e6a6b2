//! The HTTP server that clients come to with their URLs.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::{Response, StatusCode, body::Incoming, header, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{
    config::Config,
    request::Request,
    tls::Tls,
    token::{Tokens, TooManyPending},
    upgrade::{self, Agreed, Protocol, Refusal},
};
use crate::telemetry::task;

/// Connections that have not been upgraded yet. More wait to be accepted.
const HANDSHAKES_MAX: usize = 256;
/// Sessions at a time; each costs some 20 KiB.
const SESSIONS_MAX: usize = 1000;
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Lines of a request's head.
const HEAD_LINES_MAX: usize = 64;

/// TCP keep-alive: after so long without a segment of the client's the first probe, and so many with such pauses.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEP_ALIVE_PROBES: u32 = 4;
const KEEP_ALIVE_PAUSE: Duration = Duration::from_secs(15);

/// A connection that was upgraded.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}
pub(super) type Socket = Box<dyn Duplex>;

/// A client that has come with its URL, and speaks.
pub(super) struct Visit {
    pub(super) request: Request,
    pub(super) protocol: Protocol,
    pub(super) socket: Socket,
    _session: OwnedSemaphorePermit,
}

/// The server: it gives out URLs and waits for their clients. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Server {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: Config,
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
    tokens: Tokens<Request>,
    sessions: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
}

impl Server {
    /// Binds the configured address.
    ///
    /// # Errors
    /// As bind(2); `InvalidInput` for certificates that cannot be used, and for an address that others than this node
    /// can reach when they need not show one.
    pub async fn bind(config: Config) -> io::Result<(Self, TcpListener)> {
        let tls = Tls::configured(&config)?.map(Arc::new);
        if !config.listen.ip().is_loopback() && !tls.as_ref().is_some_and(|tls| tls.knows_clients()) {
            // Whoever listened on the way, or only guessed, would have a shell in every container.
            let text = "streaming.listen must be an address of loopback, such as 127.0.0.1:0, unless \
                        streaming.tls_client_ca says which clients may connect";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let listener = TcpListener::bind(config.listen).await?;
        let shared = Shared {
            address: within_reach(listener.local_addr()?),
            tls,
            config,
            tokens: Tokens::default(),
            sessions: Arc::new(Semaphore::new(SESSIONS_MAX)),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
        };
        Ok((Self { shared: Arc::new(shared) }, listener))
    }

    /// An absolute URL that serves `request` once, within a minute.
    ///
    /// # Errors
    /// When too many wait to be used.
    pub fn url(&self, request: Request) -> Result<String, TooManyPending> {
        let path = request.path();
        let token = self.shared.tokens.issue(request, Instant::now())?;
        let scheme = if self.shared.tls.is_some() { "https" } else { "http" };
        Ok(format!("{scheme}://{}/{path}/{token}", self.shared.address))
    }

    pub(super) fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Serves for ever. Each client that comes with a URL and is upgraded is given to `serve`.
    pub(super) async fn accept<F>(
        self,
        listener: TcpListener,
        serve: impl Fn(Visit) -> F + Clone + Send + Sync + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        loop {
            let Ok(turn) = Arc::clone(&self.shared.handshakes).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((socket, _)) => {
                    let (this, serve) = (self.clone(), serve.clone());
                    task::spawn("stream-handshake", async move {
                        this.handshake(socket, serve).await;
                        drop(turn);
                    });
                }
                Err(error) => {
                    // Most likely there are no descriptors left: they come back when sessions end.
                    tracing::warn!(%error, "streaming connection not accepted");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// A connection, from its beginning to its upgrade.
    async fn handshake<F>(
        &self,
        socket: TcpStream,
        serve: impl Fn(Visit) -> F + Clone + Send + Sync + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        prepare(&socket);
        let Some(tls) = &self.shared.tls else { return self.converse(socket, serve).await };
        match timeout(self.shared.config.setup_timeout(), tls.accept(socket)).await {
            Ok(Ok(socket)) => self.converse(socket, serve).await,
            Ok(Err(error)) => tracing::info!(%error, "streaming connection refused: no TLS"),
            Err(_) => tracing::debug!("streaming connection closed: TLS took too long"),
        }
    }

    /// One request, and no more, on a connection.
    async fn converse<F>(
        &self,
        socket: impl Duplex + 'static,
        serve: impl Fn(Visit) -> F + Clone + Send + Sync + 'static,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        let setup = self.shared.config.setup_timeout();
        let service = service_fn(|request| {
            let answer = self.answer(request, serve.clone());
            async move { Ok::<_, Infallible>(answer) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(setup)
            .max_buf_size(HEAD_BYTES_MAX)
            .max_headers(HEAD_LINES_MAX)
            .serve_connection(TokioIo::new(socket), service)
            .with_upgrades();
        match timeout(setup, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "streaming connection ended"),
            Err(_) => tracing::debug!("streaming connection closed: it took more than {setup:?}"),
        }
    }

    fn answer<F>(
        &self,
        request: hyper::Request<Incoming>,
        serve: impl FnOnce(Visit) -> F + Send + 'static,
    ) -> Response<String>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        match self.admit(&request) {
            Ok((stands_for, agreed, session)) => {
                let mut response = Response::new(String::new());
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                *response.headers_mut() = agreed.headers;
                let (setup, protocol) = (self.shared.config.setup_timeout(), agreed.protocol);
                task::spawn("stream", async move {
                    let Ok(Ok(socket)) = timeout(setup, hyper::upgrade::on(request)).await else { return };
                    let socket = Box::new(TokioIo::new(socket));
                    serve(Visit { request: stands_for, protocol, socket, _session: session }).await;
                });
                response
            }
            Err(Refusal { status, text, headers }) => {
                let mut response = Response::new(format!("{text}\n"));
                *response.status_mut() = status;
                for (name, value) in headers {
                    // Not extend, which keeps only the last value of a name.
                    response.headers_mut().append(name, value);
                }
                let text_type = header::HeaderValue::from_static("text/plain; charset=utf-8");
                response.headers_mut().insert(header::CONTENT_TYPE, text_type);
                // One request on a connection. hyper would say so of an upgrade too, which clients take for a refusal.
                let close = header::HeaderValue::from_static("close");
                response.headers_mut().insert(header::CONNECTION, close);
                response
            }
        }
    }

    /// Admits a request to the session that its URL stands for; the URL is used up then.
    fn admit(
        &self,
        request: &hyper::Request<Incoming>,
    ) -> Result<(Request, Agreed, OwnedSemaphorePermit), Refusal> {
        let (method, headers) = (request.method(), request.headers());
        let (path, token) = upgrade::path_parts(method, request.uri().path())?;
        let unknown = || {
            Refusal::new(
                StatusCode::NOT_FOUND,
                "this URL was used already, has expired, or never was given out",
            )
        };
        let redeemed = self.shared.tokens.redeem(token, Instant::now(), |pending| {
            if pending.path() != path {
                return Err(unknown());
            }
            let agreed = upgrade::negotiate(method, headers, pending.purpose());
            let agreed = agreed.inspect_err(|refusal| {
                tracing::info!(path, object = pending.object(), refusal = refusal.text, "stream refused");
            })?;
            let session = Arc::clone(&self.shared.sessions).try_acquire_owned().map_err(|_| {
                tracing::warn!(path, object = pending.object(), "stream refused: {SESSIONS_MAX} are open");
                let retry = vec![(header::RETRY_AFTER, header::HeaderValue::from_static("1"))];
                let text = format!("{SESSIONS_MAX} streams are open already");
                Refusal { headers: retry, ..Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text) }
            })?;
            Ok((agreed, session))
        });
        let redeemed = redeemed.unwrap_or_else(|| {
            tracing::info!(path, "stream refused: no request waits under this URL");
            Err(unknown())
        });
        redeemed.map(|(request, (agreed, session))| (request, agreed, session))
    }
}

/// The address for URLs: whoever reads one is on this node.
fn within_reach(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Settings of a connection; one that cannot be made costs speed, or time until the end of a lost client is seen.
fn prepare(socket: &TcpStream) {
    use rustix::net::sockopt;
    // Keystrokes and prompts are small and wanted now.
    let _at_once = socket.set_nodelay(true);
    let _asked = sockopt::set_socket_keepalive(socket, true)
        .and_then(|()| sockopt::set_tcp_keepidle(socket, KEEP_ALIVE_IDLE))
        .and_then(|()| sockopt::set_tcp_keepcnt(socket, KEEP_ALIVE_PROBES))
        .and_then(|()| sockopt::set_tcp_keepintvl(socket, KEEP_ALIVE_PAUSE));
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::{
        super::{remote::Streams, request::Exec},
        *,
    };

    const ALL: Streams = Streams { stdin: true, stdout: true, stderr: true, tty: false };
    const HEAD: &str = "Host: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n";

    fn exec() -> Request {
        Request::Exec(Exec {
            container: crate::model::ContainerId::from_bytes([1; 32]),
            command: vec![],
            streams: ALL,
        })
    }

    /// A server whose sessions say `hello` and then repeat what they hear.
    async fn server(setup_timeout_s: u64) -> Server {
        let config = Config { setup_timeout_s, ..Config::default() };
        let (server, listener) = Server::bind(config).await.unwrap();
        let accept = server.clone().accept(listener, |mut visit: Visit| async move {
            visit.socket.write_all(b"hello ").await.unwrap();
            let mut heard = [0; 5];
            visit.socket.read_exact(&mut heard).await.unwrap();
            visit.socket.write_all(&heard).await.unwrap();
        });
        crate::telemetry::task::spawn("test", accept);
        server
    }

    /// Sends `text` and reads to the end.
    async fn talk(server: &Server, text: &str) -> String {
        let mut socket = TcpStream::connect(server.shared.address).await.unwrap();
        socket.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn path(url: &str) -> &str {
        let (_, path) = url.strip_prefix("http://127.0.0.1:").unwrap().split_once('/').unwrap();
        path
    }

    #[tokio::test]
    async fn a_url_is_good_for_one_upgrade_and_early_bytes_are_kept() {
        let server = server(5).await;
        let url = server.url(exec()).unwrap();
        let answer = talk(&server, &format!("POST /{} HTTP/1.1\r\n{HEAD}early", path(&url))).await;
        assert!(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\nhello early"), "{answer}");
        assert!(
            answer.contains("upgrade: SPDY/3.1\r\n")
                && answer.contains("connection: Upgrade\r\n")
                && !answer.contains("close")
                && answer.contains("x-stream-protocol-version: v4.channel.k8s.io\r\n")
        );
        let again = talk(&server, &format!("POST /{} HTTP/1.1\r\n{HEAD}", path(&url))).await;
        assert!(again.starts_with("HTTP/1.1 404 Not Found\r\n"), "{again}");
    }

    #[tokio::test]
    async fn only_this_node_is_listened_to() {
        for (listen, good) in
            [("127.0.0.1:0", true), ("[::1]:0", true), ("0.0.0.0:0", false), ("10.0.0.1:0", false)]
        {
            let config = Config { listen: listen.parse().unwrap(), ..Config::default() };
            let bound = Server::bind(config).await;
            assert!(bound.is_ok() == good || listen.starts_with("[::1]"), "{listen}");
        }
    }

    #[tokio::test]
    async fn what_is_not_upgraded_is_answered_and_leaves_the_url_as_it_was() {
        let server = server(5).await;
        let url = server.url(exec()).unwrap();
        let path = path(&url);
        let wrong =
            "Host: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v9\r\n\r\n";
        for (request, status) in [
            (format!("GET /{path} HTTP/1.1\r\nHost: x\r\n\r\n"), "400 Bad Request"),
            (format!("GET /{path} HTTP/1.1\r\n{wrong}"), "403 Forbidden"),
            (format!("PUT /{path} HTTP/1.1\r\n{HEAD}"), "405 Method Not Allowed"),
            (format!("GET /{} HTTP/1.1\r\n{HEAD}", path.replace("exec", "attach")), "404 Not Found"),
            (format!("GET /exec/{} HTTP/1.1\r\n{HEAD}", "0".repeat(32)), "404 Not Found"),
            (format!("GET / HTTP/1.1\r\n{HEAD}"), "404 Not Found"),
            (
                format!("GET /{path} HTTP/1.1\r\nX: {}\r\n{HEAD}", "x".repeat(20_000)),
                "431 Request Header Fields Too Large",
            ),
            (
                format!("GET /{path} HTTP/1.1\r\n{}{HEAD}", "X: y\r\n".repeat(100)),
                "431 Request Header Fields Too Large",
            ),
            ("nonsense\r\n\r\n".to_owned(), "400 Bad Request"),
        ] {
            let answer = talk(&server, &request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{status}: {answer}");
        }
        let answer = talk(&server, &format!("GET /{path} HTTP/1.1\r\n{HEAD}still")).await;
        assert!(answer.ends_with("hello still"), "{answer}");
    }

    #[tokio::test]
    async fn a_client_that_is_slow_with_its_head_is_closed() {
        let server = server(1).await;
        let mut slow = TcpStream::connect(server.shared.address).await.unwrap();
        slow.write_all(b"GET /exec/").await.unwrap();
        let mut answer = Vec::new();
        timeout(Duration::from_secs(30), slow.read_to_end(&mut answer)).await.expect("it is closed").unwrap();
        assert_eq!(server.shared.handshakes.available_permits(), HANDSHAKES_MAX - 1, "one waits in accept");
    }
}
