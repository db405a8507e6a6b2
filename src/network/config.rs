use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

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
    /// IPv4 addresses for pods. It must not overlap with any network that the node or its pods talk to.
    pub subnet: Subnet,
    /// Address of the bridge, and the pods' default route. Empty: the first address of `subnet`.
    pub gateway: Option<Ipv4Addr>,
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
            subnet: Subnet::DEFAULT,
            gateway: None,
            mtu: 0,
        }
    }
}

impl Config {
    /// The address of the bridge.
    pub(super) fn gateway(&self) -> Ipv4Addr {
        self.gateway.unwrap_or(self.subnet.first())
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
        let gateway = self.gateway();
        if !self.subnet.has_host(gateway) {
            return bad("gateway", format!("{gateway} is not a host of {}", self.subnet));
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
        assert_eq!(config.gateway(), Ipv4Addr::new(10, 88, 0, 1));
    }

    #[test]
    fn everything_can_be_configured() {
        let config = checked(
            "bridge_name = \"br-pods\"\nsubnet = \"10.1.2.0/24\"\ngateway = \"10.1.2.254\"\nmtu = 9000",
        );
        assert_eq!(config.unwrap().gateway(), Ipv4Addr::new(10, 1, 2, 254));
    }

    #[test]
    fn what_cannot_work_is_refused_with_its_name() {
        for (text, expected) in [
            ("bridge = 'x'", "unknown field `bridge`"),
            ("subnet = '10.1.2.1/24'", "10.1.2.0/24 is meant?"),
            ("bridge_name = ''", "network.bridge_name: \"\" cannot name an interface"),
            ("bridge_name = 'sixteen-letters!'", "cannot name an interface"),
            ("bridge_name = '../lock'", "cannot name an interface"),
            ("bridge_name = '..'", "cannot name an interface"),
            ("bridge_name = 'a b'", "cannot name an interface"),
            ("gateway = '10.89.0.1'", "network.gateway: 10.89.0.1 is not a host of 10.88.0.0/16"),
            ("gateway = '10.88.0.0'", "is not a host of"),
            ("gateway = '10.88.255.255'", "is not a host of"),
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
