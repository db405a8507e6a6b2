//! The host's cgroups: version, hierarchies, controllers, and whether systemd made them.

use std::{collections::BTreeSet, fmt, path::Path};

use cgroups_rs::fs::hierarchies::{self, Mountinfo, UNIFIED_MOUNTPOINT};

use super::{Error, file, group::Version, tree::Tree};

/// Controllers that limits need, and what is not there without them.
const NEEDED: [(&str, &str); 4] =
    [("cpu", "CPU limits"), ("cpuset", "CPU pinning"), ("memory", "memory limits"), ("pids", "pids limits")];

/// Controllers of v1 for which v2 needs none.
const NEEDED_V1: [(&str, &str); 2] = [("devices", "device rules"), ("freezer", "reliable killing")];

/// The hierarchies of this host, looked at once, at start.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) version: Version,
    pub(super) trees: Vec<Tree>,
    /// Controllers that can set limits: on v1 the mounted ones, on v2 the root's.
    controllers: BTreeSet<String>,
    /// systemd is what started it (sd_booted(3)).
    pub(super) systemd: bool,
}

impl Host {
    /// # Errors
    /// When nothing is mounted that limits could be put into.
    pub(super) fn look() -> Result<Self, Error> {
        let systemd = Path::new("/run/systemd/system").is_dir();
        if hierarchies::is_cgroup2_unified_mode() {
            let list = file::read(&Path::new(UNIFIED_MOUNTPOINT).join("cgroup.controllers"))?;
            let controllers = list.split_whitespace().map(str::to_owned).collect();
            let tree = Tree { mountpoint: UNIFIED_MOUNTPOINT.into(), controllers: Vec::new() };
            return Ok(Self { version: Version::V2, trees: vec![tree], controllers, systemd });
        }
        let hierarchies = file::read(Path::new("/proc/self/cgroup"))?;
        let mut trees = trees_v1(&hierarchies::mountinfo_self(), &hierarchies);
        if trees.is_empty() {
            let why = "neither cgroup v1 hierarchies nor cgroup v2 at /sys/fs/cgroup are mounted";
            return Err(Error::NoCgroups { why });
        }
        let controllers = trees.iter().flat_map(|tree| tree.controllers.iter().cloned()).collect();
        // The crate lists v1 mounts only; a hybrid host has a cgroup2 without controllers beside them.
        trees.extend(tree_of_cgroup2(&file::read(Path::new("/proc/self/mountinfo"))?));
        Ok(Self { version: Version::V1, trees, controllers, systemd })
    }

    fn missing(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let v1 = if self.version == Version::V1 { &NEEDED_V1[..] } else { &[] };
        let needed = NEEDED.iter().chain(v1).copied();
        needed.filter(|(controller, _)| !self.controllers.contains(*controller))
    }
}

/// A v1 mount is known by the controllers, or the `name=…`, among its options; `/proc/self/cgroup` says which
/// words are such. One hierarchy may be mounted twice: the first mount stands for it.
fn trees_v1(mounts: &[Mountinfo], proc_cgroup: &str) -> Vec<Tree> {
    let known: BTreeSet<&str> = proc_cgroup
        .lines()
        .filter_map(|line| line.split(':').nth(1))
        .flat_map(|names| names.split(','))
        .filter(|name| !name.is_empty())
        .collect();
    let mut trees: Vec<Tree> = Vec::new();
    for mount in mounts {
        let options = mount.super_opts.iter().filter(|option| known.contains(option.as_str()));
        let controllers: Vec<String> = options.cloned().collect();
        let again = trees.iter().any(|tree| tree.controllers == controllers);
        if !controllers.is_empty() && !again {
            trees.push(Tree { mountpoint: mount.mount_point.clone(), controllers });
        }
    }
    trees
}

/// The first cgroup2 mount in proc_pid_mountinfo(5).
fn tree_of_cgroup2(mountinfo: &str) -> Option<Tree> {
    let mut lines = mountinfo.lines().filter_map(|line| line.split_once(" - "));
    let (mount, _) = lines.find(|(_, filesystem)| filesystem.starts_with("cgroup2 "))?;
    let mountpoint = mount.split(' ').nth(4)?.into();
    Some(Tree { mountpoint, controllers: Vec::new() })
}

