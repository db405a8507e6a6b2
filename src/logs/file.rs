use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use rustix::fs::OFlags;

/// An appending write that did not go through.
#[derive(Debug)]
pub(super) struct Cut {
    /// How many of the bytes are in the file: whole records, each with its newline.
    pub(super) whole: usize,
    /// Whether a piece of the next record is in the file too, because it could not be taken back.
    pub(super) torn: bool,
    pub(super) error: io::Error,
}

/// Makes the folders (0755) above a log.
pub(super) fn make_parents(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => DirBuilder::new().recursive(true).mode(0o755).create(folder),
        None => Ok(()),
    }
}

/// Opens or makes the log (0640) for appending, and says whether it ends within a record.
///
/// The path comes from a request. A symbolic link, or a second name of some other file, could make us
/// write where the caller may not; a pipe or a device could make us wait.
pub(super) fn open(path: &Path) -> io::Result<(File, bool)> {
    let guards = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(guards.bits().cast_signed())
        .open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the log is not a regular file"));
    }
    if meta.nlink() > 1 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the log has a second name (hard link)"));
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
        fs,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    #[test]
    fn a_new_log_is_not_for_the_world_and_a_kept_one_is_appended_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pod/container/0.log");
        make_parents(&path).unwrap();
        let (file, torn) = open(&path).unwrap();
        assert!(!torn);
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o137, 0);
        assert_eq!(fs::metadata(folder.path().join("pod")).unwrap().permissions().mode() & 0o022, 0);
        append(&file, b"one\n").unwrap();
        append(&open(&path).unwrap().0, b"two\n").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\n");
    }

    #[test]
    fn a_log_that_ends_within_a_record_is_known_as_torn() {
        let folder = tempfile::tempdir().unwrap();
        for (content, expected) in [("", false), ("a\n", false), ("a\nb", true)] {
            let path = folder.path().join("0.log");
            fs::write(&path, content).unwrap();
            assert_eq!(open(&path).unwrap().1, expected, "{content:?}");
        }
    }

    #[test]
    fn only_a_plain_file_of_one_name_is_a_log() {
        let folder = tempfile::tempdir().unwrap();
        let canary = folder.path().join("canary");
        fs::write(&canary, "canary\n").unwrap();
        let at = |name: &str| folder.path().join(name);
        symlink(&canary, at("link")).unwrap();
        symlink(at("nowhere"), at("dangling")).unwrap();
        fs::create_dir(at("folder")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .unwrap();
        for name in ["link", "dangling", "folder", "pipe"] {
            assert!(open(&at(name)).is_err(), "{name}");
        }
        assert!(open(&canary).is_ok());
        fs::hard_link(&canary, at("second")).unwrap();
        assert!(open(&at("second")).is_err());
        assert!(!at("nowhere").exists());
        assert_eq!(fs::read(&canary).unwrap(), b"canary\n");
    }

    #[test]
    fn a_device_without_room_takes_nothing() {
        let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
        let cut = append(&full, b"one\ntwo\n").unwrap_err();
        assert_eq!((cut.whole, cut.torn), (0, false));
        assert_eq!(cut.error.raw_os_error(), Some(rustix::io::Errno::NOSPC.raw_os_error()));
    }
}
