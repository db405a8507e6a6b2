//! What becomes of the pods that a survey has found. Pure: what is on disk goes in, a decision for each pod comes out.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io::ErrorKind,
    path::PathBuf,
    sync::Arc,
};

use super::survey::{FolderRest, FolderSurvey, PodSurvey, Survey};
use crate::{
    cgroup,
    model::{ContainerId, Exit, ExitReason, PodConfig, PodId, ResolvedUser, UnixNanos},
    pod::{
        error::chain,
        findings::Finding,
        keep::{ContainerRecord, Made, PodRecord},
        life::{PodFacts, PodPhase, Recovered, Remembered},
        view::ContainerState,
    },
    store::BadRecord,
};

/// The machine and the daemon for which it is decided.
#[derive(Clone, Debug)]
pub(in crate::pod) struct Here {
    /// `/proc/sys/kernel/random/boot_id`
    pub(in crate::pod) boot_id: String,
    /// The daemon's root folder.
    pub(in crate::pod) root: PathBuf,
    pub(in crate::pod) now: UnixNanos,
}

/// What becomes of one pod.
#[derive(Debug)]
pub(in crate::pod) enum Decision {
    /// It is listed as recorded, and its driver asks its supervisor.
    Resume(Box<Found>),
    /// As above, when its records are written to tmpfs, in place of what may be there: only the disk knows it.
    TakeOver(Box<Found>),
    /// Its record cannot be used. Whether it runs is to be found out: see [`proven`].
    Probe(Box<Found>, Remains),
    /// It was never finished, or it is gone and nobody knows what it was.
    Undo(Remains),
    /// It is another's, or it cannot be known what it is: nothing of it is touched.
    LeaveAlone(&'static str),
}

/// A pod that goes on.
#[derive(Debug)]
pub(in crate::pod) struct Found {
    pub(in crate::pod) record: PodRecord,
    pub(in crate::pod) cgroup: Option<cgroup::Handle>,
    /// Oldest first.
    pub(in crate::pod) containers: Vec<ContainerRecord>,
    /// Containers whose record cannot be used.
    pub(in crate::pod) damaged: Vec<ContainerId>,
    /// Containers whose record cannot be read now, or only by a later release.
    pub(in crate::pod) foreign: HashSet<ContainerId>,
    /// Containers whose end was never announced.
    pub(in crate::pod) unheard_ends: HashSet<ContainerId>,
}

/// What may be left of a pod that does not go on.
#[derive(Clone, Debug)]
pub(in crate::pod) struct Remains {
    pub(in crate::pod) id: PodId,
    pub(in crate::pod) config: Arc<PodConfig>,
    pub(in crate::pod) created_at: UnixNanos,
    pub(in crate::pod) cgroup: Option<cgroup::Handle>,
    pub(in crate::pod) containers: BTreeSet<ContainerId>,
}

/// What was found out about the supervisor of a pod whose record cannot be used.
#[derive(Clone, Copy, Debug)]
pub(in crate::pod) enum Probe {
    /// There is none.
    Nobody,
    /// There is one, or may be, and it does not answer.
    Silent,
    /// It answers, and is or is not in the pod's cgroup.
    Answers { pid: u32, in_cgroup: bool },
}

/// What is to be done at a start.
#[derive(Debug, Default)]
pub(in crate::pod) struct Plan {
    /// Pods oldest first: of two that claim one name, the newest comes last.
    pub(in crate::pod) pods: Vec<(PodId, Decision)>,
    pub(in crate::pod) findings: BTreeSet<Finding>,
}

/// Decides about every pod.
pub(in crate::pod) fn decide(survey: Survey, here: &Here) -> Plan {
    let holders = holders(&survey);
    let mut plan = Plan::default();
    for mut pod in survey.pods {
        drop_strays(&mut pod, &holders, &mut plan.findings);
        report_faults(&pod, &mut plan.findings);
        let id = pod.id.clone();
        let decision = decide_pod(pod, here);
        if let Decision::LeaveAlone(why) = decision {
            plan.findings.insert(finding(&id, why));
        }
        plan.pods.push((id, decision));
    }
    plan.pods.sort_by_key(|(_, decision)| decision.created_at());
    plan
}

/// What is decided of a pod whose record cannot be used, when it is known whether it runs. A pod that runs is not
/// ended for the sake of its record: what that said is in other places too.
pub(in crate::pod) fn proven(mut found: Box<Found>, remains: Remains, probe: Probe) -> Decision {
    match probe {
        Probe::Nobody => Decision::Undo(remains),
        Probe::Silent => Decision::LeaveAlone(
            "its record cannot be used and its supervisor does not answer; it is left alone until the next start",
        ),
        Probe::Answers { in_cgroup: false, .. } => Decision::LeaveAlone(
            "its record cannot be used and a supervisor of another cgroup answers for it; it is left alone",
        ),
        Probe::Answers { pid, in_cgroup: true } => {
            found.record.state = PodPhase::Ready;
            found.record.supervisor_pid = pid;
            Decision::Resume(found)
        }
    }
}

/// What one folder says of its pod.
enum Reading {
    Absent,
    /// A record of this pod, and the rest of its folder.
    Usable(Box<PodRecord>, FolderRest),
    /// Damaged, missing, or of another pod.
    Unusable(FolderRest),
    /// It may say anything: the disk or this daemon's limits are in the way.
    Unread,
    LaterRelease,
}

/// Whether a record may be read another time. What cannot be read is neither gone nor damaged.
fn is_unread(error: &BadRecord) -> bool {
    let BadRecord::Io(error) = error else { return false };
    // Something else lies in its place, or in that of its folder.
    !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory)
}

