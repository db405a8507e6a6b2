//! Fuzz targets of this room: names, documents, layers and the registry's texts.

use std::{
    io::{self, Read, Write as _},
    net::Shutdown,
    os::unix::net::UnixStream,
    str,
};

use super::{
    content,
    document::{Config, IndexWalk, LAYERS_MAX, Step},
    record::{ImageRecord, LayerRecord},
    reference::{Query, Reference},
    registry::{challenge::Challenge, hosts},
    unpack::{self, Archive, Kind},
    worker::{Answer, Decompression},
};
use crate::store;

/// Names of images: what is printed of one reads as the same.
pub fn reference(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    if let Ok(reference) = Reference::parse(text) {
        assert_eq!(Reference::parse(&reference.to_string()).ok(), Some(reference));
    }
    let id = Query::parse(text);
    assert!(!matches!(id, Ok(Query::Prefix(prefix)) if prefix.contains(|c: char| !c.is_ascii_hexdigit())));
}

/// Manifests and indexes.
pub fn manifest(input: &[u8]) {
    if let Ok(Step::Manifest(manifest)) = IndexWalk::default().step("fuzz", input) {
        assert!(manifest.layers.len() <= LAYERS_MAX);
    }
}

/// Image configs.
pub fn config(input: &[u8]) {
    if let Ok(config) = Config::parse("fuzz", input) {
        assert!(config.diff_ids.len() <= LAYERS_MAX);
    }
}

/// Layers: the same entries come from the stream in one piece and byte by byte, with no more content than there are
/// bytes, and no name leads out of the layer.
pub fn tar(input: &[u8]) {
    let whole = entries(input, input);
    assert_eq!(whole, entries(input, Trickle(input)));
}

fn entries(input: &[u8], stream: impl Read) -> Vec<String> {
    let mut archive = Archive::new(stream);
    let mut seen = Vec::new();
    let mut content_bytes = 0;
    loop {
        let entry = match archive.next() {
            Ok(Some(entry)) => entry,
            Ok(None) => break,
            // Of several faults in a header the one that is told depends on the pieces.
            Err(_) => {
                seen.push("error".into());
                break;
            }
        };
        seen.push(format!("{entry:?} {:?}", unpack::inside(&entry.path)));
        if let Kind::Hardlink { target } = &entry.kind {
            seen.push(format!("{:?}", unpack::inside(target)));
        }
        while let Ok(piece) = archive.content(u64::MAX)
            && !piece.is_empty()
        {
            content_bytes += piece.len();
        }
    }
    assert!(content_bytes <= input.len());
    seen
}

/// A stream that gives one byte at a time.
struct Trickle<'a>(&'a [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (Some(slot), Some((first, rest))) = (buffer.first_mut(), self.0.split_first()) else {
            return Ok(0);
        };
        *slot = *first;
        self.0 = rest;
        Ok(1)
    }
}

/// Answers of an image worker: one is read as it was written.
pub fn worker(input: &[u8]) {
    if let Ok(answer @ Answer::Done(_)) = Answer::read(input) {
        let mut written = Vec::new();
        assert!(answer.write(&mut written).is_ok());
        assert_eq!(Answer::read(written.as_slice()).ok(), Some(answer));
    }
}

/// Pieces of a tar that a decompressor gives, whatever it was given.
pub fn decompressor(input: &[u8]) {
    /// Fits into a connection.
    const PIECES_BYTES_MAX: usize = 32 << 10;
    let pair = UnixStream::pair().and_then(|(ours, mut theirs)| {
        theirs.write_all(&input[..input.len().min(PIECES_BYTES_MAX)])?;
        theirs.shutdown(Shutdown::Write)?;
        Ok((ours, theirs))
    });
    let Ok((ours, _theirs)) = pair else { return };
    let read = io::copy(&mut Decompression::by(ours, io::empty()), &mut io::sink());
    assert!(read.is_err() || read.is_ok_and(|length| length < input.len() as u64));
}

/// Compressed layers, at their beginning.
pub fn compressed(input: &[u8]) {
    const TAR_BYTES_MAX: u64 = 1 << 20;
    if let Ok(tar) = content::unpacked(input) {
        let _read: io::Result<u64> = io::copy(&mut tar.take(TAR_BYTES_MAX), &mut io::sink());
    }
}

/// `hosts.toml`.
pub fn hosts_toml(input: &[u8]) {
    if let Ok(text) = str::from_utf8(input) {
        hosts::fuzz(text);
    }
}

/// `WWW-Authenticate`.
pub fn challenge(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    if let Some(Challenge::Bearer { realm, .. }) = Challenge::parse(text) {
        assert!(realm.len() < text.len());
    }
}

/// Records of images and layers.
pub fn record(input: &[u8]) {
    store::fuzz::record::<ImageRecord>(input);
    if let Some(layer) = store::fuzz::record::<LayerRecord>(input) {
        drop((layer.implied(), layer.links()));
    }
}
