//! `pintle check`: overlayfs and the file systems below `root`.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process,
};

use super::{
    Finding, fail, ok,
    scratch::{FOLDER, attempt},
    warn,
};
use crate::{launcher, model::PodId, sys::process::Namespaces};

/// As many layers as an image may have.
const LAYERS_MANY: usize = 127;

pub(super) fn questions(root: &Path) -> Vec<Finding> {
    vec![overlayfs(), layers(), storage(root), users(root), pending(root)]
}

/// What the daemon could not take away of pods yet (docs/formats/state.md, `owed`).
fn pending(root: &Path) -> Finding {
    let topic = "pending removals";
    let names = fs::read_dir(root.join("owed")).into_iter().flatten().flatten();
    let pods: Vec<String> = names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let pods: Vec<&str> = pods.iter().map(String::as_str).filter(|name| PodId::parse(name).is_ok()).collect();
    match pods.as_slice() {
        [] => ok(topic, "none"),
        [first, ..] => warn(
            topic,
            format!(
                "of {} pods something is left, such as an address (one is {first}): the daemon retries it, and its log says why",
                pods.len()
            ),
        ),
    }
}

fn in_memory(layers: usize) -> Result<String, String> {
    attempt(Namespaces::MOUNT, || {
        launcher::try_overlay(Path::new(FOLDER), layers).map_err(|failure| failure.to_string())?;
        Ok(String::new())
    })
}

fn overlayfs() -> Finding {
    match in_memory(1) {
        Ok(_) => ok("overlayfs", "images can be mounted"),
        Err(error) => fail(
            "overlayfs",
            format!(
                "{error}: no container can have a root file system; if its module is missing, `modprobe overlay`"
            ),
        ),
    }
}

fn layers() -> Finding {
    match in_memory(LAYERS_MANY) {
        Ok(_) => ok("layers", format!("an image may have {LAYERS_MANY} layers")),
        Err(error) => {
            warn("layers", format!("images with many layers do not fit (they do from Linux 6.5 on): {error}"))
        }
    }
}

/// On the file system of `root`, or of the nearest folder above it that exists.
fn storage(root: &Path) -> Finding {
    let topic = "storage";
    let Some(above) = root.ancestors().find(|folder| folder.is_dir()) else {
        return fail(topic, format!("{} cannot be reached", root.display()));
    };
    let tried = Scratch::new(above).map_err(|error| error.to_string()).and_then(|folder| {
        attempt(Namespaces::NONE, || {
            launcher::try_overlay(&folder.0, 1).map_err(|failure| failure.to_string())?;
            Ok(String::new())
        })
    });
    match tried {
        Ok(_) => ok(topic, format!("{} can hold images and writable layers", above.display())),
        Err(error) => fail(
            topic,
            format!("{} cannot hold writable layers; choose another `root`: {error}", above.display()),
        ),
    }
}

/// As the daemon asks when it starts.
fn users(root: &Path) -> Finding {
    let topic = "user namespaces";
    let Some(above) = root.ancestors().find(|folder| folder.is_dir()) else {
        return warn(topic, format!("{} cannot be reached", root.display()));
    };
    let tried = Scratch::new(above).map_err(|error| error.to_string()).and_then(|folder| {
        attempt(Namespaces::NONE, || {
            launcher::try_user_namespace(&folder.0).map_err(|failure| failure.to_string())?;
            Ok(String::new())
        })
    });
    match tried {
        Ok(_) => ok(topic, "pods can have users of their own (hostUsers: false)"),
        Err(error) => warn(topic, format!("{error}: pods with hostUsers: false are refused")),
    }
}

/// A folder of our own that goes with this.
struct Scratch(PathBuf);

impl Scratch {
    fn new(above: &Path) -> io::Result<Self> {
        let folder = above.join(format!(".pintle-check-{}", process::id()));
        DirBuilder::new().mode(0o700).create(&folder)?;
        Ok(Self(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("pintle: {} could not be removed: {error}", self.0.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    #[test]
    fn what_is_left_of_pods_is_counted() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(pending(root.path()).level, Level::Ok);
        fs::create_dir(root.path().join("owed")).unwrap();
        for name in [PodId::from_bytes([7; 32]).as_str(), "not-a-pod"] {
            fs::write(root.path().join("owed").join(name), "").unwrap();
        }
        let found = pending(root.path());
        assert!(found.level == Level::Warn && found.text.starts_with("of 1 pods"), "{}", found.text);
    }
}
