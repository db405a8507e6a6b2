//! `pintle exec`

use std::{
    io::{Read as _, Write as _},
    process::{Output, Stdio},
};

use super::{command, run, said, seat::Seat, stderr};
use crate::harness::{Container, Node, runner::tests, wait_until};

tests![
    a_command_has_its_streams_and_its_exit_code,
    a_command_that_cannot_run_has_the_codes_of_podman,
    a_command_is_given_what_is_piped_in,
    a_hundred_megabytes_pass_unharmed,
    a_reader_that_goes_ends_the_command,
    a_command_has_the_terminal_and_gives_it_back,
    a_signal_gives_the_terminal_back,
    a_daemon_that_dies_gives_the_terminal_back,
];

fn sleeper(node: &Node) -> Container<'_> {
    node.run_pod("web").run_in("main", ["sleep", "1000"])
}

/// `pintle exec -i main COMMAND`, with `input` piped in.
fn pipe<const N: usize>(node: &Node, input: Vec<u8>, arguments: [&str; N]) -> Output {
    let mut command = command(node, "exec", ["-i", "main"]);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = command.spawn().unwrap();
    let mut stdin = running.stdin.take().unwrap();
    let writer = std::thread::spawn(move || stdin.write_all(&input).map(|()| drop(stdin)));
    let output = running.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    output
}

fn a_command_has_its_streams_and_its_exit_code() {
    let node = Node::start();
    let container = sleeper(&node);
    let script = "echo out; echo problem >&2; exit 42";
    for name in [&container.id, "main", "web", "e2e/web/main"] {
        let shown = run(&node, "exec", [name, "sh", "-c", script]);
        assert_eq!(said(&shown), ("out\n".into(), "problem\n".into(), Some(42)), "{name}");
    }
    assert_eq!(said(&run(&node, "exec", ["main", "sh", "-c", "kill -9 $$"])).2, Some(137));
    assert_eq!(said(&run(&node, "exec", ["main", "true"])), (String::new(), String::new(), Some(0)));
    node.assert_clean();
}

fn a_command_that_cannot_run_has_the_codes_of_podman() {
    let node = Node::start();
    let container = sleeper(&node);
    for (tty, program, code, why) in [
        ("--tty=false", "/no/such", 127, "could not execute /no/such"),
        ("--tty=false", "no-such-tool", 127, "not found in PATH"),
        ("--tty=false", "/etc/passwd", 126, "could not execute /etc/passwd"),
        ("--tty=false", "/etc", 126, "it is a directory"),
        ("--tty=true", "/no/such", 127, "could not execute /no/such"),
    ] {
        let mut arguments = vec!["main", program];
        if tty.ends_with("true") {
            arguments.insert(0, "-t");
        }
        let mut command = command(&node, "exec", []);
        let refused = command.args(arguments).stdin(Stdio::null()).output().unwrap();
        assert_eq!(refused.status.code(), Some(code), "{program}: {}", stderr(&refused));
        assert!(stderr(&refused).contains(why), "{program}: {}", stderr(&refused));
    }
    let (_, why, code) = said(&run(&node, "exec", ["nobody", "true"]));
    assert_eq!((why.as_str(), code), ("pintle: no container has the ID or name \"nobody\"\n", Some(125)));
    container.kill();
    let (_, why, code) = said(&run(&node, "exec", ["main", "true"]));
    assert!(why.contains("is exited; it must be running") && code == Some(125), "{why}");
    assert_eq!(said(&run(&node, "exec", ["main"])).2, Some(64));
    node.kill_daemon();
    let (_, why, code) = said(&run(&node, "exec", ["main", "true"]));
    assert!(why.contains("no `pintle serve` answers on") && code == Some(125), "{why}");
    node.start_daemon();
    node.assert_clean();
}

