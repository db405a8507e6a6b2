//! Talking to registries: OCI distribution spec 1.1, over HTTP/1.1.
//!
//! - `hosts` reads the operator's `hosts.toml`: which mirrors to ask, and how.
//! - `endpoint` is one host that may be asked, with its TLS settings.
//! - `challenge` reads what a 401 asks for; `token` gets it.
//! - `session` is one pull's conversation: every request, redirect and retry goes through it; `transfer` is
//!   the body of one answer.
//!
//! Invariant: a login is sent only to the registry that the reference names and to the place where that
//! registry has its tokens made, and never in the clear except to this machine. Mirrors do not get it.
//! Invariant: nothing of a session outlives its pull, so no pull can use another's login.
//! Invariant: every wait has an end and every body a limit.

mod challenge;
mod endpoint;
mod hosts;
mod session;
mod token;
mod transfer;

pub(super) use endpoint::Clients;
pub(super) use session::Session;
