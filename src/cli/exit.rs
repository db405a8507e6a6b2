//! Exit codes, from sysexits(3).

use std::{error::Error as StdError, io, process::ExitCode};

use rustix::io::Errno;

use crate::{cri::wire::ContainerStatus, model::Stage, telemetry::log::chain};

/// What a command ends with: a code of sysexits(3), or that of a container.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Exit(pub(super) u8);

impl Exit {
    pub(super) const OK: Self = Self(0);
    /// A check failed, or one of several things asked for did not happen.
    pub(super) const FAILED: Self = Self(1);
    pub(super) const USAGE: Self = Self(64);
    pub(super) const SOFTWARE: Self = Self(70);
    /// Reading or writing failed.
    pub(super) const IO: Self = Self(74);
    /// Another daemon is there; later it may work.
    pub(super) const TEMPORARY: Self = Self(75);
    pub(super) const CONFIG: Self = Self(78);
    /// `run`, `exec`, `attach` or `logs` itself failed, not the program: what other container tools say.
    pub(super) const RUN: Self = Self(125);
    /// The program is there and cannot be executed, as shells have it.
    pub(super) const NOT_EXECUTABLE: Self = Self(126);
    /// There is no such program, as shells have it.
    pub(super) const NO_PROGRAM: Self = Self(127);
    /// Ended by ctrl-c before there was a container: 128 + SIGINT.
    pub(super) const INTERRUPTED: Self = Self(130);
    /// The reader of our output went away: 128 + SIGPIPE.
    pub(super) const BROKEN_PIPE: Self = Self(141);

    /// Ended by a signal.
    pub(super) fn of_signal(number: u8) -> Self {
        Self(128_u8.saturating_add(number))
    }

    /// The exit code of a program. What a process can return is one byte; the kernel cuts it as this does.
    pub(super) fn of_program(code: i32) -> Self {
        Self(code.to_le_bytes()[0])
    }

    /// The exit code of a container; says so if it is not the program's own doing.
    pub(super) fn of_container(status: &ContainerStatus) -> Self {
        if status.reason == "OOMKilled" {
            eprintln!("pintle: the container ran out of memory");
        }
        Self::of_program(status.exit_code)
    }

    /// The code for a program that was not started. The daemon says why in words only.
    pub(super) fn of_start_failure(why: &str) -> Self {
        if !why.contains(Stage::Execve.as_str()) {
            return Self::RUN;
        }
        let not_there = io::Error::from(Errno::NOENT).to_string();
        if why.contains(&not_there) { Self::NO_PROGRAM } else { Self::NOT_EXECUTABLE }
    }

    /// Prints why, with all causes, and is the code.
    pub(super) fn because(self, error: &dyn StdError) -> Self {
        eprintln!("pintle: {}", chain(error));
        self
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Failure;

    #[test]
    fn a_program_that_is_not_started_has_the_code_that_shells_give() {
        let of = |failure: Failure| Exit::of_start_failure(&format!("start container 0123: {failure}"));
        let io = |stage, errno: Errno| Failure::io(stage, "", "/bin/tool", &errno.into());
        assert_eq!(of(io(Stage::Execve, Errno::NOENT)), Exit::NO_PROGRAM);
        assert_eq!(of(io(Stage::Execve, Errno::ACCESS)), Exit::NOT_EXECUTABLE);
        assert_eq!(of(io(Stage::Execve, Errno::NOEXEC)), Exit::NOT_EXECUTABLE);
        let searched = Failure { text: "not found in PATH".into(), ..io(Stage::Execve, Errno::NOENT) };
        assert_eq!(of(searched), Exit::NO_PROGRAM);
        assert_eq!(of(io(Stage::WorkingDir, Errno::NOENT)), Exit::RUN);
        assert_eq!((Exit::of_program(256 + 7), Exit::of_program(-1)), (Exit(7), Exit(255)));
        assert_eq!(Exit::of_signal(15), Exit(143));
    }
}
