//! Making processes and entering namespaces.
//! Long: one wrapper for each call of the kernel, around `Pid` and `Ended`; most of it is documentation.

use std::{
    ffi::CStr,
    fmt, io,
    marker::PhantomData,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::process::PidfdFlags;

use super::ready;

/// The number of a process: positive, so it is none of kill(2)'s numbers for a group of processes or for all of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Pid(rustix::process::Pid);

impl Pid {
    /// The number itself.
    pub fn get(self) -> u32 {
        self.0.as_raw_nonzero().get().cast_unsigned()
    }
}

impl TryFrom<u32> for Pid {
    type Error = io::Error;

    /// # Errors
    /// `InvalidInput` for 0 and for what is no number of a process.
    fn try_from(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        Ok(Self(pid.ok_or(io::ErrorKind::InvalidInput)?))
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.get())
    }
}

/// Proof that this process has a single thread. The child of a fork runs ordinary Rust, and a lock that another thread
/// holds would stay locked in it for ever.
///
/// It is good for the process that it was made in and for those forked from it, none of which starts a thread.
#[derive(Clone, Copy, Debug)]
pub struct OneThread(PhantomData<*const ()>);

impl OneThread {
    /// Counts the threads of this process (proc(5), `/proc/PID/task`).
    ///
    /// # Errors
    /// `ResourceBusy` when there is more than one; as readdir(3) when they cannot be counted.
    pub fn prove() -> io::Result<Self> {
        match std::fs::read_dir("/proc/self/task")?.count() {
            1 => Ok(Self(PhantomData)),
            threads => {
                let text = format!("a process with {threads} threads cannot fork");
                Err(io::Error::new(io::ErrorKind::ResourceBusy, text))
            }
        }
    }

    /// For a test, whose harness has a thread of its own, that takes no lock in the child.
    #[cfg(test)]
    pub(super) fn for_test() -> Self {
        Self(PhantomData)
    }
}

/// Which side of a fork this is.
#[derive(Debug)]
pub enum Fork {
    /// The new process.
    Child,
    /// The old one, with the child's pid.
    Parent(Pid),
}

/// Makes a copy of this process (fork(2)).
///
/// # Errors
/// As fork(2).
#[expect(clippy::disallowed_methods, reason = "the one wrapper that may")]
pub fn fork(_: OneThread) -> io::Result<Fork> {
    // SAFETY: there is one thread, so no lock can be held by another across the fork.
    Fork::of(check(unsafe { libc::fork() }.into())?)
}

