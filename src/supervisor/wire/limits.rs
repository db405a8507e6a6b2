//! Cgroups, device rules and limits between the protocol's messages and the model's types; and how version 1 of the
//! protocol had the last two.

use std::path::PathBuf;

use super::{
    convert::{bad, to_bytes, to_path},
    v1,
};
use crate::{
    cgroup,
    model::{DeviceRule, Failure, HugepageLimit, Resources},
};

/// The first version of the protocol in which device rules and limits are messages.
const TYPED: u32 = 2;

/// The message of a pod's cgroup.
pub(super) fn cgroup_message(handle: &cgroup::Handle) -> v1::Cgroup {
    let cgroup::Parts { driver, version, path, trees, limited } = handle.parts();
    let driver = match driver {
        cgroup::Driver::Cgroupfs => v1::CgroupDriver::Cgroupfs,
        cgroup::Driver::Systemd => v1::CgroupDriver::Systemd,
    };
    let version = match version {
        cgroup::Version::V1 => v1::CgroupVersion::V1,
        cgroup::Version::V2 => v1::CgroupVersion::V2,
    };
    let tree = |(mountpoint, controllers): (PathBuf, Vec<String>)| v1::CgroupTree {
        mountpoint: to_bytes(&mountpoint),
        controllers,
    };
    let trees = trees.into_iter().map(tree).collect();
    v1::Cgroup { driver: driver.into(), version: version.into(), path, trees, limited }
}

/// The cgroup of a message.
///
/// # Errors
/// Stage `Request` for a path that is no pod's.
pub(super) fn cgroup_handle(message: v1::Cgroup) -> Result<cgroup::Handle, Failure> {
    let driver = match message.driver() {
        v1::CgroupDriver::Cgroupfs => cgroup::Driver::Cgroupfs,
        v1::CgroupDriver::Systemd => cgroup::Driver::Systemd,
    };
    let version = match message.version() {
        v1::CgroupVersion::V1 => cgroup::Version::V1,
        v1::CgroupVersion::V2 => cgroup::Version::V2,
    };
    let trees = message.trees.into_iter().map(|tree| (to_path(tree.mountpoint), tree.controllers)).collect();
    let parts = cgroup::Parts { driver, version, path: message.path, trees, limited: message.limited };
    cgroup::Handle::from_parts(parts).map_err(|error| bad("cgroup", error))
}

/// Puts rules and limits into `create`, as a supervisor that speaks `version` reads them.
pub(super) fn set_limits(
    create: &mut v1::Create,
    version: u32,
    rules: &[DeviceRule],
    resources: &Resources,
) -> Result<(), Failure> {
    if version >= TYPED {
        create.device_rules = rules.iter().map(device_rule_message).collect();
        create.resources = Some(resources_message(resources));
    } else {
        create.device_rules_json = serde_json::to_vec(rules).map_err(|error| bad("devices", error))?;
        create.resources_json = serde_json::to_vec(resources).map_err(|error| bad("resources", error))?;
    }
    Ok(())
}

/// Takes rules and limits out of `create`, whichever version the daemon speaks.
pub(super) fn take_limits(create: &mut v1::Create) -> Result<(Vec<DeviceRule>, Resources), Failure> {
    if let Some(message) = create.resources.take() {
        let rules = std::mem::take(&mut create.device_rules);
        return Ok((rules.into_iter().map(device_rule).collect::<Result<_, _>>()?, resources(message)));
    }
    let rules = serde_json::from_slice(&create.device_rules_json).map_err(|error| bad("devices", error))?;
    let resources =
        serde_json::from_slice(&create.resources_json).map_err(|error| bad("resources", error))?;
    Ok((rules, resources))
}

fn device_rule_message(rule: &DeviceRule) -> v1::DeviceRule {
    v1::DeviceRule {
        allow: rule.allow,
        kind: rule.kind.into(),
        major: rule.major,
        minor: rule.minor,
        access: rule.access.clone(),
    }
}

