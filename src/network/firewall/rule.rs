//! Chains and rules of nftables, as far as the firewall needs them. Printed, they read as in nft(8).

use std::{fmt, net::SocketAddr};

use crate::{model::PortProtocol, network::Subnet};

/// A chain of a table of the family inet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    /// Where the kernel calls it; a chain without a hook is one to jump to.
    pub(super) hook: Option<Hook>,
    pub(super) rules: Vec<Rule>,
}

/// The place in a packet's way where a chain is called.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Hook {
    pub(super) kind: &'static str,
    pub(super) point: Point,
    /// Among the chains at the same point, lower ones come first.
    pub(super) priority: i32,
}

/// A point in a packet's way (netfilter's hooks of the same names).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Point {
    Prerouting,
    Forward,
    Output,
    Postrouting,
}

/// What happens to a packet that all matches agree on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Rule {
    pub(super) matches: Vec<Match>,
    pub(super) action: Action,
}

/// A question about a packet. Those with a flag `is` ask for the opposite where it is false.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Match {
    /// IPv6, or else IPv4. Needed before a question about an address.
    Ipv6(bool),
    Protocol(PortProtocol),
    Source {
        network: Subnet,
        is: bool,
    },
    Destination {
        network: Subnet,
        is: bool,
    },
    DestinationPort(u16),
    FromInterface {
        name: String,
        is: bool,
    },
    ToInterface {
        name: String,
        is: bool,
    },
    /// Comes from, or goes to, an interface that is a bridge.
    FromBridge,
    ToBridge,
    /// The destination is an address of this host.
    ToThisHost,
    /// The connection's destination has been translated.
    Translated,
    /// The port that the connection was made to, before its translation.
    OriginalPort(u16),
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Action {
    Drop,
    Jump(&'static str),
    /// The source becomes this host's address on the way out, and the port a random one: two connections that begin at the
    /// same time do not get the same.
    Masquerade,
    Translate {
        to: SocketAddr,
    },
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let no = |is: bool| if is { "" } else { "!= " };
        let family = |network: &Subnet| if network.is_ipv6() { "ip6" } else { "ip" };
        match self {
            Self::Ipv6(true) => f.write_str("meta nfproto ipv6"),
            Self::Ipv6(false) => f.write_str("meta nfproto ipv4"),
            Self::Protocol(protocol) => write!(f, "meta l4proto {}", protocol.name()),
            Self::Source { network, is } => write!(f, "{} saddr {}{network}", family(network), no(*is)),
            Self::Destination { network, is } => write!(f, "{} daddr {}{network}", family(network), no(*is)),
            Self::DestinationPort(port) => write!(f, "th dport {port}"),
            Self::FromInterface { name, is } => write!(f, "iifname {}{name:?}", no(*is)),
            Self::ToInterface { name, is } => write!(f, "oifname {}{name:?}", no(*is)),
            Self::FromBridge => f.write_str("meta iifkind \"bridge\""),
            Self::ToBridge => f.write_str("meta oifkind \"bridge\""),
            Self::ToThisHost => f.write_str("fib daddr type local"),
            Self::Translated => f.write_str("ct status dnat"),
            Self::OriginalPort(port) => write!(f, "ct original proto-dst {port}"),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for question in &self.matches {
            write!(f, "{question} ")?;
        }
        match &self.action {
            Action::Drop => f.write_str("drop"),
            Action::Jump(chain) => write!(f, "jump {chain}"),
            Action::Masquerade => f.write_str("masquerade fully-random"),
            Action::Translate { to } => {
                write!(f, "dnat {} to {to}", if to.is_ipv6() { "ip6" } else { "ip" })
            }
        }
    }
}
