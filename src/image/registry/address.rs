//! Which addresses a registry may send us to: by a redirect, or as the place where its tokens are made. Who
//! serves an image must not be able to have this machine ask its own services, or the cloud that it runs in.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};
use tokio::net::lookup_host;

/// Services that clouds offer to machines at addresses of no special range.
const CLOUD_SERVICES: [IpAddr; 5] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)), // Alibaba
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),   // Azure
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),     // Oracle
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)), // Amazon
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)), // Google
];

/// The addresses that a registry may send us to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Reach {
    /// The registry is on this machine itself, so it may name others of this machine's services.
    from_here: bool,
}

impl Reach {
    pub(super) fn of(registry: &Url) -> Self {
        Self { from_here: is_loopback(registry) }
    }

    pub(super) fn is_from_here(self) -> bool {
        self.from_here
    }

    /// Whether the host of an address, where it is no name, may be asked. Names are looked at when they are
    /// resolved: see [`Guard`].
    pub(super) fn allows(self, url: &Url) -> bool {
        match url.host() {
            Some(host) => match ip_of(&host.to_string()) {
                Some(ip) => self.allows_ip(ip),
                None => self.from_here || !is_loopback(url),
            },
            None => false,
        }
    }

    fn allows_ip(self, ip: IpAddr) -> bool {
        let ip = inner(ip);
        let special = match ip {
            // All of 0.0.0.0/8 is this machine; a packet to it goes to one of its own services.
            IpAddr::V4(v4) => {
                v4.octets()[0] == 0 || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast()
            }
            IpAddr::V6(v6) => {
                v6.is_unspecified() || v6.is_unicast_link_local() || v6.is_multicast() || is_site_local(v6)
            }
        };
        !special && !CLOUD_SERVICES.contains(&ip) && (self.from_here || !ip.is_loopback())
    }
}

/// The address that packets to `ip` end up at, where IPv6 carries an IPv4 address in it: mapped and compatible
/// (RFC 4291, 2.5.5), NAT64 (RFC 6052) and 6to4 (RFC 3056).
fn inner(ip: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = ip else { return ip };
    let v4 = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => v4(high, low),
        [0x2002, high, low, ..] => v4(high, low),
        _ => ip,
    }
}

/// fec0::/10, which some machines still treat as link-local's neighbour (RFC 3879).
fn is_site_local(ip: Ipv6Addr) -> bool {
    ip.segments()[0] & 0xffc0 == 0xfec0
}

/// An address out of a URL, with or without the brackets of IPv6.
fn ip_of(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Whether an address is this machine's own.
pub(super) fn is_loopback(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let name = host.trim_end_matches('.');
    name == "localhost"
        || name.ends_with(".localhost")
        || ip_of(host).is_some_and(|ip| inner(ip).is_loopback())
}

/// Resolves names as always, and leaves out the addresses that are not allowed; the connection is made to
/// what is left, so that a second answer of the name server changes nothing.
#[derive(Debug)]
pub(super) struct Guard(pub(super) Reach);

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.0;
        Box::pin(async move {
            let found: Vec<SocketAddr> = lookup_host((name.as_str(), 0)).await?.collect();
            let allowed = allowed(reach, name.as_str(), &found)?;
            Ok::<Addrs, _>(Box::new(allowed.into_iter()))
        })
    }
}

fn allowed(reach: Reach, name: &str, found: &[SocketAddr]) -> Result<Vec<SocketAddr>, Forbidden> {
    let allowed: Vec<_> = found.iter().copied().filter(|address| reach.allows_ip(address.ip())).collect();
    match found.first() {
        Some(first) if allowed.is_empty() => Err(Forbidden { name: name.into(), ip: first.ip() }),
        _ => Ok(allowed),
    }
}

/// A name that leads only to addresses that are not allowed.
#[derive(Debug)]
pub(super) struct Forbidden {
    name: String,
    ip: IpAddr,
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it sends us to {}, which is {}, where nothing is fetched from", self.name, self.ip)
    }
}

impl std::error::Error for Forbidden {}

impl Forbidden {
    /// The one that is behind an error of the HTTP client.
    pub(super) fn behind<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        let mut source = Some(error);
        while let Some(error) = source {
            if let Some(forbidden) = error.downcast_ref() {
                return Some(forbidden);
            }
            source = error.source();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THERE: Reach = Reach { from_here: false };
    const HERE: Reach = Reach { from_here: true };

    #[test]
    fn no_registry_sends_us_to_link_local_or_to_a_clouds_own_services() {
        for address in [
            "169.254.169.254",
            "169.254.0.1",
            "2852039166", // 169.254.169.254 as one number
            "0xa9fea9fe",
            "0251.0376.0251.0376",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "[fe80::1]",
            "[febf::1]",
            "[fec0::1]",
            "[ff02::1]",
            "[::]",
            "[::ffff:169.254.169.254]",
            "[::ffff:a9fe:a9fe]",
            "[::169.254.169.254]",
            "[64:ff9b::a9fe:a9fe]",
            "[2002:a9fe:a9fe::1]",
            "[fd00:ec2::254]",
            "[fd20:ce::254]",
        ] {
            for scheme in ["http", "https"] {
                let url = Url::parse(&format!("{scheme}://{address}/latest")).unwrap();
                assert!(!THERE.allows(&url) && !HERE.allows(&url), "{url}");
            }
        }
    }

    #[test]
    fn only_a_registry_of_this_machine_sends_us_to_this_machine() {
        for address in [
            "127.0.0.1",
            "127.1.2.3:5000",
            "localhost",
            "localhost.",
            "registry.localhost",
            "[::1]",
            "[::ffff:127.0.0.1]",
        ] {
            let url = Url::parse(&format!("http://{address}/")).unwrap();
            assert!(!THERE.allows(&url) && HERE.allows(&url), "{url}");
            assert_eq!(Reach::of(&url), HERE, "{url}");
        }
        for address in ["10.0.0.1", "192.168.1.1", "[fd00::1]", "[2001:db8::1]", "cdn.test", "8.8.8.8"] {
            let url = Url::parse(&format!("http://{address}/")).unwrap();
            assert!(THERE.allows(&url) && HERE.allows(&url), "{url}");
            assert_eq!(Reach::of(&url), THERE, "{url}");
        }
    }

    #[test]
    fn a_name_is_as_good_as_the_addresses_behind_it() {
        let at = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 0);
        let mixed = [at("169.254.169.254"), at("203.0.113.7"), at("::1")];
        assert_eq!(allowed(THERE, "cdn.test", &mixed).unwrap(), [at("203.0.113.7")]);
        let error = allowed(THERE, "cdn.test", &mixed[..1]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "it sends us to cdn.test, which is 169.254.169.254, where nothing is fetched from"
        );
        assert_eq!(allowed(THERE, "cdn.test", &[]).unwrap(), []);
    }

    #[tokio::test]
    async fn the_name_of_this_machine_is_looked_at_when_it_is_resolved() {
        let resolve = |reach: Reach| Guard(reach).resolve("localhost".parse().unwrap());
        assert!(resolve(HERE).await.is_ok());
        let Err(error) = resolve(THERE).await else { panic!() };
        assert!(Forbidden::behind(error.as_ref()).is_some(), "{error}");
    }
}
