//! What a launch that fails says, and what those who list processes see of one that does not.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command, thread};

use crate::harness::{BUSYBOX, Container, Node, Pod, Setup, runner::tests, v1, wait_until};

tests![
    a_program_that_the_kernel_does_not_take_says_what_to_change,
    a_mount_of_a_directory_on_a_file_names_both,
    an_init_that_is_killed_before_its_program_says_so,
    a_short_program_is_started_though_its_helper_still_runs,
    ps_tells_the_processes_of_pintle_apart,
    each_container_has_a_keyring_that_its_execs_share,
    how_the_daemon_is_scheduled_is_not_how_workloads_are,
    workloads_may_leave_core_dumps_and_the_daemon_leaves_none,
    a_program_with_an_endless_name_is_a_start_that_failed,
];

/// A container that sees the folder `shared` of the node at `/host`.
fn with_host<'n>(node: &'n Node, pod: &Pod<'n>, name: &str, command: &str) -> Container<'n> {
    pod.create_with(name, BUSYBOX, [command, "1000"], |config| {
        let host_path = node.path("shared").to_string_lossy().into_owned();
        config.mounts = vec![v1::Mount { container_path: "/host".into(), host_path, ..Default::default() }];
    })
}

fn a_program_that_the_kernel_does_not_take_says_what_to_change() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let shared = node.path("shared");
    fs::create_dir_all(&shared).unwrap();
    let cases: [(&str, u32, &[u8], &str); 4] = [
        ("missing", 0o755, b"#!/bin/bash\necho\n", "its interpreter \"/bin/bash\" is not in the container"),
        ("windows", 0o755, b"#!/bin/sh\r\necho\r\n", "save it with LF"),
        ("plain", 0o644, b"#!/bin/sh\n", "its mode 0644 lets nobody execute it"),
        ("text", 0o755, b"hello\n", "neither a program for this node nor a script"),
    ];
    for (name, mode, text, _) in cases {
        let path = shared.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let running = with_host(&node, &pod, "running", "sleep");
    running.start();

    for (name, _, _, said) in cases {
        let program = format!("/host/{name}");
        let container = with_host(&node, &pod, name, &program);
        let refused = container.try_start().unwrap_err();
        assert!(refused.message().contains(&program) && refused.message().contains(said), "{refused}");
        assert_eq!(container.status().reason, "StartError");
        let refused = running.try_exec([&program], 5).unwrap_err();
        assert!(refused.message().contains(said), "{refused}");
    }
    let searched = ["sh", "-c", "cp /host/missing /tmp/tool; chmod 755 /tmp/tool"];
    assert_eq!(running.exec(searched).code, 0);
    let nowhere = running.try_exec(["no-such-tool"], 5).unwrap_err();
    assert!(nowhere.message().contains("not found in PATH"), "{nowhere}");
    node.assert_clean();
}

fn a_mount_of_a_directory_on_a_file_names_both() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let (folder, file) = (node.path("shared/folder"), node.path("shared/file"));
    fs::create_dir_all(&folder).unwrap();
    fs::write(&file, "").unwrap();

    for (host, container_path, said) in [
        (&folder, "/etc/passwd", "the source is a directory, but the container has a file there"),
        (&file, "/etc", "the source is a file, but the container has a directory there"),
    ] {
        let refused = pod
            .try_create("mounting", BUSYBOX, ["sleep", "1000"], |config| {
                let host_path = host.to_string_lossy().into_owned();
                let container_path = container_path.into();
                config.mounts = vec![v1::Mount { container_path, host_path, ..Default::default() }];
            })
            .unwrap_err();
        assert!(refused.message().contains(container_path) && refused.message().contains(said), "{refused}");
    }
    node.assert_clean();
}

