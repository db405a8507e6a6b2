//! The figures of pods and containers: asked of the kernel when somebody asks us.
//!
//! The figures are as fresh as their timestamps: nothing is served from a copy but what would cost a walk over
//! a disk (the writable layers, measured in the background) and the rate of CPU use, which needs an earlier
//! reading (a sampler takes one of each every ten seconds). Reading is file work: it is done on threads
//! for that, a few at a time, and never waits for a driver, a supervisor or a workload.
//!
//! `stats.rs` reads what CRI stats have, `metrics.rs` what metrics have over that, `processes.rs` what `/proc`
//! shows of a container; `rates.rs` makes rates of counters, purely.
//!
//! Invariant: a container that starts or ends meanwhile has fewer figures, never an error.
//! Not here: anything that changes a pod. This room sees views, never a driver.

mod metrics;
mod processes;
mod rates;
mod stats;

pub use metrics::{ContainerMetrics, PodMetrics};
pub use stats::{ContainerStats, Meter, PodStats, TrafficStats, UsageStats};
