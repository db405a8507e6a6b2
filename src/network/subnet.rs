use std::{fmt, net::Ipv4Addr, str::FromStr};

use serde::Deserialize;

/// Widest and narrowest subnets that make sense for pods: a /30 has room for the gateway and one pod.
const PREFIX_BITS_MIN: u8 = 8;
const PREFIX_BITS_MAX: u8 = 30;

/// An IPv4 subnet as operators write it: `10.88.0.0/16`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "String")]
pub struct Subnet {
    network: u32,
    prefix: u8,
}

/// Why a text is not a subnet for pods.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadSubnet {
    #[error("{0:?} is not an IPv4 subnet such as 10.88.0.0/16")]
    Form(String),
    #[error("the prefix of {0} is not between {PREFIX_BITS_MIN} and {PREFIX_BITS_MAX}")]
    Size(String),
    #[error("{0} has bits set beyond its prefix: {1} is meant?")]
    HostBits(String, Subnet),
}

impl Subnet {
    /// What pods get when nothing is configured.
    pub(super) const DEFAULT: Self = Self { network: 0x0a58_0000, prefix: 16 };

    /// How many bits of an address name the subnet.
    pub(super) fn prefix(self) -> u8 {
        self.prefix
    }

    /// The first address, which the bridge has unless another is configured.
    pub(super) fn first(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network + 1)
    }

    fn broadcast(self) -> u32 {
        self.network | (u32::MAX >> self.prefix)
    }

    /// Whether a host of the subnet may have this address: neither its name nor its broadcast address.
    pub(super) fn has_host(self, address: Ipv4Addr) -> bool {
        (self.network + 1..self.broadcast()).contains(&address.to_bits())
    }

    /// The next free address after `last`, going round once. Addresses are not given out again at once,
    /// so that a peer's stale neighbour entry or connection does not meet another pod.
    pub(super) fn next_free(
        self,
        last: Option<Ipv4Addr>,
        taken: impl Fn(Ipv4Addr) -> bool,
    ) -> Option<Ipv4Addr> {
        let last = last.filter(|last| self.has_host(*last)).map_or(self.network, Ipv4Addr::to_bits);
        let mut round = (last + 1..self.broadcast()).chain(self.network + 1..=last);
        round.find_map(|bits| Some(Ipv4Addr::from_bits(bits)).filter(|address| !taken(*address)))
    }
}

impl FromStr for Subnet {
    type Err = BadSubnet;

    fn from_str(text: &str) -> Result<Self, BadSubnet> {
        let form = || BadSubnet::Form(text.into());
        let (address, prefix) = text.split_once('/').ok_or_else(form)?;
        let address = address.parse::<Ipv4Addr>().map_err(|_| form())?.to_bits();
        let prefix = prefix.parse::<u8>().map_err(|_| form())?;
        if !(PREFIX_BITS_MIN..=PREFIX_BITS_MAX).contains(&prefix) {
            return Err(BadSubnet::Size(text.into()));
        }
        let subnet = Self { network: address & !(u32::MAX >> prefix), prefix };
        if subnet.network == address { Ok(subnet) } else { Err(BadSubnet::HostBits(text.into(), subnet)) }
    }
}

impl TryFrom<String> for Subnet {
    type Error = BadSubnet;

    fn try_from(text: String) -> Result<Self, BadSubnet> {
        text.parse()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from_bits(self.network), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn a_subnet_is_written_in_one_way_only() {
        assert_eq!(subnet("10.88.0.0/16"), Subnet::DEFAULT);
        assert_eq!(Subnet::DEFAULT.to_string(), "10.88.0.0/16");
        for bad in
            ["", "10.88.0.0", "10.88.0.0/", "10.88.0/16", "10.88.0.0/16/1", "::/64", "a/16", "10.0.0.0/-8"]
        {
            assert_eq!(bad.parse::<Subnet>(), Err(BadSubnet::Form(bad.into())));
        }
        for bad in ["0.0.0.0/0", "0.0.0.0/7", "10.88.0.0/31", "10.88.0.1/32", "10.88.0.0/33"] {
            assert_eq!(bad.parse::<Subnet>(), Err(BadSubnet::Size(bad.into())));
        }
        assert_eq!(
            "10.88.0.1/16".parse::<Subnet>().unwrap_err().to_string(),
            "10.88.0.1/16 has bits set beyond its prefix: 10.88.0.0/16 is meant?"
        );
    }

    #[test]
    fn the_next_address_goes_round_past_taken_ones() {
        let net = subnet("192.168.7.248/29"); // hosts .249 to .254
        let at = |host| Ipv4Addr::new(192, 168, 7, host);
        for (last, taken, expected) in [
            (None, &[][..], Some(249)),
            (None, &[249], Some(250)),
            (Some(249), &[249], Some(250)),
            (Some(249), &[], Some(250)),
            (Some(253), &[254], Some(249)),
            (Some(254), &[], Some(249)),
            (Some(254), &[249, 250, 252], Some(251)),
            (Some(252), &[249, 250, 251, 253, 254], Some(252)),
            (Some(252), &[249, 250, 251, 252, 253, 254], None),
            (Some(7), &[249], Some(250)),   // from another subnet
            (Some(255), &[249], Some(250)), // the broadcast address
        ] {
            let got = net.next_free(last.map(at), |address| taken.contains(&address.octets()[3]));
            assert_eq!(got, expected.map(at), "after {last:?} with {taken:?}");
        }
    }

    #[test]
    fn the_ends_of_the_address_space_do_not_overflow() {
        let net = subnet("255.255.255.252/30");
        assert_eq!(net.next_free(None, |_| false), Some(Ipv4Addr::new(255, 255, 255, 253)));
        assert_eq!(net.next_free(None, |_| true), None);
        assert!(!net.has_host(Ipv4Addr::BROADCAST));
        assert!(subnet("0.0.0.0/8").has_host(Ipv4Addr::new(0, 0, 0, 1)));
    }

    proptest! {
        #[test]
        fn every_host_is_given_out_once_before_the_pool_is_empty(prefix in 24..=30u8, begin in any::<u32>()) {
            let net = Subnet { network: 0xc0a8_0700, prefix };
            let hosts = (1u32 << (32 - prefix)) - 2;
            let mut last = Some(Ipv4Addr::from_bits(begin)).filter(|_| begin % 2 == 0);
            let mut taken = HashSet::new();
            while let Some(address) = net.next_free(last, |address| taken.contains(&address)) {
                prop_assert!(net.has_host(address));
                prop_assert!(taken.insert(address));
                last = Some(address);
            }
            prop_assert_eq!(taken.len(), hosts as usize);
        }
    }
}
