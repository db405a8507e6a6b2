//! Port-forward over SPDY: two streams for each connection, many connections in one session.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until},
};

use super::{
    super::{
        activity::Activity,
        heartbeat::while_not_reading,
        server::Socket,
        spdy::{Connection, Event, HEAD_BYTES, Headers, Incoming, Reset},
    },
    flow::{self, Back, CHUNKS_MAX, Dial},
    pairs::{Kind, Opened, Pair, Pairs},
};

/// Streams that a client may have open: 1,024 connections.
const STREAMS_MAX: usize = 2 * 1024;

/// The client's streams of one connection.
struct Streams {
    connection: Arc<Connection>,
    pair: Pair,
}

impl Back for Streams {
    const CHUNK_BYTES_MAX: usize = 64 << 10;

    async fn data(&self, chunk: &mut [u8]) -> io::Result<()> {
        self.connection.write(self.pair.data, chunk, false).await
    }

    async fn finish(&self) -> io::Result<()> {
        self.connection.finish(self.pair.data).await
    }

    async fn end(&self, error: Option<&str>) -> io::Result<()> {
        end_streams(&self.connection, self.pair, error).await
    }
}

async fn end_streams(connection: &Connection, pair: Pair, error: Option<&str>) -> io::Result<()> {
    if let Some(error) = error {
        say(connection, pair.error, error).await?;
    } else {
        connection.finish(pair.error).await?;
    }
    connection.finish(pair.data).await
}

