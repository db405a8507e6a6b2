//! Labels of SELinux: what a process or file is to a policy, and the level that keeps pods from each other.

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Bytes of a user, role or type. Policies have names of some thirty.
const NAME_BYTES_MAX: usize = 128;
/// Bytes of a level. One that names each of 1024 categories by itself has more; nobody writes such a one.
const LEVEL_BYTES_MAX: usize = 1024;

/// A label (in SELinux's words a security context): `user:role:type`, and `:level` where the policy has levels.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Label {
    pub user: String,
    pub role: String,
    /// `type`.
    pub kind: String,
    pub level: Option<Level>,
}

/// A level, or a range of two: sensitivity and categories (`s0`, `s0:c1,c2`, `s0-s0:c0.c1023`).
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Level(String);

/// The parts of a label that a request gives (CRI `SELinuxOption`); the others are those of the policy.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct LabelParts {
    /// `user`; empty: not given.
    pub user: String,
    /// `role`; empty: not given.
    pub role: String,
    /// `type`; empty: not given.
    pub kind: String,
    /// `level`.
    pub level: Option<Level>,
}

/// The labels of a pod, as they were settled when it was made: a later policy or configuration changes no pod.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct PodLabels {
    /// Of a container's processes, before what the container asks for itself.
    pub process: Label,
    /// Of the processes of a container that is not kept from the host; `None`: as the policy has it for programs that
    /// pintle executes.
    pub unconfined: Option<Label>,
    /// Of its files.
    pub file: Label,
}

/// Why a text is no label, or no part of one.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text:?} is no SELinux {what}")]
pub struct BadLabel {
    what: &'static str,
    text: String,
}

impl BadLabel {
    fn new(what: &'static str, text: &str) -> Self {
        Self { what, text: text.chars().take(LEVEL_BYTES_MAX).collect() }
    }
}

/// Checks a user, role or type.
///
/// # Errors
/// [`BadLabel`], naming it as `what`.
pub fn check_label_name(what: &'static str, text: &str) -> Result<(), BadLabel> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    let fits = !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.bytes().all(known);
    if fits { Ok(()) } else { Err(BadLabel::new(what, text)) }
}

impl Label {
    /// The label with the given parts in the place of its own.
    #[must_use]
    pub fn with(mut self, parts: &LabelParts) -> Self {
        let given =
            [(&mut self.user, &parts.user), (&mut self.role, &parts.role), (&mut self.kind, &parts.kind)];
        for (part, given) in given.into_iter().filter(|(_, given)| !given.is_empty()) {
            part.clone_from(given);
        }
        self.level = parts.level.clone().or(self.level);
        self
    }
}

impl LabelParts {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl FromStr for Label {
    type Err = BadLabel;

    fn from_str(text: &str) -> Result<Self, BadLabel> {
        let bad = || BadLabel::new("label", text);
        let mut parts = text.splitn(4, ':');
        let mut name =
            || parts.next().filter(|name| check_label_name("name", name).is_ok()).map(str::to_owned);
        let (user, role, kind) = (name().ok_or_else(bad)?, name().ok_or_else(bad)?, name().ok_or_else(bad)?);
        let level = parts.next().map(str::parse).transpose().map_err(|_| bad())?;
        Ok(Self { user, role, kind, level })
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.user, self.role, self.kind)?;
        match &self.level {
            Some(level) => write!(f, ":{level}"),
            None => Ok(()),
        }
    }
}

impl Level {
    /// The level of two categories in the lowest sensitivity; the smaller one is written first.
    pub fn of_categories(one: u16, other: u16) -> Self {
        Self(format!("s0:c{},c{}", one.min(other), one.max(other)))
    }
}

impl FromStr for Level {
    type Err = BadLabel;

    fn from_str(text: &str) -> Result<Self, BadLabel> {
        let fits = text.len() <= LEVEL_BYTES_MAX && text.splitn(3, '-').count() <= 2;
        if !fits || !text.split('-').all(is_one_level) {
            return Err(BadLabel::new("level", text));
        }
        Ok(Self(text.split('-').map(in_order).collect::<Vec<_>>().join("-")))
    }
}

