//! Entries that are held for the subscribers of a journal, and where each of them reads on.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::watch;

use super::error::Error;
use crate::model::UnixNanos;

/// Something that happened.
#[derive(Debug)]
pub struct Entry<T> {
    /// Counts from 0 at each start of the daemon, without gaps.
    pub sequence: u64,
    /// Later than of any entry before.
    pub at: UnixNanos,
    pub event: T,
    bytes: usize,
}

/// The state of a journal, and a signal to its readers.
#[derive(Debug)]
pub(super) struct Shared<T> {
    state: Mutex<State<T>>,
    /// Wakes those who have read everything.
    pub(super) grown: watch::Sender<()>,
}

/// Limits of what a journal holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) events: usize,
    pub(super) bytes: usize,
    pub(super) subscribers: usize,
    pub(super) replay: Duration,
}

/// The entries that are held, and the cursors of the subscribers.
#[derive(Debug)]
pub(super) struct State<T> {
    limits: Limits,
    replay_until: Instant,
    /// Oldest first, without gaps, ending before `next`.
    pub(super) held: VecDeque<Arc<Entry<T>>>,
    held_bytes: usize,
    /// The number of the next entry.
    next: u64,
    /// The moment of the newest entry.
    pub(super) latest: UnixNanos,
    /// The next entry of each subscriber. One that fell behind is not here any more.
    cursors: BTreeMap<u64, u64>,
    subscribed: u64,
    closed: bool,
}

impl<T> Shared<T> {
    /// An empty ring, whose first entries are replayed for as long as `limits` says.
    pub(super) fn new(limits: Limits) -> Self {
        let state = State {
            limits,
            replay_until: Instant::now() + limits.replay,
            held: VecDeque::new(),
            held_bytes: 0,
            next: 0,
            latest: UnixNanos(0),
            cursors: BTreeMap::new(),
            subscribed: 0,
            closed: false,
        };
        Self { state: Mutex::new(state), grown: watch::Sender::new(()) }
    }

    /// Never held over an await. A panic ends the daemon, so a poisoned lock can only be met in a test.
    pub(super) fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> State<T> {
    /// Ends the subscriptions of all who have read everything.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    /// A place for one more subscriber: the number to read with.
    pub(super) fn enter(&mut self) -> Result<u64, Error> {
        let limit = self.limits.subscribers;
        if self.cursors.len() >= limit {
            return Err(Error::TooMany { limit });
        }
        let id = self.subscribed;
        self.subscribed += 1;
        let from = if self.replays() { self.oldest() } else { self.next };
        self.cursors.insert(id, from);
        Ok(id)
    }

    pub(super) fn add(&mut self, event: T, bytes: usize) {
        let now = UnixNanos::from(SystemTime::now());
        self.latest = now.max(UnixNanos(self.latest.0 + 1));
        let entry = Entry { sequence: self.next, at: self.latest, event, bytes };
        self.next += 1;
        self.held_bytes += bytes;
        self.held.push_back(Arc::new(entry));
        self.release();
        // The newest is held whatever it weighs.
        while self.held.len() > self.limits.events
            || (self.held_bytes > self.limits.bytes && self.held.len() > 1)
        {
            self.drop_oldest();
        }
        let oldest = self.oldest();
        self.cursors.retain(|_, cursor| *cursor >= oldest);
    }

    /// Takes the entry that the subscriber reads next.
    pub(super) fn take(&mut self, id: u64) -> Result<Option<Arc<Entry<T>>>, Error> {
        let (oldest, Limits { events, bytes, .. }) = (self.oldest(), self.limits);
        let cursor = self.cursors.get_mut(&id).ok_or(Error::Behind { events, bytes })?;
        let Some(entry) = usize::try_from(*cursor - oldest).ok().and_then(|at| self.held.get(at)) else {
            return if self.closed { Err(Error::Closed) } else { Ok(None) };
        };
        let entry = Arc::clone(entry);
        *cursor += 1;
        self.release();
        Ok(Some(entry))
    }

    pub(super) fn leave(&mut self, id: u64) {
        self.cursors.remove(&id);
        self.release();
    }

    /// Lets go of what nobody is still to read.
    fn release(&mut self) {
        if self.replays() {
            return;
        }
        let wanted = self.cursors.values().min().copied().unwrap_or(self.next);
        while self.oldest() < wanted {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        self.held_bytes -= self.held.pop_front().map_or(0, |entry| entry.bytes);
    }

    /// The number of the oldest entry that is held, or of the next one.
    fn oldest(&self) -> u64 {
        self.held.front().map_or(self.next, |entry| entry.sequence)
    }

    fn replays(&self) -> bool {
        Instant::now() < self.replay_until
    }

    /// Entries and bytes that are held.
    #[cfg(test)]
    pub(super) fn held(&self) -> (usize, usize) {
        (self.held.len(), self.held_bytes)
    }
}
