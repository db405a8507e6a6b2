//! Pods on networks that CNI plugins make: Debian's plugins, those of a release that knows version 1.1, and one written
//! for these tests that records what it was given and answers as it is told.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
};

use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::harness::{Node, Pod, Setup, figures, new_plugins, runner::tests, v1, wait_until};

tests![
    debians_plugins_give_a_pod_its_address_and_its_port_and_take_them_back,
    libcni_agrees_with_the_cache_and_plugins_are_told_what_is_valid,
    plugins_are_told_whose_pod_it_is_and_what_came_before,
    a_pod_is_deleted_as_it_was_added_whatever_is_configured_by_then,
    a_failing_delete_is_the_answer_three_times_and_then_a_debt,
    a_delete_that_hangs_keeps_no_other_pod_waiting,
    after_a_reboot_addresses_are_released_without_a_namespace,
    a_plugin_that_fails_costs_one_pod_an_error_in_its_own_words,
    status_says_what_the_network_lacks_and_never_waits,
    a_pod_keeps_what_made_it_when_the_mode_changes,
    a_configuration_is_made_of_a_template_once_the_pod_cidr_is_known,
    a_death_at_each_step_leaves_nothing,
    plugins_that_fail_and_hang_at_random_leave_nothing,
];

const NGINX: &str = "registry.k8s.io/e2e-test-images/nginx:1.14-2";
const WELCOME: &str = "Welcome to nginx!";
pub(crate) const CNI: &str = "[network]\nmode = \"cni\"\n";

/// Records its call in a folder of its own and then does as a script says, if there is one for it.
const META: &str = r#"#!/bin/sh
name=${0##*/}
call="DIR/calls/$(date +%s%N)-$$"
mkdir "$call"
cat >"$call/stdin"
env | sort >"$call/env"
echo "$#" >"$call/argc"
echo "$name $CNI_COMMAND" >"$call/what"
if [ -e "DIR/does/$name-$CNI_COMMAND" ]; then . "DIR/does/$name-$CNI_COMMAND"; fi
case $CNI_COMMAND in
ADD) cat "DIR/result" ;;
VERSION) echo '{"cniVersion": "1.1.0", "supportedVersions": ["0.3.0", "0.4.0", "1.0.0", "1.1.0"]}' ;;
esac
"#;

/// The recording plugin, under several names, on one node.
struct Meta<'n> {
    node: &'n Node,
    folder: PathBuf,
}

impl<'n> Meta<'n> {
    fn install(node: &'n Node, names: &[&str]) -> Self {
        let folder = node.path("cni/plugins");
        for part in ["calls", "does"] {
            fs::create_dir(folder.join(part)).unwrap();
        }
        let program = folder.join("meta");
        fs::write(&program, META.replace("DIR", &folder.to_string_lossy())).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        for name in names {
            symlink(&program, node.path("cni/bin").join(name)).unwrap();
        }
        let meta = Self { node, folder };
        meta.answers("10.77.0.5/24");
        meta
    }

    /// The address that every ADD gives from now on.
    fn answers(&self, address: &str) {
        let result = json!({"cniVersion": "1.0.0", "ips": [{"address": address, "interface": 0}],
            "interfaces": [{"name": "eth0", "sandbox": "/x"}], "extra": {"kept": "as it is"}});
        fs::write(self.folder.join("result"), result.to_string()).unwrap();
    }

    /// From now on `name` does this when it is asked for `command`.
    fn does(&self, name: &str, command: &str, script: &str) {
        fs::write(self.folder.join("does").join(format!("{name}-{command}")), script).unwrap();
    }

    fn forget(&self) {
        for entry in fs::read_dir(self.folder.join("calls")).unwrap() {
            fs::remove_dir_all(entry.unwrap().path()).unwrap();
        }
    }

    /// The calls so far, but those about no pod: who was asked for what, the environment, the standard input.
    fn calls(&self) -> Vec<(String, Vec<String>, Value)> {
        let mut calls: Vec<PathBuf> =
            fs::read_dir(self.folder.join("calls")).unwrap().map(|entry| entry.unwrap().path()).collect();
        calls.sort();
        calls.retain(|path| path.join("what").exists()); // written last
        let read = |path: &PathBuf, name: &str| fs::read_to_string(path.join(name)).unwrap();
        let calls = calls.iter().map(|path| {
            assert_eq!(read(path, "argc"), "0\n", "a plugin has no arguments");
            let env = read(path, "env").lines().map(str::to_owned).collect();
            let stdin = serde_json::from_str(&read(path, "stdin")).unwrap_or_default();
            (read(path, "what").trim().to_owned(), env, stdin)
        });
        calls.filter(|(what, ..)| ["ADD", "DEL", "GC"].iter().any(|verb| what.ends_with(verb))).collect()
    }

