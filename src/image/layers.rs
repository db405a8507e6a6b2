//! The shelf of layers: `layers/<name>/{fs,record}`, each complete, verified and never written to again.
//!
//! A layer's name is the hex of its diff id; an extra layer's (see `unpack::merged`) the hash of what it
//! belongs to. New layers wait in `ingest/` until an image that lists them is published, so that whatever is
//! on the shelf and in no image's list is rubbish.

use std::{
    collections::HashMap,
    io::{self, ErrorKind},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use rustix::fs::{self, Mode};
use sha2::{Digest as _, Sha256};
use tracing::debug;

use super::{
    Error,
    folder::{self, Folder, Ingest},
    record::LayerRecord,
    unpack::{self, LayerError, merged},
};
use crate::{
    failpoint,
    model::Digest,
    store::{self, BadRecord, Durability},
};

#[derive(Debug)]
pub(super) struct Layers {
    path: PathBuf,
    pub(super) ingest: Arc<Ingest>,
    /// Unpacked here and not yet published, so that concurrent pulls share them.
    pending: Mutex<HashMap<String, Weak<Layer>>>,
    /// Layers on the shelf that an unfinished pull counts on: (name, times).
    pins: Arc<Mutex<HashMap<String, usize>>>,
    /// One download of a layer at a time.
    turns: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

/// A complete layer that someone holds: on the shelf, or still in ingest.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) name: String,
    pub(super) record: LayerRecord,
    /// Its `fs`. Stays good when the folder moves to the shelf.
    root: OwnedFd,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Shelf { _pin: Pin },
    Ingest(Folder),
}

#[derive(Debug)]
struct Pin {
    name: String,
    pins: Arc<Mutex<HashMap<String, usize>>>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(times) = pins.get_mut(&self.name) {
            *times -= 1;
            if *times == 0 {
                pins.remove(&self.name);
            }
        }
    }
}

impl Layer {
    fn below(&self) -> Result<unpack::Below, Error> {
        let root = self.root.try_clone().map_err(|error| Error::store("open", &self.name, error))?;
        Ok(unpack::Below::new(root, &self.record.implied(), &self.record.links()))
    }
}

impl Layers {
    pub(super) fn open(root: &Path) -> Result<Self, Error> {
        let path = root.join("layers");
        folder::make_private(&path)?;
        Ok(Self {
            path,
            ingest: Arc::new(Ingest::open(root)?),
            pending: Mutex::default(),
            pins: Arc::default(),
            turns: Mutex::default(),
        })
    }

    /// The path of a layer's files once it is published.
    pub(super) fn fs(&self, name: &str) -> PathBuf {
        self.path.join(name).join("fs")
    }

    /// The record of a layer on the shelf. `None`: the layer is not there, or its record is of no use; either
    /// way it must be fetched again.
    ///
    /// # Errors
    /// When nothing can be said about it now.
    pub(super) fn record(&self, name: &str) -> io::Result<Option<LayerRecord>> {
        match store::get(&self.path.join(name).join("record")) {
            Ok(record) => Ok(Some(record)),
            Err(BadRecord::Absent | BadRecord::Damaged(_) | BadRecord::UnknownVersion(_)) => Ok(None),
            Err(BadRecord::Io(error)) => Err(error),
        }
    }

