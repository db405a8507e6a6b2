//! `remotecommand` over SPDY: a stream for errors, then one for each standard stream and the sizes.

use std::{collections::VecDeque, io, sync::Arc};

use super::{
    super::{
        spdy::{Connection, Event, HEAD_BYTES, Headers, Incoming, Reader, Reset, Writer},
        status::{Form, Outcome},
        upgrade::Remote,
    },
    Output, Raw, Streams,
};

/// Streams that a client may have open; it needs five.
const STREAMS_MAX: usize = 32;
/// Bytes that a client may send before it has opened all its streams.
const EARLY_BYTES_MAX: usize = 1 << 20;

/// Numbers of the client's streams.
#[derive(Clone, Copy, Debug, Default)]
struct Ids {
    error: Option<u32>,
    stdin: Option<u32>,
    stdout: Option<u32>,
    stderr: Option<u32>,
    resize: Option<u32>,
}

pub(super) struct Receiver {
    incoming: Incoming,
    ids: Ids,
    /// Events that came before all streams were open.
    early: VecDeque<Event>,
}

pub(super) struct Sender {
    connection: Arc<Connection>,
    ids: Ids,
    form: Form,
}

/// Waits until the client has opened the streams of `streams`.
pub(super) async fn open(
    reader: Reader,
    writer: Writer,
    streams: Streams,
    version: Remote,
) -> io::Result<(Receiver, Sender)> {
    let (connection, mut incoming) = Connection::new(reader, writer, STREAMS_MAX);
    let (mut ids, mut early, mut early_bytes) = (Ids::default(), VecDeque::new(), 0);
    while !ids.complete(streams, version) {
        match incoming.next().await? {
            Some(Event::Opened { id, headers }) => match ids.place(&headers, streams, version) {
                Some(place) => {
                    *place = Some(id);
                    connection.accept(id).await?;
                }
                None => connection.reset(id, Reset::RefusedStream).await?,
            },
            Some(event) => {
                if let Event::Data { bytes, .. } = &event {
                    early_bytes += bytes.len();
                }
                early.push_back(event);
                if early_bytes > EARLY_BYTES_MAX || early.len() > EARLY_BYTES_MAX / 64 {
                    let text = "it sends data and does not open its streams";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
            }
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
    // All are there: none that comes later is of use.
    connection.refuse_streams();
    let sender = Sender { connection, ids, form: version.form };
    Ok((Receiver { incoming, ids, early }, sender))
}

impl Ids {
    /// The place for the number of a new stream; `None`: it is of an unknown type, not wanted, or there already.
    fn place(&mut self, headers: &Headers, streams: Streams, version: Remote) -> Option<&mut Option<u32>> {
        let place = match headers.get("streamtype").map(String::as_str) {
            Some("error") => &mut self.error,
            Some("stdin") if streams.stdin => &mut self.stdin,
            Some("stdout") if streams.stdout => &mut self.stdout,
            Some("stderr") if streams.stderr => &mut self.stderr,
            Some("resize") if streams.tty && version.resize => &mut self.resize,
            _ => return None,
        };
        place.is_none().then_some(place)
    }

    fn complete(&self, streams: Streams, version: Remote) -> bool {
        self.error.is_some()
            && self.stdin.is_some() == streams.stdin
            && self.stdout.is_some() == streams.stdout
            && self.stderr.is_some() == streams.stderr
            && self.resize.is_some() == (streams.tty && version.resize)
    }
}

impl Receiver {
    pub(super) async fn next(&mut self) -> io::Result<Option<Raw>> {
        loop {
            let event = match self.early.pop_front() {
                Some(event) => Some(event),
                None => self.incoming.next().await?,
            };
            let (stdin, resize) = (self.ids.stdin, self.ids.resize);
            match event {
                None => return Ok(None),
                Some(Event::Data { id, bytes }) if Some(id) == stdin => return Ok(Some(Raw::Stdin(bytes))),
                Some(Event::Data { id, bytes }) if Some(id) == resize => return Ok(Some(Raw::Resize(bytes))),
                Some(Event::Ended { id } | Event::Reset { id }) if Some(id) == stdin => {
                    return Ok(Some(Raw::StdinEnded));
                }
                // A client ends its side of the streams toward it, and has nothing to say there.
                Some(_) => {}
            }
        }
    }
}

impl Sender {
    fn id(&self, output: Output) -> Option<u32> {
        match output {
            Output::Stdout => self.ids.stdout,
            Output::Stderr => self.ids.stderr,
        }
    }

    pub(super) async fn write(&self, output: Output, chunk: &mut [u8]) -> io::Result<()> {
        match self.id(output) {
            Some(id) => self.connection.write(id, chunk, false).await,
            None => Ok(()),
        }
    }

    pub(super) async fn finish(&self, output: Output) -> io::Result<()> {
        match self.id(output) {
            Some(id) => self.connection.finish(id).await,
            None => Ok(()),
        }
    }

    pub(super) async fn heartbeat(&self) -> io::Result<()> {
        self.connection.heartbeat().await
    }

    /// Clients take the end of the error stream for the end of the command, so it comes last.
    pub(super) async fn end(&self, outcome: &Outcome) -> io::Result<()> {
        self.finish(Output::Stdout).await?;
        self.finish(Output::Stderr).await?;
        if let Some(error) = self.ids.error {
            let message = outcome.message(self.form);
            if message.is_empty() {
                self.connection.finish(error).await?;
            } else {
                let mut chunk = [&[0; HEAD_BYTES][..], &message].concat();
                match self.connection.write(error, &mut chunk, true).await {
                    // The client has reset the stream: it does not want to know.
                    Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
                    _ => {}
                }
            }
        }
        self.connection.end().await
    }
}
