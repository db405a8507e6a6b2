//! The cgroupfs driver: pods' cgroups made as directories, by the daemon itself.

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

/// Tries to make a pod's directories. Another pod's removal may take a common parent away in between, and where many pods
/// come and go there, it does so several times; a try takes some tens of microseconds.
const MAKE_TRIES_MAX: usize = 100;

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
    pub(super) fn create_pod(&self, handle: &Handle, resources: &Resources) -> Result<(), Error> {
        let (limited, version) = (handle.limited, handle.version);
        let made = handle.trees.iter().try_for_each(|tree| make_pod(tree, version, &handle.path, limited));
        let made = made.and_then(|()| if limited { handle.limit(resources) } else { Ok(()) });
        made.inspect_err(|_| handle.unmake())?;
        failpoint!("cgroup.pod-made");
        Ok(())
    }
}

/// Makes the pod's directory in one hierarchy, with what is missing above it.
fn make_pod(tree: &Tree, version: Version, pod: &PodPath, configured: bool) -> Result<(), Error> {
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

fn make_once(tree: &Tree, version: Version, pod: &PodPath, configured: bool) -> Result<(), Error> {
    let parent = pod.parent();
    let mut directory = tree.mountpoint.clone();
    for name in parent.split('/').skip(1) {
        directory.push(name);
        // The configured parent is everybody's and stays.
        let new = if configured { tree::make(&directory)? } else { tree::make_parent(&directory)? };
        ready(tree, version, &directory, new || directory == tree.directory(parent))?;
    }
    let directory = tree.directory(pod.as_str());
    tree::make(&directory)?;
    ready(tree, version, &directory, false)
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
        let tree = Tree { mountpoint: top.path().into(), controllers: Vec::new() };
        let given =
            |name: &str| fs::read_to_string(top.path().join(name).join("cgroup.subtree_control")).unwrap();
        for name in ["", "parent", "parent/below"] {
            fs::create_dir_all(top.path().join(name)).unwrap();
            fs::write(top.path().join(name).join("cgroup.controllers"), "cpu memory").unwrap();
            fs::write(top.path().join(name).join("cgroup.subtree_control"), "").unwrap();
        }
        let make = |number, configured| {
            let pod = PodPath::new("/parent/below", &PodId::from_bytes([number; 32]));
            make_pod(&tree, Version::V2, &pod, configured).unwrap();
        };
        for (number, configured) in [(1, false), (2, true)] {
            make(number, configured);
            assert_eq!(["", "parent", "parent/below"].map(given), ["", "", "+cpu +memory"]);
            fs::write(top.path().join("parent/below/cgroup.subtree_control"), "").unwrap();
        }
    }

    #[test]
    fn a_parent_that_was_made_for_a_pod_goes_when_it_is_empty_and_others_stay() {
        let top = tempfile::tempdir().unwrap();
        // Of v1: nothing but directories is needed.
        let tree = Tree { mountpoint: top.path().into(), controllers: vec!["pids".into()] };
        let make = |parent, number, configured| {
            let pod = PodPath::new(parent, &PodId::from_bytes([number; 32]));
            make_pod(&tree, Version::V1, &pod, configured).unwrap();
            fs::remove_dir(tree.directory(pod.as_str())).unwrap();
        };
        let removed = |path| tree::remove_parent(&tree.directory(path));
        fs::create_dir(tree.directory("/kubepods")).unwrap();
        make("/kubepods/a/b", 1, false);
        make("/kubepods/a/x", 2, false);
        make("/configured", 3, true);
        make("", 4, false);
        assert!(removed("/kubepods/a/b") && !removed("/kubepods/a"), "not while another is in it");
        assert!(removed("/kubepods/a/x") && removed("/kubepods/a") && removed("/kubepods/a"));
        assert!(!removed("/kubepods") && !removed("/configured") && !removed(""));
    }
}
