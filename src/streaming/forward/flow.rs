//! One connection to a port of a pod.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::mpsc,
};

use super::super::{activity::Activity, remote::CHUNK_ROOM};

/// The outcome of a call to a port: the connection, or why there is none.
pub(in super::super) type Dialed = Result<TcpStream, String>;
/// Calls a port of the pod.
pub(in super::super) type Dial = Arc<dyn Fn(u16) -> BoxFuture<'static, Dialed> + Send + Sync>;

/// Chunks from the client that wait for a program which does not read.
pub(super) const CHUNKS_MAX: usize = 8;

/// The way back to the client.
pub(super) trait Back: Send + Sync {
    /// Bytes of data in one chunk at most.
    const CHUNK_BYTES_MAX: usize;
    /// Sends a chunk: [`CHUNK_ROOM`] bytes of room, then data.
    fn data(&self, chunk: &mut [u8]) -> impl Future<Output = io::Result<()>> + Send;
    /// The program has ended its side.
    fn finish(&self) -> impl Future<Output = io::Result<()>> + Send;
    /// Nothing more in any direction; `error` is why, if something failed.
    fn end(&self, error: Option<&str>) -> impl Future<Output = io::Result<()>> + Send;
}

/// Calls the port and copies until both sides have ended theirs. An error is told to the client and concerns nobody
/// else.
pub(super) async fn run(
    port: u16,
    dial: &Dial,
    up: mpsc::Receiver<Bytes>,
    back: &impl Back,
    activity: &Activity,
) -> io::Result<()> {
    let (reader, writer) = match dial(port).await {
        Ok(socket) => socket.into_split(),
        Err(why) => return back.end(Some(&why)).await,
    };
    let copied = tokio::try_join!(upward(up, writer, activity), downward(reader, back, activity));
    match copied {
        Ok(_) => back.end(None).await,
        Err(Broken::Program(error)) => back.end(Some(&format!("port {port}: {error}"))).await,
        Err(Broken::Client(error)) => Err(error),
    }
}

/// Whose connection broke.
enum Broken {
    Program(io::Error),
    Client(io::Error),
}

async fn upward(
    mut from: mpsc::Receiver<Bytes>,
    mut to: OwnedWriteHalf,
    activity: &Activity,
) -> Result<(), Broken> {
    while let Some(bytes) = from.recv().await {
        activity.touch();
        match to.write_all(&bytes).await {
            Ok(()) => {}
            // The program has closed its connection and does not want it: what it sent before is still to be read.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(Broken::Program(error)),
        }
    }
    // It fails only when the program has closed its end before.
    let _closed = to.shutdown().await;
    Ok(())
}

async fn downward<B: Back>(from: OwnedReadHalf, back: &B, activity: &Activity) -> Result<(), Broken> {
    let mut chunk = Vec::new();
    loop {
        from.readable().await.map_err(Broken::Program)?;
        chunk.resize(CHUNK_ROOM + B::CHUNK_BYTES_MAX, 0);
        match from.try_read(chunk.get_mut(CHUNK_ROOM..).unwrap_or_default()) {
            Ok(0) => return back.finish().await.map_err(Broken::Client),
            Ok(count) => {
                activity.touch();
                let sent = chunk.get_mut(..CHUNK_ROOM + count).unwrap_or_default();
                back.data(sent).await.map_err(Broken::Client)?;
            }
            // While nothing comes, no memory is held.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => chunk = Vec::new(),
            Err(error) => return Err(Broken::Program(error)),
        }
    }
}
