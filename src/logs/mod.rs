//! Container logs in the format the kubelet reads: `<RFC 3339 nanoseconds> <stdout|stderr> <P|F> <content>`.
//!
//! One file per attempt of a container, both streams in it. The supervisor appends; nobody else writes.
//! On rotation the kubelet renames the file and asks us to [`CriLog::reopen`] it.
//!
//! - `stamp.rs`: times as text, never going backwards.
//! - `line.rs`: bytes as they come → records of at most 16 KiB of content. Pure.
//! - `file.rs`: opening the file, and appending to it so that no torn record stays.
//! - `writer.rs`: [`CriLog`], which puts these together and keeps account of what a full disk cost.
//!
//! Invariant: a record is in the file whole or not at all; a full disk loses lines, never halves.
//! Invariant: memory per log is bounded (one batch of 64 KiB and two held lines), and no line allocates.
//! Invariant: a write error never reaches the workload. It is counted, and reported in the log afterwards.
//! Not here: when to rotate (the kubelet decides), who reads the pipes (`supervisor`).

mod file;
mod line;
mod stamp;
mod writer;

pub use line::Stream;
pub use writer::CriLog;
