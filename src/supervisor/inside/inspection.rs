//! A process looked at from outside: whatever went wrong on its way, it must not have more than planned.
//!
//! An init that waits for its start is still ours, and has exactly what was planned. An exec is looked at when it
//! has executed its program: then only what a process cannot give back to itself is compared, so that a program
//! which has gone on since (another user, namespaces of its own below ours) is not taken for one that got away.

use std::{fs, io, path::Path};

use crate::{
    launcher::Users,
    model::{IdMap, ProcessPlan, ResolvedUser},
    sys::{
        idmap,
        process::{self, Namespaces},
    },
    telemetry,
};

/// The user namespace in which a process is to be, if that is not ours.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct PlannedUsers {
    namespace: idmap::Identity,
    map: IdMap,
}

impl PlannedUsers {
    pub(super) fn of(users: &Users) -> Self {
        Self { namespace: users.identity(), map: users.map().clone() }
    }
}

/// What holds for a process from its execve to its end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Bounds {
    /// Those that are not the host's.
    namespaces: Namespaces,
    users: Option<PlannedUsers>,
    /// The largest bounding set, as a mask of capabilities(7).
    capabilities: u64,
    /// Kept by a user other than root.
    ambient: u64,
    no_new_privs: bool,
    filtered: bool,
    /// The SELinux label of its program; empty: none was planned.
    label: String,
}

/// `CAP_SETGID` and `CAP_SETUID`.
const SETGID: u64 = 1 << 6;
const SETUID: u64 = 1 << 7;

/// Where the user namespace of a process is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    /// It is the planned one.
    Planned,
    /// It was made in the planned one, or below that.
    Below,
    Elsewhere,
}

impl Bounds {
    pub(super) fn new(process: &ProcessPlan, namespaces: Namespaces, users: Option<PlannedUsers>) -> Self {
        Self {
            namespaces,
            users,
            capabilities: process.capabilities,
            ambient: process.ambient,
            no_new_privs: process.no_new_privs,
            filtered: process.seccomp.is_some(),
            label: process.selinux.clone(),
        }
    }

    /// The bounds of another process in the same container.
    pub(super) fn of_another(&self, process: &ProcessPlan) -> Self {
        Self::new(process, self.namespaces, self.users.clone())
    }

    /// Looks at an init that waits for its start, and is to be `user`; `Err` says in words what it has too much.
    pub(super) fn inspect_waiting(&self, pid: u32, user: &ResolvedUser) -> Result<(), String> {
        let user = &self.on_host(user)?;
        self.look(pid, |status| {
            self.check(status, || false)?;
            check_ids(status, user, true, true)
        })?;
        if telemetry::selinux_stand_in().is_none() {
            self.check_next_label(Path::new("/proc"), pid)?;
        }
        match self.place(pid)? {
            Place::Planned => Ok(()),
            Place::Below | Place::Elsewhere => Err("it is in another user namespace".into()),
        }
    }

    /// Looks at process `pid`, which was started as `user`. A process that has ended is within bounds.
    pub(super) fn inspect(&self, pid: u32, user: &ResolvedUser) -> Result<(), String> {
        let kept = |capability| !self.may_gain(user, capability);
        let (users, groups) = (kept(SETUID), kept(SETGID));
        let user = &self.on_host(user)?;
        // In a namespace that it has made since, below its own: it has given up for good what it had outside.
        let has_own_users = || matches!(self.place(pid), Ok(Place::Below));
        self.look(pid, |status| {
            self.check(status, has_own_users)?;
            let checked = check_ids(status, user, users, groups);
            checked.or_else(|excess| if has_own_users() { Ok(()) } else { Err(excess) })
        })?;
        if telemetry::selinux_stand_in().is_none() {
            self.check_label(Path::new("/proc"), pid)?;
        }
        match self.place(pid)? {
            Place::Planned | Place::Below => Ok(()),
            Place::Elsewhere => Err("it is in another user namespace".into()),
        }
    }

    /// Compares the SELinux label that the next program of a process will have (proc(5), `attr`) with the planned one.
    fn check_next_label(&self, proc: &Path, pid: u32) -> Result<(), String> {
        if self.label.is_empty() {
            return Ok(());
        }
        match label(proc, &pid.to_string(), "exec") {
            Ok(next) if next == self.label => Ok(()),
            Ok(next) => {
                Err(format!("its program would have the SELinux label {next:?}, not {:?}", self.label))
            }
            Err(error) => unless_ended(&error, "SELinux label"),
        }
    }

    /// Makes sure that a process does not run under our own SELinux label. It may have changed to another since, as the
    /// policy lets it.
    fn check_label(&self, proc: &Path, pid: u32) -> Result<(), String> {
        if self.label.is_empty() {
            return Ok(());
        }
        match (label(proc, &pid.to_string(), "current"), label(proc, "self", "current")) {
            (Ok(its), Ok(ours)) if its == ours && its != self.label => {
                Err(format!("it runs under pintle's own SELinux label {its:?}, not {:?}", self.label))
            }
            (Ok(_), Ok(_)) => Ok(()),
            (Err(error), _) | (_, Err(error)) => unless_ended(&error, "SELinux label"),
        }
    }

