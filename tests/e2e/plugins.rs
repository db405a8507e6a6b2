//! The plugins that people have, of Debian and of a release that knows version 1.1, each in a list with what it needs: what
//! a pod has of it, what libcni makes of our cache, and what is left of it afterwards.

use std::process::Child;

use serde_json::{Value, json};

use crate::{
    cni::{CNI, configure, leases_in, listed, network_is_ready, start},
    harness::{Node, Pod, new_plugins, runner::tests, wait_until},
    network::Outside,
};

tests![
    debians_plugins_give_what_they_are_for_and_take_it_back,
    plugins_of_version_1_1_give_what_they_are_for_and_take_it_back,
    libcni_deletes_by_our_cache_and_a_stop_finds_nothing_to_do,
    a_dhcp_plugin_without_a_server_ends_at_the_deadline,
];

const DEBIANS: &str = "/usr/lib/cni";
const PING_OUTSIDE: &str = "busybox ping -c 1 -W 5 192.0.2.2";

/// A list of plugins, and signs of what each is for. `IP` in them is the pod's address.
struct Case {
    name: &'static str,
    /// A kind of link that not every kernel has, as arguments of `ip link add`.
    needs: &'static [&'static str],
    plugins: Value,
    signs: &'static [Sign],
}

/// What a command prints, and where.
enum Sign {
    InPod(&'static str, &'static str),
    OnNode(&'static str, &'static str),
}
use Sign::{InPod, OnNode};

