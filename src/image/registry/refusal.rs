//! Refusals of hosts: their own words, and advice to the person who reads them.

use std::time::Duration;

use reqwest::{Response, StatusCode};
use serde::Deserialize;
use tokio::time::timeout;

use crate::image::Error;

/// Of an error's body; bytes. Registries say it in a few hundred.
const BODY_BYTES_MAX: usize = 16 << 10;
/// For an error's body: it is worth no more.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// Of what a host says, in our own error.
const SAID_CHARS_MAX: usize = 400;

const WEB_PAGE: &str = "it answers with a web page";

/// A status that is no success, and who got it.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) host: String,
    pub(super) reference: String,
    pub(super) status: StatusCode,
    /// The host's own words, or nothing.
    pub(super) said: String,
    pub(super) is_mirror: bool,
    /// Whether the host was sent credentials.
    pub(super) has_login: bool,
}

impl Refusal {
    pub(super) fn error(self) -> Error {
        let said = if self.said.is_empty() { String::new() } else { format!(": {}", self.said) };
        let why = format!("{}{said}", self.status);
        let Self { host, reference, .. } = self;
        match self.status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let advice = access_advice(self.status, self.is_mirror, self.has_login);
                Error::Unauthorized { reference, host, why: format!("{why}; {advice}") }
            }
            StatusCode::NOT_FOUND => Error::NotInRegistry { reference, host, said },
            StatusCode::TOO_MANY_REQUESTS => {
                let advice = if self.has_login || self.is_mirror {
                    "wait, or pull through a mirror"
                } else {
                    "give the pod an imagePullSecret, or pull through a mirror"
                };
                Error::RegistryUnavailable { host, why: format!("{why}; {advice}") }
            }
            StatusCode::REQUEST_TIMEOUT => Error::RegistryUnavailable { host, why },
            status if status.is_server_error() => Error::RegistryUnavailable { host, why },
            _ => Error::RegistryRefused { host, why: format!("it says {why}") },
        }
    }
}

/// Whose mistake it is that access is denied.
fn access_advice(status: StatusCode, is_mirror: bool, has_login: bool) -> &'static str {
    match (status, is_mirror, has_login) {
        (_, true, _) => "mirrors are sent no credentials: open it, or give it a header in hosts.toml",
        (_, _, false) => {
            "the pull had no credentials: give the pod an imagePullSecret, or correct the image's name"
        }
        (StatusCode::UNAUTHORIZED, ..) => "its credentials are not accepted: correct the imagePullSecret",
        _ => "its account may not pull this: give it access, or correct the image's name",
    }
}

/// Reads what a host says about its refusal: a line of text, without control characters, or nothing.
pub(super) async fn read(mut response: Response) -> String {
    let mut body = Vec::new();
    let reading = async {
        while let Ok(Some(piece)) = response.chunk().await {
            body.extend_from_slice(&piece);
            if body.len() >= BODY_BYTES_MAX {
                break;
            }
        }
    };
    // What came in time is reported.
    let _read = timeout(BODY_TIMEOUT, reading).await;
    body.truncate(BODY_BYTES_MAX);
    words_of(&body)
}

/// Whether bytes that should be a document are HTML, or XML as stores of objects write their errors.
pub(super) fn is_web_page(body: &[u8]) -> bool {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    body.trim_ascii_start().starts_with(b"<")
}

/// Why an answer that should be a `document` is none, if it is a web page.
pub(super) fn web_page_instead_of(document: &str, body: &[u8]) -> Option<String> {
    is_web_page(body).then(|| {
        format!(
            "{WEB_PAGE} instead of a {document}: it is no registry, or a proxy or login page stands before it; \
             correct the image's host name, or `server` and `override_path` in hosts.toml"
        )
    })
}

fn words_of(body: &[u8]) -> String {
    let whole = String::from_utf8_lossy(body);
    let text = match serde_json::from_slice::<Body>(body) {
        Ok(body) => body.words(),
        // Stores of objects, to which registries redirect, speak XML.
        Err(_) if is_web_page(body) => match whole.split_once("<Message>") {
            Some((_, after)) => after.split('<').next().unwrap_or_default().into(),
            None => format!("{WEB_PAGE}; is it a registry?"),
        },
        Err(_) => whole.into_owned(),
    };
    let line: Vec<&str> = text.split(|c: char| c.is_control() || c.is_whitespace()).collect();
    let line = line.iter().filter(|word| !word.is_empty()).copied().collect::<Vec<_>>().join(" ");
    let cut: String = line.chars().take(SAID_CHARS_MAX).collect();
    if cut.len() < line.len() { format!("{cut}…") } else { cut }
}

/// The forms in which registries and token services say what is wrong.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    /// OCI distribution spec, "Error codes".
    errors: Option<Vec<Entry>>,
    /// OAuth2 (RFC 6749, 5.2), and many others.
    error: Option<serde_json::Value>,
    error_description: Option<String>,
    message: Option<String>,
    /// Docker's token service.
    details: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    code: Option<serde_json::Value>,
    message: Option<String>,
}