    fn order(&self) -> Vec<String> {
        self.calls().into_iter().map(|(what, ..)| what).collect()
    }

    /// No cached result, record, namespace or process is left.
    #[track_caller]
    fn assert_clean(&self) {
        self.node.assert_clean();
        assert_eq!(listed(self.node, "cni/cache/results"), [""; 0]);
    }
}

/// The names in a folder of the node; none where it is not there.
pub(crate) fn listed(node: &Node, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(node.path(folder)).into_iter().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub(crate) fn configure(node: &Node, name: &str, list: &Value) {
    fs::write(node.path("cni/net.d").join(name), list.to_string()).unwrap();
}

pub(crate) fn start(config: &str) -> Node {
    Node::start_with(&Setup { config: config.into(), ..Setup::default() })
}

/// A list of recording plugins.
fn list(version: &str, plugins: &[&str]) -> Value {
    let plugins: Vec<_> = plugins.iter().map(|name| json!({"type": name, "own": *name})).collect();
    json!({"cniVersion": version, "name": "pods", "plugins": plugins})
}

/// A bridge of plugins, with addresses from a folder of the node's.
fn bridge(node: &Node, version: &str) -> Value {
    let ipam = json!({"type": "host-local", "dataDir": node.path("cni/leases"),
        "ranges": [[{"subnet": "10.66.0.0/24"}], [{"subnet": "fd66::/64"}]], "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]});
    json!({"cniVersion": version, "name": "pods", "plugins": [
        {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true, "ipam": ipam},
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]})
}

/// The addresses that host-local has given out.
fn leases(node: &Node) -> Vec<String> {
    leases_in(node, "pods")
}

/// The addresses that host-local has given out of one network.
pub(crate) fn leases_in(node: &Node, network: &str) -> Vec<String> {
    listed(node, &format!("cni/leases/{network}"))
        .into_iter()
        .filter(|name| name.parse::<std::net::IpAddr>().is_ok())
        .collect()
}

fn stop(pod: &Pod<'_>, node: &Node) -> Result<(), Status> {
    node.cri().stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: pod.id.clone() }).map(drop)
}

fn mapping(host_port: i32) -> v1::PortMapping {
    let protocol = v1::Protocol::Tcp.into();
    v1::PortMapping { protocol, container_port: 80, host_port, host_ip: String::new() }
}

fn info_of(node: &Node, pod: &Pod<'_>) -> Value {
    let request = v1::PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: true };
    let info = node.cri().pod_sandbox_status(request).unwrap().info;
    serde_json::from_str(&info["info"]).unwrap()
}

