//! Digests, and the parts of an image that a container is made from.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::BadId;

/// A sha256 digest, held as its 64 hex digits; shown as `sha256:…` (OCI image spec, "Digests").
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(Box<str>);

impl Digest {
    /// Reads `sha256:` and 64 lower-case hex digits.
    ///
    /// # Errors
    /// [`BadId`] for anything else, other algorithms included.
    pub fn parse(text: &str) -> Result<Self, BadId> {
        let hex = text.strip_prefix("sha256:").unwrap_or("");
        super::PodId::parse(hex).map(|id| Self(id.as_str().into()))
    }

    /// The digest that 32 bytes spell.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(super::PodId::from_bytes(bytes).as_str().into())
    }

    /// The 64 hex digits without the algorithm.
    pub fn hex(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl TryFrom<String> for Digest {
    type Error = BadId;
    fn try_from(text: String) -> Result<Self, BadId> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// An image's settings of the process to run in it (OCI image config, `config`).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct ImageConfig {
    /// `user[:group]`, names or numbers; empty is root.
    pub user: String,
    /// `KEY=value`.
    pub env: Vec<String>,
    /// `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `Cmd`.
    pub cmd: Vec<String>,
    /// `WorkingDir`; may be empty.
    pub working_dir: String,
    /// A name (`SIGTERM`, `TERM`) or a number; empty is SIGTERM.
    pub stop_signal: String,
    /// Paths at which each container gets a writable directory of its own, filled from the image.
    pub volumes: Vec<String>,
    /// `Labels`.
    pub labels: BTreeMap<String, String>,
}

/// The directories that make up an image's root, for overlayfs.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct RootfsLayers {
    /// Top layer first, as `lowerdir` wants them.
    pub lower: Vec<PathBuf>,
}
