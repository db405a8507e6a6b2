//! The few requests to the kernel that the bridge is made of. Each has a deadline, and an error that names
//! what was asked and of which link. `shaping.rs` has those that limit what a link carries.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    thread,
    time::Duration,
};

use futures_util::{TryFutureExt as _, TryStreamExt as _};
use rtnetlink::{
    LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
        link::{
            BridgePortState, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoVeth, LinkAttribute,
            LinkInfo, LinkMessage,
        },
        route::{RouteAttribute, RouteMessage},
    },
};
use rustix::{
    io::Errno,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use tokio::{runtime, sync::oneshot, time::timeout};

mod shaping;

use super::{Error, INTERFACE, Subnet};
use crate::{model::PodId, sys::sysctl, telemetry::task};

/// The kernel answers in microseconds, unless something holds its lock for links; then a pod should fail
/// and not hang.
const ANSWER_S_MAX: u64 = 5;

/// How long what a pod waits for may take as a whole. A request is carried out within the `sendmsg` that makes it, where no
/// deadline reaches it.
const CONVERSATION_S_MAX: u64 = 15;

/// A connection to the kernel about one network namespace. It lives as long as its conversation ([`converse`]).
#[derive(Clone, Debug)]
pub(super) struct Netlink(rtnetlink::Handle);

/// A network interface.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) alias: Option<String>,
    /// Of the link layer.
    pub(super) address: Vec<u8>,
    /// Index of the bridge it is a port of.
    pub(super) master: Option<u32>,
    /// Whether that bridge takes frames from it.
    pub(super) forwards: bool,
    pub(super) mtu: Option<u32>,
}

/// What an interface is, as far as we care.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Kind {
    Bridge,
    /// An intermediate device (ifb).
    Intermediate,
    #[default]
    Other,
    Veth,
}

/// A new pair: one end a port of a bridge here, the other a pod's [`INTERFACE`].
#[derive(Debug)]
pub(super) struct NewVeth<'a> {
    pub(super) name: &'a str,
    pub(super) bridge: u32,
    pub(super) netns: BorrowedFd<'a>,
    pub(super) mtu: u32,
}

type Connected =
    (rtnetlink::proto::Connection<rtnetlink::packet_route::RouteNetlinkMessage>, rtnetlink::Handle);

/// Has a conversation with the kernel about the links of this host, on a thread of its own. A request is carried out within
/// the `sendmsg` that makes it: on a busy node that waits for the lock on links, and a deletion waits for every processor
/// to notice. And since its answer is there by then, one thread that asks and reads has nobody to wake and to wait for.
///
/// What nobody waits for any longer goes on. `work` may block.
///
/// # Errors
/// Those of `work`.
pub(super) async fn converse<T: Send + 'static>(
    work: impl AsyncFnOnce(Netlink) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    task::blocking("netlink", move || talk(async move || work(Netlink::here()?).await)).await
}

/// As [`converse`], but is an error when it takes too long.
///
/// # Errors
/// Those of `work`, and [`Error::Deadline`], which names `operation` and `object`.
pub(super) async fn converse_in_time<T: Send + 'static>(
    operation: &'static str,
    object: &str,
    work: impl AsyncFnOnce(Netlink) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let late = |_| Error::Deadline { operation, object: object.into(), limit_s: CONVERSATION_S_MAX };
    timeout(Duration::from_secs(CONVERSATION_S_MAX), converse(work)).await.map_err(late)?
}

/// Runs `work` to its end on the calling thread.
fn talk<T>(work: impl AsyncFnOnce() -> Result<T, Error>) -> Result<T, Error> {
    let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build();
    runtime.map_err(|source| failed("start", "netlink conversation", source))?.block_on(work())
}

impl Netlink {
    /// To the namespace of the calling thread.
    fn here() -> Result<Self, Error> {
        connect().map(Self::drive).map_err(|source| failed("open", "netlink socket", source))
    }

    /// To the namespace of a pod, in which interfaces made from now on take no router's word for routes.
    pub(super) async fn inside(pod: &PodId, netns: OwnedFd) -> Result<Self, Error> {
        let runtime = runtime::Handle::current();
        let open = move || {
            refuse_router_advertisements("default");
            announce_addresses();
            let _runtime = runtime.enter(); // whose reactor the socket is registered with
            connect().map_err(|source| failed("enter", "network namespace", source))
        };
        // The socket belongs to the namespace of the thread that makes it.
        visit(pod, netns, open).await.map(Self::drive)
    }