fn an_init_that_is_killed_before_its_program_says_so() {
    let node = Node::start();
    let container = node.run_pod("web").create("main", BUSYBOX, ["sleep", "1000"]);
    let pid = container.pid().to_string();
    node.run("kill", ["-STOP", &pid]);

    let refused = thread::scope(|scope| {
        let starting = scope.spawn(|| container.try_start());
        // Its death and its start may come in either order: both are before its program.
        node.run("kill", ["-KILL", &pid]);
        starting.join().unwrap().unwrap_err()
    });

    let killed = "it was killed before it could execute its program";
    let ended = "only a created container can be started";
    assert!(refused.message().contains(killed) || refused.message().contains(ended), "{refused}");
    // 128: a start that failed.
    assert!([128, 137].contains(&container.wait()), "{:?}", container.status());
    node.assert_clean();
}

fn a_short_program_is_started_though_its_helper_still_runs() {
    let node = Node::start_with(&Setup { failpoints: "helper.done=delay(1000)".into(), ..Setup::default() });
    let container = node.run_pod("web").run_in("main", ["sh", "-c", "exit 3"]);
    assert_eq!(container.wait(), 3);
    assert!(container.status().started_at > 0, "{:?}", container.status());
    node.assert_clean();
}

/// What `ps` on the test's machine shows of a process: its name and its command line.
fn shown(pid: &str) -> (String, String) {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    (read("comm").trim().to_owned(), read("cmdline").trim_end_matches('\0').to_owned())
}

fn children(pid: &str) -> Vec<String> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().map(str::to_owned).collect()
}

fn ps_tells_the_processes_of_pintle_apart() {
    let node = Node::start();
    node.pull(BUSYBOX);
    node.kill_daemon();
    let failpoints = "supervisor.container-cgroup-made=1*delay(4000)".to_owned();
    node.start_daemon_with(&Setup { failpoints, ..Setup::default() });
    let pod = node.run_pod("web");

    let zygote = children(&node.daemon_pid().to_string()).pop().expect("a zygote");
    assert_eq!(shown(&zygote), ("pintle:zygote".into(), "pintle: zygote".into()));
    let supervisor = children(&zygote).pop().expect("a supervisor");
    let (name, line) =
        (format!("pintle:{}", &pod.id[..8]), format!("pintle: supervisor of pod e2e/web {}", pod.id));
    assert_eq!(shown(&supervisor), (name, line));
    thread::scope(|scope| {
        let creating = scope.spawn(|| pod.create("main", BUSYBOX, ["sleep", "1000"]));
        let helper = format!("pintle: helper of pod {}: create ", pod.id);
        wait_until("a helper is seen", || {
            let seen = children(&supervisor).first().map(|pid| shown(pid));
            seen.is_some_and(|(name, line)| name == "pintle:helper" && line.starts_with(&helper))
        });
        let container = creating.join().unwrap();
        let init = format!("/proc/{}/comm", container.pid());
        assert_eq!(node.read(&init), "pintle:init\n");
        container.start();
        assert_eq!(node.read(&init), "sleep\n");
    });
    node.assert_clean();
}

fn each_container_has_a_keyring_that_its_execs_share() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let run = |name: &str, user: i64| {
        let container =
            pod.create_with(name, "registry.test/pintle/keyring:1", ["/keyring", "stay"], |config| {
                let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
                security.run_as_user = Some(v1::Int64Value { value: user });
                let profile_type = v1::security_profile::ProfileType::Unconfined.into();
                security.seccomp = Some(v1::SecurityProfile { profile_type, localhost_ref: String::new() });
            });
        container.start();
        wait_until("it has said its keyring", || !container.log_texts().is_empty());
        container
    };
    let (first, second) = (run("first", 0), run("second", 1000));

    let of_init = |container: &Container<'_>| container.log_texts()[0].clone();
    let of_exec = |container: &Container<'_>| container.exec(["/keyring"]).stdout.trim().to_owned();
    assert_ne!(of_init(&first), of_init(&second));
    for container in [&first, &second] {
        assert!(of_init(container).parse::<i64>().unwrap() > 0);
        assert_eq!(of_exec(container), of_init(container));
        assert!(node.read("/proc/keys").contains(&format!("pintle.{}", container.id)));
    }
    node.assert_clean();
}

