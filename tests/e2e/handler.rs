//! Runtime handlers: what a RuntimeClass chooses for a pod.

use std::fs;

use crate::harness::{BUSYBOX, Container, Node, Pod, Setup, pod_config, runner::tests, v1};

tests![
    the_handlers_are_those_of_the_configuration,
    a_handler_decides_what_its_containers_leave_open_and_its_pods_keep_it,
    a_privileged_container_of_a_careful_handler_has_no_devices_of_the_node,
];

const STRICT: &str = "[handlers.strict]\nseccomp = \"runtime/default\"\nprivileged_without_host_devices = true\n\
                      overhead_memory_mib = 16\n";

fn node_with(config: &str) -> Node {
    Node::start_with(&Setup { config: config.into(), ..Setup::default() })
}

/// A pod of this handler, which may have privileged containers.
fn run_pod<'n>(node: &'n Node, name: &str, handler: &str) -> Result<Pod<'n>, tonic::Status> {
    let mut config = pod_config(node, name);
    config.linux.get_or_insert_default().security_context.get_or_insert_default().privileged = true;
    Pod::run_config(node, config, handler)
}

/// A container that names no filter.
fn run<'n>(
    pod: &Pod<'n>,
    name: &str,
    change: impl Fn(&mut v1::LinuxContainerSecurityContext),
) -> Container<'n> {
    let container = pod.create_with(name, BUSYBOX, ["sleep", "1000"], |config| {
        let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
        security.seccomp = None;
        change(security);
    });
    container.start();
    container
}

/// `2` with a filter, `0` without (proc(5)), of its init and of an exec in it.
fn filtered(node: &Node, container: &Container<'_>) -> [String; 2] {
    let mode = |status: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
        line.unwrap().trim().to_owned()
    };
    let init = node.read(&format!("/proc/{}/status", container.pid()));
    [mode(&init), mode(&container.shell("cat /proc/self/status"))]
}

fn the_handlers_are_those_of_the_configuration() {
    let node = node_with(STRICT);
    let status = node.cri().status(v1::StatusRequest::default()).unwrap();
    let names: Vec<_> = status.runtime_handlers.iter().map(|handler| handler.name.as_str()).collect();
    assert_eq!(names, ["", "pintle", "strict"]);
    for handler in &status.runtime_handlers {
        assert!(handler.features.as_ref().unwrap().recursive_read_only_mounts, "{}", handler.name);
    }
    let refused = run_pod(&node, "bad", "runc").map(|pod| pod.id).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert_eq!(refused.message(), "unknown runtime handler \"runc\"; there are pintle, strict");
    let pod = run_pod(&node, "web", "strict").unwrap();
    assert_eq!(pod.status().runtime_handler, "strict");
    node.assert_clean();
}

fn a_handler_decides_what_its_containers_leave_open_and_its_pods_keep_it() {
    use v1::security_profile::ProfileType::Unconfined;
    let node = node_with(STRICT);
    let (strict, plain) = (run_pod(&node, "strict", "strict").unwrap(), run_pod(&node, "plain", "").unwrap());
    assert_eq!(filtered(&node, &run(&strict, "default", |_| {})), ["2", "2"]);
    assert_eq!(filtered(&node, &run(&plain, "default", |_| {})), ["0", "0"]);
    let asked = run(&strict, "asked", |security| {
        let profile = v1::SecurityProfile { profile_type: Unconfined.into(), ..Default::default() };
        security.seccomp = Some(profile);
    });
    assert_eq!(filtered(&node, &asked), ["0", "0"]);

    // The operator takes the handler away, and gives those without one a filter.
    fs::write(node.path("conf.d/test.toml"), "[handlers.pintle]\nseccomp = \"runtime/default\"\n").unwrap();
    node.restart_daemon();
    assert!(run_pod(&node, "late", "strict").is_err());
    assert_eq!(strict.status().runtime_handler, "strict");
    assert_eq!(filtered(&node, &run(&strict, "later", |_| {})), ["2", "2"]);
    assert_eq!(filtered(&node, &run(&plain, "later", |_| {})), ["0", "0"]);
    let new = run_pod(&node, "new", "").unwrap();
    assert_eq!(filtered(&node, &run(&new, "default", |_| {})), ["2", "2"]);
    node.assert_clean();
}

fn a_privileged_container_of_a_careful_handler_has_no_devices_of_the_node() {
    let node = node_with(STRICT);
    // One that a node has, and one that is asked for.
    let given = node.path("shared/given").display().to_string();
    node.run("mknod", [&given, "c", "10", "229"]);
    let opens = |container: &Container<'_>, path: &str| {
        !container.exec(["sh", "-c", &format!(": < {path}")]).stderr.contains("not permitted")
    };
    for (handler, all) in [("strict", false), ("", true)] {
        let pod = run_pod(&node, if all { "plain" } else { "strict" }, handler).unwrap();
        let container = run(&pod, "main", |security| security.privileged = true);
        container.shell("mknod /tmp/fuse c 10 229");
        assert_eq!(opens(&container, "/tmp/fuse"), all, "{handler}");
        let devices =
            container.shell("find /dev -type c -o -type b | wc -l").trim().parse::<usize>().unwrap();
        let of_node = node.run("sh", ["-c", "find /dev -type c -o -type b | wc -l"]);
        let of_node = of_node.trim().parse::<usize>().unwrap();
        assert!(if all { devices + 4 > of_node } else { devices < 12 }, "{handler}: {devices} of {of_node}");
        assert!(container.shell("grep CapEff /proc/1/status").contains("ffff"), "it is privileged otherwise");

        let asking = pod.create_with("asking", BUSYBOX, ["sleep", "1000"], |config| {
            config.linux.get_or_insert_default().security_context.get_or_insert_default().privileged = true;
            config.devices = vec![v1::Device {
                container_path: "/dev/given".into(),
                host_path: given.clone(),
                permissions: "r".into(),
            }];
        });
        asking.start();
        assert!(opens(&asking, "/dev/given"));
    }
    node.assert_clean();
}
