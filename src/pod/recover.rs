//! At start: records, supervisors and kernel, and what is true of them together.
//!
//! Reading the records makes the lists right at once; asking the supervisors goes on behind, for many pods at
//! a time. One bad record costs its own pod or container. What follows from what is found:
//!
//! | found | becomes |
//! |---|---|
//! | Ready, its supervisor answers | what the supervisor says of each container |
//! | Ready, its supervisor is gone | killed, Exited as written down or SupervisorDied, stopped |
//! | Ready, its supervisor does not answer | as recorded, until it answers or is gone |
//! | Starting, or a container only intended | undone; the name is free |
//! | Stopping | stopped further |
//! | known on disk and not in `/run` | NotReady, Exited as kept or NodeReboot, network released once |
//! | a damaged record | undone as far as it can be read |
//! | a record of a later release | left alone, and reported |

use std::{collections::HashSet, path::Path, sync::Arc};

use tokio::{sync::Semaphore, task::JoinHandle};
use tracing::{error, info, warn};

use super::{
    container::{Container, exit},
    driver::{Driver, Pod, Start},
    effect::{certainly_gone, end_pod, erase_container, erase_pod_files, logged},
    error::{Error, chain},
    node::{Line, Node},
    owed,
    record::{self, ContainerRecord, EndRecord, Made, PodRecord, blocking},
    state::PodState,
    view::ContainerState,
};
use crate::{
    cgroup,
    model::{ContainerId, Digest, ExitReason, PodConfig, PodId, ResolvedUser, Resources},
    store::{self, BadRecord, Durability},
    supervisor::Client,
    telemetry::task,
};

/// Pods recovered at one time: enough to hide the waits, few enough to leave descriptors for requests.
const RECOVERIES_MAX: usize = 32;

/// What the records say of one pod.
#[derive(Debug)]
pub(super) struct Found {
    record: PodRecord,
    cgroup: Option<cgroup::Handle>,
    containers: Vec<ContainerRecord>,
    /// Containers whose record cannot be used.
    damaged: Vec<ContainerId>,
    /// Containers that only a later release can read.
    foreign: HashSet<ContainerId>,
}

/// All that is on disk.
#[derive(Debug, Default)]
pub(super) struct Survey {
    pods: Vec<Found>,
    /// Pods whose record is damaged or missing.
    damaged: Vec<PodId>,
    /// Pods that only a later release can read.
    foreign: HashSet<PodId>,
}

/// Reads every record. Blocking; touches nothing but what a killed daemon left half written, and the records
/// of pods that a reboot has ended.
pub(super) fn survey(node: &Node) -> Result<Survey, Error> {
    node.places.make()?;
    let mut survey = Survey::default();
    let live = node.places.live_pods();
    for id in record::pods_in(&live).map_err(Error::io("list", &live))? {
        survey.add_live(node, id);
    }
    let known = node.places.known_pods();
    for id in record::pods_in(&known).map_err(Error::io("list", &known))? {
        let seen = survey.pods.iter().any(|found| found.record.id == id);
        if !seen && !survey.damaged.contains(&id) && !survey.foreign.contains(&id) {
            survey.add_ended(node, id);
        }
    }
    survey.pods.sort_by_key(|found| found.record.created_at);
    Ok(survey)
}

impl Survey {
    fn add_live(&mut self, node: &Node, id: PodId) {
        let folder = node.places.live(&id);
        logged("cleaning up unfinished records", store::sweep(&folder));
        match store::get::<PodRecord>(&record::pod_file(&folder)) {
            Ok(record) if record.id != id => {
                error!(pod = %id, other = %record.id, "the record of a pod lies in another's folder");
                self.damaged.push(id);
            }
            // A state directory that outlives a reboot: what is on disk says the same, and says it better.
            Ok(record) if record.boot_id != node.boot_id => {
                logged("removing the folder of an earlier boot", record::remove_folder(&folder));
            }
            Ok(record) => self.pods.push(read_containers(&folder, record)),
            Err(BadRecord::UnknownVersion(version)) => {
                error!(pod = %id, version, "the pod belongs to a later release and is left alone");
                self.foreign.insert(id);
            }
            Err(error @ (BadRecord::Absent | BadRecord::Io(_) | BadRecord::Damaged(_))) => {
                error!(pod = %id, error = %chain(&error), "the pod's record cannot be used; the pod is removed");
                self.damaged.push(id);
            }
        }
    }

