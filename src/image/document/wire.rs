//! The documents of an image as they are written. Anything may be `null` that may be absent: Go, in which the
//! other readers are written, takes both for its zero value.

use std::collections::BTreeMap;

use serde::{Deserialize, de::IgnoredAny};

use super::{
    nullable::{named_texts, or_default, texts},
    platform::Platform,
};

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
