//! The files of a log: the one that is written, and those that the kubelet has rotated away from it.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Read as _},
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::Path,
    time::SystemTime,
};

use flate2::read::MultiGzDecoder;
use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create};

/// Bytes that a compressed file may have when it is unpacked, which it is in memory. The kubelet rotates at
/// `containerLogMaxSize`, 10 MiB by default.
const UNPACKED_BYTES_MAX: u64 = 1 << 30;

const PACKED: &[u8] = b".gz";

/// A file of a log.
#[derive(Debug)]
pub(super) struct LogFile {
    file: File,
    packed: bool,
}

impl LogFile {
    /// Whether it was last written before `time`, and so has nothing later.
    pub(super) fn is_older_than(&self, time: SystemTime) -> bool {
        self.file.metadata().and_then(|meta| meta.modified()).is_ok_and(|written| written < time)
    }

    /// To be read as text.
    pub(super) fn into_text(self) -> io::Result<File> {
        if self.packed { unpack(&self.file) } else { Ok(self.file) }
    }
}

/// Opens the files of the log at `path`, oldest first. The last is the one that is written; between the kubelet's
/// rename and the new file, it is the renamed one.
pub(super) fn open_all(path: &Path) -> io::Result<Vec<LogFile>> {
    let current = match open(path) {
        // Opened before the others are listed: if it is renamed meanwhile, it is known by its identity.
        Ok(file) => Some(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let mut files = open_rotated(path)?;
    match current {
        Some(file) => {
            let id = identity(&file)?;
            if let Some(renamed) = position(&files, id)? {
                files.truncate(renamed);
            }
            files.push(LogFile { file, packed: false });
            Ok(files)
        }
        None if files.last().is_some_and(|last| !last.packed) => Ok(files),
        None => Err(io::ErrorKind::NotFound.into()),
    }
}

/// The files that came after `read`, which was renamed since it was opened or cut short: the last is the one at `path`.
/// Empty while there is none.
pub(super) fn open_after(path: &Path, read: &File, offset: u64) -> io::Result<Vec<LogFile>> {
    let current = match open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let read = identity(read)?;
    if identity(&current)? == read {
        let is_cut = current.metadata()?.size() < offset;
        return Ok(if is_cut { vec![LogFile { file: current, packed: false }] } else { Vec::new() });
    }
    let mut between = open_rotated(path)?;
    let renamed = position(&between, read)?;
    // One that was packed or removed meanwhile cannot be recognized: then only the last is sure to be new.
    between.drain(..renamed.map_or(between.len(), |at| at + 1));
    between.push(LogFile { file: current, packed: false });
    Ok(between)
}

fn position(files: &[LogFile], id: (u64, u64)) -> io::Result<Option<usize>> {
    for (at, each) in files.iter().enumerate() {
        if identity(&each.file)? == id {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// Device and inode.
fn identity(file: &File) -> io::Result<(u64, u64)> {
    file.metadata().map(|meta| (meta.dev(), meta.ino()))
}

fn open_rotated(path: &Path) -> io::Result<Vec<LogFile>> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(Vec::new()) };
    let names = fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.file_name()));
    let mut files = Vec::new();
    for name in rotated(name, names.collect::<Result<_, _>>()?) {
        match open(&folder.join(&name)) {
            Ok(file) => files.push(LogFile { file, packed: name.as_bytes().ends_with(PACKED) }),
            // Packed, or removed, a moment ago.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}

/// Those of `names` that the kubelet gives to what it rotates away from `log`, oldest first: `LOG.20261128-100000`, and
/// the same with `.gz` once it is packed.
fn rotated(log: &OsStr, mut names: Vec<OsString>) -> Vec<OsString> {
    let plain = |name: &OsStr| -> bool {
        let rest = name.as_bytes().strip_prefix(log.as_bytes()).and_then(|rest| rest.strip_prefix(b"."));
        let is_digit = |(at, byte): (usize, &u8)| if at == 8 { *byte == b'-' } else { byte.is_ascii_digit() };
        rest.is_some_and(|time| time.len() == 15 && time.iter().enumerate().all(is_digit))
    };
    let unpacked =
        |name: &OsStr| name.as_bytes().strip_suffix(PACKED).map(|name| OsStr::from_bytes(name).to_owned());
    names.sort_unstable();
    // One that is just being packed is there twice.
    let both: Vec<OsString> = names.iter().filter(|name| plain(name)).cloned().collect();
    names.retain(|name| {
        plain(name) || unpacked(name).is_some_and(|name| plain(&name) && !both.contains(&name))
    });
    names
}

/// A pipe or a device of that name would make us wait.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    Ok(file)
}

fn unpack(packed: &File) -> io::Result<File> {
    let memory: OwnedFd = memfd_create("pintle-log", MemfdFlags::CLOEXEC)?;
    let mut text = File::from(memory);
    let mut unpacked = MultiGzDecoder::new(packed).take(UNPACKED_BYTES_MAX + 1);
    if io::copy(&mut unpacked, &mut text)? > UNPACKED_BYTES_MAX {
        let text = format!("it has more than {UNPACKED_BYTES_MAX} bytes when unpacked");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    io::Seek::rewind(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, path::PathBuf};

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    /// A folder with files, and the path of the log in it.
    fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = File::create(folder.path().join(name)).unwrap();
            if name.ends_with(".gz") {
                let mut packed = GzEncoder::new(file, Compression::fast());
                packed.write_all(text.as_bytes()).unwrap();
                packed.finish().unwrap();
            } else {
                (&file).write_all(text.as_bytes()).unwrap();
            }
        }
        let log = folder.path().join("0.log");
        (folder, log)
    }

    fn texts(files: Vec<LogFile>) -> Vec<String> {
        files.into_iter().map(|file| io::read_to_string(file.into_text().unwrap()).unwrap()).collect()
    }

    #[test]
    fn only_the_kubelets_names_are_of_a_log() {
        let names = [
            "0.log.20260102-000000",
            "0.log",
            "0.log.20260101-000000.gz",
            "0.log.20260103-000000.gz",
            "0.log.20260103-000000",
            "0.log.20260101-000000.tmp",
            "0.log.20260101x000000",
            "0.log.bak",
            "10.log.20260101-000000",
            "1.log",
        ];
        let found = rotated(OsStr::new("0.log"), names.map(OsString::from).to_vec());
        let expected = ["0.log.20260101-000000.gz", "0.log.20260102-000000", "0.log.20260103-000000"];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_log_is_read_from_its_oldest_file_on() {
        let files = [("0.log", "c"), ("0.log.20260102-000000", "b"), ("0.log.20260101-000000.gz", "a")];
        let (_folder, log) = folder(&files);
        assert_eq!(texts(open_all(&log).unwrap()), ["a", "b", "c"]);
    }

    #[test]
    fn a_log_that_is_being_rotated_is_there_all_the_same() {
        let (_folder, log) = folder(&[("0.log.20260102-000000", "b")]);
        assert_eq!(texts(open_all(&log).unwrap()), ["b"]);
        let (_folder, log) = folder(&[]);
        assert_eq!(open_all(&log).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn what_came_after_a_file_is_found_however_often_it_was_rotated() {
        let (folder, log) = folder(&[("0.log", "a")]);
        let read = open(&log).unwrap();
        let at = |name: &str| folder.path().join(name);
        assert!(open_after(&log, &read, 1).unwrap().is_empty());
        fs::rename(&log, at("0.log.20260101-000000")).unwrap();
        assert!(open_after(&log, &read, 1).unwrap().is_empty(), "there is no new one yet");
        fs::write(&log, "b").unwrap();
        assert_eq!(texts(open_after(&log, &read, 1).unwrap()), ["b"]);
        fs::rename(&log, at("0.log.20260102-000000")).unwrap();
        fs::write(&log, "c").unwrap();
        assert_eq!(texts(open_after(&log, &read, 1).unwrap()), ["b", "c"]);
        fs::remove_file(at("0.log.20260101-000000")).unwrap();
        assert_eq!(texts(open_after(&log, &read, 1).unwrap()), ["c"]);
    }

    #[test]
    fn a_file_that_was_cut_short_begins_anew() {
        let (_folder, log) = folder(&[("0.log", "abc")]);
        let read = open(&log).unwrap();
        fs::write(&log, "d").unwrap();
        assert_eq!(texts(open_after(&log, &read, 3).unwrap()), ["d"]);
    }

    #[test]
    fn only_a_regular_file_is_a_log() {
        let (folder, log) = folder(&[]);
        fs::create_dir(&log).unwrap();
        assert!(open_all(&log).unwrap_err().to_string().contains("not a regular file"));
        drop(folder);
    }
}