fn device_rule(message: v1::DeviceRule) -> Result<DeviceRule, Failure> {
    let mut kind = message.kind.chars();
    let (Some(kind), None) = (kind.next(), kind.next()) else {
        return Err(bad("device rule", format!("its kind is {:?}", message.kind)));
    };
    let v1::DeviceRule { allow, major, minor, access, .. } = message;
    Ok(DeviceRule { allow, kind, major, minor, access })
}

fn resources_message(resources: &Resources) -> v1::Resources {
    let huge = |limit: &HugepageLimit| v1::HugepageLimit {
        page_size: limit.page_size.clone(),
        limit_bytes: limit.limit_bytes,
    };
    let pair = |(key, value): (&String, &String)| v1::Pair { key: key.clone(), value: value.clone() };
    v1::Resources {
        cpu_period_us: resources.cpu_period_us,
        cpu_quota_us: resources.cpu_quota_us,
        cpu_shares: resources.cpu_shares,
        memory_bytes: resources.memory_bytes,
        memory_and_swap_bytes: resources.memory_and_swap_bytes,
        oom_score_adj: resources.oom_score_adj,
        cpuset_cpus: resources.cpuset_cpus.clone(),
        cpuset_mems: resources.cpuset_mems.clone(),
        hugepages: resources.hugepages.iter().map(huge).collect(),
        unified: resources.unified.iter().map(pair).collect(),
        pids_max: resources.pids_max,
    }
}

fn resources(message: v1::Resources) -> Resources {
    let huge = |limit: v1::HugepageLimit| HugepageLimit {
        page_size: limit.page_size,
        limit_bytes: limit.limit_bytes,
    };
    Resources {
        cpu_period_us: message.cpu_period_us,
        cpu_quota_us: message.cpu_quota_us,
        cpu_shares: message.cpu_shares,
        memory_bytes: message.memory_bytes,
        memory_and_swap_bytes: message.memory_and_swap_bytes,
        oom_score_adj: message.oom_score_adj,
        cpuset_cpus: message.cpuset_cpus,
        cpuset_mems: message.cpuset_mems,
        hugepages: message.hugepages.into_iter().map(huge).collect(),
        unified: message.unified.into_iter().map(|pair| (pair.key, pair.value)).collect(),
        pids_max: message.pids_max,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::convert::{container_plan, create_request, tests::plan},
        *,
    };

    #[test]
    fn every_limit_survives_both_versions_of_the_protocol() {
        let sent = plan();
        for version in [1, 2] {
            let message = create_request(&sent, version).unwrap();
            let json = message.device_rules_json.len() + message.resources_json.len();
            assert_eq!(json == 0, version == 2, "one encoding in version 2");
            assert_eq!(container_plan(message), Ok(sent.clone()), "version {version}");
        }
    }

    #[test]
    fn a_rule_for_no_kind_of_device_is_refused() {
        for kind in ["", "bc"] {
            let rule = v1::DeviceRule { kind: kind.into(), ..Default::default() };
            assert_eq!(device_rule(rule), Err(bad("device rule", format!("its kind is {kind:?}"))));
        }
    }

    #[test]
    fn a_pods_cgroup_survives_the_wire_and_one_that_is_no_pods_is_refused() {
        let path = format!("/kubepods/{}", "ab".repeat(32));
        for (driver, version) in
            [(cgroup::Driver::Cgroupfs, cgroup::Version::V1), (cgroup::Driver::Systemd, cgroup::Version::V2)]
        {
            let trees = vec![
                ("/sys/fs/cgroup/cpu".into(), vec!["cpu".to_owned()]),
                ("/sys/fs/cgroup/unified".into(), Vec::new()),
            ];
            let parts = cgroup::Parts { driver, version, path: path.clone(), trees, limited: true };
            let handle = cgroup::Handle::from_parts(parts).unwrap();
            assert_eq!(cgroup_handle(cgroup_message(&handle)), Ok(handle.clone()));
            let foreign = v1::Cgroup { path: "/system.slice".into(), ..cgroup_message(&handle) };
            assert!(cgroup_handle(foreign).is_err());
        }
    }
}
