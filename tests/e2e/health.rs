//! Processes of ours that stop, hang or die: what waits for them is answered, and nobody else notices.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use tonic::{Code, Status};

use crate::harness::{
    BUSYBOX, Container, ContainerState, Frozen, FrozenDisk, Node, freezer_of, runner::tests, v1, wait_until,
};

tests![
    a_supervisor_that_stands_still_costs_its_own_calls_a_deadline,
    an_exec_in_a_frozen_container_is_answered_when_its_time_is_up,
    an_exec_is_answered_while_the_disk_of_the_log_is_frozen,
    a_helper_in_the_kernels_hands_takes_its_cgroup_along_when_it_ends,
    a_zygote_that_was_killed_is_replaced_before_it_is_needed,
    a_zygote_that_stands_still_is_replaced,
];

/// A process that was stopped; it goes on at the end of the test at the latest.
struct Stopped<'n> {
    node: &'n Node,
    pid: String,
}

impl<'n> Stopped<'n> {
    fn new(node: &'n Node, pid: u32) -> Self {
        let stopped = Self { node, pid: pid.to_string() };
        node.run("kill", ["-STOP", &stopped.pid]);
        stopped
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        // One that was killed meanwhile needs it no more.
        let _ = self.node.command("kill").args(["-CONT", &self.pid]).output();
    }
}

/// The pid of a container's supervisor, its parent, as the node sees it.
fn supervisor_of(node: &Node, container: &Container<'_>) -> u32 {
    let status = node.read(&format!("/proc/{}/status", container.pid()));
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    parent.expect("a parent").trim().parse().unwrap()
}

/// An answer of the daemon's own that something took too long, and not of the client that has waited.
#[track_caller]
fn assert_late<T: std::fmt::Debug>(answer: Result<T, Status>) {
    let late = answer.expect_err("a supervisor that stands still");
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
    assert!(late.message().contains("no answer"), "{late}");
}

fn reopen_log(node: &Node, container: &Container<'_>) -> Result<(), Status> {
    let request = v1::ReopenContainerLogRequest { container_id: container.id.clone() };
    node.cri().reopen_container_log(request).map(drop)
}

fn a_supervisor_that_stands_still_costs_its_own_calls_a_deadline() {
    let node = Node::start();
    let (pod, other) = (node.run_pod("web"), node.run_pod("other").run_in("main", ["sleep", "1000"]));
    let container = pod.run_in("main", ["sleep", "1000"]);
    let waiting = pod.create("waiting", BUSYBOX, ["sleep", "1000"]);
    let doomed = pod.run_in("doomed", ["sleep", "1000"]);

    let stopped = Stopped::new(&node, supervisor_of(&node, &container));
    std::thread::scope(|scope| {
        scope.spawn(|| assert_late(container.try_exec(["true"], 1)));
        scope.spawn(|| assert_late(container.try_exec(["true"], 0)));
        scope.spawn(|| assert_late(reopen_log(&node, &container)));
        scope.spawn(|| assert_late(waiting.try_start()));
        scope.spawn(|| assert_late(pod.try_create("new", BUSYBOX, ["sleep", "1000"], |_| {})));
        // What can be done without it is done.
        scope.spawn(|| doomed.kill());
        // And nobody else waits.
        for _ in 0..10 {
            assert_eq!(other.shell("echo here"), "here\n");
            assert_eq!(node.pods().len(), 2);
        }
    });
    assert_eq!(doomed.state(), ContainerState::ContainerExited);
    doomed.remove();

    drop(stopped);
    assert_eq!(container.shell("echo back"), "back\n");
    reopen_log(&node, &container).unwrap();
    let again = pod.run_in("new", ["sleep", "1000"]);
    assert_eq!(again.state(), ContainerState::ContainerRunning);
    wait_until("the late execs are gone", || !container.shell("ps").contains("true"));
    node.assert_clean();
}

fn an_exec_in_a_frozen_container_is_answered_when_its_time_is_up() {
    let node = Node::start();
    let container = node.run_pod("web").run_in("main", ["sleep", "1000"]);
    let frozen = Frozen::new(&node, &container);
    let late = container.try_exec(["true"], 1).unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded, "{late}");
    assert!(frozen.is_so(), "a time-out is no reason to thaw it");
    drop(frozen);

    assert_eq!(container.shell("echo back"), "back\n");
    node.assert_clean();
}

