//! Clients attached to containers, as crictl attaches them.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use tonic::Code;

use crate::{
    harness::{
        BUSYBOX, Container, Node, Pod, WebSocket, client, pid_of_program, runner::tests, v1, wait_until,
    },
    streaming::{Screen, in_terminal, terminal},
};

tests![
    clients_see_the_same_and_the_log_has_it_too,
    the_first_client_ends_the_input_of_a_container_that_wants_it_once,
    one_that_is_not_started_yet_can_be_attached_to,
    a_client_that_goes_leaves_the_container_alone,
    a_client_that_does_not_read_delays_nobody,
    a_new_daemon_attaches_to_an_old_container,
    a_terminal_is_shown_logged_and_resized,
    a_terminal_that_ends_at_once_has_lost_nothing,
    what_has_ended_is_not_attached_to,
];

const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];

fn crictl_attach(node: &Node, transport: &str, flags: &[&str], container: &str) -> Command {
    let mut command = node.command(client("crictl"));
    command.args(["--runtime-endpoint", &node.endpoint(), "attach", "--transport", transport]);
    command.args(flags).arg(container);
    command
}

/// A client whose output is read line by line.
struct Attached {
    program: Child,
    stdin: Option<ChildStdin>,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Attached {
    fn to(node: &Node, transport: &str, container: &Container<'_>) -> Self {
        let mut command = crictl_attach(node, transport, &["-i"], &container.id);
        let mut program = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(program.stdout.take().unwrap()).lines();
        Self { stdin: program.stdin.take(), program, lines }
    }

    fn write(&mut self, text: &str) {
        self.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    #[track_caller]
    fn line(&mut self) -> String {
        self.lines.next().expect("the client shows a line").unwrap()
    }

    fn kill(mut self) {
        if let Some(pid) = pid_of_program(&mut self.program) {
            assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
        }
        self.program.wait().unwrap();
    }

    #[track_caller]
    fn end(mut self) {
        drop(self.stdin);
        wait_until("the client ends", || self.program.try_wait().unwrap().is_some());
    }
}

/// Answers each line; `change` has the last word on its config.
fn answering<'n>(pod: &Pod<'n>, name: &str, change: impl FnOnce(&mut v1::ContainerConfig)) -> Container<'n> {
    let script = "while read line; do echo got $line; done; echo over";
    pod.create_with(name, BUSYBOX, ["sh", "-c", script], |config| {
        config.stdin = true;
        change(config);
    })
}

fn clients_see_the_same_and_the_log_has_it_too() {
    let node = Node::start();
    let pod = node.run_pod("web");
    for transport in TRANSPORTS {
        let container = answering(&pod, transport, |_| {});
        container.start();
        let (mut first, mut second) =
            (Attached::to(&node, transport, &container), Attached::to(&node, transport, &container));
        first.write("one\n");
        // The second may not have been attached when the first line came.
        assert_eq!(first.line(), "got one");
        second.write("two\n");
        assert_eq!(first.line(), "got two");
        let mut seen = second.line();
        if seen == "got one" {
            seen = second.line();
        }
        assert_eq!(seen, "got two");
        wait_until("the log has it", || container.log_texts() == ["got one", "got two"]);
        container.kill();
        first.end();
        second.end();
    }
    node.assert_clean();
}

fn the_first_client_ends_the_input_of_a_container_that_wants_it_once() {
    let node = Node::start();
    let pod = node.run_pod("web");
    for (name, once) in [("once", true), ("always", false)] {
        let container = answering(&pod, name, |config| config.stdin_once = once);
        container.start();
        let mut client = Attached::to(&node, "spdy", &container);
        client.write("x\n");
        assert_eq!(client.line(), "got x");
        drop(client.stdin.take());
        if once {
            assert_eq!(client.line(), "over");
            client.end();
            assert_eq!(container.wait(), 0);
        } else {
            client.kill();
            let mut next = Attached::to(&node, "spdy", &container);
            next.write("y\n");
            assert_eq!(next.line(), "got y");
            next.kill();
        }
    }
    node.assert_clean();
}

fn one_that_is_not_started_yet_can_be_attached_to() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = pod.create("main", BUSYBOX, ["sh", "-c", "echo first; echo last"]);
    // The container itself waits for its start at one, and its helper has just gone.
    let mut before = packet_sockets(&node);
    wait_until("its making is over", || {
        std::thread::sleep(std::time::Duration::from_millis(150));
        let earlier = std::mem::replace(&mut before, packet_sockets(&node));
        earlier == before
    });
    let mut client = Attached::to(&node, "spdy", &container);
    wait_until("it is attached", || packet_sockets(&node) > before);
    container.start();
    assert_eq!((client.line(), client.line()), ("first".to_owned(), "last".to_owned()));
    client.end();
    node.assert_clean();
}

/// SEQPACKET sockets (type 5): each attachment has two, and so has each launch.
fn packet_sockets(node: &Node) -> usize {
    let table = node.namespaces().read_proc("net/unix");
    table.lines().filter(|line| line.split_whitespace().nth(4) == Some("0005")).count()
}

