//! Pods on the network: an interface, addresses and routes in the pod's namespace, and the host's side.
//!
//! [`Network`] is the front door: it asks the [`NetworkKind`] that a pod is to be attached by, or was.
//!
//! - `cni/`: plugins of others, by the Container Network Interface.
//! - `bridge.rs`: the built-in bridge: attach, detach, sweep; the order of steps and their undoing. No child process.
//! - `firewall/`: masquerade, host ports and isolation, in one nftables table.
//! - `ports.rs`: which pod has which port of the host. Pure.
//! - `forwarding.rs`: what settings of the host pods need, and what they were before.
//! - `bandwidth.rs`: how much a pod may receive and send. Pure.
//! - `netlink/`: the conversations with the kernel about links, addresses and routes, each with a deadline.
//! - `lease.rs`: who has which address, in files as the CNI plugin host-local has them.
//! - `traffic.rs`: what has gone through a pod's interfaces.
//! - `subnet.rs`, `veth.rs`: which address is next, whose a link is. Pure.
//!
//! Invariant: what a pod has on the network can be found again by its id alone, so that [`Network::detach`]
//! needs no namespace, no record and no configuration, and may be repeated.
//! Invariant: a failed attach to the bridge leaves neither link nor lease.
//! Invariant: no thread of the runtime ever enters a pod's namespace.
//! Not here: making the namespace (`supervisor`).

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

mod bandwidth;
mod bridge;
mod cni;
mod config;
mod error;
mod firewall;
mod forwarding;
#[cfg(any(test, feature = "fuzzing"))]
pub use cni::fuzz;
mod lease;
mod netlink;
mod ports;
mod subnet;
mod traffic;
mod veth;

pub use bandwidth::BadRate;
use bandwidth::Bandwidth;
use bridge::Bridge;
use cni::Cni;
pub use cni::{BadPod, Fault, inspect as inspect_cni};
pub use config::{Config, Mode};
pub use error::Error;
use firewall::{Firewall, forget_flows};
pub use firewall::{ForwardDrop, forward_drops};
use netlink::{Netlink, converse_in_time};
pub use ports::HostPort;
use ports::{HostPorts, Way};
pub use subnet::Subnet;
#[cfg(test)]
pub(crate) use traffic::Counters;
pub use traffic::{InterfaceTraffic, traffic_held_by, traffic_of};

use tracing::{debug, warn};

use crate::{
    failpoint,
    model::{PodConfig, PodId},
    telemetry::log::chain,
};

/// The pod's interface. Its name is fixed by custom: the kubelet and many images expect it.
const INTERFACE: &str = "eth0";

/// Whether the kernel has the setting `sysctl` (its dotted name) only while an interface is there that [`Network::attach`]
/// makes: it names one that a new network namespace has not.
pub fn is_of_interface(sysctl: &str) -> bool {
    let parts: Vec<&str> = sysctl.split('.').collect();
    matches!(parts[..], ["net", _, "conf" | "neigh", interface, _, ..] if !matches!(interface, "all" | "default" | "lo"))
}

/// The kind of network that made an attachment, and takes it away again, whatever is configured by then.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkKind {
    /// The built-in bridge.
    #[default]
    Bridge,
    /// CNI plugins.
    Cni,
}

/// What a pod got; stored with the pod. Fields are only ever added.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Attachment {
    /// In the pod: `eth0`.
    pub interface: String,
    /// The first is the primary one (CRI `PodSandboxNetworkStatus.ip`, the others `additional_ips`).
    pub addresses: Vec<IpAddr>,
    /// Records of releases that had only the bridge do not say.
    #[serde(default)]
    pub made_by: NetworkKind,
    /// Whether pintle forwards the pod's host ports; else the network that it is on does, or there are none.
    #[serde(default)]
    pub forwarded: bool,
    /// Where the pod's network namespace is mounted, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<PathBuf>,
}

/// Everything of the network's that bears a pod's id, each with its name for an operator.
#[derive(Debug, Default)]
pub struct Traces {
    /// Links, addresses and attachments, which nobody but this daemon makes.
    pub owned: Vec<(PodId, String)>,
    /// Mounted namespaces, in a folder that other runtimes use too.
    pub pinned: Vec<(PodId, String)>,
}

