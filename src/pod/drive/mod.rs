//! The drivers: each carries out what the ledger of its pod orders, and tells the ledger what came of it.
//!
//! `driver.rs` is the loop, `records.rs` writes, `log.rs` logs; `work/` has what takes time, one file for each kind of order.
//!
//! Invariant: nothing is decided here. What may happen when is in `life`.
//! Invariant: a record is written before the next input is taken, and before anything that follows from it is
//! begun, shown, announced or answered.

mod driver;
mod log;
mod records;
mod work;

pub(super) use driver::{Driver, Pod};
pub(super) use work::{clear, end_pod, erase_pod_files};
