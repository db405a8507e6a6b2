//! Model → wire: what callers see of pods, containers and images.
//!
//! Invariant: pure and total. A view that exists can be shown, and what the kubelet insists on is filled.

mod container;
mod event;
mod image;
mod info;
mod metrics;
mod pod;
mod stats;

pub(crate) use container::{container, container_state, container_status};
pub(crate) use event::event;
pub(crate) use image::{fs_usage, image};
pub(crate) use info::{container_info, image_info, pod_info};
pub(crate) use metrics::{metric_descriptors, pod_metrics};
pub(crate) use pod::{container_statuses, pod, pod_status};
pub(crate) use stats::{container_stats, pod_stats};

use super::wire;
use crate::model::IdRange;

/// One half of a map of ids.
fn ranges(ranges: &[IdRange]) -> Vec<wire::IdMapping> {
    let range = |range: &IdRange| {
        let IdRange { container, host, length } = *range;
        wire::IdMapping { host_id: host, container_id: container, length }
    };
    ranges.iter().map(range).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use crate::{
        model::{
            ContainerConfig, ContainerId, ContainerMetadata, Digest, Exit, ExitReason, IdMap, IdRange, Mount,
            PodConfig, PodId, PodLimits, PodMetadata, Propagation, ResolvedUser, Resources, UnixNanos,
        },
        network::Attachment,
        pod::{ContainerState, ContainerView, PodView},
    };

    /// A ready pod with one container.
    pub(crate) fn pod() -> PodView {
        let config = PodConfig {
            metadata: PodMetadata {
                name: "web".into(),
                uid: "u-1".into(),
                namespace: "default".into(),
                attempt: 2,
            },
            labels: [("app".into(), "web".into())].into(),
            annotations: [("note".into(), "two\nlines".into())].into(),
            runtime_handler: "fast".into(),
            ..PodConfig::default()
        };
        PodView {
            id: PodId::from_bytes([1; 32]),
            config: Arc::new(config),
            ready: true,
            created_at: UnixNanos(1000),
            attachment: Some(Attachment {
                interface: "eth0".into(),
                addresses: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
                ..Attachment::default()
            }),
            supervisor_pid: 42,
            limits: PodLimits::default(),
            cgroup: None,
            containers: vec![Arc::new(container())],
        }
    }

    /// One that was killed for memory.
    pub(crate) fn container() -> ContainerView {
        let config = ContainerConfig {
            metadata: ContainerMetadata { name: "main".into(), attempt: 3 },
            image: "sha256:00".into(),
            user_specified_image: "busybox".into(),
            envs: vec![("A".into(), b"1\xff".into())],
            mounts: vec![Mount {
                container_path: "/data".into(),
                host_path: "/mnt".into(),
                readonly: true,
                recursive_read_only: true,
                propagation: Propagation::Bidirectional,
                selinux_relabel: true,
                id_map: Some(IdMap {
                    uids: vec![IdRange { container: 5, host: 9, length: 2 }],
                    gids: vec![IdRange { container: 6, host: 8, length: 3 }],
                }),
                ..Mount::default()
            }],
            labels: [("role".into(), "main".into())].into(),
            annotations: [("hash".into(), "f00".into())].into(),
            ..ContainerConfig::default()
        };
        let exit = Exit {
            code: 137,
            reason: ExitReason::OOMKilled,
            at: UnixNanos(4000),
            message: "out of memory".into(),
        };
        ContainerView {
            id: ContainerId::from_bytes([2; 32]),
            pod: PodId::from_bytes([1; 32]),
            config: Arc::new(config),
            image_id: Digest::from_bytes([3; 32]),
            image_ref: "docker.io/library/busybox@sha256:11".into(),
            volume_images: Vec::new(),
            image_name: "docker.io/library/busybox:latest".into(),
            state: ContainerState::Exited { started_at: Some(UnixNanos(3000)), exit },
            created_at: UnixNanos(2000),
            user: ResolvedUser { uid: 1000, gid: 7, groups: vec![7, 9] },
            log_path: Some("/var/log/pods/x/main/3.log".into()),
            resources: Resources { cpu_shares: 512, memory_bytes: 1 << 20, ..Resources::default() },
            stop_signal: 15,
        }
    }
}
