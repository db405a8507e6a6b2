//! The address that the CRI is served on.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::Deserialize;

/// `sun_path` of unix(7) holds 108 bytes with its closing NUL.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The address of the CRI: `unix:///run/pintle/pintle.sock`. There is no TCP, on purpose.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "String")]
pub struct Listen(PathBuf);

/// Why an address is not one.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadListen {
    #[error("{0:?} is not unix:///an/absolute/path")]
    NotUnix(String),
    #[error("{0:?} is longer than a socket's path may be ({SOCKET_PATH_BYTES_MAX} bytes)")]
    TooLong(String),
}

impl Listen {
    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.0
    }
    /// The address unless the operator sets another.
    pub fn within(state: &Path) -> Self {
        Self(state.join("pintle.sock"))
    }
}

impl FromStr for Listen {
    type Err = BadListen;

    fn from_str(text: &str) -> Result<Self, BadListen> {
        match text.strip_prefix("unix://") {
            Some(path) if path.len() > SOCKET_PATH_BYTES_MAX => Err(BadListen::TooLong(text.into())),
            Some(path) if path.starts_with('/') && !path.ends_with('/') && !path.contains('\0') => {
                Ok(Self(path.into()))
            }
            _ => Err(BadListen::NotUnix(text.into())),
        }
    }
}

impl TryFrom<String> for Listen {
    type Error = BadListen;

    fn try_from(text: String) -> Result<Self, BadListen> {
        text.parse()
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_absolute_unix_path_is_an_address() {
        let good: Listen = "unix:///run/pintle/pintle.sock".parse().unwrap();
        assert_eq!(good.path(), Path::new("/run/pintle/pintle.sock"));
        assert_eq!(good.to_string(), "unix:///run/pintle/pintle.sock");
        for bad in ["", "/run/p.sock", "unix://p.sock", "tcp://127.0.0.1:1", "unix:///run/"] {
            assert_eq!(bad.parse::<Listen>(), Err(BadListen::NotUnix(bad.into())));
        }
    }

    #[test]
    fn a_path_that_the_kernel_would_cut_is_refused() {
        let just = format!("unix:///{}", "a".repeat(SOCKET_PATH_BYTES_MAX - 1));
        assert!(just.parse::<Listen>().is_ok());
        let over = format!("{just}a");
        assert_eq!(over.parse::<Listen>(), Err(BadListen::TooLong(over)));
    }
}
