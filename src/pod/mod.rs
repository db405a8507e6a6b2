//! Pods and containers: the only room that decides.
//!
//! One task drives one pod (`drive`). Calls and events come to it; the pod's ledger (`life`) says, purely, what
//! follows from them; the driver writes the decision, has it done, writes what came of it and tells. Readers see
//! immutable views that are replaced as a whole, and wait for nobody. `keep` has what is left on disk;
//! `recover` makes pods of it again, `reconcile.rs` retries what could not be taken away, and `audit.rs` looks now and
//! then whether kernel and disk have what they should.
//!
//! ```text
//! /run/pintle/pods/                  tmpfs: gone after a reboot; nothing here is synced
//!   POD/                             made before anything else of the pod, removed last
//!     pod.record                     the pod: intent, ready, stopping, not ready
//!     cgroup.record                  its cgroup, readable when the pod's record is not
//!     CONTAINER.record               a container: intent, created, running, exited
//!     CONTAINER.init                 what its init was planned as, for execs; written once
//!     hostname  resolv.conf  hosts   what its containers see
//!     supervisor.sock  CONTAINER.exit    the supervisor's
//! /var/lib/pintle/                   disk: kept over a reboot; written once, not synced
//!   pods/POD/pod.record              the pod as of its creation
//!   pods/POD/CONTAINER.record        a container as of its creation
//!   pods/POD/CONTAINER.end           how it ended, once it has
//!   owed/POD                         debts: what could not be taken away of a pod or its containers yet
//! ```
//! A record on disk is written after the one on tmpfs and removed before it, so that what only the disk knows
//! was ended by a reboot. `docs/formats/state.md` has the fields.
//!
//! Invariant: only the driver of a pod changes its records and its view.
//! Invariant: a driver never waits for a workload, nor for a plugin, nor for a supervisor: those are effects.
//! Invariant: when a caller hears of a success, it is written and shown. Failures leave nothing behind.
//! Invariant: a change is announced to followers after it is shown, and in the order in which it was decided.
//! Invariant: no fsync between RunPodSandbox and StartContainer.
//! Not here: how anything is done. No system calls on containers, no network, no layers, no wire types; no
//! figures (`meter`).

#![deny(clippy::wildcard_enum_match_arm)]

mod admission;
mod apparmor;
mod audit;
mod cdi;
mod config;
mod drive;
mod error;
mod exec;
mod findings;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod handler;
mod keep;
mod life;
mod names;
mod node;
mod pods;
mod reach;
mod reconcile;
mod recover;
mod seccomp;
mod selinux;
mod signal;
#[cfg(test)]
mod sim;
mod storage;
mod stream;
mod users;
mod view;

#[cfg(test)]
pub use audit::DebtReport;
pub use audit::Report;
pub use config::Config;
pub use error::Error;
#[cfg(test)]
pub use findings::Finding;
pub use handler::Handlers;
pub use life::{Change, Event};
pub use node::Deps;
pub use pods::Pods;
pub use selinux::{Config as SelinuxConfig, HostSelinux, Selinux};
pub use storage::StorageFault;
pub use stream::{ExecEnds, RunningExec, Wanted};
pub use users::UserNamespaces;
pub use view::{Board, ContainerState, ContainerView, PodView, View};
