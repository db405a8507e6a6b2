//! What pintle says about itself, and that nobody has to listen.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, PipeReader, pipe},
    os::unix::net::UnixDatagram,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::harness::{Node, Setup, runner::tests, v1, wait_until};

tests![a_pipe_that_nobody_reads_stops_nothing, a_journal_that_does_not_read_stops_nothing];

/// Everything is said, so that a queue is soon full.
const TALKATIVE: &str = "[log]\nlevel = \"trace\"\n";

/// Lines that nobody could read, as the daemon counts them.
fn lines_lost(node: &Node) -> u64 {
    let status = node.cri().status(v1::StatusRequest { verbose: true }).unwrap();
    let info: Value = serde_json::from_str(&status.info["info"]).unwrap();
    info["logLinesLost"].as_u64().unwrap_or_else(|| panic!("no count of lost lines: {info}"))
}

/// Has the daemon work until nobody can read what it says any more, and then do what a node is for.
fn work_unheard(node: &Node) {
    wait_until("lines are lost", || lines_lost(node) > 0);
    let before = lines_lost(node);
    let pod = node.run_pod("unheard");
    let container = pod.run_in("main", ["sh", "-c", "exit 3"]);
    container.wait();
    assert_eq!(container.status().exit_code, 3);
    assert_eq!(node.pods(), [pod.id.clone()]);
    pod.remove();
    assert!(lines_lost(node) > before, "the log is read again");
}

/// The lines of a pipe, read from now on.
fn lines(pipe: PipeReader) -> mpsc::Receiver<String> {
    let (said, heard) = mpsc::channel();
    thread::spawn(move || {
        BufReader::new(pipe).lines().map_while(Result::ok).try_for_each(|line| said.send(line))
    });
    heard
}

fn a_pipe_that_nobody_reads_stops_nothing() {
    let (reader, writer) = pipe().unwrap();
    let stderr = Some(Arc::new(File::from(std::os::fd::OwnedFd::from(writer))));
    let node = Node::start_with(&Setup { config: TALKATIVE.into(), stderr, ..Setup::default() });
    work_unheard(&node);

    let heard = lines(reader);
    let mut lost = None;
    wait_until("the daemon says what was lost", || {
        lost = heard.try_iter().find_map(|line| {
            let line: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            let is_report = line["message"].as_str()?.starts_with("log lines were lost");
            is_report.then(|| line["lines"].as_u64())
        });
        lost.is_some()
    });
    assert!(lost.flatten() > Some(0), "{lost:?}");
    node.assert_clean();
}

fn a_journal_that_does_not_read_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let journal = UnixDatagram::bind(folder.path().join("socket")).unwrap();
    journal.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let setup = Setup {
        config: format!("{TALKATIVE}format = \"journal\"\n"),
        journal: Some(folder.path().into()),
        ..Setup::default()
    };
    let node = Node::start_with(&setup);
    work_unheard(&node);

    let mut entry = vec![0; 1 << 20];
    wait_until("the journal is told what was lost", || {
        while let Ok(length) = journal.recv(&mut entry) {
            if String::from_utf8_lossy(&entry[..length]).contains("log lines were lost") {
                return true;
            }
        }
        false
    });
    node.assert_clean();
}
