//! The frames of SPDY/3.1: bytes to frames and back. Drawn in section 2.2 of the draft.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes of a control frame at most. The largest that is of use carries a header block of
/// [`super::header::BLOCK_BYTES_MAX`], which compression can only make a little longer.
pub(super) const CONTROL_BYTES_MAX: usize = 128 << 10;

/// Bytes of the head of each frame.
pub(in super::super) const HEAD_BYTES: usize = 8;

const VERSION: u16 = 3;
const FIN: u8 = 1;
const STREAM_ID: u32 = 0x7fff_ffff;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

/// Why a stream is reset (section 2.6.3).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Reset {
    InvalidStream = 2,
    RefusedStream = 3,
    Cancel = 5,
    StreamAlreadyClosed = 9,
}

/// Why a session ends (section 2.6.6).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum GoAway {
    Ok = 0,
    ProtocolError = 1,
}

/// A peer that does not speak SPDY/3.1, or exceeds a limit: the session cannot go on.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum Violation {
    #[error("a control frame of version {0} instead of 3")]
    Version(u16),
    #[error("a control frame of {0} bytes, more than {CONTROL_BYTES_MAX}")]
    ControlTooLarge(usize),
    #[error("a {0} frame of {1} bytes")]
    Length(&'static str, usize),
    #[error("stream {id} was opened after stream {last}")]
    StreamOrder { id: u32, last: u32 },
    #[error("stream {0} cannot be opened by a client, whose streams have odd numbers")]
    StreamParity(u32),
    #[error("a header block that is not compressed with the dictionary of SPDY/3")]
    Compression,
    #[error("a header block of more than {} bytes", super::header::BLOCK_BYTES_MAX)]
    HeadersTooLarge,
    #[error("a header block that is cut or has more than it says")]
    HeadersCut,
    #[error("{0} headers, more than {max}", max = super::header::HEADERS_MAX)]
    TooManyHeaders(u32),
    #[error("a header whose name or value is not UTF-8, or which is repeated")]
    BadHeader,
}

/// A frame, or a piece of one: data comes in pieces as it arrives, however long its frame is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Piece {
    SynStream {
        id: u32,
        fin: bool,
        block: Bytes,
    },
    /// SYN_REPLY or HEADERS.
    Headers {
        id: u32,
        fin: bool,
        block: Bytes,
    },
    Reset {
        id: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
    /// `fin` comes with the last piece of a frame that has it.
    Data {
        id: u32,
        bytes: Bytes,
        fin: bool,
    },
}

/// A data frame whose end has not come yet.
#[derive(Clone, Copy, Debug)]
struct OpenData {
    id: u32,
    left: usize,
    fin: bool,
}

/// Bytes to pieces.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    data: Option<OpenData>,
}

impl Decoder {
    /// The next piece in `input`, whose bytes are taken away; `None`: more bytes are needed. What does not concern
    /// a server (SETTINGS, WINDOW_UPDATE, CREDENTIAL, frames of unknown types) is passed over.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Result<Option<Piece>, Violation> {
        loop {
            if let Some(data) = self.data.take() {
                return Ok(self.continue_data(data, input));
            }
            let Some((&head, _)) = input.split_first_chunk::<HEAD_BYTES>() else { return Ok(None) };
            let [a, b, c, d, flags, length @ ..] = head;
            let length = usize::try_from(u32::from_be_bytes([0, length[0], length[1], length[2]]))
                .unwrap_or(usize::MAX);
            if a & 0x80 == 0 {
                input.advance(HEAD_BYTES);
                let id = u32::from_be_bytes([a, b, c, d]);
                self.data = Some(OpenData { id, left: length, fin: flags & FIN != 0 });
                continue;
            }
            let version = u16::from_be_bytes([a & 0x7f, b]);
            if version != VERSION {
                return Err(Violation::Version(version));
            }
            if length > CONTROL_BYTES_MAX {
                return Err(Violation::ControlTooLarge(length));
            }
            if input.len() < HEAD_BYTES + length {
                return Ok(None);
            }
            input.advance(HEAD_BYTES);
            let body = input.split_to(length).freeze();
            if let Some(piece) = control(u16::from_be_bytes([c, d]), flags & FIN != 0, body)? {
                return Ok(Some(piece));
            }
        }
    }

    fn continue_data(&mut self, data: OpenData, input: &mut BytesMut) -> Option<Piece> {
        let OpenData { id, left, fin } = data;
        if left > 0 && input.is_empty() {
            self.data = Some(data);
            return None;
        }
        let bytes = input.split_to(left.min(input.len())).freeze();
        let left = left - bytes.len();
        if left > 0 {
            self.data = Some(OpenData { id, left, fin });
        }
        Some(Piece::Data { id, bytes, fin: fin && left == 0 })
    }
}

