//! Tries system calls that attacks on the kernel need, and prints for each its name and error, 0 if it was done.
//!
//! `probe calls` makes them as a program of this machine, `probe calls32` as a 32-bit one: on x86_64 any program
//! may enter the kernel that way (`int 0x80`), so it takes no other compiler.

use std::{io, process::exit};

unsafe extern "C" {
    fn syscall(number: i64, ...) -> i64;
}

const NEW_USER: i64 = 0x1000_0000;
const NEW_MOUNT: i64 = 0x0002_0000;
const NEW_UTS: i64 = 0x0400_0000;
const CHILD_SIGNAL: i64 = 17;
const AF_VSOCK: i64 = 40;
const AF_ALG: i64 = 38;
const SEQPACKET: i64 = 5;
const STREAM: i64 = 1;
const SESSION_KEYRING: i64 = -3;

/// Name, number on x86_64, number elsewhere, arguments. What would change this process comes last.
const CALLS: [(&str, i64, i64, [i64; 5]); 32] = [
    ("keyctl", 250, 219, [0, SESSION_KEYRING, 0, 0, 0]),
    ("add_key", 248, 217, [0, 0, 0, 0, SESSION_KEYRING]),
    ("request_key", 249, 218, [0, 0, 0, SESSION_KEYRING, 0]),
    ("bpf", 321, 280, [0, 0, 0, 0, 0]),
    ("userfaultfd", 323, 282, [0, 0, 0, 0, 0]),
    ("perf_event_open", 298, 241, [0, 0, -1, -1, 0]),
    ("io_uring_setup", 425, 425, [1, 0, 0, 0, 0]),
    ("io_uring_enter", 426, 426, [-1, 0, 0, 0, 0]),
    ("io_uring_register", 427, 427, [-1, 0, 0, 0, 0]),
    ("open_by_handle_at", 304, 265, [-1, 0, 0, 0, 0]),
    ("kexec_load", 246, 104, [0, 0, 0, 0, 0]),
    ("init_module", 175, 105, [0, 0, 0, 0, 0]),
    ("finit_module", 313, 273, [-1, 0, 0, 0, 0]),
    ("delete_module", 176, 106, [0, 0, 0, 0, 0]),
    ("fsopen", 430, 430, [0, 0, 0, 0, 0]),
    ("fsmount", 432, 432, [-1, 0, 0, 0, 0]),
    ("open_tree", 428, 428, [-100, 0, 1, 0, 0]),
    ("move_mount", 429, 429, [-1, 0, -1, 0, 0]),
    ("mount_setattr", 442, 442, [-1, 0, 0, 0, 0]),
    ("mount", 165, 40, [0, 0, 0, 0, 0]),
    ("umount2", 166, 39, [0, 0, 0, 0, 0]),
    ("pivot_root", 155, 41, [0, 0, 0, 0, 0]),
    ("swapon", 167, 224, [0, 0, 0, 0, 0]),
    ("acct", 163, 89, [0, 0, 0, 0, 0]),
    ("quotactl", 179, 60, [0, 0, 0, 0, 0]),
    ("setns", 308, 268, [0, 0, 0, 0, 0]),
    ("socket-alg", 41, 198, [AF_ALG, SEQPACKET, 0, 0, 0]),
    ("socket-vsock", 41, 198, [AF_VSOCK, STREAM, 0, 0, 0]),
    ("clone-user", 56, 220, [NEW_USER | CHILD_SIGNAL, 0, 0, 0, 0]),
    ("unshare-mount", 272, 97, [NEW_MOUNT, 0, 0, 0, 0]),
    ("unshare-uts", 272, 97, [NEW_UTS, 0, 0, 0, 0]),
    ("unshare-user", 272, 97, [NEW_USER, 0, 0, 0, 0]),
];

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("calls") => {
            for (name, x86, other, [a, b, c, d, e]) in CALLS {
                let number = if cfg!(target_arch = "x86_64") { x86 } else { other };
                // SAFETY: numbers, and no memory but by null.
                let result = unsafe { syscall(number, a, b, c, d, e) };
                if name == "clone-user" && result == 0 {
                    exit(0); // the child
                }
                let error = if result < 0 { io::Error::last_os_error().raw_os_error().unwrap_or(-1) } else { 0 };
                println!("{name} {error}");
            }
        }
        Some("calls32") => calls32::run(),
        _ => exit(2),
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod calls32 {
    pub fn run() {}
}

#[cfg(target_arch = "x86_64")]
mod calls32 {
    use std::{arch::asm, ffi::c_void};

    use super::{AF_ALG, AF_VSOCK, NEW_USER, SEQPACKET, SESSION_KEYRING, STREAM};

    const SOCKETCALL: u32 = 102;
    const SYS_SOCKET: i64 = 1;
    const READ_WRITE: i32 = 3;
    /// Private, anonymous, below 4 GiB: where a 32-bit call can point to.
    const LOW: i32 = 0x62;

    unsafe extern "C" {
        fn mmap(at: *mut c_void, bytes: usize, protection: i32, flags: i32, fd: i32, offset: i64) -> *mut u32;
    }

    /// The call as a 32-bit program makes it: minus the error, or what it answers.
    fn call(number: u32, [a, b, c]: [u32; 3]) -> i32 {
        let result: u32;
        // SAFETY: the kernel preserves all registers but the result and, when it was entered from a 64-bit program,
        // r8 to r11; rbx belongs to the compiler and is put back.
        unsafe {
            asm!(
                "xchg {first}, rbx",
                "int 0x80",
                "xchg {first}, rbx",
                first = inout(reg) u64::from(a) => _,
                inlateout("eax") number => result,
                in("ecx") b,
                in("edx") c,
                in("esi") 0,
                in("edi") 0,
                out("r8") _,
                out("r9") _,
                out("r10") _,
                out("r11") _,
            );
        }
        result as i32
    }

    pub fn run() {
        // SAFETY: new memory.
        let low = unsafe { mmap(std::ptr::null_mut(), 4096, READ_WRITE, LOW, -1, 0) };
        let at = low as usize as u32;
        let socket = |family: i64, kind: i64| {
            for (place, value) in [family, kind, 0].into_iter().enumerate() {
                // SAFETY: the page has room.
                unsafe { low.add(place).write(value as u32) };
            }
            call(SOCKETCALL, [SYS_SOCKET as u32, at, 0])
        };
        let plain = |number: u32, arguments: [i64; 3]| call(number, arguments.map(|argument| argument as u32));
        let tried = [
            ("socketcall-alg", socket(AF_ALG, SEQPACKET)),
            ("socketcall-vsock", socket(AF_VSOCK, STREAM)),
            ("socket-alg", plain(359, [AF_ALG, SEQPACKET, 0])),
            ("socket-vsock", plain(359, [AF_VSOCK, STREAM, 0])),
            ("keyctl", plain(288, [0, SESSION_KEYRING, 0])),
            ("bpf", plain(357, [0, 0, 0])),
            ("userfaultfd", plain(374, [0, 0, 0])),
            ("io_uring_setup", plain(425, [1, 0, 0])),
            ("unshare-user", plain(310, [NEW_USER, 0, 0])),
        ];
        for (name, result) in tried {
            println!("{name} {}", if result < 0 { -result } else { 0 });
        }
    }
}
