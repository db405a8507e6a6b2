//! What followers are told of pods and containers, and when.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    driver::Driver,
    view::{ContainerState, ContainerView, PodView},
};
use crate::model::{ContainerConfig, ContainerId, PodConfig};

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

/// In the order of a life; each is told once at most.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Change {
    Created,
    /// Not told of a container whose start failed.
    Started,
    Stopped,
    Deleted,
}

impl Change {
    /// The last that could have been told of a container in `state`.
    pub(super) fn reached(state: &ContainerState) -> Self {
        match state {
            ContainerState::Created { .. } => Self::Created,
            ContainerState::Running { .. } => Self::Started,
            ContainerState::Exited { .. } => Self::Stopped,
        }
    }

    /// What is still to be told of a container in `state` of which this was told last. While an answer to its
    /// start is on the way, nobody knows whether an end is that of a workload that ran.
    fn untold(self, state: &ContainerState, starting: bool) -> &'static [Self] {
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

impl Driver {
    /// Tells followers of what is written and shown already.
    pub(super) fn tell(&self, container: Option<&ContainerId>, change: Change) {
        let event = Event { container: container.cloned(), change, pod: Arc::new(self.view()) };
        let bytes = bytes_of(&event);
        self.pod.node.events.publish(event, bytes);
    }

    /// Tells what the container has become since it was last told of.
    pub(super) fn tell_life(&mut self, at: usize) {
        let container = &self.containers[at];
        self.tell_of(at, container.start.is_some());
    }

    /// As `tell_life`, when no answer to a start is waited for any more.
    pub(super) fn tell_whole_life(&mut self, at: usize) {
        self.tell_of(at, false);
    }

    fn tell_of(&mut self, at: usize, starting: bool) {
        let container = &self.containers[at];
        let (id, untold) =
            (container.view.id.clone(), container.told.untold(&container.view.state, starting));
        for &change in untold {
            self.containers[at].told = change;
            self.tell(Some(&id), change);
        }
    }
}

/// Bytes of anything that is not a list of strings: ids, numbers, times, the structures around them.
const BASE_BYTES: usize = 1 << 10;

/// About what an event takes: in a message all that is shown, in memory also what its own container was made
/// from, as nothing else may hold that by now.
fn bytes_of(event: &Event) -> usize {
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
    use std::collections::BTreeSet;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::{
        event::Subscriber,
        model::{Exit, ExitReason, Failure, Stage, UnixNanos},
        pod::{
            driver::{
                Call,
                tests::{driver, id, node},
            },
            state::PodState,
        },
    };

    fn exited(started_at: Option<UnixNanos>) -> ContainerState {
        let exit = Exit { code: 0, reason: ExitReason::Completed, at: UnixNanos(9), message: String::new() };
        ContainerState::Exited { started_at, exit }
    }

    #[test]
    fn a_life_is_told_in_order_and_once() {
        use Change::{Created, Started, Stopped};
        let created = ContainerState::Created { pid: 7 };
        let running = ContainerState::Running { pid: 7, started_at: UnixNanos(1) };
        let (ran, failed) = (exited(Some(UnixNanos(1))), exited(None));
        for (told, state, starting, expected) in [
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
            assert_eq!(told.untold(state, starting), expected, "{told:?} {state:?} {starting}");
        }
    }

    #[test]
    fn every_step_but_the_last_can_be_reached() {
        let reached = [&ContainerState::Created { pid: 7 }, &exited(None)].map(Change::reached);
        assert_eq!(reached, [Change::Created, Change::Stopped]);
    }

    /// What has been told so far: the container's number, if it is one, what happened, and the states of all
    /// containers as they were shown then, by their first letters.
    fn told(follower: &mut Subscriber<Event>) -> Vec<(Option<u8>, Change, String)> {
        let mut told = Vec::new();
        while let Some(entry) = follower.next().now_or_never() {
            let Event { container, change, pod } = &entry.unwrap().event;
            let number = container.as_ref().map(|told| (1..9).find(|byte| id(*byte) == *told).unwrap());
            let states = pod.containers.iter().map(|container| match container.state {
                ContainerState::Created { .. } => 'c',
                ContainerState::Running { .. } => 'r',
                ContainerState::Exited { .. } => 'e',
            });
            told.push((number, *change, states.collect()));
        }
        told
    }

    const EXIT: Exit = Exit { code: 3, reason: ExitReason::Error, at: UnixNanos(9), message: String::new() };

    const CREATED: ContainerState = ContainerState::Created { pid: u32::MAX };

    #[tokio::test]
    async fn an_end_that_is_reported_before_the_start_is_told_after_it_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(folder.path());
        let mut follower = node.events.subscribe().unwrap();
        let mut driver = driver(&node, PodState::Ready, &[(1, CREATED)]);
        driver.containers[0].start = Some(Vec::new());
        driver.exit_reported(&id(1), EXIT).await;
        assert_eq!(told(&mut follower).len(), 0);
        driver.started(&id(1), Ok(UnixNanos(5))).await;
        driver.exit_reported(&id(1), EXIT).await;
        let expected = [Change::Started, Change::Stopped].map(|change| (Some(1), change, "e".to_owned()));
        assert_eq!(told(&mut follower), expected);
    }

    #[tokio::test]
    async fn a_start_that_failed_is_an_end_whatever_is_heard_first() {
        let failure = |stage| Failure {
            stage,
            object: String::new(),
            errno: 2,
            path: String::new(),
            text: String::new(),
        };
        for stage in [Stage::Execve, Stage::Connection] {
            let folder = tempfile::tempdir().unwrap();
            let node = node(folder.path());
            let mut follower = node.events.subscribe().unwrap();
            let mut driver = driver(&node, PodState::Ready, &[(1, CREATED)]);
            driver.containers[0].start = Some(Vec::new());
            driver.exit_reported(&id(1), EXIT).await;
            driver.started(&id(1), Err(failure(stage))).await;
            assert_eq!(told(&mut follower), [(Some(1), Change::Stopped, "e".to_owned())], "{stage:?}");
        }
    }

    #[tokio::test]
    async fn the_end_of_a_pod_is_told_from_its_containers_up() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(folder.path());
        let mut follower = node.events.subscribe().unwrap();
        let running = ContainerState::Running { pid: u32::MAX, started_at: UnixNanos(5) };
        let mut driver = driver(&node, PodState::Ready, &[(1, running), (2, exited(None))]);
        driver.supervisor_ended().await;
        let (reply, answer) = tokio::sync::oneshot::channel();
        let reach = node.names().reach(&driver.pod.id).unwrap();
        reach.calls.send(Call::RemovePod { reply }).await.unwrap();
        driver.serve().await;
        answer.await.unwrap().unwrap();
        let told = told(&mut follower);
        assert_eq!(told.len(), 5, "{told:?}");
        let all = |told: &[(Option<u8>, Change, String)]| {
            told.iter().map(|(number, change, _)| (*number, *change)).collect::<BTreeSet<_>>()
        };
        assert_eq!(told[0], (Some(1), Change::Stopped, "ee".into()));
        assert_eq!(told[1], (None, Change::Stopped, "ee".into()));
        // These two are erased side by side.
        let deleted = [1, 2].map(|number| (Some(number), Change::Deleted));
        assert_eq!(all(&told[2..4]), BTreeSet::from(deleted));
        assert_eq!((told[2].2.as_str(), told[3].2.as_str()), ("e", ""));
        assert_eq!(told[4], (None, Change::Deleted, String::new()));
    }
}
