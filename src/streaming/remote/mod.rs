//! The client of an exec or attach: what it types and what it is shown, over SPDY or WebSocket.

pub(super) mod resize;
mod spdy;
mod websocket;

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{activity::Activity, server::Socket, spdy::HEAD_BYTES, status::Outcome, upgrade::Protocol};
use crate::model::TerminalSize;
use resize::Sizes;
pub(super) use websocket::{io_error as websocket_error, limits as websocket_limits};

/// Bytes of room in front of the data of each chunk, for the head of a frame.
pub(super) const CHUNK_ROOM: usize = HEAD_BYTES;
/// How long a client has to read the result and close, before it is closed from this side.
const LINGER_MAX: Duration = Duration::from_secs(10);

/// The standard streams that a client asked for (CRI ExecRequest, AttachRequest).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Streams {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// A message of a client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Input {
    Stdin(Bytes),
    /// Nothing more for standard input.
    StdinEnded,
    Resize(TerminalSize),
}

/// A stream toward the client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Output {
    Stdout,
    Stderr,
}

/// The receiving half of a session.
pub(super) struct Receiver {
    source: Source,
    sizes: Sizes,
    /// Messages that were read and not yet given out.
    pending: VecDeque<Input>,
    activity: Activity,
}

enum Source {
    Spdy(spdy::Receiver),
    WebSocket(websocket::Receiver),
}

/// Bytes as a transport gives them out.
enum Raw {
    Stdin(Bytes),
    StdinEnded,
    Resize(Bytes),
}

/// The sending half of a session. Clones share it.
#[derive(Clone)]
pub(super) struct Sender {
    sink: Arc<Sink>,
    activity: Activity,
}

enum Sink {
    Spdy(spdy::Sender),
    WebSocket(websocket::Sender),
}

/// The two directions of a client. Over SPDY it has to open all its streams first; the caller keeps the time.
///
/// # Errors
/// When it goes away or breaks the protocol before.
pub(super) async fn open(
    socket: Socket,
    streams: Streams,
    protocol: Protocol,
) -> io::Result<(Receiver, Sender)> {
    match protocol {
        Protocol::Spdy(version) => {
            let (reader, writer) = tokio::io::split(socket);
            let (source, sink) = spdy::open(Box::new(reader), Box::new(writer), streams, version).await?;
            Ok(pair(Source::Spdy(source), Sink::Spdy(sink)))
        }
        Protocol::Tunnel => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "a tunnel has no standard streams"))
        }
        Protocol::WebSocket(framing) => {
            let (source, sink) = websocket::open(socket, streams, framing).await?;
            Ok(pair(Source::WebSocket(source), Sink::WebSocket(sink)))
        }
    }
}

fn pair(source: Source, sink: Sink) -> (Receiver, Sender) {
    let activity = Activity::new();
    let receiver =
        Receiver { source, sizes: Sizes::default(), pending: VecDeque::new(), activity: activity.clone() };
    (receiver, Sender { sink: Arc::new(sink), activity })
}

impl Receiver {
    /// The next message of the client; `None` when it has gone. Cancelling it loses nothing.
    ///
    /// # Errors
    /// When it breaks the protocol, or its connection does.
    pub(super) async fn next(&mut self) -> io::Result<Option<Input>> {
        loop {
            if let Some(input) = self.pending.pop_front() {
                return Ok(Some(input));
            }
            let raw = match &mut self.source {
                Source::Spdy(source) => source.next().await?,
                Source::WebSocket(source) => source.next().await?,
            };
            let Some(raw) = raw else { return Ok(None) };
            self.activity.touch();
            match raw {
                Raw::Stdin(bytes) => self.pending.push_back(Input::Stdin(bytes)),
                Raw::StdinEnded => self.pending.push_back(Input::StdinEnded),
                Raw::Resize(bytes) => self.pending.extend(self.sizes.read(&bytes).map(Input::Resize)),
            }
        }
    }

    /// The size that the client gives its terminal at the start, if it does within `wait`. Clients send it right
    /// after the streams are open, and the program should not run in a terminal of another size before.
    pub(super) async fn first_size(&mut self, wait: Duration) -> Option<TerminalSize> {
        /// Input that may come before it.
        const BEFORE_MAX: usize = 16;
        let mut before = VecDeque::new();
        let size = tokio::time::timeout(wait, async {
            while before.len() < BEFORE_MAX {
                match self.next().await {
                    Ok(Some(Input::Resize(size))) => return Some(size),
                    Ok(Some(other)) => before.push_back(other),
                    Ok(None) | Err(_) => return None,
                }
            }
            None
        });
        let size = size.await.ok().flatten();
        before.append(&mut self.pending);
        self.pending = before;
        size
    }

    /// Waits until the client has closed the connection, which it does when it has read the result. To close it from
    /// here while it is still sending would take the result away from it.
    pub(super) async fn linger(&mut self) {
        let drain = async {
            loop {
                let more = match &mut self.source {
                    Source::Spdy(source) => source.next().await.is_ok_and(|raw| raw.is_some()),
                    Source::WebSocket(source) => source.next().await.is_ok_and(|raw| raw.is_some()),
                };
                if !more {
                    return;
                }
            }
        };
        // One that says more than that is closed upon.
        let _drained = tokio::time::timeout(LINGER_MAX, drain).await;
    }

