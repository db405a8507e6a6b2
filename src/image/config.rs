//! The room's configuration: pinned images, parallel pulls, limits of layers.

use std::path::PathBuf;

use serde::Deserialize;

/// Images: where they come from and how much of them is taken.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Folder with one `<host[:port]>/hosts.toml` for each registry that has mirrors or settings of its own,
    /// and `_default/hosts.toml` for all others. Read at each pull; containerd's format (docs/registries.md).
    pub registry_config_dir: PathBuf,
    /// Layers of one image that are fetched and unpacked at the same time.
    pub layers_parallel: usize,
    /// Largest layer as it comes over the network; bytes.
    pub layer_compressed_bytes_max: u64,
    /// Largest layer after it is unpacked; bytes.
    pub layer_unpacked_bytes_max: u64,
    /// Hosts that may be asked for tokens, with a registry's credentials, although their name has nothing to
    /// do with that registry.
    pub token_hosts: Vec<String>,
    /// References of images that the kubelet must not collect, such as those loaded from a file.
    pub pinned: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            registry_config_dir: "/etc/pintle/hosts.d".into(),
            layers_parallel: 3,
            layer_compressed_bytes_max: 20 << 30,
            layer_unpacked_bytes_max: 50 << 30,
            token_hosts: Vec::new(),
            pinned: Vec::new(),
        }
    }
}
