//! The room's configuration: which driver makes cgroups, and below which parent.

use serde::{Deserialize, Serialize};

/// How pods get their cgroups.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The driver that makes cgroups: `auto`, `systemd` or `cgroupfs`. Must be what the kubelet uses; a kubelet of
    /// 1.34 or later asks us and follows.
    pub driver: DriverChoice,
    /// The cgroup under which a pod goes whose request names none: an absolute path with cgroupfs, the name of
    /// a slice with systemd. Empty: `/pintle` or `pintle.slice`. With `auto` its form decides who makes it.
    pub parent: String,
}

/// The driver that the operator asks for.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DriverChoice {
    /// systemd where it booted a host with cgroup v2, else cgroupfs.
    #[default]
    Auto,
    /// Transient units made by systemd over D-Bus. Needs systemd and cgroup v2.
    Systemd,
    /// Directories made by pintle itself.
    Cgroupfs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_table_is_the_default() {
        let config: Config = toml::from_str("").unwrap();
        assert_eq!(config, Config { driver: DriverChoice::Auto, parent: String::new() });
    }

    #[test]
    fn drivers_are_named_in_lower_case_and_nothing_else_is_accepted() {
        let config: Config = toml::from_str("driver = \"systemd\"").unwrap();
        assert_eq!(config.driver, DriverChoice::Systemd);
        assert!(toml::from_str::<Config>("driver = \"Systemd\"").is_err());
        assert!(toml::from_str::<Config>("drivers = \"systemd\"").is_err());
    }
}
