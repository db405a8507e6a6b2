//! Makes the `:authority` of a client's requests one that our HTTP/2 library accepts, in the bytes of its
//! connection.
//!
//! On a unix socket there is no host to name. gRPC's C core (Python, C++, Ruby, PHP) and its Java send the path of
//! the socket, escaped or not; Go sends `localhost`. h2 calls a path malformed and resets the stream
//! (hyperium/h2#487), and has no setting for it. Nobody here reads `:authority`, so the value does not matter.
//!
//! [`Rewriter`] reads the frames of a connection (RFC 9113) and, in the header blocks of HEADERS and CONTINUATION,
//! the fields (RFC 7541). A literal named `:authority`, by its entry of the static table as Java does or spelled out
//! as the C core does, whose value h2 would refuse gets another value of the same length, a valid host. An entry of
//! the dynamic table counts by the length of its name and value as decoded, so the tables of client and server
//! stay equal. A literal that takes its name from the dynamic table is not looked at: the static one has it.
//!
//! Invariant: pure. Bytes in, bytes out; how they are cut into pieces makes no difference.
//! Invariant: bytes that need no change, or are not understood, are passed on as they came: h2 judges them.
//! Invariant: what is passed on is never more than what came.

use http::uri::Authority;

/// What an HTTP/2 client says first (RFC 9113 section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a frame's head (RFC 9113 section 4.1).
const HEAD_BYTES: usize = 9;

/// Largest payload of a frame unless the server allows more, which ours does not (RFC 9113 section 4.2).
const PAYLOAD_BYTES_MAX: usize = 16_384;

/// Bytes of the frames of one header block that are held until all of it is here. h2 refuses headers of more than
/// 16 KiB; a block that is longer is passed on unread.
const BLOCK_BYTES_MAX: usize = 32 << 10;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;

const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Bytes of a HEADERS frame's priority.
const PRIORITY_BYTES: usize = 5;

const AUTHORITY: &[u8] = b":authority";

/// Where HPACK's static table has it (RFC 7541 appendix A).
const AUTHORITY_INDEX: usize = 1;

/// One direction of a connection, from the client's first byte on.
#[derive(Debug)]
pub(super) struct Rewriter {
    state: State,
    /// The frame or header block that is being gathered.
    held: Vec<u8>,
    /// Where in `held` the last frame begins.
    last: usize,
}

#[derive(Debug)]
enum State {
    /// So many bytes of [`PREFACE`] have come.
    Preface(usize),
    /// The next frame's head is awaited, or the rest of a HEADERS or CONTINUATION frame.
    Gathering,
    /// So many bytes of a frame are still to come that is none of ours.
    Passing(usize),
    /// This is not HTTP/2.
    Foreign,
}

impl Default for Rewriter {
    fn default() -> Self {
        Self { state: State::Preface(0), held: Vec::new(), last: 0 }
    }
}

impl Rewriter {
    /// Takes what came from the client and appends what the server shall read. Some of it may be held until more
    /// comes.
    pub(super) fn feed(&mut self, mut input: &[u8], output: &mut Vec<u8>) {
        while !input.is_empty() {
            let taken = match self.state {
                State::Preface(seen) => {
                    let taken = input.len().min(PREFACE.len() - seen);
                    self.state = match &PREFACE[seen..seen + taken] {
                        expected if *expected != input[..taken] => State::Foreign,
                        _ if seen + taken == PREFACE.len() => State::Gathering,
                        _ => State::Preface(seen + taken),
                    };
                    output.extend_from_slice(&input[..taken]);
                    taken
                }
                State::Gathering => self.gather(input, output),
                State::Passing(left) => {
                    let taken = input.len().min(left);
                    output.extend_from_slice(&input[..taken]);
                    self.state = passing(left - taken);
                    taken
                }
                State::Foreign => {
                    output.extend_from_slice(input);
                    input.len()
                }
            };
            input = &input[taken..];
        }
    }

    /// The client sends no more: appends what was held.
    pub(super) fn finish(&mut self, output: &mut Vec<u8>) {
        self.release(output);
    }