/// Niceness and policy (sched(7)) of a process, from its `/proc/PID/stat`, and its processors, from `/proc/PID/status`.
fn scheduling(stat: &str, status: &str) -> (i32, i32, String) {
    // From the third field of proc_pid_stat(5) on.
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let processors = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:\t")).unwrap();
    (fields[16].parse().unwrap(), fields[38].parse().unwrap(), processors.into())
}

fn how_the_daemon_is_scheduled_is_not_how_workloads_are() {
    let node = Node::start();
    node.pull(BUSYBOX);
    // As `Nice=`, `CPUSchedulingPolicy=`, `CPUAffinity=` and `IOSchedulingClass=` of a unit do.
    let under = "nice -n 7 chrt --batch 0 taskset --cpu-list 0 ionice --class idle";
    let under = under.split(' ').map(str::to_owned).collect();
    node.restart_daemon_with(&Setup { under, ..Setup::default() });
    let of = |pid: u32| {
        let read = |file: &str| node.read(&format!("/proc/{pid}/{file}"));
        let class = node.run("ionice", ["--pid", &pid.to_string()]);
        (scheduling(&read("stat"), &read("status")), class.trim().to_owned())
    };
    let daemon = node.namespaces().processes().into_iter().find(|(_, line)| line.contains(" serve --config"));
    assert_eq!(of(daemon.expect("a daemon").0), ((7, 3, "0".into()), "idle".into()));

    let container = node.run_pod("web").run_in("main", ["sleep", "1000"]);

    let status = fs::read_to_string("/proc/self/status").unwrap();
    let processors = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:\t")).unwrap();
    let usual = (0, 0, processors.to_owned());
    assert_eq!(of(container.pid()), (usual.clone(), "none: prio 0".into()));
    let of_exec = |file: &str| container.shell(&format!("cat /proc/self/{file}"));
    assert_eq!(scheduling(&of_exec("stat"), &of_exec("status")), usual);
    node.restart_daemon();
    node.assert_clean();
}

fn workloads_may_leave_core_dumps_and_the_daemon_leaves_none() {
    if fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap().starts_with(['/', '|']) {
        eprintln!("skipped: core dumps do not go to the working directory here");
        return;
    }
    let node = Node::start();
    let folder = node.path("cwd");
    fs::create_dir(&folder).unwrap();
    let inside = format!("cd {} && exec \"$@\"", folder.display());
    let under = ["prlimit", "--core=unlimited", "sh", "-c", &inside, "sh"].map(str::to_owned).to_vec();
    node.restart_daemon_with(&Setup { under, ..Setup::default() });
    let container = node.run_pod("web").run_in("main", ["sh", "-c", "ulimit -Sc; ulimit -Hc; sleep 1000"]);
    wait_until("it has said its limits", || container.log_texts() == ["unlimited", "unlimited"]);
    // So this machine leaves them where they are looked for.
    assert_eq!(container.shell("mkdir /made; cd /made; sh -c 'kill -ABRT $$'; ls | cut -c 1-4"), "core\n");

    let daemon = node.daemon_pid().to_string();
    assert!(Command::new("kill").args(["-ABRT", &daemon]).status().unwrap().success());
    wait_until("the daemon has ended", || !node.daemon_lives());

    let left: Vec<_> = fs::read_dir(&folder).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
    node.restart_daemon();
    node.assert_clean();
}

/// What is to be told is longer than a report may be; it must not be taken for nothing.
fn a_program_with_an_endless_name_is_a_start_that_failed() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let name = format!("/{}", "a".repeat(40_000));
    let container = pod.create("main", BUSYBOX, [&name]);
    assert!(container.try_start().is_err());
    assert_eq!((container.wait(), container.status().reason), (128, "StartError".into()));
    let other = pod.run_in("other", ["sleep", "1000"]);
    assert!(other.try_exec([&name], 5).is_err());
    node.assert_clean();
}
