//! When something last went over a stream.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// The moment of the last byte of data, either way. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Activity {
    begin: Instant,
    last_ms: Arc<AtomicU64>,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self { begin: Instant::now(), last_ms: Arc::default() }
    }

    /// Something went over the stream.
    pub(super) fn touch(&self) {
        let now = u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now, Ordering::Relaxed);
    }

    /// Waits until nothing has gone over the stream for `limit`.
    pub(super) async fn idle(&self, limit: Duration) {
        loop {
            let due = self.begin + Duration::from_millis(self.last_ms.load(Ordering::Relaxed)) + limit;
            if due <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }
}
