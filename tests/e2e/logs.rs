//! What a container says, as the kubelet reads it.

use std::fs;

use crate::harness::{BUSYBOX, ContainerState, Node, runner::tests, v1, wait_until};

tests![
    both_streams_are_told_apart_and_in_order,
    a_long_line_is_cut_and_can_be_put_together,
    a_terminal_has_one_stream,
    no_line_is_lost_or_doubled_by_a_rotation,
    a_hundred_thousand_lines_are_all_there,
    without_a_path_there_is_no_log,
];

fn both_streams_are_told_apart_and_in_order() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container =
        pod.run_in("main", ["sh", "-c", "echo one; sleep 0.2; echo two >&2; sleep 0.2; echo; printf end"]);
    container.wait();

    let expected = [("stdout", "one"), ("stderr", "two"), ("stdout", ""), ("stdout", "end")];
    assert_eq!(container.log(), expected.map(|(stream, text)| (stream.to_owned(), text.to_owned())));
    node.assert_clean();
}

fn a_long_line_is_cut_and_can_be_put_together() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container =
        pod.run_in("main", ["sh", "-c", "head -c 40000 /dev/zero | tr '\\0' x; echo; echo short"]);
    container.wait();

    let text = fs::read_to_string(container.log_file()).unwrap();
    let tags: Vec<&str> = text.lines().filter_map(|line| line.split(' ').nth(2)).collect();
    assert_eq!(tags.first(), Some(&"P"));
    assert_eq!(tags[tags.len() - 2..], ["F", "F"]);
    let texts = container.log_texts();
    let (short, long) = texts.split_last().unwrap();
    assert_eq!((short.as_str(), long.concat()), ("short", "x".repeat(40_000)));
    node.assert_clean();
}

fn a_terminal_has_one_stream() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container =
        pod.create_with("main", BUSYBOX, ["sh", "-c", "tty; echo err >&2"], |config| config.tty = true);
    container.start();
    container.wait();

    let log = container.log();
    assert!(log.iter().all(|(stream, _)| stream == "stdout"), "{log:?}");
    assert!(log[0].1.starts_with("/dev/"), "{log:?}");
    assert_eq!(log[1].1.trim_end(), "err");
    node.assert_clean();
}

fn no_line_is_lost_or_doubled_by_a_rotation() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = pod.run_in("main", ["sh", "-c", "for n in $(seq 1 20000); do echo $n; done"]);

    let mut rotated = Vec::new();
    for nth in 0..5 {
        wait_until("the log is written", || {
            fs::metadata(container.log_file()).is_ok_and(|data| data.len() > 0)
        });
        let away = container.log_file().with_extension(format!("log.{nth}"));
        fs::rename(container.log_file(), &away).unwrap();
        let request = v1::ReopenContainerLogRequest { container_id: container.id.clone() };
        if let Err(refused) = node.cri().reopen_container_log(request) {
            fs::rename(&away, container.log_file()).unwrap(); // it has exited: as the kubelet does
            assert_eq!(refused.code(), tonic::Code::FailedPrecondition, "{refused}");
            break;
        }
        rotated.push(away);
    }
    container.wait();

    assert!(!rotated.is_empty());
    rotated.push(container.log_file());
    let all: String = rotated.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let lines: Vec<&str> = all.lines().filter_map(|line| line.split(' ').nth(3)).collect();
    let expected: Vec<String> = (1..=20_000).map(|nth| nth.to_string()).collect();
    assert_eq!(lines.len(), expected.len());
    assert_eq!(lines, expected);
    node.assert_clean();
}

fn a_hundred_thousand_lines_are_all_there() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = pod.run_in("main", ["seq", "1", "100000"]);

    // The exit is reported only after the last line is written.
    assert_eq!(container.wait(), 0);
    let expected: Vec<String> = (1..=100_000).map(|nth| nth.to_string()).collect();
    assert_eq!(container.log_texts(), expected);
    node.assert_clean();
}

fn without_a_path_there_is_no_log() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = pod.create_with("main", BUSYBOX, ["echo", "unheard"], |config| config.log_path.clear());
    container.start();

    assert_eq!(container.wait(), 0);
    assert_eq!(container.status().log_path, "");
    node.assert_clean();
}
