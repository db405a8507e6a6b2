//! System call numbers by name, for each ABI that a process on this machine may speak.

use std::{collections::HashMap, ops::Range, sync::LazyLock};

use syscalls::{aarch64, arm, x86, x86_64};

/// One way to enter the kernel: a table of numbers, and how seccomp(2) shows it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) enum Abi {
    Aarch64,
    /// 32-bit EABI on an arm64 kernel.
    Arm,
    /// 32-bit pointers on x86_64: its numbers carry bit 30, some of them are its own.
    X32,
    /// i386 on an x86_64 kernel.
    X86,
    X86_64,
}

/// A kind of machine: its name in Go's spelling (profiles use it) and its ABIs, the native one first.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) name: &'static str,
    pub(super) abis: &'static [Abi],
}

pub(super) const AMD64: Machine = Machine { name: "amd64", abis: &[Abi::X86_64, Abi::X86, Abi::X32] };
pub(super) const ARM64: Machine = Machine { name: "arm64", abis: &[Abi::Aarch64, Abi::Arm] };

/// The machine this program was built for.
pub(super) const NATIVE: &Machine = if cfg!(target_arch = "x86_64") { &AMD64 } else { &ARM64 };
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("spec/seccomp/abi.rs has no system call table for this architecture");

/// The first of x32's numbers (`__X32_SYSCALL_BIT`).
const X32_BIT: u32 = 0x4000_0000;
/// x32 calls whose 64-bit number is not theirs: the first is 512 (`arch/x86/entry/syscalls/syscall_64.tbl`).
const X32_OWN: [&str; 36] = [
    "rt_sigaction",
    "rt_sigreturn",
    "ioctl",
    "readv",
    "writev",
    "recvfrom",
    "sendmsg",
    "recvmsg",
    "execve",
    "ptrace",
    "rt_sigpending",
    "rt_sigtimedwait",
    "rt_sigqueueinfo",
    "sigaltstack",
    "timer_create",
    "mq_notify",
    "kexec_load",
    "waitid",
    "set_robust_list",
    "get_robust_list",
    "vmsplice",
    "move_pages",
    "preadv",
    "pwritev",
    "rt_tgsigqueueinfo",
    "recvmmsg",
    "sendmmsg",
    "process_vm_readv",
    "process_vm_writev",
    "setsockopt",
    "getsockopt",
    "io_setup",
    "io_submit",
    "execveat",
    "preadv2",
    "pwritev2",
];
const X32_OWN_FIRST: u32 = 512;
/// Calls of the arm architecture itself: the first is 0xf0001 (`arch/arm/include/uapi/asm/unistd.h`).
const ARM_OWN: [&str; 6] = ["breakpoint", "cacheflush", "usr26", "usr32", "set_tls", "get_tls"];
const ARM_OWN_FIRST: u32 = 0xf_0001;
/// No table has reached this number; searching it is how the tables are read.
const NUMBERS_MAX: u32 = 1024;

impl Abi {
    /// The value of `seccomp_data.arch` (`AUDIT_ARCH_*`, linux/audit.h).
    pub(super) fn audit(self) -> u32 {
        match self {
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
            Self::X86 => 0x4000_0003,
            Self::X32 | Self::X86_64 => 0xc000_003e,
        }
    }