    /// Takes the rest of a frame's head, or of its payload; how many bytes those were.
    fn gather(&mut self, input: &[u8], output: &mut Vec<u8>) -> usize {
        let have = self.held.len() - self.last;
        let head = Head::of(&self.held[self.last..]);
        let wanted = head.map_or(HEAD_BYTES, |head| HEAD_BYTES + head.length);
        let taken = input.len().min(wanted - have);
        self.held.extend_from_slice(&input[..taken]);
        let Some(head) = Head::of(&self.held[self.last..]) else { return taken };
        if have < HEAD_BYTES && !self.wants(head) {
            self.release(output);
            self.state = passing(head.length);
        } else if self.held.len() - self.last == HEAD_BYTES + head.length {
            if head.flags & END_HEADERS == 0 {
                self.last = self.held.len();
            } else {
                if let Some(frames) = rewrite_frames(&self.held) {
                    self.held = frames;
                }
                self.release(output);
            }
        }
        taken
    }

    /// Whether the frame that begins belongs to a header block that can be read.
    fn wants(&self, head: Head) -> bool {
        let first = Head::of(&self.held).filter(|_| self.last > 0);
        let belongs = match first {
            None => head.kind == HEADERS,
            Some(first) => head.kind == CONTINUATION && head.stream == first.stream,
        };
        belongs && head.length <= PAYLOAD_BYTES_MAX && self.held.len() + head.length <= BLOCK_BYTES_MAX
    }

    fn release(&mut self, output: &mut Vec<u8>) {
        output.extend_from_slice(&self.held);
        // Most connections never need it again as large as their first headers.
        self.held = Vec::new();
        self.last = 0;
    }
}

fn passing(left: usize) -> State {
    if left == 0 { State::Gathering } else { State::Passing(left) }
}

/// A frame's head.
#[derive(Clone, Copy, Debug)]
struct Head {
    /// Of the payload.
    length: usize,
    kind: u8,
    flags: u8,
    stream: [u8; 4],
}

impl Head {
    /// `None` while it is not whole.
    fn of(bytes: &[u8]) -> Option<Self> {
        let &[a, b, c, kind, flags, s0, s1, s2, s3] = bytes.first_chunk::<HEAD_BYTES>()?;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        Some(Self { length, kind, flags, stream: [s0, s1, s2, s3] })
    }

    fn put(&self, output: &mut Vec<u8>) {
        // A payload has 2^24 bytes at most.
        let [.., a, b, c] = self.length.to_be_bytes();
        output.extend_from_slice(&[a, b, c, self.kind, self.flags]);
        output.extend_from_slice(&self.stream);
    }
}

/// The frames of a whole header block, with an acceptable `:authority`. `None`: they are to stay as they are.
fn rewrite_frames(frames: &[u8]) -> Option<Vec<u8>> {
    let first = Head::of(frames)?;
    let (mut rest, mut block, mut priority) = (frames, Vec::with_capacity(frames.len()), &[][..]);
    while let Some(head) = Head::of(rest) {
        let mut payload = rest.get(HEAD_BYTES..HEAD_BYTES + head.length)?;
        rest = &rest[HEAD_BYTES + head.length..];
        if head.kind == HEADERS {
            if head.flags & PADDED != 0 {
                let (&padding, padded) = payload.split_first()?;
                payload = &padded[..padded.len().checked_sub(padding.into())?];
            }
            if head.flags & PRIORITY != 0 {
                (priority, payload) = payload.split_at_checked(PRIORITY_BYTES)?;
            }
        }
        block.extend_from_slice(payload);
    }
    let block = rewrite_block(&block)?;

    let mut output = Vec::with_capacity(frames.len());
    let mut payloads = Payloads { priority, block: &block };
    let (mut kind, mut flags) = (HEADERS, first.flags & !(PADDED | END_HEADERS));
    loop {
        let (priority, part) = payloads.next();
        if payloads.block.is_empty() {
            flags |= END_HEADERS;
        }
        Head { length: priority.len() + part.len(), kind, flags, stream: first.stream }.put(&mut output);
        output.extend_from_slice(priority);
        output.extend_from_slice(part);
        if payloads.block.is_empty() {
            return Some(output);
        }
        (kind, flags) = (CONTINUATION, 0);
    }
}

/// A header block, to be cut into as few frames as it needs.
struct Payloads<'a> {
    priority: &'a [u8],
    block: &'a [u8],
}

