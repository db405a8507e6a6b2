//! The JSON documents of an image: OCI image spec and Docker's schema 2, which say the same with other media
//! types. What decides which image is meant is read strictly; elsewhere, what Docker, containerd and CRI-O read
//! is read (null for anything that may be absent, old names), for such documents are in registries.

use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use tracing::info;

pub(super) use self::platform::Platform;
use super::Error;
use crate::model::{Digest, ImageConfig};

pub(super) mod nullable;
mod platform;
pub(super) mod wire;

/// Largest manifest or index; bytes. What registries themselves accept.
pub(super) const MANIFEST_BYTES_MAX: u64 = 4 << 20;
/// Largest image config; bytes. It holds the history and labels, so it may be larger than a manifest.
pub(super) const CONFIG_BYTES_MAX: u64 = 8 << 20;
/// Most layers of an image. Overlayfs takes 500; registries and builders stop at 127.
pub(super) const LAYERS_MAX: usize = 128;
/// Most manifests in an index.
const INDEX_ENTRIES_MAX: usize = 1000;
/// An index may point at an index, and no deeper.
const INDEX_DEPTH_MAX: usize = 2;
/// Most environment variables, arguments or labels of a config: what one process could be given.
const CONFIG_ENTRIES_MAX: usize = 10_000;

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Media types of configs from old clients and registries, which Docker still takes (moby#22378).
const OLD_CONFIGS: [&str; 4] = ["application/octet-stream", "application/json", "text/html", ""];

/// The `Accept` header of a request for a manifest.
pub(super) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// A blob: what it must hash to, and its exact size in bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// A manifest or an index, told apart by what it says it is, or by what it has.
#[derive(Debug, Eq, PartialEq)]
enum Document {
    Manifest(Manifest),
    Index(Vec<IndexEntry>),
}

/// One image: its config and its layers, bottom first.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Manifest {
    pub(super) config: Blob,
    pub(super) layers: Vec<Blob>,
}

#[derive(Debug, Eq, PartialEq)]
struct IndexEntry {
    blob: Blob,
    platform: Option<Platform>,
}

/// The parts of an image config that we use.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Config {
    pub(super) process: ImageConfig,
    /// Digests of the layers' tars, bottom first.
    pub(super) diff_ids: Vec<Digest>,
}

/// The digest of bytes that are already in memory.
pub(super) fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

impl Document {
    /// # Errors
    /// [`Error::BadDocument`] for what is no manifest, [`Error::Unsupported`] for what is no image.
    fn parse(name: &str, bytes: &[u8]) -> Result<Self, Error> {
        let wire: wire::Document = read("manifest", name, bytes)?;
        let unsupported = |why: String| Error::Unsupported { name: name.into(), why };
        match wire.schema_version {
            0 | 2 => {} // what it has decides
            1 => {
                let why = "manifests of schema version 1 are not supported: push the image again with a current tool";
                return Err(unsupported(why.into()));
            }
            other => {
                return Err(unsupported(format!("manifests of schema version {other} are not supported")));
            }
        }
        let media_type = wire.media_type.as_deref().filter(|text| !text.is_empty());
        match media_type {
            None | Some(OCI_INDEX | DOCKER_INDEX | OCI_MANIFEST | DOCKER_MANIFEST) => {}
            Some(other) => return Err(unsupported(format!("media type {other:?} is not supported"))),
        }
        let says_index = matches!(media_type, Some(OCI_INDEX | DOCKER_INDEX));
        match (wire.manifests, wire.config, wire.layers) {
            (Some(manifests), None, None) if says_index || media_type.is_none() => index(name, manifests),
            (None, None, None) if says_index => index(name, Vec::new()),
            (None, Some(config), layers) if !says_index => {
                manifest(name, wire.artifact_type.as_deref(), &config, &layers.unwrap_or_default())
            }
            // One reader must not see an index where another sees an image.
            _ => Err(Error::document("manifest", name, "it is neither a manifest nor an index")),
        }
    }
}

/// The way from a reference to the manifest for this machine, through indexes. Whoever reads the documents
/// gives each to `step`, and is told which to read next.
#[derive(Debug, Default)]
pub(super) struct IndexWalk {
    indexes: usize,
}

