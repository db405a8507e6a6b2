//! One layer's tar stream becomes one directory that overlayfs can take as a lower.
//!
//! - `archive` reads the stream: headers, extensions and contents, and nothing else (no file system).
//!   `number` reads their numbers: modes, owners, times.
//! - `name` turns what the tar calls a file into components that cannot leave the layer, and tells whiteouts.
//! - `tree` is the layer directory: every write goes by descriptor below it.
//! - `layer` applies entry after entry; `directories` is what it has to remember until the end.
//! - `overlay` looks at a stack of finished layers as overlayfs would; `merged` makes what must be added to it.
//!
//! Invariant: nothing outside the layer directory is read, written or changed, whatever the tar says.
//! Invariant: no file content is held in memory, and no list grows without a limit.
//! Not here: where the stream comes from, digests, and when a layer becomes visible.

mod archive;
mod directories;
mod layer;
pub(super) mod merged;
mod name;
mod number;
mod overlay;
mod tree;

#[cfg(test)]
pub(super) mod testtar;

pub(super) use archive::{Archive, BLOCK, Kind, begins_tar};
pub(super) use layer::{Limits, Unpacked, mark_opaque, unpack};
pub(super) use overlay::Below;

/// The parts of a name in a layer, for the fuzz target; panics for one that leads out of it.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn inside(path: &[u8]) -> Option<Vec<Vec<u8>>> {
    let parts = name::Name::parse(path).ok()?.parts().to_vec();
    let good = |part: &Vec<u8>| !matches!(part.as_slice(), b"" | b"." | b"..") && !part.contains(&b'/');
    assert!(parts.iter().all(good), "{parts:?}");
    drop(name::Meaning::of(path));
    Some(parts)
}

/// Largest tar header with all its extensions; bytes. Holds 4 KiB names and 64 KiB attributes with room.
const METADATA_BYTES_MAX: u32 = 1 << 20;
/// Longest path of an entry; bytes. What the kernel takes, without its final NUL.
pub(super) const PATH_BYTES_MAX: u32 = 4095;
/// Most data regions of a sparse file.
const SPARSE_REGIONS_MAX: usize = 10_000;
/// Most files, links and directories of one layer.
pub(super) const ENTRIES_MAX: u64 = 5_000_000;
/// Names of directories, and of hard links to lower layers, of one layer together; bytes. They are kept in
/// memory until the layer ends.
pub(super) const NAMES_BYTES_MAX: usize = 64 << 20;
/// Largest value of an extended attribute; bytes. The kernel's own limit (`XATTR_SIZE_MAX`).
const XATTR_BYTES_MAX: usize = 64 << 10;
/// Hard links to files of lower layers; they are kept in memory until the layer ends.
pub(super) const FOREIGN_LINKS_MAX: usize = 100_000;

/// Why a layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The stream ended early, was damaged, or could not be read.
    #[error("read layer")]
    Read(#[source] std::io::Error),
    #[error("bad tar: {0}")]
    Tar(#[from] tar_core::parse::ParseError),
    /// One entry is refused; the layer with it.
    #[error("entry {path:?}: {why}")]
    Entry { path: String, why: &'static str },
    #[error("{operation} {path:?}")]
    Write {
        operation: &'static str,
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("{what} is over the limit of {limit}")]
    Limit { what: &'static str, limit: u64 },
    /// The reason of the process that unpacks it, in its words.
    #[error("{reason}")]
    Reported { is_full: bool, reason: String },
    /// End or misbehaviour of that process, in place of an answer.
    #[error("the process that unpacks it {0}")]
    Worker(String),
}

impl LayerError {
    fn entry(path: &[u8], why: &'static str) -> Self {
        Self::Entry { path: String::from_utf8_lossy(path).into_owned(), why }
    }

    pub(super) fn write(operation: &'static str, path: &[u8], source: impl Into<std::io::Error>) -> Self {
        Self::Write { operation, path: String::from_utf8_lossy(path).into_owned(), source: source.into() }
    }

    /// Whether the disk is full.
    pub(super) fn is_full(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        let full = |source: &std::io::Error| matches!(source.kind(), StorageFull | QuotaExceeded);
        match self {
            Self::Write { operation, source, .. } => full(source) && *operation != tree::SET_ATTRIBUTE,
            Self::Reported { is_full, .. } => *is_full,
            _ => false,
        }
    }
}
