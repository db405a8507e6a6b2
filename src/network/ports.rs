//! Host ports: which pod has which port of the host, purely.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::{IpAddr, SocketAddr},
};

use super::{Attachment, Error, firewall::Forward, subnet::Subnet};
use crate::model::{PodConfig, PodId, PortProtocol};

/// The host ports of all pods of this node.
#[derive(Debug, Default)]
pub(super) struct HostPorts {
    owners: BTreeMap<PodId, Owner>,
}

/// How this host reaches an address of a pod.
#[derive(Clone, Debug)]
pub(super) struct Way {
    pub(super) interface: String,
    /// Whose packets to the pod need not come by this host.
    pub(super) neighbours: Subnet,
}

#[derive(Debug)]
struct Owner {
    /// `namespace/name`.
    name: String,
    ports: Vec<HostPort>,
    /// None until the pod is attached, and once it is being detached.
    forwards: Vec<Forward>,
}

/// A port of the host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HostPort {
    pub protocol: PortProtocol,
    /// The host's address; every one where there is none, every one of a family where it is unspecified.
    pub address: Option<IpAddr>,
    pub port: u16,
    container_port: u16,
}

impl HostPort {
    /// Whether a packet may be for both.
    fn meets(&self, other: &Self) -> bool {
        let addresses = match (self.address, other.address) {
            (None, _) | (_, None) => true,
            (Some(one), Some(two)) => {
                one == two || one.is_ipv6() == two.is_ipv6() && (one.is_unspecified() || two.is_unspecified())
            }
        };
        self.protocol == other.protocol && self.port == other.port && addresses
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "{}", SocketAddr::new(address, self.port))?,
            None => write!(f, "{}", self.port)?,
        }
        write!(f, "/{}", self.protocol.name())
    }
}

impl HostPorts {
    /// Whether the pod's ports are free.
    ///
    /// # Errors
    /// [`Error::HostPortTaken`], [`Error::HostPortTwice`].
    pub(super) fn check(&self, config: &PodConfig) -> Result<(), Error> {
        self.free(&wanted(config)).map(drop)
    }

    /// Makes the pod's ports its own, until [`HostPorts::release`].
    ///
    /// # Errors
    /// As [`HostPorts::check`]; then none is.
    pub(super) fn reserve(&mut self, pod: &PodId, config: &PodConfig) -> Result<(), Error> {
        let ports = self.free(&wanted(config))?;
        if !ports.is_empty() {
            let name = format!("{}/{}", config.metadata.namespace, config.metadata.name);
            self.owners.insert(pod.clone(), Owner { name, ports, forwards: vec![] });
        }
        Ok(())
    }

    /// The pod has its addresses: its ports lead there from now on. What is to be forwarded for it.
    pub(super) fn open(
        &mut self,
        pod: &PodId,
        attachment: &Attachment,
        ways: &HashMap<IpAddr, Way>,
    ) -> Vec<Forward> {
        let Some(owner) = self.owners.get_mut(pod) else { return vec![] };
        // A second address of the same family is not reached by a port of the host.
        let first = |ipv6| attachment.addresses.iter().find(move |address| address.is_ipv6() == ipv6);
        let addresses: Vec<IpAddr> = [first(false), first(true)].into_iter().flatten().copied().collect();
        let of_port = |port: &HostPort| -> Vec<Forward> {
            let fits =
                |address: &&IpAddr| port.address.is_none_or(|host| host.is_ipv6() == address.is_ipv6());
            let forward = |address: &IpAddr| {
                let Way { interface, neighbours } = ways.get(address)?.clone();
                let to = SocketAddr::new(*address, port.container_port);
                let HostPort { protocol, address: host_address, port: host_port, .. } = *port;
                Some(Forward { protocol, host_address, host_port, to, neighbours, interface })
            };
            addresses.iter().filter(fits).filter_map(forward).collect()
        };
        owner.forwards = owner.ports.iter().flat_map(of_port).collect();
        owner.forwards.clone()
    }

    /// The pod's ports lead nowhere from now on, and still are its own. What was forwarded for it; `None`: it has no ports.
    pub(super) fn close(&mut self, pod: &PodId) -> Option<Vec<Forward>> {
        self.owners.get_mut(pod).map(|owner| std::mem::take(&mut owner.forwards))
    }

    /// Whether the pod has host ports.
    pub(super) fn has(&self, pod: &PodId) -> bool {
        self.owners.contains_key(pod)
    }

    pub(super) fn release(&mut self, pod: &PodId) {
        self.owners.remove(pod);
    }

    /// What is forwarded for all pods.
    pub(super) fn forwards(&self) -> Vec<Forward> {
        self.owners.values().flat_map(|owner| &owner.forwards).cloned().collect()
    }

    /// The ports, each once.
    fn free(&self, wanted: &[HostPort]) -> Result<Vec<HostPort>, Error> {
        let mut ports: Vec<HostPort> = Vec::new();
        for port in wanted {
            if ports.contains(port) {
                continue;
            }
            if ports.iter().any(|other| other.meets(port)) {
                return Err(Error::HostPortTwice { port: *port });
            }
            let owner = self.owners.values().find(|owner| owner.ports.iter().any(|other| other.meets(port)));
            if let Some(owner) = owner {
                return Err(Error::HostPortTaken { port: *port, owner: owner.name.clone() });
            }
            ports.push(*port);
        }
        Ok(ports)
    }
}

