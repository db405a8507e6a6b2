//! The catalog of images: one record each on disk, one immutable view of them in memory.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use rustix::io::Errno;
use tracing::{error, warn};

use super::{
    Error, Image, folder,
    layers::Layers,
    record::ImageRecord,
    reference::{Query, Reference, Target},
};
use crate::{
    failpoint,
    model::{Digest, RootfsLayers},
    store::{self, BadRecord, Durability},
    telemetry::log::chain,
};

/// A folder that changed this recently may change again without a new time: file systems stamp by a clock
/// that ticks every 4 ms (10 ms at CONFIG_HZ=100).
const STAMP_UNSURE: Duration = Duration::from_millis(50);
/// A record that the disk did not give is asked for again at most this often.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Catalog {
    path: PathBuf,
    quarantine: PathBuf,
    view: ArcSwap<View>,
    stamp: Mutex<Stamp>,
    pinned: BTreeSet<String>,
}

/// Until when `Catalog::view` is good without another reading. The default is "read now".
#[derive(Clone, Copy, Debug, Default)]
struct Stamp {
    /// When the folder had last changed as the records were read.
    changed: Option<SystemTime>,
    /// Something could not be read, and is worth another try from then on.
    again: Option<Instant>,
}

impl Stamp {
    fn is_current(self, changed: SystemTime) -> bool {
        self.changed == Some(changed) && self.again.is_none_or(|again| Instant::now() < again)
    }
}

/// All images at one moment.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) images: Arc<Vec<Arc<Image>>>,
    by_name: HashMap<String, Arc<Image>>,
    records: BTreeMap<Digest, ImageRecord>,
    /// Bytes and inodes of each layer that a record lists; `None` of one that is lost.
    sizes: HashMap<String, Option<(u64, u64)>>,
    /// A record that cannot be read now but may be later: its layers are not known, so none is collected.
    unknown: bool,
    /// The disk did not give a record, so that what was last known of it stands in.
    unread: bool,
    pub(super) bytes: u64,
    pub(super) inodes: u64,
}

impl Catalog {
    pub(super) fn open(root: &Path, layers: &Layers, pinned: &[String]) -> Result<Self, Error> {
        let catalog = Self {
            path: root.join("images"),
            quarantine: root.join("quarantine"),
            view: ArcSwap::default(),
            stamp: Mutex::default(),
            pinned: pinned
                .iter()
                .filter_map(|text| match Reference::parse(text) {
                    Ok(reference) => Some(reference.to_string()),
                    Err(error) => {
                        warn!(%error, "a pinned image is ignored");
                        None
                    }
                })
                .collect(),
        };
        folder::make_private(&catalog.path)?;
        folder::make_private(&catalog.quarantine)?;
        // The caller holds the lock, so no process is writing one of these.
        store::sweep(&catalog.path).map_err(|error| Error::store("clear", &catalog.path, error))?;
        catalog.reload(layers)?;
        Ok(catalog)
    }

    /// The images as they are, those that another process published included: one `stat` when nothing has
    /// changed.
    ///
    /// # Errors
    /// [`Error::Store`] when the records cannot be read now. The next call tries again, and what was read
    /// before is not lost.
    pub(super) fn view(&self, layers: &Layers) -> Result<Arc<View>, Error> {
        let stamp = *self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        if stamp.is_current(self.changed()?) {
            return Ok(self.view.load_full());
        }
        self.reload(layers)
    }

    fn changed(&self) -> Result<SystemTime, Error> {
        let changed = std::fs::metadata(&self.path).and_then(|metadata| metadata.modified());
        changed.map_err(|error| Error::store("look at", &self.path, error))
    }

    /// Reads all records again.
    ///
    /// # Errors
    /// See [`Self::view`].
    pub(super) fn reload(&self, layers: &Layers) -> Result<Arc<View>, Error> {
        // Held while reading, so that an older reading never takes the place of a newer one.
        let mut stamp = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = self.changed()?;
        let settled = SystemTime::now().duration_since(changed).is_ok_and(|age| age > STAMP_UNSURE);
        let view = Arc::new(self.read(layers)?);
        *stamp = Stamp {
            changed: settled.then_some(changed),
            again: view.unread.then(|| Instant::now() + UNREADABLE_PAUSE),
        };
        self.view.store(view.clone());
        Ok(view)
    }

    fn read(&self, layers: &Layers) -> Result<View, Error> {
        let failed = |source| Error::store("list", &self.path, source);
        let last = self.view.load();
        let mut view = View::default();
        for entry in std::fs::read_dir(&self.path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            // Others are unfinished writes.
            let Some(id) = name.to_str().and_then(|hex| Digest::parse(&format!("sha256:{hex}")).ok()) else {
                continue;
            };
            let path = entry.path();
            match store::get::<ImageRecord>(&path) {
                Ok(record) if record.id == id => {
                    view.records.insert(id, record);
                }
                Ok(_) => self.quarantine(&path, "it is another image's"),
                Err(BadRecord::Absent) => {}
                Err(BadRecord::Damaged(why)) => self.quarantine(&path, &why),
                Err(BadRecord::Io(source)) if is_shortage(&source) => {
                    return Err(Error::store("read", path, source));
                }
                Err(bad) => view.take_last(id, &last, &bad),
            }
        }
        self.index(&mut view, &last, layers)?;
        Ok(view)
    }

