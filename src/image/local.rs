use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use tracing::{error, info};

use super::{
    Config, Error, FsUsage, Image,
    catalog::{Catalog, View},
    folder::{self, Folder, Lock},
    layers::{Layer, Layers},
    record::ImageRecord,
    reference::Query,
    retained::Retained,
    writable::Writable,
};
use crate::model::{Digest, ImageConfig, UnixNanos};

/// Everything below the image root. All that waits for the disk here blocks.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) root: PathBuf,
    pub(super) config: Config,
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
    pub(super) fn open(root: &Path, config: &Config) -> Result<Self, Error> {
        folder::make_private(root)?;
        // Before anything is read, so that no other process removes in between.
        let lock = Lock::take(root)?;
        let layers = Layers::open(root)?;
        let catalog = Catalog::open(root, &layers, &config.pinned)?;
        let retained = Retained::open(root)?;
        let writable = Writable::open(root)?;
        let local = Self { root: root.into(), config: config.clone(), layers, writable, catalog, retained };
        let rubbish = local.collect()?;
        drop(lock);
        info!(images = local.view().images.len(), cleared = rubbish.len(), "image store opened");
        Ok(local)
    }

    pub(super) fn view(&self) -> Arc<View> {
        self.catalog.view(&self.layers)
    }

    /// Makes an image known under its names. When this returns, it survives a power cut. `None`: a layer
    /// that was here has been removed by another process, and the image must be fetched again.
    pub(super) fn publish(&self, draft: Draft) -> Result<Option<Arc<Image>>, Error> {
        let stack = self.layers.stack(draft.layers)?;
        self.layers.sync(&stack)?;

        let _lock = Lock::take(&self.root)?;
        if !self.layers.publish(&stack)? {
            return Ok(None);
        }
        let view = self.catalog.reload(&self.layers);
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
        let view = self.catalog.reload(&self.layers);
        view.resolve(&Query::Id(record.id))
    }

    /// Removes an image with all its names. Unknown is success.
    pub(super) fn remove(&self, reference: &str) -> Result<(), Error> {
        let query = Query::parse(reference)?;
        let lock = Lock::take(&self.root)?;
        let view = self.catalog.reload(&self.layers);
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
        info!(image = %image.id, layers = rubbish.len(), "image removed");
        drop(rubbish); // deletes
        Ok(())
    }

    pub(super) fn retain(&self, image: &Digest, by: &str) {
        self.retained.add(image, by);
    }

    /// Ends a use; the last use of a removed image frees its layers, in the background.
    pub(super) fn release(self: &Arc<Self>, image: &Digest, by: &str) {
        if !self.retained.remove(image, by) {
            return;
        }
        let view = self.view();
        if view.record(image).is_some_and(|record| record.removed) {
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
        for (image, by) in self.retained.all() {
            if !live.contains(&by) {
                self.release(&image, &by);
            }
        }
        for container in self.writable.containers()? {
            if !live.contains(&container) {
                info!(container, "writable layer of an unknown container is deleted");
                self.writable.remove(&container)?;
            }
        }
        Ok(())
    }

    pub(super) fn usage(&self) -> (FsUsage, FsUsage) {
        let at = UnixNanos::from(SystemTime::now());
        let usage =
            |used_bytes, inodes_used| FsUsage { at, mountpoint: self.root.clone(), used_bytes, inodes_used };
        let view = self.view();
        let writable = self.writable.usage();
        (usage(view.bytes, view.inodes), usage(writable.bytes, writable.inodes))
    }

    /// Takes off the shelf what no image lists, after dropping removed images that nobody uses any more.
    /// The caller holds the lock, and lets it go before the folders are dropped.
    fn collect(&self) -> Result<Vec<Folder>, Error> {
        let mut view = self.catalog.reload(&self.layers);
        let gone: Vec<_> = view
            .records()
            .filter(|record| record.removed && !self.retained.contains(&record.id))
            .map(|record| record.id.clone())
            .collect();
        for id in &gone {
            self.catalog.remove(id)?;
        }
        if !gone.is_empty() {
            view = self.catalog.reload(&self.layers);
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

/// Runs blocking work beside the caller; in place where there is no async runtime (tools, tests).
pub(super) fn background(work: impl FnOnce() + Send + 'static) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(work)),
        Err(_) => work(),
    }
}

/// Runs blocking work and waits for it.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down: there is nobody left to answer.
            Err(_) => std::future::pending().await,
        },
    }
}