    /// Who a user of the container is to us.
    fn on_host(&self, user: &ResolvedUser) -> Result<ResolvedUser, String> {
        let Some(PlannedUsers { map, .. }) = &self.users else { return Ok(user.clone()) };
        let mapped = || {
            let groups = user.groups.iter().map(|gid| map.host_gid(*gid)).collect::<Option<_>>()?;
            Some(ResolvedUser { uid: map.host_uid(user.uid)?, gid: map.host_gid(user.gid)?, groups })
        };
        mapped().ok_or_else(|| "its user namespace has not all of its ids".into())
    }

    /// Where the user namespace of process `pid` is. One that has ended is where it was to be.
    fn place(&self, pid: u32) -> Result<Place, String> {
        let look = || -> io::Result<Place> {
            let planned = match &self.users {
                Some(users) => users.namespace,
                None => idmap::identity_of("self")?,
            };
            if idmap::identity_of(&pid.to_string())? == planned {
                return Ok(Place::Planned);
            }
            Ok(if idmap::is_below(pid, planned)? { Place::Below } else { Place::Elsewhere })
        };
        look().or_else(|error| unless_ended(&error, "user namespace").map(|()| Place::Planned))
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

fn label(proc: &Path, process: &str, attribute: &str) -> io::Result<String> {
    let text = fs::read_to_string(proc.join(process).join("attr").join(attribute))?;
    Ok(text.trim_end_matches(['\0', '\n']).to_owned())
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

    fn bounds() -> Bounds {
        Bounds {
            namespaces: Namespaces::NONE,
            users: None,
            capabilities: 0xff,
            ambient: 0,
            no_new_privs: true,
            filtered: true,
            label: String::new(),
        }
    }

    const HOSTS_USERS: fn() -> bool = || false;
    const OWN_USERS: fn() -> bool = || true;

    fn status(seccomp: &str, no_new_privs: &str, bounding: &str) -> String {
        format!(
            "State:\tS (sleeping)\nNoNewPrivs:\t{no_new_privs}\nSeccomp:\t{seccomp}\nCapBnd:\t{bounding}\n"
        )
    }

    #[test]
    fn a_process_with_what_was_planned_or_less_is_within_bounds() {
        assert_eq!(bounds().check(&status("2", "1", "00000000000000ff"), HOSTS_USERS), Ok(()));
        assert_eq!(bounds().check(&status("2", "1", "0000000000000001"), HOSTS_USERS), Ok(()));
        let loose = Bounds { no_new_privs: false, filtered: false, ..bounds() };
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
            assert_eq!(bounds().check(&status, HOSTS_USERS), Err(said.into()));
        }
        let loose = Bounds { no_new_privs: false, filtered: false, ..bounds() };
        assert!(loose.check("", OWN_USERS).is_err(), "a file without capabilities");
    }

    #[test]
    fn a_namespace_of_the_hosts_is_too_much_and_a_process_that_has_ended_is_not() {
        let loose = Bounds { no_new_privs: false, filtered: false, capabilities: u64::MAX, ..bounds() };
        let me = std::process::id();
        let nobody = ResolvedUser { uid: 65_534, gid: 65_534, groups: vec![] };
        assert_eq!(loose.inspect(me, &nobody), Ok(()), "it may have changed its user");
        let apart = Bounds { namespaces: Namespaces::IPC, ..loose };
        assert_eq!(apart.inspect(me, &nobody), Err("it is in the host's ipc namespace".into()));
        assert_eq!(apart.inspect(u32::MAX, &nobody), Ok(()));
    }

    #[test]
    fn what_a_process_may_in_a_user_namespace_of_its_own_is_no_excess_and_the_rest_is() {
        assert_eq!(bounds().check(&status("2", "1", "1ff"), OWN_USERS), Ok(()));
        assert!(bounds().check(&status("0", "1", "ff"), OWN_USERS).is_err());
        let powerless = Bounds { no_new_privs: false, filtered: false, capabilities: 0, ..bounds() };
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

    /// A process that says in which user namespace it began, and then is in the one that `script` leads to.
    struct Settled {
        child: std::process::Child,
        began_in: PlannedUsers,
    }

    impl Settled {
        fn new(script: &str) -> Self {
            let script = format!("readlink /proc/self/ns/user; {script}");
            let mut command = Command::new("unshare");
            command.args(["--map-root-user", "sh", "-c", &script]).stdout(std::process::Stdio::piped());
            let mut child = command.spawn().unwrap();
            let mut line = String::new();
            let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
            std::io::BufRead::read_line(&mut output, &mut line).unwrap();
            let inode = line.trim().trim_start_matches("user:[").trim_end_matches(']');
            let namespace = idmap::identity_of("self").unwrap().of_inode(inode.parse().unwrap());
            let range = vec![crate::model::IdRange { container: 0, host: 0, length: 65_536 }];
            let began_in = PlannedUsers { namespace, map: IdMap { uids: range.clone(), gids: range } };
            Self { child, began_in }
        }

        /// Looked at until it has executed its last program.
        fn inspect(&self, bounds: &Bounds) -> Result<(), String> {
            let pid = self.child.id();
            let until = Instant::now() + Duration::from_secs(10);
            while fs::read_to_string(format!("/proc/{pid}/comm")).unwrap() != "sleep\n"
                && Instant::now() < until
            {}
            bounds.inspect(pid, &ResolvedUser::default())
        }
    }

    impl Drop for Settled {
        fn drop(&mut self) {
            let _ended = (self.child.kill(), self.child.wait());
        }
    }

    #[test]
    fn only_the_planned_user_namespace_and_those_below_it_are_within_bounds() {
        let (one, other) = (Settled::new("exec sleep 100"), Settled::new("exec sleep 100"));
        let below = Settled::new("exec unshare --user sleep 100");
        let planned = |users: &Settled, capabilities| Bounds {
            no_new_privs: false,
            filtered: false,
            capabilities,
            users: Some(users.began_in.clone()),
            ..bounds()
        };
        assert_eq!(one.inspect(&planned(&one, u64::MAX)), Ok(()));
        assert!(one.inspect(&planned(&one, 0)).unwrap_err().contains("its capabilities"));
        assert_eq!(below.inspect(&planned(&below, 0)), Ok(()));
        for capabilities in [u64::MAX, 0] {
            assert!(other.inspect(&planned(&one, capabilities)).is_err(), "it is in that of another pod");
            assert!(below.inspect(&planned(&one, capabilities)).is_err(), "it is below that of another pod");
        }
        let waiting = planned(&below, u64::MAX).inspect_waiting(below.child.id(), &ResolvedUser::default());
        assert!(waiting.is_err(), "nothing of the container's has run yet: {waiting:?}");
    }

    #[test]
    fn a_process_in_a_user_namespace_is_who_its_ids_are_on_the_host() {
        let range = |host| vec![crate::model::IdRange { container: 0, host, length: 10 }];
        let namespace = idmap::identity_of("self").unwrap();
        let map = IdMap { uids: range(100), gids: range(200) };
        let mapped = Bounds { users: Some(PlannedUsers { namespace, map }), ..bounds() };
        let user = |uid, gid, groups: &[u32]| ResolvedUser { uid, gid, groups: groups.to_vec() };
        assert_eq!(mapped.on_host(&user(1, 2, &[3, 9])), Ok(user(101, 202, &[203, 209])));
        assert!(mapped.on_host(&user(1, 2, &[10])).is_err());
        assert_eq!(bounds().on_host(&user(1, 2, &[10])), Ok(user(1, 2, &[10])));
    }

    #[test]
    fn a_process_that_would_keep_pintles_own_selinux_label_is_found() {
        let proc = tempfile::tempdir().unwrap();
        let write = |process: &str, attribute: &str, label: &str| {
            let folder = proc.path().join(process).join("attr");
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(attribute), label).unwrap();
        };
        let planned = Bounds { label: "u:r:container_t:s0:c1".into(), ..bounds() };
        let (next, now) =
            (|| planned.check_next_label(proc.path(), 7), || planned.check_label(proc.path(), 7));
        assert_eq!((next(), now()), (Ok(()), Ok(())), "it has ended");
        write("self", "current", "u:r:runtime_t:s0\0");
        for (label, fits) in
            [("", false), ("u:r:container_t:s0:c2", false), ("u:r:container_t:s0:c1\0", true)]
        {
            write("7", "exec", label);
            assert_eq!(next().is_ok(), fits, "{label}");
        }
        for (label, fits) in
            [("u:r:runtime_t:s0", false), ("u:r:container_t:s0:c1\n", true), ("u:r:other_t:s0:c1", true)]
        {
            write("7", "current", label);
            assert_eq!(now().is_ok(), fits, "{label}");
        }
        write("self", "current", "u:r:container_t:s0:c1");
        write("7", "current", "u:r:container_t:s0:c1");
        assert_eq!(now(), Ok(()), "pintle itself may be in a container");
        assert_eq!(bounds().check_next_label(proc.path(), 7), Ok(()), "none was planned");
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
        assert!(bounds().may_gain(&root, SETUID) && !bounds().may_gain(&user, SETUID));
        assert!(Bounds { no_new_privs: false, ..bounds() }.may_gain(&user, SETUID), "by a setuid program");
        assert!(Bounds { ambient: SETUID, ..bounds() }.may_gain(&user, SETUID));
        assert!(!Bounds { ambient: SETUID, capabilities: 0, ..bounds() }.may_gain(&user, SETUID));
        assert!(!Bounds { capabilities: SETUID, ..bounds() }.may_gain(&root, SETGID));
    }
}
