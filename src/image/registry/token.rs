//! Tokens: asked of the service that a registry's challenge names.

use reqwest::{
    RequestBuilder, StatusCode, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use serde::Deserialize;
use tokio::time::timeout;

use super::{
    address::is_loopback,
    challenge::Challenge,
    endpoint::Endpoint,
    host_name::name_of,
    no_answer::{HEADER_TIMEOUT, refused, unavailable, unreachable},
    refusal,
    round::{Cure, Failure},
    transfer::read_body,
};
use crate::image::{
    Error,
    reference::Reference,
    secret::{Login, Secret},
};

/// Largest answer of a token service; bytes. Tokens themselves must fit into a header.
const TOKEN_BYTES_MAX: u64 = 256 << 10;

/// A request for a token: by whom, for what, and where the login may go.
pub(super) struct Asking<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) reference: &'a Reference,
    pub(super) login: &'a Login,
    /// Further hosts that may see the login (configuration).
    pub(super) trusted: &'a [String],
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
}

impl Asking<'_> {
    /// The `Authorization` that answers a challenge; `None` when there is nothing to answer it with.
    pub(super) async fn answer(&self, challenge: &Challenge) -> Result<Option<HeaderValue>, Failure> {
        match (challenge, self.login) {
            (_, Login::Bearer(token)) => Ok(Some(header("Bearer", token)?)),
            (Challenge::Basic, Login::Password(..) | Login::Encoded(_)) => Ok(Some(self.basic()?)),
            (Challenge::Basic, Login::Anonymous | Login::Identity(_)) => Ok(None),
            (Challenge::Bearer { realm, service, scope }, _) => {
                let token = self.token(realm, service.as_deref(), scope.as_deref()).await?;
                Ok(Some(header("Bearer", &token)?))
            }
        }
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
    ) -> Result<Secret, Failure> {
        let endpoint = self.endpoint;
        let realm = self.checked(realm).map_err(|why| refused(endpoint, why))?;
        let scope =
            scope.map_or_else(|| format!("repository:{}:pull", self.reference.repository), Into::into);
        let request = self.request(realm, service, &scope)?;
        let response = match timeout(endpoint.connect_timeout() + HEADER_TIMEOUT, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(unreachable(endpoint, "token service: ", &error)),
            Err(_) => return Err(unavailable(endpoint, "its token service does not answer".into())),
        };
        if response.status() != StatusCode::OK {
            return Err(self.refused(response).await);
        }
        let body = read_body(response, TOKEN_BYTES_MAX, "token", endpoint).await?;
        // The parser's error could show a part of the token.
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| {
            let why = refusal::web_page_instead_of("token", &body).map(|why| format!("token service: {why}"));
            refused(endpoint, why.unwrap_or_else(|| "its token cannot be read".into()))
        })?;
        let token = answer.token.filter(|token| !token.is_empty()).or(answer.access_token);
        token.map(Secret::from).ok_or_else(|| refused(endpoint, "its token service gave no token".into()))
    }

    /// The address of the token service, if a request, and the login, may go there.
    fn checked(&self, realm: &str) -> Result<Url, String> {
        let registry = &self.endpoint.host.base;
        let realm = Url::parse(realm).map_err(|_| "its token realm is no address")?;
        let registry_is_http = registry.scheme() == "http" && name_of(&realm) == name_of(registry);
        let in_the_clear = registry_is_http || (is_loopback(registry) && is_loopback(&realm));
        if realm.scheme() != "https" && !(realm.scheme() == "http" && in_the_clear) {
            return Err("its token realm is not https".into());
        }
        if realm.host() != registry.host() && !self.endpoint.reach.allows(&realm) {
            return Err("its token realm is where nothing is fetched from".into());
        }
        if *self.login != Login::Anonymous && !self.may_see_login(&realm) {
            return Err(format!(
                "it sends its login to {}, which is not its own host; `token_hosts` can allow that",
                name_of(&realm)
            ));
        }
        Ok(realm)
    }

    async fn refused(&self, response: reqwest::Response) -> Failure {
        let status = response.status();
        let mut said = refusal::read(response).await;
        for secret in self.login.secrets() {
            said = said.replace(secret, "***");
        }
        let said = if said.is_empty() { said } else { format!(": {said}") };
        let why = format!("its token service says {status}{said}");
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                let advice = match self.login {
                    Login::Anonymous => "the pull had no credentials: give the pod an imagePullSecret",
                    _ => "its credentials are not accepted: correct the imagePullSecret",
                };
                let (reference, host) = (self.reference.to_string(), self.endpoint.name());
                Error::Unauthorized { reference, host, why: format!("{why}; {advice}") }.into()
            }
            StatusCode::TOO_MANY_REQUESTS => {
                Failure { cure: Cure::Patience(None), ..unavailable(self.endpoint, why) }
            }
            status if status.is_server_error() => unavailable(self.endpoint, why),
            _ => refused(self.endpoint, why),
        }
    }

    /// A login goes by GET with basic authentication (distribution spec, token authentication); a refresh
    /// token by POST (its OAuth2 form).
    fn request(&self, mut realm: Url, service: Option<&str>, scope: &str) -> Result<RequestBuilder, Error> {
        if let Login::Identity(refresh) = self.login {
            let mut form = Url::parse("form:").map_err(|_| unreadable())?;
            form.query_pairs_mut()
                .append_pair("grant_type", "refresh_token")
                .append_pair("service", service.unwrap_or_default())
                .append_pair("client_id", "pintle")
                .append_pair("scope", scope)
                .append_pair("refresh_token", refresh.expose());
            let body = form.query().unwrap_or_default().to_string();
            let client = self.endpoint.client_for(&realm);
            return Ok(client
                .post(realm)
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(body));
        }
        {
            let mut query = realm.query_pairs_mut();
            if let Some(service) = service {
                query.append_pair("service", service);
            }
            query.append_pair("scope", scope);
        }
        let client = self.endpoint.client_for(&realm);
        let request = client.get(realm);
        Ok(match self.login {
            Login::Password(..) | Login::Encoded(_) => request.header(AUTHORIZATION, self.basic()?),
            _ => request,
        })
    }

    /// Its own host, the domain that its host is in, or what the operator allowed. Without a list of public
    /// suffixes "the domain" is the host less its first word, as long as two words are left.
    fn may_see_login(&self, realm: &Url) -> bool {
        let (Some(own), Some(other)) = (self.endpoint.host.base.host_str(), realm.host_str()) else {
            return false;
        };
        let within = |domain: &str| other == domain || other.ends_with(&format!(".{domain}"));
        let domain = own.split_once('.').map(|(_, domain)| domain).filter(|domain| domain.contains('.'));
        let is_name = own.parse::<std::net::IpAddr>().is_err() && !own.starts_with('[');
        other == own
            || (is_name && (within(own) || domain.is_some_and(within)))
            || self.trusted.iter().any(|host| host == other || *host == name_of(realm))
    }

    fn basic(&self) -> Result<HeaderValue, Error> {
        match self.login {
            Login::Encoded(auth) => header("Basic", auth),
            Login::Password(username, password) => {
                // The one place in HTTP that wants base64, and reqwest has it.
                let base = self.endpoint.host.base.clone();
                let request = self.endpoint.client_for(&base).get(base);
                let request = request.basic_auth(username.expose(), Some(password.expose()));
                let request = request.build().map_err(|_| unreadable())?;
                let mut value = request.headers().get(AUTHORIZATION).cloned().ok_or_else(unreadable)?;
                value.set_sensitive(true);
                Ok(value)
            }
            Login::Anonymous | Login::Identity(_) | Login::Bearer(_) => Err(unreadable()),
        }
    }
}

