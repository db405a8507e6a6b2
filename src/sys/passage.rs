//! System calls of ours that stay possible under a filter which forbids them (seccomp(2)).
//!
//! A process that others can see must be under its filter from its first instruction, so the filter is loaded
//! before the fork; and a filter that its author wrote for the program alone may forbid the very calls that lead
//! to the program. In front of the filter stand a few instructions that let these calls pass, and only when an
//! argument that the kernel does not read holds a number which nobody else knows.
//!
//! Whoever reads the number out of the process's memory before its execve has won nothing: what passes only
//! forks, reads from and writes to descriptors that the process has, lowers capabilities or ends.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    sync::atomic::AtomicI32,
};

use super::{
    privilege::{CapabilityData, CapabilityHeader, INSTRUCTION_BYTES, load_seccomp},
    process::{Fork, OneThread, check},
};

/// Instructions that a filter grows by at most.
pub const INSTRUCTIONS_MAX: usize = 24;

/// What may be done under the filter, besides talking to a descriptor, lowering capabilities and ending.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs {
    /// [`Passage::fork_sibling`] and [`Passage::new_session`].
    pub fork: bool,
    /// [`Passage::take_terminal`].
    pub terminal: bool,
}

/// The number that lets calls of this process, and of those it forks, pass their filter.
#[derive(Debug)]
pub struct Passage {
    secret: u64,
}

/// `AUDIT_ARCH_*` (linux/audit.h) of the machine that this was compiled for.
#[cfg(target_arch = "x86_64")]
pub(super) const NATIVE_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
pub(super) const NATIVE_ARCH: u32 = 0xc000_00b7;

/// `CLONE_*` of the one fork that passes. The kernel writes the pid before the child runs.
const FORK_FLAGS: i32 = libc::CLONE_PARENT | libc::CLONE_PARENT_SETTID;

/// Offsets in `struct seccomp_data` (linux/seccomp.h); of a 64-bit argument, the half that counts less.
pub(super) const NUMBER: u32 = 0;
pub(super) const ARCH: u32 = 4;
pub(super) const fn argument(index: u32) -> u32 {
    16 + 8 * index
}
/// The argument that holds the secret. No call below has six of its own.
const SECRET_ARGUMENT: u32 = 5;

/// One instruction (`struct sock_filter`).
pub(super) type Insn = (u16, u8, u8, u32);

pub(super) const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
pub(super) const JUMP_EQUAL: u16 = 0x15;
pub(super) const RETURN: u16 = 0x06;
pub(super) const ALLOW: u32 = 0x7fff_0000;

