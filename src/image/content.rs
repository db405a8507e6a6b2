//! Bytes on their way into a layer: counted, hashed and unpacked while they arrive.

use std::{
    io::{self, BufRead, Read},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use flate2::bufread::GzDecoder;
use sha2::{Digest as _, Sha256};

use super::document::Blob;
use crate::model::Digest;

/// A layer may always grow to this; bytes. Above it, the ratio below counts.
const RATIO_FREE_BYTES: u64 = 1 << 30;
/// Bytes that one compressed byte may become. gzip itself ends at about this.
const RATIO_MAX: u64 = 1000;
/// Memory that a zstd stream may ask for to look back into; log2 of bytes. 128 MiB, as in other tools.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// A blob as it arrives: hands bytes on and holds them against the digest and size that were promised.
#[derive(Debug)]
pub(super) struct Verified<R> {
    source: R,
    blob: Blob,
    state: Arc<Mutex<Arrived>>,
}

/// How far a blob has come; shared with whoever consumes what is made of it.
#[derive(Debug, Default)]
struct Arrived {
    bytes: u64,
    hash: Sha256,
}

/// Asks a [`Verified`] that is buried in decoders.
#[derive(Clone, Debug)]
pub(super) struct Receipt {
    blob: Blob,
    state: Arc<Mutex<Arrived>>,
}

impl<R: BufRead> Verified<R> {
    pub(super) fn new(source: R, blob: Blob) -> (Self, Receipt) {
        let state = Arc::new(Mutex::new(Arrived::default()));
        let receipt = Receipt { blob: blob.clone(), state: state.clone() };
        (Self { source, blob, state }, receipt)
    }
}

impl<R: BufRead> BufRead for Verified<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let held = self.source.fill_buf()?;
        let before = self.state.lock().unwrap_or_else(PoisonError::into_inner).bytes;
        if before.saturating_add(held.len() as u64) > self.blob.size {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it is longer than its descriptor says"));
        }
        Ok(held)
    }

    fn consume(&mut self, amount: usize) {
        // What was filled is still there until it is consumed.
        if let Ok(held) = self.source.fill_buf() {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.bytes += amount as u64;
            state.hash.update(&held[..amount.min(held.len())]);
        }
        self.source.consume(amount);
    }
}

impl<R: BufRead> Read for Verified<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let held = self.fill_buf()?;
        let length = held.len().min(into.len());
        into[..length].copy_from_slice(&held[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl Receipt {
    /// Bytes so far.
    pub(super) fn bytes(&self) -> u64 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }

    /// Whether the blob, now at its end, is what was promised.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(super) fn check(&self) -> Result<(), String> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.bytes != self.blob.size {
            return Err(format!("it has {} bytes, not {}", state.bytes, self.blob.size));
        }
        let digest = Digest::from_bytes(state.hash.clone().finalize().into());
        if digest != self.blob.digest { Err(format!("its content is {digest}")) } else { Ok(()) }
    }
}

/// First bytes that tell how something is packed.
pub(super) const MAGIC_BYTES: usize = 6;

/// Whether what starts so is packed, in a way that we know or not.
pub(super) fn is_packed(start: &[u8]) -> bool {
    !matches!(packing(start), Ok(Packing::None))
}

/// The packing of a stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Packing {
    None,
    Gzip,
    Zstd,
}

fn packing(start: &[u8]) -> io::Result<Packing> {
    let unsupported = |what| Err(io::Error::new(io::ErrorKind::Unsupported, what));
    match start {
        [0x1f, 0x8b, ..] => Ok(Packing::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Packing::Zstd),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => unsupported("xz is not supported"),
        [b'B', b'Z', b'h', ..] => unsupported("bzip2 is not supported"),
        _ => Ok(Packing::None),
    }
}

/// The unpacked content of a stream.
///
/// # Errors
/// As [`recognise`].
pub(super) fn unpacked<'a>(source: impl BufRead + Send + 'a) -> io::Result<Box<dyn Read + Send + 'a>> {
    let (packing, source) = recognise(source)?;
    Ok(match packing {
        Packing::None => Box::new(source),
        Packing::Gzip => Box::new(Gzip::new(source)),
        Packing::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
    })
}

/// The packing of a stream, and the whole of the stream. The packing is recognised by the first bytes, for media types and
/// file names of real images are not to be relied on.
///
/// # Errors
/// As the stream's; `Unsupported` for a packing that is known and not supported.
pub(super) fn recognise<R: BufRead>(mut source: R) -> io::Result<(Packing, impl BufRead)> {
    let mut start = Vec::with_capacity(MAGIC_BYTES);
    // Not `fill_buf`: a pipe may give them one by one.
    source.by_ref().take(MAGIC_BYTES as u64).read_to_end(&mut start)?;
    Ok((packing(&start)?, io::Cursor::new(start).chain(source)))
}

