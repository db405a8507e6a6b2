//! Log files: opened beneath the pod's log directory, appended to, cut back after a failed write.

use std::{
    fs::{DirBuilder, File},
    io::{self, Seek as _, Write as _},
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _},
    },
    path::Path,
};

use rustix::{
    fs::{self, Mode, OFlags, ResolveFlags},
    io::Errno,
};

/// An appending write that did not go through.
#[derive(Debug)]
pub(super) struct Cut {
    /// How many of the bytes are in the file: whole records, each with its newline.
    pub(super) whole: usize,
    /// Whether a piece of the next record is in the file too, because it could not be taken back.
    pub(super) torn: bool,
    pub(super) error: io::Error,
}

/// Makes the directories (0755) between the log directory and a log, and the log directory itself.
pub(super) fn make_parents(directory: &Path, file: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    let mut at = open_directory(directory)?;
    for name in file.parent().into_iter().flat_map(Path::components) {
        let name = Path::new(&name);
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        at = match open_beneath(&at, name, flags) {
            Err(Errno::NOENT) => {
                match fs::mkdirat(&at, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                open_beneath(&at, name, flags).map_err(explain)?
            }
            opened => opened.map_err(explain)?,
        };
    }
    Ok(())
}

fn open_directory(directory: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(fs::open(directory, flags, Mode::empty())?)
}

/// Opens `path` without leaving `directory` and through no symbolic link, not even in the middle (openat2(2)).
fn open_beneath(directory: &OwnedFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o640) } else { Mode::empty() };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    fs::openat2(directory, path, flags | OFlags::CLOEXEC, mode, resolve)
}

/// The words of a kernel error about a log.
fn explain(errno: Errno) -> io::Error {
    match errno {
        Errno::LOOP => bad("the log, or a directory of it below the log directory, is a symbolic link"),
        Errno::XDEV => bad("the log is not below the log directory"),
        other => other.into(),
    }
}

fn bad(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, problem)
}

/// Opens or makes the log (0640) for appending, and says whether it ends within a record.
///
/// The path comes from a request, and whoever may write to a directory on the way (a pod that has `/var/log` as a
/// volume, say) could turn it elsewhere: so it is walked from the log directory down, through no link. A second name
/// of some other file could make us write where the caller may not; a pipe or a device could make us wait.
pub(super) fn open(directory: &Path, file: &Path) -> io::Result<(File, bool)> {
    let guards = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | guards;
    let file = File::from(open_beneath(&open_directory(directory)?, file, flags).map_err(explain)?);
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(bad("the log is not a regular file"));
    }
    if meta.nlink() > 1 {
        return Err(bad("the log has a second name (hard link)"));
    }
    let torn = match meta.size().checked_sub(1) {
        None => false,
        Some(last) => {
            let mut byte = [b'\n'];
            file.read_at(&mut byte, last)?;
            byte != *b"\n"
        }
    };
    Ok((file, torn))
}

/// Appends whole records. What does not fit is taken back to the end of the last record that did.
pub(super) fn append(file: &File, records: &[u8]) -> Result<(), Cut> {
    let mut written = 0;
    let error = loop {
        match (&*file).write(&records[written..]) {
            Ok(0) => break io::ErrorKind::WriteZero.into(),
            Ok(more) if written + more == records.len() => return Ok(()),
            Ok(more) => written += more, // the rest is tried once more: it succeeds, or says why not
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break error,
        }
    };
    let whole = memchr::memrchr(b'\n', &records[..written]).map_or(0, |end| end + 1);
    let torn = written > whole && take_back(file, (written - whole) as u64).is_err();
    Err(Cut { whole, torn, error })
}

