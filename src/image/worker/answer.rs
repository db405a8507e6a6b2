//! The answer of a worker: what it found out about the layer that it has unpacked, or why it could not.
//!
//! A sequence of parts, each a tag of one byte, the length of what follows (32 bits, the lowest byte first) and that. The
//! last is `d`, after which comes nothing, or `e`.
//!
//! | tag | part |
//! |---|---|
//! | `i` | path of a directory that the tar only implies |
//! | `o` | path of a directory to be marked as opaque |
//! | `l`, `t` | name of a hard link to a lower layer, and after it its target |
//! | `d` | done: bytes on disk and inodes (64 bits each, the lowest byte first) |
//! | `e` | failed: `f` for a full disk or `-`, and the reason as text |

use std::io::{self, BufRead, Read, Write};

use super::super::unpack::{
    ENTRIES_MAX, FOREIGN_LINKS_MAX, LayerError, NAMES_BYTES_MAX, PATH_BYTES_MAX, Unpacked,
};

/// Longest reason of a failure; bytes. It may name a path.
const REASON_BYTES_MAX: usize = 3 * PATH_BYTES_MAX as usize;
/// Size of a layer that is believed; bytes, and inodes. Sums over all images stay far from overflow.
const SIZE_MAX: u64 = 1 << 50;

/// An answer to its end.
#[derive(Debug, Eq, PartialEq)]
pub(in crate::image) enum Answer {
    Done(Unpacked),
    /// In the worker's words, which are shown and mean nothing.
    Failed {
        is_full: bool,
        reason: String,
    },
}

impl Answer {
    /// The answer that says why a layer could not be unpacked.
    pub(super) fn failure(error: &LayerError) -> Self {
        let mut reason = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            reason.push_str(": ");
            reason.push_str(&error.to_string());
            cause = error.source();
        }
        Self::Failed { is_full: error.is_full(), reason }
    }

    /// The answer that a layer could not be unpacked for another reason.
    pub(super) fn failed(reason: String) -> Self {
        Self::Failed { is_full: false, reason }
    }

    /// # Errors
    /// As write(2).
    pub(in crate::image) fn write(&self, mut to: impl Write) -> io::Result<()> {
        match self {
            Self::Done(Unpacked { bytes, inodes, implied, links, opaque }) => {
                for path in implied {
                    part(&mut to, b'i', &[path])?;
                }
                for path in opaque {
                    part(&mut to, b'o', &[path])?;
                }
                for (name, target) in links {
                    part(&mut to, b'l', &[name])?;
                    part(&mut to, b't', &[target])?;
                }
                part(&mut to, b'd', &[&bytes.to_le_bytes(), &inodes.to_le_bytes()])?;
            }
            Self::Failed { is_full, reason } => {
                let reason = reason.as_bytes();
                let shown = &reason[..reason.len().min(REASON_BYTES_MAX - 1)];
                part(&mut to, b'e', &[if *is_full { b"f" } else { b"-" }, shown])?;
            }
        }
        to.flush()
    }

    /// Reads an answer to its end. It takes no more memory than an honest worker would have used.
    ///
    /// # Errors
    /// `UnexpectedEof` when the stream ends before the answer does, `InvalidData` for what is none.
    pub(in crate::image) fn read(mut from: impl BufRead) -> io::Result<Self> {
        let (mut done, mut names) = (Unpacked::default(), Names::default());
        let mut link = None;
        loop {
            let (tag, content) = next_part(&mut from)?;
            match (tag, link.take()) {
                (b'i', None) => done.implied.push(names.take(content)?),
                (b'o', None) => done.opaque.push(names.take(content)?),
                (b'l', None) if done.links.len() < FOREIGN_LINKS_MAX => link = Some(names.take(content)?),
                (b't', Some(name)) => done.links.push((name, names.take(content)?)),
                (b'd', None) => {
                    (done.bytes, done.inodes) = sizes(&content)?;
                    break;
                }
                (b'e', None) => {
                    let (kind, reason) = content.split_first().ok_or_else(|| bad("it gives no reason"))?;
                    // Without a look at what follows: of a worker that leaves something unread it is an error.
                    return Ok(Self::Failed { is_full: *kind == b'f', reason: shown(reason) });
                }
                _ => return Err(bad("it has a part that does not belong there")),
            }
        }
        if from.fill_buf()?.is_empty() { Ok(Self::Done(done)) } else { Err(bad("it goes on after its end")) }
    }
}

/// A worker's words, as they may be shown on terminals and in logs.
pub(super) fn shown(words: &[u8]) -> String {
    String::from_utf8_lossy(words).chars().filter(|c| !c.is_control()).collect()
}

