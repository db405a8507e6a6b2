//! v2 only: which controllers a cgroup hands down to its children.

use std::path::Path;

use super::{Error, file};

/// The controllers that limits need. `io` has none in CRI, but its counters are in the stats.
const WANTED: [&str; 6] = ["cpu", "cpuset", "hugetlb", "io", "memory", "pids"];

/// Enables for the children of `directory` what it has itself of the wanted controllers. Only ever called on
/// cgroups that are ours: those above belong to whoever made them.
pub(super) fn hand_down(directory: &Path) -> Result<(), Error> {
    let has = file::read(&directory.join("cgroup.controllers"))?;
    let path = directory.join("cgroup.subtree_control");
    let gives = file::read(&path)?;
    let missing = missing(&has, &gives);
    if missing.is_empty() { Ok(()) } else { file::write(&path, &missing) }
}

fn missing(has: &str, gives: &str) -> String {
    let listed = |list: &str, name| list.split_whitespace().any(|each| each == name);
    let missing = WANTED.iter().filter(|&&name| listed(has, name) && !listed(gives, name));
    missing.map(|name| format!("+{name}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_what_is_wanted_there_and_not_yet_given_is_enabled() {
        assert_eq!(missing("cpuset cpu io memory pids rdma misc", "cpu"), "+cpuset +io +memory +pids");
        assert_eq!(missing("cpu memory", "memory cpu"), "");
        assert_eq!(missing("", ""), "");
    }

    #[test]
    fn a_cgroup_that_gives_everything_is_not_written_to() {
        let cgroup = tempfile::tempdir().unwrap();
        fs::write(cgroup.path().join("cgroup.controllers"), "cpu pids\n").unwrap();
        fs::write(cgroup.path().join("cgroup.subtree_control"), "cpu pids\n").unwrap();
        hand_down(cgroup.path()).unwrap();
        let after = |name: &str| fs::read_to_string(cgroup.path().join(name)).unwrap();
        assert_eq!(after("cgroup.subtree_control"), "cpu pids\n");
        fs::write(cgroup.path().join("cgroup.subtree_control"), "").unwrap();
        hand_down(cgroup.path()).unwrap();
        assert_eq!(after("cgroup.subtree_control"), "+cpu +pids");
    }
}
