//! The client's side of an exec or attach: `v5.channel.k8s.io` over WebSocket, the newest form of Kubernetes'
//! `remotecommand`, in which standard input can end before the output does.

use std::io;

use bytes::Bytes;
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{self, ClientRequestBuilder, Message, protocol::WebSocketConfig},
};
use tokio_util::either::Either;

use super::{
    console::{Console, Hearing, Typed},
    stdio::Output,
    tls::{self, Trust},
};
use crate::{logs::Stream, model::TerminalSize};

const PROTOCOL: &str = "v5.channel.k8s.io";

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// The next byte names a channel that has ended.
const CLOSE: u8 = 255;

/// Bytes of one message of the server's, which sends 32 KiB at most.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// Bytes of one message toward the server.
const CHUNK_BYTES_MAX: usize = 32 << 10;

/// The connection that a session is made on, in the clear or over TLS.
type Connection = Either<TcpStream, tls::Connection>;

/// A connection over which a program's streams go.
#[derive(Debug)]
pub(super) struct Session {
    socket: WebSocketStream<Connection>,
}

/// How a session ended.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum End {
    /// The program did, with this exit code; of an attach, the code is always 0.
    Exited(i32),
    /// It was not run, or the server has cut the session off: why.
    Failed(String),
    /// The person went.
    Detached,
    /// The connection broke; the daemon has most likely ended.
    Lost,
    /// Nobody reads the output any more.
    Unheard,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the daemon gave the address {0:?}, which this command cannot connect to")]
    Address(String),
    #[error("connect to the daemon's streaming server at {address} over TLS")]
    Tls {
        address: String,
        #[source]
        source: tls::Error,
    },
    #[error(
        "the daemon's streaming server at {address} wants a certificate of an authority in its tls_client_ca: give \
         --tls-cert FILE and --tls-key FILE"
    )]
    Certificate {
        address: String,
        #[source]
        source: tungstenite::Error,
    },
    #[error("connect to the daemon's streaming server at {address}")]
    Connect {
        address: String,
        #[source]
        source: io::Error,
    },
    #[error("speak to the daemon's streaming server at {address}")]
    Upgrade {
        address: String,
        #[source]
        source: tungstenite::Error,
    },
}

impl Session {
    /// Connects to the URL that the daemon gave for an exec or attach; `trust` counts where that is over TLS.
    pub(super) async fn open(url: &str, trust: &Trust) -> Result<Self, Error> {
        let unusable = || Error::Address(url.to_owned());
        let (scheme, rest) = url.split_once("://").ok_or_else(unusable)?;
        let (address, _) = rest.split_once('/').ok_or_else(unusable)?;
        let (host, _port) = address.rsplit_once(':').ok_or_else(unusable)?;
        if !["http", "https"].contains(&scheme) {
            return Err(unusable());
        }
        // The name of the scheme says nothing here: the connection is made already.
        let uri = format!("ws://{rest}").parse().map_err(|_| unusable())?;
        let address = address.to_owned();
        let stream = match TcpStream::connect(&address).await {
            Ok(stream) => stream,
            Err(source) => return Err(Error::Connect { address, source }),
        };
        // Keys are small and wanted now.
        let _at_once = stream.set_nodelay(true);
        let stream = match scheme {
            "https" => match trust.connect(host, stream).await {
                Ok(stream) => Either::Right(stream),
                Err(source) => return Err(Error::Tls { address, source }),
            },
            _ => Either::Left(stream),
        };
        let limits = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let request = ClientRequestBuilder::new(uri).with_sub_protocol(PROTOCOL);
        match client_async_with_config(request, stream, Some(limits)).await {
            Ok((socket, _)) => Ok(Self { socket }),
            Err(source) if is_refusal(&source) => Err(Error::Certificate { address, source }),
            Err(source) => Err(Error::Upgrade { address, source }),
        }
    }

    /// Carries the streams of a program to and from `console` until one of the two ends. May be dropped at any time,
    /// which the server takes for a client that has gone.
    pub(super) async fn run(self, console: &mut Console) -> End {
        let (sink, stream) = self.socket.split();
        let (hearing, output) = console.split();
        tokio::select! {
            biased;
            end = show(stream, output) => end,
            end = type_into(sink, hearing) => end,
        }
    }
}

fn is_refusal(error: &tungstenite::Error) -> bool {
    matches!(error, tungstenite::Error::Io(error) if tls::is_refusal_of_client(error))
}

