//! The files of an archive by name.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufReader, Read, Seek as _},
    os::{
        fd::AsFd as _,
        unix::fs::{FileExt as _, FileTypeExt as _},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{self, Mode, OFlags, ResolveFlags};

use crate::image::{
    Error, content,
    document::{self, Blob},
    folder::{Folder, Ingest},
    unpack::{Archive, BLOCK, Kind, begins_tar},
};

/// Files of an archive that are remembered; a layout has three per layer at most.
const MEMBERS_MAX: usize = 100_000;
/// Largest archive that is unpacked or taken from a pipe, as it is on disk then; bytes. The largest images of
/// the field have 50 GiB, and an archive may hold several.
const SPOOLED_BYTES_MAX: u64 = 200 << 30;
/// Read and written at once where bytes are only moved.
const BUFFER_BYTES: usize = 128 << 10;

/// The source that an archive is read from.
#[derive(Debug)]
pub struct Input {
    /// For errors.
    name: PathBuf,
    file: File,
}

impl Input {
    /// A file, a folder or a named pipe; `-` is standard input.
    ///
    /// # Errors
    /// [`Error::BadArchive`] when it cannot be opened, or is a terminal.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let is_stdin = path == Path::new("-");
        let name = if is_stdin { PathBuf::from("standard input") } else { path.to_owned() };
        let file = match is_stdin {
            true => io::stdin().as_fd().try_clone_to_owned().map(File::from),
            false => File::open(path),
        };
        let file = file.map_err(|error| bad(&name, &error.to_string()))?;
        if io::IsTerminal::is_terminal(&file) {
            return Err(bad(&name, "it is a terminal; give a file, or pipe an archive in"));
        }
        Ok(Self { name, file })
    }
}

/// The files of an archive, by name.
#[derive(Debug)]
pub(in crate::image) struct Source {
    name: PathBuf,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Folder(File),
    Tar {
        file: Arc<File>,
        /// Position and size of each member.
        members: BTreeMap<String, (u64, u64)>,
        /// Holds `file` if that is a copy of ours.
        _spool: Option<Folder>,
    },
}

/// A file of an archive: its bytes, and how many they are.
type Member = (Box<dyn Read + Send>, u64);

impl Source {
    /// Finds the files. What is packed, or comes from a pipe, is first copied below `ingest`; the copy goes with
    /// the source.
    ///
    /// # Errors
    /// [`Error::BadArchive`] for what is neither folder nor tar; [`Error::Full`], [`Error::Store`].
    pub(in crate::image) fn open(input: Input, ingest: &Arc<Ingest>) -> Result<Self, Error> {
        let Input { name, mut file } = input;
        let failed = |error: io::Error| bad(&name, &error.to_string());
        let kind = file.metadata().map_err(failed)?.file_type();
        if kind.is_dir() {
            return Ok(Self { name, place: Place::Folder(file) });
        }
        if kind.is_block_device() {
            return Err(bad(&name, "it is a disk"));
        }
        let as_it_is = kind.is_file() && is_plain_tar(&mut file).map_err(failed)?;
        let (file, spool) = match as_it_is {
            true => (file, None),
            false => spool(&name, file, ingest).map(|(copy, folder)| (copy, Some(folder)))?,
        };
        let members = members(&file).map_err(|why| bad(&name, &why))?;
        Ok(Self { name, place: Place::Tar { file: Arc::new(file), members, _spool: spool } })
    }

    pub(in crate::image) fn bad(&self, why: &str) -> Error {
        bad(&self.name, why)
    }

    /// # Errors
    /// When it cannot be found out.
    pub(super) fn has(&self, name: &str) -> Result<bool, Error> {
        Ok(self.find(name)?.is_some())
    }

    /// # Errors
    /// [`Error::BadArchive`] also when there is no such file.
    pub(in crate::image) fn open_member(&self, name: &str) -> Result<Member, Error> {
        self.find(name)?.ok_or_else(|| self.bad(&format!("{name:?}: not in it")))
    }

