//! The room's configuration: the provider of pods' networks, the bridge, and CNI.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use serde::Deserialize;

use super::{Error, Subnet};

/// Longest name of an interface (`IFNAMSIZ` less the NUL).
const INTERFACE_NAME_BYTES_MAX: usize = 15;
/// Least MTU that IPv4 allows, and the greatest that a veth takes.
const MTU_BYTES_MIN: u32 = 68;
const MTU_BYTES_MAX: u32 = 65_535;

/// Longest that plugins may be given: the kubelet waits four minutes for a pod.
const CNI_TIMEOUT_S_MAX: u64 = 600;

/// What pods are put on the network by.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// CNI plugins as soon as there is a configuration for them, the built-in bridge until then.
    Auto,
    Cni,
    Bridge,
    /// Only pods with the host's network can start.
    None,
}

/// Addresses for pods.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Range {
    pub(super) subnet: Subnet,
    /// The bridge's address, which no pod gets.
    pub(super) gateway: IpAddr,
}

/// How pods are put on the network.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// auto, cni, bridge or none. auto: CNI plugins as soon as there is a configuration for them, the built-in
    /// bridge until then. none: only pods with the host's network can start. Pods keep what they were made with.
    pub mode: Mode,
    /// Folder of CNI configurations (`.conflist`, `.conf`, `.json`); the first by name counts. Read anew for each
    /// pod. A file that cannot be used is reported, and the last good one stays in use.
    pub cni_conf_dir: PathBuf,
    /// Folders in which CNI plugins are looked for, in their order.
    pub cni_bin_dirs: Vec<PathBuf>,
    /// Template of a CNI configuration, with the fields of containerd's (`{{.PodCIDR}}`, `.PodCIDRRanges`, `.Routes`): made
    /// into `10-pintle-net.conflist` when the kubelet names the node's pod CIDR and there is no configuration.
    pub cni_conf_template: Option<PathBuf>,
    /// Folder of libcni's cache, for tools that read it; `results` in it has a file for each pod.
    pub cni_cache_dir: PathBuf,
    /// How long all plugins of a network together may take for one pod before they are killed; seconds.
    pub cni_timeout_s: u64,
    /// Folder in which the network namespaces of pods are mounted for CNI plugins.
    pub netns_dir: PathBuf,
    /// Name of the bridge, made when the first pod needs it. An existing bridge of that name is used.
    pub bridge_name: String,
    /// Addresses for pods: one subnet, or one of IPv4 and one of IPv6. A pod gets one of each; the first is its primary one.
    /// They must not overlap with any network that the node or its pods talk to. The node's pod CIDRs take their place once
    /// the kubelet has named any.
    pub subnets: Vec<Subnet>,
    /// Addresses of the bridge, which are the pods' default routes. The first address of a subnet that has none here.
    pub gateways: Vec<IpAddr>,
    /// Whether pods on the bridge have the host's address outside of it. When false, the outside needs routes to
    /// `subnets`.
    pub masquerade: bool,
    /// Whether packets between the bridge and other bridges of the host are dropped.
    pub isolate: bool,
    /// Largest packet in bytes. 0: what the interface of the host's default route takes.
    pub mtu: u32,
}

impl Default for Config {
    fn default() -> Self {
        let bridge_name = "pintle0".into();
        Self {
            mode: Mode::Auto,
            cni_conf_dir: "/etc/cni/net.d".into(),
            cni_bin_dirs: ["/opt/cni/bin", "/usr/lib/cni"].map(PathBuf::from).into(),
            cni_conf_template: None,
            cni_cache_dir: "/var/lib/cni".into(),
            cni_timeout_s: 90,
            netns_dir: "/run/netns".into(),
            bridge_name,
            subnets: vec![Subnet::DEFAULT],
            gateways: vec![],
            masquerade: true,
            isolate: false,
            mtu: 0,
        }
    }
}

impl Config {
    /// These subnets, each with the address that the bridge has there.
    pub(super) fn ranges_of(&self, subnets: &[Subnet]) -> Vec<Range> {
        let range = |subnet: &Subnet| {
            let gateway = self.gateways.iter().copied().find(|gateway| subnet.has_host(*gateway));
            Range { subnet: *subnet, gateway: gateway.unwrap_or(subnet.first()) }
        };
        subnets.iter().map(range).collect()
    }

    /// How long plugins may take for one pod.
    pub(super) fn cni_timeout(&self) -> Duration {
        Duration::from_secs(self.cni_timeout_s)
    }