impl<'a> Payloads<'a> {
    /// The next frame's priority, if it has one, and part of the block.
    fn next(&mut self) -> (&'a [u8], &'a [u8]) {
        let priority = std::mem::take(&mut self.priority);
        let (part, rest) = self.block.split_at(self.block.len().min(PAYLOAD_BYTES_MAX - priority.len()));
        self.block = rest;
        (priority, part)
    }
}

/// A header block with an acceptable `:authority`. `None`: it has one, or none, or is not understood.
fn rewrite_block(block: &[u8]) -> Option<Vec<u8>> {
    let mut fields = Fields { block, at: 0 };
    let (mut output, mut copied) = (Vec::new(), 0);
    while fields.at < block.len() {
        let Some(authority) = fields.next()? else { continue };
        let value = authority.decode()?;
        // There is no host of no length.
        if value.is_empty() || Authority::try_from(value.as_slice()).is_ok() {
            continue;
        }
        output.extend_from_slice(&block[copied..authority.start]);
        put_host(value.len(), &mut output);
        copied = fields.at;
    }
    if copied == 0 {
        return None;
    }
    output.extend_from_slice(&block[copied..]);
    Some(output)
}

/// Reads the fields of a header block (RFC 7541 section 6).
struct Fields<'a> {
    block: &'a [u8],
    at: usize,
}

/// A string as it stands in a header block (RFC 7541 section 5.2).
struct Text<'a> {
    /// Where its length begins.
    start: usize,
    huffman: bool,
    bytes: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Passes one field; the value of `:authority`, if that is what it is. The outer `None`: it is malformed.
    fn next(&mut self) -> Option<Option<Text<'a>>> {
        let first = *self.block.get(self.at)?;
        let prefix_bits = match first {
            0x80.. => 7,      // an entry of the tables
            0x40..=0x7f => 6, // a literal that becomes an entry
            0x20..=0x3f => 5, // a new size of the dynamic table
            0x00..=0x1f => 4, // a literal that does not, or must not, become one
        };
        let index = self.integer(prefix_bits)?;
        if prefix_bits == 7 || prefix_bits == 5 {
            return Some(None);
        }
        let named = match index {
            0 => self.text()?.decode()? == AUTHORITY,
            index => index == AUTHORITY_INDEX,
        };
        let value = self.text()?;
        Some(named.then_some(value))
    }

    fn text(&mut self) -> Option<Text<'a>> {
        let start = self.at;
        let huffman = self.block.get(start)? & 0x80 != 0;
        let length = self.integer(7)?;
        let bytes = self.block.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(Text { start, huffman, bytes })
    }

    /// RFC 7541 section 5.1. More than fits into 28 bits beside the prefix is longer than any block.
    fn integer(&mut self, prefix_bits: u32) -> Option<usize> {
        let mask = (1 << prefix_bits) - 1;
        let mut value = usize::from(self.byte()?) & mask;
        if value < mask {
            return Some(value);
        }
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.block.get(self.at)?;
        self.at += 1;
        Some(byte)
    }
}

impl Text<'_> {
    fn decode(&self) -> Option<Vec<u8>> {
        if self.huffman { huffman::decode(self.bytes) } else { Some(self.bytes.into()) }
    }
}

/// Appends the string `aaa…`, a valid host, Huffman-coded: in five bits each, so that no string of as many
/// characters is shorter.
fn put_host(length: usize, output: &mut Vec<u8>) {
    /// Eight times the code of `a`, 00011.
    const EIGHT: [u8; 5] = [0x18, 0xc6, 0x31, 0x8c, 0x63];
    let bits = length * 5;
    let bytes = bits.div_ceil(8);
    put_length(bytes, output);
    output.extend(EIGHT.iter().cycle().take(bytes));
    // Padding is ones.
    if let Some(last) = output.last_mut() {
        *last |= (1 << (bytes * 8 - bits)) - 1;
    }
}

/// The length of a Huffman-coded string.
fn put_length(length: usize, output: &mut Vec<u8>) {
    const MASK: usize = 0x7f;
    let low = |value: usize| value.to_le_bytes()[0] & 0x7f;
    if length < MASK {
        output.push(0x80 | low(length));
        return;
    }
    output.push(0xff);
    let mut rest = length - MASK;
    while rest > MASK {
        output.push(0x80 | low(rest));
        rest >>= 7;
    }
    output.push(low(rest));
}

