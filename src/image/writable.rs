//! The containers' writable layers: `containers/<id>/{upper,work}`, the volumes of their images beside those
//! (`volumes/<number>`, which the helper makes), and what they hold.
//!
//! No caller waits for a walk over a disk. A new layer is measured as it is made, when nothing is in it yet;
//! later a thread in the background walks those that are due, one after the other, when somebody asks. What
//! is walked was filled by strangers: links are not followed, mounts not entered, and a layer that takes long
//! is walked the less often.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use rustix::{
    fs::{self, AtFlags, Dir, FileType, Mode, Stat},
    io::Errno,
};
use tracing::{debug, warn};

use super::{
    Error,
    background::background,
    erase,
    folder::{self, is_plain},
};
use crate::{failpoint, model::UnixNanos};

/// A layer is walked at most this often, however many ask.
const WALK_EVERY: Duration = Duration::from_secs(10);
/// A layer rests at least this many times as long as its walk took: one with millions of files costs two
/// hundredths of a processor at most.
const REST_PER_WALK: u32 = 50;
/// Directories deeper than this are not counted; each level holds a descriptor.
const COUNTED_DEPTH_MAX: usize = 256;
/// Files with several names that are remembered in one walk, so that each counts once. Of further ones each
/// name counts for its share of the bytes.
const LINKED_MAX: usize = 65_536;

#[derive(Debug)]
pub(super) struct Writable {
    path: PathBuf,
    samples: Arc<Samples>,
}

/// Results of the walks, by container.
#[derive(Debug, Default)]
struct Samples {
    known: Mutex<BTreeMap<String, Sample>>,
    walking: AtomicBool,
    /// When folders were last looked for that nobody here has made.
    listed: Mutex<Option<Instant>>,
}

/// The measured size of one folder.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: UnixNanos,
    due: Instant,
    /// Files that the container wrote, the volumes of its image included.
    upper: Sum,
    /// The folder with what overlayfs needs beside that.
    rest: Sum,
}

/// Bytes and inodes on disk.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Sum {
    pub(super) bytes: u64,
    pub(super) inodes: u64,
}

impl Writable {
    pub(super) fn open(root: &Path) -> Result<Self, Error> {
        let path = root.join("containers");
        folder::make_private(&path)?;
        Ok(Self { path, samples: Arc::default() })
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
        self.samples.take(&self.path, container);
        failpoint!("image.writable-made");
        Ok(path)
    }

    /// The path of a container's folder, whether it exists or not.
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
        erase::at(&parent, container).map_err(|error| Error::store("delete", path, error))?;
        self.samples.known().remove(container);
        Ok(())
    }

    /// Names of all folders.
    pub(super) fn containers(&self) -> Result<Vec<String>, Error> {
        names(&self.path).map_err(|error| Error::store("read", &self.path, error))
    }

    /// The sum of the last walks over all folders. Has those that are due walked again, in the background.
    pub(super) fn usage(&self) -> Sum {
        self.refresh();
        let mut sum = Sum::default();
        for sample in self.samples.known().values() {
            for part in [sample.upper, sample.rest] {
                sum.bytes = sum.bytes.saturating_add(part.bytes);
                sum.inodes = sum.inodes.saturating_add(part.inodes);
            }
        }
        sum
    }

    /// The size of one container's files, and when it was measured. `None`: not measured yet, or unknown.
    pub(super) fn usage_of(&self, container: &str) -> Option<(UnixNanos, Sum)> {
        let sample = *self.samples.known().get(container)?;
        Some((sample.at, sample.upper))
    }

    /// Has the layers that are due walked, in the background; returns at once.
    pub(super) fn refresh(&self) {
        let now = Instant::now();
        let unlisted =
            locked(&self.samples.listed).is_none_or(|listed| now.duration_since(listed) >= WALK_EVERY);
        let due = unlisted || self.samples.known().values().any(|sample| sample.due <= now);
        if due && !self.samples.walking.swap(true, Ordering::AcqRel) {
            let (path, samples) = (self.path.clone(), self.samples.clone());
            background(move || {
                samples.walk_due(&path);
                samples.walking.store(false, Ordering::Release);
            });
        }
    }
}

