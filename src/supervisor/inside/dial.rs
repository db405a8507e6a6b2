//! Sockets of the pod's network, for connections that the daemon makes on behalf of clients outside.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::event_loop::{Pod, Supervisor};
use crate::{
    model::{Failure, Stage},
    sys::process::{self, Namespaces},
};

impl Supervisor {
    /// A TCP socket in the pod's network namespace, not connected yet: a connection may take long, and is waited for by
    /// whoever asked.
    pub(super) fn socket(&mut self, ipv6: bool) -> Result<OwnedFd, Failure> {
        let pod =
            self.pod.as_ref().ok_or_else(|| Failure::new(Stage::WrongState, "pod", "it is not set up"))?;
        let family = if ipv6 { AddressFamily::INET6 } else { AddressFamily::INET };
        socket_in(pod, family)
            .map_err(|error| Failure::io(Stage::Namespace, pod.id.as_str(), "socket", &error))
    }
}

/// A socket belongs to the network namespace of the thread that makes it, for ever.
fn socket_in(pod: &Pod, family: AddressFamily) -> io::Result<OwnedFd> {
    let make = || Ok(rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?);
    let Some(network) = &pod.namespaces.network else { return make() };
    let own = File::open("/proc/self/ns/net")?;
    process::enter(network.as_fd(), Namespaces::NETWORK)?;
    let made = make();
    // This thread has just come from there.
    process::enter(own.as_fd(), Namespaces::NETWORK)?;
    made
}