    pub(super) fn activity(&self) -> Activity {
        self.activity.clone()
    }
}

impl Sender {
    /// Bytes of data in one chunk at most.
    pub(super) fn chunk_bytes_max(&self) -> usize {
        match &*self.sink {
            Sink::Spdy(_) => 64 << 10,
            Sink::WebSocket(_) => super::websocket::DATA_BYTES_MAX,
        }
    }

    /// Sends a chunk: [`CHUNK_ROOM`] bytes of room, then at most `chunk_bytes_max` of data.
    ///
    /// # Errors
    /// When the client does not want that stream any more, or has gone.
    pub(super) async fn write(&self, output: Output, chunk: &mut [u8]) -> io::Result<()> {
        self.activity.touch();
        match &*self.sink {
            Sink::Spdy(sink) => sink.write(output, chunk).await,
            Sink::WebSocket(sink) => sink.write(output, chunk.get(CHUNK_ROOM..).unwrap_or_default()).await,
        }
    }

    /// Nothing more on that stream.
    pub(super) async fn finish(&self, output: Output) -> io::Result<()> {
        match &*self.sink {
            Sink::Spdy(sink) => sink.finish(output).await,
            // WebSocket clients are told by the end of all.
            Sink::WebSocket(_) => Ok(()),
        }
    }

    /// Sends the client something that means nothing.
    ///
    /// # Errors
    /// When it has gone.
    pub(super) async fn heartbeat(&self) -> io::Result<()> {
        match &*self.sink {
            Sink::Spdy(sink) => sink.heartbeat().await,
            Sink::WebSocket(sink) => sink.heartbeat().await,
        }
    }

