//! Challenges of a 401: `WWW-Authenticate` (RFC 9110, section 11.6.1), as far as registries use it.

/// Longest header that is read; bytes.
const CHALLENGE_BYTES_MAX: usize = 8 << 10;

#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::image) enum Challenge {
    Basic,
    /// Get a token at `realm` and come back with it.
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

impl Challenge {
    /// Reads one header; `None` for other schemes and for what is malformed.
    pub(in crate::image) fn parse(header: &str) -> Option<Self> {
        if header.len() > CHALLENGE_BYTES_MAX {
            return None;
        }
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (None, None, None);
        for (name, value) in Parameters(rest) {
            match name.to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value),
                "service" => service = Some(value),
                "scope" => scope = Some(value),
                _ => {}
            }
        }
        Some(Self::Bearer { realm: realm?, service, scope })
    }
}

/// `name=value, name="quoted \" value"`
struct Parameters<'a>(&'a str);

impl Iterator for Parameters<'_> {
    type Item = (String, String);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, rest) = self.0.trim_start_matches([' ', ',', '\t']).split_once('=')?;
        let mut value = String::new();
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut chars = quoted.char_indices();
            loop {
                match chars.next()? {
                    (at, '"') => {
                        self.0 = &quoted[at + 1..];
                        break;
                    }
                    (_, '\\') => value.push(chars.next()?.1),
                    (_, other) => value.push(other),
                }
            }
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            value.push_str(rest[..end].trim());
            self.0 = &rest[end..];
        }
        Some((name.trim().to_string(), value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_read() {
        let bearer = |realm: &str, service: Option<&str>, scope: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.into(),
                service: service.map(Into::into),
                scope: scope.map(Into::into),
            })
        };
        for (header, challenge) in [
            ("Basic realm=\"x\"", Some(Challenge::Basic)),
            (
                "Bearer realm=\"https://a/t\",service=\"s\",scope=\"repository:a/b:pull,push\"",
                bearer("https://a/t", Some("s"), Some("repository:a/b:pull,push")),
            ),
            ("bearer service=s , Realm=https://a", bearer("https://a", Some("s"), None)),
            ("Bearer realm=\"a \\\"b\\\"\"", bearer("a \"b\"", None, None)),
            ("Bearer", None),
            ("Bearer service=\"s\"", None),
            ("Bearer realm=\"open", None),
            ("Negotiate", None),
            ("", None),
        ] {
            assert_eq!(Challenge::parse(header), challenge, "{header}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_header_is_read_or_not(header in "(Bearer )?[a-z=\", \\\\é]{0,60}") {
            let _ = Challenge::parse(&header);
        }
    }
}
