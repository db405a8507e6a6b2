//! The whole configuration: a list of the rooms' own.

use std::path::PathBuf;

use serde::Deserialize;

use super::Listen;
use crate::{cdi, cgroup, image, metrics, network, pod, streaming, telemetry::log};

/// The whole configuration: where pintle lives, then each room's own part.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Folder of images, content and whatever must survive a reboot.
    pub root: PathBuf,
    /// Folder of what must not survive a reboot: sockets and the records of running pods. On a tmpfs.
    pub state: PathBuf,
    /// Address of the CRI for kubelet and crictl; when not set, `pintle.sock` in the folder `state`.
    pub listen: Option<Listen>,
    pub log: log::Config,
    pub cgroup: cgroup::Config,
    pub image: image::Config,
    pub network: network::Config,
    pub pod: pod::Config,
    pub handlers: pod::Handlers,
    pub cdi: cdi::Config,
    pub selinux: pod::SelinuxConfig,
    pub metrics: metrics::Config,
    pub streaming: streaming::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: "/var/lib/pintle".into(),
            state: "/run/pintle".into(),
            listen: None,
            log: log::Config::default(),
            cgroup: cgroup::Config::default(),
            image: image::Config::default(),
            network: network::Config::default(),
            pod: pod::Config::default(),
            handlers: pod::Handlers::default(),
            cdi: cdi::Config::default(),
            selinux: pod::SelinuxConfig::default(),
            metrics: metrics::Config::default(),
            streaming: streaming::Config::default(),
        }
    }
}

impl Config {
    /// The address of the CRI.
    pub fn listen(&self) -> Listen {
        self.listen.clone().unwrap_or_else(|| Listen::within(&self.state))
    }
}
