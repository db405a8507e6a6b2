//! image

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;

use crate::model::{Digest, ImageConfig, RootfsLayers, UnixNanos};

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("image {0} is not here")]
    NoSuchImage(String),
}

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

/// CRI `AuthConfig`.
#[derive(Clone, Default)]
pub struct Credentials {
    pub username: String,
    pub password: String,
    pub auth: String,
    pub server_address: String,
    pub identity_token: String,
    pub registry_token: String,
}

/// What images and writable layers take on their file system.
#[derive(Clone, Debug)]
pub struct FsUsage {
    pub at: UnixNanos,
    pub mountpoint: PathBuf,
    pub used_bytes: u64,
    pub inodes_used: u64,
}

/// All images of the node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Images {}

impl Images {
    pub fn open(_root: &Path, _config: &Config) -> Result<Self, Error> {
        Ok(Self {})
    }
    pub fn list(&self) -> Arc<Vec<Arc<Image>>> {
        Arc::default()
    }
    /// By tag, digest, id, or unique id prefix.
    pub fn find(&self, _reference: &str) -> Option<Arc<Image>> {
        None
    }
    pub async fn pull(
        &self,
        reference: &str,
        _credentials: Option<Credentials>,
    ) -> Result<Arc<Image>, Error> {
        Err(Error::NoSuchImage(reference.into()))
    }
    /// Stub.
    pub async fn load(
        &self,
        _archive: &Path,
        _progress: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Vec<Arc<Image>>, Error> {
        Ok(Vec::new())
    }
    /// Removes the image with all its names; an unknown one is success. Layers in use by `in_use` stay.
    pub async fn remove(&self, _reference: &str) -> Result<(), Error> {
        Ok(())
    }
    /// Marks the image as used by a container, so that its layers stay until `release`.
    pub fn retain(&self, _image: &Digest, _by: &str) {}
    pub fn release(&self, _image: &Digest, _by: &str) {}
    /// (images, writable layers)
    pub fn usage(&self) -> (FsUsage, FsUsage) {
        let usage = FsUsage { at: UnixNanos(0), mountpoint: PathBuf::new(), used_bytes: 0, inodes_used: 0 };
        (usage.clone(), usage)
    }
    /// Where a container's writable layer goes: made here, removed by `remove_writable`.
    pub fn writable(&self, container: &str) -> PathBuf {
        PathBuf::from(container)
    }
    pub async fn remove_writable(&self, _container: &str) -> Result<(), Error> {
        Ok(())
    }
}