/// One level with each of its categories once and by their numbers, so that equal levels are equal texts. Runs of
/// categories stay as they are.
fn in_order(text: &str) -> String {
    let Some((sensitivity, categories)) = text.split_once(':') else { return text.into() };
    let numbers: Option<BTreeSet<_>> = categories.split(',').map(|category| number(category, 'c')).collect();
    let Some(numbers) = numbers else { return text.into() };
    let categories: Vec<_> = numbers.iter().map(|number| format!("c{number}")).collect();
    format!("{sensitivity}:{}", categories.join(","))
}

/// `sN`, or `sN:` and categories.
fn is_one_level(text: &str) -> bool {
    let (sensitivity, categories) = match text.split_once(':') {
        Some((sensitivity, categories)) => (sensitivity, Some(categories)),
        None => (text, None),
    };
    number(sensitivity, 's').is_some()
        && categories.is_none_or(|categories| categories.split(',').all(is_categories))
}

/// `cN`, or `cN.cM` with N below M.
fn is_categories(text: &str) -> bool {
    match text.split_once('.') {
        None => number(text, 'c').is_some(),
        Some((first, last)) => {
            number(first, 'c').zip(number(last, 'c')).is_some_and(|(first, last)| first < last)
        }
    }
}

/// The number of a sensitivity or category, which has four digits at most.
fn number(text: &str, letter: char) -> Option<u16> {
    let digits = text.strip_prefix(letter)?;
    let fits = (1..=4).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    fits.then(|| digits.parse().ok()).flatten()
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Label {
    type Error = BadLabel;

    fn try_from(text: String) -> Result<Self, BadLabel> {
        text.parse()
    }
}

impl From<Label> for String {
    fn from(label: Label) -> Self {
        label.to_string()
    }
}

impl TryFrom<String> for Level {
    type Error = BadLabel;

    fn try_from(text: String) -> Result<Self, BadLabel> {
        text.parse()
    }
}

impl From<Level> for String {
    fn from(level: Level) -> Self {
        level.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_three_names_and_perhaps_a_level() {
        for text in [
            "system_u:system_r:container_t:s0:c1,c2",
            "system_u:object_r:container_file_t:s0",
            "u:r:t",
            "u:r:t:s0-s15:c0.c1023",
            "u:r:t:s0:c1-s0:c1,c7.c9",
        ] {
            let label: Label = text.parse().unwrap();
            assert_eq!(label.to_string(), text);
        }
        let too_long = format!("u:r:{}", "t".repeat(NAME_BYTES_MAX + 1));
        for text in ["", "u:r", "u::t", "u:r:t:", "u:r:t:c1", "u:r:t t:s0", "u:r:t\n", &too_long] {
            assert!(text.parse::<Label>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_level_has_numbers_of_four_digits_in_their_order() {
        for text in ["s0", "s0:c1", "s0:c1,c2", "s15:c0.c1023", "s0-s1", "s0-s0:c0.c1023,c9"] {
            assert_eq!(text.parse::<Level>().map(|level| level.to_string()), Ok(text.into()));
        }
        let long = format!("s0:{}", vec!["c1000"; 300].join(","));
        for text in [
            "",
            "0",
            "s",
            "s0:",
            "s0:c",
            "s0:c1,",
            "s0:c2.c1",
            "s0:c10000",
            "s0:c1 ",
            "s0-s1-s2",
            "s-0",
            &long,
        ] {
            assert!(text.parse::<Level>().is_err(), "{text:?}");
        }
        assert_eq!(Level::of_categories(7, 3).to_string(), "s0:c3,c7");
        assert_eq!("s0:c7,c3,c07".parse(), Ok(Level::of_categories(7, 3)));
    }

    #[test]
    fn the_parts_that_are_given_replace_those_of_the_label() {
        let base: Label = "system_u:system_r:container_t:s0:c1,c2".parse().unwrap();
        assert_eq!(base.clone().with(&LabelParts::default()), base);
        let level = LabelParts { level: "s0:c5".parse().ok(), ..LabelParts::default() };
        assert_eq!(base.clone().with(&level).to_string(), "system_u:system_r:container_t:s0:c5");
        let all = LabelParts { user: "u".into(), role: "r".into(), kind: "t".into(), ..level };
        assert_eq!(base.with(&all).to_string(), "u:r:t:s0:c5");
    }
}
