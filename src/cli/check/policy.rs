//! `pintle check`: AppArmor and SELinux.

use super::{Finding, fail, host::Host, ok, warn};
use crate::{
    pod::{HostSelinux, SelinuxConfig},
    spec::APPARMOR_PARSERS,
};

pub(super) fn questions(host: &Host, config: &SelinuxConfig) -> Vec<Finding> {
    vec![apparmor(host), selinux(host, config.enabled)]
}

fn apparmor(host: &Host) -> Finding {
    match host.read("sys/module/apparmor/parameters/enabled").as_deref() {
        Some("Y") if APPARMOR_PARSERS.iter().any(|path| host.exists(path.trim_start_matches('/'))) => {
            ok("AppArmor", "on; containers get the profile pintle-default, or the one they ask for")
        }
        Some("Y") => fail(
            "AppArmor",
            "on, but apparmor_parser is not installed (package apparmor): only unconfined containers can be made",
        ),
        _ => ok("AppArmor", "off; a container that asks for a profile by its name is refused"),
    }
}

fn selinux(host: &Host, enabled: bool) -> Finding {
    const TOPIC: &str = "SELinux";
    let enforces = host.read("sys/fs/selinux/enforce").as_deref() == Some("1");
    match (HostSelinux::look_below(host.root()), enabled) {
        (HostSelinux::Off, false) => ok(TOPIC, "off"),
        (HostSelinux::Off, true) => fail(
            TOPIC,
            "selinux.enabled is set, but the kernel has no SELinux or no policy: pods get no labels",
        ),
        (HostSelinux::On(_) | HostSelinux::NoContexts(_), false) if enforces => {
            warn(TOPIC, "enforcing, but pods get no labels of their own: selinux.enabled is not set")
        }
        (HostSelinux::On(_) | HostSelinux::NoContexts(_), false) => ok(TOPIC, "permissive"),
        (HostSelinux::NoContexts(reason), true) => fail(TOPIC, format!("no pod can be made: {reason}")),
        (HostSelinux::On(_), true) => ok(
            TOPIC,
            "pods get labels; no release of pintle was tried under a policy yet, only against files that stand in for one",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    #[test]
    fn apparmor_that_is_on_needs_its_parser() {
        const ON: (&str, &str) = ("sys/module/apparmor/parameters/enabled", "Y\n");
        let off = (ON.0, "N\n");
        for (files, level) in [
            (&[][..], Level::Ok),
            (&[off], Level::Ok),
            (&[ON], Level::Fail),
            (&[ON, ("usr/sbin/apparmor_parser", "")], Level::Ok),
            (&[ON, ("sbin/apparmor_parser", "")], Level::Ok),
        ] {
            let (host, _dir) = Host::fake(files);
            assert_eq!(apparmor(&host).level, level, "{files:?}");
        }
    }

    #[test]
    fn selinux_needs_a_policy_with_labels_where_it_is_enabled_and_is_a_warning_where_it_only_enforces() {
        const ENFORCES: (&str, &str) = ("sys/fs/selinux/enforce", "1\n");
        const CURRENT: (&str, &str) = ("proc/self/attr/current", "u:r:t:s0");
        const CONFIG: (&str, &str) = ("etc/selinux/config", "SELINUXTYPE=targeted\n");
        const LABELS: (&str, &str) =
            ("etc/selinux/targeted/contexts/lxc_contexts", "process = \"u:r:t:s0\"\nfile = \"u:o:f:s0\"\n");
        for (files, enabled, level) in [
            (&[][..], false, Level::Ok),
            (&[], true, Level::Fail),
            (&[ENFORCES, CURRENT], false, Level::Warn),
            (&[("sys/fs/selinux/enforce", "0\n"), CURRENT], false, Level::Ok),
            (&[ENFORCES, CURRENT], true, Level::Fail),
            (&[ENFORCES, CURRENT, CONFIG, LABELS], true, Level::Ok),
            (&[ENFORCES, CONFIG, LABELS, ("proc/self/attr/current", "kernel")], true, Level::Fail),
        ] {
            let (host, _dir) = Host::fake(files);
            assert_eq!(selinux(&host, enabled).level, level, "{files:?} {enabled}");
        }
    }
}
