//! The public holes of other container runtimes, tried on ours.

use std::{fs, os::unix::fs::MetadataExt as _, time::Duration};

use crate::harness::{BUSYBOX, Container, ContainerState, Node, Pod, Setup, runner::tests, v1, wait_until};

tests![
    the_nodes_null_device_is_out_of_reach,
    a_container_cannot_change_the_nodes_device_files,
    an_exec_dies_for_memory_as_its_container_would,
    no_descriptor_is_a_way_out,
    a_program_that_is_the_runtime_gains_nothing,
    awkward_paths_are_just_paths,
    a_volumes_place_is_found_as_the_container_would_and_never_in_proc,
    no_cgroup_can_be_written,
    what_is_masked_is_empty,
    no_namespace_can_be_left_or_made,
    no_user_id_wraps_round,
    no_capability_is_inheritable,
    the_primary_group_is_always_kept,
    a_home_with_a_line_break_makes_no_user,
    a_profile_that_is_none_is_never_unconfined,
    escalation_is_allowed_or_not_as_asked,
    a_program_with_an_endless_name_is_a_start_that_failed,
    a_create_that_lost_its_daemon_leaves_nothing,
];

type Security = v1::LinuxContainerSecurityContext;

fn security(config: &mut v1::ContainerConfig) -> &mut Security {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

/// A started container whose config `change` decides.
fn run_with<'n>(pod: &Pod<'n>, name: &str, change: impl FnOnce(&mut v1::ContainerConfig)) -> Container<'n> {
    let container = pod.create_with(name, BUSYBOX, ["sleep", "1000"], change);
    container.start();
    container
}

/// Whether a container with this config can be created and started.
fn starts(pod: &Pod<'_>, name: &str, change: impl FnOnce(&mut v1::ContainerConfig)) -> bool {
    let created = pod.try_create(name, BUSYBOX, ["sleep", "1000"], change);
    created.is_ok_and(|container| {
        let started = container.try_start().is_ok();
        container.remove();
        started
    })
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t")).unwrap_or_default().trim()
}

fn number(value: i64) -> Option<v1::Int64Value> {
    Some(v1::Int64Value { value })
}

/// CVE-2025-31133 and its kin: whoever holds the node's inode can change its owner and mode.
fn the_nodes_null_device_is_out_of_reach() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let facts = || node.run("stat", ["-c", "%d:%i %u:%g %a", "/dev/null"]);
    let before = facts();
    let container = run_with(&pod, "user", |config| security(config).run_as_user = number(1000));

    assert_eq!(facts(), before, "the owner of the node's /dev/null");
    let inode = before.split(' ').next().unwrap();
    let init = node.run("stat", ["-L", "-c", "%d:%i", &format!("/proc/{}/fd/0", container.pid())]);
    assert_ne!(init.trim(), inode, "standard input of the first process");
    let exec = container.shell("stat -L -c %d:%i /proc/self/fd/0");
    assert_ne!(exec.trim(), inode, "standard input of an exec");
    assert_eq!(container.shell("cat; echo end"), "end\n");
    node.assert_clean();
}

fn a_container_cannot_change_the_nodes_device_files() {
    let node = Node::start();
    let device = node.path("device").to_string_lossy().into_owned();
    node.run("mknod", ["-m", "640", &device, "c", "1", "5"]);
    let container = run_with(&node.run_pod("web"), "main", |config| {
        let (container_path, host_path) = ("/dev/given".into(), device.clone());
        config.devices = vec![v1::Device { container_path, host_path, permissions: "rw".into() }];
    });

    assert_eq!(container.shell("stat -c '%t:%T %u %a' /dev/given"), "1:5 0 640\n");
    container.shell("head -c 1 /dev/given >/dev/null && chmod 666 /dev/given && chown 1000 /dev/given");
    let now = fs::metadata(&device).unwrap();
    assert_eq!((now.uid(), now.mode() & 0o777), (0, 0o640));
    node.assert_clean();
}

fn an_exec_dies_for_memory_as_its_container_would() {
    let node = Node::start();
    let container = run_with(&node.run_pod("web"), "main", |config| {
        config.linux.get_or_insert_default().resources.get_or_insert_default().oom_score_adj = 500;
    });

    assert_eq!(node.read(&format!("/proc/{}/oom_score_adj", container.pid())), "500\n");
    assert_eq!(container.shell("cat /proc/self/oom_score_adj"), "500\n");
    node.assert_clean();
}

