//! bpf(2), as far as device filters of cgroup v2 need it.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use super::process::check;

/// One instruction (`struct bpf_insn`, linux/bpf.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Instruction {
    /// Operation and class (`BPF_*`).
    pub code: u8,
    /// The source register in the upper four bits, the destination in the lower ones.
    pub registers: u8,
    /// Instructions to skip, or bytes from where a load starts.
    pub offset: i16,
    /// The constant operand.
    pub immediate: i32,
}

/// Gives the kernel a `BPF_PROG_TYPE_CGROUP_DEVICE` program, whose `name` (15 bytes at most) `bpftool` shows.
///
/// # Errors
/// As bpf(2): `EINVAL` when the kernel has no such programs (`CONFIG_CGROUP_BPF`) or does not like this one,
/// `EPERM` without `CAP_BPF`.
pub fn load_device_filter(name: &CStr, program: &[Instruction]) -> io::Result<OwnedFd> {
    /// The start of `union bpf_attr`, as `BPF_PROG_LOAD` reads it.
    #[repr(C)]
    struct Load {
        kind: u32,
        instructions_len: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_len: u32,
        log: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; NAME_BYTES],
    }
    const NAME_BYTES: usize = 16;
    /// `BPF_PROG_LOAD` and `BPF_PROG_TYPE_CGROUP_DEVICE`.
    const PROG_LOAD: libc::c_int = 5;
    const CGROUP_DEVICE: u32 = 15;

    let mut bytes = [0; NAME_BYTES];
    for (to, from) in bytes.iter_mut().zip(name.to_bytes().iter().take(NAME_BYTES - 1)) {
        *to = *from;
    }
    let load = Load {
        kind: CGROUP_DEVICE,
        instructions_len: u32::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_len: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: bytes,
    };
    // SAFETY: the structure, and the slice and string it points to, outlive the call; the length of the slice
    // is given with it.
    let fd = check(unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw const load, size_of::<Load>()) })?;
    let fd = RawFd::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes a program from [`load_device_filter`] decide, together with those attached here and above before,
/// what the processes of a cgroup (its directory) and below may open. It stays when its descriptor is closed,
/// until the cgroup goes.
///
/// # Errors
/// As bpf(2): `EBADF` when the directory is no cgroup v2; `E2BIG` after 64 programs.
pub fn attach_device_filter(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    /// The start of `union bpf_attr`, as `BPF_PROG_ATTACH` reads it.
    #[repr(C)]
    struct Attach {
        target: RawFd,
        program: RawFd,
        kind: u32,
        flags: u32,
    }
    /// `BPF_PROG_ATTACH`, `BPF_CGROUP_DEVICE` and `BPF_F_ALLOW_MULTI`.
    const PROG_ATTACH: libc::c_int = 8;
    const CGROUP_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;

    let (target, program) = (cgroup.as_raw_fd(), program.as_raw_fd());
    let attach = Attach { target, program, kind: CGROUP_DEVICE, flags: ALLOW_MULTI };
    // SAFETY: the structure outlives the call and holds integers only.
    let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_ATTACH, &raw const attach, size_of::<Attach>()) };
    check(result).map(drop)
}
