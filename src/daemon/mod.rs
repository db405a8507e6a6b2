//! `pintle serve`: builds every room once, serves, and stops.
//!
//! - `roots`: the two folders, who may own them, and the locks that keep a second daemon out.
//! - `process`: what the daemon sets on itself: umask, open files, OOM score.
//! - `wire`: every room, made in order from its own configuration.
//! - `socket`: the CRI socket.
//! - `metrics`: the page of metrics, if it is configured.
//! - `notify`: states of the daemon for systemd.
//! - `serve`: the life between the first signal handler and the last reply.
//!
//! Invariant: start is recovery. There is one path, whether the last daemon ended well or not.
//! Invariant: stopping the daemon stops no pod.
//! Invariant: the CRI socket exists only while requests are answered on it.
//! Not here: any decision about pods; that is `pod`.

mod metrics;
mod notify;
mod process;
mod roots;
mod serve;
mod socket;
mod wire;

pub use serve::{Daemon, Error};
