//! The survey: what is on disk of each pod, read into plain data.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
};

use serde::de::DeserializeOwned;
use tracing::warn;

use crate::{
    cgroup,
    model::{ContainerId, PodConfig, PodId},
    pod::{
        error::{Error, chain},
        keep::{self, ContainerRecord, EndRecord, PodRecord},
        node::Node,
    },
    store::{self, BadRecord},
};

/// Everything on disk, a pod at a time.
#[derive(Debug)]
pub(in crate::pod) struct Survey {
    pub(in crate::pod) pods: Vec<PodSurvey>,
}

/// What is on disk of one pod. It is named by its folders.
#[derive(Debug)]
pub(in crate::pod) struct PodSurvey {
    pub(in crate::pod) id: PodId,
    /// On tmpfs; `None`: there is nothing.
    pub(in crate::pod) live: Option<FolderSurvey>,
    /// On disk, as of creation.
    pub(in crate::pod) known: Option<FolderSurvey>,
    /// The cgroup that a pod of this id and config would get today.
    pub(in crate::pod) planned: Option<cgroup::Handle>,
}

/// What is in one folder of a pod.
#[derive(Debug)]
pub(in crate::pod) struct FolderSurvey {
    pub(in crate::pod) pod: Result<PodRecord, BadRecord>,
    pub(in crate::pod) rest: FolderRest,
}

/// What is in a folder of a pod besides the pod's record.
#[derive(Debug, Default)]
pub(in crate::pod) struct FolderRest {
    pub(in crate::pod) cgroup: Option<cgroup::Handle>,
    /// By the names of their files.
    pub(in crate::pod) containers: BTreeMap<ContainerId, Result<ContainerRecord, BadRecord>>,
    /// How containers ended; on disk only.
    pub(in crate::pod) ends: BTreeMap<ContainerId, EndRecord>,
    /// The last file that is made before a pod is ready, and announced, is there.
    pub(in crate::pod) was_made: bool,
}

/// Reads every record. Blocking; changes nothing but that it removes what a killed daemon left half written.
///
/// # Errors
/// When the folders of the pods cannot be listed. A bad record is data.
pub(in crate::pod) fn survey(node: &Node) -> Result<Survey, Error> {
    let (live, known) = (node.places.live_pods(), node.places.known_pods());
    let mut ids = keep::pods_in(&live).map_err(Error::io("list", &live))?;
    ids.extend(keep::pods_in(&known).map_err(Error::io("list", &known))?);
    ids.sort();
    ids.dedup();
    Ok(Survey { pods: ids.into_iter().map(|id| read_pod(node, id)).collect() })
}

fn read_pod(node: &Node, id: PodId) -> PodSurvey {
    let live = read_folder(&node.places.live(&id));
    let known = read_folder(&node.places.known(&id));
    let config = [&live, &known].into_iter().flatten().find_map(|folder| folder.pod.as_ref().ok());
    let planned = config.and_then(|record| cgroup_by_name(node, &id, &record.config));
    PodSurvey { id, live, known, planned }
}

/// `None`: nothing of that name is there.
fn read_folder(folder: &Path) -> Option<FolderSurvey> {
    folder.symlink_metadata().ok()?;
    if let Err(error) = store::sweep(folder) {
        warn!(folder = %folder.display(), error = %chain(&error), "cleaning up unfinished records failed");
    }
    let containers = match keep::containers_in(folder) {
        Ok(containers) => containers,
        // A pod of which it is not known what it has is not known at all.
        Err(error) => {
            return Some(FolderSurvey { pod: Err(BadRecord::Io(error)), rest: FolderRest::default() });
        }
    };
    let ends = containers.iter().filter_map(|id| Some((id.clone(), got(&keep::end_file(folder, id))?)));
    let ends = ends.collect();
    let record = |id: ContainerId| {
        let record = store::get(&keep::container_file(folder, &id));
        (id, record)
    };
    let rest = FolderRest {
        cgroup: got(&keep::cgroup_file(folder)),
        ends,
        was_made: folder.join("hosts").exists(),
        containers: containers.into_iter().map(record).collect(),
    };
    Some(FolderSurvey { pod: store::get(&keep::pod_file(folder)), rest })
}

fn got<T: DeserializeOwned>(path: &Path) -> Option<T> {
    store::get(path).ok()
}

/// For a pod whose record of it is gone: where it would be made today.
fn cgroup_by_name(node: &Node, id: &PodId, config: &PodConfig) -> Option<cgroup::Handle> {
    match node.cgroups.plan_pod(&config.cgroup_parent, id) {
        Ok(handle) => Some(handle),
        Err(error) => {
            warn!(pod = %id, error = %chain(&error), "could not find the cgroup of a pod by its name");
            None
        }
    }
}

/// Every container that has a record anywhere, readable or not. Blocking.
///
/// # Errors
/// When a folder cannot be listed: then nobody knows.
pub(in crate::pod) fn recorded_containers(node: &Node) -> io::Result<BTreeSet<ContainerId>> {
    let mut all = BTreeSet::new();
    for pods in [node.places.live_pods(), node.places.known_pods()] {
        for pod in keep::pods_in(&pods)? {
            all.extend(keep::containers_in(&pods.join(pod.as_str()))?);
        }
    }
    Ok(all)
}
