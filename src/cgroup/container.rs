//! One container's cgroup: limits, device rules, processes, out-of-memory counts.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, openat},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use super::{
    Error,
    devices::{self, Line, PROGRAM_NAME},
    error, file,
    group::{Group, Version},
    kill::Killing,
    limits::Present,
    settle::{self, Changed},
    tree::{Visit, walk},
};
use crate::{
    failpoint,
    model::{DeviceRule, Resources},
    sys::bpf,
};

/// One container's cgroup, which holds its limits and its init; or the leaf of one exec in it.
#[derive(Clone, Debug)]
pub struct Container {
    group: Group,
}

/// Device rules in the form that the host's version of cgroups takes.
enum Filter {
    Lines(Vec<Line>),
    Program(Option<Vec<bpf::Instruction>>),
}

/// Counters at the exit of a container.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct OomCounts {
    /// Processes the kernel killed for want of memory (v2 `memory.events`, v1 `memory.oom_control`).
    pub oom_kill: u64,
    /// Times it killed the whole container at once (v2 `memory.oom.group`, Linux 5.17). 0 on v1.
    pub oom_group_kill: u64,
}

impl Container {
    pub(super) fn new(group: Group) -> Self {
        Self { group }
    }

    /// The directory with the files of `controller`; `None` without that controller.
    pub(super) fn controller(&self, controller: &str) -> Option<PathBuf> {
        self.group.controller(controller)
    }

    pub(super) fn version(&self) -> Version {
        self.group.version
    }

    pub(super) fn group(&self) -> &Group {
        &self.group
    }

    /// Makes it in every hierarchy and limits it. Without device rules it may use what its pod may.
    ///
    /// # Errors
    /// A limit or rule that makes no sense, one for which the host has no controller, or the kernel's refusal.
    /// Then nothing is left behind.
    pub fn create(&self, resources: &Resources, rules: &[DeviceRule]) -> Result<(), Error> {
        let settings = settle::plan(&self.group, resources, &Present::default())?;
        let filter = self.device_filter(rules)?;
        self.group.make()?;
        failpoint!("cgroup.container-made");
        settle::put(&self.group, &settings)
            .and_then(|()| self.filter_devices(&filter))
            .inspect_err(|_| self.group.unmake())?;
        failpoint!("cgroup.limits-set");
        Ok(())
    }

    fn device_filter(&self, rules: &[DeviceRule]) -> Result<Filter, Error> {
        match self.group.version {
            Version::V1 => devices::lines(rules).map(Filter::Lines),
            Version::V2 => devices::program(rules).map(Filter::Program),
        }
    }

    fn filter_devices(&self, filter: &Filter) -> Result<(), Error> {
        match filter {
            Filter::Lines(lines) => self.rule_devices(lines),
            Filter::Program(None) => Ok(()),
            Filter::Program(Some(program)) => {
                self.group.own().try_for_each(|tree| attach(program, &self.group.directory(tree)))
            }
        }
    }

    /// One write a rule, for the kernel reads one rule a write; the files stay open between them.
    fn rule_devices(&self, lines: &[Line]) -> Result<(), Error> {
        if lines.is_empty() {
            return Ok(());
        }
        let Some(directory) = self.group.controller("devices") else {
            let path = self.group.path.clone().into();
            return Err(Error::NoController { limit: "device rules", controller: "devices", path });
        };
        let mut open: Vec<(&str, File)> = Vec::with_capacity(2);
        for line in lines {
            let path = directory.join(line.file);
            let known = open.iter().position(|(name, _)| *name == line.file);
            let at = match known {
                Some(at) => at,
                None => {
                    let file = OpenOptions::new().write(true).open(&path);
                    open.push((line.file, file.map_err(error::file("open", &path))?));
                    open.len() - 1
                }
            };
            let written = match open.get_mut(at) {
                Some((_, file)) => file.write_all(line.text.as_bytes()),
                None => Ok(()),
            };
            written.map_err(|source| Error::Write { path, value: line.text.clone(), source })?;
        }
        Ok(())
    }

    /// Changes limits of a container that is there. Fields that are not set stay as they are.
    ///
    /// # Errors
    /// The kernel's refusal (`EBUSY`: less memory than is in use), or that of v2 by us; then all limits are
    /// what they were.
    pub fn update(&self, resources: &Resources) -> Result<Changed, Error> {
        let settings = settle::plan(&self.group, resources, &settle::present(&self.group))?;
        settle::change(&self.group, &settings)
    }

