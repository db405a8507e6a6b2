//! What the table says: from the bridge and the host ports to chains and rules, purely.

use std::net::{IpAddr, SocketAddr};

use super::rule::{
    Action::{self, Drop, Jump, Masquerade, Translate},
    Chain, Hook,
    Match::{
        self, Destination, DestinationPort, FromBridge, FromInterface, Ipv6, OriginalPort, Protocol, Source,
        ToBridge, ToInterface, ToThisHost, Translated,
    },
    Point, Rule,
};
use crate::{model::PortProtocol, network::Subnet};

/// The chain of host ports, which is jumped to.
const HOST_PORTS: &str = "host-ports";

/// Before connections are tracked and translated: what is on the wire (`NF_IP_PRI_RAW`).
const PRIORITY_RAW: i32 = -300;
/// `NF_IP_PRI_NAT_DST`, `NF_IP_PRI_FILTER`, `NF_IP_PRI_NAT_SRC`.
const PRIORITY_DESTINATION: i32 = -100;
const PRIORITY_FILTER: i32 = 0;
const PRIORITY_SOURCE: i32 = 100;

/// What the firewall is to do.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(in crate::network) struct Wanted {
    pub(in crate::network) bridge: Option<BridgeRules>,
    pub(in crate::network) forwards: Vec<Forward>,
}

impl Wanted {
    /// Whether nothing is wanted but that pods reach the outside: without host ports, which somebody relies on, and
    /// without isolation, which protects somebody.
    pub(in crate::network) fn can_be_forgone(&self) -> bool {
        self.forwards.is_empty() && self.bridge.as_ref().is_none_or(|bridge| !bridge.isolate)
    }
}

/// What pods on the bridge may reach, and as whom.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::network) struct BridgeRules {
    pub(in crate::network) name: String,
    /// All that pods have addresses in.
    pub(in crate::network) subnets: Vec<Subnet>,
    /// Whether what leaves the host has the host's address.
    pub(in crate::network) masquerade: bool,
    /// Whether packets from and to other bridges of this host are dropped.
    pub(in crate::network) isolate: bool,
}

/// A port of this host that leads to a pod's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::network) struct Forward {
    pub(in crate::network) protocol: PortProtocol,
    /// The address of this host; none, or an unspecified one, is each of the pod's family.
    pub(in crate::network) host_address: Option<IpAddr>,
    pub(in crate::network) host_port: u16,
    pub(in crate::network) to: SocketAddr,
    /// Those whose packets reach the pod without this host: its neighbours on its bridge, and the pod itself.
    pub(in crate::network) neighbours: Subnet,
    /// The interface of this host that leads to the pod.
    pub(in crate::network) interface: String,
}

pub(super) fn chains(wanted: &Wanted) -> Vec<Chain> {
    let mut chains = vec![
        base("raw-prerouting", "filter", Point::Prerouting, PRIORITY_RAW, no_loopback_from_outside(wanted)),
        // The kernel gives an inner chain's name to the rules that jump to it, so it need not come first.
        base("prerouting", "nat", Point::Prerouting, PRIORITY_DESTINATION, vec![to_host_ports()]),
        base("output", "nat", Point::Output, PRIORITY_DESTINATION, vec![to_host_ports()]),
        Chain { name: HOST_PORTS, hook: None, rules: wanted.forwards.iter().map(translate).collect() },
        base("postrouting", "nat", Point::Postrouting, PRIORITY_SOURCE, sources(wanted)),
    ];
    if let Some(bridge) = wanted.bridge.as_ref().filter(|bridge| bridge.isolate) {
        chains.push(base("forward", "filter", Point::Forward, PRIORITY_FILTER, isolation(bridge)));
    }
    chains
}

fn base(name: &'static str, kind: &'static str, point: Point, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { name, hook: Some(Hook { kind, point, priority }), rules }
}

fn rule(matches: impl IntoIterator<Item = Match>, action: Action) -> Rule {
    Rule { matches: matches.into_iter().collect(), action }
}

