//! What pintle says about itself, and that nobody has to listen.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, PipeReader, pipe},
    os::unix::net::UnixDatagram,
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use serde_json::Value;
use tonic::Code;

use crate::harness::{BUSYBOX, Node, Setup, runner::tests, v1, wait_until};

tests![
    a_pipe_that_nobody_reads_stops_nothing,
    a_journal_that_does_not_read_stops_nothing,
    what_workloads_do_is_logged_once_and_is_no_error_of_ours,
];

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
    assert_eq!(node.pods(), std::slice::from_ref(&pod.id));
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

/// The daemon's log so far.
fn log(node: &Node) -> Vec<Value> {
    let text = fs::read_to_string(node.path("daemon.log")).unwrap();
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    lines.map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Level and message of each line about a call, or about what it did.
fn about<'l>(log: &'l [Value], key: &str, value: &str) -> Vec<(&'l str, &'l str)> {
    let lines = log.iter().filter(|line| line[key] == *value);
    lines.map(|line| (line["level"].as_str().unwrap(), line["message"].as_str().unwrap())).collect()
}

fn what_workloads_do_is_logged_once_and_is_no_error_of_ours() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let main = pod.run_in("main", ["sleep", "1000"]);
    for _ in 0..3 {
        main.try_exec(["sleep", "1000"], 1).unwrap_err();
        node.try_pull("registry.test/pintle/nothing-here:1").unwrap_err();
        let with_port = |config: &mut v1::PodSandboxConfig| {
            config.port_mappings =
                vec![v1::PortMapping { container_port: 80, host_port: 65_536, ..Default::default() }];
        };
        let refused = node.try_run_pod("ported", with_port).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        let broken =
            pod.try_create("broken", BUSYBOX, ["true"], |config| config.mounts = vec![v1::Mount::default()]);
        broken.unwrap_err();
    }
    let layers = "registry.test/pintle/layers:1";
    node.pull(layers);
    let image = Some(v1::ImageSpec { image: layers.into(), ..Default::default() });
    node.cri().remove_image(v1::RemoveImageRequest { image }).unwrap();
    main.remove();
    pod.remove();
    // A thread of its own writes the lines.
    wait_until("the last line is written", || !about(&log(&node), "message", "pod removed").is_empty());

    let log = log(&node);
    let refused = [("INFO", "request refused")];
    for rpc in ["ExecSync", "PullImage", "RunPodSandbox", "CreateContainer"] {
        assert_eq!(about(&log, "rpc", rpc), refused, "{rpc}");
    }
    assert_eq!(about(&log, "object", &main.id), refused);
    assert_eq!(about(&log, "reference", layers), [("INFO", "image pulled"), ("INFO", "image removed")]);
    assert_eq!(about(&log, "message", "container removed").len(), 1);
    assert_eq!(about(&log, "message", "pod removed").len(), 1);
    let errors: Vec<_> = log.iter().filter(|line| line["level"] == "ERROR").collect();
    assert!(errors.is_empty(), "{errors:#?}");
    node.assert_clean();
}