fn control(kind: u16, fin: bool, mut body: Bytes) -> Result<Option<Piece>, Violation> {
    let length = body.len();
    let exactly = |name, bytes| if length == bytes { Ok(()) } else { Err(Violation::Length(name, length)) };
    let at_least = |name, bytes| if length >= bytes { Ok(()) } else { Err(Violation::Length(name, length)) };
    Ok(Some(match kind {
        SYN_STREAM => {
            at_least("SYN_STREAM", 10)?;
            let id = body.get_u32() & STREAM_ID;
            // The stream that this one belongs to, its priority and its certificate: none of use here.
            body.advance(6);
            Piece::SynStream { id, fin, block: body }
        }
        SYN_REPLY | HEADERS => {
            at_least(if kind == HEADERS { "HEADERS" } else { "SYN_REPLY" }, 4)?;
            Piece::Headers { id: body.get_u32() & STREAM_ID, fin, block: body }
        }
        RST_STREAM => {
            exactly("RST_STREAM", 8)?;
            Piece::Reset { id: body.get_u32() & STREAM_ID }
        }
        PING => {
            exactly("PING", 4)?;
            Piece::Ping { id: body.get_u32() }
        }
        GOAWAY => {
            exactly("GOAWAY", 8)?;
            Piece::GoAway
        }
        _ => return Ok(None),
    }))
}

fn put_control(out: &mut BytesMut, kind: u16, body: &[&[u8]]) {
    let length: usize = body.iter().map(|part| part.len()).sum();
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    // No flags: this side half-closes with data frames only. What it sends is far below 2^24 bytes.
    out.put_u32(u32::try_from(length).unwrap_or_default());
    body.iter().for_each(|part| out.put_slice(part));
}

pub(super) fn put_reply(out: &mut BytesMut, id: u32, block: &[u8]) {
    put_control(out, SYN_REPLY, &[&id.to_be_bytes(), block]);
}

pub(super) fn put_reset(out: &mut BytesMut, id: u32, status: Reset) {
    put_control(out, RST_STREAM, &[&id.to_be_bytes(), &(status as u32).to_be_bytes()]);
}

pub(super) fn put_ping(out: &mut BytesMut, id: u32) {
    put_control(out, PING, &[&id.to_be_bytes()]);
}

pub(super) fn put_goaway(out: &mut BytesMut, last: u32, status: GoAway) {
    put_control(out, GOAWAY, &[&last.to_be_bytes(), &(status as u32).to_be_bytes()]);
}

/// The head of a data frame of `length` bytes, which must be less than 2^24.
pub(super) fn data_head(id: u32, length: usize, fin: bool) -> [u8; HEAD_BYTES] {
    let [a, b, c, d] = (id & STREAM_ID).to_be_bytes();
    let [_, e, f, g] = u32::try_from(length).unwrap_or_default().to_be_bytes();
    [a, b, c, d, if fin { FIN } else { 0 }, e, f, g]
}

#[cfg(test)]
pub(super) mod testclient {
    //! The frames that only a client sends.

    use super::*;

    pub(in super::super) fn syn_stream(id: u32, fin: bool, block: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        put_control(&mut out, SYN_STREAM, &[&id.to_be_bytes(), &[0; 6], block]);
        out[4] = if fin { FIN } else { 0 };
        out.to_vec()
    }

    pub(in super::super) fn data(id: u32, bytes: &[u8], fin: bool) -> Vec<u8> {
        [&data_head(id, bytes.len(), fin)[..], bytes].concat()
    }

