//! Header blocks: one zlib stream in each direction for as long as the session lives (section 2.6.10).

use std::collections::BTreeMap;

use bytes::{BufMut, BytesMut};
use flate2::{Decompress, FlushDecompress, Status};

use super::{dictionary, frame::Violation};

/// Bytes of one header block after it is unpacked. Clients of Kubernetes send less than 200.
pub(super) const BLOCK_BYTES_MAX: usize = 64 << 10;
/// Headers of one block.
pub(super) const HEADERS_MAX: u32 = 100;

/// The headers of a stream. Several values of one name are joined by NUL.
pub(crate) type Headers = BTreeMap<String, String>;

/// Reads the blocks of a peer, in the order in which they come. A block that is skipped would make all later
/// ones unreadable.
#[derive(Debug)]
pub(super) struct Reader(Decompress);

impl Default for Reader {
    fn default() -> Self {
        Self(Decompress::new(true))
    }
}

impl Reader {
    pub(super) fn read(&mut self, block: &[u8]) -> Result<Headers, Violation> {
        parse(&self.inflate(block)?)
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, Violation> {
        const STEP: usize = 4096;
        let mut plain = Vec::new();
        let mut dictionary_given = false;
        loop {
            if plain.len() > BLOCK_BYTES_MAX {
                return Err(Violation::HeadersTooLarge);
            }
            plain.reserve(STEP);
            let (taken_before, made_before) = (self.0.total_in(), self.0.total_out());
            let status = self.0.decompress_vec(block, &mut plain, FlushDecompress::Sync);
            let taken = usize::try_from(self.0.total_in() - taken_before).unwrap_or(usize::MAX);
            block = block.get(taken..).unwrap_or_default();
            match status {
                Ok(Status::StreamEnd) => return Err(Violation::Compression),
                Ok(_) => {}
                Err(error) => match error.needs_dictionary() {
                    Some(dictionary::ADLER32) if !dictionary_given => {
                        self.0.set_dictionary(&dictionary::BYTES).map_err(|_| Violation::Compression)?;
                        dictionary_given = true;
                        continue;
                    }
                    _ => return Err(Violation::Compression),
                },
            }
            let made = self.0.total_out() - made_before;
            if block.is_empty() && plain.len() < plain.capacity() || (taken == 0 && made == 0) {
                break;
            }
        }
        if !block.is_empty() {
            return Err(Violation::Compression);
        }
        if plain.len() > BLOCK_BYTES_MAX {
            return Err(Violation::HeadersTooLarge);
        }
        Ok(plain)
    }
}

fn parse(mut plain: &[u8]) -> Result<Headers, Violation> {
    let count = number(&mut plain)?;
    if count > HEADERS_MAX {
        return Err(Violation::TooManyHeaders(count));
    }
    let mut headers = Headers::new();
    for _ in 0..count {
        let name = text(&mut plain)?.to_ascii_lowercase();
        let value = text(&mut plain)?.to_owned();
        if headers.insert(name, value).is_some() {
            return Err(Violation::BadHeader);
        }
    }
    if plain.is_empty() { Ok(headers) } else { Err(Violation::HeadersCut) }
}

fn number(plain: &mut &[u8]) -> Result<u32, Violation> {
    let (bytes, rest) = plain.split_first_chunk().ok_or(Violation::HeadersCut)?;
    *plain = rest;
    Ok(u32::from_be_bytes(*bytes))
}

fn text<'a>(plain: &mut &'a [u8]) -> Result<&'a str, Violation> {
    let length = usize::try_from(number(plain)?).unwrap_or(usize::MAX);
    let (bytes, rest) = plain.split_at_checked(length).ok_or(Violation::HeadersCut)?;
    *plain = rest;
    std::str::from_utf8(bytes).map_err(|_| Violation::BadHeader)
}

/// Writes this side's blocks. All of them are the empty block of a SYN_REPLY, so they are stored, not compressed:
/// that is as good a zlib stream (RFC 1951, section 3.2.4), and a session needs no compressor, which would take
/// 260 KiB of memory.
#[derive(Debug, Default)]
pub(super) struct Writer {
    begun: bool,
}

impl Writer {
    pub(super) fn empty_block(&mut self) -> BytesMut {
        /// A block that is stored and not the last one; its length, the same inverted; no headers.
        const STORED: [u8; 9] = [0, 4, 0, !4, !0, 0, 0, 0, 0];
        let mut block = BytesMut::with_capacity(32);
        if !self.begun {
            self.begun = true;
            // CMF (deflate, 32 KiB) and FLG (with a dictionary; makes the two a multiple of 31).
            block.put_slice(&[0x78, 0xbb]);
            block.put_u32(dictionary::ADLER32);
        }
        block.put_slice(&STORED);
        // A sync flush: readers that wait for one are not kept waiting.
        block.put_slice(&[0, 0, 0, 0xff, 0xff]);
        block
    }
}