fn header(scheme: &str, secret: &Secret) -> Result<HeaderValue, Error> {
    let mut value =
        HeaderValue::from_str(&format!("{scheme} {}", secret.expose())).map_err(|_| unreadable())?;
    value.set_sensitive(true);
    Ok(value)
}

fn unreadable() -> Error {
    Error::RegistryRefused { host: "login".into(), why: "the credentials cannot be sent in a header".into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<T>(registry: &str, login: &Login, trusted: &[String], then: impl FnOnce(Asking<'_>) -> T) -> T {
        let endpoint = Endpoint::plain(Url::parse(registry).unwrap());
        let reference = Reference::parse("registry.test/app").unwrap();
        then(Asking { endpoint: &endpoint, reference: &reference, login, trusted })
    }

    fn may_see_login(registry: &str, realm: &str, trusted: &[String]) -> bool {
        let realm = Url::parse(realm).unwrap();
        with(registry, &Login::Anonymous, trusted, |asking| asking.may_see_login(&realm))
    }

    #[test]
    fn a_login_goes_to_the_registrys_own_domain_only() {
        for (registry, realm, may) in [
            ("https://registry.test", "https://registry.test/token", true),
            ("https://registry-1.hub.test", "https://auth.hub.test/token", true),
            ("https://registry.hub.test", "https://hub.test/jwt", true),
            ("https://registry.test", "https://auth.registry.test", true),
            ("https://registry.test", "https://evil.test", false),
            ("https://registry.hub.test", "https://evil-hub.test", false),
            ("https://registry.test", "https://169.254.169.254", false),
            ("https://10.1.2.3", "https://9.1.2.3", false),
        ] {
            assert_eq!(may_see_login(registry, realm, &[]), may, "{registry} {realm}");
        }
        assert!(may_see_login("https://registry.test", "https://sso.other/token", &["sso.other".into()]));
    }

    #[test]
    fn tokens_are_not_fetched_from_the_nodes_own_services() {
        for (registry, realm, may) in [
            ("https://registry.test", "https://sso.test/token", true),
            ("https://registry.test", "http://registry.test/token", false),
            ("http://registry.test", "http://registry.test/token", true),
            ("http://registry.test", "http://sso.test/token", false),
            ("https://registry.test", "https://169.254.169.254/latest", false),
            ("https://registry.test", "https://[fe80::1]/", false),
            ("https://registry.test", "https://127.0.0.1:2379/", false),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5001/token", true),
            ("http://127.0.0.1:5000", "http://169.254.169.254/latest", false),
            ("https://127.0.0.1:5000", "https://169.254.169.254/latest", false),
        ] {
            let checked = with(registry, &Login::Anonymous, &[], |asking| asking.checked(realm));
            assert_eq!(checked.is_ok(), may, "{registry} {realm}: {checked:?}");
        }
    }

    #[test]
    fn a_password_is_sent_as_base64_and_never_shown() {
        let login = Login::Password("user".into(), "pass".into());
        let value = with("https://registry.test", &login, &[], |asking| asking.basic()).unwrap();
        assert_eq!(value.to_str().unwrap(), "Basic dXNlcjpwYXNz");
        assert_eq!(format!("{value:?}"), "Sensitive");
        assert!(header("Bearer", &"a\nb".into()).is_err());
    }
}
