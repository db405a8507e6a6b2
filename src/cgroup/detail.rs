//! Figures of a container for metrics beyond its [`Usage`]: throttling, peaks, failures, devices, huge pages and
//! processes. Read when metrics are asked for, not for every list of statistics.

use std::io;

use super::{
    Container, Usage,
    figures::{self, CpuStat, DeviceIo},
    group::{Group, Version},
    kill,
    tree::{self, Visit},
    usage::Files,
};

/// Processes of one container that are looked at. A fork bomb has more; its metrics say this many.
const PROCESSES_MAX: usize = 4096;

/// Cgroups inside one container that are searched for processes.
const CGROUPS_MAX: usize = 1024;

/// Figures of one container's cgroup and of all below it. A counter that the kernel lacks is zero.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Detail {
    pub usage: Usage,
    /// CPU time in programs and in the kernel, ns.
    pub cpu_user_ns: u64,
    pub cpu_system_ns: u64,
    /// Periods in which it could run under a quota, and those in which the quota ran out.
    pub cpu_periods: u64,
    pub cpu_throttled_periods: u64,
    pub cpu_throttled_ns: u64,
    /// The most memory it ever had; bytes. On kernels without that (v2 before 5.19), what it has now.
    pub memory_peak: u64,
    /// Times that it ran into its limit.
    pub memory_failures: u64,
    /// Processes killed for want of memory.
    pub oom_kills: u64,
    pub io: Vec<DeviceIo>,
    pub hugepages: Vec<Hugepages>,
    /// `None` is no limit.
    pub tasks_max: Option<u64>,
    /// Pids as this process sees them.
    pub processes: Vec<u32>,
}

/// Huge pages of one size; bytes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Hugepages {
    /// As the kernel names it: `2MB`.
    pub page_size: String,
    pub usage: u64,
    /// v2 keeps no peak: then as `usage`.
    pub peak: u64,
}

impl Container {
    /// Reads everything. `page_sizes` are those of the machine: `2MB`. `None`: it is gone.
    pub fn detail(&self, page_sizes: &[String]) -> Option<Detail> {
        let mut files = Files::of(self.group());
        let usage = files.usage()?;
        let mut detail = match files.version() {
            Version::V1 => v1(&mut files),
            Version::V2 => v2(&mut files),
        };
        detail.memory_peak = detail.memory_peak.max(usage.memory.map_or(0, |memory| memory.usage));
        detail.usage = usage;
        if let (Version::V1, Some(memory)) = (files.version(), &mut detail.usage.memory) {
            memory.kernel = files.number("memory", "memory.kmem.usage_in_bytes").unwrap_or(0);
        }
        detail.oom_kills = self.oom_counts().map_or(0, |counts| counts.oom_kill);
        detail.tasks_max = files.text("pids", "pids.max").and_then(figures::limit);
        detail.hugepages = page_sizes.iter().map(|size| hugepages(&mut files, size)).collect();
        detail.processes = processes(self.group());
        Some(detail)
    }
}

fn throttled(stat: CpuStat) -> Detail {
    Detail {
        cpu_user_ns: stat.user_ns,
        cpu_system_ns: stat.system_ns,
        cpu_periods: stat.periods,
        cpu_throttled_periods: stat.throttled_periods,
        cpu_throttled_ns: stat.throttled_ns,
        ..Detail::default()
    }
}

fn v1(files: &mut Files<'_>) -> Detail {
    let mut detail = throttled(files.text("cpu", "cpu.stat").map(figures::cpu_stat_v1).unwrap_or_default());
    let times = files.text("cpuacct", "cpuacct.stat").map(figures::cpuacct_stat);
    (detail.cpu_user_ns, detail.cpu_system_ns) = times.unwrap_or_default();
    detail.memory_peak = files.number("memory", "memory.max_usage_in_bytes").unwrap_or(0);
    detail.memory_failures = files.number("memory", "memory.failcnt").unwrap_or(0);
    let bytes =
        files.text("blkio", "blkio.throttle.io_service_bytes_recursive").unwrap_or_default().to_owned();
    let operations = files.text("blkio", "blkio.throttle.io_serviced_recursive").unwrap_or_default();
    detail.io = figures::blkio(&bytes, operations);
    detail
}

