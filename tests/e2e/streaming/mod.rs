//! Exec and port-forward, as real clients ask for them.

pub(crate) mod gone;
pub(crate) mod many;
pub(crate) mod ports;
pub(crate) mod protocol;
pub(crate) mod rows;
pub(crate) mod tls;

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::fd::OwnedFd,
    process::{Child, Command, Output, Stdio},
};

use rustix::{
    pty::OpenptFlags,
    termios::{Winsize, tcsetwinsize},
};
use tonic::Code;

use crate::harness::{
    Container, Idlers, Node, Pod, client, pid_of_program, runner::tests, streams, v1, wait_until,
};

tests![
    exec_brings_each_stream_and_the_exit_code,
    exec_moves_much_in_both_directions,
    exec_that_cannot_run_says_why,
    exec_has_the_terminal_of_its_client,
    a_terminal_belongs_to_the_user_and_ends_with_its_client,
    a_client_that_is_killed_leaves_nothing,
    fifty_execs_end_with_the_daemon,
    a_url_is_for_one_client_and_one_minute,
    requests_for_streams_are_checked,
    the_client_of_kubernetes_runs_commands,
    the_client_of_kubernetes_forwards_ports,
    ports_of_a_pod_are_reached_from_outside,
    a_port_on_ipv6_alone_is_reached,
    ports_of_a_pod_on_the_hosts_network_are_reached,
    a_pod_that_is_stopped_ends_its_port_forwards,
    a_port_forward_is_checked,
];

const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];

fn crictl<const N: usize>(node: &Node, arguments: [&str; N]) -> Command {
    let mut command = node.command(client("crictl"));
    command.args(["--runtime-endpoint", &node.endpoint()]).args(arguments);
    command
}

fn sleeper(node: &Node) -> Container<'_> {
    node.run_pod("web").run_in("main", ["sleep", "1000"])
}

/// Gives `input` to a program and waits for its end.
fn feed(mut command: Command, input: Vec<u8>) -> Output {
    let mut running =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = running.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&input).map(|()| drop(stdin)));
    let output = running.wait_with_output().unwrap();
    // A program that ends before it has read all of it breaks the pipe.
    let _ = writer.join().unwrap();
    output
}

fn exec_brings_each_stream_and_the_exit_code() {
    let node = Node::start();
    let container = sleeper(&node);
    let script = "cat; echo problem >&2; exit 42";
    for transport in TRANSPORTS {
        let exec = ["exec", "--transport", transport, "-i", &container.id, "sh", "-c", script];
        let output = feed(crictl(&node, exec), b"hello\n".to_vec());
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(out, "hello\n", "{transport}: {err}");
        assert!(err.contains("problem\n"), "{transport}: {err}");
        assert!(err.contains("command terminated with exit code 42"), "{transport}: {err}");
    }
    node.assert_clean();
}

fn exec_moves_much_in_both_directions() {
    let node = Node::start();
    let container = sleeper(&node);
    let much: Vec<u8> = (0..8 << 20_u32).map(|number| (number % 251) as u8).collect();
    for transport in TRANSPORTS {
        let exec = ["exec", "--transport", transport, "-i", &container.id, "cat"];
        let output = feed(crictl(&node, exec), much.clone());
        assert!(output.stdout == much, "{transport}: {} bytes of {}", output.stdout.len(), much.len());
    }
    node.assert_clean();
}

fn exec_that_cannot_run_says_why() {
    let node = Node::start();
    let container = sleeper(&node);
    for transport in TRANSPORTS {
        let output =
            crictl(&node, ["exec", "--transport", transport, &container.id, "/no/such"]).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && err.contains("/no/such"), "{transport}: {err}");
    }
    node.assert_clean();
}

/// A pseudo-terminal of the test: (master, slave).
pub(crate) fn terminal(columns: u16, rows: u16) -> (File, OwnedFd) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags).unwrap();
    rustix::pty::unlockpt(&master).unwrap();
    resize(&master, columns, rows);
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).unwrap();
    (master.into(), slave)
}

