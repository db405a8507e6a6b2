//! network

use std::{collections::HashSet, net::IpAddr, os::fd::OwnedFd, path::Path};

use serde::{Deserialize, Serialize};

use crate::model::{PodId, PortMapping};

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no network is configured")]
    NotConfigured,
}

/// What a pod got; stored with the pod.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Attachment {
    /// In the pod: `eth0`.
    pub interface: String,
    /// The first is the primary one.
    pub addresses: Vec<IpAddr>,
}

#[derive(Debug)]
pub enum Network {
    Bridge,
}

impl Network {
    pub fn open(_config: &Config, _leases: &Path) -> Result<Self, Error> {
        Ok(Self::Bridge)
    }
    /// `Ok` when pods can be attached; else why not.
    pub fn ready(&self) -> Result<(), Error> {
        Ok(())
    }
    pub async fn attach(
        &self,
        _pod: &PodId,
        _netns: OwnedFd,
        _ports: &[PortMapping],
    ) -> Result<Attachment, Error> {
        Err(Error::NotConfigured)
    }
    /// Releases link and addresses; works without the namespace; a pod that was never attached is success.
    pub async fn detach(&self, _pod: &PodId) -> Result<(), Error> {
        Ok(())
    }
    /// Releases what belongs to no pod of `live`.
    pub async fn sweep(&self, _live: &HashSet<PodId>) -> Result<(), Error> {
        Ok(())
    }
}
