//! A byte stream in the binary messages of a WebSocket: how newer clients carry SPDY for port-forward.

use std::io;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use super::{
    remote::{websocket_error, websocket_limits},
    server::Socket,
    websocket::MESSAGE_BYTES_MAX,
};

/// Bytes on their way in each direction.
const BUFFER_BYTES: usize = 64 << 10;

/// The byte stream, and what has to run for it to flow.
pub(super) async fn open(socket: Socket) -> (Socket, impl Future<Output = io::Result<()>> + Send) {
    let messages = WebSocketStream::from_raw_socket(socket, Role::Server, Some(websocket_limits())).await;
    let (mut sink, mut stream) = messages.split();
    let (inner, outer) = tokio::io::duplex(BUFFER_BYTES);
    let (mut from_inner, mut to_inner) = tokio::io::split(outer);
    let carry = async move {
        let upward = async {
            while let Some(message) = stream.next().await {
                let bytes = match message.map_err(websocket_error)? {
                    Message::Binary(bytes) => bytes,
                    Message::Text(_) => {
                        let text = "a text message where bytes are expected";
                        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                    }
                    Message::Close(_) => return Ok(()),
                    Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
                };
                to_inner.write_all(&bytes).await?;
            }
            Ok(())
        };
        let downward = async {
            let mut chunk = Vec::with_capacity(MESSAGE_BYTES_MAX);
            while from_inner.read_buf(&mut chunk).await? > 0 {
                sink.send(Message::binary(std::mem::take(&mut chunk))).await.map_err(websocket_error)?;
                chunk.reserve(MESSAGE_BYTES_MAX);
            }
            sink.send(Message::Close(None)).await.map_err(websocket_error)
        };
        tokio::select! { done = upward => done, done = downward => done }
    };
    (Box::new(inner), carry)
}
