//! A node's folders and its cgroup, removed with it.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use tempfile::TempDir;

use super::wait::wait_until;

/// Nodes of this run so far.
static NODES: AtomicU32 = AtomicU32::new(0);

/// Everything of a node that outlives its namespaces.
#[derive(Debug)]
pub(crate) struct Folders {
    temporary: TempDir,
    /// Of the node's cgroup, in every hierarchy: `/pintle-e2e-<n>`.
    pub(crate) cgroup: String,
}

impl Folders {
    pub(crate) fn new() -> Self {
        let temporary = tempfile::Builder::new().prefix("pintle-e2e-").tempdir().unwrap();
        let cgroup = format!("/pintle-e2e-{}-{}", process::id(), NODES.fetch_add(1, Ordering::Relaxed));
        let folders = Self { temporary, cgroup };
        for folder in ["root", "state", "logs", "conf.d", "shared"] {
            fs::create_dir(folders.path(folder)).unwrap();
        }
        folders
    }

    /// Something in the node's folder.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.temporary.path().join(name)
    }

    /// The folders of the node's cgroup, one for each hierarchy that has it.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let hierarchies = mounts.lines().filter_map(|line| {
            let (place, kind) = line.split_once(" - ")?;
            kind.starts_with("cgroup").then(|| place.split(' ').nth(4))?
        });
        let folders =
            hierarchies.map(|hierarchy| Path::new(hierarchy).join(self.cgroup.trim_start_matches('/')));
        folders.filter(|folder| folder.exists()).collect()
    }
}

impl Drop for Folders {
    fn drop(&mut self) {
        if std::env::var_os("PINTLE_E2E_KEEP").is_some() {
            self.temporary.disable_cleanup(true);
        }
        for cgroup in self.cgroups() {
            // The processes are dead, but the kernel may still be about to forget them.
            wait_until("the node's cgroup is removed", || remove_tree(&cgroup));
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

fn remove_tree(cgroup: &Path) -> bool {
    below(cgroup).iter().rev().chain([&cgroup.to_path_buf()]).all(|folder| match fs::remove_dir(folder) {
        Ok(()) => true,
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    })
}
