//! One cgroup in every mounted hierarchy at once.

use std::{
    os::fd::OwnedFd,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::{
    Error, error, file,
    kill::{self, Killing},
    tree::{self, Tree},
};

/// Which of the kernel's two interfaces holds the controllers (cgroups(7)).
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// One hierarchy for each controller or group of them.
    V1,
    /// The one hierarchy of cgroup2.
    V2,
}

/// How long removing waits for killed processes to leave. A process in the kernel's hands may stay longer;
/// then the caller gets an error and tries again later.
const REMOVE_WAIT: Duration = Duration::from_secs(1);

/// A cgroup of ours: `path` in every tree, or a leaf of it.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) version: Version,
    pub(super) trees: Arc<[Tree]>,
    /// Absolute in each hierarchy.
    pub(super) path: String,
    /// A child made only where processes are killed; in the other v1 hierarchies its processes are in `path`.
    pub(super) leaf: Option<String>,
    /// The pod's cgroup, if this is one in it whose killing may thaw that too.
    pub(super) pod: Option<String>,
}

impl Group {
    pub(super) fn child(&self, name: &str) -> Self {
        Self {
            path: format!("{}/{name}", self.path),
            leaf: None,
            pod: Some(self.path.clone()),
            ..self.clone()
        }
    }

    /// An exec whose time is up dies when its container is thawed, by whoever froze that: no reason to thaw it.
    pub(super) fn leaf(&self, name: String) -> Self {
        Self { leaf: Some(name), pod: None, ..self.clone() }
    }

    /// The tree in which processes are frozen, counted and killed. It comes first wherever all are touched: a
    /// process on its way in can then be killed already.
    fn killing(&self) -> Option<&Tree> {
        let freezer = self.trees.iter().find(|tree| tree.has("freezer"));
        freezer.or(self.trees.first())
    }

    fn is_killing(&self, tree: &Tree) -> bool {
        self.killing().is_some_and(|killing| std::ptr::eq(killing, tree))
    }

    /// The directory of a process of this group in `tree`, on the host.
    pub(super) fn directory(&self, tree: &Tree) -> PathBuf {
        tree.directory(&self.path_in(tree))
    }

    /// The group's path in `tree`, from the hierarchy's root.
    fn path_in(&self, tree: &Tree) -> String {
        match &self.leaf {
            Some(leaf) if self.is_killing(tree) => format!("{}/{leaf}", self.path),
            _ => self.path.clone(),
        }
    }

    /// The trees in which this group has a directory of its own.
    pub(super) fn own(&self) -> impl Iterator<Item = &Tree> {
        self.trees.iter().filter(|tree| self.leaf.is_none() || self.is_killing(tree))
    }

    /// The directory with the files of `controller`, if they are this group's own.
    pub(super) fn controller(&self, controller: &str) -> Option<PathBuf> {
        let found = self.own().find(|tree| self.version == Version::V2 || tree.has(controller));
        found.map(|tree| self.directory(tree))
    }

    /// The directory that lists the group's processes.
    pub(super) fn processes_directory(&self) -> Option<PathBuf> {
        self.killing().map(|tree| self.directory(tree))
    }

    /// Makes the directories, ready to take processes. On failure what was made is taken away again.
    pub(super) fn make(&self) -> Result<(), Error> {
        let result = self.own().try_for_each(|tree| {
            let directory = self.directory(tree);
            tree::make(&directory)?;
            if tree.has("cpuset") { tree::inherit_cpuset(&directory) } else { Ok(()) }
        });
        result.inspect_err(|_| self.unmake())
    }

    /// Takes away what a failed step made; what cannot be is left to the removal of the pod.
    pub(super) fn unmake(&self) {
        for tree in self.own() {
            let _removed = tree::remove(&self.directory(tree), Instant::now());
        }
    }

    /// Moves process `pid` here in every tree; 0 is the caller, which then has one thread.
    pub(super) fn join(&self, pid: u32) -> Result<(), Error> {
        let killing = self.killing();
        let others = self.trees.iter().filter(|tree| !self.is_killing(tree));
        killing.into_iter().chain(others).try_for_each(|tree| match (pid, tree.is_v2()) {
            // The only move for which the kernel does not wait for all CPUs first: 0.1 ms instead of 7.
            (0, false) => file::write(&self.directory(tree).join("tasks"), "0"),
            (0, true) if tree.holds_caller(&self.path_in(tree)) => Ok(()),
            _ => file::write(&self.directory(tree).join("cgroup.procs"), &pid.to_string()),
        })
    }

