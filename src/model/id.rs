//! Ids of pods and containers.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A text that is not a full id.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is not an id of 64 lower-case hex digits")]
pub struct BadId(String);

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
    fn random_bytes_spell_a_valid_id() {
        let id = ContainerId::from_bytes([0xa0; 32]);
        assert_eq!(ContainerId::parse(id.as_str()), Ok(id));
    }
}
