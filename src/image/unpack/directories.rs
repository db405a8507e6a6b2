//! The directories of a layer in the making. They are kept in memory until the layer ends, because the time of a
//! directory can be set only when all files are in it, and an implied one may be described later.

use std::collections::BTreeMap;

use super::{LayerError, NAMES_BYTES_MAX, name::Name};

/// Every directory of a layer by its path, and the bytes of all names that are kept.
#[derive(Default)]
pub(super) struct Directories {
    known: BTreeMap<Vec<u8>, Directory>,
    names_bytes: usize,
}

/// The origin of a directory's mode, owner and time.
#[derive(Clone, Copy)]
pub(super) enum Directory {
    /// Made up: the tar has only something below it.
    Implied,
    /// From an entry of the tar.
    Described { mtime: (i64, u32) },
}

impl Directories {
    /// Adds a directory, or what is known about it now.
    ///
    /// # Errors
    /// [`LayerError::Limit`] for too many names.
    pub(super) fn note(&mut self, path: Vec<u8>, directory: Directory) -> Result<(), LayerError> {
        self.count_name(path.len())?;
        self.known.insert(path, directory);
        Ok(())
    }

    /// Counts a name that is kept, here or elsewhere, against the limit of the layer.
    ///
    /// # Errors
    /// [`LayerError::Limit`].
    pub(super) fn count_name(&mut self, bytes: usize) -> Result<(), LayerError> {
        self.names_bytes += bytes + 1;
        if self.names_bytes > NAMES_BYTES_MAX {
            return Err(LayerError::Limit {
                what: "directory and link names",
                limit: NAMES_BYTES_MAX as u64,
            });
        }
        Ok(())
    }

    /// Drops a directory that was replaced, and all below it.
    pub(super) fn forget(&mut self, name: &Name) {
        let path = name.to_bytes();
        let mut below = path.clone();
        below.push(b'/');
        let mut end = path.clone();
        end.push(b'/' + 1);
        let gone: Vec<_> = self.known.range(below..end).map(|(path, _)| path.clone()).collect();
        for path in gone.iter().chain([&path]) {
            self.known.remove(path);
        }
    }

    /// All of them, parents first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Vec<u8>, &Directory)> {
        self.known.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}
