//! The bridge network: one bridge of the node, a veth pair for each pod, addresses from leases.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio::{
    sync::{Mutex, OnceCell},
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use super::{
    Attachment, Config, Error, INTERFACE, Request, Subnet,
    bandwidth::{Bandwidth, Bucket},
    config::Range,
    firewall::{self, BridgeRules, Firewall},
    forwarding::{HostSettings, route_loopback},
    lease::Leases,
    netlink::{
        Kind, Link, Netlink, NewVeth, converse, converse_in_time, refuse_router_advertisements, set_sysctls,
    },
    subnet::BadSubnet,
    veth,
};
use crate::{
    failpoint,
    model::PodId,
    telemetry::{log::chain, task},
};

/// What a link carries where the host has no default route to tell.
const MTU_BYTES_DEFAULT: u32 = 1500;

/// How long the kernel may take to let a bridge forward what comes from a port that is up: it does so in the background.
const FORWARDING_MAX: Duration = Duration::from_secs(5);
const FORWARDING_POLL: Duration = Duration::from_millis(5);

/// The built-in network: a bridge in the host's namespace, and for each pod a veth pair and an address.
#[derive(Debug)]
pub struct Bridge {
    config: Config,
    /// Of which the next pod gets addresses.
    ranges: RwLock<Arc<[Range]>>,
    leases: Arc<Leases>,
    settings: Arc<HostSettings>,
    firewall: Arc<Firewall>,
    /// One at a time looks for the bridge and makes it. Index of the one that this process has set up, and the ranges that
    /// it was set up for.
    set_up: Mutex<Option<(u32, Arc<[Range]>)>>,
    mtu: OnceCell<u32>,
}

/// What the two ends of a pod's link pair have: the bridge a gateway of each range, the pod an address, in their order; and
/// how much goes from one to the other.
#[derive(Debug)]
struct Ends {
    ranges: Arc<[Range]>,
    addresses: Vec<IpAddr>,
    bandwidth: Bandwidth,
}

impl Bridge {
    pub(super) fn open(config: &Config, folder: &Path, firewall: Arc<Firewall>) -> Result<Self, Error> {
        config.check()?;
        let leases = Leases::open(folder, &config.bridge_name)?;
        Ok(Self {
            config: config.clone(),
            ranges: RwLock::new(config.ranges_of(&config.subnets).into()),
            leases: Arc::new(leases),
            settings: Arc::new(HostSettings::kept_in(folder)),
            firewall,
            set_up: Mutex::default(),
            mtu: OnceCell::new(),
        })
    }

    /// Gives addresses of these ranges of the kubelet's from now on. Pods that are there keep theirs, and the bridge the
    /// addresses by which it is their way out.
    ///
    /// # Errors
    /// [`Error::BadPodRange`]; then nothing has changed.
    pub(super) fn set_pod_ranges(&self, ranges: &[String]) -> Result<(), Error> {
        let subnet = |range: &String| {
            let bad = |error: BadSubnet| Error::BadPodRange {
                range: range.clone(),
                bridge: self.config.bridge_name.clone(),
                reason: error.to_string(),
            };
            range.parse().map_err(bad)
        };
        let subnets: Vec<Subnet> = ranges.iter().map(subnet).collect::<Result<_, _>>()?;
        let ranges = self.config.ranges_of(&subnets);
        *self.ranges.write().unwrap_or_else(PoisonError::into_inner) = ranges.into();
        Ok(())
    }