    /// Waits until nobody else fetches this layer.
    pub(super) async fn turn(&self, name: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            match turns.get(name).and_then(Weak::upgrade) {
                Some(turn) => turn,
                None => {
                    let turn = Arc::new(tokio::sync::Mutex::new(()));
                    turns.insert(name.into(), Arc::downgrade(&turn));
                    turn
                }
            }
        };
        turn.lock_owned().await
    }

    /// A layer that is here already. While it is held, no collection takes it.
    ///
    /// # Errors
    /// [`Error::Store`] when it cannot be read now.
    pub(super) fn find(&self, name: &str) -> Result<Option<Arc<Layer>>, Error> {
        let pending = {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            pending.retain(|_, layer| layer.strong_count() > 0);
            pending.get(name).and_then(Weak::upgrade)
        };
        if pending.is_some() {
            return Ok(pending);
        }
        // Pinned first: a collection that came in between leaves no record to read.
        *self.pins.lock().unwrap_or_else(PoisonError::into_inner).entry(name.into()).or_default() += 1;
        let pin = Pin { name: name.into(), pins: self.pins.clone() };
        let record = self.record(name).map_err(|error| Error::store("read record of layer", name, error))?;
        let Some(record) = record else { return Ok(None) };
        let root = match folder::open(&self.fs(name)) {
            Ok(root) => root,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::store("open", self.fs(name), error)),
        };
        Ok(Some(Arc::new(Layer { name: name.into(), record, root, place: Place::Shelf { _pin: pin } })))
    }

    /// A new folder for a layer that is about to be unpacked into its `fs`.
    pub(super) fn begin(&self) -> Result<(Folder, OwnedFd), Error> {
        let folder = self.ingest.folder()?;
        let root = new_fs(&folder.path)?;
        Ok((folder, root))
    }

    /// Takes a finished folder as the layer `name`, for others to share.
    pub(super) fn finish(
        &self,
        name: &str,
        folder: Folder,
        record: LayerRecord,
    ) -> Result<Arc<Layer>, Error> {
        let path = folder.path.join("record");
        // Not synced here: one syncfs before publishing covers it with the rest of the layer.
        store::put(&path, &record, Durability::Process)
            .map_err(|error| Error::store("write", path, error))?;
        let fs = folder.path.join("fs");
        let root = folder::open(&fs).map_err(|error| Error::store("open", fs, error))?;
        let layer = Arc::new(Layer { name: name.into(), record, root, place: Place::Ingest(folder) });
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.insert(name.into(), Arc::downgrade(&layer));
        Ok(layer)
    }

    /// Notes that a blob was seen to unpack to a layer on the shelf, so that the next pull need not fetch it to
    /// know. A note that cannot be written costs that pull a download. Blocks.
    pub(super) fn note_blob(&self, layer: &Layer, blob: Digest) {
        let Place::Shelf { .. } = layer.place else { return };
        let path = self.path.join(&layer.name).join("record");
        let noted = self.record(&layer.name).and_then(|record| match record {
            Some(record) => Ok(store::put(&path, &record.with_blob(blob), Durability::Process)?),
            None => Ok(()),
        });
        if let Err(error) = noted {
            debug!(layer = layer.name, %error, "the blob of a layer could not be noted");
        }
    }

    /// The whole stack of an image, bottom first: its layers, and the extra ones that make them right
    /// together. Blocks.
    pub(super) fn stack(&self, layers: Vec<Arc<Layer>>) -> Result<Vec<Arc<Layer>>, Error> {
        let mut stack: Vec<Arc<Layer>> = Vec::new();
        let mut below = Vec::new();
        for layer in layers {
            below.push(layer.below()?);
            stack.push(layer);
            let name = extra_name("patch", &stack);
            let extra = self.extra(&name, |into| merged::patch(&below, into))?;
            if let Some(extra) = extra {
                below.push(extra.below()?);
                stack.push(extra);
            }
        }
        let name = extra_name("attributes", &stack);
        stack.extend(self.extra(&name, |into| merged::attributes(&below, into))?);
        if stack.is_empty() {
            // An image of no layers; overlayfs wants one.
            let (folder, _) = self.begin()?;
            stack.push(self.finish(&name, folder, LayerRecord::default())?);
        }
        Ok(stack)
    }

    fn extra(
        &self,
        name: &str,
        fill: impl FnOnce(
            &mut dyn FnMut() -> Result<OwnedFd, LayerError>,
        ) -> Result<Option<unpack::Unpacked>, LayerError>,
    ) -> Result<Option<Arc<Layer>>, Error> {
        if let Some(found) = self.find(name)? {
            return Ok(Some(found));
        }
        let mut folder = None;
        let mut trouble = None;
        let filled = fill(&mut || match self.begin() {
            Ok((new, root)) => {
                folder = Some(new);
                Ok(root)
            }
            Err(error) => {
                trouble = Some(error);
                Err(LayerError::Read(std::io::ErrorKind::Other.into()))
            }
        });
        if let Some(error) = trouble {
            return Err(error);
        }
        let filled = filled.map_err(|source| layer_error(name, &self.path, source))?;
        match (filled, folder) {
            (Some(unpacked), Some(folder)) => self.finish(name, folder, unpacked.into()).map(Some),
            _ => Ok(None),
        }
    }

    /// Makes all that was unpacked durable, so that publishing is only names. Blocks.
    pub(super) fn sync(&self, stack: &[Arc<Layer>]) -> Result<(), Error> {
        if stack.iter().any(|layer| matches!(layer.place, Place::Ingest(_))) {
            let fd = folder::open(&self.path).map_err(|error| Error::store("open", &self.path, error))?;
            fs::syncfs(&fd).map_err(|error| Error::store("sync", &self.path, error))?;
            failpoint!("image.layer-synced");
        }
        Ok(())
    }

    /// Puts the layers of a stack on the shelf. The caller holds the lock and has synced. False when one
    /// that was on the shelf has gone: another process removed it, and the image must be fetched again.
    pub(super) fn publish(&self, stack: &[Arc<Layer>]) -> Result<bool, Error> {
        let mut moved = false;
        for layer in stack {
            let path = self.path.join(&layer.name);
            let on_shelf = self
                .record(&layer.name)
                .and_then(|record| Ok(record.is_some() && path.join("fs").try_exists()?));
            if on_shelf.map_err(|error| Error::store("look at", &path, error))? {
                continue;
            }
            let Place::Ingest(folder) = &layer.place else { return Ok(false) };
            // Published by another pull of this process, and gone again since.
            let held = folder.path.join("record").try_exists();
            if !held.map_err(|error| Error::store("look at", &folder.path, error))? {
                return Ok(false);
            }
            shelve(&folder.path, &path).map_err(|error| Error::store("publish", &path, error))?;
            moved = true;
            failpoint!("image.layer-renamed");
        }
        if moved {
            folder::sync(&self.path)?;
        }
        Ok(true)
    }

    /// Takes every layer off the shelf that `keep` does not know and nobody here counts on. The caller
    /// holds the lock; the folders may be dropped, and so deleted, after it.
    pub(super) fn collect(&self, keep: &dyn Fn(&str) -> bool) -> Result<Vec<Folder>, Error> {
        let mut condemned = Vec::new();
        let entries =
            std::fs::read_dir(&self.path).map_err(|error| Error::store("read", &self.path, error))?;
        for entry in entries {
            let entry = entry.map_err(|error| Error::store("read", &self.path, error))?;
            let name = entry.file_name();
            let known = name.to_str().is_some_and(|name| {
                let pinned = self.pins.lock().unwrap_or_else(PoisonError::into_inner).contains_key(name);
                // Published by a pull that still holds it as pending, and whose record comes next.
                let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
                keep(name) || pinned || pending.get(name).is_some_and(|layer| layer.strong_count() > 0)
            });
            if !known {
                condemned.push(self.ingest.condemn(&entry.path())?);
                failpoint!("image.layer-removed");
            }
        }
        Ok(condemned)
    }
}

