//! One stream's output, cut into the lines and partial lines of the kubelet's format.

use std::fmt;

/// Most bytes of content in one record; a longer line becomes several. The kubelet's reader and every log
/// shipper know this size, because containerd uses it.
pub(super) const CONTENT_BYTES_MAX: usize = 16 * 1024;

/// Which of the two streams a record is of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub(super) const ALL: [Self; 2] = [Self::Stdout, Self::Stderr];

    /// As the record says it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether more of the same line follows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Tag {
    Full,
    Partial,
}

/// Content of a record, in two parts: what was held from before, and what has just come.
pub(super) type Content<'a> = (&'a [u8], &'a [u8]);

/// Cuts one stream's bytes into records. Holds the line that has not ended yet: at most
/// [`CONTENT_BYTES_MAX`] bytes, and a carriage return that may belong to its end.
#[derive(Debug, Default)]
pub(super) struct Line {
    held: Vec<u8>,
}

impl Line {
    /// Takes the next bytes and emits every record that they complete.
    pub(super) fn feed(&mut self, bytes: &[u8], mut emit: impl FnMut(Tag, Content<'_>)) {
        let mut rest = bytes;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            self.end(&rest[..end], &mut emit);
            rest = &rest[end + 1..];
        }
        self.hold(rest, &mut emit);
    }