/// A gzip file as gzip(1) reads it: one member after the other, and zeros at the end, with which tapes and
/// some builders fill their blocks. flate2 takes zeros for a bad header.
struct Gzip<R> {
    /// `None` once only zeros may follow.
    member: Option<GzDecoder<R>>,
}

impl<R: BufRead> Gzip<R> {
    fn new(source: R) -> Self {
        Self { member: Some(GzDecoder::new(source)) }
    }

    /// The next member, if there is one after a member's end.
    fn next(mut source: R) -> io::Result<Option<GzDecoder<R>>> {
        let mut zeros = false;
        loop {
            let held = source.fill_buf()?;
            match held.iter().position(|byte| *byte != 0) {
                _ if held.is_empty() => return Ok(None),
                Some(0) if !zeros => return Ok(Some(GzDecoder::new(source))),
                Some(_) => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "it goes on after its end"));
                }
                None => {
                    zeros = true;
                    let length = held.len();
                    source.consume(length);
                }
            }
        }
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        while let Some(member) = &mut self.member {
            match member.read(into)? {
                0 => {}
                length => return Ok(length),
            }
            if let Some(ended) = self.member.take() {
                self.member = Self::next(ended.into_inner())?;
            }
        }
        Ok(0)
    }
}

/// The layer's tar, whatever it was packed with, hashed and limited.
pub(super) struct Unpacked<'a> {
    source: Box<dyn Read + Send + 'a>,
    compressed: Receipt,
    bytes: u64,
    bytes_max: u64,
    hash: Sha256,
}

impl std::fmt::Debug for Unpacked<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpacked").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl<'a> Unpacked<'a> {
    /// `source` is the tar of what `compressed` counts.
    pub(super) fn new(source: Box<dyn Read + Send + 'a>, compressed: Receipt, bytes_max: u64) -> Self {
        Self { source, compressed, bytes: 0, bytes_max, hash: Sha256::new() }
    }

    /// The digest of what was read: at the end of the stream, the layer's diff id.
    pub(super) fn digest(&self) -> Digest {
        Digest::from_bytes(self.hash.clone().finalize().into())
    }
}

impl Read for Unpacked<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(into)?;
        self.bytes += length as u64;
        self.hash.update(&into[..length]);
        let too_much = |why| Err(io::Error::new(io::ErrorKind::InvalidData, why));
        if self.bytes > self.bytes_max {
            return too_much("it is larger than the limit for an unpacked layer");
        }
        if self.bytes > RATIO_FREE_BYTES && self.bytes / RATIO_MAX > self.compressed.bytes() {
            return too_much("it unpacks to more than 1000 times its size");
        }
        Ok(length)
    }
}

/// The reading end of a download: chunks from an async task, for a thread that unpacks them.
#[derive(Debug)]
pub(super) struct Chunks {
    receiver: tokio::sync::mpsc::Receiver<Chunk>,
    current: Bytes,
    ended: bool,
}

/// One message of a download. A channel that closes without `End` means that the download was given up.
#[derive(Debug)]
pub(super) enum Chunk {
    Data(Bytes),
    End,
}

impl Chunks {
    pub(super) fn new(receiver: tokio::sync::mpsc::Receiver<Chunk>) -> Self {
        Self { receiver, current: Bytes::new(), ended: false }
    }
}

