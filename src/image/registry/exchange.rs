//! One request at one host, with login and redirects.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use reqwest::{
    Method, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE},
};
use tokio::time::timeout;
use tracing::warn;

use super::{
    address::is_loopback,
    challenge::Challenge,
    endpoint::Endpoint,
    no_answer::{HEADER_TIMEOUT, refused, unavailable, unreachable},
    refusal::Refusal,
    round::{Cure, Failure},
    token::Asking,
};
use crate::image::{reference::Reference, secret::Login};

const REDIRECTS_MAX: usize = 5;

/// One thing to ask for, at whichever host.
pub(super) struct Request<'a> {
    pub(super) method: Method,
    /// Below the repository: `manifests/latest`
    pub(super) path: &'a str,
    pub(super) accept: Option<&'static str>,
    /// First byte wanted.
    pub(super) from: u64,
    /// Whether what lies behind a redirect is wanted, or only that there is one.
    pub(super) follow: bool,
}

/// The asking side of a session: the image, the login, and what hosts have asked of it.
#[derive(Debug)]
pub(super) struct Asker {
    pub(super) reference: Reference,
    pub(super) login: Login,
    /// Further hosts that may see the login (configuration).
    pub(super) trusted: Vec<String>,
    /// By address: what that host asked for last. Sent to it alone.
    pub(super) authorizations: Mutex<HashMap<Url, HeaderValue>>,
}

impl Asker {
    /// One request at one host, with its login and redirects; the answer is a success, its body unread.
    pub(super) async fn ask(&self, endpoint: &Endpoint, request: &Request<'_>) -> Result<Response, Failure> {
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
            if status.is_success() || (is_redirect(status) && !request.follow) {
                return Ok(response);
            }
            return Err(self.refused(endpoint, response).await);
        }
    }

    /// Sends a request and follows redirects. A redirect to another host gets the range that is wanted and
    /// nothing else: no login, no header that the operator configured.
    async fn send(&self, endpoint: &Endpoint, request: &Request<'_>) -> Result<Response, Failure> {
        let mut url = endpoint.host.base.clone();
        url.set_path(&format!("{}/{}/{}", url.path(), self.reference.repository, request.path));
        if endpoint.host.needs_namespace {
            url.query_pairs_mut().append_pair("ns", &self.reference.host);
        }
        let mut headers = endpoint.host.headers.clone();
        let authorizations = self.authorizations.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(value) = authorizations.get(&endpoint.host.base) {
            headers.insert(AUTHORIZATION, value.clone());
        }
        for _ in 0..=REDIRECTS_MAX {
            let response = send_one(endpoint, request, &url, &headers).await?;
            if !is_redirect(response.status()) || !request.follow {
                return Ok(response);
            }
            let next = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
            let next = next.and_then(|location| url.join(location).ok());
            let next = next
                .filter(|next| may_follow(endpoint, &url, next))
                .ok_or_else(|| refused(endpoint, "it redirects to where nothing is fetched from".into()))?;
            if next.origin() != url.origin() {
                headers = HeaderMap::new();
            }
            url = next;
        }
        Err(refused(endpoint, format!("it redirects more than {REDIRECTS_MAX} times")))
    }

    /// Gets what a 401 asks for. False when there is nothing to answer with.
    async fn log_in(&self, endpoint: &Endpoint, headers: &HeaderMap) -> Result<bool, Failure> {
        let challenges = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let mut challenges: Vec<_> = challenges.filter_map(Challenge::parse).collect();
        challenges.sort_by_key(|challenge| matches!(challenge, Challenge::Basic));
        let Some(challenge) = challenges.first() else { return Ok(false) };
        let asking = Asking {
            endpoint,
            reference: &self.reference,
            login: self.login_for(endpoint),
            trusted: &self.trusted,
        };
        let Some(answer) = asking.answer(challenge).await? else { return Ok(false) };
        let base = endpoint.host.base.clone();
        self.authorizations.lock().unwrap_or_else(PoisonError::into_inner).insert(base, answer);
        Ok(true)
    }

    /// The login as far as this host may see it.
    fn login_for(&self, endpoint: &Endpoint) -> &Login {
        let base = &endpoint.host.base;
        let in_the_clear = base.scheme() != "https" && !is_loopback(base);
        if endpoint.host.is_upstream && !in_the_clear {
            return &self.login;
        }
        if endpoint.host.is_upstream && self.login != Login::Anonymous {
            warn!(host = endpoint.name(), "credentials are not sent, because the connection is in the clear");
        }
        &Login::Anonymous
    }

    async fn refused(&self, endpoint: &Endpoint, response: Response) -> Failure {
        let status = response.status();
        let wish = response.headers().get(RETRY_AFTER).and_then(|wish| wish.to_str().ok()?.parse().ok());
        let wish = wish.map(Duration::from_secs);
        let said = super::refusal::read(response).await;
        let refusal = Refusal {
            host: endpoint.name(),
            reference: self.reference.to_string(),
            status,
            said: self.without_secrets(endpoint, said),
            is_mirror: !endpoint.host.is_upstream,
            has_login: *self.login_for(endpoint) != Login::Anonymous,
        };
        let cure = match status {
            StatusCode::TOO_MANY_REQUESTS => Cure::Patience(wish),
            StatusCode::REQUEST_TIMEOUT => Cure::Again,
            status if status.is_server_error() => Cure::Rest,
            _ => Cure::Nothing,
        };
        Failure { error: refusal.error(), cure, status: Some(status) }
    }

    /// The text of a host's error, without the secrets that it was sent.
    fn without_secrets(&self, endpoint: &Endpoint, mut said: String) -> String {
        let authorizations = self.authorizations.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = authorizations.values().filter_map(|value| value.to_str().ok()?.split_once(' '));
        let configured = endpoint.host.headers.values().filter_map(|value| value.to_str().ok());
        let secrets = sent.map(|(_, secret)| secret).chain(configured).chain(self.login.secrets());
        for secret in secrets.filter(|secret| !secret.is_empty()) {
            said = said.replace(secret, "***");
        }
        said
    }
}

async fn send_one(
    endpoint: &Endpoint,
    request: &Request<'_>,
    url: &Url,
    headers: &HeaderMap,
) -> Result<Response, Failure> {
    let client = endpoint.client_for(url);
    let mut builder = client.request(request.method.clone(), url.clone()).headers(headers.clone());
    if let Some(accept) = request.accept {
        builder = builder.header(ACCEPT, accept);
    }
    if request.from > 0 {
        builder = builder.header(RANGE, format!("bytes={}-", request.from));
    }
    match timeout(endpoint.connect_timeout() + HEADER_TIMEOUT, builder.send()).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => Err(unreachable(endpoint, "", &error)),
        Err(_) => Err(unavailable(endpoint, "it does not answer".into())),
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Never out of encryption, and never to where a registry may not send us.
fn may_follow(endpoint: &Endpoint, from: &Url, to: &Url) -> bool {
    let scheme = to.scheme() == "https" || (to.scheme() == "http" && from.scheme() == "http");
    let is_itself = to.host() == endpoint.host.base.host();
    scheme && to.host().is_some() && (is_itself || endpoint.reach.allows(to))
}