/// For the host's 127.0.0.1 to lead to a pod, the kernel must route loopback addresses to the interface of the pod
/// (`route_localnet`). Then it would take them from there as well, and a pod could reach what listens on the host's
/// loopback only (CVE-2020-8558).
fn no_loopback_from_outside(wanted: &Wanted) -> Vec<Rule> {
    let bridge = wanted.bridge.iter().map(|bridge| bridge.name.as_str());
    let mut names: Vec<&str> =
        bridge.chain(wanted.forwards.iter().map(|forward| forward.interface.as_str())).collect();
    names.sort_unstable();
    names.dedup();
    let from = |name: &str| [FromInterface { name: name.into(), is: true }, Ipv6(false)];
    let network = Subnet::LOOPBACK;
    names
        .into_iter()
        .flat_map(|name| {
            let ends = [Source { network, is: true }, Destination { network, is: true }];
            ends.map(|end| rule(from(name).into_iter().chain([end]), Drop))
        })
        .collect()
}

fn to_host_ports() -> Rule {
    rule([ToThisHost], Jump(HOST_PORTS))
}

fn translate(forward: &Forward) -> Rule {
    let ipv6 = forward.to.is_ipv6();
    // The kernel takes no answer for ::1 from an interface: there it is better to be refused than to wait.
    let loopback = Destination { network: Subnet::LOOPBACK_IPV6, is: false };
    let any = ipv6.then_some(loopback);
    let address = forward.host_address.filter(|address| !address.is_unspecified());
    let address = address.map(|address| Destination { network: address.into(), is: true }).or(any);
    let port = [Protocol(forward.protocol), DestinationPort(forward.host_port)];
    rule([Ipv6(ipv6)].into_iter().chain(port).chain(address), Translate { to: forward.to })
}

/// Whose source becomes this host's address.
fn sources(wanted: &Wanted) -> Vec<Rule> {
    let outward = wanted.bridge.iter().filter(|bridge| bridge.masquerade).flat_map(outward);
    outward.chain(wanted.forwards.iter().flat_map(back_by_this_host)).collect()
}

/// What pods send to the outside. Between pods nothing is changed, whichever of the bridge's subnets they are in.
fn outward(bridge: &BridgeRules) -> impl Iterator<Item = Rule> {
    bridge.subnets.iter().map(move |from| {
        let multicast = if from.is_ipv6() { Subnet::MULTICAST_IPV6 } else { Subnet::MULTICAST };
        let inside = bridge.subnets.iter().filter(|subnet| subnet.is_ipv6() == from.is_ipv6());
        let inside = inside.chain([&multicast]).map(|network| Destination { network: *network, is: false });
        let from = [Ipv6(from.is_ipv6()), Source { network: *from, is: true }];
        let out = [ToInterface { name: bridge.name.clone(), is: false }];
        rule(from.into_iter().chain(inside).chain(out), Masquerade)
    })
}

/// What reaches a pod through a host port from beside it, or from this host's loopback: the answer must come back by
/// this host, which knows what was translated.
fn back_by_this_host(forward: &Forward) -> Vec<Rule> {
    let ipv6 = forward.to.is_ipv6();
    let loopback = (!ipv6).then_some(Subnet::LOOPBACK);
    let to = || {
        [
            Destination { network: forward.to.ip().into(), is: true },
            Protocol(forward.protocol),
            DestinationPort(forward.to.port()),
            Translated,
            OriginalPort(forward.host_port),
        ]
    };
    let sources = [forward.neighbours].into_iter().chain(loopback);
    sources
        .map(|network| rule([Ipv6(ipv6), Source { network, is: true }].into_iter().chain(to()), Masquerade))
        .collect()
}

