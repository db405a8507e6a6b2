//! The record of a pod's cgroup, and the file operations on what it names.

use std::{
    collections::BTreeMap,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    Container, Driver, Error, delegate,
    group::{Group, Version},
    limits, parent,
    settle::{self, Changed},
    slice,
    tree::{self, Tree},
};
use crate::{
    failpoint,
    model::{ContainerId, PodId, Resources},
};

/// A pod's cgroups: plain data, stored with the pod and sent to its supervisor.
///
/// Every method does file operations only, on the calling thread, in the daemon or in the supervisor.
/// Fields are only ever added, each with a default, so that the records of older releases decode.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Handle {
    pub(super) driver: Driver,
    pub(super) version: Version,
    pub(super) path: PodPath,
    /// Every mounted hierarchy; on v2 the one.
    pub(super) trees: Arc<[Tree]>,
    /// The parent is the configured one, so the pod's own limits are ours to set.
    #[serde(default)]
    pub(super) limited: bool,
}

/// The parts of a [`Handle`], for those who carry it to another process.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Parts {
    /// The driver that made the cgroup.
    pub driver: Driver,
    /// Which interface holds the controllers.
    pub version: Version,
    /// Absolute in each hierarchy; ends with the pod's id.
    pub path: String,
    /// Mount point and controllers of every mounted hierarchy; cgroup2 has no controllers here.
    pub trees: Vec<(PathBuf, Vec<String>)>,
    /// The pod's own limits are set by pintle.
    pub limited: bool,
}

/// The path of a pod's cgroup: absolute, without `..`, and ending in a pod's id. There is no other way to
/// have one, read from a record or not, so nothing foreign can be killed or removed through a handle.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct PodPath(String);

impl PodPath {
    /// `parent` is what [`parent::parse`] gave, or the path of a scope.
    pub(super) fn new(parent: &str, pod: &PodId) -> Self {
        Self(format!("{parent}/{pod}"))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The cgroup right above the pod's; empty is the root.
    pub(super) fn parent(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(parent, _)| parent)
    }
}

impl TryFrom<String> for PodPath {
    type Error = Error;
    fn try_from(path: String) -> Result<Self, Error> {
        let of_a_pod = path.rsplit_once('/').is_some_and(|(_, name)| PodId::parse(name).is_ok());
        if of_a_pod && parent::parse(&path).is_ok_and(|clean| clean == path) {
            Ok(Self(path))
        } else {
            Err(Error::Foreign { path })
        }
    }
}

impl From<PodPath> for String {
    fn from(path: PodPath) -> Self {
        path.0
    }
}

/// Name of the leaf for the pod's supervisor. Not an id, so no container can have it.
const SUPERVISOR: &str = "supervisor";

/// How long systemd may take to remove an empty scope, and the pause between two looks. It takes some 15 ms.
const SYSTEMD_REMOVES_MAX: Duration = Duration::from_secs(1);
const SYSTEMD_LOOK: Duration = Duration::from_millis(5);

impl Handle {
    /// The driver that made the cgroup.
    #[cfg(test)]
    pub(super) fn driver(&self) -> Driver {
        self.driver
    }

    /// The parts that [`Handle::from_parts`] makes the same of again.
    pub fn parts(&self) -> Parts {
        let tree = |tree: &Tree| (tree.mountpoint.clone(), tree.controllers.clone());
        Parts {
            driver: self.driver,
            version: self.version,
            path: self.path().into(),
            trees: self.trees.iter().map(tree).collect(),
            limited: self.limited,
        }
    }

    /// The handle that consists of `parts`.
    ///
    /// # Errors
    /// [`Error::Foreign`] for a path that is not that of a pod's cgroup.
    pub fn from_parts(parts: Parts) -> Result<Self, Error> {
        let Parts { driver, version, path, trees, limited } = parts;
        let tree = |(mountpoint, controllers)| Tree { mountpoint, controllers };
        let trees = trees.into_iter().map(tree).collect();
        Ok(Self { driver, version, path: path.try_into()?, trees, limited })
    }

    /// The pod's cgroup, as `/proc/PID/cgroup` shows it.
    pub fn path(&self) -> &str {
        self.path.as_str()
    }

    /// Whether it is this pod's: a record may have been copied from another's folder.
    pub fn is_of(&self, pod: &PodId) -> bool {
        self.path().rsplit('/').next() == Some(pod.as_str())
    }

