//! Parents of pods' cgroups, as the kubelet and the configuration name them.

use super::{Driver, Error, slice::Slice};

/// The parent of a pod's cgroup, whose form chooses the driver.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Parent {
    /// Of cgroupfs, as [`parse`] gives it.
    Path(String),
    Slice(Slice),
}

impl Parent {
    /// Reads a parent: a name that ends in `.slice` is systemd's.
    ///
    /// # Errors
    /// A text that is neither a slice nor a path that stays below the root, and the root itself: there a pod would
    /// stand beside the services of the node, under no limit of theirs or the kubelet's.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let (parent, is_root) = if text.ends_with(".slice") {
            let slice = Slice::parse(text)?;
            let is_root = slice.is_root();
            (Self::Slice(slice), is_root)
        } else {
            let path = parse(text)?;
            let is_root = path.is_empty();
            (Self::Path(path), is_root)
        };
        if is_root {
            return Err(Error::BadParent {
                parent: text.into(),
                fault: "is the root, where pods may not be",
            });
        }
        Ok(parent)
    }

    pub(super) fn driver(&self) -> Driver {
        match self {
            Self::Path(_) => Driver::Cgroupfs,
            Self::Slice(_) => Driver::Systemd,
        }
    }
}

/// Longest parent accepted; bytes. A mount point, the pod, a container and a file name after it must still
/// fit in the kernel's 4096 (PATH_MAX).
const PARENT_BYTES_MAX: usize = 2048;

/// Longest name of one cgroup; bytes (NAME_MAX).
const NAME_BYTES_MAX: usize = 255;

/// Reads a parent as cgroupfs knows it: an absolute path in every hierarchy (`/kubepods/burstable/pod…`).
/// The result starts with a slash and does not end in one, except for the root, which is empty.
///
/// # Errors
/// What is no absolute path, and any path that could lead out of the hierarchy.
pub(super) fn parse(text: &str) -> Result<String, Error> {
    let bad = |fault| Err(Error::BadParent { parent: text.chars().take(NAME_BYTES_MAX).collect(), fault });
    if text.len() > PARENT_BYTES_MAX {
        return bad("is longer than 2048 bytes");
    }
    if text.chars().any(char::is_control) {
        return bad("has a control character in it");
    }
    let names = || text.split('/').filter(|name| !name.is_empty());
    if names().any(|name| matches!(name, "." | "..")) {
        return bad("has a \".\" or \"..\" in it");
    }
    if names().any(|name| name.len() > NAME_BYTES_MAX) {
        return bad("has a name longer than 255 bytes in it");
    }
    if !text.starts_with('/') {
        return bad("is not an absolute path");
    }
    Ok(names().flat_map(|name| ["/", name]).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_is_taken_as_it_is_but_for_spare_slashes() {
        assert_eq!(parse("/kubepods/burstable/pod1").unwrap(), "/kubepods/burstable/pod1");
        assert_eq!(parse("//kubepods//pod1/").unwrap(), "/kubepods/pod1");
        assert_eq!(parse("/").unwrap(), "");
    }

    #[test]
    fn the_form_of_a_parent_says_whose_it_is() {
        let driver = |text| Parent::parse(text).map(|parent| parent.driver());
        assert_eq!(driver("/kubepods/pod1").unwrap(), Driver::Cgroupfs);
        assert_eq!(driver("/kubepods.slice/pod1").unwrap(), Driver::Cgroupfs);
        assert_eq!(driver("kubepods-pod1.slice").unwrap(), Driver::Systemd);
        assert_eq!(driver("/kubepods.slice/kubepods-pod1.slice").unwrap(), Driver::Systemd);
        assert!(driver("/kubepods/../x.slice").is_err());
    }

    #[test]
    fn the_root_is_no_parent() {
        for root in ["/", "//", "-.slice"] {
            let refused = Parent::parse(root);
            assert!(
                matches!(&refused, Err(Error::BadParent { parent, .. }) if parent == root),
                "{refused:?}"
            );
        }
    }

    #[test]
    fn what_is_not_a_plain_absolute_path_is_refused() {
        let long = format!("/{}", "x".repeat(256));
        let longer = "/x".repeat(1025);
        for parent in
            ["", "kubepods", "./x", "/a/../../etc", "/..", "/a/./b", "/a\0b", "/a\nb", &long, &longer]
        {
            assert!(matches!(parse(parent), Err(Error::BadParent { .. })), "{parent:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_stays_below_the_root_and_reads_the_same_again(text in "[a./\\\\ -]{0,24}") {
            if let Ok(path) = parse(&text) {
                prop_assert!(path.split('/').skip(1).all(|name| !matches!(name, "" | "." | "..")));
                prop_assert!(path.is_empty() || path.starts_with('/'));
                prop_assert_eq!(parse(&format!("{path}/")).unwrap(), path);
            }
        }
    }
}
