use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use reqwest::{
    Method, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use super::{
    Clients,
    challenge::Challenge,
    endpoint::{Endpoint, chain, name_of},
    hosts::{self, is_loopback},
    token::Asking,
    transfer::{Transfer, read_body},
};
use crate::{
    failpoint,
    image::{
        Config, Error,
        content::Chunk,
        document::{self, Blob},
        reference::{Reference, Target},
        secret::Login,
    },
    model::Digest,
};

/// From the request to the end of the answer's headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
const REDIRECTS_MAX: usize = 5;
/// Tries of one request at one host. A registry that restarts is back after about as long as they take.
const TRIES_MAX: u32 = 4;
/// Interruptions of one blob, however far it came in between.
const INTERRUPTIONS_MAX: u32 = 20;
/// Tests need the tries, not the waiting.
const PAUSE_FIRST: Duration = Duration::from_millis(if cfg!(test) { 5 } else { 200 });
/// Longest pause, a registry's own wish (`Retry-After`) included.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// One pull's conversation with a registry and its mirrors.
#[derive(Debug)]
pub(in crate::image) struct Session {
    reference: Reference,
    login: Login,
    trusted: Vec<String>,
    endpoints: Vec<Endpoint>,
    /// By address: what that host asked for last. Sent to it alone.
    authorizations: Mutex<HashMap<Url, HeaderValue>>,
}

/// One thing to ask for, at whichever host.
struct Request<'a> {
    method: Method,
    /// Below the repository: `manifests/latest`
    path: &'a str,
    accept: Option<&'static str>,
    /// First byte wanted.
    from: u64,
}

impl Session {
    /// # Errors
    /// [`Error::BadHosts`].
    pub(in crate::image) fn open(
        clients: &Clients,
        config: &Config,
        reference: &Reference,
        login: Login,
    ) -> Result<Self, Error> {
        let hosts = hosts::hosts(&config.registry_config_dir, &reference.host)?;
        let endpoints = hosts.into_iter().map(|host| clients.endpoint(host)).collect::<Result<_, _>>()?;
        Ok(Self {
            reference: reference.clone(),
            login,
            trusted: config.token_hosts.clone(),
            endpoints,
            authorizations: Mutex::default(),
        })
    }

    /// What the tag stands for now, if a host says so without sending it.
    pub(in crate::image) async fn head(&self, tag: &str) -> Option<Digest> {
        let path = format!("manifests/{tag}");
        let request = Request { method: Method::HEAD, path: &path, accept: Some(document::ACCEPT), from: 0 };
        for endpoint in self.endpoints.iter().filter(|endpoint| endpoint.host.resolve) {
            if let Ok(response) = self.ask(endpoint, &request).await {
                let digest = response.headers().get("docker-content-digest");
                return Digest::parse(digest?.to_str().ok()?).ok();
            }
        }
        None
    }

    /// A manifest or index, and its digest: the one that was asked for, or that of what the tag gave.
    pub(in crate::image) async fn manifest(&self, target: &Target) -> Result<(Vec<u8>, Digest), Error> {
        let (path, by_tag) = match target {
            Target::Tag(tag) => (format!("manifests/{tag}"), true),
            Target::Digest(digest) => (format!("manifests/{digest}"), false),
        };
        let request = Request { method: Method::GET, path: &path, accept: Some(document::ACCEPT), from: 0 };
        let (bytes, digest) = self
            .everywhere(by_tag, |endpoint| {
                let request = &request;
                async move {
                    let response = self.ask(endpoint, request).await?;
                    let name = endpoint.name();
                    let bytes = read_body(response, document::MANIFEST_BYTES_MAX, "manifest", &name).await?;
                    let digest = document::digest_of(&bytes);
                    match target {
                        Target::Digest(expected) if *expected != digest => Err(Error::Mismatch {
                            what: "manifest",
                            expected: expected.clone(),
                            why: format!("{name} sent {digest}"),
                        }),
                        _ => Ok((bytes, digest)),
                    }
                }
            })
            .await?;
        failpoint!("image.manifest-fetched");
        Ok((bytes, digest))
    }

    /// A small blob, whole and verified.
    pub(in crate::image) async fn small_blob(&self, blob: &Blob, bytes_max: u64) -> Result<Vec<u8>, Error> {
        if blob.size > bytes_max {
            return Err(Error::Limit { what: "image config", limit: bytes_max });
        }
        let path = format!("blobs/{}", blob.digest);
        let request = Request { method: Method::GET, path: &path, accept: None, from: 0 };
        self.everywhere(false, |endpoint| {
            let request = &request;
            async move {
                let response = self.ask(endpoint, request).await?;
                let bytes = read_body(response, bytes_max, "image config", &endpoint.name()).await?;
                if bytes.len() as u64 == blob.size && document::digest_of(&bytes) == blob.digest {
                    return Ok(bytes);
                }
                let why = format!("{} sent something else", endpoint.name());
                Err(Error::Mismatch { what: "image config", expected: blob.digest.clone(), why })
            }
        })
        .await
    }

