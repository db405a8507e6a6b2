//! store

use std::{io, path::Path};

use serde::{Serialize, de::DeserializeOwned};

/// Whether a record must survive a power cut.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Durability {
    /// It is on tmpfs, or may be lost with the power.
    Process,
    /// fsync of file and folder before the answer.
    Power,
}

#[derive(Debug, thiserror::Error)]
pub enum BadRecord {
    #[error("no record")]
    Absent,
    #[error("read record")]
    Io(#[from] io::Error),
    #[error("record is damaged: {0}")]
    Damaged(String),
    #[error("record has version {0}, which this release does not know")]
    UnknownVersion(u32),
}

/// Writes `value` to `path`: beside it, then renamed over it.
pub fn put<T: Serialize>(_path: &Path, _value: &T, _durability: Durability) -> io::Result<()> {
    Ok(())
}

/// Reads the record at `path`.
pub fn get<T: DeserializeOwned>(_path: &Path) -> Result<T, BadRecord> {
    Err(BadRecord::Absent)
}

/// Removes it; absent is success.
pub fn remove(_path: &Path, _durability: Durability) -> io::Result<()> {
    Ok(())
}
