//! `pintle run`

use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
};

use super::{command, run, said, seat::Seat, stderr};
use crate::harness::{BUSYBOX, Node, runner::tests, wait_until};

tests![
    a_run_is_a_container_with_its_streams_and_exit_code,
    a_run_has_the_terminal_and_leaves_nothing,
    a_run_goes_on_when_the_person_detaches,
];

/// Where the runs of a node make their folders.
fn temporary(node: &Node) -> PathBuf {
    let folder = node.path("tmp");
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// `pintle run`
fn running<const N: usize>(node: &Node, arguments: [&str; N]) -> Command {
    let mut running = command(node, "run", arguments);
    running.env("TMPDIR", temporary(node));
    running
}

/// Folders that runs have left on the node.
fn folders(node: &Node) -> usize {
    fs::read_dir(temporary(node)).unwrap().count()
}

fn a_run_is_a_container_with_its_streams_and_exit_code() {
    let node = Node::start();
    let shown = run(&node, "run", [BUSYBOX, "sh", "-c", "echo out; echo problem >&2; cat; exit 42"]);
    let (out, err, code) = said(&shown);
    assert_eq!((out.as_str(), code), ("out\n", Some(42)), "{err}");
    assert!(err.ends_with("problem\n"), "{err}");

    let mut piped = running(&node, ["-i", BUSYBOX, "sh", "-c", "cat; echo over; exit 3"]);
    let mut running =
        piped.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    running.stdin.take().unwrap().write_all(b"hi\n").unwrap();
    assert_eq!(said(&running.wait_with_output().unwrap()), ("hi\nover\n".into(), String::new(), Some(3)));

    for (program, code) in [("/no/such", 127), ("/etc/passwd", 126)] {
        let refused = run(&node, "run", [BUSYBOX, program]);
        assert_eq!(refused.status.code(), Some(code), "{}", stderr(&refused));
        assert!(stderr(&refused).contains(program), "{}", stderr(&refused));
    }
    assert_eq!(node.pods(), Vec::<String>::new());
    node.assert_clean();
}

fn a_run_has_the_terminal_and_leaves_nothing() {
    let node = Node::start();
    node.pull(BUSYBOX);
    let mut seat = Seat::of(running(&node, ["-it", BUSYBOX, "sh"]), 88, 44);
    seat.wait_for("# ");
    seat.write("stty size; exit 8\n");
    seat.wait_for("44 88\r\n");
    assert_eq!(seat.end(), Some(8));
    // A hang-up is a stop, as ctrl-c is without a terminal.
    let mut seat =
        Seat::of(running(&node, ["-it", BUSYBOX, "sh", "-c", "echo be''gun; exec sleep 1000"]), 88, 44);
    seat.wait_for("begun");
    seat.kill("-HUP");
    seat.kill("-HUP");
    assert_eq!(seat.end(), Some(137));
    assert_eq!((node.pods(), folders(&node)), (vec![], 0));
    node.assert_clean();
}

fn a_run_goes_on_when_the_person_detaches() {
    let node = Node::start();
    node.pull(BUSYBOX);
    let mut seat = Seat::of(running(&node, ["-i", "-t", BUSYBOX, "sh"]), 88, 44);
    seat.wait_for("# ");
    seat.write("\u{10}\u{11}");
    assert_eq!(seat.end(), Some(0));
    seat.wait_for("`pintle attach run-");
    assert_eq!((node.pods().len(), folders(&node)), (1, 1));
    let mut seat = Seat::of(command(&node, "attach", ["run"]), 88, 44);
    seat.write("exit 9\n");
    assert_eq!(seat.end(), Some(9));
    wait_until("nothing is left", || node.pods().is_empty() && folders(&node) == 0);
    node.assert_clean();
}