/// Sends `text` on an error stream and ends it.
async fn say(connection: &Connection, id: u32, text: &str) -> io::Result<()> {
    let mut chunk = [&[0; HEAD_BYTES][..], text.as_bytes()].concat();
    match connection.write(id, &mut chunk, true).await {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// A data stream.
struct Flow {
    /// `None` once the client has ended its side.
    up: Option<mpsc::Sender<Bytes>>,
    /// Until its error stream is there too.
    waiting: Option<mpsc::Receiver<Bytes>>,
    running: Option<(Pair, AbortHandle)>,
}

struct Session {
    connection: Arc<Connection>,
    dial: Dial,
    activity: Activity,
    pairs: Pairs<Instant>,
    /// By the number of the data stream.
    flows: BTreeMap<u32, Flow>,
    /// Each gives the number of its data stream at its end.
    running: JoinSet<u32>,
}

/// Serves until the client goes, nothing has gone over the session for `idle_max`, or `stopped` says why the pod is not
/// there any more.
pub(in super::super) async fn over_spdy(
    socket: Socket,
    dial: Dial,
    stopped: impl Future<Output = String>,
    setup_max: Duration,
    idle_max: Duration,
) -> io::Result<()> {
    let (reader, writer) = tokio::io::split(socket);
    let (connection, mut incoming) = Connection::new(Box::new(reader), Box::new(writer), STREAMS_MAX);
    let activity = Activity::new();
    let mut session = Session {
        connection: Arc::clone(&connection),
        dial,
        activity: activity.clone(),
        pairs: Pairs::new(),
        flows: BTreeMap::new(),
        running: JoinSet::new(),
    };
    let why = tokio::select! {
        served = session.serve(&mut incoming, setup_max) => return served,
        why = stopped => why,
        () = activity.idle(idle_max) => format!("nothing went over it for {idle_max:?}"),
    };
    session.running.shutdown().await;
    for (pair, _) in session.flows.values().filter_map(|flow| flow.running.as_ref()) {
        say(&connection, pair.error, &why).await?;
    }
    connection.end().await
}

impl Session {
    async fn serve(&mut self, incoming: &mut Incoming, setup_max: Duration) -> io::Result<()> {
        loop {
            let due = self.pairs.oldest().map(|since| since + setup_max);
            let late = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = incoming.next() => match event? {
                    Some(event) => self.handle(event).await?,
                    None => return Ok(()),
                },
                Some(ended) = self.running.join_next() => {
                    if let Ok(data) = ended {
                        self.flows.remove(&data);
                    }
                }
                () = late => self.give_up_late(setup_max).await?,
            }
        }
    }

    async fn handle(&mut self, event: Event) -> io::Result<()> {
        match event {
            Event::Opened { id, headers } => self.opened(id, &headers).await,
            Event::Data { id, bytes } => self.data(id, bytes).await,
            Event::Ended { id } => {
                if let Some(flow) = self.flows.get_mut(&id) {
                    flow.up = None;
                }
                Ok(())
            }
            Event::Reset { id } => {
                self.pairs.forget(id);
                if let Some(Flow { running: Some((pair, task)), .. }) = self.flows.remove(&id) {
                    task.abort();
                    self.connection.finish(pair.error).await?;
                }
                Ok(())
            }
        }
    }

    async fn opened(&mut self, id: u32, headers: &Headers) -> io::Result<()> {
        let (Opened { kind, .. }, pair) = match self.pairs.open(id, headers, Instant::now()) {
            Ok(opened) => opened,
            Err(refused) => {
                tracing::debug!(%refused, "stream of a port-forward refused");
                return self.connection.reset(id, Reset::RefusedStream).await;
            }
        };
        self.connection.accept(id).await?;
        if kind == Kind::Data {
            let (up, waiting) = mpsc::channel(CHUNKS_MAX);
            self.flows.insert(id, Flow { up: Some(up), waiting: Some(waiting), running: None });
        }
        let Some(pair) = pair else { return Ok(()) };
        let Some(flow) = self.flows.get_mut(&pair.data) else { return Ok(()) };
        let Some(up) = flow.waiting.take() else { return Ok(()) };
        let streams = Streams { connection: Arc::clone(&self.connection), pair };
        let (dial, activity) = (Arc::clone(&self.dial), self.activity.clone());
        let task = self.running.spawn(async move {
            // What fails here is the client's connection, whose end is seen where it is read.
            let _over = flow::run(pair.port, &dial, up, &streams, &activity).await;
            pair.data
        });
        flow.running = Some((pair, task));
        Ok(())
    }

    async fn data(&mut self, id: u32, bytes: Bytes) -> io::Result<()> {
        let Some(flow) = self.flows.get_mut(&id) else { return Ok(()) };
        let Some(up) = &flow.up else { return Ok(()) };
        if flow.running.is_some() {
            // A program that does not read slows the whole session down, as with every server of this protocol. One
            // that has gone does not: then there is nobody at the other end of the queue.
            let _taken = while_not_reading(up.send(bytes), || self.connection.heartbeat()).await?;
        } else if up.try_send(bytes).is_err() {
            // It sends and sends, and its error stream does not come.
            self.pairs.forget(id);
            self.flows.remove(&id);
            self.connection.reset(id, Reset::Cancel).await?;
        }
        Ok(())
    }

    async fn give_up_late(&mut self, setup_max: Duration) -> io::Result<()> {
        let Some(before) = Instant::now().checked_sub(setup_max) else { return Ok(()) };
        for (id, opened) in self.pairs.late(before) {
            match opened.kind {
                Kind::Error => say(&self.connection, id, "timed out waiting for the data stream").await?,
                Kind::Data => {
                    self.flows.remove(&id);
                    self.connection.reset(id, Reset::Cancel).await?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use futures_util::FutureExt as _;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        sync::oneshot,
    };

    use super::{
        super::super::spdy::testclient::{Client, Frame},
        *,
    };

    /// A session; ports are of this host's loopback.
    fn session(setup_max: Duration) -> (Client, oneshot::Sender<String>) {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let dial: Dial = Arc::new(|port| {
            async move {
                TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| format!("port {port}: {error}"))
            }
            .boxed()
        });
        let (stop, stopped) = oneshot::channel();
        let stopped = async move { stopped.await.unwrap_or_default() };
        crate::telemetry::task::spawn(
            "test",
            over_spdy(Box::new(ours), dial, stopped, setup_max, Duration::from_secs(600)),
        );
        (Client::new(theirs), stop)
    }

    async fn open(client: &mut Client, port: u16, request: usize) -> (u32, u32) {
        let (port, request) = (port.to_string(), request.to_string());
        let headers = |kind| [("streamtype", kind), ("port", port.as_str()), ("requestid", request.as_str())];
        let error = client.open(&headers("error")).await;
        client.data(error, b"", true).await;
        (error, client.open(&headers("data")).await)
    }

    /// Events of each stream until `count` streams have ended.
    async fn read(client: &mut Client, count: usize) -> BTreeMap<u32, Vec<u8>> {
        let (mut streams, mut ended) = (BTreeMap::<u32, Vec<u8>>::new(), 0);
        while ended < count {
            match client.frame().await {
                Frame::Data { id, bytes, fin } => {
                    streams.entry(id).or_default().extend(bytes);
                    ended += usize::from(fin);
                }
                Frame::Control { .. } => {}
                Frame::Closed => panic!("closed after {ended} streams"),
            }
        }
        streams
    }

    /// A port that answers with what it heard, once the other side has ended.
    async fn echo() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        crate::telemetry::task::spawn("test", async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                crate::telemetry::task::spawn("test", async move {
                    let mut heard = Vec::new();
                    socket.read_to_end(&mut heard).await.unwrap();
                    socket.write_all(&heard).await.unwrap();
                });
            }
        });
        port
    }

    /// A port where nobody listens.
    async fn refused() -> u16 {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
    }

    #[tokio::test]
    async fn a_hundred_connections_share_a_session_and_a_refused_one_hurts_none() {
        let (good, bad) = (echo().await, refused().await);
        let (mut client, _stop) = session(Duration::from_secs(30));
        let mut expected = BTreeMap::new();
        for request in 0..100 {
            let port = if request == 50 { bad } else { good };
            let (error, data) = open(&mut client, port, request).await;
            let text = format!("connection {request} ").repeat(2000);
            client.data(data, text.as_bytes(), true).await;
            expected.insert(error, if request == 50 { "refused".into() } else { String::new() });
            expected.insert(data, if request == 50 { String::new() } else { text });
        }
        let streams = read(&mut client, 200).await;
        for (id, text) in expected {
            let got = String::from_utf8(streams.get(&id).cloned().unwrap_or_default()).unwrap();
            match text.as_str() {
                "refused" => assert!(got.contains("refused"), "{got}"),
                text => assert_eq!(got, text, "stream {id}"),
            }
        }
    }

    #[tokio::test]
    async fn a_stream_that_stays_alone_is_given_up() {
        let (mut client, _stop) = session(Duration::from_millis(50));
        let headers = [("streamtype", "error"), ("port", "80"), ("requestid", "1")];
        let error = client.open(&headers).await;
        assert_eq!(read(&mut client, 1).await[&error], b"timed out waiting for the data stream");
        client.open(&[("streamtype", "data"), ("port", "80"), ("requestid", "2")]).await;
        loop {
            if let Frame::Control { kind: 3, body } = client.frame().await {
                assert_eq!(body, [0, 0, 0, 3, 0, 0, 0, 5]);
                break;
            }
        }
        client.open(&[("streamtype", "data"), ("port", "65536"), ("requestid", "3")]).await;
        assert_eq!(client.frame().await, Frame::Control { kind: 3, body: vec![0, 0, 0, 5, 0, 0, 0, 3] });
    }

    #[tokio::test]
    async fn a_pod_that_is_stopped_ends_its_sessions_and_says_so() {
        let (mut client, stop) = session(Duration::from_secs(30));
        let (error, data) = open(&mut client, echo().await, 1).await;
        client.data(data, b"never answered", false).await;
        // It is being served once its streams are accepted.
        for _ in 0..2 {
            assert!(matches!(client.frame().await, Frame::Control { kind: 2, .. }));
        }
        stop.send("pod p was stopped".into()).unwrap();
        assert_eq!(read(&mut client, 1).await[&error], b"pod p was stopped");
        let mut last = client.frame().await;
        while !matches!(last, Frame::Control { kind: 7, .. }) {
            last = client.frame().await;
        }
        assert_eq!(client.frame().await, Frame::Closed);
    }

    #[tokio::test]
    async fn a_program_that_does_not_read_stops_its_client_and_not_the_memory() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut client, _stop) = session(Duration::from_secs(30));
        let (_, data) = open(&mut client, listener.local_addr().unwrap().port(), 1).await;
        let (_silent, _) = listener.accept().await.unwrap();
        let flood = async {
            for _ in 0..1000 {
                client.data(data, &vec![0; 1 << 20], false).await;
            }
        };
        assert!(
            tokio::time::timeout(Duration::from_secs(1), flood).await.is_err(),
            "1000 MiB were swallowed"
        );
    }
}
