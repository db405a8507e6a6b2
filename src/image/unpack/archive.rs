//! The entries of a tar stream: headers, extensions and contents, without a file system.

use std::io::{self, Read};

use tar_core::{
    EntryType, Header,
    parse::{Limits, ParseEvent, ParsedEntry, Parser},
};

use super::{
    LayerError, METADATA_BYTES_MAX, PATH_BYTES_MAX, SPARSE_REGIONS_MAX,
    number::{self, Meant, Numbers},
};

/// Read at once from the stream; bytes. Large enough that the copy costs more than the call.
const BUFFER_BYTES: usize = 128 << 10;
/// The buffer grows to this for a header with all its extensions, and no further; bytes.
const BUFFER_BYTES_MAX: usize = 3 * METADATA_BYTES_MAX as usize;
pub(in crate::image) const BLOCK: usize = 512;
const BLOCK_BYTES: u64 = BLOCK as u64;

/// A tar stream, entry after entry.
///
/// Deviates from tar-core in two places, where archives in the wild disagree with the letter: entries that
/// have no content by their type (links, directories, devices) have none here, whatever size they claim; and
/// what the numbers mean that do not describe the stream is decided here (see [`number`]).
pub(in crate::image) struct Archive<R> {
    parser: Parser,
    stream: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes of the stream that are no longer in the buffer.
    passed: u64,
    /// Of the next entry, once its header has been read.
    numbers: Option<Numbers>,
    /// Bytes left of the current entry: content, then padding.
    content: u64,
    padding: u64,
}

/// One member of a tar, owned and resolved.
#[derive(Debug)]
pub(in crate::image) struct Entry {
    pub(in crate::image) path: Vec<u8>,
    pub(in crate::image) kind: Kind,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds and nanoseconds.
    pub(super) mtime: (i64, u32),
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug)]
pub(in crate::image) enum Kind {
    File {
        size: u64,
    },
    /// Regions of data, in ascending order, of a file of `size` bytes.
    Sparse {
        size: u64,
        regions: Vec<(u64, u64)>,
    },
    Directory,
    Symlink {
        target: Vec<u8>,
    },
    Hardlink {
        target: Vec<u8>,
    },
    Character {
        major: u32,
        minor: u32,
    },
    Block {
        major: u32,
        minor: u32,
    },
    Fifo,
    /// A type that says nothing about the tree: volume labels and the like.
    Other,
}

impl<R: Read> Archive<R> {
    pub(in crate::image) fn new(stream: R) -> Self {
        let limits = Limits {
            max_metadata_size: METADATA_BYTES_MAX,
            max_path_len: Some(PATH_BYTES_MAX),
            max_sparse_entries: SPARSE_REGIONS_MAX,
            ..Limits::default()
        };
        let buffer = vec![0; BUFFER_BYTES];
        let mut parser = Parser::new(limits);
        parser.set_ignore_pax_errors(true); // `number::check_pax` refuses those that matter
        Self { parser, stream, buffer, start: 0, end: 0, passed: 0, numbers: None, content: 0, padding: 0 }
    }

    /// The next entry; `None` at the end of the archive. What is left of the last entry is skipped.
    ///
    /// # Errors
    /// [`LayerError`] when the stream ends before the archive does, or is no tar.
    pub(in crate::image) fn next(&mut self) -> Result<Option<Entry>, LayerError> {
        self.skip(self.content.saturating_add(self.padding))?;
        (self.content, self.padding) = (0, 0);
        loop {
            if self.numbers.is_none() {
                self.numbers = take_numbers(&mut self.buffer[self.start..self.end])?;
            }
            let (consumed, entry) = match self.parser.parse(&self.buffer[self.start..self.end])? {
                ParseEvent::NeedData { min_bytes } => {
                    // The parser asks for as many bytes as there are where a sparse map has no end: one more is needed.
                    let held = self.end - self.start;
                    if !self.fill(min_bytes.max(held + 1))? {
                        return self.ended();
                    }
                    continue;
                }
                ParseEvent::Entry { consumed, entry } => {
                    let meant = meant(&entry, self.numbers.take())?;
                    let kind = kind_of(&entry, meant.device)?;
                    (consumed, Some(Entry::new(&entry, &meant, kind)))
                }
                ParseEvent::SparseEntry { consumed, entry, sparse_map, real_size } => {
                    let meant = meant(&entry, self.numbers.take())?;
                    let regions = sparse_map.iter().map(|region| (region.offset, region.length)).collect();
                    let kind = sparse(&entry, regions, real_size)?;
                    (consumed, Some(Entry::new(&entry, &meant, kind)))
                }
                // Defaults for later entries: only pax comments are ever written there.
                ParseEvent::GlobalExtensions { consumed, .. } => (consumed, None),
                ParseEvent::End { consumed } => {
                    self.start += consumed;
                    return Ok(None);
                }
            };
            self.start += consumed;
            if let Some(entry) = entry {
                self.content = entry.content_bytes();
                let padded = self.content.checked_next_multiple_of(BLOCK_BYTES);
                let padded = padded.ok_or_else(|| LayerError::entry(&entry.path, "its size is no size"))?;
                self.padding = padded - self.content;
                return Ok(Some(entry));
            }
        }
    }

