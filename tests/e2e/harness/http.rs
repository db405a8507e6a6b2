//! A page fetched from a node's own network.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::ExitCode,
    time::Duration,
};

/// The argument that makes this program fetch a page: run in a node's namespaces, it uses that network.
pub(crate) const ROLE: &str = "node-get";

const ANSWER_MAX: Duration = Duration::from_secs(3);

/// Prints the answer of `http://<place>`, an address that may be followed by a path; nothing if there is none.
pub(crate) fn node_get(place: &str) -> ExitCode {
    let (address, path) = place.split_once('/').unwrap_or((place, ""));
    let Ok(address) = address.parse::<SocketAddr>() else { return ExitCode::FAILURE };
    let fetch = || {
        let mut stream = TcpStream::connect_timeout(&address, ANSWER_MAX)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.write_all(format!("GET /{path} HTTP/1.0\r\nHost: node\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        std::io::Result::Ok(answer)
    };
    print!("{}", fetch().unwrap_or_default());
    ExitCode::SUCCESS
}
