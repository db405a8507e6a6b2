//! Events, model → wire.

use super::{container_statuses, pod_status};
use crate::{
    cri::wire::{ContainerEventResponse, ContainerEventType},
    event::Entry,
    pod::{Change, Event},
};

/// For GetContainerEvents. An event of the pod itself goes by the pod's id.
pub(crate) fn event(entry: &Entry<Event>) -> ContainerEventResponse {
    let Event { container, change, pod } = &entry.event;
    let kind = match change {
        Change::Created => ContainerEventType::ContainerCreatedEvent,
        Change::Started => ContainerEventType::ContainerStartedEvent,
        Change::Stopped => ContainerEventType::ContainerStoppedEvent,
        Change::Deleted => ContainerEventType::ContainerDeletedEvent,
    };
    ContainerEventResponse {
        container_id: container.as_ref().map_or_else(|| pod.id.to_string(), ToString::to_string),
        container_event_type: kind.into(),
        created_at: entry.at.0,
        pod_sandbox_status: Some(pod_status(pod)),
        containers_statuses: container_statuses(pod),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        cri::render::{container_status, tests},
        event::Journal,
        model::ContainerId,
    };

    async fn rendered(container: Option<ContainerId>, change: Change) -> ContainerEventResponse {
        let journal = Journal::default();
        let mut subscriber = journal.subscribe().unwrap();
        journal.publish(Event { container, change, pod: Arc::new(tests::pod()) }, 0);
        event(&subscriber.next().await.unwrap())
    }

    #[tokio::test]
    async fn a_containers_event_has_the_status_of_its_pod_and_of_all_in_it() {
        let rendered = rendered(Some(tests::container().id), Change::Stopped).await;
        assert!(rendered.created_at > 0);
        let expected = ContainerEventResponse {
            container_id: "02".repeat(32),
            container_event_type: 2,
            created_at: rendered.created_at,
            pod_sandbox_status: Some(pod_status(&tests::pod())),
            containers_statuses: vec![container_status(&tests::container())],
        };
        assert_eq!(rendered, expected);
    }

    #[tokio::test]
    async fn a_pods_event_goes_by_the_pods_id() {
        for (change, number) in
            [(Change::Created, 0), (Change::Started, 1), (Change::Stopped, 2), (Change::Deleted, 3)]
        {
            let rendered = rendered(None, change).await;
            assert_eq!((rendered.container_id, rendered.container_event_type), ("01".repeat(32), number));
        }
    }
}