    /// As [`Self::next`], with the place in the stream where the entry's content starts. Must be used from
    /// the first entry on.
    pub(in crate::image) fn next_at(&mut self) -> Result<Option<(Entry, u64)>, LayerError> {
        let entry = self.next()?;
        Ok(entry.map(|entry| (entry, self.passed + self.start as u64)))
    }

    /// The next piece of the current entry's content; empty at its end.
    ///
    /// # Errors
    /// [`LayerError::Read`] when the stream ends inside the content.
    pub(in crate::image) fn content(&mut self, max: u64) -> Result<&[u8], LayerError> {
        let wanted = self.content.min(max);
        if wanted == 0 {
            return Ok(&[]);
        }
        if self.start == self.end && !self.fill(1)? {
            return Err(LayerError::Read(io::ErrorKind::UnexpectedEof.into()));
        }
        let held = (self.end - self.start).min(usize::try_from(wanted).unwrap_or(usize::MAX));
        let piece = &self.buffer[self.start..self.start + held];
        self.start += held;
        self.content -= held as u64;
        Ok(piece)
    }

    /// Reads what follows the archive, so that digests over the whole stream come out right.
    pub(in crate::image) fn drain(&mut self) -> Result<(), LayerError> {
        self.start = self.end;
        while self.fill(1)? {
            self.start = self.end;
        }
        Ok(())
    }

    /// A stream that ends between entries without the two zero blocks is complete (some writers leave
    /// them out, and a cut stream is found by its digest); one that ends inside an entry is not.
    fn ended(&self) -> Result<Option<Entry>, LayerError> {
        if self.buffer[self.start..self.end].iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        Err(LayerError::Read(io::ErrorKind::UnexpectedEof.into()))
    }

    fn skip(&mut self, mut bytes: u64) -> Result<(), LayerError> {
        while bytes > 0 {
            if self.start == self.end && !self.fill(1)? {
                return Err(LayerError::Read(io::ErrorKind::UnexpectedEof.into()));
            }
            let held = usize::try_from(bytes).unwrap_or(usize::MAX).min(self.end - self.start);
            self.start += held;
            bytes -= held as u64;
        }
        Ok(())
    }

    /// Holds at least `wanted` unread bytes; false when the stream ends first.
    fn fill(&mut self, wanted: usize) -> Result<bool, LayerError> {
        if wanted > BUFFER_BYTES_MAX {
            return Err(LayerError::Limit { what: "tar header", limit: METADATA_BYTES_MAX.into() });
        }
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.passed += self.start as u64;
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted.next_power_of_two(), 0);
        }
        while self.end < wanted {
            match self.stream.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Ok(false),
                Ok(read) => self.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(LayerError::Read(error)),
            }
        }
        Ok(true)
    }
}

impl Entry {
    fn new(parsed: &ParsedEntry<'_>, meant: &Meant, kind: Kind) -> Self {
        Self {
            path: parsed.path.to_vec(),
            kind,
            mode: meant.mode,
            uid: meant.uid,
            gid: meant.gid,
            mtime: meant.mtime,
            xattrs: parsed.xattrs.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect(),
        }
    }

    fn content_bytes(&self) -> u64 {
        match &self.kind {
            Kind::File { size } => *size,
            Kind::Sparse { regions, .. } => regions.iter().map(|(_, length)| length).sum(),
            _ => 0,
        }
    }
}

/// Whether bytes begin as a tar does: with a header whose checksum holds, or with the zeros that end one.
pub(in crate::image) fn begins_tar(bytes: &[u8]) -> bool {
    let header = bytes.first_chunk::<BLOCK>().map(Header::from_bytes);
    header.is_some_and(|header| header.is_empty() || header.verify_checksum().is_ok())
}