impl BufRead for Chunks {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() && !self.ended {
            match self.receiver.blocking_recv() {
                Some(Chunk::Data(bytes)) => self.current = bytes,
                Some(Chunk::End) => self.ended = true,
                None => {
                    return Err(io::Error::new(
                        io::ErrorKind::ConnectionAborted,
                        "the download was given up",
                    ));
                }
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, amount: usize) {
        let amount = amount.min(self.current.len());
        drop(self.current.split_to(amount));
    }
}

impl Read for Chunks {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let held = self.fill_buf()?;
        let length = held.len().min(into.len());
        into[..length].copy_from_slice(&held[..length]);
        self.consume(length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::document::digest_of;
    use std::io::Write as _;

    fn unpack(packed: &[u8], bytes_max: u64) -> io::Result<(Vec<u8>, Digest, Result<(), String>)> {
        let blob = Blob { digest: digest_of(packed), size: packed.len() as u64 };
        let (verified, receipt) = Verified::new(packed, blob);
        let mut unpacked = Unpacked::new(unpacked(verified)?, receipt.clone(), bytes_max);
        let mut bytes = Vec::new();
        unpacked.read_to_end(&mut bytes)?;
        Ok((bytes, unpacked.digest(), receipt.check()))
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn gzip_zstd_and_plain_come_out_alike() {
        let plain = b"pretend this is a tar".repeat(1000);
        let twice = [gzip(&plain[..5000]), gzip(&plain[5000..])].concat();
        for packed in [plain.clone(), gzip(&plain), twice, zstd::encode_all(&plain[..], 1).unwrap()] {
            let (bytes, digest, check) = unpack(&packed, 1 << 20).unwrap();
            assert_eq!(bytes, plain);
            assert_eq!(digest, digest_of(&plain));
            assert_eq!(check, Ok(()));
        }
    }

    #[test]
    fn a_hundred_thousand_empty_members_are_no_trouble() {
        let packed = gzip(b"").repeat(100_000);
        assert_eq!(unpack(&packed, 1 << 20).unwrap().0, b"");
    }

    #[test]
    fn zeros_after_a_gzip_stream_are_nothing_and_other_bytes_an_error() {
        let packed = gzip(b"a tar");
        for zeros in [1, 8, 511, 100_000] {
            let padded = [packed.clone(), vec![0; zeros]].concat();
            let (bytes, _, check) = unpack(&padded, 1 << 20).unwrap();
            assert_eq!((bytes.as_slice(), check), (b"a tar".as_slice(), Ok(())));
        }
        for tail in [b"x".as_slice(), b"\0x", b"\0\x1f\x8b"] {
            assert!(unpack(&[packed.clone(), tail.to_vec()].concat(), 1 << 20).is_err(), "{tail:?}");
        }
    }

    #[test]
    fn a_stream_may_come_byte_by_byte_and_be_shorter_than_any_magic() {
        struct Drops<'a>(&'a [u8]);
        impl Read for Drops<'_> {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                let length = into.len().min(self.0.len()).min(1);
                into[..length].copy_from_slice(&self.0[..length]);
                self.0 = &self.0[length..];
                Ok(length)
            }
        }
        for plain in [b"".as_slice(), b"x", b"pretend this is a tar"] {
            for packed in [plain.to_vec(), gzip(plain), zstd::encode_all(plain, 1).unwrap()] {
                let mut bytes = Vec::new();
                let source = io::BufReader::with_capacity(1, Drops(&packed));
                unpacked(source).unwrap().read_to_end(&mut bytes).unwrap();
                assert_eq!(bytes, plain);
            }
        }
    }

    #[test]
    fn other_compressions_are_named() {
        let error = unpack(b"\xfd7zXZ\0", 1 << 20).unwrap_err();
        assert_eq!(error.to_string(), "xz is not supported");
    }

    #[test]
    fn a_layer_stops_at_its_limit() {
        let bomb = gzip(&vec![0; 10 << 20]);
        assert!(bomb.len() < 1 << 20);
        let error = unpack(&bomb, 1 << 20).unwrap_err();
        assert_eq!(error.to_string(), "it is larger than the limit for an unpacked layer");
    }

    #[test]
    fn a_zstd_window_over_the_limit_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(28).unwrap();
        encoder.write_all(b"small").unwrap();
        let packed = encoder.finish().unwrap();
        assert!(unpack(&packed, 1 << 20).is_err());
    }

    #[test]
    fn a_blob_is_held_against_its_descriptor() {
        let check = |bytes: &[u8], blob: Blob| {
            let (mut verified, receipt) = Verified::new(bytes, blob);
            io::copy(&mut verified, &mut io::sink()).map_err(|error| error.to_string())?;
            receipt.check()
        };
        let good = Blob { digest: digest_of(b"hello"), size: 5 };
        assert_eq!(check(b"hello", good.clone()), Ok(()));
        assert!(check(b"hellO", good.clone()).unwrap_err().starts_with("its content is sha256:"));
        assert_eq!(check(b"hell", good.clone()), Err("it has 4 bytes, not 5".into()));
        assert!(check(b"hello again", good).is_err());
    }

    #[test]
    fn a_channel_that_closes_early_is_an_error_and_not_an_end() {
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        sender.blocking_send(Chunk::Data(Bytes::from_static(b"half"))).unwrap();
        drop(sender);
        let mut bytes = Vec::new();
        let error = Chunks::new(receiver).read_to_end(&mut bytes).unwrap_err();
        assert_eq!((bytes.as_slice(), error.kind()), (b"half".as_slice(), io::ErrorKind::ConnectionAborted));
    }
}