/// HPACK's Huffman code. It is canonical: the lengths of the codes are the whole of it.
mod huffman {
    /// Bits of the longest code.
    const BITS_MAX: usize = 30;

    /// Ends a string; never sent.
    const END: usize = 256;

    /// Bits of the code of each byte, and of [`END`] (RFC 7541 appendix B).
    #[rustfmt::skip]
    const BITS: [u8; 257] = [
        13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
        28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
        6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
        5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
        13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
        7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
        15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
        6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
        20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
        24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
        22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
        21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
        26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
        19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
        20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
        26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
        30,
    ];

    /// Codes of one length follow each other, in order of their bytes.
    struct Codes {
        /// The first code of each length.
        first: [u32; BITS_MAX + 1],
        /// How many codes of each length there are.
        count: [u32; BITS_MAX + 1],
        /// Where the bytes of each length begin in `bytes`.
        start: [usize; BITS_MAX + 1],
        /// Bytes and [`END`], shortest codes first.
        symbols: [u16; 257],
    }

    static CODES: Codes = codes();

    const fn codes() -> Codes {
        let (mut first, mut count, mut start) = ([0; BITS_MAX + 1], [0; BITS_MAX + 1], [0; BITS_MAX + 1]);
        let (mut symbols, mut placed, mut code, mut bits) = ([0; 257], 0, 0, 1);
        while bits <= BITS_MAX {
            (first[bits], start[bits]) = (code, placed);
            let mut symbol: u16 = 0;
            while symbol as usize <= END {
                if BITS[symbol as usize] as usize == bits {
                    symbols[placed] = symbol;
                    placed += 1;
                    count[bits] += 1;
                }
                symbol += 1;
            }
            code = (code + count[bits]) << 1;
            bits += 1;
        }
        Codes { first, count, start, symbols }
    }

    /// `None` if this is no such string.
    pub(super) fn decode(coded: &[u8]) -> Option<Vec<u8>> {
        let mut decoded = Vec::with_capacity(coded.len() * 8 / 5);
        let (mut code, mut bits) = (0_u32, 0);
        for byte in coded {
            for place in (0..8).rev() {
                code = code << 1 | u32::from(byte >> place & 1);
                bits += 1;
                if bits > BITS_MAX {
                    return None;
                }
                let nth = code.wrapping_sub(CODES.first[bits]);
                if nth < CODES.count[bits] {
                    let symbol = CODES.symbols[CODES.start[bits] + nth as usize];
                    decoded.push(u8::try_from(symbol).ok()?);
                    (code, bits) = (0, 0);
                }
            }
        }
        // Padding is less than a byte of ones.
        (bits < 8 && code == (1 << bits) - 1).then_some(decoded)
    }

    #[cfg(test)]
    pub(super) fn encode(text: &[u8]) -> Vec<u8> {
        let (mut bits, mut coded) = (String::new(), Vec::new());
        for byte in text {
            let length = usize::from(BITS[usize::from(*byte)]);
            let nth = (0..*byte).filter(|other| usize::from(BITS[usize::from(*other)]) == length).count();
            let code = CODES.first[length] + u32::try_from(nth).unwrap();
            bits.push_str(&format!("{code:0length$b}"));
        }
        while bits.len() % 8 != 0 {
            bits.push('1');
        }
        for byte in bits.as_bytes().chunks(8) {
            coded.push(u8::from_str_radix(std::str::from_utf8(byte).unwrap(), 2).unwrap());
        }
        coded
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATH: &str = "/run/pintle/pintle.sock";
    const ESCAPED: &str = "%2Frun%2Fpintle%2Fpintle.sock";

    /// A string in a header block; shorter than 127 bytes.
    fn text(text: &str, huffman: bool) -> Vec<u8> {
        let bytes = if huffman { huffman::encode(text.as_bytes()) } else { text.into() };
        let flag = if huffman { 0x80 } else { 0 };
        [&[flag | u8::try_from(bytes.len()).unwrap()], bytes.as_slice()].concat()
    }

    /// The field `:authority`; `form` is 0x40 (becomes an entry), 0x00 (does not) or 0x10 (must not).
    fn authority(form: u8, value: &str, huffman: bool) -> Vec<u8> {
        [&[form | 1], text(value, huffman).as_slice()].concat()
    }

    /// The same with its name spelled out.
    fn spelled(form: u8, name_huffman: bool, value: &str, huffman: bool) -> Vec<u8> {
        [vec![form], text(":authority", name_huffman), text(value, huffman)].concat()
    }

    /// POST, http, a path by the name's index, and a header whose name is spelled out.
    fn others() -> Vec<u8> {
        [
            &[0x83, 0x86, 0x44],
            text("/a.B/C", true).as_slice(),
            &[0x40],
            &text("x-a", false),
            &text("1", false),
        ]
        .concat()
    }

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let head = Head { length: payload.len(), kind, flags, stream: [0, 0, 0, 1] };
        let mut frame = Vec::new();
        head.put(&mut frame);
        [frame, payload.into()].concat()
    }

