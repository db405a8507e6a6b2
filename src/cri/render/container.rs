//! Containers, model → wire.

use super::ranges;
use crate::{
    cri::{signal, wire},
    model::{ContainerConfig, ContainerMetadata, Digest, Mount, Propagation, ResolvedUser, Resources},
    pod::{ContainerState, ContainerView},
};

/// For ListContainers.
pub(crate) fn container(view: &ContainerView) -> wire::Container {
    wire::Container {
        id: view.id.to_string(),
        pod_sandbox_id: view.pod.to_string(),
        metadata: Some(metadata(&view.config.metadata)),
        image: Some(image(view)),
        image_ref: view.image_ref.clone(),
        state: container_state(&view.state).into(),
        created_at: view.created_at.0,
        labels: view.config.labels.clone().into_iter().collect(),
        annotations: view.config.annotations.clone().into_iter().collect(),
        image_id: view.image_id.to_string(),
    }
}

/// For ContainerStatus.
pub(crate) fn container_status(view: &ContainerView) -> wire::ContainerStatus {
    let config: &ContainerConfig = &view.config;
    let (started_at, exit) = match &view.state {
        ContainerState::Created { .. } => (None, None),
        ContainerState::Running { started_at, .. } => (Some(*started_at), None),
        ContainerState::Exited { started_at, exit } => (*started_at, Some(exit)),
    };
    wire::ContainerStatus {
        id: view.id.to_string(),
        metadata: Some(metadata(&config.metadata)),
        state: container_state(&view.state).into(),
        created_at: view.created_at.0,
        started_at: started_at.unwrap_or_default().0,
        finished_at: exit.map(|exit| exit.at.0).unwrap_or_default(),
        exit_code: exit.map(|exit| exit.code).unwrap_or_default(),
        image: Some(image(view)),
        image_ref: view.image_ref.clone(),
        reason: exit.map(|exit| exit.reason.as_str().to_owned()).unwrap_or_default(),
        message: exit.map(|exit| exit.message.clone()).unwrap_or_default(),
        labels: config.labels.clone().into_iter().collect(),
        annotations: config.annotations.clone().into_iter().collect(),
        mounts: mounts(view),
        log_path: view.log_path.clone().unwrap_or_default(),
        resources: Some(wire::ContainerResources { linux: Some(resources(&view.resources)), windows: None }),
        image_id: view.image_id.to_string(),
        user: Some(wire::ContainerUser { linux: Some(user(&view.user)) }),
        stop_signal: signal::name(view.stop_signal).into(),
    }
}

pub(crate) fn container_state(state: &ContainerState) -> wire::ContainerState {
    match state {
        ContainerState::Created { .. } => wire::ContainerState::ContainerCreated,
        ContainerState::Running { .. } => wire::ContainerState::ContainerRunning,
        ContainerState::Exited { .. } => wire::ContainerState::ContainerExited,
    }
}

pub(super) fn metadata(metadata: &ContainerMetadata) -> wire::ContainerMetadata {
    wire::ContainerMetadata { name: metadata.name.clone(), attempt: metadata.attempt }
}

fn image(view: &ContainerView) -> wire::ImageSpec {
    wire::ImageSpec {
        image: view.image_name.clone(),
        user_specified_image: view.config.user_specified_image.clone(),
        ..wire::ImageSpec::default()
    }
}

/// All mounts with the ids of the images that some of them show, which are in the same order.
fn mounts(view: &ContainerView) -> Vec<wire::Mount> {
    let mut images = view.volume_images.iter();
    let with_image = |each: &Mount| mount(each, each.image.as_ref().and_then(|_| images.next()));
    view.config.mounts.iter().map(with_image).collect()
}

/// As it was asked for: the kubelet finds its termination message by the path here.
fn mount(mount: &Mount, volume_image: Option<&Digest>) -> wire::Mount {
    let propagation = match mount.propagation {
        Propagation::Private => wire::MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => wire::MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => wire::MountPropagation::PropagationBidirectional,
    };
    wire::Mount {
        container_path: mount.container_path.clone(),
        host_path: mount.host_path.clone(),
        readonly: mount.readonly,
        selinux_relabel: mount.selinux_relabel,
        propagation: propagation.into(),
        recursive_read_only: mount.recursive_read_only,
        image: mount.image.as_ref().map(|image| wire::ImageSpec {
            image: image.reference.clone(),
            user_specified_image: image.reference.clone(),
            image_ref: volume_image.map(ToString::to_string).unwrap_or_default(),
            ..wire::ImageSpec::default()
        }),
        image_sub_path: mount.image.as_ref().map(|image| image.sub_path.clone()).unwrap_or_default(),
        mount_options: mount.options.names().map(str::to_owned).collect(),
        uid_mappings: mount.id_map.as_ref().map(|map| ranges(&map.uids)).unwrap_or_default(),
        gid_mappings: mount.id_map.as_ref().map(|map| ranges(&map.gids)).unwrap_or_default(),
    }
}