/// CVE-2024-21626.
fn no_descriptor_is_a_way_out() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let below_proc = (0..24).map(|fd| format!("/proc/self/fd/{fd}"));
    for directory in below_proc.chain(["/proc/self/root".into(), "/proc/1/cwd".into()]) {
        let there = pod.try_create("cwd", BUSYBOX, ["sleep", "1000"], |config| {
            config.working_dir = format!("{directory}/../../..");
        });
        if let Ok(container) = there {
            assert!(container.try_start().is_err(), "{directory} was entered");
            container.remove();
        }
        let program = format!("{directory}/../../../../bin/true");
        let container = pod.create("program", BUSYBOX, [&program]);
        if directory.contains("/fd/") {
            assert!(container.try_start().is_err(), "{program} was run");
            assert_eq!(container.status().reason, "StartError");
        }
        container.remove();
    }
    node.assert_clean();
}

/// CVE-2019-5736.
fn a_program_that_is_the_runtime_gains_nothing() {
    let node = Node::start();
    let container = node.run_pod("web").run_in("main", ["sleep", "1000"]);
    container.shell("ln -s /proc/self/exe /tmp/sh");
    container.shell(
        "(while :; do for p in /proc/[0-9]*; do echo x 2>/dev/null >$p/exe; done; done) >/dev/null 2>&1 &",
    );

    for _ in 0..40 {
        let ours = container.exec(["/tmp/sh", "--version"]);
        assert!(ours.stdout.starts_with("pintle ") || ours.stderr.contains("shared libraries"), "{ours:?}");
    }
    assert_eq!(container.exec(["true"]).code, 0);
    node.assert_clean();
}

/// CVE-2021-43784 and five of buildah's: a path is no option string.
fn awkward_paths_are_just_paths() {
    let node = Node::start();
    let pod = node.run_pod("web");
    for (number, name) in ["a,upperdir=b", "a:b", "a\\b", "a b", "\u{2713}"].iter().enumerate() {
        let host = node.path("shared").join(name);
        fs::create_dir_all(&host).unwrap();
        fs::write(host.join("file"), name).unwrap();
        let container = run_with(&pod, &format!("c{number}"), |config| {
            config.mounts = vec![v1::Mount {
                container_path: format!("/data/{name}"),
                host_path: host.to_string_lossy().into_owned(),
                ..Default::default()
            }];
        });
        let read = container.exec(["cat", &format!("/data/{name}/file")]);
        assert_eq!(read.stdout, *name, "{read:?}");
    }
    for path in ["/a\0b", "/a\nb", "/../../..", &format!("/{}", "a/".repeat(2048))] {
        let mounted = starts(&pod, "bad", |config| {
            let host_path = node.path("shared").to_string_lossy().into_owned();
            config.mounts = vec![v1::Mount { container_path: path.into(), host_path, ..Default::default() }];
        });
        assert!(!mounted, "{path:?}");
    }
    node.assert_clean();
}

/// CVE-2021-30465 and CVE-2019-18837, without the race: links decide where a volume goes.
fn a_volumes_place_is_found_as_the_container_would_and_never_in_proc() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let (links, data) = (node.path("shared/links"), node.path("shared/data"));
    fs::create_dir_all(&links).unwrap();
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("file"), "here").unwrap();
    let canary = node.path("canary");
    for (name, to) in
        [("dangling", "/made/../made/in"), ("up", "../../../../../../made/up"), ("proc", "/proc/self")]
    {
        std::os::unix::fs::symlink(to, links.join(name)).unwrap();
    }
    std::os::unix::fs::symlink(&canary, links.join("canary")).unwrap();
    let volumes = |target: &str| -> Vec<v1::Mount> {
        [(&links, "/links"), (&data, target)]
            .map(|(host, container_path)| v1::Mount {
                container_path: container_path.into(),
                host_path: host.to_string_lossy().into_owned(),
                ..Default::default()
            })
            .into()
    };

    for (target, seen) in
        [("/links/dangling", "/made/in"), ("/links/up/x", "/made/up/x"), ("/links/canary/x", "")]
    {
        let container =
            run_with(&pod, &target.replace('/', "-")[1..], |config| config.mounts = volumes(target));
        let place = if seen.is_empty() { target } else { seen };
        assert_eq!(container.shell(&format!("cat {place}/file")), "here", "{target}");
        assert!(!canary.exists());
    }
    for target in ["/links/proc", "/links/proc/attr", "/links/proc/root/sys"] {
        assert!(!starts(&pod, "bad", |config| config.mounts = volumes(target)), "{target}");
    }
    node.assert_clean();
}

