//! `pintle check`: the host's files that several questions read.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Reads the host's settings.
#[derive(Debug)]
pub(super) struct Host {
    root: PathBuf,
}

impl Host {
    pub(super) fn real() -> Self {
        Self { root: "/".into() }
    }

    /// A host made of files: (path, text).
    #[cfg(test)]
    pub(super) fn fake(files: &[(&str, &str)]) -> (Self, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        (Self { root: dir.path().into() }, dir)
    }

    /// The folder in the place of `/`.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether there is a file or folder; `path` is relative to `/`.
    pub(super) fn exists(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }

    /// The text of a file, trimmed; `path` is relative to `/`.
    pub(super) fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok().map(|text| text.trim().to_owned())
    }
}
