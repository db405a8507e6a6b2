//! Killing every process below a cgroup, those that are born meanwhile included.
//!
//! v2 has `cgroup.kill`. On v1 the freezer holds them still while each gets its signal: a frozen process can
//! neither fork nor end, so a pid that was read cannot mean another process when it is signalled.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags, openat},
    io::Errno,
    process::{Pid, Signal, kill_process},
};

use super::{
    Error, error, file,
    tree::{Visit, walk},
};

/// Rounds of freezing and signalling on v1. One is enough unless something will not freeze.
const ROUNDS_MAX: u32 = 50;

/// Pause between rounds; a process that got SIGKILL needs some hundred microseconds to end.
const ROUND_PAUSE: Duration = Duration::from_millis(2);

/// Looks at whether everything is frozen, and the pause between two. A process in the kernel's hands (disk,
/// NFS) may take long to freeze; it is signalled all the same.
const FREEZE_LOOKS_MAX: u32 = 10;
const FREEZE_PAUSE: Duration = Duration::from_micros(500);

/// v2: one write, right after `look`. Absent is success.
pub(super) fn v2(cgroup: &Path, look: &mut dyn FnMut()) -> Result<(), Error> {
    look();
    match file::write(&cgroup.join("cgroup.kill"), "1") {
        Err(Error::Write { source, .. }) if is_gone(&source) => Ok(()),
        written => written,
    }
}

/// The killing of a cgroup on v1: rounds of freeze, SIGKILL and thaw, until nobody is left who could fork. Each step
/// returns at once, so that a caller with other work need not wait while a cgroup freezes. Absent is success.
///
/// Never of a cgroup that the caller is in: it would freeze itself.
#[derive(Debug)]
pub struct Killing {
    cgroup: PathBuf,
    /// Cgroups above it that are the pod's, the topmost first. Frozen, they would keep it from dying.
    above: Vec<PathBuf>,
    /// Rounds that are over, and the looks of this one.
    rounds: u32,
    looks: u32,
    /// Processes that the last round signalled.
    before: Vec<Pid>,
}

impl Killing {
    pub(super) fn new(cgroup: PathBuf, above: Vec<PathBuf>) -> Self {
        Self { cgroup, above, rounds: 0, looks: 0, before: Vec::new() }
    }

    /// Goes on as far as possible without waiting. `Some` is the pause before the next step, `None` the end.
    ///
    /// `look` is called once in all, when all stand still and nobody has been signalled.
    ///
    /// # Errors
    /// Processes that keep appearing and do not freeze; a freezer above the pod, which is not ours to thaw.
    pub fn step(&mut self, look: &mut dyn FnMut()) -> Result<Option<Duration>, Error> {
        let state = freezing(&self.cgroup, self.looks == 0);
        if state == Freezing::Under && self.looks < FREEZE_LOOKS_MAX {
            self.looks += 1;
            return Ok(Some(FREEZE_PAUSE));
        }
        if self.rounds == 0 {
            look();
        }
        let signalled = signal_all(&self.cgroup);
        // Whatever went wrong, nothing stays frozen: a frozen process does not even die.
        let thawed = thaw_all(&self.cgroup).and(self.above.iter().try_for_each(|above| thaw(above)));
        let signalled = match signalled.and_then(|pids| thawed.map(|()| pids)) {
            Err(error) if is_gone(&error) => return Ok(None),
            result => result.map_err(error::file("kill the processes of", &self.cgroup))?,
        };
        // Done when nobody could fork between the reading and the signal, or nobody did.
        if state == Freezing::Done || signalled.iter().all(|pid| self.before.contains(pid)) {
            return if signalled.is_empty() { Ok(None) } else { self.not_frozen_above() };
        }
        (self.rounds, self.looks, self.before) = (self.rounds + 1, 0, signalled);
        if self.rounds == ROUNDS_MAX {
            return Err(Error::Unkillable { path: self.cgroup.clone(), processes: self.before.len() });
        }
        Ok(Some(ROUND_PAUSE))
    }