/// A pod that is to be put on the network.
#[derive(Debug)]
pub struct Request<'a> {
    pub pod: &'a PodId,
    /// Metadata, annotations, ports and DNS are for the network to use.
    pub config: &'a PodConfig,
    /// The pod's network namespace, which is not the host's.
    pub netns: OwnedFd,
    /// Dotted names and values, set when the interface is there and before it is up.
    pub sysctls: &'a [(String, String)],
}

/// How pods are put on the network of this node: the front door to each [`NetworkKind`].
#[derive(Debug)]
pub struct Network {
    mode: Mode,
    /// A bridge on the host and a veth pair for each pod.
    bridge: Arc<Bridge>,
    cni: Cni,
    firewall: Arc<Firewall>,
    ports: Mutex<HostPorts>,
}

impl Network {
    /// Keeps leases and attachments below the folder `root`, which should outlive a reboot. Touches no interface.
    ///
    /// # Errors
    /// A configuration that cannot work, or a folder that cannot be made.
    pub fn open(config: &Config, root: &Path) -> Result<Self, Error> {
        let firewall = Arc::default();
        let bridge = Arc::new(Bridge::open(config, &root.join("network"), Arc::clone(&firewall))?);
        let cni = Cni::open(config, root.join("cni"))?;
        if let Some(ranges) = Some(cni.pod_ranges()).filter(|ranges| !ranges.is_empty())
            && let Err(error) = bridge.set_pod_ranges(&ranges)
        {
            warn!(error = %chain(&error), "pods on the bridge get addresses of network.subnets");
        }
        Ok(Self { mode: config.mode, bridge, cni, firewall, ports: Mutex::default() })
    }

    /// Reads the folder of CNI configurations again, so that [`Network::ready`] speaks of now.
    pub async fn look(&self) {
        if matches!(self.mode, Mode::Auto | Mode::Cni) {
            self.cni.refresh().await;
        }
    }

    /// `Ok` when pods can be attached; else why not (CRI `NetworkReady`). As of the last look; never waits.
    ///
    /// # Errors
    /// [`Error::NotConfigured`], [`Error::NotReady`].
    pub fn ready(&self) -> Result<(), Error> {
        match self.kind()? {
            NetworkKind::Bridge => Ok(()),
            NetworkKind::Cni => self.cni.ready(),
        }
    }

    /// For a verbose status: the CNI configuration as containerd shows it, and whether it could be read. As of the last
    /// look; `None` where plugins are not used.
    pub fn cni_info(&self) -> Option<(serde_json::Value, String)> {
        matches!(self.mode, Mode::Auto | Mode::Cni).then(|| self.cni.info())
    }

    /// Whether a pod of this configuration can be put on the network at all, before anything is made for it.
    ///
    /// # Errors
    /// [`Error::NotConfigured`], [`Error::HostPortTwice`], [`Error::Bandwidth`] and [`Error::Pod`]: another try changes
    /// nothing.
    /// [`Error::NotReady`], [`Error::HostPortTaken`]: it would end there.
    pub async fn admit(&self, pod: &PodConfig) -> Result<(), Error> {
        self.look().await;
        Bandwidth::of(&pod.annotations).map_err(Error::Bandwidth)?;
        if self.kind()? == NetworkKind::Cni {
            self.cni.admit(pod)?;
        }
        self.ports().check(pod)
    }

    /// Gives the namespace an interface with addresses and default routes. The pod must not be attached.
    ///
    /// # Errors
    /// Whatever fails. What is left then, [`Network::detach`] takes away: it is to be called.
    pub async fn attach(&self, request: Request<'_>) -> Result<Attachment, Error> {
        let (kind, pod) = (self.kind()?, request.pod.clone());
        // Until the pod is detached.
        self.ports().reserve(&pod, request.config)?;
        let mut attachment = match kind {
            NetworkKind::Bridge => self.bridge.attach(request).await?,
            NetworkKind::Cni => self.cni.attach(request).await?,
        };
        attachment.forwarded = self.ports().has(&pod) && !(kind == NetworkKind::Cni && self.cni.maps_ports());
        if attachment.forwarded {
            self.open_ports(&pod, &attachment).await?;
        }
        Ok(attachment)
    }

