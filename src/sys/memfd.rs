//! A sealed copy of the running program.

use std::{fs::File, io, os::fd::OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};

/// Copies this program into an anonymous file that can never be written again, so that a container which
/// reaches it through `/proc/PID/exe` has nothing to overwrite (CVE-2019-5736).
///
/// # Errors
/// When the program cannot be read or there is not enough memory.
pub fn sealed_self() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // A host may make memory files not executable unless asked (`vm.memfd_noexec`); before Linux 6.3 there is
    // no such question.
    let executable = MemfdFlags::from_bits_retain(libc::MFD_EXEC);
    let memfd = match rustix::fs::memfd_create("pintle", flags | executable) {
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create("pintle", flags)?,
        made => made?,
    };
    let mut copy = File::from(memfd);
    io::copy(&mut File::open("/proc/self/exe")?, &mut copy)?;
    rustix::fs::fchmod(&copy, rustix::fs::Mode::from_raw_mode(0o500))?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&copy, seals)?;
    // An open for writing would make execve fail (ETXTBSY): hand out a read-only descriptor.
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&copy));
    Ok(File::open(path)?.into())
}