impl Passage {
    /// A passage with a number of its own.
    ///
    /// # Errors
    /// When the kernel has no random numbers to give.
    pub fn new() -> io::Result<Self> {
        let secret = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Self { secret })
    }

    /// Puts this process under `program`, an array of `struct sock_filter`, with the passage in front of it. `flags`
    /// are `SECCOMP_FILTER_FLAG_*`.
    ///
    /// # Errors
    /// As seccomp(2); `EINVAL` for a program that is not one, or is too long with the passage.
    pub fn load(&self, program: &[u8], flags: u32, needs: Needs) -> io::Result<()> {
        load_seccomp(&[&to_bytes(&self.instructions(needs)), program].concat(), flags)
    }

    /// Lets pass, or goes on behind itself. A call that is not named here is decided by its number alone, so the
    /// kernel's cache of calls that are always allowed holds for it as before.
    fn instructions(&self, needs: Needs) -> Vec<Insn> {
        let mut plain = vec![libc::SYS_recvmmsg, libc::SYS_sendmmsg, libc::SYS_capset, libc::SYS_exit_group];
        plain.extend(needs.fork.then_some(libc::SYS_setsid));
        // Those of which one argument is looked at too: (number, which argument, its value).
        let mut narrow: Vec<(libc::c_long, u32, u32)> = Vec::new();
        narrow.extend(needs.fork.then_some((libc::SYS_clone, 0, FORK_FLAGS.cast_unsigned())));
        #[expect(clippy::cast_possible_truncation, reason = "the kernel takes 32 bits of it")]
        narrow.extend(needs.terminal.then_some((libc::SYS_ioctl, 1, libc::TIOCSCTTY as u32)));

        // Written backwards: then what is jumped to is there already.
        let mut backwards: Vec<Insn> = vec![(RETURN, 0, 0, ALLOW)];
        let (low, high) = halves(self.secret);
        // After the last instruction is the program's first: a jump over all that is written so far.
        let out = |backwards: &Vec<Insn>| near(backwards.len());
        backwards.push((JUMP_EQUAL, 0, out(&backwards), high));
        backwards.push((LOAD, 0, 0, argument(SECRET_ARGUMENT) + 4));
        backwards.push((JUMP_EQUAL, 0, out(&backwards), low));
        backwards.push((LOAD, 0, 0, argument(SECRET_ARGUMENT)));
        let secret = backwards.len();
        let mut targets: Vec<(libc::c_long, usize)> = plain.iter().map(|number| (*number, secret)).collect();
        for (number, index, value) in narrow {
            let to_secret = near(backwards.len() - secret);
            backwards.push((JUMP_EQUAL, to_secret, out(&backwards), value));
            backwards.push((LOAD, 0, 0, argument(index)));
            targets.push((number, backwards.len()));
        }
        backwards.push((JUMP, 0, 0, out(&backwards).into()));
        for (number, target) in targets {
            let to_target = near(backwards.len() - target);
            backwards.push((JUMP_EQUAL, to_target, 0, u32::try_from(number).unwrap_or(u32::MAX)));
        }
        backwards.push((LOAD, 0, 0, NUMBER));
        backwards.push((JUMP_EQUAL, 0, out(&backwards), NATIVE_ARCH));
        backwards.push((LOAD, 0, 0, ARCH));
        backwards.reverse();
        backwards
    }

    /// Forks a child whose parent is this process's parent; the kernel has written the child's pid to `pid`
    /// before either goes on (clone(2) with `CLONE_PARENT` and `CLONE_PARENT_SETTID`).
    ///
    /// # Errors
    /// As clone(2).
    pub fn fork_sibling(&self, pid: &AtomicI32, _: OneThread) -> io::Result<Fork> {
        // SAFETY: without CLONE_VM the child has its own copy of everything, and nothing that runs in it asks libc
        // for the thread id that libc's own fork would have renewed. `pid` is live, aligned and 32 bits wide.
        let result = unsafe {
            libc::syscall(
                libc::SYS_clone,
                i64::from(FORK_FLAGS),
                0_i64,
                pid.as_ptr(),
                0_i64,
                0_i64,
                self.secret,
            )
        };
        Fork::of(check(result)?)
    }

    /// Makes this process the leader of a new session (setsid(2)).
    ///
    /// # Errors
    /// As setsid(2).
    pub fn new_session(&self) -> io::Result<()> {
        // SAFETY: the kernel takes no argument.
        check(unsafe { libc::syscall(libc::SYS_setsid, 0, 0, 0, 0, 0, self.secret) }).map(drop)
    }

    /// Makes `terminal` the one that controls this session (ioctl_tty(2), `TIOCSCTTY`).
    ///
    /// # Errors
    /// As ioctl(2).
    pub fn take_terminal(&self, terminal: BorrowedFd<'_>) -> io::Result<()> {
        let fd = terminal.as_raw_fd();
        // SAFETY: a borrowed, open descriptor and integers.
        let result =
            unsafe { libc::syscall(libc::SYS_ioctl, fd, libc::TIOCSCTTY, 0_i64, 0_i64, 0_i64, self.secret) };
        check(result).map(drop)
    }

    /// Sets the permitted and effective sets to `permitted`, the inheritable set to `inheritable` (capset(2)).
    ///
    /// # Errors
    /// As capset(2).
    pub fn set_capabilities(&self, permitted: u64, inheritable: u64) -> io::Result<()> {
        let header = CapabilityHeader::OWN;
        let data = CapabilityData::new(permitted, inheritable);
        // SAFETY: header and data are what version 3 of the call reads.
        let result = unsafe {
            libc::syscall(
                libc::SYS_capset,
                &raw const header,
                data.as_ptr(),
                0_i64,
                0_i64,
                0_i64,
                self.secret,
            )
        };
        check(result).map(drop)
    }

    /// Receives one message; 0 is the end of the stream (recvmmsg(2)).
    ///
    /// # Errors
    /// As recvmmsg(2).
    pub fn receive(&self, socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        self.exchange(libc::SYS_recvmmsg, socket, &mut part, 0)
    }

    /// Sends one message (sendmmsg(2)). Never raises SIGPIPE.
    ///
    /// # Errors
    /// As sendmmsg(2).
    pub fn send(&self, socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
        let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        self.exchange(libc::SYS_sendmmsg, socket, &mut part, libc::MSG_NOSIGNAL)
    }

    /// The calls for many messages, each with one: those for one are called so often by others that they must
    /// not be looked at each time.
    fn exchange(
        &self,
        call: libc::c_long,
        socket: BorrowedFd<'_>,
        part: &mut libc::iovec,
        flags: i32,
    ) -> io::Result<usize> {
        // SAFETY: all zero is a message without a name, parts or control data.
        let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        message.msg_hdr.msg_iov = part;
        message.msg_hdr.msg_iovlen = 1;
        let fd = socket.as_raw_fd();
        loop {
            // SAFETY: one message with one part, both live; the part describes memory that the caller has lent, to
            // write to for the receiving call only. No timeout: a null pointer.
            let result = unsafe {
                libc::syscall(call, fd, &raw mut message, 1_i64, i64::from(flags), 0_i64, self.secret)
            };
            match check(result) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(_) => return Ok(message.msg_len as usize),
            }
        }
    }

    /// Ends this process at once, running no destructor and no exit handler (_exit(2)).
    pub fn exit(&self, code: i32) -> ! {
        loop {
            // SAFETY: an integer; the kernel does not come back. A filter that was not loaded by us might forbid it:
            // then there is nothing else to do.
            unsafe { libc::syscall(libc::SYS_exit_group, code, 0_i64, 0_i64, 0_i64, 0_i64, self.secret) };
        }
    }
}

