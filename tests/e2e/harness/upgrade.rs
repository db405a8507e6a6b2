//! Clients of streams that connect and then do nothing more, from a node's own loopback.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, ExitCode, Stdio},
    time::Duration,
};

use super::node::Node;

/// The argument that makes this program connect to URLs.
pub(crate) const ROLE: &str = "node-upgrade";

const ANSWER_MAX: Duration = Duration::from_secs(60);

/// Asks each URL to become a WebSocket, prints the status of each answer, and keeps all connections until its own
/// input ends.
pub(crate) fn node_upgrade(urls: &[&str]) -> ExitCode {
    let mut held = Vec::new();
    for url in urls {
        match upgrade(url) {
            Ok((status, stream)) => {
                println!("{status}");
                held.push(stream);
            }
            Err(error) => println!("{error}"),
        }
    }
    let _ = std::io::stdin().read(&mut [0; 1]);
    ExitCode::SUCCESS
}

fn upgrade(url: &str) -> std::io::Result<(String, TcpStream)> {
    let (address, path) = url.strip_prefix("http://").unwrap_or(url).split_once('/').unwrap_or_default();
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    write!(
        stream,
        "GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n"
    )?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line)?;
    Ok((line.trim_end().trim_start_matches("HTTP/1.1 ").to_owned(), stream))
}

/// Clients that have connected and keep their connections. Dropped, they are killed.
#[derive(Debug)]
pub(crate) struct Idlers {
    program: Child,
    /// The status line of each answer, without the version.
    pub(crate) statuses: Vec<String>,
}

impl Idlers {
    pub(crate) fn connect(node: &Node, urls: &[String]) -> Self {
        let mut command = node.command(std::env::current_exe().unwrap());
        command.arg(ROLE).args(urls).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut program = command.spawn().unwrap();
        let lines = BufReader::new(program.stdout.take().unwrap()).lines();
        let statuses = lines.take(urls.len()).map(Result::unwrap).collect();
        Self { program, statuses }
    }
}

impl Drop for Idlers {
    fn drop(&mut self) {
        drop(self.program.stdin.take());
        let _ = self.program.wait();
    }
}