fn read(id: &PodId, folder: Option<FolderSurvey>) -> Reading {
    match folder {
        None => Reading::Absent,
        Some(FolderSurvey { pod: Ok(record), rest }) if record.id == *id => {
            Reading::Usable(Box::new(record), rest)
        }
        Some(FolderSurvey { pod: Err(BadRecord::UnknownVersion(_)), .. }) => Reading::LaterRelease,
        Some(FolderSurvey { pod: Err(error), .. }) if is_unread(&error) => Reading::Unread,
        Some(FolderSurvey { rest, .. }) => Reading::Unusable(rest),
    }
}

fn decide_pod(pod: PodSurvey, here: &Here) -> Decision {
    use Reading::{Absent, LaterRelease, Unread, Unusable, Usable};
    let remains = remains_of(&pod);
    let PodSurvey { id, live, known, planned } = pod;
    match (read(&id, live), read(&id, known)) {
        (LaterRelease, _) | (Absent | Unusable(_), LaterRelease) => {
            Decision::LeaveAlone("it belongs to a later release and is left alone")
        }
        (Unread, _) | (Absent | Unusable(_), Unread) => {
            Decision::LeaveAlone("its record could not be read now; it is left alone until the next start")
        }
        (Usable(record, rest), _) if record.boot_id == here.boot_id => match record.state {
            PodPhase::Starting => Decision::Undo(remains),
            PodPhase::Ready | PodPhase::Stopping | PodPhase::NotReady => {
                Decision::Resume(Box::new(found(*record, rest, planned)))
            }
        },
        // A state folder has outlived the boot: the disk says the same, and says it better.
        (Usable(..), Usable(record, rest)) | (Usable(record, rest), _) => ended(*record, rest, planned, here),
        (Absent, Usable(record, _)) if is_another_daemons(&record, here) => Decision::LeaveAlone(
            "it is known only by a record of this boot that a daemon with another root folder has written; it is left alone",
        ),
        (Absent, Usable(record, rest)) => ended(*record, rest, planned, here),
        (Unusable(_), Usable(record, rest)) if record.boot_id != here.boot_id => {
            ended(*record, rest, planned, here)
        }
        (Unusable(live), Usable(record, _)) if live.was_made => {
            Decision::Probe(Box::new(found(*record, live, planned)), remains)
        }
        (Absent | Unusable(_), Absent | Usable(..) | Unusable(_)) => Decision::Undo(remains),
    }
}

