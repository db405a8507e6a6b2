//! Lists the pods that go on, and starts their drivers; what does not go on is given to `undo.rs`.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::join_all;
use rustix::io::Errno;
use tokio::sync::{Semaphore, oneshot};
use tracing::{error, info, warn};

use super::{
    decide::{Decision, Found, Here, Plan, Probe, Remains, decide, proven},
    survey::{Survey, recorded_containers},
    undo::{holds, undo},
};
use crate::{
    model::{Failure, NetworkMode, PodConfig, PodId},
    network::Attachment,
    pod::{
        drive::{Driver, Pod},
        error::chain,
        keep::{self, blocking, debts::Debt},
        life::PodPhase,
        node::Node,
        reach::SupervisorAccess,
    },
    store::{self, Durability},
    supervisor::Client,
    sys::descriptors,
    telemetry::task,
};

/// Pods recovered at one time: enough to hide the waits, few enough to leave descriptors for requests.
const RECOVERIES_MAX: usize = 32;

/// Descriptors that a pod which goes on costs: its supervisor's socket and process.
const DESCRIPTORS_PER_POD: u64 = 2;

/// How long the first requests may wait until it is known what runs: a supervisor answers in a millisecond or
/// is in trouble.
const TRUTH_MAX: Duration = Duration::from_millis(500);

/// How long the first requests may wait for leftovers to be released.
const SWEEP_MAX: Duration = Duration::from_secs(5);

/// Lists every pod, and has its driver ask its supervisor. Does not wait for one that takes its time.
pub(in crate::pod) async fn recover(node: &Arc<Node>, survey: Survey) {
    let (boot_id, root) = (node.boot_id.clone(), node.places.root.clone());
    let plan = decide(survey, &Here { boot_id, root, now: SystemTime::now().into() });
    info!(pods = plan.pods.len(), findings = plan.findings.len(), "recovering");
    for found in &plan.findings {
        warn!(object = found.object, fault = found.fault, "the records are not as they should be");
    }
    say_if_descriptors_are_few(&plan);
    node.findings.add_at_start(plan.findings.clone());
    sweep(node, &plan).await;
    let turns = Arc::new(Semaphore::new(RECOVERIES_MAX));
    let mut known = Vec::new();
    for (id, decision) in plan.pods {
        known.extend(carry_out(node, &id, decision, &turns).await);
    }
    if tokio::time::timeout(TRUTH_MAX, join_all(known)).await.is_err() {
        warn!("not every supervisor has answered yet; its containers are listed as recorded");
    }
}

/// Each pod that goes on costs descriptors for as long as it lives. Those for which there are none are listed as recorded,
/// can be stopped and removed, and are reached as others go.
fn say_if_descriptors_are_few(plan: &Plan) {
    let goes_on = |(_, decision): &&(PodId, Decision)| {
        matches!(decision, Decision::Resume(_) | Decision::TakeOver(_) | Decision::Probe(..))
    };
    let pods = plan.pods.iter().filter(goes_on).count() as u64;
    if let Err((open, limit)) = descriptors::has_room_for(pods.saturating_mul(DESCRIPTORS_PER_POD)) {
        warn!(
            pods,
            open,
            limit,
            "not every supervisor can be reached: too few files may be open (LimitNOFILE= in the unit)"
        );
    }
}

/// `None`: nobody waits for what is found out.
async fn carry_out(
    node: &Arc<Node>,
    id: &PodId,
    decision: Decision,
    turns: &Arc<Semaphore>,
) -> Option<oneshot::Receiver<()>> {
    let decision = match decision {
        Decision::Probe(found, remains) => prove(node, found, remains).await,
        Decision::TakeOver(found) => take_over(node, found).await,
        decision @ (Decision::Resume(_) | Decision::Undo(_) | Decision::LeaveAlone(_)) => decision,
    };
    match decision {
        Decision::Resume(found) => Some(resume(node, *found, Arc::clone(turns))),
        Decision::Undo(remains) => {
            let (node, turns) = (Arc::clone(node), Arc::clone(turns));
            task::spawn("pod-undo", async move {
                let _turn = turns.acquire_owned().await;
                undo(&node, remains).await;
            });
            None
        }
        Decision::LeaveAlone(why) => {
            warn!(pod = %id, why, "a pod is left alone");
            node.findings.leave_alone(id.clone());
            None
        }
        Decision::Probe(..) | Decision::TakeOver(_) => None,
    }
}

