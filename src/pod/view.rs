//! Views: immutable snapshots of pods and containers that readers get without waiting.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use super::names::{self, Lookup};
use crate::{
    cgroup,
    model::{
        ContainerConfig, ContainerId, Digest, Exit, IdPrefix, PodConfig, PodId, PodLimits, ResolvedUser,
        Resources, UnixNanos,
    },
    network::Attachment,
};

/// A pod as readers see it: immutable, replaced as a whole.
#[derive(Clone, Debug)]
pub struct PodView {
    pub id: PodId,
    pub config: Arc<PodConfig>,
    pub ready: bool,
    pub created_at: UnixNanos,
    pub attachment: Option<Attachment>,
    /// Host pid of the supervisor; 0 when it is gone.
    pub supervisor_pid: u32,
    /// As they were last changed.
    pub limits: PodLimits,
    /// `None`: it has none any more.
    pub cgroup: Option<cgroup::Handle>,
    /// Oldest first.
    pub containers: Vec<Arc<ContainerView>>,
}

/// A container as readers see it.
#[derive(Clone, Debug)]
pub struct ContainerView {
    pub id: ContainerId,
    pub pod: PodId,
    pub config: Arc<ContainerConfig>,
    pub image_id: Digest,
    /// Repo digest, else the id.
    pub image_ref: String,
    /// The images that are the content of mounts, in the order of those in `config`.
    pub volume_images: Vec<Digest>,
    /// For people: what the pod's author wrote, else the first tag.
    pub image_name: String,
    pub state: ContainerState,
    pub created_at: UnixNanos,
    pub user: ResolvedUser,
    /// Absolute; `None` is "no log".
    pub log_path: Option<String>,
    pub resources: Resources,
    /// Number of the effective stop signal.
    pub stop_signal: i32,
}

/// There is no pid to read after `Exited`, and no exit to read before it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum ContainerState {
    /// Root, process and log exist; the workload has not been let go.
    Created {
        pid: u32,
    },
    Running {
        pid: u32,
        started_at: UnixNanos,
    },
    /// `started_at` is `None` for one that never ran.
    Exited {
        started_at: Option<UnixNanos>,
        exit: Exit,
    },
}

/// All pods at one moment.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// By id.
    pub pods: Vec<Arc<PodView>>,
}

impl View {
    pub(super) fn pod(&self, id: &IdPrefix) -> Result<&Arc<PodView>, Lookup> {
        names::by_prefix(self.pods.iter(), |pod| pod.id.as_str(), id)
    }

    pub(super) fn container(&self, id: &IdPrefix) -> Result<&Arc<ContainerView>, Lookup> {
        let all = self.pods.iter().flat_map(|pod| &pod.containers);
        names::by_prefix(all, |container| container.id.as_str(), id)
    }
}

/// Where drivers put what readers see. A reader takes the whole and waits for nobody.
#[derive(Debug, Default)]
pub struct Board {
    pods: Mutex<BTreeMap<PodId, Arc<PodView>>>,
    view: ArcSwap<View>,
}

impl Board {
    pub(super) fn publish(&self, pod: PodView) {
        self.change(|pods| {
            pods.insert(pod.id.clone(), Arc::new(pod));
        });
    }

    pub(super) fn withdraw(&self, id: &PodId) {
        self.change(|pods| {
            pods.remove(id);
        });
    }

    /// All pods as of now.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Writers queue here, so that the last view stored holds the last change of each.
    fn change(&self, change: impl FnOnce(&mut BTreeMap<PodId, Arc<PodView>>)) {
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut pods);
        self.view.store(Arc::new(View { pods: pods.values().cloned().collect() }));
    }
}

#[cfg(test)]
impl Board {
    /// One that shows these pods for ever.
    pub(crate) fn of(pods: Vec<PodView>) -> Arc<Self> {
        let board = Self::default();
        pods.into_iter().for_each(|pod| board.publish(pod));
        Arc::new(board)
    }
}

#[cfg(test)]
impl PodView {
    /// A pod that is ready and has nothing.
    pub(crate) fn fake(byte: u8) -> Self {
        Self {
            id: PodId::from_bytes([byte; 32]),
            config: Arc::default(),
            ready: true,
            created_at: UnixNanos(1),
            attachment: None,
            supervisor_pid: 0,
            limits: PodLimits::default(),
            cgroup: None,
            containers: Vec::new(),
        }
    }
}

#[cfg(test)]
pub(super) fn fake_config(name: &str) -> PodConfig {
    let mut config = PodConfig::default();
    config.metadata.name = name.into();
    // The host's, so that nothing is released anywhere.
    config.namespaces.network = crate::model::NetworkMode::Node;
    config
}

#[cfg(test)]
impl ContainerView {
    /// A container of that pod, made from an empty configuration.
    pub(crate) fn fake(pod: &PodId, byte: u8, state: ContainerState) -> Self {
        let mut config = ContainerConfig::default();
        config.metadata.attempt = byte.into();
        Self {
            id: ContainerId::from_bytes([byte; 32]),
            pod: pod.clone(),
            config: Arc::new(config),
            image_id: Digest::from_bytes([1; 32]),
            image_ref: "ref".into(),
            volume_images: Vec::new(),
            image_name: "name".into(),
            state,
            created_at: UnixNanos(byte.into()),
            user: ResolvedUser::default(),
            log_path: None,
            resources: Resources::default(),
            stop_signal: 15,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_taken_before_a_change_does_not_change() {
        let board = Board::default();
        board.publish(PodView::fake(0xab));
        let before = board.view();
        board.publish(PodView::fake(0x12));
        board.publish(PodView { ready: false, ..PodView::fake(0xab) });
        let after = board.view();
        assert!(before.pods.len() == 1 && before.pods[0].ready);
        let ids: Vec<_> = after.pods.iter().map(|pod| (pod.id.as_str()[..2].to_owned(), pod.ready)).collect();
        assert_eq!(ids, [("12".to_owned(), true), ("ab".to_owned(), false)]);
        board.withdraw(&PodView::fake(0xab).id);
        assert_eq!(board.view().pod(&IdPrefix::parse("ab").unwrap()).unwrap_err(), Lookup::Unknown);
        assert_eq!(board.view().pod(&IdPrefix::parse("12").unwrap()).unwrap().id, PodView::fake(0x12).id);
    }
}
