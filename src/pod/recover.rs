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
//! | known on disk and not in `/run`, after a reboot | NotReady, Exited as kept or NodeReboot, network released once |
//! | known on disk and not in `/run`, in one boot | stopped: killed by its cgroup, Exited once the kernel says so |
//! | a damaged record, its cgroup and supervisor prove that it runs | Ready, rebuilt from the disk and the leases |
//! | a damaged record of a pod whose supervisor is gone | undone as far as it can be read |
//! | a record of a later release | left alone, and reported |
//!
//! Long: the survey, what follows from it and the undo; three files once what follows is decided purely.

use std::{
    collections::{BTreeSet, HashSet},
    io,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::join_all;
use tokio::sync::{Semaphore, oneshot};
use tracing::{error, info, warn};

use super::{
    drive::{Driver, Pod, end_pod, erase_pod_files},
    error::{Error, chain},
    keep::{self, ContainerRecord, EndRecord, Made, PodRecord, blocking, owed::Debt},
    life::{PodPhase, Recovered, Remembered},
    node::Node,
    reach::SupervisorAccess,
    view::ContainerState,
};
use crate::{
    cgroup,
    model::{ContainerId, Exit, ExitReason, NetworkMode, PodConfig, PodId, ResolvedUser, Stage},
    store::{self, BadRecord, Durability},
    supervisor::Client,
    telemetry::task,
};

/// Pods recovered at one time: enough to hide the waits, few enough to leave descriptors for requests.
const RECOVERIES_MAX: usize = 32;

/// How long the first requests may wait until it is known what runs: a supervisor answers in a millisecond or
/// is in trouble.
const TRUTH_MAX: Duration = Duration::from_millis(500);

/// How long the first requests may wait for leftovers to be released.
const SWEEP_MAX: Duration = Duration::from_secs(5);

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
    /// Containers of whose end nobody has heard yet.
    ended: HashSet<ContainerId>,
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
    for id in keep::pods_in(&live).map_err(Error::io("list", &live))? {
        survey.add_live(node, id);
    }
    let known = node.places.known_pods();
    for id in keep::pods_in(&known).map_err(Error::io("list", &known))? {
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
        match store::get::<PodRecord>(&keep::pod_file(&folder)) {
            Ok(record) if record.id != id => {
                error!(pod = %id, other = %record.id, "the record of a pod lies in another's folder");
                self.damaged.push(id);
            }
            // A state directory that outlives a reboot: what is on disk says the same, and says it better.
            Ok(record) if record.boot_id != node.boot_id => {
                logged("removing the folder of an earlier boot", keep::remove_folder(&folder));
            }
            Ok(record) => {
                let mut found = read_containers(&folder, record);
                let (record, cgroup) = (&found.record, found.cgroup.take());
                found.cgroup = cgroup
                    .or_else(|| record.cgroup.clone())
                    .or_else(|| cgroup_by_name(node, &record.id, &record.config));
                self.pods.push(found);
            }
            Err(BadRecord::UnknownVersion(version)) => {
                error!(pod = %id, version, "the pod belongs to a later release and is left alone");
                self.foreign.insert(id);
            }
            Err(error @ (BadRecord::Absent | BadRecord::Io(_) | BadRecord::Damaged(_))) => {
                error!(pod = %id, error = %chain(&error), "the pod's record cannot be used");
                self.damaged.push(id);
            }
        }
    }

    /// A pod of which only the disk knows: the machine was restarted, or `/run` was emptied.
    fn add_ended(&mut self, node: &Node, id: PodId) {
        let folder = node.places.known(&id);
        logged("cleaning up unfinished records", store::sweep(&folder));
        match store::get::<PodRecord>(&keep::pod_file(&folder)) {
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
                error!(pod = %id, error = %chain(&error), "the pod's record cannot be used");
                self.damaged.push(id);
            }
        }
    }
}

