//! The JSON documents of an image: OCI image spec and Docker's schema 2, which say the same with other media
//! types. What decides which image is meant is read strictly; elsewhere, what Docker, containerd and CRI-O read
//! is read (null for anything that may be absent, old names), for such documents are in registries.

use std::collections::BTreeMap;

use serde::{Deserialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};
use tracing::info;

use super::Error;
use crate::model::{Digest, ImageConfig};

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
/// What old clients and registries called a config, and what Docker still takes for one (moby#22378).
const OLD_CONFIGS: [&str; 4] = ["application/octet-stream", "application/json", "text/html", ""];

/// What we ask a registry for.
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

/// An operating system and a processor (OCI image spec, image index, `platform`).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub(super) struct Platform {
    #[serde(deserialize_with = "wire::or_default")]
    os: String,
    #[serde(deserialize_with = "wire::or_default")]
    architecture: String,
    #[serde(deserialize_with = "wire::or_default")]
    variant: String,
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

/// Where a document on the way leads.
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
        // Compression is told by the first bytes; the type says only whether it is a layer at all. Addresses
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

impl Platform {
    /// This machine, in the spec's words.
    pub(super) fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "aarch64" => ("arm64", "v8"),
            "arm" => ("arm", "v7"),
            "x86" => ("386", ""),
            "powerpc64" => ("ppc64le", ""),
            other => (other, ""),
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: variant.into() }
    }

    /// A platform as tools write it, in the spec's words (containerd's platforms package knows the same).
    /// `None` when it says nothing.
    fn normalized(&self) -> Option<Self> {
        let (os, architecture, variant) = (
            self.os.to_ascii_lowercase(),
            self.architecture.to_ascii_lowercase(),
            self.variant.to_ascii_lowercase(),
        );
        if os.is_empty() && architecture.is_empty() {
            return None;
        }
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("amd64" | "x86_64" | "x86-64", "v1") => ("amd64", ""),
            ("amd64" | "x86_64" | "x86-64", variant) => ("amd64", variant),
            ("arm64" | "aarch64", "" | "8" | "v8") => ("arm64", "v8"),
            ("arm64" | "aarch64", variant) => ("arm64", variant),
            ("i386", variant) => ("386", variant),
            ("armhf", "") | ("arm", "" | "7") => ("arm", "v7"),
            ("armel", "") | ("arm", "6") => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "8") => ("arm", "v8"),
            as_it_is => as_it_is,
        };
        let os = if os.is_empty() { "linux".into() } else { os };
        Some(Self { os, architecture: architecture.into(), variant: variant.into() })
    }

    /// How well `image` runs here; less is better, `None` is not at all. What a processor's older mode runs
    /// comes last, as in containerd.
    fn rank(&self, image: &Self) -> Option<usize> {
        let runs: &[(&str, &str)] = match (self.architecture.as_str(), self.variant.as_str()) {
            // A variant of amd64 asks for a newer processor than we can promise.
            ("amd64", _) => &[("amd64", ""), ("386", "")],
            ("arm64", _) => &[("arm64", "v8"), ("arm", "v8"), ("arm", "v7"), ("arm", "v6"), ("arm", "v5")],
            ("arm", _) => &[("arm", "v7"), ("arm", "v6"), ("arm", "v5")],
            (other, _) => &[(other, "")],
        };
        let fits = |(architecture, variant): &(&str, &str)| {
            image.os == self.os && image.architecture == *architecture && image.variant == *variant
        };
        runs.iter().position(fits)
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
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

/// The documents as they are written. Anything may be `null` that may be absent: Go, in which the other readers
/// are written, takes both for its zero value.
pub(super) mod wire {
    use serde::{Deserializer, de::IgnoredAny};

    use super::{BTreeMap, Deserialize, Platform};

    /// null is as good as absent: what Go writes for an empty list, map or text.
    pub(in crate::image) fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        Option::deserialize(deserializer).map(Option::unwrap_or_default)
    }

    /// As [`or_default`], of the list and of each text in it.
    pub(in crate::image) fn texts<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<String>, D::Error> {
        let texts: Option<Vec<Option<String>>> = Option::deserialize(deserializer)?;
        Ok(texts.unwrap_or_default().into_iter().map(Option::unwrap_or_default).collect())
    }

    fn named_texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
        let texts: Option<BTreeMap<String, Option<String>>> = Option::deserialize(deserializer)?;
        Ok(texts
            .unwrap_or_default()
            .into_iter()
            .map(|(name, text)| (name, text.unwrap_or_default()))
            .collect())
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    pub(in crate::image) struct Document {
        #[serde(default, deserialize_with = "or_default")]
        pub(super) schema_version: u64,
        pub(super) media_type: Option<String>,
        pub(super) artifact_type: Option<String>,
        pub(super) manifests: Option<Vec<Descriptor>>,
        pub(super) config: Option<Descriptor>,
        pub(super) layers: Option<Vec<Descriptor>>,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    pub(in crate::image) struct Descriptor {
        #[serde(default, deserialize_with = "or_default")]
        pub(in crate::image) media_type: String,
        pub(in crate::image) digest: String,
        pub(in crate::image) size: u64,
        pub(super) platform: Option<Platform>,
        #[serde(default, deserialize_with = "named_texts")]
        pub(in crate::image) annotations: BTreeMap<String, String>,
    }

    #[derive(Deserialize)]
    pub(super) struct Config {
        pub(super) config: Option<Process>,
        pub(super) rootfs: Option<Rootfs>,
    }

    #[derive(Deserialize)]
    pub(super) struct Rootfs {
        #[serde(default, deserialize_with = "or_default")]
        pub(super) diff_ids: Vec<String>,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    pub(super) struct Process {
        #[serde(deserialize_with = "or_default")]
        pub(super) user: String,
        #[serde(deserialize_with = "texts")]
        pub(super) env: Vec<String>,
        #[serde(deserialize_with = "texts")]
        pub(super) entrypoint: Vec<String>,
        #[serde(deserialize_with = "texts")]
        pub(super) cmd: Vec<String>,
        #[serde(deserialize_with = "or_default")]
        pub(super) working_dir: String,
        #[serde(deserialize_with = "or_default")]
        pub(super) stop_signal: String,
        #[serde(deserialize_with = "or_default")]
        pub(super) volumes: BTreeMap<String, IgnoredAny>,
        #[serde(deserialize_with = "named_texts")]
        pub(super) labels: BTreeMap<String, String>,
        #[serde(flatten)]
        pub(super) others: BTreeMap<String, IgnoredAny>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn manifest_text(config_type: &str, layer_type: &str, digest: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}",
            "config":{{"mediaType":"{config_type}","digest":"sha256:{HEX}","size":2}},
            "layers":[{{"mediaType":"{layer_type}","digest":"{digest}","size":3}}]}}"#
        )
    }

    #[track_caller]
    fn refuse(text: &str, words: &str) {
        let error = Document::parse("test", text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }

    #[test]
    fn a_manifest_is_its_config_and_layers() {
        let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
        let digest = Digest::parse(&format!("sha256:{HEX}")).unwrap();
        let text = manifest_text(OCI_CONFIG, layer, &format!("sha256:{HEX}"));
        assert_eq!(
            Document::parse("test", text.as_bytes()).unwrap(),
            Document::Manifest(Manifest {
                config: Blob { digest: digest.clone(), size: 2 },
                layers: vec![Blob { digest, size: 3 }],
            })
        );
    }

    #[test]
    fn what_is_no_image_is_refused_in_words() {
        let layer = "application/vnd.oci.image.layer.v1.tar+gzip";
        let good = format!("sha256:{HEX}");
        refuse(&manifest_text("application/vnd.cncf.helm.config.v1+json", layer, &good), "artifact");
        refuse(&manifest_text(OCI_CONFIG, "text/plain", &good), "text/plain");
        refuse(&manifest_text(OCI_CONFIG, &format!("{layer}+encrypted"), &good), "encrypted");
        refuse(r#"{"schemaVersion":1,"fsLayers":[]}"#, "push the image again with a current tool");
        refuse(r#"{"schemaVersion":3,"manifests":[]}"#, "schema version 3");
        refuse(r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#, "neither");
        refuse(&format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","manifests":[]}}"#), "neither");
        refuse("[]", "manifest");
        refuse(&format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)), "manifest");
    }

    #[test]
    fn old_names_of_configs_and_foreign_layers_are_read() {
        let layer = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        let good = format!("sha256:{HEX}");
        for config in ["application/octet-stream", "application/json", "text/html", ""] {
            let text = manifest_text(config, layer, &good);
            assert!(
                matches!(Document::parse("test", text.as_bytes()), Ok(Document::Manifest(_))),
                "{config}"
            );
        }
        for foreign in [
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        ] {
            let text = manifest_text(DOCKER_CONFIG, foreign, &good);
            let text = text.replace(r#""size":3"#, r#""size":3,"urls":["http://169.254.169.254/"]"#);
            let Ok(Document::Manifest(read)) = Document::parse("test", text.as_bytes()) else { panic!() };
            assert_eq!(read.layers.len(), 1, "{foreign}");
        }
    }

    #[test]
    fn null_is_as_good_as_absent_in_manifests_and_indexes() {
        let config = format!(r#"{{"mediaType":null,"digest":"sha256:{HEX}","size":2,"annotations":null}}"#);
        for text in [
            format!(
                r#"{{"schemaVersion":null,"mediaType":null,"artifactType":null,"manifests":null,"config":{config},"layers":null,"annotations":null}}"#
            ),
            format!(
                r#"{{"mediaType":"{OCI_MANIFEST}","config":{config},"layers":[],"annotations":{{"a":null}}}}"#
            ),
            format!(r#"{{"schemaVersion":2,"mediaType":"","config":{config}}}"#),
        ] {
            let read = Document::parse("test", text.as_bytes());
            assert!(
                matches!(&read, Ok(Document::Manifest(image)) if image.layers.is_empty()),
                "{text} {read:?}"
            );
        }
        let entry = format!(
            r#"{{"mediaType":null,"digest":"sha256:{HEX}","size":1,"annotations":{{"a":null}},
            "platform":{{"os":"linux","architecture":"amd64","variant":null,"os.version":null}}}}"#
        );
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":null,"manifests":[{entry}],"config":null,"layers":null}}"#
        );
        let Document::Index(index) = Document::parse("test", text.as_bytes()).unwrap() else { panic!() };
        assert_eq!(index[0].platform.as_ref().unwrap().to_string(), "linux/amd64");
        let none = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":null}}"#);
        assert_eq!(Document::parse("test", none.as_bytes()).unwrap(), Document::Index(Vec::new()));
    }

    #[test]
    fn a_digest_is_64_hex_digits_wherever_it_stands() {
        let layer = "application/vnd.oci.image.layer.v1.tar";
        for bad in ["", ":", "sha256:", "sha256:../../x", "sha256:ABC", "sha512:00", &"a".repeat(1 << 20)] {
            refuse(&manifest_text(OCI_CONFIG, layer, bad), "64 hex digits");
        }
        let config = r#"{"rootfs":{"type":"layers","diff_ids":["sha256:../../etc"]}}"#;
        assert!(matches!(Config::parse("test", config.as_bytes()), Err(Error::BadDocument { .. })));
    }

    #[test]
    fn lists_have_limits() {
        let layer = format!(
            r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:{HEX}","size":1}}"#
        );
        let text = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{OCI_CONFIG}","digest":"sha256:{HEX}","size":2}},"layers":[{}]}}"#,
            vec![layer.as_str(); LAYERS_MAX + 1].join(",")
        );
        refuse(&text, "number of layers");
        let entry = format!(r#"{{"digest":"sha256:{HEX}","size":1}}"#);
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
            vec![entry.as_str(); INDEX_ENTRIES_MAX + 1].join(",")
        );
        refuse(&text, "number of manifests");
        let env = vec![r#""A=1""#; CONFIG_ENTRIES_MAX + 1].join(",");
        let config = format!(r#"{{"config":{{"Env":[{env}]}},"rootfs":{{"diff_ids":[]}}}}"#);
        assert!(matches!(Config::parse("test", config.as_bytes()), Err(Error::Limit { .. })));
    }

    #[test]
    fn a_config_with_nulls_is_an_empty_one_and_wrong_types_are_errors() {
        let text = r#"{"config":{"User":"1000:1000","Env":null,"Cmd":["sh"],"Entrypoint":null,"Labels":null},
            "rootfs":{"type":"layers","diff_ids":[]},"history":[{"created_by":"x"}]}"#;
        let config = Config::parse("test", text.as_bytes()).unwrap();
        let expected =
            ImageConfig { user: "1000:1000".into(), cmd: vec!["sh".into()], ..ImageConfig::default() };
        assert_eq!(config, Config { process: expected, diff_ids: vec![] });
        let text = r#"{"config":{"User":null,"Env":["A=1",null],"Cmd":[null,"sh"],"WorkingDir":null,
            "StopSignal":null,"Labels":{"a":null,"b":"c"}},"rootfs":{"type":null,"diff_ids":null}}"#;
        let config = Config::parse("test", text.as_bytes()).unwrap();
        assert_eq!(config.process.env, ["A=1", ""]);
        assert_eq!(config.process.cmd, ["", "sh"]);
        let labels = [("a".to_string(), String::new()), ("b".into(), "c".into())];
        assert_eq!(config.process.labels, BTreeMap::from(labels));
        let none = Config::parse("test", br#"{"config":null,"rootfs":{}}"#).unwrap();
        assert_eq!(none, Config { process: ImageConfig::default(), diff_ids: vec![] });
        for bad in
            [r#"{"config":{"User":0},"rootfs":{"diff_ids":[]}}"#, r#"{"config":{"Cmd":"sh"}}"#, "{}", "null"]
        {
            assert!(matches!(Config::parse("test", bad.as_bytes()), Err(Error::BadDocument { .. })), "{bad}");
        }
    }

    #[test]
    fn every_key_of_a_config_is_obeyed_or_documented_as_not_for_us() {
        let text = r#"{"config":{
            "User":"1000","Env":["A=1"],"Entrypoint":["/e"],"Cmd":["c"],"WorkingDir":"/w","StopSignal":"SIGHUP",
            "Volumes":{"/data":{},"/cache":{}},"Labels":{"l":"v"},
            "ArgsEscaped":true,"AttachStderr":true,"AttachStdin":true,"AttachStdout":true,"CpuShares":1,
            "Domainname":"d","ExposedPorts":{"80/tcp":{}},"Healthcheck":{"Test":["CMD","true"]},"Hostname":"h",
            "Image":"i","MacAddress":"m","Memory":1,"MemorySwap":1,"NetworkDisabled":true,"OnBuild":["RUN x"],
            "OpenStdin":true,"Shell":["sh"],"StdinOnce":true,"StopTimeout":1,"Tty":true},
            "rootfs":{"type":"layers","diff_ids":[]}}"#;
        let all = ImageConfig {
            user: "1000".into(),
            env: vec!["A=1".into()],
            entrypoint: vec!["/e".into()],
            cmd: vec!["c".into()],
            working_dir: "/w".into(),
            stop_signal: "SIGHUP".into(),
            volumes: vec!["/cache".into(), "/data".into()],
            labels: [("l".into(), "v".into())].into(),
        };
        assert_eq!(Config::parse("test", text.as_bytes()).unwrap().process, all);

        let whole: serde_json::Value = serde_json::from_str(text).unwrap();
        let keys: Vec<String> = whole["config"].as_object().unwrap().keys().cloned().collect();
        let obeyed: Vec<&String> = keys.iter().filter(|key| !NOT_FOR_US.contains(&key.as_str())).collect();
        assert_eq!(obeyed.len(), 8, "one for each field of ImageConfig: {obeyed:?}");
        let page = include_str!("../../docs/formats/image-config.md");
        let mut documented: Vec<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
            .map(|(key, _)| key)
            .collect();
        documented.sort_unstable();
        assert_eq!(keys, documented);
    }

    #[test]
    fn a_key_that_nobody_knows_is_told_and_harms_nothing() {
        let keys: Vec<String> =
            ["Tty".into(), "x".repeat(100)].into_iter().chain((0..99).map(|n| format!("k{n}"))).collect();
        let told = unknown_keys(keys.iter());
        assert_eq!(told.len(), UNKNOWN_KEYS_MAX);
        assert_eq!(told[0], "x".repeat(UNKNOWN_KEY_CHARS_MAX));
        let config = r#"{"config":{"NewThing":{"a":[1]},"Cmd":["c"]},"rootfs":{"diff_ids":[]}}"#;
        assert_eq!(Config::parse("test", config.as_bytes()).unwrap().process.cmd, ["c"]);
    }

    #[test]
    fn the_platform_of_the_host_is_chosen() {
        let platform = |architecture: &str, variant: &str| Platform {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: variant.into(),
        };
        let entry = |size, platform: Option<Platform>| IndexEntry {
            blob: Blob { digest: Digest::parse(&format!("sha256:{HEX}")).unwrap(), size },
            platform: platform.as_ref().and_then(Platform::normalized),
        };
        let index = [
            entry(0, None),
            entry(1, Some(platform("amd64", "v3"))),
            entry(2, Some(platform("arm", "v6"))),
            entry(3, Some(platform("amd64", ""))),
            entry(4, Some(platform("arm", "v7"))),
            entry(5, Some(Platform { os: "windows".into(), ..platform("amd64", "") })),
        ];
        let chosen = |host: &Platform| choose("test", &index, host).unwrap().blob.size;
        assert_eq!(chosen(&platform("amd64", "")), 3);
        assert_eq!(chosen(&platform("arm", "v7")), 4);
        assert_eq!(chosen(&platform("s390x", "")), 0);
        let error = choose("test", &index[1..], &platform("s390x", "")).unwrap_err();
        assert_eq!(error.to_string(), "test has no image for linux/s390x");

        // Other tools' names, and what an older mode of the processor runs.
        let index = [
            entry(0, Some(platform("i386", ""))),
            entry(1, Some(platform("x86_64", ""))),
            entry(2, Some(platform("armhf", ""))),
            entry(3, Some(platform("aarch64", "8"))),
            entry(4, Some(Platform { os: "Linux".into(), ..platform("AMD64", "v1") })),
        ];
        let chosen = |index: &[IndexEntry], host: &Platform| choose("test", index, host).map(|e| e.blob.size);
        let (amd64, arm64) = (platform("amd64", ""), platform("arm64", "v8"));
        assert_eq!(chosen(&index, &amd64).unwrap(), 1);
        assert_eq!(chosen(&index[2..], &amd64).unwrap(), 4);
        assert_eq!(chosen(&index[..1], &amd64).unwrap(), 0);
        assert_eq!(chosen(&index, &arm64).unwrap(), 3);
        assert_eq!(chosen(&index[..3], &arm64).unwrap(), 2);
        assert!(chosen(&index[2..3], &amd64).is_err());
        // A platform that says nothing is none.
        let nothing = [entry(0, Some(Platform::default()))];
        assert_eq!(chosen(&nothing, &amd64).unwrap(), 0);
    }
}
