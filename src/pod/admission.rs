//! What is made or run at one time, and how much: bounds for creates and for execs.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::Error;
use crate::{model::ContainerId, sys::descriptors};

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

/// Bytes of output that all execs of the node hold together, beyond what each may hold in any case. Four commands
/// that say all they may are kept whole; of more at once, each is cut where the others have left nothing.
pub(super) const OUTPUT_BYTES_MAX: usize = 64 << 20;

/// Execs in one container at a time: each costs a process there, and its pids limit is its own.
const EXECS_PER_CONTAINER_MAX: usize = 64;

/// Execs on the node at a time: each holds two pipes.
const EXECS_MAX: usize = 512;

/// How many execs are running where, and how much they have said.
#[derive(Debug, Default)]
pub(super) struct Execs {
    counts: Mutex<Counts>,
    /// Bytes of output that are held beyond what is sure.
    output_bytes: AtomicUsize,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    per_container: HashMap<ContainerId, usize>,
}

/// One of them; dropped at its end.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    execs: &'a Execs,
    id: ContainerId,
}

impl Execs {
    pub(super) fn enter(&self, id: &ContainerId) -> Result<Turn<'_>, Error> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.all >= EXECS_MAX {
            return Err(Error::TooManyExecs { object: "all containers".into(), running: counts.all });
        }
        let here = counts.per_container.entry(id.clone()).or_default();
        if *here >= EXECS_PER_CONTAINER_MAX {
            return Err(Error::TooManyExecs { object: format!("container {id}"), running: *here });
        }
        *here += 1;
        counts.all += 1;
        Ok(Turn { execs: self, id: id.clone() })
    }

    /// Takes as much of `wanted` as is left for all.
    pub(super) fn take_output(&self, wanted: usize) -> usize {
        let left = |held: usize| OUTPUT_BYTES_MAX.saturating_sub(held).min(wanted);
        let take = |held| Some(held + left(held));
        let before = self.output_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        left(before.unwrap_or(OUTPUT_BYTES_MAX))
    }

    /// Gives back what [`Execs::take_output`] gave.
    pub(super) fn give_back_output(&self, bytes: usize) {
        self.output_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn output_bytes(&self) -> usize {
        self.output_bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut counts = self.execs.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.all -= 1;
        if let Some(here) = counts.per_container.get_mut(&self.id) {
            *here -= 1;
            if *here == 0 {
                counts.per_container.remove(&self.id);
            }
        }
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

    #[test]
    fn one_container_cannot_have_all_the_execs() {
        let execs = Execs::default();
        let id = |byte| ContainerId::from_bytes([byte; 32]);
        let mut turns: Vec<_> = (0..EXECS_PER_CONTAINER_MAX).map(|_| execs.enter(&id(0)).unwrap()).collect();
        assert!(matches!(execs.enter(&id(0)), Err(Error::TooManyExecs { running: 64, .. })));
        turns.pop();
        turns.push(execs.enter(&id(0)).unwrap());
        for byte in 1..8 {
            turns.extend((0..EXECS_PER_CONTAINER_MAX).map(|_| execs.enter(&id(byte)).unwrap()));
        }
        assert!(matches!(execs.enter(&id(9)), Err(Error::TooManyExecs { running: 512, .. })));
        turns.clear();
        assert!(execs.counts.lock().unwrap().per_container.is_empty());
    }
}