    /// All steps, with their pauses.
    pub(super) fn run(mut self, look: &mut dyn FnMut()) -> Result<(), Error> {
        while let Some(pause) = self.step(look)? {
            thread::sleep(pause);
        }
        Ok(())
    }

    /// Frozen by a cgroup that is not the pod's, the signalled do not end.
    fn not_frozen_above(&self) -> Result<Option<Duration>, Error> {
        let top = self.above.first().unwrap_or(&self.cgroup);
        let parent = file::read(&top.join("freezer.parent_freezing"));
        match top.parent() {
            Some(above) if parent.is_ok_and(|text| text == "1") => {
                Err(Error::FrozenAbove { path: top.clone(), above: above.into() })
            }
            Some(_) | None => Ok(None),
        }
    }
}

/// How many processes are in `cgroup` and below.
pub(super) fn count(cgroup: &Path) -> io::Result<usize> {
    let mut count = 0;
    each_process(cgroup, &mut |_| {
        count += 1;
        Ok(())
    })?;
    Ok(count)
}

/// Whether any process is in `cgroup` or below. Absent is "no".
pub(super) fn populated_v2(cgroup: &Path) -> Result<bool, Error> {
    match file::read(&cgroup.join("cgroup.events")) {
        Ok(events) => Ok(file::keyed(&events, "populated") == Some(1)),
        Err(Error::File { source, .. }) if is_gone(&source) => Ok(false),
        Err(error) => Err(error),
    }
}

/// As [`populated_v2`]; v1 has no such file, so every `cgroup.procs` is read.
pub(super) fn populated_v1(cgroup: &Path) -> Result<bool, Error> {
    let mut any = false;
    match each_process(cgroup, &mut |_| {
        any = true;
        Ok(())
    }) {
        Err(error) if is_gone(&error) => Ok(false),
        read => read.map(|()| any).map_err(error::file("read the processes of", cgroup)),
    }
}

/// `ENODEV` is what a file of a removed cgroup gives once it is open.
pub(super) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || Errno::from_io_error(error) == Some(Errno::NODEV)
}

/// The progress of freezing a cgroup.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Freezing {
    Under,
    Done,
    /// There is no freezer.
    Never,
}

/// Looks; asks for it first if wanted.
fn freezing(cgroup: &Path, ask: bool) -> Freezing {
    let state = cgroup.join("freezer.state");
    if ask && file::write(&state, "FROZEN").is_err() {
        return Freezing::Never;
    }
    match file::read(&state) {
        Ok(text) if text == "FROZEN" => Freezing::Done,
        Ok(_) => Freezing::Under,
        Err(_) => Freezing::Never,
    }
}

fn thaw(cgroup: &Path) -> io::Result<()> {
    match file::write(&cgroup.join("freezer.state"), "THAWED") {
        Ok(()) => Ok(()),
        Err(Error::Write { source, .. }) if !is_gone(&source) => Err(source),
        Err(_) => Ok(()),
    }
}

/// Thaws a cgroup and each below it, for a container may have frozen one of its own.
fn thaw_all(cgroup: &Path) -> io::Result<()> {
    walk(cgroup, &mut |visit| match visit {
        Visit::Leave { .. } => Ok(()),
        Visit::Enter(directory) => match open(directory, "freezer.state", OFlags::WRONLY) {
            Ok(state) => rustix::io::write(&state, b"THAWED").map(drop).or_else(unless_gone),
            Err(errno) => unless_gone(errno),
        },
    })
}