fn resources(resources: &Resources) -> wire::LinuxContainerResources {
    let hugepages = resources.hugepages.iter();
    wire::LinuxContainerResources {
        cpu_period: i64::try_from(resources.cpu_period_us).unwrap_or(i64::MAX),
        cpu_quota: resources.cpu_quota_us,
        cpu_shares: i64::try_from(resources.cpu_shares).unwrap_or(i64::MAX),
        memory_limit_in_bytes: resources.memory_bytes,
        oom_score_adj: resources.oom_score_adj,
        cpuset_cpus: resources.cpuset_cpus.clone(),
        cpuset_mems: resources.cpuset_mems.clone(),
        hugepage_limits: hugepages
            .map(|limit| wire::HugepageLimit { page_size: limit.page_size.clone(), limit: limit.limit_bytes })
            .collect(),
        unified: resources.unified.clone().into_iter().collect(),
        memory_swap_limit_in_bytes: resources.memory_and_swap_bytes,
    }
}

fn user(user: &ResolvedUser) -> wire::LinuxContainerUser {
    wire::LinuxContainerUser {
        uid: user.uid.into(),
        gid: user.gid.into(),
        supplemental_groups: user.groups.iter().map(|&group| group.into()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::{cri::render::tests, model::UnixNanos};

    fn spec() -> wire::ImageSpec {
        wire::ImageSpec {
            image: "docker.io/library/busybox:latest".into(),
            user_specified_image: "busybox".into(),
            ..Default::default()
        }
    }

    fn name() -> Option<wire::ContainerMetadata> {
        Some(wire::ContainerMetadata { name: "main".into(), attempt: 3 })
    }

    #[test]
    fn a_container_in_a_list_is_in_the_state_its_status_says() {
        let expected = wire::Container {
            id: "02".repeat(32),
            pod_sandbox_id: "01".repeat(32),
            metadata: name(),
            image: Some(spec()),
            image_ref: "docker.io/library/busybox@sha256:11".into(),
            state: wire::ContainerState::ContainerExited.into(),
            created_at: 2000,
            labels: HashMap::from([("role".into(), "main".into())]),
            annotations: HashMap::from([("hash".into(), "f00".into())]),
            image_id: format!("sha256:{}", "03".repeat(32)),
        };
        assert_eq!(container(&tests::container()), expected);
    }

    #[test]
    fn an_exit_is_told_with_code_reason_and_time() {
        let resources = wire::LinuxContainerResources {
            cpu_shares: 512,
            memory_limit_in_bytes: 1 << 20,
            ..Default::default()
        };
        let user = wire::LinuxContainerUser { uid: 1000, gid: 7, supplemental_groups: vec![7, 9] };
        let expected = wire::ContainerStatus {
            id: "02".repeat(32),
            metadata: name(),
            state: wire::ContainerState::ContainerExited.into(),
            created_at: 2000,
            started_at: 3000,
            finished_at: 4000,
            exit_code: 137,
            image: Some(spec()),
            image_ref: "docker.io/library/busybox@sha256:11".into(),
            reason: "OOMKilled".into(),
            message: "out of memory".into(),
            labels: HashMap::from([("role".into(), "main".into())]),
            annotations: HashMap::from([("hash".into(), "f00".into())]),
            mounts: vec![wire::Mount {
                container_path: "/data".into(),
                host_path: "/mnt".into(),
                readonly: true,
                selinux_relabel: true,
                propagation: wire::MountPropagation::PropagationBidirectional.into(),
                recursive_read_only: true,
                uid_mappings: vec![wire::IdMapping { host_id: 9, container_id: 5, length: 2 }],
                gid_mappings: vec![wire::IdMapping { host_id: 8, container_id: 6, length: 3 }],
                ..Default::default()
            }],
            log_path: "/var/log/pods/x/main/3.log".into(),
            resources: Some(wire::ContainerResources { linux: Some(resources), windows: None }),
            image_id: format!("sha256:{}", "03".repeat(32)),
            user: Some(wire::ContainerUser { linux: Some(user) }),
            stop_signal: wire::Signal::Sigterm.into(),
        };
        assert_eq!(container_status(&tests::container()), expected);
    }

    #[test]
    fn what_has_not_happened_is_zero() {
        let mut view = tests::container();
        view.state = ContainerState::Created { pid: 9 };
        let status = container_status(&view);
        assert_eq!((status.state, status.started_at, status.finished_at, status.exit_code), (0, 0, 0, 0));
        assert_eq!((status.reason, status.message), (String::new(), String::new()));

        view.state = ContainerState::Running { pid: 9, started_at: UnixNanos(3000) };
        let status = container_status(&view);
        assert_eq!((status.state, status.started_at, status.finished_at), (1, 3000, 0));
    }
}
