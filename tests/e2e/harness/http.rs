//! A page fetched from a node's own network.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    process::ExitCode,
    time::Duration,
};

/// The argument that makes this program fetch a page: run in a node's namespaces, it uses that network.
pub(crate) const ROLE: &str = "node-get";

const ANSWER_MAX: Duration = Duration::from_secs(3);

/// Prints the answer of `http://<place>`, an address that may be followed by a path; nothing if there is none. With
/// `unix:<path>` it is asked for at a socket.
pub(crate) fn node_get(place: &str) -> ExitCode {
    if let Some(socket) = place.strip_prefix("unix:") {
        print!("{}", UnixStream::connect(socket).and_then(|stream| ask(stream, "")).unwrap_or_default());
        return ExitCode::SUCCESS;
    }
    let (address, path) = place.split_once('/').unwrap_or((place, ""));
    let Ok(address) = address.parse::<SocketAddr>() else { return ExitCode::FAILURE };
    let fetch = || {
        let stream = TcpStream::connect_timeout(&address, ANSWER_MAX)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        ask(stream, path)
    };
    print!("{}", fetch().unwrap_or_default());
    ExitCode::SUCCESS
}

fn ask(mut stream: impl Read + Write, path: &str) -> std::io::Result<String> {
    stream.write_all(format!("GET /{path} HTTP/1.0\r\nHost: node\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
