use std::io::{self, Read};

use tar_core::{
    EntryType, Header, PaxExtensions,
    parse::{Limits, ParseEvent, ParsedEntry, Parser},
};

use super::{LayerError, METADATA_BYTES_MAX, PATH_BYTES_MAX, SPARSE_REGIONS_MAX};

/// Read at once from the stream; bytes. Large enough that the copy costs more than the call.
const BUFFER_BYTES: usize = 128 << 10;
/// The buffer grows to this for a header with all its extensions, and no further; bytes.
const BUFFER_BYTES_MAX: usize = 3 * METADATA_BYTES_MAX as usize;
const BLOCK_BYTES: u64 = 512;

/// A tar stream, entry after entry.
///
/// Deviates from tar-core in one place, where archives in the wild disagree with the letter: entries that
/// have no content by their type (links, directories, devices) have none here, whatever size they claim.
pub(in crate::image) struct Archive<R> {
    parser: Parser,
    stream: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes of the stream that are no longer in the buffer.
    passed: u64,
    /// What is left of the current entry: content, then padding.
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
        Self {
            parser: Parser::new(limits),
            stream,
            buffer,
            start: 0,
            end: 0,
            passed: 0,
            content: 0,
            padding: 0,
        }
    }

    /// The next entry; `None` at the end of the archive. What is left of the last entry is skipped.
    ///
    /// # Errors
    /// [`LayerError`] when the stream ends before the archive does, or is no tar.
    pub(in crate::image) fn next(&mut self) -> Result<Option<Entry>, LayerError> {
        self.skip(self.content.saturating_add(self.padding))?;
        (self.content, self.padding) = (0, 0);
        loop {
            check_extensions(&self.buffer[self.start..self.end])?;
            let (consumed, entry) = match self.parser.parse(&self.buffer[self.start..self.end])? {
                ParseEvent::NeedData { min_bytes } => {
                    if !self.fill(min_bytes)? {
                        return self.ended();
                    }
                    continue;
                }
                ParseEvent::Entry { consumed, entry } => {
                    let kind = kind_of(&entry)?;
                    (consumed, Some(Entry::new(&entry, kind)?))
                }
                ParseEvent::SparseEntry { consumed, entry, sparse_map, real_size } => {
                    let regions = sparse_map.iter().map(|region| (region.offset, region.length)).collect();
                    let kind = sparse(&entry, regions, real_size)?;
                    (consumed, Some(Entry::new(&entry, kind)?))
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
            let held = ((self.end - self.start) as u64).min(bytes);
            self.start += held as usize;
            bytes -= held;
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
    fn new(parsed: &ParsedEntry<'_>, kind: Kind) -> Result<Self, LayerError> {
        let path = parsed.path.to_vec();
        let id = |id: u64| match u32::try_from(id) {
            // The last one means "do not change" to the kernel.
            Ok(id) if id != u32::MAX => Ok(id),
            _ => Err(LayerError::entry(&path, "its owner is no 32-bit number")),
        };
        Ok(Self {
            mode: parsed.mode & 0o7777,
            uid: id(parsed.uid)?,
            gid: id(parsed.gid)?,
            mtime: mtime(parsed),
            xattrs: parsed.xattrs.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect(),
            kind,
            path,
        })
    }

    fn content_bytes(&self) -> u64 {
        match &self.kind {
            Kind::File { size } => *size,
            Kind::Sparse { regions, .. } => regions.iter().map(|(_, length)| length).sum(),
            _ => 0,
        }
    }
}

/// Refuses extension headers that claim more than any may have. The parser would do it too, but adds the
/// sizes of several up first, and an overflow there ends the process.
fn check_extensions(mut rest: &[u8]) -> Result<(), LayerError> {
    const BLOCK: usize = BLOCK_BYTES as usize;
    while let Some((block, after)) = rest.split_first_chunk::<BLOCK>() {
        let header = Header::from_bytes(block);
        let is_extension = matches!(
            header.entry_type(),
            EntryType::GnuLongName | EntryType::GnuLongLink | EntryType::XHeader | EntryType::XGlobalHeader
        );
        let size = match header.entry_size() {
            _ if header.is_empty() => 0, // a stray zero block is passed over
            Ok(size) if is_extension => size,
            _ => return Ok(()),
        };
        if size > METADATA_BYTES_MAX.into() {
            return Err(LayerError::Limit { what: "tar header", limit: METADATA_BYTES_MAX.into() });
        }
        let padded = usize::try_from(size).unwrap_or(usize::MAX).next_multiple_of(BLOCK);
        rest = after.get(padded..).unwrap_or_default();
    }
    Ok(())
}

fn kind_of(entry: &ParsedEntry<'_>) -> Result<Kind, LayerError> {
    let target = || match entry.link_target.as_deref() {
        Some(target) if !target.contains(&0) => Ok(target.to_vec()),
        Some(_) => Err(LayerError::entry(&entry.path, "its target has a NUL")),
        None => Err(LayerError::entry(&entry.path, "it is a link to nothing")),
    };
    let (major, minor) = (entry.dev_major.unwrap_or(0), entry.dev_minor.unwrap_or(0));
    Ok(match entry.entry_type {
        // Before ustar a directory was a file whose name ends in a slash.
        EntryType::Regular if entry.path.ends_with(b"/") && entry.size == 0 => Kind::Directory,
        EntryType::Regular | EntryType::Continuous => Kind::File { size: entry.size },
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => Kind::Symlink { target: target()? },
        EntryType::Link => Kind::Hardlink { target: target()? },
        EntryType::Char => Kind::Character { major, minor },
        EntryType::Block => Kind::Block { major, minor },
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

/// Seconds from the header, the fraction from pax, which tar-core leaves out.
fn mtime(entry: &ParsedEntry<'_>) -> (i64, u32) {
    let seconds = i64::try_from(entry.mtime).unwrap_or(i64::MAX);
    let fraction = entry
        .pax
        .and_then(|pax| PaxExtensions::new(pax).get("mtime"))
        .and_then(|text| text.split_once('.'))
        .map(|(_, digits)| digits)
        .filter(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|digits| format!("{digits:0<9}")[..9].parse().ok());
    (seconds, fraction.unwrap_or(0))
}
