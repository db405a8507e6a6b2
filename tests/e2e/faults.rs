//! Records, leases and folders are damaged under pods that run; nothing is reported as ended that lives, and
//! nothing is left behind.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use serde_json::Value;

use crate::harness::{
    BUSYBOX, Container, ContainerState, FrozenDisk, Node, Pod, Setup, pintle, runner::tests, v1, wait_until,
};

tests![
    a_state_folder_that_is_emptied_ends_its_pods_before_they_are_told_to_have_ended,
    a_file_in_the_place_of_a_pods_folder_leaves_no_process,
    a_damaged_record_of_a_cgroup_leaves_no_cgroup,
    a_lease_that_cannot_be_read_stops_no_pod,
    a_lease_that_was_cut_short_stays_with_its_pod,
    an_exit_that_could_not_be_written_is_written_when_that_can_be_done,
    a_pod_whose_create_hangs_in_a_volume_leaves_nothing_once_that_answers,
    a_failed_start_that_cannot_be_undone_without_descriptors_is_undone_with_them,
    another_state_folder_ends_pods_before_they_are_told_to_have_ended,
    a_read_only_root_is_a_condition_and_ends_no_pod,
    a_copied_folder_of_a_pod_does_not_end_that_pod,
    what_belongs_to_no_pod_is_released_or_reported,
    a_create_that_lost_its_daemon_leaves_nothing,
];

fn state_of(node: &Node, pod: &Pod<'_>) -> PathBuf {
    node.path("state").join("pods").join(&pod.id)
}

/// What is there while its init lives; a zombie has none.
fn process(container: &Container<'_>) -> String {
    format!("/proc/{}/exe", container.pid())
}

fn a_state_folder_that_is_emptied_ends_its_pods_before_they_are_told_to_have_ended() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = pod.run_in("main", ["sleep", "1000"]);
    let (init, address) = (process(&container), pod.ip());
    node.kill_daemon();
    fs::remove_dir_all(state_of(&node, &pod)).unwrap();
    node.start_daemon();
    assert_eq!(node.pods(), [pod.id.as_str()]);
    wait_until("the container is exited", || {
        let exited = container.state() == ContainerState::ContainerExited;
        assert!(!exited || !node.has(&init), "it is told to have ended and runs");
        exited
    });
    let other = node.run_pod("other");
    assert_ne!(other.ip(), address);
    node.assert_clean();
}

fn a_file_in_the_place_of_a_pods_folder_leaves_no_process() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = pod.run_in("main", ["sleep", "1000"]);
    let init = process(&container);
    node.kill_daemon();
    let folder = state_of(&node, &pod);
    fs::remove_dir_all(&folder).unwrap();
    fs::write(&folder, "").unwrap();
    node.start_daemon();
    wait_until("its process is gone", || !node.has(&init));
    wait_until("its folder is gone", || !folder.exists());
    node.assert_clean();
}

fn a_damaged_record_of_a_cgroup_leaves_no_cgroup() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = pod.run_in("main", ["sleep", "1000"]);
    node.kill_daemon();
    fs::write(state_of(&node, &pod).join("cgroup.record"), "x").unwrap();
    node.start_daemon();
    assert_eq!(container.state(), ContainerState::ContainerRunning);
    assert_eq!(container.shell("echo still here"), "still here\n");
    node.assert_clean();
}

/// The file of the lease for `address`.
fn lease(node: &Node, address: &str) -> PathBuf {
    let networks = fs::read_dir(node.path("root").join("network")).unwrap();
    let mut found =
        networks.map(|network| network.unwrap().path().join(address)).filter(|path| path.exists());
    found.next().expect("the lease is there")
}

fn a_lease_that_cannot_be_read_stops_no_pod() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let lease = lease(&node, &pod.ip());
    let unreadable = lease.with_file_name("10.1.2.3");
    fs::create_dir(&unreadable).unwrap();
    pod.stop();
    pod.remove();
    assert!(!lease.exists(), "its own address is free");
    node.restart_daemon();
    assert!(unreadable.exists(), "it may be somebody's");
    fs::remove_dir(&unreadable).unwrap();
    node.assert_clean();
}

fn a_lease_that_was_cut_short_stays_with_its_pod() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let lease = lease(&node, &pod.ip());
    node.kill_daemon();
    fs::write(&lease, "00").unwrap();
    node.start_daemon();
    let text = fs::read_to_string(&lease).unwrap();
    assert!(text.starts_with(pod.id.as_str()), "{text:?}");
    assert_ne!(node.run_pod("other").ip(), pod.ip());
    node.assert_clean();
    assert!(!lease.exists());
}

fn an_exit_that_could_not_be_written_is_written_when_that_can_be_done() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = pod.run_in("main", ["sh", "-c", "sleep 1; exit 5"]);
    // Nothing can be renamed over a folder: to this record the disk is full.
    let record = state_of(&node, &pod).join(format!("{}.record", container.id));
    fs::remove_file(&record).unwrap();
    fs::create_dir(&record).unwrap();
    assert_eq!(container.wait(), 5);
    fs::remove_dir(&record).unwrap();
    wait_until("it is written", || record.is_file());
    node.kill_daemon();
    node.start_daemon();
    assert_eq!(container.status().exit_code, 5);
    node.assert_clean();
}