    /// Makes and opens what a child can be forked into, so that it need not be moved there; `None` where
    /// there is no cgroup2. The child still has to [`Container::join`] the other hierarchies.
    ///
    /// # Errors
    /// The kernel's refusal. What was made goes with [`Container::remove`].
    pub fn gate(&self) -> Result<Option<OwnedFd>, Error> {
        self.group.gate()
    }

    /// Moves process `pid` (0: the caller, which then has one thread) into it, in every hierarchy.
    ///
    /// # Errors
    /// `ESRCH` when the process has ended.
    pub fn join(&self, pid: u32) -> Result<(), Error> {
        self.group.join(pid)
    }

    /// Reads the counters, those of cgroups the container made included. Zero without a memory controller, and
    /// for an exec's leaf on v1, whose memory is counted with the container's.
    ///
    /// # Errors
    /// When the cgroup is gone: its counters went with it.
    pub fn oom_counts(&self) -> Result<OomCounts, Error> {
        let Some(directory) = self.group.controller("memory") else { return Ok(OomCounts::default()) };
        let counts = match self.group.version {
            Version::V1 => oom_counts_v1(&directory),
            Version::V2 => oom_counts_v2(&directory),
        };
        counts.map_err(error::file("read the OOM counters of", directory))
    }

    /// SIGKILL to every process in it and below, forks during the killing included. Never called from inside.
    ///
    /// # Errors
    /// As [`super::Handle::kill`]. Absent is success.
    pub fn kill(&self) -> Result<(), Error> {
        self.group.kill()
    }

    /// As [`Container::kill`], for a caller that must not wait: what is returned has to be stepped to its end. `None`:
    /// all have their signal already. `look` is called right before the first signal; on v1 all stand still by then.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn begin_kill(&self, look: &mut dyn FnMut()) -> Result<Option<Killing>, Error> {
        self.group.begin_kill(look)
    }

    /// How many processes are in it and below.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn processes(&self) -> Result<usize, Error> {
        self.group.count()
    }

    /// Whether any process is left in it or below.
    ///
    /// # Errors
    /// A file that cannot be read. An absent cgroup is empty.
    pub fn populated(&self) -> Result<bool, Error> {
        self.group.populated()
    }

    /// Removes it and all below, cgroups that the container made included; waits a second at most for killed
    /// processes to leave. Absent is success.
    ///
    /// # Errors
    /// Names what is left; the other hierarchies are removed all the same.
    pub fn remove(&self) -> Result<(), Error> {
        self.group.remove()?;
        failpoint!("cgroup.container-removed");
        Ok(())
    }

    /// One try to remove it, without waiting for killed processes to leave. `false`: they have not left yet.
    ///
    /// # Errors
    /// As [`Container::remove`].
    pub fn try_remove(&self) -> Result<bool, Error> {
        let removed = self.group.try_remove()?;
        if removed {
            failpoint!("cgroup.container-removed");
        }
        Ok(removed)
    }

    /// A leaf for one exec: its own cgroup for killing, the container's limits. Makes nothing; create it with
    /// no resources and no rules.
    pub fn exec_leaf(&self, number: u64) -> Container {
        Self { group: self.group.leaf(format!("exec-{number}")) }
    }

    /// The directories that a container sees below `/sys/fs/cgroup`: (name there, host directory); one entry with an empty name
    /// on v2. Controllers that share a v1 hierarchy share its one entry, named as its mount (`cpu,cpuacct`).
    pub fn views(&self) -> Vec<(String, PathBuf)> {
        let name = |mountpoint: &Path| match self.group.version {
            Version::V2 => String::new(),
            Version::V1 => {
                mountpoint.file_name().map(|name| name.to_string_lossy().into()).unwrap_or_default()
            }
        };
        self.group.trees.iter().map(|tree| (name(&tree.mountpoint), self.group.directory(tree))).collect()
    }

    /// Its cgroup as `/proc/PID/cgroup` shows it and as `cgroupsPath` wants it: absolute.
    pub fn path(&self) -> &str {
        &self.group.path
    }
}

/// Has the kernel ask `program` about every device access below `directory`.
fn attach(program: &[bpf::Instruction], directory: &Path) -> Result<(), Error> {
    let failed = |doing| move |source| Error::DeviceFilter { doing, path: directory.into(), source };
    let program = bpf::load_device_filter(PROGRAM_NAME, program).map_err(failed("load"))?;
    let cgroup = File::open(directory).map_err(error::file("open", directory))?;
    bpf::attach_device_filter(cgroup.as_fd(), program.as_fd()).map_err(failed("attach"))
}

