//! Errors of images: names, registries, documents, layers and the store.

use std::{io, path::PathBuf, sync::Arc};

use crate::model::Digest;

/// Why something with images could not be done.
///
/// Cheap to clone, because callers that share one pull share its failure.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The text is no reference at all. The request is wrong, not the world.
    #[error("bad image reference {reference:?}: {why}")]
    BadReference { reference: String, why: &'static str },
    /// More than one image's id starts like this.
    #[error("image id prefix {0} fits more than one image")]
    AmbiguousPrefix(String),

    /// The registry cannot be reached or cannot answer now: network, 429, 5xx. The first word is a
    /// contract with the kubelet (cri-api `pkg/errors`).
    #[error("RegistryUnavailable: {host}: {why}")]
    RegistryUnavailable { host: String, why: String },
    /// 401 or 403: the credentials are missing, wrong or not enough.
    #[error("pull {reference}: {host}: unauthorized or denied ({why})")]
    Unauthorized { reference: String, host: String, why: String },
    /// 404, and what the registry says about it.
    #[error("{reference} is not in registry {host}{said}")]
    NotInRegistry { reference: String, host: String, said: String },
    /// Any other answer that no pull can go on from.
    #[error("registry {host}: {why}")]
    RegistryRefused { host: String, why: String },
    /// Several hosts were asked and each failed: how the registry itself did, or the last before it, and how
    /// the others did.
    #[error("{decisive} (before it: {others})")]
    Everywhere { decisive: Box<Error>, others: String },
    /// The operator's `hosts.toml`.
    #[error("registry configuration {}: {why}", path.display())]
    BadHosts { path: PathBuf, why: String },

    /// A manifest, index or config that is not what the OCI image spec says.
    #[error("{what} {name}: {why}")]
    BadDocument { what: &'static str, name: String, why: String },
    /// The index has nothing for this machine.
    #[error("{name} has no image for {platform}")]
    NoPlatform { name: String, platform: String },
    /// Well formed, but not something we run.
    #[error("{name}: {why}")]
    Unsupported { name: String, why: String },
    /// Bytes that are not what their digest or size promised.
    #[error("{what} {expected} is damaged: {why}")]
    Mismatch { what: &'static str, expected: Digest, why: String },
    /// A layer that cannot be unpacked.
    #[error("unpack layer {layer}")]
    Layer {
        layer: String,
        #[source]
        source: Arc<super::unpack::LayerError>,
    },
    /// Someone asked for more than we handle.
    #[error("{what} is over the limit of {limit}")]
    Limit { what: &'static str, limit: u64 },
    /// A file given to `load`.
    #[error("image archive {}: {why}", path.display())]
    BadArchive { path: PathBuf, why: String },

    /// The disk of the image store is full.
    #[error("no space left for images at {}", path.display())]
    Full { path: PathBuf },
    /// The image store itself.
    #[error("{operation} {}", path.display())]
    Store {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: Arc<io::Error>,
    },
    /// A layer that was here has been removed by another process: worth another try at once.
    #[error("layers of image {0} are being removed by another process")]
    LayerRemoved(Digest),
    /// The daemon is going down, or every caller has hung up.
    #[error("pull of {0} was abandoned")]
    Abandoned(String),
}

impl Error {
    /// The one error that decides what a failure means, where several are reported.
    pub fn decisive(&self) -> &Self {
        match self {
            Self::Everywhere { decisive, .. } => decisive.decisive(),
            other => other,
        }
    }

    /// An error of the store at `path`; a full disk is told apart, because it has its own answer.
    pub(super) fn store(
        operation: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        let (path, source) = (path.into(), source.into());
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return Self::Full { path };
        }
        Self::Store { operation, path, source: Arc::new(source) }
    }

    pub(super) fn document(what: &'static str, name: impl ToString, why: impl ToString) -> Self {
        Self::BadDocument { what, name: name.to_string(), why: why.to_string() }
    }
}
