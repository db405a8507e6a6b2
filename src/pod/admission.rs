use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::Error;
use crate::sys::descriptors;

/// Descriptors that a create in flight may need at its worst: sockets to the kernel and to the new supervisor,
/// namespaces, records.
const DESCRIPTORS_PER_CREATE: u64 = 16;

/// Bounds the pods and containers that are made at one time. Nothing else goes through here: a stop never
/// waits behind a create.
#[derive(Debug)]
pub(super) struct Admission {
    running: Arc<Semaphore>,
    running_max: usize,
    waiting: AtomicUsize,
    waiting_max: usize,
}

impl Admission {
    pub(super) fn new(running_max: usize, waiting_max: usize) -> Self {
        let running_max = running_max.min(Semaphore::MAX_PERMITS);
        Self {
            running: Arc::new(Semaphore::new(running_max)),
            running_max,
            waiting: AtomicUsize::new(0),
            waiting_max,
        }
    }

    /// Waits for a turn. Whoever waits holds the object's name already, so that a retry joins it instead of
    /// waiting beside it. Dropping the future gives the place in the queue back; dropping the permit ends the turn.
    ///
    /// # Errors
    /// [`Error::Busy`] when the queue is full, [`Error::OpenFiles`] when this process could not end what it
    /// began.
    pub(super) async fn enter(&self) -> Result<OwnedSemaphorePermit, Error> {
        let turn = self.turn().await?;
        let running = self.running_max.saturating_sub(self.running.available_permits()) as u64;
        open_files_allow(running.saturating_mul(DESCRIPTORS_PER_CREATE))?;
        Ok(turn)
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit, Error> {
        if let Ok(permit) = Arc::clone(&self.running).try_acquire_owned() {
            return Ok(permit);
        }
        let waiting = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _place = Place(&self.waiting);
        if waiting >= self.waiting_max {
            return Err(Error::Busy { waiting });
        }
        // The semaphore is never closed; were it, nothing could be made any more.
        Arc::clone(&self.running).acquire_owned().await.map_err(|_| Error::Busy { waiting })
    }
}

/// Whether this process may open `count` files more for something new. What ends something never asks.
///
/// # Errors
/// [`Error::OpenFiles`].
pub(super) fn open_files_allow(count: u64) -> Result<(), Error> {
    descriptors::has_room_for(count).map_err(|(open, limit)| Error::OpenFiles { open, limit })
}

struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn one_runs_one_waits_and_the_third_is_refused() {
        let admission = Admission::new(1, 1);
        let first = admission.enter().await.unwrap();
        let mut second = Box::pin(admission.enter());
        assert!(second.as_mut().now_or_never().is_none());
        assert!(matches!(admission.enter().await, Err(Error::Busy { waiting: 1 })));
        drop(first);
        let _second = second.await.unwrap();
    }

    #[tokio::test]
    async fn who_hangs_up_gives_its_place_back() {
        let admission = Admission::new(1, 1);
        let _first = admission.enter().await.unwrap();
        let mut second = Box::pin(admission.enter());
        assert!(second.as_mut().now_or_never().is_none());
        drop(second);
        assert!(admission.enter().now_or_never().is_none());
    }
}
