//! A client for tests: it opens streams as client-go does.

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{
    frame::{HEAD_BYTES, testclient as frames},
    header::testclient::Compressor,
};
use crate::streaming::server::{Duplex, Socket};

/// A frame of the server.
#[derive(Debug, Eq, PartialEq)]
pub(in super::super) enum Frame {
    Data { id: u32, bytes: Vec<u8>, fin: bool },
    Control { kind: u16, body: Vec<u8> },
    Closed,
}

pub(in super::super) struct Client {
    socket: Socket,
    compressor: Compressor,
    input: BytesMut,
    next: u32,
}

impl Client {
    pub(in super::super) fn new(socket: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let socket: Box<dyn Duplex> = Box::new(socket);
        Self { socket, compressor: Compressor::new(), input: BytesMut::new(), next: 1 }
    }

    pub(in super::super) async fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
    }

    /// Opens a stream; gives its number.
    pub(in super::super) async fn open(&mut self, headers: &[(&str, &str)]) -> u32 {
        let id = self.next;
        self.next += 2;
        let frame = frames::syn_stream(id, false, &self.compressor.block(headers));
        self.send(&frame).await;
        id
    }

    pub(in super::super) async fn data(&mut self, id: u32, bytes: &[u8], fin: bool) {
        self.send(&frames::data(id, bytes, fin)).await;
    }

    pub(in super::super) async fn frame(&mut self) -> Frame {
        loop {
            if let Some((&head, _)) = self.input.split_first_chunk::<HEAD_BYTES>() {
                let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
                if self.input.len() >= HEAD_BYTES + length {
                    self.input.advance(HEAD_BYTES);
                    let body = self.input.split_to(length).to_vec();
                    if head[0] & 0x80 != 0 {
                        return Frame::Control { kind: u16::from_be_bytes([head[2], head[3]]), body };
                    }
                    let id = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
                    return Frame::Data { id, bytes: body, fin: head[4] & 1 != 0 };
                }
            }
            if self.socket.read_buf(&mut self.input).await.unwrap_or(0) == 0 {
                return Frame::Closed;
            }
        }
    }
}
