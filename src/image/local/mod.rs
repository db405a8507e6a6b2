//! The images on this node: what is published, used and removed, and the layers that nothing uses any more.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use tracing::{error, info, warn};

use super::{
    Config, Error, FsUsage, Image,
    background::background,
    catalog::{Catalog, View},
    folder::{self, Folder, Lock},
    layers::{Layer, Layers},
    record::ImageRecord,
    reference::Query,
    retained::Retained,
    worker::Workers,
    writable::Writable,
};
use crate::model::{Digest, ImageConfig, UnixNanos};

/// Everything below the image root. All that waits for the disk here blocks.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) root: PathBuf,
    pub(super) config: Config,
    pub(super) workers: Arc<dyn Workers>,
    pub(super) layers: Layers,
    pub(super) writable: Writable,
    catalog: Catalog,
    retained: Retained,
}

/// An image that is about to be published.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) id: Digest,
    pub(super) repo_tags: Vec<String>,
    pub(super) repo_digests: Vec<String>,
    pub(super) config: ImageConfig,
    /// Bottom first.
    pub(super) layers: Vec<Arc<Layer>>,
}

impl Local {
    /// Opens the root and clears away what a crash left: unfinished work, layers in no image's list, and
    /// images that were removed while containers used them and are used no more.
    pub(super) fn open(root: &Path, config: &Config, workers: Arc<dyn Workers>) -> Result<Self, Error> {
        folder::make_private(root)?;
        // Before anything is read, so that no other process removes in between.
        let lock = Lock::take(root)?;
        let layers = Layers::open(root)?;
        let catalog = Catalog::open(root, &layers, &config.pinned)?;
        let retained = Retained::open(root)?;
        let writable = Writable::open(root)?;
        let (root, config) = (root.to_owned(), config.clone());
        let local = Self { root, config, workers, layers, writable, catalog, retained };
        let rubbish = match local.collect() {
            Err(error) if folder::takes_nothing(&error) => {
                warn!(%error, "layers of no image are kept: the disk takes no change");
                Vec::new()
            }
            collected => collected?,
        };
        drop(lock);
        info!(images = local.view()?.images.len(), cleared = rubbish.len(), "image store opened");
        Ok(local)
    }

    /// # Errors
    /// [`Error::Store`] when the records cannot be read now.
    pub(super) fn view(&self) -> Result<Arc<View>, Error> {
        self.catalog.view(&self.layers)
    }

    /// Makes an image known under its names. When this returns, it survives a power cut.
    ///
    /// # Errors
    /// [`Error::LayerRemoved`]: a layer that was here has been removed by another process, and the image must
    /// be fetched again.
    pub(super) fn publish(&self, draft: Draft) -> Result<Arc<Image>, Error> {
        let stack = self.layers.stack(draft.layers)?;
        self.layers.sync(&stack)?;

        let _lock = Lock::take(&self.root)?;
        if !self.layers.publish(&stack)? {
            return Err(Error::LayerRemoved(draft.id));
        }
        let view = self.catalog.reload(&self.layers)?;
        let mut record = ImageRecord {
            id: draft.id.clone(),
            repo_tags: draft.repo_tags,
            repo_digests: draft.repo_digests,
            config: draft.config,
            layers: stack.iter().map(|layer| layer.name.clone()).collect(),
            removed: false,
        };
        if let Some(old) = view.record(&draft.id) {
            merge(&mut record.repo_tags, &old.repo_tags);
            merge(&mut record.repo_digests, &old.repo_digests);
        }
        // The new holder of a tag is written before the old one loses it: a crash in between leaves a tag
        // twice, which the next pull puts right, and never a tag that is gone.
        self.catalog.put(&record)?;
        for other in view.records().filter(|other| other.id != record.id) {
            if other.repo_tags.iter().any(|tag| record.repo_tags.contains(tag)) {
                let mut other = other.clone();
                other.repo_tags.retain(|tag| !record.repo_tags.contains(tag));
                self.catalog.put(&other)?;
            }
        }
        let view = self.catalog.reload(&self.layers)?;
        let published = view.resolve(&Query::Id(record.id.clone()))?;
        published.ok_or(Error::LayerRemoved(record.id))
    }