/// Finds out whether a pod runs whose record cannot be used.
async fn prove(node: &Arc<Node>, found: Box<Found>, remains: Remains) -> Decision {
    let probe = probe(node, &found).await;
    match proven(found, remains, probe) {
        Decision::Resume(found) => Decision::Resume(rebuild(node, found).await),
        decision @ (Decision::Undo(_)
        | Decision::LeaveAlone(_)
        | Decision::TakeOver(_)
        | Decision::Probe(..)) => decision,
    }
}

async fn probe(node: &Arc<Node>, found: &Found) -> Probe {
    let id = &found.record.id;
    match Client::connect(id, &node.places.live(id)).await {
        Ok((client, _)) => {
            let in_cgroup = found.cgroup.as_ref().is_some_and(|cgroup| holds(cgroup, client.pid()));
            Probe::Answers { pid: client.pid(), in_cgroup }
        }
        Err(failure) if is_gone(&failure) => Probe::Nobody,
        Err(failure) => {
            warn!(pod = %id, error = %failure, "the supervisor of a pod without a usable record does not answer");
            Probe::Silent
        }
    }
}

/// Whether nobody listens where a supervisor would.
fn is_gone(failure: &Failure) -> bool {
    let gone = [Errno::CONNREFUSED, Errno::NOENT, Errno::NOTDIR, Errno::SRCH];
    gone.map(Errno::raw_os_error).contains(&failure.errno)
}

/// What its record said is in other places too: the config on disk, as of the pod's creation; the addresses in their
/// leases; the rest is reported by the supervisor.
async fn rebuild(node: &Arc<Node>, mut found: Box<Found>) -> Box<Found> {
    let record = &mut found.record;
    let id = record.id.clone();
    if record.config.namespaces.network == NetworkMode::Pod {
        match node.network.attachment_of(&id).await {
            Ok(attachment) => record.attachment = attachment,
            Err(error) => {
                warn!(pod = %id, error = %chain(&error), "could not look for the addresses of a pod");
            }
        }
    }
    if let Err(error) = keep::put(keep::pod_file(&node.places.live(&id)), record.clone()).await {
        warn!(pod = %id, error = %chain(&error), "could not write the record of a pod again");
    }
    warn!(pod = %id, "the pod runs, its record is rebuilt");
    found
}

/// From here on it is a pod of this boot that is being stopped, whether or not that can be written.
async fn take_over(node: &Arc<Node>, found: Box<Found>) -> Decision {
    let folder = node.places.live(&found.record.id);
    let (record, containers) = (found.record.clone(), found.containers.clone());
    let write = move || {
        keep::remove_folder(&folder)?;
        keep::make_folder(&folder)?;
        for container in &containers {
            store::put(&keep::container_file(&folder, &container.id), container, Durability::Process)?;
        }
        store::put(&keep::pod_file(&folder), &record, Durability::Process)
    };
    if let Err(error) = blocking(write).await {
        error!(pod = %found.record.id, %error, "could not write the records of a pod that only the disk knows");
    }
    Decision::Resume(found)
}

/// Takes away what belongs to no pod. Before any request is served: a pod that is being made would look like
/// one that is not there.
async fn sweep(node: &Arc<Node>, plan: &Plan) {
    let mut live: HashSet<PodId> = plan.pods.iter().map(|(id, _)| id.clone()).collect();
    let reader = Arc::clone(node);
    task::blocking("read debts", move || reader.debts.load(&reader.places)).await;
    live.extend(node.debts.pods());
    let recorded = plan.pods.iter().filter_map(|(_, decision)| match decision {
        Decision::Resume(found) | Decision::TakeOver(found) | Decision::Probe(found, _) => {
            Some(&found.record)
        }
        Decision::Undo(_) | Decision::LeaveAlone(_) => None,
    });
    let attachments = recorded.filter_map(|record| Some((&record.id, record.attachment.as_ref()?)));
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
    let ready: Vec<_> = plan.pods.iter().filter_map(|(_, decision)| has_network(node, decision)).collect();
    if let Err(error) = node.network.restore(&ready).await {
        warn!(error = %chain(&error), "could not write the host ports of pods again");
    }
    match tokio::time::timeout(SWEEP_MAX, node.network.sweep(&live, &held)).await {
        Ok(Ok(dead)) => {
            for pod in dead {
                let debt = Debt { network: true, ..Debt::default() };
                let debt = debt.because("it was deleted without its pod, and its plugin failed");
                node.debts.add(&node.places, &pod, debt).await;
            }
        }
        Ok(Err(error)) => warn!(error = %chain(&error), "could not release networks of no pod"),
        Err(_) => warn!("releasing networks of no pod took too long; the next start goes on with it"),
    }
    match tokio::time::timeout(SWEEP_MAX, node.network.collect()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(error = %chain(&error), "CNI plugins could not free what no pod has"),
        Err(_) => {
            warn!("CNI plugins took too long to free what no pod has; they are asked again at the next start")
        }
    }
}

