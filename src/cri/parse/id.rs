//! Ids of pods and containers.

use super::{At as _, Refusal, Why, text::quote};
use crate::model::{BadIdPrefix, ID_PREFIX_BYTES_MAX, IdPrefix};

/// An id or a prefix of one, perhaps another runtime's: whatever does not resolve later is unknown, which is
/// success for Stop and Remove. Here only what could do harm as a text is refused.
pub(crate) fn id(field: &'static str, value: &str) -> Result<IdPrefix, Refusal> {
    IdPrefix::parse(value).map_err(|fault| why(value, fault)).at(field)
}

fn why(value: &str, fault: BadIdPrefix) -> Why {
    match fault {
        BadIdPrefix::Empty => fault.to_string().into(),
        BadIdPrefix::Long => {
            format!("has {} bytes, more than the {ID_PREFIX_BYTES_MAX} allowed", value.len()).into()
        }
        BadIdPrefix::Control | BadIdPrefix::Slash => format!("{} {fault}", quote(value)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_may_be_anything_but_harmful() {
        let longest = "x".repeat(ID_PREFIX_BYTES_MAX);
        for good in ["a", "some-other-runtime's", "..", &longest] {
            assert_eq!(id("container_id", good).unwrap().as_str(), good);
        }
        let too_long = "x".repeat(ID_PREFIX_BYTES_MAX + 1);
        for (bad, why) in [
            ("", "container_id is empty"),
            ("a/b", "container_id \"a/b\" has a slash"),
            ("a\0", "container_id \"a\\0\" has control characters"),
            ("a\u{7f}", "container_id \"a\\u{7f}\" has control characters"),
            (&too_long, "container_id has 257 bytes, more than the 256 allowed"),
        ] {
            assert_eq!(id("container_id", bad).unwrap_err().to_string(), why);
        }
    }
}