fn v2(files: &mut Files<'_>) -> Detail {
    let mut detail = throttled(files.cpu_stat_v2().unwrap_or_default());
    detail.memory_peak = files.number("memory", "memory.peak").unwrap_or(0);
    let failures = files.text("memory", "memory.events").and_then(|text| super::file::keyed(text, "max"));
    detail.memory_failures = failures.unwrap_or(0);
    detail.io = files.text("io", "io.stat").map(figures::io_stat).unwrap_or_default();
    detail
}

/// Zero without the controller: the size exists on the machine, and nothing of it is counted here.
fn hugepages(files: &mut Files<'_>, size: &str) -> Hugepages {
    let (usage, peak) = match files.version() {
        Version::V1 => ("usage_in_bytes", Some("max_usage_in_bytes")),
        Version::V2 => ("current", None),
    };
    let mut read = |name| files.number("hugetlb", &format!("hugetlb.{size}.{name}"));
    let usage = read(usage).unwrap_or(0);
    let peak = peak.and_then(read).unwrap_or(usage);
    Hugepages { page_size: size.to_owned(), usage, peak }
}

/// Its processes and those of all cgroups below, such as execs; as many as the limits allow.
fn processes(group: &Group) -> Vec<u32> {
    let (mut pids, mut cgroups) = (Vec::new(), 0);
    let Some(directory) = group.processes_directory() else { return pids };
    // An error ends the walk: what was found until then is returned.
    let _walked = tree::walk(&directory, &mut |visit| {
        let Visit::Enter(at) = visit else { return Ok(()) };
        cgroups += 1;
        let mut full = cgroups >= CGROUPS_MAX;
        kill::processes_in(at, &mut |pid| {
            full |= pids.len() >= PROCESSES_MAX;
            if full {
                return Err(io::ErrorKind::QuotaExceeded.into());
            }
            pids.push(pid.as_raw_nonzero().get().unsigned_abs());
            Ok(())
        })?;
        if full { Err(io::ErrorKind::QuotaExceeded.into()) } else { Ok(()) }
    });
    pids
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::cgroup::tree::Tree;

    fn container(version: Version, top: &Path, controllers: &[&str], files: &[(&str, &str)]) -> Container {
        fs::create_dir_all(top.join("ctr")).unwrap();
        for (name, text) in files {
            fs::write(top.join("ctr").join(name), text).unwrap();
        }
        let controllers = controllers.iter().map(|&name| name.to_owned()).collect();
        let tree = Tree { mountpoint: top.into(), controllers };
        Container::new(Group { version, trees: [tree].into(), path: "/ctr".into(), leaf: None, pod: None })
    }

    const SIZES: fn() -> Vec<String> = || vec!["2MB".to_owned()];

    #[test]
    fn v2_is_told_in_full() {
        let top = tempfile::tempdir().unwrap();
        let files = [
            (
                "cpu.stat",
                "usage_usec 9\nuser_usec 5\nsystem_usec 4\nnr_periods 3\nnr_throttled 2\nthrottled_usec 1\n",
            ),
            ("memory.current", "100\n"),
            ("memory.stat", "anon 1\nkernel 7\n"),
            ("memory.peak", "150\n"),
            ("memory.events", "low 0\nmax 6\noom_kill 2\n"),
            ("io.stat", "8:0 rbytes=1\n"),
            ("pids.max", "max\n"),
            ("hugetlb.2MB.current", "2097152\n"),
            ("cgroup.procs", "11\n12\n"),
        ];
        let container = container(Version::V2, top.path(), &[], &files);
        fs::create_dir(top.path().join("ctr/exec-1")).unwrap();
        fs::write(top.path().join("ctr/exec-1/cgroup.procs"), "13\n").unwrap();
        let detail = container.detail(&SIZES()).unwrap();
        assert_eq!(detail.usage.memory.unwrap().kernel, 7);
        let expected = Detail {
            usage: detail.usage,
            cpu_user_ns: 5000,
            cpu_system_ns: 4000,
            cpu_periods: 3,
            cpu_throttled_periods: 2,
            cpu_throttled_ns: 1000,
            memory_peak: 150,
            memory_failures: 6,
            oom_kills: 2,
            io: vec![DeviceIo { major: 8, read_bytes: 1, ..DeviceIo::default() }],
            hugepages: vec![Hugepages { page_size: "2MB".into(), usage: 2 << 20, peak: 2 << 20 }],
            tasks_max: None,
            processes: vec![11, 12, 13],
        };
        assert_eq!(detail, expected);
    }

    #[test]
    fn v1_is_told_in_full() {
        let top = tempfile::tempdir().unwrap();
        let files = [
            ("cpu.stat", "nr_periods 3\nnr_throttled 2\nthrottled_time 1\n"),
            ("cpuacct.stat", "user 5\nsystem 4\n"),
            ("memory.usage_in_bytes", "100\n"),
            ("memory.stat", "total_rss 1\n"),
            ("memory.max_usage_in_bytes", "150\n"),
            ("memory.failcnt", "6\n"),
            ("memory.kmem.usage_in_bytes", "7\n"),
            ("memory.oom_control", "oom_kill 2\n"),
            ("blkio.throttle.io_service_bytes_recursive", "8:0 Read 1\n"),
            ("pids.max", "20\n"),
            ("hugetlb.2MB.usage_in_bytes", "0\n"),
            ("hugetlb.2MB.max_usage_in_bytes", "2097152\n"),
            ("cgroup.procs", "11\n"),
        ];
        let controllers = ["cpu", "cpuacct", "memory", "blkio", "pids", "hugetlb", "freezer"];
        let container = container(Version::V1, top.path(), &controllers, &files);
        let detail = container.detail(&SIZES()).unwrap();
        assert_eq!(detail.usage.memory.unwrap().kernel, 7);
        let expected = Detail {
            usage: detail.usage,
            cpu_user_ns: 50_000_000,
            cpu_system_ns: 40_000_000,
            cpu_periods: 3,
            cpu_throttled_periods: 2,
            cpu_throttled_ns: 1,
            memory_peak: 150,
            memory_failures: 6,
            oom_kills: 2,
            io: vec![DeviceIo { major: 8, read_bytes: 1, ..DeviceIo::default() }],
            hugepages: vec![Hugepages { page_size: "2MB".into(), usage: 0, peak: 2 << 20 }],
            tasks_max: Some(20),
            processes: vec![11],
        };
        assert_eq!(detail, expected);
    }

    #[test]
    fn what_a_kernel_lacks_is_zero_and_a_peak_is_never_below_the_usage() {
        let top = tempfile::tempdir().unwrap();
        let files = [("memory.current", "100\n"), ("memory.stat", "")];
        let container = container(Version::V2, top.path(), &[], &files);
        let detail = container.detail(&SIZES()).unwrap();
        assert_eq!((detail.memory_peak, detail.oom_kills, detail.cpu_periods), (100, 0, 0));
        assert_eq!(detail.hugepages[0].usage, 0);
        fs::remove_dir_all(top.path().join("ctr")).unwrap();
        assert_eq!(container.detail(&SIZES()), None);
    }

    #[test]
    fn a_fork_bomb_is_counted_up_to_the_limit() {
        let top = tempfile::tempdir().unwrap();
        let many: String = (1..20_000).map(|pid| format!("{pid}\n")).collect();
        let container = container(Version::V2, top.path(), &[], &[("cgroup.procs", &many)]);
        assert_eq!(container.detail(&[]).unwrap().processes.len(), PROCESSES_MAX);
    }
}
