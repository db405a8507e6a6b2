//! The room's configuration: where clients are served, and for how long.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::Deserialize;

/// Exec, attach and port-forward for clients.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address that clients connect to for exec, attach and port-forward: the kubelet does so from this node. Port 0 is
    /// any free one. An address that is not of loopback needs `tls_client_ca`.
    pub listen: SocketAddr,
    /// Seconds after which a stream over which nothing goes is closed.
    pub idle_timeout_s: u64,
    /// Seconds that a client has to send its request, and then to open its streams.
    pub setup_timeout_s: u64,
    /// Seconds after which an exec whose client has gone is killed with all its processes. When not set, one with a
    /// terminal has 10 seconds after the hang-up, and one without is left alone, as under containerd and CRI-O: its
    /// streams are closed, and it ends with its container at the latest.
    pub orphan_grace_s: Option<u64>,
    /// File of the certificate that clients are served with over TLS 1.3, with what is between it and its authority
    /// behind it, in PEM. It is read again when it has changed, as the other two are. When not set, clients are served
    /// in the clear.
    pub tls_certificate: Option<PathBuf>,
    /// File of the key of that certificate, in PEM.
    pub tls_key: Option<PathBuf>,
    /// File of the authorities, in PEM, of which a client must show a certificate; crictl does with `--tls-cert`. When
    /// not set, the token in its URL is all that a client needs.
    pub tls_client_ca: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            idle_timeout_s: 4 * 60 * 60,
            setup_timeout_s: 30,
            orphan_grace_s: None,
            tls_certificate: None,
            tls_key: None,
            tls_client_ca: None,
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
