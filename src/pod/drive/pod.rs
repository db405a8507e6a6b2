//! The pod that a driver and its work are about: what does not change while it lives.

use std::{path::PathBuf, sync::Arc};

use crate::{
    cgroup,
    model::{PodConfig, PodId, UnixNanos},
    pod::{life::PodFacts, node::Node, reach::SupervisorAccess},
};

/// A pod as its driver and the work on it see it: its facts, its folder and its node.
#[derive(Clone, Debug)]
pub(in crate::pod) struct Pod {
    pub(in crate::pod) node: Arc<Node>,
    pub(in crate::pod) id: PodId,
    pub(in crate::pod) config: Arc<PodConfig>,
    pub(in crate::pod) created_at: UnixNanos,
    /// Its folder under the state directory.
    pub(in crate::pod) folder: PathBuf,
    /// `None`: it has none yet, or the machine was restarted since.
    pub(in crate::pod) cgroup: Option<cgroup::Handle>,
    pub(in crate::pod) access: Arc<SupervisorAccess>,
}

impl Pod {
    pub(super) fn facts(&self) -> PodFacts {
        PodFacts {
            id: self.id.clone(),
            config: Arc::clone(&self.config),
            created_at: self.created_at,
            cgroup: self.cgroup.clone(),
        }
    }
}
