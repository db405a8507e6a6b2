//! `pintle check`: AppArmor and SELinux.

use super::{Finding, fail, host::Host, ok, warn};
use crate::spec::APPARMOR_PARSERS;

pub(super) fn questions(host: &Host) -> Vec<Finding> {
    vec![apparmor(host), selinux(host)]
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

fn selinux(host: &Host) -> Finding {
    match host.read("sys/fs/selinux/enforce").as_deref() {
        Some("1") => warn("SELinux", "enforcing: pods get no labels of their own"),
        Some(_) => ok("SELinux", "permissive"),
        None => ok("SELinux", "off"),
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
    fn selinux_that_enforces_is_a_warning() {
        for (text, level) in [("1\n", Level::Warn), ("0\n", Level::Ok)] {
            let (host, _dir) = Host::fake(&[("sys/fs/selinux/enforce", text)]);
            assert_eq!(selinux(&host).level, level);
        }
    }
}