fn read_containers(folder: &Path, record: PodRecord) -> Found {
    let cgroup = store::get(&keep::cgroup_file(folder)).ok();
    let mut found = Found {
        record,
        cgroup,
        containers: vec![],
        damaged: vec![],
        foreign: HashSet::new(),
        ended: HashSet::new(),
    };
    for id in keep::containers_in(folder).unwrap_or_default() {
        match store::get::<ContainerRecord>(&keep::container_file(folder, &id)) {
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

/// What the disk knows is as of creation; the pod is to be stopped, and its network released. After a reboot
/// nothing of it lives. Within one boot somebody has emptied the state directory under it, or another one is
/// configured: then only the kernel knows what lives, and nothing has ended before it was asked.
fn end_by_reboot(node: &Node, mut found: Found) -> Found {
    let rebooted = found.record.boot_id != node.boot_id;
    found.record.boot_id.clone_from(&node.boot_id);
    found.record.state = PodPhase::Stopping;
    found.record.supervisor_pid = 0;
    found.cgroup = match rebooted {
        true => None,
        false => cgroup_by_name(node, &found.record.id, &found.record.config),
    };
    let folder = node.places.known(&found.record.id);
    for container in &mut found.containers {
        let state = match store::get::<EndRecord>(&keep::end_file(&folder, &container.id)) {
            Ok(EndRecord { started_at, exit }) => ContainerState::Exited { started_at, exit },
            Err(_) if rebooted => {
                found.ended.insert(container.id.clone());
                let exit = exit(255, ExitReason::NodeReboot, "the machine was restarted".into());
                ContainerState::Exited { started_at: None, exit }
            }
            // No process has this pid: it is found and killed by its cgroup.
            Err(_) => ContainerState::Running { pid: 0, started_at: container.created_at },
        };
        container.made = Some(Made { state, user: ResolvedUser::default(), starting: false });
    }
    found
}

/// From here on it is a pod of this boot that is being stopped.
fn move_to_live(node: &Node, found: &mut Found) -> Result<(), Error> {
    let folder = node.places.live(&found.record.id);
    let write = || {
        keep::make_folder(&folder)?;
        for container in &found.containers {
            store::put(&keep::container_file(&folder, &container.id), container, Durability::Process)?;
        }
        store::put(&keep::pod_file(&folder), &found.record, Durability::Process)
    };
    write().map_err(Error::io("write the records of a pod in", &folder))
}

/// Lists every pod, and has its driver ask its supervisor. Does not wait for one that takes its time.
pub(super) async fn recover(node: &Arc<Node>, survey: Survey) {
    info!(pods = survey.pods.len(), damaged = survey.damaged.len(), "recovering");
    sweep(node, &survey).await;
    let Survey { pods, damaged, foreign: _ } = survey;
    let turns = Arc::new(Semaphore::new(RECOVERIES_MAX));
    let mut known = Vec::new();
    for found in pods {
        if found.record.state == PodPhase::Starting {
            let (node, turns) = (Arc::clone(node), Arc::clone(&turns));
            task::spawn("pod-undo", async move {
                let _turn = turns.acquire_owned().await;
                undo_pod(&node, found).await;
            });
        } else {
            known.push(recover_pod(node, found, Arc::clone(&turns)));
        }
    }
    for id in damaged {
        match rebuild(node, &id).await {
            Rebuilt::Running(found) => {
                known.push(recover_pod(node, *found, Arc::clone(&turns)));
                continue;
            }
            Rebuilt::Unknown => continue,
            Rebuilt::Gone => {}
        }
        let (node, turns) = (Arc::clone(node), Arc::clone(&turns));
        task::spawn("pod-undo", async move {
            let _turn = turns.acquire_owned().await;
            undo_damaged(&node, id).await;
        });
    }
    if tokio::time::timeout(TRUTH_MAX, join_all(known)).await.is_err() {
        warn!("not every supervisor has answered yet; its containers are listed as recorded");
    }
}

/// What is known of a pod whose record is damaged or missing.
enum Rebuilt {
    /// Its cgroup and its supervisor prove that it runs.
    Running(Box<Found>),
    /// Something runs, and it cannot be told what: nothing of it is touched. The next start looks again.
    Unknown,
    Gone,
}

/// A pod that runs is not ended for the sake of its record. What the record said is in other places too: the config on
/// disk, as of the pod's creation; the addresses in their leases; the rest is told by the supervisor.
async fn rebuild(node: &Arc<Node>, id: &PodId) -> Rebuilt {
    let (live, known) = (node.places.live(id), node.places.known(id));
    let read = move || {
        let record: Option<PodRecord> = store::get(&keep::pod_file(&known)).ok();
        let found = record.map(|record| read_containers(&live, record));
        // The last file that is made before a pod is ready, and told of.
        Ok((found, live.join("hosts").exists()))
    };
    let Ok((Some(mut found), true)) = blocking(read).await else { return Rebuilt::Gone };
    let record = &mut found.record;
    if record.id != *id || record.boot_id != node.boot_id {
        return Rebuilt::Gone;
    }
    let client = match Client::connect(id, &node.places.live(id)).await {
        Ok((client, _)) => client,
        Err(failure) if failure.stage == Stage::Connection => return Rebuilt::Gone,
        Err(failure) => {
            error!(pod = %id, error = %failure, "a pod without a usable record has a supervisor that does not answer; it is left alone");
            return Rebuilt::Unknown;
        }
    };
    let cgroup = found.cgroup.take().or_else(|| cgroup_by_name(node, id, &record.config));
    if !cgroup.as_ref().is_some_and(|cgroup| is_in(cgroup, client.pid())) {
        error!(pod = %id, pid = client.pid(), "the supervisor of a pod without a usable record is not in its cgroup; it is left alone");
        return Rebuilt::Unknown;
    }
    if record.config.namespaces.network == NetworkMode::Pod {
        match node.network.attachment_of(id).await {
            Ok(attachment) => record.attachment = attachment,
            Err(error) => {
                warn!(pod = %id, error = %chain(&error), "could not look for the addresses of a pod")
            }
        }
    }
    record.state = PodPhase::Ready;
    record.supervisor_pid = client.pid();
    let written = keep::put(keep::pod_file(&node.places.live(id)), record.clone()).await;
    if let Err(error) = written {
        warn!(pod = %id, error = %chain(&error), "could not write the record of a pod again");
    }
    found.cgroup = cgroup;
    warn!(pod = %id, "the pod runs, its record is rebuilt");
    Rebuilt::Running(Box::new(found))
}

/// Whether process `pid` is in the pod's cgroup (proc_pid_cgroup(5), `hierarchy:controllers:path`).
fn is_in(cgroup: &cgroup::Handle, pid: u32) -> bool {
    let below = |line: &str| {
        line.splitn(3, ':').nth(2).is_some_and(|path| Path::new(path).starts_with(cgroup.path()))
    };
    std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.lines().any(below))
}

/// Takes away what belongs to no pod. Before any request is served: a pod that is being made would look like
/// one that is not there.
async fn sweep(node: &Arc<Node>, survey: &Survey) {
    let mut live: HashSet<PodId> = survey.pods.iter().map(|found| found.record.id.clone()).collect();
    live.extend(survey.damaged.iter().chain(&survey.foreign).cloned());
    let reader = Arc::clone(node);
    task::blocking("read debts", move || reader.debts.load(&reader.places)).await;
    live.extend(node.debts.pods());
    let attachments =
        survey.pods.iter().filter_map(|found| Some((&found.record.id, found.record.attachment.as_ref()?)));
    let held = attachments
        .flat_map(|(id, attachment)| attachment.addresses.iter().map(|address| (*address, id.clone())));
    let held = held.collect();
    let reader = Arc::clone(node);
    let keep = move || Ok(reader.images.keep_only(&recorded_containers(&reader)?));
    match blocking(keep).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(error = %chain(&error), "could not remove writable layers of no container"),
        Err(error) => warn!(%error, "could not list the containers; no writable layer is removed"),
    }
    match tokio::time::timeout(SWEEP_MAX, node.network.sweep(&live, &held)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(error = %chain(&error), "could not release networks of no pod"),
        Err(_) => warn!("releasing networks of no pod took too long; the next start goes on with it"),
    }
}

/// Every container that has a record anywhere, readable or not. Blocking.
fn recorded_containers(node: &Node) -> std::io::Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    for pods in [node.places.live_pods(), node.places.known_pods()] {
        for pod in keep::pods_in(&pods)? {
            all.extend(keep::containers_in(&pods.join(pod.as_str()))?.into_iter().map(String::from));
        }
    }
    Ok(all)
}