fn a_client_that_goes_leaves_the_container_alone() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = answering(&pod, "main", |_| {});
    container.start();
    for transport in TRANSPORTS {
        let mut client = Attached::to(&node, transport, &container);
        client.write("x\n");
        assert_eq!(client.line(), "got x");
        client.kill();
    }
    assert_eq!(container.state(), crate::harness::ContainerState::ContainerRunning);
    node.assert_clean();
}

fn a_client_that_does_not_read_delays_nobody() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let script = "read go; yes 0123456789abcdef | head -c 20000000; echo; echo finished; read end";
    let container = pod.create_with("main", BUSYBOX, ["sh", "-c", script], |config| config.stdin = true);
    container.start();
    let mut slow = Attached::to(&node, "spdy", &container);
    slow.write("go\n");
    // Nobody reads what the client is shown.
    wait_until("the log is complete", || {
        let log = std::fs::read(container.log_file()).unwrap_or_default();
        log.ends_with(b"finished\n")
    });
    slow.kill();
    node.assert_clean();
}

fn a_new_daemon_attaches_to_an_old_container() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = answering(&pod, "main", |_| {});
    container.start();
    let mut old = Attached::to(&node, "spdy", &container);
    old.write("x\n");
    assert_eq!(old.line(), "got x");

    node.kill_daemon();
    node.start_daemon();

    old.end();
    let mut new = Attached::to(&node, "spdy", &container);
    new.write("y\n");
    assert_eq!(new.line(), "got y");
    new.kill();
    node.assert_clean();
}

fn a_terminal_is_shown_logged_and_resized() {
    let node = Node::start();
    let pod = node.run_pod("web");
    for transport in TRANSPORTS {
        let container = pod.create_with(transport, BUSYBOX, ["sh"], |config| {
            (config.stdin, config.tty) = (true, true);
        });
        container.start();
        let (master, slave) = terminal(99, 33);
        let mut client = in_terminal(crictl_attach(&node, transport, &["-i", "-t"], &container.id), &slave);
        drop(slave);
        let mut screen = Screen::of(master);
        screen.write("\n");
        screen.wait_for("# ");
        wait_until("it has the client's size", || container.shell("stty size < /proc/1/fd/0") == "33 99\n");
        screen.write("stty size; echo last''word; exit 5\n");
        screen.wait_for("33 99\r\n");
        screen.wait_for("lastword");
        wait_until("the client ends", || client.try_wait().unwrap().is_some());
        assert_eq!(container.wait(), 5);
        assert!(
            container.log_texts().iter().any(|line| line.contains("lastword")),
            "{:?}",
            container.log_texts()
        );
    }
    node.assert_clean();
}

/// The kernel hangs a terminal up with its last user, however much of what that wrote is still to be read.
fn a_terminal_that_ends_at_once_has_lost_nothing() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let script = "yes 0123456789abcdef | head -n 20000; echo last";
    let expected = format!("{}last\r\n", "0123456789abcdef\r\n".repeat(20_000));
    let sleeper = pod.run_in("sleeper", ["sleep", "1000"]);
    for nth in 0..5 {
        let container = pod.create_with(&format!("main-{nth}"), BUSYBOX, ["sh", "-c", script], |config| {
            config.tty = true;
        });
        container.start();
        assert_eq!(container.wait(), 0);
        let log = container.log_texts();
        assert_eq!((log.len(), log.last().map(|line| line.trim_end())), (20_001, Some("last")));

        let request = v1::ExecRequest {
            container_id: sleeper.id.clone(),
            cmd: ["sh", "-c", script].map(str::to_owned).to_vec(),
            stdout: true,
            tty: true,
            ..Default::default()
        };
        let url = node.cri().exec(request).unwrap().url;
        let mut client = WebSocket::open(&node, &url, "v5.channel.k8s.io");
        let messages = std::iter::from_fn(|| client.next()).map(|message| message.into_data());
        let shown: Vec<u8> =
            messages.filter(|data| data.first() == Some(&1)).flat_map(|data| data[1..].to_vec()).collect();
        assert!(shown == expected.as_bytes(), "{nth}: {} bytes of {}", shown.len(), expected.len());
    }
    node.assert_clean();
}

fn what_has_ended_is_not_attached_to() {
    let node = Node::start();
    let container = node.run_pod("web").run_in("main", ["true"]);
    container.wait();
    let of = |container_id: &str, change: fn(&mut v1::AttachRequest)| {
        let mut request =
            v1::AttachRequest { container_id: container_id.into(), stdout: true, ..Default::default() };
        change(&mut request);
        node.cri().attach(request).unwrap_err().code()
    };
    assert_eq!(of(&container.id, |_| {}), Code::FailedPrecondition);
    assert_eq!(of("0123", |_| {}), Code::NotFound);
    assert_eq!(of(&container.id, |request| request.stdout = false), Code::InvalidArgument);
    assert_eq!(
        of(&container.id, |request| (request.tty, request.stderr) = (true, true)),
        Code::InvalidArgument
    );
    node.assert_clean();
}