impl Fork {
    /// What fork(2) and clone(2) return when they have not failed.
    pub(super) fn of(result: libc::c_long) -> io::Result<Self> {
        match u32::try_from(result) {
            Ok(0) => Ok(Self::Child),
            Ok(pid) => Ok(Self::Parent(pid.try_into()?)),
            Err(_) => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// As [`fork`], with the child in the cgroup (v2) whose directory this is from its first moment. Moving a
/// process later makes the kernel wait for all CPUs, some milliseconds; being born there costs nothing.
///
/// The child is not in it where the kernel or a filter on this process refuses; it has to look.
///
/// # Errors
/// As [`fork`].
pub fn fork_into(cgroup: Option<BorrowedFd<'_>>, one_thread: OneThread) -> io::Result<Fork> {
    let Some(cgroup) = cgroup else { return fork(one_thread) };
    let args = CloneArgs {
        flags: CLONE_INTO_CGROUP,
        exit_signal: libc::SIGCHLD as u64,
        cgroup: cgroup.as_raw_fd() as u64,
        ..CloneArgs::default()
    };
    clone3(&args).or_else(|_| fork(one_thread))
}

/// Forks a child whose parent is this process's parent (clone3(2) with `CLONE_PARENT`).
///
/// # Errors
/// As clone3(2).
pub fn fork_sibling(_: OneThread) -> io::Result<Fork> {
    clone3(&CloneArgs { flags: libc::CLONE_PARENT as u64, ..CloneArgs::default() })
}

/// linux/sched.h.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args` of clone3(2).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

fn clone3(args: &CloneArgs) -> io::Result<Fork> {
    // SAFETY: the arguments outlive the call; without CLONE_VM the child has its own copy of everything, and
    // nothing that runs in it asks libc for the thread id that libc's own fork would have renewed.
    Fork::of(check(unsafe { libc::syscall(libc::SYS_clone3, &raw const *args, size_of::<CloneArgs>()) })?)
}

/// Ends this process at once, running no destructor and no exit handler (_exit(2)).
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit takes an integer and does not return.
    unsafe { libc::_exit(code) }
}

/// A handle to process `pid` that stays right even if the pid is reused (pidfd_open(2)).
///
/// # Errors
/// `ESRCH` when there is no such process.
pub fn pidfd(pid: Pid) -> io::Result<OwnedFd> {
    Ok(rustix::process::pidfd_open(pid.0, PidfdFlags::empty())?)
}

/// Waits until the process behind a pidfd has ended, at most for `limit`; it is not reaped. False: it was not seen to end.
pub fn wait_for_end(pidfd: &OwnedFd, limit: std::time::Duration) -> bool {
    ready::wait_readable(pidfd, limit).unwrap_or(false)
}

/// A minimal set of flags; `bitflags` would be a dependency for one type.
macro_rules! bitflags_lite {
    ($(#[$doc:meta])* $name:ident { $($flag:ident = $value:expr,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub struct $name(i32);

        impl $name {
            $(/// As in namespaces(7).
            pub const $flag: Self = Self($value);)*
            /// None.
            pub const NONE: Self = Self(0);

            /// Both.
            #[must_use]
            pub fn and(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// `self`, and `other` when `wanted`.
            #[must_use]
            pub fn and_if(self, wanted: bool, other: Self) -> Self {
                if wanted { self.and(other) } else { self }
            }
        }
    };
}
/// SIGKILL to a child that has not been reaped; its pid cannot have been reused.
///
/// # Errors
/// As kill(2).
pub fn kill(pid: Pid) -> io::Result<()> {
    Ok(rustix::process::kill_process(pid.0, rustix::process::Signal::KILL)?)
}

bitflags_lite! {
    /// Kinds of namespace (namespaces(7)).
    Namespaces {
        MOUNT = libc::CLONE_NEWNS,
        PID = libc::CLONE_NEWPID,
        NETWORK = libc::CLONE_NEWNET,
        IPC = libc::CLONE_NEWIPC,
        UTS = libc::CLONE_NEWUTS,
        CGROUP = libc::CLONE_NEWCGROUP,
        USER = libc::CLONE_NEWUSER,
    }
}

impl Namespaces {
    /// The names of these kinds below `/proc/PID/ns` (namespaces(7)).
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        const ALL: [(Namespaces, &str); 7] = [
            (Namespaces::MOUNT, "mnt"),
            (Namespaces::PID, "pid"),
            (Namespaces::NETWORK, "net"),
            (Namespaces::IPC, "ipc"),
            (Namespaces::UTS, "uts"),
            (Namespaces::CGROUP, "cgroup"),
            (Namespaces::USER, "user"),
        ];
        ALL.into_iter().filter(move |(kind, _)| self.0 & kind.0 != 0).map(|(_, name)| name)
    }
}

/// Gives this process new namespaces (unshare(2)).
///
/// # Errors
/// As unshare(2).
pub fn unshare(kinds: Namespaces) -> io::Result<()> {
    // SAFETY: takes an integer; no CLONE_FILES or CLONE_FS semantics are relied on by safe code here.
    check(unsafe { libc::unshare(kinds.0) }.into()).map(drop)
}

/// Enters namespaces: those of `kinds` of the process behind a pidfd, or the one that a namespace
/// descriptor names (setns(2)).
///
/// # Errors
/// As setns(2).
pub fn enter(target: BorrowedFd<'_>, kinds: Namespaces) -> io::Result<()> {
    // SAFETY: takes a borrowed, open descriptor and an integer.
    check(unsafe { libc::setns(target.as_raw_fd(), kinds.0) }.into()).map(drop)
}

/// Sets the host name of this UTS namespace (sethostname(2)).
///
/// # Errors
/// `EINVAL` when longer than 64 bytes.
pub fn set_hostname(name: &str) -> io::Result<()> {
    // SAFETY: pointer and length describe a live string.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }.into()).map(drop)
}

/// Orphans among this process's descendants become its children (prctl(2), `PR_SET_CHILD_SUBREAPER`).
///
/// # Errors
/// As prctl(2).
pub fn adopt_orphans() -> io::Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }.into()).map(drop)
}

