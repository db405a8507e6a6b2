//! Images: their names, where they come from, and their layers on disk.
//!
//! - `reference`, `document`, `secret`: names, manifests and logins, parsed once and strictly. No I/O.
//! - `registry`: HTTP. `content`: bytes on their way, hashed and limited. `unpack`: a tar becomes a layer, in a process
//!   of its own: `worker`.
//! - `layers`: the shelf of layers. `catalog`: the records of images. `local`: both together.
//! - `pulls`, `pull`: from registries. `archive`, `load`: from files. `ingest`: what both do with a layer.
//! - `writable`, `retained`: what containers have here.
//! - `folder`, `erase`: folders of our own; deleting trees that others filled.
//!
//! On disk, below the root, all 0700:
//! ```text
//! images/<hex of id>            one record per image
//! layers/<hex>/{fs,record}      a layer and what is known about it; <hex> is its diff id's
//! ingest/<process>/             unfinished work; goes with its process
//! retained/<image>/<container>  who uses an image
//! containers/<id>/{upper,work}  writable layers
//! quarantine/                   records that could not be read
//! images.lock                   held while anything is published or removed
//! ```
//!
//! Invariant: a layer is on the shelf only complete, verified against its diff id and synced; an image is
//! listed only after its layers are on the shelf, durably.
//! Invariant: a damaged record costs its own image. A crash leaves work that the next start clears away.
//! Invariant: reads (`list`, `find`, `usage`) wait for no pull, no removal and no walk over the disk.
//! Not here: mounting. Overlayfs is put together where containers are made.

mod archive;
mod background;
mod catalog;
mod config;
mod content;
mod document;
mod erase;
mod error;
mod folder;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod images;
mod ingest;
mod layers;
mod load;
mod local;
mod pull;
mod pulls;
mod record;
mod reference;
mod registry;
mod retained;
mod secret;
#[cfg(test)]
mod testnode;
#[cfg(test)]
mod testregistry;
mod unpack;
mod worker;
mod writable;

pub use archive::Input;
pub use config::Config;
pub use error::Error;
pub use images::{FsCapacity, FsUsage, Image, Images};
pub use load::{Loaded, LoadedImage, Progress};
pub use secret::Credentials;
pub use worker::{NoWorkers, Worker, Workers, worker_main};
