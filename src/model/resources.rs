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

impl Resources {
    /// These, with what `change` sets in place of its own. What it does not set stays.
    pub fn changed_by(&self, change: &Self) -> Self {
        fn or<T: Clone + Default + PartialEq>(new: &T, old: &T) -> T {
            if *new == T::default() { old.clone() } else { new.clone() }
        }
        let mut unified = self.unified.clone();
        // A raw setting of the same file would win; the later word has to.
        unified.retain(|file, _| !change.files_v2().contains(&file.as_str()));
        unified.extend(change.unified.clone());
        let is_other =
            |limit: &&HugepageLimit| change.hugepages.iter().all(|new| new.page_size != limit.page_size);
        let kept = self.hugepages.iter().filter(is_other);
        Self {
            cpu_period_us: or(&change.cpu_period_us, &self.cpu_period_us),
            cpu_quota_us: or(&change.cpu_quota_us, &self.cpu_quota_us),
            cpu_shares: or(&change.cpu_shares, &self.cpu_shares),
            memory_bytes: or(&change.memory_bytes, &self.memory_bytes),
            memory_and_swap_bytes: or(&change.memory_and_swap_bytes, &self.memory_and_swap_bytes),
            oom_score_adj: or(&change.oom_score_adj, &self.oom_score_adj),
            cpuset_cpus: or(&change.cpuset_cpus, &self.cpuset_cpus),
            cpuset_mems: or(&change.cpuset_mems, &self.cpuset_mems),
            hugepages: kept.chain(&change.hugepages).cloned().collect(),
            unified,
            pids_max: or(&change.pids_max, &self.pids_max),
        }
    }

    /// What has to be written so that `self` becomes `self.changed_by(change)`: the change, and the other half
    /// of memory and swap, which are one limit in CRI and two in the kernel.
    pub fn step_to(&self, change: &Self) -> Self {
        let after = self.changed_by(change);
        let mut step = change.clone();
        let touched = change.memory_bytes != 0 || change.memory_and_swap_bytes != 0;
        if touched && after.memory_and_swap_bytes != 0 && !after.unified.contains_key("memory.swap.max") {
            step.memory_bytes = after.memory_bytes;
            step.memory_and_swap_bytes = after.memory_and_swap_bytes;
        }
        step
    }

    /// Files of cgroup v2 that the fields beside `unified` stand for.
    fn files_v2(&self) -> Vec<&'static str> {
        let files = [
            ("cpu.weight", self.cpu_shares != 0),
            ("cpu.max", self.cpu_quota_us != 0 || self.cpu_period_us != 0),
            ("memory.max", self.memory_bytes != 0),
            ("memory.swap.max", self.memory_and_swap_bytes != 0),
            ("cpuset.cpus", !self.cpuset_cpus.is_empty()),
            ("cpuset.mems", !self.cpuset_mems.is_empty()),
            ("pids.max", self.pids_max != 0),
        ];
        files.into_iter().filter(|(_, set)| *set).map(|(file, _)| file).collect()
    }
}

/// What a pod may use as a whole, and what it costs besides its containers (CRI `LinuxPodSandboxConfig`).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct PodLimits {
    /// Of all containers together; `None`: no limit.
    pub resources: Option<Resources>,
    /// What a RuntimeClass says that a pod costs by itself.
    pub overhead: Option<Resources>,
}

/// Microseconds of a CFS period where none is given (kernel, `scheduler/sched-bwc`).
const CPU_PERIOD_US: u64 = 100_000;

impl PodLimits {
    /// These, with what `change` sets in place of its own.
    pub fn changed_by(&self, change: &Self) -> Self {
        let changed = |old: &Option<Resources>, new: &Option<Resources>| match (old, new) {
            (old, None) => old.clone(),
            (old, Some(new)) => Some(old.clone().unwrap_or_default().changed_by(new)),
        };
        Self {
            resources: changed(&self.resources, &change.resources),
            overhead: changed(&self.overhead, &change.overhead),
        }
    }

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

    fn huge(page_size: &str, limit_bytes: u64) -> HugepageLimit {
        HugepageLimit { page_size: page_size.into(), limit_bytes }
    }

    #[test]
    fn what_a_change_does_not_set_stays() {
        let before = Resources {
            cpu_period_us: 50_000,
            cpu_quota_us: 25_000,
            cpu_shares: 512,
            memory_bytes: 1 << 20,
            memory_and_swap_bytes: 2 << 20,
            oom_score_adj: 5,
            cpuset_cpus: "0".into(),
            cpuset_mems: "0".into(),
            hugepages: vec![huge("2MB", 1), huge("1GB", 2)],
            unified: [("memory.high".into(), "7".into())].into(),
            pids_max: 9,
        };
        assert_eq!(before.changed_by(&Resources::default()), before);
        let change = Resources {
            memory_bytes: 3 << 20,
            cpuset_cpus: "1".into(),
            hugepages: vec![huge("1GB", 3)],
            ..Resources::default()
        };
        let expected = Resources {
            memory_bytes: 3 << 20,
            cpuset_cpus: "1".into(),
            hugepages: vec![huge("2MB", 1), huge("1GB", 3)],
            ..before.clone()
        };
        assert_eq!(before.changed_by(&change), expected);
        assert_eq!(before.changed_by(&change).changed_by(&change), expected, "twice is once");
    }

    #[test]
    fn a_raw_setting_gives_way_to_a_later_field_of_the_same_file() {
        let unified = [("memory.swap.max", "5"), ("memory.high", "7")];
        let unified = unified.map(|(file, value)| (file.to_owned(), value.to_owned())).into();
        let before = Resources { unified, ..Resources::default() };
        let change = Resources { memory_bytes: 4096, memory_and_swap_bytes: 8192, ..Resources::default() };
        let after = before.changed_by(&change);
        assert_eq!(after.unified.keys().collect::<Vec<_>>(), ["memory.high"]);
    }

    #[test]
    fn memory_and_swap_are_written_together_once_swap_is_limited() {
        let limited = Resources { memory_bytes: 4, memory_and_swap_bytes: 9, ..Resources::default() };
        let change = Resources { memory_bytes: 5, ..Resources::default() };
        let step = limited.step_to(&change);
        assert_eq!((step.memory_bytes, step.memory_and_swap_bytes), (5, 9));
        assert_eq!(limited.step_to(&Resources { cpu_shares: 2, ..Resources::default() }).memory_bytes, 0);
        let free = Resources { memory_bytes: 4, ..Resources::default() };
        assert_eq!(free.step_to(&change), change);
        let unified = [("memory.swap.max".to_owned(), "3".to_owned())].into();
        let by_kubelet = Resources { unified, ..limited };
        assert_eq!(by_kubelet.step_to(&change), change, "the kubelet's own key has the last word on swap");
    }

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

    #[test]
    fn limits_of_a_pod_change_field_by_field() {
        let memory = |bytes| Some(Resources { memory_bytes: bytes, cpu_shares: 3, ..Resources::default() });
        let before = PodLimits { resources: memory(1), overhead: None };
        assert_eq!(before.changed_by(&PodLimits::default()), before);
        let overhead = Some(Resources { memory_bytes: 7, ..Resources::default() });
        let after = before.changed_by(&PodLimits { resources: None, overhead: overhead.clone() });
        assert_eq!(after, PodLimits { resources: memory(1), overhead });
    }
}
