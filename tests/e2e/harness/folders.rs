//! A node's folders and its cgroups, removed with it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use super::cgroups::Cgroups;

/// Everything of a node that outlives its namespaces.
#[derive(Debug)]
pub(crate) struct Folders {
    temporary: TempDir,
    pub(crate) cgroups: Cgroups,
}

impl Folders {
    pub(crate) fn new() -> Self {
        let temporary = tempfile::Builder::new().prefix("pintle-e2e-").tempdir().unwrap();
        let folders = Self { temporary, cgroups: Cgroups::new() };
        for folder in
            ["root", "state", "logs", "conf.d", "shared", "cni/net.d", "cni/bin", "cni/plugins", "netns"]
        {
            fs::create_dir_all(folders.path(folder)).unwrap();
        }
        folders
    }

    /// Something in the node's folder.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.temporary.path().join(name)
    }
}

impl Drop for Folders {
    fn drop(&mut self) {
        if std::env::var_os("PINTLE_E2E_KEEP").is_some() {
            self.temporary.disable_cleanup(true);
        }
    }
}

/// Folders below `folder`, itself left out.
pub(crate) fn below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
            found.extend(below(&entry.path()));
        }
    }
    found
}