    /// What follows and precedes headers on a connection: SETTINGS, and DATA that looks like a HEADERS frame.
    fn connection(headers: &[Vec<u8>]) -> Vec<u8> {
        let data = frame(0, 1, &frame(HEADERS, END_HEADERS, &authority(0x40, PATH, false)));
        [PREFACE.to_vec(), frame(4, 0, &[0, 3, 0, 0, 0, 9]), headers.concat(), data].concat()
    }

    fn pass(pieces: &[&[u8]]) -> Vec<u8> {
        let (mut rewriter, mut output) = (Rewriter::default(), Vec::new());
        pieces.iter().for_each(|piece| rewriter.feed(piece, &mut output));
        rewriter.finish(&mut output);
        output
    }

    /// The same however it is cut in two, and byte by byte.
    #[track_caller]
    fn check(input: &[u8], expected: &[u8]) {
        assert_eq!(pass(&[input]), expected);
        for at in 0..=input.len() {
            let (one, two) = input.split_at(at);
            assert_eq!(pass(&[one, two]), expected, "cut at {at}");
        }
        let bytes: Vec<&[u8]> = input.chunks(1).collect();
        assert_eq!(pass(&bytes), expected, "byte by byte");
    }

    /// The host that stands for `value`.
    fn host(form: u8, value: &str) -> Vec<u8> {
        authority(form, &"a".repeat(value.len()), true)
    }

    #[test]
    fn a_path_becomes_a_host_of_the_same_length_in_every_form() {
        for value in [PATH, ESCAPED, "unix:/x", "\u{e9}", "a b"] {
            for (form, huffman) in [(0x40, false), (0x40, true), (0, false), (0, true), (0x10, true)] {
                let block = |field| [others(), field, others()].concat();
                let headers = |field| vec![frame(HEADERS, END_HEADERS, &block(field))];
                let came = connection(&headers(authority(form, value, huffman)));
                check(&came, &connection(&headers(host(form, value))));
            }
        }
        assert_eq!(huffman::decode(&host(0, PATH)[2..]).unwrap(), b"a".repeat(PATH.len()));
    }

    #[test]
    fn a_name_that_is_spelled_out_is_known_too() {
        let headers = |field| vec![frame(HEADERS, END_HEADERS, &[others(), field, others()].concat())];
        for (form, name_huffman) in [(0x40, false), (0x40, true), (0x00, false), (0x10, true)] {
            let came = connection(&headers(spelled(form, name_huffman, ESCAPED, false)));
            let host = spelled(form, name_huffman, &"a".repeat(ESCAPED.len()), true);
            check(&came, &connection(&headers(host)));
        }
        // Another name is not touched, nor is what the C core would send for a host.
        let other = [vec![0x40], text(":authoritz", false), text(PATH, false)].concat();
        for field in [other, spelled(0x40, false, "localhost", false)] {
            let came = connection(&headers(field));
            check(&came, &came);
        }
    }

    #[test]
    fn what_is_acceptable_stays_byte_for_byte() {
        for value in ["localhost", "127.0.0.1:80", "[::1]:1", "a.b", ""] {
            for huffman in [false, true] {
                let block = [authority(0x40, value, huffman), others()].concat();
                let (front, rest) = block.split_at(4);
                let padded = [&[2], front, &[0, 0]].concat();
                let came =
                    connection(&[frame(HEADERS, PADDED, &padded), frame(CONTINUATION, END_HEADERS, rest)]);
                check(&came, &came);
            }
        }
    }

