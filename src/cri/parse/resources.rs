//! `LinuxContainerResources` → [`Resources`].

use super::{
    At as _, Refusal, Under as _, Why, id,
    limits::*,
    text::{count, line, quote},
};
use crate::{
    cri::wire,
    model::{HugepageLimit, IdPrefix, PodLimits, Resources},
};

/// Microseconds of the shortest and the longest CFS period, and the shortest quota (kernel,
/// `scheduler/sched-bwc`).
const CPU_PERIOD_US: std::ops::RangeInclusive<i64> = 1_000..=1_000_000;
/// The range that the kernel clamps `cpu.shares` to; so do we, so that the value shown is the one in force.
const CPU_SHARES: (i64, i64) = (2, 262_144);
const OOM_SCORE_ADJ: std::ops::RangeInclusive<i64> = -1000..=1000;

pub(super) fn resources(wire: wire::LinuxContainerResources) -> Result<Resources, Refusal> {
    let memory_bytes = wire.memory_limit_in_bytes;
    let memory_and_swap_bytes = wire.memory_swap_limit_in_bytes;
    if memory_bytes > 0 && (1..memory_bytes).contains(&memory_and_swap_bytes) {
        let why =
            format!("is {memory_and_swap_bytes}, less than the memory limit {memory_bytes} that it includes");
        return Err(Why::from(why)).at("memory_swap_limit_in_bytes");
    }
    count(HUGEPAGES_MAX, wire.hugepage_limits.len()).at("hugepage_limits")?;
    count(UNIFIED_MAX, wire.unified.len()).at("unified")?;
    for (key, value) in &wire.unified {
        unified(key, value).at("unified")?;
    }
    Ok(Resources {
        cpu_period_us: period(wire.cpu_period).at("cpu_period")?,
        cpu_quota_us: quota(wire.cpu_quota).at("cpu_quota")?,
        cpu_shares: shares(wire.cpu_shares).at("cpu_shares")?,
        memory_bytes,
        memory_and_swap_bytes,
        oom_score_adj: oom_score(wire.oom_score_adj).at("oom_score_adj")?,
        cpuset_cpus: cpu_list(wire.cpuset_cpus).at("cpuset_cpus")?,
        cpuset_mems: cpu_list(wire.cpuset_mems).at("cpuset_mems")?,
        hugepages: wire
            .hugepage_limits
            .into_iter()
            .map(|limit| {
                let page_size = page_size(limit.page_size).at("hugepage_limits.page_size")?;
                Ok(HugepageLimit { page_size, limit_bytes: limit.limit })
            })
            .collect::<Result<_, Refusal>>()?,
        unified: wire.unified.into_iter().collect(),
        pids_max: 0,
    })
}

/// UpdateContainerResources. What is for Windows says nothing here.
pub(crate) fn update_container(
    request: wire::UpdateContainerResourcesRequest,
) -> Result<(IdPrefix, Resources), Refusal> {
    let container = id("container_id", &request.container_id)?;
    let change = request.linux.map(resources).transpose().under("linux");
    let change = change.map_err(|refusal| refusal.of(&format!("container {container}")))?;
    Ok((container, change.unwrap_or_default()))
}

/// UpdatePodSandboxResources.
pub(crate) fn update_pod(
    request: wire::UpdatePodSandboxResourcesRequest,
) -> Result<(IdPrefix, PodLimits), Refusal> {
    let pod = id("pod_sandbox_id", &request.pod_sandbox_id)?;
    let of_pod = |refusal: Refusal| refusal.of(&format!("pod {pod}"));
    let overhead = request.overhead.map(resources).transpose().under("overhead").map_err(of_pod)?;
    let resources = request.resources.map(resources).transpose().under("resources").map_err(of_pod)?;
    Ok((pod, PodLimits { resources, overhead }))
}

fn period(value: i64) -> Result<u64, Why> {
    match value {
        0 => Ok(0),
        _ if CPU_PERIOD_US.contains(&value) => Ok(value.unsigned_abs()),
        _ => Err(format!("is {value}, not 0 and not 1000 to 1000000 microseconds").into()),
    }
}

/// Any negative quota is "no limit".
fn quota(value: i64) -> Result<i64, Why> {
    if (1..*CPU_PERIOD_US.start()).contains(&value) {
        return Err(format!("is {value}, less than the 1000 microseconds that the kernel takes").into());
    }
    Ok(value.max(-1))
}

fn shares(value: i64) -> Result<u64, Why> {
    match value {
        0 => Ok(0),
        1.. => Ok(value.clamp(CPU_SHARES.0, CPU_SHARES.1).unsigned_abs()),
        _ => Err(format!("is {value}, less than 0").into()),
    }
}

fn oom_score(value: i64) -> Result<i64, Why> {
    if !OOM_SCORE_ADJ.contains(&value) {
        return Err(format!("is {value}, not -1000 to 1000").into());
    }
    Ok(value)
}

/// The kernel's list format, as `0-3,8`. It says itself whether the machine has those CPUs.
fn cpu_list(value: String) -> Result<String, Why> {
    line(CGROUP_VALUE_BYTES_MAX, &value)?;
    if !value.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b',' | b'-')) {
        return Err(format!("{} is no list as \"0-3,8\"", quote(&value)).into());
    }
    Ok(value)
}

/// As in the kernel's file names: `64KB`, `2MB`, `1GB`.
fn page_size(value: String) -> Result<String, Why> {
    let digits = ["KB", "MB", "GB"].iter().find_map(|unit| value.strip_suffix(unit));
    match digits {
        Some(digits)
            if (1..=6).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            Ok(value)
        }
        _ => Err(format!("{} is no page size as \"2MB\"", quote(&value)).into()),
    }
}