    /// Finds what the types cannot rule out.
    pub(super) fn check(&self) -> Result<(), Error> {
        let bad = |field, reason| Err(Error::BadConfig { field, reason });
        let name = &self.bridge_name;
        let odd = |byte: u8| !byte.is_ascii_graphic() || matches!(byte, b'/' | b':' | b'%');
        if name.is_empty()
            || name.len() > INTERFACE_NAME_BYTES_MAX
            || name.bytes().any(odd)
            || name.starts_with('.')
        {
            return bad("bridge_name", format!("{name:?} cannot name an interface"));
        }
        let of = |ipv6: bool| self.subnets.iter().filter(|subnet| subnet.is_ipv6() == ipv6).count();
        if self.subnets.is_empty() || of(false) > 1 || of(true) > 1 {
            let reason = "one subnet is needed, or one of IPv4 and one of IPv6";
            return bad("subnets", reason.into());
        }
        let is_host = |gateway: &&IpAddr| self.subnets.iter().any(|subnet| subnet.has_host(**gateway));
        if let Some(gateway) = self.gateways.iter().find(|gateway| !is_host(gateway)) {
            let subnets: Vec<String> = self.subnets.iter().map(Subnet::to_string).collect();
            return bad("gateways", format!("{gateway} is not a host of {}", subnets.join(" or ")));
        }
        if self.gateways.len() > self.subnets.len() {
            return bad("gateways", "a subnet has one gateway".into());
        }
        for (field, folder) in [
            ("cni_conf_dir", &self.cni_conf_dir),
            ("cni_cache_dir", &self.cni_cache_dir),
            ("netns_dir", &self.netns_dir),
        ] {
            if !folder.is_absolute() {
                return bad(field, format!("{} is not an absolute path", folder.display()));
            }
        }
        // CNI_PATH separates them by colons.
        let unfit = |folder: &&PathBuf| !folder.is_absolute() || folder.to_string_lossy().contains(':');
        if let Some(folder) = self.cni_bin_dirs.iter().find(unfit) {
            return bad(
                "cni_bin_dirs",
                format!("{} is not an absolute path without a colon", folder.display()),
            );
        }
        if !(1..=CNI_TIMEOUT_S_MAX).contains(&self.cni_timeout_s) {
            return bad(
                "cni_timeout_s",
                format!("{} is not between 1 and {CNI_TIMEOUT_S_MAX}", self.cni_timeout_s),
            );
        }
        if self.mtu != 0 && !(MTU_BYTES_MIN..=MTU_BYTES_MAX).contains(&self.mtu) {
            return bad("mtu", format!("{} is not between {MTU_BYTES_MIN} and {MTU_BYTES_MAX}", self.mtu));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<Config, String> {
        let config: Config = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        config.check().map_err(|error| error.to_string())?;
        Ok(config)
    }

    #[test]
    fn nothing_configured_is_a_bridge() {
        let config = checked("").unwrap();
        assert_eq!((config.mode, &*config.bridge_name), (Mode::Auto, "pintle0"));
        let gateway = "10.88.0.1".parse().unwrap();
        assert_eq!(config.ranges_of(&config.subnets), [Range { subnet: Subnet::DEFAULT, gateway }]);
    }

    #[test]
    fn everything_can_be_configured() {
        let config = checked(
            "bridge_name = \"br-pods\"\nsubnets = [\"fd00::/64\", \"10.1.2.0/24\"]\ngateways = [\"10.1.2.254\"]\nmtu = 9000",
        );
        let range = |subnet: &str, gateway: &str| Range {
            subnet: subnet.parse().unwrap(),
            gateway: gateway.parse().unwrap(),
        };
        let expected = [range("fd00::/64", "fd00::1"), range("10.1.2.0/24", "10.1.2.254")];
        let config = config.unwrap();
        assert_eq!(config.ranges_of(&config.subnets), expected);
        // A gateway that is no host of a subnet says nothing of it.
        let other = config.ranges_of(&["10.9.0.0/16".parse().unwrap()]);
        assert_eq!(other, [range("10.9.0.0/16", "10.9.0.1")]);
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_name() {
        for (text, expected) in [
            ("bridge = 'x'", "unknown field `bridge`"),
            ("subnets = ['10.1.2.1/24']", "10.1.2.0/24 is meant?"),
            ("subnets = []", "network.subnets: one subnet is needed"),
            ("subnets = ['10.1.2.0/24', '10.1.3.0/24']", "network.subnets: one subnet is needed"),
            ("bridge_name = ''", "network.bridge_name: \"\" cannot name an interface"),
            ("bridge_name = 'sixteen-letters!'", "cannot name an interface"),
            ("bridge_name = '../lock'", "cannot name an interface"),
            ("bridge_name = '..'", "cannot name an interface"),
            ("bridge_name = 'a b'", "cannot name an interface"),
            ("gateways = ['10.89.0.1']", "network.gateways: 10.89.0.1 is not a host of 10.88.0.0/16"),
            ("gateways = ['10.88.0.0']", "is not a host of"),
            ("gateways = ['10.88.255.255']", "is not a host of"),
            ("gateways = ['10.88.0.1', '10.88.0.2']", "network.gateways: a subnet has one gateway"),
            ("mode = 'calico'", "unknown variant `calico`"),
            ("cni_conf_dir = 'net.d'", "network.cni_conf_dir: net.d is not an absolute path"),
            (
                "cni_bin_dirs = ['/a', '/b:/c']",
                "network.cni_bin_dirs: /b:/c is not an absolute path without a colon",
            ),
            ("cni_timeout_s = 0", "network.cni_timeout_s: 0 is not between 1 and 600"),
            ("mtu = 67", "network.mtu: 67 is not between 68 and 65535"),
        ] {
            let error = checked(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
