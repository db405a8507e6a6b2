//! Clients as they come: other languages' gRPC with its defaults, and calls with deadlines.

use tonic::Code;

use crate::harness::{BUSYBOX, Node, other_clients, runner::tests, v1};

tests![
    a_python_client_is_answered,
    a_java_client_is_answered,
    a_pull_of_more_than_a_millisecond_exceeds_a_deadline_of_one,
    a_passed_deadline_has_its_own_code_in_any_call,
];

const VERSION: &str = "runtime.v1.RuntimeService/Version";

/// Two services and three calls on one connection: from the second on, headers name what the first had.
const CALLS: [&str; 3] = [VERSION, "runtime.v1.ImageService/ListImages", VERSION];

/// Runs a client of `hack/tools` on the node.
#[track_caller]
fn check(node: &Node, program: &str, arguments: &[String]) {
    let mut client = node.command(program);
    client.args(arguments).arg(node.endpoint()).args(CALLS);
    let output = client.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(said.matches("pintle").count(), 2, "{said:?}");
    node.assert_clean();
}

fn a_python_client_is_answered() {
    let node = Node::start();
    let python = other_clients().join("python/bin/python").to_string_lossy().into_owned();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/hack/tools/python/cri_client.py");
    check(&node, &python, &[script.into()]);
}

fn a_java_client_is_answered() {
    let node = Node::start();
    let jars = other_clients().join("java/*").to_string_lossy().into_owned();
    check(&node, "java", &["-cp".into(), jars, "CriClient".into()]);
}

fn a_pull_of_more_than_a_millisecond_exceeds_a_deadline_of_one() {
    let node = Node::start();
    let image = Some(v1::ImageSpec { image: BUSYBOX.into(), ..Default::default() });
    let request = v1::PullImageRequest { image, ..Default::default() };
    let status = node.connect_without_clock().pull_image_within("1m", request).unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(status.message().starts_with("PullImage was not done"), "{status}");
    // Nothing is in the way of the next one.
    node.pull(BUSYBOX);
    node.assert_clean();
}

fn a_passed_deadline_has_its_own_code_in_any_call() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let main = pod.run_in("main", ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"]);
    let client = node.connect_without_clock();
    let stop = v1::StopContainerRequest { container_id: main.id.clone(), timeout: 3 };
    let status = client.stop_container_within("300m", stop).unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    let exec = v1::ExecSyncRequest {
        container_id: main.id.clone(),
        cmd: ["sleep", "1000"].map(Into::into).into(),
        timeout: 0,
    };
    let status = client.exec_sync_within("300m", exec).unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    let status = client.events_within("300m");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");

    // What was begun goes on.
    assert_eq!(main.wait(), 137);
    drop(client);
    node.assert_clean();
}