/// The ports that a pod asks for. Host port 0 is none (CRI `PortMapping`).
fn wanted(config: &PodConfig) -> Vec<HostPort> {
    let mappings = config.port_mappings.iter().filter(|mapping| mapping.host_port > 0);
    mappings
        .map(|mapping| HostPort {
            protocol: mapping.protocol,
            address: mapping.host_ip.parse().ok(), // empty, or it would not have been taken
            port: mapping.host_port,
            container_port: mapping.container_port,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PodMetadata, PortMapping};

    fn config(name: &str, ports: &[(&str, PortProtocol, u16, u16)]) -> PodConfig {
        let mapping =
            |(host_ip, protocol, host_port, container_port): &(&str, PortProtocol, u16, u16)| PortMapping {
                protocol: *protocol,
                container_port: *container_port,
                host_port: *host_port,
                host_ip: (*host_ip).into(),
            };
        PodConfig {
            metadata: PodMetadata { name: name.into(), namespace: "shop".into(), ..PodMetadata::default() },
            port_mappings: ports.iter().map(mapping).collect(),
            ..PodConfig::default()
        }
    }

    fn pod(digit: u8) -> PodId {
        PodId::from_bytes([digit; 32])
    }

    #[test]
    fn a_port_has_one_owner_and_the_refusal_names_it() {
        use PortProtocol::{Sctp, Tcp, Udp};
        for (first, second, refused) in [
            (("", Tcp, 80), ("", Tcp, 80), Some("host port 80/tcp is taken by pod shop/first")),
            (("", Tcp, 80), ("", Udp, 80), None),
            (("", Udp, 80), ("", Sctp, 80), None),
            (("", Tcp, 80), ("", Tcp, 81), None),
            (
                ("", Tcp, 80),
                ("192.0.2.1", Tcp, 80),
                Some("host port 192.0.2.1:80/tcp is taken by pod shop/first"),
            ),
            (("192.0.2.1", Tcp, 80), ("", Tcp, 80), Some("host port 80/tcp is taken by pod shop/first")),
            (("192.0.2.1", Tcp, 80), ("192.0.2.2", Tcp, 80), None),
            (
                ("0.0.0.0", Tcp, 80),
                ("192.0.2.2", Tcp, 80),
                Some("host port 192.0.2.2:80/tcp is taken by pod shop/first"),
            ),
            (("0.0.0.0", Tcp, 80), ("::", Tcp, 80), None),
            (("fd00::1", Tcp, 80), ("::", Tcp, 80), Some("host port [::]:80/tcp is taken by pod shop/first")),
        ] {
            let mut ports = HostPorts::default();
            let with = |name, (address, protocol, port)| config(name, &[(address, protocol, port, 8000)]);
            ports.reserve(&pod(1), &with("first", first)).unwrap();
            let second = with("second", second);
            let said = ports.check(&second).err().map(|error| error.to_string());
            assert_eq!(said.as_deref(), refused);
            assert_eq!(ports.reserve(&pod(2), &second).is_err(), refused.is_some());
            ports.release(&pod(1));
            ports.release(&pod(2));
            ports.reserve(&pod(2), &second).unwrap();
        }
    }

    #[test]
    fn the_same_port_twice_in_one_pod_is_one_or_refused() {
        use PortProtocol::Tcp;
        let mut ports = HostPorts::default();
        let error = ports.check(&config("a", &[("", Tcp, 80, 1), ("", Tcp, 80, 2)])).unwrap_err();
        assert_eq!(error.to_string(), "host port 80/tcp is asked for twice");
        ports.reserve(&pod(1), &config("a", &[("", Tcp, 80, 1), ("", Tcp, 80, 1), ("", Tcp, 0, 1)])).unwrap();
        assert_eq!(ports.owners[&pod(1)].ports.len(), 1);
    }

    #[test]
    fn a_port_leads_to_each_address_of_its_family() {
        use PortProtocol::Tcp;
        let addresses: Vec<IpAddr> = ["10.88.0.2", "fd00::2"].map(|text| text.parse().unwrap()).into();
        let way = |subnet: &str| Way { interface: "pods0".into(), neighbours: subnet.parse().unwrap() };
        let ways = addresses.iter().copied().zip([way("10.88.0.0/16"), way("fd00::/64")]).collect();
        let attachment = Attachment { addresses, ..Attachment::default() };
        let mut ports = HostPorts::default();
        let asked = [("", Tcp, 80, 8000), ("192.0.2.1", Tcp, 81, 8001), ("::", Tcp, 82, 8002)];
        ports.reserve(&pod(1), &config("a", &asked)).unwrap();
        let opened = ports.open(&pod(1), &attachment, &ways);
        let lines: Vec<_> =
            opened.iter().map(|f| format!("{} {} {}", f.host_port, f.to, f.neighbours)).collect();
        assert_eq!(
            lines,
            [
                "80 10.88.0.2:8000 10.88.0.0/16",
                "80 [fd00::2]:8000 fd00::/64",
                "81 10.88.0.2:8001 10.88.0.0/16",
                "82 [fd00::2]:8002 fd00::/64",
            ]
        );
        assert_eq!(ports.forwards(), opened);
        assert_eq!(ports.close(&pod(1)), Some(opened));
        assert!(ports.forwards().is_empty() && ports.check(&config("b", &asked)).is_err());
        assert_eq!(ports.close(&pod(2)), None);
    }
}
