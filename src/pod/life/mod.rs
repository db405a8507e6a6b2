//! The rules of a pod's life, purely: a [`Ledger`] takes what has happened and gives orders.
//!
//! ```text
//! pod        Starting ─made─► Ready ──stop, supervisor ended──► Stopping ──torn down──► NotReady ──► Gone
//!               └─failed─► Undoing ─► Gone
//! container  pending ─made─► Created ──started──► Running ──exited──► Exited ──erased──► gone
//!               └─failed─► gone └────exited, start failed────────────────┘
//! ```
//!
//! `ledger.rs` takes the inputs apart; `order.rs` has the words in which it is spoken to and answers. `pod.rs` has
//! the states of the pod and `sandbox.rs` what is decided for it, `container.rs` and `containers.rs` the same for
//! its containers; `stop.rs` has how one is ended, `limits.rs` how limits are changed, `announce.rs` what
//! followers hear.
//!
//! Invariant: no task, no clock, no lock, no I/O. Moments come with the inputs.
//! Invariant: every call is answered once; an exit is announced once.
//! Invariant: no order is given twice at the same time, and none is forgotten: what was ordered reports back.
//! Not here: how an order is carried out (`drive`), and what is found at a start (`recover`).

mod announce;
mod container;
mod containers;
#[cfg(test)]
pub(super) mod desk;
mod ledger;
mod limits;
mod order;
mod pod;
mod sandbox;
mod stop;
#[cfg(test)]
mod tests;

pub(super) use announce::weight;
pub use announce::{Change, Event};
pub(super) use container::Remembered;
pub(super) use ledger::{Ledger, Recovered};
pub(super) use limits::Limited;
pub(super) use order::{
    Answer, Call, Ends, Init, Input, LimitChange, MadePod, Notice, Order, Outcome, PodRecordReason,
    RecordReason, TearDownError, Ticket, Work, Write,
};
pub(super) use pod::{PodFacts, PodPhase};
