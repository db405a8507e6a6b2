//! Requests that wait for their client: the meaning of a URL.

use super::{remote::Streams, upgrade::Purpose};
use crate::model::{ContainerId, PodId};

/// A request that was checked, and waits for its client to connect.
#[derive(Clone, Debug)]
pub enum Request {
    Exec(Exec),
    Attach(Attach),
    PortForward(PortForward),
}

/// A command to run in a container with its streams connected to a client.
#[derive(Clone, Debug)]
pub struct Exec {
    pub container: ContainerId,
    pub command: Vec<String>,
    pub streams: Streams,
}

/// A client for the streams of a container's own process.
#[derive(Clone, Debug)]
pub struct Attach {
    pub container: ContainerId,
    pub streams: Streams,
}

/// Connections to ports of a pod's loopback.
#[derive(Clone, Debug)]
pub struct PortForward {
    pub pod: PodId,
    /// Only the old form of WebSocket needs them here; else each connection names its own.
    pub ports: Vec<u16>,
}

impl Request {
    /// The first part of its URL's path.
    pub(super) fn path(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Attach(_) => "attach",
            Self::PortForward(_) => "portforward",
        }
    }

    /// The id of the container or pod that it is about.
    pub(super) fn object(&self) -> &str {
        match self {
            Self::Exec(exec) => exec.container.as_str(),
            Self::Attach(attach) => attach.container.as_str(),
            Self::PortForward(forward) => forward.pod.as_str(),
        }
    }

    pub(super) fn purpose(&self) -> Purpose {
        match self {
            Self::Exec(_) | Self::Attach(_) => Purpose::Remote,
            Self::PortForward(forward) => Purpose::PortForward { ports: forward.ports.len() },
        }
    }
}
