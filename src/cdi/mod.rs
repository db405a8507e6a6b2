//! The Container Device Interface: files in which vendors say what a container needs to use a device.
//!
//! - `config`: where those files are, and what is done about hooks in them.
//! - `spec`: one file, read and checked (CDI spec, versions 0.1.0 to 1.1.0); `content` is what it says of a device.
//! - `catalog`: all files of all folders, and which of them has a device.
//! - `edits`: what a device changes about a container, purely.
//!
//! Invariant: the files are read anew for each container that asks for devices, so that a change is seen by the next.
//! Invariant: a file that cannot be used costs its own devices only; whoever asks for one of them gets the reason.
//! Invariant: what a device needs and pintle does not do (hooks, Intel RDT, network devices) is an error that names it,
//! never left out, unless the operator has said so.
//! Not here: who may ask for a device (the kubelet decides that), and how device files and mounts are made.

mod catalog;
mod config;
mod content;
mod edits;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod spec;

use std::path::PathBuf;

use self::catalog::{Catalog, Device};
pub use self::{
    config::{Config, Hooks},
    edits::Edits,
};
use crate::model::CdiDeviceName;

/// Why a container cannot have a device. All name the device, and the file where there is one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("CDI device {device}: no file in {folders} has it{faults}")]
    Missing {
        device: CdiDeviceName,
        folders: String,
        /// The files that could not be used, and why; empty if there are none.
        faults: String,
    },
    #[error("CDI device {device}: both {} and {} have it", first.display(), second.display())]
    Conflict { device: CdiDeviceName, first: PathBuf, second: PathBuf },
    #[error("CDI device {device} of {}: {what}", file.display())]
    Unsupported { device: CdiDeviceName, file: PathBuf, what: String },
    #[error("CDI device {device} of {}: {} on this node", file.display(), path.display())]
    Host {
        device: CdiDeviceName,
        file: PathBuf,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// The changes to a container that is to have the devices of `names`. Reads the files, which may take as long
/// as the disk takes.
///
/// # Errors
/// [`Error`] of the first device that it cannot have.
pub fn edits(config: &Config, names: &[CdiDeviceName]) -> Result<Edits, Error> {
    let catalog = Catalog::read(&config.spec_dirs);
    let devices = catalog.find(config, names)?;
    devices.iter().try_for_each(Device::check_host)?;
    Ok(Edits::of(&devices))
}

/// The content of all folders, for an operator.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Survey {
    pub files: usize,
    pub devices: usize,
    /// Files that cannot be used, and why; devices that two files have, or that no container can have.
    pub faults: Vec<String>,
}

/// Looks through all folders, whether or not a container asks for a device.
pub fn survey(config: &Config) -> Survey {
    let catalog = Catalog::read(&config.spec_dirs);
    Survey { files: catalog.files(), devices: catalog.devices(), faults: catalog.faults(config) }
}
