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
