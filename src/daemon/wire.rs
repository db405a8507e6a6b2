//! Wiring: each room is built with its own configuration and the rooms it uses.

use std::{fs, io, sync::Arc};

use tracing::{info, warn};

use crate::{
    cgroup,
    config::Config,
    cri,
    image::{self, Images},
    meter::Meter,
    network::{self, Network},
    pod::{self, Pods},
    streaming,
    supervisor::Zygote,
    telemetry::log::chain,
};

/// Tells one boot of the machine from another (random(4)).
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Which room could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("set up cgroups")]
    Cgroup(#[source] cgroup::Error),
    #[error("open the images")]
    Image(#[source] image::Error),
    #[error("open the network")]
    Network(#[source] network::Error),
    #[error("start the zygote")]
    Zygote(#[source] io::Error),
    #[error("read {BOOT_ID}")]
    BootId(#[source] io::Error),
    #[error("serve streams on {address}")]
    Streaming {
        address: std::net::SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("recover the pods")]
    Pod(#[source] pod::Error),
}

/// The rooms that the services are made of.
pub(super) struct Rooms {
    pub(super) pods: Pods,
    pub(super) meter: Arc<Meter>,
    pub(super) streams: streaming::Server,
    pub(super) node: cri::Node,
}

/// Builds every room, each from its own part of the configuration. When this returns, what an earlier daemon
/// left is known again. Recovery, which may use up the descriptors, comes last: whatever the daemon cannot be without is
/// open before.
pub(super) async fn build(config: &Config) -> Result<Rooms, Error> {
    let cgroups = cgroup::Manager::detect(&config.cgroup).map_err(Error::Cgroup)?;
    let cgroup_driver = cgroups.driver();
    info!(found = %cgroups.describe().to_string().trim_end(), "cgroups");
    if let Err(error) = cgroups.greet().await {
        warn!(error = %chain(&error), "systemd does not answer yet: no pod can be made until it does");
    }
    let network = Network::open(&config.network, &config.root).map_err(Error::Network)?;
    let address = config.streaming.listen;
    let listening = streaming::bind(config.streaming.clone()).await;
    let listening = listening.map_err(|source| Error::Streaming { address, source })?;
    let zygote = Zygote::start().await.map_err(Error::Zygote)?;
    let images = Images::open(&config.root, &config.image, Arc::new(zygote.clone())).map_err(Error::Image)?;
    let boot_id = fs::read_to_string(BOOT_ID).map_err(Error::BootId)?.trim().to_owned();
    let users = pod::UserNamespaces::probe(&config.root).await;
    let user_namespaces = users.are_possible();
    let deps = pod::Deps {
        zygote,
        cgroups,
        network,
        images,
        cdi: config.cdi.clone(),
        state_dir: config.state.clone(),
        root_dir: config.root.clone(),
        boot_id,
        config: config.pod.clone(),
        handlers: config.handlers.clone(),
        users,
        selinux: pod::Selinux::of_this_node(&config.selinux),
    };
    let pods = Pods::start_up(deps).await.map_err(Error::Pod)?;
    let meter = Meter::start(pods.images().clone(), pods.board());
    let streams = listening.serve(pods.clone());
    let node = cri::Node {
        runtime_version: env!("CARGO_PKG_VERSION").into(),
        cgroup_driver,
        runtime_handlers: config.handlers.names(),
        user_namespaces,
    };
    Ok(Rooms { pods, meter, streams, node })
}
