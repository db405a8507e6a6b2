//! From rules to the attributes of netlink messages that say the same (`linux/netfilter/nf_tables.h`).

use std::net::{IpAddr, SocketAddr};

use netlink_packet_netfilter::nftables::{
    Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, Expressions, Hook as HookAttribute, Immediate,
    InetHookNumber, ListAttribute, Meta, MetaKey, NfTablesMessage, Operator, Payload, Register,
    RuleAttribute, RuleMessage, TableAttribute, TableMessage, Verdict, VerdictAttribute,
};
use rtnetlink::packet_core::DefaultNla;

use super::rule::{Action, Chain, Match, Point, Rule};
use crate::network::Subnet;

/// Where the value that is looked at is put.
const LOOKED_AT: Register = Register::Reg1;
/// Where an address and a port to translate to are put.
const ADDRESS: Register = Register::Reg1;
const PORT: Register = Register::Reg2;

/// `enum nft_payload_bases`.
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

/// Room for the name of an interface or of its kind, in the kernel's comparison.
const INTERFACE_NAME_BYTES: usize = 16;

const NF_DROP: u32 = 0;
const RTN_LOCAL: u32 = 2;
const IPS_DST_NAT: u32 = 1 << 5;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;

pub(super) fn table(name: &str) -> TableMessage {
    TableMessage { attributes: vec![TableAttribute::Name(name.into())] }
}

pub(super) fn chain(table: &str, chain: &Chain) -> NfTablesMessage {
    let mut attributes = vec![ChainAttribute::Table(table.into()), ChainAttribute::Name(chain.name.into())];
    if let Some(hook) = chain.hook {
        let point = match hook.point {
            Point::Prerouting => InetHookNumber::PreRouting,
            Point::Forward => InetHookNumber::Forward,
            Point::Output => InetHookNumber::LocalOut,
            Point::Postrouting => InetHookNumber::PostRouting,
        };
        let priority = HookAttribute::Priority(hook.priority.cast_unsigned());
        attributes.push(ChainAttribute::Type(hook.kind.into()));
        attributes.push(ChainAttribute::Hook(vec![HookAttribute::Number(point.into()), priority]));
    }
    NfTablesMessage::NewChain(ChainMessage { attributes })
}

pub(super) fn rule(table: &str, chain: &str, rule: &Rule) -> NfTablesMessage {
    let questions = rule.matches.iter().flat_map(question);
    let expressions = questions.chain(action(&rule.action)).map(ListAttribute::from).collect();
    let attributes = vec![
        RuleAttribute::Table(table.into()),
        RuleAttribute::Chain(chain.into()),
        RuleAttribute::Expressions(expressions),
    ];
    NfTablesMessage::NewRule(RuleMessage { attributes })
}

/// A value is loaded into a register, and compared.
fn question(question: &Match) -> Vec<Expressions> {
    match question {
        Match::Ipv6(ipv6) => {
            let family = if *ipv6 { NFPROTO_IPV6 } else { NFPROTO_IPV4 };
            vec![meta(MetaKey::Nfproto), compare(true, vec![family])]
        }
        Match::Protocol(protocol) => vec![meta(MetaKey::L4Proto), compare(true, vec![protocol.number()])],
        Match::Source { network, is } => address(*network, *is, [12, 8]),
        Match::Destination { network, is } => address(*network, *is, [16, 24]),
        Match::DestinationPort(port) => {
            vec![payload(TRANSPORT_HEADER, 2, 2), compare(true, port.to_be_bytes().into())]
        }
        Match::FromInterface { name, is } => vec![meta(MetaKey::Iifname), compare(*is, padded(name))],
        Match::ToInterface { name, is } => vec![meta(MetaKey::Oifname), compare(*is, padded(name))],
        Match::FromBridge => vec![meta(MetaKey::Iifkind), compare(true, padded("bridge"))],
        Match::ToBridge => vec![meta(MetaKey::Oifkind), compare(true, padded("bridge"))],
        Match::ToThisHost => vec![type_of_destination(), compare(true, RTN_LOCAL.to_ne_bytes().into())],
        Match::Translated => {
            vec![
                connection(CT_STATUS, None),
                masked(IPS_DST_NAT.to_ne_bytes().into()),
                compare(false, vec![0; 4]),
            ]
        }
        Match::OriginalPort(port) => {
            vec![connection(CT_PROTO_DST, Some(0)), compare(true, port.to_be_bytes().into())]
        }
    }
}

fn action(action: &Action) -> Vec<Expressions> {
    match action {
        Action::Drop => vec![verdict(vec![VerdictAttribute::Code(Verdict::Other(NF_DROP))])],
        Action::Jump(chain) => {
            vec![verdict(vec![
                VerdictAttribute::Code(Verdict::Jump),
                VerdictAttribute::Chain((*chain).into()),
            ])]
        }
        Action::Masquerade => vec![masquerade()],
        Action::Translate { to } => vec![
            immediate(ADDRESS, DataAttribute::Value(octets(to.ip()))),
            immediate(PORT, DataAttribute::Value(to.port().to_be_bytes().into())),
            translate(*to),
        ],
    }
}