/// The next step from a document.
#[derive(Debug)]
pub(super) enum Step {
    Manifest(Manifest),
    /// The document to read next.
    Next(Blob),
}

impl IndexWalk {
    /// # Errors
    /// As [`Document::parse`]; [`Error::NoPlatform`] for an index without an entry for this machine,
    /// [`Error::Limit`] for indexes in indexes in indexes.
    pub(super) fn step(&mut self, name: &str, bytes: &[u8]) -> Result<Step, Error> {
        let index = match Document::parse(name, bytes)? {
            Document::Manifest(manifest) => return Ok(Step::Manifest(manifest)),
            Document::Index(index) => index,
        };
        self.indexes += 1;
        if self.indexes > INDEX_DEPTH_MAX {
            return Err(Error::Limit { what: "depth of indexes in indexes", limit: INDEX_DEPTH_MAX as u64 });
        }
        Ok(Step::Next(choose(name, &index, &Platform::host())?.blob.clone()))
    }
}

fn index(name: &str, manifests: Vec<wire::Descriptor>) -> Result<Document, Error> {
    if manifests.len() > INDEX_ENTRIES_MAX {
        return Err(Error::Limit {
            what: "number of manifests in an index",
            limit: INDEX_ENTRIES_MAX as u64,
        });
    }
    let entry = |wire: wire::Descriptor| {
        let known = matches!(
            wire.media_type.as_str(),
            "" | OCI_INDEX | DOCKER_INDEX | OCI_MANIFEST | DOCKER_MANIFEST
        );
        let blob = blob("manifest", name, &wire)?;
        Ok(known
            .then_some(IndexEntry { blob, platform: wire.platform.as_ref().and_then(Platform::normalized) }))
    };
    Ok(Document::Index(
        manifests.into_iter().filter_map(|wire| entry(wire).transpose()).collect::<Result<_, _>>()?,
    ))
}

fn manifest(
    name: &str,
    artifact_type: Option<&str>,
    config: &wire::Descriptor,
    layers: &[wire::Descriptor],
) -> Result<Document, Error> {
    let unsupported = |why: String| Error::Unsupported { name: name.into(), why };
    let is_config = matches!(config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG)
        || OLD_CONFIGS.contains(&config.media_type.as_str());
    if !is_config {
        let what = artifact_type.unwrap_or(&config.media_type);
        return Err(unsupported(format!("it is an artifact of type {what:?}, not a container image")));
    }
    if layers.len() > LAYERS_MAX {
        return Err(Error::Limit { what: "number of layers", limit: LAYERS_MAX as u64 });
    }
    for layer in layers {
        // Compression is recognised by the first bytes; the type says only whether it is a layer at all. Addresses
        // of foreign layers (`urls`) are never followed: they would name any host on our behalf. Their blob is
        // asked for as any other, and many registries have it.
        let known = layer.media_type.starts_with("application/vnd.oci.image.layer.")
            || layer.media_type.starts_with("application/vnd.docker.image.rootfs.diff.tar")
            || layer.media_type.starts_with("application/vnd.docker.image.rootfs.foreign.diff.tar");
        if !known || layer.media_type.ends_with("+encrypted") {
            return Err(unsupported(format!("layers of type {:?} are not supported", layer.media_type)));
        }
    }
    let layers = layers.iter().map(|layer| blob("manifest", name, layer)).collect::<Result<_, _>>()?;
    Ok(Document::Manifest(Manifest { config: blob("manifest", name, config)?, layers }))
}

/// The entry for this machine: the best variant of its architecture, the first among equals. Entries
/// without a platform are taken only when no other fits.
fn choose<'a>(name: &str, index: &'a [IndexEntry], host: &Platform) -> Result<&'a IndexEntry, Error> {
    let rank = |entry: &IndexEntry| entry.platform.as_ref().map_or(Some(usize::MAX), |has| host.rank(has));
    index
        .iter()
        .filter_map(|entry| Some((rank(entry)?, entry)))
        .min_by_key(|(rank, _)| *rank)
        .map(|(_, e)| e)
        .ok_or_else(|| Error::NoPlatform { name: name.into(), platform: host.to_string() })
}

