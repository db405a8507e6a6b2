//! The inside of a supervisor: one thread, one event loop.
//!
//! | file | what it has |
//! |---|---|
//! | `event_loop.rs` | the supervisor's state; what is ready is given to whom it concerns |
//! | `pid_slots.rs` | where launches store the pids of the processes they make |
//! | `connection.rs` | one daemon's connection, which is never waited for |
//! | `dialogue.rs`, `requests.rs` | a daemon's frames, and what each request does |
//! | `chores.rs` | what would make the loop wait, done little by little |
//! | `container.rs`, `lifecycle.rs` | a container's state, from its create until it is forgotten |
//! | `dial.rs` | sockets of the pod's network |
//! | `attach.rs` | clients that are attached to a container |
//! | `exec.rs` | processes run in a container |
//! | `exit.rs` | why a container ended |
//! | `inspection.rs` | a started process compared with its plan |
//! | `voice.rs` | log lines for the daemon |

#![deny(clippy::wildcard_enum_match_arm)]

mod attach;
mod chores;
mod connection;
mod container;
mod dial;
mod dialogue;
mod event_loop;
mod exec;
mod exit;
mod inspection;
mod lifecycle;
mod pid_slots;
mod requests;
mod voice;

pub(super) use event_loop::Supervisor;