/// `offsets`: where the address is in an IPv4 and an IPv6 header.
fn address(network: Subnet, is: bool, offsets: [u32; 2]) -> Vec<Expressions> {
    let octets = octets(network.network());
    let offset = offsets[usize::from(network.is_ipv6())];
    let load = payload(NETWORK_HEADER, offset, length(&octets));
    let mask = mask(octets.len(), network.prefix());
    if mask.iter().all(|byte| *byte == 0xff) {
        return vec![load, compare(is, octets)];
    }
    vec![load, masked(mask), compare(is, octets)]
}

/// The length of an address or mask: 4 or 16 bytes.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

fn mask(len: usize, prefix: u8) -> Vec<u8> {
    let ones = |byte: usize| usize::from(prefix).saturating_sub(byte * 8).min(8);
    (0..len).map(|byte| (0xff00_u16 >> ones(byte)).to_le_bytes()[0]).collect()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().into(),
        IpAddr::V6(address) => address.octets().into(),
    }
}

fn padded(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(INTERFACE_NAME_BYTES, 0);
    bytes
}

fn meta(key: MetaKey) -> Expressions {
    Expressions::Meta(vec![Meta::Key(key), Meta::DestinationRegister(LOOKED_AT)])
}

fn payload(base: u32, offset: u32, len: u32) -> Expressions {
    Expressions::Payload(vec![
        Payload::DestinationRegister(LOOKED_AT),
        Payload::Base(base),
        Payload::Offset(offset),
        Payload::Len(len),
    ])
}

fn compare(equal: bool, data: Vec<u8>) -> Expressions {
    let operator = if equal { Operator::Equal } else { Operator::NotEqual };
    Expressions::Cmp(vec![
        Cmp::SourceRegister(LOOKED_AT),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(data)),
    ])
}

fn masked(mask: Vec<u8>) -> Expressions {
    let zeros = vec![0; mask.len()];
    Expressions::Bitwise(vec![
        Bitwise::SourceRegister(LOOKED_AT),
        Bitwise::DestinationRegister(LOOKED_AT),
        Bitwise::Length(length(&mask)),
        Bitwise::Mask(DataAttribute::Value(mask)),
        Bitwise::Xor(DataAttribute::Value(zeros)),
    ])
}

fn immediate(register: Register, data: DataAttribute) -> Expressions {
    Expressions::Immediate(vec![Immediate::DestinationRegister(register), Immediate::Data(data)])
}

fn verdict(verdict: Vec<VerdictAttribute>) -> Expressions {
    immediate(Register::Verdict, DataAttribute::Verdict(verdict))
}

// The crate has no types for the following yet. Numbers are big-endian.

const CT_STATUS: u32 = 2;
const CT_PROTO_DST: u32 = 12;

fn untyped<const N: usize>(name: &str, attributes: [(u16, Vec<u8>); N]) -> Expressions {
    let attributes = attributes.into_iter().map(|(kind, value)| DefaultNla::new(kind, value)).collect();
    Expressions::Other { expression_type: name.into(), attributes }
}

fn number(number: u32) -> Vec<u8> {
    number.to_be_bytes().into()
}

/// Of the connection that the packet is of; `direction` 0 is that of its first packet.
fn connection(key: u32, direction: Option<u8>) -> Expressions {
    const DREG: u16 = 1;
    const KEY: u16 = 2;
    const DIRECTION: u16 = 3;
    let asked = [(DREG, number(LOOKED_AT.into())), (KEY, number(key))];
    match direction {
        None => untyped("ct", asked),
        Some(direction) => {
            let [register, key] = asked;
            untyped("ct", [register, key, (DIRECTION, vec![direction])])
        }
    }
}

fn type_of_destination() -> Expressions {
    const DREG: u16 = 1;
    const RESULT: u16 = 2;
    const FLAGS: u16 = 3;
    const RESULT_ADDRESS_TYPE: u32 = 3;
    const FLAG_DESTINATION: u32 = 1 << 1;
    untyped(
        "fib",
        [
            (DREG, number(LOOKED_AT.into())),
            (RESULT, number(RESULT_ADDRESS_TYPE)),
            (FLAGS, number(FLAG_DESTINATION)),
        ],
    )
}

fn masquerade() -> Expressions {
    const FLAGS: u16 = 1;
    const PORT_FULLY_RANDOM: u32 = 1 << 4;
    untyped("masq", [(FLAGS, number(PORT_FULLY_RANDOM))])
}

fn translate(to: SocketAddr) -> Expressions {
    const TYPE: u16 = 1;
    const FAMILY: u16 = 2;
    const REG_ADDR_MIN: u16 = 3;
    const REG_PROTO_MIN: u16 = 5;
    const TYPE_DESTINATION: u32 = 1;
    let family = if to.is_ipv6() { NFPROTO_IPV6 } else { NFPROTO_IPV4 };
    untyped(
        "nat",
        [
            (TYPE, number(TYPE_DESTINATION)),
            (FAMILY, number(family.into())),
            (REG_ADDR_MIN, number(ADDRESS.into())),
            (REG_PROTO_MIN, number(PORT.into())),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_has_as_many_ones_as_the_prefix() {
        for (len, prefix, expected) in [
            (4, 0, &[0, 0, 0, 0][..]),
            (4, 8, &[255, 0, 0, 0]),
            (4, 12, &[255, 240, 0, 0]),
            (4, 31, &[255, 255, 255, 254]),
            (4, 32, &[255, 255, 255, 255]),
        ] {
            assert_eq!(mask(len, prefix), expected, "{prefix}");
        }
        assert_eq!(mask(16, 64), [[0xff; 8], [0; 8]].concat());
    }
}
