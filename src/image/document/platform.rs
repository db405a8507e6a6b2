//! Platforms: which images of an index run on this machine, and which of them best.

use serde::Deserialize;

use super::nullable::or_default;

/// An operating system and a processor (OCI image spec, image index, `platform`).
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub(in crate::image) struct Platform {
    #[serde(deserialize_with = "or_default")]
    pub(super) os: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) architecture: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) variant: String,
}

impl Platform {
    /// The platform of this machine, in the spec's words.
    pub(in crate::image) fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "aarch64" => ("arm64", "v8"),
            "arm" => ("arm", "v7"),
            "x86" => ("386", ""),
            "powerpc64" => ("ppc64le", ""),
            other => (other, ""),
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: variant.into() }
    }

    /// A platform as tools write it, in the spec's words (containerd's platforms package knows the same).
    /// `None` when it says nothing.
    pub(super) fn normalized(&self) -> Option<Self> {
        let (os, architecture, variant) = (
            self.os.to_ascii_lowercase(),
            self.architecture.to_ascii_lowercase(),
            self.variant.to_ascii_lowercase(),
        );
        if os.is_empty() && architecture.is_empty() {
            return None;
        }
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("amd64" | "x86_64" | "x86-64", "v1") => ("amd64", ""),
            ("amd64" | "x86_64" | "x86-64", variant) => ("amd64", variant),
            ("arm64" | "aarch64", "" | "8" | "v8") => ("arm64", "v8"),
            ("arm64" | "aarch64", variant) => ("arm64", variant),
            ("i386", variant) => ("386", variant),
            ("armhf", "") | ("arm", "" | "7") => ("arm", "v7"),
            ("armel", "") | ("arm", "6") => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "8") => ("arm", "v8"),
            as_it_is => as_it_is,
        };
        let os = if os.is_empty() { "linux".into() } else { os };
        Some(Self { os, architecture: architecture.into(), variant: variant.into() })
    }

    /// How well `image` runs here; less is better, `None` is not at all. What a processor's older mode runs
    /// comes last, as in containerd.
    pub(super) fn rank(&self, image: &Self) -> Option<usize> {
        let runs: &[(&str, &str)] = match (self.architecture.as_str(), self.variant.as_str()) {
            // A variant of amd64 asks for a newer processor than we can promise.
            ("amd64", _) => &[("amd64", ""), ("386", "")],
            ("arm64", _) => &[("arm64", "v8"), ("arm", "v8"), ("arm", "v7"), ("arm", "v6"), ("arm", "v5")],
            ("arm", _) => &[("arm", "v7"), ("arm", "v6"), ("arm", "v5")],
            (other, _) => &[(other, "")],
        };
        let fits = |(architecture, variant): &(&str, &str)| {
            image.os == self.os && image.architecture == *architecture && image.variant == *variant
        };
        runs.iter().position(fits)
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}
