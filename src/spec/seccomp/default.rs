//! pintle's own profile, "RuntimeDefault": what a container may ask of the kernel when nobody says more.
//!
//! The decisions are containerd's, so that a workload that runs elsewhere runs here; `containerd.rs` compares them,
//! call by call. Names of calls are facts; the table and its form are ours.
//! What is not named gets EPERM, what is newer than the newest name gets ENOSYS.
//!
//! One decision differs from what libseccomp makes of containerd's: i386's `socketcall(SYS_SOCKET)` is refused (by
//! `compile`, as for any profile), since there the address family cannot be seen and AF_ALG would be open to every
//! 32-bit program.

use super::{
    abi::Machine,
    policy::{Action, Condition, Policy, Rule},
};
use crate::spec::capability::{
    BPF, DAC_READ_SEARCH, PERFMON, SYS_ADMIN, SYS_BOOT, SYS_CHROOT, SYS_MODULE, SYS_NICE, SYS_PACCT,
    SYS_PTRACE, SYS_RAWIO, SYS_TIME, SYS_TTY_CONFIG, SYSLOG,
};

/// Allowed to everybody, whatever the arguments.
const ALWAYS: &str = "
    _llseek _newselect accept accept4 access adjtimex alarm arch_prctl arm_fadvise64_64 arm_sync_file_range
    bind breakpoint brk cacheflush cachestat capget capset chdir chmod chown chown32 clock_adjtime
    clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep
    clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create
    epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd
    eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate
    fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync
    fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync
    ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat
    get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32
    getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority
    getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt
    gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1
    inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit
    ioctl ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self
    lchown lchown32 lgetxattr link linkat listen listmount listxattr listxattrat llistxattr lremovexattr
    lseek lsetxattr lsm_get_self_attr lsm_list_modules lsm_set_self_attr lstat lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret mincore
    mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 modify_ldt mprotect mq_getsetattr mq_notify
    mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal
    msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat open
    openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll
    ppoll ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv
    process_vm_writev pselect6 pselect6_time64 ptrace pwrite64 pwritev pwritev2 read readahead readlink
    readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr
    removexattrat rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending
    rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64
    rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr
    sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity
    sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop
    semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list
    set_thread_area set_tid_address set_tls setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32
    setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid setresgid32 setresuid
    setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid setuid32 setxattr setxattrat shmat
    shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn socketcall socketpair
    splice stat stat64 statfs statfs64 statmount statx symlink symlinkat sync sync_file_range
    sync_file_range2 syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime
    timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64
    timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat
    uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev
";

