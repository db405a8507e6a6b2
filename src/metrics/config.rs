//! The room's configuration: the address on which metrics are served.

use std::{fmt, net::SocketAddr, path::PathBuf};

use serde::Deserialize;

/// `sun_path` of unix(7) holds 108 bytes with its closing NUL.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The metrics of pods and containers for Prometheus, served by the daemon itself.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The address of the metrics, over HTTP at `/metrics`: `unix:///an/absolute/path`, for root alone, or a loopback
    /// address, for whoever is on the node or in its network. When not set, nowhere.
    pub listen: Option<Address>,
}

/// The address of the metrics; this node's alone.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "String")]
pub enum Address {
    Unix(PathBuf),
    Loopback(SocketAddr),
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix://") {
            let plain = path.starts_with('/') && !path.ends_with('/') && !path.contains('\0');
            if plain && path.len() <= SOCKET_PATH_BYTES_MAX {
                return Ok(Self::Unix(path.into()));
            }
        }
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() && address.port() != 0 => Ok(Self::Loopback(address)),
            _ => Err(format!(
                "{text:?} is neither unix:///an/absolute/path of up to {SOCKET_PATH_BYTES_MAX} bytes nor a loopback \
                 address with a port, such as 127.0.0.1:9880 or [::1]:9880"
            )),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Loopback(address) => write!(f, "http://{address}/metrics"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_node_can_be_served() {
        let parse = |text: &str| Address::try_from(text.to_owned());
        assert_eq!(parse("unix:///run/m.sock"), Ok(Address::Unix("/run/m.sock".into())));
        assert_eq!(parse("127.0.0.1:9880").unwrap().to_string(), "http://127.0.0.1:9880/metrics");
        assert_eq!(parse("[::1]:9880").unwrap().to_string(), "http://[::1]:9880/metrics");
        let long = format!("unix:///{}", "x".repeat(SOCKET_PATH_BYTES_MAX));
        for bad in [
            "",
            "0.0.0.0:9880",
            "[::]:9880",
            "10.0.0.1:9880",
            "127.0.0.1",
            "127.0.0.1:0",
            "localhost:9880",
            "unix://m",
            &long,
        ] {
            let problem = parse(bad).unwrap_err();
            assert!(problem.starts_with(&format!("{bad:?} is neither")), "{problem}");
        }
    }
}