    /// Sends a blob's bytes to `chunks`, in order, going on where a connection broke. Returns when all are
    /// sent or the receiver has gone. Nothing is verified here but the length: the receiver hashes.
    pub(in crate::image) async fn blob(&self, blob: &Blob, chunks: mpsc::Sender<Chunk>) -> Result<(), Error> {
        let mut transfer = Transfer::new(blob, chunks);
        let mut interruptions = 0;
        let mut last = None;
        for endpoint in self.endpoints.iter().filter(|endpoint| endpoint.host.pull) {
            let mut tries = 0;
            while tries < TRIES_MAX && interruptions < INTERRUPTIONS_MAX {
                let before = transfer.done;
                match self.transfer(endpoint, &mut transfer).await {
                    Ok(()) => return Ok(()),
                    Err(error @ Error::RegistryUnavailable { .. }) => {
                        debug!(host = endpoint.name(), blob = %blob.digest, at = transfer.done, %error, "blob interrupted");
                        interruptions += 1;
                        tries = if transfer.done > before { 0 } else { tries + 1 };
                        last = Some(error);
                        sleep(pause(tries, None)).await;
                    }
                    Err(error) => {
                        last = Some(error);
                        break;
                    }
                }
            }
        }
        Err(last.unwrap_or_else(|| self.nobody()))
    }

    async fn transfer(&self, endpoint: &Endpoint, transfer: &mut Transfer<'_>) -> Result<(), Error> {
        let path = format!("blobs/{}", transfer.blob.digest);
        let request = Request { method: Method::GET, path: &path, accept: None, from: transfer.done };
        if transfer.done == transfer.blob.size && transfer.done > 0 {
            return transfer.end().await;
        }
        let response = self.ask(endpoint, &request).await.map_err(|error| self.of_blob(error, transfer))?;
        transfer.receive(response, &endpoint.name()).await
    }

    /// What a registry refuses of a blob, told of the blob.
    fn of_blob(&self, error: Error, transfer: &Transfer<'_>) -> Error {
        let (digest, done, size) = (&transfer.blob.digest, transfer.done, transfer.blob.size);
        match error {
            Error::NotInRegistry { host, .. } => {
                Error::NotInRegistry { reference: format!("blob {digest} of {}", self.reference), host }
            }
            // It sent a part and has no more: the blob is shorter than its manifest says.
            Error::RegistryRefused { host, why } if done > 0 => {
                let why = format!("{host} has only {done} of its {size} bytes ({why})");
                Error::Mismatch { what: "blob", expected: digest.clone(), why }
            }
            other => other,
        }
    }

    /// Asks host after host until one has it. What the registry itself says counts most, and it is last.
    async fn everywhere<'a, T, F>(&'a self, by_tag: bool, ask: impl Fn(&'a Endpoint) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>> + 'a,
    {
        let mut last = None;
        for endpoint in &self.endpoints {
            if !(if by_tag { endpoint.host.resolve } else { endpoint.host.pull }) {
                continue;
            }
            let mut tries = 0;
            loop {
                match ask(endpoint).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => {
                        tries += 1;
                        let again = matches!(error, Error::RegistryUnavailable { .. }) && tries < TRIES_MAX;
                        debug!(host = endpoint.name(), %error, again, "registry request failed");
                        last = Some(error);
                        if !again {
                            break;
                        }
                        sleep(pause(tries, None)).await;
                    }
                }
            }
        }
        Err(last.unwrap_or_else(|| self.nobody()))
    }

    fn nobody(&self) -> Error {
        let why = "no host in its hosts.toml may be asked for this".into();
        Error::RegistryRefused { host: self.reference.host.clone(), why }
    }

    /// One request at one host, with its login and redirects; the answer is a success, its body unread.
    async fn ask(&self, endpoint: &Endpoint, request: &Request<'_>) -> Result<Response, Error> {
        let mut asked = false;
        loop {
            let response = self.send(endpoint, request).await?;
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED
                && !asked
                && self.log_in(endpoint, response.headers()).await?
            {
                asked = true;
                continue;
            }
            if status.is_success() {
                return Ok(response);
            }
            if status == StatusCode::TOO_MANY_REQUESTS
                && let Some(wish) = response.headers().get(RETRY_AFTER)
            {
                let wish = wish.to_str().ok().and_then(|text| text.parse().ok()).map(Duration::from_secs);
                sleep(pause(0, wish)).await;
            }
            return Err(self.refusal(endpoint, status));
        }
    }