/// The condition NetworkReady, and its message.
fn network(node: &Node) -> (bool, String) {
    let status = node.cri().status(v1::StatusRequest { verbose: false }).unwrap().status.unwrap();
    let condition =
        status.conditions.into_iter().find(|condition| condition.r#type == "NetworkReady").unwrap();
    (condition.status, condition.message)
}

pub(crate) fn network_is_ready(node: &Node) -> bool {
    network(node).0
}

fn debians_plugins_give_a_pod_its_address_and_its_port_and_take_them_back() {
    let node = start(CNI);
    configure(&node, "10-pods.conflist", &bridge(&node, "1.0.0"));
    let web = node.run_pod_with("web", |config| config.port_mappings = vec![mapping(8080)]);
    let server = web.create("server", NGINX, []);
    server.start();
    let client = node.run_pod("client").run_in("main", ["sleep", "1000"]);

    let network = web.status().network.unwrap();
    assert!(network.ip.starts_with("10.66.0."), "{network:?}");
    assert!(network.additional_ips[0].ip.starts_with("fd66::"), "{network:?}");
    let fetch = |host: &str, port: u16| {
        let request = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {host} {port}");
        client.exec(["sh", "-c", &request]).stdout
    };
    wait_until("the server answers", || fetch(&network.ip, 80).contains(WELCOME));
    assert!(fetch("10.66.0.1", 8080).contains(WELCOME), "also by the port of the host");
    assert_eq!(client.exec(["ping", "-c", "1", "-W", "2", "127.0.0.1"]).code, 0, "lo is up");
    assert!(node.http_get(&format!("{}:80", network.ip)).contains(WELCOME));
    assert!(node.http_get("10.66.0.1:8080").contains(WELCOME), "the host port leads to the pod");
    let netns = info_of(&node, &web)["network"]["netns"].as_str().unwrap().to_owned();
    assert_eq!(netns, node.path("netns").join(format!("pintle-{}", web.id)).to_string_lossy());
    assert!(
        node.run("nsenter", [&format!("--net={netns}"), "ip", "-o", "addr", "show", "eth0"])
            .contains(&network.ip)
    );

    web.stop();
    assert_eq!(node.http_get("10.66.0.1:8080"), "", "the host port is gone");
    assert!(!PathBuf::from(&netns).exists());
    assert_eq!(leases(&node).len(), 2, "the client's");
    node.assert_clean();
    assert_eq!((leases(&node), listed(&node, "cni/cache/results")), (vec![], vec![]));
}

fn libcni_agrees_with_the_cache_and_plugins_are_told_what_is_valid() {
    // Its own folder is not known before it is there; the plugins of the release come first.
    let node = start("[network]\nmode = \"none\"\n");
    let folders = format!("{CNI}cni_bin_dirs = [{:?}, {:?}]\n", new_plugins(), node.path("cni/bin"));
    fs::write(node.path("conf.d/test.toml"), folders).unwrap();
    node.restart_daemon();
    let meta = Meta::install(&node, &["last"]);
    let mut conf = bridge(&node, "1.1.0");
    conf["plugins"].as_array_mut().unwrap().push(json!({"type": "last"}));
    meta.does("last", "ADD", "jq -c .prevResult \"$call/stdin\"; exit 0");
    configure(&node, "10-pods.conflist", &conf);
    wait_until("the network is ready", || network(&node).0);
    let web = node.run_pod("web");
    let lost = node.run_pod("lost");
    let cache = node.path("cni/cache");
    let check = |pod: &Pod<'_>| {
        let mut command = node.command(new_plugins().join("cachecheck"));
        command.env("CNI_PATH", format!("{}:{}", new_plugins().display(), node.path("cni/bin").display()));
        command.env("NETCONFPATH", node.path("cni/net.d"));
        let netns = node.path("netns").join(format!("pintle-{}", pod.id));
        let output = command.args(["check", "pods", &pod.id]).arg(netns).arg(&cache).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (agrees, words) = check(&web);
    assert!(agrees, "{words}");

    // What is lost of a pod while there is no daemon is found by CHECK; what is left of none may be freed by GC.
    node.kill_daemon();
    let netns = node.path("netns").join(format!("pintle-{}", lost.id));
    node.run("nsenter", [&format!("--net={}", netns.display()), "ip", "addr", "flush", "dev", "eth0"]);
    assert!(!check(&lost).0);
    meta.forget();
    node.start_daemon();
    wait_until("the loss is told", || {
        let log = fs::read_to_string(node.path("daemon.log")).unwrap();
        log.contains("is not what it was") && log.contains(&lost.id)
    });
    let calls = meta.calls();
    assert_eq!(meta.order(), ["last GC"]);
    let valid = calls[0].2["cni.dev/valid-attachments"].as_array().unwrap();
    assert_eq!(valid.len(), 2, "{valid:?}");
    for pod in [&web, &lost] {
        assert!(valid.contains(&json!({"containerID": pod.id, "ifname": "eth0"})), "{valid:?}");
    }
    // Nor is anything sent of a pod.
    assert!(!calls[0].1.iter().any(|variable| variable.starts_with("CNI_CONTAINERID")), "{:?}", calls[0].1);
    node.assert_clean();
    assert_eq!((leases(&node), listed(&node, "cni/cache/results")), (vec![], vec![]));
}

fn plugins_are_told_whose_pod_it_is_and_what_came_before() {
    let node = start(CNI);
    let meta = Meta::install(&node, &["first", "second"]);
    let mut conf = list("1.0.0", &["first", "second"]);
    conf["plugins"][1]["capabilities"] = json!({"portMappings": true, "bandwidth": true, "io.kubernetes.cri.pod-annotations": true, "dns": false});
    configure(&node, "10-pods.conflist", &conf);
    let pod = node.run_pod_with("web", |config| {
        config.port_mappings = vec![mapping(8080), mapping(0)];
        config.annotations = [("kubernetes.io/ingress-bandwidth".to_owned(), "10M".to_owned())].into();
    });
    assert_eq!(pod.ip(), "10.77.0.5");
    pod.stop();

    let netns = node.path("netns").join(format!("pintle-{}", pod.id)).to_string_lossy().into_owned();
    let environment = |command: &str| {
        let args = format!(
            "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=e2e;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID={};K8S_POD_UID=web-uid",
            pod.id
        );
        let path = format!("CNI_PATH={}:/usr/lib/cni", node.path("cni/bin").display());
        let mut all = vec![
            args,
            format!("CNI_COMMAND={command}"),
            format!("CNI_CONTAINERID={}", pod.id),
            "CNI_IFNAME=eth0".into(),
            format!("CNI_NETNS={netns}"),
            path,
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
            "PWD=/".into(), // the shell's own
        ];
        all.sort();
        all
    };
    let result: Value = serde_json::from_slice(&fs::read(meta.folder.join("result")).unwrap()).unwrap();
    let runtime = json!({
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}],
        "bandwidth": {"ingressRate": 10_000_000, "ingressBurst": 2_147_483_647},
        "io.kubernetes.cri.pod-annotations": {"kubernetes.io/ingress-bandwidth": "10M"},
    });
    let first = json!({"cniVersion": "1.0.0", "name": "pods", "type": "first", "own": "first"});
    let mut second = json!({"cniVersion": "1.0.0", "name": "pods", "type": "second", "own": "second",
        "capabilities": conf["plugins"][1]["capabilities"], "runtimeConfig": runtime});
    second["prevResult"] = result.clone();
    let mut first_later = first.clone();
    first_later["prevResult"] = result;
    let expected = [
        ("first", "ADD", first),
        ("second", "ADD", second.clone()),
        ("second", "DEL", second),
        ("first", "DEL", first_later),
    ];
    let calls = meta.calls();
    assert_eq!(calls.len(), expected.len(), "{:?}", meta.order());
    for ((what, env, stdin), (name, command, given)) in calls.into_iter().zip(expected) {
        assert_eq!((what, stdin), (format!("{name} {command}"), given));
        assert_eq!(env, environment(command), "{name} {command}");
    }

    let error = node.try_run_pod("evil", |config| {
        config.metadata.as_mut().unwrap().uid = "x;K8S_POD_NAMESPACE=kube-system".into();
    });
    assert_eq!(error.unwrap_err().code(), Code::InvalidArgument);
    meta.assert_clean();
}