/// Shows what the program writes.
async fn show(mut stream: SplitStream<WebSocketStream<Connection>>, output: &Output) -> End {
    while let Some(Ok(message)) = stream.next().await {
        let Message::Binary(mut bytes) = message else { continue };
        if bytes.is_empty() {
            continue;
        }
        let channel = bytes.split_to(1)[0];
        match channel {
            STDOUT | STDERR if !bytes.is_empty() => {
                let of = if channel == STDOUT { Stream::Stdout } else { Stream::Stderr };
                if !output.write(of, bytes).await {
                    return End::Unheard;
                }
            }
            ERROR if !bytes.is_empty() => return end_of(&bytes),
            _ => {}
        }
    }
    End::Lost
}

/// Gives the program what is typed; comes back only when the person, or the server, has gone.
async fn type_into(
    mut sink: SplitSink<WebSocketStream<Connection>, Message>,
    mut hearing: Hearing<'_>,
) -> End {
    // A program waits for it a moment before it starts.
    let mut next = Typed::Resized;
    loop {
        let sent = match next {
            Typed::Resized => match hearing.size() {
                Some(size) => sink.send(resize(size)).await,
                None => Ok(()),
            },
            Typed::Stdin(bytes) => type_chunks(&mut sink, &bytes).await,
            Typed::StdinEnded => sink.send(Message::binary(&[CLOSE, STDIN][..])).await,
            Typed::Detached => return End::Detached,
        };
        if sent.is_err() {
            // What the server said last is still to be shown; and it may have said why.
            return std::future::pending().await;
        }
        next = hearing.next().await;
    }
}

async fn type_chunks(
    sink: &mut SplitSink<WebSocketStream<Connection>, Message>,
    bytes: &[u8],
) -> Result<(), tungstenite::Error> {
    for chunk in bytes.chunks(CHUNK_BYTES_MAX) {
        sink.send(message(STDIN, chunk)).await?;
    }
    Ok(())
}

fn message(channel: u8, bytes: &[u8]) -> Message {
    Message::binary(Bytes::from([&[channel], bytes].concat()))
}

fn resize(TerminalSize { columns, rows }: TerminalSize) -> Message {
    message(RESIZE, format!("{{\"Width\":{columns},\"Height\":{rows}}}").as_bytes())
}

/// What of a `metav1.Status` matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    status: String,
    reason: String,
    message: String,
    details: Details,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Details {
    causes: Vec<Cause>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Cause {
    reason: String,
    message: String,
}

/// What the error channel says of the program.
fn end_of(status: &[u8]) -> End {
    // Serde takes a list for the fields of a structure in their order.
    let is_object = status.trim_ascii_start().starts_with(b"{");
    let Some(status) = is_object.then(|| serde_json::from_slice::<Status>(status).ok()).flatten() else {
        return End::Failed("the daemon said how the program ended in a way that is not understood".into());
    };
    if status.status == "Success" {
        return End::Exited(0);
    }
    let code = status.details.causes.iter().find(|cause| cause.reason == "ExitCode");
    match code.and_then(|cause| cause.message.parse().ok()) {
        Some(code) if status.reason == "NonZeroExitCode" => End::Exited(code),
        _ => End::Failed(status.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_channel_says_how_the_program_ended() {
        let of = |status: &str| end_of(status.as_bytes());
        assert_eq!(of(r#"{"metadata":{},"status":"Success"}"#), End::Exited(0));
        let failure = r#"{"metadata":{},"status":"Failure","message":"command terminated","reason":"NonZeroExitCode",
            "details":{"causes":[{"reason":"ExitCode","message":"42"}]}}"#;
        assert_eq!(of(failure), End::Exited(42));
        let internal =
            r#"{"status":"Failure","message":"no such program","reason":"InternalError","code":500}"#;
        assert_eq!(of(internal), End::Failed("no such program".into()));
        let odd = failure.replace("42", "many");
        assert_eq!(of(&odd), End::Failed("command terminated".into()));
        for bad in ["", "{", "[]", "\"Success\""] {
            assert!(matches!(of(bad), End::Failed(why) if why.contains("not understood")), "{bad}");
        }
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_named() {
        for url in
            ["ftp://127.0.0.1:1/exec/x", "http://127.0.0.1:1", "http://x/exec/x", "127.0.0.1:1/exec/x", ""]
        {
            let error = Session::open(url, &Trust::default()).await.unwrap_err();
            assert!(error.to_string().contains(&format!("{url:?}")), "{error}");
        }
    }
}
