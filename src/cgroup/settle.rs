//! Putting limits into a cgroup's files.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    Error, file,
    group::{Group, Version},
    limits::{self, Present, Setting},
};
use crate::model::Resources;

/// What to write, checked; nothing is written yet.
pub(super) fn plan(group: &Group, resources: &Resources, present: &Present) -> Result<Vec<Setting>, Error> {
    match group.version {
        Version::V1 => limits::v1(resources, present),
        Version::V2 => limits::v2(resources, present),
    }
}

/// Reads what decides the order of an update's writes. What cannot be read is as in a new cgroup.
pub(super) fn present(group: &Group) -> Present {
    let read = |controller, name| {
        let directory = group.controller(controller)?;
        file::read(&directory.join(name)).ok()
    };
    let mut present = Present::default();
    match group.version {
        Version::V1 => {
            let sum = read("memory", "memory.memsw.limit_in_bytes").and_then(|text| text.parse().ok());
            present.memory_and_swap_bytes = sum;
            if let Some(period) = read("cpu", "cpu.cfs_period_us").and_then(|text| text.parse().ok()) {
                present.cpu_period_us = period;
            }
        }
        Version::V2 => {
            let max = read("cpu", "cpu.max");
            if let Some(quota) = max.as_deref().and_then(|max| max.split(' ').next()) {
                present.cpu_quota = quota.into();
            }
        }
    }
    present
}

/// Writes the settings of a new cgroup. On failure the caller takes the whole cgroup away.
pub(super) fn put(group: &Group, settings: &[Setting]) -> Result<(), Error> {
    for setting in settings {
        if let Some(path) = path_of(group, setting)? {
            write(setting, &path)?;
        }
    }
    Ok(())
}

/// Writes the settings of a cgroup in use: all, or none. The old values go back in reverse order, for each was
/// valid together with what was then around it.
pub(super) fn change(group: &Group, settings: &[Setting]) -> Result<(), Error> {
    let mut undo: Vec<(PathBuf, String)> = Vec::with_capacity(settings.len());
    for setting in settings {
        let changed = path_of(group, setting).and_then(|path| {
            let Some(path) = path else { return Ok(None) };
            let old = file::read(&path).ok();
            write(setting, &path)?;
            Ok(old.map(|old| (path, old)))
        });
        match changed {
            Ok(old) => undo.extend(old),
            Err(error) => {
                for (path, old) in undo.into_iter().rev() {
                    // What does not go back stays as asked for: the caller has the error that began it.
                    let _ = file::write(&path, &old);
                }
                return Err(error);
            }
        }
    }
    Ok(())
}

/// `None` where an optional setting's v1 hierarchy is not mounted.
fn path_of(group: &Group, setting: &Setting) -> Result<Option<PathBuf>, Error> {
    match group.controller(setting.controller) {
        Some(directory) => Ok(Some(directory.join(&*setting.file))),
        None if setting.optional => Ok(None),
        None => Err(absent(setting, PathBuf::from(&group.path))),
    }
}

fn absent(setting: &Setting, path: PathBuf) -> Error {
    Error::NoController { limit: setting.limit, controller: setting.controller, path }
}

/// An absent file in a cgroup that is there means an absent controller, and that is what the operator is told.
fn write(setting: &Setting, path: &Path) -> Result<(), Error> {
    match file::write(path, &setting.value) {
        Err(Error::Write { source, .. })
            if source.kind() == io::ErrorKind::NotFound && path.parent().is_some_and(Path::exists) =>
        {
            if setting.optional {
                Ok(())
            } else {
                Err(absent(setting, path.into()))
            }
        }
        written => written,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::cgroup::tree::Tree;

    fn v2(directory: &Path, files: &[(&str, &str)]) -> Group {
        fs::create_dir_all(directory.join("ctr")).unwrap();
        for (name, text) in files {
            fs::write(directory.join("ctr").join(name), text).unwrap();
        }
        let tree = Tree { mountpoint: directory.into(), controllers: Vec::new(), parents_made: 0 };
        Group { version: Version::V2, trees: [tree].into(), path: "/ctr".into(), leaf: None }
    }

    fn text(directory: &Path, name: &str) -> String {
        fs::read_to_string(directory.join("ctr").join(name)).unwrap()
    }

    #[test]
    fn v2_limits_are_in_their_files() {
        let top = tempfile::tempdir().unwrap();
        let files = [("memory.max", ""), ("pids.max", ""), ("cpu.weight", ""), ("cpu.max", "")];
        let group = v2(top.path(), &files);
        let resources = Resources {
            cpu_shares: 2,
            cpu_quota_us: 5000,
            memory_bytes: 4096,
            memory_and_swap_bytes: 4096,
            pids_max: 9,
            ..Resources::default()
        };
        put(&group, &plan(&group, &resources, &Present::default()).unwrap()).unwrap();
        let texts = files.map(|(name, _)| text(top.path(), name));
        assert_eq!(texts, ["4096", "9", "1", "5000"].map(str::to_owned));
    }

    #[test]
    fn a_change_that_fails_half_way_is_taken_back() {
        let top = tempfile::tempdir().unwrap();
        let group = v2(top.path(), &[("cpu.weight", "7"), ("memory.max", "8192")]);
        let resources = Resources { cpu_shares: 2, memory_bytes: 4096, pids_max: 9, ..Resources::default() };
        let settings = plan(&group, &resources, &Present::default()).unwrap();
        let error = change(&group, &settings).unwrap_err();
        assert!(matches!(error, Error::NoController { controller: "pids", .. }), "{error}");
        assert_eq!(text(top.path(), "memory.max"), "8192");
        assert_eq!(text(top.path(), "cpu.weight"), "7");
    }

    #[test]
    fn a_cgroup_that_is_gone_is_not_taken_for_a_missing_controller() {
        let top = tempfile::tempdir().unwrap();
        let group = v2(top.path(), &[]).child("gone");
        let resources = Resources { pids_max: 9, ..Resources::default() };
        let settings = plan(&group, &resources, &Present::default()).unwrap();
        assert!(matches!(change(&group, &settings), Err(Error::Write { .. })));
    }

    #[test]
    fn the_present_quota_is_read_from_the_first_word() {
        let top = tempfile::tempdir().unwrap();
        let group = v2(top.path(), &[("cpu.max", "7000 100000\n")]);
        assert_eq!(present(&group).cpu_quota, "7000");
    }
}
