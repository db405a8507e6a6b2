//! The life of a pod.

use tonic::Code;

use crate::harness::{BUSYBOX, ContainerState, Node, Setup, runner::tests, v1, wait_until};

tests![
    a_node_is_ready_and_says_who_it_is,
    a_pod_is_what_was_asked_for,
    a_repeated_request_finds_the_same_pod,
    a_retry_joins_a_call_that_waits_for_its_turn,
    filters_are_anded_and_an_unknown_id_lists_nothing,
    stop_and_remove_forgive_a_repetition,
    a_stopped_pod_keeps_its_record_and_takes_no_container,
    a_removed_pod_takes_its_containers_along,
    containers_see_the_name_and_the_resolver_that_were_asked_for,
    containers_of_a_pod_share_network_and_memory_files,
    a_shared_process_namespace_shows_the_other_container,
    a_node_network_pod_is_on_the_node,
    sysctls_are_set_in_the_pod_and_nowhere_else,
];

fn a_node_is_ready_and_says_who_it_is() {
    let node = Node::start();

    let version = node.cri().version(v1::VersionRequest::default()).unwrap();
    assert_eq!((version.runtime_name.as_str(), version.runtime_api_version.as_str()), ("pintle", "v1"));
    let conditions = node.cri().status(v1::StatusRequest::default()).unwrap().status.unwrap().conditions;
    for kind in ["RuntimeReady", "NetworkReady"] {
        let condition = conditions.iter().find(|condition| condition.r#type == kind);
        assert!(condition.is_some_and(|condition| condition.status), "{kind}: {conditions:?}");
    }
    node.assert_clean();
}

fn a_pod_is_what_was_asked_for() {
    let node = Node::start();
    let pod = node.run_pod("web");

    let status = pod.status();
    assert_eq!(status.id, pod.id);
    assert_eq!(status.state(), v1::PodSandboxState::SandboxReady);
    assert_eq!(status.metadata, pod.config.metadata);
    assert_eq!(status.labels, pod.config.labels);
    assert_eq!(status.annotations, pod.config.annotations);
    assert!(status.created_at > 0);
    assert!(pod.ip().parse::<std::net::IpAddr>().is_ok(), "{:?}", status.network);

    assert_eq!(node.pods(), [pod.id.as_str()]);
    node.assert_clean();
}

fn a_repeated_request_finds_the_same_pod() {
    let node = Node::start();
    let first = node.run_pod("web");
    let second = node.run_pod("web");

    assert_eq!(second.id, first.id);
    assert_eq!(node.pods(), [first.id.as_str()]);
    node.assert_clean();
}

/// A kubelet whose call took too long asks again, and must not find its own first call in its way.
fn a_retry_joins_a_call_that_waits_for_its_turn() {
    let node = Node::start_with(&Setup {
        config: "[pod]\ncreates_running_max = 1\ncreates_waiting_max = 1\n".into(),
        failpoints: "pod.cgroup-made=1*delay(5000)".into(),
        ..Setup::default()
    });
    let made = || std::fs::read_dir(node.path("state/pods")).is_ok_and(|mut pods| pods.next().is_some());
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| node.run_pod("slow").id);
        wait_until("the slow pod has the only turn", made);
        let calls = [(); 3].map(|()| scope.spawn(|| node.run_pod("web").id));
        let ids = calls.map(|call| call.join().unwrap());
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
        assert_ne!(slow.join().unwrap(), ids[0]);
    });
    node.assert_clean();
}

fn filters_are_anded_and_an_unknown_id_lists_nothing() {
    let node = Node::start();
    let (web, db) = (node.run_pod("web"), node.run_pod("db"));
    let list = |id: &str, app: &str| -> Vec<String> {
        let label_selector = [("app".to_owned(), app.to_owned())].into();
        let filter = Some(v1::PodSandboxFilter { id: id.into(), label_selector, ..Default::default() });
        let listed = node.cri().list_pod_sandbox(v1::ListPodSandboxRequest { filter }).unwrap();
        listed.items.into_iter().map(|pod| pod.id).collect()
    };

    assert_eq!(list("", "web"), [web.id.as_str()]);
    assert_eq!(list(&db.id, "db"), [db.id.as_str()]);
    assert_eq!(list(&db.id[..20], "db"), [db.id.as_str()]);
    assert_eq!(list(&db.id, "web"), [""; 0]);
    assert_eq!(list(&"0".repeat(64), "web"), [""; 0]);
    node.assert_clean();
}

fn stop_and_remove_forgive_a_repetition() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = pod.run_in("main", ["sleep", "1000"]);

    container.kill();
    container.kill();
    container.remove();
    container.remove();
    pod.stop();
    pod.stop();
    pod.remove();
    pod.remove();

    let gone = v1::PodSandboxStatusRequest { pod_sandbox_id: pod.id.clone(), verbose: false };
    assert_eq!(node.cri().pod_sandbox_status(gone).unwrap_err().code(), Code::NotFound);
    node.assert_clean();
}

