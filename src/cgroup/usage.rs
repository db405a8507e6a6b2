//! Resource usage of a cgroup, read from its files, on v1 and v2.
//!
//! One directory is opened in each hierarchy that has a file to read, and the files by it, so that all figures
//! are of one cgroup even when another is made under its name. A file that is not there (an older kernel, a
//! controller that is missing) costs its own figures; a cgroup that is not there gives none.

use std::{io::Read, os::fd::OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::{
    Container, Handle,
    figures::{self, CpuStat, MemoryStat, Pressure},
    file::FILE_BYTES_MAX,
    group::{Group, Version},
};

/// Resource usage of one cgroup with all below it, up to one moment. `None`: this kernel or cgroup does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// CPU time, ns.
    pub cpu_ns: Option<u64>,
    pub memory: Option<Memory>,
    pub swap: Option<Swap>,
    /// Pressure needs a cgroup2: v1 hosts without a hybrid one have none.
    pub cpu_pressure: Option<Pressure>,
    pub memory_pressure: Option<Pressure>,
    pub io_pressure: Option<Pressure>,
    /// Processes and threads: what `pids.max` limits.
    pub tasks: Option<u64>,
}

/// Memory of one cgroup; bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Memory {
    /// All that is charged, caches included.
    pub usage: u64,
    /// As the kubelet defines it: `usage` without file pages that have not been touched lately.
    pub working_set: u64,
    /// `None` is no limit.
    pub limit: Option<u64>,
    /// Anonymous memory.
    pub rss: u64,
    /// File pages.
    pub cache: u64,
    /// Of `cache`, what is mapped.
    pub mapped_file: u64,
    /// The kernel's own.
    pub kernel: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
}

/// Swap of one cgroup; bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Swap {
    pub usage: u64,
    /// `None` is no limit.
    pub limit: Option<u64>,
}

impl Memory {
    pub(super) fn new(usage: u64, limit: Option<u64>, stat: &MemoryStat) -> Self {
        Self {
            usage,
            // The two files are read one after the other, so the part may be more than the whole.
            working_set: usage.saturating_sub(stat.inactive_file),
            limit,
            rss: stat.rss,
            cache: stat.cache,
            mapped_file: stat.mapped_file,
            kernel: stat.kernel,
            page_faults: stat.page_faults,
            major_page_faults: stat.major_page_faults,
        }
    }
}

impl Swap {
    fn v1(stat: &MemoryStat) -> Option<Self> {
        let limit = stat.limit_with_swap.map(|both| both.saturating_sub(stat.limit.unwrap_or(both)));
        Some(Self { usage: stat.swap?, limit })
    }
}

impl Container {
    /// Reads what it uses. `None`: it is gone.
    pub fn usage(&self) -> Option<Usage> {
        usage(self.group())
    }

    /// CPU time alone, ns: one file, for a sampler.
    pub fn cpu_ns(&self) -> Option<u64> {
        Files::of(self.group()).cpu_ns()
    }
}

impl Handle {
    /// Reads what the whole pod uses, its supervisor included. `None`: it is gone.
    pub fn usage(&self) -> Option<Usage> {
        usage(&self.group())
    }

    /// As [`Container::cpu_ns`].
    pub fn cpu_ns(&self) -> Option<u64> {
        Files::of(&self.group()).cpu_ns()
    }
}

fn usage(group: &Group) -> Option<Usage> {
    Files::of(group).usage()
}

/// The name of the tree with cgroup2's own files: on a hybrid host beside v1's hierarchies.
const CGROUP2: &str = "cgroup2";

/// The files of one cgroup.
pub(super) struct Files<'g> {
    group: &'g Group,
    /// By the number of the tree; opened when first needed, `None` when it could not be.
    open: Vec<(usize, Option<OwnedFd>)>,
    buffer: Vec<u8>,
}

impl<'g> Files<'g> {
    pub(super) fn of(group: &'g Group) -> Self {
        Self { group, open: Vec::new(), buffer: Vec::with_capacity(4096) }
    }

    pub(super) fn version(&self) -> Version {
        self.group.version
    }

