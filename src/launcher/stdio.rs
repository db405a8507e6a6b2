//! The standard streams of a process that is run in a container.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::fs::{FileType, Mode, OFlags, Uid};

use crate::{
    model::TerminalSize,
    sys::{fdpass, path::open_in_root, terminal},
};

/// The ends of an exec's standard streams.
#[derive(Debug)]
pub enum ExecStdio {
    /// Pipes of this process alone.
    Pipes {
        /// `None`: nothing can be read.
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// A terminal of the container's own devpts.
    Terminal {
        /// A unix socket: the terminal's master is sent to its other end before the program runs.
        to: OwnedFd,
        /// The size that the program finds; `None`: a terminal without a size, as the kernel makes them.
        size: Option<TerminalSize>,
    },
}

impl ExecStdio {
    /// The descriptors that must stay open until [`Self::take_up`].
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Pipes { stdin, stdout, stderr } => {
                [stdin.as_ref(), Some(stdout), Some(stderr)].into_iter().flatten().map(AsFd::as_fd).collect()
            }
            Self::Terminal { to, .. } => vec![to.as_fd()],
        }
    }

    /// Gives the pipes to `user`, so that the process may open `/dev/stdout` again, whoever it is.
    pub(super) fn give_to(&self, user: u32) {
        if let Self::Pipes { stdin, stdout, stderr } = self {
            for pipe in [stdin.as_ref(), Some(stdout), Some(stderr)].into_iter().flatten() {
                // What is no pipe of ours may refuse it, and is of use all the same.
                let _owned: rustix::io::Result<()> =
                    rustix::fs::fchown(pipe, Some(Uid::from_raw(user)), None);
            }
        }
    }

    /// Whether the process gets a terminal, which it makes the one that controls its session.
    pub(super) fn is_terminal(&self) -> bool {
        matches!(self, Self::Terminal { .. })
    }

    /// Makes them the standard streams of this process, whose root is the container's.
    ///
    /// # Errors
    /// A container without a devpts of its own has no terminals.
    pub(super) fn take_up(&self, user: u32) -> io::Result<()> {
        let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        match self {
            Self::Pipes { stdin, stdout, stderr } => {
                match (stdin, own_null(root.as_fd())) {
                    (Some(stdin), _) => rustix::stdio::dup2_stdin(stdin)?,
                    (None, Some(null)) => rustix::stdio::dup2_stdin(null)?,
                    // A pipe that nobody can write to is at its end.
                    (None, None) => {
                        let (read, _) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
                        rustix::stdio::dup2_stdin(read)?;
                    }
                }
                rustix::stdio::dup2_stdout(stdout)?;
                rustix::stdio::dup2_stderr(stderr)?;
            }
            Self::Terminal { to, size } => {
                let (master, slave) = open_terminal(root.as_fd(), user)?;
                if let Some(TerminalSize { columns, rows }) = *size {
                    terminal::resize(&master, columns, rows)?;
                }
                speak_through(&slave)?;
                fdpass::send(to.as_fd(), b"T", &[master.as_fd()])?;
            }
        }
        Ok(())
    }
}

/// A new pseudo-terminal of the container's devpts, whose slave is `user`'s: (master, slave).
pub(super) fn open_terminal(root: BorrowedFd<'_>, user: u32) -> io::Result<(OwnedFd, OwnedFd)> {
    /// Documentation/admin-guide/devices.txt
    const PTMX: (u32, u32) = (5, 2);
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK;
    let master = open_in_root(root, Path::new("/dev/pts/ptmx"), flags)?;
    // A running container may have put anything in its place.
    let found = rustix::fs::fstat(&master)?;
    let is_device = FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice;
    if !is_device || (rustix::fs::major(found.st_rdev), rustix::fs::minor(found.st_rdev)) != PTMX {
        return Err(io::Error::other("/dev/pts/ptmx of the container is not the device of terminals"));
    }
    rustix::pty::unlockpt(&master)?;
    let flags =
        rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY | rustix::pty::OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    // The group is the devpts' own choice.
    let _owned: rustix::io::Result<()> = rustix::fs::fchown(&slave, Some(Uid::from_raw(user)), None);
    Ok((master, slave))
}

/// Makes a terminal the standard streams of this process.
pub(super) fn speak_through(slave: &OwnedFd) -> io::Result<()> {
    rustix::stdio::dup2_stdin(slave)?;
    rustix::stdio::dup2_stdout(slave)?;
    Ok(rustix::stdio::dup2_stderr(slave)?)
}

/// The container's `/dev/null`, if that is what is there: a container may have put anything in its place, also what
/// cannot be opened.
pub(super) fn own_null(root: BorrowedFd<'_>) -> Option<OwnedFd> {
    /// Documentation/admin-guide/devices.txt
    const NULL: (u32, u32) = (1, 3);
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW;
    let null = open_in_root(root, Path::new("/dev/null"), flags).ok()?;
    let found = rustix::fs::fstat(&null).ok()?;
    let is_device = FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice;
    let number = (rustix::fs::major(found.st_rdev), rustix::fs::minor(found.st_rdev));
    (is_device && number == NULL).then_some(null)
}
