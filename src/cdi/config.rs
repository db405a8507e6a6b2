//! The room's configuration: where device files are, and hooks in them.

use std::path::PathBuf;

use serde::Deserialize;

/// Devices by the Container Device Interface (CDI).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Folders with CDI specs (`.json`, `.yaml`). Of a device that is in several, the one of the last folder counts; two
    /// files of one folder that have the same device are an error. Read anew for each container that asks for devices.
    pub spec_dirs: Vec<PathBuf>,
    /// Hooks that the spec of a device has, and that pintle never runs: `refuse` the device's containers, or `ignore` the
    /// hooks and log that.
    pub hooks: Hooks,
}

impl Default for Config {
    fn default() -> Self {
        Self { spec_dirs: vec!["/etc/cdi".into(), "/var/run/cdi".into()], hooks: Hooks::Refuse }
    }
}

/// See [`Config::hooks`].
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Hooks {
    Refuse,
    Ignore,
}
