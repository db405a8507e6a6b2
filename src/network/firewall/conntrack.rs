//! Flows that the kernel remembers (`linux/netfilter/nfnetlink_conntrack.h`).

use std::{io, net::IpAddr};

use netlink_packet_netfilter::{
    NetfilterMessageInner, NetfilterProtoFamily,
    conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol, Tuple},
};
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP};
use rustix::io::Errno;

use super::{
    netfilter::{Netfilter, encoded, message},
    table::Forward,
};

/// One direction of a flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Direction {
    protocol: Protocol,
    source: IpAddr,
    destination: IpAddr,
    destination_port: u16,
}

/// Forgets UDP flows to the forwarded ports. Says how many.
pub(super) fn forget(forwards: &[Forward]) -> io::Result<usize> {
    let netfilter = Netfilter::open()?;
    let get = ConntrackMessage::Get(vec![]);
    let request = message(NetfilterProtoFamily::Unspec, 0, get.into(), NLM_F_DUMP);
    netfilter.send(&encoded([request]))?;
    let mut stale = Vec::new();
    netfilter.answer(|found| {
        let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = found.inner else { return };
        if is_stale(&attributes, forwards) {
            stale.push((found.header.family, attributes));
        }
    })?;
    let mut forgotten = 0;
    for (family, attributes) in stale {
        // The flow's first direction names it.
        let name =
            attributes.into_iter().filter(|a| matches!(a, ConntrackAttribute::CtaTupleOrig(_))).collect();
        let request = message(family, 0, ConntrackMessage::Delete(name).into(), NLM_F_ACK);
        let netfilter = Netfilter::open()?;
        netfilter.send(&encoded([request]))?;
        match netfilter.answer(|_| {}) {
            Ok(()) => forgotten += 1,
            // It has ended meanwhile.
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(forgotten)
}

/// Whether a flow goes to a pod's port, by translation, or to a forwarded port of this host without being translated.
fn is_stale(attributes: &[ConntrackAttribute], forwards: &[Forward]) -> bool {
    let tuple = |of: fn(&ConntrackAttribute) -> Option<&Vec<Tuple>>| {
        attributes.iter().find_map(of).and_then(|t| direction(t))
    };
    let original = tuple(|attribute| match attribute {
        ConntrackAttribute::CtaTupleOrig(tuple) => Some(tuple),
        _ => None,
    });
    let reply = tuple(|attribute| match attribute {
        ConntrackAttribute::CtaTupleReply(tuple) => Some(tuple),
        _ => None,
    });
    let (Some(original), Some(reply)) = (original, reply) else { return false };
    original.protocol == Protocol::Udp
        && forwards.iter().any(|forward| {
            let host = forward.host_address.is_none_or(|address| address == original.destination);
            let untranslated = reply.source == original.destination;
            let here = original.destination.is_ipv6() == forward.to.is_ipv6() && host;
            original.destination_port == forward.host_port
                && (reply.source == forward.to.ip() || here && untranslated)
        })
}

fn direction(tuple: &[Tuple]) -> Option<Direction> {
    let (mut source, mut destination, mut protocol, mut port) = (None, None, None, None);
    for part in tuple {
        match part {
            Tuple::Ip(addresses) => {
                for address in addresses {
                    match address {
                        IPTuple::SourceAddress(address) => source = Some(*address),
                        IPTuple::DestinationAddress(address) => destination = Some(*address),
                        _ => {}
                    }
                }
            }
            Tuple::Proto(parts) => {
                for part in parts {
                    match part {
                        ProtoTuple::Protocol(number) => protocol = Some(*number),
                        ProtoTuple::DestinationPort(number) => port = Some(*number),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(Direction {
        protocol: protocol?,
        source: source?,
        destination: destination?,
        destination_port: port?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PortProtocol;

    fn tuple(protocol: Protocol, source: &str, destination: &str, port: u16) -> Vec<Tuple> {
        let address = |text: &str| text.parse().unwrap();
        let (source, destination) =
            (IPTuple::SourceAddress(address(source)), IPTuple::DestinationAddress(address(destination)));
        let ports = vec![
            ProtoTuple::Protocol(protocol),
            ProtoTuple::SourcePort(9),
            ProtoTuple::DestinationPort(port),
        ];
        vec![Tuple::Ip(vec![source, destination]), Tuple::Proto(ports)]
    }

    #[test]
    fn flows_of_the_port_are_stale_and_others_are_not() {
        let forward = Forward {
            protocol: PortProtocol::Udp,
            host_address: None,
            host_port: 53,
            to: "10.88.0.2:5353".parse().unwrap(),
            neighbours: "10.88.0.0/16".parse().unwrap(),
            interface: "pods0".into(),
        };
        for (what, protocol, destination, port, answers, expected) in [
            ("to the pod", Protocol::Udp, "192.0.2.1", 53, "10.88.0.2", true),
            ("to nobody", Protocol::Udp, "192.0.2.1", 53, "192.0.2.1", true),
            ("to another pod", Protocol::Udp, "192.0.2.1", 53, "10.88.0.9", false),
            ("to another port", Protocol::Udp, "192.0.2.1", 54, "192.0.2.1", false),
            ("of TCP", Protocol::Tcp, "192.0.2.1", 53, "10.88.0.2", false),
            ("of IPv6", Protocol::Udp, "fd00::1", 53, "fd00::1", false),
        ] {
            let client = if destination.contains(':') { "fd00::9" } else { "198.51.100.1" };
            let flow = [
                ConntrackAttribute::CtaTupleOrig(tuple(protocol, client, destination, port)),
                ConntrackAttribute::CtaTupleReply(tuple(protocol, answers, client, 9)),
            ];
            assert_eq!(is_stale(&flow, std::slice::from_ref(&forward)), expected, "{what}");
        }
    }
}