    /// The stream is over: what it left without a newline is emitted as partial.
    pub(super) fn finish(&mut self, mut emit: impl FnMut(Tag, Content<'_>)) {
        for part in self.held.chunks(CONTENT_BYTES_MAX) {
            emit(Tag::Partial, (part, &[]));
        }
        self.held = Vec::new();
    }

    /// `tail` ends the line.
    fn end(&mut self, tail: &[u8], emit: &mut impl FnMut(Tag, Content<'_>)) {
        let whole = match (tail, &self.held[..]) {
            ([tail @ .., b'\r'], held) => (held, tail),
            ([], [held @ .., b'\r']) => (held, &[][..]),
            (tail, held) => (held, tail),
        };
        let last = emit_partials(whole, 0, emit);
        emit(Tag::Full, last);
        self.held.clear();
    }

    /// `tail` does not end the line. It is cut only when there certainly is more than one record of it, so
    /// that a line of exactly the greatest size stays one record.
    fn hold(&mut self, tail: &[u8], emit: &mut impl FnMut(Tag, Content<'_>)) {
        if tail.is_empty() {
            return;
        }
        let spare = usize::from(tail.ends_with(b"\r"));
        let (head, tail) = emit_partials((&self.held, tail), spare, emit);
        let taken = self.held.len() - head.len();
        self.held.drain(..taken);
        self.held.extend_from_slice(tail);
    }
}

/// Emits partial records until what is left fits in one, not counting `spare` bytes, and returns that.
fn emit_partials<'h, 't>(
    (mut head, mut tail): (&'h [u8], &'t [u8]),
    spare: usize,
    emit: &mut impl FnMut(Tag, Content<'_>),
) -> (&'h [u8], &'t [u8]) {
    while head.len() + tail.len() - spare > CONTENT_BYTES_MAX {
        let from_head = head.len().min(CONTENT_BYTES_MAX);
        let (first, head_rest) = head.split_at(from_head);
        let (second, tail_rest) = tail.split_at(CONTENT_BYTES_MAX - from_head);
        emit(Tag::Partial, (first, second));
        (head, tail) = (head_rest, tail_rest);
    }
    (head, tail)
}

#[cfg(test)]
mod tests {
    use super::{Tag::*, *};
    use proptest::prelude::*;

    const MAX: usize = CONTENT_BYTES_MAX;

    fn cut<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<(Tag, Vec<u8>)> {
        let mut line = Line::default();
        let mut records = Vec::new();
        let mut emit = |tag, (head, tail): Content<'_>| records.push((tag, [head, tail].concat()));
        for piece in pieces {
            line.feed(piece, &mut emit);
            assert!(line.held.len() <= MAX + 1, "holds {} bytes", line.held.len());
        }
        line.finish(&mut emit);
        records
    }

    #[track_caller]
    fn check(input: &[u8], expected: &[(Tag, &[u8])]) {
        let expected: Vec<_> = expected.iter().map(|(tag, content)| (*tag, content.to_vec())).collect();
        assert_eq!(cut([input]), expected, "at once");
        assert_eq!(cut(input.chunks(1)), expected, "byte by byte");
    }

    #[test]
    fn short_lines_are_full_and_lose_their_ends() {
        check(b"", &[]);
        check(b"\n", &[(Full, b"")]);
        check(b"a\n\nb\n", &[(Full, b"a"), (Full, b""), (Full, b"b")]);
        check(b"a\r\n\r\n", &[(Full, b"a"), (Full, b"")]);
        check(b"a\rb\r\r\n", &[(Full, b"a\rb\r")]);
        check(b"no end", &[(Partial, b"no end")]);
        check(b"no end\r", &[(Partial, b"no end\r")]);
    }

    #[test]
    fn a_long_line_is_cut_at_the_limit_and_not_before() {
        let of = |len: usize, end: &str| [&vec![b'x'; len][..], end.as_bytes()].concat();
        let (full, one) = (of(MAX, ""), of(1, ""));
        check(&of(MAX, "\n"), &[(Full, &full)]);
        check(&of(MAX, "\r\n"), &[(Full, &full)]);
        check(&of(MAX, ""), &[(Partial, &full)]);
        check(&of(MAX, "\r"), &[(Partial, &full), (Partial, b"\r")]);
        check(&of(MAX, "\rx\n"), &[(Partial, &full), (Full, b"\rx")]);
        check(&of(MAX, "\r\r\n"), &[(Partial, &full), (Full, b"\r")]);
        check(&of(MAX + 1, "\n"), &[(Partial, &full), (Full, &one)]);
        check(&of(MAX + 1, "\r\n"), &[(Partial, &full), (Full, &one)]);
        check(&of(2 * MAX, "\n"), &[(Partial, &full), (Full, &full)]);
        check(&of(2 * MAX + 1, ""), &[(Partial, &full), (Partial, &full), (Partial, &one)]);
    }

    /// Bytes rich in what the cutting turns on: line ends, and runs about as long as the limit.
    fn input() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => Just(b"\n".to_vec()),
            2 => Just(b"\r".to_vec()),
            1 => Just(b"\r\n".to_vec()),
            4 => prop::collection::vec(any::<u8>(), 0..40),
            2 => (MAX - 2..MAX + 3).prop_map(|len| vec![b'x'; len]),
            1 => (2 * MAX - 2..2 * MAX + 3).prop_map(|len| vec![b'y'; len]),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_split_of_the_input_gives_the_same_records(
            input in input(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let mut cuts: Vec<_> = cuts.iter().map(|at| at.index(input.len() + 1)).collect();
            cuts.extend([0, input.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|pair| &input[pair[0]..pair[1]]);
            prop_assert_eq!(cut(pieces), cut([&input[..]]));
        }

        #[test]
        fn records_say_the_input_again(input in input()) {
            let mut said = Vec::new();
            for (tag, content) in cut([&input[..]]) {
                prop_assert!(content.len() <= MAX && !content.contains(&b'\n'));
                said.extend(content);
                if tag == Full { said.push(b'\n') }
            }
            // Only the one carriage return before a newline is not said.
            let mut expected = Vec::new();
            for line in input.split_inclusive(|byte| *byte == b'\n') {
                match line {
                    [text @ .., b'\r', b'\n'] => expected.extend([text, b"\n"].concat()),
                    line => expected.extend(line),
                }
            }
            prop_assert_eq!(said, expected);
        }
    }
}