/// Renames a finished layer to its place. What is there of it already lacks its record or its files: the
/// missing part is put beside the other, which containers may be using. Both are made of the same tar.
fn shelve(finished: &Path, place: &Path) -> io::Result<()> {
    match std::fs::rename(finished, place) {
        // XFS says the second.
        Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => {}
        result => return result,
    }
    if !place.join("fs").try_exists()? {
        std::fs::rename(finished.join("fs"), place.join("fs"))?;
    }
    std::fs::rename(finished.join("record"), place.join("record"))?;
    folder::open(place).and_then(|place| Ok(fs::fsync(place)?))
}

/// Makes `folder/fs` as a layer's root that the layer itself says nothing about.
fn new_fs(folder: &Path) -> Result<OwnedFd, Error> {
    let path = folder.join("fs");
    let made = fs::mkdir(&path, Mode::from_raw_mode(0o700)).map_err(std::io::Error::from);
    let made = made.and_then(|()| folder::open(&path));
    let fd = made.map_err(|error| Error::store("make", &path, error))?;
    fs::fchmod(&fd, Mode::from_raw_mode(0o755)).map_err(|error| Error::store("set mode of", &path, error))?;
    Ok(fd)
}

/// Extra layers of one kind above the same stack are the same.
fn extra_name(kind: &str, stack: &[Arc<Layer>]) -> String {
    let mut hash = Sha256::new();
    hash.update(format!("extra layer: {kind}\n"));
    for layer in stack {
        hash.update(&layer.name);
        hash.update("\n");
    }
    Digest::from_bytes(hash.finalize().into()).hex().into()
}

/// An error of a layer; a full disk is the store's trouble, not the layer's.
pub(super) fn layer_error(layer: impl ToString, store: &Path, source: LayerError) -> Error {
    if source.is_full() {
        return Error::Full { path: store.into() };
    }
    Error::Layer { layer: layer.to_string(), source: Arc::new(source) }
}
