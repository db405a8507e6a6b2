//! One subscriber of the journal: its place in it, and why it gets no more entries.

use std::sync::Arc;

use tokio::sync::watch;

use super::{
    error::Error,
    ring::{Entry, Shared},
};

/// A reader of the journal with a place of its own. Dropped, it makes room for another.
#[derive(Debug)]
pub struct Subscriber<T> {
    shared: Arc<Shared<T>>,
    id: u64,
    grown: watch::Receiver<()>,
}

impl<T> Subscriber<T> {
    pub(super) fn new(shared: Arc<Shared<T>>, id: u64) -> Self {
        let grown = shared.grown.subscribe();
        Self { shared, id, grown }
    }

    /// The next entry, once there is one. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Error::Behind`] when this subscriber was too slow, [`Error::Closed`] after the last entry. Both are
    /// for good.
    pub async fn next(&mut self) -> Result<Arc<Entry<T>>, Error> {
        loop {
            if let Some(entry) = self.shared.state().take(self.id)? {
                return Ok(entry);
            }
            // Also true for what was published since the look above.
            if self.grown.changed().await.is_err() {
                return Err(Error::Closed);
            }
        }
    }
}

impl<T> Drop for Subscriber<T> {
    fn drop(&mut self) {
        self.shared.state().leave(self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::{journal::Journal, ring::Limits},
        *,
    };
    use crate::telemetry::task;

    const LIMITS: Limits = Limits { events: 4, bytes: 100, subscribers: 1, replay: Duration::ZERO };
    const BEHIND: Error = Error::Behind { events: 4, bytes: 100 };

    #[tokio::test]
    async fn one_that_is_too_slow_is_told_so_and_its_place_is_free_at_once() {
        let journal = Journal::with(LIMITS);
        let mut slow = journal.subscribe().unwrap();
        for number in 0..5 {
            journal.publish(number, 1);
        }
        let mut next = journal.subscribe().unwrap();
        journal.publish(5, 1);
        assert_eq!(slow.next().await.unwrap_err(), BEHIND);
        assert_eq!(slow.next().await.unwrap_err(), BEHIND);
        assert_eq!(next.next().await.unwrap().event, 5);
    }

    #[tokio::test]
    async fn one_that_is_just_quick_enough_misses_nothing() {
        let journal = Journal::with(LIMITS);
        let mut subscriber = journal.subscribe().unwrap();
        for number in 0..4 {
            journal.publish(number, 25);
        }
        for number in 0..4 {
            assert_eq!(subscriber.next().await.unwrap().event, number);
        }
    }

    #[tokio::test]
    async fn bytes_count_as_well_as_entries() {
        let journal = Journal::with(LIMITS);
        let mut slow = journal.subscribe().unwrap();
        journal.publish('a', 60);
        journal.publish('b', 60);
        assert_eq!(slow.next().await.unwrap_err(), BEHIND);
        drop(slow);
        let mut next = journal.subscribe().unwrap();
        journal.publish('c', 1000);
        assert_eq!(next.next().await.unwrap().event, 'c');
    }

    #[tokio::test]
    async fn the_last_entries_are_read_before_the_end_is_told() {
        let journal = Journal::with(LIMITS);
        let mut subscriber = journal.subscribe().unwrap();
        journal.publish("last", 1);
        journal.close();
        assert_eq!(subscriber.next().await.unwrap().event, "last");
        assert_eq!(subscriber.next().await.unwrap_err(), Error::Closed);
    }

    #[tokio::test]
    async fn every_reader_sees_every_entry_in_order_while_many_write() {
        const EACH: u64 = 500;
        let journal = Journal::with(Limits { events: 1 << 20, bytes: 1 << 20, subscribers: 3, ..LIMITS });
        let readers: Vec<_> = (0..3)
            .map(|_| {
                let mut subscriber = journal.subscribe().unwrap();
                task::spawn("reader", async move {
                    let mut received = Vec::new();
                    while let Ok(entry) = subscriber.next().await {
                        received.push((entry.sequence, entry.event));
                    }
                    received
                })
            })
            .collect();
        let writers = (0..4).map(|writer| {
            let journal = journal.clone();
            task::spawn("writer", async move {
                for number in 0..EACH {
                    journal.publish((writer, number), 1);
                    tokio::task::yield_now().await;
                }
            })
        });
        futures_util::future::join_all(writers).await;
        journal.close();
        let mut all = Vec::new();
        for reader in readers {
            all.push(reader.await.unwrap());
        }
        assert!(all[0].iter().map(|(sequence, _)| *sequence).eq(0..4 * EACH));
        assert!(all[1] == all[0] && all[2] == all[0]);
        for writer in 0..4 {
            let own = all[0].iter().filter(|(_, (by, _))| *by == writer).map(|(_, (_, number))| *number);
            assert!(own.eq(0..EACH), "{writer}");
        }
    }
}
