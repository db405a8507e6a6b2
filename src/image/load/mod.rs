//! Loads the images of an archive into the store.

use std::{collections::BTreeMap, io::BufReader, sync::Arc};

use tracing::info;

use super::{
    Error, Image,
    archive::{self, Found, Input, Source},
    document::Blob,
    ingest::{self, Attempts},
    layers::Layer,
    local::{Draft, Local},
    reference::{Query, Reference, Target},
    worker::Leash,
};
use crate::model::Digest;

/// Read at once from a layer's file.
const BUFFER_BYTES: usize = 128 << 10;

/// How far a load has come.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Progress {
    /// A layer is about to be unpacked: its digest, its place from 1 on, of how many.
    Layer { digest: Digest, number: usize, of: usize },
    /// An image is complete.
    Image { id: Digest },
}

/// The result of loading an archive.
#[derive(Debug, Default)]
pub struct Loaded {
    /// In the order of the archive, each once.
    pub images: Vec<LoadedImage>,
    /// Entries that are no container images, such as signatures and charts: what the archive calls each, and
    /// what it is.
    pub skipped: Vec<(String, Error)>,
    /// Images that could not be loaded; nothing of them is left.
    pub failed: Vec<(String, Error)>,
}

/// One image of an archive, in the store now.
#[derive(Debug)]
pub struct LoadedImage {
    pub image: Arc<Image>,
    /// The archive calls it by a tag of no repository, and the caller has given none: it has no name by it.
    pub bare_tag: Option<String>,
}

/// Loads every image of `input`. Blocks.
///
/// `name` is for images that the archive gives no name or only a tag; and for the one image of an archive that
/// has a single one. Without a tag of its own it takes the archive's.
pub(super) fn load(
    local: &Local,
    input: Input,
    name: Option<&str>,
    progress: &dyn Fn(Progress),
) -> Result<Loaded, Error> {
    let name = name.map(GivenName::parse).transpose()?;
    let source = Source::open(input, &local.layers.ingest)?;
    let listed = archive::images(&source)?;
    let alone = listed.iter().filter(|entry| entry.image.is_ok()).count() == 1;
    let (mut loaded, mut ids) = (Loaded::default(), Vec::new());
    let mut given = BTreeMap::new();
    for entry in listed {
        let image = entry.image.and_then(|mut found| {
            if let Some(name) = &name {
                name.give(&mut found, alone, &mut given)?;
            }
            let bare_tag = found.bare_tag.take_if(|_| found.names.is_empty());
            let mut attempts = Attempts::default();
            let published = loop {
                let result = publish(local, &source, &found, progress);
                if attempts.end_with(&result) {
                    break result;
                }
            };
            Ok((published?, bare_tag))
        });
        match image {
            // An archive lists an image once for each of its names.
            Ok((image, bare_tag)) if !ids.iter().any(|(id, _)| *id == image.id) => {
                ids.push((image.id.clone(), bare_tag));
            }
            Ok(_) => {}
            Err(error @ Error::Unsupported { .. }) => loaded.skipped.push((entry.called, error)),
            Err(error) => loaded.failed.push((entry.called, error)),
        }
    }
    let view = local.view()?;
    for (id, bare_tag) in ids {
        if let Some(image) = view.resolve(&Query::Id(id))? {
            loaded.images.push(LoadedImage { image, bare_tag });
        }
    }
    Ok(loaded)
}

/// The name that the caller wants.
struct GivenName {
    reference: Reference,
    has_tag: bool,
}

impl GivenName {
    fn parse(text: &str) -> Result<Self, Error> {
        let reference = Reference::parse(text)?;
        if matches!(reference.target, Target::Digest(_)) {
            let why = "an image is named by a tag; its digest is what it is";
            return Err(Error::BadReference { reference: text.into(), why });
        }
        // A colon before the last slash is a port's.
        let has_tag = text.rsplit('/').next().is_some_and(|last| last.contains(':'));
        Ok(Self { reference, has_tag })
    }

    /// Gives the name where it is wanted; `given` are those given to other images of the archive.
    fn give(
        &self,
        found: &mut Found,
        alone: bool,
        given: &mut BTreeMap<String, Digest>,
    ) -> Result<(), Error> {
        if !found.names.is_empty() && !alone {
            return Ok(());
        }
        let reference = match &found.bare_tag {
            Some(tag) if !self.has_tag => Reference::parse(&format!("{}:{tag}", self.reference.name()))?,
            _ => self.reference.clone(),
        };
        let id = given.entry(reference.to_string()).or_insert_with(|| found.id.clone());
        if *id != found.id {
            let why = "another image of the archive has that name already; give one without a tag";
            return Err(Error::BadReference { reference: reference.to_string(), why });
        }
        found.names.push(reference);
        Ok(())
    }
}

fn publish(
    local: &Local,
    source: &Source,
    found: &Found,
    progress: &dyn Fn(Progress),
) -> Result<Arc<Image>, Error> {
    let mut layers: Vec<Arc<Layer>> = Vec::new();
    for (place, ((file, blob), diff_id)) in found.layers.iter().zip(&found.config.diff_ids).enumerate() {
        progress(Progress::Layer { digest: diff_id.clone(), number: place + 1, of: found.layers.len() });
        let layer = match local.layers.find(diff_id.hex())? {
            Some(layer) => layer,
            None => take(local, source, file, blob.clone(), diff_id)?,
        };
        layers.push(layer);
    }
    let draft = Draft {
        id: found.id.clone(),
        repo_tags: found.repo_tags(),
        repo_digests: found.repo_digests(),
        config: found.config.process.clone(),
        layers,
    };
    let image = local.publish(draft)?;
    info!(image = %image.id, names = ?image.repo_tags, "image loaded");
    progress(Progress::Image { id: image.id.clone() });
    Ok(image)
}

fn take(
    local: &Local,
    source: &Source,
    file: &str,
    blob: Option<Blob>,
    diff_id: &Digest,
) -> Result<Arc<Layer>, Error> {
    // Whoever loads cannot change their mind but by ending the process, and it with that.
    let leash = Leash::default();
    let (bytes, size) = source.open_member(file)?;
    if size > local.config.layer_compressed_bytes_max {
        return Err(Error::Limit { what: "size of a layer", limit: local.config.layer_compressed_bytes_max });
    }
    match blob {
        Some(blob) => {
            ingest::take(local, BufReader::with_capacity(BUFFER_BYTES, bytes), blob, diff_id, &leash)
        }
        None => {
            // Only the diff id is promised: the file is read twice, first for a digest to report.
            let mut hash = sha2::Sha256::default();
            std::io::copy(&mut { bytes }, &mut HashWriter(&mut hash))
                .map_err(|e| source.bad(&e.to_string()))?;
            let digest = Digest::from_bytes(sha2::Digest::finalize(hash).into());
            let (bytes, _) = source.open_member(file)?;
            let blob = Blob { digest, size };
            ingest::take(local, BufReader::with_capacity(BUFFER_BYTES, bytes), blob, diff_id, &leash)
        }
    }
}

struct HashWriter<'a>(&'a mut sha2::Sha256);

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        sha2::Digest::update(self.0, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
