//! The daemon's side: the only one with tokio.

mod client;
#[cfg(test)]
mod fake;
mod transport;
mod zygote;

pub use client::Client;
pub use zygote::Zygote;
