//! Which containers use which image: `retained/<image>/<container>`, empty files. They are there for the
//! next process, not for the next power-on: after that no container runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use tracing::error;

use super::{Error, folder, writable::is_plain};
use crate::model::Digest;

#[derive(Debug)]
pub(super) struct Retained {
    path: PathBuf,
    users: Mutex<BTreeMap<Digest, BTreeSet<String>>>,
}

impl Retained {
    pub(super) fn open(root: &Path) -> Result<Self, Error> {
        let path = root.join("retained");
        folder::make_private(&path)?;
        // A use that is not known would cost a container its layers: what cannot be read is an error.
        let read = |path: &Path| {
            let names = fs::read_dir(path).and_then(|entries| {
                entries.map(|entry| Ok(entry?.file_name().into_string().ok())).collect::<io::Result<Vec<_>>>()
            });
            let names = names.map_err(|error| Error::store("read", path, error))?;
            Ok::<_, Error>(names.into_iter().flatten())
        };
        let mut users = BTreeMap::new();
        for hex in read(&path)? {
            let Ok(image) = Digest::parse(&format!("sha256:{hex}")) else { continue };
            users.insert(image, read(&path.join(hex))?.collect());
        }
        Ok(Self { path, users: Mutex::new(users) })
    }

    pub(super) fn add(&self, image: &Digest, by: &str) {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if !users.entry(image.clone()).or_default().insert(by.into()) {
            return;
        }
        let folder = self.path.join(image.hex());
        let written = folder::make_private(&folder).and_then(|()| {
            let path = folder.join(by);
            if !is_plain(by) {
                return Err(Error::store("write", path, io::Error::from(io::ErrorKind::InvalidFilename)));
            }
            fs::write(&path, []).map_err(|error| Error::store("write", path, error))
        });
        // This process knows; only the next one would not.
        if let Err(error) = written {
            error!(%image, by, %error, "the use of an image could not be recorded");
        }
    }

    /// Whether that was the last use.
    pub(super) fn remove(&self, image: &Digest, by: &str) -> bool {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(of_image) = users.get_mut(image) else { return false };
        of_image.remove(by);
        let last = of_image.is_empty();
        let folder = self.path.join(image.hex());
        if is_plain(by) {
            let _ = fs::remove_file(folder.join(by));
        }
        if last {
            users.remove(image);
            let _ = fs::remove_dir(folder);
        }
        last
    }

    pub(super) fn contains(&self, image: &Digest) -> bool {
        self.users.lock().unwrap_or_else(PoisonError::into_inner).contains_key(image)
    }

    /// All uses: (image, by whom).
    pub(super) fn all(&self) -> Vec<(Digest, String)> {
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.iter().flat_map(|(image, by)| by.iter().map(|by| (image.clone(), by.clone()))).collect()
    }
}
