use super::{Finding, host::Host, ok, warn};

pub(super) fn questions(host: &Host) -> Vec<Finding> {
    vec![bridge(host), bridge_filter(host), forwarding(host), systemd(host)]
}

fn bridge(host: &Host) -> Finding {
    let missing: Vec<_> =
        ["bridge", "veth", "nf_tables"].into_iter().filter(|name| !host.has_module(name)).collect();
    if missing.is_empty() {
        return ok("pod network", "the built-in bridge can be made");
    }
    // A kernel without a list of modules can still have them built in.
    let text =
        format!("no module {} was found: the built-in bridge may not work; CNI may", missing.join(", "));
    warn("pod network", text)
}

fn bridge_filter(host: &Host) -> Finding {
    match host.read("proc/sys/net/bridge/bridge-nf-call-iptables").as_deref() {
        Some("1") => ok("br_netfilter", "on"),
        Some(_) => warn(
            "br_netfilter",
            "net.bridge.bridge-nf-call-iptables is 0: kube-proxy may not see all traffic",
        ),
        None => warn(
            "br_netfilter",
            "not loaded: kube-proxy may not see traffic on a bridge; `modprobe br_netfilter`",
        ),
    }
}

fn forwarding(host: &Host) -> Finding {
    match host.read("proc/sys/net/ipv4/ip_forward").as_deref() {
        Some("1") => ok("forwarding", "on"),
        _ => warn("forwarding", "net.ipv4.ip_forward is 0: pods reach no one outside this host"),
    }
}

fn systemd(host: &Host) -> Finding {
    let topic = "systemd";
    if !host.has("run/systemd/system") {
        return ok(topic, "did not boot this host: cgroups are made by the driver cgroupfs");
    }
    if host.has("run/dbus/system_bus_socket") {
        return ok(topic, "the system bus is there: the driver systemd can make cgroups, on cgroup v2");
    }
    warn(topic, "booted this host, but there is no system bus: the driver systemd will not work")
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    #[test]
    fn a_module_counts_when_loaded_built_in_or_to_be_loaded() {
        let (host, _dir) = Host::fake(&[
            ("proc/sys/kernel/osrelease", "6.1.0\n"),
            ("sys/module/bridge/refcnt", "1"),
            ("lib/modules/6.1.0/modules.builtin", "kernel/drivers/net/veth.ko\n"),
            ("lib/modules/6.1.0/modules.dep", "kernel/net/netfilter/nf-tables.ko.xz: kernel/a.ko\n"),
        ]);
        assert_eq!(bridge(&host).level, Level::Ok);
        let (host, _dir) = Host::fake(&[("sys/module/bridge/refcnt", "1"), ("sys/module/veth/refcnt", "1")]);
        let text = "no module nf_tables was found: the built-in bridge may not work; CNI may";
        assert_eq!(bridge(&host), warn("pod network", text));
    }

    #[test]
    fn systemd_without_a_bus_is_a_warning_and_no_systemd_is_not() {
        let (host, _dir) = Host::fake(&[]);
        assert_eq!(systemd(&host).level, Level::Ok);
        let (host, _dir) = Host::fake(&[("run/systemd/system/x", "")]);
        assert_eq!(systemd(&host).level, Level::Warn);
        let (host, _dir) = Host::fake(&[("run/systemd/system/x", ""), ("run/dbus/system_bus_socket", "")]);
        assert_eq!(systemd(&host).level, Level::Ok);
    }
}
