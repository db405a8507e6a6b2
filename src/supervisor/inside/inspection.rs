//! A process looked at from outside: whatever went wrong on its way, it must not have more than planned.
//!
//! An init that waits for its start is still ours, and has exactly what was planned. An exec is looked at when it
//! has executed its program: then only what a process cannot give back to itself is compared, so that a program
//! which has gone on since (another user, namespaces of its own below ours) is not taken for one that got away.

use std::{fs, io};

use crate::{
    model::{ProcessPlan, ResolvedUser},
    sys::process::{self, Namespaces},
};

/// What holds for a process from its execve to its end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Bounds {
    /// Those that are not the host's.
    pub(super) namespaces: Namespaces,
    /// The largest bounding set, as a mask of capabilities(7).
    capabilities: u64,
    /// Kept by a user other than root.
    ambient: u64,
    no_new_privs: bool,
    filtered: bool,
}

/// `CAP_SETGID` and `CAP_SETUID`.
const SETGID: u64 = 1 << 6;
const SETUID: u64 = 1 << 7;

impl Bounds {
    pub(super) fn new(process: &ProcessPlan, namespaces: Namespaces) -> Self {
        Self {
            namespaces,
            capabilities: process.capabilities,
            ambient: process.ambient,
            no_new_privs: process.no_new_privs,
            filtered: process.seccomp.is_some(),
        }
    }

    /// Looks at an init that waits for its start, and is to be `user`; `Err` says in words what it has too much.
    pub(super) fn inspect_waiting(&self, pid: u32, user: &ResolvedUser) -> Result<(), String> {
        self.look(pid, |status| {
            self.check(status, || false)?;
            check_ids(status, user, true, true)
        })
    }

    /// Looks at process `pid`, which was started as `user`. A process that has ended is within bounds.
    pub(super) fn inspect(&self, pid: u32, user: &ResolvedUser) -> Result<(), String> {
        self.look(pid, |status| {
            self.check(status, || has_own_users(pid))?;
            let kept = |capability| !self.may_gain(user, capability);
            let checked = check_ids(status, user, kept(SETUID), kept(SETGID));
            checked.or_else(|excess| if has_own_users(pid) { Ok(()) } else { Err(excess) })
        })
    }

    /// Whether the program can have come by `capability`, or by what a setuid program has, since its execve.
    fn may_gain(&self, user: &ResolvedUser, capability: u64) -> bool {
        let held = if user.uid == 0 { self.capabilities } else { self.capabilities & self.ambient };
        !self.no_new_privs || held & capability != 0
    }

