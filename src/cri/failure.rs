//! The log line of a request that failed, where the failure leaves the program.
//!
//! Whose it is decides the level: `error` is for what only we or the node can be blamed for. What a workload does (a
//! probe's time-out), a registry lacks or a request asks for in vain happens again and again, and is logged once and
//! then counted.

use std::time::{Duration, Instant};

use tonic::{Code, Status};
use tracing::{debug, error, info, warn};

use crate::telemetry::repeat::Repeats;

/// Bytes of an object's name in a line.
const OBJECT_BYTES_MAX: usize = 256;

static LOGGED: Repeats<(&'static str, u8)> = Repeats::new();

/// How loudly a failure is logged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Weight {
    /// Ours, or the node's.
    Fault,
    /// Somebody else's who may do better another time: a registry, systemd, a node that is full.
    Trouble,
    /// The caller's or the workload's.
    Refusal,
    /// A call about an object that ended before the caller could know.
    Race,
}

/// Logs the failure of `rpc` on `object`, or counts it.
pub(super) fn log(rpc: &'static str, object: &str, status: &Status) {
    let (code, text) = (status.code(), status.message());
    let weight = weight(rpc, code);
    if weight == Weight::Race {
        return debug!(rpc, object, ?code, error = text, "request refused");
    }
    let object = &object[..object.floor_char_boundary(OBJECT_BYTES_MAX)];
    let kind = (rpc, u8::try_from(i32::from(code)).unwrap_or(u8::MAX));
    let Some(times) = LOGGED.times(kind, object, Instant::now()) else {
        return debug!(rpc, object, ?code, error = text, "request failed again");
    };
    match weight {
        Weight::Fault => error!(rpc, object, ?code, error = text, times, "request failed"),
        Weight::Trouble => warn!(rpc, object, ?code, error = text, times, "request failed"),
        Weight::Refusal | Weight::Race => info!(rpc, object, ?code, error = text, times, "request refused"),
    }
}

/// Logs, or counts, that a caller's deadline passed while its request was at work.
pub(super) fn log_deadline(rpc: &str, timeout: Duration) {
    let rpc = &rpc[..rpc.floor_char_boundary(OBJECT_BYTES_MAX)];
    if let Some(times) = LOGGED.times(("deadline", 0), rpc, Instant::now()) {
        info!(rpc, ?timeout, times, "a caller's deadline has passed, the work goes on");
    }
}

fn weight(rpc: &str, code: Code) -> Weight {
    match code {
        Code::Internal | Code::DataLoss => Weight::Fault,
        Code::Unknown
        | Code::Unavailable
        | Code::ResourceExhausted
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Aborted => Weight::Trouble,
        Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::DeadlineExceeded
        | Code::OutOfRange
        | Code::AlreadyExists => Weight::Refusal,
        Code::NotFound if matches!(rpc, "PullImage" | "CreateContainer") => Weight::Refusal,
        Code::NotFound | Code::Cancelled | Code::Unimplemented | Code::Ok => Weight::Race,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_we_or_the_node_did_is_an_error() {
        let of = |code| weight("ExecSync", code);
        assert_eq!(of(Code::Internal), Weight::Fault);
        assert_eq!(of(Code::Unknown), Weight::Trouble);
        assert_eq!(of(Code::DeadlineExceeded), Weight::Refusal);
        assert_eq!(of(Code::InvalidArgument), Weight::Refusal);
        assert_eq!(of(Code::NotFound), Weight::Race);
        assert_eq!(weight("PullImage", Code::NotFound), Weight::Refusal);
        let faults = (0..=16).map(Code::from).filter(|&code| of(code) == Weight::Fault).collect::<Vec<_>>();
        assert_eq!(faults, [Code::Internal, Code::DataLoss]);
    }
}
