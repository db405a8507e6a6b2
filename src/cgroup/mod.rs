//! cgroup

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::{ContainerId, DeviceRule, PodId, Resources};

/// Stub.
#[derive(Clone, Debug, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {}

/// What made a cgroup (CRI `CgroupDriver`).
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Driver {
    Cgroupfs,
    Systemd,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{doing} {}", path.display())]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// How cgroups are made on this node. Chosen once, at start.
#[derive(Debug)]
pub enum Manager {
    Cgroupfs,
}

impl Manager {
    /// Stub.
    pub fn detect(_config: &Config) -> Result<Self, Error> {
        Ok(Self::Cgroupfs)
    }
    pub fn driver(&self) -> Driver {
        Driver::Cgroupfs
    }
    /// Makes the pod's cgroup under `parent` (empty: the configured one).
    pub async fn create_pod(
        &self,
        _parent: &str,
        _pod: &PodId,
        _resources: &Resources,
    ) -> Result<Handle, Error> {
        Ok(Handle {})
    }
}

/// A pod's cgroups: plain data, stored with the pod and sent to its supervisor.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Handle {}

impl Handle {
    /// Makes `<pod>/supervisor` and moves process `pid` there (0 is the caller).
    pub fn join_supervisor(&self, _pid: u32) -> Result<(), Error> {
        Ok(())
    }
    /// The cgroup of one container; makes nothing.
    pub fn container(&self, _id: &ContainerId) -> Container {
        Container {}
    }
    /// Kills every process in the pod's cgroup, the supervisor's leaf included.
    pub fn kill(&self) -> Result<(), Error> {
        Ok(())
    }
    /// Removes the pod's cgroup and all below it. Absent is success.
    pub fn remove(&self) -> Result<(), Error> {
        Ok(())
    }
    /// Whether any process is left in it.
    pub fn populated(&self) -> Result<bool, Error> {
        Ok(false)
    }
}

/// One container's cgroup.
#[derive(Clone, Debug)]
pub struct Container {}

/// Counters at the exit of a container.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct OomCounts {
    pub oom_kill: u64,
    pub oom_group_kill: u64,
}

impl Container {
    pub fn create(&self, _resources: &Resources, _devices: &[DeviceRule]) -> Result<(), Error> {
        Ok(())
    }
    pub fn update(&self, _resources: &Resources) -> Result<(), Error> {
        Ok(())
    }
    /// Moves process `pid` (0: the caller) into it, in every hierarchy.
    pub fn join(&self, _pid: u32) -> Result<(), Error> {
        Ok(())
    }
    pub fn oom_counts(&self) -> Result<OomCounts, Error> {
        Ok(OomCounts::default())
    }
    /// SIGKILL to every process in it and below, forks during the killing included.
    pub fn kill(&self) -> Result<(), Error> {
        Ok(())
    }
    pub fn populated(&self) -> Result<bool, Error> {
        Ok(false)
    }
    /// Recursive; absent is success.
    pub fn remove(&self) -> Result<(), Error> {
        Ok(())
    }
    /// A leaf for one exec: its own cgroup for killing, the container's limits.
    pub fn exec_leaf(&self, _number: u64) -> Container {
        Container {}
    }
    /// What a container sees below `/sys/fs/cgroup`: (name there, host directory); one entry with an empty name on v2.
    pub fn views(&self) -> Vec<(String, PathBuf)> {
        Vec::new()
    }
}