/// Has the kernel schedule this process as any other: not nice, without a real-time policy, on every processor that its
/// cgroup has, with the usual class of I/O. Best effort: to be less nice needs CAP_SYS_NICE.
pub fn schedule_as_usual() {
    /// ioprio_set(2): for one process; no class, which follows the niceness.
    const IOPRIO_WHO_PROCESS: i32 = 1;
    const IOPRIO_NONE: i32 = 0;
    /// 8192 processors, as many as any kernel is built for.
    const EVERY_PROCESSOR: [u8; 1024] = [0xff; 1024];

    let usual = libc::sched_param { sched_priority: 0 };
    // SAFETY: a pointer to a live value of the type that the call takes.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const usual) };
    // SAFETY: integers only.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 0) };
    // SAFETY: a pointer to a live array, which is read as bits, and its size.
    unsafe { libc::sched_setaffinity(0, EVERY_PROCESSOR.len(), EVERY_PROCESSOR.as_ptr().cast()) };
    // SAFETY: integers only.
    unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_NONE) };
}

/// Sets this process's score for the kernel's choice of whom to kill when memory runs out, -1000 to 1000
/// (proc(5), `oom_score_adj`). Best effort: lowering it needs CAP_SYS_RESOURCE, which the node may not have.
pub fn set_oom_score(score: i64) {
    let _written: io::Result<()> = std::fs::write("/proc/self/oom_score_adj", score.to_string());
}

/// How a child ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ended {
    /// It returned this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl Ended {
    /// The exit code as a shell gives it: 128 + the signal.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "code {code}"),
            Self::Signal(signal) => match nix::sys::signal::Signal::try_from(*signal) {
                Ok(name) => write!(f, "signal {signal} ({name})"),
                Err(_) => write!(f, "signal {signal}"),
            },
        }
    }
}

/// Reaps one ended child, whichever; `None` when no child has ended (or there is none).
///
/// # Errors
/// As waitid(2), but not `ECHILD`.
pub fn reap() -> io::Result<Option<(Pid, Ended)>> {
    match rustix::process::wait(rustix::process::WaitOptions::NOHANG) {
        Ok(Some((pid, status))) => {
            let ended = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Ended::Code(code),
                (None, Some(signal)) => Ended::Signal(signal),
                (None, None) => return Ok(None),
            };
            Ok(Some((Pid(pid), ended)))
        }
        Ok(None) | Err(rustix::io::Errno::CHILD) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A child that has ended and was not reaped; it is left so. `None` when there is none.
///
/// # Errors
/// As waitid(2), but not `ECHILD`.
pub fn ended_child() -> io::Result<Option<Pid>> {
    let look = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: all zero is a valid value of this plain structure.
    let mut found: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: a live structure of the right type.
    match check(unsafe { libc::waitid(libc::P_ALL, 0, &raw mut found, look) }.into()) {
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(None),
        Err(error) => Err(error),
        // SAFETY: waitid has filled it in; with nothing to tell, the kernel leaves the pid 0.
        Ok(_) => Ok(rustix::process::Pid::from_raw(unsafe { found.si_pid() }).map(Pid)),
    }
}

/// Whether child `pid` has ended, or is none any more. It is not reaped.
pub fn has_ended(pid: Pid) -> bool {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(waitid(WaitId::Pid(pid.0), look), Ok(None))
}

/// Whether process `pid` has a SIGKILL coming, is ending or has ended. Of a child that was not reaped: another
/// process cannot have its number.
pub fn is_dying(pid: Pid) -> bool {
    let read = |name| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    // In this order: a signal that was taken between the two shows in the flags.
    has_sigkill(&read("status")) || is_exiting(&read("stat"))
}

/// What the text of a `/proc/PID/status` (proc(5)) says under `name`; `None` when it has no such line.
pub fn field<'t>(status: &'t str, name: &str) -> Option<&'t str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// Whether SIGKILL is among the pending signals: those of the thread and of the process.
fn has_sigkill(status: &str) -> bool {
    const SIGKILL_BIT: u64 = 1 << 8;
    let sets = ["SigPnd", "ShdPnd"].into_iter().filter_map(|name| field(status, name));
    sets.filter_map(|set| u64::from_str_radix(set, 16).ok()).any(|set| set & SIGKILL_BIT != 0)
}

/// Whether process `pid`, a child that was not reaped, has executed a program since it was forked.
///
/// # Errors
/// When `/proc/PID/stat` cannot be read.
pub fn has_executed(pid: Pid) -> io::Result<bool> {
    /// PF_FORKNOEXEC.
    const NOT_EXECUTED: u64 = 0x40;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let flags = flags(&stat).ok_or(io::ErrorKind::InvalidData)?;
    Ok(flags & NOT_EXECUTED == 0)
}

