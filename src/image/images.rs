//! The face of the room: images to list, pull, load, use and remove.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Config, Credentials, Error, Input,
    load::{self, Loaded, Progress},
    local::Local,
    pulls::Pulls,
    worker::Workers,
};
use crate::{
    model::{ContainerId, Digest, ImageConfig, RootfsLayers, UnixNanos},
    telemetry::task,
};

/// A local image.
#[derive(Clone, Debug)]
pub struct Image {
    /// Digest of the image config: CRI `Image.id`.
    pub id: Digest,
    /// `docker.io/library/busybox:latest`
    pub repo_tags: Vec<String>,
    /// `docker.io/library/busybox@sha256:…`
    pub repo_digests: Vec<String>,
    /// Bytes of its unpacked layers.
    pub size_bytes: u64,
    pub config: ImageConfig,
    pub layers: RootfsLayers,
    pub pinned: bool,
}

/// Usage of a file system by images or writable layers.
#[derive(Clone, Debug)]
pub struct FsUsage {
    pub at: UnixNanos,
    /// A directory on that file system.
    pub mountpoint: PathBuf,
    pub used_bytes: u64,
    pub inodes_used: u64,
}

/// How much a file system holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FsCapacity {
    pub bytes: u64,
    pub inodes: u64,
    pub inodes_free: u64,
    /// The device it is on; of some file systems a number that no device has.
    pub major: u32,
    pub minor: u32,
}

/// All images of the node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Images {
    local: Arc<Local>,
    pulls: Arc<Pulls>,
}

impl Images {
    /// Opens the store below `root`, made when missing, and clears away what a crash left there. Layers are unpacked by
    /// `workers`. Blocks.
    ///
    /// # Errors
    /// [`Error::Store`] when the root cannot be made or read. A damaged record is no error: it costs its image.
    pub fn open(root: &Path, config: &Config, workers: Arc<dyn Workers>) -> Result<Self, Error> {
        let local = Arc::new(Local::open(root, config, workers)?);
        Ok(Self { pulls: Arc::new(Pulls::new(local.clone())), local })
    }

    /// All images, in order of id, those that another process loaded included.
    ///
    /// # Errors
    /// [`Error::Store`] when the records cannot be read now.
    pub fn list(&self) -> Result<Arc<Vec<Arc<Image>>>, Error> {
        Ok(self.local.view()?.images.clone())
    }

    /// By tag, digest, id, or unique id prefix.
    ///
    /// # Errors
    /// [`Error::Store`] when the records cannot be read now: it is not known whether there is one.
    pub fn find(&self, reference: &str) -> Result<Option<Arc<Image>>, Error> {
        Ok(self.local.view()?.find(reference))
    }

    /// Fetches an image from its registry or a mirror. A tag is asked for each time, and costs one small
    /// request when nothing has changed. Equal pulls share their work; when the last caller drops its future,
    /// the work stops and leaves nothing. When this returns, the image survives a power cut.
    ///
    /// # Errors
    /// See [`Error`]; `RegistryUnavailable` is worth another try later.
    pub async fn pull(&self, reference: &str, credentials: Option<Credentials>) -> Result<Arc<Image>, Error> {
        self.pulls.pull(reference, credentials).await
    }

    /// Loads images from an OCI layout or a Docker archive, packed or not. `name` is for those that the archive
    /// gives none, or only a tag. Calls `progress` from another thread. Layers that are here already are not
    /// unpacked again.
    ///
    /// # Errors
    /// [`Error::BadArchive`] for what is neither, [`Error::BadReference`] for the name. What is wrong with one
    /// image is reported in [`Loaded`] and leaves nothing behind.
    pub async fn load(
        &self,
        input: Input,
        name: Option<String>,
        progress: impl Fn(Progress) + Send + 'static,
    ) -> Result<Loaded, Error> {
        let local = self.local.clone();
        task::blocking("load images", move || load::load(&local, input, name.as_deref(), &progress)).await
    }

    /// Removes the image with all its names; an unknown one is success. Layers that other images or
    /// containers (see [`Self::retain`]) use stay until they do not.
    ///
    /// # Errors
    /// [`Error::BadReference`], [`Error::AmbiguousPrefix`], [`Error::Store`].
    pub async fn remove(&self, reference: &str) -> Result<(), Error> {
        let (local, reference) = (self.local.clone(), reference.to_string());
        task::blocking("remove image", move || local.remove(&reference)).await
    }

    /// Marks the image as used by a container, so that its layers stay until `release`. The next process
    /// on this root knows it too.
    pub fn retain(&self, image: &Digest, by: &ContainerId) {
        self.local.retain(image, by.as_str());
    }

    /// Ends what [`Self::retain`] began, for all images that the container uses.
    pub fn release(&self, by: &ContainerId) {
        self.local.release(by.as_str());
    }

    /// To be called once after a restart, when it is known which containers there are: forgets the uses
    /// and deletes the writable layers of all others. Blocks.
    ///
    /// # Errors
    /// [`Error::Store`] for the first writable layer that could not be deleted.
    pub fn keep_only(&self, containers: &BTreeSet<ContainerId>) -> Result<(), Error> {
        self.local.keep_only(&containers.iter().map(ContainerId::to_string).collect())
    }

    /// (images, writable layers). Never walks the disk: images were measured as they were unpacked, writable
    /// layers are sampled in the background, at most every 10 s.
    ///
    /// # Errors
    /// [`Error::Store`] when the records cannot be read now.
    pub fn usage(&self) -> Result<(FsUsage, FsUsage), Error> {
        self.local.usage()
    }

    /// Usage of a container's writable layer, on the file system that [`Self::usage`] names second. Never walks the
    /// disk: see there. `None`: not measured yet, as right after a start, or no such container.
    pub fn writable_usage(&self, container: &ContainerId) -> Option<FsUsage> {
        self.local.writable_usage(container.as_str())
    }

    /// Has the writable layers measured again that are due, in the background; returns at once.
    pub fn refresh_writable(&self) {
        self.local.writable.refresh();
    }

    /// The file system of images and writable layers. Asks the kernel, so it may block.
    ///
    /// # Errors
    /// As statvfs(3).
    pub fn capacity(&self) -> io::Result<FsCapacity> {
        let root = &self.local.root;
        let (capacity, root) = (rustix::fs::statvfs(root)?, rustix::fs::stat(root)?);
        Ok(FsCapacity {
            bytes: capacity.f_blocks.saturating_mul(capacity.f_frsize),
            inodes: capacity.f_files,
            inodes_free: capacity.f_ffree,
            major: rustix::fs::major(root.st_dev),
            minor: rustix::fs::minor(root.st_dev),
        })
    }

    /// Makes the folder of a container's writable layer; `remove_writable` removes it. Blocks.
    ///
    /// # Errors
    /// [`Error::Store`] naming what could not be made.
    pub fn make_writable(&self, container: &ContainerId) -> Result<PathBuf, Error> {
        self.local.writable.make(container.as_str())
    }

    /// Deletes a container's writable layer; absent is success.
    ///
    /// # Errors
    /// [`Error::Store`] when something in it cannot be deleted, such as a mount.
    pub async fn remove_writable(&self, container: &ContainerId) -> Result<(), Error> {
        let (local, container) = (self.local.clone(), container.to_string());
        task::blocking("remove writable layer", move || local.writable.remove(&container)).await
    }
}
