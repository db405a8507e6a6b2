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

mod huffman;

/// The first bytes of an HTTP/2 client (RFC 9113 section 3.4).
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

/// The index of `:authority` in HPACK's static table (RFC 7541 appendix A).
const AUTHORITY_INDEX: usize = 1;

/// One direction of a connection, from the client's first byte on.
#[derive(Debug)]
pub(super) struct Rewriter {
    state: State,
    /// The frame or header block that is being gathered.
    held: Vec<u8>,
    /// The start of the last frame in `held`.
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
    /// Not HTTP/2: passed on unread.
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
    /// The position of its length.
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

#[cfg(test)]
mod tests;
