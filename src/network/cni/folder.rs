//! The folder of network configurations, as it was last seen.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tracing::{info, warn};

use super::config::{self, CONFIG_BYTES_MAX, NetworkList};

/// Most names in one folder that are looked at: a folder with more is another kind of folder.
const NAMES_MAX: usize = 4096;

/// A configuration and the file that it was read from.
#[derive(Debug, PartialEq)]
pub(super) struct Loaded {
    pub(super) path: PathBuf,
    pub(super) list: NetworkList,
}

/// What the folder says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Seen {
    /// The configuration that counts: of the first file, or the last one that was good.
    pub(super) good: Option<Arc<Loaded>>,
    /// Why the first file cannot be used.
    pub(super) broken: Option<String>,
}

/// The folder. It is read anew at each look: a few small files, and never out of date.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    seen: Mutex<Seen>,
}

impl Folder {
    /// Reads nothing yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, seen: Mutex::default() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// As it was at the last look.
    pub(super) fn last_seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks again. Blocking.
    pub(super) fn look(&self) -> Seen {
        let now = self.read();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *seen);
        *seen = match now {
            Ok(None) => Seen::default(),
            // The same one is kept, so that what is known of it is known on.
            Ok(Some(loaded)) if before.good.as_deref() == Some(&loaded) => {
                Seen { good: before.good.clone(), broken: None }
            }
            Ok(Some(loaded)) => Seen { good: Some(Arc::new(loaded)), broken: None },
            Err(reason) => Seen { good: before.good.clone(), broken: Some(reason) },
        };
        tell(&self.path, &before, &seen);
        seen.clone()
    }

    fn read(&self) -> Result<Option<Loaded>, String> {
        let names = names(&self.path).map_err(|error| format!("{}: {error}", self.path.display()))?;
        let Some(first) = config::first(names.iter().map(String::as_str)) else { return Ok(None) };
        let path = self.path.join(first);
        let bad = |error: &dyn ToString| format!("{}: {}", path.display(), error.to_string());
        let bytes = bytes(&path).map_err(|error| bad(&error))?;
        let mut list = NetworkList::parse(first, &bytes).map_err(|error| bad(&error))?;
        if !list.inlined_only {
            self.add_plugins(&mut list)?;
        }
        if list.plugins.is_empty() {
            return Err(bad(&format!(
                "has no plugins, and there are none in {}",
                self.path.join(&list.name).display()
            )));
        }
        Ok(Some(Loaded { path, list }))
    }

    /// Plugins may have files of their own, in a folder of the network's name.
    fn add_plugins(&self, list: &mut NetworkList) -> Result<(), String> {
        let folder = self.path.join(&list.name);
        let names = match names(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(()),
            names => names.map_err(|error| format!("{}: {error}", folder.display()))?,
        };
        for name in config::plugin_files(names.iter().map(String::as_str)) {
            let path = folder.join(name);
            let bad = |error: &dyn ToString| format!("{}: {}", path.display(), error.to_string());
            let bytes = bytes(&path).map_err(|error| bad(&error))?;
            list.add_file(&bytes).map_err(|error| bad(&error))?;
        }
        Ok(())
    }
}

/// What has changed goes to the log, once.
fn tell(folder: &Path, before: &Seen, now: &Seen) {
    match &now.broken {
        Some(reason) if before.broken.as_ref() != Some(reason) && now.good.is_some() => {
            warn!(error = reason, "a CNI configuration cannot be used; the last good one stays in use");
        }
        Some(reason) if before.broken.as_ref() != Some(reason) => {
            warn!(error = reason, "the CNI configuration cannot be used");
        }
        _ => {}
    }
    match (&before.good, &now.good) {
        (Some(before), Some(now)) if Arc::ptr_eq(before, now) => {}
        (_, Some(loaded)) => {
            info!(path = %loaded.path.display(), network = loaded.list.name, "CNI configuration loaded");
        }
        (Some(_), None) => info!(folder = %folder.display(), "there is no CNI configuration any more"),
        (None, None) => {}
    }
}