/// CVE-2023-25809.
fn no_cgroup_can_be_written() {
    let node = Node::start();
    let container = node.run_pod("web").run_in("main", ["sleep", "1000"]);
    let script = "for d in /sys/fs/cgroup /sys/fs/cgroup/*/; do mkdir $d/x 2>&1 && echo made $d; done; true";
    for line in container.shell(script).lines() {
        assert!(line.contains("Read-only file system"), "{line}");
    }
    let moved = container.exec([
        "sh",
        "-c",
        "echo 1 >/sys/fs/cgroup/memory/cgroup.procs || echo 1 >/sys/fs/cgroup/cgroup.procs",
    ]);
    assert!(moved.code != 0 && moved.stderr.contains("Read-only"), "{moved:?}");
    node.assert_clean();
}

fn what_is_masked_is_empty() {
    let node = Node::start();
    let masked = [
        "/proc/acpi",
        "/proc/asound",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/sys/devices/virtual/powercap",
        "/sys/firmware",
    ];
    let container = run_with(&node.run_pod("web"), "main", |config| {
        security(config).masked_paths = masked.map(String::from).to_vec();
    });
    for path in masked {
        let there = container
            .shell(&format!("if [ -d {path} ]; then ls -A {path}; elif [ -e {path} ]; then cat {path}; fi"));
        assert_eq!(there, "", "{path}");
        let bared = container.exec(["umount", path]);
        assert_ne!(bared.code, 0, "{path} was bared");
    }
    for path in ["/proc/sys/kernel/hostname", "/proc/irq", "/proc/bus", "/proc/fs", "/sys/kernel"] {
        let written = container.exec([
            "sh",
            "-c",
            &format!("if [ -d {path} ]; then mkdir {path}/x; else echo x >{path}; fi"),
        ]);
        assert_ne!(written.code, 0, "{path} was written");
    }
    node.assert_clean();
}

/// CVE-2022-0185 and CVE-2022-0492 begin with a new namespace.
fn no_namespace_can_be_left_or_made() {
    let node = Node::start();
    let container = node.run_pod("web").run_in("main", ["sleep", "1000"]);
    for kind in ["--user", "--mount", "--net", "--pid", "--ipc", "--uts"] {
        let made = container.exec(["unshare", kind, "true"]);
        assert!(made.code != 0 && made.stderr.contains("not permitted"), "{kind}: {made:?}");
    }
    for command in [
        "mount -t proc none /mnt",
        "mount -o bind / /mnt",
        "mount -o remount,rw /sys",
        "hostname x",
        "nsenter -t 1 -m true",
        "swapon /x",
    ] {
        let done = container.exec(["sh", "-c", command]);
        assert_ne!(done.code, 0, "{command}: {done:?}");
    }
    node.assert_clean();
}

/// CVE-2024-40635.
fn no_user_id_wraps_round() {
    let node = Node::start();
    let pod = node.run_pod("web");
    for uid in [-1, 4_294_967_295, 4_294_967_296, i64::MAX, i64::MIN] {
        assert!(!starts(&pod, "bad", |config| security(config).run_as_user = number(uid)), "{uid}");
    }
    for name in ["4294967295", "4294967296", "18446744073709551616", "-1", "+1", "0x0", " 0"] {
        assert!(!starts(&pod, "bad", |config| security(config).run_as_username = name.into()), "{name:?}");
    }
    for uid in [2_147_483_647, 2_147_483_648, 4_294_967_294] {
        for attempt in 0..2 {
            let container = run_with(&pod, &format!("u{uid}-{attempt}"), |config| {
                security(config).run_as_user = number(uid)
            });
            let status = node.read(&format!("/proc/{}/status", container.pid()));
            let [id, ..] = field(&status, "Uid").split('\t').collect::<Vec<_>>()[..] else {
                panic!("{status}")
            };
            assert_eq!(id, uid.to_string());
            assert_eq!(container.shell("id -u"), format!("{uid}\n"));
        }
    }
    node.assert_clean();
}

/// CVE-2022-24769 and its kin.
fn no_capability_is_inheritable() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let all = |add: bool| {
        let (mut chosen, names) = (v1::Capability::default(), vec!["ALL".to_owned()]);
        if add {
            chosen.add_capabilities = names
        } else {
            chosen.drop_capabilities = names
        }
        Some(chosen)
    };
    for (name, capabilities, user) in
        [("default", None, 0), ("all", all(true), 0), ("none", all(false), 0), ("user", all(true), 1000)]
    {
        let container = run_with(&pod, name, |config| {
            security(config).capabilities = capabilities;
            security(config).run_as_user = number(user);
        });
        let init = node.read(&format!("/proc/{}/status", container.pid()));
        for status in [init, container.shell("cat /proc/self/status")] {
            for set in ["CapInh", "CapAmb"] {
                assert_eq!(field(&status, set), "0000000000000000", "{name}: {set}");
            }
            assert!(user == 0 || field(&status, "CapEff") == "0000000000000000", "{name}: {status}");
        }
    }
    node.assert_clean();
}