    fn look(&self, pid: u32, check: impl FnOnce(&str) -> Result<(), String>) -> Result<(), String> {
        match fs::read_to_string(format!("/proc/{pid}/status")) {
            Ok(status) if has_ended(&status) => return Ok(()),
            Ok(status) => check(&status)?,
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

fn has_ended(status: &str) -> bool {
    process::field(status, "State").is_some_and(|state| state.starts_with(['Z', 'X']))
}

/// Compares who it is with who it is to be: users, groups or both.
fn check_ids(status: &str, user: &ResolvedUser, users: bool, groups: bool) -> Result<(), String> {
    let ids = |name| -> Vec<u32> {
        let field = process::field(status, name).unwrap_or_default();
        field.split_ascii_whitespace().map(|id| id.parse().unwrap_or(u32::MAX)).collect()
    };
    // Real, effective, saved, file system's.
    let (uids, gids) = (ids("Uid"), ids("Gid"));
    if users && uids != [user.uid; 4] {
        return Err(format!("its users are {uids:?}, not {}", user.uid));
    }
    if groups && gids != [user.gid; 4] {
        return Err(format!("its groups are {gids:?}, not {}", user.gid));
    }
    let (mut held, mut planned) = (ids("Groups"), user.groups.clone());
    held.sort_unstable();
    planned.sort_unstable();
    if groups && held != planned {
        return Err(format!("its supplementary groups are {held:?}, not {planned:?}"));
    }
    Ok(())
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

    const BOUNDS: Bounds = Bounds {
        namespaces: Namespaces::NONE,
        capabilities: 0xff,
        ambient: 0,
        no_new_privs: true,
        filtered: true,
    };

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
        assert!(has_ended("Name:\tx\nState:\tZ (zombie)\n") && !has_ended("State:\tS (sleeping)\n"));
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
        let nobody = ResolvedUser { uid: 65_534, gid: 65_534, groups: vec![] };
        assert_eq!(loose.inspect(me, &nobody), Ok(()), "it may have changed its user");
        let apart = Bounds { namespaces: Namespaces::IPC, ..loose };
        assert_eq!(apart.inspect(me, &nobody), Err("it is in the host's ipc namespace".into()));
        assert_eq!(apart.inspect(u32::MAX, &nobody), Ok(()));
    }

    #[test]
    fn what_a_process_may_in_a_user_namespace_of_its_own_is_no_excess_and_the_rest_is() {
        assert_eq!(BOUNDS.check(&status("2", "1", "1ff"), OWN_USERS), Ok(()));
        assert!(BOUNDS.check(&status("0", "1", "ff"), OWN_USERS).is_err());
        let powerless = Bounds { no_new_privs: false, filtered: false, capabilities: 0, ..BOUNDS };
        let root = ResolvedUser::default();
        assert!(powerless.inspect(std::process::id(), &root).is_err());
        let mut child = Command::new("unshare").args(["--user", "sleep", "100"]).spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        let mut inspected = powerless.inspect(child.id(), &root);
        while inspected.is_err() && Instant::now() < until {
            inspected = powerless.inspect(child.id(), &root);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(inspected, Ok(()));
    }

    #[test]
    fn another_user_or_group_is_named() {
        let status =
            |uid: &str, gid: &str, groups: &str| format!("Uid:\t{uid}\nGid:\t{gid}\nGroups:\t{groups} \n");
        let same = "1000\t1000\t1000\t1000";
        let user = ResolvedUser { uid: 1000, gid: 1000, groups: vec![1000, 5] };
        let check = |status: &str| check_ids(status, &user, true, true);
        assert_eq!(check(&status(same, same, "5 1000")), Ok(()));
        for (status, said) in [
            (status("1000\t0\t0\t0", same, "5 1000"), "its users are [1000, 0, 0, 0], not 1000"),
            (status(same, "0\t0\t0\t0", "5 1000"), "its groups are [0, 0, 0, 0], not 1000"),
            (status(same, same, "1000"), "its supplementary groups are [1000], not [5, 1000]"),
            (status(same, same, "0 5 1000"), "its supplementary groups are [0, 5, 1000], not [5, 1000]"),
            (String::new(), "its users are [], not 1000"),
        ] {
            assert_eq!(check(&status), Err(said.into()));
        }
        assert_eq!(check_ids(&status("0\t0\t0\t0", same, ""), &user, false, false), Ok(()));
    }

    #[test]
    fn who_cannot_gain_anything_cannot_have_changed_its_user() {
        let (root, user) = (ResolvedUser::default(), ResolvedUser { uid: 7, ..ResolvedUser::default() });
        assert!(BOUNDS.may_gain(&root, SETUID) && !BOUNDS.may_gain(&user, SETUID));
        assert!(Bounds { no_new_privs: false, ..BOUNDS }.may_gain(&user, SETUID), "by a setuid program");
        assert!(Bounds { ambient: SETUID, ..BOUNDS }.may_gain(&user, SETUID));
        assert!(!Bounds { ambient: SETUID, capabilities: 0, ..BOUNDS }.may_gain(&user, SETUID));
        assert!(!Bounds { capabilities: SETUID, ..BOUNDS }.may_gain(&root, SETGID));
    }
}
