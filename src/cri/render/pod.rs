//! Pods, model → wire.

use super::{container_status, ranges};
use crate::{
    cri::wire,
    model::{IpcMode, NamespaceModes, NetworkMode, PidMode, PodConfig, UserMode},
    pod::PodView,
};

/// For ListPodSandbox.
pub(crate) fn pod(view: &PodView) -> wire::PodSandbox {
    let config = &*view.config;
    wire::PodSandbox {
        id: view.id.to_string(),
        metadata: Some(metadata(config)),
        state: state(view),
        created_at: view.created_at.0,
        labels: config.labels.clone().into_iter().collect(),
        annotations: config.annotations.clone().into_iter().collect(),
        runtime_handler: config.runtime_handler.clone(),
    }
}

/// For PodSandboxStatus.
pub(crate) fn pod_status(view: &PodView) -> wire::PodSandboxStatus {
    let config = &*view.config;
    wire::PodSandboxStatus {
        id: view.id.to_string(),
        metadata: Some(metadata(config)),
        state: state(view),
        created_at: view.created_at.0,
        network: Some(network(view)),
        linux: Some(wire::LinuxPodSandboxStatus {
            namespaces: Some(wire::Namespace { options: Some(namespaces(&config.namespaces)) }),
        }),
        labels: config.labels.clone().into_iter().collect(),
        annotations: config.annotations.clone().into_iter().collect(),
        runtime_handler: config.runtime_handler.clone(),
    }
}

/// For PodSandboxStatus and GetContainerEvents: newest first. A kubelet that follows the events takes the first of
/// a name, and would take an old attempt for the one that runs.
pub(crate) fn container_statuses(view: &PodView) -> Vec<wire::ContainerStatus> {
    view.containers.iter().rev().map(|container| container_status(container)).collect()
}

pub(super) fn metadata(config: &PodConfig) -> wire::PodSandboxMetadata {
    let metadata = config.metadata.clone();
    wire::PodSandboxMetadata {
        name: metadata.name,
        uid: metadata.uid,
        namespace: metadata.namespace,
        attempt: metadata.attempt,
    }
}

fn state(view: &PodView) -> i32 {
    let state =
        if view.ready { wire::PodSandboxState::SandboxReady } else { wire::PodSandboxState::SandboxNotready };
    state.into()
}

/// A pod in the host's network has no address of its own to show.
fn network(view: &PodView) -> wire::PodSandboxNetworkStatus {
    let attachment = view.attachment.as_ref().filter(|_| view.config.namespaces.network == NetworkMode::Pod);
    let mut addresses = attachment.into_iter().flat_map(|attachment| &attachment.addresses);
    wire::PodSandboxNetworkStatus {
        ip: addresses.next().map(ToString::to_string).unwrap_or_default(),
        additional_ips: addresses.map(|address| wire::PodIp { ip: address.to_string() }).collect(),
    }
}

fn namespaces(modes: &NamespaceModes) -> wire::NamespaceOption {
    use wire::NamespaceMode::{Container, Node, Pod, Target};
    let network = match modes.network {
        NetworkMode::Pod => Pod,
        NetworkMode::Node => Node,
    };
    let (pid, target_id) = match &modes.pid {
        PidMode::Pod => (Pod, String::new()),
        PidMode::Container => (Container, String::new()),
        PidMode::Node => (Node, String::new()),
        PidMode::Target(id) => (Target, id.to_string()),
    };
    let ipc = match modes.ipc {
        IpcMode::Pod => Pod,
        IpcMode::Node => Node,
    };
    wire::NamespaceOption {
        network: network.into(),
        pid: pid.into(),
        ipc: ipc.into(),
        target_id,
        userns_options: users(&modes.users),
    }
}

fn users(mode: &UserMode) -> Option<wire::UserNamespace> {
    match mode {
        UserMode::Unsaid => None,
        UserMode::Node => {
            Some(wire::UserNamespace { mode: wire::NamespaceMode::Node.into(), ..Default::default() })
        }
        UserMode::Pod(map) => Some(wire::UserNamespace {
            mode: wire::NamespaceMode::Pod.into(),
            uids: ranges(&map.uids),
            gids: ranges(&map.gids),
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::Arc};

    use super::*;
    use crate::{
        cri::render::tests,
        model::{ContainerConfig, ContainerId},
    };

    #[test]
    fn a_pod_in_a_list_has_its_name_and_labels_byte_for_byte() {
        let expected = wire::PodSandbox {
            id: "01".repeat(32),
            metadata: Some(wire::PodSandboxMetadata {
                name: "web".into(),
                uid: "u-1".into(),
                namespace: "default".into(),
                attempt: 2,
            }),
            state: wire::PodSandboxState::SandboxReady.into(),
            created_at: 1000,
            labels: HashMap::from([("app".into(), "web".into())]),
            annotations: HashMap::from([("note".into(), "two\nlines".into())]),
            runtime_handler: "fast".into(),
        };
        assert_eq!(pod(&tests::pod()), expected);
    }

    #[test]
    fn a_status_has_all_addresses_and_the_namespaces_that_were_asked_for() {
        let status = pod_status(&tests::pod());
        let network = wire::PodSandboxNetworkStatus {
            ip: "10.0.0.2".into(),
            additional_ips: vec![wire::PodIp { ip: "fd00::2".into() }],
        };
        assert_eq!(status.network, Some(network));
        let options = status.linux.unwrap().namespaces.unwrap().options.unwrap();
        assert_eq!(options, wire::NamespaceOption::default());
    }

    #[test]
    fn the_newest_attempt_comes_first() {
        let mut view = tests::pod();
        let attempt = |attempt, byte| {
            let mut container = tests::container();
            container.id = ContainerId::from_bytes([byte; 32]);
            let mut config = ContainerConfig::clone(&container.config);
            config.metadata.attempt = attempt;
            container.config = Arc::new(config);
            Arc::new(container)
        };
        view.containers = vec![attempt(0, 9), attempt(1, 2), attempt(2, 5)];
        let attempts = container_statuses(&view).into_iter().map(|one| one.metadata.unwrap().attempt);
        assert_eq!(attempts.collect::<Vec<_>>(), [2, 1, 0]);
    }

    #[test]
    fn a_stopped_pod_in_the_hosts_network_shows_just_that() {
        let mut view = tests::pod();
        let mut config = PodConfig::clone(&view.config);
        config.namespaces = NamespaceModes {
            network: NetworkMode::Node,
            pid: PidMode::Node,
            ipc: IpcMode::Node,
            users: UserMode::Unsaid,
        };
        view.config = Arc::new(config);
        view.ready = false;
        let status = pod_status(&view);
        assert_eq!(status.state, wire::PodSandboxState::SandboxNotready as i32);
        assert_eq!(status.network, Some(wire::PodSandboxNetworkStatus::default()));
        let options = status.linux.unwrap().namespaces.unwrap().options.unwrap();
        assert_eq!((options.network, options.pid, options.ipc), (2, 2, 2));
    }
}