    /// As [`converse`] has it, for the runtime of a test.
    #[cfg(test)]
    pub(super) fn of_test() -> Self {
        Self::here().unwrap()
    }

    /// For what only a test asks of the kernel.
    #[cfg(test)]
    pub(super) fn raw(&self) -> &rtnetlink::Handle {
        &self.0
    }

    fn drive((connection, handle): Connected) -> Self {
        // Ends when the last handle is dropped.
        task::spawn("netlink", connection);
        Self(handle)
    }

    pub(super) async fn link(&self, name: &str) -> Result<Option<Link>, Error> {
        let mut answer = Box::pin(self.0.link().get().match_name(name).execute());
        let found = ask("look for link", name, answer.try_next()).await;
        Ok(absent_is_none(found)?.flatten().map(Link::from))
    }

    /// A link that has just been made.
    pub(super) async fn new_link(&self, name: &str) -> Result<Link, Error> {
        let absent = || failed("find the new link", name, io::ErrorKind::NotFound.into());
        self.link(name).await?.ok_or_else(absent)
    }

    pub(super) async fn links(&self) -> Result<Vec<Link>, Error> {
        let all = self.0.link().get().execute().map_ok(Link::from);
        ask("list", "links", all.try_collect()).await
    }

    /// Not up yet. `address` is the link layer's. Without one a bridge has that of one of its ports, and changes it
    /// as pods come and go.
    pub(super) async fn add_bridge(&self, name: &str, address: [u8; 6]) -> Result<Link, Error> {
        let bridge = LinkMessageBuilder::<LinkBridge>::new(name).address(address.to_vec()).build();
        let request = self.0.link().add(bridge).execute();
        ask("make bridge", name, request).await?;
        self.new_link(name).await
    }

    /// Makes the pair in one step: on failure there is nothing.
    pub(super) async fn add_veth(&self, veth: NewVeth<'_>) -> Result<(), Error> {
        let peer = LinkMessageBuilder::<LinkUnspec>::default()
            .name(INTERFACE)
            .mtu(veth.mtu)
            .setns_by_fd(veth.netns.as_raw_fd())
            .build(); // not up: the kernel refuses that before the ends know each other
        let pair = LinkMessageBuilder::<LinkVeth>::new(veth.name, INTERFACE)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .mtu(veth.mtu)
            .controller(veth.bridge)
            .up()
            .build();
        let request = self.0.link().add(pair).execute();
        ask("make link pair", veth.name, request).await
    }

    /// Writes the alias of a bridge port, and lets it send back what it came with: a pod may be its own
    /// peer behind a service's address.
    pub(super) async fn mark_port(&self, name: &str, alias: &str) -> Result<(), Error> {
        let port = LinkBridgePort::new(0)
            .name(name)
            .alias(alias)
            .append_info_data(InfoBridgePort::HairpinMode(true))
            .build();
        let request = self.0.link().set_port(port).execute();
        ask("set up bridge port", name, request).await
    }

    pub(super) async fn set_up(&self, name: &str) -> Result<(), Error> {
        let request = self.0.link().set(LinkUnspec::new_with_name(name).up().build()).execute();
        ask("bring up", name, request).await
    }

    /// Has the kernel tell the link's neighbours of its addresses, as it does when the link comes up: writing the
    /// link-layer address that is there counts as a change.
    pub(super) async fn announce(&self, name: &str) -> Result<(), Error> {
        let Some(link) = self.link(name).await? else { return Ok(()) };
        let same = LinkUnspec::new_with_name(name).address(link.address).build();
        ask("announce the addresses of", name, self.0.link().set(same).execute()).await
    }

    /// That it has the address already is success. An IPv6 address can be used at once: it is not looked for among
    /// the neighbours first (RFC 4862, duplicate address detection), since a lease says that it is nobody else's.
    pub(super) async fn add_address(&self, link: &Link, address: IpAddr, prefix: u8) -> Result<(), Error> {
        let mut request = self.0.address().add(link.index, address, prefix);
        if address.is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        let object = format!("{address}/{prefix} to {}", link.name);
        match ask("add address", &object, request.execute()).await {
            Err(Error::Netlink { source, .. }) if is(&source, Errno::EXIST) => Ok(()),
            result => result,
        }
    }

