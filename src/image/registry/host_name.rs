//! Names of hosts, as messages and configuration files have them.

use reqwest::Url;

/// The name of a URL's host: `host[:port]`.
pub(super) fn name_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or("?");
    url.port().map_or_else(|| host.to_string(), |port| format!("{host}:{port}"))
}
