//! Events: what followers hear of pods and containers, and when.

use std::{collections::BTreeMap, sync::Arc};

use super::{ledger::Ledger, order::Order};
use crate::{
    model::{ContainerConfig, ContainerId, PodConfig},
    pod::view::{ContainerState, ContainerView, PodView},
};

/// One step in the life of a pod or of a container.
#[derive(Clone, Debug)]
pub struct Event {
    /// `None`: the pod itself.
    pub container: Option<ContainerId>,
    pub change: Change,
    /// The pod as lists have shown it since the change. A container that was removed is not in it any more; a
    /// pod that was removed is as it was last.
    pub pod: Arc<PodView>,
}

/// In the order of a life; each is announced once at most.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Change {
    Created,
    /// Not announced of a container whose start failed.
    Started,
    Stopped,
    Deleted,
}

impl Change {
    /// The last that could have been announced of a container in `state`.
    pub(super) fn reached(state: &ContainerState) -> Self {
        match state {
            ContainerState::Created { .. } => Self::Created,
            ContainerState::Running { .. } => Self::Started,
            ContainerState::Exited { .. } => Self::Stopped,
        }
    }

    /// What is still to be announced of a container in `state` of which this was announced last. While an answer to its
    /// start is on the way, nobody knows whether an end is that of a workload that ran.
    fn unannounced(self, state: &ContainerState, starting: bool) -> &'static [Self] {
        match (self, state) {
            (Self::Created, ContainerState::Running { .. }) => &[Self::Started],
            (Self::Created, ContainerState::Exited { started_at: Some(_), .. }) => {
                &[Self::Started, Self::Stopped]
            }
            (Self::Created, ContainerState::Exited { started_at: None, .. }) if !starting => &[Self::Stopped],
            (Self::Started, ContainerState::Exited { .. }) => &[Self::Stopped],
            (Self::Created | Self::Started | Self::Stopped | Self::Deleted, _) => &[],
        }
    }
}

impl Ledger {
    /// Tells followers of what is written and shown already.
    pub(super) fn announce(&mut self, container: Option<&ContainerId>, change: Change, view: &Arc<PodView>) {
        let event = Event { container: container.cloned(), change, pod: Arc::clone(view) };
        self.orders.push(Order::Announce(event));
    }

    /// Announces what the container has become since the last announcement.
    pub(super) fn announce_life(&mut self, at: usize) {
        let starting = self.containers[at].is_starting();
        self.announce_of(at, starting);
    }

    /// As `announce_life`, when no answer to a start is waited for any more.
    pub(super) fn announce_whole_life(&mut self, at: usize) {
        self.announce_of(at, false);
    }

    fn announce_of(&mut self, at: usize, starting: bool) {
        let container = &self.containers[at];
        let (id, unannounced) =
            (container.id().clone(), container.announced.unannounced(&container.shown().state, starting));
        if unannounced.is_empty() {
            return;
        }
        let view = Arc::new(self.view());
        for &change in unannounced {
            self.containers[at].announced = change;
            self.announce(Some(&id), change, &view);
        }
    }
}

/// Bytes of anything that is not a list of strings: ids, numbers, times, the structures around them.
const BASE_BYTES: usize = 1 << 10;

/// About what an event takes: in a message all that is shown, in memory also what its own container was made
/// from, as nothing else may hold that by now.
pub(in crate::pod) fn weight(event: &Event) -> usize {
    let shown: usize = event.pod.containers.iter().map(|container| shown_bytes(container)).sum();
    let own = event.pod.containers.iter().find(|container| Some(&container.id) == event.container.as_ref());
    shown + pod_bytes(&event.pod.config) + own.map_or(0, |container| made_from_bytes(&container.config))
}

fn pod_bytes(config: &PodConfig) -> usize {
    BASE_BYTES + text(&config.labels) + text(&config.annotations)
}

fn shown_bytes(container: &ContainerView) -> usize {
    let config = &*container.config;
    let mounts = config.mounts.iter().map(|mount| mount.container_path.len() + mount.host_path.len());
    BASE_BYTES + text(&config.labels) + text(&config.annotations) + mounts.sum::<usize>()
}

fn made_from_bytes(config: &ContainerConfig) -> usize {
    let words = config.command.iter().chain(&config.args).map(String::len);
    let envs = config.envs.iter().map(|(name, value)| name.len() + value.len());
    words.chain(envs).sum()
}

fn text(pairs: &BTreeMap<String, String>) -> usize {
    pairs.iter().map(|(key, value)| key.len() + value.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Exit, ExitReason, UnixNanos};

    pub(super) fn exited(started_at: Option<UnixNanos>) -> ContainerState {
        let exit = Exit { code: 0, reason: ExitReason::Completed, at: UnixNanos(9), message: String::new() };
        ContainerState::Exited { started_at, exit }
    }

    #[test]
    fn a_life_is_told_in_order_and_once() {
        use Change::{Created, Started, Stopped};
        let created = ContainerState::Created { pid: 7 };
        let running = ContainerState::Running { pid: 7, started_at: UnixNanos(1) };
        let (ran, failed) = (exited(Some(UnixNanos(1))), exited(None));
        for (announced, state, starting, expected) in [
            (Created, &created, false, &[][..]),
            (Created, &running, false, &[Started]),
            (Started, &running, false, &[]),
            (Started, &ran, false, &[Stopped]),
            (Created, &ran, false, &[Started, Stopped]),
            (Created, &failed, false, &[Stopped]),
            // Its end was reported before the answer to its start.
            (Created, &failed, true, &[]),
            (Created, &ran, true, &[Started, Stopped]),
            (Stopped, &ran, false, &[]),
            // Learnt too late: an order that is wrong is worse than a start that goes without saying.
            (Stopped, &failed, false, &[]),
        ] {
            assert_eq!(
                announced.unannounced(state, starting),
                expected,
                "{announced:?} {state:?} {starting}"
            );
        }
    }

    #[test]
    fn every_step_but_the_last_can_be_reached() {
        let reached = [&ContainerState::Created { pid: 7 }, &exited(None)].map(Change::reached);
        assert_eq!(reached, [Change::Created, Change::Stopped]);
    }
}
