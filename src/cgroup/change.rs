//! Changes of limits: what holds afterwards, and what has to be written. Pure.

use crate::model::{HugepageLimit, PodLimits, Resources};

/// The limits `before`, with what `change` sets in place of theirs. What it does not set stays.
pub fn changed(before: &Resources, change: &Resources) -> Resources {
    fn or<T: Clone + Default + PartialEq>(new: &T, old: &T) -> T {
        if *new == T::default() { old.clone() } else { new.clone() }
    }
    let mut unified = before.unified.clone();
    // A raw setting of the same file would win; the later word has to.
    unified.retain(|file, _| !files_v2(change).contains(&file.as_str()));
    unified.extend(change.unified.clone());
    let is_other =
        |limit: &&HugepageLimit| change.hugepages.iter().all(|new| new.page_size != limit.page_size);
    let kept = before.hugepages.iter().filter(is_other);
    Resources {
        cpu_period_us: or(&change.cpu_period_us, &before.cpu_period_us),
        cpu_quota_us: or(&change.cpu_quota_us, &before.cpu_quota_us),
        cpu_shares: or(&change.cpu_shares, &before.cpu_shares),
        memory_bytes: or(&change.memory_bytes, &before.memory_bytes),
        memory_and_swap_bytes: or(&change.memory_and_swap_bytes, &before.memory_and_swap_bytes),
        oom_score_adj: or(&change.oom_score_adj, &before.oom_score_adj),
        cpuset_cpus: or(&change.cpuset_cpus, &before.cpuset_cpus),
        cpuset_mems: or(&change.cpuset_mems, &before.cpuset_mems),
        hugepages: kept.chain(&change.hugepages).cloned().collect(),
        unified,
        pids_max: or(&change.pids_max, &before.pids_max),
    }
}

/// A pod's limits, with what `change` sets in place of theirs.
pub fn pod_changed(before: &PodLimits, change: &PodLimits) -> PodLimits {
    let either = |old: &Option<Resources>, new: &Option<Resources>| match (old, new) {
        (old, None) => old.clone(),
        (old, Some(new)) => Some(changed(&old.clone().unwrap_or_default(), new)),
    };
    PodLimits {
        resources: either(&before.resources, &change.resources),
        overhead: either(&before.overhead, &change.overhead),
    }
}

/// The settings to write so that `before` becomes [`changed`]: the change, and the other half of memory and swap,
/// which are one limit in CRI and two in the kernel.
pub fn step(before: &Resources, change: &Resources) -> Resources {
    let after = changed(before, change);
    let mut step = change.clone();
    let touched = change.memory_bytes != 0 || change.memory_and_swap_bytes != 0;
    if touched && after.memory_and_swap_bytes != 0 && !after.unified.contains_key("memory.swap.max") {
        step.memory_bytes = after.memory_bytes;
        step.memory_and_swap_bytes = after.memory_and_swap_bytes;
    }
    step
}

/// Files of cgroup v2 that are written for the fields beside `unified`.
fn files_v2(resources: &Resources) -> Vec<&'static str> {
    let files = [
        ("cpu.weight", resources.cpu_shares != 0),
        ("cpu.max", resources.cpu_quota_us != 0 || resources.cpu_period_us != 0),
        ("memory.max", resources.memory_bytes != 0),
        ("memory.swap.max", resources.memory_and_swap_bytes != 0),
        ("cpuset.cpus", !resources.cpuset_cpus.is_empty()),
        ("cpuset.mems", !resources.cpuset_mems.is_empty()),
        ("pids.max", resources.pids_max != 0),
    ];
    files.into_iter().filter(|(_, set)| *set).map(|(file, _)| file).collect()
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
        assert_eq!(changed(&before, &Resources::default()), before);
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
        assert_eq!(changed(&before, &change), expected);
        assert_eq!(changed(&changed(&before, &change), &change), expected, "twice is once");
    }

    #[test]
    fn a_raw_setting_gives_way_to_a_later_field_of_the_same_file() {
        let unified = [("memory.swap.max", "5"), ("memory.high", "7")];
        let unified = unified.map(|(file, value)| (file.to_owned(), value.to_owned())).into();
        let before = Resources { unified, ..Resources::default() };
        let change = Resources { memory_bytes: 4096, memory_and_swap_bytes: 8192, ..Resources::default() };
        let after = changed(&before, &change);
        assert_eq!(after.unified.keys().collect::<Vec<_>>(), ["memory.high"]);
    }

    #[test]
    fn memory_and_swap_are_written_together_once_swap_is_limited() {
        let limited = Resources { memory_bytes: 4, memory_and_swap_bytes: 9, ..Resources::default() };
        let change = Resources { memory_bytes: 5, ..Resources::default() };
        let written = step(&limited, &change);
        assert_eq!((written.memory_bytes, written.memory_and_swap_bytes), (5, 9));
        assert_eq!(step(&limited, &Resources { cpu_shares: 2, ..Resources::default() }).memory_bytes, 0);
        let free = Resources { memory_bytes: 4, ..Resources::default() };
        assert_eq!(step(&free, &change), change);
        let unified = [("memory.swap.max".to_owned(), "3".to_owned())].into();
        let by_kubelet = Resources { unified, ..limited };
        assert_eq!(step(&by_kubelet, &change), change, "the kubelet's own key has the last word on swap");
    }

    #[test]
    fn limits_of_a_pod_change_field_by_field() {
        let memory = |bytes| Some(Resources { memory_bytes: bytes, cpu_shares: 3, ..Resources::default() });
        let before = PodLimits { resources: memory(1), overhead: None };
        assert_eq!(pod_changed(&before, &PodLimits::default()), before);
        let overhead = Some(Resources { memory_bytes: 7, ..Resources::default() });
        let after = pod_changed(&before, &PodLimits { resources: None, overhead: overhead.clone() });
        assert_eq!(after, PodLimits { resources: memory(1), overhead });
    }
}