fn an_exec_is_answered_while_the_disk_of_the_log_is_frozen() {
    if Command::new("losetup").arg("--find").output().is_ok_and(|found| !found.status.success()) {
        eprintln!("skipped: no loop device to be had");
        return;
    }
    let node = Node::start();
    let logs = node.path("logs/web").to_string_lossy().into_owned();
    fs::create_dir(&logs).unwrap();
    let disk = FrozenDisk::mount(&node, &logs);
    let script = "for n in $(seq 300); do echo $n; sleep 0.01; done; sleep 1000";
    let container = node.run_pod("web").run_in("main", ["sh", "-c", script]);
    let log = || node.read(&container.log_file().to_string_lossy());
    let supervisor = format!("/proc/{}/status", supervisor_of(&node, &container));
    wait_until("it has written", || log().lines().count() > 10);

    disk.freeze();
    wait_until("its supervisor waits for the disk", || node.read(&supervisor).contains("State:\tD"));
    assert_late(container.try_exec(["true"], 1));
    disk.thaw();

    wait_until("every line is there", || log().lines().count() == 300);
    assert_eq!(container.shell("echo back"), "back\n");
    node.remove_pods();
    drop(disk);
    node.assert_clean();
}

/// A create hangs in the kernel and is given up; what it leaves does not wait for the end of the pod.
fn a_helper_in_the_kernels_hands_takes_its_cgroup_along_when_it_ends() {
    if Command::new("losetup").arg("--find").output().is_ok_and(|found| !found.status.success()) {
        eprintln!("skipped: no loop device to be had");
        return;
    }
    let node = Node::start();
    let place = node.path("shared/disk").to_string_lossy().into_owned();
    fs::create_dir(&place).unwrap();
    let disk = FrozenDisk::mount(&node, &place);
    let container = node.run_pod("web").run_in("main", ["sleep", "1000"]);
    let supervisor = supervisor_of(&node, &container);
    let hangs = || {
        let children = node.read(&format!("/proc/{supervisor}/task/{supervisor}/children"));
        let of = |pid: &str| node.read(&format!("/proc/{pid}/status"));
        children.split_whitespace().any(|pid| of(pid).contains("State:\tD"))
    };
    let pod = freezer_of(&node, &container).parent().unwrap().to_owned();
    let cgroups = || fs::read_dir(&pod).unwrap().flatten().filter(|entry| entry.path().is_dir()).count();
    let before = cgroups();

    disk.freeze();
    std::thread::scope(|scope| {
        let stuck = scope.spawn(|| {
            let made = container.pod.try_create("stuck", BUSYBOX, ["sleep", "1000"], |config| {
                config.mounts = vec![v1::Mount {
                    container_path: "/data".into(),
                    // Missing, so the helper makes it.
                    host_path: format!("{place}/volume"),
                    ..Default::default()
                }];
            });
            made.map(drop)
        });
        wait_until("the helper hangs", hangs);
        node.kill_daemon();
        assert!(stuck.join().unwrap().is_err());
    });
    // As long as the supervisor tries at once, and without a daemon that could help.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(cgroups(), before + 1, "that of the helper, which cannot be killed");
    disk.thaw();

    wait_until("it is gone with the helper", || cgroups() == before);
    node.start_daemon();
    assert_eq!(container.shell("echo here"), "here\n");
    node.remove_pods();
    drop(disk);
    node.assert_clean();
}

/// The pids of the daemon's children that are zygotes, zombies included.
fn zygotes(node: &Node) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{}/task", node.daemon_pid())).unwrap().flatten();
    let children = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    children
        .flat_map(|pids| pids.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>())
        .collect()
}

/// The pid of the one zygote, as the test sees it.
#[track_caller]
fn zygote(node: &Node) -> u32 {
    let mut found = Vec::new();
    wait_until("there is one zygote", || {
        found = zygotes(node);
        found.len() == 1
    });
    found[0]
}

fn signal(pid: u32, signal: &str) {
    let sent = Command::new("kill").args([signal, &pid.to_string()]).status().unwrap();
    assert!(sent.success());
}

fn a_zygote_that_was_killed_is_replaced_before_it_is_needed() {
    let node = Node::start();
    let mut before = zygote(&node);
    for _ in 0..3 {
        signal(before, "-KILL");
        wait_until("another one is there, and no zombie", || {
            zygotes(&node).len() == 1 && zygotes(&node) != [before]
        });
        before = zygote(&node);
    }
    // Killed and needed at the same moment.
    for nth in 0..4 {
        signal(zygote(&node), "-KILL");
        node.run_pod(&format!("web-{nth}"));
    }
    node.assert_clean();
}

fn a_zygote_that_stands_still_is_replaced() {
    let node = Node::start();
    node.run_pod("before");
    let stopped = zygote(&node);
    signal(stopped, "-STOP");

    let container = node.run_pod("web").run_in("main", ["sleep", "1000"]);

    assert_eq!(container.state(), ContainerState::ContainerRunning);
    assert_ne!(zygote(&node), stopped);
    assert!(!PathBuf::from(format!("/proc/{stopped}")).exists());
    node.assert_clean();
}
