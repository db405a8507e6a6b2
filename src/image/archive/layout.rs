//! OCI layouts (OCI image spec, "Image layout"): `index.json`, and blobs by their digests.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Found, Listed, Source, limit_images};
use crate::{
    image::{
        Error,
        document::{self, Blob, IndexWalk, Manifest, Step, nullable, wire},
        reference::Reference,
    },
    model::Digest,
};

#[derive(Deserialize)]
struct Index {
    /// Each is read on its own, so that one that cannot be costs no other.
    #[serde(default, deserialize_with = "nullable::or_default")]
    manifests: Vec<Box<RawValue>>,
}

/// The images of a layout that may be for this machine.
pub(super) fn images(source: &Source) -> Result<Vec<Listed>, Error> {
    let bytes = source.read("index.json", document::MANIFEST_BYTES_MAX)?;
    let index: Index = document::read("image layout", "index.json", &bytes)?;
    limit_images(index.manifests.len())?;
    let mut listed = Vec::new();
    for (place, entry) in index.manifests.iter().enumerate() {
        let unnamed = || format!("entry {} of index.json", place + 1);
        let entry: wire::Descriptor = match document::read("image layout", &unnamed(), entry.get().as_bytes())
        {
            Ok(entry) => entry,
            Err(error) => {
                listed.push(Listed { called: unnamed(), image: Err(error) });
                continue;
            }
        };
        if !document::fits_host(&entry) {
            continue;
        }
        let called = name(&entry).cloned().unwrap_or_else(|| entry.digest.clone());
        match found(source, &entry) {
            Err(Error::NoPlatform { .. }) => {}
            image => listed.push(Listed { called, image }),
        }
    }
    Ok(listed)
}

fn found(source: &Source, entry: &wire::Descriptor) -> Result<Found, Error> {
    let digest = document::digest("image layout", "index.json", &entry.digest)?;
    let manifest = manifest(source, &Blob { digest: digest.clone(), size: entry.size })?;
    let (mut names, mut bare_tag) = (Vec::new(), None);
    match name(entry) {
        Some(name) if name.contains([':', '/', '@']) => names.push(Reference::parse(name)?),
        name => bare_tag = name.cloned(),
    }
    let file = blob_file(&manifest.config.digest);
    let config = source.read_blob(&file, &manifest.config, "image config", document::CONFIG_BYTES_MAX)?;
    let config = document::Config::parse(&manifest.config.digest.to_string(), &config)?;
    let layers = manifest.layers.into_iter().map(|blob| (blob_file(&blob.digest), Some(blob))).collect();
    Found { id: manifest.config.digest, config, layers, digest: Some(digest), names, bare_tag }.checked()
}

/// The name that the entry has for its image. The second annotation may be a whole name, but the spec means a tag alone.
fn name(entry: &wire::Descriptor) -> Option<&String> {
    let annotation = |key: &str| entry.annotations.get(key).filter(|name| !name.is_empty());
    annotation("io.containerd.image.name").or_else(|| annotation("org.opencontainers.image.ref.name"))
}

/// The manifest that `blob` is or leads to.
fn manifest(source: &Source, blob: &Blob) -> Result<Manifest, Error> {
    let (mut blob, mut walk) = (blob.clone(), IndexWalk::default());
    loop {
        let file = blob_file(&blob.digest);
        let bytes = source.read_blob(&file, &blob, "manifest", document::MANIFEST_BYTES_MAX)?;
        match walk.step(&blob.digest.to_string(), &bytes)? {
            Step::Manifest(manifest) => return Ok(manifest),
            Step::Next(next) => blob = next,
        }
    }
}

/// The path of a blob in a layout.
pub(super) fn blob_file(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}