/// A pod that is on its network until something says otherwise.
fn has_network<'a>(
    node: &Node,
    decision: &'a Decision,
) -> Option<(&'a PodId, &'a PodConfig, &'a Attachment)> {
    let (Decision::Resume(found) | Decision::TakeOver(found) | Decision::Probe(found, _)) = decision else {
        return None;
    };
    let record = &found.record;
    let here = record.boot_id == node.boot_id && matches!(record.state, PodPhase::Starting | PodPhase::Ready);
    record.attachment.as_ref().filter(|_| here).map(|attachment| (&record.id, &*record.config, attachment))
}

/// Publishes the pod as recorded and starts its driver, which first finds out what is true.
///
/// The receiver ends when the driver has found out.
fn resume(node: &Arc<Node>, found: Found, turns: Arc<Semaphore>) -> oneshot::Receiver<()> {
    node.seen_creation(found.record.created_at);
    for container in &found.containers {
        // Images keep the layers of what may still run or be looked at.
        container.images().for_each(|image| node.images.retain(image, &container.id));
        node.seen_creation(container.created_at);
    }
    let (facts, recovered) = found.recovered();
    let name = facts.config.metadata.clone();
    node.selinux.hold(&facts.id, &facts.config);
    let pod = Pod {
        node: Arc::clone(node),
        folder: node.places.live(&facts.id),
        id: facts.id.clone(),
        config: facts.config,
        created_at: facts.created_at,
        cgroup: facts.cgroup,
        access: Arc::<SupervisorAccess>::default(),
    };
    let (driver, reach, known) = Driver::of_recovered(pod, recovered);
    node.names().hold(&name, facts.id, reach);
    task::spawn("pod", async move {
        let turn = turns.acquire_owned().await;
        driver.serve_in(turn).await;
    });
    known
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Instant};

    use super::*;
    use crate::{
        model::{Exit, ExitReason, UnixNanos},
        pod::{
            keep::{ContainerRecord, EndRecord, PodRecord},
            life::{Change, PodPhase},
            recover::survey::survey,
            view::{ContainerState, ContainerView, fake_config},
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
            root: None,
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

    fn exit(code: i32) -> Exit {
        Exit { code, reason: ExitReason::Error, at: UnixNanos(9), message: String::new() }
    }

    async fn start(node: &Arc<Node>) {
        node.places.make().unwrap();
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
        let (live, left) = (node.places.live(&record.id), [ContainerRecord::clone(&running(&record, 1)).id]);
        wait_until("the other one is gone", || keep::containers_in(&live).unwrap() == left).await;
    }

    #[tokio::test]
    async fn after_a_reboot_pods_are_known_and_nothing_is_a_ghost() {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::fake(folder.path());
        let record = pod(1, "another boot", PodPhase::Starting);
        put(&node, &record, &[intent(&record, 1), intent(&record, 2)]);
        let end = EndRecord { started_at: Some(UnixNanos(4)), exit: exit(3) };
        let ended = keep::end_file(&node.places.known(&record.id), &running(&record, 2).id);
        store::put(&ended, &end, Durability::Process).unwrap();
        fs::remove_dir_all(node.places.live_pods()).unwrap();
        start(&node).await;
        let expected = [(255, ExitReason::NodeReboot), (3, ExitReason::Error)];
        assert_eq!((node.board.view().pods[0].ready, exits(&node)), (false, expected.to_vec()));
        // The other's end was announced by the daemon that wrote it down.
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
        start(&node).await;
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
