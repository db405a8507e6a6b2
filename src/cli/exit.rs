use std::{error::Error as StdError, process::ExitCode};

use crate::telemetry::log::chain;

/// What a command ends with: a code of sysexits(3), or that of a container.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Exit(pub(super) u8);

impl Exit {
    pub(super) const OK: Self = Self(0);
    /// A check failed, or one of several things asked for did not happen.
    pub(super) const FAILED: Self = Self(1);
    pub(super) const USAGE: Self = Self(64);
    /// The daemon does not answer.
    pub(super) const UNAVAILABLE: Self = Self(69);
    pub(super) const SOFTWARE: Self = Self(70);
    /// Reading or writing failed.
    pub(super) const IO: Self = Self(74);
    /// Another daemon is there; later it may work.
    pub(super) const TEMPORARY: Self = Self(75);
    pub(super) const CONFIG: Self = Self(78);
    /// `run` or `logs` itself failed, not the container: what other container tools say.
    pub(super) const RUN: Self = Self(125);
    /// Ended by ctrl-c before there was a container: 128 + SIGINT.
    pub(super) const INTERRUPTED: Self = Self(130);
    /// The reader of our output went away: 128 + SIGPIPE.
    pub(super) const BROKEN_PIPE: Self = Self(141);

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
