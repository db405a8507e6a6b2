//! Fuzz targets of this room: plans of whatever gets past the door.

use std::sync::Arc;

pub(crate) use super::seccomp::fuzz::profile as seccomp_profile;
use super::{Inputs, build, build::rules, capabilities};
use crate::model::{ContainerConfig, ContainerId, ImageConfig, PodConfig, RootfsLayers};

/// Plans a container twice, and holds the plan to its rules.
pub(crate) fn plan(pod: &PodConfig, container: &ContainerConfig) {
    let Ok(capabilities) = capabilities(container) else { return };
    let image = ImageConfig { user: "web".into(), cmd: vec!["run".into()], ..ImageConfig::default() };
    let images = container.mounts.iter().filter(|mount| mount.image.is_some()).count();
    let inputs = Inputs {
        id: &ContainerId::from_bytes([7; 32]),
        pod,
        container,
        image: &image,
        layers: &RootfsLayers { lower: vec!["/layers/1".into()] },
        volume_layers: &vec![RootfsLayers { lower: vec!["/layers/2".into()] }; images],
        writable: "/containers/c".into(),
        pod_dir: "/pods/p".into(),
        seccomp: Some(Arc::clone(&super::seccomp::default(capabilities))),
        seccomp_flags: 0,
        apparmor: String::new(),
        held_capabilities: u64::MAX,
    };
    let Ok(plan) = build(&inputs) else { return };
    rules::check(container, &plan);
    assert_eq!(build(&inputs).ok(), Some(plan));
}