fn a_pod_is_deleted_as_it_was_added_whatever_is_configured_by_then() {
    let node = start(CNI);
    let meta = Meta::install(&node, &["first", "second"]);
    configure(&node, "10-pods.conflist", &list("1.0.0", &["first"]));
    let (gone, changed) = (node.run_pod("gone"), node.run_pod("changed"));
    let cached = listed(&node, "cni/cache/results");
    assert!(cached.contains(&format!("pods-{}-eth0", gone.id)), "{cached:?}");
    configure(&node, "10-pods.conflist", &list("0.3.1", &["second"]));
    meta.forget();
    changed.stop();
    fs::remove_file(node.path("cni/net.d/10-pods.conflist")).unwrap();
    node.restart_daemon();
    gone.stop();
    let calls = meta.calls();
    assert_eq!(meta.order(), ["first DEL", "first DEL"]);
    for (_, _, stdin) in calls {
        assert_eq!((&stdin["own"], &stdin["cniVersion"]), (&json!("first"), &json!("1.0.0")));
        assert_eq!(stdin["prevResult"]["extra"]["kept"], "as it is");
    }
    meta.assert_clean();
}

fn a_failing_delete_is_the_answer_three_times_and_then_a_debt() {
    let node = start(CNI);
    let meta = Meta::install(&node, &["first"]);
    configure(&node, "10-pods.conflist", &list("1.0.0", &["first"]));
    let pod = node.run_pod("web");
    meta.does("first", "DEL", "echo '{\"code\": 11, \"msg\": \"the controller is away\"}'; exit 1");
    for _ in 0..2 {
        let error = stop(&pod, &node).unwrap_err();
        assert!(
            error.message().contains("CNI plugin first failed (DEL): the controller is away (code 11)"),
            "{error}"
        );
        assert_eq!(error.code(), Code::Unavailable);
    }
    stop(&pod, &node).unwrap();
    pod.remove();
    node.kill_daemon();
    node.start_daemon();
    let record = node.path("root/cni").join(&pod.id);
    assert!(record.exists(), "it is not forgotten");
    meta.does("first", "DEL", "");
    wait_until("it is deleted at last", || !record.exists());
    meta.assert_clean();
}

