//! What a process may do: identity, capabilities(7), seccomp(2).

use std::{ffi::CStr, io};

use super::process::check;

/// Number of the highest capability this was written for (`CAP_CHECKPOINT_RESTORE`).
pub const LAST_CAPABILITY: u32 = 40;
/// `CAP_SYS_ADMIN`, as a bit.
pub const SYS_ADMIN: u64 = 1 << 21;

/// Takes every capability that is not in `keep` out of the bounding set.
///
/// # Errors
/// As prctl(2); a capability that the kernel does not know is passed over.
pub fn limit_capabilities(keep: u64) -> io::Result<()> {
    for number in 0..64_u32 {
        if keep & (1 << number) != 0 {
            continue;
        }
        // SAFETY: integers only.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
        match check(result.into()) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && number > 30 => return Ok(()),
            other => other.map(drop)?,
        }
    }
    Ok(())
}

/// What capset(2) is given first.
#[repr(C)]
#[derive(Debug)]
pub(super) struct CapabilityHeader {
    version: u32,
    pid: i32,
}

impl CapabilityHeader {
    /// `_LINUX_CAPABILITY_VERSION_3`, of the calling process.
    pub(super) const OWN: Self = Self { version: 0x2008_0522, pid: 0 };
}

/// The sets as version 3 of capset(2) reads them: effective, permitted and inheritable, low half first.
#[derive(Debug)]
pub(super) struct CapabilityData([[u32; 3]; 2]);

impl CapabilityData {
    /// The sets as masks of capabilities(7); the effective set is the permitted one.
    pub(super) fn new(permitted: u64, inheritable: u64) -> Self {
        let half = |set: u64, high: bool| if high { (set >> 32) as u32 } else { (set & 0xffff_ffff) as u32 };
        Self(
            [false, true].map(|high| [half(permitted, high), half(permitted, high), half(inheritable, high)]),
        )
    }

    /// For the system call, as long as this lives.
    pub(super) fn as_ptr(&self) -> *const u32 {
        self.0.as_flattened().as_ptr()
    }
}

/// Sets the permitted and effective sets to `permitted`, the inheritable set to `inheritable` (capset(2)).
///
/// # Errors
/// As capset(2).
pub fn set_capabilities(permitted: u64, inheritable: u64) -> io::Result<()> {
    let header = CapabilityHeader::OWN;
    let data = CapabilityData::new(permitted, inheritable);
    // SAFETY: header and data are what version 3 of the call reads.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// The bounding set of this process, as bits: what it can give to others.
///
/// # Errors
/// As prctl(2).
pub fn held_capabilities() -> io::Result<u64> {
    let mut held = 0;
    for number in 0..=u64::from(LAST_CAPABILITY) {
        // SAFETY: integers only.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) };
        if check(result.into()).is_ok_and(|is_held| is_held == 1) {
            held |= 1 << number;
        }
    }
    Ok(held)
}

/// Raises each capability of `set` in the ambient set; it must be permitted and inheritable already.
///
/// # Errors
/// As prctl(2).
pub fn raise_ambient(set: u64) -> io::Result<()> {
    for number in (0..64_u64).filter(|number| set & (1 << number) != 0) {
        // SAFETY: integers only.
        let result = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, number, 0, 0) };
        check(result.into())?;
    }
    Ok(())
}

/// Becomes another user; the permitted capabilities stay until execve (`PR_SET_KEEPCAPS`).
///
/// # Errors
/// As setgroups(2), setresgid(2), setresuid(2); `EINVAL` for the id −1, which means "no change" to the latter two.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    if uid == u32::MAX || gid == u32::MAX || groups.contains(&u32::MAX) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: pointer and length describe a live array.
    check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) }.into())?;
    // SAFETY: integers only.
    check(unsafe { libc::setresgid(gid, gid, gid) }.into())?;
    // SAFETY: integers only.
    check(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) }.into())?;
    // SAFETY: integers only.
    check(unsafe { libc::setresuid(uid, uid, uid) }.into()).map(drop)
}

/// From now on execve gives no new privileges (`PR_SET_NO_NEW_PRIVS`).
///
/// # Errors
/// As prctl(2).
pub fn no_new_privileges() -> io::Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into()).map(drop)
}

/// Sets the soft and hard limit of open files, whatever they were. Without CAP_SYS_RESOURCE the hard one cannot
/// be raised, and stays.
///
/// # Errors
/// As setrlimit(2).
pub fn limit_open_files(soft: u64, hard: u64) -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let set = |hard: u64| {
        setrlimit(Resource::Nofile, Rlimit { current: Some(soft.min(hard)), maximum: Some(hard) })
    };
    match set(hard) {
        // Also when it is above what any process may have (`fs.nr_open`).
        Err(rustix::io::Errno::PERM) => {
            Ok(set(getrlimit(Resource::Nofile).maximum.map_or(hard, |now| now.min(hard)))?)
        }
        result => Ok(result?),
    }
}

