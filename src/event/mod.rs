//! The journal: what happened, in one order, for everyone who wants to follow.
//!
//! Whoever changes something publishes an entry; the journal gives it a number and a moment. A subscriber has
//! a cursor and nothing else: entries are held once, for all of them, and only as long as somebody has still
//! to read them. In the first minute of a daemon everything is held, so that those who reconnect after a
//! restart are told what was found at the start.
//!
//! ```text
//!   publish ──► [ 41 42 43 44 45 46 ] ◄── at most EVENTS_MAX entries and EVENTS_BYTES_MAX bytes
//!                 ▲        ▲     ▲
//!                 slow   fast   a new one begins behind the last
//! ```
//!
//! Invariant: a subscriber is given every entry from where it began, once and in order, or an error that says
//! it was too slow. None is ever left out.
//! Invariant: a slow subscriber costs its own stream: it holds up neither publishers nor other subscribers, and
//! its place is free as soon as it has lost its way.
//! Invariant: moments only grow, also when the clock is set back.
//! Not here: what an event is about, and who receives it in which message. Nothing is on disk: what happened while
//! no daemon ran is found out, and published, by recovery.

mod error;
mod journal;
mod ring;
mod subscriber;

pub use error::Error;
pub use journal::Journal;
pub use ring::Entry;
pub use subscriber::Subscriber;