/// Allowed to who has the capability.
const WITH_CAPABILITY: [(u64, &str); 14] = [
    (BPF, "bpf"),
    (DAC_READ_SEARCH, "open_by_handle_at"),
    (PERFMON, "perf_event_open"),
    (
        SYS_ADMIN,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr \
         move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount \
         umount2 unshare",
    ),
    (SYS_BOOT, "reboot"),
    (SYS_CHROOT, "chroot"),
    (SYS_MODULE, "delete_module finit_module init_module"),
    (SYS_NICE, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    (SYS_PACCT, "acct"),
    (SYS_PTRACE, "kcmp pidfd_getfd process_madvise"),
    (SYS_RAWIO, "ioperm iopl"),
    (SYS_TIME, "clock_settime clock_settime64 settimeofday stime"),
    (SYS_TTY_CONFIG, "vhangup"),
    (SYSLOG, "syslog"),
];

/// Address families that socket(2) may be asked for (linux/socket.h). Missing are AF_ALG (38) and
/// AF_VSOCK (40), which reach what is not the container's, and what is newer than AF_MCTP.
/// The upper half of the argument must be zero: the kernel ignores it, so a test for "not 38" would not do.
const SOCKET_FAMILIES: [(u64, u64); 3] = [(0, 37), (39, 39), (41, 45)];

/// Flags of clone(2) that make namespaces: all `CLONE_NEW*` but NEWTIME, which clone(2) does not know.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;
/// personality(2): "Linux", with or without UNAME26 (0x20000) and PER_LINUX32 (8); all ones only asks.
const PERSONALITY_FREE: u64 = 0x2_0008;
const PERSONALITY_QUERY: u64 = 0xffff_ffff;

/// The capabilities that make a difference here.
pub(super) fn relevant_capabilities() -> u64 {
    WITH_CAPABILITY.iter().fold(0, |all, (bit, _)| all | bit)
}

/// The profile of a process with these capabilities.
pub(super) fn policy(machine: &Machine, capabilities: u64) -> Policy<'static> {
    let allow = |names: &'static str, conditions| Rule {
        names: names.split_ascii_whitespace().collect(),
        conditions,
        action: Action::ALLOW,
    };
    let mut rules = vec![allow(ALWAYS, vec![])];
    for (low, high) in SOCKET_FAMILIES {
        rules.push(allow("socket", vec![Condition::Within { arg: 0, low, high, inside: true }]));
    }
    rules.push(allow("personality", vec![Condition::Masked { arg: 0, mask: !PERSONALITY_FREE, value: 0 }]));
    let query = Condition::Within { arg: 0, low: PERSONALITY_QUERY, high: PERSONALITY_QUERY, inside: true };
    rules.push(allow("personality", vec![query]));
    for (bit, names) in WITH_CAPABILITY {
        if capabilities & bit != 0 {
            rules.push(allow(names, vec![]));
        }
    }
    if capabilities & SYS_ADMIN == 0 {
        let no_namespaces = Condition::Masked { arg: 0, mask: CLONE_NAMESPACES, value: 0 };
        rules.push(allow("clone", vec![no_namespaces]));
        // Its flags lie behind a pointer. A C library without it falls back to clone(2).
        rules.push(Rule { names: vec!["clone3"], conditions: vec![], action: Action::ENOSYS });
    }
    Policy { abis: machine.abis.to_vec(), default: Action::EPERM, rules }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{
        capability,
        seccomp::{
            abi::{AMD64, ARM64, Abi},
            compile::compile,
            interpret::{Call, run},
        },
    };

    #[track_caller]
    fn answer(capabilities: u64, abi: Abi, name: &str, argument: u64) -> Action {
        let machine = if AMD64.abis.contains(&abi) { &AMD64 } else { &ARM64 };
        let program = compile(&policy(machine, capabilities)).unwrap();
        let number = abi.number(name).unwrap();
        run(&program, &Call { audit: abi.audit(), number, args: [argument, 0, 0, 0, 0, 0] }).0
    }

    #[test]
    fn every_name_exists_on_some_abi() {
        for (_, names) in WITH_CAPABILITY.into_iter().chain([(0, ALWAYS)]) {
            for name in names.split_ascii_whitespace() {
                let known = AMD64.abis.iter().chain(ARM64.abis).any(|abi| abi.number(name).is_some());
                // Two that only other machines have kept.
                assert!(known || ["recv", "send", "sendfile64"].contains(&name), "{name}");
            }
        }
    }

    #[test]
    fn the_calls_that_attacks_need_are_refused_and_the_new_ones_do_not_exist() {
        use Abi::{Aarch64, X32, X86, X86_64};
        const TYPICAL: u64 = 0xa804_25fb;
        for (abi, name, argument, expected) in [
            (X86_64, "execve", 0, Action::ALLOW),
            (X86_64, "execveat", 0, Action::ALLOW),
            (X32, "execve", 0, Action::ALLOW),
            (X86_64, "mount", 0, Action::EPERM),
            (X86_64, "unshare", 0x1000_0000, Action::EPERM),
            (X86_64, "bpf", 0, Action::EPERM),
            (X86_64, "keyctl", 0, Action::EPERM),
            (X86_64, "add_key", 0, Action::EPERM),
            (X86_64, "userfaultfd", 0, Action::EPERM),
            (X86_64, "perf_event_open", 0, Action::EPERM),
            (X86_64, "io_uring_setup", 0, Action::EPERM),
            (X86_64, "kexec_load", 0, Action::EPERM),
            (X32, "kexec_load", 0, Action::EPERM),
            (X86_64, "socket", 2, Action::ALLOW),
            (X86_64, "socket", 38, Action::EPERM),
            (X86_64, "socket", 38 | 1 << 32, Action::EPERM),
            (X86_64, "socket", 40, Action::EPERM),
            (X86, "socket", 38, Action::EPERM),
            (X86, "socketcall", 1, Action::EPERM),
            (X86, "socketcall", 3, Action::ALLOW),
            (X86, "ipc", 1, Action::ALLOW),
            (X32, "socket", 38, Action::EPERM),
            (Aarch64, "socket", 38, Action::EPERM),
            (X86_64, "clone", 0x11, Action::ALLOW),
            (X86_64, "clone", 0x1000_0011, Action::EPERM),
            (X86_64, "clone3", 0, Action::ENOSYS),
            (X86_64, "personality", 0x2_0008, Action::ALLOW),
            (X86_64, "personality", 0x4_0000, Action::EPERM), // ADDR_NO_RANDOMIZE
            (X86_64, "mseal", 0, Action::ALLOW),
            (X86_64, "statmount", 0, Action::ALLOW),
            (X86_64, "setxattrat", 0, Action::ALLOW),
            (X86_64, "open_tree_attr", 0, Action::ENOSYS),
            (X86_64, "file_setattr", 0, Action::ENOSYS),
            (X86, "file_setattr", 0, Action::ENOSYS),
            (Aarch64, "file_setattr", 0, Action::ENOSYS),
        ] {
            assert_eq!(answer(TYPICAL, abi, name, argument), expected, "{abi:?} {name} {argument:#x}");
        }
    }

    #[test]
    fn a_capability_opens_its_calls_and_no_others() {
        for (capabilities, name, expected) in [
            (capability::SYS_ADMIN, "mount", Action::ALLOW),
            (capability::SYS_ADMIN, "clone3", Action::ALLOW),
            (capability::SYS_ADMIN, "reboot", Action::EPERM),
            (capability::SYS_BOOT, "reboot", Action::ALLOW),
            (capability::BPF, "bpf", Action::ALLOW),
            (capability::ALL, "init_module", Action::ALLOW),
            (capability::ALL, "kexec_load", Action::EPERM),
        ] {
            assert_eq!(answer(capabilities, Abi::X86_64, name, 0), expected, "{capabilities:x} {name}");
        }
    }
}
