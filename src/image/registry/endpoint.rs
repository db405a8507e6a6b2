use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use reqwest::{Certificate, Client, Url, redirect::Policy};

use super::hosts::Host;
use crate::image::Error;

/// To make a connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// An unused connection is kept for the next layer, not for the next day.
const IDLE_CONNECTION_MAX: Duration = Duration::from_secs(30);

/// One host that may be asked.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) host: Host,
    pub(super) client: Client,
}

impl Endpoint {
    /// The host as a name for messages: without a path, and it never has a user or query.
    pub(super) fn name(&self) -> String {
        name_of(&self.host.base)
    }
}

/// `host[:port]`
pub(super) fn name_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or("?");
    url.port().map_or_else(|| host.to_string(), |port| format!("{host}:{port}"))
}

/// Connections to registries. One set with the machine's own certificates is kept; hosts with settings of
/// their own get a new one per pull, so that a changed certificate counts at once. Logins are sent per request,
/// so sharing a connection shares none.
#[derive(Debug, Default)]
pub(in crate::image) struct Clients {
    plain: Mutex<Option<Client>>,
}

impl Clients {
    pub(super) fn endpoint(&self, host: Host) -> Result<Endpoint, Error> {
        if !host.ca.is_empty() || host.skip_verify || host.dial_timeout.is_some() {
            let client = build(&host)?;
            return Ok(Endpoint { host, client });
        }
        let mut plain = self.plain.lock().unwrap_or_else(PoisonError::into_inner);
        let client = match &*plain {
            Some(client) => client.clone(),
            None => plain.insert(build(&host)?).clone(),
        };
        Ok(Endpoint { host, client })
    }
}

fn build(host: &Host) -> Result<Client, Error> {
    let name = name_of(&host.base);
    let refused = |error: reqwest::Error| Error::RegistryRefused {
        host: name.clone(),
        why: format!("no TLS settings could be made: {}", chain(&error)),
    };
    let builder = || {
        Client::builder()
            .user_agent(concat!("pintle/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(host.dial_timeout.unwrap_or(CONNECT_TIMEOUT))
            .pool_idle_timeout(IDLE_CONNECTION_MAX)
            // Followed by `Session`, which knows what may be sent where.
            .redirect(Policy::none())
            .referer(false)
            .tls_danger_accept_invalid_certs(host.skip_verify)
    };
    let mut certificates = Vec::new();
    for path in &host.ca {
        let bad = |why: String| Error::BadHosts { path: path.clone(), why };
        let pem = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
        certificates.extend(Certificate::from_pem_bundle(&pem).map_err(|error| bad(chain(&error)))?);
    }
    let with_system = builder().tls_certs_merge(certificates.clone()).build();
    // A machine without any certificates can still talk to a mirror in the clear, or to one whose
    // certificate is given.
    if with_system.is_err() && (host.base.scheme() == "http" || !certificates.is_empty()) {
        return builder().tls_certs_only(certificates).build().map_err(refused);
    }
    with_system.map_err(refused)
}

/// An error of the HTTP client in one line, without the address, which may hold a token.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut words = Vec::new();
    let mut source = error.source();
    while let Some(error) = source {
        words.push(error.to_string());
        source = error.source();
    }
    if words.is_empty() {
        return "request failed".into();
    }
    words.join(": ")
}
