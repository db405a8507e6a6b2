use std::time::Duration;

use reqwest::{
    Client, RequestBuilder, StatusCode, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use serde::Deserialize;
use tokio::time::timeout;

use super::{
    challenge::Challenge,
    endpoint::{chain, name_of},
    hosts::is_loopback,
    transfer::read_body,
};
use crate::image::{
    Error,
    secret::{Login, Secret},
};

/// Largest answer of a token service; bytes. Tokens themselves must fit into a header.
const TOKEN_BYTES_MAX: u64 = 256 << 10;
const TOKEN_TIMEOUT: Duration = Duration::from_secs(30);

/// Who asks, for what, and where the login may go.
pub(super) struct Asking<'a> {
    pub(super) client: &'a Client,
    /// The registry's address.
    pub(super) registry: &'a Url,
    /// `repository:library/busybox:pull`
    pub(super) scope: String,
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
    pub(super) async fn answer(&self, challenge: &Challenge) -> Result<Option<HeaderValue>, Error> {
        match (challenge, self.login) {
            (_, Login::Bearer(token)) => Ok(Some(header("Bearer", token)?)),
            (Challenge::Basic, Login::Password(..) | Login::Encoded(_)) => basic(self.login).map(Some),
            (Challenge::Basic, Login::Anonymous | Login::Identity(_)) => Ok(None),
            (Challenge::Bearer { realm, service, scope }, _) => {
                let token = self.token(realm, service.as_deref(), scope.as_deref()).await?;
                header("Bearer", &token).map(Some)
            }
        }
    }

    async fn token(&self, realm: &str, service: Option<&str>, scope: Option<&str>) -> Result<Secret, Error> {
        let host = name_of(self.registry);
        let refused = |why: String| Error::RegistryRefused { host: host.clone(), why };
        let realm = Url::parse(realm).map_err(|_| refused("its token realm is no address".into()))?;
        let registry_is_http = self.registry.scheme() == "http" && name_of(&realm) == host;
        if realm.scheme() != "https"
            && !(realm.scheme() == "http" && (registry_is_http || self.both_are_here(&realm)))
        {
            return Err(refused("its token realm is not https".into()));
        }
        let has_login = !matches!(self.login, Login::Anonymous);
        if has_login && !self.may_see_login(&realm) {
            return Err(refused(format!(
                "it sends its login to {}, which is not its own host; `token_hosts` can allow that",
                name_of(&realm)
            )));
        }
        let request = self.request(realm, service, scope.unwrap_or(&self.scope))?;
        let response = timeout(TOKEN_TIMEOUT, request.send()).await;
        let unavailable = |why: String| Error::RegistryUnavailable { host: host.clone(), why };
        let response = response
            .map_err(|_| unavailable("its token service does not answer".into()))?
            .map_err(|error| unavailable(format!("token service: {}", chain(&error))))?;
        match response.status() {
            StatusCode::OK => {}
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST) => {
                let why = format!("its token service says {status}");
                return Err(Error::Unauthorized { reference: self.scope.clone(), host, why });
            }
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Err(unavailable(format!("its token service says {status}")));
            }
            status => return Err(refused(format!("its token service says {status}"))),
        }
        let body = read_body(response, TOKEN_BYTES_MAX, "token", &host).await?;
        // The parser's error could show a part of the token.
        let answer: Answer =
            serde_json::from_slice(&body).map_err(|_| refused("its token cannot be read".into()))?;
        let token = answer.token.filter(|token| !token.is_empty()).or(answer.access_token);
        token.map(Secret::from).ok_or_else(|| refused("its token service gave no token".into()))
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
            return Ok(self
                .client
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
        let request = self.client.get(realm);
        Ok(match self.login {
            Login::Password(..) | Login::Encoded(_) => request.header(AUTHORIZATION, basic(self.login)?),
            _ => request,
        })
    }

    /// Its own host, the domain that its host is in, or what the operator allowed. Without a list of public
    /// suffixes "the domain" is the host less its first word, as long as two words are left.
    fn may_see_login(&self, realm: &Url) -> bool {
        let (Some(own), Some(other)) = (self.registry.host_str(), realm.host_str()) else { return false };
        let within = |domain: &str| other == domain || other.ends_with(&format!(".{domain}"));
        let domain = own.split_once('.').map(|(_, domain)| domain).filter(|domain| domain.contains('.'));
        let is_name = own.parse::<std::net::IpAddr>().is_err() && !own.starts_with('[');
        other == own
            || (is_name && (within(own) || domain.is_some_and(within)))
            || self.trusted.iter().any(|host| host == other || *host == name_of(realm))
    }

    fn both_are_here(&self, realm: &Url) -> bool {
        is_loopback(self.registry) && is_loopback(realm)
    }
}

fn basic(login: &Login) -> Result<HeaderValue, Error> {
    match login {
        Login::Encoded(auth) => header("Basic", auth),
        Login::Password(username, password) => {
            // The one place in HTTP that wants base64, and reqwest has it.
            let request =
                Client::new().get("http://localhost").basic_auth(username.expose(), Some(password.expose()));
            let request = request.build().map_err(|_| unreadable())?;
            let mut value = request.headers().get(AUTHORIZATION).cloned().ok_or_else(unreadable)?;
            value.set_sensitive(true);
            Ok(value)
        }
        _ => Err(unreadable()),
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

    fn check(registry: &str, realm: &str, trusted: &[String]) -> bool {
        let url = Url::parse(registry).unwrap();
        let client = Client::new();
        let login = Login::Anonymous;
        let asking = Asking { client: &client, registry: &url, scope: String::new(), login: &login, trusted };
        asking.may_see_login(&Url::parse(realm).unwrap())
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
            assert_eq!(check(registry, realm, &[]), may, "{registry} {realm}");
        }
        assert!(check("https://registry.test", "https://sso.other/token", &["sso.other".into()]));
    }

    #[test]
    fn a_password_is_sent_as_base64_and_never_shown() {
        let value = basic(&Login::Password("user".into(), "pass".into())).unwrap();
        assert_eq!(value.to_str().unwrap(), "Basic dXNlcjpwYXNz");
        assert_eq!(format!("{value:?}"), "Sensitive");
        assert!(header("Bearer", &"a\nb".into()).is_err());
    }
}
