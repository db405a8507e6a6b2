//! What the small processes have to say to an operator is in the daemon's log.

use std::{fs, path::PathBuf};

use crate::harness::{BUSYBOX, Container, ContainerState, Node, Pod, Setup, runner::tests, wait_until};

tests![
    what_a_supervisor_could_not_do_is_in_the_daemons_log,
    what_was_said_while_there_was_no_daemon_is_logged_by_the_next,
    a_supervisor_that_dies_leaves_its_last_words,
    a_supervisor_that_cannot_wait_any_more_says_why_it_ends,
    a_helpers_panic_is_the_answer_and_in_the_log,
    what_a_supervisor_says_again_and_again_is_counted,
    a_supervisor_that_cannot_begin_says_why,
];

fn log(node: &Node) -> String {
    fs::read_to_string(node.path("daemon.log")).unwrap_or_default()
}

/// The lines of the daemon's log that have all of `parts`.
fn lines<const N: usize>(node: &Node, parts: [&str; N]) -> usize {
    log(node).lines().filter(|line| parts.iter().all(|part| line.contains(part))).count()
}

fn folder_of(node: &Node, pod: &Pod<'_>) -> PathBuf {
    node.path("state").join("pods").join(&pod.id)
}

fn start_with(node: &Node, failpoints: &str) {
    node.kill_daemon();
    node.start_daemon_with(&Setup { failpoints: failpoints.into(), ..Setup::default() });
}

/// Keeps the supervisor from recording the container's exit: a folder is where the record would be.
fn in_the_way(node: &Node, container: &Container<'_>) -> PathBuf {
    let folder = folder_of(node, &container.pod).join(format!("{}.exit", container.id));
    fs::create_dir(&folder).unwrap();
    folder
}

/// How often it was logged that the container's exit could not be recorded.
fn said(node: &Node, container: &Container<'_>) -> usize {
    lines(node, ["message from a supervisor", "could not record its exit", &container.id, &container.pod.id])
}

fn what_a_supervisor_could_not_do_is_in_the_daemons_log() {
    let node = Node::start();
    let container = node.run_pod("web").run_in("main", ["sleep", "1000"]);
    let in_the_way = in_the_way(&node, &container);
    container.kill();
    wait_until("it is logged", || said(&node, &container) == 1);
    wait_until("it is exited all the same", || container.state() == ContainerState::ContainerExited);
    fs::remove_dir(in_the_way).unwrap();
    node.assert_clean();
}

fn what_was_said_while_there_was_no_daemon_is_logged_by_the_next() {
    let node = Node::start();
    let container = node.run_pod("web").run_in("main", ["sleep", "1000"]);
    let in_the_way = in_the_way(&node, &container);
    let pid = container.pid().to_string();
    node.kill_daemon();
    node.run("kill", ["-KILL", &pid]);
    let words = folder_of(&node, &container.pod).join("last-words");
    wait_until("it is kept in the pod's folder", || {
        fs::read_to_string(&words).is_ok_and(|text| text.contains("could not record its exit"))
    });
    assert_eq!(said(&node, &container), 0);
    node.start_daemon();
    wait_until("it is logged", || said(&node, &container) > 0);
    assert!(!words.exists(), "it is kept no more");
    node.restart_daemon();
    assert_eq!(said(&node, &container), 1, "once");
    fs::remove_dir(in_the_way).unwrap();
    node.assert_clean();
}

fn a_supervisor_that_dies_leaves_its_last_words() {
    let node = Node::start();
    start_with(&node, "supervisor.exit-decided=1*panic");
    let container = node.run_pod("web").run_in("main", ["sleep", "1000"]);
    node.run("kill", ["-KILL", &container.pid().to_string()]);
    wait_until("its last words are logged", || {
        lines(&node, ["message from a supervisor", "supervisor.exit-decided", &container.pod.id]) == 1
    });
    node.assert_clean();
}

fn a_supervisor_that_cannot_wait_any_more_says_why_it_ends() {
    let node = Node::start();
    start_with(&node, "supervisor.waits=40*off->error(no more)");
    let pod = node.run_pod("web");
    let container = pod.run_in("main", ["sleep", "1000"]);
    wait_until("it ends", || {
        // Each makes it wait again.
        let _ended = container.try_exec(["true"], 5);
        lines(
            &node,
            [
                "message from a supervisor",
                "it ends: epoll_wait: failpoint supervisor.waits: no more",
                &pod.id,
            ],
        ) == 1
    });
    node.assert_clean();
}

fn a_helpers_panic_is_the_answer_and_in_the_log() {
    let node = Node::start();
    start_with(&node, "supervisor.container-cgroup-made=1*panic");
    let pod = node.run_pod("web");
    let refused = pod.try_create("main", BUSYBOX, ["true"], |_| {}).map(drop).unwrap_err();
    assert!(refused.message().contains("panicked at"), "{refused:?}");
    wait_until("it is logged", || {
        lines(&node, ["panicked at", "failpoint supervisor.container-cgroup-made", "e2e/web/main"]) > 0
    });
    node.assert_clean();
}

fn what_a_supervisor_says_again_and_again_is_counted() {
    const CONNECTIONS: usize = 60;
    let node = Node::start();
    let pod = node.run_pod("web");
    // The path of a socket is short.
    let short = node.path("s");
    std::os::unix::fs::symlink(folder_of(&node, &pod), &short).unwrap();
    let socket = short.join("supervisor.sock");
    for _ in 0..CONNECTIONS {
        // What a browser says first is no frame.
        node.http_get(&format!("unix:{}", socket.display()));
    }
    let single = || lines(&node, ["message from a supervisor", "a frame of ", &pod.id]);
    let dropped = || -> usize {
        let text = log(&node);
        let counts = text.lines().filter(|line| line.contains(&pod.id)).filter_map(|line| {
            let (before, _) = line.split_once(" messages of the supervisor were dropped")?;
            before.rsplit(|one: char| !one.is_ascii_digit()).next()?.parse::<usize>().ok()
        });
        counts.sum()
    };
    wait_until("all are logged or counted", || single() + dropped() == CONNECTIONS);
    assert!(single() > 0 && dropped() > 0, "{} and {}", single(), dropped());
    fs::remove_file(short).unwrap();
    node.assert_clean();
}

fn a_supervisor_that_cannot_begin_says_why() {
    let node = Node::start();
    start_with(&node, "supervisor.begins=error(no more)");
    node.try_run_pod("web", |_| {}).unwrap_err();
    wait_until("it is logged", || {
        lines(
            &node,
            ["message from the zygote", "ends before it began: failpoint supervisor.begins: no more"],
        ) > 0
    });
    node.assert_clean();
}
