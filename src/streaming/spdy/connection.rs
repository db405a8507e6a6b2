//! A session on a socket.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::{Buf as _, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::Mutex as AsyncMutex,
};

use super::{
    frame::{HEAD_BYTES, Reset},
    session::{Event, Session},
};

pub(in super::super) type Reader = Box<dyn AsyncRead + Send + Unpin>;
pub(in super::super) type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// Bytes read from the socket at a time, while a client sends much and while it does not.
const READ_BYTES: usize = 64 << 10;
const READ_IDLE_BYTES: usize = 1 << 10;

/// The sending side of a session. Frames of all streams go out one after the other.
pub(in super::super) struct Connection {
    session: Mutex<Session>,
    outgoing: AsyncMutex<Outgoing>,
}

/// The socket, and what of a frame was not sent because whoever sent it was cancelled.
struct Outgoing {
    writer: Writer,
    unsent: BytesMut,
}

/// The receiving side of a session.
pub(in super::super) struct Incoming {
    reader: Reader,
    input: BytesMut,
    /// The last read brought as much as there was room for.
    busy: bool,
    connection: Arc<Connection>,
}

impl Connection {
    /// A session in which at most `streams_max` streams may be open.
    pub(in super::super) fn new(reader: Reader, writer: Writer, streams_max: usize) -> (Arc<Self>, Incoming) {
        let session = Mutex::new(Session::new(streams_max));
        let connection = Arc::new(Self {
            session,
            outgoing: AsyncMutex::new(Outgoing { writer, unsent: BytesMut::new() }),
        });
        (Arc::clone(&connection), Incoming { reader, input: BytesMut::new(), busy: false, connection })
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a stream that was opened.
    pub(in super::super) async fn accept(&self, id: u32) -> io::Result<()> {
        self.session().accept(id);
        self.flush().await
    }

    /// Ends a stream both ways.
    pub(in super::super) async fn reset(&self, id: u32, status: Reset) -> io::Result<()> {
        self.session().reset(id, status);
        self.flush().await
    }

    /// From now on every further stream is refused.
    pub(in super::super) fn refuse_streams(&self) {
        self.session().refuse_streams();
    }

    /// Sends one data frame. `chunk` is [`HEAD_BYTES`] bytes of room for its head, then the data.
    ///
    /// # Errors
    /// `BrokenPipe` when the client has given the stream up; whatever the socket says.
    pub(in super::super) async fn write(&self, id: u32, chunk: &mut [u8], fin: bool) -> io::Result<()> {
        let mut outgoing = self.outgoing.lock().await;
        let length = chunk.len().saturating_sub(HEAD_BYTES);
        let head = self.session().data_head(id, length, fin).ok_or(io::ErrorKind::BrokenPipe)?;
        if let Some(room) = chunk.first_chunk_mut() {
            *room = head;
        }
        outgoing.send(chunk).await
    }

    /// Ends this side of a stream; that it has ended already is no error.
    pub(in super::super) async fn finish(&self, id: u32) -> io::Result<()> {
        match self.write(id, &mut [0; HEAD_BYTES], true).await {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => Ok(()),
        }
    }

    /// Sends a data frame without data on one of the streams, if there is one.
    ///
    /// # Errors
    /// As the socket says when the client has gone.
    pub(in super::super) async fn heartbeat(&self) -> io::Result<()> {
        let mut outgoing = self.outgoing.lock().await;
        let head = self.session().heartbeat();
        match head {
            Some(head) => outgoing.send(&head).await,
            None => Ok(()),
        }
    }

    /// Ends the session and this direction of the socket.
    pub(in super::super) async fn end(&self) -> io::Result<()> {
        self.session().end();
        self.flush().await?;
        self.outgoing.lock().await.writer.shutdown().await
    }

    async fn flush(&self) -> io::Result<()> {
        let mut outgoing = self.outgoing.lock().await;
        let output = self.session().take_output();
        if output.is_empty() && outgoing.unsent.is_empty() { Ok(()) } else { outgoing.send(&output).await }
    }
}

impl Outgoing {
    /// Sends `bytes`. A caller that is cancelled leaves no half of a frame behind: what is missing goes out first
    /// with the next one.
    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = Rest { unsent: &mut self.unsent, bytes };
        while !rest.unsent.is_empty() {
            let count = self.writer.write(rest.unsent).await?;
            rest.unsent.advance(count);
        }
        while !rest.bytes.is_empty() {
            let count = self.writer.write(rest.bytes).await?;
            rest.bytes = rest.bytes.get(count..).unwrap_or_default();
        }
        self.writer.flush().await
    }
}

