//! Pods on the network.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
};

use crate::harness::{BUSYBOX, Container, Node, Pod, Setup, runner::tests, v1, wait_until};

tests![
    pods_reach_each_other_and_the_node_reaches_them,
    a_host_port_leads_to_the_pod_until_it_is_stopped,
    a_host_port_is_reached_from_everywhere_in_both_families,
    a_host_port_has_one_owner_and_outlives_the_daemon,
    pods_reach_the_outside_as_the_node_in_both_families,
    pods_of_two_families_reach_each_other_by_both,
    the_kubelets_pod_cidrs_are_the_bridges_ranges_from_then_on,
    what_a_pod_receives_and_sends_is_limited_on_the_host,
    a_limit_that_is_none_is_refused_and_a_death_leaves_no_device,
    an_isolated_bridge_exchanges_nothing_with_another,
    udp_flows_of_a_host_port_follow_it_to_the_next_pod,
    neighbours_hear_of_a_new_pod_at_once,
    a_reset_leaves_the_host_as_it_was,
    a_policy_of_others_that_drops_is_found_and_one_rule_mends_it,
    every_pod_has_an_address_of_its_own_and_gives_it_back,
    a_pod_has_its_own_loopback,
    what_needs_no_capability_in_a_pod_is_the_operators_to_say,
];

const NGINX: &str = "registry.k8s.io/e2e-test-images/nginx:1.14-2";
const WELCOME: &str = "Welcome to nginx!";

fn serve<'n>(pod: &Pod<'n>) -> Container<'n> {
    let server = pod.create("server", NGINX, []);
    server.start();
    wait_until("the server listens", || fetch(&server, "127.0.0.1 80").contains(WELCOME));
    server
}

/// What a web server answers to a container; empty if nothing does.
fn fetch(client: &Container<'_>, address: &str) -> String {
    let request = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {address}");
    client.exec(["sh", "-c", &request]).stdout
}

fn pods_reach_each_other_and_the_node_reaches_them() {
    let node = Node::start();
    let web = node.run_pod("web");
    serve(&web);
    let client = node.run_pod("client").run_in("main", ["sleep", "1000"]);

    let page = fetch(&client, &format!("{} 80", web.ip()));
    assert!(page.contains(WELCOME), "{page:?}");
    assert!(node.http_get(&format!("{}:80", web.ip())).contains(WELCOME));
    node.assert_clean();
}

fn a_host_port_leads_to_the_pod_until_it_is_stopped() {
    let node = Node::start();
    let web = node.run_pod_with("web", |config| {
        let protocol = v1::Protocol::Tcp.into();
        let mapping =
            v1::PortMapping { protocol, container_port: 80, host_port: 8080, host_ip: String::new() };
        config.port_mappings = vec![mapping];
    });
    serve(&web);

    assert!(node.http_get("127.0.0.1:8080").contains(WELCOME));
    web.stop();
    assert_eq!(node.http_get("127.0.0.1:8080"), "");
    node.assert_clean();
}

const DUAL: &str = "[network]\nsubnets = [\"10.88.0.0/16\", \"fd00:88::/64\"]\n";

fn dual_stack_node() -> Node {
    Node::start_with(&Setup { config: DUAL.into(), ..Setup::default() })
}

/// A pod whose web server says the pod's name, in both families.
fn name_server<'n>(node: &'n Node, name: &str, ports: Vec<v1::PortMapping>) -> (Pod<'n>, Container<'n>) {
    let pod = node.run_pod_with(name, |config| config.port_mappings = ports);
    let serve =
        format!("mkdir /www && echo 'I am {name}.' > /www/index.html && exec busybox httpd -f -p 80 -h /www");
    let server = pod.create("server", BUSYBOX, ["sh", "-c", &serve]);
    server.start();
    wait_until("the server listens", || fetch(&server, "127.0.0.1 80").contains(&format!("I am {name}.")));
    (pod, server)
}

fn mapping(protocol: v1::Protocol, host_port: i32, container_port: i32) -> v1::PortMapping {
    v1::PortMapping { protocol: protocol.into(), container_port, host_port, host_ip: String::new() }
}