/// The names of the files; none where there is no folder.
fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries.take(NAMES_MAX) {
        let entry = entry?;
        // A pipe under that name would never end.
        if let (true, Ok(name)) = (entry.path().is_file(), entry.file_name().into_string()) {
            names.push(name);
        }
    }
    Ok(names)
}

/// A file, and one byte more than it may have.
fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(CONFIG_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"cniVersion": "1.0.0", "name": "NAME", "plugins": [{"type": "bridge"}]}"#;

    fn named(name: &str) -> String {
        GOOD.replace("NAME", name)
    }

    #[test]
    fn the_folder_is_read_anew_and_a_broken_file_leaves_the_last_good_one() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::new(place.path().join("net.d"));
        let path = |name: &str| folder.path().join(name);
        let name =
            |seen: &Seen| seen.good.as_ref().map(|loaded| loaded.list.name.clone()).unwrap_or_default();
        assert_eq!(folder.look(), Seen::default(), "no folder at all");
        fs::create_dir(folder.path()).unwrap();
        fs::write(path("10-a.conflist"), "{").unwrap();
        let broken = folder.look();
        assert!(broken.good.is_none() && broken.broken.unwrap().contains("10-a.conflist: is not JSON"));

        fs::write(path("10-a.conflist"), named("a")).unwrap();
        let first = folder.look();
        assert_eq!((name(&first), &first.broken), ("a".into(), &None));
        assert!(Arc::ptr_eq(&first.good.unwrap(), &folder.look().good.unwrap()), "nothing has changed");

        fs::write(path("05-b.conf"), "oops").unwrap();
        let kept = folder.look();
        assert!(name(&kept) == "a" && kept.broken.is_some(), "{kept:?}");
        fs::write(path("05-b.conf"), r#"{"name": "b", "type": "ptp"}"#).unwrap();
        assert_eq!(name(&folder.look()), "b");
        fs::remove_file(path("05-b.conf")).unwrap();
        assert_eq!(name(&folder.look()), "a");
        fs::remove_file(path("10-a.conflist")).unwrap();
        assert_eq!(folder.look(), Seen::default());
        assert_eq!(folder.last_seen(), Seen::default());
    }

    #[test]
    fn plugins_in_a_folder_of_the_networks_name_are_added_unless_it_says_not_to() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::new(place.path().into());
        fs::create_dir(place.path().join("a")).unwrap();
        fs::write(place.path().join("a/20.conf"), r#"{"type": "two"}"#).unwrap();
        fs::write(place.path().join("a/10.conf"), r#"{"type": "one"}"#).unwrap();
        fs::write(place.path().join("a/10.conflist"), "no matter").unwrap();
        let programs = |text: &str| {
            fs::write(place.path().join("a.conflist"), text).unwrap();
            let seen = folder.look();
            assert_eq!(seen.broken, None);
            seen.good.unwrap().list.programs().join(" ")
        };
        assert_eq!(programs(&named("a")), "bridge one two");
        assert_eq!(programs(r#"{"name": "a"}"#), "one two");
        let inlined = named("a").replace("\"plugins\"", "\"loadOnlyInlinedPlugins\": true, \"plugins\"");
        assert_eq!(programs(&inlined), "bridge");
        fs::write(place.path().join("a.conflist"), r#"{"name": "b"}"#).unwrap();
        assert!(folder.look().broken.unwrap().contains("a.conflist: has no plugins, and there are none in"));
    }

    #[test]
    fn a_file_over_the_limit_is_not_read_on() {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join("a.conf"), vec![b' '; CONFIG_BYTES_MAX * 2]).unwrap();
        let reason = Folder::new(place.path().into()).look().broken.unwrap();
        assert!(reason.contains("has more than 1048576 bytes"), "{reason}");
    }
}