    /// In a folder, only regular files in it, through no link: an archive must not name the host's files.
    fn find(&self, name: &str) -> Result<Option<Member>, Error> {
        let failed = |error: io::Error| self.bad(&format!("{name:?}: {error}"));
        match &self.place {
            Place::Tar { file, members, .. } => {
                let Some((offset, size)) = members.get(plain(name)) else { return Ok(None) };
                let section = Section { file: file.clone(), at: *offset, end: offset.saturating_add(*size) };
                Ok(Some((Box::new(section), *size)))
            }
            Place::Folder(folder) => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
                let file = match fs::openat2(folder.as_fd(), name, flags, Mode::empty(), resolve) {
                    Err(rustix::io::Errno::NOENT) => return Ok(None),
                    opened => File::from(opened.map_err(|error| failed(error.into()))?),
                };
                let metadata = file.metadata().map_err(failed)?;
                if !metadata.is_file() {
                    return Err(self.bad(&format!("{name:?}: not a file")));
                }
                Ok(Some((Box::new(file), metadata.len())))
            }
        }
    }

    pub(super) fn read(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, Error> {
        let (bytes, size) = self.open_member(name)?;
        if size > bytes_max {
            return Err(Error::Limit { what: "a document in an archive", limit: bytes_max });
        }
        let mut content = Vec::new();
        bytes.take(bytes_max).read_to_end(&mut content).map_err(|error| self.bad(&error.to_string()))?;
        Ok(content)
    }

    pub(super) fn read_blob(
        &self,
        name: &str,
        blob: &Blob,
        what: &'static str,
        bytes_max: u64,
    ) -> Result<Vec<u8>, Error> {
        let content = self.read(name, bytes_max)?;
        if content.len() as u64 == blob.size && document::digest_of(&content) == blob.digest {
            return Ok(content);
        }
        let why = format!("{name:?} is something else");
        Err(Error::Mismatch { what, expected: blob.digest.clone(), why })
    }
}

fn bad(name: &Path, why: &str) -> Error {
    Error::BadArchive { path: name.into(), why: why.into() }
}

fn plain(name: &str) -> &str {
    name.trim_start_matches("./")
}

/// A part of a file that others read too.
struct Section {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Section {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let wanted = into.len().min(left);
        let read = self.file.read_at(&mut into[..wanted], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Whether a file can be read in place: it is not packed, and nobody has read a part of it (standard input).
fn is_plain_tar(file: &mut File) -> io::Result<bool> {
    let mut start = [0; content::MAGIC_BYTES];
    let length = file.read_at(&mut start, 0)?;
    Ok(file.stream_position()? == 0 && !content::is_packed(&start[..length]))
}

/// Copies what can be read only once, unpacked, into a folder of its own.
fn spool(name: &Path, input: File, ingest: &Arc<Ingest>) -> Result<(File, Folder), Error> {
    let folder = ingest.folder()?;
    let path = folder.path.join("archive");
    let mut unpacked = content::unpacked(BufReader::with_capacity(BUFFER_BYTES, input))
        .map_err(|error| bad(name, &error.to_string()))?;
    let copy = File::create_new(&path).map_err(|error| Error::store("make", &path, error))?;
    let (mut buffer, mut bytes) = (vec![0; BUFFER_BYTES], 0);
    loop {
        let read = match unpacked.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(bad(name, &error.to_string())),
        };
        if bytes + read as u64 > SPOOLED_BYTES_MAX {
            return Err(Error::Limit { what: "size of an unpacked archive", limit: SPOOLED_BYTES_MAX });
        }
        copy.write_all_at(&buffer[..read], bytes).map_err(|error| Error::store("write", &path, error))?;
        bytes += read as u64;
    }
    let copy = File::open(&path).map_err(|error| Error::store("open", &path, error))?;
    Ok((copy, folder))
}

/// Positions of the files of a tar. Hard and symbolic links between its members (old `docker save`) are
/// followed by name, within the tar.
fn members(file: &File) -> Result<BTreeMap<String, (u64, u64)>, String> {
    let mut start = [0; BLOCK];
    let length = file.read_at(&mut start, 0).map_err(|error| error.to_string())?;
    if length > 0 && !begins_tar(&start[..length]) {
        return Err("it is no tar archive, neither packed with gzip or zstd nor unpacked".into());
    }
    let mut members = BTreeMap::new();
    let mut links = Vec::new();
    let mut archive = Archive::new(file);
    while let Some((entry, offset)) = archive.next_at().map_err(|error| words(&error))? {
        if members.len() + links.len() == MEMBERS_MAX {
            return Err(format!("it has more than {MEMBERS_MAX} files"));
        }
        let Ok(name) = String::from_utf8(entry.path) else { continue };
        let name = plain(&name).to_string();
        match entry.kind {
            Kind::File { size } => drop(members.insert(name, (offset, size))),
            Kind::Hardlink { target } => links.push((name, String::from_utf8_lossy(&target).into_owned())),
            Kind::Symlink { target } => {
                let target = String::from_utf8_lossy(&target).into_owned();
                links.push((name.clone(), beside(&name, &target)));
            }
            _ => {}
        }
    }
    for (name, target) in links {
        if let Some(place) = members.get(plain(&target)).copied() {
            members.insert(name, place);
        }
    }
    Ok(members)
}

/// `a/b/c` with the link `../d/e` → `a/d/e`
fn beside(name: &str, target: &str) -> String {
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn words(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