    /// A pod of which only the disk knows: the machine was restarted, or `/run` was emptied.
    fn add_ended(&mut self, node: &Node, id: PodId) {
        let folder = node.places.known(&id);
        logged("cleaning up unfinished records", store::sweep(&folder));
        match store::get::<PodRecord>(&record::pod_file(&folder)) {
            Ok(record) if record.id == id => {
                let mut found = end_by_reboot(node, read_containers(&folder, record));
                if let Err(error) = move_to_live(node, &mut found) {
                    error!(pod = %id, error = %chain(&error), "could not take over a pod of an earlier boot");
                }
                self.pods.push(found);
            }
            Err(BadRecord::UnknownVersion(version)) => {
                error!(pod = %id, version, "the pod belongs to a later release and is left alone");
                self.foreign.insert(id);
            }
            Ok(_) => self.damaged.push(id),
            Err(error @ (BadRecord::Absent | BadRecord::Io(_) | BadRecord::Damaged(_))) => {
                error!(pod = %id, error = %chain(&error), "the pod's record cannot be used; the pod is removed");
                self.damaged.push(id);
            }
        }
    }
}

fn read_containers(folder: &Path, record: PodRecord) -> Found {
    let cgroup = store::get(&record::cgroup_file(folder)).ok();
    let mut found = Found { record, cgroup, containers: vec![], damaged: vec![], foreign: HashSet::new() };
    for id in record::containers_in(folder).unwrap_or_default() {
        match store::get::<ContainerRecord>(&record::container_file(folder, &id)) {
            Ok(container) if container.id == id && container.pod == found.record.id => {
                found.containers.push(container);
            }
            Err(BadRecord::UnknownVersion(version)) => {
                error!(container = %id, version, "the container belongs to a later release and is left alone");
                found.foreign.insert(id);
            }
            Ok(_) => found.damaged.push(id),
            Err(error @ (BadRecord::Absent | BadRecord::Io(_) | BadRecord::Damaged(_))) => {
                error!(container = %id, error = %chain(&error), "the record cannot be used; the container is removed");
                found.damaged.push(id);
            }
        }
    }
    found.containers.sort_by_key(|container| container.created_at);
    found
}

/// What the disk knows is as of creation. Nothing of it lives; its network is still to be released.
fn end_by_reboot(node: &Node, mut found: Found) -> Found {
    let rebooted = found.record.boot_id != node.boot_id;
    found.record.boot_id.clone_from(&node.boot_id);
    found.record.state = PodState::Stopping;
    found.record.supervisor_pid = 0;
    found.cgroup = None;
    let folder = node.places.known(&found.record.id);
    for container in &mut found.containers {
        let end = store::get::<EndRecord>(&record::end_file(&folder, &container.id)).unwrap_or_else(|_| {
            let (reason, why) = match rebooted {
                true => (ExitReason::NodeReboot, "the machine was restarted"),
                false => (ExitReason::Unknown, "the state directory was emptied under it"),
            };
            EndRecord { started_at: None, exit: exit(255, reason, why.into()) }
        });
        let EndRecord { started_at, exit } = end;
        let state = ContainerState::Exited { started_at, exit };
        container.made = Some(Made { state, user: ResolvedUser::default() });
    }
    found
}

/// From here on it is a pod of this boot that is being stopped.
fn move_to_live(node: &Node, found: &mut Found) -> Result<(), Error> {
    let folder = node.places.live(&found.record.id);
    let write = || {
        record::make_folder(&folder)?;
        for container in &found.containers {
            store::put(&record::container_file(&folder, &container.id), container, Durability::Process)?;
        }
        store::put(&record::pod_file(&folder), &found.record, Durability::Process)
    };
    write().map_err(Error::io("write the records of a pod in", &folder))
}

/// Makes the lists right, and leaves the rest to tasks. Ends as soon as the lists are right.
pub(super) fn recover(node: &Arc<Node>, survey: Survey) {
    let Survey { pods, damaged, foreign } = survey;
    let turns = Arc::new(Semaphore::new(RECOVERIES_MAX));
    let mut live: HashSet<PodId> = foreign;
    let mut tasks = Vec::new();
    info!(pods = pods.len(), damaged = damaged.len(), "recovering");
    for found in pods {
        live.insert(found.record.id.clone());
        let turns = Arc::clone(&turns);
        if found.record.state == PodState::Starting {
            let node = Arc::clone(node);
            tasks.push(task::spawn("pod-undo", async move {
                let _turn = turns.acquire_owned().await;
                undo_pod(&node, found).await;
            }));
        } else {
            tasks.push(recover_pod(node, found, turns));
        }
    }
    for id in damaged {
        let (node, turns) = (Arc::clone(node), Arc::clone(&turns));
        tasks.push(task::spawn("pod-undo", async move {
            let _turn = turns.acquire_owned().await;
            undo_damaged(&node, id).await;
        }));
    }
    task::spawn("pod-sweep", sweep(Arc::clone(node), live, tasks));
}

