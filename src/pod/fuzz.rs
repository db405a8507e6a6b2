//! The fuzz target of pods' records, and of what a start decides about them.

use std::{collections::BTreeMap, path::PathBuf};

use super::{
    keep::{ContainerRecord, EndRecord, PodRecord},
    recover::{
        decide::{Here, decide},
        survey::{FolderRest, FolderSurvey, PodSurvey, Survey},
    },
};
use crate::{
    model::UnixNanos,
    store::{self, BadRecord},
};

/// The records of a pod, of a container and of its end, with a NUL between, as the start of a daemon finds them.
pub(crate) fn records(input: &[u8]) {
    let mut parts = input.split(|byte| *byte == 0);
    let mut part = || parts.next().unwrap_or_default();
    let pod: Option<PodRecord> = store::fuzz::record(part());
    let container: Option<ContainerRecord> = store::fuzz::record(part());
    let end: Option<EndRecord> = store::fuzz::record(part());
    let Some(pod) = pod else { return };
    let id = pod.id.clone();
    let containers: BTreeMap<_, _> =
        container.into_iter().map(|record| (record.id.clone(), Ok(record))).collect();
    let ends = containers.keys().filter_map(|id| Some((id.clone(), end.clone()?))).collect();
    let here = Here { boot_id: pod.boot_id.clone(), root: PathBuf::from("/r"), now: UnixNanos(1) };
    let rest = FolderRest { cgroup: None, containers, ends, was_made: true };
    let live = FolderSurvey { pod: Ok(pod.clone()), rest };
    let known = FolderSurvey { pod: Err::<PodRecord, _>(BadRecord::Absent), rest: FolderRest::default() };
    let found = PodSurvey { id: id.clone(), live: Some(live), known: Some(known), planned: None };
    let plan = decide(Survey { pods: vec![found] }, &here);
    assert!(plan.pods.len() == 1 && plan.pods[0].0 == id);
}
