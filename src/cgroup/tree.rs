//! Directories of a hierarchy: made, walked and removed.
//!
//! A container may nest cgroups deeper than a path can name (PATH_MAX), so walking goes from descriptor to
//! descriptor, holding one at a time.

use std::{
    ffi::{CStr, CString},
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, RawDir, XattrFlags, chmod, getxattr, mkdir, openat, rmdir,
        setxattr, unlinkat,
    },
    io::Errno,
};
use serde::{Deserialize, Serialize};

use super::{Error, error, file};

/// One mounted hierarchy, as a pod's record keeps it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Tree {
    pub(super) mountpoint: PathBuf,
    /// Of v1: what is attached to it, `name=…` included. Empty for cgroup2, which says so in a file.
    #[serde(default)]
    pub(super) controllers: Vec<String>,
}

impl Tree {
    pub(super) fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|known| known == controller)
    }

    pub(super) fn is_v2(&self) -> bool {
        self.controllers.is_empty()
    }

    /// Whether the calling process is in cgroup `path` of this cgroup2 hierarchy already. When in doubt it is not.
    pub(super) fn holds_caller(&self, path: &str) -> bool {
        debug_assert!(self.is_v2(), "asked of a hierarchy with another name in /proc/self/cgroup");
        let memberships = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        memberships.lines().any(|line| line.strip_prefix("0::") == Some(path))
    }

    /// The host directory of cgroup `path` (absolute, or empty for the root).
    pub(super) fn directory(&self, path: &str) -> PathBuf {
        let mut directory = self.mountpoint.clone().into_os_string();
        directory.push(path);
        directory.into()
    }
}

/// Mode of every cgroup: the workloads in it read their own limits, whoever they run as (the JVM, Go and Node size
/// themselves by them), and monitors those of all.
const MODE: Mode = Mode::from_bits_retain(0o755);

/// Makes one directory, 0755 whatever the umask; false when it was there.
pub(super) fn make(directory: &Path) -> Result<bool, Error> {
    match mkdir(directory, MODE) {
        Ok(()) => chmod(directory, MODE)
            .map(|()| true)
            .map_err(|source| error::file("set mode of", directory)(source.into())),
        Err(Errno::EXIST) => Ok(false),
        Err(source) => Err(error::file("make", directory)(source.into())),
    }
}

/// The mark of a parent that was made for a pod, so that the last pod to leave it, whichever that is, takes it
/// along. An attribute of the directory: it cannot be out of step with it, as a record elsewhere could.
const MADE_FOR_A_POD: &CStr = c"trusted.pintle.made-for-a-pod";

/// As [`make`]; what is made is marked for [`remove_parent`].
pub(super) fn make_parent(directory: &Path) -> Result<bool, Error> {
    if !make(directory)? {
        return Ok(false);
    }
    match setxattr(directory, MADE_FOR_A_POD, b"", XattrFlags::empty()) {
        Err(errno @ Errno::NOENT) => Err(error::file("mark", directory)(errno.into())),
        // Elsewhere refused: then it stays when it is empty, and harms nobody.
        Ok(()) | Err(_) => Ok(true),
    }
}

/// Removes a directory that was made for a pod and is empty. `false`: it stays, and so does what is above it.
pub(super) fn remove_parent(directory: &Path) -> bool {
    match getxattr(directory, MADE_FOR_A_POD, &mut [0u8; 0]) {
        Ok(_) => matches!(rmdir(directory), Ok(()) | Err(Errno::NOENT)),
        Err(errno) => errno == Errno::NOENT,
    }
}

/// Gives a v1 cpuset cgroup its parent's CPUs and memory nodes where it has none. A cgroup without them takes
/// no process, and the kernel leaves a new one empty (cgroup v1 cpusets, `cpuset.cpus`).
pub(super) fn inherit_cpuset(directory: &Path) -> Result<(), Error> {
    let Some(parent) = directory.parent() else { return Ok(()) };
    for name in ["cpuset.cpus", "cpuset.mems"] {
        let path = directory.join(name);
        if file::read(&path)?.is_empty() {
            file::write(&path, &file::read(&parent.join(name))?)?;
        }
    }
    Ok(())
}

/// Cgroups one walk visits at most: far above what any workload makes, low enough to end.
const CGROUPS_MAX: usize = 1 << 20;

/// A step of a walk through a hierarchy.
#[derive(Debug)]
pub(super) enum Visit<'a> {
    /// A cgroup, before those below it; the top one too.
    Enter(BorrowedFd<'a>),
    /// A cgroup below the top, after all that are below it, by its name in its parent.
    Leave { parent: BorrowedFd<'a>, name: &'a CStr },
}