/// Publishes the pod as recorded and starts its driver. The handle ends when the truth is known.
fn recover_pod(node: &Arc<Node>, found: Found, turns: Arc<Semaphore>) -> JoinHandle<()> {
    let Found { record, cgroup, containers, damaged, foreign } = found;
    node.seen_creation(record.created_at);
    let (mut made, mut undone) = (Vec::new(), damaged.into_iter().map(|id| (id, None)).collect::<Vec<_>>());
    for container in containers {
        // Images keep the layers of what may still run or be looked at.
        node.images.retain(&container.image_id, container.id.as_str());
        node.seen_creation(container.created_at);
        match container.made.clone() {
            Some(facts) => made.push(Container::new(container.view(facts))),
            None => undone.push((container.id, Some(container.image_id))),
        }
    }
    let pod = pod_of(node, &record, cgroup);
    let (driver, reach) = Driver::new(Start {
        pod,
        state: record.state,
        attachment: record.attachment.clone(),
        supervisor_pid: record.supervisor_pid,
        containers: made,
    });
    driver.publish();
    node.names().hold(&record.config.metadata, record.id.clone(), reach);
    let (known, wait) = tokio::sync::oneshot::channel();
    task::spawn("pod", async move {
        let turn = turns.acquire_owned().await;
        let driver = find_truth(driver, record.supervisor_pid, undone, &foreign).await;
        drop(turn);
        let _ = known.send(());
        driver.serve().await;
    });
    task::spawn("pod-recovery", async move {
        let _ = wait.await;
    })
}

fn pod_of(node: &Arc<Node>, record: &PodRecord, cgroup: Option<cgroup::Handle>) -> Pod {
    Pod {
        node: Arc::clone(node),
        id: record.id.clone(),
        config: Arc::clone(&record.config),
        created_at: record.created_at,
        folder: node.places.live(&record.id),
        cgroup,
        line: Arc::<Line>::default(),
    }
}

/// Asks the supervisor, and undoes the containers that were never finished.
async fn find_truth(
    mut driver: Driver,
    supervisor_pid: u32,
    undone: Vec<(ContainerId, Option<Digest>)>,
    foreign: &HashSet<ContainerId>,
) -> Driver {
    let reached = match driver.state {
        PodState::NotReady => None,
        PodState::Starting | PodState::Ready | PodState::Stopping => {
            Some(Client::connect(&driver.pod.id, &driver.pod.folder).await)
        }
    };
    let client = reached.as_ref().and_then(|reached| reached.as_ref().ok()).map(|(client, _)| client.clone());
    for (id, image) in undone {
        if let Err(error) = erase_container(&driver.pod, client.as_ref(), &id, image.as_ref()).await {
            warn!(pod = %driver.pod.id, container = %id, error = %chain(&error), "could not undo a container");
        }
    }
    match reached {
        None => {}
        Some(Ok((client, mut facts))) => {
            facts.retain(|fact| !foreign.contains(&fact.id));
            driver.link = super::driver::Link::Lost;
            driver.supervisor_reached(client, facts).await;
        }
        Some(Err(failure)) if certainly_gone(&driver.pod, &failure, supervisor_pid).await => {
            driver.link = super::driver::Link::Lost;
            driver.supervisor_ended().await;
        }
        Some(Err(failure)) => {
            warn!(pod = %driver.pod.id, error = %failure, "the supervisor does not answer yet");
            driver.keep_reaching();
        }
    }
    driver
}

/// A pod that was never finished: its caller was never told of it.
async fn undo_pod(node: &Arc<Node>, found: Found) {
    let Found { record, mut cgroup, .. } = found;
    if cgroup.is_none() {
        cgroup = cgroup_by_name(node, &record.id, &record.config).await;
    }
    let pod = Arc::new(pod_of(node, &record, cgroup));
    undo(&pod).await;
}