    /// Removes an image with all its names. Unknown is success.
    pub(super) fn remove(&self, reference: &str) -> Result<(), Error> {
        let query = Query::parse(reference)?;
        let lock = Lock::take(&self.root)?;
        let view = self.catalog.reload(&self.layers)?;
        let Some(image) = view.resolve(&query)? else { return Ok(()) };
        let Some(record) = view.record(&image.id) else { return Ok(()) };
        if self.retained.contains(&image.id) {
            let removed = ImageRecord {
                repo_tags: Vec::new(),
                repo_digests: Vec::new(),
                removed: true,
                ..record.clone()
            };
            self.catalog.put(&removed)?;
        } else {
            self.catalog.remove(&image.id)?;
        }
        let rubbish = self.collect()?;
        drop(lock);
        info!(reference, image = %image.id, layers = rubbish.len(), "image removed");
        drop(rubbish); // deletes
        Ok(())
    }

    pub(super) fn retain(&self, image: &Digest, by: &str) {
        self.retained.add(image, by);
    }

    /// Ends all uses by a container; the last use of a removed image frees its layers, in the background.
    pub(super) fn release(self: &Arc<Self>, by: &str) {
        let unused = self.retained.remove(by);
        if unused.is_empty() {
            return;
        }
        // On any doubt, a look under the lock decides.
        let is_removed = |view: &View, image| view.record(image).is_some_and(|record| record.removed);
        let removed = |view: Arc<View>| unused.iter().any(|image| is_removed(&view, image));
        if self.view().map_or(true, removed) {
            let local = self.clone();
            background(move || {
                let rubbish = Lock::take(&local.root).and_then(|_lock| local.collect());
                if let Err(error) = rubbish {
                    error!(%error, "layers of a removed image could not be freed");
                }
            });
        }
    }

    /// Forgets uses and writable layers of all containers but `live`.
    pub(super) fn keep_only(self: &Arc<Self>, live: &BTreeSet<String>) -> Result<(), Error> {
        for by in self.retained.users().difference(live) {
            self.release(by);
        }
        for container in self.writable.containers()? {
            if !live.contains(&container) {
                info!(container, "writable layer of an unknown container is deleted");
                self.writable.remove(&container)?;
            }
        }
        Ok(())
    }

    /// # Errors
    /// [`Error::Store`] when the records cannot be read now.
    pub(super) fn usage(&self) -> Result<(FsUsage, FsUsage), Error> {
        let at = UnixNanos::from(SystemTime::now());
        let usage =
            |used_bytes, inodes_used| FsUsage { at, mountpoint: self.root.clone(), used_bytes, inodes_used };
        let view = self.view()?;
        let writable = self.writable.usage();
        Ok((usage(view.bytes, view.inodes), usage(writable.bytes, writable.inodes)))
    }

    pub(super) fn writable_usage(&self, container: &str) -> Option<FsUsage> {
        let (at, sum) = self.writable.usage_of(container)?;
        let mountpoint = self.root.clone();
        Some(FsUsage { at, mountpoint, used_bytes: sum.bytes, inodes_used: sum.inodes })
    }

    /// Takes off the shelf what no image lists, after dropping removed images that nobody uses any more.
    /// The caller holds the lock, and lets it go before the folders are dropped.
    fn collect(&self) -> Result<Vec<Folder>, Error> {
        let mut view = self.catalog.reload(&self.layers)?;
        let gone: Vec<_> = view
            .records()
            .filter(|record| record.removed && !self.retained.contains(&record.id))
            .map(|record| record.id.clone())
            .collect();
        for id in &gone {
            self.catalog.remove(id)?;
        }
        if !gone.is_empty() {
            view = self.catalog.reload(&self.layers)?;
        }
        if !view.is_complete() {
            return Ok(Vec::new());
        }
        let listed: BTreeSet<&str> =
            view.records().flat_map(|record| record.layers.iter().map(String::as_str)).collect();
        self.layers.collect(&|name| listed.contains(name))
    }
}

fn merge(names: &mut Vec<String>, more: &[String]) {
    names.extend(more.iter().cloned());
    names.sort();
    names.dedup();
}

#[cfg(test)]
mod tests;