    /// A file whole; what is over [`FILE_BYTES_MAX`] is cut. `None` when it is not there or not text.
    pub(super) fn text(&mut self, controller: &str, name: &str) -> Option<&str> {
        let tree = self.tree(controller)?;
        let directory = self.directory(tree)?;
        let file =
            openat(directory, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        let file = std::fs::File::from(file.ok()?);
        self.buffer.clear();
        file.take(FILE_BYTES_MAX).read_to_end(&mut self.buffer).ok()?;
        std::str::from_utf8(&self.buffer).ok()
    }

    pub(super) fn number(&mut self, controller: &str, name: &str) -> Option<u64> {
        figures::number(self.text(controller, name)?)
    }

    fn tree(&self, controller: &str) -> Option<usize> {
        let mut trees = self.group.trees.iter();
        match self.group.version {
            Version::V2 => (!self.group.trees.is_empty()).then_some(0),
            Version::V1 if controller == CGROUP2 => trees.position(|tree| tree.controllers.is_empty()),
            Version::V1 => trees.position(|tree| tree.has(controller)),
        }
    }

    fn directory(&mut self, number: usize) -> Option<&OwnedFd> {
        if !self.open.iter().any(|(known, _)| *known == number) {
            let tree = self.group.trees.get(number)?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = openat(CWD, self.group.directory(tree), flags, Mode::empty());
            self.open.push((number, opened.ok()));
        }
        self.open.iter().find(|(known, _)| *known == number)?.1.as_ref()
    }

    fn cpu_ns(&mut self) -> Option<u64> {
        match self.version() {
            Version::V1 => self.number("cpuacct", "cpuacct.usage"),
            Version::V2 => self.cpu_stat_v2().map(|stat| stat.usage_ns),
        }
    }

    pub(super) fn cpu_stat_v2(&mut self) -> Option<CpuStat> {
        self.text("cpu", "cpu.stat").map(figures::cpu_stat_v2)
    }

    /// `None`: the cgroup is gone.
    pub(super) fn usage(&mut self) -> Option<Usage> {
        let cpu_ns = self.cpu_ns();
        let (memory, swap) = match self.version() {
            Version::V1 => self.memory_v1(),
            Version::V2 => self.memory_v2(),
        };
        let usage = Usage {
            cpu_ns,
            memory,
            swap,
            cpu_pressure: self.pressure("cpu.pressure"),
            memory_pressure: self.pressure("memory.pressure"),
            io_pressure: self.pressure("io.pressure"),
            tasks: self.number("pids", "pids.current"),
        };
        self.open.iter().any(|(_, directory)| directory.is_some()).then_some(usage)
    }

    fn memory_v1(&mut self) -> (Option<Memory>, Option<Swap>) {
        let Some(usage) = self.number("memory", "memory.usage_in_bytes") else { return (None, None) };
        let Some(stat) = self.text("memory", "memory.stat").map(figures::memory_stat_v1) else {
            return (None, None);
        };
        (Some(Memory::new(usage, stat.limit, &stat)), Swap::v1(&stat))
    }

    fn memory_v2(&mut self) -> (Option<Memory>, Option<Swap>) {
        let Some(usage) = self.number("memory", "memory.current") else { return (None, None) };
        let Some(stat) = self.text("memory", "memory.stat").map(figures::memory_stat_v2) else {
            return (None, None);
        };
        let limit = self.text("memory", "memory.max").and_then(figures::limit);
        let swap = self.number("memory", "memory.swap.current");
        let swap = swap.map(|usage| {
            let limit = self.text("memory", "memory.swap.max").and_then(figures::limit);
            Swap { usage, limit }
        });
        (Some(Memory::new(usage, limit, &stat)), swap)
    }

    fn pressure(&mut self, name: &str) -> Option<Pressure> {
        figures::pressure(self.text(CGROUP2, name)?)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::cgroup::{figures::Stall, tree::Tree};

    fn tree(mountpoint: &Path, controllers: &[&str]) -> Tree {
        let controllers = controllers.iter().map(|&name| name.to_owned()).collect();
        Tree { mountpoint: mountpoint.into(), controllers }
    }

    fn group(version: Version, trees: Vec<Tree>) -> Group {
        Group { version, trees: trees.into(), path: "/ctr".into(), leaf: None, pod: None }
    }

    fn write(top: &Path, files: &[(&str, &str)]) {
        fs::create_dir_all(top.join("ctr")).unwrap();
        for (name, text) in files {
            fs::write(top.join("ctr").join(name), text).unwrap();
        }
    }

    const PRESSURE: &str = "some avg10=1.00 avg60=2.00 avg300=3.00 total=4\n";

    fn stalled() -> Option<Pressure> {
        let some = Stall { total_ns: 4000, avg10: 1.0, avg60: 2.0, avg300: 3.0 };
        Some(Pressure { some, full: Stall::default() })
    }

    #[test]
    fn v2_is_read_from_one_directory() {
        let top = tempfile::tempdir().unwrap();
        write(
            top.path(),
            &[
                ("cpu.stat", "usage_usec 7\n"),
                ("cpu.pressure", PRESSURE),
                ("memory.current", "1000\n"),
                ("memory.max", "4000\n"),
                ("memory.stat", "anon 600\ninactive_file 300\n"),
                ("memory.swap.current", "50\n"),
                ("memory.swap.max", "max\n"),
                ("pids.current", "3\n"),
            ],
        );
        let expected = Usage {
            cpu_ns: Some(7000),
            memory: Some(Memory {
                usage: 1000,
                working_set: 700,
                limit: Some(4000),
                rss: 600,
                ..Memory::default()
            }),
            swap: Some(Swap { usage: 50, limit: None }),
            cpu_pressure: stalled(),
            tasks: Some(3),
            ..Usage::default()
        };
        assert_eq!(usage(&group(Version::V2, vec![tree(top.path(), &[])])), Some(expected));
    }

    #[test]
    fn v1_is_read_from_each_hierarchy_and_pressure_from_the_cgroup2_beside_them() {
        let (cpuacct, memory, unified) =
            (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(cpuacct.path(), &[("cpuacct.usage", "9\n")]);
        let stat = "hierarchical_memory_limit 4000\nhierarchical_memsw_limit 4500\ntotal_rss 600\n\
                    total_inactive_file 2000\ntotal_swap 50\n";
        write(memory.path(), &[("memory.usage_in_bytes", "1000\n"), ("memory.stat", stat)]);
        write(unified.path(), &[("io.pressure", PRESSURE)]);
        let trees = vec![
            tree(cpuacct.path(), &["cpu", "cpuacct"]),
            tree(memory.path(), &["memory"]),
            tree(unified.path(), &[]),
        ];
        let expected = Usage {
            cpu_ns: Some(9),
            memory: Some(Memory {
                usage: 1000,
                working_set: 0,
                limit: Some(4000),
                rss: 600,
                ..Memory::default()
            }),
            swap: Some(Swap { usage: 50, limit: Some(500) }),
            io_pressure: stalled(),
            ..Usage::default()
        };
        assert_eq!(usage(&group(Version::V1, trees)), Some(expected));
    }

    #[test]
    fn a_cgroup_that_is_gone_has_no_figures_and_one_without_files_has_none_of_them() {
        let top = tempfile::tempdir().unwrap();
        let group = group(Version::V2, vec![tree(top.path(), &[])]);
        assert_eq!(usage(&group), None);
        write(top.path(), &[]);
        assert_eq!(usage(&group), Some(Usage::default()));
    }

    #[test]
    fn a_file_without_end_is_cut_and_a_link_is_not_followed() {
        let top = tempfile::tempdir().unwrap();
        let endless = "x 1\n".repeat(100_000) + "usage_usec 7\n";
        write(top.path(), &[("cpu.stat", &endless), ("pids", "1\n")]);
        std::os::unix::fs::symlink("pids", top.path().join("ctr/pids.current")).unwrap();
        let group = group(Version::V2, vec![tree(top.path(), &[])]);
        let usage = usage(&group).unwrap();
        assert_eq!((usage.cpu_ns, usage.tasks), (Some(0), None));
    }
}
