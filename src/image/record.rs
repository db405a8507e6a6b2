//! Records of images and layers on disk. They never leave this room.

use serde::{Deserialize, Serialize};

use super::unpack;
use crate::model::{Digest, ImageConfig};

/// `images/<64 hex digits of the id>`: one image.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct ImageRecord {
    pub(super) id: Digest,
    pub(super) repo_tags: Vec<String>,
    pub(super) repo_digests: Vec<String>,
    pub(super) config: ImageConfig,
    /// Names of folders in `layers/`, bottom first, extra layers among them.
    pub(super) layers: Vec<String>,
    /// Removed while containers used it: listed nowhere, kept for its layers.
    #[serde(default)]
    pub(super) removed: bool,
}

/// `layers/<name>/record`: one layer, beside its `fs`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct LayerRecord {
    /// On disk.
    pub(super) bytes: u64,
    pub(super) inodes: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    implied: Vec<PathText>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    links: Vec<(PathText, PathText)>,
    /// Blobs that were seen to unpack to this layer, the last seen last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    blobs: Vec<Digest>,
}

/// Blobs that a layer's record names: there is a handful of ways to compress one tar.
const BLOBS_MAX: usize = 16;

impl LayerRecord {
    /// Whether `blob` was seen to unpack to this layer.
    pub(super) fn is_of(&self, blob: &Digest) -> bool {
        self.blobs.contains(blob)
    }

    pub(super) fn with_blob(mut self, blob: Digest) -> Self {
        self.blobs.retain(|other| *other != blob);
        if self.blobs.len() == BLOBS_MAX {
            self.blobs.remove(0);
        }
        self.blobs.push(blob);
        self
    }

    pub(super) fn implied(&self) -> Vec<Vec<u8>> {
        self.implied.iter().map(|path| path.0.clone()).collect()
    }

    pub(super) fn links(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.links.iter().map(|(name, target)| (name.0.clone(), target.0.clone())).collect()
    }
}

impl From<unpack::Unpacked> for LayerRecord {
    fn from(unpacked: unpack::Unpacked) -> Self {
        Self {
            bytes: unpacked.bytes,
            inodes: unpacked.inodes,
            implied: unpacked.implied.into_iter().map(PathText).collect(),
            links: unpacked
                .links
                .into_iter()
                .map(|(name, target)| (PathText(name), PathText(target)))
                .collect(),
            blobs: Vec::new(),
        }
    }
}

/// A path of any bytes, as text: `%XX` for what is not printable ASCII, and for `%`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "String", into = "String")]
struct PathText(Vec<u8>);

impl From<PathText> for String {
    fn from(path: PathText) -> Self {
        use std::fmt::Write as _;
        let mut text = Self::with_capacity(path.0.len());
        for byte in path.0 {
            if byte.is_ascii_graphic() && byte != b'%' {
                text.push(byte.into());
            } else {
                // Writing to a String cannot fail.
                let _written = write!(text, "%{byte:02X}");
            }
        }
        text
    }
}

impl TryFrom<String> for PathText {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut bytes = Vec::with_capacity(text.len());
        let mut rest = text.as_bytes();
        while let [first, after @ ..] = rest {
            rest = after;
            if *first != b'%' {
                bytes.push(*first);
                continue;
            }
            let [high, low, after @ ..] = rest else { return Err("a path ends in a half escape") };
            let digit = |byte: u8| char::from(byte).to_digit(16).ok_or("a path has a bad escape");
            let byte = u8::try_from(digit(*high)? * 16 + digit(*low)?);
            bytes.push(byte.map_err(|_| "a path has a bad escape")?);
            rest = after;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_any_bytes_survives_as_text() {
        let path = PathText(vec![b'a', b'/', b'%', b' ', 0xff, 0xc3, b'b']);
        let text = String::from(path.clone());
        assert_eq!(text, "a/%25%20%FF%C3b");
        assert_eq!(PathText::try_from(text).unwrap(), path);
        assert!(PathText::try_from("%4".to_string()).is_err());
    }
}
