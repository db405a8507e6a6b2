//! The page over HTTP: `GET /metrics`, and nothing else.

use std::{
    convert::Infallible,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    select,
    sync::Semaphore,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use super::text::{CONTENT_TYPE, Page};
use crate::{meter::PodMetrics, telemetry::task};

/// Connections at a time: a node has one Prometheus or two. One more is closed.
const CONNECTIONS_MAX: usize = 16;

/// How long a connection may take, request and page. Each is for one page; whoever reads more slowly would keep a
/// place from others.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(60);

/// Pause after a failed accept: without descriptors it would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const PATH: &str = "/metrics";

/// The socket on which the page is asked for.
#[derive(Debug)]
pub enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    async fn accept(&self) -> io::Result<Box<dyn Connection>> {
        Ok(match self {
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Serves the page until `until` is ready. `read` takes the figures of one moment.
pub async fn serve<R, F>(listener: Listener, read: R, until: impl Future<Output = ()>)
where
    R: Fn() -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Vec<PodMetrics>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut until = pin!(until);
    loop {
        let accepted = select! {
            () = &mut until => return,
            accepted = listener.accept() => accepted,
        };
        match (accepted, Arc::clone(&places).try_acquire_owned()) {
            (Ok(connection), Ok(place)) => {
                let serving = serve_one(connection, read.clone());
                task::spawn("metrics", async move {
                    if timeout(CONNECTION_TIME_MAX, serving).await.is_err() {
                        debug!("a reader of the metrics took too long");
                    }
                    drop(place);
                });
            }
            (Ok(_), Err(_)) => {
                warn!(max = CONNECTIONS_MAX, "connection for metrics refused, too many are open")
            }
            (Err(error), _) => {
                warn!(%error, "accept of a connection for metrics failed, will retry");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_one<R, F>(connection: Box<dyn Connection>, read: R)
where
    R: Fn() -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Vec<PodMetrics>> + Send + 'static,
{
    let answer = service_fn(move |request: Request<Incoming>| {
        let read = read.clone();
        async move { Ok::<_, Infallible>(answer(request.method(), request.uri().path(), read).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).keep_alive(false);
    if let Err(error) = http.serve_connection(TokioIo::new(connection), answer).await {
        debug!(%error, "a connection for metrics ended");
    }
}

async fn answer<F>(method: &Method, path: &str, read: impl Fn() -> F) -> Response<Body>
where
    F: Future<Output = Vec<PodMetrics>>,
{
    let (status, content_type, body) = match (method, path) {
        (&Method::GET | &Method::HEAD, PATH) => {
            (StatusCode::OK, CONTENT_TYPE, Body::Page(Page::new(read().await)))
        }
        (_, PATH) => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", Body::Text("only GET\n")),
        _ => (StatusCode::NOT_FOUND, "text/plain", Body::Text("the metrics are at /metrics\n")),
    };
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// The body of an answer; a page is written metric by metric, as it is taken.
enum Body {
    Page(Page),
    Text(&'static str),
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let part = match self.get_mut() {
            Self::Page(page) => page.next().map(Bytes::from),
            Self::Text("") => None,
            Self::Text(text) => Some(Bytes::from(std::mem::take(text))),
        };
        Poll::Ready(part.map(|part| Ok(Frame::data(part))))
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpStream, UnixStream},
    };

    use super::{super::fixture, *};

    async fn ask(mut connection: impl Connection, request: &str) -> String {
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(Duration::from_secs(10), connection.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    }

    fn start(listener: Listener) {
        let read = || async { vec![fixture::pod()] };
        task::spawn("test metrics", serve(listener, read, std::future::pending()));
    }

    #[tokio::test]
    async fn the_page_is_served_on_a_unix_socket_and_on_loopback() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.sock");
        start(Listener::Unix(UnixListener::bind(&path).unwrap()));
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        start(Listener::Tcp(tcp));

        let request = "GET /metrics HTTP/1.1\r\nHost: node\r\n\r\n";
        for answer in [
            ask(UnixStream::connect(&path).await.unwrap(), request).await,
            ask(TcpStream::connect(address).await.unwrap(), request).await,
        ] {
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert!(
                answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"),
                "{answer}"
            );
            assert!(answer.contains("# TYPE container_cpu_usage_seconds_total counter\n"), "{answer}");
        }
    }

    #[tokio::test]
    async fn nothing_else_is_there() {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        start(Listener::Tcp(tcp));
        for (request, status) in [
            ("GET / HTTP/1.1\r\nHost: node\r\n\r\n", "HTTP/1.1 404 Not Found"),
            ("GET /metrics/../x HTTP/1.1\r\nHost: node\r\n\r\n", "HTTP/1.1 404 Not Found"),
            (
                "POST /metrics HTTP/1.1\r\nHost: node\r\nContent-Length: 0\r\n\r\n",
                "HTTP/1.1 405 Method Not Allowed",
            ),
            ("nonsense\r\n\r\n", "HTTP/1.1 400 Bad Request"),
        ] {
            let answer = ask(TcpStream::connect(address).await.unwrap(), request).await;
            assert!(answer.starts_with(status), "{request:?}: {answer}");
        }
    }

    #[tokio::test]
    async fn a_connection_too_many_is_closed() {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        start(Listener::Tcp(tcp));
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut surplus = TcpStream::connect(address).await.unwrap();
        let read = timeout(Duration::from_secs(10), surplus.read(&mut [0; 1])).await.unwrap();
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
}