    fn ranges(&self) -> Arc<[Range]> {
        Arc::clone(&self.ranges.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) async fn attach(self: &Arc<Self>, request: Request<'_>) -> Result<Attachment, Error> {
        let Request { pod, config, netns, sysctls } = request;
        let bandwidth = Bandwidth::of(&config.annotations).map_err(Error::Bandwidth)?;
        let netns_again = netns.try_clone().map_err(|source| namespace(pod, source))?;
        let (bridge, id, sysctls) = (Arc::clone(self), pod.clone(), sysctls.to_vec());
        let addresses = converse_in_time("attach to the bridge pod", pod.as_str(), async move |host| {
            let ranges = bridge.ranges();
            let addresses = bridge.leases.reserve(&id, &ranges)?;
            let ends = Ends { ranges, addresses, bandwidth };
            if let Err(error) = bridge.link(&host, &id, netns, &ends, &sysctls).await {
                if let Err(error) = bridge.leases.give_back(&id, &ends.addresses) {
                    warn!(pod = %id, addresses = ?ends.addresses, error = %chain(&error), "lease not given back");
                }
                return Err(error);
            }
            failpoint!("network.attached");
            Ok(ends.addresses)
        });
        let addresses = addresses.await?;
        debug!(%pod, ?addresses, "pod attached to bridge");
        let id = pod.clone();
        task::spawn("announcement of a pod", async move {
            if let Err(error) = announce(id.clone(), netns_again).await {
                debug!(pod = %id, error = %chain(&error), "addresses of a pod are not announced");
            }
        });
        Ok(Attachment { interface: INTERFACE.into(), addresses, ..Attachment::default() })
    }

    /// Joins the pod and the bridge by a pair of links; on failure there is no pair.
    async fn link(
        &self,
        host: &Netlink,
        pod: &PodId,
        netns: OwnedFd,
        ends: &Ends,
        sysctls: &[(String, String)],
    ) -> Result<(), Error> {
        let copy = || netns.try_clone().map_err(|source| namespace(pod, source));
        let (bridge, inside) =
            tokio::try_join!(self.bridge(host, &ends.ranges), Netlink::inside(pod, copy()?))?;
        let mtu = self.mtu(host).await?;
        let name = veth::host_name(pod);
        host.add_veth(NewVeth { name: &name, bridge: bridge.index, netns: netns.as_fd(), mtu }).await?;
        failpoint!("network.veth-made");
        let set_up = async {
            host.mark_port(&name, &veth::alias(pod)).await?;
            limit(host, pod, ends.bandwidth, mtu).await?;
            set_sysctls(pod, copy()?, sysctls).await?;
            set_up_inside(&inside, ends).await
        };
        // It needs no answer of the kernel about links: one more thread looks after it meanwhile.
        if let Err(error) = tokio::try_join!(set_up, self.firewall.check()) {
            if let Err(error) = unlink(host, pod).await {
                warn!(%pod, error = %chain(&error), "link pair not deleted");
            }
            return Err(error);
        }
        Ok(())
    }

    /// What the firewall is to do for the pods on the bridge; `None` where there is no bridge. The addresses of the bridge
    /// tell the subnets: those that were configured before are among them.
    pub(super) async fn rules(self: &Arc<Self>) -> Result<Option<BridgeRules>, Error> {
        let bridge = Arc::clone(self);
        let look = async move |host: Netlink| match host.link(&bridge.config.bridge_name).await? {
            Some(link) if link.kind == Kind::Bridge => Ok(Some(bridge.rules_of(&host, &link).await?)),
            _ => Ok(None),
        };
        converse(look).await
    }

    async fn rules_of(&self, host: &Netlink, bridge: &Link) -> Result<BridgeRules, Error> {
        let mut subnets = host.subnets(bridge).await?;
        subnets.extend(self.ranges().iter().map(|range| range.subnet));
        subnets.sort_unstable();
        subnets.dedup();
        let Config { masquerade, isolate, .. } = self.config;
        Ok(BridgeRules { name: bridge.name.clone(), subnets, masquerade, isolate })
    }

    pub(super) async fn attachment_of(&self, pod: &PodId) -> Result<Option<Attachment>, Error> {
        let (leases, pod, ranges) = (Arc::clone(&self.leases), pod.clone(), self.ranges());
        let addresses = task::blocking("leases", move || leases.held_by(&pod, &ranges)).await?;
        Ok((!addresses.is_empty()).then(|| Attachment {
            interface: INTERFACE.into(),
            addresses,
            ..Attachment::default()
        }))
    }

    pub(super) async fn detach(&self, pod: &PodId) -> Result<(), Error> {
        let (leases, id) = (Arc::clone(&self.leases), pod.clone());
        let detach = async move |host: Netlink| {
            // The link goes first: an address must not be given out while it still answers.
            let deleted = unlink(&host, &id).await?;
            failpoint!("network.detached");
            Ok((deleted, leases.release(&id)?))
        };
        let (deleted, addresses) =
            converse_in_time("detach from the bridge pod", pod.as_str(), detach).await?;
        debug!(%pod, deleted, ?addresses, "pod detached from bridge");
        Ok(())
    }

    pub(super) async fn traces(&self) -> Result<Vec<(PodId, String)>, Error> {
        let leases = Arc::clone(&self.leases);
        let look = async move |host: Netlink| {
            let links = host.links().await?.into_iter();
            let links = links.filter_map(|link| Some((veth::pod_of(&link)?, format!("link {}", link.name))));
            let leases = leases.holders()?.into_iter();
            Ok(links.chain(leases.map(|(address, pod)| (pod, format!("lease of {address}")))).collect())
        };
        converse(look).await
    }

    pub(super) async fn sweep(
        self: &Arc<Self>,
        live: &HashSet<PodId>,
        held: &HashMap<IpAddr, PodId>,
    ) -> Result<(), Error> {
        let (bridge, live, held) = (Arc::clone(self), live.clone(), held.clone());
        converse(async move |host: Netlink| bridge.sweep_by(&host, &live, &held).await).await
    }

    /// Goes on after a failure, so that one stuck leftover does not keep the others.
    async fn sweep_by(
        &self,
        host: &Netlink,
        live: &HashSet<PodId>,
        held: &HashMap<IpAddr, PodId>,
    ) -> Result<(), Error> {
        let mut failures = Vec::new();
        let bridge = host.link(&self.config.bridge_name).await?.map(|bridge| bridge.index);
        for link in host.links().await?.iter().filter(|link| veth::is_orphan(link, live, bridge)) {
            match host.delete(link).await {
                Ok(_) => info!(link = link.name, "deleted link of a pod that is gone"),
                Err(error) => failures.push(error),
            }
        }
        match self.leases.release_dead(live, held) {
            Ok(released) if released.is_empty() => {}
            Ok(released) => info!(addresses = ?released, "released addresses of pods that are gone"),
            Err(error) => failures.push(error),
        }
        let failed = failures.len();
        for error in failures.iter().skip(1) {
            warn!(error = %chain(error), "network sweep: could not remove a leftover");
        }
        match failures.into_iter().next() {
            None => Ok(()),
            Some(first) => Err(Error::Sweep { failed, first: Box::new(first) }),
        }
    }

    /// Takes the bridge and the firewall's table off the host, and puts the host's settings back. Says what was done.
    ///
    /// # Errors
    /// [`Error::InUse`] while a pod has a link; whatever fails: calling again goes on from there.
    pub(super) async fn reset(self: &Arc<Self>) -> Result<Vec<String>, Error> {
        let bridge = Arc::clone(self);
        converse(async move |host: Netlink| bridge.reset_by(&host).await).await
    }

    async fn reset_by(&self, host: &Netlink) -> Result<Vec<String>, Error> {
        let bridge = host.link(&self.config.bridge_name).await?.filter(|link| link.kind == Kind::Bridge);
        let index = bridge.as_ref().map(|bridge| bridge.index);
        let links = host.links().await?.into_iter();
        let of_pods = links.filter(|link| veth::is_orphan(link, &HashSet::new(), index));
        let links: Vec<String> = of_pods.map(|link| link.name).collect();
        if !links.is_empty() {
            return Err(Error::InUse { bridge: self.config.bridge_name.clone(), links: links.join(", ") });
        }
        let mut done = Vec::new();
        if firewall::remove()? {
            done.push("deleted the nftables table inet pintle".into());
        }
        if let Some(bridge) = bridge
            && host.delete(&bridge).await?
        {
            done.push(format!("deleted the bridge {}", bridge.name));
        }
        let restored = self.settings.restore();
        let restored =
            restored.map_err(|source| Error::Settings { path: self.settings.path().into(), source })?;
        done.extend(restored.into_iter().map(|(name, value)| format!("set {name} back to {value}")));
        Ok(done)
    }

    /// The bridge, made if it is not there, with an address in each of the ranges.
    async fn bridge(&self, host: &Netlink, ranges: &Arc<[Range]>) -> Result<Link, Error> {
        let name = &self.config.bridge_name;
        let mut set_up = self.set_up.lock().await;
        let there = host.link(name).await?;
        let new = there.is_none();
        let bridge = match there {
            Some(link) if link.kind != Kind::Bridge => return Err(Error::NotABridge { name: name.clone() }),
            Some(link) if set_up.as_ref().is_some_and(|(index, of)| *index == link.index && of == ranges) => {
                return Ok(link);
            }
            Some(link) => link,
            None => host.add_bridge(name, link_address(ranges)).await?,
        };
        if let Err(error) = self.set_up_bridge(host, &bridge, ranges).await {
            if new {
                let undone = host.delete(&bridge).await;
                if let Err(error) = &undone {
                    warn!(link = name, error = %chain(error), "bridge not deleted");
                }
            }
            return Err(error);
        }
        if new {
            info!(link = name, ?ranges, "made bridge");
        }
        *set_up = Some((bridge.index, Arc::clone(ranges)));
        Ok(bridge)
    }

    async fn set_up_bridge(&self, host: &Netlink, bridge: &Link, ranges: &[Range]) -> Result<(), Error> {
        refuse_router_advertisements(&bridge.name);
        for range in ranges {
            host.add_address(bridge, range.gateway, range.subnet.prefix()).await?;
        }
        host.set_up(&bridge.name).await?;
        // Before loopback addresses can lead out: the rules keep them from coming in.
        self.firewall.open_bridge(self.rules_of(host, bridge).await?).await?;
        if self.firewall.works() {
            route_loopback(&bridge.name);
        }
        let of = |ipv6: bool| ranges.iter().any(|range| range.subnet.is_ipv6() == ipv6);
        self.settings.allow_forwarding(of(false), of(true));
        Ok(())
    }

    async fn mtu(&self, host: &Netlink) -> Result<u32, Error> {
        if self.config.mtu != 0 {
            return Ok(self.config.mtu);
        }
        let found = async { Ok(host.default_route_mtu().await?.unwrap_or(MTU_BYTES_DEFAULT)) };
        self.mtu.get_or_try_init(|| found).await.copied()
    }
}

/// Tells the pod's neighbours of its addresses as soon as the bridge takes what it sends. The kernel has told them when the
/// pod's end came up, which may have been too early. The pod waits for neither.
async fn announce(pod: PodId, netns: OwnedFd) -> Result<(), Error> {
    let announce = async move |host: Netlink| {
        let name = veth::host_name(&pod);
        let announced = async {
            while let Some(port) = host.link(&name).await? {
                if port.forwards {
                    return Netlink::inside(&pod, netns).await?.announce(INTERFACE).await;
                }
                sleep(FORWARDING_POLL).await;
            }
            Ok(())
        };
        timeout(FORWARDING_MAX, announced).await.unwrap_or_else(|_| {
            warn!(%pod, link = name, "the bridge does not forward what comes from a pod");
            Ok(())
        })
    };
    converse(announce).await
}

async fn set_up_inside(inside: &Netlink, ends: &Ends) -> Result<(), Error> {
    let link = inside.new_link(INTERFACE).await?;
    for (range, address) in ends.ranges.iter().zip(&ends.addresses) {
        inside.add_address(&link, *address, range.subnet.prefix()).await?;
    }
    inside.set_up(INTERFACE).await?;
    for range in ends.ranges.iter() {
        inside.add_default_route(range.gateway).await?;
    }
    Ok(())
}

/// Limits what goes to and from the pod, on the host, where the pod cannot undo it: what goes to it at the host's end of its
/// pair, and what comes from it in an intermediate device.
async fn limit(host: &Netlink, pod: &PodId, bandwidth: Bandwidth, mtu: u32) -> Result<(), Error> {
    if bandwidth == Bandwidth::default() {
        return Ok(());
    }
    let end = host.new_link(&veth::host_name(pod)).await?;
    if let Some(rate) = bandwidth.ingress {
        host.limit(&end, Bucket::of(rate)).await?;
    }
    if let Some(rate) = bandwidth.egress {
        let by = host.add_ifb(&veth::intermediate_name(pod), &veth::alias(pod), mtu).await?;
        failpoint!("network.intermediate-made");
        host.limit(&by, Bucket::of(rate)).await?;
        host.lead(&end, &by).await?;
    }
    Ok(())
}

/// Deletes a pod's link pair by its end on the host, and its intermediate device. Absent, or another pod's by an odd
/// chance: false.
async fn unlink(host: &Netlink, pod: &PodId) -> Result<bool, Error> {
    let mut deleted = false;
    for name in [veth::host_name(pod), veth::intermediate_name(pod)] {
        if let Some(link) = host.link(&name).await?.filter(|link| veth::may_be_of(link, pod)) {
            deleted |= host.delete(&link).await?;
        }
    }
    Ok(deleted)
}

fn namespace(pod: &PodId, source: std::io::Error) -> Error {
    Error::Namespace { pod: pod.clone(), source }
}

/// A link-layer address that stays the bridge's own: locally administered, from the last bytes of its first address.
fn link_address(ranges: &[Range]) -> [u8; 6] {
    let [a, b, c, d] = match ranges.first().map(|range| range.gateway) {
        Some(IpAddr::V4(gateway)) => gateway.octets(),
        Some(IpAddr::V6(gateway)) => {
            let [.., a, b, c, d] = gateway.octets();
            [a, b, c, d]
        }
        None => [0; 4], // a configuration without a subnet is refused
    };
    [0x0a, 0x58, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PodConfig;
    use futures_util::future::join_all;
    use rtnetlink::{LinkVeth, RouteMessageBuilder};
    use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
    use std::{
        fs::{self, File},
        net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
        thread,
        time::Duration,
    };
    use tempfile::TempDir;

    /// A node of the test's own: its network namespace and its folder of leases.
    struct Node {
        leases: TempDir,
        config: Config,
    }

    impl Node {
        fn bridge(&self) -> Arc<Bridge> {
            Arc::new(Bridge::open(&self.config, self.leases.path(), Arc::default()).unwrap())
        }

        /// What a pod can leave behind on the host: links and leases, by name.
        async fn traces(&self) -> Vec<String> {
            let links = Netlink::of_test().links().await.unwrap().into_iter().map(|link| link.name);
            let folder = self.leases.path().join(&self.config.bridge_name);
            let leases =
                fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let of_pods = |name: &String| name.starts_with("pt") || name.parse::<IpAddr>().is_ok();
            let mut traces: Vec<_> = links.chain(leases).filter(of_pods).collect();
            traces.sort();
            traces
        }
    }

    /// Runs the test on a thread in a new network namespace, which the threads it starts inherit.
    fn on_a_node(config: &str, test: impl AsyncFnOnce(Node) + Send + 'static) {
        if !rustix::process::geteuid().is_root() {
            return eprintln!("skipped: a network namespace of one's own needs root");
        }
        let config: Config = toml::from_str(config).unwrap();
        let node = Node { leases: tempfile::tempdir().unwrap(), config };
        let body = move || {
            leave_network();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(test(node));
        };
        thread::spawn(body).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    }

    #[expect(deprecated, reason = "its successor is unsafe for the sake of another flag")]
    fn leave_network() {
        rustix::thread::unshare(UnshareFlags::NEWNET).unwrap();
    }

    fn own_netns() -> OwnedFd {
        File::open("/proc/thread-self/ns/net").unwrap().into()
    }

    /// As a supervisor makes it.
    fn new_netns() -> OwnedFd {
        let make = || {
            leave_network();
            crate::sys::link::bring_up_loopback().unwrap();
            own_netns()
        };
        thread::spawn(make).join().unwrap()
    }

    fn within<T: Send>(netns: &OwnedFd, work: impl FnOnce() -> T + Send) -> T {
        let visit = || {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        thread::scope(|scope| scope.spawn(visit).join().unwrap())
    }

    fn pod(digit: u8) -> PodId {
        PodId::from_bytes([digit; 32])
    }

    async fn attach_as(
        bridge: &Arc<Bridge>,
        digit: u8,
        netns: &OwnedFd,
        config: &PodConfig,
        sysctls: &[(String, String)],
    ) -> Result<Attachment, Error> {
        let (pod, netns) = (pod(digit), netns.try_clone().unwrap());
        bridge.attach(Request { pod: &pod, config, netns, sysctls }).await
    }

    async fn attach(bridge: &Arc<Bridge>, digit: u8, netns: &OwnedFd) -> Result<IpAddr, Error> {
        let attachment = attach_as(bridge, digit, netns, &PodConfig::default(), &[]).await?;
        assert_eq!(attachment.interface, "eth0");
        Ok(attachment.addresses[0])
    }

    /// Bytes go from a socket made in one namespace to a listener made in another.
    #[track_caller]
    fn assert_reaches(from: &OwnedFd, to: &OwnedFd, address: IpAddr) {
        let listener = within(to, || TcpListener::bind((address, 0)).unwrap());
        let at = listener.local_addr().unwrap();
        let client = within(from, || TcpStream::connect_timeout(&at, Duration::from_secs(3)));
        let client = client.unwrap_or_else(|error| panic!("{at}: {error}"));
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
    }

    #[test]
    fn settings_of_the_interface_are_set_and_one_that_cannot_be_leaves_nothing() {
        on_a_node("", async |node| {
            let set = |name: &str, value: &str| [(name.to_owned(), value.to_owned())];
            let (bridge, netns) = (node.bridge(), new_netns());
            let good = set("net.ipv4.conf.eth0.rp_filter", "2");
            attach_as(&bridge, 1, &netns, &PodConfig::default(), &good).await.unwrap();
            let read = || fs::read_to_string("/proc/sys/net/ipv4/conf/eth0/rp_filter").unwrap();
            assert_eq!(within(&netns, read), "2\n");
            bridge.detach(&pod(1)).await.unwrap();

            for (name, value) in [
                ("net.ipv4.conf.eth0.no_such", "1"),
                ("net.ipv4.conf.eth1.rp_filter", "1"),
                ("net.ipv4.conf.eth0.rp_filter", "many"),
            ] {
                let config = PodConfig::default();
                let error =
                    attach_as(&bridge, 2, &new_netns(), &config, &set(name, value)).await.unwrap_err();
                assert!(matches!(&error, Error::Sysctl { name: named, .. } if named == name), "{error}");
            }
            assert_eq!(node.traces().await, [""; 0]);
        });
    }

    #[test]
    fn pods_reach_each_other_the_node_and_themselves() {
        on_a_node("", async |node| {
            let (bridge, host) = (node.bridge(), own_netns());
            let (a, b) = (new_netns(), new_netns());
            let (at_a, at_b) = (attach(&bridge, 1, &a).await.unwrap(), attach(&bridge, 2, &b).await.unwrap());
            assert_eq!([at_a, at_b], [2, 3].map(|last| IpAddr::from([10, 88, 0, last])));
            let gateway = IpAddr::from([10, 88, 0, 1]);
            assert_reaches(&a, &b, at_b);
            assert_reaches(&b, &a, at_a);
            assert_reaches(&a, &host, gateway);
            assert_reaches(&host, &a, at_a);
            assert_reaches(&a, &a, IpAddr::from([127, 0, 0, 1]));
            let outward = within(&a, || {
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                socket.connect(SocketAddr::from(([192, 0, 2, 1], 9))).map(|()| socket.local_addr().unwrap())
            });
            assert_eq!(outward.unwrap().ip(), at_a, "there is a default route");
        });
    }

    #[test]
    fn a_pod_gets_the_mtu_that_is_configured_and_hears_no_router() {
        on_a_node("mtu = 1400\nbridge_name = \"br-pods\"", async |node| {
            let netns = new_netns();
            attach(&node.bridge(), 1, &netns).await.unwrap();
            let inside = Netlink::inside(&pod(1), netns.try_clone().unwrap()).await.unwrap();
            assert_eq!(inside.link(INTERFACE).await.unwrap().unwrap().mtu, Some(1400));
            let host = Netlink::of_test();
            let (end, bridge) =
                (host.link("pt01010101010").await.unwrap(), host.link("br-pods").await.unwrap());
            let (end, bridge) = (end.unwrap(), bridge.unwrap());
            assert_eq!((end.mtu, end.master), (Some(1400), Some(bridge.index)));
            assert_eq!(end.alias, Some(veth::alias(&pod(1))));
            let accepts = |name| fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{name}/accept_ra"));
            if accepts("lo").is_ok() {
                assert_eq!(within(&netns, || accepts("eth0").unwrap()).trim(), "0");
                assert_eq!(accepts("br-pods").unwrap().trim(), "0");
            }
        });
    }

    #[test]
    fn the_node_forwards_once_there_is_a_pod() {
        on_a_node("", async |node| {
            const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
            fs::write(FORWARD, "0").unwrap();
            attach(&node.bridge(), 1, &new_netns()).await.unwrap();
            assert_eq!(fs::read_to_string(FORWARD).unwrap().trim(), "1");
        });
    }

    #[test]
    fn detaching_needs_no_namespace_no_memory_and_may_be_repeated() {
        on_a_node("", async |node| {
            attach(&node.bridge(), 1, &new_netns()).await.unwrap(); // the namespace is gone at once
            let netns = new_netns();
            attach(&node.bridge(), 2, &netns).await.unwrap();
            assert_eq!(node.traces().await.last().unwrap(), "pt02020202020");
            for _ in 0..2 {
                node.bridge().detach(&pod(2)).await.unwrap();
                node.bridge().detach(&pod(1)).await.unwrap();
                assert_eq!(node.traces().await, [""; 0]);
            }
            node.bridge().detach(&pod(77)).await.unwrap();
        });
    }

    #[test]
    fn an_empty_pool_is_an_error_that_names_it_and_leaves_nothing() {
        on_a_node("subnets = [\"10.9.8.0/30\"]", async |node| {
            let (bridge, netns) = (node.bridge(), new_netns());
            attach(&bridge, 1, &new_netns()).await.unwrap();
            bridge.detach(&pod(1)).await.unwrap();
            attach(&bridge, 2, &netns).await.unwrap();
            let before = node.traces().await;
            let error = attach(&bridge, 3, &new_netns()).await.unwrap_err();
            assert!(error.to_string().contains("10.9.8.0/30"), "{error}");
            assert_eq!(node.traces().await, before);
        });
    }

    #[test]
    fn a_failure_at_any_step_leaves_neither_link_nor_lease() {
        on_a_node("", async |node| {
            let bridge = node.bridge();
            // Not a namespace; the host's namespace.
            let null = File::open("/dev/null").unwrap().into();
            assert!(matches!(
                attach(&bridge, 1, &null).await,
                Err(Error::Netlink { operation: "enter", .. })
            ));
            assert!(matches!(attach(&bridge, 1, &own_netns()).await, Err(Error::HostNamespace { .. })));
            // The pair cannot be made: there is an eth0.
            let taken = new_netns();
            let inside = Netlink::inside(&pod(2), taken.try_clone().unwrap()).await.unwrap();
            inside.raw().link().add(LinkVeth::new(INTERFACE, "other").build()).execute().await.unwrap();
            let error = attach(&bridge, 2, &taken).await.unwrap_err();
            assert_eq!(chain(&error), "make link pair pt02020202020: File exists (os error 17)");
            // The last step fails: there is a default route.
            let routed = new_netns();
            let inside = Netlink::inside(&pod(3), routed.try_clone().unwrap()).await.unwrap();
            let lo = RouteMessageBuilder::<Ipv4Addr>::new().output_interface(1).build();
            inside.raw().route().add(lo).execute().await.unwrap();
            let error = attach(&bridge, 3, &routed).await.unwrap_err();
            assert_eq!(chain(&error), "add default route by 10.88.0.1: File exists (os error 17)");
            assert_eq!(node.traces().await, [""; 0]);
        });
    }

    #[test]
    fn attaching_twice_fails_and_leaves_the_first_as_it_was() {
        on_a_node("", async |node| {
            let (bridge, netns) = (node.bridge(), new_netns());
            let address = attach(&bridge, 1, &netns).await.unwrap();
            let before = node.traces().await;
            attach(&bridge, 1, &new_netns()).await.unwrap_err();
            assert_eq!(node.traces().await, before);
            assert_reaches(&own_netns(), &netns, address);
        });
    }

    #[test]
    fn another_interface_of_the_bridges_name_is_left_alone() {
        on_a_node("", async |node| {
            let host = Netlink::of_test();
            host.raw().link().add(LinkVeth::new("pintle0", "other").build()).execute().await.unwrap();
            let error = attach(&node.bridge(), 1, &new_netns()).await.unwrap_err();
            assert!(matches!(error, Error::NotABridge { .. }), "{error}");
            assert_eq!(host.link("pintle0").await.unwrap().unwrap().kind, Kind::Veth);
            assert_eq!(node.traces().await, [""; 0]);
        });
    }

    #[test]
    fn a_bridge_that_gets_no_address_is_not_left() {
        on_a_node("subnets = [\"224.0.0.0/24\"]", async |node| {
            let error = attach(&node.bridge(), 1, &new_netns()).await.unwrap_err();
            assert!(chain(&error).starts_with("add address 224.0.0.1/24 to pintle0"), "{}", chain(&error));
            assert_eq!(Netlink::of_test().link("pintle0").await.unwrap(), None);
            assert_eq!(node.traces().await, [""; 0]);
        });
    }

    #[test]
    fn a_bridge_that_was_deleted_is_made_again() {
        on_a_node("", async |node| {
            let (bridge, host, netns) = (node.bridge(), Netlink::of_test(), new_netns());
            attach(&bridge, 1, &new_netns()).await.unwrap();
            host.delete(&host.link("pintle0").await.unwrap().unwrap()).await.unwrap();
            let address = attach(&bridge, 2, &netns).await.unwrap();
            assert_reaches(&own_netns(), &netns, address);
        });
    }

    #[test]
    fn a_sweep_takes_the_dead_and_spares_the_living() {
        on_a_node("", async |node| {
            let (bridge, living, dead) = (node.bridge(), new_netns(), new_netns());
            let address = attach(&bridge, 1, &living).await.unwrap();
            attach(&bridge, 2, &dead).await.unwrap();
            attach(&bridge, 3, &dead).await.unwrap_err(); // its eth0 is there already
            // A crash after the pair was made, before its alias was written.
            let (host, half) = (Netlink::of_test(), new_netns());
            let index = host.link("pintle0").await.unwrap().unwrap().index;
            let name = veth::host_name(&pod(4));
            host.add_veth(NewVeth { name: &name, bridge: index, netns: half.as_fd(), mtu: 1500 })
                .await
                .unwrap();
            assert_eq!(node.traces().await.len(), 5);
            node.bridge().sweep(&[pod(1)].into(), &HashMap::new()).await.unwrap();
            assert_eq!(node.traces().await, ["10.88.0.2", "pt01010101010"]);
            assert_reaches(&own_netns(), &living, address);
        });
    }

    #[test]
    fn many_pods_at_once_get_an_address_each() {
        on_a_node("", async |node| {
            let (bridge, spaces) = (node.bridge(), [(); 16].map(|()| new_netns()));
            let all = spaces.iter().zip(1..).map(|(netns, digit)| attach(&bridge, digit, netns));
            let got: Vec<_> = join_all(all).await.into_iter().map(Result::unwrap).collect();
            assert_eq!(HashSet::<_>::from_iter(&got).len(), 16);
            assert_reaches(&spaces[0], &spaces[15], got[15]);
        });
    }
}
