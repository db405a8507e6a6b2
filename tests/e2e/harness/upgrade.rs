//! Clients of streams that say what a test wants, byte by byte, on a node's own loopback.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use tokio_tungstenite::tungstenite::{Message, WebSocket as Messages, protocol::Role};

use super::node::Node;

/// Longer than anything sound takes to answer.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// What a server answered to a request for an upgrade.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status line without the version.
    pub(crate) status: String,
    /// `name: value`, the name in small letters.
    pub(crate) headers: Vec<String>,
    /// The rest of the connection.
    pub(crate) stream: TcpStream,
}

impl Answer {
    /// The values of a header.
    pub(crate) fn header(&self, name: &str) -> Vec<&str> {
        let of = |line| str::strip_prefix(line, name)?.strip_prefix(": ");
        self.headers.iter().filter_map(|line| of(line.as_str())).collect()
    }

    /// The rest of what the server sends.
    pub(crate) fn rest(mut self) -> String {
        let mut text = String::new();
        self.stream.read_to_string(&mut text).unwrap();
        text
    }
}

/// Sends a request for `url` with `lines` in its head.
pub(crate) fn request(node: &Node, method: &str, url: &str, lines: &[&str]) -> Answer {
    let (address, path) = url.strip_prefix("http://").unwrap_or(url).split_once('/').unwrap_or_default();
    let mut stream = node.namespaces().connect(address);
    stream.set_read_timeout(Some(ANSWER_MAX)).unwrap();
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    let head = format!("{method} /{path} HTTP/1.1\r\nHost: {address}\r\n{lines}\r\n");
    // A server that has had enough may close before it has read all of it.
    let _ = stream.write_all(head.as_bytes());
    answer(stream)
}

fn answer(stream: TcpStream) -> Answer {
    // What follows the head is not this reader's to take.
    let mut reader = BufReader::with_capacity(1, &stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) <= 2 {
            break;
        }
        let line = line.trim_end();
        head.push(match line.split_once(": ") {
            Some((name, value)) => format!("{}: {value}", name.to_lowercase()),
            None => line.to_owned(),
        });
    }
    let status = if head.is_empty() { String::new() } else { head.remove(0) };
    Answer { status: status.trim_start_matches("HTTP/1.1 ").to_owned(), headers: head, stream }
}

/// Asks `url` to become a WebSocket with one of these sub-protocols.
pub(crate) fn request_websocket(node: &Node, url: &str, protocols: &str) -> Answer {
    let protocols = format!("Sec-WebSocket-Protocol: {protocols}");
    let lines = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        &protocols,
    ];
    request(node, "GET", url, &lines)
}

/// A WebSocket of which each message belongs to a channel.
#[derive(Debug)]
pub(crate) struct WebSocket(Messages<TcpStream>);

impl WebSocket {
    #[track_caller]
    pub(crate) fn open(node: &Node, url: &str, protocol: &str) -> Self {
        let answer = request_websocket(node, url, protocol);
        assert_eq!(answer.status, "101 Switching Protocols", "{:?}", answer.headers);
        assert_eq!(answer.header("sec-websocket-protocol"), [protocol]);
        Self(Messages::from_raw_socket(answer.stream, Role::Client, None))
    }

    /// Another handle of the connection.
    pub(crate) fn socket(&self) -> TcpStream {
        self.0.get_ref().try_clone().unwrap()
    }

    pub(crate) fn send(&mut self, channel: u8, bytes: &[u8]) -> io::Result<()> {
        self.message(Message::binary([&[channel], bytes].concat()))
    }

    pub(crate) fn message(&mut self, message: Message) -> io::Result<()> {
        self.0.send(message).map_err(io::Error::other)
    }

    /// The next message that is not of WebSocket's own making; `None`: the server has closed.
    pub(crate) fn next(&mut self) -> Option<Message> {
        loop {
            match self.0.read() {
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(message) => return Some(message),
                Err(_) => return None,
            }
        }
    }

    /// What can be written to is one channel.
    pub(crate) fn into_channel(self, number: u8) -> impl Write + Send {
        Channel { messages: self, number }
    }
}

struct Channel {
    messages: WebSocket,
    number: u8,
}

impl Write for Channel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.messages.send(self.number, bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Clients that have connected and do nothing more. Dropped, they close their connections.
#[derive(Debug)]
pub(crate) struct Idlers {
    streams: Vec<TcpStream>,
    /// The status line of each answer, without the version.
    pub(crate) statuses: Vec<String>,
}

impl Idlers {
    pub(crate) fn connect(node: &Node, urls: &[String]) -> Self {
        let answers = urls.iter().map(|url| request_websocket(node, url, "v4.channel.k8s.io"));
        let (streams, statuses) = answers.map(|answer| (answer.stream, answer.status)).unzip();
        Self { streams, statuses }
    }
}

impl Drop for Idlers {
    fn drop(&mut self) {
        for stream in &self.streams {
            // The server may have closed it.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
