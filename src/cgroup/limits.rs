//! Limits as the files that hold them. Pure: nothing is written here.

use std::borrow::Cow;

use super::Error;
use crate::model::Resources;

/// One file to write.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Setting {
    /// Whose file it is: finds the v1 hierarchy, and is named when it is missing.
    pub(super) controller: &'static str,
    pub(super) file: Cow<'static, str>,
    pub(super) value: String,
    /// The limit's name for the operator.
    pub(super) limit: &'static str,
    /// Files a kernel may lack without loss: passed over when absent.
    pub(super) optional: bool,
}

/// Current values of a cgroup, where that decides the order of writes or fills a gap.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Present {
    /// v1 `memory.memsw.limit_in_bytes`; `None` is no limit, or no such file.
    pub(super) memory_and_swap_bytes: Option<u64>,
    /// Microseconds of one CFS period.
    pub(super) cpu_period_us: u64,
    /// The first word of v2 `cpu.max`.
    pub(super) cpu_quota: String,
}

/// A cgroup just made has no limits (kernel's Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst).
impl Default for Present {
    fn default() -> Self {
        Self { memory_and_swap_bytes: None, cpu_period_us: 100_000, cpu_quota: "max".into() }
    }
}

fn set(controller: &'static str, file: &'static str, value: impl ToString, limit: &'static str) -> Setting {
    Setting { controller, file: file.into(), value: value.to_string(), limit, optional: false }
}

fn bad(limit: &'static str, value: impl ToString, fault: &'static str) -> Error {
    Error::BadLimit { limit, value: value.to_string(), fault }
}

/// The writes that put `resources` into a v1 cgroup, in their order.
pub(super) fn v1(resources: &Resources, present: &Present) -> Result<Vec<Setting>, Error> {
    if let Some(key) = resources.unified.keys().next() {
        return Err(bad("unified", key, "such settings exist on cgroup v2 only, and this host has v1"));
    }
    let mut settings = Vec::new();
    if resources.cpu_shares != 0 {
        settings.push(set("cpu", "cpu.shares", resources.cpu_shares, "cpu shares"));
    }
    settings.extend(cfs(resources, present));
    settings.extend(memory_v1(resources, present)?);
    settings.extend(counted(resources));
    hugepages(resources, "limit_in_bytes", &mut settings)?;
    Ok(settings)
}

/// The kernel holds quota ÷ period below the parent's at each single write, so the write that makes the
/// fraction smaller goes first.
fn cfs(resources: &Resources, present: &Present) -> Vec<Setting> {
    let mut settings = Vec::new();
    if resources.cpu_period_us != 0 {
        settings.push(set("cpu", "cpu.cfs_period_us", resources.cpu_period_us, "cpu period"));
    }
    if resources.cpu_quota_us != 0 {
        let quota = resources.cpu_quota_us.max(-1);
        settings.push(set("cpu", "cpu.cfs_quota_us", quota, "cpu quota"));
    }
    if resources.cpu_period_us < present.cpu_period_us {
        settings.reverse();
    }
    settings
}

/// The kernel holds memory ≤ memory and swap at each single write: on the way up the sum goes first, on the
/// way down last.
fn memory_v1(resources: &Resources, present: &Present) -> Result<Vec<Setting>, Error> {
    let (memory, sum) = memory_pair(resources)?;
    let mut settings = Vec::new();
    if memory != 0 {
        settings.push(set("memory", "memory.limit_in_bytes", memory, "memory limit"));
    }
    if sum != 0 {
        let file = "memory.memsw.limit_in_bytes";
        // Absent where the kernel does not account swap; then there is none to limit.
        settings.push(Setting { optional: true, ..set("memory", file, sum, "memory and swap limit") });
    }
    let rises =
        present.memory_and_swap_bytes.is_some_and(|now| u64::try_from(sum).map_or(true, |sum| sum > now));
    if rises {
        settings.reverse();
    }
    Ok(settings)
}

