//! The signals that end a command, for those that must put something in order first.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGINT, SIGTERM, SIGHUP and SIGQUIT, from the moment of [`Signals::listen`] on.
#[derive(Debug)]
pub(super) struct Signals([Signal; 4]);

impl Signals {
    pub(super) fn listen() -> io::Result<Self> {
        let [a, b, c, d] =
            [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup(), SignalKind::quit()]
                .map(signal);
        Ok(Self([a?, b?, c?, d?]))
    }

    /// Waits for the next one; its number.
    pub(super) async fn next(&mut self) -> u8 {
        let [interrupt, terminate, hangup, quit] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => 2,
            _ = terminate.recv() => 15,
            _ = hangup.recv() => 1,
            _ = quit.recv() => 3,
        }
    }
}
