//! One host that may be asked, with its HTTP clients; and what all pulls share of such hosts.

use std::{
    collections::HashSet,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use reqwest::{Client, Url, redirect::Policy};
use rustls::ClientConfig;
use tracing::warn;

use super::{
    address::{Guard, Reach},
    health::Health,
    host_name::name_of,
    hosts::{self, Host, Tls},
    tls,
};
use crate::image::Error;

/// To make a connection, TLS included, where `dial_timeout` says nothing else.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// An unused connection is kept for the next layer, not for the next day.
const IDLE_CONNECTION_MAX: Duration = Duration::from_secs(30);
/// Notes about configuration files that are remembered, so that each is logged once.
const NOTES_MAX: usize = 1000;

/// One host that may be asked.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) host: Host,
    pub(super) clients: Clients,
    /// The addresses that the host may send us to.
    pub(super) reach: Reach,
}

impl Endpoint {
    /// The host as a name for messages: without a path, and it never has a user or query.
    pub(super) fn name(&self) -> String {
        name_of(&self.host.base)
    }

    /// A host without settings, for tests.
    #[cfg(test)]
    pub(super) fn plain(base: Url) -> Self {
        Registries::default().endpoint(Host::new(base)).unwrap()
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        connect_timeout(&self.host)
    }

    /// The client to ask `url` with: connections to another host than this one are guarded.
    pub(super) fn client_for(&self, url: &Url) -> &Client {
        if url.host_str() == self.host.base.host_str() { &self.clients.own } else { &self.clients.others }
    }
}

fn connect_timeout(host: &Host) -> Duration {
    host.dial_timeout.unwrap_or(CONNECT_TIMEOUT)
}

/// Connections to one host, and to those that it sends us to: see [`Guard`].
#[derive(Clone, Debug)]
pub(super) struct Clients {
    own: Client,
    others: Client,
}

/// The state that all pulls of a node share: connections, and which hosts failed of late. Logins are
/// sent per request, so that sharing a connection shares none.
#[derive(Debug, Default)]
pub(in crate::image) struct Registries {
    pub(super) health: Health,
    /// For hosts without settings of their own: those that may send us to this machine, and all others.
    /// Hosts with settings get new ones per pull, so that a changed certificate counts at once.
    usual: Mutex<[Option<Clients>; 2]>,
    noted: Mutex<HashSet<String>>,
}

impl Registries {
    /// The hosts to ask for images of `registry`. Reads the operator's files; blocks.
    ///
    /// # Errors
    /// [`Error::BadHosts`].
    pub(super) fn endpoints(&self, folder: &Path, registry: &str) -> Result<Vec<Endpoint>, Error> {
        let found = hosts::hosts(folder, registry)?;
        for note in found.notes {
            let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
            if noted.len() < NOTES_MAX && noted.insert(format!("{registry}: {note}")) {
                warn!(registry, note, "something in hosts.toml is ignored");
            }
        }
        found.hosts.into_iter().map(|host| self.endpoint(host)).collect()
    }

    fn endpoint(&self, host: Host) -> Result<Endpoint, Error> {
        let reach = Reach::of(&host.base);
        let is_usual = host.tls == Tls::default() && host.dial_timeout.is_none() && host.proxy.is_none();
        let clients = if is_usual {
            let mut usual = self.usual.lock().unwrap_or_else(PoisonError::into_inner);
            let place = &mut usual[usize::from(reach.is_from_here())];
            match place {
                Some(clients) => clients.clone(),
                None => place.insert(build(&host, reach)?).clone(),
            }
        } else {
            build(&host, reach)?
        };
        Ok(Endpoint { host, clients, reach })
    }
}

fn build(host: &Host, reach: Reach) -> Result<Clients, Error> {
    let tls = tls::config(&host.tls)?;
    Ok(Clients { own: client(host, tls.clone(), None)?, others: client(host, tls, Some(Guard(reach)))? })
}

fn client(host: &Host, tls: ClientConfig, guard: Option<Guard>) -> Result<Client, Error> {
    let refused = |error: reqwest::Error| Error::RegistryRefused {
        host: name_of(&host.base),
        why: format!("no connection can be prepared: {}", chain(&error)),
    };
    let mut builder = Client::builder()
        .user_agent(concat!("pintle/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(connect_timeout(host))
        .pool_idle_timeout(IDLE_CONNECTION_MAX)
        // Followed by `Exchange`, which knows what may be sent where.
        .redirect(Policy::none())
        .referer(false)
        .tls_backend_preconfigured(tls);
    if let Some(guard) = guard {
        builder = builder.dns_resolver(Arc::new(guard));
    }
    if let Some(proxy) = &host.proxy {
        builder = builder.proxy(reqwest::Proxy::all(proxy.0.clone()).map_err(refused)?);
    }
    builder.build().map_err(refused)
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

#[cfg(test)]
mod tests {
    use super::{super::address::Forbidden, *};

    #[tokio::test]
    async fn a_host_that_is_elsewhere_sends_us_to_no_name_of_this_machine() {
        let endpoint = Endpoint::plain(Url::parse("http://192.0.2.1:5000/v2").unwrap());
        let url = Url::parse("http://localhost:1/").unwrap();
        let error = endpoint.client_for(&url).get(url).send().await.unwrap_err();
        assert!(Forbidden::behind(&error).is_some(), "{error:?}");

        let endpoint = Endpoint::plain(Url::parse("http://127.0.0.1:5000/v2").unwrap());
        let url = Url::parse("http://localhost:1/").unwrap();
        let error = endpoint.client_for(&url).get(url).send().await.unwrap_err();
        assert!(Forbidden::behind(&error).is_none(), "{error:?}");
    }

    #[test]
    fn a_name_has_its_port_and_nothing_else() {
        let name = |url: &str| name_of(&Url::parse(url).unwrap());
        assert_eq!(name("https://user:canary@registry.test:5000/v2?x"), "registry.test:5000");
        assert_eq!(name("https://[::1]:443/v2"), "[::1]");
    }
}
