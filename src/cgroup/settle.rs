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

/// The settings to write, checked; nothing is written yet.
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

/// A change of limits that was made, and the way back.
#[derive(Debug, Default)]
pub struct Changed {
    /// Previous contents of each file, in the order of the writes.
    old: Vec<(PathBuf, String)>,
}

impl Changed {
    /// Sets back what was changed, in reverse order, for each value was valid together with what was then
    /// around it. Goes on after a failure.
    ///
    /// # Errors
    /// Names the first file that keeps what it was changed to.
    pub fn take_back(self) -> Result<(), Error> {
        let mut result = Ok(());
        for (path, old) in self.old.into_iter().rev() {
            // A file such as io.max has a line for each device and takes one a write.
            let written = if old.contains('\n') {
                old.lines().try_for_each(|line| file::write(&path, line))
            } else {
                file::write(&path, &old)
            };
            let failed = |error| Error::NotSetBack { path: path.clone(), source: Box::new(error) };
            result = result.and(written.map_err(failed));
        }
        result
    }
}

/// Writes the settings of a cgroup in use: all, or none. What a file holds already is not written again; what
/// was written is read back.
pub(super) fn change(group: &Group, settings: &[Setting]) -> Result<Changed, Error> {
    let mut changed = Changed::default();
    let made = settings.iter().try_for_each(|setting| match path_of(group, setting)? {
        Some(path) => change_one(group.version, setting, path, &mut changed),
        None => Ok(()),
    });
    match made {
        Ok(()) => Ok(changed),
        // What cannot be set back is the worse news: it has the first error's file in it or beside it.
        Err(error) => Err(changed.take_back().err().unwrap_or(error)),
    }
}

fn change_one(
    version: Version,
    setting: &Setting,
    path: PathBuf,
    changed: &mut Changed,
) -> Result<(), Error> {
    let old = match file::read(&path) {
        Ok(old) if old == setting.value => return Ok(()),
        Ok(old) => old,
        // The write finds the same, and says it better.
        Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return write(setting, &path);
        }
        Err(error) => return Err(error),
    };
    if version == Version::V2 && setting.file == "memory.max" {
        make_room(setting, &path)?;
    }
    write(setting, &path)?;
    changed.old.push((path.clone(), old));
    let found = file::read(&path)?;
    if !took(setting, &found) {
        return Err(Error::NotTaken { path, value: setting.value.clone(), found });
    }
    Ok(())
}

/// v2 takes any `memory.max` and kills until the rest fits; v1 gives back what it can and refuses the rest with
/// EBUSY. A change of limits is no reason to kill, so v2 is made to do as v1.
fn make_room(setting: &Setting, path: &Path) -> Result<(), Error> {
    let Ok(wanted) = setting.value.parse::<u64>() else { return Ok(()) };
    let used = || file::read(&path.with_file_name("memory.current")).ok()?.parse::<u64>().ok();
    let Some(over) = used().and_then(|used| used.checked_sub(wanted)).filter(|over| *over > 0) else {
        return Ok(());
    };
    // Since Linux 5.19; EAGAIN when it gave back less. What is used afterwards is what counts.
    let _reclaimed = file::write(&path.with_file_name("memory.reclaim"), &over.to_string());
    match used() {
        Some(used) if used > wanted => {
            Err(Error::BelowUsage { path: path.into(), value: setting.value.clone(), used })
        }
        Some(_) | None => Ok(()),
    }
}

/// Whether a file that was written to now holds that value, as the kernel shows it. Only numbers are compared:
/// lists and keyed lines come back in another form.
fn took(setting: &Setting, found: &str) -> bool {
    let first = |text: &str| text.split_whitespace().next().unwrap_or_default().to_owned();
    let (wanted, found) = (first(&setting.value), first(found));
    // Shown as "max", or on v1 as the largest number there is.
    let limitless = |text: &str| text == "max" || text.parse().is_ok_and(|n: u64| n > LIMITLESS_BYTES);
    let numbers = (wanted.parse::<u64>(), found.parse::<u64>());
    match (setting.controller, numbers) {
        _ if limitless(&wanted) || wanted == "-1" => limitless(&found) || found == "-1",
        (_, (Ok(_), Err(_))) => !limitless(&found),
        // Counted in pages, and in huge ones: a part of one is cut off.
        ("memory", (Ok(wanted), Ok(found))) => {
            wanted.checked_sub(found).is_some_and(|cut| cut < rustix::param::page_size() as u64)
        }
        ("hugetlb", (Ok(wanted), Ok(found))) => found <= wanted,
        (_, (Ok(wanted), Ok(found))) => found == wanted,
        _ => true,
    }
}

