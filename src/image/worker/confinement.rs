//! The confinement of a worker, before it reads a stranger's bytes.
//!
//! | | left to an unpacker | left to a decompressor |
//! |---|---|---|
//! | files | the layer's directory, which is its root; no device works there, no program | none: no call takes a path |
//! | network, IPC, host name | namespaces of its own, empty | none: no call makes a socket |
//! | descriptors | the connection to the daemon and the root | the connection |
//! | capabilities | those that set owners, modes, attributes and devices of files ([`CAPABILITIES`]) | none |
//! | system calls | those on files, memory and itself ([`privilege::allow_unpacking`]) | read, write, memory and itself ([`privilege::allow_decompressing`]) |
//! | Landlock, where the kernel has it | what unpacking does below the root; no execution, no device ioctl, no signal | |
//! | limits | memory, descriptors, size of a file, processor time; no core dump | the same |
//! | session | its own, without a terminal | the same |
//! | life | it dies with the thread of the daemon that started the zygote, so with the daemon | the same |
//!
//! It stays in the daemon's cgroup, and is the first to be killed when memory is short there. It has no pid namespace of
//! its own: an unpacker sees no proc(5), and no call of either names another process.

use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, PathBeneath, Ruleset,
    RulesetAttr as _, RulesetCreatedAttr as _, Scope, make_bitflags,
};
use rustix::{
    fs::{Mode, OFlags},
    mount::{MountPropagationFlags, UnmountFlags},
    process::{Resource, Rlimit, Signal, setrlimit},
};

use crate::sys::{
    mount, privilege,
    process::{self, Kept, Namespaces, OneThread},
    signal,
};

/// capabilities(7) of a worker: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, MKNOD, SETFCAP. Not SYS_ADMIN, which overlayfs' own
/// attributes take: the daemon sets these.
const CAPABILITIES: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 27 | 1 << 31;
/// Its address space; bytes. Names of a layer, of which there may be 64 MiB, are kept up to its end.
const MEMORY_BYTES_MAX: u64 = 1 << 30;
/// Open descriptors; a tree that is replaced is deleted 64 levels at a time.
const DESCRIPTORS_MAX: u64 = 128;
/// Processor time; seconds. The largest layer takes some minutes.
const PROCESSOR_SECONDS_MAX: u64 = 3600;
/// Score for the kernel's choice of whom to kill when memory is short: before any workload, because a pull is tried again.
const OOM_SCORE: i64 = 900;
/// The folder over which its root is mounted; it exists on every Linux.
const STAGE: &str = "/tmp";
/// SIGXFSZ: a file that is too large is an error.
const FILE_TOO_LARGE: i32 = 25;

/// Leaves this process `directory` as its root and `connection`, and gives the root.
///
/// # Errors
/// The first step that was not possible. The process is then of no use.
pub(super) fn enter(
    directory: OwnedFd,
    connection: &File,
    file_bytes_max: u64,
    one_thread: OneThread,
) -> io::Result<OwnedFd> {
    leave_zygote()?;
    signal::ignore(FILE_TOO_LARGE, true)?;
    make_root(&directory)?;
    drop(directory);
    close_all_but(connection, one_thread)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty())?;
    limit(file_bytes_max)?;
    privilege::no_new_privileges()?;
    landlock(&root).map_err(io::Error::other)?;
    privilege::limit_capabilities(CAPABILITIES)?;
    privilege::set_capabilities(CAPABILITIES, 0)?;
    privilege::allow_unpacking()?;
    Ok(root)
}

/// Leaves this process `connection` and memory: no capability, and no system call that takes a path, makes a descriptor
/// or names another process. So it needs no namespaces of its own.
///
/// # Errors
/// As [`enter`].
pub(super) fn enter_without_files(connection: &File, one_thread: OneThread) -> io::Result<()> {
    leave_zygote()?;
    close_all_but(connection, one_thread)?;
    limit(0)?;
    privilege::no_new_privileges()?;
    privilege::limit_capabilities(0)?;
    privilege::set_capabilities(0, 0)?;
    privilege::allow_decompressing()
}

/// Becomes a process by itself, which dies with the daemon and before any workload.
fn leave_zygote() -> io::Result<()> {
    process::set_oom_score(OOM_SCORE);
    // Out of the zygote's process group, in which are those that nobody knows of.
    rustix::process::setsid()?;
    privilege::forbid_inspection()?;
    Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?)
}

fn close_all_but(connection: &File, one_thread: OneThread) -> io::Result<()> {
    close_standard()?;
    process::close_all_but(&Kept::from_iter([connection.as_fd()]), one_thread)
}

/// Namespaces of its own, with `directory` for `/` and nothing else.
fn make_root(directory: &OwnedFd) -> io::Result<()> {
    let change = mount::Change { nodev: true, noexec: true, nosuid: true, ..mount::Change::default() };
    // As long as its mount is in this namespace.
    let tree = mount::detached(directory.as_fd(), Path::new(""), change)?;
    let kinds = Namespaces::MOUNT.and(Namespaces::NETWORK).and(Namespaces::IPC).and(Namespaces::UTS);
    process::unshare(kinds)?;
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let stage = rustix::fs::open(STAGE, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    mount::attach(tree.as_fd(), stage.as_fd())?;
    rustix::process::chdir(STAGE)?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}

/// Puts the end of a pipe in the place of the standard descriptors: the host's `/dev/null` could be given another mode,
/// and the daemon's log is not for a worker.
fn close_standard() -> io::Result<()> {
    let (nothing, _) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    rustix::stdio::dup2_stdin(&nothing)?;
    rustix::stdio::dup2_stdout(&nothing)?;
    Ok(rustix::stdio::dup2_stderr(&nothing)?)
}

fn limit(file_bytes_max: u64) -> io::Result<()> {
    let limits = [
        (Resource::As, MEMORY_BYTES_MAX),
        (Resource::Nofile, DESCRIPTORS_MAX),
        (Resource::Fsize, file_bytes_max),
        (Resource::Cpu, PROCESSOR_SECONDS_MAX),
        (Resource::Core, 0),
    ];
    for (resource, limit) in limits {
        setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })?;
    }
    Ok(())
}

/// Landlock, as much of it as the kernel knows; none at all where it would not let hard links be made (before 5.19).
fn landlock(root: &OwnedFd) -> Result<(), landlock::RulesetError> {
    const KNOWN: ABI = ABI::V6;
    let all = AccessFs::from_all(KNOWN);
    let unused: BitFlags<AccessFs> = make_bitflags!(AccessFs::{Execute | MakeSock | IoctlDev});
    Ruleset::default()
        .set_compatibility(CompatLevel::SoftRequirement)
        .handle_access(AccessFs::Refer)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::from_all(KNOWN))?
        .create()?
        .add_rule(PathBeneath::new(root, all & !unused))?
        .restrict_self()?;
    Ok(())
}
