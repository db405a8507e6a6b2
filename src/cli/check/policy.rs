use super::{Finding, host::Host, ok, warn};

pub(super) fn questions(host: &Host) -> Vec<Finding> {
    vec![apparmor(host), selinux(host)]
}

fn apparmor(host: &Host) -> Finding {
    match host.read("sys/module/apparmor/parameters/enabled").as_deref() {
        Some("Y") => ok("AppArmor", "on; pods that ask for a profile are refused"),
        _ => ok("AppArmor", "off; pods that ask for a profile are refused"),
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
    fn selinux_that_enforces_is_a_warning() {
        for (text, level) in [("1\n", Level::Warn), ("0\n", Level::Ok)] {
            let (host, _dir) = Host::fake(&[("sys/fs/selinux/enforce", text)]);
            assert_eq!(selinux(&host).level, level);
        }
    }
}