impl Body {
    fn words(self) -> String {
        let text = |value: &serde_json::Value| match value {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Number(number) => number.to_string(),
            _ => String::new(),
        };
        let join = |parts: [Option<String>; 2]| {
            let parts = parts.into_iter().flatten().filter(|part| !part.is_empty());
            parts.collect::<Vec<_>>().join(": ")
        };
        let entries = self.errors.unwrap_or_default();
        let entries = entries.into_iter().map(|entry| join([entry.code.as_ref().map(text), entry.message]));
        let own =
            join([self.error.as_ref().map(text), self.error_description.or(self.message).or(self.details)]);
        entries.chain([own]).filter(|words| !words.is_empty()).collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: StatusCode, said: &str) -> Refusal {
        let (host, reference) = ("registry.test".to_string(), "registry.test/team/app:v1".to_string());
        Refusal { host, reference, status, said: said.into(), is_mirror: false, has_login: false }
    }

    #[test]
    fn a_registrys_own_words_are_read_in_all_their_forms() {
        for (body, words) in [
            (
                r#"{"errors":[{"code":"DENIED","message":"no access\nto team/app","detail":[1]}]}"#,
                "DENIED: no access to team/app",
            ),
            (r#"{"errors":[{"code":"A"},{"message":"b"},{}]}"#, "A; b"),
            (r#"{"errors":null,"message":"plain"}"#, "plain"),
            (
                r#"{"error":"invalid_grant","error_description":"token expired"}"#,
                "invalid_grant: token expired",
            ),
            (r#"{"error":{"code":403},"message":"forbidden"}"#, "forbidden"),
            (r#"{"details":"incorrect username or password"}"#, "incorrect username or password"),
            ("{}", ""),
            ("", ""),
            ("just\u{1b}[31m text\r\n", "just [31m text"),
            (
                "<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>",
                "Request has expired",
            ),
            ("<html><body>Sign in</body></html>", "it answers with a web page; is it a registry?"),
        ] {
            assert_eq!(words_of(body.as_bytes()), words, "{body}");
        }
        let long = words_of("é".repeat(BODY_BYTES_MAX).as_bytes());
        assert_eq!(long.chars().count(), SAID_CHARS_MAX + 1);
    }

    #[test]
    fn a_403_without_credentials_asks_for_some() {
        let error = refusal(StatusCode::FORBIDDEN, "DENIED: requested access is denied").error();
        assert_eq!(
            error.to_string(),
            "pull registry.test/team/app:v1: registry.test: unauthorized or denied (403 Forbidden: DENIED: \
             requested access is denied; the pull had no credentials: give the pod an imagePullSecret, or \
             correct the image's name)"
        );
    }

    #[test]
    fn a_401_with_credentials_says_that_they_are_wrong() {
        let refusal = Refusal { has_login: true, ..refusal(StatusCode::UNAUTHORIZED, "") };
        let error = refusal.error().to_string();
        assert!(
            error.ends_with(
                "(401 Unauthorized; its credentials are not accepted: correct the imagePullSecret)"
            ),
            "{error}"
        );
    }

    #[test]
    fn a_403_with_credentials_says_that_they_are_not_enough() {
        let refusal = Refusal { has_login: true, ..refusal(StatusCode::FORBIDDEN, "") };
        let error = refusal.error().to_string();
        assert!(error.contains("its account may not pull this: give it access"), "{error}");
    }

    #[test]
    fn a_mirror_that_wants_credentials_is_told_from_the_registry() {
        let refusal = Refusal { is_mirror: true, ..refusal(StatusCode::UNAUTHORIZED, "") };
        let error = refusal.error().to_string();
        assert!(error.contains("mirrors are sent no credentials"), "{error}");
    }

    #[test]
    fn a_429_says_how_to_get_more() {
        let said = "TOOMANYREQUESTS: You have reached your pull rate limit";
        let error = refusal(StatusCode::TOO_MANY_REQUESTS, said).error().to_string();
        assert_eq!(
            error,
            format!(
                "RegistryUnavailable: registry.test: 429 Too Many Requests: {said}; give the pod an \
                 imagePullSecret, or pull through a mirror"
            )
        );
        let refusal = Refusal { has_login: true, ..refusal(StatusCode::TOO_MANY_REQUESTS, "") };
        assert!(refusal.error().to_string().ends_with("wait, or pull through a mirror"));
    }

    #[test]
    fn a_404_keeps_what_the_registry_says() {
        let error = refusal(StatusCode::NOT_FOUND, "NAME_UNKNOWN: repository name not known").error();
        assert_eq!(
            error.to_string(),
            "registry.test/team/app:v1 is not in registry registry.test: NAME_UNKNOWN: repository name not known"
        );
    }

    #[test]
    fn a_web_page_is_told_from_a_manifest() {
        for page in ["<!DOCTYPE html>", " \r\n<html>", "\u{feff}<?xml version=\"1.0\"?>"] {
            assert!(web_page_instead_of("manifest", page.as_bytes()).is_some(), "{page}");
        }
        for other in ["", "{}", "[]", "\u{1f}\u{8b}"] {
            assert_eq!(web_page_instead_of("manifest", other.as_bytes()), None);
        }
    }
}