fn a_command_is_given_what_is_piped_in() {
    let node = Node::start();
    let _container = sleeper(&node);
    // The end of the input is seen, and output and exit code come after it.
    let script = "cat; echo over; exit 3";
    let answered = pipe(&node, b"hi\n".to_vec(), ["sh", "-c", script]);
    assert_eq!(said(&answered), ("hi\nover\n".into(), String::new(), Some(3)));
    // Keys that would detach a terminal are bytes like any other.
    let bytes: Vec<u8> = (0..=255).collect();
    assert_eq!(pipe(&node, bytes.clone(), ["cat"]).stdout, bytes);
    // Without -i nothing is given, and the command sees the end at once.
    let mut alone = command(&node, "exec", ["main", "cat"]);
    let mut running = alone.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let _open = running.stdin.take();
    assert_eq!(running.wait_with_output().unwrap().status.code(), Some(0));
    // A terminal without a person: the end of what is piped in is typed as a person would type it.
    for input in ["hi\n", "hi"] {
        let mut typed = command(&node, "exec", ["-i", "-t", "main", "cat"]);
        let mut running =
            typed.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        running.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let answered = running.wait_with_output().unwrap();
        assert!(stderr(&answered).contains("standard input is not a terminal"), "{}", stderr(&answered));
        assert_eq!(answered.status.code(), Some(0), "{input:?}");
    }
    node.assert_clean();
}

fn a_hundred_megabytes_pass_unharmed() {
    let node = Node::start();
    let _container = sleeper(&node);
    let much: Vec<u8> = (0..100_000_000_u32).map(|number| (number % 251) as u8).collect();
    let back = pipe(&node, much.clone(), ["cat"]);
    assert_eq!((back.status.code(), back.stdout.len()), (Some(0), much.len()), "{}", stderr(&back));
    assert!(back.stdout == much);
    node.assert_clean();
}

fn a_reader_that_goes_ends_the_command() {
    let node = Node::start();
    let container = sleeper(&node);
    let mut running = command(&node, "exec", ["main", "yes"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = running.stdout.take().unwrap();
    output.read_exact(&mut [0; 4096]).unwrap();
    drop(output);
    let mut code = None;
    wait_until("it ends", || {
        code = running.try_wait().unwrap();
        code.is_some()
    });
    assert_eq!(code.unwrap().code(), Some(141));
    wait_until("yes has ended", || !container.shell("ps").contains("yes"));
    node.assert_clean();
}

fn a_command_has_the_terminal_and_gives_it_back() {
    let node = Node::start();
    let container = sleeper(&node);
    let mut seat = Seat::of(command(&node, "exec", ["-it", "main", "sh"]), 101, 37);
    seat.write("stty size; tty; echo $TERM\n");
    seat.wait_for("37 101\r\n");
    seat.wait_for("/dev/pts/");
    seat.wait_for("xterm");
    assert!(seat.is_raw());
    seat.resize(90, 30);
    seat.write("while [ \"$(stty size)\" != '30 90' ]; do sleep 0.1; done; echo resi''zed\n");
    seat.wait_for("resized\r\n");
    // Ctrl-C ends what runs in the foreground, and neither the shell nor pintle.
    seat.write("sleep 4321\n");
    wait_until("it sleeps", || container.shell("ps").contains("sleep 4321"));
    seat.write("\u{3}");
    wait_until("sleep has ended", || !container.shell("ps").contains("sleep 4321"));
    // There is no detaching from an exec: the keys are the command's.
    seat.write("stty raw -echo; echo go''ing; head -c 2 | od -An -tx1; stty sane\n");
    seat.wait_for("going");
    seat.write("\u{10}\u{11}");
    seat.wait_for("10 11");
    seat.write("exit 7\n");
    assert_eq!(seat.end(), Some(7));
    node.assert_clean();
}

fn a_signal_gives_the_terminal_back() {
    let node = Node::start();
    let container = sleeper(&node);
    for (signal, code) in [("-TERM", 143), ("-HUP", 129), ("-INT", 130), ("-QUIT", 131)] {
        let script = "echo be''gun; exec sleep 4321";
        let mut seat = Seat::of(command(&node, "exec", ["-it", "main", "sh", "-c", script]), 80, 24);
        seat.wait_for("begun");
        assert!(seat.is_raw());
        seat.kill(signal);
        assert_eq!(seat.end(), Some(code), "{signal}");
        wait_until("the command was hung up", || !container.shell("ps").contains("sleep 4321"));
    }
    node.assert_clean();
}

fn a_daemon_that_dies_gives_the_terminal_back() {
    let node = Node::start();
    let _container = sleeper(&node);
    let mut seat =
        Seat::of(command(&node, "exec", ["-it", "main", "sh", "-c", "echo be''gun; sleep 4321"]), 80, 24);
    seat.wait_for("begun");
    assert!(seat.is_raw());
    node.kill_daemon();
    assert_eq!(seat.end(), Some(125));
    seat.wait_for("lost the connection to the daemon");
    node.start_daemon();
    node.assert_clean();
}