/// CVE-2022-2995, CVE-2023-25173: who can leave a group escapes what its files deny it.
fn the_primary_group_is_always_kept() {
    let node = Node::start();
    let pod = node.run_pod("web");
    for (name, group, others, groups) in [
        ("user", None, vec![], "0"),
        ("group", number(77), vec![], "77"),
        ("more", number(77), vec![60, 77, 61], "77 60 61"),
        ("zero", number(0), vec![60], "0 60"),
    ] {
        let container = run_with(&pod, name, |config| {
            security(config).run_as_user = number(12345);
            security(config).run_as_group = group;
            security(config).supplemental_groups = others;
        });
        let mut expected: Vec<&str> = groups.split(' ').collect();
        expected.sort_unstable();
        let init = node.read(&format!("/proc/{}/status", container.pid()));
        for status in [init, container.shell("cat /proc/self/status")] {
            let mut held: Vec<&str> = field(&status, "Groups").split(' ').collect();
            held.sort_unstable();
            assert_eq!(held, expected, "{name}");
        }
    }
    node.assert_clean();
}

/// CVE-2022-4318, CVE-2026-15809.
fn a_home_with_a_line_break_makes_no_user() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let plain = node.run_pod("plain").run_in("main", ["sleep", "1000"]).shell("cat /etc/passwd");
    for (number, home) in ["/root\nx::0:0::/:/bin/sh", "/root\rx", "/r\\nx::0:0::/:/bin/sh", "a:b:c", ""]
        .into_iter()
        .enumerate()
    {
        let created = pod.try_create(&format!("c{number}"), BUSYBOX, ["sleep", "1000"], |config| {
            config.envs = vec![v1::KeyValue { key: "HOME".into(), value: home.into() }];
        });
        let Ok(container) = created else {
            assert!(!home.contains('\\'), "{home:?} is harmless");
            continue;
        };
        container.start();
        assert_eq!(container.shell("cat /etc/passwd"), plain, "{home:?}");
        assert_eq!(container.shell("tr '\\0' '\\n' </proc/1/environ | grep -c ^HOME="), "1\n", "{home:?}");
    }
    node.assert_clean();
}

/// CVE-2023-2431.
fn a_profile_that_is_none_is_never_unconfined() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let file = |name: &str, text: &str| {
        let path = node.path("shared").join(name);
        fs::write(&path, text).unwrap();
        path.to_string_lossy().into_owned()
    };
    let folder = node.path("shared").to_string_lossy().into_owned();
    let bad = [
        String::new(),
        "profile.json".into(),
        "../profile.json".into(),
        "/nowhere/profile.json".into(),
        folder,
        file("empty", ""),
        file("no.json", "{"),
        file("null.json", "null"),
        file("what.json", "{\"defaultAction\":\"SCMP_ACT_WHAT\"}"),
    ];
    for localhost_ref in bad {
        let profile_type = v1::security_profile::ProfileType::Localhost.into();
        let profile = v1::SecurityProfile { profile_type, localhost_ref: localhost_ref.clone() };
        assert!(!starts(&pod, "bad", |config| security(config).seccomp = Some(profile)), "{localhost_ref:?}");
    }
    node.assert_clean();
}

fn escalation_is_allowed_or_not_as_asked() {
    let node = Node::start();
    let pod = node.run_pod("web");
    for (user, no_new_privs, unconfined) in [
        (0, false, false),
        (0, true, false),
        (1000, false, false),
        (1000, true, false),
        (1000, false, true),
        (1000, true, true),
    ] {
        let container = run_with(&pod, &format!("c{user}-{no_new_privs}-{unconfined}"), |config| {
            security(config).run_as_user = number(user);
            security(config).no_new_privs = no_new_privs;
            if unconfined {
                let profile_type = v1::security_profile::ProfileType::Unconfined.into();
                security(config).seccomp = Some(v1::SecurityProfile { profile_type, ..Default::default() });
            }
        });
        let expected = (if no_new_privs { "1" } else { "0" }, if unconfined { "0" } else { "2" });
        let init = node.read(&format!("/proc/{}/status", container.pid()));
        for status in [init, container.shell("cat /proc/self/status")] {
            assert_eq!((field(&status, "NoNewPrivs"), field(&status, "Seccomp")), expected, "{user}");
        }
    }
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
