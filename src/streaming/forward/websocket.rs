//! Port-forward over WebSocket in its old form: two channels for each port that the URL was made for.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _, stream::SplitSink};
use tokio::{
    sync::{Mutex as AsyncMutex, mpsc},
    task::JoinSet,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use super::{
    super::{
        activity::Activity,
        heartbeat::while_not_reading,
        remote::{CHUNK_ROOM, websocket_error, websocket_limits},
        server::Socket,
        websocket::{DATA_BYTES_MAX, Framing, Said},
    },
    flow::{self, Back, CHUNKS_MAX, Dial},
};

/// Ports of one session: a channel's number is a byte, and 255 is taken.
pub(in super::super) const PORTS_MAX: usize = 127;

type Sink = Arc<AsyncMutex<SplitSink<WebSocketStream<Socket>, Message>>>;

/// The two channels of one port.
struct Channels {
    sink: Sink,
    framing: Framing,
    data: u8,
}

impl Channels {
    async fn send(&self, channel: u8, bytes: &[u8]) -> io::Result<()> {
        self.sink.lock().await.send(self.framing.write(channel, bytes)).await.map_err(websocket_error)
    }
}

impl Back for Channels {
    const CHUNK_BYTES_MAX: usize = DATA_BYTES_MAX;

    async fn data(&self, chunk: &mut [u8]) -> io::Result<()> {
        self.send(self.data, chunk.get(CHUNK_ROOM..).unwrap_or_default()).await
    }

    /// These channels have no end of their own.
    async fn finish(&self) -> io::Result<()> {
        Ok(())
    }

    async fn end(&self, error: Option<&str>) -> io::Result<()> {
        match error {
            Some(error) => self.send(self.data + 1, error.as_bytes()).await,
            None => Ok(()),
        }
    }
}

async fn heartbeat(sink: &Sink) -> io::Result<()> {
    sink.lock().await.send(Message::Pong(Bytes::new())).await.map_err(websocket_error)
}

/// Serves until the client goes, every connection has ended, nothing has gone over the session for `idle_max`, or
/// `stopped` says why the pod is not there any more.
pub(in super::super) async fn over_websocket(
    socket: Socket,
    framing: Framing,
    ports: &[u16],
    dial: Dial,
    stopped: impl Future<Output = String>,
    idle_max: Duration,
) -> io::Result<()> {
    let messages = WebSocketStream::from_raw_socket(socket, Role::Server, Some(websocket_limits())).await;
    let (sink, mut stream) = messages.split();
    let sink: Sink = Arc::new(AsyncMutex::new(sink));
    let activity = Activity::new();
    let (mut running, mut queues) = (JoinSet::new(), Vec::new());
    for (data, port) in (0..).step_by(2).zip(ports.iter().copied().take(PORTS_MAX)) {
        let channels = Channels { sink: Arc::clone(&sink), framing, data };
        // A client knows by these which channels are whose.
        channels.send(data, &port.to_le_bytes()).await?;
        channels.send(data + 1, &port.to_le_bytes()).await?;
        let (queue, up) = mpsc::channel(CHUNKS_MAX);
        queues.push(queue);
        let (dial, activity) = (Arc::clone(&dial), activity.clone());
        running.spawn(async move { flow::run(port, &dial, up, &channels, &activity).await });
    }
    let channels = u8::try_from(2 * queues.len()).unwrap_or(u8::MAX);
    let receive = async {
        while let Some(message) = stream.next().await {
            let said = framing.read(message.map_err(websocket_error)?, channels);
            match said.map_err(|malformed| io::Error::new(io::ErrorKind::InvalidData, malformed))? {
                Said::Data { channel, bytes } if channel.is_multiple_of(2) => {
                    if let Some(queue) = queues.get(usize::from(channel / 2)) {
                        // One whose connection has ended takes nothing more; the others go on.
                        let _taken = while_not_reading(queue.send(bytes), || heartbeat(&sink)).await?;
                    }
                }
                Said::Data { .. } | Said::Ended { .. } | Said::Nothing => {}
            }
        }
        Ok(())
    };
    let ended = tokio::select! {
        received = receive => received,
        () = async { while running.join_next().await.is_some() {} } => Ok(()),
        why = stopped => {
            for channel in (1..channels).step_by(2) {
                let message = framing.write(channel, why.as_bytes());
                sink.lock().await.send(message).await.map_err(websocket_error)?;
            }
            Ok(())
        }
        () = activity.idle(idle_max) => Ok(()),
    };
    // The client may have gone.
    let _sent = sink.lock().await.send(Message::Close(None)).await;
    ended
}