/// v1 shows "no limit" as the number of pages that a counter can hold, which depends on the page size.
const LIMITLESS_BYTES: u64 = i64::MAX as u64 - (1 << 20);

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

/// An absent file in a cgroup that is there means an absent controller, and that is what the error says.
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
        let tree = Tree { mountpoint: directory.into(), controllers: Vec::new() };
        Group { version: Version::V2, trees: [tree].into(), path: "/ctr".into(), leaf: None, pod: None }
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

    fn setting(controller: &'static str, file: &'static str, value: &str) -> Setting {
        let file = file.into();
        Setting { controller, file, value: value.into(), limit: "test", optional: false }
    }

    #[test]
    fn a_change_can_be_taken_back_later_and_an_empty_file_is_emptied() {
        let top = tempfile::tempdir().unwrap();
        let group = v2(top.path(), &[("cpu.weight", "7"), ("cpuset.cpus", "\n")]);
        let settings = [setting("cpu", "cpu.weight", "9"), setting("cpuset", "cpuset.cpus", "1")];
        let changed = change(&group, &settings).unwrap();
        assert_eq!([text(top.path(), "cpu.weight"), text(top.path(), "cpuset.cpus")], ["9", "1"]);
        changed.take_back().unwrap();
        // The kernel takes a newline for "nothing".
        assert_eq!([text(top.path(), "cpu.weight"), text(top.path(), "cpuset.cpus")], ["7", "\n"]);
    }

    #[test]
    fn what_is_there_already_is_not_written_again() {
        let top = tempfile::tempdir().unwrap();
        let group = v2(top.path(), &[("cpuset.cpus", "0-1\n")]);
        let changed = change(&group, &[setting("cpuset", "cpuset.cpus", "0-1")]).unwrap();
        assert!(changed.old.is_empty(), "{changed:?}");
    }

    #[test]
    fn less_memory_than_is_in_use_is_refused_before_anything_is_killed() {
        let top = tempfile::tempdir().unwrap();
        let files = [("memory.current", "8192"), ("memory.max", "max"), ("memory.reclaim", "")];
        let group = v2(top.path(), &files);
        let error = change(&group, &[setting("memory", "memory.max", "4096")]).unwrap_err();
        assert!(matches!(error, Error::BelowUsage { used: 8192, .. }), "{error}");
        assert!(error.to_string().contains("memory.max") && error.to_string().contains("4096"), "{error}");
        assert_eq!([text(top.path(), "memory.reclaim"), text(top.path(), "memory.max")], ["4096", "max"]);
    }

    #[test]
    fn the_kernels_rounding_is_no_refusal_and_another_value_is() {
        let (page, huge) = (rustix::param::page_size() as u64, "hugetlb.2MB.max");
        let cases = [
            ("memory", "memory.max", (3 * page + 5).to_string(), (3 * page).to_string(), true),
            ("memory", "memory.max", (3 * page).to_string(), (2 * page).to_string(), false),
            ("memory", "memory.max", (3 * page).to_string(), "max".into(), false),
            ("memory", "memory.max", "max".into(), "4096".into(), false),
            ("memory", "memory.limit_in_bytes", "-1".into(), "9223372036854771712".into(), true),
            ("memory", "memory.limit_in_bytes", i64::MAX.to_string(), "9223372036854771712".into(), true),
            ("memory", "memory.max", "1G".into(), "1073741824".into(), true),
            ("hugetlb", huge, "3000000".into(), "2097152".into(), true),
            ("hugetlb", huge, "2097152".into(), "4194304".into(), false),
            ("cpu", "cpu.max", "5000".into(), "5000 100000".into(), true),
            ("cpu", "cpu.max", "max 50000".into(), "max 50000".into(), true),
            ("cpu", "cpu.cfs_quota_us", "-1".into(), "-1".into(), true),
            ("cpu", "cpu.shares", "512".into(), "511".into(), false),
            ("io", "io.weight", "100".into(), "default 100".into(), true),
        ];
        for (controller, file, value, found, taken) in cases {
            assert_eq!(took(&setting(controller, file, &value), &found), taken, "{file} {value} {found}");
        }
    }
}
