//! The drivers: each carries out what the ledger of its pod orders, and tells the ledger what came of it.
//!
//! `driver.rs` is the loop, `pod.rs` the pod that it is about, `records.rs` writes, `log.rs` logs; `work/` has what takes time, one file for each kind of order.
//!
//! Invariant: nothing is decided here. What may happen when is in `life`.
//! Invariant: a record is written before the next input is taken, and before anything that follows from it is
//! begun, shown, announced or answered.

mod driver;
mod log;
mod pod;
mod records;
mod work;

pub(super) use driver::Driver;
pub(super) use pod::Pod;
pub(super) use work::{clear, end_pod, erase_pod_files};