    /// Sends a request and follows redirects. A redirect to another host gets the range that is wanted and
    /// nothing else: no login, no header that the operator configured.
    async fn send(&self, endpoint: &Endpoint, request: &Request<'_>) -> Result<Response, Error> {
        let name = endpoint.name();
        let unavailable = |why: String| Error::RegistryUnavailable { host: name.clone(), why };
        let mut url = endpoint.host.base.clone();
        url.set_path(&format!("{}/{}/{}", url.path(), self.reference.repository, request.path));
        if !endpoint.host.is_upstream {
            url.query_pairs_mut().append_pair("ns", &self.reference.host);
        }
        let mut headers = endpoint.host.headers.clone();
        let authorizations = self.authorizations.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(value) = authorizations.get(&endpoint.host.base) {
            headers.insert(AUTHORIZATION, value.clone());
        }
        for _ in 0..=REDIRECTS_MAX {
            let mut builder =
                endpoint.client.request(request.method.clone(), url.clone()).headers(headers.clone());
            if let Some(accept) = request.accept {
                builder = builder.header(ACCEPT, accept);
            }
            if request.from > 0 {
                builder = builder.header(RANGE, format!("bytes={}-", request.from));
            }
            let response = timeout(HEADER_TIMEOUT, builder.send()).await;
            let response = response
                .map_err(|_| unavailable("it does not answer".into()))?
                .map_err(|error| unavailable(chain(&error)))?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let next = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
            let next = next.and_then(|location| url.join(location).ok());
            let next = next.filter(|next| may_follow(&url, next)).ok_or_else(|| Error::RegistryRefused {
                host: name.clone(),
                why: "it redirects to where nothing is fetched from".into(),
            })?;
            if name_of(&next) != name_of(&url) || next.scheme() != url.scheme() {
                headers = HeaderMap::new();
            }
            url = next;
        }
        Err(Error::RegistryRefused {
            host: name,
            why: format!("it redirects more than {REDIRECTS_MAX} times"),
        })
    }

    /// Gets what a 401 asks for. False when there is nothing to answer with.
    async fn log_in(&self, endpoint: &Endpoint, headers: &HeaderMap) -> Result<bool, Error> {
        let challenges = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let mut challenges: Vec<_> = challenges.filter_map(Challenge::parse).collect();
        challenges.sort_by_key(|challenge| matches!(challenge, Challenge::Basic));
        let Some(challenge) = challenges.first() else { return Ok(false) };
        let base = &endpoint.host.base;
        let in_the_clear = base.scheme() != "https" && !is_loopback(base);
        let mut login = &self.login;
        if !endpoint.host.is_upstream || in_the_clear {
            if endpoint.host.is_upstream && *login != Login::Anonymous {
                warn!(
                    host = endpoint.name(),
                    "credentials are not sent, because the connection is in the clear"
                );
            }
            login = &Login::Anonymous;
        }
        let scope = format!("repository:{}:pull", self.reference.repository);
        let asking =
            Asking { client: &endpoint.client, registry: base, scope, login, trusted: &self.trusted };
        let Some(answer) = asking.answer(challenge).await? else { return Ok(false) };
        self.authorizations.lock().unwrap_or_else(PoisonError::into_inner).insert(base.clone(), answer);
        Ok(true)
    }

    fn refusal(&self, endpoint: &Endpoint, status: StatusCode) -> Error {
        let (host, reference) = (endpoint.name(), self.reference.to_string());
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Error::Unauthorized { reference, host, why: status.to_string() }
            }
            StatusCode::NOT_FOUND => Error::NotInRegistry { reference, host },
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                Error::RegistryUnavailable { host, why: status.to_string() }
            }
            status if status.is_server_error() => {
                Error::RegistryUnavailable { host, why: status.to_string() }
            }
            status => Error::RegistryRefused { host, why: format!("it says {status}") },
        }
    }
}

/// Never out of encryption, and never from the outside to this machine's own services.
fn may_follow(from: &Url, to: &Url) -> bool {
    let scheme = to.scheme() == "https" || (to.scheme() == "http" && from.scheme() == "http");
    let local = to
        .host_str()
        .is_some_and(|host| host.starts_with("169.254.") || host.starts_with("[fe80:") || host == "0.0.0.0");
    scheme && (is_loopback(from) || !(is_loopback(to) || local))
}

/// Doubles from try to try; a registry's own wish counts up to the same limit.
fn pause(tries: u32, wish: Option<Duration>) -> Duration {
    wish.unwrap_or_else(|| PAUSE_FIRST * 2_u32.saturating_pow(tries.min(8))).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_on_the_web() {
        for (from, to, may) in [
            ("https://a.test", "https://cdn.test/x", true),
            ("http://a.test", "http://cdn.test", true),
            ("http://a.test", "https://cdn.test", true),
            ("https://a.test", "http://cdn.test", false),
            ("https://a.test", "file:///etc/passwd", false),
            ("https://a.test", "https://127.0.0.1/", false),
            ("https://a.test", "https://localhost/", false),
            ("http://a.test", "http://169.254.169.254/latest", false),
            ("http://a.test", "http://[::1]/", false),
            ("http://127.0.0.1:5000", "http://127.0.0.1:6000", true),
        ] {
            assert_eq!(may_follow(&Url::parse(from).unwrap(), &Url::parse(to).unwrap()), may, "{from} {to}");
        }
    }
}
