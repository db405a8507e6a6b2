//! The directories of a layer in the making. They are kept in memory until the layer ends, because the time of a
//! directory can be set only when all files are in it, and an implied one may be described later.

use std::collections::{BTreeMap, BTreeSet};

use super::{LayerError, NAMES_BYTES_MAX, name::Name};

/// Every directory of a layer by its path, and the bytes of all names that are kept.
#[derive(Default)]
pub(super) struct Directories {
    known: BTreeMap<Vec<u8>, Directory>,
    /// Names of directories that hide the lower layers' directory of their name.
    opaque: BTreeSet<Vec<u8>>,
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

    /// Adds to the directories that hide the lower layers' of the same name.
    ///
    /// # Errors
    /// [`LayerError::Limit`] for too many names.
    pub(super) fn note_opaque(&mut self, path: Vec<u8>) -> Result<(), LayerError> {
        self.count_name(path.len())?;
        self.opaque.insert(path);
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
        let known = self.known.range(below.clone()..end.clone()).map(|(path, _)| path.clone());
        let opaque = self.opaque.range(below..end).cloned();
        let gone: Vec<_> = known.chain(opaque).chain([path]).collect();
        for path in &gone {
            self.known.remove(path);
            self.opaque.remove(path);
        }
    }

    /// All of them, parents first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Vec<u8>, &Directory)> {
        self.known.iter()
    }

    /// Names of directories that hide the lower layers' directory of their name.
    pub(super) fn into_opaque(self) -> Vec<Vec<u8>> {
        self.opaque.into_iter().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}