fn signal_all(cgroup: &Path) -> io::Result<Vec<Pid>> {
    let mut pids = Vec::new();
    each_process(cgroup, &mut |pid| {
        pids.push(pid);
        match kill_process(pid, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    })?;
    Ok(pids)
}

fn each_process(cgroup: &Path, act: &mut dyn FnMut(Pid) -> io::Result<()>) -> io::Result<()> {
    walk(cgroup, &mut |visit| match visit {
        Visit::Leave { .. } => Ok(()),
        Visit::Enter(directory) => processes_in(directory, act),
    })
}

/// Calls `act` for each process of one cgroup, without those below, until it fails.
pub(super) fn processes_in(
    cgroup: BorrowedFd<'_>,
    act: &mut dyn FnMut(Pid) -> io::Result<()>,
) -> io::Result<()> {
    match open(cgroup, "cgroup.procs", OFlags::RDONLY) {
        Ok(procs) => each_pid(File::from(procs), act),
        Err(errno) => unless_gone(errno),
    }
}

/// Reads pids, one a line, however many there are, in a buffer that does not grow.
fn each_pid(mut procs: impl Read, act: &mut dyn FnMut(Pid) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = [0; 4096];
    let mut number: i32 = 0;
    loop {
        let length = match procs.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if is_gone(&error) => return Ok(()),
            length => length?,
        };
        let Some(bytes) = buffer.get(..length).filter(|bytes| !bytes.is_empty()) else { return Ok(()) };
        for byte in bytes {
            match byte {
                b'0'..=b'9' => {
                    number = number.saturating_mul(10).saturating_add(i32::from(byte - b'0'));
                }
                _ => {
                    // 0 is a process of another pid namespace, which has no number here.
                    if let Some(pid) = Pid::from_raw(number) {
                        act(pid)?;
                    }
                    number = 0;
                }
            }
        }
    }
}

fn open(directory: BorrowedFd<'_>, name: &str, access: OFlags) -> Result<OwnedFd, Errno> {
    openat(directory, name, access | OFlags::CLOEXEC, Mode::empty())
}

fn unless_gone(errno: Errno) -> io::Result<()> {
    if matches!(errno, Errno::NOENT | Errno::NODEV) { Ok(()) } else { Err(errno.into()) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn pids(text: &str) -> Vec<i32> {
        let mut pids = Vec::new();
        each_pid(text.as_bytes(), &mut |pid| {
            pids.push(pid.as_raw_nonzero().get());
            Ok(())
        })
        .unwrap();
        pids
    }

    #[test]
    fn pids_are_read_across_the_end_of_a_buffer() {
        let many: Vec<i32> = (100_000..110_000).collect();
        let text: String = many.iter().map(|pid| format!("{pid}\n")).collect();
        assert_eq!(pids(&text), many);
    }

    #[test]
    fn a_process_without_a_number_here_is_not_signalled() {
        assert_eq!(pids("0\n7\n0\n"), [7]);
        assert_eq!(pids(""), [0; 0]);
    }

    #[test]
    fn an_absent_cgroup_is_killed_and_empty() {
        let nothing = Path::new("/nonexistent/cgroup");
        Killing::new(nothing.into(), vec![nothing.into()]).run(&mut || {}).unwrap();
        v2(nothing, &mut || {}).unwrap();
        assert!(!populated_v1(nothing).unwrap());
        assert!(!populated_v2(nothing).unwrap());
    }

    #[test]
    fn v2_is_killed_and_asked_through_its_files() {
        let cgroup = tempfile::tempdir().unwrap();
        fs::write(cgroup.path().join("cgroup.kill"), "").unwrap();
        let mut looked = 0;
        v2(cgroup.path(), &mut || looked += 1).unwrap();
        assert_eq!(looked, 1);
        assert_eq!(fs::read_to_string(cgroup.path().join("cgroup.kill")).unwrap(), "1");
        fs::write(cgroup.path().join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
        assert!(populated_v2(cgroup.path()).unwrap());
        fs::write(cgroup.path().join("cgroup.events"), "populated 0\nfrozen 0\n").unwrap();
        assert!(!populated_v2(cgroup.path()).unwrap());
    }
}
