//! The conversation with the kernel's netfilter: transactions on nftables, and what is asked of them.

use std::{io, time::Duration};

use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily, NetfilterSubsystem,
    nftables::{ChainAttribute, ChainMessage, Hook, HookNumber, InetHookNumber, NfTablesMessage},
    none::ControlMessage,
};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rustix::{
    fd::OwnedFd,
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
        sockopt::{self, Timeout},
    },
};

use super::{encode, rule::Chain};

/// The kernel answers within the call that asks, or after it has taken its lock for tables.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// The whole table in one message: room for thousands of rules.
const TRANSACTION_BYTES_MAX: usize = 32 << 20;

/// A read of a dump: the kernel fills at most 32 KiB at once.
const READ_BYTES: usize = 64 << 10;

/// A socket to netfilter of the network namespace of the thread that opened it. Its calls block.
#[derive(Debug)]
pub(super) struct Netfilter {
    socket: OwnedFd,
}

/// A chain of somebody's that drops what is forwarded unless one of its rules accepts it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ForwardDrop {
    /// `ip`, `ip6` or `inet`.
    pub family: &'static str,
    pub table: String,
    pub chain: String,
}

impl Netfilter {
    pub(super) fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        let protocol = Some(netlink::NETFILTER);
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_MAX))?;
        Ok(Self { socket })
    }

    /// Puts a table of the family inet in the place of the one of its name, in one step. On failure nothing has changed.
    pub(super) fn replace(&self, table: &str, chains: &[Chain]) -> io::Result<()> {
        let named = || encode::table(table);
        // A table that is not there cannot be deleted, and one that is may be made again.
        let mut messages = vec![
            (NfTablesMessage::NewTable(named()), NLM_F_CREATE),
            (NfTablesMessage::DeleteTable(named()), 0),
            (NfTablesMessage::NewTable(named()), NLM_F_CREATE),
        ];
        // A rule may jump to any chain.
        messages.extend(chains.iter().map(|chain| (encode::chain(table, chain), NLM_F_CREATE)));
        for chain in chains {
            let rules = chain.rules.iter().map(|rule| encode::rule(table, chain.name, rule));
            messages.extend(rules.map(|rule| (rule, NLM_F_CREATE | NLM_F_APPEND)));
        }
        self.commit(messages)
    }

    /// Deletes a table. False: there was none.
    pub(super) fn delete(&self, table: &str) -> io::Result<bool> {
        match self.commit(vec![(NfTablesMessage::DeleteTable(encode::table(table)), 0)]) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn has(&self, table: &str) -> io::Result<bool> {
        let get = NfTablesMessage::GetTable(encode::table(table));
        let request = message(NetfilterProtoFamily::Inet, 0, get.into(), NLM_F_ACK);
        self.send(&encoded([request]))?;
        match self.answer(|_| {}) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Chains of other tables than `own` that drop what they do not accept, where packets are forwarded.
    pub(super) fn forward_drops(&self, own: &str) -> io::Result<Vec<ForwardDrop>> {
        let get = NfTablesMessage::GetChain(ChainMessage { attributes: vec![] });
        let request = message(NetfilterProtoFamily::Unspec, 0, get.into(), NLM_F_DUMP);
        self.send(&encoded([request]))?;
        let mut found = Vec::new();
        self.answer(|message| {
            if let NetfilterMessageInner::NfTables(NfTablesMessage::NewChain(chain)) = message.inner {
                found.extend(forward_drop(message.header.family, chain, own));
            }
        })?;
        Ok(found)
    }

    /// Carries out all messages or none.
    fn commit(&self, messages: Vec<(NfTablesMessage, u16)>) -> io::Result<()> {
        let subsystem = u8::from(NetfilterSubsystem::NfTables).into();
        let mark = |control: ControlMessage| {
            message(NetfilterProtoFamily::Unspec, subsystem, NetfilterMessageInner::None(control), 0)
        };
        let count = messages.len();
        let body = messages.into_iter().enumerate().map(|(nth, (inner, flags))| {
            // The kernel tells each failure; success it tells of the last only.
            let ack = if nth + 1 == count { NLM_F_ACK } else { 0 };
            message(NetfilterProtoFamily::Inet, 0, inner.into(), flags | ack)
        });
        let all = [mark(ControlMessage::BatchBegin)]
            .into_iter()
            .chain(body)
            .chain([mark(ControlMessage::BatchEnd)]);
        self.send(&encoded(all))?;
        self.answer(|_| {})
    }

    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > TRANSACTION_BYTES_MAX {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "more rules than one transaction has room for",
            ));
        }
        sockopt::set_socket_send_buffer_size_force(&self.socket, bytes.len().max(READ_BYTES))?;
        let sent = send(&self.socket, bytes, SendFlags::empty())?;
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Reads until the kernel has said how it ended.
    pub(super) fn answer(&self, mut each: impl FnMut(NetfilterMessage)) -> io::Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let (len, _) = recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty())?;
            let mut rest = &buffer[..len];
            while !rest.is_empty() {
                let read = NetlinkMessage::<NetfilterMessage>::deserialize(rest).map_err(io::Error::other)?;
                match read.payload {
                    NetlinkPayload::Error(error) => return error.code.map_or(Ok(()), |_| Err(error.to_io())),
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::InnerMessage(message) => each(message),
                    _ => {}
                }
                let taken = usize::try_from(read.header.length).unwrap_or(len).next_multiple_of(4);
                rest = rest.get(taken.max(1)..).unwrap_or_default();
            }
        }
    }
}

pub(super) fn message(
    family: NetfilterProtoFamily,
    resource: u16,
    inner: NetfilterMessageInner,
    flags: u16,
) -> NetlinkMessage<NetfilterMessage> {
    let header = NetfilterHeader::new(family, 0, resource);
    let mut message = NetlinkMessage::from(NetfilterMessage::new(header, inner));
    message.header.flags = NLM_F_REQUEST | flags;
    message
}

pub(super) fn encoded(messages: impl IntoIterator<Item = NetlinkMessage<NetfilterMessage>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (nth, mut message) in (0..).zip(messages) {
        message.header.sequence_number = nth;
        message.finalize();
        let begin = bytes.len();
        bytes.resize(begin + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut bytes[begin..]);
    }
    bytes
}

fn forward_drop(family: NetfilterProtoFamily, chain: ChainMessage, own: &str) -> Option<ForwardDrop> {
    const NF_DROP: u32 = 0;
    let family = match family {
        NetfilterProtoFamily::IPv4 => "ip",
        NetfilterProtoFamily::IPv6 => "ip6",
        NetfilterProtoFamily::Inet => "inet",
        _ => return None,
    };
    let (mut table, mut name, mut forward, mut drops) = (String::new(), String::new(), false, false);
    for attribute in chain.attributes {
        match attribute {
            ChainAttribute::Table(value) => table = value,
            ChainAttribute::Name(value) => name = value,
            ChainAttribute::Policy(policy) => drops = policy == NF_DROP,
            ChainAttribute::Hook(hook) => {
                forward = hook.contains(&Hook::Number(HookNumber::Inet(InetHookNumber::Forward)));
            }
            _ => {}
        }
    }
    (forward && drops && table != own).then_some(ForwardDrop { family, table, chain: name })
}