fn a_delete_that_hangs_keeps_no_other_pod_waiting() {
    let node = start(CNI);
    let meta = Meta::install(&node, &["first"]);
    configure(&node, "10-pods.conflist", &list("1.0.0", &["first"]));
    let mut pods = [node.run_pod("one"), node.run_pod("two"), node.run_pod("three")];
    meta.does("first", "DEL", "exit 1");
    for pod in &pods {
        while stop(pod, &node).is_err() {}
    }
    // A new daemon tries all of them at once, in the order of their ids.
    pods.sort_by(|a, b| a.id.cmp(&b.id));
    let [hanging, others @ ..] = &pods;
    meta.does("first", "DEL", &format!("case $CNI_CONTAINERID in {}) exec sleep 1000;; esac", hanging.id));
    node.restart_daemon();
    wait_until("one hangs", || sleeps(&node));
    wait_until("the others are released", || {
        others.iter().all(|pod| !node.path("root/cni").join(&pod.id).exists())
    });
    assert!(sleeps(&node) && node.path("root/cni").join(&hanging.id).exists());
    meta.does("first", "DEL", "");
    node.restart_daemon();
    wait_until("it is released at last", || listed(&node, "root/cni").is_empty());
    node.remove_pods();
    meta.assert_clean();
}

fn after_a_reboot_addresses_are_released_without_a_namespace() {
    let node = start(CNI);
    configure(&node, "10-pods.conflist", &bridge(&node, "1.0.0"));
    let meta = Meta::install(&node, &["last"]);
    let mut conf = bridge(&node, "1.0.0");
    conf["plugins"].as_array_mut().unwrap().push(json!({"type": "last"}));
    meta.does("last", "ADD", "jq -c .prevResult \"$call/stdin\"; exit 0");
    configure(&node, "10-pods.conflist", &conf);
    let pods = [node.run_pod("one"), node.run_pod("two")];
    assert_eq!(leases(&node).len(), 4);
    node.kill_daemon();
    // All that a reboot ends: processes, mounts, what is on tmpfs.
    for (pid, line) in node.namespaces().processes() {
        if line.contains("pintle") && pid != 1 && !line.contains("node-init") && !line.contains("registry") {
            node.run("sh", ["-c", &format!("kill -KILL {pid} || true")]);
        }
    }
    for pod in &pods {
        let netns = node.path("netns").join(format!("pintle-{}", pod.id));
        node.run("umount", [&*netns.to_string_lossy()]);
        fs::remove_file(netns).unwrap();
    }
    fs::remove_dir_all(node.path("state")).unwrap();
    fs::create_dir(node.path("state")).unwrap();
    node.start_daemon();
    wait_until("the addresses are free", || leases(&node).is_empty());
    for (what, env, stdin) in meta.calls().into_iter().filter(|(what, ..)| what == "last DEL") {
        assert!(env.contains(&"CNI_NETNS=".to_owned()), "{what}: {env:?}");
        assert!(stdin["prevResult"]["ips"].is_array(), "{stdin}");
    }
    assert_eq!(meta.order().iter().filter(|what| *what == "last DEL").count(), 2);
    node.remove_pods();
    assert_eq!(listed(&node, "cni/cache/results"), [""; 0]);
}

