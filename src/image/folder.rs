//! Folders of our own, their locks, and what a dead process left in them.

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::{
    fs::{self, FlockOperation, Mode, OFlags},
    io::Errno,
};
use tracing::warn;

use super::{Error, erase};

/// Longest name of a folder or file that is named by a caller; bytes. An id has 64.
const NAME_BYTES_MAX: usize = 128;

/// Whether a text can be the name of one file.
pub(super) fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && !matches!(name, "." | "..")
        && !name.contains(['/', '\0'])
}

/// Makes `path` if it is not there, for root alone.
pub(super) fn make_private(path: &Path) -> Result<(), Error> {
    match fs::mkdir(path, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(Error::store("make", path, error)),
    }
    let fd = open(path).map_err(|error| Error::store("open", path, error))?;
    match fs::fchmod(&fd, Mode::from_raw_mode(0o700)) {
        // It was made by us, before the disk became read-only.
        Err(Errno::ROFS) => Ok(()),
        result => result.map_err(|error| Error::store("set mode of", path, error)),
    }
}

/// Whether a step failed because the disk takes nothing now: it is read-only or full.
pub(super) fn takes_nothing(error: &Error) -> bool {
    let read_only = |source: &io::Error| source.kind() == io::ErrorKind::ReadOnlyFilesystem;
    let refused = matches!(error, Error::Store { source, .. } if read_only(source));
    refused || matches!(error, Error::Full { .. })
}

/// Opens a directory that is no symbolic link.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(fs::open(path, flags, Mode::empty())?)
}

/// Makes the names in a folder durable.
pub(super) fn sync(path: &Path) -> Result<(), Error> {
    let synced = open(path).and_then(|fd| Ok(fs::fsync(&fd)?));
    synced.map_err(|error| Error::store("sync", path, error))
}

/// Held while images are published or removed, by every process that works on the same root. It keeps
/// layers that are about to be used from being collected.
#[derive(Debug)]
pub(super) struct Lock {
    _file: OwnedFd,
}

impl Lock {
    /// Waits for the lock of `root`. Blocks; others hold it for as long as some renames and fsyncs take.
    pub(super) fn take(root: &Path) -> Result<Self, Error> {
        let path = root.join("images.lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let failed = |error: Errno| Error::store("lock", &path, error);
        let file = match fs::open(&path, flags, Mode::from_raw_mode(0o600)) {
            // Nobody can publish or remove; whoever reads can lock what is there.
            Err(Errno::ROFS) => fs::open(&path, OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()),
            opened => opened,
        };
        let file = file.map_err(failed)?;
        loop {
            match fs::flock(&file, FlockOperation::LockExclusive) {
                Err(Errno::INTR) => {}
                result => break result.map_err(failed)?,
            }
        }
        Ok(Self { _file: file })
    }
}

/// The place of this process for unfinished work: `<root>/ingest/<random>`. Its lock tells others that the
/// process lives; without it, whoever opens the root next clears the place away.
#[derive(Debug)]
pub(super) struct Ingest {
    path: PathBuf,
    next: AtomicU64,
    /// `None`: the disk has taken nothing yet.
    lock: Mutex<Option<OwnedFd>>,
}

impl Ingest {
    pub(super) fn open(root: &Path) -> Result<Self, Error> {
        let all = root.join("ingest");
        make_private(&all)?;
        clear_dead(&all)?;
        let mut random = [0_u8; 16];
        getrandom::fill(&mut random)
            .map_err(|error| Error::store("name folder in", &all, io::Error::other(error)))?;
        let path = all.join(format!("{:032x}", u128::from_ne_bytes(random)));
        let ingest = Self { path, next: AtomicU64::new(0), lock: Mutex::default() };
        match ingest.make() {
            // What is here already can be listed and run; pulls say why they fail.
            Err(error) if takes_nothing(&error) => warn!(%error, "no image can be pulled now"),
            made => made?,
        }
        Ok(ingest)
    }

    /// Makes the place and locks it, if that is still to be done.
    fn make(&self) -> Result<(), Error> {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if lock.is_some() {
            return Ok(());
        }
        let path = &self.path;
        make_private(path)?;
        let own = open(path).map_err(|error| Error::store("open", path, error))?;
        fs::flock(&own, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| Error::store("lock", path, error))?;
        *lock = Some(own);
        Ok(())
    }

    /// A new empty folder, which goes when the last hold on it goes.
    pub(super) fn folder(self: &Arc<Self>) -> Result<Folder, Error> {
        self.make()?;
        let path = self.unused();
        make_private(&path)?;
        Ok(Folder { path, _ingest: self.clone() })
    }

    /// Takes `path` out of sight by moving it here; it is deleted when the folder goes.
    pub(super) fn condemn(self: &Arc<Self>, path: &Path) -> Result<Folder, Error> {
        self.make()?;
        let folder = Folder { path: self.unused(), _ingest: self.clone() };
        std::fs::rename(path, &folder.path).map_err(|error| Error::store("move away", path, error))?;
        Ok(folder)
    }

    fn unused(&self) -> PathBuf {
        self.path.join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// A folder of unfinished work. Once it is renamed away there is nothing left to delete.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    _ingest: Arc<Ingest>,
}

impl Drop for Folder {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes a tree of ours; what cannot go now goes at the next start.
fn remove(path: &Path) {
    if let (Some(parent), Some(name)) = (path.parent(), path.file_name())
        && let Err(error) = open(parent).and_then(|parent| erase::at(&parent, name))
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!(path = %path.display(), %error, "unfinished image work could not be deleted");
    }
}

/// Clears away what processes left that live no more.
fn clear_dead(all: &Path) -> Result<(), Error> {
    let entries = std::fs::read_dir(all).map_err(|error| Error::store("read", all, error))?;
    for entry in entries {
        let path = entry.map_err(|error| Error::store("read", all, error))?.path();
        match File::open(&path) {
            Ok(file) => match fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => remove(&path),
                Err(Errno::WOULDBLOCK) => {} // its process lives
                Err(error) => warn!(path = %path.display(), %error, "unfinished image work cannot be judged"),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // It may be a living process's.
            Err(error) => warn!(path = %path.display(), %error, "unfinished image work cannot be judged"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_process_leaves_nothing_and_a_live_one_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let live = Arc::new(Ingest::open(root.path()).unwrap());
        let folder = live.folder().unwrap();
        std::fs::create_dir_all(root.path().join("ingest/dead/7/fs")).unwrap();

        let second = Ingest::open(root.path()).unwrap();
        assert!(folder.path.exists());
        assert!(!root.path().join("ingest/dead").exists());
        drop(second);

        let path = folder.path.clone();
        drop(folder);
        assert!(!path.exists());
        drop(live);
        assert_eq!(std::fs::read_dir(root.path().join("ingest")).unwrap().count(), 0);
    }
}
