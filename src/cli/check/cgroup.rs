use super::{Finding, fail, host::Host, ok, warn};

/// Without these a pod's limits would be silently ignored.
const NEEDED: [&str; 3] = ["cpu", "memory", "pids"];
/// What is lost without the others.
const OPTIONAL: [(&str, &str); 3] = [
    ("cpuset", "containers cannot be bound to processors"),
    ("hugetlb", "huge pages are not limited"),
    ("io", "reading and writing is not accounted"),
];

pub(super) fn questions(host: &Host) -> Vec<Finding> {
    let Some(layout) = Layout::of(&host.read("proc/self/mountinfo").unwrap_or_default()) else {
        return vec![fail("cgroups", "none are mounted on /sys/fs/cgroup: nothing can be limited or killed")];
    };
    let controllers = layout.controllers(host);
    let has = |name: &str| controllers.iter().any(|controller| controller == layout.local_name(name));
    let missing: Vec<_> = NEEDED.into_iter().filter(|name| !has(name)).collect();
    let mut findings = vec![
        match layout {
            Layout::Unified => ok("cgroups", "version 2"),
            Layout::Separate => warn(
                "cgroups",
                "version 1: kubelets from 1.35 on start only with failCgroupV1: false; boot with version 2 if you can",
            ),
        },
        if missing.is_empty() {
            ok("controllers", controllers.join(" "))
        } else {
            fail(
                "controllers",
                format!(
                    "{} missing: pods cannot be limited; look at the kernel's command line",
                    missing.join(", ")
                ),
            )
        },
    ];
    let lost = OPTIONAL.iter().filter(|(name, _)| !has(name));
    findings.extend(lost.map(|(name, loss)| warn("controllers", format!("{name} missing: {loss}"))));
    findings.push(swap(host, layout));
    findings
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Layout {
    /// Version 2 on /sys/fs/cgroup.
    Unified,
    /// Version 1, a version 2 without controllers beside it or not.
    Separate,
}

impl Layout {
    /// From proc_pid_mountinfo(5): field 5 is the mount point, the type follows the ` - `.
    fn of(mountinfo: &str) -> Option<Self> {
        let mounts = mountinfo.lines().filter_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            Some((before.split(' ').nth(4)?, after.split(' ').next()?))
        });
        let mut layout = None;
        for (point, kind) in mounts {
            match (point, kind) {
                ("/sys/fs/cgroup", "cgroup2") => return Some(Self::Unified),
                (point, "cgroup") if point.starts_with("/sys/fs/cgroup/") => layout = Some(Self::Separate),
                _ => {}
            }
        }
        layout
    }

    fn controllers(self, host: &Host) -> Vec<String> {
        match self {
            Self::Unified => {
                let all = host.read("sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
                all.split_whitespace().map(str::to_owned).collect()
            }
            // name, hierarchy, cgroups, enabled; hierarchy 0 is version 2's.
            Self::Separate => {
                let table = host.read("proc/cgroups").unwrap_or_default();
                let rows = table.lines().filter(|line| !line.starts_with('#'));
                let rows = rows.map(|line| line.split_whitespace().collect::<Vec<_>>());
                let on = rows.filter(|row| row.len() == 4 && row[1] != "0" && row[3] == "1");
                on.map(|row| row[0].to_owned()).collect()
            }
        }
    }

    /// What version 1 calls it.
    fn local_name(self, name: &str) -> &str {
        if self == Self::Separate && name == "io" { "blkio" } else { name }
    }
}

fn swap(host: &Host, layout: Layout) -> Finding {
    let on = host.read("proc/swaps").is_some_and(|swaps| swaps.lines().count() > 1);
    let limited = match layout {
        // Only below the root of the tree; the groups of init or of ourselves are such.
        Layout::Unified => {
            let own = host.read("proc/self/cgroup").unwrap_or_default();
            let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
            ["init.scope", "system.slice", own]
                .iter()
                .any(|group| host.has(&format!("sys/fs/cgroup/{group}/memory.swap.max")))
        }
        Layout::Separate => host.has("sys/fs/cgroup/memory/memory.memsw.limit_in_bytes"),
    };
    match (on, limited) {
        (false, _) => ok("swap", "off"),
        (true, true) => ok("swap", "on, and limited for each container"),
        (true, false) => warn("swap", "on, and cannot be limited; boot with swapaccount=1 or turn swap off"),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    const V1: &str = "30 24 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      31 30 0:27 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n\
                      32 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
    const V2: &str = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
    const TABLE: &str = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t2\t1\t1\nmemory\t3\t1\t1\n\
                         pids\t4\t1\t1\nblkio\t5\t1\t1\nhugetlb\t0\t1\t1\ncpuset\t6\t1\t0\n";

    fn levels(files: &[(&str, &str)]) -> Vec<(Level, &'static str)> {
        let (host, _dir) = Host::fake(files);
        questions(&host).into_iter().map(|finding| (finding.level, finding.topic)).collect()
    }

    #[test]
    fn version_2_is_told_from_version_1_and_from_none() {
        assert_eq!(Layout::of(V2), Some(Layout::Unified));
        assert_eq!(Layout::of(V1), Some(Layout::Separate));
        assert_eq!(Layout::of("30 24 0:26 / / rw - ext4 /dev/vda rw\n"), None);
    }

    #[test]
    fn a_controller_that_is_off_or_elsewhere_is_missing() {
        let (host, _dir) = Host::fake(&[("proc/cgroups", TABLE)]);
        assert_eq!(Layout::Separate.controllers(&host), ["cpu", "memory", "pids", "blkio"]);
        assert_eq!(
            levels(&[("proc/self/mountinfo", V1), ("proc/cgroups", TABLE)]),
            [
                (Level::Warn, "cgroups"),
                (Level::Ok, "controllers"),
                (Level::Warn, "controllers"),
                (Level::Warn, "controllers"),
                (Level::Ok, "swap"),
            ]
        );
    }

    #[test]
    fn pods_do_not_run_where_memory_cannot_be_limited() {
        let files = [
            ("proc/self/mountinfo", V2),
            ("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io pids hugetlb\n"),
        ];
        assert_eq!(levels(&files)[1], (Level::Fail, "controllers"));
    }

    #[test]
    fn swap_that_cannot_be_limited_is_a_warning() {
        let swaps = "Filename Type Size Used Priority\n/dev/vdb partition 1 0 -2\n";
        let mut files = vec![("proc/self/mountinfo", V1), ("proc/cgroups", TABLE), ("proc/swaps", swaps)];
        assert_eq!(levels(&files).last(), Some(&(Level::Warn, "swap")));
        files.push(("sys/fs/cgroup/memory/memory.memsw.limit_in_bytes", "1"));
        assert_eq!(levels(&files).last(), Some(&(Level::Ok, "swap")));
    }
}