fn a_plugin_that_fails_costs_one_pod_an_error_in_its_own_words() {
    let node = start(&format!("{CNI}cni_timeout_s = 2\n"));
    let meta = Meta::install(&node, &["first", "second"]);
    configure(&node, "10-pods.conflist", &list("1.0.0", &["first", "second"]));
    for (script, expected) in [
        (
            "echo '{\"code\": 7, \"msg\": \"no room\", \"details\": \"in the pool\"}'; exit 1",
            "no room; in the pool (code 7)",
        ),
        ("echo broken >&2; exit 3", "broken"),
        ("sleep 1000", "took longer than 2 s and was killed"),
        ("sleep 1000 & sleep 1000 & wait", "took longer than 2 s and was killed"),
        ("head -c 100000000 /dev/zero; exit 0", "wrote more than 1048576 bytes"),
        ("echo hello; exit 0", "printed no JSON"),
        ("exit 0", "printed no result"),
        ("echo '{}'; exit 0", "gave no address to eth0"),
        ("kill -SEGV $$", "ended by signal 11 (SIGSEGV)"),
    ] {
        meta.forget();
        meta.does("second", "ADD", script);
        let error = node.try_run_pod("web", |_| {}).unwrap_err();
        assert!(error.message().contains(expected), "{script}: {error}");
        assert_eq!(meta.order(), ["first ADD", "second ADD", "second DEL", "first DEL"], "{script}");
        meta.assert_clean();
    }
    // Nor does one outlive a daemon that is killed.
    meta.does("second", "ADD", "exec sleep 1000");
    thread::scope(|scope| {
        scope.spawn(|| node.try_run_pod("web", |_| {}).unwrap_err());
        wait_until("the plugin hangs", || sleeps(&node));
        node.kill_daemon();
        wait_until("the plugin is gone", || !sleeps(&node));
    });
    node.start_daemon();
    wait_until("the attempt is deleted", || listed(&node, "root/cni").is_empty());
    meta.assert_clean();
    // One that leaves a child behind has done what it was asked for; the child is no part of that.
    meta.does("second", "ADD", "sleep 1000 &");
    let web = node.run_pod("web");
    assert!(!sleeps(&node));
    fs::remove_file(node.path("cni/bin/second")).unwrap();
    let error = node.try_run_pod("other", |_| {}).unwrap_err();
    assert!(
        error.message().contains("CNI plugin second failed (ADD): it is in none of the folders"),
        "{error}"
    );
    symlink(meta.folder.join("meta"), node.path("cni/bin/second")).unwrap();
    let of_web = [web.id.clone(), format!("{}.result", web.id)];
    wait_until("the attempt is deleted once that can be done", || listed(&node, "root/cni") == of_web);
    meta.assert_clean();
}

fn status_says_what_the_network_lacks_and_never_waits() {
    let node = start(&format!("{CNI}cni_timeout_s = 8\n"));
    let meta = Meta::install(&node, &["first"]);
    let says = |expected: &str| {
        wait_until(expected, || {
            let (ready, message) = network(&node);
            !ready && message.contains(expected)
        });
    };
    says(&format!("no CNI configuration in {}", node.path("cni/net.d").display()));
    assert_eq!(node.try_run_pod("web", |_| {}).unwrap_err().code(), Code::Unavailable);
    configure(&node, "10-pods.conflist", &json!({"name": "pods"}));
    says("10-pods.conflist: has no plugins");
    configure(&node, "10-pods.conflist", &list("1.1.0", &["first", "absent"]));
    says("CNI plugin absent failed (look for it): it is in none of the folders");
    configure(&node, "10-pods.conflist", &list("0.2.0", &["first"]));
    says("it knows the versions 0.3.0, 0.4.0, 1.0.0, 1.1.0 of CNI, and not 0.2.0");
    meta.does("first", "STATUS", "echo '{\"code\": 50, \"msg\": \"the controller is away\"}'; exit 1");
    configure(&node, "10-pods.conflist", &list("1.1.0", &["first"]));
    says("CNI plugin first failed (STATUS): the controller is away (code 50)");
    meta.does("first", "STATUS", "");
    wait_until("the network is ready", || network(&node) == (true, String::new()));

    // A file that is being written costs nobody anything.
    fs::write(node.path("cni/net.d/10-pods.conflist"), "{").unwrap();
    assert!(network(&node).0);
    node.run_pod("web");
    // Nor does a plugin that hangs, but the pods that are attached by it.
    meta.does("first", "ADD", "sleep 1000");
    meta.does("first", "STATUS", "sleep 1000");
    configure(&node, "10-pods.conflist", &list("1.1.0", &["first", "first"]));
    thread::scope(|scope| {
        for nth in 0..8 {
            let node = &node;
            scope.spawn(move || {
                let pod = node.try_run_pod(&format!("hangs-{nth}"), |_| {});
                assert!(pod.unwrap_err().message().contains("was killed"));
            });
        }
        wait_until("the plugins hang", || meta.order().len() > 4 && sleeps(&node));
        assert!(network(&node).1.contains("have not said yet"));
        let host = node.run_pod_with("host", |config| {
            let linux = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
            linux.namespace_options.as_mut().unwrap().network = v1::NamespaceMode::Node.into();
        });
        assert_eq!(host.ip(), "");
        assert!(sleeps(&node), "it was started beside them");
    });
    meta.does("first", "ADD", "");
    meta.assert_clean();
}

