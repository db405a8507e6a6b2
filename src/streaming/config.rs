//! The room's configuration: where clients are served, and for how long.

use std::{net::SocketAddr, time::Duration};

use serde::Deserialize;

/// Exec, attach and port-forward for clients.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address of loopback that clients connect to for exec, attach and port-forward: the kubelet does so from
    /// this node. Port 0 is any free one.
    pub listen: SocketAddr,
    /// Seconds after which a stream over which nothing goes is closed.
    pub idle_timeout_s: u64,
    /// Seconds that a client has to send its request, and then to open its streams.
    pub setup_timeout_s: u64,
    /// Seconds after which an exec whose client has gone is killed with all its processes. When not set, one with a
    /// terminal has 10 seconds after the hang-up, and one without is left alone, as under containerd and CRI-O: its
    /// streams are closed, and it ends with its container at the latest.
    pub orphan_grace_s: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            idle_timeout_s: 4 * 60 * 60,
            setup_timeout_s: 30,
            orphan_grace_s: None,
        }
    }
}

impl Config {
    pub(super) fn idle_timeout(&self) -> Duration {
        Duration::from_secs(self.idle_timeout_s)
    }

    pub(super) fn setup_timeout(&self) -> Duration {
        Duration::from_secs(self.setup_timeout_s)
    }
}
