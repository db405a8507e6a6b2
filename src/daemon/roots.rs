//! The folders `root` and `state`: their modes, and the lock of the one daemon on each.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags, fchmod, flock, fstat, open},
    io::Errno,
    process::geteuid,
};
use tracing::warn;

/// Only root looks into either folder. Nothing needs to walk through them from inside a user namespace:
/// helpers hand over mounts, not paths.
const FOLDER_MODE: u32 = 0o700;
const PARENT_MODE: u32 = 0o755;
const WRITABLE_BY_OTHERS: u32 = 0o022;
const LOCK: &str = "daemon.lock";

/// The daemon's two folders, locked against a second daemon as long as this lives.
#[derive(Debug)]
pub(super) struct Roots {
    _locks: [File; 2],
}

/// Why a folder may not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{doing} {}", path.display())]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is a symbolic link or no folder; name the folder itself", path.display())]
    NotAFolder { path: PathBuf },
    #[error("{} belongs to user {owner}, not to us; look who made it, then remove it or choose another", path.display())]
    ForeignOwner { path: PathBuf, owner: u32 },
    #[error("{} may be written by others (mode {mode:04o}); look what is in it, then `chmod go-w` it", path.display())]
    WritableByOthers { path: PathBuf, mode: u32 },
    #[error("another pintle{} uses {}", pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(), path.display())]
    InUse { path: PathBuf, pid: Option<u32> },
}

impl Roots {
    /// Makes both folders if need be, checks them, and takes both locks: two daemons may share neither.
    pub(super) fn open(root: &Path, state: &Path) -> Result<Self, Error> {
        Ok(Self { _locks: [lock(root)?, lock(state)?] })
    }
}

/// Makes `path` or checks that it is ours alone; a mode that is only too open for reading is put right.
pub(super) fn prepare(path: &Path) -> Result<(), Error> {
    let failed = |doing, source| Error::File { doing, path: path.into(), source };
    if let Some(parent) = path.parent() {
        make_parents(parent).map_err(|source| failed("make the folder of", source))?;
    }
    match DirBuilder::new().mode(FOLDER_MODE).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(failed("make folder", error));
        }
        _ => {}
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = match open(path, flags, Mode::empty()) {
        Err(Errno::NOTDIR | Errno::LOOP) => return Err(Error::NotAFolder { path: path.into() }),
        opened => opened.map_err(|errno| failed("open folder", errno.into()))?,
    };
    let stat = fstat(&folder).map_err(|errno| failed("stat", errno.into()))?;
    if stat.st_uid != geteuid().as_raw() {
        return Err(Error::ForeignOwner { path: path.into(), owner: stat.st_uid });
    }
    let mode = stat.st_mode & 0o7777;
    if mode & WRITABLE_BY_OTHERS != 0 {
        return Err(Error::WritableByOthers { path: path.into(), mode });
    }
    if mode != FOLDER_MODE {
        fchmod(&folder, Mode::from_raw_mode(FOLDER_MODE)).map_err(|errno| failed("chmod", errno.into()))?;
    }
    Ok(())
}

/// Makes the folders above ours that are missing, 0755 whatever the umask: they are not ours alone.
fn make_parents(folder: &Path) -> io::Result<()> {
    let missing: Vec<_> = folder.ancestors().take_while(|above| !above.exists()).collect();
    for folder in missing.into_iter().rev().filter(|folder| !folder.as_os_str().is_empty()) {
        match fs::create_dir(folder) {
            Ok(()) => fs::set_permissions(folder, fs::Permissions::from_mode(PARENT_MODE))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Locks `folder` for this process. The kernel gives the lock back however the process ends.
fn lock(folder: &Path) -> Result<File, Error> {
    prepare(folder)?;
    let path = folder.join(LOCK);
    let failed = |doing| {
        let path = path.clone();
        move |source| Error::File { doing, path, source }
    };
    let mut file = open_lock(&path).map_err(failed("open"))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            let read = file.read_to_string(&mut holder);
            let pid = read.ok().and_then(|_| holder.trim().parse().ok());
            return Err(Error::InUse { path: folder.into(), pid });
        }
        Err(errno) => return Err(failed("lock")(errno.into())),
    }
    let noted =
        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    if let Err(error) = noted {
        // The lock holds without it; only a second daemon would not know who we are.
        warn!(path = %path.display(), %error, "could not note in the lock who holds it");
    }
    Ok(file)
}

/// On a file system that has become read-only the lock of an earlier daemon can be taken.
fn open_lock(path: &Path) -> io::Result<File> {
    let options =
        |write: bool| fs::OpenOptions::new().read(true).write(write).create(write).truncate(false).clone();
    match options(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => options(false).open(path),
        opened => opened,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_missing_folder_is_made_for_us_alone_and_a_readable_one_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lib/pintle");
        for _ in 0..2 {
            prepare(&path).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o700);
            chmod(&path, 0o755);
        }
    }

    #[test]
    #[expect(deprecated, reason = "its successor is unsafe for the sake of another flag")]
    fn a_folder_above_ours_is_not_closed_to_others_by_our_umask() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("srv/containers/pintle");
        let as_daemon = || {
            // A umask of this thread alone.
            rustix::thread::unshare(rustix::thread::UnshareFlags::FS).unwrap();
            rustix::process::umask(Mode::RWXG | Mode::RWXO);
            prepare(&path).unwrap();
        };
        std::thread::scope(|scope| scope.spawn(as_daemon).join().unwrap());
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        let above = path.parent().unwrap();
        assert_eq!([mode(above.parent().unwrap()), mode(above), mode(&path)], [0o755, 0o755, 0o700]);
    }

    #[test]
    fn a_folder_that_others_could_have_filled_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pintle");
        symlink(dir.path(), &path).unwrap();
        assert!(matches!(prepare(&path), Err(Error::NotAFolder { .. })));
        fs::remove_file(&path).unwrap();

        fs::write(&path, "").unwrap();
        assert!(matches!(prepare(&path), Err(Error::NotAFolder { .. })));
        fs::remove_file(&path).unwrap();

        fs::create_dir(&path).unwrap();
        chmod(&path, 0o1777);
        assert!(matches!(prepare(&path), Err(Error::WritableByOthers { mode: 0o1777, .. })));
        chmod(&path, 0o700);

        if geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
            assert!(matches!(prepare(&path), Err(Error::ForeignOwner { owner: 12345, .. })));
        }
    }

    #[test]
    fn a_second_daemon_is_told_who_holds_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let (root, state) = (dir.path().join("root"), dir.path().join("state"));
        let first = Roots::open(&root, &state).unwrap();
        let error = Roots::open(&dir.path().join("other"), &state).unwrap_err();
        let pid = std::process::id();
        assert_eq!(error.to_string(), format!("another pintle (pid {pid}) uses {}", state.display()));
        drop(first);
        Roots::open(&root, &state).unwrap();
    }
}