    /// As profiles spell it.
    pub(super) fn oci_name(self) -> &'static str {
        match self {
            Self::Aarch64 => "SCMP_ARCH_AARCH64",
            Self::Arm => "SCMP_ARCH_ARM",
            Self::X32 => "SCMP_ARCH_X32",
            Self::X86 => "SCMP_ARCH_X86",
            Self::X86_64 => "SCMP_ARCH_X86_64",
        }
    }

    /// The part of `seccomp_data.nr` that belongs to this ABI, the last number included.
    pub(super) fn span(self) -> (u32, u32) {
        match self {
            Self::X86_64 => (0, X32_BIT - 1),
            Self::X32 => (X32_BIT, 2 * X32_BIT - 1),
            Self::Aarch64 | Self::Arm | Self::X86 => (0, u32::MAX),
        }
    }

    /// Numbers of its own, apart from the table that grows with the kernel.
    pub(super) fn island(self) -> Option<Range<u32>> {
        match self {
            Self::X32 => Some(X32_BIT + X32_OWN_FIRST..X32_BIT + X32_OWN_FIRST + 36),
            Self::Arm => Some(ARM_OWN_FIRST..ARM_OWN_FIRST + 6),
            Self::Aarch64 | Self::X86 | Self::X86_64 => None,
        }
    }

    /// The value of `seccomp_data.nr` for a call; `None`: this ABI has no such call, or it is newer than
    /// the table.
    pub(super) fn number(self, name: &str) -> Option<u32> {
        static TABLES: LazyLock<HashMap<Abi, HashMap<&'static str, u32>>> = LazyLock::new(|| {
            [Abi::Aarch64, Abi::Arm, Abi::X32, Abi::X86, Abi::X86_64].map(|abi| (abi, abi.table())).into()
        });
        TABLES[&self].get(name).copied()
    }

    /// The names of its calls.
    #[cfg(test)]
    pub(super) fn names(self) -> impl Iterator<Item = &'static str> {
        self.table().into_keys()
    }

    fn table(self) -> HashMap<&'static str, u32> {
        let (base, _) = self.span();
        let mut table: HashMap<_, _> =
            (0..NUMBERS_MAX).filter_map(|number| Some((self.common(number)?, base + number))).collect();
        match self {
            Self::X32 => table.extend(X32_OWN.into_iter().zip(X32_BIT + X32_OWN_FIRST..)),
            Self::Arm => {
                table.extend(ARM_OWN.into_iter().zip(ARM_OWN_FIRST..));
                // One call, two names.
                if let Some(&number) = table.get("arm_sync_file_range") {
                    table.insert("sync_file_range2", number);
                }
            }
            Self::Aarch64 | Self::X86 | Self::X86_64 => {}
        }
        table
    }

    fn common(self, number: u32) -> Option<&'static str> {
        let number = usize::try_from(number).ok()?;
        match self {
            Self::Aarch64 => aarch64::Sysno::new(number).map(|call| call.name()),
            Self::Arm => arm::Sysno::new(number).map(|call| call.name()),
            Self::X86 => x86::Sysno::new(number).map(|call| call.name()),
            Self::X32 | Self::X86_64 => x86_64::Sysno::new(number).map(|call| call.name()),
        }
    }
}

/// An i386 call that wraps others, whose own arguments then lie behind a pointer.
#[derive(Debug)]
pub(super) struct Multiplexer {
    pub(super) name: &'static str,
    /// The part of the first argument that says which call is meant.
    pub(super) mask: u64,
    /// The wrapped calls by that number.
    pub(super) calls: &'static [(u64, &'static str)],
}

/// linux/net.h and linux/ipc.h.
pub(super) const MULTIPLEXERS: [Multiplexer; 2] = [
    Multiplexer {
        name: "socketcall",
        mask: 0xffff_ffff,
        calls: &[
            (1, "socket"),
            (2, "bind"),
            (3, "connect"),
            (4, "listen"),
            (5, "accept"),
            (6, "getsockname"),
            (7, "getpeername"),
            (8, "socketpair"),
            (9, "send"),
            (10, "recv"),
            (11, "sendto"),
            (12, "recvfrom"),
            (13, "shutdown"),
            (14, "setsockopt"),
            (15, "getsockopt"),
            (16, "sendmsg"),
            (17, "recvmsg"),
            (18, "accept4"),
            (19, "recvmmsg"),
            (20, "sendmmsg"),
        ],
    },
    Multiplexer {
        name: "ipc",
        // The upper half is a version.
        mask: 0xffff,
        calls: &[
            (1, "semop"),
            (2, "semget"),
            (3, "semctl"),
            (4, "semtimedop"),
            (11, "msgsnd"),
            (12, "msgrcv"),
            (13, "msgget"),
            (14, "msgctl"),
            (21, "shmat"),
            (22, "shmdt"),
            (23, "shmget"),
            (24, "shmctl"),
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_kernel_headers() {
        for (abi, name, number) in [
            (Abi::X86_64, "read", Some(0)),
            (Abi::X86_64, "file_setattr", Some(469)), // the last one
            (Abi::X86_64, "socketcall", None),
            (Abi::X86, "read", Some(3)),
            (Abi::X86, "socketcall", Some(102)),
            (Abi::X32, "read", Some(0x4000_0000)),
            (Abi::X32, "ioctl", Some(0x4000_0202)),
            (Abi::X32, "execve", Some(0x4000_0208)),
            (Abi::X32, "pwritev2", Some(0x4000_0223)),
            (Abi::Aarch64, "openat", Some(56)),
            (Abi::Arm, "openat", Some(322)),
            (Abi::Arm, "set_tls", Some(0xf_0005)),
            (Abi::Arm, "sync_file_range2", Some(341)),
            (Abi::X86, "no_such_call", None),
        ] {
            assert_eq!(abi.number(name), number, "{abi:?} {name}");
        }
    }

    #[test]
    fn every_wrapped_call_is_known_somewhere() {
        for wrapper in MULTIPLEXERS {
            assert!(Abi::X86.number(wrapper.name).is_some(), "{wrapper:?}");
            for (_, call) in wrapper.calls {
                let known = [Abi::X86, Abi::X86_64, Abi::Arm].iter().any(|abi| abi.number(call).is_some());
                assert!(known, "{call}");
            }
        }
    }
}