/// Whether a manifest may be for this machine: it says so, or does not say.
pub(super) fn fits_host(entry: &wire::Descriptor) -> bool {
    let platform = entry.platform.as_ref().and_then(Platform::normalized);
    platform.is_none_or(|platform| Platform::host().rank(&platform).is_some())
}

impl Config {
    /// # Errors
    /// [`Error::BadDocument`], and [`Error::Limit`] for lists that no process could be given.
    pub(super) fn parse(name: &str, bytes: &[u8]) -> Result<Self, Error> {
        let wire: wire::Config = read("image config", name, bytes)?;
        let Some(rootfs) = wire.rootfs else {
            return Err(Error::document("image config", name, "it has no rootfs"));
        };
        if rootfs.diff_ids.len() > LAYERS_MAX {
            return Err(Error::Limit { what: "number of layers", limit: LAYERS_MAX as u64 });
        }
        let diff_ids = rootfs.diff_ids.iter().map(|text| digest("image config", name, text));
        let diff_ids = diff_ids.collect::<Result<_, _>>()?;
        let process = wire.config.unwrap_or_default();
        let unknown = unknown_keys(process.others.keys());
        if !unknown.is_empty() {
            info!(config = name, ?unknown, "ignoring keys of an image config that are not known here");
        }
        let process = ImageConfig {
            user: process.user,
            env: process.env,
            entrypoint: process.entrypoint,
            cmd: process.cmd,
            working_dir: process.working_dir,
            stop_signal: process.stop_signal,
            volumes: process.volumes.into_keys().collect(),
            labels: process.labels,
        };
        let longest = [
            process.env.len(),
            process.entrypoint.len(),
            process.cmd.len(),
            process.volumes.len(),
            process.labels.len(),
        ];
        if longest.into_iter().any(|entries| entries > CONFIG_ENTRIES_MAX) {
            return Err(Error::Limit {
                what: "number of entries in an image config",
                limit: CONFIG_ENTRIES_MAX as u64,
            });
        }
        Ok(Self { process, diff_ids })
    }
}

/// Keys of `config` that other tools obey, or the request decides; docs/formats/image-config.md says why for each.
const NOT_FOR_US: [&str; 20] = [
    "ArgsEscaped",
    "AttachStderr",
    "AttachStdin",
    "AttachStdout",
    "CpuShares",
    "Domainname",
    "ExposedPorts",
    "Healthcheck",
    "Hostname",
    "Image",
    "MacAddress",
    "Memory",
    "MemorySwap",
    "NetworkDisabled",
    "OnBuild",
    "OpenStdin",
    "Shell",
    "StdinOnce",
    "StopTimeout",
    "Tty",
];

/// Unknown keys that are named in the log, and characters of each: a config may have any number.
const UNKNOWN_KEYS_MAX: usize = 16;
const UNKNOWN_KEY_CHARS_MAX: usize = 64;

fn unknown_keys<'a>(keys: impl Iterator<Item = &'a String>) -> Vec<String> {
    let unknown = keys.filter(|key| !NOT_FOR_US.contains(&key.as_str()));
    unknown.take(UNKNOWN_KEYS_MAX).map(|key| key.chars().take(UNKNOWN_KEY_CHARS_MAX).collect()).collect()
}

/// Reads JSON. serde_json stops at 128 levels by itself; sizes are limited where the bytes come from.
pub(super) fn read<T: DeserializeOwned>(what: &'static str, name: &str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|error| Error::document(what, name, error))
}

pub(super) fn digest(what: &'static str, name: &str, text: &str) -> Result<Digest, Error> {
    Digest::parse(text).map_err(|_| {
        let shown: String = text.chars().take(80).collect();
        Error::document(what, name, format!("{shown:?} is not sha256:<64 hex digits>"))
    })
}

fn blob(what: &'static str, name: &str, wire: &wire::Descriptor) -> Result<Blob, Error> {
    Ok(Blob { digest: digest(what, name, &wire.digest)?, size: wire.size })
}

#[cfg(test)]
mod tests;