fn resize(master: impl std::os::fd::AsFd, columns: u16, rows: u16) {
    tcsetwinsize(master, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
}

pub(crate) fn in_terminal(mut command: Command, slave: &OwnedFd) -> Child {
    let copy = || slave.try_clone().unwrap();
    command.stdin(copy()).stdout(copy()).stderr(copy()).spawn().unwrap()
}

/// What a terminal shows, as it comes.
pub(crate) struct Screen {
    master: File,
    text: String,
}

impl Screen {
    pub(crate) fn of(master: File) -> Self {
        Self { master, text: String::new() }
    }

    #[track_caller]
    pub(crate) fn wait_for(&mut self, expected: &str) {
        while !self.text.contains(expected) {
            let mut chunk = [0; 4096];
            let count = self.master.read(&mut chunk).unwrap_or(0);
            assert!(count > 0, "{expected:?} never came: {:?}", self.text);
            self.text += &String::from_utf8_lossy(&chunk[..count]);
        }
    }

    pub(crate) fn write(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }
}

fn exec_has_the_terminal_of_its_client() {
    let node = Node::start();
    let container = sleeper(&node);
    for transport in TRANSPORTS {
        let (master, slave) = terminal(101, 37);
        let exec = ["exec", "--transport", transport, "-i", "-t", &container.id, "sh"];
        let mut running = in_terminal(crictl(&node, exec), &slave);
        drop(slave);
        let mut screen = Screen::of(master);
        screen.write("stty size; tty; echo $TERM\n");
        screen.wait_for("37 101\r\n");
        screen.wait_for("/dev/pts/");
        screen.wait_for("xterm");
        // Ctrl-C ends what runs in the foreground and not the shell.
        screen.write("sleep 4321; echo interrupt''ed\n");
        wait_until("it sleeps", || container.shell("ps").contains("sleep 4321"));
        screen.write("\u{3}");
        resize(&screen.master, 90, 30);
        // crictl hears of it by a signal, which the kernel sends to whoever has the terminal as its own.
        let client = pid_of_program(&mut running).expect("crictl runs").to_string();
        assert!(Command::new("kill").args(["-WINCH", &client]).status().unwrap().success());
        wait_until("sleep has ended", || !container.shell("ps").contains("sleep 4321"));
        screen.write("stty size; exit 7\n");
        screen.wait_for("30 90\r\n");
        wait_until("the client ends", || running.try_wait().unwrap().is_some());
        screen.wait_for("command terminated with exit code 7");
    }
    node.assert_clean();
}

fn a_terminal_belongs_to_the_user_and_ends_with_its_client() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = pod.create("main", "registry.test/pintle/config:1", []);
    container.start();
    let (master, slave) = terminal(80, 24);
    let script = "test -O $(tty) && echo mine; trap '' INT; sleep 4321";
    let mut running =
        in_terminal(crictl(&node, ["exec", "-i", "-t", &container.id, "sh", "-c", script]), &slave);
    drop(slave);
    let mut screen = Screen::of(master);
    screen.wait_for("mine");
    wait_until("it sleeps", || container.shell("ps").contains("sleep 4321"));
    kill(&mut running);
    wait_until("it was hung up", || !container.shell("ps").contains("sleep 4321"));
    node.assert_clean();
}

/// Kills a client without a word. What the test has started is nsenter.
fn kill(running: &mut Child) {
    if let Some(pid) = pid_of_program(running) {
        // It may have ended by itself a moment ago.
        let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).stderr(Stdio::null()).status();
    }
    running.wait().unwrap();
}

fn a_client_that_is_killed_leaves_nothing() {
    let node = Node::start();
    let container = sleeper(&node);
    for transport in TRANSPORTS {
        let exec =
            ["exec", "--transport", transport, "-i", &container.id, "sh", "-c", "echo begun; cat; yes"];
        let mut command = crictl(&node, exec);
        let mut running = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        running.stdout.take().unwrap().read_exact(&mut [0; 5]).unwrap();
        let _open = running.stdin.take();
        kill(&mut running);
        // Its input ends, so cat does; then nobody reads what yes writes.
        wait_until("nothing of it is left", || {
            let ps = container.shell("ps");
            !ps.contains("cat") && !ps.contains("yes")
        });
    }
    node.assert_clean();
}

/// URLs at which `command` can be run, each once.
fn urls(node: &Node, container: &Container<'_>, command: &[&str], count: usize) -> Vec<String> {
    let cmd: Vec<String> = command.iter().map(|word| (*word).to_owned()).collect();
    let request = || v1::ExecRequest {
        container_id: container.id.clone(),
        cmd: cmd.clone(),
        stdin: true,
        stdout: true,
        stderr: true,
        ..Default::default()
    };
    (0..count).map(|_| node.cri().exec(request()).unwrap().url).collect()
}

fn fifty_execs_end_with_the_daemon() {
    let node = Node::start();
    let container = sleeper(&node);
    let idlers = Idlers::connect(&node, &urls(&node, &container, &["sleep", "4321"], 50));
    assert_eq!(idlers.statuses, vec!["101 Switching Protocols"; 50]);
    let running = || container.shell("ps").matches("sleep 4321").count();
    wait_until("all of them run", || running() == 50);

    node.kill_daemon();
    node.start_daemon();

    wait_until("none of them runs", || running() == 0);
    drop(idlers);
    node.assert_clean();
}