/// Publishes the pod as recorded and starts its driver, which first finds out what is true.
///
/// The receiver ends when the driver has found out.
fn recover_pod(node: &Arc<Node>, found: Found, turns: Arc<Semaphore>) -> oneshot::Receiver<()> {
    let Found { record, cgroup, containers, damaged, foreign, ended } = found;
    node.seen_creation(record.created_at);
    let (mut made, mut leftovers) = (Vec::new(), damaged);
    for container in containers {
        // Images keep the layers of what may still run or be looked at.
        container.images().for_each(|image| node.images.retain(image, container.id.as_str()));
        node.seen_creation(container.created_at);
        match container.made.clone() {
            Some(facts) => {
                let unheard_end = ended.contains(&container.id);
                let starting = facts.starting;
                made.push(Remembered { view: container.view(facts), starting, unheard_end });
            }
            None => leftovers.push(container.id),
        }
    }
    let name = record.config.metadata.clone();
    let limits = record.limits.clone().unwrap_or_else(|| record.config.limits());
    let pod = pod_of(node, &record, cgroup);
    let (driver, reach, known) = Driver::of_recovered(
        pod,
        Recovered {
            phase: record.state,
            attachment: record.attachment,
            supervisor_pid: record.supervisor_pid,
            limits,
            containers: made,
            leftovers,
            foreign,
        },
    );
    node.names().hold(&name, record.id, reach);
    task::spawn("pod", async move {
        let turn = turns.acquire_owned().await;
        driver.serve_in(turn).await;
    });
    known
}