/// Takes down what there may be of a pod, by whatever can be known of it.
async fn undo(pod: &Arc<Pod>) {
    let client = Client::connect(&pod.id, &pod.folder).await.ok().map(|(client, _)| client);
    if let Err(failure) = end_pod(pod, client.as_ref()).await {
        warn!(pod = %pod.id, error = %chain(&failure.error), "could not undo all of a pod");
        if failure.network_held {
            owed::note(&pod.node, &pod.id).await;
        } else {
            // The records stay: the next start tries again.
            return;
        }
    }
    if let Err(error) = erase_pod_files(pod).await {
        warn!(pod = %pod.id, error = %chain(&error), "could not remove the records of an undone pod");
    }
    info!(pod = %pod.id, "undid a pod");
}

/// A pod whose record on tmpfs is damaged or missing. The one on disk, and the file of its cgroup, may help.
async fn undo_damaged(node: &Arc<Node>, id: PodId) {
    let (live, known) = (node.places.live(&id), node.places.known(&id));
    let read = move || {
        let cgroup: Option<cgroup::Handle> = store::get(&record::cgroup_file(&live)).ok();
        let record: Option<PodRecord> = store::get(&record::pod_file(&known)).ok();
        let mut containers = record::containers_in(&live)?;
        containers.extend(record::containers_in(&known)?);
        Ok((cgroup, record, containers))
    };
    let (mut cgroup, record, containers) = blocking(read).await.unwrap_or_default();
    let config = record.as_ref().map(|record| Arc::clone(&record.config)).unwrap_or_default();
    if cgroup.is_none() && record.is_some() {
        cgroup = cgroup_by_name(node, &id, &config).await;
    }
    let created_at = record.map(|record| record.created_at).unwrap_or_default();
    let folder = node.places.live(&id);
    let pod = Arc::new(Pod {
        node: Arc::clone(node),
        id,
        config,
        created_at,
        folder,
        cgroup,
        line: Arc::default(),
    });
    // Its containers end with it; what images keep for them goes too.
    for container in containers {
        if let Err(error) = node.images.remove_writable(container.as_str()).await {
            warn!(%container, error = %chain(&error), "could not remove a writable layer");
        }
    }
    undo(&pod).await;
}

/// A pod has the same cgroup each time it is made, so making it again finds it.
async fn cgroup_by_name(node: &Arc<Node>, id: &PodId, config: &PodConfig) -> Option<cgroup::Handle> {
    match node.cgroups.create_pod(&config.cgroup_parent, id, &Resources::default()).await {
        Ok(handle) => Some(handle),
        Err(error) => {
            warn!(pod = %id, error = %chain(&error), "could not find the cgroup of an unfinished pod");
            None
        }
    }
}

/// When every pod is known: what belongs to none.
async fn sweep(node: Arc<Node>, mut live: HashSet<PodId>, tasks: Vec<JoinHandle<()>>) {
    for task in tasks {
        let _ = task.await;
    }
    // Pods that are being made have a folder before they have an address.
    let reader = Arc::clone(&node);
    let list = move || {
        let mut pods = owed::list(&reader);
        pods.extend(record::pods_in(&reader.places.live_pods())?);
        Ok(pods)
    };
    match blocking(list).await {
        Ok(pods) => live.extend(pods),
        // Without the whole list nothing may be released.
        Err(error) => return warn!(%error, "could not list the pods; nothing is swept"),
    }
    if let Err(error) = node.network.sweep(&live).await {
        warn!(error = %chain(&error), "could not release networks of no pod");
    }
    sweep_writable(&node).await;
    info!("recovered");
}

/// Writable layers whose container is gone.
async fn sweep_writable(node: &Arc<Node>) {
    let folder = node.images.writables().to_owned();
    let reader = Arc::clone(node);
    let list = move || {
        // The layers first: one made after this line is not among them.
        let layers =
            std::fs::read_dir(folder)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let layers: Vec<_> = layers.filter_map(|name| ContainerId::parse(&name).ok()).collect();
        let mut owners = HashSet::new();
        for pods in [reader.places.live_pods(), reader.places.known_pods()] {
            for pod in record::pods_in(&pods)? {
                owners.extend(record::containers_in(&pods.join(pod.as_str()))?);
            }
        }
        Ok(layers.into_iter().filter(|id| !owners.contains(id)).collect::<Vec<_>>())
    };
    for id in blocking(list).await.unwrap_or_default() {
        match node.images.remove_writable(id.as_str()).await {
            Ok(()) => info!(container = %id, "removed the writable layer of no container"),
            Err(error) => warn!(container = %id, error = %chain(&error), "could not remove a writable layer"),
        }
    }
}
