//! The subnet of the pods' addresses.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::Deserialize;

/// Widest and narrowest subnets that make sense for pods: a /30 has room for the gateway and one pod.
const IPV4_PREFIX_BITS: [u8; 2] = [8, 30];
const IPV6_PREFIX_BITS: [u8; 2] = [16, 126];

/// A subnet as operators write it: `10.88.0.0/16`, `fd00:10:88::/64`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[serde(try_from = "String")]
pub struct Subnet {
    /// No bit beyond the prefix is set.
    network: IpAddr,
    prefix: u8,
}

/// Why a text is not a subnet for pods.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadSubnet {
    #[error("{0:?} is not a subnet such as 10.88.0.0/16 or fd00:10:88::/64")]
    Form(String),
    #[error("the prefix of {text} is not between {least} and {most}")]
    Size { text: String, least: u8, most: u8 },
    #[error("{0} has bits set beyond its prefix: {1} is meant?")]
    HostBits(String, Subnet),
}

impl Subnet {
    /// What pods get when nothing is configured.
    pub(super) const DEFAULT: Self = Self { network: IpAddr::V4(Ipv4Addr::new(10, 88, 0, 0)), prefix: 16 };
    pub(super) const MULTICAST: Self = Self { network: IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), prefix: 4 };
    pub(super) const MULTICAST_IPV6: Self =
        Self { network: IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), prefix: 8 };
    pub(super) const LOOPBACK: Self = Self { network: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), prefix: 8 };

    pub(super) const LOOPBACK_IPV6: Self = Self { network: IpAddr::V6(Ipv6Addr::LOCALHOST), prefix: 128 };

    /// The subnet of `prefix` bits that an address is of.
    pub(super) fn of(address: IpAddr, prefix: u8) -> Self {
        let prefix = prefix.min(bits_of(address));
        let network = from_bits(to_bits(address) & !host_bits(address, prefix), address);
        Self { network, prefix }
    }

    /// The address that names the subnet.
    pub(super) fn network(self) -> IpAddr {
        self.network
    }

    /// How many bits of an address name the subnet.
    pub(super) fn prefix(self) -> u8 {
        self.prefix
    }

    pub(super) fn is_ipv6(self) -> bool {
        self.network.is_ipv6()
    }

    /// Whether the address is one of the subnet's.
    pub(super) fn contains(self, address: IpAddr) -> bool {
        address.is_ipv6() == self.is_ipv6() && Self::of(address, self.prefix) == self
    }

    /// The first address, which the bridge has unless another is configured.
    pub(super) fn first(self) -> IpAddr {
        self.at(to_bits(self.network) + 1)
    }

    /// Whether a host of the subnet may have this address: neither its name nor, in IPv4, its broadcast address.
    pub(super) fn has_host(self, address: IpAddr) -> bool {
        self.contains(address) && (to_bits(self.network) + 1..=self.last()).contains(&to_bits(address))
    }

    /// The next free address after `last`, going round once. Addresses are not given out again at once,
    /// so that a peer's stale neighbour entry or connection does not meet another pod.
    pub(super) fn next_free(self, last: Option<IpAddr>, taken: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let network = to_bits(self.network);
        let last = last.filter(|last| self.has_host(*last)).map_or(network, to_bits);
        // Both ends are at most the greatest address of the subnet.
        let after = (last < self.last()).then(|| last + 1..=self.last());
        let mut round = after.into_iter().flatten().chain(network + 1..=last);
        round.find_map(|bits| Some(self.at(bits)).filter(|address| !taken(*address)))
    }

    /// The last address that a host may have.
    fn last(self) -> u128 {
        let end = to_bits(self.network) | host_bits(self.network, self.prefix);
        if self.is_ipv6() { end } else { end.saturating_sub(1) }
    }

    fn at(self, bits: u128) -> IpAddr {
        from_bits(bits, self.network)
    }
}

fn bits_of(family: IpAddr) -> u8 {
    if family.is_ipv6() { 128 } else { 32 }
}

fn to_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The address of these bits, in the family of another.
fn from_bits(bits: u128, family: IpAddr) -> IpAddr {
    match family {
        IpAddr::V4(_) => {
            // Bits of an IPv4 address are never more than 32.
            let [.., a, b, c, d] = bits.to_be_bytes();
            Ipv4Addr::new(a, b, c, d).into()
        }
        IpAddr::V6(_) => Ipv6Addr::from_bits(bits).into(),
    }
}

/// The bits beyond the prefix.
fn host_bits(family: IpAddr, prefix: u8) -> u128 {
    let bits = bits_of(family) - prefix;
    u128::MAX.checked_shr(128 - u32::from(bits)).unwrap_or(0)
}

impl From<IpAddr> for Subnet {
    /// The address alone.
    fn from(address: IpAddr) -> Self {
        Self { network: address, prefix: bits_of(address) }
    }
}

impl FromStr for Subnet {
    type Err = BadSubnet;

