//! Ids of pods and containers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A text that is not a full id.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is not an id of 64 lower-case hex digits")]
pub struct BadId(String);

/// Longest [`IdPrefix`]; bytes. Our ids have 64 digits; other runtimes' may be longer.
pub const ID_PREFIX_BYTES_MAX: usize = 256;

/// An id of a pod or container, or a prefix of one, as a caller wrote it. It may be another runtime's, and need not
/// name anything. It has no slash and no control character, so it can be printed, and cannot be a path.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct IdPrefix(Box<str>);

/// The reason why a text is not an [`IdPrefix`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadIdPrefix {
    #[error("is empty")]
    Empty,
    #[error("is longer than {ID_PREFIX_BYTES_MAX} bytes")]
    Long,
    #[error("has control characters")]
    Control,
    #[error("has a slash")]
    Slash,
}

impl IdPrefix {
    /// Reads what a caller wrote.
    ///
    /// # Errors
    /// [`BadIdPrefix`] for a text that could do harm.
    pub fn parse(text: &str) -> Result<Self, BadIdPrefix> {
        match text {
            "" => Err(BadIdPrefix::Empty),
            long if long.len() > ID_PREFIX_BYTES_MAX => Err(BadIdPrefix::Long),
            text if text.contains(char::is_control) => Err(BadIdPrefix::Control),
            text if text.contains('/') => Err(BadIdPrefix::Slash),
            text => Ok(Self(text.into())),
        }
    }

    /// The text as the caller wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `id` is this one or begins with it.
    pub fn fits(&self, id: &str) -> bool {
        id.starts_with(&*self.0)
    }
}

impl fmt::Display for IdPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for IdPrefix {
    type Error = BadIdPrefix;
    fn try_from(text: String) -> Result<Self, BadIdPrefix> {
        Self::parse(&text)
    }
}

impl From<IdPrefix> for String {
    fn from(id: IdPrefix) -> Self {
        id.0.into()
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// Reads a full id; a prefix is not one.
            ///
            /// # Errors
            /// [`BadId`] unless `text` is exactly 64 lower-case hex digits.
            pub fn parse(text: &str) -> Result<Self, BadId> {
                let hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
                if hex && text.len() == 64 { Ok(Self(text.into())) } else { Err(BadId(text.into())) }
            }

            /// The id that 32 random bytes spell.
            pub fn from_bytes(bytes: [u8; 32]) -> Self {
                use fmt::Write as _;
                let mut text = String::with_capacity(64);
                for byte in bytes {
                    // Writing to a String cannot fail.
                    let _written = write!(text, "{byte:02x}");
                }
                Self(text.into())
            }

            /// All 64 digits.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadId;
            fn try_from(text: String) -> Result<Self, BadId> {
                Self::parse(&text)
            }
        }

        /// A full id is the longest prefix of itself.
        impl From<&$name> for IdPrefix {
            fn from(id: &$name) -> Self {
                Self(id.0.clone())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.into()
            }
        }
    };
}

id! {
    /// Identifies one pod for its whole life; never reused.
    PodId
}
id! {
    /// Identifies one container (one attempt) for its whole life; never reused.
    ContainerId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_64_lower_case_hex_digits_and_nothing_else() {
        let full = "0123456789abcdef".repeat(4);
        assert_eq!(PodId::parse(&full).unwrap().as_str(), full);
        for bad in ["", &full[1..], &full.to_uppercase(), &full.replace('0', "/"), &format!("{full}0")] {
            assert_eq!(PodId::parse(bad), Err(BadId(bad.into())));
        }
    }

    #[test]
    fn a_prefix_is_any_text_that_can_be_printed_and_is_no_path() {
        let longest = "x".repeat(ID_PREFIX_BYTES_MAX);
        for good in ["a", "some-other-runtime's", "..", "ABC", &longest] {
            assert_eq!(IdPrefix::parse(good).unwrap().as_str(), good);
        }
        let too_long = format!("{longest}x");
        for (bad, why) in [
            ("", BadIdPrefix::Empty),
            (too_long.as_str(), BadIdPrefix::Long),
            ("a\0", BadIdPrefix::Control),
            ("a\u{7f}", BadIdPrefix::Control),
            ("a/b", BadIdPrefix::Slash),
        ] {
            assert_eq!(IdPrefix::parse(bad), Err(why));
            assert!(serde_json::from_value::<IdPrefix>(bad.into()).is_err(), "from a record");
        }
        let prefix = IdPrefix::parse("ab").unwrap();
        assert!(prefix.fits("abc") && prefix.fits("ab") && !prefix.fits("a") && !prefix.fits("xab"));
    }

    #[test]
    fn random_bytes_spell_a_valid_id() {
        let id = ContainerId::from_bytes([0xa0; 32]);
        assert_eq!(ContainerId::parse(id.as_str()), Ok(id));
    }
}