    /// Makes the directory that a child can be forked into ([`crate::sys::process::fork_into`]), and opens it.
    /// `None` where there is no cgroup2 hierarchy.
    pub(super) fn gate(&self) -> Result<Option<OwnedFd>, Error> {
        let Some(tree) = self.trees.iter().find(|tree| tree.is_v2()) else { return Ok(None) };
        let directory = self.directory(tree);
        if self.own().any(|own| std::ptr::eq(own, tree)) {
            tree::make(&directory)?;
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&directory, flags, Mode::empty());
        opened.map(Some).map_err(|errno| error::file("open", &directory)(errno.into()))
    }

    pub(super) fn kill(&self) -> Result<(), Error> {
        self.kill_after(&mut || {})
    }

    /// `look` comes right before the first signal.
    pub(super) fn kill_after(&self, look: &mut dyn FnMut()) -> Result<(), Error> {
        self.begin_kill(look)?.map_or(Ok(()), |killing| killing.run(look))
    }

    /// Kills without waiting: on v2 at once, on v1 by the steps of what is returned.
    pub(super) fn begin_kill(&self, look: &mut dyn FnMut()) -> Result<Option<Killing>, Error> {
        let Some(tree) = self.killing() else { return Ok(None) };
        match self.version {
            Version::V1 => {
                let above = self.pod.iter().map(|pod| tree.directory(pod)).collect();
                Ok(Some(Killing::new(self.directory(tree), above)))
            }
            Version::V2 => kill::v2(&self.directory(tree), look).map(|()| None),
        }
    }

    /// How many processes are in it and below.
    pub(super) fn count(&self) -> Result<usize, Error> {
        let Some(directory) = self.processes_directory() else { return Ok(0) };
        kill::count(&directory).map_err(error::file("count the processes of", directory))
    }

    pub(super) fn populated(&self) -> Result<bool, Error> {
        let Some(tree) = self.killing() else { return Ok(false) };
        match self.version {
            Version::V1 => kill::populated_v1(&self.directory(tree)),
            Version::V2 => kill::populated_v2(&self.directory(tree)),
        }
    }

    /// As [`Group::remove`], trying once; `false` where processes have not left yet.
    pub(super) fn try_remove(&self) -> Result<bool, Error> {
        let mut result = Ok(true);
        for tree in self.own() {
            let removed = match tree::remove(&self.directory(tree), Instant::now()) {
                Err(Error::File { source, .. }) if tree::is_busy(&source) => Ok(false),
                removed => removed.map(|()| true),
            };
            result = result.and_then(|all| removed.map(|this| all && this));
        }
        result
    }

    /// Removes the directories and all below them, in every tree even when one fails; the first error is returned.
    pub(super) fn remove(&self) -> Result<(), Error> {
        let deadline = Instant::now() + REMOVE_WAIT;
        let mut result = Ok(());
        for tree in self.own() {
            result = result.and(tree::remove(&self.directory(tree), deadline));
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(mountpoint: &str, controllers: &[&str]) -> Tree {
        let controllers = controllers.iter().map(|&name| name.to_owned()).collect();
        Tree { mountpoint: mountpoint.into(), controllers }
    }

    fn group(version: Version, trees: Vec<Tree>) -> Group {
        Group { version, trees: trees.into(), path: "/pod/ctr".into(), leaf: None, pod: None }
    }

    fn own(group: &Group) -> Vec<PathBuf> {
        group.own().map(|tree| group.directory(tree)).collect()
    }

    #[test]
    fn a_leaf_on_v1_is_a_child_in_the_freezer_and_the_container_elsewhere() {
        let group =
            group(Version::V1, vec![tree("/c/memory", &["memory"]), tree("/c/freezer", &["freezer"])]);
        assert_eq!(own(&group), [PathBuf::from("/c/memory/pod/ctr"), "/c/freezer/pod/ctr".into()]);
        let leaf = group.leaf("exec-1".into());
        assert_eq!(own(&leaf), [PathBuf::from("/c/freezer/pod/ctr/exec-1")]);
        assert_eq!(leaf.directory(&leaf.trees[0]), PathBuf::from("/c/memory/pod/ctr"));
        assert_eq!(leaf.controller("memory"), None);
    }

    #[test]
    fn a_leaf_on_v2_is_a_child() {
        let leaf = group(Version::V2, vec![tree("/c", &[])]).leaf("exec-1".into());
        assert_eq!(own(&leaf), [PathBuf::from("/c/pod/ctr/exec-1")]);
    }

    #[test]
    fn without_a_freezer_a_leaf_is_in_one_tree_all_the_same() {
        let trees = vec![tree("/c/cpu", &["cpu"]), tree("/c/memory", &["memory"])];
        let leaf = group(Version::V1, trees).leaf("exec-1".into());
        assert_eq!(own(&leaf), [PathBuf::from("/c/cpu/pod/ctr/exec-1")]);
    }
}