/// What the daemon says of itself in Status.
fn info(node: &Node) -> Value {
    let reply = node.cri().status(v1::StatusRequest { verbose: true }).unwrap();
    serde_json::from_str(&reply.info["info"]).unwrap()
}

fn debts(node: &Node) -> Vec<Value> {
    info(node)["debts"].as_array().unwrap().clone()
}

/// RuntimeReady: whether it is, and why not.
fn runtime_ready(node: &Node) -> (bool, String) {
    let reply = node.cri().status(v1::StatusRequest::default()).unwrap();
    let conditions = reply.status.unwrap().conditions;
    let runtime = conditions.into_iter().find(|condition| condition.r#type == "RuntimeReady").unwrap();
    (runtime.status, format!("{}: {}", runtime.reason, runtime.message))
}

fn a_pod_whose_create_hangs_in_a_volume_leaves_nothing_once_that_answers() {
    if Command::new("losetup").arg("--find").output().is_ok_and(|found| !found.status.success()) {
        eprintln!("skipped: no loop device to be had");
        return;
    }
    let node = Node::start();
    let place = node.path("shared/disk").to_string_lossy().into_owned();
    fs::create_dir(&place).unwrap();
    let disk = FrozenDisk::mount(&node, &place);
    let pod = node.run_pod("web");
    disk.freeze();
    std::thread::scope(|scope| {
        let stuck = scope.spawn(|| {
            let made = pod.try_create("stuck", BUSYBOX, ["sleep", "1000"], |config| {
                config.mounts = vec![v1::Mount {
                    container_path: "/data".into(),
                    // Missing, so the helper makes it, and waits in the kernel.
                    host_path: format!("{place}/volume"),
                    ..Default::default()
                }];
            });
            made.map(drop)
        });
        let intent = || {
            let names = fs::read_dir(state_of(&node, &pod)).unwrap().flatten();
            names.filter(|entry| entry.file_name().to_string_lossy().ends_with(".init")).count() == 1
        };
        wait_until("the create is under way", intent);
        std::thread::sleep(std::time::Duration::from_secs(1));
        let id = || pod.id.clone();
        wait_until("the pod is stopped", || {
            node.cri().stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: id() }).is_ok()
        });
        wait_until("the pod is removed", || {
            node.cri().remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: id() }).is_ok()
        });
        assert!(stuck.join().unwrap().is_err());
    });
    assert_eq!(node.pods(), [""; 0]);
    let outstanding = debts(&node);
    assert!(outstanding[0]["cause"].as_str().is_some_and(|cause| !cause.is_empty()), "{outstanding:?}");
    node.restart_daemon();
    assert_eq!(debts(&node).len(), 1, "the next daemon knows");
    disk.thaw();
    wait_until("nothing is outstanding", || debts(&node).is_empty());
    drop(disk);
    node.assert_clean();
}

fn a_failed_start_that_cannot_be_undone_without_descriptors_is_undone_with_them() {
    let node = Node::start_with(&Setup {
        failpoints: "pod.supervisor-spawned=1*delay(4000)".into(),
        ..Setup::default()
    });
    let limit = |soft: u32| {
        let pid = node.daemon_pid().to_string();
        let limited = Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={soft}:")]).status();
        assert!(limited.unwrap().success());
    };
    let folders = || fs::read_dir(node.path("state/pods")).unwrap().flatten().map(|entry| entry.path());
    std::thread::scope(|scope| {
        let failed = scope.spawn(|| node.try_run_pod("web", |_| {}).map(drop));
        wait_until("its supervisor listens", || folders().any(|pod| pod.join("supervisor.sock").exists()));
        limit(4);
        assert!(failed.join().unwrap().is_err());
    });
    assert_eq!((node.pods(), folders().count()), (vec![], 1), "not a thing could be taken away");
    limit(1024);
    wait_until("its folder is gone", || folders().count() == 0);
    node.run_pod("web");
    node.assert_clean();
}

fn another_state_folder_ends_pods_before_they_are_told_to_have_ended() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = pod.run_in("main", ["sleep", "1000"]);
    let (init, address) = (process(&container), pod.ip());
    node.kill_daemon();
    let drop_in = node.path("conf.d/test.toml");
    fs::write(&drop_in, format!("state = {:?}\n", node.path("elsewhere"))).unwrap();
    node.start_daemon();
    wait_until("the container is exited", || {
        let exited = container.state() == ContainerState::ContainerExited;
        assert!(!exited || !node.has(&init), "it is told to have ended and runs");
        exited
    });
    assert_ne!(node.run_pod("other").ip(), address);
    node.remove_pods();
    fs::remove_dir_all(state_of(&node, &pod)).unwrap();
    fs::remove_file(&drop_in).unwrap();
    node.restart_daemon();
    node.assert_clean();
}

