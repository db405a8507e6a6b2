//! Processes and namespaces in which something is tried, and which take all of it along when they end.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::{
    mount::{MountFlags, MountPropagationFlags},
    pipe::{PipeFlags, pipe_with},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::sys::{
    process::{self, Fork, Namespaces, OneThread, Pid},
    ready,
};

/// How long one attempt may take. All take some milliseconds, but for a systemd that does not answer (10 s).
const ATTEMPT_MAX: Duration = Duration::from_secs(30);

/// A folder in memory, in every mount namespace of [`apart`]. On the host it is another.
pub(super) const FOLDER: &str = "/tmp";

/// What an attempt has shown, in words, or why it failed.
pub(super) type Shown = Result<String, String>;

/// Tries something that answers in words.
pub(super) fn attempt(kinds: Namespaces, work: impl FnOnce() -> Shown) -> Shown {
    apart(kinds, work).flatten()
}

/// Does `work` in a process of its own, in new namespaces of `kinds`. This process must have a single thread.
///
/// # Errors
/// Words: there is no such process or namespace, or it has not answered.
pub(super) fn apart<T: Serialize + DeserializeOwned>(
    kinds: Namespaces,
    work: impl FnOnce() -> T,
) -> Result<T, String> {
    let child = Child::fork(|answer| {
        let answered = enter(kinds).map_err(|error| error.to_string()).map(|()| work());
        let _written = serde_json::to_writer(answer, &answered); // without a reader there is nobody to tell
    });
    child.and_then(|child| child.answer()).unwrap_or_else(|error| Err(error.to_string()))
}

fn enter(kinds: Namespaces) -> io::Result<()> {
    process::unshare(kinds)?;
    if kinds.names().any(|name| name == "mnt") {
        rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        rustix::mount::mount("check", FOLDER, "tmpfs", MountFlags::empty(), c"mode=0700,size=64m")?;
    }
    Ok(())
}

/// A child that ends with this, if it has not before.
pub(super) struct Child {
    pid: Pid,
    pidfd: OwnedFd,
    answer: OwnedFd,
}

impl Child {
    /// Forks a child that does `work` and ends.
    pub(super) fn fork(work: impl FnOnce(File)) -> io::Result<Self> {
        let (answer, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
        match process::fork(OneThread::prove()?)? {
            Fork::Child => {
                drop(answer);
                work(theirs.into());
                process::exit_now(0)
            }
            Fork::Parent(pid) => match process::pidfd(pid) {
                Ok(pidfd) => Ok(Self { pid, pidfd, answer }),
                Err(error) => {
                    // One that cannot be killed or reaped has ended.
                    let _ended = process::kill(pid).and_then(|()| process::wait(pid));
                    Err(error)
                }
            },
        }
    }

    /// Forks a child that does nothing, and ends with this process too, however that ends.
    pub(super) fn idle() -> io::Result<Self> {
        Self::fork(|answer| {
            // It is never readable, but hangs up once nobody can read what is written to it.
            let _hung_up = ready::wait_readable(&answer, Duration::MAX);
        })
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    fn answer<T: DeserializeOwned>(self) -> io::Result<T> {
        if !ready::wait_readable(&self.answer, ATTEMPT_MAX)? {
            return Err(io::Error::other(format!("no answer within {} s", ATTEMPT_MAX.as_secs())));
        }
        let mut bytes = Vec::new();
        File::from(self.answer.try_clone()?).read_to_end(&mut bytes)?;
        serde_json::from_slice(&bytes).map_err(|_| io::Error::other("the process that tried it died"))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // One that cannot be killed has ended; it is reaped all the same.
        let _killed = process::kill(self.pid);
        let _reaped = process::wait(self.pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // `fork` wants a single thread, which a test has not; what these do is tried by `pintle check` itself, in
    // tests/e2e/check.rs.
    #[test]
    fn an_attempt_is_given_longer_than_anything_in_it_may_take() {
        assert!(ATTEMPT_MAX > Duration::from_secs(10), "systemd is given 10 s");
    }
}