fn cases(node: &Node) -> Vec<Case> {
    let ptp = json!({"type": "ptp", "ipMasq": false, "ipam": {"type": "host-local", "dataDir": node.path("cni/leases"),
        "subnet": "10.66.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]}});
    let fixed = |address: &str, gateway: &str| json!({"type": "static", "addresses": [{"address": address, "gateway": gateway}]});
    let on_up0 =
        |kind: &str| json!({"type": kind, "master": "up0", "ipam": fixed("192.0.2.77/24", "192.0.2.1")});
    let case = |name, needs, plugins, signs| Case { name, needs, plugins, signs };
    vec![
        case(
            "ptp",
            &[],
            json!([ptp]),
            &[
                InPod("ip -o address show eth0", "inet IP/24"),
                InPod("ip route", "default via 10.66.0.1 dev eth0"),
                OnNode("ip route", "IP dev veth"),
                OnNode("busybox ping -c 1 -W 5 IP", "1 packets received"),
            ],
        ),
        case(
            "static",
            &[],
            json!([{"type": "ptp", "ipam": fixed("10.67.0.9/24", "10.67.0.1")}]),
            &[
                InPod("ip -o address show eth0", "inet 10.67.0.9/24"),
                OnNode("ip route", "10.67.0.9 dev veth"),
            ],
        ),
        case(
            "macvlan",
            &["link", "up0", "type", "macvlan"],
            json!([on_up0("macvlan")]),
            &[
                InPod("ip -d link show eth0", "macvlan mode bridge"),
                InPod(PING_OUTSIDE, "1 packets received"),
            ],
        ),
        case(
            "ipvlan",
            &["link", "up0", "type", "ipvlan"],
            json!([on_up0("ipvlan")]),
            &[InPod("ip -d link show eth0", "ipvlan"), InPod(PING_OUTSIDE, "1 packets received")],
        ),
        case(
            "bandwidth",
            &["type", "ifb"],
            json!([ptp, {"type": "bandwidth", "capabilities": {"bandwidth": true}}]),
            &[OnNode("tc qdisc show", "rate 1Mbit"), OnNode("tc qdisc show", "rate 2Mbit")],
        ),
        case(
            "firewall",
            &[],
            json!([ptp, {"type": "firewall", "backend": "iptables"}]),
            &[OnNode("iptables-save -t filter", "-A CNI-FORWARD -s IP/32 -j ACCEPT")],
        ),
        case(
            "tuning",
            &[],
            json!([ptp, {"type": "tuning", "mtu": 1400, "mac": "c2:11:22:33:44:55",
            "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}}]),
            &[
                InPod("ip link show eth0", "mtu 1400"),
                InPod("ip link show eth0", "c2:11:22:33:44:55"),
                InPod("sysctl net.ipv4.conf.eth0.arp_filter", "arp_filter = 1"),
            ],
        ),
        case(
            "vrf",
            &["type", "vrf", "table", "10"],
            json!([ptp, {"type": "vrf", "vrfname": "red"}]),
            &[InPod("ip -d link show eth0", "master red"), InPod("ip route show vrf red", "10.66.0.0/24")],
        ),
        case("sbr", &[], json!([ptp, {"type": "sbr"}]), &[InPod("ip rule", "from IP lookup")]),
    ]
}

/// What plugins change on a node. Chains that they share among pods stay.
fn host_state(node: &Node) -> Vec<String> {
    let state = "ip -br link | cut -d' ' -f1; ip route; ip rule; tc qdisc show; iptables-save | grep -E '10[.]6[67][.]'; true";
    let state = node.run("sh", ["-c", state]);
    state.lines().map(str::to_owned).collect()
}

/// Whether the kernel has what a case needs. It is tried in a network of its own: the first VRF of a network leaves a
/// rule there.
fn kernel_has(node: &Node, link: &[&str]) -> bool {
    let script = "ip link add up0 type veth && exec ip link add probe0 \"$@\"";
    let mut trial = node.command("unshare");
    trial.args(["--net", "sh", "-c", script, "sh"]).args(link).output().unwrap().status.success()
}

fn in_pod(node: &Node, pod: &Pod<'_>, command: &str) -> String {
    let netns = format!("--net={}", node.path("netns").join(format!("pintle-{}", pod.id)).display());
    let output = node.command("nsenter").args([&netns, "sh", "-c", command]).output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn on_node(node: &Node, command: &str) -> String {
    let output = node.command("sh").args(["-c", command]).output().unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// What libcni makes of the pod's cached attachment.
fn libcni(node: &Node, verb: &str, plugins: &str, network: &str, pod: &Pod<'_>) -> Result<(), String> {
    let mut command = node.command(new_plugins().join("cachecheck"));
    command.env("CNI_PATH", plugins).env("NETCONFPATH", node.path("cni/net.d"));
    let netns = node.path("netns").join(format!("pintle-{}", pod.id));
    let output =
        command.args([verb, network, &pod.id]).arg(netns).arg(node.path("cni/cache")).output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

fn run_case<'n>(node: &'n Node, case: &Case, version: &str, name: &str) -> Pod<'n> {
    // These move routes out of the main table, the only one in which ptp's CHECK looks for them.
    let disable = matches!(case.name, "sbr" | "vrf");
    let list =
        json!({"cniVersion": version, "name": case.name, "disableCheck": disable, "plugins": case.plugins});
    configure(node, "10-pods.conflist", &list);
    wait_until(&format!("{}: the network is ready", case.name), || network_is_ready(node));
    node.run_pod_with(name, |config| {
        let limits = [("kubernetes.io/ingress-bandwidth", "1M"), ("kubernetes.io/egress-bandwidth", "2M")];
        config.annotations = limits.map(|(name, rate)| (name.to_owned(), rate.to_owned())).into();
    })
}

/// Each list in its turn: the signs are there with the pod, libcni agrees, and the node is as before without it.
fn give_and_take(plugins: &str, version: &str) {
    let node = start(&format!("{CNI}cni_bin_dirs = [{plugins:?}]\n"));
    let outside = Outside::of(&node);
    let before = host_state(&node);
    for case in cases(&node) {
        if !case.needs.is_empty() && !kernel_has(&node, case.needs) {
            eprintln!("skipped: {}: this kernel has no such link", case.name);
            continue;
        }
        let pod = run_case(&node, &case, version, case.name);
        let ip = pod.ip();
        for sign in case.signs {
            let (said, expected) = match sign {
                InPod(command, expected) => (in_pod(&node, &pod, &command.replace("IP", &ip)), expected),
                OnNode(command, expected) => (on_node(&node, &command.replace("IP", &ip)), expected),
            };
            let expected = expected.replace("IP", &ip);
            assert!(said.contains(&expected), "{}: {expected:?} is not in\n{said}", case.name);
        }
        libcni(&node, "check", plugins, case.name, &pod)
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
        pod.remove();
        assert_eq!(host_state(&node), before, "{}", case.name);
        let cached = listed(&node, "cni/cache/results");
        assert_eq!((leases_in(&node, case.name), cached), (vec![], vec![]), "{}", case.name);
    }
    drop(outside);
    node.assert_clean();
}

fn debians_plugins_give_what_they_are_for_and_take_it_back() {
    give_and_take(DEBIANS, "1.0.0");
}

fn plugins_of_version_1_1_give_what_they_are_for_and_take_it_back() {
    give_and_take(&new_plugins().to_string_lossy(), "1.1.0");
}

fn libcni_deletes_by_our_cache_and_a_stop_finds_nothing_to_do() {
    let plugins = new_plugins().to_string_lossy();
    let node = start(&format!("{CNI}cni_bin_dirs = [{plugins:?}]\n"));
    let case = cases(&node).into_iter().find(|case| case.name == "firewall").unwrap();
    let before = host_state(&node);
    let pod = run_case(&node, &case, "1.1.0", "one");
    let other = run_case(&node, &case, "1.1.0", "other");
    libcni(&node, "del", &plugins, case.name, &pod).unwrap();
    let cached = listed(&node, "cni/cache/results");
    assert_eq!(cached, [format!("firewall-{}-eth0", other.id)]);
    assert_eq!(leases_in(&node, case.name), [other.ip()]);
    assert_eq!(libcni(&node, "check", &plugins, case.name, &other), Ok(()));
    pod.remove();
    other.remove();
    assert_eq!(host_state(&node), before);
    node.assert_clean();
}

/// The daemon of the DHCP plugin, which asks for leases.
struct DhcpDaemon(Child);

impl Drop for DhcpDaemon {
    fn drop(&mut self) {
        // The child of nsenter is the daemon, or nsenter has become it.
        let pid = self.0.id();
        let children =
            std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        for pid in children.split_whitespace().chain([pid.to_string().as_str()]) {
            let _ = std::process::Command::new("kill").args(["-KILL", pid]).status();
        }
        let _ = self.0.wait();
    }
}

fn a_dhcp_plugin_without_a_server_ends_at_the_deadline() {
    for (plugins, version) in [(DEBIANS.into(), "1.0.0"), (new_plugins().to_string_lossy(), "1.1.0")] {
        let node = start(&format!("{CNI}cni_timeout_s = 3\ncni_bin_dirs = [{plugins:?}]\n"));
        let outside = Outside::of(&node);
        let before = host_state(&node);
        let socket = node.path("cni/dhcp.sock");
        let macvlan =
            json!({"type": "macvlan", "master": "up0", "ipam": {"type": "dhcp", "daemonSocketPath": socket}});
        configure(
            &node,
            "10-pods.conflist",
            &json!({"cniVersion": version, "name": "pods", "plugins": [macvlan]}),
        );
        let fails = |expected: &str| {
            let error = node.try_run_pod("web", |_| {}).unwrap_err();
            assert!(error.message().contains(expected), "{plugins}: {error}");
        };
        fails("CNI plugin macvlan failed (ADD): error dialing DHCP daemon");
        let mut daemon = node.command(format!("{plugins}/dhcp"));
        let daemon = DhcpDaemon(daemon.args(["daemon", "-socketpath"]).arg(&socket).spawn().unwrap());
        wait_until("the daemon listens", || socket.exists());
        fails("CNI plugin macvlan failed (ADD): it took longer than 3 s and was killed");
        // A DEL that failed for want of a daemon is made up for.
        wait_until("nothing is recorded", || listed(&node, "root/cni").is_empty());
        drop(daemon);
        std::fs::remove_file(socket).unwrap();
        assert_eq!(host_state(&node), before);
        drop(outside);
        node.assert_clean();
        assert_eq!(listed(&node, "cni/cache/results"), [""; 0]);
    }
}