/// Memory, and memory with swap, checked against each other; 0 is "not set", −1 "no limit".
fn memory_pair(resources: &Resources) -> Result<(i64, i64), Error> {
    let memory = resources.memory_bytes.max(-1);
    let sum = match resources.memory_and_swap_bytes.max(-1) {
        // No limit on memory alone would be refused while the sum still has one.
        0 if memory == -1 => -1,
        sum => sum,
    };
    if sum > 0 && memory > sum {
        return Err(bad("memory and swap limit", sum, "it is less than the memory limit, which it includes"));
    }
    Ok((memory, sum))
}

/// Settings with the same name in v1 and v2.
fn counted(resources: &Resources) -> Vec<Setting> {
    let mut settings = Vec::new();
    if resources.pids_max != 0 {
        settings.push(set("pids", "pids.max", resources.pids_max, "pids limit"));
    }
    for (file, list) in [("cpuset.cpus", &resources.cpuset_cpus), ("cpuset.mems", &resources.cpuset_mems)] {
        if !list.is_empty() {
            settings.push(set("cpuset", file, list, "cpuset"));
        }
    }
    settings
}

/// A page size's limit may be 0 bytes: that is a limit. The file's name is made of the size, so the size must
/// be one. Reservations (`rsvd`, Linux 5.7) are held to the same number.
fn hugepages(resources: &Resources, ending: &'static str, settings: &mut Vec<Setting>) -> Result<(), Error> {
    for limit in &resources.hugepages {
        let size = &limit.page_size;
        let number = size.strip_suffix("KB").or(size.strip_suffix("MB")).or(size.strip_suffix("GB"));
        if !number.is_some_and(|n| !n.is_empty() && n.len() <= 8 && n.bytes().all(|b| b.is_ascii_digit())) {
            return Err(bad("hugepage limit", size, "it is not a page size such as 2MB"));
        }
        for (middle, optional) in [("", limit.limit_bytes == 0), (".rsvd", true)] {
            settings.push(Setting {
                controller: "hugetlb",
                file: format!("hugetlb.{size}{middle}.{ending}").into(),
                value: limit.limit_bytes.to_string(),
                limit: "hugepage limit",
                // Without the controller none of these pages can be had by limit; asking for 0 loses nothing.
                optional,
            });
        }
    }
    Ok(())
}

/// The writes that put `resources` into a v2 cgroup, in their order. `unified` wins over what the other
/// fields say about the same file.
pub(super) fn v2(resources: &Resources, present: &Present) -> Result<Vec<Setting>, Error> {
    let mut settings = Vec::new();
    if resources.cpu_shares != 0 {
        settings.push(set("cpu", "cpu.weight", weight_of_shares(resources.cpu_shares), "cpu shares"));
    }
    if let Some(max) = cpu_max(resources, present) {
        settings.push(set("cpu", "cpu.max", max, "cpu quota"));
    }
    settings.extend(memory_v2(resources)?);
    settings.extend(counted(resources));
    hugepages(resources, "max", &mut settings)?;
    for (key, value) in &resources.unified {
        let setting = raw(key, value)?;
        settings.retain(|other| other.file != setting.file);
        settings.push(setting);
    }
    Ok(settings)
}

/// `cpu.weight` (1 to 10000) of `cpu.shares` (2 to 262144), so that 1024 becomes 100.
///
/// The curve is 10^((l² + 125 l − 126) ÷ 612) with l = log2 of the shares: 2, 1024 and 262144 shares become
/// 1, 100 and 10000 exactly. The straight line that came before it made 39 of 1024 (KEP-2254).
#[expect(clippy::cast_possible_truncation, reason = "the weight is clamped before the cast")]
pub(super) fn weight_of_shares(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    // At most 2^18: a double holds it exactly.
    let l = f64::from(u32::try_from(shares).unwrap_or(u32::MAX)).log2();
    let weight = 10f64.powf((l * l + 125.0 * l - 126.0) / 612.0);
    // The three exact points must not be lifted by a last digit's error.
    let weight = if (weight - weight.round()).abs() < 1e-6 { weight.round() } else { weight.ceil() };
    weight.clamp(1.0, 10_000.0) as u64
}

