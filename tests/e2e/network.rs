//! Pods on the network.

use std::collections::BTreeSet;

use crate::harness::{Container, Node, Pod, runner::tests, v1, wait_until};

tests![
    pods_reach_each_other_and_the_node_reaches_them,
    a_host_port_leads_to_the_pod_until_it_is_stopped,
    every_pod_has_an_address_of_its_own_and_gives_it_back,
    a_pod_has_its_own_loopback,
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
