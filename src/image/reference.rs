//! How images are called, from outside bytes to a name with nothing left open.

use std::fmt;

use super::Error;
use crate::model::Digest;

/// Longest text that is looked at; bytes. Longer than any registry allows, short enough for a log line.
pub(super) const REFERENCE_BYTES_MAX: usize = 4096;
/// Longest repository name without the host; bytes (OCI distribution spec, "Pulling manifests").
const REPOSITORY_BYTES_MAX: usize = 255;
/// Longest tag; bytes (same place).
const TAG_BYTES_MAX: usize = 128;
/// Shortest id prefix that is worth looking for; digits.
const ID_PREFIX_DIGITS_MIN: usize = 4;

const DEFAULT_HOST: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";

/// The address of an image: a host, a repository there, and which of its images.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Reference {
    /// `docker.io`, `registry.test:5000`, `[::1]:5000`
    pub(super) host: String,
    /// `library/busybox`
    pub(super) repository: String,
    pub(super) target: Target,
}

/// Which image of a repository. A tag beside a digest says nothing more, so it is dropped.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) enum Target {
    Tag(String),
    Digest(Digest),
}

/// The ways for a caller to name a *local* image.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Query {
    /// `sha256:…` or 64 digits: the image's id.
    Id(Digest),
    Name(Reference),
    /// A text that can be read as a name and as the start of an id; the name goes first.
    NameOrPrefix(Reference, String),
    /// The start of an id, `sha256:` already taken off.
    Prefix(String),
}

impl Reference {
    /// Reads a reference and fills in what short names leave out.
    ///
    /// # Errors
    /// [`Error::BadReference`] for anything outside the grammar.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let bad = |why| Error::BadReference { reference: shown(text), why };
        if text.is_empty() {
            return Err(bad("it is empty"));
        }
        if text.len() > REFERENCE_BYTES_MAX {
            return Err(bad("it is longer than 4096 bytes"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (
                rest,
                Some(Digest::parse(digest).map_err(|_| bad("its digest is not sha256:<64 hex digits>"))?),
            ),
            None => (text, None),
        };
        let (name, tag) = split_tag(rest);
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(bad("its tag has characters that no tag has"));
        }
        let (host, repository) = split_host(name);
        if !is_host(&host) {
            return Err(bad("its registry is not a host name"));
        }
        if repository.len() > REPOSITORY_BYTES_MAX || !repository.split('/').all(is_component) {
            return Err(bad("its name has characters that no repository has"));
        }
        let target = match digest {
            Some(digest) => Target::Digest(digest),
            None => Target::Tag(tag.unwrap_or(DEFAULT_TAG).into()),
        };
        Ok(Self { host, repository, target })
    }

    /// `docker.io/library/busybox`
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }

    /// The repository with one digest: what CRI calls a repo digest.
    pub(super) fn with_digest(&self, digest: &Digest) -> String {
        format!("{}@{digest}", self.name())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Tag(tag) => write!(f, "{}/{}:{tag}", self.host, self.repository),
            Target::Digest(digest) => write!(f, "{}/{}@{digest}", self.host, self.repository),
        }
    }
}

impl Query {
    /// # Errors
    /// [`Error::BadReference`] when it can be neither a name nor an id.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        if let Ok(id) = Digest::parse(text).or_else(|_| Digest::parse(&format!("sha256:{text}"))) {
            return Ok(Self::Id(id));
        }
        if let Some(prefix) = text.strip_prefix("sha256:")
            && is_id_prefix(prefix)
        {
            return Ok(Self::Prefix(prefix.into()));
        }
        let name = Reference::parse(text)?;
        if is_id_prefix(text) {
            return Ok(Self::NameOrPrefix(name, text.into()));
        }
        Ok(Self::Name(name))
    }
}

/// For an error message: bounded, and escaped when printed with `{:?}`.
fn shown(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 128;
    text.chars().take(SHOWN_CHARS_MAX).collect()
}

fn is_id_prefix(text: &str) -> bool {
    (ID_PREFIX_DIGITS_MIN..64).contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A colon after the last slash starts a tag; before it, it belongs to the host's port.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') && !name.is_empty() => (name, Some(tag)),
        _ => (text, None),
    }
}