/// One number alone keeps the period that is there; a period alone keeps the quota.
fn cpu_max(resources: &Resources, present: &Present) -> Option<String> {
    let quota = match resources.cpu_quota_us {
        0 => present.cpu_quota.clone(),
        below if below < 0 => "max".into(),
        quota => quota.to_string(),
    };
    match (resources.cpu_quota_us, resources.cpu_period_us) {
        (0, 0) => None,
        (_, 0) => Some(quota),
        (_, period) => Some(format!("{quota} {period}")),
    }
}

/// v2 limits swap apart from memory, CRI the sum of both.
fn memory_v2(resources: &Resources) -> Result<Vec<Setting>, Error> {
    let limit_of = |bytes: i64| if bytes < 0 { "max".to_owned() } else { bytes.to_string() };
    let (memory, sum) = memory_pair(resources)?;
    let mut settings = Vec::new();
    if memory != 0 {
        settings.push(set("memory", "memory.max", limit_of(memory), "memory limit"));
    }
    if sum > 0 && memory <= 0 {
        return Err(bad("memory and swap limit", sum, "it needs a memory limit to be told apart from"));
    }
    if sum != 0 {
        let swap = if sum < 0 { -1 } else { sum - memory };
        settings.push(Setting {
            // Absent where the kernel has no swap: then no swap and all of it are the same.
            optional: swap <= 0,
            ..set("memory", "memory.swap.max", limit_of(swap), "swap limit")
        });
    }
    Ok(settings)
}

/// Longest value of a raw setting; bytes. The kernel takes no more than a page in one write.
const UNIFIED_VALUE_BYTES_MAX: usize = 4096;

/// Controllers whose files a raw setting may name. `cgroup.*` is not among them: those files are ours.
const UNIFIED_CONTROLLERS: [&str; 8] = ["cpu", "cpuset", "hugetlb", "io", "memory", "misc", "pids", "rdma"];

