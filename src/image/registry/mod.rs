//! Talking to registries: OCI distribution spec 1.1, over HTTP/1.1.
//!
//! - `hosts` reads the operator's files: which hosts to ask, and how. `tls` makes their certificates ready.
//! - `endpoint` is one host that may be asked, and what all pulls share; `health` is which hosts failed of late.
//! - `session` is one pull's conversation. `round` is one request's way over the hosts; `exchange` is one
//!   request at one host, with login and redirects; `transfer` is the body of its answer.
//! - `challenge` reads what a 401 asks for; `token` gets it. `refusal` reads what a host says against us.
//! - `no_answer` is the failure of a request without an answer; `host_name` is a host in messages.
//! - `address` is where a registry may send us.
//!
//! Invariant: a login is sent only to the registry that the reference names and to the place where that
//! registry has its tokens made, and never in the clear except to this machine. Mirrors do not get it.
//! Invariant: nothing of a session outlives its pull, so no pull can use another's login.
//! Invariant: every wait has an end and every body a limit.
//! Invariant: no registry can have us ask the services of this machine or of the cloud that it runs in.

mod address;
pub(super) mod challenge;
mod endpoint;
mod exchange;
mod health;
mod host_name;
pub(super) mod hosts;
mod no_answer;
mod refusal;
mod round;
mod session;
#[cfg(test)]
mod tests;
mod tls;
mod token;
mod transfer;

pub(super) use endpoint::Registries;
pub(super) use session::Session;
