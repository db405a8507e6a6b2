//! Archives of `docker save` and `podman save`: `manifest.json`, a list of images that name their files.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Found, Listed, Source, limit_images};
use crate::image::{
    Error,
    document::{self, nullable},
    reference::Reference,
};

/// Docker's placeholder for the name of an image that has none.
const NO_NAME: &str = "<none>";

/// One image. Go writes null for what it has none of.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Saved {
    #[serde(deserialize_with = "nullable::or_default")]
    config: String,
    #[serde(deserialize_with = "nullable::texts")]
    repo_tags: Vec<String>,
    #[serde(deserialize_with = "nullable::texts")]
    layers: Vec<String>,
}

pub(super) fn images(source: &Source) -> Result<Vec<Listed>, Error> {
    let bytes = source.read("manifest.json", document::MANIFEST_BYTES_MAX)?;
    let entries: Option<Vec<Box<RawValue>>> = document::read("Docker archive", "manifest.json", &bytes)?;
    let entries = entries.unwrap_or_default();
    limit_images(entries.len())?;
    let entries = entries.iter().enumerate().map(|(place, entry)| {
        let unnamed = format!("entry {} of manifest.json", place + 1);
        match document::read::<Saved>("Docker archive", &unnamed, entry.get().as_bytes()) {
            Ok(saved) => {
                let called = names(&saved).next().map_or(unnamed, str::to_owned);
                Listed { called, image: found(source, &saved) }
            }
            Err(error) => Listed { called: unnamed, image: Err(error) },
        }
    });
    Ok(entries.collect())
}

fn found(source: &Source, saved: &Saved) -> Result<Found, Error> {
    if saved.config.is_empty() {
        return Err(Error::document("Docker archive", "manifest.json", "an image has no config"));
    }
    let bytes = source.read(&saved.config, document::CONFIG_BYTES_MAX)?;
    // An image's id is the digest of its config, whatever the file is called.
    let id = document::digest_of(&bytes);
    let config = document::Config::parse(&saved.config, &bytes)?;
    let names = names(saved).map(Reference::parse).collect::<Result<_, _>>()?;
    let layers = saved.layers.iter().map(|file| (file.clone(), None)).collect();
    Found { id, config, layers, digest: None, names, bare_tag: None }.checked()
}

fn names(saved: &Saved) -> impl Iterator<Item = &str> {
    saved.repo_tags.iter().map(String::as_str).filter(|name| !name.is_empty() && !name.contains(NO_NAME))
}
