//! Work that nobody waits for: deleting layers, measuring writable layers.

use crate::telemetry::task;

/// Runs blocking work beside the caller; in place where there is no async runtime (tools, tests).
pub(super) fn background(work: impl FnOnce() + Send + 'static) {
    match tokio::runtime::Handle::try_current() {
        Ok(_) => drop(task::spawn_blocking("image clean-up", work)),
        Err(_) => work(),
    }
}