    /// The subnets of the link's addresses, but those of the link alone (`fe80::/10`).
    pub(super) async fn subnets(&self, link: &Link) -> Result<Vec<Subnet>, Error> {
        let all = self.0.address().get().set_link_index_filter(link.index).execute();
        let all: Vec<AddressMessage> = ask("list addresses of", &link.name, all.try_collect()).await?;
        let subnet = |message: AddressMessage| {
            let prefix = message.header.prefix_len;
            let is_local = |address: &IpAddr| matches!(address, IpAddr::V6(ip) if ip.is_unicast_link_local());
            message.attributes.into_iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) if !is_local(&address) => {
                    Some(Subnet::of(address, prefix))
                }
                _ => None,
            })
        };
        Ok(all.into_iter().filter_map(subnet).collect())
    }

    pub(super) async fn add_default_route(&self, gateway: IpAddr) -> Result<(), Error> {
        let route = match gateway {
            IpAddr::V4(gateway) => RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).build(),
            IpAddr::V6(gateway) => RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway).build(),
        };
        let request = self.0.route().add(route).execute();
        ask("add default route by", &gateway.to_string(), request).await
    }

    /// False: it was not there.
    pub(super) async fn delete(&self, link: &Link) -> Result<bool, Error> {
        let request = self.0.link().del(link.index).execute();
        let deleted = ask("delete link", &link.name, request).await;
        Ok(absent_is_none(deleted)?.is_some())
    }

    /// The interface by which an address is reached.
    pub(super) async fn link_to(&self, address: IpAddr) -> Result<Option<Link>, Error> {
        let to = match address {
            IpAddr::V4(address) => {
                RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(address, 32).build()
            }
            IpAddr::V6(address) => {
                RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(address, 128).build()
            }
        };
        let mut answer = Box::pin(self.0.route().get(to).execute());
        let found = match ask("look for a route to", &address.to_string(), answer.try_next()).await {
            Err(Error::Netlink { source, .. }) if is(&source, Errno::NETUNREACH) => None,
            found => found?,
        };
        let index = found.and_then(|route| {
            route.attributes.into_iter().find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => Some(index),
                _ => None,
            })
        });
        let Some(index) = index else { return Ok(None) };
        let mut answer = Box::pin(self.0.link().get().match_index(index).execute());
        let found = ask("look for link", &format!("number {index}"), answer.try_next()).await;
        Ok(absent_is_none(found)?.flatten().map(Link::from))
    }

    /// MTU of the interface that the default route goes through, if there is one.
    pub(super) async fn default_route_mtu(&self) -> Result<Option<u32>, Error> {
        let any = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let all = self.0.route().get(any).execute();
        let all: Vec<RouteMessage> = ask("list", "routes", all.try_collect()).await?;
        let Some(index) = all.iter().find_map(default_route_link) else { return Ok(None) };
        let mut answer = Box::pin(self.0.link().get().match_index(index).execute());
        let found = ask("look for link", &format!("number {index}"), answer.try_next()).await;
        Ok(absent_is_none(found)?.flatten().and_then(|link| Link::from(link).mtu))
    }
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self { index: message.header.index, ..Self::default() };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                LinkAttribute::Controller(index) => link.master = Some(index),
                LinkAttribute::Mtu(mtu) => link.mtu = Some(mtu),
                LinkAttribute::Address(address) => link.address = address,
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        match info {
                            LinkInfo::Kind(InfoKind::Bridge) => link.kind = Kind::Bridge,
                            LinkInfo::Kind(InfoKind::Ifb) => link.kind = Kind::Intermediate,
                            LinkInfo::Kind(InfoKind::Veth) => link.kind = Kind::Veth,
                            LinkInfo::PortData(InfoPortData::BridgePort(port)) => {
                                link.forwards =
                                    port.contains(&InfoBridgePort::State(BridgePortState::Forwarding));
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        link
    }
}