    /// The pods that have a cgroup where this one is, or would be, in any hierarchy, by their directories. What is named
    /// like a pod of ours may be another runtime's.
    pub fn pods_beside(&self) -> BTreeMap<PodId, PathBuf> {
        let top = self.top().path;
        let parent = top.rsplit_once('/').map_or("", |(parent, _)| parent);
        let mut found = BTreeMap::new();
        for folder in self.trees.iter().map(|tree| tree.directory(parent)) {
            let names = std::fs::read_dir(&folder).into_iter().flatten().flatten();
            for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
                let scope = name.strip_prefix("pintle-").and_then(|name| name.strip_suffix(".scope"));
                if let Ok(pod) = PodId::parse(scope.unwrap_or(&name)) {
                    found.insert(pod, folder.join(name));
                }
            }
        }
        found
    }

    /// The pod's directory on the host in every hierarchy.
    #[cfg(test)]
    pub(super) fn paths(&self) -> Vec<std::path::PathBuf> {
        self.trees.iter().map(|tree| tree.directory(self.path())).collect()
    }

    /// The cgroup of the pod's scope and the name of the slice that this is in; `None` where systemd made nothing.
    pub(super) fn scope(&self) -> Option<(&str, String)> {
        let scope = self.path.parent();
        let (inside, name) = scope.rsplit_once('/')?;
        let pod = self.path().rsplit('/').next()?;
        let is_ours = self.driver == Driver::Systemd && name == slice::scope_of(pod);
        is_ours.then(|| (scope, slice::slice_at(inside)))
    }

    /// The cgroup that is killed and removed with the pod: its scope, else its own cgroup.
    fn top(&self) -> Group {
        let mut group = self.group();
        if let Some((scope, _)) = self.scope() {
            group.path = scope.to_owned();
        }
        group
    }

    pub(super) fn group(&self) -> Group {
        Group {
            version: self.version,
            trees: self.trees.clone(),
            path: self.path().into(),
            leaf: None,
            pod: None,
        }
    }

    /// Makes and opens what the supervisor can be forked into, so that it need not be moved there; `None`
    /// where there is no cgroup2, and for a scope, which is made around it. It still has to
    /// [`Handle::join_supervisor`].
    ///
    /// # Errors
    /// The kernel's refusal. What was made goes with the pod's removal.
    pub fn supervisor_gate(&self) -> Result<Option<OwnedFd>, Error> {
        if self.scope().is_some() { Ok(None) } else { self.group().child(SUPERVISOR).gate() }
    }

    /// Makes `<pod>/supervisor` and moves process `pid` there (0: the caller, which then has one thread). It has
    /// no limits of its own.
    /// On v2 the pod's cgroup then hands its controllers down, which it may not while it holds a process.
    ///
    /// # Errors
    /// The kernel's refusal. What was made goes with the pod's removal.
    pub fn join_supervisor(&self, pid: u32) -> Result<(), Error> {
        let group = self.group();
        let scope = self.scope().is_some().then(|| self.top());
        if scope.is_some() {
            group.make()?;
        }
        let leaf = group.child(SUPERVISOR);
        leaf.make()?;
        leaf.join(pid)?;
        if self.version == Version::V2 {
            for above in scope.iter().chain([&group]) {
                above.trees.iter().try_for_each(|tree| delegate::hand_down(&above.directory(tree)))?;
            }
        }
        failpoint!("cgroup.supervisor-joined");
        Ok(())
    }

    /// The cgroup of one container; makes nothing.
    pub fn container(&self, id: &ContainerId) -> Container {
        Container::new(self.group().child(id.as_str()))
    }

    /// Changes the pod's own limits (CRI UpdatePodSandboxResources). Nothing where the kubelet named the
    /// parent: there the kubelet has limited the parent itself.
    ///
    /// # Errors
    /// The kernel's refusal; then the limits are what they were.
    pub fn update(&self, resources: &Resources) -> Result<Changed, Error> {
        if !self.limited {
            return Ok(Changed::default());
        }
        let group = self.group();
        let settings = settle::plan(&group, resources, &settle::present(&group))?;
        settle::change(&group, &settings)
    }

    pub(super) fn limit(&self, resources: &Resources) -> Result<(), Error> {
        let group = self.group();
        settle::put(&group, &settle::plan(&group, resources, &limits::Present::default())?)
    }

    /// Kills every process in the pod's cgroup, the supervisor's leaf included. Never called from inside it:
    /// on v1 the caller would freeze itself.
    ///
    /// # Errors
    /// The kernel's refusal, or processes that keep appearing. Those that were signalled may take a moment to
    /// end: see [`Handle::populated`].
    pub fn kill(&self) -> Result<(), Error> {
        self.top().kill()
    }

    /// Removes the pod's cgroup and all below it, and of the directories above it those that were made for
    /// it and are empty. Waits a second at most for killed processes to leave. Absent is success.
    ///
    /// # Errors
    /// Names what is left; the other hierarchies are removed all the same.
    pub fn remove(&self) -> Result<(), Error> {
        if self.driver == Driver::Systemd {
            self.group().remove()?;
            self.leave_scope_to_systemd();
        }
        self.top().remove()?;
        for tree in self.trees.iter() {
            self.remove_parents(tree);
        }
        failpoint!("cgroup.pod-removed");
        Ok(())
    }

    /// systemd removes a scope when the kernel tells it that nobody is left. The kernel tells that at most every
    /// 10 ms, and not at all of a directory that is gone by then: a scope that we remove too early stays listed
    /// for ever. A systemd that does not come is not waited for longer.
    fn leave_scope_to_systemd(&self) {
        let top = self.top();
        let scopes: Vec<_> = top.trees.iter().map(|tree| top.directory(tree)).collect();
        let until = Instant::now() + SYSTEMD_REMOVES_MAX;
        while scopes.iter().any(|scope| scope.exists()) && Instant::now() < until {
            std::thread::sleep(SYSTEMD_LOOK);
        }
    }

    /// A parent that another pod uses is busy and stays; that pod takes it along. systemd's are none of ours.
    fn remove_parents(&self, tree: &Tree) {
        let mut path = self.path.parent();
        while !path.is_empty() && tree::remove_parent(&tree.directory(path)) {
            path = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        }
    }

    /// Removes what a failed creation made, without waiting.
    pub(super) fn unmake(&self) {
        let group = self.top();
        for tree in self.trees.iter() {
            if tree::remove(&group.directory(tree), Instant::now()).is_ok() {
                self.remove_parents(tree);
            }
        }
    }

    /// Whether any process is left in it.
    ///
    /// # Errors
    /// A file that cannot be read. An absent cgroup is empty.
    pub fn populated(&self) -> Result<bool, Error> {
        self.top().populated()
    }

    /// The cgroup of a pod on a host without any: every call succeeds and does nothing.
    #[cfg(test)]
    pub(crate) fn fake(pod: &PodId) -> Self {
        Self {
            driver: Driver::Cgroupfs,
            version: Version::V2,
            path: PodPath::new("/fake", pod),
            trees: Arc::new([]),
            limited: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "00000000000000000000000000000000000000000000000000000000000000ab";

    fn record(path: &str) -> String {
        format!(r#"{{"driver":"Cgroupfs","version":"v1","path":"{path}","trees":[]}}"#)
    }

    #[test]
    fn a_record_reads_the_same_in_every_release() {
        let json = format!(
            concat!(
                r#"{{"driver":"Cgroupfs","version":"v1","path":"/kubepods/{0}","trees":["#,
                r#"{{"mountpoint":"/sys/fs/cgroup/memory","controllers":["memory"]}},"#,
                r#"{{"mountpoint":"/sys/fs/cgroup/unified","controllers":[]}}],"limited":false}}"#
            ),
            POD
        );
        let handle: Handle = serde_json::from_str(&json).unwrap();
        assert_eq!(serde_json::to_string(&handle).unwrap(), json);
        assert_eq!(handle.path(), format!("/kubepods/{POD}"));
        assert_eq!(
            handle.paths(),
            [
                PathBuf::from(format!("/sys/fs/cgroup/memory/kubepods/{POD}")),
                format!("/sys/fs/cgroup/unified/kubepods/{POD}").into()
            ]
        );
    }

    #[test]
    fn a_record_without_the_later_fields_or_with_dropped_ones_reads() {
        let handle: Handle = serde_json::from_str(&record(&format!("/{POD}"))).unwrap();
        assert!(!handle.limited);
        let tree = r#"{"mountpoint":"/c","controllers":[],"parents_made":1}"#;
        let older = record(&format!("/{POD}")).replace("[]", &format!("[{tree}]"));
        assert_eq!(serde_json::from_str::<Handle>(&older).unwrap().trees.len(), 1);
    }

    #[test]
    fn a_record_that_names_no_pods_cgroup_is_refused() {
        let above = format!("/kubepods/../{POD}");
        let double = format!("/kubepods//{POD}");
        let below = format!("/kubepods/{POD}/ctr");
        let relative = format!("kubepods/{POD}");
        for path in ["", "/", "/kubepods", POD, &above, &double, &below, &relative] {
            let error = serde_json::from_str::<Handle>(&record(path)).unwrap_err().to_string();
            assert!(error.contains("left alone"), "{path:?}: {error}");
        }
    }

    #[test]
    fn a_pods_scope_is_killed_and_removed_with_it_and_no_other() {
        let handle = |driver: &str, path: &str| {
            let json = format!(r#"{{"driver":"{driver}","version":"v2","path":"{path}","trees":[]}}"#);
            serde_json::from_str::<Handle>(&json).unwrap()
        };
        let scope = format!("/a.slice/a-b.slice/pintle-{POD}.scope");
        let pod = handle("Systemd", &format!("{scope}/{POD}"));
        assert_eq!(pod.scope(), Some((scope.as_str(), "a-b.slice".to_owned())));
        assert_eq!((pod.top().path, pod.group().path), (scope.clone(), format!("{scope}/{POD}")));
        let at_root = handle("Systemd", &format!("/pintle-{POD}.scope/{POD}"));
        assert_eq!(at_root.scope().unwrap().1, "-.slice");

        let other = POD.replace("ab", "cd");
        for pod in [
            handle("Systemd", &format!("/a.slice/pintle-{other}.scope/{POD}")),
            handle("Systemd", &format!("/a.slice/{POD}")),
            handle("Cgroupfs", &format!("{scope}/{POD}")),
        ] {
            assert_eq!((pod.scope(), pod.top().path), (None, pod.path().to_owned()));
        }
    }

    #[test]
    fn a_pod_at_the_root_has_the_root_as_its_parent() {
        let pod = PodId::parse(POD).unwrap();
        assert_eq!(PodPath::new("", &pod).parent(), "");
        assert_eq!(PodPath::new("/a/b", &pod).parent(), "/a/b");
    }
}