/// Whether a plugin hangs.
fn sleeps(node: &Node) -> bool {
    node.namespaces().processes().iter().any(|(_, line)| line == "sleep 1000")
}

fn a_pod_keeps_what_made_it_when_the_mode_changes() {
    let node = start("");
    let before = node.run_pod("before");
    assert!(before.ip().starts_with("10.88."), "the bridge, until there is a configuration");
    let meta = Meta::install(&node, &["first"]);
    configure(&node, "10-pods.conf", &json!({"cniVersion": "0.4.0", "name": "pods", "type": "first"}));
    let after = node.run_pod("after");
    assert_eq!(after.ip(), "10.77.0.5");
    fs::write(node.path("conf.d/test.toml"), "[network]\nmode = \"none\"\n").unwrap();
    node.restart_daemon();
    assert_eq!(node.try_run_pod("none", |_| {}).unwrap_err().code(), Code::FailedPrecondition);
    assert_eq!(
        (before.status().network.unwrap().ip.starts_with("10.88."), after.ip()),
        (true, "10.77.0.5".into())
    );
    before.stop();
    assert_eq!(meta.order(), ["first ADD"]);
    after.stop();
    assert_eq!(meta.order(), ["first ADD", "first DEL"]);
    meta.assert_clean();
}

fn a_death_at_each_step_leaves_nothing() {
    let node = start(CNI);
    let meta = Meta::install(&node, &["last"]);
    let mut conf = bridge(&node, "1.0.0");
    conf["plugins"].as_array_mut().unwrap().push(json!({"type": "last"}));
    meta.does("last", "ADD", "jq -c .prevResult \"$call/stdin\"; exit 0");
    configure(&node, "10-pods.conflist", &conf);
    for point in ["intent-written", "netns-pinned", "added", "result-written", "deleted", "netns-unpinned"] {
        node.restart_daemon_with(&Setup { failpoints: format!("cni.{point}=1*kill"), ..Setup::default() });
        let pod = node.try_run_pod("web", |_| {});
        if let Ok(pod) = &pod {
            let _ = stop(pod, &node);
        }
        wait_until("the daemon dies", || !node.daemon_lives());
        node.start_daemon();
        node.remove_pods();
        wait_until(point, || leases(&node).is_empty() && listed(&node, "root/cni").is_empty());
        assert_eq!(listed(&node, "cni/cache/results"), [""; 0], "{point}");
        assert_eq!(listed(&node, "netns"), [""; 0], "{point}");
    }
}