fn is_exiting(stat: &str) -> bool {
    /// PF_EXITING and PF_SIGNALED.
    const EXITING: u64 = 0x4 | 0x400;
    flags(stat).is_some_and(|flags| flags & EXITING != 0)
}

/// The flags (kernel, include/linux/sched.h) in a `/proc/PID/stat`: its ninth field; the second, the name, may
/// hold spaces and brackets.
fn flags(stat: &str) -> Option<u64> {
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(6)?.parse().ok())
}

/// Waits for child `pid` to end.
///
/// # Errors
/// As waitid(2).
pub fn wait(pid: Pid) -> io::Result<Ended> {
    loop {
        match rustix::process::waitpid(Some(pid.0), rustix::process::WaitOptions::empty()) {
            Ok(Some((_, status))) => {
                return Ok(match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => Ended::Code(code),
                    (None, signal) => Ended::Signal(signal.unwrap_or(0)),
                });
            }
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits for the child behind a pidfd to end, and reaps it.
///
/// # Errors
/// As waitid(2); `ECHILD` for what is no child of this process.
pub fn wait_by_pidfd(pidfd: BorrowedFd<'_>) -> io::Result<Ended> {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    loop {
        match waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED) {
            Ok(Some(status)) => {
                return Ok(match status.exit_status() {
                    Some(code) => Ended::Code(code),
                    None => Ended::Signal(status.terminating_signal().unwrap_or(0)),
                });
            }
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Reaps the children of this process in the process group `group` that have ended. Whether others are left in it.
///
/// # Errors
/// As waitid(2), but not `ECHILD`.
pub fn reap_group(group: Pid) -> io::Result<bool> {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    loop {
        match waitid(WaitId::Pgid(Some(group.0)), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
            Ok(None) => return Ok(true),
            Err(rustix::io::Errno::CHILD) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Kills every process of the process group `group`, whose leader was not reaped.
///
/// # Errors
/// As kill(2); `ESRCH` when nobody is left in it.
pub fn kill_group(group: Pid) -> io::Result<()> {
    Ok(rustix::process::kill_process_group(group.0, rustix::process::Signal::KILL)?)
}

/// Replaces this process's program (execve(2)). Returns only when that failed.
pub fn execve(path: &CStr, args: &NullTerminated<'_>, env: &NullTerminated<'_>) -> io::Error {
    // SAFETY: all three are NUL-terminated and live; both arrays end with a null pointer.
    unsafe { libc::execve(path.as_ptr(), args.pointers.as_ptr(), env.pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// The `argv` or `envp` of an execve, ready before the moment when nothing may be allocated any more.
#[derive(Debug)]
pub struct NullTerminated<'a> {
    pointers: Vec<*const libc::c_char>,
    _strings: std::marker::PhantomData<&'a CStr>,
}

impl<'a> NullTerminated<'a> {
    /// Borrows the strings in their order.
    pub fn new(strings: impl Iterator<Item = &'a CStr>) -> Self {
        let mut pointers: Vec<_> = strings.map(CStr::as_ptr).collect();
        pointers.push(std::ptr::null());
        Self { pointers, _strings: std::marker::PhantomData }
    }
}

/// Numbers of descriptors that stay open in a process whose others are closed ([`close_all_but`]).
#[derive(Debug)]
pub struct Kept(Vec<u32>);

impl<'fd> FromIterator<BorrowedFd<'fd>> for Kept {
    fn from_iter<I: IntoIterator<Item = BorrowedFd<'fd>>>(fds: I) -> Self {
        let mut numbers: Vec<u32> = fds.into_iter().map(|fd| fd.as_raw_fd().cast_unsigned()).collect();
        numbers.sort_unstable();
        Self(numbers)
    }
}

/// Closes every descriptor from 3 on but those in `keep`.
///
/// For a process that has just been forked: whatever owned the others must never be dropped in it.
///
/// # Errors
/// As close_range(2).
pub fn close_all_but(Kept(keep): &Kept, _: OneThread) -> io::Result<()> {
    let mut first: u32 = 3;
    for fd in keep.iter().copied().filter(|fd| *fd >= 3) {
        if fd > first {
            close_range(first, fd - 1)?;
        }
        first = first.max(fd + 1);
    }
    close_range(first, u32::MAX)
}

fn close_range(first: u32, last: u32) -> io::Result<()> {
    // SAFETY: closes descriptors whose owners, by the contract above, are never used again.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

pub(super) fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::{process::CommandExt as _, thread::JoinHandleExt as _},
        process::Command,
    };

    use super::*;

    #[test]
    fn a_process_with_threads_cannot_fork() {
        // The harness has a thread for each test.
        let error = OneThread::prove().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ResourceBusy, "{error}");
    }

    #[test]
    fn an_end_by_a_signal_names_it() {
        let said = [Ended::Code(3), Ended::Signal(11), Ended::Signal(40)].map(|ended| ended.to_string());
        assert_eq!(said, ["code 3", "signal 11 (SIGSEGV)", "signal 40"]);
    }

    #[test]
    fn no_pid_means_a_group_or_all() {
        for number in [0, u32::MAX, i32::MIN.cast_unsigned(), i32::MAX.cast_unsigned() + 1] {
            assert!(Pid::try_from(number).is_err(), "{number}");
        }
        assert_eq!(Pid::try_from(1).unwrap().get(), 1);
    }

    #[test]
    fn a_process_is_dying_from_its_sigkill_to_its_end() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let pid = Pid::try_from(child.id()).unwrap();
        assert!(!is_dying(pid));
        child.kill().unwrap();
        assert!(is_dying(pid), "at once, whatever it is doing");
        wait_for_end(&pidfd(pid).unwrap(), std::time::Duration::from_secs(10));
        assert!(is_dying(pid), "and while nobody has reaped it");
        child.wait().unwrap();
        assert!(!is_dying(pid));
    }

    #[test]
    fn an_ended_child_is_seen_and_stays_to_be_reaped() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = Pid::try_from(child.id()).unwrap();
        wait_for_end(&pidfd(pid).unwrap(), std::time::Duration::from_secs(10));
        assert!(has_executed(pid).unwrap());
        // Other tests have children too.
        assert!(ended_child().unwrap().is_some());
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn a_signal_does_not_end_the_wait_for_a_process() {
        extern "C" fn nothing(_signal: libc::c_int) {}
        // SAFETY: all zero is a valid value of this plain structure.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
        // SAFETY: the handler does nothing, and the structures live.
        check(unsafe { libc::sigaction(libc::SIGWINCH, &raw const action, std::ptr::null_mut()) }.into())
            .unwrap();

        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pidfd = pidfd(child.id().try_into().unwrap()).unwrap();
        let waiter = std::thread::spawn(move || wait_for_end(&pidfd, std::time::Duration::from_secs(100)));
        for _ in 0..20 {
            std::thread::sleep(std::time::Duration::from_millis(10));
            // SAFETY: a thread that was not joined keeps its number.
            unsafe { libc::pthread_kill(waiter.as_pthread_t(), libc::SIGWINCH) };
        }
        child.kill().unwrap();
        assert!(waiter.join().unwrap());
        child.wait().unwrap();
    }

    #[test]
    fn the_children_of_a_group_are_reaped_and_no_others() {
        let end = |child: u32| {
            let pidfd = pidfd(child.try_into().unwrap()).unwrap();
            assert!(wait_for_end(&pidfd, std::time::Duration::from_secs(10)));
        };
        let mut leader = Command::new("sleep").arg("100").process_group(0).spawn().unwrap();
        let group = Pid::try_from(leader.id()).unwrap();
        let member = Command::new("true").process_group(leader.id().cast_signed()).spawn().unwrap().id();
        let mut stranger = Command::new("true").spawn().unwrap();
        end(member);
        end(stranger.id());
        assert!(reap_group(group).unwrap(), "its leader is left");
        assert!(pidfd(member.try_into().unwrap()).is_err());
        assert!(stranger.wait().unwrap().success());
        leader.kill().unwrap();
        end(leader.id());
        assert!(!reap_group(group).unwrap());
        assert!(leader.wait().is_err());
    }

    #[test]
    fn another_signal_and_another_flag_are_no_death() {
        assert!(!has_sigkill("SigPnd:\t0000000000000000\nShdPnd:\t0000000000004000\n"));
        assert!(has_sigkill("SigPnd:\t0000000000000000\nShdPnd:\t0000000000000100\n"));
        assert!(!is_exiting("7 (a) b) S 1 7 7 0 -1 4194560 99"));
        assert!(is_exiting("7 (a) b) S 1 7 7 0 -1 4194564 99"));
        assert!(!is_exiting(""));
    }
}
