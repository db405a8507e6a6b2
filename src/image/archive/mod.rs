//! Archives of images: what is in them and how it is called there.
//!
//! - `source`: the files of an archive by name, whatever it came as: a folder, a tar, a packed tar, a pipe.
//! - `layout`: OCI layouts. `docker`: what `docker save` writes.
//!
//! Invariant: one entry of an archive that is no image, or a broken one, costs itself and no other.
//! Invariant: no name in an archive is ever looked up on the host; folders are entered through no link.
//! Not here: what becomes of the images (`load`).

mod docker;
mod layout;
mod source;

use super::{
    Error,
    document::{self, Blob},
    reference::{Reference, Target},
};
use crate::model::Digest;

pub use source::Input;
pub(super) use source::Source;

/// Most images in one archive.
const IMAGES_MAX: usize = 1000;

/// One entry of an archive.
#[derive(Debug)]
pub(super) struct Listed {
    /// The name of the entry in the archive, for people.
    pub(super) called: String,
    pub(super) image: Result<Found, Error>,
}

/// An image as an archive describes it.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) id: Digest,
    pub(super) config: document::Config,
    /// (file, what it must be), bottom first. A Docker archive promises nothing about the file itself.
    pub(super) layers: Vec<(String, Option<Blob>)>,
    /// Of the manifest or index that the names are of; a Docker archive has none.
    pub(super) digest: Option<Digest>,
    pub(super) names: Vec<Reference>,
    /// A tag of no repository, which is all that many layouts say.
    pub(super) bare_tag: Option<String>,
}

/// The images of an archive for this machine.
///
/// # Errors
/// [`Error::BadArchive`] for what is no archive of images, [`Error::BadDocument`] for a list that cannot be read.
pub(super) fn images(source: &Source) -> Result<Vec<Listed>, Error> {
    let mut listed = Vec::new();
    let layout = source.has("index.json")?;
    if layout {
        listed = layout::images(source)?;
    }
    // Docker writes both since version 25, and the first may list nothing.
    let docker = listed.is_empty() && source.has("manifest.json")?;
    if docker {
        listed = docker::images(source)?;
    }
    match (layout || docker, listed.is_empty()) {
        (false, _) => {
            Err(source.bad("it is neither an OCI layout (index.json) nor a Docker archive (manifest.json)"))
        }
        (true, true) => Err(source.bad("it holds no image for this machine")),
        (true, false) => Ok(listed),
    }
}

fn limit_images(count: usize) -> Result<(), Error> {
    if count > IMAGES_MAX {
        return Err(Error::Limit { what: "number of images in an archive", limit: IMAGES_MAX as u64 });
    }
    Ok(())
}

impl Found {
    /// With as many layers as its config says.
    fn checked(self) -> Result<Self, Error> {
        let (has, says) = (self.layers.len(), self.config.diff_ids.len());
        if has == says {
            return Ok(self);
        }
        Err(Error::document("image config", &self.id, format!("it has {says} layers and its manifest {has}")))
    }

    pub(super) fn repo_tags(&self) -> Vec<String> {
        let tagged = self.names.iter().filter(|name| matches!(name.target, Target::Tag(_)));
        sorted(tagged.map(ToString::to_string))
    }

    pub(super) fn repo_digests(&self) -> Vec<String> {
        let digest = self.digest.iter();
        sorted(digest.flat_map(|digest| self.names.iter().map(|name| name.with_digest(digest))))
    }
}

fn sorted(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<_> = names.collect();
    names.sort();
    names.dedup();
    names
}