/// For `pintle check`: a few lines that an operator can read.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hybrid = self.trees.iter().any(|tree| tree.controllers.is_empty());
        match self.version {
            Version::V2 => writeln!(f, "cgroup v2")?,
            Version::V1 if hybrid => writeln!(f, "cgroup v1, with a cgroup2 hierarchy for processes only")?,
            Version::V1 => writeln!(f, "cgroup v1")?,
        }
        for tree in &self.trees {
            let names = match self.version {
                Version::V2 => self.controllers.iter().cloned().collect::<Vec<_>>().join(" "),
                Version::V1 if tree.controllers.is_empty() => "cgroup2, no controllers".into(),
                Version::V1 => tree.controllers.join(" "),
            };
            writeln!(f, "  {}: {names}", tree.mountpoint.display())?;
        }
        for (controller, lost) in self.missing() {
            writeln!(f, "  missing: {controller} (no {lost})")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn mount(point: &str, options: &str) -> Mountinfo {
        Mountinfo {
            mount_root: "/".into(),
            mount_point: point.into(),
            fs_type: ("cgroup".into(), None),
            super_opts: options.split(',').map(str::to_owned).collect(),
        }
    }

    const PROC_CGROUP: &str = "4:cpu,cpuacct:/\n3:memory:/a:b\n2:name=systemd:/\n0::/";

    #[test]
    fn a_v1_mount_is_known_by_its_controllers_and_counted_once() {
        let mounts = [
            mount("/sys/fs/cgroup/cpu,cpuacct", "rw,cpu,cpuacct"),
            mount("/sys/fs/cgroup/memory", "rw,seclabel,memory"),
            mount("/sys/fs/cgroup/systemd", "rw,xattr,release_agent=/x,name=systemd"),
            mount("/mnt/again", "rw,memory"),
            mount("/mnt/unknown", "rw,net_cls"),
        ];
        let trees = trees_v1(&mounts, PROC_CGROUP);
        let found: Vec<_> =
            trees.iter().map(|t| (t.mountpoint.to_str().unwrap(), t.controllers.join(" "))).collect();
        assert_eq!(
            found,
            [
                ("/sys/fs/cgroup/cpu,cpuacct", "cpu cpuacct".to_owned()),
                ("/sys/fs/cgroup/memory", "memory".to_owned()),
                ("/sys/fs/cgroup/systemd", "name=systemd".to_owned()),
            ]
        );
    }

    #[test]
    fn a_cgroup2_mount_is_found_beside_v1_and_not_taken_for_one() {
        let mountinfo = "40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                         41 31 0:38 / /sys/fs/cgroup/unified rw shared:7 - cgroup2 cgroup2 rw\n";
        let tree = tree_of_cgroup2(mountinfo).unwrap();
        assert_eq!(tree.mountpoint, Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(tree_of_cgroup2(mountinfo.lines().next().unwrap()), None);
        assert_eq!(tree_of_cgroup2(""), None);
    }

    #[test]
    fn the_description_names_what_is_there_and_what_is_lost() {
        let mut trees = trees_v1(&[mount("/sys/fs/cgroup/memory", "rw,memory")], PROC_CGROUP);
        trees.push(Tree { mountpoint: "/u".into(), controllers: Vec::new() });
        let controllers = ["memory".to_owned()].into();
        let host = Host { version: Version::V1, trees, controllers, systemd: false };
        expect![[r#"
            cgroup v1, with a cgroup2 hierarchy for processes only
              /sys/fs/cgroup/memory: memory
              /u: cgroup2, no controllers
              missing: cpu (no CPU limits)
              missing: cpuset (no CPU pinning)
              missing: pids (no pids limits)
              missing: devices (no device rules)
              missing: freezer (no reliable killing)
        "#]]
        .assert_eq(&host.to_string());
    }
}
