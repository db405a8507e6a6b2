//! The operator's client, of the version that `hack/tools` pins.

use std::{fs, io::Write as _, process::Stdio};

use serde_json::{Value, json};

use crate::harness::{BUSYBOX, Node, client, runner::tests, wait_until};

tests![
    a_pod_is_led_through_its_life_by_crictl,
    what_crictl_shows_is_what_it_was_told,
    limits_are_changed_by_crictl,
    what_is_used_is_shown_by_crictl,
    a_streamed_exec_speaks_and_listens,
    events_are_shown_as_they_come,
];

/// Runs crictl on the node and answers with what it prints.
#[track_caller]
fn crictl<const N: usize>(node: &Node, arguments: [&str; N]) -> String {
    let mut command = node.command(client("crictl"));
    command
        .args(["--runtime-endpoint", &node.endpoint(), "--image-endpoint", &node.endpoint()])
        .args(arguments);
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "crictl {arguments:?}: {out}{err}");
    out.trim_end().to_owned()
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

/// Writes the two files that crictl makes a pod and a container from.
fn write_configs(node: &Node) -> (String, String) {
    let cgroup_parent = node.folders().cgroups.parent_of("crictl");
    let pod = json!({
        "metadata": {"name": "web", "uid": "web-uid", "namespace": "e2e", "attempt": 0},
        "log_directory": node.path("logs/web"), "linux": {"cgroup_parent": cgroup_parent},
    });
    let script = "echo started; trap 'exit 0' TERM; while :; do sleep 0.1; done";
    let container = json!({
        "metadata": {"name": "main"}, "image": {"image": BUSYBOX},
        "command": ["sh", "-c", script], "log_path": "main.log", "linux": {},
    });
    let write = |name: &str, value: &Value| {
        fs::write(node.path(name), value.to_string()).unwrap();
        node.path(name).to_string_lossy().into_owned()
    };
    (write("pod.json", &pod), write("container.json", &container))
}

fn a_pod_is_led_through_its_life_by_crictl() {
    let node = Node::start();
    let (pod_file, container_file) = write_configs(&node);

    crictl(&node, ["pull", BUSYBOX]);
    assert!(crictl(&node, ["images"]).contains("docker.io/library/busybox"));
    let pod = crictl(&node, ["runp", &pod_file]);
    assert_eq!(crictl(&node, ["pods", "--quiet", "--state", "ready"]), pod);
    let container = crictl(&node, ["create", &pod, &container_file, &pod_file]);
    crictl(&node, ["start", &container]);
    assert_eq!(crictl(&node, ["ps", "--quiet", "--no-trunc"]), container);
    wait_until("it speaks", || crictl(&node, ["logs", &container]) == "started");
    assert_eq!(crictl(&node, ["exec", "--sync", &container, "echo", "synchronous"]), "synchronous");

    crictl(&node, ["stop", "--timeout", "10", &container]);
    assert_eq!(json_of(&crictl(&node, ["inspect", &container]))["status"]["exitCode"], 0);
    crictl(&node, ["rm", &container]);
    crictl(&node, ["stopp", &pod]);
    crictl(&node, ["rmp", &pod]);
    assert_eq!(crictl(&node, ["pods", "--quiet"]), "");
    crictl(&node, ["rmi", BUSYBOX]);
    assert_eq!(crictl(&node, ["images", "--quiet"]), "");
    node.assert_clean();
}

fn what_crictl_shows_is_what_it_was_told() {
    let node = Node::start();
    let (pod_file, container_file) = write_configs(&node);
    crictl(&node, ["pull", BUSYBOX]);
    let pod = crictl(&node, ["runp", &pod_file]);
    let container = crictl(&node, ["create", &pod, &container_file, &pod_file]);
    crictl(&node, ["start", &container]);

    let shown = json_of(&crictl(&node, ["inspectp", &pod]));
    assert_eq!(shown["status"]["state"], "SANDBOX_READY");
    assert_eq!(shown["status"]["metadata"]["namespace"], "e2e");
    let shown = json_of(&crictl(&node, ["inspect", &container]));
    assert_eq!(shown["status"]["state"], "CONTAINER_RUNNING");
    assert!(shown["info"]["pid"].as_u64().is_some(), "{}", shown["info"]);
    let shown = json_of(&crictl(&node, ["inspecti", BUSYBOX]));
    assert_eq!(shown["status"]["repoTags"], json!([BUSYBOX]));
    let shown = json_of(&crictl(&node, ["info"]));
    let conditions = shown["status"]["conditions"].as_array().expect("conditions");
    assert!(conditions.iter().all(|condition| condition["status"] == true), "{conditions:?}");
    assert!(crictl(&node, ["version"]).contains("RuntimeApiVersion:  v1"));
    node.assert_clean();
}

