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

use super::{Screen, TRANSPORTS, crictl, forward, in_terminal, kill, sleeper, terminal};
use crate::harness::{Container, Node, Setup, WebSocket, runner::tests, v1, wait_until};

tests![
    an_exec_that_does_not_read_is_left_by_a_client_that_goes,
    a_container_that_does_not_read_is_left_by_a_client_that_goes,
    a_port_that_does_not_read_is_left_by_a_client_that_goes,
    a_port_that_does_not_read_is_left_by_an_old_websocket_client_that_goes,
    a_client_that_goes_between_the_end_and_the_last_output_costs_nobody_anything,
    an_exec_without_a_terminal_outlives_its_client,
    an_exec_with_a_terminal_is_hung_up_and_ends_after_ten_seconds,
    the_process_tree_of_an_exec_ends_after_the_grace,
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
    let sessions = Sessions::of(&node);
    for transport in TRANSPORTS {
        let attach = ["attach", "--transport", transport, "-i", &container.id];
        let mut client = start(crictl(&node, attach));
        fill(client.stdin.take().unwrap());
        assert_eq!(sessions.count(), 1, "{transport}");
        kill(&mut client);
        wait_until("the session has ended", || sessions.count() == 0);
    }
    node.assert_clean();
}

/// Connections with clients, as the daemon has them.
pub(super) struct Sessions<'n> {
    node: &'n Node,
    port: u16,
}

impl<'n> Sessions<'n> {
    /// Of a node with a pod.
    pub(super) fn of(node: &'n Node) -> Self {
        let request = v1::PortForwardRequest { pod_sandbox_id: node.pods().remove(0), port: vec![] };
        let url = node.cri().port_forward(request).unwrap().url;
        Self { node, port: url.split(['/', ':']).nth(4).unwrap().parse().unwrap() }
    }

    pub(super) fn count(&self) -> usize {
        established(&self.node.namespaces().read_proc("net/tcp"), 1, self.port)
    }
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

/// The command has ended, what it has left in the background still writes, and then the client goes.
fn a_client_that_goes_between_the_end_and_the_last_output_costs_nobody_anything() {
    let node = Node::start();
    let container = sleeper(&node);
    let script = "(while :; do echo on; sleep 0.1; done) & exit 0";
    for protocol in ["v4.channel.k8s.io", "v5.channel.k8s.io"] {
        let url = super::urls(&node, &container, &["sh", "-c", script], 1).remove(0);
        let mut client = WebSocket::open(&node, &url, protocol);
        let lines = std::iter::from_fn(|| client.next()).filter(|message| message.len() > 1);
        // Far beyond the end of the command itself.
        assert_eq!(lines.take(10).count(), 10);
        drop(client);
    }
    wait_until("what is left has nobody to write to", || !runs(&container, "echo on"));
    assert!(node.daemon_lives());
    assert_eq!(container.shell("echo well"), "well\n");
    node.assert_clean();
}

/// As under containerd and CRI-O: what is left of it ends with its container.
fn an_exec_without_a_terminal_outlives_its_client() {
    let node = Node::start();
    let container = sleeper(&node);
    let sessions = Sessions::of(&node);
    for transport in TRANSPORTS {
        let exec = ["exec", "--transport", transport, "-i", &container.id, SLEEP[0], SLEEP[1]];
        let mut client = start(crictl(&node, exec));
        wait_until("it runs", || sessions.count() == 1 && runs(&container, "sleep 4321"));
        kill(&mut client);
        wait_until("the session has ended", || sessions.count() == 0);
    }
    assert_eq!(container.shell("ps").matches("sleep 4321").count(), 2);
    node.assert_clean();
}

/// A client in a terminal that runs `script` there, once that has written `begun`.
fn in_a_terminal(node: &Node, container: &Container<'_>, script: &str) -> (Child, Screen) {
    let (master, slave) = terminal(80, 24);
    let exec = crictl(node, ["exec", "-i", "-t", &container.id, "sh", "-c", script]);
    let client = in_terminal(exec, &slave);
    drop(slave);
    let mut screen = Screen::of(master);
    screen.wait_for("begun");
    (client, screen)
}

fn an_exec_with_a_terminal_is_hung_up_and_ends_after_ten_seconds() {
    let node = Node::start();
    let container = sleeper(&node);
    let willing = "trap 'echo hung up > /tmp/end; exit' HUP; echo begun; while :; do sleep 0.1; done";
    let (mut client, _screen) = in_a_terminal(&node, &container, willing);
    kill(&mut client);
    wait_until("it was hung up", || container.shell("cat /tmp/end || true") == "hung up\n");
    // One that goes on is killed; nothing else would end it.
    let stubborn = "trap 'echo hung up > /tmp/go-on' HUP; echo begun; while :; do sleep 0.1; : 4321; done";
    let (mut client, _screen) = in_a_terminal(&node, &container, stubborn);
    kill(&mut client);
    wait_until("it was hung up", || container.shell("cat /tmp/go-on || true") == "hung up\n");
    assert!(runs(&container, ": 4321"), "it was killed at once");
    wait_until("it was killed", || !runs(&container, ": 4321"));
    node.assert_clean();
}

fn the_process_tree_of_an_exec_ends_after_the_grace() {
    let node = with_grace(1);
    let container = sleeper(&node);
    let tree = "trap '' HUP TERM; sleep 4321 & setsid sleep 4322 & echo begun; wait; wait";
    let left = || ["sleep 4321", "sleep 4322"].map(|program| runs(&container, program));
    let (mut client, _screen) = in_a_terminal(&node, &container, tree);
    assert_eq!(left(), [true; 2]);
    kill(&mut client);
    wait_until("the whole tree was killed", || left() == [false; 2]);
    for transport in TRANSPORTS {
        let exec = ["exec", "--transport", transport, "-i", &container.id, "sh", "-c", tree];
        let mut client = start(crictl(&node, exec));
        wait_until("it runs", || left() == [true; 2]);
        kill(&mut client);
        wait_until("the whole tree was killed", || left() == [false; 2]);
    }
    node.assert_clean();
}
