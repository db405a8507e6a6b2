//! A started process, looked at from outside: whatever went wrong on its way, it must not have more than planned.
//!
//! Only what a process cannot give back to itself is compared, so that a program which has gone on since its
//! execve (another user, namespaces of its own below ours) is not taken for one that got away.

use std::{fs, io};

use crate::{
    model::ProcessPlan,
    sys::process::{self, Namespaces},
};

/// What holds for a process from its execve to its end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Bounds {
    /// Those that are not the host's.
    pub(super) namespaces: Namespaces,
    /// The largest bounding set, as a mask of capabilities(7).
    capabilities: u64,
    no_new_privs: bool,
    filtered: bool,
}

impl Bounds {
    pub(super) fn new(process: &ProcessPlan, namespaces: Namespaces) -> Self {
        Self {
            namespaces,
            capabilities: process.capabilities,
            no_new_privs: process.no_new_privs,
            filtered: process.seccomp.is_some(),
        }
    }

    /// Looks at process `pid`; `Err` says in words what it has too much. A process that has ended is within bounds.
    pub(super) fn inspect(&self, pid: u32) -> Result<(), String> {
        match fs::read_to_string(format!("/proc/{pid}/status")) {
            Ok(status) => self.check(&status, || has_own_users(pid))?,
            Err(error) => return unless_ended(&error, "status"),
        }
        for kind in self.namespaces.names() {
            let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/{kind}"));
            match (of(&pid.to_string()), of("self")) {
                (Ok(its), Ok(ours)) if its == ours => {
                    return Err(format!("it is in the host's {kind} namespace"));
                }
                (Ok(_), Ok(_)) => {}
                (Err(error), _) | (_, Err(error)) => unless_ended(&error, kind)?,
            }
        }
        Ok(())
    }

    /// The part that `/proc/PID/status` (proc(5)) tells. A file without a line that is looked for is out of bounds.
    /// `own_users`: whether it is in a user namespace below ours by now.
    fn check(&self, status: &str, own_users: impl FnOnce() -> bool) -> Result<(), String> {
        let field = |name| process::field(status, name).unwrap_or_default();
        if field("State").starts_with(['Z', 'X']) {
            return Ok(());
        }
        if self.filtered && field("Seccomp") != "2" {
            return Err(format!("its seccomp mode is {:?}, not 2", field("Seccomp")));
        }
        if self.no_new_privs && field("NoNewPrivs") != "1" {
            return Err(format!("its no_new_privs is {:?}, not 1", field("NoNewPrivs")));
        }
        let held = field("CapBnd");
        match u64::from_str_radix(held, 16) {
            // Whoever makes a user namespace has every capability in it, and has given up for good those it had
            // outside (user_namespaces(7)).
            Ok(held) if held & !self.capabilities == 0 || own_users() => Ok(()),
            _ => Err(format!("its capabilities are {held:?}, more than {:016x}", self.capabilities)),
        }
    }
}

/// Whether process `pid` is in another user namespace than we; one that has ended is taken to be.
fn has_own_users(pid: u32) -> bool {
    let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/user"));
    match (of(&pid.to_string()), of("self")) {
        (Ok(its), Ok(ours)) => its != ours,
        (Err(error), _) => unless_ended(&error, "user namespace").is_ok(),
        (Ok(_), Err(_)) => false,
    }
}

fn unless_ended(error: &io::Error, what: &str) -> Result<(), String> {
    /// errno(3).
    const ESRCH: i32 = 3;
    let ended = error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(ESRCH);
    if ended { Ok(()) } else { Err(format!("its {what} cannot be read: {error}")) }
}

#[cfg(test)]
mod tests {
    use std::{
        process::Command,
        time::{Duration, Instant},
    };

    use super::*;

    const BOUNDS: Bounds =
        Bounds { namespaces: Namespaces::NONE, capabilities: 0xff, no_new_privs: true, filtered: true };

    const HOSTS_USERS: fn() -> bool = || false;
    const OWN_USERS: fn() -> bool = || true;

    fn status(seccomp: &str, no_new_privs: &str, bounding: &str) -> String {
        format!(
            "State:\tS (sleeping)\nNoNewPrivs:\t{no_new_privs}\nSeccomp:\t{seccomp}\nCapBnd:\t{bounding}\n"
        )
    }

    #[test]
    fn a_process_with_what_was_planned_or_less_is_within_bounds() {
        assert_eq!(BOUNDS.check(&status("2", "1", "00000000000000ff"), HOSTS_USERS), Ok(()));
        assert_eq!(BOUNDS.check(&status("2", "1", "0000000000000001"), HOSTS_USERS), Ok(()));
        let loose = Bounds { no_new_privs: false, filtered: false, ..BOUNDS };
        assert_eq!(loose.check(&status("0", "0", "0000000000000000"), HOSTS_USERS), Ok(()));
        assert_eq!(BOUNDS.check("State:\tZ (zombie)\n", HOSTS_USERS), Ok(()));
    }

    #[test]
    fn each_thing_too_much_is_named() {
        for (status, said) in [
            (status("0", "1", "ff"), "its seccomp mode is \"0\", not 2"),
            (status("2", "0", "ff"), "its no_new_privs is \"0\", not 1"),
            (status("2", "1", "1ff"), "its capabilities are \"1ff\", more than 00000000000000ff"),
            (String::new(), "its seccomp mode is \"\", not 2"),
        ] {
            assert_eq!(BOUNDS.check(&status, HOSTS_USERS), Err(said.into()));
        }
        let loose = Bounds { no_new_privs: false, filtered: false, ..BOUNDS };
        assert!(loose.check("", OWN_USERS).is_err(), "a file without capabilities");
    }

    #[test]
    fn a_namespace_of_the_hosts_is_too_much_and_a_process_that_has_ended_is_not() {
        let loose = Bounds { no_new_privs: false, filtered: false, capabilities: u64::MAX, ..BOUNDS };
        let me = std::process::id();
        assert_eq!(loose.inspect(me), Ok(()));
        let apart = Bounds { namespaces: Namespaces::IPC, ..loose };
        assert_eq!(apart.inspect(me), Err("it is in the host's ipc namespace".into()));
        assert_eq!(apart.inspect(u32::MAX), Ok(()));
    }

    #[test]
    fn what_a_process_may_in_a_user_namespace_of_its_own_is_no_excess_and_the_rest_is() {
        assert_eq!(BOUNDS.check(&status("2", "1", "1ff"), OWN_USERS), Ok(()));
        assert!(BOUNDS.check(&status("0", "1", "ff"), OWN_USERS).is_err());
        let powerless = Bounds { no_new_privs: false, filtered: false, capabilities: 0, ..BOUNDS };
        assert!(powerless.inspect(std::process::id()).is_err());
        let mut child = Command::new("unshare").args(["--user", "sleep", "100"]).spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        let mut inspected = powerless.inspect(child.id());
        while inspected.is_err() && Instant::now() < until {
            inspected = powerless.inspect(child.id());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(inspected, Ok(()));
    }
}
