//! `pintle attach`

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::Stdio,
};

use super::{command, run, said, seat::Seat};
use crate::harness::{BUSYBOX, Container, ContainerState, Node, runner::tests};

tests![
    a_person_detaches_and_the_container_goes_on,
    an_attach_ends_with_the_containers_exit_code,
    an_attach_outlives_the_daemon,
    what_cannot_be_attached_to_is_refused,
];

/// A container with a shell in a terminal.
fn shell<'n>(node: &'n Node) -> Container<'n> {
    let container = node.run_pod("web").create_with("main", BUSYBOX, ["sh"], |config| {
        (config.stdin, config.tty) = (true, true);
    });
    container.start();
    container
}

fn a_person_detaches_and_the_container_goes_on() {
    let node = Node::start();
    let container = shell(&node);
    let mut seat = Seat::of(command(&node, "attach", ["main"]), 99, 33);
    seat.write("stty size; echo fir''st; x=kept\n");
    seat.wait_for("33 99\r\n");
    seat.wait_for("first");
    assert!(seat.is_raw());
    seat.write("\u{10}\u{11}");
    assert_eq!(seat.end(), Some(0));
    assert_eq!(container.state(), ContainerState::ContainerRunning);

    // The same shell goes on; other keys, and those of before are its own.
    let mut seat = Seat::of(command(&node, "attach", ["--detach-keys", "ctrl-],q", "main"]), 80, 24);
    seat.write("echo $x''-it\n");
    seat.wait_for("kept-it");
    seat.write("\u{1d}q");
    assert_eq!(seat.end(), Some(0));
    let mut seat = Seat::of(command(&node, "attach", ["main"]), 80, 24);
    seat.write("echo third''; exit 5\n");
    seat.wait_for("third\r\n");
    assert_eq!(seat.end(), Some(5));
    assert_eq!(container.wait(), 5);
    node.assert_clean();
}

fn an_attach_ends_with_the_containers_exit_code() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let script = "while read line; do echo got $line; echo problem >&2; done; exit 4";
    let container = pod.create_with("main", BUSYBOX, ["sh", "-c", script], |config| {
        (config.stdin, config.stdin_once) = (true, true);
    });
    container.start();
    let onlooker = command(&node, "attach", ["--no-stdin", "main"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut attach = command(&node, "attach", ["main"]);
    let mut running =
        attach.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = running.stdin.take().unwrap();
    stdin.write_all(b"one\n").unwrap();
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "got one");
    assert_eq!(container.state(), ContainerState::ContainerRunning, "the onlooker has ended nothing");
    // The end of what is piped in is the end of its input.
    drop(stdin);
    let ended = running.wait_with_output().unwrap();
    assert_eq!(said(&ended), (String::new(), "problem\n".into(), Some(4)));
    assert_eq!(onlooker.wait_with_output().unwrap().status.code(), Some(4));
    node.assert_clean();
}

fn an_attach_outlives_the_daemon() {
    let node = Node::start();
    let _container = shell(&node);
    let mut seat = Seat::of(command(&node, "attach", ["main"]), 99, 33);
    seat.write("echo fir''st\n");
    seat.wait_for("first");
    node.kill_daemon();
    node.start_daemon();
    seat.wait_for("attached again");
    seat.write("stty size; exit 6\n");
    seat.wait_for("33 99\r\n");
    assert_eq!(seat.end(), Some(6));

    node.assert_clean();
}

fn what_cannot_be_attached_to_is_refused() {
    let node = Node::start();
    let container = node.run_pod("web").run_in("main", ["true"]);
    container.wait();
    let (_, why, code) = said(&run(&node, "attach", ["main"]));
    assert!(why.contains("is exited; it must be created or running") && code == Some(125), "{why}");
    let (_, why, code) = said(&run(&node, "attach", ["--detach-keys", "ctrl-1", "main"]));
    assert!(why.contains("is not a list of keys") && code == Some(64), "{why}");
    // A signal to the command is none to the container.
    let other = container.pod.run_in("other", ["sh", "-c", "while :; do echo tick; sleep 0.1; done"]);
    let mut seat = Seat::of(command(&node, "attach", ["other"]), 80, 24);
    seat.wait_for("tick");
    seat.kill("-TERM");
    assert_eq!(seat.end(), Some(143));
    assert_eq!(other.state(), ContainerState::ContainerRunning);
    node.assert_clean();
}