/// Size of one `struct sock_filter`.
pub(super) const INSTRUCTION_BYTES: usize = 8;

/// Puts this process under a filter: `program` is an array of `struct sock_filter`, `flags` are
/// `SECCOMP_FILTER_FLAG_*` (seccomp(2)).
///
/// # Errors
/// As seccomp(2); `EINVAL` for a program that is not one.
pub fn load_seccomp(program: &[u8], flags: u32) -> io::Result<()> {
    let length = u16::try_from(program.len() / INSTRUCTION_BYTES).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SAFETY: the kernel copies `length` instructions, which is what the slice holds; alignment does not
    // matter to copy_from_user.
    check(unsafe { libc::syscall(libc::SYS_seccomp, 1, libc::c_ulong::from(flags), &raw const program) })
        .map(drop)
}

/// A call that is allowed when the low half of one of its arguments has one value: number, which argument, the value.
pub type Narrow = (libc::c_long, u32, u32);

/// Leaves this process no system call but those that are numbered in `calls` (of the machine's own kind) and in `narrow`;
/// all others fail with `EPERM`. Nothing that it executes from now on gains anything either.
///
/// # Errors
/// As prctl(2) and seccomp(2).
pub fn allow_only(calls: &[libc::c_long], narrow: &[Narrow]) -> io::Result<()> {
    use super::passage::{
        ALLOW, ARCH, Insn, JUMP_EQUAL, LOAD, NATIVE_ARCH, NUMBER, RETURN, argument, to_bytes,
    };
    /// `SECCOMP_RET_ERRNO` with `EPERM`.
    const REFUSE: u32 = 0x0005_0001;
    let number = |call: libc::c_long| u32::try_from(call).map_err(|_| io::ErrorKind::InvalidInput);
    let mut program: Vec<Insn> = vec![
        (LOAD, 0, 0, ARCH),
        (JUMP_EQUAL, 1, 0, NATIVE_ARCH),
        (RETURN, 0, 0, REFUSE),
        (LOAD, 0, 0, NUMBER),
    ];
    for call in calls {
        program.extend([(JUMP_EQUAL, 0, 1, number(*call)?), (RETURN, 0, 0, ALLOW)]);
    }
    for (call, index, value) in narrow {
        program.extend([
            (JUMP_EQUAL, 0, 4, number(*call)?),
            (LOAD, 0, 0, argument(*index)),
            (JUMP_EQUAL, 0, 1, *value),
            (RETURN, 0, 0, ALLOW),
            (LOAD, 0, 0, NUMBER),
        ]);
    }
    program.push((RETURN, 0, 0, REFUSE));
    no_new_privileges()?;
    load_seccomp(&to_bytes(&program), 0)
}

/// The calls of a process that closes what it has left, and then only sleeps until a child has ended, reaps it and
/// sleeps on.
pub const CALLS_OF_A_REAPER: [libc::c_long; 7] = [
    libc::SYS_close,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigreturn,
    libc::SYS_exit_group,
];

/// The calls of a process that computes in one thread: memory, its own end.
const CALLS_OF_COMPUTING: [libc::c_long; 19] = [
    // Memory.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_getrandom,
    // Signals of its own, and its end.
    libc::SYS_clock_gettime,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The calls, besides those of computing, of a process that makes files below a descriptor that it has, from bytes that it
/// reads from another.
const CALLS_OF_AN_UNPACKER: [libc::c_long; 25] = [
    // What it reads and answers; the contents of files.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_pwrite64,
    libc::SYS_ftruncate,
    libc::SYS_close,
    // Trees.
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_getdents64,
    libc::SYS_lseek,
    libc::SYS_readlinkat,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    // Owners, modes, times, attributes.
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_utimensat,
    libc::SYS_fsetxattr,
];

/// Leaves this process the calls of an unpacker ([`CALLS_OF_AN_UNPACKER`]) and of computing. Of those that could reach
/// another process it has abort(3)'s signal to itself, and fcntl(2) only to read a descriptor's flags.
///
/// # Errors
/// As [`allow_only`].
pub fn allow_unpacking() -> io::Result<()> {
    allow_computing_and(&CALLS_OF_AN_UNPACKER, &[(libc::SYS_fcntl, 1, libc::F_GETFL.cast_unsigned())])
}

/// Leaves this process reading and writing the descriptors that it has, and computing.
///
/// # Errors
/// As [`allow_only`].
pub fn allow_decompressing() -> io::Result<()> {
    allow_computing_and(&[libc::SYS_read, libc::SYS_write], &[])
}

fn allow_computing_and(calls: &[libc::c_long], narrow: &[Narrow]) -> io::Result<()> {
    let own = rustix::process::getpid().as_raw_nonzero().get().cast_unsigned();
    let mut calls = [calls, &CALLS_OF_COMPUTING].concat();
    let mut narrow = [narrow, &[(libc::SYS_tgkill, 0, own)]].concat();
    if cfg!(feature = "failpoints") {
        calls.push(libc::SYS_clock_nanosleep);
        narrow.push((libc::SYS_kill, 0, own));
    }
    allow_only(&calls, &narrow)
}

/// Enters the session keyring of this name, made if there is none (keyctl(2), `KEYCTL_JOIN_SESSION_KEYRING`).
/// One that is made may be entered by later processes of this user too, who find it by the name.
///
/// A kernel without keys has no keyring to leave: then there is nothing to do.
///
/// # Errors
/// As keyctl(2): `EDQUOT` when the user has too many keys (`kernel.keys.root_maxkeys`).
pub fn enter_session_keyring(name: &CStr, made: bool) -> io::Result<()> {
    /// linux/keyctl.h.
    const JOIN_SESSION_KEYRING: i32 = 1;
    const SETPERM: i32 = 5;
    /// All to those who have it as theirs; to other processes of its user what they get by default, and the search
    /// that entering takes.
    const PERMISSIONS: u32 = 0x3f1b_0000;
    // SAFETY: a live, NUL-terminated string.
    let entered = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) };
    let keyring = match check(entered) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => return Ok(()),
        entered => entered?,
    };
    if !made {
        return Ok(());
    }
    // SAFETY: integers only.
    check(unsafe { libc::syscall(libc::SYS_keyctl, SETPERM, keyring, PERMISSIONS) }).map(drop)
}

