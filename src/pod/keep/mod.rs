//! What pods and containers leave on disk: their records, where these are, the files their containers see, and
//! the networks that are still to be released. The tree is drawn at the head of the room.

pub(super) mod debts;
pub(super) mod files;
mod places;
mod records;

pub(super) use places::*;
pub(super) use records::*;