#[cfg(test)]
pub(super) mod testclient {
    //! The compressor of a client.

    use flate2::{Compress, Compression, FlushCompress};

    use super::*;

    pub(in super::super) struct Compressor(Compress);

    impl Compressor {
        pub(in super::super) fn new() -> Self {
            Self::with(&dictionary::BYTES)
        }

        pub(in super::super) fn with(dictionary: &[u8]) -> Self {
            let mut compress = Compress::new(Compression::default(), true);
            compress.set_dictionary(dictionary).unwrap();
            Self(compress)
        }

        pub(in super::super) fn block(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
            self.raw(&plain(headers))
        }

        pub(in super::super) fn raw(&mut self, plain: &[u8]) -> Vec<u8> {
            let mut out = Vec::with_capacity(plain.len() + 1024);
            self.0.compress_vec(plain, &mut out, FlushCompress::Sync).unwrap();
            out
        }
    }

    pub(in super::super) fn plain(headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = BytesMut::new();
        plain.put_u32(u32::try_from(headers.len()).unwrap());
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.put_u32(u32::try_from(text.len()).unwrap());
            plain.put_slice(text.as_bytes());
        }
        plain.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{testclient::*, *};

    #[test]
    fn blocks_are_read_one_after_the_other() {
        let (mut client, mut reader) = (Compressor::new(), Reader::default());
        for port in ["80", "81", "80"] {
            let headers = [("streamtype", "data"), ("port", port), ("requestid", "7")];
            let read = reader.read(&client.block(&headers)).unwrap();
            assert_eq!(read, headers.map(|(name, value)| (name.into(), value.into())).into());
        }
    }

    #[test]
    fn what_this_side_writes_is_read_by_zlib() {
        let (mut writer, mut reader) = (Writer::default(), Reader::default());
        for _ in 0..3 {
            assert_eq!(reader.read(&writer.empty_block()).unwrap(), Headers::new());
        }
    }

    #[test]
    fn a_block_that_unpacks_to_more_than_the_limit_is_refused() {
        let bomb = Compressor::new().raw(&vec![0; 100 << 20]);
        assert!(bomb.len() < 128 << 10, "{}", bomb.len());
        assert_eq!(Reader::default().read(&bomb), Err(Violation::HeadersTooLarge));
        let just = Compressor::new().block(&[("a", &"x".repeat(BLOCK_BYTES_MAX - 13))]);
        assert_eq!(Reader::default().read(&just).unwrap().len(), 1);
        let over = Compressor::new().block(&[("a", &"x".repeat(BLOCK_BYTES_MAX - 12))]);
        assert_eq!(Reader::default().read(&over), Err(Violation::HeadersTooLarge));
    }

    #[test]
    fn what_is_not_such_a_block_is_refused() {
        let raw = |plain: &[u8]| Reader::default().read(&Compressor::new().raw(plain));
        assert_eq!(Reader::default().read(b"not zlib"), Err(Violation::Compression));
        assert_eq!(
            Reader::default().read(&Compressor::with(b"another dictionary").block(&[])),
            Err(Violation::Compression)
        );
        assert_eq!(raw(&[0, 0, 0]), Err(Violation::HeadersCut));
        assert_eq!(raw(&[0, 0, 0, 1]), Err(Violation::HeadersCut));
        assert_eq!(raw(&[0, 0, 0, 0, 1]), Err(Violation::HeadersCut));
        assert_eq!(raw(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, b'a']), Err(Violation::HeadersCut));
        assert_eq!(raw(&u32::MAX.to_be_bytes()), Err(Violation::TooManyHeaders(u32::MAX)));
        assert_eq!(raw(&plain(&[("a", "1"), ("A", "2")])), Err(Violation::BadHeader));
        assert_eq!(raw(&[0, 0, 0, 1, 0, 0, 0, 1, 0xff, 0, 0, 0, 0]), Err(Violation::BadHeader));
        let mut ended = flate2::Compress::new(flate2::Compression::default(), true);
        ended.set_dictionary(&dictionary::BYTES).unwrap();
        let mut out = Vec::with_capacity(100);
        ended.compress_vec(&[0; 4], &mut out, flate2::FlushCompress::Finish).unwrap();
        assert_eq!(Reader::default().read(&out), Err(Violation::Compression), "a stream that ends");
    }

    proptest! {
        #[test]
        fn any_headers_come_back(headers in proptest::collection::btree_map("[a-z]{1,12}", "\\PC{0,40}", 0..20)) {
            let pairs: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let block = Compressor::new().block(&pairs);
            prop_assert_eq!(Reader::default().read(&block).unwrap(), headers);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(block in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let _ = Reader::default().read(&block);
            let _ = Reader::default().read(&Compressor::new().raw(&block));
        }
    }
}