/// Removes the last `bytes` of the file, provided that they are ours: an appending write leaves the
/// position at its own end, so the file ends there unless somebody else has touched it.
pub(super) fn take_back(mut file: &File, bytes: u64) -> io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    let end = file.stream_position()?;
    if file.metadata()?.size() != end {
        return Err(io::ErrorKind::ResourceBusy.into());
    }
    let end = end.saturating_sub(bytes);
    file.set_len(end)?;
    file.seek(io::SeekFrom::Start(end)).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs::{self, OpenOptions},
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    #[test]
    fn a_new_log_is_not_for_the_world_and_a_kept_one_is_appended_to() {
        let folder = tempfile::tempdir().unwrap();
        let (directory, name) = (folder.path().join("pods/pod"), Path::new("container/0.log"));
        make_parents(&directory, name).unwrap();
        make_parents(&directory, name).unwrap(); // they are there
        let (file, torn) = open(&directory, name).unwrap();
        assert!(!torn);
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o137, 0);
        assert_eq!(fs::metadata(directory.join("container")).unwrap().permissions().mode() & 0o022, 0);
        append(&file, b"one\n").unwrap();
        append(&open(&directory, name).unwrap().0, b"two\n").unwrap();
        assert_eq!(fs::read(directory.join(name)).unwrap(), b"one\ntwo\n");
    }

    #[test]
    fn a_log_that_ends_within_a_record_is_known_as_torn() {
        let folder = tempfile::tempdir().unwrap();
        for (content, expected) in [("", false), ("a\n", false), ("a\nb", true)] {
            fs::write(folder.path().join("0.log"), content).unwrap();
            assert_eq!(open(folder.path(), Path::new("0.log")).unwrap().1, expected, "{content:?}");
        }
    }

    #[test]
    fn only_a_plain_file_of_one_name_is_a_log() {
        let folder = tempfile::tempdir().unwrap();
        let canary = folder.path().join("canary");
        fs::write(&canary, "canary\n").unwrap();
        let at = |name: &str| folder.path().join(name);
        let opens = |name: &str| open(folder.path(), Path::new(name)).is_ok();
        symlink(&canary, at("link")).unwrap();
        symlink(at("nowhere"), at("dangling")).unwrap();
        fs::create_dir(at("folder")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .unwrap();
        for name in ["link", "dangling", "folder", "pipe"] {
            assert!(!opens(name), "{name}");
        }
        assert!(opens("canary"));
        fs::hard_link(&canary, at("second")).unwrap();
        assert!(!opens("second"));
        assert!(!at("nowhere").exists());
        assert_eq!(fs::read(&canary).unwrap(), b"canary\n");
    }

    #[test]
    fn no_link_on_the_way_leads_a_log_out_of_its_directory() {
        let folder = tempfile::tempdir().unwrap();
        let (directory, elsewhere) = (folder.path().join("pod"), folder.path().join("elsewhere"));
        for path in [&directory, &elsewhere, &elsewhere.join("below")] {
            fs::create_dir(path).unwrap();
        }
        symlink(&elsewhere, directory.join("absolute")).unwrap();
        symlink("../elsewhere", directory.join("relative")).unwrap();
        symlink(".", directory.join("harmless")).unwrap();
        for link in ["absolute", "relative", "harmless"] {
            for name in [format!("{link}/0.log"), format!("{link}/below/0.log"), format!("{link}/new/0.log")]
            {
                let error = make_parents(&directory, Path::new(&name)).unwrap_err();
                assert!(error.to_string().contains("symbolic link"), "{name}: {error}");
                let error = open(&directory, Path::new(&name)).unwrap_err();
                assert!(error.to_string().contains("symbolic link"), "{name}: {error}");
            }
        }
        for name in ["../elsewhere/0.log", "/elsewhere/0.log"] {
            assert!(make_parents(&directory, Path::new(name)).is_err(), "{name}");
            assert!(open(&directory, Path::new(name)).is_err(), "{name}");
        }
        assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 1);
        assert_eq!(fs::read_dir(elsewhere.join("below")).unwrap().count(), 0);
        // An operator's link above it is an operator's.
        let moved = folder.path().join("moved");
        symlink(&directory, &moved).unwrap();
        make_parents(&moved, Path::new("c/0.log")).unwrap();
        assert!(open(&moved, Path::new("c/0.log")).is_ok());
    }

    #[test]
    fn a_device_without_room_takes_nothing() {
        let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
        let cut = append(&full, b"one\ntwo\n").unwrap_err();
        assert_eq!((cut.whole, cut.torn), (0, false));
        assert_eq!(cut.error.raw_os_error(), Some(rustix::io::Errno::NOSPC.raw_os_error()));
    }
}