    #[test]
    fn a_block_in_padded_frames_with_a_priority_is_put_together() {
        let block = [others(), authority(0x40, PATH, true), others()].concat();
        let expected = [others(), host(0x40, PATH), others()].concat();
        let priority = [0x80, 0, 0, 0, 7];
        for at in 0..=block.len() {
            let (front, rest) = block.split_at(at);
            let payload = [&[3], priority.as_slice(), front, &[0, 0, 0]].concat();
            let came = [
                frame(HEADERS, 1 | PADDED | PRIORITY, &payload),
                frame(CONTINUATION, 0, &[]),
                frame(CONTINUATION, END_HEADERS, rest),
            ];
            let payload = [priority.as_slice(), &expected].concat();
            let passed = [frame(HEADERS, 1 | PRIORITY | END_HEADERS, &payload)];
            assert_eq!(pass(&[&connection(&came)]), connection(&passed), "cut at {at}");
        }
    }

    #[test]
    fn table_sizes_and_entries_are_passed_over() {
        // A new size of 4096, entries 62 and 200, a literal named by entry 70, then the path.
        let before = [&[0x3f, 0xe1, 0x1f, 0xbe, 0xff, 0x49, 0x7f, 7], text("v", false).as_slice()].concat();
        let headers = |field| vec![frame(HEADERS, END_HEADERS | 1, &[before.clone(), field].concat())];
        check(&connection(&headers(authority(0x40, PATH, false))), &connection(&headers(host(0x40, PATH))));
    }

    #[test]
    fn each_request_of_a_connection_is_looked_at() {
        let headers = |field: Vec<u8>| frame(HEADERS, END_HEADERS, &field);
        let came = [authority(0x40, PATH, true), vec![0xbe], authority(0, ESCAPED, false)].map(headers);
        let passed = [host(0x40, PATH), vec![0xbe], host(0, ESCAPED)].map(headers);
        check(&connection(&came), &connection(&passed));
    }

    #[test]
    fn a_long_value_has_a_length_of_several_bytes() {
        for length in [127, 202, 203, 204, 205, 1000, 30_000] {
            let value = "/".repeat(length);
            let mut field = vec![0x01, 0x7f];
            let mut rest = length - 127;
            while rest > 127 {
                field.push(0x80 | u8::try_from(rest & 0x7f).unwrap());
                rest >>= 7;
            }
            field.push(u8::try_from(rest).unwrap());
            field.extend_from_slice(value.as_bytes());
            let block = rewrite_block(&field).unwrap();
            let mut fields = Fields { block: &block, at: 0 };
            let host = fields.next().unwrap().unwrap();
            assert_eq!((fields.at, host.decode().unwrap()), (block.len(), b"a".repeat(length)));
        }
    }

    #[test]
    fn what_does_not_fit_into_one_frame_is_continued() {
        let filler =
            [vec![0x00], text("x-filler", false), vec![0x7f, 0x81, 0x7f], vec![b'x'; 127 + 1 + (127 << 7)]]
                .concat();
        let block = |field: Vec<u8>| [filler.clone(), field].concat();
        let cut = |block: Vec<u8>| {
            let (front, rest) = block.split_at(PAYLOAD_BYTES_MAX);
            connection(&[frame(HEADERS, 0, front), frame(CONTINUATION, END_HEADERS, rest)])
        };
        let came = cut(block(authority(0x40, PATH, false)));
        assert_eq!(pass(&[&came]), cut(block(host(0x40, PATH))));
    }

