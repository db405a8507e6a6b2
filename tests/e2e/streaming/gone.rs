//! Clients that go without a word, and what becomes of what they had begun.

use std::{
    io::Write,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use super::{TRANSPORTS, crictl, forward, kill, sleeper};
use crate::harness::{Container, Node, Setup, WebSocket, runner::tests, v1, wait_until};

tests![
    an_exec_that_does_not_read_is_left_by_a_client_that_goes,
    a_container_that_does_not_read_is_left_by_a_client_that_goes,
    a_port_that_does_not_read_is_left_by_a_client_that_goes,
    a_port_that_does_not_read_is_left_by_an_old_websocket_client_that_goes,
];

/// What no program reads.
const SLEEP: [&str; 2] = ["sleep", "4321"];

/// More than the pipe to a client holds.
const TAKEN_MIN: usize = 200_000;

/// Writes until nothing on the way takes any more.
fn fill(mut to: impl Write + Send + 'static) {
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&taken);
    thread::spawn(move || {
        // It ends with the client.
        while let Ok(count) = to.write(&[b'x'; 16 << 10]) {
            counter.fetch_add(count, Ordering::Relaxed);
        }
    });
    let mut before = 0;
    wait_until("nothing more is taken", || {
        thread::sleep(Duration::from_millis(700));
        let now = taken.load(Ordering::Relaxed);
        now == std::mem::replace(&mut before, now) && now > TAKEN_MIN
    });
}

fn start(mut command: Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
}

fn runs(container: &Container<'_>, program: &str) -> bool {
    container.shell("ps").contains(program)
}

fn with_grace(seconds: u32) -> Node {
    Node::start_with(&Setup {
        config: format!("[streaming]\norphan_grace_s = {seconds}\n"),
        ..Setup::default()
    })
}

/// Nobody but its end would end this exec: it has no terminal, and writes nothing.
fn an_exec_that_does_not_read_is_left_by_a_client_that_goes() {
    let node = with_grace(0);
    let container = sleeper(&node);
    for transport in TRANSPORTS {
        let exec = ["exec", "--transport", transport, "-i", &container.id, SLEEP[0], SLEEP[1]];
        let mut client = start(crictl(&node, exec));
        wait_until("it runs", || runs(&container, "sleep 4321"));
        fill(client.stdin.take().unwrap());
        assert!(runs(&container, "sleep 4321"));
        kill(&mut client);
        wait_until("it was ended", || !runs(&container, "sleep 4321"));
    }
    node.assert_clean();
}

fn a_container_that_does_not_read_is_left_by_a_client_that_goes() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = pod.create_with("main", crate::harness::BUSYBOX, SLEEP, |config| config.stdin = true);
    container.start();
    for transport in TRANSPORTS {
        let attach = ["attach", "--transport", transport, "-i", &container.id];
        let mut client = start(crictl(&node, attach));
        fill(client.stdin.take().unwrap());
        assert_eq!(sessions(&node), 1, "{transport}");
        kill(&mut client);
        wait_until("the session has ended", || sessions(&node) == 0);
    }
    node.assert_clean();
}

/// Connections with a client, as the daemon has them: what has one and the same port at this end, but the registry's.
fn sessions(node: &Node) -> usize {
    let request = v1::PortForwardRequest { pod_sandbox_id: node.pods().remove(0), port: vec![] };
    let url = node.cri().port_forward(request).unwrap().url;
    let port: u16 = url.split(['/', ':']).nth(4).unwrap().parse().unwrap();
    established(&node.namespaces().read_proc("net/tcp"), 1, port)
}

/// Lines of `/proc/net/tcp` that are connections and have `port` in that column: 1 is the own side, 2 the other.
fn established(table: &str, column: usize, port: u16) -> usize {
    let suffix = format!(":{port:04X}");
    let is = |line: &&str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields.get(3) == Some(&"01") && fields.get(column).is_some_and(|place| place.ends_with(&suffix))
    };
    table.lines().filter(is).count()
}

/// A container whose port 8080 takes a connection and then does not read from it.
fn deaf<'n>(pod: &crate::harness::Pod<'n>) -> Container<'n> {
    let server =
        pod.run_in("server", ["sh", "-c", "while :; do sleep 4321 | nc -l -p 8080 | sleep 4321; done"]);
    wait_until("it listens", || server.shell("cat /proc/net/tcp*").contains(":1F90"));
    server
}

fn daemons_connections(server: &Container<'_>) -> usize {
    established(&server.shell("cat /proc/net/tcp"), 2, 8080)
}

fn a_port_that_does_not_read_is_left_by_a_client_that_goes() {
    let node = Node::start();
    for transport in TRANSPORTS {
        let pod = node.run_pod(transport);
        let server = deaf(&pod);
        let mut client = forward(&node, transport, &pod.id, ["18080:8080"]);
        fill(node.namespaces().connect("127.0.0.1:18080"));
        assert_eq!(daemons_connections(&server), 1, "{transport}");
        kill(&mut client);
        wait_until("its connection was closed", || daemons_connections(&server) == 0);
        pod.stop();
    }
    node.assert_clean();
}

fn a_port_that_does_not_read_is_left_by_an_old_websocket_client_that_goes() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let server = deaf(&pod);
    let request = v1::PortForwardRequest { pod_sandbox_id: pod.id.clone(), port: vec![8080] };
    let url = node.cri().port_forward(request).unwrap().url;
    let client = WebSocket::open(&node, &url, "v4.channel.k8s.io");
    let socket = client.socket();
    fill(client.into_channel(0));
    assert_eq!(daemons_connections(&server), 1);
    // Both directions at once, and what was not sent stays on its way.
    socket.shutdown(std::net::Shutdown::Both).unwrap();
    wait_until("its connection was closed", || daemons_connections(&server) == 0);
    node.assert_clean();
}
