use std::{path::Path, sync::Arc};

use super::{
    Driver, Error, Handle, delegate,
    group::Version,
    handle::PodPath,
    host::Host,
    kill,
    tree::{self, Tree},
};
use crate::{
    failpoint,
    model::{PodId, Resources},
};

/// Cgroups made as directories by pintle itself, on v1 and v2.
#[derive(Clone, Debug)]
pub struct Cgroupfs {
    host: Arc<Host>,
}

/// Tries to make a pod's directories. Another pod's removal may take a common parent away in between.
const MAKE_TRIES_MAX: usize = 5;

impl Cgroupfs {
    pub(super) fn new(host: Arc<Host>) -> Self {
        Self { host }
    }

    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    /// The cgroup that the pod will have below `parent`, a path from [`super::parent::parse`]; makes nothing.
    /// `limited`: below the configured parent.
    pub(super) fn plan(&self, parent: &str, pod: &PodId, limited: bool) -> Handle {
        Handle {
            driver: Driver::Cgroupfs,
            version: self.host.version,
            path: PodPath::new(parent, pod),
            trees: self.host.trees.clone().into(),
            limited,
        }
    }

    /// As [`super::Manager::create_pod`], on the calling thread.
    pub(super) fn create_pod(&self, mut handle: Handle, resources: &Resources) -> Result<Handle, Error> {
        let (limited, version) = (handle.limited, handle.version);
        let mut trees = Vec::with_capacity(self.host.trees.len());
        let made = self.host.trees.iter().try_for_each(|tree| {
            let made = make_pod(tree, version, &handle.path, limited);
            // A failure half-way may have made something: it is on the list all the same.
            let parents_made = *made.as_ref().unwrap_or(&0);
            trees.push(Tree { parents_made, ..tree.clone() });
            made.map(drop)
        });
        handle.trees = trees.into();
        let made = made.and_then(|()| if limited { handle.limit(resources) } else { Ok(()) });
        made.inspect_err(|_| handle.unmake())?;
        failpoint!("cgroup.pod-made");
        Ok(handle)
    }
}

/// Makes the pod's directory in one hierarchy, with what is missing above it; says how much that was.
fn make_pod(tree: &Tree, version: Version, pod: &PodPath, configured: bool) -> Result<usize, Error> {
    let mut tries = 0;
    loop {
        tries += 1;
        match make_once(tree, version, pod, configured) {
            Err(Error::File { source, .. } | Error::Write { source, .. })
                if tries < MAKE_TRIES_MAX && kill::is_gone(&source) => {}
            made => return made,
        }
    }
}

fn make_once(tree: &Tree, version: Version, pod: &PodPath, configured: bool) -> Result<usize, Error> {
    let parent = pod.parent();
    let mut directory = tree.mountpoint.clone();
    let mut parents_made = 0;
    for name in parent.split('/').skip(1) {
        directory.push(name);
        let new = tree::make(&directory)?;
        parents_made += usize::from(new);
        ready(tree, version, &directory, new || directory == tree.directory(parent))?;
    }
    let directory = tree.directory(pod.as_str());
    tree::make(&directory)?;
    ready(tree, version, &directory, false)?;
    // The configured parent is everybody's and stays.
    Ok(if configured { 0 } else { parents_made })
}

/// Makes a cgroup fit to have children: on v1 with CPUs and memory nodes, on v2 with controllers for them.
/// What is `ours` hands down all it has: what we made, and the parent that was named, which is given for pods.
/// A kubelet leaves the latter to the runtime. What is above it hands down what its owner said.
fn ready(tree: &Tree, version: Version, directory: &Path, ours: bool) -> Result<(), Error> {
    match version {
        Version::V1 if tree.has("cpuset") => tree::inherit_cpuset(directory),
        Version::V2 if ours => delegate::hand_down(directory),
        Version::V1 | Version::V2 => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_the_parent_itself_is_made_to_hand_down_controllers() {
        let top = tempfile::tempdir().unwrap();
        let tree = Tree { mountpoint: top.path().into(), controllers: Vec::new(), parents_made: 0 };
        let given =
            |name: &str| fs::read_to_string(top.path().join(name).join("cgroup.subtree_control")).unwrap();
        for name in ["", "parent", "parent/below"] {
            fs::create_dir_all(top.path().join(name)).unwrap();
            fs::write(top.path().join(name).join("cgroup.controllers"), "cpu memory").unwrap();
            fs::write(top.path().join(name).join("cgroup.subtree_control"), "").unwrap();
        }
        let make = |number, configured| {
            let pod = PodPath::new("/parent/below", &PodId::from_bytes([number; 32]));
            make_pod(&tree, Version::V2, &pod, configured).unwrap()
        };
        for (number, configured) in [(1, false), (2, true)] {
            make(number, configured);
            assert_eq!(["", "parent", "parent/below"].map(given), ["", "", "+cpu +memory"]);
            fs::write(top.path().join("parent/below/cgroup.subtree_control"), "").unwrap();
        }
    }

    #[test]
    fn parents_are_counted_when_they_are_made_for_the_pod() {
        let top = tempfile::tempdir().unwrap();
        // Of v1: nothing but directories is needed.
        let tree = Tree { mountpoint: top.path().into(), controllers: vec!["pids".into()], parents_made: 0 };
        let make = |parent, number, configured| {
            let pod = PodPath::new(parent, &PodId::from_bytes([number; 32]));
            make_pod(&tree, Version::V1, &pod, configured).unwrap()
        };
        assert_eq!(make("/a/b/c", 1, false), 3);
        assert_eq!(make("/a/b/c", 2, false), 0);
        assert_eq!(make("/a/x", 3, false), 1);
        assert_eq!(make("/configured", 4, true), 0);
        assert_eq!(make("", 5, false), 0);
    }
}
