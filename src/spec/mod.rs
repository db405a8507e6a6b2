//! spec

mod capability;
pub mod seccomp;

use std::{path::PathBuf, sync::Arc};

use crate::model::{
    ContainerConfig, ContainerId, ContainerPlan, ImageConfig, PodConfig, ProcessPlan, RootfsLayers,
};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no command: neither the request nor the image names one")]
    NoCommand,
}

/// What `build` reads.
#[derive(Debug)]
pub struct Inputs<'a> {
    pub id: &'a ContainerId,
    pub pod: &'a PodConfig,
    pub container: &'a ContainerConfig,
    pub image: &'a ImageConfig,
    pub layers: &'a RootfsLayers,
    /// Folder for `upper` and `work`.
    pub writable: PathBuf,
    /// The pod's folder, with `hostname`, `resolv.conf` and `hosts`.
    pub pod_dir: PathBuf,
    /// The compiled filter for the container's `SeccompChoice`; `None` is "no filter".
    pub seccomp: Option<Arc<[u8]>>,
}

/// Pure: decides all that is to be decided about a container.
pub fn build(_inputs: &Inputs<'_>) -> Result<ContainerPlan, Error> {
    Err(Error::NoCommand)
}

/// The plan of an exec in a container whose init was planned as `init`.
pub fn exec(init: &ProcessPlan, command: Vec<Vec<u8>>, tty: bool) -> ProcessPlan {
    ProcessPlan { args: command, tty, ..init.clone() }
}
