//! `pintle check`: the kernel's release and the system calls that pintle cannot do without.

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use super::{Finding, fail, host::Host, ok, scratch::Child, warn};
use crate::sys::{
    process::{self, Ended},
    signal,
};

/// The oldest kernel that pintle is tested with.
const OLDEST: Version = Version(5, 14);

pub(super) fn questions(host: &Host) -> Vec<Finding> {
    let release = host.read("proc/sys/kernel/osrelease").unwrap_or_default();
    vec![kernel(&release), openat2_works(), pidfd_works()]
}

/// The first two numbers of a kernel's release.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Version(u32, u32);

impl Version {
    fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some(Self(numbers.next()?.ok()?, numbers.next()?.ok()?))
    }
}

/// A number proves nothing: what is missing in an old kernel, and is there in an old one with patches, the attempts
/// show.
fn kernel(release: &str) -> Finding {
    match Version::parse(release) {
        Some(version) if version >= OLDEST => ok("kernel", release),
        Some(_) => {
            warn("kernel", format!("{release} is older than 5.14, the oldest that pintle is tested with"))
        }
        None => warn("kernel", format!("its release {release:?} cannot be read; 5.14 or newer is needed")),
    }
}

fn openat2_works() -> Finding {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    let opened = openat2(CWD, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve);
    match opened {
        Ok(_) => ok("openat2", "paths of images can be walked safely"),
        Err(error) => fail("openat2", format!("{error}: a seccomp filter around pintle may forbid it")),
    }
}

fn pidfd_works() -> Finding {
    const KILL: i32 = 9;
    let killed = Child::idle().and_then(|child| {
        signal::send(child.pidfd(), KILL)?;
        process::wait(child.pid())
    });
    match killed {
        Ok(Ended::Signal(KILL)) => ok("pidfd", "signals cannot hit a process that took over a pid"),
        Ok(ended) => fail("pidfd", format!("a signal by pidfd had no effect ({ended:?})")),
        Err(error) => fail("pidfd", format!("{error}: a seccomp filter around pintle may forbid it")),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    #[test]
    fn a_release_is_judged_by_its_first_two_numbers() {
        for (release, level) in [
            ("6.18.0-rc1", Level::Ok),
            ("5.14.0-427.el9.x86_64", Level::Ok),
            ("5.4.0-200-generic", Level::Warn),
            ("4.18.0", Level::Warn),
            ("custom", Level::Warn),
        ] {
            assert_eq!(kernel(release).level, level, "{release}");
        }
    }
}
