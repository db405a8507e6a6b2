//! Secrets that no log shows, and the login that a pull uses of a caller's credentials.

/// A text that must not be seen: no `Display`, and a `Debug` that says nothing.
#[derive(Clone, Default, Eq, Hash, PartialEq)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for a request header and nothing else.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Drop for Secret {
    /// Best effort: the allocator gets back zeroes, not a password.
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.0).into_bytes();
        bytes.fill(0);
        std::hint::black_box(&bytes);
    }
}

/// CRI `AuthConfig`. Given with one pull, used by that pull, forgotten with it.
#[derive(Clone, Default)]
pub struct Credentials {
    pub username: String,
    pub password: String,
    /// base64 of `username:password`.
    pub auth: String,
    /// When set, the only registry these are for.
    pub server_address: String,
    /// OAuth2 refresh token.
    pub identity_token: String,
    /// Sent to the registry as a bearer token, as it is.
    pub registry_token: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("server_address", &self.server_address).finish_non_exhaustive()
    }
}

/// How one pull shows who it is; at most one way, the strongest that was given.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(super) enum Login {
    #[default]
    Anonymous,
    /// User name and password.
    Password(Secret, Secret),
    /// `username:password` in base64, as it was given.
    Encoded(Secret),
    /// OAuth2 refresh token, to be changed for an access token at the realm.
    Identity(Secret),
    /// A bearer token for the registry itself.
    Bearer(Secret),
}

impl Login {
    /// The login that `credentials` give for the registry `host`. Given for another server, they mean nothing here.
    pub(super) fn for_host(credentials: Option<Credentials>, host: &str) -> Self {
        let Some(given) = credentials else { return Self::Anonymous };
        if !given.server_address.is_empty() && server_host(&given.server_address) != host {
            return Self::Anonymous;
        }
        if !given.registry_token.is_empty() {
            Self::Bearer(given.registry_token.into())
        } else if !given.identity_token.is_empty() {
            Self::Identity(given.identity_token.into())
        } else if !given.username.is_empty() {
            Self::Password(given.username.into(), given.password.into())
        } else if !given.auth.is_empty() {
            Self::Encoded(given.auth.into())
        } else {
            Self::Anonymous
        }
    }

    /// The texts of it that nobody may see.
    pub(super) fn secrets(&self) -> impl Iterator<Item = &str> {
        let secret = match self {
            Self::Anonymous => None,
            // A user name is no secret, and may be a common word.
            Self::Password(_, secret)
            | Self::Encoded(secret)
            | Self::Identity(secret)
            | Self::Bearer(secret) => Some(secret),
        };
        secret.into_iter().map(Secret::expose).filter(|secret| !secret.is_empty())
    }

    /// Tells concurrent pulls apart: only those with equal logins share their work. Means nothing outside
    /// this process.
    pub(super) fn fingerprint(&self, keys: &std::hash::RandomState) -> u64 {
        use std::hash::BuildHasher as _;
        keys.hash_one(self)
    }
}

/// `https://registry.test/v1/` → `registry.test`; docker's own old address is its registry's name.
fn server_host(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    match rest.split('/').next().unwrap_or("") {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canary() -> Credentials {
        Credentials {
            username: "canary-user".into(),
            password: "canary-pass".into(),
            auth: "canary-auth".into(),
            server_address: "https://registry.test/v2/".into(),
            identity_token: String::new(),
            registry_token: String::new(),
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let login = Login::for_host(Some(canary()), "registry.test");
        assert_eq!(login, Login::Password("canary-user".into(), "canary-pass".into()));
        let shown = format!("{:?} {login:?}", canary());
        assert!(!shown.contains("canary"), "{shown}");
    }

    #[test]
    fn credentials_for_another_server_are_not_used() {
        assert_eq!(Login::for_host(Some(canary()), "other.test"), Login::Anonymous);
        assert_eq!(server_host("https://index.docker.io/v1/"), "docker.io");
    }
}
