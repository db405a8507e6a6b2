//! JSON values that may be `null` where they may be absent.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// null is as good as absent: what Go writes for an empty list, map or text.
pub(in crate::image) fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// As [`or_default`], of the list and of each text in it.
pub(in crate::image) fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let texts: Option<Vec<Option<String>>> = Option::deserialize(deserializer)?;
    Ok(texts.unwrap_or_default().into_iter().map(Option::unwrap_or_default).collect())
}

pub(super) fn named_texts<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let texts: Option<BTreeMap<String, Option<String>>> = Option::deserialize(deserializer)?;
    Ok(texts.unwrap_or_default().into_iter().map(|(name, text)| (name, text.unwrap_or_default())).collect())
}