/// Goes past the extension headers at the start of `rest` to the entry's own header and takes its numbers out.
/// `None` while that is not there yet, and for what the parser refuses.
///
/// On the way it refuses extension headers that claim more than any may have. The parser would do it too, but
/// adds the sizes of several up first, and an overflow there ends the process.
fn take_numbers(mut rest: &mut [u8]) -> Result<Option<Numbers>, LayerError> {
    let mut was_zero = false;
    while let Some((block, after)) = rest.split_first_chunk_mut::<BLOCK>() {
        let header = Header::from_bytes(block);
        let is_zero = header.is_empty();
        if is_zero && was_zero {
            return Ok(None); // the end; what follows is no tar
        }
        was_zero = is_zero;
        // As the parser sees it: in a header of 1979 those letters mean nothing.
        let is_extension = match header.entry_type() {
            EntryType::XGlobalHeader => true,
            EntryType::GnuLongName | EntryType::GnuLongLink | EntryType::XHeader => {
                header.is_gnu() || header.is_ustar()
            }
            _ => false,
        };
        if !number::has_size(header) {
            return Err(LayerError::entry(header.path_bytes(), "its size is no size"));
        }
        let size = match header.entry_size() {
            _ if is_zero => 0, // a stray zero block is passed over
            Ok(size) if is_extension => size,
            _ => return Ok(Numbers::take(block)),
        };
        if size > METADATA_BYTES_MAX.into() {
            return Err(LayerError::Limit { what: "tar header", limit: METADATA_BYTES_MAX.into() });
        }
        let padded = usize::try_from(size).unwrap_or(usize::MAX).next_multiple_of(BLOCK);
        rest = after.get_mut(padded..).unwrap_or_default();
    }
    Ok(None)
}

/// The entry's numbers as they are meant, once those that say where its content lies are beyond doubt.
fn meant(entry: &ParsedEntry<'_>, numbers: Option<Numbers>) -> Result<Meant, LayerError> {
    if let Some(pax) = entry.pax {
        number::check_pax(&entry.path, pax)?;
    }
    let numbers = numbers.ok_or_else(|| LayerError::entry(&entry.path, "its header was not found"))?;
    numbers.meant(&entry.path, entry.pax)
}

fn kind_of(entry: &ParsedEntry<'_>, device: Option<(u32, u32)>) -> Result<Kind, LayerError> {
    let target = || match entry.link_target.as_deref() {
        Some(target) if !target.contains(&0) => Ok(target.to_vec()),
        Some(_) => Err(LayerError::entry(&entry.path, "its target has a NUL")),
        None => Err(LayerError::entry(&entry.path, "it is a link to nothing")),
    };
    let device = || device.ok_or_else(|| LayerError::entry(&entry.path, "its device is no number"));
    Ok(match entry.entry_type {
        // Before ustar a directory was a file whose name ends in a slash.
        EntryType::Regular if entry.path.ends_with(b"/") && entry.size == 0 => Kind::Directory,
        EntryType::Regular | EntryType::Continuous => Kind::File { size: entry.size },
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => Kind::Symlink { target: target()? },
        EntryType::Link => Kind::Hardlink { target: target()? },
        EntryType::Char => device().map(|(major, minor)| Kind::Character { major, minor })?,
        EntryType::Block => device().map(|(major, minor)| Kind::Block { major, minor })?,
        EntryType::Fifo => Kind::Fifo,
        // POSIX wants an unknown type taken for a file, which would invent files; it may carry content,
        // though, so it is only passed over when it has none.
        _ if entry.size == 0 => Kind::Other,
        _ => return Err(LayerError::entry(&entry.path, "its type is not known")),
    })
}

/// A sparse file, once its map has been found to say exactly what the archive holds.
fn sparse(entry: &ParsedEntry<'_>, regions: Vec<(u64, u64)>, size: u64) -> Result<Kind, LayerError> {
    let bad = |why| LayerError::entry(&entry.path, why);
    if !matches!(entry.entry_type, EntryType::Regular | EntryType::Continuous | EntryType::GnuSparse) {
        return Err(bad("only files can be sparse"));
    }
    let (mut at, mut held) = (0_u64, 0_u64);
    for (offset, length) in &regions {
        if *offset < at {
            return Err(bad("its sparse regions overlap"));
        }
        at = offset.checked_add(*length).ok_or_else(|| bad("its sparse map overflows"))?;
        held = held.checked_add(*length).ok_or_else(|| bad("its sparse map overflows"))?;
    }
    if at > size || held != entry.size {
        return Err(bad("its sparse map does not fit its size"));
    }
    Ok(Kind::Sparse { size, regions })
}
