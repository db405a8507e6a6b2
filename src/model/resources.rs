//! Limits of containers and pods, as they are asked for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Limits of one container or pod (CRI `LinuxContainerResources`). A zero or empty field is "not set".
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Resources {
    /// Microseconds of one CFS period.
    pub cpu_period_us: u64,
    /// Microseconds of CPU time per period; negative is "no limit".
    pub cpu_quota_us: i64,
    /// Relative weight, 2 to 262144 (cgroup v1's `cpu.shares`).
    pub cpu_shares: u64,
    /// Bytes of memory; negative is "no limit".
    pub memory_bytes: i64,
    /// Bytes of memory *and* swap together; negative is "no limit".
    pub memory_and_swap_bytes: i64,
    /// −1000 to 1000, written to `/proc/PID/oom_score_adj` of the init process.
    pub oom_score_adj: i64,
    /// CPUs the container may run on, in list format.
    pub cpuset_cpus: String,
    /// Memory nodes the container may allocate from, in list format.
    pub cpuset_mems: String,
    /// Limits of huge pages, one for each page size.
    pub hugepages: Vec<HugepageLimit>,
    /// Raw cgroup v2 files and what to write to them; they win over the fields above.
    pub unified: BTreeMap<String, String>,
    /// Processes and threads at most; zero is "no limit". CRI has no field for it: it is the node's default.
    pub pids_max: u64,
}

/// Limit of one size of huge page (CRI `HugepageLimit`).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct HugepageLimit {
    /// As the kernel names it: `2MB`, `1GB`.
    pub page_size: String,
    /// Bytes.
    pub limit_bytes: u64,
}

/// Limits of a pod as a whole, and what it costs besides its containers (CRI `LinuxPodSandboxConfig`).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct PodLimits {
    /// Of all containers together; `None`: no limit.
    pub resources: Option<Resources>,
    /// The cost of a pod by itself, by its RuntimeClass.
    pub overhead: Option<Resources>,
}

/// Microseconds of a CFS period where none is given (kernel, `scheduler/sched-bwc`).
const CPU_PERIOD_US: u64 = 100_000;

impl PodLimits {
    /// The limits of the pod's cgroup: the containers' and the overhead. What is not limited for the
    /// containers is not limited by the overhead alone.
    pub fn total(&self) -> Resources {
        let mut total = self.resources.clone().unwrap_or_default();
        let Some(overhead) = &self.overhead else { return total };
        let memory = overhead.memory_bytes.max(0);
        for bytes in [&mut total.memory_bytes, &mut total.memory_and_swap_bytes] {
            if *bytes > 0 {
                *bytes = bytes.saturating_add(memory);
            }
        }
        if total.cpu_quota_us > 0 && overhead.cpu_quota_us > 0 {
            let period = |us| if us == 0 { CPU_PERIOD_US } else { us };
            let quota = i128::from(overhead.cpu_quota_us) * i128::from(period(total.cpu_period_us));
            let quota = i64::try_from(quota / i128::from(period(overhead.cpu_period_us)));
            total.cpu_quota_us = total.cpu_quota_us.saturating_add(quota.unwrap_or(i64::MAX));
        }
        if total.cpu_shares > 0 {
            total.cpu_shares = total.cpu_shares.saturating_add(overhead.cpu_shares);
        }
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_may_use_what_its_containers_may_and_what_it_costs() {
        let resources = Resources {
            memory_bytes: 100,
            memory_and_swap_bytes: 150,
            cpu_quota_us: 10_000,
            cpu_period_us: 50_000,
            cpu_shares: 5,
            ..Resources::default()
        };
        let overhead =
            Resources { memory_bytes: 20, cpu_quota_us: 4_000, cpu_shares: 2, ..Resources::default() };
        let limits = PodLimits { resources: Some(resources), overhead: Some(overhead.clone()) };
        let total = limits.total();
        assert_eq!((total.memory_bytes, total.memory_and_swap_bytes), (120, 170));
        assert_eq!((total.cpu_quota_us, total.cpu_period_us, total.cpu_shares), (12_000, 50_000, 7));
        let alone = PodLimits { resources: None, overhead: Some(overhead) };
        assert_eq!(alone.total(), Resources::default());
    }
}
