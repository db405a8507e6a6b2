//! Records: what must outlive the process, one file for each object.
//!
//! A record is one header line and a JSON body (`docs/formats/record.md` draws the bytes). It is written
//! beside its place and renamed over it, so a reader sees the old record or the new one.
//!
//! Invariant: a truncated, flipped or foreign record is [`BadRecord`], never a wrong value.
//! Invariant: one bad record costs its own object and nothing else; there is no shared index to lose.
//! Not here: what the records say. Each room owns its own, and grows them by fields with a default.

mod file;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod record;

pub use file::{get, put, remove, sweep};
pub use record::{BadRecord, RECORD_BYTES_MAX};

/// Whether a record must survive a power cut.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Durability {
    /// Survives the process: the record is on tmpfs, or may be lost with the power.
    Process,
    /// fsync of file and folder before the answer.
    Power,
}