/// A copied folder must not end the pod that it was copied from.
fn is_another_daemons(record: &PodRecord, here: &Here) -> bool {
    let elsewhere = record.root.as_ref().is_some_and(|root| *root != here.root);
    record.boot_id == here.boot_id && elsewhere
}

fn found(record: PodRecord, rest: FolderRest, planned: Option<cgroup::Handle>) -> Found {
    let of_pod = |handle: &cgroup::Handle| handle.is_of(&record.id);
    let mut found = Found {
        cgroup: rest.cgroup.filter(of_pod).or_else(|| record.cgroup.clone().filter(of_pod)).or(planned),
        record,
        containers: Vec::new(),
        damaged: Vec::new(),
        foreign: HashSet::new(),
        unheard_ends: HashSet::new(),
    };
    for (id, container) in rest.containers {
        match container {
            Ok(container) if container.id == id && container.pod == found.record.id => {
                found.containers.push(container);
            }
            Err(BadRecord::UnknownVersion(_)) => drop(found.foreign.insert(id)),
            Err(error) if is_unread(&error) => drop(found.foreign.insert(id)),
            Ok(_) | Err(BadRecord::Absent | BadRecord::Io(_) | BadRecord::Damaged(_)) => {
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
fn ended(record: PodRecord, rest: FolderRest, planned: Option<cgroup::Handle>, here: &Here) -> Decision {
    let rebooted = record.boot_id != here.boot_id;
    let ends = rest.ends.clone();
    let mut found = found(record, rest, planned.clone());
    found.record.boot_id.clone_from(&here.boot_id);
    found.record.state = PodPhase::Stopping;
    found.record.supervisor_pid = 0;
    found.cgroup = if rebooted { None } else { planned };
    for container in &mut found.containers {
        let seen = container.made.take().map(|made| made.state).filter(ContainerState::is_exited);
        let kept = ends.get(&container.id).cloned();
        let state = match (kept, seen) {
            (Some(end), _) => ContainerState::Exited { started_at: end.started_at, exit: end.exit },
            (None, Some(exited)) => exited,
            (None, None) if rebooted => {
                found.unheard_ends.insert(container.id.clone());
                let message = "the machine was restarted".to_owned();
                let exit = Exit { code: 255, reason: ExitReason::NodeReboot, at: here.now, message };
                ContainerState::Exited { started_at: None, exit }
            }
            // No process has this pid: it is found and killed by its cgroup.
            (None, None) => ContainerState::Running { pid: 0, started_at: container.created_at },
        };
        container.made = Some(Made { state, user: ResolvedUser::default(), starting: false });
    }
    Decision::TakeOver(Box::new(found))
}

fn remains_of(pod: &PodSurvey) -> Remains {
    let folders = || [&pod.live, &pod.known].into_iter().flatten();
    let records = || folders().filter_map(|folder| folder.pod.as_ref().ok()).filter(|own| own.id == pod.id);
    let of_pod = |handle: &cgroup::Handle| handle.is_of(&pod.id);
    let recorded = folders().filter_map(|folder| folder.rest.cgroup.clone()).find(of_pod);
    let recorded = recorded.or_else(|| records().filter_map(|record| record.cgroup.clone()).find(of_pod));
    Remains {
        id: pod.id.clone(),
        config: records().next().map(|record| Arc::clone(&record.config)).unwrap_or_default(),
        created_at: records().next().map(|record| record.created_at).unwrap_or_default(),
        cgroup: recorded.or_else(|| pod.planned.clone()),
        containers: folders().flat_map(|folder| folder.rest.containers.keys().cloned()).collect(),
    }
}

/// Which pod each container belongs to, by the records that lie where they belong.
fn holders(survey: &Survey) -> BTreeMap<ContainerId, PodId> {
    let mut holders = BTreeMap::new();
    for pod in &survey.pods {
        for folder in [&pod.live, &pod.known].into_iter().flatten() {
            let own = folder.rest.containers.iter().filter(|(id, container)| {
                container.as_ref().is_ok_and(|record| record.id == **id && record.pod == pod.id)
            });
            holders.extend(own.map(|(id, _)| (id.clone(), pod.id.clone())));
        }
    }
    holders
}

/// Records that were copied or moved into this pod's folder from another's: they say nothing about this pod, and what
/// they name is not this pod's to take away.
fn drop_strays(
    pod: &mut PodSurvey,
    holders: &BTreeMap<ContainerId, PodId>,
    findings: &mut BTreeSet<Finding>,
) {
    let own = pod.id.clone();
    for folder in [&mut pod.live, &mut pod.known].into_iter().flatten() {
        folder.rest.containers.retain(|id, record| {
            let named = record.as_ref().ok().map(|record| &record.pod).filter(|pod| **pod != own);
            let Some(other) = named.or_else(|| holders.get(id).filter(|holder| **holder != own)) else {
                return true;
            };
            let object = format!("container {id}");
            let fault = format!("a record of it lies in the folder of pod {own}, and it is of pod {other}");
            findings.insert(Finding { object, fault });
            false
        });
    }
}

/// Says what cannot be read, and what that costs.
fn report_faults(pod: &PodSurvey, findings: &mut BTreeSet<Finding>) {
    for folder in [&pod.live, &pod.known].into_iter().flatten() {
        match &folder.pod {
            Ok(record) if record.id != pod.id => {
                let fault = format!("the record of pod {} lies in its folder", record.id);
                findings.insert(finding(&pod.id, &fault));
            }
            Ok(_) | Err(BadRecord::UnknownVersion(_)) => {}
            Err(error @ (BadRecord::Absent | BadRecord::Io(_) | BadRecord::Damaged(_))) => {
                findings.insert(finding(&pod.id, &format!("its record cannot be used: {}", chain(error))));
            }
        }
        for (id, record) in &folder.rest.containers {
            let fault = match record {
                Ok(record) if record.id != *id => {
                    format!("the record of container {} lies in its place", record.id)
                }
                Ok(_) => continue,
                Err(error @ BadRecord::UnknownVersion(_)) => format!("it is left alone: {}", chain(error)),
                Err(error @ (BadRecord::Absent | BadRecord::Io(_) | BadRecord::Damaged(_))) => {
                    format!("its record cannot be used: {}", chain(error))
                }
            };
            findings.insert(Finding { object: format!("container {id}"), fault });
        }
    }
}

fn finding(pod: &PodId, fault: &str) -> Finding {
    Finding { object: format!("pod {pod}"), fault: fault.to_owned() }
}

impl Found {
    /// What a ledger goes on with.
    pub(in crate::pod) fn recovered(self) -> (PodFacts, Recovered) {
        let Self { record, cgroup, containers, damaged, foreign, unheard_ends } = self;
        let mut leftovers = damaged;
        let mut made = Vec::new();
        for container in containers {
            match container.made.clone() {
                Some(facts) => made.push(Remembered {
                    unheard_end: unheard_ends.contains(&container.id),
                    starting: facts.starting,
                    view: container.view(facts),
                }),
                None => leftovers.push(container.id),
            }
        }
        let limits = record.limits.clone().unwrap_or_else(|| record.config.limits());
        let facts = PodFacts { id: record.id, config: record.config, created_at: record.created_at, cgroup };
        let recovered = Recovered {
            phase: record.state,
            attachment: record.attachment,
            supervisor_pid: record.supervisor_pid,
            limits,
            containers: made,
            leftovers,
            foreign,
        };
        (facts, recovered)
    }
}

impl Decision {
    fn created_at(&self) -> UnixNanos {
        match self {
            Self::Resume(found) | Self::TakeOver(found) | Self::Probe(found, _) => found.record.created_at,
            Self::Undo(remains) => remains.created_at,
            Self::LeaveAlone(_) => UnixNanos::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::{
        keep::EndRecord,
        view::{ContainerView, fake_config},
    };

    const RUNNING: ContainerState = ContainerState::Running { pid: 40, started_at: UnixNanos(5) };

    fn here() -> Here {
        Here { boot_id: "this boot".into(), root: "/lib".into(), now: UnixNanos(100) }
    }

    fn id(byte: u8) -> PodId {
        PodId::from_bytes([byte; 32])
    }

    fn record(byte: u8, boot_id: &str, state: PodPhase) -> PodRecord {
        PodRecord {
            id: id(byte),
            boot_id: boot_id.into(),
            state,
            config: Arc::new(fake_config(&format!("pod {byte}"))),
            created_at: UnixNanos(byte.into()),
            attachment: None,
            supervisor_pid: 77,
            limits: None,
            cgroup: None,
            root: Some("/lib".into()),
        }
    }

    fn running(pod: u8, byte: u8) -> ContainerRecord {
        ContainerRecord::of(&ContainerView::fake(&id(pod), byte, RUNNING))
    }

    /// A container as the disk has it.
    fn known(pod: u8, byte: u8) -> ContainerRecord {
        ContainerRecord { made: None, ..running(pod, byte) }
    }

    fn folder(pod: Result<PodRecord, BadRecord>, containers: &[ContainerRecord]) -> FolderSurvey {
        let containers = containers.iter().map(|record| (record.id.clone(), Ok(record.clone())));
        FolderSurvey { pod, rest: FolderRest { containers: containers.collect(), ..FolderRest::default() } }
    }

    fn damaged() -> Result<PodRecord, BadRecord> {
        Err(BadRecord::Damaged("its checksum is another".into()))
    }

    fn made(mut folder: FolderSurvey) -> FolderSurvey {
        folder.rest.was_made = true;
        folder
    }

    fn pod(byte: u8, live: Option<FolderSurvey>, known: Option<FolderSurvey>) -> PodSurvey {
        PodSurvey { id: id(byte), live, known, planned: Some(cgroup::Handle::fake(&id(byte))) }
    }

    fn word(decision: &Decision) -> &'static str {
        match decision {
            Decision::Resume(_) => "resume",
            Decision::TakeOver(_) => "take over",
            Decision::Probe(..) => "probe",
            Decision::Undo(_) => "undo",
            Decision::LeaveAlone(_) => "leave alone",
        }
    }

    fn decided(pod: PodSurvey) -> Decision {
        decide(Survey { pods: vec![pod] }, &here()).pods.remove(0).1
    }

    #[test]
    fn what_becomes_of_a_pod_is_this_table() {
        use PodPhase::{NotReady, Ready, Starting, Stopping};
        let of = |boot: &'static str, state| move || Some(folder(Ok(record(1, boot, state)), &[]));
        let (now, before) = ("this boot", "another boot");
        let later = || Some(folder(Err(BadRecord::UnknownVersion(2)), &[]));
        let bad = || Some(folder(damaged(), &[]));
        let bad_made = || Some(made(folder(damaged(), &[])));
        let elsewhere = |boot: &'static str| {
            move || {
                let record = PodRecord { root: Some("/other".into()), ..record(1, boot, Starting) };
                Some(folder(Ok(record), &[]))
            }
        };
        type Folder<'a> = &'a dyn Fn() -> Option<FolderSurvey>;
        let (nothing, others): (Folder<'_>, Folder<'_>) =
            (&|| None, &|| Some(folder(Ok(record(2, "this boot", Ready)), &[])));
        let unread = || Some(folder(Err(BadRecord::Io(ErrorKind::ResourceBusy.into())), &[]));
        let a_file = || Some(folder(Err(BadRecord::Io(ErrorKind::NotADirectory.into())), &[]));
        let known = of(now, Starting);
        let known_before = of(before, Starting);
        let copied = elsewhere(now);
        let copied_before = elsewhere(before);
        let table: [(Folder<'_>, Folder<'_>, &str); 27] = [
            (&of(now, Ready), &known, "resume"),
            (&of(now, Ready), nothing, "resume"),
            (&of(now, Stopping), &known, "resume"),
            (&of(now, NotReady), &known_before, "resume"),
            (&of(now, Starting), &known, "undo"),
            (&of(now, Starting), nothing, "undo"),
            (&of(before, Ready), &known_before, "take over"),
            (&of(before, Ready), nothing, "take over"),
            (nothing, &known_before, "take over"),
            (nothing, &known, "take over"),
            (nothing, &copied, "leave alone"),
            (nothing, &copied_before, "take over"),
            (nothing, &bad, "undo"),
            (nothing, &later, "leave alone"),
            (&later, &known, "leave alone"),
            (&bad, &later, "leave alone"),
            (&bad, &known, "undo"),
            (&bad_made, &known, "probe"),
            (&bad_made, &known_before, "take over"),
            (&bad_made, nothing, "undo"),
            (others, nothing, "undo"),
            (&unread, &known, "leave alone"),
            (&unread, nothing, "leave alone"),
            (&bad, &unread, "leave alone"),
            (nothing, &unread, "leave alone"),
            (&of(now, Ready), &unread, "resume"),
            (&a_file, nothing, "undo"),
        ];
        for (row, (live, known, expected)) in table.into_iter().enumerate() {
            assert_eq!(word(&decided(pod(1, live(), known()))), expected, "row {row}");
        }
    }

    #[test]
    fn nothing_has_ended_in_this_boot_before_the_kernel_was_asked() {
        let end = EndRecord {
            started_at: Some(UnixNanos(4)),
            exit: Exit { code: 3, reason: ExitReason::Error, at: UnixNanos(6), message: String::new() },
        };
        for (boot, expected) in [("this boot", "running"), ("another boot", "255")] {
            let mut known_folder =
                folder(Ok(record(1, boot, PodPhase::Starting)), &[known(1, 1), known(1, 2)]);
            known_folder.rest.ends.insert(known(1, 2).id, end.clone());
            let Decision::TakeOver(found) = decided(pod(1, None, Some(known_folder))) else { panic!() };
            let state = |at: usize| match &found.containers[at].made.as_ref().unwrap().state {
                ContainerState::Created { .. } => "created".to_owned(),
                ContainerState::Running { .. } => "running".to_owned(),
                ContainerState::Exited { exit, .. } => exit.code.to_string(),
            };
            assert_eq!((state(0), state(1)), (expected.to_owned(), "3".to_owned()), "{boot}");
            assert_eq!(found.cgroup.is_some(), boot == "this boot", "only then something is to be killed");
            assert_eq!(found.record.state, PodPhase::Stopping);
            let unheard: Vec<_> = found.unheard_ends.iter().cloned().collect();
            assert_eq!(unheard, if boot == "this boot" { vec![] } else { vec![known(1, 1).id] });
        }
    }

    #[test]
    fn a_pod_without_a_usable_record_goes_on_if_its_own_supervisor_proves_it() {
        for (probe, expected) in [
            (Probe::Nobody, "undo"),
            (Probe::Silent, "leave alone"),
            (Probe::Answers { pid: 5, in_cgroup: false }, "leave alone"),
            (Probe::Answers { pid: 5, in_cgroup: true }, "resume"),
        ] {
            let live = made(folder(damaged(), &[running(1, 1)]));
            let known = folder(Ok(record(1, "this boot", PodPhase::Starting)), &[]);
            let Decision::Probe(found, remains) = decided(pod(1, Some(live), Some(known))) else { panic!() };
            let decision = proven(found, remains, probe);
            assert_eq!(word(&decision), expected, "{probe:?}");
            if let Decision::Resume(found) = decision {
                assert_eq!((found.record.state, found.record.supervisor_pid), (PodPhase::Ready, 5));
                assert_eq!(found.containers, [running(1, 1)]);
            }
        }
    }

    /// The folder of a healthy pod, copied under the name of another.
    #[test]
    fn a_copied_folder_names_nothing_of_the_pod_that_it_was_copied_from() {
        let original = || {
            let mut folder = made(folder(Ok(record(1, "this boot", PodPhase::Ready)), &[running(1, 1)]));
            folder.rest.cgroup = Some(cgroup::Handle::fake(&id(1)));
            folder
        };
        let mut copy = pod(2, Some(original()), None);
        copy.planned = None;
        let plan = decide(Survey { pods: vec![pod(1, Some(original()), None), copy] }, &here());
        let of = |byte| &plan.pods.iter().find(|(pod, _)| *pod == id(byte)).unwrap().1;
        assert_eq!(word(of(1)), "resume");
        let Decision::Undo(remains) = of(2) else { panic!("{:?}", of(2)) };
        assert_eq!((&remains.cgroup, remains.containers.len()), (&None, 0));
        assert_eq!(plan.findings.len(), 2, "{:?}", plan.findings);
    }

    #[test]
    fn a_copied_record_of_a_cgroup_or_of_a_container_is_not_believed() {
        let mut live = folder(Ok(record(1, "this boot", PodPhase::Ready)), &[running(1, 1)]);
        live.rest.cgroup = Some(cgroup::Handle::fake(&id(2)));
        // A cut copy of another pod's record, and a whole one.
        let strays = [running(2, 3).id, running(2, 4).id];
        live.rest.containers.insert(strays[0].clone(), Err(BadRecord::Damaged("it is cut short".into())));
        live.rest.containers.insert(strays[1].clone(), Ok(running(2, 4)));
        let other = folder(Ok(record(2, "this boot", PodPhase::Ready)), &[running(2, 3)]);
        let survey = Survey { pods: vec![pod(1, Some(live), None), pod(2, Some(other), None)] };
        let plan = decide(survey, &here());
        let Decision::Resume(found) = &plan.pods[0].1 else { panic!() };
        assert_eq!(found.cgroup, Some(cgroup::Handle::fake(&id(1))));
        assert_eq!((found.containers.len(), &found.damaged[..]), (1, &[][..]));
        assert_eq!(plan.findings.len(), 2, "{:?}", plan.findings);
    }

    #[test]
    fn one_bad_record_of_a_container_costs_that_container() {
        let mut live = folder(Ok(record(1, "this boot", PodPhase::Ready)), &[running(1, 1)]);
        live.rest.containers.insert(running(1, 2).id, Err(BadRecord::UnknownVersion(2)));
        live.rest.containers.insert(running(1, 3).id, Err(BadRecord::Absent));
        live.rest.containers.insert(running(1, 5).id, Err(BadRecord::Io(ErrorKind::ResourceBusy.into())));
        // Another's record of this pod, in its place.
        live.rest.containers.insert(running(1, 4).id, Ok(running(1, 1)));
        let Decision::Resume(found) = decided(pod(1, Some(live), None)) else { panic!() };
        assert_eq!(found.containers, [running(1, 1)]);
        assert_eq!(found.foreign, HashSet::from([running(1, 2).id, running(1, 5).id]));
        assert_eq!(found.damaged, [running(1, 3).id, running(1, 4).id]);
    }

    #[test]
    fn what_is_undone_is_known_by_whatever_can_be_read() {
        let mut live = folder(damaged(), &[]);
        live.rest.containers.insert(running(1, 1).id, Err(BadRecord::Absent));
        let known = folder(Ok(record(1, "this boot", PodPhase::Starting)), &[known(1, 1), known(1, 2)]);
        let Decision::Undo(remains) = decided(pod(1, Some(live), Some(known))) else { panic!() };
        assert_eq!(remains.containers, BTreeSet::from([running(1, 1).id, running(1, 2).id]));
        assert_eq!(remains.config.metadata.name, "pod 1");
        assert_eq!(remains.cgroup, Some(cgroup::Handle::fake(&id(1))));
    }
}
