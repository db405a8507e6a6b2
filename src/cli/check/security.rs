use rustix::{
    process::geteuid,
    thread::{CapabilitySet, capabilities},
};

use super::{Finding, fail, host::Host, ok, warn};

pub(super) fn questions(host: &Host) -> Vec<Finding> {
    vec![privileges(), seccomp(host), user_namespaces(host), apparmor(host), selinux(host)]
}

fn privileges() -> Finding {
    let topic = "privileges";
    if !geteuid().is_root() {
        return fail(topic, "pintle runs as root; the kubelet starts it so");
    }
    let Ok(sets) = capabilities(None) else { return warn(topic, "capabilities cannot be read") };
    if !sets.effective.contains(CapabilitySet::SYS_ADMIN) {
        return fail(topic, "CAP_SYS_ADMIN is missing: nothing can be mounted");
    }
    if !sets.effective.contains(CapabilitySet::SYS_RESOURCE) {
        return warn(
            topic,
            "CAP_SYS_RESOURCE is missing: OOM scores below the present one are not set, limits not raised",
        );
    }
    ok(topic, "root with CAP_SYS_ADMIN and CAP_SYS_RESOURCE")
}

fn seccomp(host: &Host) -> Finding {
    match host.read("proc/sys/kernel/seccomp/actions_avail") {
        Some(actions) if actions.split(' ').any(|action| action == "errno") => ok("seccomp", actions),
        _ => fail(
            "seccomp",
            "the kernel has no filters (CONFIG_SECCOMP_FILTER): RuntimeDefault pods will fail",
        ),
    }
}

fn user_namespaces(host: &Host) -> Finding {
    let topic = "user namespaces";
    if !host.has("proc/self/ns/user") {
        return warn(topic, "not in this kernel: pods with hostUsers: false will fail");
    }
    match host.read("proc/sys/user/max_user_namespaces").and_then(|max| max.parse::<u64>().ok()) {
        Some(0) => warn(topic, "forbidden: raise the sysctl user.max_user_namespaces for hostUsers: false"),
        Some(max) => ok(topic, format!("up to {max}")),
        None => warn(topic, "the sysctl user.max_user_namespaces cannot be read"),
    }
}

fn apparmor(host: &Host) -> Finding {
    match host.read("sys/module/apparmor/parameters/enabled").as_deref() {
        Some("Y") => ok("AppArmor", "on"),
        _ => ok("AppArmor", "off: pods that ask for a profile are refused"),
    }
}

fn selinux(host: &Host) -> Finding {
    match host.read("sys/fs/selinux/enforce").as_deref() {
        Some("1") => warn("SELinux", "enforcing: pods get only the labels that they ask for"),
        Some(_) => ok("SELinux", "permissive"),
        None => ok("SELinux", "off"),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    #[test]
    fn user_namespaces_can_be_missing_forbidden_or_there() {
        let ns = ("proc/self/ns/user", "");
        let (host, _dir) = Host::fake(&[]);
        assert_eq!(user_namespaces(&host).level, Level::Warn);
        let (host, _dir) = Host::fake(&[ns, ("proc/sys/user/max_user_namespaces", "0\n")]);
        assert!(user_namespaces(&host).text.starts_with("forbidden"));
        let (host, _dir) = Host::fake(&[ns, ("proc/sys/user/max_user_namespaces", "31000\n")]);
        assert_eq!(user_namespaces(&host), ok("user namespaces", "up to 31000"));
    }

    #[test]
    fn a_kernel_without_filters_fails() {
        let (host, _dir) =
            Host::fake(&[("proc/sys/kernel/seccomp/actions_avail", "kill_process errno log\n")]);
        assert_eq!(seccomp(&host).level, Level::Ok);
        let (host, _dir) = Host::fake(&[]);
        assert_eq!(seccomp(&host).level, Level::Fail);
    }
}