    #[test]
    fn what_is_not_understood_is_passed_on_as_it_came() {
        let path = authority(0x40, PATH, false);
        let strange = [
            // An integer without end, a string longer than its block, a string that is no Huffman code.
            vec![frame(HEADERS, END_HEADERS, &[&path[..], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff]].concat())],
            vec![frame(HEADERS, END_HEADERS, &path[..path.len() - 1])],
            vec![frame(HEADERS, END_HEADERS, &[0x41, 0x82, 0x00, 0x00])],
            vec![frame(HEADERS, END_HEADERS, &[0x41, 0x84, 0xff, 0xff, 0xff, 0xff])],
            // More padding than frame, a priority that is cut short.
            vec![frame(HEADERS, END_HEADERS | PADDED, &[&[200], path.as_slice()].concat())],
            vec![frame(HEADERS, END_HEADERS | PRIORITY, &[0, 0, 0])],
            // A block that another frame interrupts, or another stream continues.
            vec![frame(HEADERS, 0, &path), frame(6, 0, &[0; 8]), frame(CONTINUATION, END_HEADERS, &[])],
            vec![frame(HEADERS, 0, &path), vec![0, 0, 0, CONTINUATION, END_HEADERS, 0, 0, 0, 3]],
        ];
        for frames in strange {
            let came = connection(&frames);
            check(&came, &came);
        }
        for foreign in ["GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.1\r\n\r\nSM\r\n\r\n", ""] {
            check(foreign.as_bytes(), foreign.as_bytes());
        }
    }

    #[test]
    fn no_more_than_a_block_is_held() {
        let mut came = connection(&[frame(HEADERS, 0, &authority(0x40, PATH, false))]);
        (0..4).for_each(|_| came.extend(frame(CONTINUATION, 0, &[0; PAYLOAD_BYTES_MAX])));
        let (mut rewriter, mut output) = (Rewriter::default(), Vec::new());
        for piece in came.chunks(1000) {
            rewriter.feed(piece, &mut output);
            assert!(rewriter.held.len() <= BLOCK_BYTES_MAX);
        }
        assert_eq!(output, came);
    }

    #[test]
    fn the_code_is_that_of_the_rfc() {
        // RFC 7541, appendix C.4.1 and C.6.1.
        let host = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(huffman::decode(&host).unwrap(), b"www.example.com");
        let date = [
            0xd0, 0x7a, 0xbe, 0x94, 0x10, 0x54, 0xd4, 0x44, 0xa8, 0x20, 0x05, 0x95, 0x04, 0x0b, 0x81, 0x66,
            0xe0, 0x82, 0xa6, 0x2d, 0x1b, 0xff,
        ];
        assert_eq!(huffman::decode(&date).unwrap(), b"Mon, 21 Oct 2013 20:13:21 GMT");
        assert_eq!(huffman::encode(b"www.example.com"), host);
    }

    proptest! {
        #[test]
        fn every_string_is_decoded_as_it_was_encoded(text: Vec<u8>) {
            prop_assert_eq!(huffman::decode(&huffman::encode(&text)), Some(text));
        }

        #[test]
        fn a_connection_is_the_same_in_any_pieces_and_never_longer(
            noise in frames(), cuts in prop::collection::vec(1_usize..40, 1..20),
        ) {
            let came = connection(&noise);
            let whole = pass(&[&came]);
            prop_assert!(whole.len() <= came.len());
            let (mut rest, mut pieces) = (came.as_slice(), Vec::new());
            for cut in cuts.iter().cycle() {
                let (piece, after) = rest.split_at(rest.len().min(*cut));
                pieces.push(piece);
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(pass(&pieces), whole);
        }

        #[test]
        fn only_a_value_that_is_refused_changes(values in prop::collection::vec(any::<(u8, String, bool)>(), 0..6)) {
            let forms = [0x40, 0x00, 0x10];
            let short = values.into_iter().filter(|(_, value, _)| !value.is_empty() && value.len() < 30);
            let (mut came, mut expected) = (others(), others());
            for (form, value, huffman) in short {
                let form = forms[usize::from(form) % forms.len()];
                let field = authority(form, &value, huffman);
                came.extend_from_slice(&field);
                expected.extend(if Authority::try_from(value.as_str()).is_ok() { field } else { host(form, &value) });
            }
            let rewritten = rewrite_block(&came).unwrap_or(came);
            prop_assert_eq!(rewritten, expected);
        }
    }

    /// Frames of any kind, headers among them, mostly malformed.
    fn frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let kind = prop_oneof![Just(HEADERS), Just(CONTINUATION), 0_u8..12];
        let path = (any::<bool>(), prop_oneof![Just(PATH), Just(ESCAPED), Just("localhost")]);
        let payload = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..60),
            path.prop_map(|(huffman, value)| [others(), authority(0x40, value, huffman)].concat()),
        ];
        let one =
            (kind, any::<u8>(), payload).prop_map(|(kind, flags, payload)| frame(kind, flags, &payload));
        prop::collection::vec(one, 0..8)
    }
}
