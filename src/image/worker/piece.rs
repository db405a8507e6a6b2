//! The pieces of a tar that a decompressor gives, as they go over the connection.
//!
//! Each is a tag of one byte, the length of what follows (32 bits, the lowest byte first) and that. The last is `z` or `e`.
//!
//! | tag | piece |
//! |---|---|
//! | `p` | bytes of the tar, at least one |
//! | `z` | the end; nothing follows |
//! | `e` | failed: the reason as text |

use std::io::{self, Read, Write};

/// Bytes of a tag and a length.
pub(super) const HEAD_BYTES: usize = 1 + 4;
/// Most bytes of the tar in one piece.
pub(super) const PIECE_BYTES_MAX: usize = 128 << 10;
/// Longest reason of a failure; bytes.
const REASON_BYTES_MAX: usize = 1024;

/// The head of a piece, and so what follows it.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Head {
    /// As many bytes of the tar.
    Tar(usize),
    End,
    /// A reason of as many bytes.
    Failed(usize),
}

impl Head {
    /// `None` for what is no head.
    pub(super) fn parse([tag, length @ ..]: [u8; HEAD_BYTES]) -> Option<Self> {
        let length = usize::try_from(u32::from_le_bytes(length)).ok()?;
        match tag {
            b'p' if (1..=PIECE_BYTES_MAX).contains(&length) => Some(Self::Tar(length)),
            b'z' if length == 0 => Some(Self::End),
            b'e' if length <= REASON_BYTES_MAX => Some(Self::Failed(length)),
            _ => None,
        }
    }
}

/// Gives a tar in pieces, to its end; why it cannot be read is the last of them.
///
/// # Errors
/// As write(2).
pub(super) fn write_all(mut tar: impl Read, to: &mut impl Write) -> io::Result<()> {
    // The head is written with its piece, by one call.
    let mut buffer = vec![0; HEAD_BYTES + PIECE_BYTES_MAX];
    loop {
        match tar.read(&mut buffer[HEAD_BYTES..]) {
            Ok(0) => return to.write_all(&head(b'z', 0)),
            Ok(length) => {
                buffer[..HEAD_BYTES].copy_from_slice(&head(b'p', length));
                to.write_all(&buffer[..HEAD_BYTES + length])?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return to.write_all(&failure(&error.to_string())),
        }
    }
}

/// The piece that says why there is no tar.
pub(super) fn failure(reason: &str) -> Vec<u8> {
    let reason = reason.as_bytes();
    let shown = &reason[..reason.len().min(REASON_BYTES_MAX)];
    [&head(b'e', shown.len())[..], shown].concat()
}

fn head(tag: u8, length: usize) -> [u8; HEAD_BYTES] {
    // Every length here is far below.
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    [tag, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_decompressor_writes_is_a_head() {
        let parse = |tag, length: u32| {
            let [a, b, c, d] = length.to_le_bytes();
            Head::parse([tag, a, b, c, d])
        };
        assert_eq!(parse(b'p', 1), Some(Head::Tar(1)));
        assert_eq!(parse(b'p', 128 << 10), Some(Head::Tar(PIECE_BYTES_MAX)));
        assert_eq!(parse(b'z', 0), Some(Head::End));
        assert_eq!(parse(b'e', 1024), Some(Head::Failed(1024)));
        for (tag, length) in [(b'p', 0), (b'p', (128 << 10) + 1), (b'z', 1), (b'e', 1025), (b'x', 0), (0, 0)]
        {
            assert_eq!(parse(tag, length), None, "{tag} {length}");
        }
    }
}