fn isolation(bridge: &BridgeRules) -> Vec<Rule> {
    let name = || bridge.name.clone();
    vec![
        rule(
            [FromInterface { name: name(), is: true }, ToBridge, ToInterface { name: name(), is: false }],
            Drop,
        ),
        rule(
            [ToInterface { name: name(), is: true }, FromBridge, FromInterface { name: name(), is: false }],
            Drop,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(wanted: &Wanted, chain: &str) -> Vec<String> {
        let chain = chains(wanted).into_iter().find(|found| found.name == chain);
        chain.unwrap().rules.iter().map(ToString::to_string).collect()
    }

    fn bridge(subnets: &[&str]) -> BridgeRules {
        let subnets = subnets.iter().map(|text| text.parse().unwrap()).collect();
        BridgeRules { name: "pods0".into(), subnets, masquerade: true, isolate: false }
    }

    fn forward(host_address: &str, to: &str, neighbours: &str) -> Forward {
        Forward {
            protocol: PortProtocol::Tcp,
            host_address: host_address.parse().ok(),
            host_port: 8080,
            to: to.parse().unwrap(),
            neighbours: neighbours.parse().unwrap(),
            interface: "pods0".into(),
        }
    }

    #[test]
    fn only_the_way_out_can_be_forgone() {
        let of = |bridge, forwards| Wanted { bridge, forwards }.can_be_forgone();
        let isolated = BridgeRules { isolate: true, ..bridge(&["10.88.0.0/16"]) };
        assert!(of(None, vec![]) && of(Some(bridge(&["10.88.0.0/16"])), vec![]));
        assert!(!of(Some(isolated), vec![]));
        assert!(!of(None, vec![forward("", "10.88.0.2:80", "10.88.0.0/16")]));
    }

    #[test]
    fn nothing_wanted_is_chains_without_a_rule_but_the_jumps() {
        for chain in chains(&Wanted::default()) {
            let jumps = ["prerouting", "output"].contains(&chain.name);
            assert_eq!(chain.rules.len(), usize::from(jumps), "{chain:?}");
        }
    }

    #[test]
    fn pods_have_the_hosts_address_outside_and_their_own_inside() {
        let bridge = Some(bridge(&["10.88.0.0/16", "10.99.0.0/24", "fd00::/64"]));
        let wanted = Wanted { bridge, ..Wanted::default() };
        assert_eq!(
            text(&wanted, "postrouting"),
            [
                "meta nfproto ipv4 ip saddr 10.88.0.0/16 ip daddr != 10.88.0.0/16 ip daddr != 10.99.0.0/24 \
             ip daddr != 224.0.0.0/4 oifname != \"pods0\" masquerade fully-random",
                "meta nfproto ipv4 ip saddr 10.99.0.0/24 ip daddr != 10.88.0.0/16 ip daddr != 10.99.0.0/24 \
             ip daddr != 224.0.0.0/4 oifname != \"pods0\" masquerade fully-random",
                "meta nfproto ipv6 ip6 saddr fd00::/64 ip6 daddr != fd00::/64 ip6 daddr != ff00::/8 \
             oifname != \"pods0\" masquerade fully-random",
            ]
        );
        assert_eq!(
            text(&wanted, "raw-prerouting"),
            [
                "iifname \"pods0\" meta nfproto ipv4 ip saddr 127.0.0.0/8 drop",
                "iifname \"pods0\" meta nfproto ipv4 ip daddr 127.0.0.0/8 drop",
            ]
        );
    }

    #[test]
    fn a_host_port_is_translated_and_answered_by_this_host() {
        let wanted = Wanted {
            bridge: None,
            forwards: vec![
                forward("", "10.88.0.2:80", "10.88.0.0/16"),
                forward("192.0.2.1", "10.88.0.2:80", "10.88.0.0/16"),
                forward("", "[fd00::2]:80", "fd00::/64"),
            ],
        };
        assert_eq!(
            text(&wanted, "host-ports"),
            [
                "meta nfproto ipv4 meta l4proto tcp th dport 8080 dnat ip to 10.88.0.2:80",
                "meta nfproto ipv4 meta l4proto tcp th dport 8080 ip daddr 192.0.2.1/32 dnat ip to 10.88.0.2:80",
                "meta nfproto ipv6 meta l4proto tcp th dport 8080 ip6 daddr != ::1/128 dnat ip6 to [fd00::2]:80",
            ]
        );
        let to =
            "meta l4proto tcp th dport 80 ct status dnat ct original proto-dst 8080 masquerade fully-random";
        let back = text(&wanted, "postrouting");
        assert_eq!(
            back[..2],
            [
                format!("meta nfproto ipv4 ip saddr 10.88.0.0/16 ip daddr 10.88.0.2/32 {to}"),
                format!("meta nfproto ipv4 ip saddr 127.0.0.0/8 ip daddr 10.88.0.2/32 {to}"),
            ]
        );
        assert_eq!(back[4..], [format!("meta nfproto ipv6 ip6 saddr fd00::/64 ip6 daddr fd00::2/128 {to}")]);
        assert_eq!(text(&wanted, "raw-prerouting").len(), 2, "one interface, once");
    }

    #[test]
    fn an_isolated_bridge_has_nothing_to_do_with_others() {
        let bridge = Some(BridgeRules { isolate: true, ..bridge(&["10.88.0.0/16"]) });
        assert_eq!(
            text(&Wanted { bridge, ..Wanted::default() }, "forward"),
            [
                "iifname \"pods0\" meta oifkind \"bridge\" oifname != \"pods0\" drop",
                "oifname \"pods0\" meta iifkind \"bridge\" iifname != \"pods0\" drop",
            ]
        );
    }
}
