//! A client of SPDY/3.1 that counts what it is sent and looks at none of it, so that the server is what is measured.

/// The server's own copy of a text of 1,423 bytes.
#[path = "../../src/streaming/spdy/dictionary.rs"]
#[allow(dead_code, unused_imports, reason = "the server needs more of it, and has its tests there")]
mod dictionary;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use flate2::{Compress, Compression, FlushCompress};

use super::Result;

const SYN_STREAM: u8 = 1;
const FIN: u8 = 1;
/// Bytes that are taken from the socket at a time.
const READ_BYTES: usize = 1 << 20;
/// Longer than anything sound takes to answer.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// What the server sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Frame {
    /// A data frame, or a piece of one; `fin` comes with the last piece.
    Data {
        id: u32,
        length: u64,
        fin: bool,
    },
    Other,
    Closed,
}

/// A frame whose end has not come yet.
#[derive(Clone, Copy, Debug)]
struct Part {
    head: [u8; 8],
    left: usize,
}

pub(crate) struct Spdy {
    socket: BufReader<TcpStream>,
    compress: Compress,
    next: u32,
    part: Option<Part>,
}

impl Spdy {
    /// Asks `url` to become a session of `protocol`.
    pub(crate) fn open(url: &str, protocol: &str) -> Result<Self> {
        let (address, path) = url
            .strip_prefix("http://")
            .and_then(|rest| rest.split_once('/'))
            .ok_or("a URL of another kind")?;
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(ANSWER_MAX))?;
        let mut socket = BufReader::with_capacity(READ_BYTES, socket);
        let head = format!(
            "POST /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
             X-Stream-Protocol-Version: {protocol}\r\n\r\n"
        );
        socket.get_mut().write_all(head.as_bytes())?;
        let mut status = String::new();
        socket.read_line(&mut status)?;
        if !status.contains(" 101 ") {
            return Err(format!("{url}: {status}").into());
        }
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            socket.read_line(&mut line)?;
        }
        let mut compress = Compress::new(Compression::default(), true);
        compress.set_dictionary(&dictionary::BYTES)?;
        Ok(Self { socket, compress, next: 1, part: None })
    }

    /// Opens a stream; gives its number.
    pub(crate) fn stream(&mut self, headers: &[(&str, &str)]) -> Result<u32> {
        let id = self.next;
        self.next += 2;
        let mut plain = u32::try_from(headers.len())?.to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend(u32::try_from(text.len())?.to_be_bytes());
            plain.extend(text.as_bytes());
        }
        let mut block = Vec::with_capacity(1024);
        self.compress.compress_vec(&plain, &mut block, FlushCompress::Sync)?;
        let [_, length @ ..] = u32::try_from(10 + block.len())?.to_be_bytes();
        let frame = [&[0x80, 3, 0, SYN_STREAM, 0], &length[..], &id.to_be_bytes(), &[0; 6], &block].concat();
        self.socket.get_mut().write_all(&frame)?;
        Ok(id)
    }

    /// The next frame, or as much of it as has come.
    pub(crate) fn frame(&mut self) -> Result<Frame> {
        loop {
            let Part { head, left } = match self.part.take() {
                Some(part) => part,
                None => {
                    if self.socket.fill_buf()?.is_empty() {
                        return Ok(Frame::Closed);
                    }
                    let mut head = [0; 8];
                    self.socket.read_exact(&mut head)?;
                    let left = u32::from_be_bytes([0, head[5], head[6], head[7]]);
                    Part { head, left: usize::try_from(left)? }
                }
            };
            let length = if left == 0 { 0 } else { self.socket.fill_buf()?.len().min(left) };
            if left > 0 && length == 0 {
                return Ok(Frame::Closed);
            }
            self.socket.consume(length);
            if length < left {
                self.part = Some(Part { head, left: left - length });
            }
            if head[0] & 0x80 == 0 {
                let id = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
                let fin = length == left && head[4] & FIN != 0;
                return Ok(Frame::Data { id, length: u64::try_from(length)?, fin });
            }
            if length == left {
                return Ok(Frame::Other);
            }
        }
    }

    /// The connection, which ends the session when it is dropped.
    pub(crate) fn into_socket(self) -> TcpStream {
        self.socket.into_inner()
    }
}
