//! A started process, looked at from outside: whatever went wrong on its way, it must not have more than planned.
//!
//! Only what a process cannot give back to itself is compared, so that a program which has gone on since its
//! execve (another user, namespaces of its own below ours) is not taken for one that got away.

use std::{fs, io};

use crate::{model::ProcessPlan, sys::process::Namespaces};

/// What holds for a process from its execve to its end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Bounds {
    /// Those that are not the host's.
    namespaces: Namespaces,
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
            Ok(status) => self.check(&status)?,
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
    fn check(&self, status: &str) -> Result<(), String> {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(str::trim).unwrap_or_default()
        };
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
            Ok(held) if held & !self.capabilities == 0 => Ok(()),
            _ => Err(format!("its capabilities are {held:?}, more than {:016x}", self.capabilities)),
        }
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
    use super::*;

    const BOUNDS: Bounds =
        Bounds { namespaces: Namespaces::NONE, capabilities: 0xff, no_new_privs: true, filtered: true };

    fn status(seccomp: &str, no_new_privs: &str, bounding: &str) -> String {
        format!(
            "State:\tS (sleeping)\nNoNewPrivs:\t{no_new_privs}\nSeccomp:\t{seccomp}\nCapBnd:\t{bounding}\n"
        )
    }

    #[test]
    fn a_process_with_what_was_planned_or_less_is_within_bounds() {
        assert_eq!(BOUNDS.check(&status("2", "1", "00000000000000ff")), Ok(()));
        assert_eq!(BOUNDS.check(&status("2", "1", "0000000000000001")), Ok(()));
        let loose = Bounds { no_new_privs: false, filtered: false, ..BOUNDS };
        assert_eq!(loose.check(&status("0", "0", "0000000000000000")), Ok(()));
        assert_eq!(BOUNDS.check("State:\tZ (zombie)\n"), Ok(()));
    }

    #[test]
    fn each_thing_too_much_is_named() {
        for (status, said) in [
            (status("0", "1", "ff"), "its seccomp mode is \"0\", not 2"),
            (status("2", "0", "ff"), "its no_new_privs is \"0\", not 1"),
            (status("2", "1", "1ff"), "its capabilities are \"1ff\", more than 00000000000000ff"),
            (String::new(), "its seccomp mode is \"\", not 2"),
        ] {
            assert_eq!(BOUNDS.check(&status), Err(said.into()));
        }
        let loose = Bounds { no_new_privs: false, filtered: false, ..BOUNDS };
        assert!(loose.check("").is_err(), "a file without capabilities");
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
}
