//! A daemon that may open few files: it makes less, and still ends everything.

use tonic::Code;

use crate::harness::{Node, Setup, runner::tests, v1, wait_for};

tests![
    out_of_descriptors_nothing_is_made_and_everything_ends,
    pods_of_better_days_can_be_ended_with_few_descriptors,
    a_containers_limit_of_open_files_is_not_the_daemons,
];

/// A limit at which pods once could be made but not ended any more.
const FEW: u32 = 64;

fn few() -> Setup {
    Setup { under: with_open_files(FEW), ..Setup::default() }
}

/// Runs a daemon with this limit of open files, soft and hard.
fn with_open_files(limit: u32) -> Vec<String> {
    vec!["prlimit".into(), format!("--nofile={limit}:{limit}")]
}

fn out_of_descriptors_nothing_is_made_and_everything_ends() {
    let node = Node::start_with(&few());
    let mut made = Vec::new();
    let refused = loop {
        match node.try_run_pod(&format!("pod-{}", made.len()), |_| {}) {
            Ok(pod) => made.push(pod),
            Err(error) => break error,
        }
        assert!(made.len() < 30, "{FEW} descriptors cannot be enough for 30 pods");
    };
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("of 64 files open"), "{refused}");
    assert!(!made.is_empty(), "{refused}");

    // Others come in, see and end.
    let stranger = node.connect();
    let listed = stranger.list_pod_sandbox(v1::ListPodSandboxRequest::default()).unwrap();
    assert_eq!(listed.items.len(), made.len());
    drop(stranger);
    node.remove_pods();
    node.run_pod("again");
    node.assert_clean();
}

fn pods_of_better_days_can_be_ended_with_few_descriptors() {
    let node = Node::start();
    for number in 0..20 {
        let pod = node.run_pod(&format!("pod-{number}"));
        if number % 5 == 0 {
            pod.run_in("main", ["sleep", "1000"]);
        }
    }
    node.restart_daemon_with(&few());
    assert_eq!(node.pods().len(), 20);
    node.remove_pods();
    node.restart_daemon();
    node.assert_clean();
}

fn a_containers_limit_of_open_files_is_not_the_daemons() {
    // Above the daemon's own, where this machine lets root have more than it was given.
    let hard = if may_raise_limits() { 300_000 } else { 700 };
    let config = format!("[pod]\nnofile_soft = 600\nnofile_hard = {hard}\n");
    let node = Node::start_with(&Setup { config, under: with_open_files(800), ..Setup::default() });
    let pod = node.run_pod("web");
    let container = pod.run_in("main", ["sh", "-c", "ulimit -Sn; ulimit -Hn; sleep 1000"]);
    let limits = vec!["600".to_owned(), hard.to_string()];
    wait_for("its limits", &limits, || container.log_texts());
    assert_eq!(container.shell("ulimit -Sn; ulimit -Hn"), format!("600\n{hard}\n"));
    node.assert_clean();
}

/// Whether this process has CAP_SYS_RESOURCE.
fn may_raise_limits() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(set.trim(), 16).unwrap() & 1 << 24 != 0
}