fn a_url_is_for_one_client_and_one_minute() {
    let node = Node::start();
    let container = sleeper(&node);
    let url = urls(&node, &container, &["cat"], 1).remove(0);
    assert!(url.starts_with("http://127.0.0.1:"), "{url}");
    let token = url.rsplit_once('/').unwrap().1.to_owned();
    assert_eq!(token.len(), 32);
    let other = url.replace(&token, &"0".repeat(32));
    let idlers = Idlers::connect(&node, &[other, url.clone(), url]);
    assert_eq!(idlers.statuses, ["404 Not Found", "101 Switching Protocols", "404 Not Found"]);
    drop(idlers);

    let pending = urls(&node, &container, &["cat"], 1000);
    let request = v1::ExecRequest {
        container_id: container.id.clone(),
        cmd: vec!["cat".into()],
        stdout: true,
        ..Default::default()
    };
    let refused = node.cri().exec(request).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    let log = std::fs::read_to_string(node.path("daemon.log")).unwrap();
    assert!(
        !log.contains(&token) && pending.iter().all(|url| !log.contains(url.rsplit_once('/').unwrap().1))
    );
    node.assert_clean();
}

fn requests_for_streams_are_checked() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let created = pod.create("main", crate::harness::BUSYBOX, ["sleep", "1000"]);
    let of = |container_id: &str, change: fn(&mut v1::ExecRequest)| {
        let mut request = v1::ExecRequest {
            container_id: container_id.into(),
            cmd: vec!["true".into()],
            stdout: true,
            ..Default::default()
        };
        change(&mut request);
        node.cri().exec(request).map(|reply| reply.url).map_err(|status| status.code())
    };
    assert_eq!(of("0123", |_| {}), Err(Code::NotFound));
    assert_eq!(of("", |_| {}), Err(Code::InvalidArgument));
    assert_eq!(of(&created.id, |_| {}), Err(Code::FailedPrecondition));
    created.start();
    assert_eq!(of(&created.id, |request| request.cmd.clear()), Err(Code::InvalidArgument));
    assert_eq!(of(&created.id, |request| request.stdout = false), Err(Code::InvalidArgument));
    let both = |request: &mut v1::ExecRequest| (request.tty, request.stderr) = (true, true);
    assert_eq!(of(&created.id, both), Err(Code::InvalidArgument));
    assert!(of(&created.id, |_| {}).is_ok());
    node.assert_clean();
}

const NGINX: &str = "registry.k8s.io/e2e-test-images/nginx:1.14-2";
const WELCOME: &str = "Welcome to nginx!";

/// crictl, forwarding ports of the pod; each is LOCAL:REMOTE.
fn forward<const N: usize>(node: &Node, transport: &str, pod: &str, ports: [&str; N]) -> Child {
    let mut command = crictl(node, ["port-forward", "--transport", transport, pod]);
    let mut running = command.args(ports).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(running.stdout.take().unwrap()).lines();
    // One line for each address, of the ports one after the other: those on IPv6 say nothing about the next port.
    for port in ports {
        let local = port.split(':').next().unwrap();
        let begin = format!("Forwarding from 127.0.0.1:{local} ->");
        loop {
            let line = said.next().expect("crictl goes on").unwrap();
            assert!(line.starts_with("Forwarding from"), "{line}");
            if line.starts_with(&begin) {
                break;
            }
        }
    }
    std::thread::spawn(move || said.for_each(drop));
    running
}

fn serve<'n>(pod: &Pod<'n>) -> Container<'n> {
    serve_with(pod, [])
}

fn serve_with<'n, const N: usize>(pod: &Pod<'n>, command: [&str; N]) -> Container<'n> {
    let server = pod.create("server", NGINX, command);
    server.start();
    wait_until("the server listens", || server.shell("ps").contains("worker"));
    server
}

fn ports_of_a_pod_are_reached_from_outside() {
    let node = Node::start();
    let pod = node.run_pod("web");
    serve(&pod);
    for transport in TRANSPORTS {
        let mut running = forward(&node, transport, &pod.id, ["18080:80", "18081:80"]);
        std::thread::scope(|scope| {
            for nth in 0..20 {
                let node = &node;
                scope.spawn(move || {
                    let page = node.http_get(&format!("127.0.0.1:{}", 18080 + nth % 2));
                    assert!(page.contains(WELCOME), "{page}");
                });
            }
        });
        kill(&mut running);
        // Nobody listens there. The client gives the session up when it hears so.
        let mut running = forward(&node, transport, &pod.id, ["18080:81"]);
        assert_eq!(node.http_get("127.0.0.1:18080"), "", "{transport}");
        kill(&mut running);
    }
    node.assert_clean();
}

