//! The sizes of a client's terminal: JSON objects, one after the other.

use crate::model::TerminalSize;

/// Bytes of an object that has not come whole.
const PARTIAL_BYTES_MAX: usize = 1024;

/// Reads sizes from bytes that are cut anywhere.
#[derive(Debug, Default)]
pub(in crate::streaming) struct Sizes {
    partial: Vec<u8>,
    /// Whether something came that is no list of sizes; the rest is not looked at.
    broken: bool,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    #[serde(default)]
    width: u64,
    #[serde(default)]
    height: u64,
}

impl Sizes {
    /// The last size in what came so far, if there is a new one: those before it are out of date. A size of nothing,
    /// or one that no terminal can have, is passed over.
    pub(in crate::streaming) fn read(&mut self, bytes: &[u8]) -> Option<TerminalSize> {
        if self.broken {
            return None;
        }
        self.partial.extend_from_slice(bytes);
        let mut objects = serde_json::Deserializer::from_slice(&self.partial).into_iter::<Size>();
        let (mut last, mut read) = (None, 0);
        loop {
            match objects.next() {
                Some(Ok(Size { width, height })) => {
                    read = objects.byte_offset();
                    last = TerminalSize::new(width, height).or(last);
                }
                Some(Err(error)) if !is_cut(&self.partial, &error) => {
                    self.broken = true;
                    break;
                }
                Some(Err(_)) | None => break,
            }
        }
        drop(objects);
        self.partial.drain(..read);
        if self.broken || self.partial.len() > PARTIAL_BYTES_MAX {
            (self.broken, self.partial) = (true, Vec::new());
        }
        last
    }
}

/// Whether an error may be due to the end of `bytes` alone: the parser says so, or has failed just there, for a number that
/// ends too early is an invalid one to it. An error that is not comes again with the bytes that follow.
fn is_cut(bytes: &[u8], error: &serde_json::Error) -> bool {
    let line_from = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let line = 1 + bytes.iter().filter(|byte| **byte == b'\n').count();
    error.is_eof() || (error.line(), error.column()) == (line, bytes.len() - line_from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_whole_size_counts() {
        let size = |columns, rows| Some(TerminalSize { columns, rows });
        let mut sizes = Sizes::default();
        assert_eq!(sizes.read(br#"{"Width":80,"Height":24}{"Width":100,"Height":30}"#), size(100, 30));
        assert_eq!(sizes.read(br#"{"Width":1"#), None);
        assert_eq!(sizes.read(br#"20,"Height":40}"#), size(120, 40));
        for part in ["{\"Width\":70,\n\"x\":-", "1.", "5e", "+", "1,\"Height\":\n"] {
            assert_eq!(sizes.read(part.as_bytes()), None, "{part}");
        }
        assert_eq!(sizes.read(b"50}"), size(70, 50));
        assert_eq!(sizes.read(b"\n{\"Width\":65535,\"Height\":65535}\n"), size(65_535, 65_535));
    }

    #[test]
    fn a_size_that_no_terminal_has_is_passed_over() {
        for none in [
            &br#"{"Width":0,"Height":0}"#[..],
            br#"{"Width":80,"Height":0}"#,
            br#"{"Width":65536,"Height":65536}"#,
            br#"{}"#,
        ] {
            let mut sizes = Sizes::default();
            assert_eq!(sizes.read(none), None);
            assert!(sizes.read(br#"{"Width":80,"Height":24}"#).is_some());
        }
    }

    #[test]
    fn what_is_no_size_ends_the_reading_and_keeps_nothing() {
        for bad in [&b"hello"[..], br#"{"Width":-1}"#, br#""a""#, &[b' '; 2000], &[b'{'; 2000]] {
            let mut sizes = Sizes::default();
            assert_eq!(sizes.read(bad), None);
            assert!(sizes.partial.len() <= PARTIAL_BYTES_MAX);
        }
        let mut sizes = Sizes::default();
        let endless = [br#"{"Width":"#, &[b'1'; 2000][..]].concat();
        assert_eq!(sizes.read(&endless), None);
        assert!(sizes.partial.is_empty());
    }

    proptest! {
        #[test]
        fn where_the_bytes_are_cut_makes_no_difference(
            bytes in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..300),
                "([ \\[\\]{}\",:0-9e.-]|\"Width\"|\"Height\"|\\{\"Width\":8,\"x\":[0-9e.-]{1,4},\"Height\":2\\}|\\{\"Width\":[0-9]{1,6},\"Height\":[0-9]{1,6}\\}){0,20}"
                    .prop_map(String::into_bytes),
            ],
            cut in 1_usize..50,
        ) {
            let last = |cut| {
                let mut sizes = Sizes::default();
                bytes.chunks(cut).fold(None, |last, piece| sizes.read(piece).or(last))
            };
            prop_assert_eq!(last(cut), last(bytes.len().max(1)));
        }
    }
}