impl Samples {
    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Sample>> {
        locked(&self.known)
    }

    fn walk_due(&self, path: &Path) {
        let names: HashSet<String> = match names(path) {
            Ok(names) => names.into_iter().collect(),
            Err(error) => return warn!(path = %path.display(), %error, "writable layers cannot be listed"),
        };
        let now = Instant::now();
        *locked(&self.listed) = Some(now);
        let due: Vec<&String> = {
            let mut known = self.known();
            known.retain(|name, _| names.contains(name));
            names.iter().filter(|name| known.get(*name).is_none_or(|sample| sample.due <= now)).collect()
        };
        for name in due {
            self.take(path, name);
        }
    }

    /// Walks one folder. One that goes away meanwhile is forgotten.
    fn take(&self, path: &Path, name: &str) {
        let began = Instant::now();
        let at = UnixNanos::from(SystemTime::now());
        let measured = folder::open(path).and_then(|parent| measure(&parent, name));
        let took = began.elapsed();
        match measured {
            Ok((upper, rest)) => {
                let due = Instant::now() + WALK_EVERY.max(took.saturating_mul(REST_PER_WALK));
                debug!(container = name, bytes = upper.bytes, inodes = upper.inodes, ?took, "layer measured");
                self.known().insert(name.to_owned(), Sample { at, due, upper, rest });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.known().remove(name);
            }
            Err(error) => warn!(container = name, %error, "writable layer cannot be measured"),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Names of all that is in a folder.
fn names(path: &Path) -> io::Result<Vec<String>> {
    let entries = std::fs::read_dir(path)?;
    let names =
        entries.map(|entry| Ok(entry?.file_name().into_string().ok())).collect::<io::Result<Vec<_>>>()?;
    Ok(names.into_iter().flatten().collect())
}

/// (`upper`, `volumes` and all in them, the rest of the folder). What goes away meanwhile is not counted; a walk
/// that an error cuts short gives no figure at all, for half of one would stand until the next.
fn measure(parent: &OwnedFd, name: &str) -> io::Result<(Sum, Sum)> {
    let (mut upper, mut rest) = (Walk::default(), Walk::default());
    let top = erase::open(parent, name)?;
    rest.add(&fs::fstat(&top)?);
    for entry in Dir::read_from(&top)? {
        let entry = entry?;
        let written = [c"upper", c"volumes"].contains(&entry.file_name());
        let walk = if written { &mut upper } else { &mut rest };
        walk.entry(&top, &entry, 0)?;
    }
    Ok((upper.sum, rest.sum))
}

/// One walk over a tree.
#[derive(Default)]
struct Walk {
    sum: Sum,
    /// Files with several names that were met.
    linked: HashSet<u64>,
}

impl Walk {
    fn add(&mut self, stat: &Stat) {
        let bytes = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
        let names = u64::try_from(u128::from(stat.st_nlink)).unwrap_or(u64::MAX).max(1);
        let many = names > 1 && FileType::from_raw_mode(stat.st_mode) != FileType::Directory;
        if many && self.linked.len() >= LINKED_MAX {
            self.sum.bytes = self.sum.bytes.saturating_add(bytes.div_ceil(names));
            return;
        }
        if !many || self.linked.insert(stat.st_ino) {
            self.sum.bytes = self.sum.bytes.saturating_add(bytes);
            self.sum.inodes += 1;
        }
    }

    fn entry(&mut self, directory: &OwnedFd, entry: &fs::DirEntry, depth: usize) -> io::Result<()> {
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            return Ok(());
        }
        let Some(stat) = present(fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW))? else {
            return Ok(());
        };
        self.add(&stat);
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            && depth < COUNTED_DEPTH_MAX
            && let Some(below) = present(erase::open(directory, name))?
        {
            for entry in Dir::read_from(&below)? {
                self.entry(&below, &entry?, depth + 1)?;
            }
        }
        Ok(())
    }
}

/// `None` for what has gone, has become something else, or is another mount.
fn present<T>(found: Result<T, Errno>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