fn bad(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn part(to: &mut impl Write, tag: u8, pieces: &[&[u8]]) -> io::Result<()> {
    let length: usize = pieces.iter().map(|piece| piece.len()).sum();
    let length = u32::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
    to.write_all(&[tag])?;
    to.write_all(&length.to_le_bytes())?;
    pieces.iter().try_for_each(|piece| to.write_all(piece))
}

fn next_part(from: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let (mut tag, mut length) = ([0; 1], [0; 4]);
    from.read_exact(&mut tag)?;
    from.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > REASON_BYTES_MAX {
        return Err(bad("it has a part that is too long"));
    }
    let mut content = vec![0; length];
    from.read_exact(&mut content)?;
    Ok((tag[0], content))
}

fn sizes(content: &[u8]) -> io::Result<(u64, u64)> {
    let sizes = content.split_first_chunk().and_then(|(bytes, rest)| Some((*bytes, rest.try_into().ok()?)));
    let (bytes, inodes) = sizes.ok_or_else(|| bad("its sizes are none"))?;
    let (bytes, inodes) = (u64::from_le_bytes(bytes), u64::from_le_bytes(inodes));
    if bytes > SIZE_MAX || inodes > SIZE_MAX {
        return Err(bad("no layer is that large"));
    }
    Ok((bytes, inodes))
}

/// The names that were read: as many as a layer may have.
#[derive(Default)]
struct Names {
    count: u64,
    bytes: usize,
}

impl Names {
    fn take(&mut self, mut name: Vec<u8>) -> io::Result<Vec<u8>> {
        self.count += 1;
        self.bytes += name.len() + 1;
        if name.len() > PATH_BYTES_MAX as usize {
            return Err(bad("it has a path that is too long"));
        }
        if self.count > ENTRIES_MAX || self.bytes > NAMES_BYTES_MAX {
            return Err(bad("it has more names than a layer may have"));
        }
        name.shrink_to_fit();
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(answer: &Answer) -> Answer {
        let mut bytes = Vec::new();
        answer.write(&mut bytes).unwrap();
        Answer::read(bytes.as_slice()).unwrap()
    }

    fn parts(parts: &[(u8, &[u8])]) -> io::Result<Answer> {
        let mut bytes = Vec::new();
        for (tag, content) in parts {
            part(&mut bytes, *tag, &[content]).unwrap();
        }
        Answer::read(bytes.as_slice())
    }

    #[test]
    fn an_answer_is_read_as_it_was_written() {
        let done = Answer::Done(Unpacked {
            bytes: 4096,
            inodes: 3,
            implied: vec![b"a".to_vec(), vec![0xff]],
            links: vec![(b"l".to_vec(), b"a/t".to_vec())],
            opaque: vec![Vec::new(), b"a/b".to_vec()],
        });
        assert_eq!(through(&done), done);
        let full = LayerError::write("write", b"x", io::Error::from(io::ErrorKind::StorageFull));
        let told = Answer::Failed { is_full: true, reason: "write \"x\": no storage space".into() };
        assert_eq!(through(&Answer::failure(&full)), told);
        let Answer::Failed { reason, .. } =
            through(&Answer::Failed { is_full: false, reason: "x\u{1b}[2J".repeat(9000) })
        else {
            panic!("it failed")
        };
        assert!(reason.starts_with("x[2Jx[2J") && reason.len() < REASON_BYTES_MAX);
    }

    #[test]
    fn what_is_no_answer_is_refused_and_costs_little() {
        let size = |bytes: u64| [bytes.to_le_bytes(), 1_u64.to_le_bytes()].concat();
        let long = vec![b'x'; PATH_BYTES_MAX as usize + 1];
        assert!(parts(&[(b'd', &size(1))]).is_ok());
        let bad: [&[(u8, &[u8])]; 9] = [
            &[(b'd', &size(1)), (b'd', &size(1))],
            &[(b'd', &size(SIZE_MAX + 1))],
            &[(b'd', &[0; 17])],
            &[(b'i', &long), (b'd', &size(1))],
            &[(b't', b"a"), (b'd', &size(1))],
            &[(b'l', b"a"), (b'd', &size(1))],
            &[(b'l', b"a"), (b'l', b"a"), (b'd', &size(1))],
            &[(b'e', b"")],
            &[(b'x', b"")],
        ];
        for bad in bad {
            assert_eq!(parts(bad).unwrap_err().kind(), io::ErrorKind::InvalidData, "{bad:?}");
        }
        let cut = Answer::read(&b"i\x01\0\0\0a"[..]).unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(Answer::read(&b"i\xff\xff\xff\xff"[..]).unwrap_err().kind(), io::ErrorKind::InvalidData);
        // Names without an end.
        let endless = io::BufReader::new(Endless(0));
        assert_eq!(Answer::read(endless).unwrap_err().to_string(), "it has more names than a layer may have");
    }

    /// `i`, 1, `x`, again and again.
    struct Endless(usize);

    impl Read for Endless {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            for byte in &mut *into {
                *byte = b"i\x01\0\0\0x"[self.0];
                self.0 = (self.0 + 1) % 6;
            }
            Ok(into.len())
        }
    }
}
