//! The metrics of pods and containers: what they are called, and a page of them for Prometheus.
//!
//! - `table`: the 56 metrics, each with where its values come from. `cri` renders them for the kubelet.
//! - `text`: the same in Prometheus' text format, purely.
//! - `serve`: the page over HTTP, where the operator wants it (`config`); nowhere by default.
//!
//! Invariant: both renderings have the same set, the same labels and the same values. Prometheus' have fractions of a
//! second, which the kubelet's protocol cannot.
//! Invariant: the page is served to this node only: on a unix socket or a loopback address.
//! Not here: reading figures (`meter`).

mod config;
#[cfg(test)]
pub mod fixture;
mod serve;
pub mod table;
mod text;

pub use config::{Address, Config};
pub use serve::{Listener, serve};
