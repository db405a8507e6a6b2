//! The findings of recovery and of the audits: what on the machine is not as the records of pods say.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;
use tracing::{info, warn};

use crate::model::PodId;

/// Something on the machine that is not as the records say.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Finding {
    /// What it is about: a pod, a container, a file.
    pub object: String,
    pub fault: String,
}

/// What recovery and the last audit have found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    found: Mutex<Found>,
}

#[derive(Debug, Default)]
struct Found {
    /// Of the records, at the start.
    at_start: BTreeSet<Finding>,
    /// Of the last audit.
    last: BTreeSet<Finding>,
    /// Pods that are not touched.
    left_alone: BTreeSet<PodId>,
}

impl Findings {
    pub(super) fn add_at_start(&self, findings: BTreeSet<Finding>) {
        self.locked().at_start.extend(findings);
    }

    /// Nothing of this pod is to be touched.
    pub(super) fn leave_alone(&self, pod: PodId) {
        self.locked().left_alone.insert(pod);
    }

    /// The pods that are not to be touched.
    pub(super) fn left_alone(&self) -> BTreeSet<PodId> {
        self.locked().left_alone.clone()
    }

    /// Everything that is not as it should be.
    pub(super) fn all(&self) -> BTreeSet<Finding> {
        let found = self.locked();
        found.at_start.union(&found.last).cloned().collect()
    }

    /// Takes over what an audit found; what is new is logged, and what is gone.
    pub(super) fn replace(&self, findings: BTreeSet<Finding>) {
        let mut found = self.locked();
        for new in findings.difference(&found.last) {
            warn!(object = new.object, fault = new.fault, "the audit found what is not as it should be");
        }
        for gone in found.last.difference(&findings) {
            info!(object = gone.object, fault = gone.fault, "a finding of an earlier audit is gone");
        }
        found.last = findings;
    }

    fn locked(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