/// The instructions as the kernel reads them.
pub(super) fn to_bytes(instructions: &[Insn]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(instructions.len() * INSTRUCTION_BYTES);
    for (code, jt, jf, k) in instructions {
        bytes.extend_from_slice(&code.to_ne_bytes());
        bytes.extend_from_slice(&[*jt, *jf]);
        bytes.extend_from_slice(&k.to_ne_bytes());
    }
    bytes
}

fn halves(value: u64) -> (u32, u32) {
    ((value & 0xffff_ffff) as u32, (value >> 32) as u32)
}

/// A distance as a conditional jump has it; the passage is shorter than that.
fn near(distance: usize) -> u8 {
    u8::try_from(distance).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        os::unix::net::UnixStream,
        process::{Command, Stdio},
    };

    use super::*;
    use crate::sys::{
        privilege::no_new_privileges,
        process::{self, Ended},
    };

    /// A program that lets nothing pass: `RETURN` EPERM.
    const NOTHING: [u8; 8] = [6, 0, 0, 0, 1, 0, 5, 0];
    const ALL: Needs = Needs { fork: true, terminal: true };
    /// Set in the process that is put under `NOTHING`.
    const UNDER_NOTHING: &str = "PINTLE_TEST_UNDER_NOTHING";

    #[test]
    fn the_passage_is_as_short_as_is_reckoned_with() {
        let passage = Passage { secret: u64::MAX };
        assert!(passage.instructions(ALL).len() <= INSTRUCTIONS_MAX);
        let far = |insn: &Insn| insn.0 == JUMP_EQUAL && (insn.1 == u8::MAX || insn.2 == u8::MAX);
        assert!(!passage.instructions(ALL).iter().any(far));
    }

    #[test]
    fn calls_that_are_made_all_the_time_are_decided_by_their_number() {
        let passage = Passage { secret: 1 };
        let instructions = passage.instructions(Needs::default());
        // The tests that lead into the passage.
        let leads = |insn: &&Insn| insn.0 == JUMP_EQUAL && insn.1 > 0;
        let looked_at: Vec<u32> = instructions.iter().filter(leads).map(|insn| insn.3).collect();
        assert!(looked_at.contains(&u32::try_from(libc::SYS_exit_group).unwrap()));
        for often in [libc::SYS_read, libc::SYS_write, libc::SYS_ioctl, libc::SYS_clone, libc::SYS_futex] {
            assert!(!looked_at.contains(&u32::try_from(often).unwrap()), "{often}");
        }
    }

    /// What the process under `NOTHING` does; its answers go to standard input, a socket.
    fn try_everything() -> ! {
        let socket = rustix::stdio::stdin();
        // The test harness has a thread for this test; nothing here takes a lock.
        let one_thread = OneThread::for_test();
        let passage = Passage::new().unwrap();
        let born = AtomicI32::new(0);
        no_new_privileges().unwrap();
        passage.load(&NOTHING, 0, ALL).unwrap();
        let refused = |error: &io::Error| error.raw_os_error() == Some(1);
        let mut buffer = [0; 8];
        let facts = [
            passage.receive(socket, &mut buffer).is_ok_and(|got| buffer.get(..got) == Some(b"go")),
            rustix::io::write(socket, b"x").is_err_and(|error| refused(&error.into())),
            process::fork_sibling(one_thread).is_err_and(|error| refused(&error)),
            Passage { secret: passage.secret ^ 1 }.send(socket, b"x").is_err_and(|error| refused(&error)),
            Passage { secret: passage.secret ^ (1 << 40) }.new_session().is_err_and(|error| refused(&error)),
            // Reaches the kernel, for which standard input is no terminal.
            passage.take_terminal(socket).is_err_and(|error| !refused(&error)),
            passage.set_capabilities(0, 0).is_ok(),
        ];
        let sum: u8 = facts.iter().enumerate().map(|(bit, fact)| u8::from(*fact) << bit).sum();
        match passage.fork_sibling(&born, one_thread) {
            Ok(Fork::Child) => {
                let led = passage.new_session().is_ok();
                let _sent = passage.send(socket, &[sum, u8::from(led)]);
                passage.exit(41)
            }
            Ok(Fork::Parent(pid)) => {
                let told = born.load(std::sync::atomic::Ordering::Relaxed).cast_unsigned() == pid.get();
                let _sent = passage.send(socket, &pid.get().to_ne_bytes());
                passage.exit(if told { 42 } else { 43 })
            }
            Err(_) => passage.exit(44),
        }
    }

    #[test]
    fn under_a_filter_that_forbids_all_the_passage_leads_to_a_forked_process_and_no_further() {
        if std::env::var_os(UNDER_NOTHING).is_some() {
            try_everything();
        }
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let this = "sys::passage::tests::under_a_filter_that_forbids_all_the_passage_leads_to_a_forked_process_and_no_further";
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--test-threads=1", this])
            .env(UNDER_NOTHING, "1")
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        ours.write_all(b"go").unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(42));
        let mut told = Vec::new();
        ours.read_to_end(&mut told).unwrap();
        // The two may have spoken in either order.
        let (facts, pid) = if told.starts_with(&[0x7f, 1]) {
            told.split_at(2)
        } else {
            let (pid, facts) = told.split_at(4);
            (facts, pid)
        };
        assert_eq!(facts, [0x7f, 1], "which calls passed");
        let pid = u32::from_ne_bytes(pid.try_into().unwrap());
        assert_eq!(
            process::wait(pid.try_into().unwrap()).unwrap(),
            Ended::Code(41),
            "its parent is the parent of who forked it"
        );
    }
}
