//! The storage of a registry, written as files. See the layout in the distribution project's
//! `registry/storage/paths.go`.

use std::{
    collections::BTreeMap,
    env::consts::ARCH,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{Result, digest::digest, layer::Layer};

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

/// An image before it is stored.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    /// The `config` object of the image config: `Cmd`, `User` and so on.
    pub(crate) config: Value,
    /// Bottom first.
    pub(crate) layers: Vec<Layer>,
}

/// Which media types a manifest names.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Dialect {
    Oci,
    Docker,
}

/// The folder that `docker-registry` serves.
#[derive(Debug)]
pub(crate) struct Registry {
    v2: PathBuf,
    digests: BTreeMap<String, String>,
}

impl Registry {
    pub(crate) fn create(folder: &Path) -> Result<Self> {
        let v2 = folder.join("docker/registry/v2");
        fs::create_dir_all(&v2)?;
        Ok(Self { v2, digests: BTreeMap::new() })
    }

    /// `repository:tag` → digest of what the tag names.
    pub(crate) fn digests(&self) -> &BTreeMap<String, String> {
        &self.digests
    }

    /// Stores the image under each name (`repository:tag`) and answers with its manifest's digest.
    pub(crate) fn put(&mut self, names: &[&str], image: &Image, dialect: Dialect) -> Result<String> {
        let mut digest = String::new();
        for name in names {
            let (repository, tag) = split(name)?;
            let manifest = self.put_parts(repository, image, dialect)?;
            digest = self.put_manifest(repository, &manifest)?;
            self.tag(repository, tag, &digest)?;
        }
        Ok(digest)
    }

    /// Stores the image behind an index that first names a sibling for a machine unlike this one.
    pub(crate) fn put_index(&mut self, name: &str, image: &Image, sibling: &Image) -> Result<()> {
        let (repository, tag) = split(name)?;
        let mut manifests = Vec::new();
        for (image, architecture) in [(sibling, "s390x"), (image, architecture())] {
            let manifest = self.put_parts(repository, image, Dialect::Oci)?;
            let digest = self.put_manifest(repository, &manifest)?;
            manifests.push(json!({
                "mediaType": OCI_MANIFEST, "digest": digest, "size": manifest.len(),
                "platform": {"architecture": architecture, "os": "linux"},
            }));
        }
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
        let digest = self.put_manifest(repository, &serde_json::to_vec(&index)?)?;
        self.tag(repository, tag, &digest)
    }

    /// Stores any bytes as a manifest under a tag: what a broken registry might answer.
    pub(crate) fn put_raw(&mut self, name: &str, manifest: &[u8]) -> Result<()> {
        let (repository, tag) = split(name)?;
        let digest = self.put_manifest(repository, manifest)?;
        self.tag(repository, tag, &digest)
    }

    /// Stores config and layers, and answers with the manifest that names them.
    pub(crate) fn put_parts(&mut self, repository: &str, image: &Image, dialect: Dialect) -> Result<Vec<u8>> {
        let (manifest_type, config_type, layer_type) = match dialect {
            Dialect::Oci => (OCI_MANIFEST, OCI_CONFIG, OCI_LAYER),
            Dialect::Docker => (DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER),
        };
        let diff_ids: Vec<&str> = image.layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let config = serde_json::to_vec(&json!({
            "architecture": architecture(), "os": "linux", "config": image.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }))?;
        let mut layers = Vec::new();
        for layer in &image.layers {
            let digest = self.put_blob(repository, &layer.gzip)?;
            layers.push(json!({"mediaType": layer_type, "digest": digest, "size": layer.gzip.len()}));
        }
        let config_digest = self.put_blob(repository, &config)?;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": manifest_type,
            "config": {"mediaType": config_type, "digest": config_digest, "size": config.len()},
            "layers": layers,
        });
        Ok(serde_json::to_vec(&manifest)?)
    }

    /// Replaces a stored blob by other bytes: its name no longer tells what it holds.
    pub(crate) fn corrupt(&self, digest: &str, bytes: &[u8]) -> Result<()> {
        Ok(fs::write(self.data(digest)?, bytes)?)
    }

    fn put_blob(&self, repository: &str, bytes: &[u8]) -> Result<String> {
        let digest = digest(bytes);
        self.store(&digest, bytes)?;
        self.link(&format!("{repository}/_layers/{}", digest.replace(':', "/")), &digest)?;
        Ok(digest)
    }

    fn put_manifest(&self, repository: &str, bytes: &[u8]) -> Result<String> {
        let digest = digest(bytes);
        self.store(&digest, bytes)?;
        self.link(&format!("{repository}/_manifests/revisions/{}", digest.replace(':', "/")), &digest)?;
        Ok(digest)
    }

    fn tag(&mut self, repository: &str, tag: &str, digest: &str) -> Result<()> {
        let folder = format!("{repository}/_manifests/tags/{tag}");
        self.link(&format!("{folder}/current"), digest)?;
        self.link(&format!("{folder}/index/{}", digest.replace(':', "/")), digest)?;
        self.digests.insert(format!("{repository}:{tag}"), digest.into());
        Ok(())
    }

    fn store(&self, digest: &str, bytes: &[u8]) -> Result<()> {
        let path = self.data(digest)?;
        fs::create_dir_all(path.parent().ok_or("a blob has a folder")?)?;
        Ok(fs::write(path, bytes)?)
    }

    fn data(&self, digest: &str) -> Result<PathBuf> {
        let hex = digest.strip_prefix("sha256:").ok_or("a digest begins with sha256:")?;
        Ok(self.v2.join("blobs/sha256").join(&hex[..2]).join(hex).join("data"))
    }

    fn link(&self, folder: &str, digest: &str) -> Result<()> {
        let folder = self.v2.join("repositories").join(folder);
        fs::create_dir_all(&folder)?;
        Ok(fs::write(folder.join("link"), digest)?)
    }
}

/// This machine's architecture in an image's words.
pub(crate) fn architecture() -> &'static str {
    match ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn split(name: &str) -> Result<(&str, &str)> {
    name.rsplit_once(':').ok_or_else(|| format!("{name} has no tag").into())
}
