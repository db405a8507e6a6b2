//! The ranges of addresses that the kubelet has named for this node's pods, kept over a restart.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read as _},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use tracing::{info, warn};

use super::{
    config::{CONFIG_BYTES_MAX, NetworkList},
    template,
};
use crate::{
    network::Error,
    store::{self, BadRecord, Durability},
};

/// The name of the configuration that is made of a template: where other runtimes put theirs.
const MADE: &str = "10-pintle-net.conflist";

/// The ranges, in the kubelet's order.
#[derive(Debug)]
pub(super) struct Ranges {
    path: PathBuf,
    template: Option<PathBuf>,
    now: Mutex<Vec<String>>,
}

impl Ranges {
    /// Reads what an earlier daemon was given. Blocking.
    pub(super) fn open(path: PathBuf, template: Option<PathBuf>) -> Self {
        let now = match store::get(&path) {
            Ok(ranges) => ranges,
            Err(BadRecord::Absent) => Vec::new(),
            Err(error) => {
                warn!(path = %path.display(), %error, "cannot read the pod CIDRs; the kubelet gives them again");
                Vec::new()
            }
        };
        Self { path, template, now: Mutex::new(now) }
    }

    pub(super) fn get(&self) -> Vec<String> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Blocking.
    pub(super) fn set(&self, ranges: &[String]) -> Result<(), Error> {
        if self.get() == ranges {
            return Ok(());
        }
        let failed = |source| Error::File { operation: "write pod CIDRs", path: self.path.clone(), source };
        store::put(&self.path, &ranges, Durability::Process).map_err(failed)?;
        info!(?ranges, "the kubelet has named the pod CIDRs of this node");
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = ranges.to_vec();
        Ok(())
    }

    /// Makes a configuration in `folder`, in which there must be none; false where no template is configured. Blocking.
    pub(super) fn make_configuration(&self, ranges: &[String], folder: &Path) -> Result<bool, Error> {
        let Some(path) = &self.template else { return Ok(false) };
        let bad = |reason: String| Error::Template { path: path.clone(), reason };
        let text = read(path).map_err(|error| bad(error.to_string()))?;
        let made = template::render(&text, ranges).map_err(|error| bad(error.to_string()))?;
        NetworkList::parse(MADE, made.as_bytes()).map_err(|error| bad(format!("what it makes {error}")))?;
        let place = folder.join(MADE);
        let put = || -> io::Result<()> {
            DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
            // Under another name until it is whole.
            let new = folder.join(format!(".{MADE}.new"));
            fs::write(&new, &made)?;
            fs::set_permissions(&new, fs::Permissions::from_mode(0o644))?;
            fs::rename(&new, &place)
        };
        put().map_err(|source| Error::File {
            operation: "write CNI configuration",
            path: place.clone(),
            source,
        })?;
        info!(path = %place.display(), "made a CNI configuration of the template");
        Ok(true)
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(CONFIG_BYTES_MAX as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_kept_and_make_a_configuration_where_there_is_a_template() {
        let place = tempfile::tempdir().unwrap();
        let (kept, folder) = (place.path().join("ranges"), place.path().join("net.d"));
        let template = place.path().join("template");
        let open = |with: bool| Ranges::open(kept.clone(), with.then(|| template.clone()));
        let ranges = vec!["10.1.0.0/24".to_owned()];
        open(false).set(&ranges).unwrap();
        assert_eq!(open(true).get(), ranges);
        assert!(!open(false).make_configuration(&ranges, &folder).unwrap());
        let error = |text: &str| {
            fs::write(&template, text).unwrap();
            open(true).make_configuration(&ranges, &folder).unwrap_err().to_string()
        };
        assert!(error("{{.Secret}}").contains(".Secret is none of"));
        assert!(error("{\"name\": \"{{.PodCIDR}}\"}").contains("what it makes name:"));
        assert!(!folder.exists());
        fs::write(&template, r#"{"name": "a", "plugins": [{"type": "b", "subnet": "{{.PodCIDR}}"}]}"#)
            .unwrap();
        assert!(open(true).make_configuration(&ranges, &folder).unwrap());
        let names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [MADE]);
        assert!(fs::read_to_string(folder.join(MADE)).unwrap().contains("10.1.0.0/24"));
    }
}