/// Other processes may not look into this one unless they hold CAP_SYS_PTRACE, and it leaves no core dump
/// (`PR_SET_DUMPABLE`). Holds until execve(2).
///
/// # Errors
/// As prctl(2).
pub fn forbid_inspection() -> io::Result<()> {
    // SAFETY: integers only.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }.into()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::{
        super::process::{self, Ended, Fork, OneThread},
        *,
    };

    /// A system call with three numbers; its error.
    fn call(number: libc::c_long, arguments: [i32; 3]) -> Option<i32> {
        let [first, second, third] = arguments;
        // SAFETY: integers only; those that could be taken for a pointer are 0.
        let result = unsafe { libc::syscall(number, first, second, third, 0, 0, 0) };
        (result < 0).then(|| io::Error::last_os_error().raw_os_error()).flatten()
    }

    #[test]
    fn a_decompressor_opens_nothing() {
        let path = c"/".as_ptr() as usize;
        let Fork::Parent(pid) = process::fork(OneThread::for_test()).unwrap() else {
            if allow_decompressing().is_err() {
                process::exit_now(100);
            }
            // SAFETY: a live path; the result is looked at and nothing else.
            let opened = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, libc::O_RDONLY) };
            let is_refused = opened < 0
                && io::Error::last_os_error().raw_os_error() == Some(libc::EPERM)
                && call(libc::SYS_dup, [1, 0, 0]) == Some(libc::EPERM)
                && call(libc::SYS_socket, [libc::AF_UNIX, libc::SOCK_STREAM, 0]) == Some(libc::EPERM);
            process::exit_now(i32::from(!is_refused))
        };
        assert_eq!(process::wait(pid).unwrap(), Ended::Code(0));
    }

    #[test]
    fn an_unpacker_reaches_no_other_process_and_no_network() {
        /// fcntl(2).
        const SET_SIGNAL: i32 = 10;
        let parent = std::process::id().cast_signed();
        let refused = [
            (libc::SYS_socket, [libc::AF_UNIX, libc::SOCK_STREAM, 0]),
            (libc::SYS_tgkill, [parent, parent, 0]),
            (libc::SYS_kill, [parent, 0, 0]),
            // A descriptor that becomes ready could signal any process of this user.
            (libc::SYS_fcntl, [0, libc::F_SETOWN, parent]),
            (libc::SYS_fcntl, [0, SET_SIGNAL, 9]),
            (libc::SYS_ioctl, [0, 0, 0]),
            (libc::SYS_unshare, [libc::CLONE_NEWUSER, 0, 0]),
            (libc::SYS_clone, [libc::SIGCHLD, 0, 0]),
        ];
        let Fork::Parent(pid) = process::fork(OneThread::for_test()).unwrap() else {
            if allow_unpacking().is_err() {
                process::exit_now(100);
            }
            for (number, (what, arguments)) in (1..).zip(refused) {
                if call(what, arguments) != Some(libc::EPERM) {
                    process::exit_now(number);
                }
            }
            let own = rustix::process::getpid().as_raw_nonzero().get();
            let allowed = [(libc::SYS_fcntl, [1, libc::F_GETFL, 0]), (libc::SYS_tgkill, [own, own, 0])];
            let is_allowed = allowed.iter().all(|(what, arguments)| call(*what, *arguments).is_none());
            process::exit_now(if is_allowed { 0 } else { 101 })
        };
        assert_eq!(process::wait(pid).unwrap(), Ended::Code(0));
    }
}