/// The pod's addresses, the primary one first.
fn addresses(pod: &Pod<'_>) -> Vec<String> {
    let network = pod.status().network.unwrap();
    [network.ip].into_iter().chain(network.additional_ips.into_iter().map(|ip| ip.ip)).collect()
}

/// A host beyond the node: a network namespace behind a pair of links, whose server at port 8000 says who asks. It knows no
/// way to pods.
pub(crate) struct Outside {
    host: Child,
    pid: String,
    server: Child,
}

impl Outside {
    const NODE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
    const ADDRESSES: [&str; 2] = ["192.0.2.2", "2001:db8::2"];

    pub(crate) fn of(node: &Node) -> Self {
        let mut host = node.command("unshare");
        host.args(["--net", "--", "sh", "-c", "echo $$; exec sleep 54321"]).stdout(Stdio::piped());
        let mut host = host.spawn().unwrap();
        let mut pid = String::new();
        BufReader::new(host.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        let pid = pid.trim().to_owned();
        node.run("ip", ["link", "add", "up0", "type", "veth", "peer", "name", "up1", "netns", &pid]);
        let inside = |line: &str| {
            let words = ["--target", &pid, "--net", "ip"].into_iter().chain(line.split(' '));
            let status = node.command("nsenter").args(words).status().unwrap();
            assert!(status.success(), "ip {line}");
        };
        for (node_address, address) in
            [("192.0.2.1/24", "192.0.2.2/24"), ("2001:db8::1/64", "2001:db8::2/64")]
        {
            node.run("ip", ["address", "add", node_address, "dev", "up0"]);
            inside(&format!("address add {address} dev up1"));
        }
        inside("link set lo up");
        inside("link set up1 up");
        node.run("ip", ["link", "set", "up0", "up"]);
        // Duplicate address detection takes a second or two.
        wait_until("the addresses can be used", || {
            !node.run("ip", ["-6", "address", "show", "dev", "up0"]).contains("tentative")
        });
        let serve = "import socket\n\
            listener = socket.create_server(('::', 8000), family=socket.AF_INET6, dualstack_ipv6=True)\n\
            while True:\n\
            \x20   client, address = listener.accept()\n\
            \x20   client.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\nYou are ' + address[0].encode() + b'.')\n\
            \x20   client.close()\n";
        let mut server = node.command("nsenter");
        server.args(["--target", &pid, "--net", "python3", "-c", serve]);
        Self { host, pid, server: server.spawn().unwrap() }
    }

    /// What a web server answers to it; empty if nothing does.
    fn http_get(&self, node: &Node, address: &str) -> String {
        let program = std::env::current_exe().unwrap();
        let arguments = ["--target", &self.pid, "--net", &program.to_string_lossy(), "node-get", address];
        node.run("nsenter", arguments)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        for child in [&mut self.server, &mut self.host] {
            // nsenter has one child, or has become the program itself.
            let pid = child.id().to_string();
            let children =
                std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            for pid in children.split_whitespace().chain([pid.as_str()]) {
                let _ =
                    std::process::Command::new("kill").args(["-KILL", pid]).stderr(Stdio::null()).status();
            }
            let _ = child.wait();
        }
    }
}

fn pods_reach_the_outside_as_the_node_in_both_families() {
    let node = dual_stack_node();
    let outside = Outside::of(&node);
    let client = node.run_pod("client").run_in("main", ["sleep", "1000"]);
    for (address, node_address) in Outside::ADDRESSES.into_iter().zip(Outside::NODE) {
        let seen = format!("You are {}{node_address}.", if address.contains(':') { "" } else { "::ffff:" });
        wait_until(&format!("{address} sees the pod as {seen}"), || {
            fetch(&client, &format!("{address} 8000")).contains(&seen)
        });
    }
    // Whoever starts the host's firewall anew removes all tables; the next pod brings ours back.
    node.run("nft", ["flush", "ruleset"]);
    assert_eq!(fetch(&client, "192.0.2.2 8000"), "", "there is no way back to the pod's own address");
    node.run_pod("next");
    assert!(fetch(&client, "192.0.2.2 8000").contains("You are"));
    drop(outside);
    node.assert_clean();
}

fn pods_of_two_families_reach_each_other_by_both() {
    let node = dual_stack_node();
    let (web, _server) = name_server(&node, "web", vec![]);
    let client = node.run_pod("client").run_in("main", ["sleep", "1000"]);
    let found = addresses(&web);
    assert!(found[0].starts_with("10.88.0.") && found[1].starts_with("fd00:88::"), "{found:?}");
    for address in &found {
        assert!(fetch(&client, &format!("{address} 80")).contains("I am web."), "{address}");
    }
    assert!(node.http_get(&format!("[{}]:80", found[1])).contains("I am web."));
    node.restart_daemon();
    assert_eq!(addresses(&web), found);
    node.assert_clean();

    // The other order.
    let config = "[network]\nsubnets = [\"fd00:88::/64\", \"10.88.0.0/16\"]\n";
    let node = Node::start_with(&Setup { config: config.into(), ..Setup::default() });
    let found = addresses(&node.run_pod("web"));
    assert!(found[0].starts_with("fd00:88::") && found[1].starts_with("10.88.0."), "{found:?}");
    node.assert_clean();
}

fn the_kubelets_pod_cidrs_are_the_bridges_ranges_from_then_on() {
    let node = Node::start();
    let outside = Outside::of(&node);
    let update = |pod_cidr: &str| {
        let network_config = Some(v1::NetworkConfig { pod_cidr: pod_cidr.into() });
        let runtime_config = Some(v1::RuntimeConfig { network_config });
        node.cri().update_runtime_config(v1::UpdateRuntimeConfigRequest { runtime_config })
    };
    let (before, neighbour) = name_server(&node, "before", vec![]);
    update("10.55.0.0/24,fd55::/64").unwrap();
    let (after, client) = name_server(&node, "after", vec![]);
    let address_of_after = addresses(&after);
    assert_eq!(address_of_after, ["10.55.0.2", "fd55::2"]);
    assert!(addresses(&before)[0].starts_with("10.88.0."), "a pod that runs keeps its own");
    // They are on one bridge, and both reach the node and what is beyond.
    assert!(fetch(&client, &format!("{} 80", before.ip())).contains("I am before."));
    for address in ["10.55.0.2:80", "[fd55::2]:80", &format!("{}:80", before.ip())] {
        assert!(node.http_get(address).contains("I am"), "{address}");
    }
    assert!(fetch(&neighbour, "10.55.0.2 80").contains("I am after."));
    assert!(fetch(&neighbour, "192.0.2.2 8000").contains("You are ::ffff:192.0.2.1."));
    wait_until("the outside answers in both families", || {
        fetch(&client, "192.0.2.2 8000").contains("192.0.2.1.")
            && fetch(&client, "2001:db8::2 8000").contains("2001:db8::1.")
    });

    // What cannot be used changes nothing, and a new daemon knows what was given.
    let refusal = update("10.56.0.0/31").unwrap_err();
    assert_eq!(
        (refusal.code(), refusal.message()),
        (
            tonic::Code::InvalidArgument,
            "the pod CIDR 10.56.0.0/31 cannot be used for the bridge pintle0: the prefix of 10.56.0.0/31 is not between 8 and 30"
        )
    );
    update("").unwrap();
    node.restart_daemon();
    assert_eq!(addresses(&after), address_of_after);
    assert_eq!(addresses(&node.run_pod("later")), ["10.55.0.3", "fd55::3"]);
    update("fd57::/64").unwrap();
    assert_eq!(addresses(&node.run_pod("last")), ["fd57::2"]);
    drop(outside);
    node.assert_clean();
}

fn a_host_port_is_reached_from_everywhere_in_both_families() {
    let node = dual_stack_node();
    let outside = Outside::of(&node);
    let mut local = mapping(v1::Protocol::Tcp, 8081, 80);
    local.host_ip = "127.0.0.1".into();
    let (_web, server) = name_server(&node, "web", vec![mapping(v1::Protocol::Tcp, 8080, 80), local]);
    let other = node.run_pod("other").run_in("main", ["sleep", "1000"]);
    for address in ["192.0.2.1", "10.88.0.1", "2001:db8::1", "fd00:88::1"] {
        let bracketed =
            if address.contains(':') { format!("[{address}]:8080") } else { format!("{address}:8080") };
        assert!(node.http_get(&bracketed).contains("I am web."), "the node by {address}");
        assert!(fetch(&other, &format!("{address} 8080")).contains("I am web."), "another pod by {address}");
        assert!(
            fetch(&server, &format!("{address} 8080")).contains("I am web."),
            "the pod itself by {address}"
        );
    }
    for address in ["192.0.2.1:8080", "[2001:db8::1]:8080"] {
        assert!(outside.http_get(&node, address).contains("I am web."), "the outside by {address}");
    }
    assert!(node.http_get("127.0.0.1:8080").contains("I am web."));
    // A port of one address only.
    assert!(node.http_get("127.0.0.1:8081").contains("I am web."));
    assert_eq!(node.http_get("192.0.2.1:8081"), "");
    assert_eq!(outside.http_get(&node, "192.0.2.1:8081"), "");
    // What listens on the node's loopback stays its own (CVE-2020-8558), whatever a pod makes of 127.0.0.1.
    let netns = format!("--net=/proc/{}/ns/net", seen_from_here(&node, other.pid()));
    let in_other = |program: &str, arguments: &[&str]| {
        let mut command = std::process::Command::new("nsenter");
        String::from_utf8(command.args([&netns, program]).args(arguments).output().unwrap().stdout).unwrap()
    };
    let lead_out = "ip address delete 127.0.0.1/8 dev lo && sysctl -qw net.ipv4.conf.eth0.route_localnet=1 \
        && ip route add 127.0.0.1 via 10.88.0.1 && ip route get 127.0.0.1";
    assert!(in_other("sh", &["-c", lead_out]).contains("via 10.88.0.1"));
    assert_ne!(node.http_get("127.0.0.1:5000"), "");
    let program = std::env::current_exe().unwrap();
    assert_eq!(in_other(&program.to_string_lossy(), &["node-get", "127.0.0.1:5000"]), "");
    drop(outside);
    node.assert_clean();
}

fn a_host_port_has_one_owner_and_outlives_the_daemon() {
    let node = Node::start();
    let tcp = || vec![mapping(v1::Protocol::Tcp, 8080, 80)];
    let (first, _server) = name_server(&node, "first", tcp());
    let refusal = node.try_run_pod("second", |config| config.port_mappings = tcp()).unwrap_err();
    assert_eq!(refusal.message(), "host port 8080/tcp is taken by pod e2e/first");
    node.run_pod_with("other-protocol", |config| {
        config.port_mappings =
            vec![mapping(v1::Protocol::Udp, 8080, 80), mapping(v1::Protocol::Sctp, 8080, 80)];
    });
    let on_the_host = node.run_pod_with("host", |config| {
        config.port_mappings = vec![mapping(v1::Protocol::Tcp, 8080, 80)];
        let context = config.linux.get_or_insert_default().security_context.get_or_insert_default();
        context.namespace_options.get_or_insert_default().network = v1::NamespaceMode::Node.into();
    });
    on_the_host.remove();

    node.kill_daemon();
    assert!(node.http_get("127.0.0.1:8080").contains("I am first."), "without a daemon");
    node.start_daemon();
    assert!(node.http_get("127.0.0.1:8080").contains("I am first."), "under the next daemon");
    let refusal = node.try_run_pod("second", |config| config.port_mappings = tcp()).unwrap_err();
    assert_eq!(refusal.message(), "host port 8080/tcp is taken by pod e2e/first");

    first.stop();
    let (_third, _server) = name_server(&node, "third", tcp());
    assert!(node.http_get("127.0.0.1:8080").contains("I am third."));
    node.remove_pods();
    node.restart_daemon();
    assert!(!node.run("nft", ["list", "ruleset"]).contains("dnat"), "no rule of a pod that is gone");
    node.assert_clean();
}

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";

fn limited(config: &mut v1::PodSandboxConfig, limits: &[(&str, &str)]) {
    config.annotations = limits.iter().map(|(name, rate)| ((*name).into(), (*rate).into())).collect();
}

/// How often a link's token bucket kept a packet waiting, by the JSON of tc(8).
fn overlimits(node: &Node, link: &str) -> u64 {
    let shown = node.run("tc", ["-s", "-j", "qdisc", "show", "dev", link, "root"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown[0]["kind"], "tbf", "{shown}");
    shown[0]["overlimits"].as_u64().unwrap()
}

fn intermediate_devices(node: &Node) -> String {
    node.run("ip", ["-o", "link", "show", "type", "ifb"])
}

fn what_a_pod_receives_and_sends_is_limited_on_the_host() {
    let node = Node::start();
    let pod = node.run_pod_with("limited", |config| limited(config, &[(INGRESS, "8M"), (EGRESS, "1.5G")]));
    let client = node.run_pod_with("client", |config| limited(config, &[(INGRESS, "16M")]));
    let sender = node.run_pod_with("sender", |config| limited(config, &[(EGRESS, "16M")]));
    let end = |pod: &Pod<'_>| (format!("pt{}", &pod.id[..11]), format!("pi{}", &pod.id[..11]));
    for (link, expected) in [
        (end(&pod).0, "rate 8Mbit burst 128Kb"),
        (end(&pod).1, "rate 1500Mbit"),
        (end(&client).0, "rate 16Mbit"),
        (end(&sender).1, "rate 16Mbit"),
    ] {
        let shown = node.run("tc", ["qdisc", "show", "dev", &link]);
        assert!(shown.contains("tbf") && shown.contains(expected), "{link}: {shown}");
    }
    let filter = node.run("tc", ["filter", "show", "dev", &end(&sender).0, "ingress"]);
    assert!(filter.contains(&format!("Egress Redirect to device {}", end(&sender).1)), "{filter}");
    assert!(!intermediate_devices(&node).contains(&end(&client).1), "nothing limits what it sends");
    // A megabyte goes through each limit alone, whole, and has to wait: behind one limit another of the same rate need not
    // hold anything back.
    let serve = "mkdir /www && head -c 1000000 /dev/zero > /www/file && exec busybox httpd -f -p 80 -h /www";
    let unlimited = node.run_pod("unlimited");
    for pod in [&sender, &unlimited] {
        pod.create("server", BUSYBOX, ["sh", "-c", serve]).start();
    }
    let [in_unlimited, in_client] = [&unlimited, &client].map(|pod| pod.run_in("main", ["sleep", "1000"]));
    let fetch = |container: &Container<'_>, server: &Pod<'_>| {
        let command = format!("busybox wget -q -O - http://{}/file | wc -c", server.ip());
        wait_until("the file is fetched", || container.shell(&command).trim() == "1000000");
    };
    assert_eq!(overlimits(&node, &end(&sender).1), 0);
    fetch(&in_unlimited, &sender);
    assert!(overlimits(&node, &end(&sender).1) > 0);
    assert_eq!(overlimits(&node, &end(&client).0), 0);
    fetch(&in_client, &unlimited);
    assert!(overlimits(&node, &end(&client).0) > 0);
    // They are the kernel's: no daemon is needed, and the next one leaves them alone.
    node.restart_daemon();
    assert!(overlimits(&node, &end(&client).0) > 0);
    sender.stop();
    assert!(!intermediate_devices(&node).contains(&end(&sender).1));
    node.assert_clean();
    assert_eq!(intermediate_devices(&node), "");
}

fn a_limit_that_is_none_is_refused_and_a_death_leaves_no_device() {
    let node = Node::start();
    for (annotation, text, reason) in [
        (INGRESS, "10MB", "\"10MB\" is not a quantity such as 10M"),
        (EGRESS, "10", "\"10\" is not between 1k and 1P bits per second"),
    ] {
        let refusal = node.try_run_pod("web", |config| limited(config, &[(annotation, text)])).unwrap_err();
        let expected = format!("cannot limit the pod's bandwidth: annotation {annotation}: {reason}");
        assert_eq!((refusal.code(), refusal.message()), (tonic::Code::InvalidArgument, &*expected));
    }
    let setup = Setup { failpoints: "network.intermediate-made=1*kill".into(), ..Setup::default() };
    node.restart_daemon_with(&setup);
    node.try_run_pod("web", |config| limited(config, &[(EGRESS, "1M")])).unwrap_err();
    wait_until("the daemon dies", || !node.daemon_lives());
    assert_ne!(intermediate_devices(&node), "");
    node.start_daemon();
    node.remove_pods();
    wait_until("the device is gone", || intermediate_devices(&node).is_empty());
    node.assert_clean();
}

fn an_isolated_bridge_exchanges_nothing_with_another() {
    let config = "[network]\nisolate = true\n";
    let node = Node::start_with(&Setup { config: config.into(), ..Setup::default() });
    let outside = Outside::of(&node);
    // The host beyond is on another bridge of the node, and knows a way to pods.
    let other_bridge = "ip address flush dev up0 && ip link add other0 type bridge && ip link set up0 master other0 \
        && ip address add 192.0.2.1/24 dev other0 && ip link set other0 up";
    node.run("sh", ["-c", other_bridge]);
    node.run(
        "nsenter",
        ["--target", &outside.pid, "--net", "ip", "route", "add", "10.88.0.0/16", "via", "192.0.2.1"],
    );
    let (web, server) = name_server(&node, "web", vec![]);
    let client = node.run_pod("client").run_in("main", ["sleep", "1000"]);
    wait_until("the other bridge forwards", || node.http_get("192.0.2.2:8000").contains("You are"));
    let web_address = format!("{}:80", web.ip());
    assert_eq!(fetch(&client, "192.0.2.2 8000"), "", "from a pod to the other bridge");
    assert_eq!(outside.http_get(&node, &web_address), "", "from the other bridge to a pod");
    assert!(fetch(&client, &format!("{} 80", web.ip())).contains("I am web."), "pods are not kept from pods");
    // Without it, the same packets arrive.
    std::fs::write(node.path("conf.d/test.toml"), "[network]\nisolate = false\n").unwrap();
    node.restart_daemon();
    assert!(fetch(&client, "192.0.2.2 8000").contains("You are"));
    assert!(outside.http_get(&node, &web_address).contains("I am web."));
    drop((outside, server));
    node.run("ip", ["link", "delete", "other0"]);
    node.assert_clean();
}

/// A program in python that runs until it is dropped, in the network namespace of a process as the test sees it.
struct Inside(Child);

impl Inside {
    fn of(pid: u32, program: &str) -> Self {
        let mut command = std::process::Command::new("nsenter");
        command.args([&format!("--net=/proc/{pid}/ns/net"), "python3", "-c", program]);
        Self(command.stdin(Stdio::null()).spawn().unwrap()) // nsenter becomes the program
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The pid of a node's process in the eyes of the test.
fn seen_from_here(node: &Node, pid: u32) -> u32 {
    let root = node.namespaces().root();
    let ours = std::fs::read_link(root.join(format!("proc/{pid}/ns/net"))).unwrap();
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|theirs| theirs == ours))
        .unwrap()
}

const UDP_SERVER: &str = r"
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(('0.0.0.0', 53))
while True:
    asked, by = server.recvfrom(100)
    server.sendto(b'I am NAME.', by)
";

/// Always from the same port: one flow, as resolvers and tunnels have it.
const UDP_CLIENT: &str = r"
import socket
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.bind(('0.0.0.0', 4444))
client.settimeout(1)
client.sendto(b'who', ('192.0.2.1', 5353))
try:
    print(client.recv(100).decode())
except OSError:
    pass
";

/// A UDP server in the pod of a container, which answers with the pod's name.
fn udp_server(node: &Node, container: &Container<'_>, name: &str) -> Inside {
    Inside::of(seen_from_here(node, container.pid()), &UDP_SERVER.replace("NAME", name))
}

fn udp_flows_of_a_host_port_follow_it_to_the_next_pod() {
    let node = Node::start();
    let outside = Outside::of(&node);
    let who = || node.run("nsenter", ["--target", &outside.pid, "--net", "python3", "-c", UDP_CLIENT]);
    let ports = || vec![mapping(v1::Protocol::Udp, 5353, 53)];
    let pod = |name: &str| node.run_pod_with(name, |config| config.port_mappings = ports());
    let first = pod("first");
    let container = first.run_in("main", ["sleep", "1000"]);
    let server = udp_server(&node, &container, "first");
    wait_until("the first pod answers", || who().contains("I am first."));
    drop(server);
    first.remove();
    assert_eq!(who(), "", "now the flow leads to nobody");
    let second = pod("second");
    let container = second.run_in("main", ["sleep", "1000"]);
    let server = udp_server(&node, &container, "second");
    wait_until("the second pod answers", || who().contains("I am second."));
    drop((server, outside));
    node.assert_clean();
}

/// Writes down what is announced on the bridge: gratuitous ARP, which is of the sender's own address, unsolicited neighbour
/// advertisements, which go to all, and duplicate address detection, which has no address yet.
const LISTEN: &str = r"
import socket
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
wire.bind(('pintle0', 0))
heard = open('HEARD', 'w', buffering=1)
print('listening', file=heard)
while True:
    frame = wire.recv(2000)
    kind, packet = frame[12:14], frame[14:]
    if kind == b'\x08\x06' and packet[14:18] == packet[24:28]:
        print('arp', socket.inet_ntoa(packet[14:18]), file=heard)
    if kind == b'\x86\xdd' and packet[6] == 58:
        target = socket.inet_ntop(socket.AF_INET6, packet[48:64].ljust(16))
        if packet[40] == 136 and packet[24] == 255:
            print('advertisement', target, file=heard)
        if packet[40] == 135 and packet[8:24] == bytes(16):
            print('detection', target, file=heard)
";

fn neighbours_hear_of_a_new_pod_at_once() {
    let node = dual_stack_node();
    node.run_pod("first"); // with which the bridge comes
    let heard = node.path("heard");
    let listen = LISTEN.replace("HEARD", &heard.to_string_lossy());
    let listener = Inside::of(node.daemon_pid(), &listen);
    let text = || std::fs::read_to_string(&heard).unwrap_or_default();
    wait_until("it listens", || text().contains("listening"));
    let pod = node.run_pod("second");
    let [ipv4, ipv6] = &addresses(&pod)[..] else { panic!("two addresses") };
    wait_until("the pod's addresses are announced", || {
        text().contains(&format!("arp {ipv4}\n")) && text().contains(&format!("advertisement {ipv6}\n"))
    });
    // It could be used at once: nobody was asked whether it is free.
    assert!(!text().contains(&format!("detection {ipv6}\n")), "{}", text());
    drop(listener);
    node.assert_clean();
}

fn a_reset_leaves_the_host_as_it_was() {
    let node = dual_stack_node();
    let settings = ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv6.conf.lo.accept_ra"];
    // A new network namespace has what the machine has.
    node.run("sysctl", ["-w", "net.ipv4.ip_forward=0", "net.ipv6.conf.all.forwarding=0"]);
    let read = || settings.map(|name| node.run("sysctl", ["-n", name]));
    let before = read();
    let others = "add table ip others; add chain ip others c { type filter hook forward priority 0; }";
    node.run("nft", [others]);
    let pod = node.run_pod_with("web", |config| {
        config.port_mappings = vec![mapping(v1::Protocol::Tcp, 8080, 80)];
    });
    assert_ne!(read(), before);
    let reset = || {
        let mut command = node.command(crate::harness::pintle());
        let output =
            command.args(["network", "reset", "--config"]).arg(node.path("config.toml")).output().unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        )
    };
    let (ok, said) = reset();
    assert!(!ok && said.contains("pods are on the bridge pintle0: stop them first"), "{said}");
    pod.remove();
    let (ok, said) = reset();
    assert!(ok && said.contains("deleted the bridge pintle0\n"), "{said}");
    assert!(said.contains("deleted the nftables table inet pintle\n"), "{said}");
    assert!(said.contains("set net.ipv4.ip_forward back to 0\n"), "{said}");
    assert_eq!(read(), before);
    let rules = node.run("nft", ["list", "ruleset"]);
    assert!(rules.contains("table ip others") && !rules.contains("pintle"), "{rules}");
    assert_eq!(reset(), (true, "there was nothing to undo\n".into()));
    // And all comes back with the next pod.
    node.run_pod("next");
    assert!(node.run("nft", ["list", "ruleset"]).contains("masquerade"));
    node.assert_clean();
}

fn a_policy_of_others_that_drops_is_found_and_one_rule_mends_it() {
    let node = Node::start();
    let outside = Outside::of(&node);
    // As Docker leaves it.
    node.run("nft", ["add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }"]);
    let client = node.run_pod("client").run_in("main", ["sleep", "1000"]);
    assert_eq!(fetch(&client, "192.0.2.2 8000"), "");
    let mut check = node.command(crate::harness::pintle());
    let said = check.args(["check", "--config"]).arg(node.path("config.toml")).output().unwrap().stdout;
    let said = String::from_utf8_lossy(&said).into_owned();
    let rules: Vec<&str> = said.split('`').filter(|part| part.starts_with("nft insert rule")).collect();
    assert_eq!(rules.len(), 2, "{said}");
    for rule in rules {
        node.run("sh", ["-c", rule]);
    }
    assert!(fetch(&client, "192.0.2.2 8000").contains("You are"));
    drop(outside);
    node.assert_clean();
}

fn every_pod_has_an_address_of_its_own_and_gives_it_back() {
    let node = Node::start();
    let names: Vec<String> = (0..12).map(|nth| format!("pod-{nth}")).collect();
    for _ in 0..2 {
        let pods: Vec<Pod<'_>> = std::thread::scope(|scope| {
            let runs: Vec<_> = names.iter().map(|name| scope.spawn(|| node.run_pod(name))).collect();
            runs.into_iter().map(|run| run.join().unwrap()).collect()
        });
        let addresses: BTreeSet<String> = pods.iter().map(Pod::ip).collect();
        assert_eq!(addresses.len(), pods.len(), "{addresses:?}");
        node.assert_clean();
    }
}