    fn from_str(text: &str) -> Result<Self, BadSubnet> {
        let form = || BadSubnet::Form(text.into());
        let (address, prefix) = text.split_once('/').ok_or_else(form)?;
        let address = address.parse::<IpAddr>().map_err(|_| form())?;
        let prefix = prefix.parse::<u8>().map_err(|_| form())?;
        let [least, most] = if address.is_ipv6() { IPV6_PREFIX_BITS } else { IPV4_PREFIX_BITS };
        if !(least..=most).contains(&prefix) {
            return Err(BadSubnet::Size { text: text.into(), least, most });
        }
        let subnet = Self::of(address, prefix);
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
        write!(f, "{}/{}", self.network, self.prefix)
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

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_subnet_is_written_in_one_way_only() {
        assert_eq!(subnet("10.88.0.0/16"), Subnet::DEFAULT);
        assert_eq!(Subnet::DEFAULT.to_string(), "10.88.0.0/16");
        assert_eq!(subnet("fd00:0:0:0::/64").to_string(), "fd00::/64");
        for bad in
            ["", "10.88.0.0", "10.88.0.0/", "10.88.0/16", "10.88.0.0/16/1", "::/x", "a/16", "10.0.0.0/-8"]
        {
            assert_eq!(bad.parse::<Subnet>(), Err(BadSubnet::Form(bad.into())));
        }
        for bad in
            ["0.0.0.0/0", "0.0.0.0/7", "10.88.0.0/31", "10.88.0.1/32", "10.88.0.0/33", "::/8", "fd00::/127"]
        {
            assert!(matches!(bad.parse::<Subnet>(), Err(BadSubnet::Size { .. })), "{bad}");
        }
        for (bad, expected) in [
            ("10.88.0.1/16", "10.88.0.1/16 has bits set beyond its prefix: 10.88.0.0/16 is meant?"),
            ("fd00::1/64", "fd00::1/64 has bits set beyond its prefix: fd00::/64 is meant?"),
            ("10.88.0.0/31", "the prefix of 10.88.0.0/31 is not between 8 and 30"),
        ] {
            assert_eq!(bad.parse::<Subnet>().unwrap_err().to_string(), expected);
        }
    }

    #[test]
    fn a_subnet_is_of_the_first_bits_of_its_addresses() {
        for (of, prefix, expected) in [
            ("10.88.3.4", 16, "10.88.0.0/16"),
            ("10.88.3.4", 32, "10.88.3.4/32"),
            ("10.88.3.4", 0, "0.0.0.0/0"),
            ("fd00::1:2", 64, "fd00::/64"),
            ("fd00::1:2", 128, "fd00::1:2/128"),
            ("fd00::1:2", 0, "::/0"),
        ] {
            assert_eq!(Subnet::of(address(of), prefix).to_string(), expected);
        }
        assert!(subnet("10.88.0.0/16").contains(address("10.88.255.255")));
        assert!(!subnet("10.88.0.0/16").contains(address("10.89.0.0")));
        assert!(!subnet("10.88.0.0/16").contains(address("::10.88.0.1")));
    }

    #[test]
    fn the_next_address_goes_round_past_taken_ones() {
        let net = subnet("192.168.7.248/29"); // hosts .249 to .254
        let at = |host| IpAddr::from([192, 168, 7, host]);
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
            let taken: Vec<IpAddr> = taken.iter().copied().map(at).collect();
            let got = net.next_free(last.map(at), |address| taken.contains(&address));
            assert_eq!(got, expected.map(at), "after {last:?} with {taken:?}");
        }
        let wide = subnet("fd00::/64");
        assert_eq!(wide.next_free(None, |_| false), Some(address("fd00::1")));
        assert_eq!(
            wide.next_free(Some(address("fd00::ffff:ffff:ffff:ffff")), |a| a == wide.first()),
            Some(address("fd00::2"))
        );
    }

    #[test]
    fn the_ends_of_the_address_space_do_not_overflow() {
        let net = subnet("255.255.255.252/30");
        assert_eq!(net.next_free(None, |_| false), Some(address("255.255.255.253")));
        assert_eq!(net.next_free(None, |_| true), None);
        assert!(!net.has_host(Ipv4Addr::BROADCAST.into()));
        assert!(subnet("0.0.0.0/8").has_host(address("0.0.0.1")));
        let net = subnet("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126");
        let end = address("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff");
        assert!(net.has_host(end) && !net.has_host(net.network()));
        assert_eq!(net.next_free(Some(end), |_| false), Some(net.first()));
        assert_eq!(net.next_free(None, |_| true), None);
    }

    proptest! {
        #[test]
        fn every_host_is_given_out_once_before_the_pool_is_empty(prefix in 24..=30u8, begin in any::<u32>()) {
            let net = Subnet::of(address("192.168.7.0"), prefix);
            let hosts = (1u32 << (32 - prefix)) - 2;
            let mut last = Some(Ipv4Addr::from_bits(begin).into()).filter(|_| begin % 2 == 0);
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
