//! The per-pod process, and the daemon's hold on it.
//!
//! ```text
//! daemon ── Zygote ──► zygote ──fork──► supervisor ──fork──► helper ──► a container's init
//!    └────── Client ────────────────────────┘ one connection; a later daemon finds the socket again
//! ```
//!
//! The supervisor is the parent of every container and exec of its pod. It owns the pod's namespaces, the
//! pipes of its containers, their logs and their exits. It runs in one thread and never waits for anything but
//! its own log's disk.
//!
//! | process | folder |
//! |---|---|
//! | daemon | `daemon/`: the client of a supervisor, the handle on the zygote; the only one with tokio |
//! | all | `wire/`: frames and messages |
//! | all | `allowance.rs`: how many log lines may be said |
//! | supervisor, daemon | `last_words.rs`: log lines of a time without a daemon |
//! | zygote | `zygote.rs` |
//! | supervisor | `inside/`: the event loop and what it holds |
//! | helper, anchor | `child/` |
//!
//! A folder uses only those below it: daemon and zygote, inside, last words, child, wire.
//!
//! Invariant: an exit is on disk before it is reported, and reported until a daemon has stored it.
//! Invariant: a container's log is complete before its exit is reported.
//! Invariant: a supervisor whose daemon dies goes on; one whose pod was never set up ends.
//! Not here: what a pod or container should be (`pod`), how one is made (`launcher`).

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

mod allowance;
mod child;
mod daemon;
#[cfg(any(test, feature = "fuzzing"))]
pub use wire::fuzz;
mod inside;
mod last_words;
mod wire;
mod zygote;

use std::{
    fs::File,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use crate::{
    model::{ContainerId, Exit, ResolvedUser, UnixNanos},
    store,
};

pub use crate::launcher::ExecStdio;
pub use child::anchor_main;
pub use daemon::{Attachment, Client, ImageWorkers, Shown, Zygote, probe_users};
pub use zygote::zygote_main;

/// What the supervisor of a new pod has made.
#[derive(Debug)]
pub struct Ready {
    /// Host pid of the supervisor.
    pub pid: u32,
    /// The pod's network namespace; `None` with the host's.
    pub netns: Option<OwnedFd>,
}

/// What a container is, as its supervisor knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerFacts {
    pub id: ContainerId,
    /// Host pid of its init.
    pub pid: u32,
    pub user: ResolvedUser,
    pub started_at: Option<UnixNanos>,
    pub exit: Option<Exit>,
}

/// What a supervisor says unasked.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Its init was reaped and its log is complete. Repeated on each connection until it is acknowledged.
    Exited { id: ContainerId, exit: Exit },
    /// The connection is gone; the supervisor may still live (see [`Client::ended`]).
    Lost,
}

/// What a finished exec left.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ExecExit {
    /// Exit code, or 128 + signal.
    pub code: i32,
    /// It was killed at its deadline.
    pub timed_out: bool,
}

/// Reads the exit record that the supervisor of `dir` wrote for `id`, also when that supervisor is gone. A record that
/// cannot be read says nothing, as none does.
pub fn recorded_exit(dir: &Path, id: &ContainerId) -> Option<Exit> {
    store::get(&exit_path(dir, id)).ok()
}

const SOCKET: &str = "supervisor.sock";

/// The path of a pod's supervisor socket.
pub fn socket_path(dir: &Path) -> PathBuf {
    dir.join(SOCKET)
}

/// The same through the folder's descriptor: the path of a unix socket must be short (108 bytes).
fn socket_through(folder: &File) -> String {
    format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd())
}

fn exit_path(dir: &Path, id: &ContainerId) -> PathBuf {
    dir.join(format!("{id}.exit"))
}
