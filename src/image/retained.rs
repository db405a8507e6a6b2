//! Which containers use which image: `retained/<image>/<container>`, empty files. They are there for the
//! next process, not for the next power-on: after that no container runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use tracing::error;

use super::{
    Error,
    folder::{self, is_plain},
};
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

    /// Ends all uses by a container. Gives the images that nobody uses any more.
    pub(super) fn remove(&self, by: &str) -> Vec<Digest> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let mut unused = Vec::new();
        users.retain(|image, of_image| {
            let folder = self.path.join(image.hex());
            if of_image.remove(by) && is_plain(by) {
                // A mark that stays keeps an image longer, until the next daemon looks.
                let _removed = fs::remove_file(folder.join(by));
            }
            if of_image.is_empty() {
                let _removed = fs::remove_dir(folder);
                unused.push(image.clone());
            }
            !of_image.is_empty()
        });
        unused
    }

    pub(super) fn contains(&self, image: &Digest) -> bool {
        self.users.lock().unwrap_or_else(PoisonError::into_inner).contains_key(image)
    }

    /// The containers that use any image.
    pub(super) fn users(&self) -> BTreeSet<String> {
        let users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.values().flatten().cloned().collect()
    }
}