/// The first component is a host when it looks like one: a dot, a colon, or `localhost` (the rule every
/// client shares); otherwise the name is a short one of the default registry.
fn split_host(name: &str) -> (String, String) {
    let (host, repository) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        _ => (DEFAULT_HOST, name),
    };
    let host = if host == "index.docker.io" { DEFAULT_HOST } else { host };
    if host == DEFAULT_HOST && !repository.contains('/') {
        return (host.into(), format!("library/{repository}"));
    }
    (host.into(), repository.into())
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut bytes = tag.bytes();
    tag.len() <= TAG_BYTES_MAX
        && bytes.next().is_some_and(word)
        && bytes.all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    };
    if port
        .is_some_and(|port| !port.bytes().all(|byte| byte.is_ascii_digit()) || port.parse::<u16>().is_err())
    {
        return false;
    }
    if let Some(address) = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    name.split('.').all(|label| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    })
}

/// One part of a repository's path: lower-case words joined by `.`, `_`, `__` or any number of `-`.
fn is_component(component: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    if !bytes.first().copied().is_some_and(word) || !bytes.last().copied().is_some_and(word) {
        return false;
    }
    component
        .split(|c: char| c.is_ascii() && word(c as u8))
        .all(|joint| matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|byte| byte == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn short_names_are_filled_in() {
        let digest = format!("busybox@sha256:{HEX}");
        let both = format!("registry.test:5000/a/b:tag@sha256:{HEX}");
        for (text, full) in [
            ("busybox", "docker.io/library/busybox:latest".to_string()),
            ("busybox:1.36", "docker.io/library/busybox:1.36".into()),
            ("team/app", "docker.io/team/app:latest".into()),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest".into()),
            ("localhost/app", "localhost/app:latest".into()),
            ("localhost:5000/app", "localhost:5000/app:latest".into()),
            ("[::1]:5000/app:v1", "[::1]:5000/app:v1".into()),
            ("registry.test/a/b-c/d__e:V_1.0-x", "registry.test/a/b-c/d__e:V_1.0-x".into()),
            (&digest, format!("docker.io/library/busybox@sha256:{HEX}")),
            (&both, format!("registry.test:5000/a/b@sha256:{HEX}")),
        ] {
            assert_eq!(Reference::parse(text).unwrap().to_string(), full, "{text}");
        }
    }

    #[test]
    fn what_is_outside_the_grammar_is_refused() {
        let long = "a".repeat(REFERENCE_BYTES_MAX + 1);
        let twice = format!("a@sha256:{HEX}@sha256:{HEX}");
        for text in [
            "",
            " ",
            "a b",
            "A",
            "../a",
            "a/../b",
            "a//b",
            "/a",
            "a/",
            "a:",
            ":a",
            ":5000",
            "a:b:c",
            "a@",
            "a@b",
            "a@sha256:",
            "a@sha256:../../x",
            "a@sha512:00",
            "registry.test:99999/a",
            "registry.test:x/a",
            "a\0b",
            "ä",
            "a___b",
            "a..b",
            "-a",
            "registry..test/a",
            "-registry.test/a",
            "[::g]:1/a",
            "a\n",
            "https://a/b",
            "registry.test/",
            "a:-tag",
            &long,
            &twice,
        ] {
            assert!(matches!(Reference::parse(text), Err(Error::BadReference { .. })), "{text:?}");
        }
    }

    #[test]
    fn an_id_is_told_from_a_name() {
        let id = Digest::parse(&format!("sha256:{HEX}")).unwrap();
        assert_eq!(Query::parse(HEX).unwrap(), Query::Id(id.clone()));
        assert_eq!(Query::parse(&format!("sha256:{HEX}")).unwrap(), Query::Id(id));
        assert_eq!(Query::parse("sha256:0123").unwrap(), Query::Prefix("0123".into()));
        assert!(matches!(Query::parse("cafe").unwrap(), Query::NameOrPrefix(_, prefix) if prefix == "cafe"));
        assert!(matches!(Query::parse("busybox").unwrap(), Query::Name(_)));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_what_is_read_reads_again(text in "[a-zA-Z0-9.:@/_\\[\\]-]{0,60}") {
            if let Ok(reference) = Reference::parse(&text) {
                proptest::prop_assert_eq!(Reference::parse(&reference.to_string()).unwrap(), reference);
            }
        }
    }
}