fn a_stopped_pod_keeps_its_record_and_takes_no_container() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = pod.run_in("main", ["sleep", "1000"]);

    pod.stop();

    assert_eq!(pod.status().state(), v1::PodSandboxState::SandboxNotready);
    assert_eq!((container.state(), container.status().exit_code), (ContainerState::ContainerExited, 137));
    let refused = pod.try_create("late", BUSYBOX, ["true"], |_| {}).unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    node.assert_clean();
}

fn a_removed_pod_takes_its_containers_along() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let running = pod.run_in("running", ["sleep", "1000"]);
    let created = pod.create("created", BUSYBOX, ["sleep", "1000"]);

    pod.remove();

    assert!(running.is_unknown());
    assert!(created.is_unknown());
    node.assert_clean();
}

fn containers_see_the_name_and_the_resolver_that_were_asked_for() {
    let node = Node::start();
    let pod = node.run_pod_with("web", |config| {
        config.hostname = "box".into();
        config.dns_config = Some(v1::DnsConfig {
            servers: vec!["192.0.2.53".into()],
            searches: vec!["e2e.test".into(), "test".into()],
            options: vec!["ndots:5".into()],
        });
    });
    let container = pod.run_in("main", ["sleep", "1000"]);

    assert_eq!(container.shell("hostname; cat /etc/hostname"), "box\nbox\n");
    let resolver = container.shell("sort /etc/resolv.conf");
    assert_eq!(resolver, "nameserver 192.0.2.53\noptions ndots:5\nsearch e2e.test test\n");
    node.assert_clean();
}

fn containers_of_a_pod_share_network_and_memory_files() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let (one, other) = (pod.run_in("one", ["sleep", "1000"]), pod.run_in("other", ["sleep", "1000"]));
    let namespaces = "for name in net ipc uts; do readlink /proc/self/ns/$name; done";

    assert_eq!(one.shell(namespaces), other.shell(namespaces));
    assert_ne!(one.shell("readlink /proc/self/ns/pid"), other.shell("readlink /proc/self/ns/pid"));
    one.shell("echo hello >/dev/shm/letter");
    assert_eq!(other.shell("cat /dev/shm/letter"), "hello\n");
    node.assert_clean();
}

fn a_shared_process_namespace_shows_the_other_container() {
    let node = Node::start();
    let share = |options: &mut Option<v1::NamespaceOption>| {
        options.get_or_insert_default().pid = v1::NamespaceMode::Pod.into();
    };
    let pod = node.run_pod_with("web", |config| {
        let linux = config.linux.get_or_insert_default();
        share(&mut linux.security_context.get_or_insert_default().namespace_options);
    });
    let run = |name: &str, seconds: &str| {
        let container = pod.create_with(name, BUSYBOX, ["sleep", seconds], |config| {
            let linux = config.linux.get_or_insert_default();
            share(&mut linux.security_context.get_or_insert_default().namespace_options);
        });
        container.start();
        container
    };
    let (one, other) = (run("one", "1001"), run("other", "1002"));

    assert!(one.shell("ps").contains("sleep 1002"));
    assert!(other.shell("ps").contains("sleep 1001"));
    one.kill();
    assert_eq!(other.state(), ContainerState::ContainerRunning);
    node.assert_clean();
}

fn a_node_network_pod_is_on_the_node() {
    let node = Node::start();
    let pod = node.run_pod_with("agent", |config| {
        let linux = config.linux.get_or_insert_default();
        let options =
            linux.security_context.get_or_insert_default().namespace_options.get_or_insert_default();
        options.network = v1::NamespaceMode::Node.into();
        config.hostname = String::new();
    });
    let container = pod.create_with("main", BUSYBOX, ["sleep", "1000"], |config| {
        let linux = config.linux.get_or_insert_default();
        let options =
            linux.security_context.get_or_insert_default().namespace_options.get_or_insert_default();
        options.network = v1::NamespaceMode::Node.into();
    });
    container.start();

    assert_eq!(pod.status().network.unwrap_or_default().ip, "");
    assert_eq!(container.shell("readlink /proc/self/ns/net"), node.run("readlink", ["/proc/self/ns/net"]));
    assert_eq!(container.shell("hostname"), node.run("hostname", []));
    node.assert_clean();
}

fn sysctls_are_set_in_the_pod_and_nowhere_else() {
    let node = Node::start();
    let before = node.run("cat", ["/proc/sys/net/ipv4/ip_local_port_range"]);
    let pod = node.run_pod_with("web", |config| {
        let sysctls = &mut config.linux.get_or_insert_default().sysctls;
        sysctls.insert("net.ipv4.ip_local_port_range".into(), "20000 20999".into());
        sysctls.insert("kernel.shm_rmid_forced".into(), "1".into());
    });
    let container = pod.run_in("main", ["sleep", "1000"]);

    let read = "cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/kernel/shm_rmid_forced";
    assert_eq!(container.shell(read), "20000\t20999\n1\n");
    assert_eq!(node.run("cat", ["/proc/sys/net/ipv4/ip_local_port_range"]), before);
    node.assert_clean();
}
