//! The daemon's side: the only one with tokio.

mod client;
mod zygote;

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use tokio::io::unix::AsyncFd;

use super::wire::Frame;

pub use client::Client;
pub use zygote::Zygote;

/// Sends one whole frame.
async fn send(socket: &AsyncFd<OwnedFd>, frame: &Frame) -> io::Result<()> {
    let mut sent = 0;
    while sent < frame.bytes.len() {
        let mut writable = socket.writable().await?;
        if let Ok(count) = writable.try_io(|socket| frame.send_from(sent, socket.as_fd())) {
            sent += count?;
        }
    }
    Ok(())
}
