//! What images there are: one record each on disk, one immutable view of them in memory.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
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
};

/// A folder that changed this recently may change again without a new time: file systems stamp by a clock
/// that ticks every 4 ms (10 ms at CONFIG_HZ=100).
const STAMP_UNSURE: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Catalog {
    path: PathBuf,
    quarantine: PathBuf,
    view: ArcSwap<View>,
    /// When the folder had last changed as `view` was read; `None` is "read again".
    stamp: Mutex<Option<SystemTime>>,
    pinned: BTreeSet<String>,
}

/// All images at one moment.
#[derive(Debug, Default)]
pub(super) struct View {
    pub(super) images: Arc<Vec<Arc<Image>>>,
    by_name: HashMap<String, Arc<Image>>,
    records: BTreeMap<Digest, ImageRecord>,
    /// A record that cannot be read now but may be later: its layers are not known, so none is collected.
    unknown: bool,
    pub(super) bytes: u64,
    pub(super) inodes: u64,
}

impl Catalog {
    pub(super) fn open(root: &Path, layers: &Layers, pinned: &[String]) -> Result<Self, Error> {
        let catalog = Self {
            path: root.join("images"),
            quarantine: root.join("quarantine"),
            view: ArcSwap::default(),
            stamp: Mutex::new(None),
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
        catalog.reload(layers);
        Ok(catalog)
    }

    /// The images as they are, those that another process published included: one `stat` when nothing has
    /// changed.
    pub(super) fn view(&self, layers: &Layers) -> Arc<View> {
        let seen = *self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.is_none() || seen != self.changed() {
            self.reload(layers);
        }
        self.view.load_full()
    }

    fn changed(&self) -> Option<SystemTime> {
        std::fs::metadata(&self.path).and_then(|metadata| metadata.modified()).ok()
    }

    /// Reads all records again.
    pub(super) fn reload(&self, layers: &Layers) -> Arc<View> {
        let mut stamp = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = self.changed();
        let settled =
            |at: &SystemTime| SystemTime::now().duration_since(*at).is_ok_and(|age| age > STAMP_UNSURE);
        *stamp = changed.filter(settled);
        let view = Arc::new(self.read(layers));
        self.view.store(view.clone());
        view
    }

    fn read(&self, layers: &Layers) -> View {
        let mut view = View::default();
        let entries = match std::fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) => {
                error!(path = %self.path.display(), %error, "image records cannot be listed");
                view.unknown = true;
                return view;
            }
        };
        for entry in entries.flatten() {
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
                Err(error @ (BadRecord::Io(_) | BadRecord::UnknownVersion(_))) => {
                    error!(path = %path.display(), %error, "an image record cannot be read, the image is not listed");
                    view.unknown = true;
                }
            }
        }
        self.index(&mut view, layers);
        view
    }

    fn index(&self, view: &mut View, layers: &Layers) {
        let mut sizes: HashMap<&str, Option<(u64, u64)>> = HashMap::new();
        let mut images = Vec::new();
        for record in view.records.values() {
            for name in &record.layers {
                sizes
                    .entry(name)
                    .or_insert_with(|| layers.record(name).map(|layer| (layer.bytes, layer.inodes)));
            }
            if record.removed {
                continue;
            }
            let held: Vec<_> = record.layers.iter().filter_map(|name| sizes[name.as_str()]).collect();
            if held.len() != record.layers.len() {
                error!(image = %record.id, "an image has lost a layer and is not listed; pull it again");
                continue;
            }
            let image = Arc::new(Image {
                id: record.id.clone(),
                repo_tags: record.repo_tags.clone(),
                repo_digests: record.repo_digests.clone(),
                size_bytes: held.iter().map(|(bytes, _)| bytes).sum(),
                config: record.config.clone(),
                layers: RootfsLayers {
                    lower: record.layers.iter().rev().map(|name| layers.fs(name)).collect(),
                },
                pinned: record
                    .repo_tags
                    .iter()
                    .chain(&record.repo_digests)
                    .any(|name| self.pinned.contains(name)),
            });
            for name in record.repo_tags.iter().chain(&record.repo_digests) {
                view.by_name.insert(name.clone(), image.clone());
            }
            images.push(image);
        }
        (view.bytes, view.inodes) =
            sizes.values().flatten().fold((0, 0), |sum, layer| (sum.0 + layer.0, sum.1 + layer.1));
        view.images = Arc::new(images);
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

impl View {
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