fn pod_of(node: &Arc<Node>, record: &PodRecord, cgroup: Option<cgroup::Handle>) -> Pod {
    Pod {
        node: Arc::clone(node),
        id: record.id.clone(),
        config: Arc::clone(&record.config),
        created_at: record.created_at,
        folder: node.places.live(&record.id),
        cgroup,
        access: Arc::<SupervisorAccess>::default(),
    }
}

/// An end that nobody saw, now.
fn exit(code: i32, reason: ExitReason, message: String) -> Exit {
    Exit { code, reason, at: SystemTime::now().into(), message }
}

/// For file work whose failure is only worth a log line.
fn logged(doing: &'static str, result: io::Result<()>) {
    if let Err(error) = result {
        warn!(error = %chain(&error), "{doing} failed");
    }
}

/// A pod that was never finished: its caller was never told of it.
async fn undo_pod(node: &Arc<Node>, found: Found) {
    let Found { record, mut cgroup, .. } = found;
    if cgroup.is_none() {
        cgroup = cgroup_by_name(node, &record.id, &record.config);
    }
    let pod = Arc::new(pod_of(node, &record, cgroup));
    undo(&pod).await;
}

/// Takes down what there may be of a pod, by whatever can be known of it.
async fn undo(pod: &Arc<Pod>) {
    let client = Client::connect(&pod.id, &pod.folder).await.ok().map(|(client, _)| client);
    if let Err(failure) = end_pod(pod, client.as_ref()).await {
        warn!(pod = %pod.id, error = %chain(&failure.error), "could not undo all of a pod");
        let cgroup = pod.cgroup.clone().filter(|_| failure.cgroup_held);
        // Its records stay until the rest is paid.
        let debt = Debt { pod: pod.id.clone(), network: failure.network_held, cgroup, records: true };
        return pod.node.debts.add(&pod.node.places, debt).await;
    }
    if let Err(error) = erase_pod_files(pod).await {
        warn!(pod = %pod.id, error = %chain(&error), "could not remove the records of an undone pod");
    }
    info!(pod = %pod.id, "undid a pod");
}