/// v2 counts what happens below in the cgroup itself. No such file: no memory controller here.
fn oom_counts_v2(directory: &Path) -> io::Result<OomCounts> {
    let at = rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let events = match openat(&at, "memory.events", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(OomCounts::default()),
        events => file::take(events?.into())?,
    };
    let count = |key| file::keyed(&events, key).unwrap_or(0);
    Ok(OomCounts { oom_kill: count("oom_kill"), oom_group_kill: count("oom_group_kill") })
}

/// v1 counts in each cgroup its own.
fn oom_counts_v1(directory: &Path) -> io::Result<OomCounts> {
    let mut counts = OomCounts::default();
    walk(directory, &mut |visit| {
        let Visit::Enter(at) = visit else { return Ok(()) };
        match openat(at, "memory.oom_control", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Err(Errno::NOENT | Errno::NODEV) => Ok(()),
            control => {
                let text = file::take(control?.into())?;
                counts.oom_kill += file::keyed(&text, "oom_kill").unwrap_or(0);
                Ok(())
            }
        }
    })?;
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::cgroup::tree::Tree;

    fn container(version: Version, mountpoint: &Path) -> Container {
        let tree = Tree { mountpoint: mountpoint.into(), controllers: vec!["memory".into()] };
        Container::new(Group { version, trees: [tree].into(), path: "/ctr".into(), leaf: None, pod: None })
    }

    #[test]
    fn v1_counts_are_summed_over_the_cgroups_below() {
        let top = tempfile::tempdir().unwrap();
        let ctr = container(Version::V1, top.path());
        assert!(ctr.oom_counts().is_err());
        for (below, count) in [("ctr", 1), ("ctr/a", 2), ("ctr/a/b", 4)] {
            fs::create_dir_all(top.path().join(below)).unwrap();
            let text = format!("oom_kill_disable 0\nunder_oom 0\noom_kill {count}\n");
            fs::write(top.path().join(below).join("memory.oom_control"), text).unwrap();
        }
        assert_eq!(ctr.oom_counts().unwrap(), OomCounts { oom_kill: 7, oom_group_kill: 0 });
    }

    #[test]
    fn v2_counts_are_the_containers_own_and_zero_without_a_memory_controller() {
        let top = tempfile::tempdir().unwrap();
        let ctr = container(Version::V2, top.path());
        assert!(ctr.oom_counts().is_err());
        fs::create_dir_all(top.path().join("ctr")).unwrap();
        assert_eq!(ctr.oom_counts().unwrap(), OomCounts::default());
        let events = "low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 1\n";
        fs::write(top.path().join("ctr/memory.events"), events).unwrap();
        assert_eq!(ctr.oom_counts().unwrap(), OomCounts { oom_kill: 2, oom_group_kill: 1 });
    }

    #[test]
    fn a_container_whose_devices_cannot_be_filtered_is_not_made() {
        // A directory, but no cgroup: the program is loaded, as root, and attached to nothing.
        let top = tempfile::tempdir().unwrap();
        let ctr = container(Version::V2, top.path());
        let mut rule = DeviceRule { allow: false, kind: 'a', major: None, minor: None, access: "rwm".into() };
        let refused = ctr.create(&Resources::default(), std::slice::from_ref(&rule));
        assert!(matches!(refused, Err(Error::DeviceFilter { .. })), "{refused:?}");
        assert!(!top.path().join("ctr").exists());
        rule.allow = true;
        ctr.create(&Resources::default(), &[rule]).unwrap();
        assert!(top.path().join("ctr").exists());
    }

    #[test]
    fn what_is_refused_is_not_left_behind() {
        let top = tempfile::tempdir().unwrap();
        let ctr = container(Version::V2, top.path());
        let limited = Resources { memory_bytes: 4096, ..Resources::default() };
        let error = ctr.create(&limited, &[]).unwrap_err();
        assert!(matches!(error, Error::NoController { controller: "memory", .. }), "{error}");
        assert!(!top.path().join("ctr").exists());
    }

    #[test]
    fn the_view_of_v2_is_one_directory_without_a_name() {
        let ctr = container(Version::V2, Path::new("/sys/fs/cgroup"));
        assert_eq!(ctr.views(), [(String::new(), PathBuf::from("/sys/fs/cgroup/ctr"))]);
        let ctr = container(Version::V1, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(ctr.views(), [("cpu,cpuacct".into(), PathBuf::from("/sys/fs/cgroup/cpu,cpuacct/ctr"))]);
    }
}