/// The part of a frame that is still to be sent.
struct Rest<'a> {
    unsent: &'a mut BytesMut,
    bytes: &'a [u8],
}

impl Drop for Rest<'_> {
    fn drop(&mut self) {
        self.unsent.extend_from_slice(self.bytes);
    }
}

impl Incoming {
    /// The next event; `None`: the client has closed the connection. Cancelling it loses nothing.
    ///
    /// # Errors
    /// `InvalidData` when the client broke the protocol; it was told to go away then. Whatever the socket says.
    pub(in super::super) async fn next(&mut self) -> io::Result<Option<Event>> {
        loop {
            // Pings and refusals are answered before anything else is read, so that they cannot pile up.
            self.connection.flush().await?;
            let next = self.connection.session().next(&mut self.input);
            match next {
                Ok(Some(event)) => return Ok(Some(event)),
                Ok(None) => {}
                Err(violation) => {
                    // It is being told to go away; that it does not read that is of no interest.
                    let _flushed = self.connection.flush().await;
                    return Err(io::Error::new(io::ErrorKind::InvalidData, violation));
                }
            }
            self.connection.flush().await?;
            if !self.busy && self.input.is_empty() {
                // An idle session keeps no large buffer.
                self.input = BytesMut::new();
            }
            self.input.reserve(if self.busy { READ_BYTES } else { READ_IDLE_BYTES });
            let room = self.input.capacity() - self.input.len();
            let count = self.reader.read_buf(&mut self.input).await?;
            if count == 0 {
                return Ok(None);
            }
            self.busy = count == room;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testclient::{Client, Frame},
        *,
    };

    /// A session over a pipe that holds `capacity` bytes, and its client.
    fn session(capacity: usize) -> (Arc<Connection>, Incoming, Client) {
        let (ours, theirs) = tokio::io::duplex(capacity);
        let (reader, writer) = tokio::io::split(ours);
        let (connection, incoming) = Connection::new(Box::new(reader), Box::new(writer), 8);
        (connection, incoming, Client::new(theirs))
    }

    #[tokio::test]
    async fn whoever_is_cancelled_leaves_no_half_of_a_frame() {
        let (connection, mut incoming, mut client) = session(100);
        let id = client.open(&[("streamtype", "data")]).await;
        assert!(matches!(incoming.next().await, Ok(Some(Event::Opened { .. }))));
        let mut chunk = vec![b'x'; HEAD_BYTES + 1000];
        let sent = connection.write(id, &mut chunk, false);
        assert!(
            tokio::time::timeout(std::time::Duration::from_millis(20), sent).await.is_err(),
            "it is full"
        );
        let rest = crate::telemetry::task::spawn("test", async move { connection.finish(id).await });
        let mut seen = Vec::new();
        while let Frame::Data { bytes, fin, .. } = client.frame().await {
            seen.extend(bytes);
            if fin {
                break;
            }
        }
        assert_eq!(seen, vec![b'x'; 1000]);
        rest.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_answer_that_was_cut_off_goes_out_before_anything_is_waited_for() {
        let (_connection, mut incoming, mut client) = session(100);
        // Each answer has 12 bytes: of the ninth only 4 find room.
        for _ in 0..9 {
            client.send(&[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]).await;
            let next = tokio::time::timeout(std::time::Duration::from_millis(20), incoming.next());
            assert!(next.await.is_err(), "a ping is no event");
        }
        crate::telemetry::task::spawn("test", async move { while incoming.next().await.is_ok() {} });
        for nth in 0..9 {
            let frame = tokio::time::timeout(std::time::Duration::from_secs(10), client.frame()).await;
            assert!(matches!(frame, Ok(Frame::Control { kind: 6, .. })), "answer {nth}: {frame:?}");
        }
    }

    #[tokio::test]
    async fn a_client_that_breaks_the_protocol_is_told_to_go_away() {
        let (_connection, mut incoming, mut client) = session(1000);
        client.send(&[0x80, 2, 0, 1, 0, 0, 0, 0]).await;
        let error = incoming.next().await.unwrap_err();
        assert_eq!(error.to_string(), "a control frame of version 2 instead of 3");
        assert!(matches!(client.frame().await, Frame::Control { kind: 7, .. }));
    }
}