fn a_configuration_is_made_of_a_template_once_the_pod_cidr_is_known() {
    let node = start("");
    let template = node.path("cni/template");
    fs::write(node.path("conf.d/test.toml"), format!("{CNI}cni_conf_template = {template:?}\n")).unwrap();
    node.restart_daemon();
    let mut conf = bridge(&node, "1.0.0");
    let ipam = &mut conf["plugins"][0]["ipam"];
    ipam["ranges"] = json!("RANGES");
    ipam["routes"] = json!("ROUTES");
    let looped = |list: &str, each: &str| {
        format!("[{{{{range $i, $it := .{list}}}}}{{{{if $i}}}}, {{{{end}}}}{each}{{{{end}}}}]")
    };
    let text = conf.to_string();
    let text = text.replace("\"RANGES\"", &looped("PodCIDRRanges", "[{\"subnet\": \"{{$it}}\"}]"));
    fs::write(&template, text.replace("\"ROUTES\"", &looped("Routes", "{\"dst\": \"{{$it}}\"}"))).unwrap();
    assert!(!network(&node).0);
    let update = |range: &str| {
        let network_config = Some(v1::NetworkConfig { pod_cidr: range.into() });
        let runtime_config = Some(v1::RuntimeConfig { network_config });
        node.cri().update_runtime_config(v1::UpdateRuntimeConfigRequest { runtime_config })
    };
    assert_eq!(update("10.1.2.3").unwrap_err().code(), Code::InvalidArgument);
    update("10.55.0.0/24,fd55::/64").unwrap();
    wait_until("the network is ready", || network(&node).0);
    let made = fs::read_to_string(node.path("cni/net.d/10-pintle-net.conflist")).unwrap();
    let before = node.run_pod("before");
    assert!(before.ip().starts_with("10.55.0."), "{}", before.ip());

    // What is there is never changed; its plugins may take the ranges.
    update("10.56.0.0/24").unwrap();
    assert_eq!(fs::read_to_string(node.path("cni/net.d/10-pintle-net.conflist")).unwrap(), made);
    node.restart_daemon();
    let meta = Meta::install(&node, &["first"]);
    let mut conf = list("1.0.0", &["first"]);
    conf["plugins"][0]["capabilities"] = json!({"ipRanges": true});
    configure(&node, "05-first.conflist", &conf);
    node.run_pod("after");
    assert_eq!(meta.calls()[0].2["runtimeConfig"]["ipRanges"], json!([[{"subnet": "10.56.0.0/24"}]]));
    assert!(before.ip().starts_with("10.55.0."));
    let info = node.cri().status(v1::StatusRequest { verbose: true }).unwrap().info;
    let shown: Value = serde_json::from_str(&info["cniconfig"]).unwrap();
    assert_eq!(shown["Networks"][0]["Config"]["Plugins"][0]["Network"]["type"], "first");
    assert_eq!(
        (&shown["PluginConfDir"], info["lastCNILoadStatus"].as_str()),
        (&json!(node.path("cni/net.d")), "OK")
    );
    meta.assert_clean();
}

/// How many pods come and go: more where there is time.
fn pods() -> usize {
    std::env::var("PINTLE_E2E_CNI_PODS").ok().and_then(|text| text.parse().ok()).unwrap_or(40)
}

fn plugins_that_fail_and_hang_at_random_leave_nothing() {
    let node = start(&format!("{CNI}cni_timeout_s = 3\n"));
    let meta = Meta::install(&node, &["middle"]);
    let mut conf = bridge(&node, "1.0.0");
    conf["plugins"].as_array_mut().unwrap().insert(1, json!({"type": "middle"}));
    configure(&node, "10-pods.conflist", &conf);
    // One call in eight fails before it has done anything, one hangs, one in eight forks.
    let odd = "case $(od -An -N1 -tu1 /dev/urandom) in\n*[05]) echo '{\"code\": 11, \"msg\": \"try again\"}'; exit 1;;\n\
               *7) sleep 1000;;\n*9) sleep 1000 & ;;\nesac\n";
    meta.does("middle", "ADD", &format!("{odd}jq -c .prevResult \"$call/stdin\"; exit 0"));
    meta.does("middle", "DEL", odd);
    let [next, failed, asked_again] = [const { AtomicUsize::new(0) }; 3];
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let nth = next.fetch_add(1, Relaxed);
                    if nth >= pods() {
                        return;
                    }
                    let Ok(pod) = node.try_run_pod(&format!("pod-{nth}"), |_| {}) else {
                        failed.fetch_add(1, Relaxed);
                        continue;
                    };
                    let ip = pod.ip();
                    assert!(leases(&node).contains(&ip), "{ip} was freed too early");
                    while stop(&pod, &node).is_err() {
                        asked_again.fetch_add(1, Relaxed);
                    }
                    pod.remove();
                }
            });
        }
    });
    // The next pod that goes shows that the plugin is well again.
    meta.does("middle", "DEL", "");
    meta.does("middle", "ADD", "jq -c .prevResult \"$call/stdin\"; exit 0");
    node.run_pod("last").remove();
    wait_until("nothing is left", || leases(&node).is_empty() && listed(&node, "root/cni").is_empty());
    meta.assert_clean();
    let chains = node.run("iptables-save", ["-t", "nat"]);
    assert!(!chains.contains("CNI-DN"), "{chains}");
    figures::keep(&format!(
        "pods: {}\npods that could not be attached: {}\nstops that had to be asked for again: {}\ncalls of the plugin that fails: {}\nleft behind or freed too early: 0\n",
        pods(),
        failed.load(Relaxed),
        asked_again.load(Relaxed),
        meta.order().len()
    ));
}