fn raw(key: &str, value: &str) -> Result<Setting, Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let controller = UNIFIED_CONTROLLERS
        .into_iter()
        .find(|name| key.strip_prefix(name).is_some_and(|rest| rest.len() > 1 && rest.starts_with('.')))
        .filter(|_| key.bytes().all(plain) && !key.contains(".."));
    let Some(controller) = controller else {
        return Err(bad("unified", key, "it is not a file of a cgroup v2 controller"));
    };
    if value.len() > UNIFIED_VALUE_BYTES_MAX {
        return Err(bad("unified", key, "its value is longer than 4096 bytes"));
    }
    // The kubelet forbids swap by this key, also where the kernel has none and so no such file.
    let optional = (key, value) == ("memory.swap.max", "0");
    Ok(Setting { controller, file: key.to_owned().into(), value: value.into(), limit: "unified", optional })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::HugepageLimit;

    fn lines(settings: Result<Vec<Setting>, Error>) -> Vec<String> {
        settings.unwrap().into_iter().map(|each| format!("{}={}", each.file, each.value)).collect()
    }

    fn full() -> Resources {
        Resources {
            cpu_period_us: 50_000,
            cpu_quota_us: 25_000,
            cpu_shares: 1024,
            memory_bytes: 1 << 20,
            memory_and_swap_bytes: 3 << 20,
            cpuset_cpus: "0-1".into(),
            cpuset_mems: "0".into(),
            hugepages: vec![HugepageLimit { page_size: "2MB".into(), limit_bytes: 4 << 20 }],
            pids_max: 64,
            ..Resources::default()
        }
    }

    #[test]
    fn nothing_set_writes_nothing() {
        let none = Resources { oom_score_adj: 500, ..Resources::default() };
        assert_eq!(v1(&none, &Present::default()).unwrap(), []);
        assert_eq!(v2(&none, &Present::default()).unwrap(), []);
    }

    #[test]
    fn every_limit_has_its_v1_file() {
        assert_eq!(
            lines(v1(&full(), &Present::default())),
            [
                "cpu.shares=1024",
                "cpu.cfs_quota_us=25000",
                "cpu.cfs_period_us=50000",
                "memory.limit_in_bytes=1048576",
                "memory.memsw.limit_in_bytes=3145728",
                "pids.max=64",
                "cpuset.cpus=0-1",
                "cpuset.mems=0",
                "hugetlb.2MB.limit_in_bytes=4194304",
                "hugetlb.2MB.rsvd.limit_in_bytes=4194304",
            ]
        );
    }

    #[test]
    fn every_limit_has_its_v2_file_and_swap_is_what_the_sum_leaves() {
        assert_eq!(
            lines(v2(&full(), &Present::default())),
            [
                "cpu.weight=100",
                "cpu.max=25000 50000",
                "memory.max=1048576",
                "memory.swap.max=2097152",
                "pids.max=64",
                "cpuset.cpus=0-1",
                "cpuset.mems=0",
                "hugetlb.2MB.max=4194304",
                "hugetlb.2MB.rsvd.max=4194304",
            ]
        );
    }

    #[test]
    fn the_memory_sum_goes_first_on_the_way_up_and_last_on_the_way_down() {
        let present = Present { memory_and_swap_bytes: Some(2 << 20), ..Present::default() };
        let up = Resources { memory_bytes: 3 << 20, memory_and_swap_bytes: 4 << 20, ..Resources::default() };
        assert_eq!(
            lines(v1(&up, &present)),
            ["memory.memsw.limit_in_bytes=4194304", "memory.limit_in_bytes=3145728"]
        );
        let down =
            Resources { memory_bytes: 1 << 19, memory_and_swap_bytes: 1 << 20, ..Resources::default() };
        assert_eq!(
            lines(v1(&down, &present)),
            ["memory.limit_in_bytes=524288", "memory.memsw.limit_in_bytes=1048576"]
        );
        let free = Resources { memory_bytes: -1, ..Resources::default() };
        assert_eq!(
            lines(v1(&free, &present)),
            ["memory.memsw.limit_in_bytes=-1", "memory.limit_in_bytes=-1"]
        );
    }

    #[test]
    fn a_longer_period_goes_before_the_quota_and_a_shorter_one_after_it() {
        let resources =
            |period| Resources { cpu_period_us: period, cpu_quota_us: 7000, ..Resources::default() };
        let longer = lines(v1(&resources(200_000), &Present::default()));
        assert_eq!(longer, ["cpu.cfs_period_us=200000", "cpu.cfs_quota_us=7000"]);
        let shorter = lines(v1(&resources(20_000), &Present::default()));
        assert_eq!(shorter, ["cpu.cfs_quota_us=7000", "cpu.cfs_period_us=20000"]);
    }

    #[test]
    fn negative_is_no_limit() {
        let free = Resources {
            cpu_quota_us: -5,
            memory_bytes: -5,
            memory_and_swap_bytes: -5,
            ..Resources::default()
        };
        assert_eq!(
            lines(v1(&free, &Present::default())),
            ["cpu.cfs_quota_us=-1", "memory.limit_in_bytes=-1", "memory.memsw.limit_in_bytes=-1"]
        );
        assert_eq!(
            lines(v2(&free, &Present::default())),
            ["cpu.max=max", "memory.max=max", "memory.swap.max=max"]
        );
    }

    #[test]
    fn a_period_alone_keeps_the_quota_on_v2() {
        let resources = Resources { cpu_period_us: 20_000, ..Resources::default() };
        let present = Present { cpu_quota: "7000".into(), ..Present::default() };
        assert_eq!(lines(v2(&resources, &present)), ["cpu.max=7000 20000"]);
        assert_eq!(lines(v2(&resources, &Present::default())), ["cpu.max=max 20000"]);
    }

    #[test]
    fn a_sum_below_the_memory_in_it_is_refused() {
        let less = Resources { memory_bytes: 2, memory_and_swap_bytes: 1, ..Resources::default() };
        assert!(matches!(v1(&less, &Present::default()), Err(Error::BadLimit { .. })));
        assert!(matches!(v2(&less, &Present::default()), Err(Error::BadLimit { .. })));
        let alone = Resources { memory_and_swap_bytes: 1, ..Resources::default() };
        assert!(matches!(v2(&alone, &Present::default()), Err(Error::BadLimit { .. })));
    }

    #[test]
    fn swap_that_no_kernel_file_limits_is_an_error_only_when_some_is_allowed() {
        let optional = |sum| {
            let resources = Resources { memory_bytes: 8, memory_and_swap_bytes: sum, ..Resources::default() };
            let settings = v2(&resources, &Present::default()).unwrap();
            settings.into_iter().find(|each| each.file == "memory.swap.max").unwrap().optional
        };
        assert!(optional(8) && optional(-1));
        assert!(!optional(9));
    }

    #[test]
    fn unified_wins_and_names_only_files_of_controllers() {
        let mut resources = full();
        resources.unified = [("memory.max", "42"), ("memory.high", "41")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        let lines = lines(v2(&resources, &Present::default()));
        assert_eq!(lines.iter().filter(|line| line.starts_with("memory.max=")).count(), 1);
        assert!(lines.contains(&"memory.max=42".to_owned()) && lines.contains(&"memory.high=41".to_owned()));
        for key in ["", "cgroup.kill", "cgroup.procs", "memory", "memory.", "memory./../x", "../memory.max"] {
            let resources =
                Resources { unified: [(key.to_owned(), String::new())].into(), ..Resources::default() };
            let refused = v2(&resources, &Present::default());
            assert!(matches!(refused, Err(Error::BadLimit { .. })), "{key:?}");
            assert!(matches!(v1(&resources, &Present::default()), Err(Error::BadLimit { .. })), "{key:?}");
        }
        assert!(raw("memory.max", &"1".repeat(4097)).is_err());
    }

    #[test]
    fn a_page_size_is_a_number_and_a_unit() {
        for size in ["", "MB", "2", "2XB", "../2MB", "2 MB", "123456789KB"] {
            let hugepages = vec![HugepageLimit { page_size: size.into(), limit_bytes: 0 }];
            let resources = Resources { hugepages, ..Resources::default() };
            assert!(v1(&resources, &Present::default()).is_err(), "{size:?}");
        }
    }

    #[test]
    fn shares_become_weights_with_the_three_fixed_points_exact() {
        let known = [(0, 1), (2, 1), (10, 4), (512, 59), (1024, 100), (2048, 174), (262_144, 10_000)];
        for (shares, weight) in known {
            assert_eq!(weight_of_shares(shares), weight, "{shares} shares");
        }
        assert_eq!(weight_of_shares(u64::MAX), 10_000);
    }

    proptest! {
        #[test]
        fn more_shares_never_weigh_less(a in 0u64..300_000, b in 0u64..300_000) {
            let (less, more) = (a.min(b), a.max(b));
            prop_assert!(weight_of_shares(less) <= weight_of_shares(more));
            prop_assert!((1..=10_000).contains(&weight_of_shares(a)));
        }

        #[test]
        fn whatever_is_asked_each_file_is_written_once_and_stays_in_its_directory(
            memory in -2i64..9, sum in -2i64..9, quota in -2i64..9, period in 0u64..9,
            key in "[a-z./]{0,12}", size in "[0-9MBKG/.]{0,5}",
        ) {
            let resources = Resources {
                memory_bytes: memory, memory_and_swap_bytes: sum, cpu_quota_us: quota, cpu_period_us: period,
                hugepages: vec![HugepageLimit { page_size: size, limit_bytes: 1 }],
                unified: [(key, String::new())].into(),
                ..Resources::default()
            };
            let without = Resources { unified: Default::default(), ..resources.clone() };
            for settings in [v1(&without, &Present::default()), v2(&resources, &Present::default())] {
                let Ok(settings) = settings else { continue };
                let mut files: Vec<_> = settings.iter().map(|each| each.file.to_string()).collect();
                prop_assert!(files.iter().all(|file| !file.contains('/') && !file.is_empty()));
                files.sort();
                let count = files.len();
                files.dedup();
                prop_assert_eq!(files.len(), count);
            }
        }
    }
}
