//! `remotecommand` over WebSocket: five channels.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use tokio::sync::Mutex as AsyncMutex;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::{
    super::{
        server::Socket,
        status::Outcome,
        websocket::{Framing, Said},
    },
    Output, Raw, Streams,
};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CHANNELS: u8 = 5;

/// Bytes of one message of a client, in any number of frames.
const MESSAGE_FROM_CLIENT_BYTES_MAX: usize = 1 << 20;
/// Bytes read at a time; an idle client costs no more.
const READ_BYTES: usize = 4 << 10;

type Stream = WebSocketStream<Socket>;
type SharedSink = Arc<AsyncMutex<SplitSink<Stream, Message>>>;

pub(super) struct Receiver {
    stream: SplitStream<Stream>,
    sink: SharedSink,
    framing: Framing,
    streams: Streams,
}

pub(super) struct Sender {
    sink: SharedSink,
    framing: Framing,
    streams: Streams,
}

/// The limits of each WebSocket.
pub(in super::super) fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * super::super::websocket::MESSAGE_BYTES_MAX)
        .max_message_size(Some(MESSAGE_FROM_CLIENT_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_FROM_CLIENT_BYTES_MAX))
}

/// Tells the client that this side is ready, with an empty message on the first channel toward it.
pub(super) async fn open(
    socket: Socket,
    streams: Streams,
    framing: Framing,
) -> io::Result<(Receiver, Sender)> {
    let stream = WebSocketStream::from_raw_socket(socket, Role::Server, Some(limits())).await;
    let (sink, stream) = stream.split();
    let sink = Arc::new(AsyncMutex::new(sink));
    let sender = Sender { sink: Arc::clone(&sink), framing, streams };
    let first = match streams {
        Streams { stdout: true, .. } => STDOUT,
        Streams { stderr: true, .. } => STDERR,
        _ => ERROR,
    };
    sender.send(framing.write(first, &[])).await?;
    Ok((Receiver { stream, sink, framing, streams }, sender))
}

impl Receiver {
    pub(super) async fn next(&mut self) -> io::Result<Option<Raw>> {
        loop {
            let message = match self.stream.next().await {
                None => return Ok(None),
                Some(Ok(message)) => message,
                Some(Err(error)) => return self.failed(error).await.map(|()| None),
            };
            let said = match self.framing.read(message, CHANNELS) {
                Ok(said) => said,
                Err(malformed) => {
                    self.close(CloseCode::Protocol, malformed.to_string()).await;
                    return Err(io::Error::new(io::ErrorKind::InvalidData, malformed));
                }
            };
            match said {
                Said::Data { channel: STDIN, bytes } if self.streams.stdin => {
                    return Ok(Some(Raw::Stdin(bytes)));
                }
                Said::Data { channel: RESIZE, bytes } if self.streams.tty => {
                    return Ok(Some(Raw::Resize(bytes)));
                }
                Said::Ended { channel: STDIN } if self.streams.stdin => return Ok(Some(Raw::StdinEnded)),
                // Channels that this client did not ask for, or that only lead toward it.
                Said::Data { .. } | Said::Ended { .. } | Said::Nothing => {}
            }
        }
    }

    /// A client that breaks WebSocket itself is told so before the connection is closed.
    async fn failed(&self, error: Error) -> io::Result<()> {
        let code = match &error {
            Error::ConnectionClosed | Error::AlreadyClosed => return Ok(()),
            Error::Io(_) => return Err(io_error(error)),
            Error::Capacity(_) => CloseCode::Size,
            _ => CloseCode::Protocol,
        };
        self.close(code, error.to_string()).await;
        Err(io_error(error))
    }

    async fn close(&self, code: CloseCode, reason: String) {
        close(&self.sink, code, reason).await;
    }
}

async fn close(sink: &AsyncMutex<SplitSink<Stream, Message>>, code: CloseCode, mut reason: String) {
    /// RFC 6455, section 5.5: a control frame has 125 bytes at most, two of which are the code.
    const REASON_BYTES_MAX: usize = 123;
    reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
    let frame = CloseFrame { code, reason: reason.into() };
    // The client may have gone: then there is nobody to tell.
    let _sent = sink.lock().await.send(Message::Close(Some(frame))).await;
}

impl Sender {
    async fn send(&self, message: Message) -> io::Result<()> {
        self.sink.lock().await.send(message).await.map_err(io_error)
    }

    /// A pong that nobody asked for is meant for this (RFC 6455, section 5.5.3).
    pub(super) async fn heartbeat(&self) -> io::Result<()> {
        self.send(Message::Pong(Bytes::new())).await
    }

    pub(super) async fn write(&self, output: Output, data: &[u8]) -> io::Result<()> {
        let channel = match output {
            Output::Stdout if self.streams.stdout => STDOUT,
            Output::Stderr if self.streams.stderr => STDERR,
            Output::Stdout | Output::Stderr => return Ok(()),
        };
        self.send(self.framing.write(channel, data)).await
    }

    pub(super) async fn end(&self, outcome: &Outcome) -> io::Result<()> {
        let message = outcome.message(self.framing.form);
        if !message.is_empty() {
            self.send(self.framing.write(ERROR, &message)).await?;
        }
        close(&self.sink, CloseCode::Normal, String::new()).await;
        Ok(())
    }
}

pub(in super::super) fn io_error(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::ConnectionClosed | Error::AlreadyClosed => io::ErrorKind::BrokenPipe.into(),
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}
