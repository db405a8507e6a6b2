//! Errors of networks.

use std::{io, net::IpAddr, path::PathBuf};

use super::{BadPod, BadRate, Fault, HostPort, Subnet};
use crate::model::PodId;

/// Why a pod could not be put on the network, or taken off it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no network is configured: pods of their own network are switched off (network.mode = \"none\")")]
    NotConfigured,
    /// What the network of the plugins lacks.
    #[error("{0}")]
    NotReady(String),
    /// A configuration could not be made of the template.
    #[error("make a CNI configuration of network.cni_conf_template {}: {reason}", path.display())]
    Template { path: PathBuf, reason: String },
    #[error("{waiting} pods are waiting for CNI plugins already")]
    Busy { waiting: usize },
    /// A pod that cannot be described to plugins.
    #[error("cannot describe the pod to CNI plugins")]
    Pod(#[source] BadPod),
    /// An annotation that is to limit the pod's traffic.
    #[error("cannot limit the pod's bandwidth")]
    Bandwidth(#[source] BadRate),
    #[error("CNI plugin {program} failed ({verb})")]
    Plugin {
        program: String,
        verb: &'static str,
        #[source]
        source: Fault,
    },
    /// All plugins have ended well, and what they say is of no use.
    #[error("the CNI plugins {0}")]
    BadResult(String),
    /// What was written down of a pod's attachment; its DEL needs it.
    #[error("the record of the CNI attachment of pod {pod} in {} cannot be used: {reason}", path.display())]
    BadAttachment { pod: PodId, path: PathBuf, reason: String },
    /// A step on the files and mounts of attachments.
    #[error("{operation} {}", path.display())]
    File {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("network.{field}: {reason}")]
    BadConfig { field: &'static str, reason: String },
    #[error("host port {port} is taken by pod {owner}")]
    HostPortTaken { port: HostPort, owner: String },
    #[error("host port {port} is asked for twice")]
    HostPortTwice { port: HostPort },
    #[error("cannot forward host ports to {address}: this host has no route to it")]
    NoWay { address: IpAddr },
    #[error("pods are on the bridge {bridge}: stop them first (links {links})")]
    InUse { bridge: String, links: String },
    #[error("put back settings of the host by {}", path.display())]
    Settings {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A change of the nftables table that the kernel refused.
    #[error("{operation}")]
    Firewall {
        operation: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("no free address in {subnet}: all are leased (see {})", folder.display())]
    Exhausted { subnet: Subnet, folder: PathBuf },
    /// The range is new, and lies in one whose pods still run.
    #[error("{gateway} is to be the bridge's address in {subnet} and is leased to a pod: remove that pod")]
    GatewayTaken { gateway: IpAddr, subnet: Subnet },
    /// A range of addresses that the kubelet has named.
    #[error("the pod CIDR {range} cannot be used for the bridge {bridge}: {reason}")]
    BadPodRange { range: String, bridge: String, reason: String },
    /// A step on the files of leases.
    #[error("{operation} {}", path.display())]
    Lease {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{name} is there, but is not a bridge: set network.bridge_name to another name")]
    NotABridge { name: String },
    /// A request that the kernel refused, or that could not be made.
    #[error("{operation} {object}")]
    Netlink {
        operation: &'static str,
        object: String,
        #[source]
        source: io::Error,
    },
    #[error("{operation} {object} took longer than {limit_s} s")]
    Deadline { operation: &'static str, object: String, limit_s: u64 },
    #[error("the network namespace given for pod {pod} is the host's")]
    HostNamespace { pod: PodId },
    #[error("enter the network namespace of pod {pod}")]
    Namespace {
        pod: PodId,
        #[source]
        source: io::Error,
    },
    /// A setting of the pod's interface that was asked for.
    #[error("set sysctl {name} to {value:?}")]
    Sysctl {
        name: String,
        value: String,
        #[source]
        source: io::Error,
    },
    /// Some of what is no pod's could not be removed; the first cause is given, the others are logged.
    #[error("{failed} leftovers of dead pods could not be removed, the first")]
    Sweep {
        failed: usize,
        #[source]
        first: Box<Error>,
    },
}