fn a_pod_has_its_own_loopback() {
    let node = Node::start();
    let container = node.run_pod("web").run_in("main", ["sleep", "1000"]);

    assert_eq!(container.exec(["ping", "-c", "1", "-W", "2", "127.0.0.1"]).code, 0);
    // The registry of the node listens on loopback, and must not be there for a pod.
    assert_eq!(fetch(&container, "127.0.0.1 5000"), "");
    assert_ne!(node.http_get("127.0.0.1:5000"), "");
    node.assert_clean();
}

fn what_needs_no_capability_in_a_pod_is_the_operators_to_say() {
    let node = Node::start();
    let settings = |name: &str, sysctls: &[(&str, &str)]| {
        let pod = node.run_pod_with(name, |config| {
            let asked = sysctls.iter().map(|(name, value)| ((*name).into(), (*value).into()));
            config.linux.get_or_insert_default().sysctls.extend(asked);
        });
        let read = "cd /proc/sys/net/ipv4 && cat ip_unprivileged_port_start ping_group_range";
        let said = pod.run_in("main", ["sleep", "1000"]).shell(read);
        said.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(settings("usual", &[]), ["0", "0", "2147483647"]);
    assert_eq!(settings("own", &[("net.ipv4.ip_unprivileged_port_start", "81")]), ["81", "0", "2147483647"]);
    std::fs::write(node.path("conf.d/test.toml"), "[pod]\nunprivileged_ports = false\n").unwrap();
    node.restart_daemon();
    assert_eq!(settings("no-ports", &[]), ["1024", "0", "2147483647"]);
    std::fs::write(node.path("conf.d/test.toml"), "[pod]\nunprivileged_ping = false\n").unwrap();
    node.restart_daemon();
    assert_eq!(settings("no-ping", &[]), ["0", "1", "0"], "a range without a group");
    assert_eq!(settings("asked", &[("net.ipv4.ping_group_range", "5 6")]), ["0", "5", "6"]);
    node.assert_clean();
}
