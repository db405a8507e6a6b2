//! A client of SPDY/3.1 that says what a test wants, right or wrong.

/// The server's own copy: a test must not disagree with it about a text of 1,423 bytes.
#[path = "../../../src/streaming/spdy/dictionary.rs"]
#[allow(dead_code, unused_imports, reason = "the server needs more of it, and has its tests there")]
mod dictionary;

use std::{
    io::{self, Read as _, Write as _},
    net::TcpStream,
};

use flate2::{Compress, Compression, FlushCompress};

use super::{node::Node, upgrade::request};

/// Types of control frames.
pub(crate) const SYN_STREAM: u16 = 1;
pub(crate) const SYN_REPLY: u16 = 2;
pub(crate) const RST_STREAM: u16 = 3;
pub(crate) const PING: u16 = 6;
pub(crate) const GOAWAY: u16 = 7;

/// The flag of a frame after which its sender sends no more on that stream.
const FIN: u8 = 1;

/// A frame of the server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Frame {
    Data { id: u32, bytes: Vec<u8>, fin: bool },
    Control { kind: u16, body: Vec<u8> },
    Closed,
}

/// What compresses the headers of all streams of a session.
#[derive(Debug)]
pub(crate) struct Compressor(Compress);

impl Default for Compressor {
    fn default() -> Self {
        Self::with(&dictionary::BYTES)
    }
}

impl Compressor {
    pub(crate) fn with(dictionary: &[u8]) -> Self {
        let mut compress = Compress::new(Compression::default(), true);
        compress.set_dictionary(dictionary).unwrap();
        Self(compress)
    }

    pub(crate) fn block(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
        self.raw(&plain(headers))
    }

    pub(crate) fn raw(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(plain.len() + 1024);
        self.0.compress_vec(plain, &mut out, FlushCompress::Sync).unwrap();
        out
    }
}

/// A header block before it is compressed.
pub(crate) fn plain(headers: &[(&str, &str)]) -> Vec<u8> {
    let number = |number: usize| u32::try_from(number).unwrap().to_be_bytes();
    let texts = headers.iter().flat_map(|(name, value)| [name, value]);
    let texts = texts.flat_map(|text| [&number(text.len())[..], text.as_bytes()].concat());
    number(headers.len()).into_iter().chain(texts).collect()
}

pub(crate) fn control(kind: u16, flags: u8, body: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[0x80, 3], &kind.to_be_bytes()[..], &[flags], &length, body].concat()
}

pub(crate) fn syn_stream(id: u32, block: &[u8]) -> Vec<u8> {
    control(SYN_STREAM, 0, &[&id.to_be_bytes()[..], &[0; 6], block].concat())
}

pub(crate) fn data_frame(id: u32, bytes: &[u8], fin: bool) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    [&id.to_be_bytes()[..], &[if fin { FIN } else { 0 }], &length, bytes].concat()
}

/// A session with a server.
#[derive(Debug)]
pub(crate) struct Spdy {
    stream: TcpStream,
    pub(crate) compressor: Compressor,
    next: u32,
}

impl Spdy {
    /// A session at `url` in that version of its protocol.
    #[track_caller]
    pub(crate) fn open(node: &Node, url: &str, version: &str) -> Self {
        let version_line = format!("X-Stream-Protocol-Version: {version}");
        let lines = ["Connection: Upgrade", "Upgrade: SPDY/3.1", &version_line];
        let answer = request(node, "POST", url, &lines);
        assert_eq!(answer.status, "101 Switching Protocols", "{:?}", answer.headers);
        assert_eq!(answer.header("x-stream-protocol-version"), [version]);
        Self { stream: answer.stream, compressor: Compressor::default(), next: 1 }
    }

    /// Another handle of the connection.
    pub(crate) fn socket(&self) -> TcpStream {
        self.stream.try_clone().unwrap()
    }

    /// Sends bytes that may be no frames. A server that has closed is none of the caller's business yet.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Opens a stream; gives its number.
    pub(crate) fn start(&mut self, headers: &[(&str, &str)]) -> u32 {
        let id = self.next;
        self.next += 2;
        let frame = syn_stream(id, &self.compressor.block(headers));
        self.send(&frame);
        id
    }

    pub(crate) fn data(&mut self, id: u32, bytes: &[u8], fin: bool) {
        self.send(&data_frame(id, bytes, fin));
    }

    /// Opens the streams of one forwarded connection: (error, data).
    pub(crate) fn forward(&mut self, port: &str, request: usize) -> (u32, u32) {
        let request = request.to_string();
        let headers = |kind| [("streamtype", kind), ("port", port), ("requestid", request.as_str())];
        let error = self.start(&headers("error"));
        self.data(error, b"", true);
        (error, self.start(&headers("data")))
    }

    pub(crate) fn frame(&mut self) -> Frame {
        self.read().unwrap_or(Frame::Closed)
    }

    fn read(&mut self) -> io::Result<Frame> {
        let mut head = [0; 8];
        self.stream.read_exact(&mut head)?;
        let [a, b, c, d, flags, length @ ..] = head;
        let mut body = vec![0; u32::from_be_bytes([0, length[0], length[1], length[2]]) as usize];
        self.stream.read_exact(&mut body)?;
        if a & 0x80 != 0 {
            return Ok(Frame::Control { kind: u16::from_be_bytes([c, d]), body });
        }
        Ok(Frame::Data { id: u32::from_be_bytes([a, b, c, d]), bytes: body, fin: flags & FIN != 0 })
    }
}
