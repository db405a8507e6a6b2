//! Records, leases and folders are damaged under pods that run; nothing is told to have ended that lives, and
//! nothing is left behind.

use std::{fs, path::PathBuf};

use crate::harness::{Container, ContainerState, Node, Pod, runner::tests, wait_until};

tests![
    a_state_folder_that_is_emptied_ends_its_pods_before_they_are_told_to_have_ended,
    a_file_in_the_place_of_a_pods_folder_leaves_no_process,
    a_damaged_record_of_a_cgroup_leaves_no_cgroup,
    a_lease_that_cannot_be_read_stops_no_pod,
    a_lease_that_was_cut_short_stays_with_its_pod,
    an_exit_that_could_not_be_written_is_written_when_that_can_be_done,
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