/// Runs `work` in the network namespace of a pod, on a thread of its own that ends with it: a thread of the runtime
/// never leaves the host's namespace.
async fn visit<T: Send + 'static>(
    pod: &PodId,
    netns: OwnedFd,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let namespace = |source| Error::Namespace { pod: pod.clone(), source };
    if is_own(&netns).map_err(namespace)? {
        return Err(Error::HostNamespace { pod: pod.clone() });
    }
    let (answer, answered) = oneshot::channel();
    let visit = move || {
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|errno| failed("enter", "network namespace", errno.into()))?;
        work()
    };
    let visitor = thread::Builder::new().name("pintle-netns".into());
    let send = move || drop(answer.send(visit())); // nobody may be waiting any more
    visitor.spawn(send).map_err(namespace)?;
    let gone = |_| failed("enter", "network namespace", io::Error::other("the thread in it ended early"));
    let late =
        |_| Error::Deadline { operation: "enter", object: "network namespace".into(), limit_s: ANSWER_S_MAX };
    timeout(Duration::from_secs(ANSWER_S_MAX), answered).await.map_err(late)?.map_err(gone)?
}

/// Sets kernel settings of the pod's network namespace, in their order.
///
/// # Errors
/// [`Error::Sysctl`] for the first that the kernel has not or refuses.
pub(super) async fn set_sysctls(
    pod: &PodId,
    netns: OwnedFd,
    sysctls: &[(String, String)],
) -> Result<(), Error> {
    if sysctls.is_empty() {
        return Ok(());
    }
    let sysctls = sysctls.to_vec();
    let set = move || {
        sysctls.into_iter().try_for_each(|(name, value)| {
            sysctl::set(&name, &value).map_err(|source| Error::Sysctl { name, value, source })
        })
    };
    visit(pod, netns, set).await
}

fn connect() -> io::Result<Connected> {
    let (connection, handle, _unsolicited) = rtnetlink::new_connection()?;
    Ok((connection, handle))
}

/// Waits for the kernel's answer.
async fn ask<T>(
    operation: &'static str,
    object: &str,
    answer: impl Future<Output = Result<T, rtnetlink::Error>>,
) -> Result<T, Error> {
    run(operation, object, answer.map_err(kernel)).await
}

/// Waits for an answer, but not for ever.
async fn run<T>(
    operation: &'static str,
    object: &str,
    answer: impl Future<Output = io::Result<T>>,
) -> Result<T, Error> {
    match timeout(Duration::from_secs(ANSWER_S_MAX), answer).await {
        Ok(result) => result.map_err(|source| failed(operation, object, source)),
        Err(_) => Err(Error::Deadline { operation, object: object.into(), limit_s: ANSWER_S_MAX }),
    }
}

fn failed(operation: &'static str, object: &str, source: io::Error) -> Error {
    Error::Netlink { operation, object: object.into(), source }
}

/// The kernel's own error where it gave one.
fn kernel(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

fn absent_is_none<T>(result: Result<T, Error>) -> Result<Option<T>, Error> {
    match result {
        Err(Error::Netlink { source, .. }) if is(&source, Errno::NODEV) => Ok(None),
        result => result.map(Some),
    }
}

/// Whether a descriptor is of the network namespace that the calling thread is in.
fn is_own(netns: &OwnedFd) -> io::Result<bool> {
    let own = fs::metadata("/proc/thread-self/ns/net")?;
    let given = rustix::fs::fstat(netns)?;
    Ok((given.st_dev, given.st_ino) == (own.dev(), own.ino()))
}

/// For an interface of the calling thread's namespace, or `default` for those to come. Else a pod could make
/// itself the router of its neighbours and of the node by a word of IPv6 (CVE-2020-10749). A kernel without
/// IPv6 has nothing to be told.
pub(super) fn refuse_router_advertisements(interface: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/accept_ra");
    match fs::write(&path, "0") {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path, %error, "cannot refuse IPv6 router advertisements");
        }
        _ => {}
    }
}

/// For interfaces to come in the calling thread's namespace: when one comes up, its neighbours hear of its addresses, by
/// gratuitous ARP (RFC 5227) and by unsolicited neighbour advertisements (RFC 9131). Who has an older entry for an
/// address, of a pod that is gone, forgets it. Nothing is lost without.
fn announce_addresses() {
    for sysctl in ["net.ipv4.conf.default.arp_notify", "net.ipv6.conf.default.ndisc_notify"] {
        if let Err(error) = sysctl::set(sysctl, "1") {
            tracing::debug!(sysctl, %error, "addresses of pods are not announced");
        }
    }
}

/// The index of the link, if the route is the main table's default one.
fn default_route_link(route: &RouteMessage) -> Option<u32> {
    let main = route.header.table == rtnetlink::packet_route::route::RouteHeader::RT_TABLE_MAIN;
    if !main || route.header.destination_prefix_length != 0 {
        return None;
    }
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}
