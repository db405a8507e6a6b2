//! The ends of a subscription.

/// The reason why a subscriber gets no more entries, or none at all.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum Error {
    #[error("{limit} subscribers follow the events already")]
    TooMany { limit: usize },
    /// Lists say what is true now.
    #[error(
        "events were lost: more than {events} of them, or {bytes} bytes, were waiting to be read; list again"
    )]
    Behind { events: usize, bytes: usize },
    #[error("the daemon is stopping")]
    Closed,
}