    /// Ends the streams that are open, tells the result, and ends the session.
    pub(super) async fn end(&self, outcome: &Outcome) -> io::Result<()> {
        match &*self.sink {
            Sink::Spdy(sink) => sink.end(outcome).await,
            Sink::WebSocket(sink) => sink.end(outcome).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use futures_util::{SinkExt as _, StreamExt as _};
    use tokio_tungstenite::{
        WebSocketStream,
        tungstenite::{Message, protocol::Role},
    };

    use super::{
        super::{
            copy::{self, Ends},
            descriptor::Descriptor,
            spdy::testclient::{Client, Frame},
            status::Form,
            upgrade::Remote,
            websocket::Framing,
        },
        *,
    };

    const V4: Protocol = Protocol::Spdy(Remote { resize: true, form: Form::Status });
    const V5: Protocol =
        Protocol::WebSocket(Framing { base64: false, form: Form::Status, close_signal: true });
    const ALL: Streams = Streams { stdin: true, stdout: true, stderr: true, tty: false };
    const IDLE_MAX: Duration = Duration::from_secs(600);

    /// A process: the daemon's ends, its own.
    fn process() -> (Ends, [OwnedFd; 3]) {
        let (stdin, our_stdin) = rustix::pipe::pipe().unwrap();
        let (our_stdout, stdout) = rustix::pipe::pipe().unwrap();
        let (our_stderr, stderr) = rustix::pipe::pipe().unwrap();
        let end = |fd| Some(Arc::new(Descriptor::new(fd).unwrap()));
        let ends =
            Ends { stdin: end(our_stdin), stdout: end(our_stdout), stderr: end(our_stderr), terminal: None };
        (ends, [stdin, stdout, stderr])
    }

    /// A program that repeats its input on both outputs and exits with 42 after its end.
    async fn repeat([stdin, stdout, stderr]: [OwnedFd; 3]) -> Outcome {
        let [stdin, stdout, stderr] = [stdin, stdout, stderr].map(|fd| Descriptor::new(fd).unwrap());
        let mut chunk = Vec::new();
        while stdin.read(&mut chunk, 0, 10_000).await.unwrap() {
            stdout.write_all(&chunk).await.unwrap();
            stderr.write_all(b".").await.unwrap();
        }
        Outcome::Exited(42)
    }

    async fn serve(receiver: &mut Receiver, sender: &Sender) {
        let (ends, theirs) = process();
        let outcome = copy::run(receiver, sender, ends, repeat(theirs), IDLE_MAX).await.unwrap();
        sender.end(&outcome).await.unwrap();
        receiver.linger().await;
    }

    #[tokio::test]
    async fn a_spdy_client_gets_all_output_then_the_exit_code() {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        crate::telemetry::task::spawn("test", async move {
            let (mut receiver, sender) = open(Box::new(ours), ALL, V4).await.unwrap();
            serve(&mut receiver, &sender).await;
        });
        let mut client = Client::new(theirs);
        let mut ids = std::collections::BTreeMap::new();
        // Data before the other streams are open; an unknown stream, and one that is there already.
        for kind in ["stdin", "error", "strange", "stdin", "stderr", "stdout"] {
            let id = client.open(&[("streamtype", kind)]).await;
            if kind == "stdin" && !ids.contains_key("stdin") {
                client.data(id, b"early ", false).await;
            }
            ids.entry(kind).or_insert(id);
        }
        client.data(ids["stdin"], &vec![b'x'; 1_000], true).await;
        let (mut out, mut status, mut refused) = (Vec::<u8>::new(), Vec::<u8>::new(), Vec::<u8>::new());
        let mut order = Vec::new();
        loop {
            match client.frame().await {
                Frame::Data { id, bytes, fin } => {
                    if id == ids["stdout"] {
                        out.extend(&bytes)
                    }
                    if id == ids["error"] {
                        status.extend(&bytes)
                    }
                    order.extend(fin.then_some(id));
                }
                // Status 3: refused.
                Frame::Control { kind: 3, body } if body[7] == 3 => refused.push(body[3]),
                Frame::Control { .. } => {}
                Frame::Closed => break,
            }
        }
        assert_eq!(out, [&b"early "[..], &vec![b'x'; 1_000]].concat());
        assert!(String::from_utf8(status).unwrap().contains(r#""message":"42""#));
        assert_eq!(order.last(), Some(&ids["error"]), "the result comes last");
        assert_eq!(refused, [5, 7], "one of a strange type and a second stdin");
    }

    #[tokio::test]
    async fn a_v5_client_ends_its_input_and_gets_the_exit_code() {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        crate::telemetry::task::spawn("test", async move {
            let (mut receiver, sender) = open(Box::new(ours), ALL, V5).await.unwrap();
            serve(&mut receiver, &sender).await;
        });
        let mut client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
        assert_eq!(client.next().await.unwrap().unwrap(), Message::binary(&[1][..]), "it is ready");
        client.send(Message::Ping("are you there".into())).await.unwrap();
        client.send(Message::binary([&[0][..], &[b'y'; 20_000]].concat())).await.unwrap();
        client.send(Message::binary(&[255, 0][..])).await.unwrap();
        let (mut out, mut status, mut pongs) = (0, String::new(), 0);
        while let Some(Ok(message)) = client.next().await {
            match message {
                Message::Binary(bytes) if bytes[0] == 1 => out += bytes.len() - 1,
                Message::Binary(bytes) if bytes[0] == 3 => {
                    status = String::from_utf8_lossy(&bytes[1..]).into_owned()
                }
                Message::Pong(_) => pongs += 1,
                Message::Close(frame) => assert_eq!(u16::from(frame.unwrap().code), 1000),
                _ => {}
            }
        }
        assert_eq!((out, pongs), (20_000, 1));
        assert!(status.contains(r#""message":"42""#), "{status}");
    }

    /// The code of the close frame that answers what `client` sends.
    async fn close_code(raw: &[u8]) -> Option<u16> {
        let (ours, mut theirs) = tokio::io::duplex(1 << 22);
        crate::telemetry::task::spawn("test", async move {
            let (mut receiver, _sender) = open(Box::new(ours), ALL, V5).await.unwrap();
            receiver.next().await.map(drop)
        });
        tokio::io::AsyncWriteExt::write_all(&mut theirs, raw).await.unwrap();
        let mut client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
        while let Some(Ok(message)) = client.next().await {
            if let Message::Close(frame) = message {
                return frame.map(|frame| frame.code.into());
            }
        }
        None
    }

    #[tokio::test]
    async fn websocket_frames_of_every_wrong_kind_close_the_connection() {
        let masked = |head: u8, length: &[u8], body: &[u8]| [&[head][..], length, &[0; 4], body].concat();
        for (bytes, code, what) in [
            (vec![0x82, 1, 0], 1002, "not masked"),
            (masked(0x82, &[0xff, 0x7f, 255, 255, 255, 255, 255, 255, 255], b""), 1009, "2^63 bytes"),
            (masked(0x82, &[0xff, 0, 0, 0, 0, 0x40, 0, 0, 0], b""), 1009, "1 GiB"),
            (masked(0x80, &[0x81], b"x"), 1002, "continues nothing"),
            (masked(0xc2, &[0x81], b"x"), 1002, "reserved bit"),
            (masked(0x83, &[0x81], b"x"), 1002, "unknown kind"),
            (masked(0x09, &[0x81], b"x"), 1002, "a ping in fragments"),
            (masked(0x89, &[0xfe, 0, 126], &[b'x'; 126]), 1002, "a long ping"),
            (masked(0x82, &[0x82], &[5, 1]), 1002, "channel 5"),
            (masked(0x82, &[0x82], &[255, 9]), 1002, "the end of channel 9"),
        ] {
            assert_eq!(close_code(&bytes).await, Some(code), "{what}");
        }
        let mut fragments = masked(0x02, &[0x81], &[0]);
        for _ in 0..100_000 {
            fragments.extend(masked(0x00, &[0xa0], &[b'x'; 32]));
        }
        assert_eq!(close_code(&fragments).await, Some(1009), "fragments without end");
    }
}