    fn index(&self, view: &mut View, last: &View, layers: &Layers) -> Result<(), Error> {
        let listed: BTreeSet<&String> = view.records.values().flat_map(|record| &record.layers).collect();
        let mut sizes = HashMap::with_capacity(listed.len());
        for name in listed {
            let size = match layers.record(name) {
                Ok(layer) => layer.map(|layer| (layer.bytes, layer.inodes)),
                Err(source) if is_shortage(&source) => {
                    return Err(Error::store("read record of layer", name, source));
                }
                Err(error) => {
                    error!(layer = name, %error, "a layer's record cannot be read");
                    view.unread = true;
                    last.sizes.get(name).copied().flatten()
                }
            };
            sizes.insert(name.clone(), size);
        }
        view.sizes = sizes;
        let mut images = Vec::new();
        for record in view.records.values().filter(|record| !record.removed) {
            let held: Vec<_> = record.layers.iter().filter_map(|name| view.sizes[name]).collect();
            if held.len() != record.layers.len() {
                error!(image = %record.id, "an image has lost a layer and is not listed; pull it again");
                continue;
            }
            let image = Arc::new(self.image(record, &held, layers));
            for name in record.repo_tags.iter().chain(&record.repo_digests) {
                view.by_name.insert(name.clone(), image.clone());
            }
            images.push(image);
        }
        (view.bytes, view.inodes) =
            view.sizes.values().flatten().fold((0, 0), |sum, layer| (sum.0 + layer.0, sum.1 + layer.1));
        view.images = Arc::new(images);
        Ok(())
    }

    fn image(&self, record: &ImageRecord, layer_sizes: &[(u64, u64)], layers: &Layers) -> Image {
        let mut names = record.repo_tags.iter().chain(&record.repo_digests);
        Image {
            id: record.id.clone(),
            repo_tags: record.repo_tags.clone(),
            repo_digests: record.repo_digests.clone(),
            size_bytes: layer_sizes.iter().map(|(bytes, _)| bytes).sum(),
            config: record.config.clone(),
            layers: RootfsLayers { lower: record.layers.iter().rev().map(|name| layers.fs(name)).collect() },
            pinned: names.any(|name| self.pinned.contains(name)),
        }
    }

    /// Moves a bad record out of the way: it costs its image, which the kubelet pulls again, and no other.
    fn quarantine(&self, path: &Path, why: &str) {
        error!(path = %path.display(), why, "a damaged image record is put in quarantine");
        let Some(name) = path.file_name() else { return };
        if let Err(error) = std::fs::rename(path, self.quarantine.join(name)) {
            error!(path = %path.display(), %error, "a damaged image record could not be moved");
        }
    }

    /// Writes a record; durable when it returns. The caller holds the lock.
    pub(super) fn put(&self, record: &ImageRecord) -> Result<(), Error> {
        let path = self.path.join(record.id.hex());
        store::put(&path, record, Durability::Power).map_err(|error| Error::store("write", path, error))?;
        failpoint!("image.record-written");
        Ok(())
    }

    /// Removes a record. The caller holds the lock.
    pub(super) fn remove(&self, id: &Digest) -> Result<(), Error> {
        let path = self.path.join(id.hex());
        store::remove(&path, Durability::Power).map_err(|error| Error::store("remove", path, error))?;
        failpoint!("image.record-removed");
        Ok(())
    }
}

/// Whether an error is of this process or the whole machine (descriptors, memory) and says nothing about
/// the file: then nothing can be concluded from it.
fn is_shortage(error: &io::Error) -> bool {
    let short = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN, Errno::INTR];
    Errno::from_io_error(error).is_some_and(|errno| short.contains(&errno))
}

impl View {
    /// The last known record of an image whose record cannot be read: one bad sector of a disk hides neither it
    /// nor others.
    fn take_last(&mut self, id: Digest, last: &Self, bad: &BadRecord) {
        self.unread |= matches!(bad, BadRecord::Io(_));
        match last.records.get(&id) {
            Some(record) => {
                error!(image = %id, error = %chain(bad), "an image record cannot be read, what was last known stays");
                self.records.insert(id, record.clone());
            }
            None => {
                error!(image = %id, error = %chain(bad), "an image record cannot be read, the image is not listed");
                self.unknown = true;
            }
        }
    }

    /// By id, name, or unique start of an id. Nothing for what is no reference at all.
    pub(super) fn find(&self, reference: &str) -> Option<Arc<Image>> {
        self.resolve(&Query::parse(reference).ok()?).ok().flatten()
    }

    /// # Errors
    /// [`Error::AmbiguousPrefix`].
    pub(super) fn resolve(&self, query: &Query) -> Result<Option<Arc<Image>>, Error> {
        let by_name = |reference: &Reference| {
            let name = match &reference.target {
                Target::Tag(_) => reference.to_string(),
                Target::Digest(digest) => reference.with_digest(digest),
            };
            self.by_name.get(&name).cloned()
        };
        match query {
            Query::Id(id) => Ok(self.images.iter().find(|image| image.id == *id).cloned()),
            Query::Name(reference) => Ok(by_name(reference)),
            Query::NameOrPrefix(reference, prefix) => match by_name(reference) {
                Some(image) => Ok(Some(image)),
                None => self.by_prefix(prefix),
            },
            Query::Prefix(prefix) => self.by_prefix(prefix),
        }
    }

    fn by_prefix(&self, prefix: &str) -> Result<Option<Arc<Image>>, Error> {
        let mut fitting = self.images.iter().filter(|image| image.id.hex().starts_with(prefix));
        match (fitting.next(), fitting.next()) {
            (Some(_), Some(_)) => Err(Error::AmbiguousPrefix(prefix.into())),
            (found, _) => Ok(found.cloned()),
        }
    }

    pub(super) fn record(&self, id: &Digest) -> Option<&ImageRecord> {
        self.records.get(id)
    }

    pub(super) fn records(&self) -> impl Iterator<Item = &ImageRecord> {
        self.records.values()
    }

    /// Whether every layer that an image needs is known.
    pub(super) fn is_complete(&self) -> bool {
        !self.unknown
    }
}