    /// Lets the pod's host ports lead to it.
    async fn open_ports(&self, pod: &PodId, attachment: &Attachment) -> Result<(), Error> {
        let ways = ways_to(attachment).await?;
        if let Some(address) = attachment.addresses.iter().find(|address| !ways.contains_key(address)) {
            return Err(Error::NoWay { address: *address });
        }
        let opened = self.ports().open(pod, attachment, &ways);
        self.forward().await?;
        failpoint!("network.ports-opened");
        forget_flows(&opened).await;
        Ok(())
    }

    /// Tells the firewall which host ports are forwarded. The last one to ask tells it of all.
    async fn forward(&self) -> Result<(), Error> {
        self.firewall.forward(|| self.ports().forwards()).await
    }

    /// For a daemon that has just started, before anything else is asked: what the pods are known to have, so that their
    /// host ports stay their own and lead to them, and those of pods that are gone lead nowhere.
    ///
    /// # Errors
    /// The kernel's refusal. The ports are their own all the same.
    pub async fn restore(&self, pods: &[(&PodId, &PodConfig, &Attachment)]) -> Result<(), Error> {
        for (pod, config, attachment) in pods {
            if let Err(error) = self.ports().reserve(pod, config) {
                warn!(%pod, error = %chain(&error), "host ports of a pod are lost");
            }
            if attachment.forwarded && self.ports().has(pod) {
                let ways = ways_to(attachment).await?;
                self.ports().open(pod, attachment, &ways);
            }
        }
        let rules = self.bridge.rules().await?;
        let forwards = self.ports().forwards();
        self.firewall.restore(rules, forwards).await
    }

    /// Takes what the built-in bridge has made on this host away, and puts back the settings that it has changed. Says what
    /// was done.
    ///
    /// # Errors
    /// [`Error::InUse`] while pods are there; whatever fails: calling again goes on from there.
    pub async fn reset(&self) -> Result<Vec<String>, Error> {
        self.bridge.reset().await
    }

    fn ports(&self) -> MutexGuard<'_, HostPorts> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an attached pod has, without its record; `None` for one that has no address.
    ///
    /// # Errors
    /// Leases or attachments that cannot be read.
    pub async fn attachment_of(&self, pod: &PodId) -> Result<Option<Attachment>, Error> {
        match self.kind_of(pod) {
            NetworkKind::Bridge => self.bridge.attachment_of(pod).await,
            NetworkKind::Cni => self.cni.attachment_of(pod).await,
        }
    }

    /// Releases link and addresses, whichever kind made them; works without the namespace and the pod's record; a
    /// pod that was never attached is success.
    ///
    /// # Errors
    /// Whatever fails; calling again goes on from there.
    pub async fn detach(&self, pod: &PodId) -> Result<(), Error> {
        // The ports go first: nothing may lead to an address that another pod can get.
        let closed = self.ports().close(pod);
        if let Some(closed) = closed.filter(|closed| !closed.is_empty()) {
            self.forward().await?;
            failpoint!("network.ports-closed");
            forget_flows(&closed).await;
        }
        match self.kind_of(pod) {
            NetworkKind::Bridge => self.bridge.detach(pod).await?,
            NetworkKind::Cni => self.cni.detach(pod).await?,
        }
        self.ports().release(pod);
        Ok(())
    }

    /// Waits until plugins have released a pod: what they would not release before is worth another try. A release while
    /// nobody waits ends the next wait.
    pub async fn plugins_released(&self) {
        self.cni.released().await;
    }

    /// Everything of the network's that bears a pod's id, with what it is.
    ///
    /// # Errors
    /// Links, leases, attachments or namespaces that cannot be listed.
    pub async fn traces(&self) -> Result<Traces, Error> {
        let (links, mut traces) = tokio::try_join!(self.bridge.traces(), self.cni.traces())?;
        traces.owned.extend(links);
        Ok(traces)
    }

    /// Releases what belongs to no pod of `live`, which must name every pod that is being attached too. `held`: the
    /// addresses that pods are known to have, whatever the leases say. Returns the pods that are to be detached yet,
    /// by plugins that may take their time.
    ///
    /// # Errors
    /// [`Error::Sweep`] after everything was tried.
    pub async fn sweep(
        &self,
        live: &HashSet<PodId>,
        held: &HashMap<IpAddr, PodId>,
    ) -> Result<Vec<PodId>, Error> {
        self.look().await;
        let (swept, dead) = tokio::join!(self.bridge.sweep(live, held), self.cni.sweep(live));
        swept.and(dead)
    }

