//! Names of tar entries: components that cannot leave the layer, and whiteouts.

use super::LayerError;

/// Longest name of one file; bytes. What every Linux file system takes.
const NAME_BYTES_MAX: usize = 255;

/// A path in a layer: components without `.`, `..`, NUL or slashes. Empty is the layer's root.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Name {
    parts: Vec<Vec<u8>>,
}

/// The meaning of an entry's name.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Meaning {
    /// The layer's own root directory.
    Root,
    /// An ordinary file of that name in that directory.
    File { parent: Name, file: Vec<u8> },
    /// `.wh.file`: the lower layers' file is gone (OCI image spec, layer, "Whiteouts").
    Whiteout { parent: Name, file: Vec<u8> },
    /// `.wh..wh..opq`: nothing of the lower layers' directory shows.
    Opaque { directory: Name },
    /// Other book-keeping of a union file system that is long gone.
    Leftover,
}

impl Name {
    /// Reads the path of an entry or of a hard link's target. A leading slash means the layer's root, as
    /// in every other unpacker; `..` is refused wherever it leads, because no layer needs it.
    pub(super) fn parse(path: &[u8]) -> Result<Self, LayerError> {
        let mut parts = Vec::new();
        for part in path.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => return Err(LayerError::entry(path, "it has a `..`")),
                part if part.contains(&0) => return Err(LayerError::entry(path, "it has a NUL")),
                part if part.len() > NAME_BYTES_MAX => {
                    return Err(LayerError::entry(path, "a part of it is longer than 255 bytes"));
                }
                part => parts.push(part.to_vec()),
            }
        }
        Ok(Self { parts })
    }

    /// From components that are known to be good.
    pub(super) fn of(parts: &[Vec<u8>]) -> Self {
        Self { parts: parts.to_vec() }
    }

    pub(super) fn parts(&self) -> &[Vec<u8>] {
        &self.parts
    }

    /// Without slashes at its ends; empty for the root.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        self.parts.join(&b'/')
    }

    /// The directory and the file in it; `None` for the root.
    pub(super) fn split(mut self) -> Option<(Self, Vec<u8>)> {
        let file = self.parts.pop()?;
        Some((self, file))
    }
}

impl Meaning {
    pub(super) fn of(path: &[u8]) -> Result<Self, LayerError> {
        let name = Name::parse(path)?;
        if name.parts.iter().rev().skip(1).any(|part| part.starts_with(b".wh..wh.")) {
            return Ok(Self::Leftover);
        }
        let Some((parent, file)) = name.split() else { return Ok(Self::Root) };
        match file.strip_prefix(b".wh.") {
            None => Ok(Self::File { parent, file }),
            Some(b".wh..opq") => Ok(Self::Opaque { directory: parent }),
            Some(rest) if rest.starts_with(b".wh.") => Ok(Self::Leftover),
            Some(b"" | b"." | b"..") => Err(LayerError::entry(path, "it is a whiteout of nothing")),
            Some(file) => Ok(Self::Whiteout { parent, file: file.to_vec() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_path_is_its_components() {
        for (path, plain) in [("/a/b", "a/b"), ("./a//b/", "a/b"), ("//a/./b", "a/b"), ("/", ""), (".", "")] {
            assert_eq!(name(path).to_bytes(), plain.as_bytes(), "{path}");
        }
        assert_eq!(name("a\\..\\b").parts().len(), 1);
        let long = "a".repeat(256);
        for bad in ["..", "a/../b", "../a", "/..", "a\0b", &long] {
            assert!(Name::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_mean_files_whiteouts_or_nothing() {
        let meaning = |path: &str| Meaning::of(path.as_bytes()).unwrap();
        assert_eq!(meaning("./"), Meaning::Root);
        assert_eq!(meaning("a/b"), Meaning::File { parent: name("a"), file: b"b".to_vec() });
        assert_eq!(meaning("a/.wh.b"), Meaning::Whiteout { parent: name("a"), file: b"b".to_vec() });
        assert_eq!(meaning("a/.wh..wh..opq"), Meaning::Opaque { directory: name("a") });
        assert_eq!(meaning(".wh..wh..opq"), Meaning::Opaque { directory: name("") });
        assert_eq!(meaning(".wh..wh.plnk/1.2"), Meaning::Leftover);
        assert_eq!(meaning(".wh..wh.aufs"), Meaning::Leftover);
        for bad in [".wh.", ".wh..", ".wh..."] {
            assert!(Meaning::of(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
