//! The rules that every plan keeps, whatever was asked for; tests and fuzz targets hold plans to them.

use oci_spec::runtime::Spec;

use crate::{
    model::{ContainerConfig, ContainerPlan, SeccompChoice},
    spec::capability,
};

/// Panics for a plan of `container` that breaks a rule.
#[track_caller]
pub(in crate::spec) fn check(container: &ContainerConfig, plan: &ContainerPlan) {
    let spec: Spec = serde_json::from_slice(&plan.oci).expect("the spec is JSON");
    let linux = spec.linux().as_ref().expect("a Linux container");
    assert!(linux.seccomp().is_none() && linux.resources().is_none());
    assert!(linux.namespaces().is_none() && linux.devices().is_none());
    let process = spec.process().as_ref().expect("a process");
    assert!(process.no_new_privileges().is_none() && process.oom_score_adj().is_none());
    assert_eq!(spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly), Some(false));

    let privileged = container.security.privileged;
    assert_eq!(plan.process.ambient & !plan.process.capabilities, 0);
    assert_eq!(plan.process.capabilities & !capability::ALL, 0);
    let unconfined =
        matches!(container.security.seccomp, SeccompChoice::Unconfined | SeccompChoice::Unsaid) || privileged;
    assert_eq!(plan.process.seccomp.is_none(), unconfined);
    assert_eq!(plan.device_rules[0].allow, privileged);
    assert!(plan.process.env.iter().any(|entry| entry.starts_with(b"PATH=")));
    assert!(plan.process.env.iter().all(|entry| entry[0] != b'=' && !entry.contains(&0)));
    assert!(plan.process.cwd.starts_with('/') && !plan.process.args[0].is_empty());

    let targets: Vec<_> = plan.volumes.iter().map(|volume| &volume.target).collect();
    for (n, target) in targets.iter().enumerate() {
        let below = format!("{target}/");
        assert!(!targets[..n].iter().any(|earlier| earlier.starts_with(&below)), "{targets:?}");
        assert!(!targets[..n].contains(target), "{targets:?}");
        assert!(target.starts_with('/') && target.split('/').all(|part| part != ".."), "{target}");
    }
    for own in ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"] {
        assert!(targets.iter().any(|target| *target == own));
    }
    if let Some(log) = &plan.log {
        assert!(log.directory.is_absolute() && log.file.is_relative(), "{log:?}");
        assert!(log.file.components().all(|part| matches!(part, std::path::Component::Normal(_))), "{log:?}");
    }
}