    /// Whether the next pod is attached by plugins, which may take as long as they are given.
    pub fn asks_plugins(&self) -> bool {
        matches!(self.kind(), Ok(NetworkKind::Cni))
    }

    /// The ranges that this node's pods are to have addresses of, as the kubelet has them of the cluster. They are kept
    /// over a restart; no pod that runs is changed, nor any configuration that is there.
    ///
    /// # Errors
    /// [`Error::BadPodRange`] while pods are put on the bridge, [`Error::Template`], and what the disk says.
    pub async fn set_pod_ranges(&self, ranges: Vec<String>) -> Result<(), Error> {
        if ranges.is_empty() {
            return Ok(());
        }
        self.look().await;
        match self.bridge.set_pod_ranges(&ranges) {
            Err(error) if self.kind().is_ok_and(|kind| kind == NetworkKind::Bridge) => return Err(error),
            Err(error) => debug!(error = %chain(&error), "pod CIDRs are not for the bridge"),
            Ok(()) => {}
        }
        self.cni.set_pod_ranges(ranges, matches!(self.mode, Mode::Auto | Mode::Cni)).await
    }

    /// Has plugins free what no pod has. While it runs, no pod may be attached.
    ///
    /// # Errors
    /// Of the first plugin that fails.
    pub async fn collect(&self) -> Result<(), Error> {
        if self.asks_plugins() { self.cni.collect().await } else { Ok(()) }
    }

    /// What the next pod is attached by, as of the last look.
    fn kind(&self) -> Result<NetworkKind, Error> {
        match self.mode {
            Mode::None => Err(Error::NotConfigured),
            Mode::Cni => Ok(NetworkKind::Cni),
            Mode::Auto if self.cni.is_configured() => Ok(NetworkKind::Cni),
            Mode::Auto | Mode::Bridge => Ok(NetworkKind::Bridge),
        }
    }

    /// What the pod was attached by, if it was.
    fn kind_of(&self, pod: &PodId) -> NetworkKind {
        if self.cni.has(pod) { NetworkKind::Cni } else { NetworkKind::Bridge }
    }
}

/// By which interface this host reaches each address of a pod. One that it has no route to is missing.
async fn ways_to(attachment: &Attachment) -> Result<HashMap<IpAddr, Way>, Error> {
    let addresses = attachment.addresses.clone();
    let object = format!("{addresses:?}");
    let look = async move |host: Netlink| {
        let mut ways = HashMap::new();
        for address in addresses {
            if let Some(link) = host.link_to(address).await? {
                let subnets = host.subnets(&link).await?;
                let neighbours = subnets.into_iter().find(|subnet| subnet.contains(address));
                let neighbours = neighbours.unwrap_or_else(|| Subnet::from(address));
                if address.is_ipv4() {
                    forwarding::route_loopback(&link.name);
                }
                ways.insert(address, Way { interface: link.name, neighbours });
            }
        }
        Ok(ways)
    };
    converse_in_time("look for routes to", &object, look).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_of_an_interface_is_told_from_one_of_the_namespace() {
        for (sysctl, of_interface) in [
            ("net.ipv4.conf.eth0.rp_filter", true),
            ("net.ipv6.conf.eth0.accept_ra", true),
            ("net.ipv4.neigh.eth0.base_reachable_time_ms", true),
            ("net.ipv4.conf.eth0/5.rp_filter", true),
            ("net.mpls.conf.eth0.input", true),
            ("net.ipv4.conf.all.rp_filter", false),
            ("net.ipv4.conf.default.rp_filter", false),
            ("net.ipv4.conf.lo.rp_filter", false),
            ("net.ipv4.ip_forward", false),
            ("net.core.somaxconn", false),
            ("net.netfilter.nf_conntrack_max", false),
            ("kernel.sem", false),
        ] {
            assert_eq!(is_of_interface(sysctl), of_interface, "{sysctl}");
        }
    }
}
