//! Names of CDI devices: `vendor/class=name`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bytes of each of the three parts; a vendor is a DNS name.
const PART_BYTES_MAX: usize = 253;

/// A fully qualified name of a device of the Container Device Interface, such as `nvidia.com/gpu=0`.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct CdiDeviceName(String);

/// Why a text is no such name.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("it is not vendor/class=name ({0})")]
pub struct BadCdiName(&'static str);

impl CdiDeviceName {
    /// # Errors
    /// When a part is missing, too long or not made of the letters it may have.
    pub fn parse(text: &str) -> Result<Self, BadCdiName> {
        let (kind, name) = text.split_once('=').ok_or(BadCdiName("there is no \"=\""))?;
        Self::new(kind, name)
    }

    /// Of a `kind`, which is `vendor/class`, and the name of a device of that kind.
    ///
    /// # Errors
    /// As [`CdiDeviceName::parse`].
    pub fn new(kind: &str, name: &str) -> Result<Self, BadCdiName> {
        check_cdi_kind(kind)?;
        let first = |c: char| c.is_ascii_alphanumeric();
        check(name, first, "_-.:", "the name of the device")?;
        Ok(Self(format!("{kind}={name}")))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Checks a `vendor/class`.
///
/// # Errors
/// As [`CdiDeviceName::parse`].
pub fn check_cdi_kind(kind: &str) -> Result<(), BadCdiName> {
    let (vendor, class) = kind.split_once('/').ok_or(BadCdiName("there is no \"/\""))?;
    let first = |c: char| c.is_ascii_alphabetic();
    check(vendor, first, "_-.", "the vendor")?;
    check(class, first, "_-.", "the class")
}

fn check(part: &str, first: fn(char) -> bool, signs: &str, what: &'static str) -> Result<(), BadCdiName> {
    let known = |c: char| c.is_ascii_alphanumeric() || signs.contains(c);
    let good = part.len() <= PART_BYTES_MAX
        && part.starts_with(first)
        && part.ends_with(|c: char| c.is_ascii_alphanumeric())
        && part.chars().all(known);
    if good { Ok(()) } else { Err(BadCdiName(what)) }
}

impl TryFrom<String> for CdiDeviceName {
    type Error = BadCdiName;

    fn try_from(text: String) -> Result<Self, BadCdiName> {
        Self::parse(&text)
    }
}

impl From<CdiDeviceName> for String {
    fn from(name: CdiDeviceName) -> Self {
        name.0
    }
}

impl fmt::Display for CdiDeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_a_vendor_a_class_and_a_device() {
        let longest = format!("{}/c=d", "v".repeat(PART_BYTES_MAX));
        for good in ["nvidia.com/gpu=0", "v/c=d", "vendor.com/net.port_1=a:b.c-d", &longest] {
            assert_eq!(CdiDeviceName::parse(good).map(String::from).as_deref(), Ok(good));
        }
        for (bad, part) in [
            ("", "there is no \"=\""),
            ("vendor/class", "there is no \"=\""),
            ("vendor=d", "there is no \"/\""),
            ("/c=d", "the vendor"),
            ("1v/c=d", "the vendor"),
            ("v./c=d", "the vendor"),
            ("v v/c=d", "the vendor"),
            (&format!("v{longest}"), "the vendor"),
            ("v/=d", "the class"),
            ("v/1=d", "the class"),
            ("v/c/d=e", "the class"),
            ("v/c=", "the name of the device"),
            ("v/c=-d", "the name of the device"),
            ("v/c=d=e", "the name of the device"),
            ("v/c=d\n", "the name of the device"),
            ("v/c=é", "the name of the device"),
        ] {
            let why = CdiDeviceName::parse(bad).unwrap_err().to_string();
            assert_eq!(why, format!("it is not vendor/class=name ({part})"), "{bad:?}");
        }
    }
}
