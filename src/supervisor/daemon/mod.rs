//! The daemon's side: the only one with tokio.

mod attachment;
mod client;
#[cfg(test)]
mod fake;
mod probe;
mod transport;
mod workers;
mod zygote;

pub use attachment::{Attachment, Shown};
pub use client::Client;
pub use probe::probe_users;
pub use workers::ImageWorkers;
pub use zygote::Zygote;
