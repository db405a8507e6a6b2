//! SPDY/3.1 as the clients of Kubernetes speak it, from the server's side. No crate has it.
//!
//! `frame`, `header` and `session` are pure: bytes in, events and bytes out. `connection` puts a session on a
//! socket. Windows are ignored, as all other implementations in the field do: nobody sends WINDOW_UPDATE, and a server
//! that waited for it would hang after 64 KiB. A slow reader is slowed by not reading the socket.

mod connection;
mod dictionary;
mod frame;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzz;
mod header;
mod session;
#[cfg(test)]
pub(super) mod testclient;

pub(super) use connection::{Connection, Incoming, Reader, Writer};
pub(super) use frame::{HEAD_BYTES, Reset};
pub(super) use header::Headers;
pub(super) use session::Event;
