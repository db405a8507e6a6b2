//! Records as files: written beside and renamed, read whole, removed, swept.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::{
    fs::{FileType, Mode, OFlags},
    io::Errno,
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    BadRecord, Durability, RECORD_BYTES_MAX,
    record::{decode, encode},
};

/// Ends the name of a record that is still being written.
const UNFINISHED: &str = ".unfinished";

/// Other unfinished files of the same name to step over: those of killed daemons with our pid.
const UNFINISHED_TRIES_MAX: u32 = 64;

/// Writes `value` to `path`: beside it, then renamed over it. The folder must be there.
///
/// # Errors
/// Whatever the file system says; `path` then holds what it held before.
pub fn put<T: Serialize>(path: &Path, value: &T, durability: Durability) -> io::Result<()> {
    let bytes = encode(value)?;
    let (unfinished, file) = create_beside(path)?;
    let written = write_over(path, &unfinished, file, &bytes, durability);
    if written.is_err() {
        // After a failed fsync of the folder there is nothing left to remove.
        let _removed = fs::remove_file(&unfinished);
    }
    written
}

fn write_over(
    path: &Path,
    unfinished: &Path,
    mut file: File,
    bytes: &[u8],
    durability: Durability,
) -> io::Result<()> {
    file.write_all(bytes)?;
    if durability == Durability::Power {
        file.sync_all()?;
    }
    crate::failpoint!("store.temp-written");
    fs::rename(unfinished, path)?;
    crate::failpoint!("store.renamed");
    sync_folder(path, durability)
}

/// Reads the record at `path`.
///
/// # Errors
/// See [`BadRecord`]. A symbolic link, a folder, a device and a file of another user are damage.
pub fn get<T: DeserializeOwned>(path: &Path) -> Result<T, BadRecord> {
    let damaged = |what: String| Err(BadRecord::Damaged(what));
    // NONBLOCK: a fifo in a record's place must not hang the daemon.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT) => return Err(BadRecord::Absent),
        Err(Errno::LOOP) => return damaged("it is a symbolic link".into()),
        Err(Errno::NXIO | Errno::NODEV) => return damaged("it is not a file".into()),
        Err(errno) => return Err(BadRecord::Io(errno.into())),
    };
    let stat = rustix::fs::fstat(&file).map_err(io::Error::from)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return damaged("it is not a file".into());
    }
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return damaged(format!("it belongs to user {}", stat.st_uid));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(stat.st_size).unwrap_or(0).min(RECORD_BYTES_MAX));
    file.take(RECORD_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > RECORD_BYTES_MAX {
        return damaged(format!("it is longer than {RECORD_BYTES_MAX} bytes"));
    }
    decode(&bytes)
}

/// Removes the record at `path`; absent is success.
///
/// # Errors
/// Whatever the file system says.
pub fn remove(path: &Path, durability: Durability) -> io::Result<()> {
    match fs::remove_file(path) {
        Ok(()) => sync_folder(path, durability),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Removes what a killed daemon left half written in `folder`. For a start, before anything is put there.
///
/// # Errors
/// Whatever the file system says; an absent folder is success.
pub fn sweep(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with(UNFINISHED) && entry.file_type()?.is_file() {
            remove(&entry.path(), Durability::Process)?;
        }
    }
    Ok(())
}

/// Makes a file of a name of its own in the folder of `path`: two writers never share one.
fn create_beside(path: &Path) -> io::Result<(PathBuf, File)> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path has no file name"));
    };
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    for _ in 0..UNFINISHED_TRIES_MAX {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let mut beside = std::ffi::OsString::from(".");
        beside.push(name);
        beside.push(format!(".{}-{number}{UNFINISHED}", process::id()));
        let beside = path.with_file_name(beside);
        match rustix::fs::open(&beside, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => return Ok((beside, fd.into())),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "too many unfinished records of that name"))
}

fn sync_folder(path: &Path, durability: Durability) -> io::Result<()> {
    match (durability, path.parent()) {
        (Durability::Power, Some(folder)) => File::open(folder)?.sync_all(),
        (Durability::Power, None) | (Durability::Process, _) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::{PermissionsExt, symlink},
        thread,
    };

    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn a_record_is_put_got_replaced_and_removed() {
        let folder = folder();
        let path = folder.path().join("web.pod");
        assert!(matches!(get::<u32>(&path), Err(BadRecord::Absent)));
        for durability in [Durability::Process, Durability::Power] {
            put(&path, &1, durability).unwrap();
            put(&path, &2, durability).unwrap();
            assert_eq!(get::<u32>(&path).unwrap(), 2);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            remove(&path, durability).unwrap();
            remove(&path, durability).unwrap();
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn what_is_not_a_file_of_ours_is_damage() {
        let folder = folder();
        let good = folder.path().join("good");
        put(&good, &1, Durability::Process).unwrap();
        let [link, dir, fifo, socket] =
            ["link", "dir", "fifo", "socket"].map(|name| folder.path().join(name));
        symlink(&good, &link).unwrap();
        fs::create_dir(&dir).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for bad in [link, dir, fifo, socket] {
            let got = get::<u32>(&bad);
            assert!(matches!(got, Err(BadRecord::Damaged(_))), "{bad:?}: {got:?}");
        }
    }

    #[test]
    fn a_huge_file_is_damage_and_is_not_read_whole() {
        let folder = folder();
        let path = folder.path().join("huge");
        File::create(&path).unwrap().set_len(1 << 30).unwrap();
        assert!(matches!(get::<u32>(&path), Err(BadRecord::Damaged(_))));
    }

    #[test]
    fn a_failed_put_leaves_the_old_record_and_nothing_beside_it() {
        let folder = folder();
        let path = folder.path().join("record");
        fs::create_dir_all(path.join("in the way")).unwrap();
        put(&path, &1, Durability::Process).unwrap_err();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn sweep_takes_only_what_was_half_written() {
        let folder = folder();
        let path = folder.path().join("record");
        put(&path, &7, Durability::Process).unwrap();
        let (unfinished, _file) = create_beside(&path).unwrap();
        assert!(unfinished.exists());
        sweep(folder.path()).unwrap();
        assert!(!unfinished.exists());
        assert_eq!(get::<u32>(&path).unwrap(), 7);
        sweep(&folder.path().join("absent")).unwrap();
    }

    #[test]
    fn readers_and_writers_of_one_path_never_see_a_half() {
        let folder = folder();
        let path = folder.path().join("record");
        let text = |n: u8| char::from(b'a' + n).to_string().repeat(1000 * (1 + usize::from(n)));
        put(&path, &text(0), Durability::Process).unwrap();
        thread::scope(|scope| {
            for first in 0..2 {
                let path = &path;
                scope.spawn(move || {
                    for n in 0..200u8 {
                        put(path, &text((n + first) % 20), Durability::Process).unwrap();
                    }
                });
                scope.spawn(move || {
                    for _ in 0..1000 {
                        let got = get::<String>(path).unwrap();
                        assert_eq!(got, text(got.as_bytes()[0] - b'a'));
                    }
                });
            }
        });
    }
}