fn a_port_on_ipv6_alone_is_reached() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let script = "mkdir /www; echo over six > /www/index.html; exec busybox httpd -f -p [::1]:8080 -h /www";
    let server = pod.run_in("server", ["sh", "-c", script]);
    wait_until("it listens", || !server.shell("grep -i :1F90 /proc/net/tcp6 || true").is_empty());
    let mut running = forward(&node, "spdy", &pod.id, ["18080:8080"]);
    assert!(node.http_get("127.0.0.1:18080").contains("over six"));
    kill(&mut running);
    node.assert_clean();
}

fn ports_of_a_pod_on_the_hosts_network_are_reached() {
    let node = Node::start();
    let pod = node.run_pod_with("web", |config| {
        let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
        security.namespace_options.get_or_insert_default().network = v1::NamespaceMode::Node.into();
    });
    serve(&pod);
    let mut running = forward(&node, "spdy", &pod.id, ["18080:80"]);
    assert!(node.http_get("127.0.0.1:18080").contains(WELCOME));
    kill(&mut running);
    node.assert_clean();
}

fn a_pod_that_is_stopped_ends_its_port_forwards() {
    let node = Node::start();
    let pod = node.run_pod("web");
    serve(&pod);
    for transport in TRANSPORTS {
        let pod = node.run_pod(transport);
        let mut running = forward(&node, transport, &pod.id, ["18080:80"]);
        pod.stop();
        wait_until("the client ends", || running.try_wait().unwrap().is_some());
    }
    node.assert_clean();
}

fn a_port_forward_is_checked() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let of = |pod_sandbox_id: &str, port: &[i32]| {
        let request = v1::PortForwardRequest { pod_sandbox_id: pod_sandbox_id.into(), port: port.to_vec() };
        node.cri().port_forward(request).map(|reply| reply.url).map_err(|status| status.code())
    };
    assert!(of(&pod.id, &[80, 65_535]).is_ok() && of(&pod.id, &[]).is_ok());
    assert_eq!(of("0123", &[80]), Err(Code::NotFound));
    for port in [0, -1, 65_536] {
        assert_eq!(of(&pod.id, &[port]), Err(Code::InvalidArgument), "{port}");
    }
    pod.stop();
    assert_eq!(of(&pod.id, &[80]), Err(Code::FailedPrecondition));
    node.assert_clean();
}

/// The last of them is refused its WebSocket and takes SPDY at the same URL.
const CLIENT_GO: [&str; 3] = ["spdy", "websocket", "fallback"];

fn the_client_of_kubernetes_runs_commands() {
    let node = Node::start();
    let container = sleeper(&node);
    let url = |script: &str, tty: bool| {
        let request = v1::ExecRequest {
            container_id: container.id.clone(),
            cmd: ["sh", "-c", script].map(str::to_owned).to_vec(),
            stdin: true,
            stdout: true,
            stderr: !tty,
            tty,
        };
        node.cri().exec(request).unwrap().url
    };
    for transport in CLIENT_GO {
        let mut command = node.command(streams());
        command.args(["exec", transport, &url("cat; echo problem >&2; exit 42", false), "-i"]);
        let output = feed(command, vec![b'x'; 3_000_000]);
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.stdout.len(), &*err), (3_000_000, "problem\n"), "{transport}");
        assert_eq!(output.status.code(), Some(42), "{transport}");

        let mut command = node.command(streams());
        command.args(["exec", transport, &url("stty size", true), "-i", "-t", "101x37"]);
        let output = feed(command, Vec::new());
        assert_eq!(String::from_utf8_lossy(&output.stdout), "37 101\r\n", "{transport}");
    }
    node.assert_clean();
}

fn the_client_of_kubernetes_forwards_ports() {
    let node = Node::start();
    let pod = node.run_pod("web");
    serve(&pod);
    for transport in CLIENT_GO {
        let request = v1::PortForwardRequest { pod_sandbox_id: pod.id.clone(), port: vec![80] };
        let url = node.cri().port_forward(request).unwrap().url;
        let mut command = node.command(streams());
        command.args(["forward", transport, &url, "18080:80"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut running = command.spawn().unwrap();
        let mut said = BufReader::new(running.stdout.take().unwrap()).lines();
        let line = said.next().expect("it says where").unwrap();
        assert!(line.starts_with("Forwarding from"), "{transport}: {line}");
        assert!(node.http_get("127.0.0.1:18080").contains(WELCOME), "{transport}");
        drop(running.stdin.take());
        assert!(running.wait().unwrap().success(), "{transport}");
    }
    node.assert_clean();
}
