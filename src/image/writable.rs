//! The containers' writable layers: `containers/<id>/{upper,work}`.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::fs::{self, AtFlags, Dir, FileType, Mode};
use tracing::{debug, error};

use super::{Error, erase, folder};
use crate::failpoint;

/// The disk is walked at most this often, however many ask.
const SAMPLE_EVERY: Duration = Duration::from_secs(10);
/// Directories deeper than this are not counted; each level holds a descriptor.
const COUNTED_DEPTH_MAX: usize = 256;
/// Longest name of a container's folder; bytes.
const NAME_BYTES_MAX: usize = 128;

#[derive(Debug)]
pub(super) struct Writable {
    path: PathBuf,
    sample: Arc<Sample>,
}

#[derive(Debug, Default)]
struct Sample {
    last: Mutex<Last>,
    running: AtomicBool,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Last {
    at: Option<Instant>,
    pub(super) bytes: u64,
    pub(super) inodes: u64,
}

impl Writable {
    pub(super) fn open(root: &Path) -> Result<Self, Error> {
        let path = root.join("containers");
        folder::make_private(&path)?;
        Ok(Self { path, sample: Arc::default() })
    }

    /// The container's folder, with an empty `upper` and `work` when it is new.
    pub(super) fn make(&self, container: &str) -> Result<PathBuf, Error> {
        let path = self.folder(container)?;
        folder::make_private(&path)?;
        folder::make_private(&path.join("work"))?;
        let upper = path.join("upper");
        folder::make_private(&upper)?;
        // The root of the container takes its mode from here. Everyone in it may enter; on the host nobody
        // gets this far.
        fs::chmod(&upper, Mode::from_raw_mode(0o755))
            .map_err(|error| Error::store("set mode of", upper, error))?;
        failpoint!("image.writable-made");
        Ok(path)
    }

    /// Where a container's folder is or would be.
    pub(super) fn folder(&self, container: &str) -> Result<PathBuf, Error> {
        if is_plain(container) {
            return Ok(self.path.join(container));
        }
        Err(Error::store("name folder in", &self.path, io::Error::from(io::ErrorKind::InvalidFilename)))
    }

    /// Deletes it with all that is in it; absent is success. Blocks.
    pub(super) fn remove(&self, container: &str) -> Result<(), Error> {
        let path = self.folder(container)?;
        let parent = folder::open(&self.path).map_err(|error| Error::store("open", &self.path, error))?;
        erase::at(&parent, container).map_err(|error| Error::store("delete", path, error))
    }

    /// Names of all folders.
    pub(super) fn containers(&self) -> Result<Vec<String>, Error> {
        let entries =
            std::fs::read_dir(&self.path).map_err(|error| Error::store("read", &self.path, error))?;
        Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
    }

    /// What the last sample found. Takes a new one in the background when that is due.
    pub(super) fn usage(&self) -> Last {
        let last = *self.sample.last.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.at.is_none_or(|at| at.elapsed() >= SAMPLE_EVERY);
        if due && !self.sample.running.swap(true, Ordering::AcqRel) {
            let (path, sample) = (self.path.clone(), self.sample.clone());
            super::local::background(move || {
                let (bytes, inodes) = measure(&path);
                let now = Last { at: Some(Instant::now()), bytes, inodes };
                *sample.last.lock().unwrap_or_else(PoisonError::into_inner) = now;
                sample.running.store(false, Ordering::Release);
                debug!(bytes, inodes, "writable layers sampled");
            });
        }
        last
    }
}

/// Whether a text can be the name of one file.
pub(super) fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && !matches!(name, "." | "..")
        && !name.contains(['/', '\0'])
}

/// Bytes and inodes of a tree. What goes away meanwhile is not counted.
fn measure(path: &Path) -> (u64, u64) {
    let mut sum = (0, 0);
    match folder::open(path) {
        Ok(top) => count(&top, 0, &mut sum),
        Err(error) => error!(path = %path.display(), %error, "writable layers cannot be measured"),
    }
    sum
}

fn count(directory: &OwnedFd, depth: usize, sum: &mut (u64, u64)) {
    let Ok(entries) = Dir::read_from(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let Ok(stat) = fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        sum.0 += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        sum.1 += 1;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            && depth < COUNTED_DEPTH_MAX
            && let Ok(below) = erase::open(directory, name)
        {
            count(&below, depth + 1, sum);
        }
    }
}