    pub(in super::super) fn control(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        put_control(&mut out, kind, &[body]);
        out.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{testclient as client, *};

    fn pieces(chunks: &[&[u8]]) -> Result<Vec<Piece>, Violation> {
        let (mut decoder, mut input, mut pieces) = (Decoder::default(), BytesMut::new(), Vec::new());
        for chunk in chunks {
            input.extend_from_slice(chunk);
            while let Some(piece) = decoder.next(&mut input)? {
                pieces.push(piece);
            }
        }
        Ok(pieces)
    }

    #[test]
    fn each_kind_of_frame_is_read_and_what_is_of_no_use_is_passed_over() {
        let settings = client::control(4, &[0; 12]);
        let window = client::control(9, &[0; 8]);
        let reset = client::control(3, &[0, 0, 0, 3, 0, 0, 0, 5]);
        let all = [
            settings,
            client::syn_stream(1, false, b"block"),
            window,
            client::data(1, b"hello", true),
            client::control(6, &[0, 0, 0, 7]),
            reset,
            client::control(99, b"unknown"),
            client::control(8, &[0, 0, 0, 1, 9, 9]),
            client::control(7, &[0; 8]),
        ];
        assert_eq!(
            pieces(&[&all.concat()]).unwrap(),
            [
                Piece::SynStream { id: 1, fin: false, block: Bytes::from_static(b"block") },
                Piece::Data { id: 1, bytes: Bytes::from_static(b"hello"), fin: true },
                Piece::Ping { id: 7 },
                Piece::Reset { id: 3 },
                Piece::Headers { id: 1, fin: false, block: Bytes::from_static(&[9, 9]) },
                Piece::GoAway,
            ]
        );
    }

    #[test]
    fn the_largest_data_frame_is_handed_on_as_it_comes() {
        let mut decoder = Decoder::default();
        let mut input = BytesMut::from(&data_head(5, (1 << 24) - 1, true)[..]);
        assert_eq!(decoder.next(&mut input).unwrap(), None);
        let mut seen = 0;
        while seen < (1 << 24) - 1 {
            let length = ((1 << 24) - 1 - seen).min(60_000);
            input.extend_from_slice(&vec![0; length]);
            let Some(Piece::Data { id: 5, bytes, fin }) = decoder.next(&mut input).unwrap() else { panic!() };
            assert_eq!(bytes.len(), length);
            seen += length;
            assert_eq!(fin, seen == (1 << 24) - 1);
            assert!(input.is_empty());
        }
    }

    #[test]
    fn frames_that_cannot_be_are_refused_with_their_reason() {
        let mut huge = client::syn_stream(1, false, b"");
        huge[5..8].copy_from_slice(&[0xff; 3]);
        let mut old = client::syn_stream(1, false, b"");
        old[1] = 2;
        for (bytes, reason) in [
            (huge, "a control frame of 16777215 bytes, more than 131072"),
            (old, "a control frame of version 2 instead of 3"),
            (client::control(1, &[0; 9]), "a SYN_STREAM frame of 9 bytes"),
            (client::control(2, &[0; 3]), "a SYN_REPLY frame of 3 bytes"),
            (client::control(3, &[0; 7]), "a RST_STREAM frame of 7 bytes"),
            (client::control(6, &[0; 5]), "a PING frame of 5 bytes"),
            (client::control(7, &[0; 4]), "a GOAWAY frame of 4 bytes"),
            (client::control(8, &[]), "a HEADERS frame of 0 bytes"),
        ] {
            assert_eq!(pieces(&[&bytes]).unwrap_err().to_string(), reason);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let _ = pieces(&[&bytes]);
        }

        #[test]
        fn where_the_bytes_are_cut_makes_no_difference(
            frames in proptest::collection::vec((1_u32..9, proptest::collection::vec(any::<u8>(), 0..300), any::<bool>()), 1..8),
            cut in 1_usize..50,
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(|(id, bytes, fin)| client::data(*id, bytes, *fin)).collect();
            let chunks: Vec<&[u8]> = bytes.chunks(cut).collect();
            let mut joined: Vec<(u32, Vec<u8>, bool)> = Vec::new();
            let mut open = false;
            for piece in pieces(&chunks).unwrap() {
                let Piece::Data { id, bytes, fin } = piece else { panic!("not data") };
                match joined.last_mut() {
                    Some((last, sum, ended)) if open && *last == id && !*ended => {
                        sum.extend(&bytes);
                        *ended = fin;
                    }
                    _ => joined.push((id, bytes.to_vec(), fin)),
                }
                open = !fin;
            }
            // Frames without FIN of the same stream flow into each other.
            let mut expected: Vec<(u32, Vec<u8>, bool)> = Vec::new();
            for (id, bytes, fin) in frames {
                match expected.last_mut() {
                    Some((last, sum, ended)) if *last == id && !*ended => {
                        sum.extend(bytes);
                        *ended = fin;
                    }
                    _ => expected.push((id, bytes, fin)),
                }
            }
            prop_assert_eq!(joined, expected);
        }
    }
}