fn a_read_only_root_is_a_condition_and_ends_no_pod() {
    let node = Node::start();
    let (first, second) = (node.run_pod("first"), node.run_pod("second"));
    let [one, two] = [&first, &second].map(|pod| pod.run_in("main", ["sleep", "1000"]));
    assert!(runtime_ready(&node).0);
    let root = node.path("root").to_string_lossy().into_owned();
    node.run("mount", ["--bind", &root, &root]);
    node.run("mount", ["-o", "remount,bind,ro", &root]);
    let refused = runtime_ready(&node);
    assert!(
        !refused.0 && refused.1.starts_with("StorageNotReady: ") && refused.1.contains("read-only"),
        "{refused:?}"
    );
    node.restart_daemon();
    assert_eq!((node.pods().len(), runtime_ready(&node).0), (2, false));
    assert_eq!(one.shell("echo here"), "here\n");
    two.stop();
    assert_eq!(
        (one.state(), two.state()),
        (ContainerState::ContainerRunning, ContainerState::ContainerExited)
    );
    second.stop();
    assert!(node.try_run_pod("third", |_| {}).is_err());
    node.run("umount", ["--lazy", &root]);
    assert!(runtime_ready(&node).0, "{:?}", runtime_ready(&node));
    wait_until("what had to wait is taken away", || debts(&node).is_empty());
    node.run_pod("third");
    node.restart_daemon();
    node.assert_clean();
}

fn a_copied_folder_of_a_pod_does_not_end_that_pod() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = pod.run_in("main", ["sleep", "1000"]);
    let pid = container.pid();
    node.kill_daemon();
    let (original, copy) = (state_of(&node, &pod), node.path("state/pods").join("ab".repeat(32)));
    node.run("cp", ["-a", &original.to_string_lossy(), &copy.to_string_lossy()]);
    node.start_daemon();
    wait_until("the copy is gone", || !copy.exists());
    assert_eq!((node.pods(), container.pid()), (vec![pod.id.clone()], pid));
    assert_eq!(container.shell("echo here >/written; cat /written"), "here\n");
    node.assert_clean();
}

fn what_belongs_to_no_pod_is_released_or_reported() {
    let config = "[pod]\naudit_interval_s = 1\n".to_owned();
    let node = Node::start_with(&Setup { config, ..Setup::default() });
    let pod = node.run_pod("web");
    let stray = "cd".repeat(32);
    let own = lease(&node, &pod.ip());
    let lost = own.with_file_name("10.1.2.3");
    fs::write(&lost, format!("{stray}\r\neth0")).unwrap();
    let folder = node.path("root/pods").join(&stray);
    fs::create_dir(&folder).unwrap();
    let netns = node.path("netns").join(format!("pintle-{stray}"));
    fs::write(&netns, "").unwrap();
    wait_until("the lease is released", || !lost.exists());
    let reported = |object: &str| info(&node)["findings"].to_string().contains(object);
    wait_until("the folder is reported", || reported(&folder.to_string_lossy()));
    wait_until("the namespace is reported", || reported(&netns.to_string_lossy()));
    let check = node.command(pintle()).arg("check").arg("--config").arg(node.path("config.toml")).output();
    let check = String::from_utf8(check.unwrap().stdout).unwrap();
    assert!(check.lines().any(|line| line.starts_with("warn  audit") && line.contains(&stray)), "{check}");
    assert!(own.exists() && folder.exists() && netns.exists(), "what is a pod's, or may be, stays");
    fs::remove_dir(&folder).unwrap();
    fs::remove_file(&netns).unwrap();
    wait_until("the findings are gone", || !reported(&stray));
    assert_eq!(debts(&node).len(), 0);
    node.assert_clean();
}

fn a_create_that_lost_its_daemon_leaves_nothing() {
    let node = Node::start();
    node.pull(BUSYBOX);
    let failpoints = "supervisor.container-cgroup-made=1*delay(4000)".to_owned();
    node.kill_daemon();
    node.start_daemon_with(&Setup { failpoints, ..Setup::default() });
    let pod = node.run_pod("web");
    let cgroups = || {
        let top = node.folders().cgroups.folder_of("web");
        node.run("find", [&top.to_string_lossy(), "-type", "d"]).lines().count()
    };
    let before = cgroups();

    std::thread::scope(|scope| {
        scope.spawn(|| assert!(pod.try_create("late", BUSYBOX, ["sleep", "1000"], |_| {}).is_err()));
        wait_until("its cgroup is made", || cgroups() > before);
        node.kill_daemon();
    });
    node.start_daemon();
    wait_until("nothing is left of it", || cgroups() == before);
    std::thread::sleep(Duration::from_millis(4500));
    assert_eq!(cgroups(), before);
    assert_eq!(pod.run_in("next", ["sleep", "1000"]).state(), ContainerState::ContainerRunning);
    node.assert_clean();
}
