//! The journal: entries in the order in which they were published, held once for all who follow.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    error::Error,
    ring::{Limits, Shared},
    subscriber::Subscriber,
};
use crate::model::UnixNanos;

/// Entries that a subscriber may be behind. A node of 110 pods that starts them all makes a quarter of it.
const EVENTS_MAX: usize = 4096;

/// Bytes of what a subscriber may be behind, as the publishers weigh it: 16 KiB for each entry, where a usual
/// one has four. It is what a pod's labels and annotations, half a MiB each, could otherwise make of it.
const EVENTS_BYTES_MAX: usize = 64 << 20;

/// Subscribers at a time. A node has one kubelet; the rest is for agents and for people who look.
const SUBSCRIBERS_MAX: usize = 16;

/// How long after its start a daemon tells newcomers everything from the beginning: twice as long as the
/// kubelet waits at most before it connects again.
const REPLAY: Duration = Duration::from_secs(60);

/// The journal of what happened on the node. Cheap to clone; all clones are one journal.
#[derive(Debug)]
pub struct Journal<T> {
    pub(super) shared: Arc<Shared<T>>,
}

impl<T> Clone for Journal<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> Default for Journal<T> {
    fn default() -> Self {
        Self::with(Limits {
            events: EVENTS_MAX,
            bytes: EVENTS_BYTES_MAX,
            subscribers: SUBSCRIBERS_MAX,
            replay: REPLAY,
        })
    }
}

impl<T> Journal<T> {
    pub(super) fn with(limits: Limits) -> Self {
        Self { shared: Arc::new(Shared::new(limits)) }
    }

    /// Adds an entry that weighs `bytes`. Waits for nobody. What it tells of must be visible already.
    pub fn publish(&self, event: T, bytes: usize) {
        self.shared.state().add(event, bytes);
        self.shared.grown.send_replace(());
    }

    /// A moment that is not before any entry, for an answer about what is asked for after this.
    pub fn moment(&self) -> UnixNanos {
        UnixNanos::from(SystemTime::now()).max(self.shared.state().latest)
    }

    /// Follows the journal from here on; in the first minute of a daemon, from its beginning.
    ///
    /// # Errors
    /// [`Error::TooMany`].
    pub fn subscribe(&self) -> Result<Subscriber<T>, Error> {
        let id = self.shared.state().enter()?;
        Ok(Subscriber::new(Arc::clone(&self.shared), id))
    }

    /// The daemon ends: subscribers read the entries that are held, and then the end.
    pub fn close(&self) {
        self.shared.state().close();
        self.shared.grown.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const LIMITS: Limits = Limits { events: 4, bytes: 100, subscribers: 2, replay: Duration::ZERO };

    fn held<T>(journal: &Journal<T>) -> (usize, usize) {
        journal.shared.state().held()
    }

    /// The entry that can be read without waiting.
    fn read<T: Copy>(subscriber: &mut Subscriber<T>) -> Option<T> {
        subscriber.next().now_or_never().map(|entry| entry.unwrap().event)
    }

    #[test]
    fn without_subscribers_nothing_is_held() {
        let journal = Journal::with(LIMITS);
        journal.publish("a", 10);
        assert_eq!(held(&journal), (0, 0));
    }

    #[test]
    fn what_all_have_read_is_let_go() {
        let journal = Journal::with(LIMITS);
        let (mut fast, mut slow) = (journal.subscribe().unwrap(), journal.subscribe().unwrap());
        journal.publish("a", 10);
        journal.publish("b", 20);
        assert_eq!((read(&mut fast), read(&mut fast)), (Some("a"), Some("b")));
        assert_eq!(held(&journal), (2, 30));
        assert_eq!(read(&mut slow), Some("a"));
        assert_eq!(held(&journal), (1, 20));
        drop(slow);
        assert_eq!(held(&journal), (0, 0));
    }

    #[test]
    fn in_the_first_minute_a_newcomer_is_told_everything() {
        let journal = Journal::with(Limits { replay: Duration::from_secs(3600), ..LIMITS });
        journal.publish("found", 10);
        for _ in 0..2 {
            let mut subscriber = journal.subscribe().unwrap();
            assert_eq!(read(&mut subscriber), Some("found"));
        }
        assert_eq!(held(&journal), (1, 10));
    }

    #[test]
    fn the_first_minute_has_the_same_limits() {
        let journal = Journal::with(Limits { replay: Duration::from_secs(3600), ..LIMITS });
        for number in 0..9 {
            journal.publish(number, 10);
        }
        assert_eq!(held(&journal), (4, 40));
        assert_eq!(read(&mut journal.subscribe().unwrap()), Some(5));
    }

    #[test]
    fn after_it_a_newcomer_is_told_what_is_new() {
        let journal = Journal::with(LIMITS);
        let mut early = journal.subscribe().unwrap();
        journal.publish("old", 1);
        let mut late = journal.subscribe().unwrap();
        journal.publish("new", 1);
        assert_eq!((read(&mut early), read(&mut late)), (Some("old"), Some("new")));
    }

    #[test]
    fn numbers_have_no_gaps_and_moments_only_grow() {
        let journal = Journal::with(Limits { replay: Duration::from_secs(3600), ..LIMITS });
        // As after a clock that was an hour ahead has been set right.
        let ahead = UnixNanos(UnixNanos::from(SystemTime::now()).0 + 3_600_000_000_000);
        journal.shared.state().latest = ahead;
        journal.publish("a", 1);
        journal.publish("b", 1);
        let state = journal.shared.state();
        let entries: Vec<_> = state.held.iter().map(|entry| (entry.sequence, entry.at.0 - ahead.0)).collect();
        assert_eq!(entries, [(0, 1), (1, 2)]);
        drop(state);
        assert_eq!(journal.moment().0 - ahead.0, 2);
    }

    #[test]
    fn one_more_subscriber_than_there_are_places_is_refused() {
        let journal = Journal::<()>::with(LIMITS);
        let one = journal.subscribe().unwrap();
        let _two = journal.subscribe().unwrap();
        assert_eq!(journal.subscribe().unwrap_err(), Error::TooMany { limit: 2 });
        drop(one);
        assert!(journal.subscribe().is_ok());
    }
}