/// Visits `top` and every cgroup below it. One that vanishes on the way is passed over; an absent `top` is
/// `ENOENT`.
pub(super) fn walk(top: &Path, visit: &mut dyn FnMut(Visit<'_>) -> io::Result<()>) -> io::Result<()> {
    let mut here = open(CWD, top)?;
    visit(Visit::Enter(here.as_fd()))?;
    let mut waiting = vec![names_below(&here)?];
    let mut trail: Vec<CString> = Vec::new();
    let mut seen = 1;
    while let Some(names) = waiting.last_mut() {
        if let Some(name) = names.pop() {
            let child = match open(here.as_fd(), name.as_c_str()) {
                Err(Errno::NOENT) => continue,
                opened => opened?,
            };
            seen += 1;
            if seen > CGROUPS_MAX {
                return Err(Errno::TOOBIG.into());
            }
            visit(Visit::Enter(child.as_fd()))?;
            waiting.push(names_below(&child)?);
            trail.push(name);
            here = child;
        } else {
            waiting.pop();
            let Some(name) = trail.pop() else { break };
            here = open(here.as_fd(), c"..")?;
            visit(Visit::Leave { parent: here.as_fd(), name: &name })?;
        }
    }
    Ok(())
}

fn open<P: rustix::path::Arg>(at: BorrowedFd<'_>, path: P) -> Result<OwnedFd, Errno> {
    openat(at, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Names of the directories in one; none when it has been removed.
fn names_below(directory: &OwnedFd) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    let mut buffer = [const { MaybeUninit::uninit() }; 4096];
    let mut entries = RawDir::new(directory, &mut buffer);
    while let Some(entry) = entries.next() {
        match entry {
            Ok(entry) => {
                let name = entry.file_name();
                if entry.file_type() == FileType::Directory && name != c"." && name != c".." {
                    names.push(name.to_owned());
                }
            }
            Err(Errno::NOENT) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(names)
}

/// First and longest pause between two tries to remove a busy cgroup. A killed process needs some hundred
/// microseconds to leave; one in the kernel's hands longer.
const PAUSE_FIRST: Duration = Duration::from_micros(200);
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// Removes a cgroup and all below it, trying until `deadline` while processes are still leaving. Absent is
/// success.
pub(super) fn remove(top: &Path, deadline: Instant) -> Result<(), Error> {
    let failed = |source: io::Error| error::file("remove", top)(source);
    let mut pause = PAUSE_FIRST;
    loop {
        // Nearly always empty: one system call.
        let busy = match rmdir(top) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(errno @ (Errno::BUSY | Errno::NOTEMPTY)) => errno,
            Err(errno) => return Err(failed(errno.into())),
        };
        match remove_below(top) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        }
        match rmdir(top) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(_) if Instant::now() >= deadline => return Err(failed(busy.into())),
            Err(_) => thread::sleep(pause),
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Whether a removal failed because of processes that are still there, or of cgroups with such below it.
pub(super) fn is_busy(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::BUSY | Errno::NOTEMPTY))
}

/// Removes what it can below `top`; what is busy stays for the next try.
fn remove_below(top: &Path) -> io::Result<()> {
    walk(top, &mut |visit| match visit {
        Visit::Enter(_) => Ok(()),
        Visit::Leave { parent, name } => match unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT | Errno::BUSY | Errno::NOTEMPTY) => Ok(()),
            Err(errno) => Err(errno.into()),
        },
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_walk_meets_each_directory_once_before_and_once_after_what_is_below_it() {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir_all(top.path().join("a/b")).unwrap();
        fs::create_dir_all(top.path().join("c")).unwrap();
        fs::write(top.path().join("a/cgroup.procs"), "").unwrap();
        let (mut entered, mut left) = (0, Vec::new());
        walk(top.path(), &mut |visit| {
            match visit {
                Visit::Enter(_) => entered += 1,
                Visit::Leave { name, .. } => left.push(name.to_str().unwrap().to_owned()),
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(entered, 4);
        let place = |name: &str| left.iter().position(|each| each == name).unwrap();
        assert!(place("b") < place("a"));
        left.sort();
        assert_eq!(left, ["a", "b", "c"]);
    }

    #[test]
    fn directories_nested_deeper_than_a_path_can_name_are_removed() {
        const DEPTH: usize = 1000;
        let top = tempfile::tempdir().unwrap();
        let pod = top.path().join("pod");
        make(&pod).unwrap();
        let mut here = open(CWD, &pod).unwrap();
        for _ in 0..DEPTH {
            rustix::fs::mkdirat(&here, "nested", Mode::RWXU).unwrap();
            here = open(here.as_fd(), c"nested").unwrap();
        }
        remove(&pod, now()).unwrap();
        assert!(!pod.exists());
    }

    #[test]
    fn what_cannot_be_removed_is_an_error_that_names_the_top() {
        let top = tempfile::tempdir().unwrap();
        let pod = top.path().join("pod");
        fs::create_dir_all(pod.join("container")).unwrap();
        fs::write(pod.join("container/held"), "").unwrap();
        let error = remove(&pod, now()).unwrap_err();
        assert_eq!(error.to_string(), format!("remove {}", pod.display()));
        assert!(pod.join("container/held").exists());
    }

    #[test]
    fn an_absent_directory_is_removed_and_a_present_one_is_not_made_again() {
        let top = tempfile::tempdir().unwrap();
        remove(&top.path().join("nothing"), now()).unwrap();
        assert!(make(&top.path().join("one")).unwrap());
        assert!(!make(&top.path().join("one")).unwrap());
    }

    #[test]
    fn a_cpuset_takes_its_parents_values_only_where_it_has_none() {
        let top = tempfile::tempdir().unwrap();
        let child = top.path().join("child");
        make(&child).unwrap();
        fs::write(top.path().join("cpuset.cpus"), "0-7\n").unwrap();
        fs::write(top.path().join("cpuset.mems"), "0\n").unwrap();
        fs::write(child.join("cpuset.cpus"), "\n").unwrap();
        fs::write(child.join("cpuset.mems"), "1\n").unwrap();
        inherit_cpuset(&child).unwrap();
        assert_eq!(fs::read_to_string(child.join("cpuset.cpus")).unwrap(), "0-7");
        assert_eq!(fs::read_to_string(child.join("cpuset.mems")).unwrap(), "1\n");
    }
}