/// A pod whose record on tmpfs is damaged or missing. The one on disk, and the file of its cgroup, may help.
async fn undo_damaged(node: &Arc<Node>, id: PodId) {
    let (live, known) = (node.places.live(&id), node.places.known(&id));
    // Each of these may be what is damaged: it costs the others nothing.
    let read = move || {
        let cgroup: Option<cgroup::Handle> = store::get(&keep::cgroup_file(&live)).ok();
        let record: Option<PodRecord> = store::get(&keep::pod_file(&known)).ok();
        let mut containers = keep::containers_in(&live).unwrap_or_default();
        containers.extend(keep::containers_in(&known).unwrap_or_default());
        Ok((cgroup, record, containers))
    };
    let (mut cgroup, record, containers) = blocking(read).await.unwrap_or_default();
    let config = record.as_ref().map(|record| Arc::clone(&record.config)).unwrap_or_default();
    if cgroup.is_none() && record.is_some() {
        cgroup = cgroup_by_name(node, &id, &config);
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
        access: Arc::default(),
    });
    // Its containers end with it; what images keep for them goes too.
    for container in containers {
        node.images.release(container.as_str());
        if let Err(error) = node.images.remove_writable(container.as_str()).await {
            warn!(%container, error = %chain(&error), "could not remove a writable layer");
        }
    }
    undo(&pod).await;
}

