//! Ids of pods and containers.

use super::{
    At as _, Refusal, Why,
    limits::ID_BYTES_MAX,
    text::{line, quote},
};

/// An id or a prefix of one, perhaps another runtime's: whatever does not resolve later is unknown, which is
/// success for Stop and Remove. Here only what could do harm as a text is refused.
pub(crate) fn id(field: &'static str, value: &str) -> Result<String, Refusal> {
    check(value).map(|()| value.to_owned()).at(field)
}

fn check(value: &str) -> Result<(), Why> {
    if value.is_empty() {
        return Err("is empty".into());
    }
    line(ID_BYTES_MAX, value)?;
    if value.contains('/') {
        return Err(format!("{} has a slash", quote(value)).into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_may_be_anything_but_harmful() {
        let longest = "x".repeat(ID_BYTES_MAX);
        for good in ["a", "some-other-runtime's", "..", &longest] {
            assert_eq!(id("container_id", good), Ok(good.into()));
        }
        let too_long = "x".repeat(ID_BYTES_MAX + 1);
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