fn limits_are_changed_by_crictl() {
    let node = Node::start();
    let container = node.run_pod("web").run_in("main", ["sleep", "1000"]);
    let memory = (80 << 20).to_string();

    crictl(
        &node,
        ["update", "--memory", &memory, "--cpu-quota", "20000", "--cpuset-cpus", "0", &container.id],
    );

    let shown = json_of(&crictl(&node, ["inspect", &container.id]));
    let limits = &shown["status"]["resources"]["linux"];
    assert_eq!(limits["memoryLimitInBytes"], json!(memory));
    assert_eq!((&limits["cpuQuota"], &limits["cpusetCpus"]), (&json!("20000"), &json!("0")));
    node.assert_clean();
}

fn what_is_used_is_shown_by_crictl() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = pod.run_in("busy", ["sh", "-c", "while :; do :; done"]);

    let shown = crictl(&node, ["stats"]);
    assert!(shown.contains(&container.id[..13]) && shown.contains("busy"), "{shown}");
    let shown = json_of(&crictl(&node, ["stats", "--output", "json", "--id", &container.id]));
    assert_eq!(shown["stats"][0]["attributes"]["id"], container.id);
    let shown = crictl(&node, ["statsp"]);
    assert!(shown.contains(&pod.id[..13]) && shown.contains("web"), "{shown}");
    let shown = json_of(&crictl(&node, ["metricdescs"]));
    assert_eq!(shown["descriptors"].as_array().map(Vec::len), Some(56));
    let shown = json_of(&crictl(&node, ["metricsp"]));
    assert_eq!(shown["podMetrics"][0]["podSandboxId"], pod.id);
    node.assert_clean();
}

fn a_streamed_exec_speaks_and_listens() {
    let node = Node::start();
    let container = node.run_pod("web").run_in("main", ["sleep", "1000"]);

    assert_eq!(crictl(&node, ["exec", &container.id, "echo", "streamed"]), "streamed");
    let mut command = node.command(client("crictl"));
    command.args(["--runtime-endpoint", &node.endpoint(), "exec", "--interactive", &container.id, "cat"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut running = command.spawn().unwrap();
    running.stdin.take().unwrap().write_all(b"heard\n").unwrap();
    assert_eq!(running.wait_with_output().unwrap().stdout, b"heard\n");
    node.assert_clean();
}

fn events_are_shown_as_they_come() {
    let node = Node::start();
    let mut command = node.command(client("crictl"));
    command.args(["--runtime-endpoint", &node.endpoint(), "events"]);
    let mut events = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let output = serde_json::Deserializer::from_reader(events.stdout.take().unwrap());
    let mut shown = output.into_iter::<Value>().map(Result::unwrap);

    let pod = node.run_pod("web");
    let first: Vec<Value> = shown.by_ref().take(2).collect();
    for event in &first {
        assert_eq!(
            (&event["containerId"], &event["podSandboxStatus"]["id"]),
            (&json!(pod.id), &json!(pod.id))
        );
    }
    let kinds: Vec<_> = first.iter().map(|event| event["containerEventType"].clone()).collect();
    assert_eq!(kinds, ["CONTAINER_CREATED_EVENT", "CONTAINER_STARTED_EVENT"]);

    let container = pod.run_in("main", ["sh", "-c", "exit 3"]);
    let stopped = shown.find(|event| {
        event["containerId"] == container.id && event["containerEventType"] == "CONTAINER_STOPPED_EVENT"
    });
    assert_eq!(stopped.unwrap()["containersStatuses"][0]["exitCode"], 3);
    // Nobody listens to it any more: its next word is its last.
    drop(shown);
    pod.stop();
    wait_until("crictl ends", || events.try_wait().unwrap().is_some());
    node.assert_clean();
}