/// The key becomes a file name in the container's cgroup: nothing but `controller.name` may pass.
fn unified(key: &str, value: &str) -> Result<(), Why> {
    // Upper case for `hugetlb.2MB.max`.
    let plain = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.'));
    if !plain
        || key.len() > NAME_BYTES_MAX
        || key.starts_with('.')
        || !key.contains('.')
        || key.contains("..")
    {
        return Err(format!("has the key {}, which is no cgroup v2 file", quote(key)).into());
    }
    if value.len() > CGROUP_VALUE_BYTES_MAX || value.contains('\0') {
        return Err(
            format!("has at {key} a value with a NUL or more than {CGROUP_VALUE_BYTES_MAX} bytes").into()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use super::*;

    fn wire() -> wire::LinuxContainerResources {
        wire::LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 50_000,
            cpu_shares: 1024,
            memory_limit_in_bytes: 64 << 20,
            oom_score_adj: -997,
            cpuset_cpus: "0-3,8".into(),
            cpuset_mems: "0".into(),
            hugepage_limits: vec![wire::HugepageLimit { page_size: "2MB".into(), limit: 4 << 20 }],
            unified: HashMap::from([("hugetlb.2MB.max".into(), "max".into())]),
            memory_swap_limit_in_bytes: 64 << 20,
        }
    }

    #[test]
    fn every_field_arrives() {
        let expected = Resources {
            cpu_period_us: 100_000,
            cpu_quota_us: 50_000,
            cpu_shares: 1024,
            memory_bytes: 64 << 20,
            memory_and_swap_bytes: 64 << 20,
            oom_score_adj: -997,
            cpuset_cpus: "0-3,8".into(),
            cpuset_mems: "0".into(),
            hugepages: vec![HugepageLimit { page_size: "2MB".into(), limit_bytes: 4 << 20 }],
            unified: BTreeMap::from([("hugetlb.2MB.max".into(), "max".into())]),
            pids_max: 0,
        };
        assert_eq!(resources(wire()), Ok(expected));
        assert_eq!(resources(wire::LinuxContainerResources::default()), Ok(Resources::default()));
    }

    #[test]
    fn an_update_says_what_it_is_about() {
        let request = |linux| wire::UpdateContainerResourcesRequest {
            container_id: "abc".into(),
            linux,
            ..Default::default()
        };
        assert_eq!(
            update_container(request(None)),
            Ok((IdPrefix::parse("abc").unwrap(), Resources::default()))
        );
        let (_, change) = update_container(request(Some(wire()))).unwrap();
        assert_eq!(change, resources(wire()).unwrap());
        let bad = wire::LinuxContainerResources { cpu_period: 1, ..Default::default() };
        let refusal = update_container(request(Some(bad.clone()))).unwrap_err().to_string();
        assert!(refusal.starts_with("container abc: linux.cpu_period is 1"), "{refusal}");

        let request = |overhead| wire::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: "def".into(),
            overhead,
            resources: Some(wire()),
        };
        let (_, change) = update_pod(request(None)).unwrap();
        assert_eq!(change, PodLimits { resources: resources(wire()).ok(), overhead: None });
        let refusal = update_pod(request(Some(bad))).unwrap_err().to_string();
        assert!(refusal.starts_with("pod def: overhead.cpu_period is 1"), "{refusal}");
    }

    #[test]
    fn shares_are_clamped_as_the_kernel_does() {
        assert_eq!([shares(0), shares(1), shares(1 << 40)], [Ok(0), Ok(2), Ok(262_144)]);
    }

    #[test]
    fn values_that_the_kernel_would_refuse_are_refused_by_name() {
        type Change = fn(&mut wire::LinuxContainerResources);
        let bad: [(&str, Change); 16] = [
            ("cpu_period", |r| r.cpu_period = 999),
            ("cpu_period", |r| r.cpu_period = 1_000_001),
            ("cpu_period", |r| r.cpu_period = -1),
            ("cpu_quota", |r| r.cpu_quota = 999),
            ("cpu_shares", |r| r.cpu_shares = -1),
            ("oom_score_adj", |r| r.oom_score_adj = 1001),
            ("oom_score_adj", |r| r.oom_score_adj = -1001),
            ("memory_swap_limit_in_bytes", |r| r.memory_swap_limit_in_bytes = 1),
            ("cpuset_cpus", |r| r.cpuset_cpus = "0\n1".into()),
            ("cpuset_mems", |r| r.cpuset_mems = "all".into()),
            ("hugepage_limits.page_size", |r| r.hugepage_limits[0].page_size = "../x".into()),
            ("hugepage_limits", |r| {
                r.hugepage_limits = vec![r.hugepage_limits[0].clone(); HUGEPAGES_MAX + 1]
            }),
            ("unified", |r| r.unified = HashMap::from([("../memory.max".into(), "1".into())])),
            ("unified", |r| r.unified = HashMap::from([("memory..max".into(), "1".into())])),
            ("unified", |r| r.unified = HashMap::from([("memory.max".into(), "1\0".into())])),
            ("unified", |r| {
                r.unified = (0..=UNIFIED_MAX).map(|n| (format!("a.{n}"), String::new())).collect()
            }),
        ];
        for (field, change) in bad {
            let mut wire = wire();
            change(&mut wire);
            assert_eq!(resources(wire).unwrap_err().field, field);
        }
    }
}