/// For a pod whose record of it is gone: where it would be made today.
fn cgroup_by_name(node: &Node, id: &PodId, config: &PodConfig) -> Option<cgroup::Handle> {
    match node.cgroups.plan_pod(&config.cgroup_parent, id) {
        Ok(handle) => Some(handle),
        Err(error) => {
            warn!(pod = %id, error = %chain(&error), "could not find the cgroup of an unfinished pod");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Instant};

    use super::*;
    use crate::{
        model::UnixNanos,
        pod::{
            life::Change,
            view::{ContainerView, fake_config},
        },
    };

    fn pod(byte: u8, boot_id: &str, state: PodPhase) -> PodRecord {
        PodRecord {
            id: PodId::from_bytes([byte; 32]),
            boot_id: boot_id.into(),
            state,
            config: Arc::new(fake_config(&format!("pod {byte}"))),
            created_at: UnixNanos(byte.into()),
            attachment: None,
            // No process has this pid.
            supervisor_pid: i32::MAX.cast_unsigned(),
            limits: None,
            cgroup: None,
        }
    }

    fn put(node: &Node, record: &PodRecord, containers: &[ContainerRecord]) {
        for folder in [node.places.live(&record.id), node.places.known(&record.id)] {
            keep::make_folder(&folder).unwrap();
            store::put(&keep::pod_file(&folder), record, Durability::Process).unwrap();
            for container in containers {
                let path = keep::container_file(&folder, &container.id);
                store::put(&path, container, Durability::Process).unwrap();
            }
        }
    }

    fn running(pod: &PodRecord, byte: u8) -> ContainerRecord {
        let state = ContainerState::Running { pid: u32::MAX, started_at: UnixNanos(5) };
        ContainerRecord::of(&ContainerView::fake(&pod.id, byte, state))
    }

    fn intent(pod: &PodRecord, byte: u8) -> ContainerRecord {
        ContainerRecord { made: None, ..running(pod, byte) }
    }

    async fn start(node: &Arc<Node>) {
        recover(node, survey(node).unwrap()).await;
    }

    /// Waits on a level: the drivers find out the truth behind.
    async fn wait_until(what: &str, ready: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !ready() {
            assert!(Instant::now() < deadline, "timed out: {what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn exits(node: &Node) -> Vec<(i32, ExitReason)> {
        let view = node.board.view();
        let states =
            view.pods.iter().flat_map(|pod| &pod.containers).filter_map(|container| match &container.state {
                ContainerState::Exited { exit, .. } => Some((exit.code, exit.reason)),
                ContainerState::Created { .. } | ContainerState::Running { .. } => None,
            });
        states.collect()
    }

    fn folders(node: &Node) -> usize {
        let count = |folder| fs::read_dir(folder).unwrap().count();
        count(node.places.live_pods()) + count(node.places.known_pods())
    }

    #[tokio::test]
    async fn a_pod_whose_supervisor_does_not_answer_is_listed_as_recorded() {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::fake(folder.path());
        let record = pod(1, "this boot", PodPhase::Ready);
        put(&node, &record, &[running(&record, 1), running(&record, 2), intent(&record, 3)]);
        let socket = node.places.live(&record.id).join("supervisor.sock");
        let _silent = std::os::unix::net::UnixListener::bind(socket).unwrap();
        let began = Instant::now();
        start(&node).await;
        assert!(began.elapsed() < SWEEP_MAX, "the start waited for it");
        let view = node.board.view();
        assert_eq!((view.pods.len(), view.pods[0].ready, view.pods[0].containers.len()), (1, true, 2));
        assert!(node.creation_time() > UnixNanos(3));
    }

    #[tokio::test]
    async fn a_pod_without_its_supervisor_is_ended_and_its_unfinished_container_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::fake(folder.path());
        let record = pod(1, "this boot", PodPhase::Ready);
        put(&node, &record, &[running(&record, 1), intent(&record, 3)]);
        start(&node).await;
        wait_until("the pod is not ready", || !node.board.view().pods[0].ready).await;
        wait_until("its container is ended", || exits(&node) == [(137, ExitReason::SupervisorDied)]).await;
        let live = node.places.live(&record.id);
        assert_eq!(keep::containers_in(&live).unwrap(), [ContainerRecord::clone(&running(&record, 1)).id]);
    }

    #[tokio::test]
    async fn after_a_reboot_pods_are_known_and_nothing_is_a_ghost() {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::fake(folder.path());
        let record = pod(1, "another boot", PodPhase::Starting);
        put(&node, &record, &[intent(&record, 1), intent(&record, 2)]);
        let end =
            EndRecord { started_at: Some(UnixNanos(4)), exit: exit(3, ExitReason::Error, String::new()) };
        let ended = keep::end_file(&node.places.known(&record.id), &running(&record, 2).id);
        store::put(&ended, &end, Durability::Process).unwrap();
        fs::remove_dir_all(node.places.live_pods()).unwrap();
        start(&node).await;
        let expected = [(255, ExitReason::NodeReboot), (3, ExitReason::Error)];
        assert_eq!((node.board.view().pods[0].ready, exits(&node)), (false, expected.to_vec()));
        // The other's end was told by the daemon that wrote it down.
        let mut follower = node.events.subscribe().unwrap();
        let entry = follower.next().await.unwrap();
        let one = running(&record, 1).id;
        assert_eq!((&entry.event.container, entry.event.change), (&Some(one), Change::Stopped));
        let entry = follower.next().await.unwrap();
        assert_eq!((&entry.event.container, entry.event.change), (&None, Change::Stopped));
        let stored = keep::pod_file(&node.places.live(&record.id));
        let state = || store::get::<PodRecord>(&stored).unwrap().state;
        wait_until("it is torn down", || state() == PodPhase::NotReady).await;
        // The next daemon of this boot sees the same.
        let later = Node::fake(folder.path());
        start(&later).await;
        assert_eq!((later.board.view().pods[0].ready, exits(&later)), (false, expected.to_vec()));
    }

    #[tokio::test]
    async fn a_state_folder_that_was_emptied_ends_nothing_before_the_kernel_was_asked() {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::fake(folder.path());
        let record = pod(1, "this boot", PodPhase::Starting);
        put(&node, &record, &[intent(&record, 1)]);
        fs::remove_dir_all(node.places.live_pods()).unwrap();
        let survey = survey(&node).unwrap();
        assert!(survey.pods[0].cgroup.is_some(), "it is found by its name");
        let made = survey.pods[0].containers[0].made.clone().unwrap();
        assert!(matches!(made.state, ContainerState::Running { .. }), "{made:?}");
        recover(&node, survey).await;
        wait_until("its cgroup is found empty", || exits(&node) == [(137, ExitReason::SupervisorDied)]).await;
        let stored = keep::pod_file(&node.places.live(&record.id));
        let state = || store::get::<PodRecord>(&stored).ok().map(|record| record.state);
        wait_until("it is torn down", || state() == Some(PodPhase::NotReady)).await;
    }

    #[tokio::test]
    async fn a_file_in_the_place_of_a_pods_folder_costs_that_pod_only() {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::fake(folder.path());
        let (bad, good) = (pod(1, "this boot", PodPhase::Ready), pod(2, "this boot", PodPhase::NotReady));
        put(&node, &bad, &[running(&bad, 1)]);
        put(&node, &good, &[]);
        fs::remove_dir_all(node.places.live(&bad.id)).unwrap();
        fs::write(node.places.live(&bad.id), "").unwrap();
        start(&node).await;
        wait_until("nothing of it is left", || folders(&node) == 2).await;
        assert_eq!(node.board.view().pods.len(), 1);
    }

    #[tokio::test]
    async fn a_pod_whose_record_of_its_cgroup_is_damaged_has_its_cgroup() {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::fake(folder.path());
        let record = pod(1, "this boot", PodPhase::Ready);
        put(&node, &record, &[]);
        fs::write(keep::cgroup_file(&node.places.live(&record.id)), "x").unwrap();
        let expected = cgroup::Handle::fake(&record.id);
        assert_eq!(survey(&node).unwrap().pods[0].cgroup, Some(expected));
    }

    #[tokio::test]
    async fn a_state_folder_that_outlived_the_reboot_makes_no_difference() {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::fake(folder.path());
        let record = pod(1, "another boot", PodPhase::Ready);
        put(&node, &record, &[running(&record, 1)]);
        start(&node).await;
        assert_eq!(exits(&node), [(255, ExitReason::NodeReboot)]);
    }

    #[tokio::test]
    async fn an_unfinished_pod_is_undone_and_its_name_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::fake(folder.path());
        let record = pod(1, "this boot", PodPhase::Starting);
        put(&node, &record, &[]);
        start(&node).await;
        assert!(node.names().holder(&record.config.metadata).is_none());
        wait_until("its folders are gone", || folders(&node) == 0).await;
    }

    #[tokio::test]
    async fn a_bad_pod_record_costs_that_pod_only() {
        let good = pod(2, "this boot", PodPhase::NotReady);
        for bytes in [&b""[..], b"pintle-record 0001", b"\0\0\0\0"] {
            let folder = tempfile::tempdir().unwrap();
            let node = Node::fake(folder.path());
            let bad = pod(1, "this boot", PodPhase::Ready);
            put(&node, &bad, &[running(&bad, 1)]);
            put(&node, &good, &[]);
            fs::write(keep::pod_file(&node.places.live(&bad.id)), bytes).unwrap();
            start(&node).await;
            wait_until("its folders are gone", || folders(&node) == 2).await;
            let view = node.board.view();
            assert_eq!(
                view.pods.iter().map(|pod| pod.id.clone()).collect::<Vec<_>>(),
                std::slice::from_ref(&good.id)
            );
        }
    }

    #[tokio::test]
    async fn a_bad_container_record_costs_that_container_only() {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::fake(folder.path());
        let record = pod(1, "this boot", PodPhase::Ready);
        put(&node, &record, &[running(&record, 1), running(&record, 2)]);
        let live = node.places.live(&record.id);
        let bad = keep::container_file(&live, &running(&record, 1).id);
        fs::write(&bad, "").unwrap();
        start(&node).await;
        let view = node.board.view();
        assert_eq!(view.pods[0].containers.len(), 1);
        assert_eq!(view.pods[0].containers[0].id, running(&record, 2).id);
        wait_until("its record is gone", || !bad.exists()).await;
    }

    #[tokio::test]
    async fn a_record_of_a_later_release_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::fake(folder.path());
        let record = pod(1, "this boot", PodPhase::Ready);
        put(&node, &record, &[]);
        let path = keep::pod_file(&node.places.live(&record.id));
        let head = "pintle-record 0002 00000002 ";
        let sum = crc32c::crc32c(format!("{head}{{}}").as_bytes());
        let text = format!("{head}{sum:08x}\n{{}}");
        fs::write(&path, &text).unwrap();
        start(&node).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!((node.board.view().pods.len(), fs::read_to_string(&path).unwrap()), (0, text));
    }
}
