//! pintle: a Kubernetes CRI runtime in one binary.
//!
//! This list is the floor plan, top floor first; a blank line ends a floor. A room uses only rooms on
//! lower floors, and rooms on one floor are strangers (`tests/floors.rs` holds us to it). What each room
//! owns is in the first lines of its `mod.rs`; how they meet is in `docs/ARCHITECTURE.md`.

// What is cast or dropped outside of tests says why. Tests may do both: a wrong one fails.
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation, clippy::let_underscore_must_use))]

pub mod cli;

mod daemon;

mod config;

mod cri;

mod metrics;

mod meter;
mod streaming;

mod pod;

mod supervisor;

mod cdi;
mod cgroup;
mod event;
mod image;
mod launcher;
mod logs;
mod network;
mod spec;

mod certificates;
mod store;

mod model;
mod sys;
mod telemetry;

/// Targets for `hack/fuzz`, which are tried with its stored inputs in every test run. Not an API.
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;

/// Parts that `benches/` measures. Not an API: it may change with any commit.
#[doc(hidden)]
pub mod measured {
    pub use crate::logs::{CriLog, Stream};
}
