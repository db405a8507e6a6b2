//! What pintle makes for a workload, and where what a workload writes goes.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
    process::Command,
};

use tonic::Code;

use crate::harness::{BUSYBOX, Container, Node, Pod, is_unified, runner::tests, v1, wait_until};

tests![
    what_is_made_for_a_workload_has_the_owner_and_mode_that_it_needs,
    what_is_made_on_the_node_for_others_can_be_read_by_them,
    the_pods_files_can_be_edited_and_cannot_fill_the_node,
    nothing_that_a_workload_writes_to_is_the_daemons,
    an_images_volumes_are_filled_writable_and_each_containers_own,
    a_mount_of_the_request_takes_the_place_of_an_images_volume,
    settings_of_the_pods_interface_are_set,
    a_directory_of_devices_is_every_device_in_it,
    a_log_is_written_beneath_its_directory_or_not_at_all,
    a_pod_is_not_put_beside_the_nodes_own_cgroups,
];

const BARE: &str = "registry.test/pintle/bare:1";
const VOLUMES: &str = "registry.test/pintle/volumes:1";

/// The user of [`BARE`].
const USER: i64 = 65532;

/// What a workload finds, whoever it is and whatever its image lacks: mode, owner and group, path; links followed.
const FOUND: [(&str, &str, &str); 31] = [
    ("755", "0:0", "/"),
    // Missing in the image, made for what is mounted there.
    ("755", "0:0", "/etc"),
    ("644", "0:0", "/etc/hostname"),
    ("644", "0:0", "/etc/hosts"),
    ("644", "0:0", "/etc/resolv.conf"),
    ("755", "0:0", "/var"),
    ("755", "0:0", "/var/run"),
    ("755", "0:0", "/var/run/secrets"),
    ("755", "0:0", "/var/run/secrets/kubernetes.io"),
    // The node's own, as they are there.
    ("711", "0:0", "/var/run/secrets/kubernetes.io/serviceaccount"),
    ("444", "0:0", "/var/run/secrets/kubernetes.io/serviceaccount/token"),
    // Missing on the node, made for the volume.
    ("755", "0:0", "/from/node"),
    // Missing in the image, made as working directory.
    ("755", "0:0", "/work"),
    ("755", "0:0", "/work/deep"),
    ("755", "0:0", "/dev"),
    ("666", "0:0", "/dev/full"),
    ("666", "0:0", "/dev/null"),
    ("666", "0:0", "/dev/random"),
    ("666", "0:0", "/dev/tty"),
    ("666", "0:0", "/dev/urandom"),
    ("666", "0:0", "/dev/zero"),
    ("666", "0:0", "/dev/ptmx"),
    ("755", "0:0", "/dev/pts"),
    ("1777", "0:0", "/dev/shm"),
    ("1777", "0:0", "/dev/mqueue"),
    // A device that was asked for, and the directory that was made for it.
    ("755", "0:0", "/dev/mine"),
    ("640", "0:7", "/dev/mine/zero"),
    ("555", "0:0", "/proc"),
    ("555", "0:0", "/sys"),
    ("755", "0:0", "/sys/fs"),
    ("755", "0:0", "/sys/fs/cgroup"),
];

/// Likewise, of the container's own cgroup: by it the JVM, Go and Node choose their size.
fn found_of_cgroup() -> Vec<(&'static str, &'static str, &'static str)> {
    if is_unified() {
        return vec![("644", "0:0", "/sys/fs/cgroup/memory.max"), ("644", "0:0", "/sys/fs/cgroup/cpu.max")];
    }
    vec![
        ("755", "0:0", "/sys/fs/cgroup/memory"),
        ("644", "0:0", "/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        ("755", "0:0", "/sys/fs/cgroup/cpu"),
        ("644", "0:0", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"),
    ]
}

/// A container of the image without anything, with a token, a volume from a place that is not there, and a device.
fn of_bare<'n>(
    node: &Node,
    pod: &Pod<'n>,
    name: &str,
    script: &str,
    change: impl FnOnce(&mut v1::ContainerConfig),
) -> Container<'n> {
    let (token, absent) = (node.path("token"), node.path("absent").join(name).join("deep"));
    if !token.exists() {
        fs::create_dir(&token).unwrap();
        fs::set_permissions(&token, fs::Permissions::from_mode(0o711)).unwrap();
        fs::write(token.join("token"), "secret\n").unwrap();
        fs::set_permissions(token.join("token"), fs::Permissions::from_mode(0o444)).unwrap();
        node.run("mknod", [&node.path("zero").to_string_lossy(), "c", "1", "5"]);
        node.run("chown", ["0:7", &node.path("zero").to_string_lossy()]);
        node.run("chmod", ["640", &node.path("zero").to_string_lossy()]);
    }
    let mount = |from: &Path, to: &str| v1::Mount {
        host_path: from.to_string_lossy().into_owned(),
        container_path: to.into(),
        ..Default::default()
    };
    let container = pod.create_with(name, BARE, ["sh", "-c", script], |config| {
        config.mounts = vec![
            mount(&token, "/var/run/secrets/kubernetes.io/serviceaccount"),
            mount(&absent, "/from/node"),
        ];
        config.devices = vec![v1::Device {
            host_path: node.path("zero").to_string_lossy().into_owned(),
            container_path: "/dev/mine/zero".into(),
            permissions: "rw".into(),
        }];
        change(config);
    });
    container.start();
    container
}

fn readonly_root(config: &mut v1::ContainerConfig) {
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().readonly_rootfs = true;
}

fn what_is_made_for_a_workload_has_the_owner_and_mode_that_it_needs() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let found: Vec<_> = FOUND.into_iter().chain(found_of_cgroup()).collect();
    let paths: Vec<&str> = found.iter().map(|(_, _, path)| *path).collect();
    let readable =
        "/etc/hosts /etc/resolv.conf /etc/hostname /var/run/secrets/kubernetes.io/serviceaccount/token";
    let script = format!(
        "stat -L -c '%a %u:%g %n' {}; id -u; pwd; umask; cat {readable} >/dev/null && echo read; echo out >/dev/stdout",
        paths.join(" ")
    );
    let expected: Vec<String> = found
        .iter()
        .map(|(mode, owner, path)| format!("{mode} {owner} {path}"))
        .chain([USER.to_string(), "/work/deep".into(), "0022".into(), "read".into(), "out".into()])
        .collect();

    for (name, is_read_only) in [("writable", false), ("read-only", true)] {
        let init = format!("{script}; sleep 1000");
        let container = of_bare(&node, &pod, name, &init, |config| {
            if is_read_only {
                readonly_root(config);
            }
        });
        wait_until("it has looked", || container.log_texts().len() >= expected.len());
        assert_eq!(container.log_texts(), expected, "first process, {name} root");
        assert_eq!(container.shell(&script).lines().collect::<Vec<_>>(), expected, "exec, {name} root");
        let refused = container.exec(["touch", "/work/deep/mine"]);
        let why = if is_read_only { "Read-only" } else { "denied" };
        assert!(refused.code != 0 && refused.stderr.contains(why), "{refused:?}");
    }

    let terminal = of_bare(&node, &pod, "terminal", "sleep 1000", |config| config.tty = true);
    let console = format!("620 {USER}:5 /dev/console\n");
    assert_eq!(terminal.shell("stat -L -c '%a %u:%g %n' /dev/console"), console);
    node.assert_clean();
}

fn what_is_made_on_the_node_for_others_can_be_read_by_them() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = of_bare(&node, &pod, "main", "echo hello; sleep 1000", |_| {});
    container.shell("true");

    let mode = |path: &Path| (path.metadata().unwrap().mode() & 0o7777, path.metadata().unwrap().uid());
    let log = container.log_file();
    for (path, expected) in [
        (log.as_path(), 0o640),
        (log.parent().unwrap(), 0o755),
        (log.parent().unwrap().parent().unwrap(), 0o755),
        (&node.path("absent"), 0o755),
        (&node.path("absent/main/deep"), 0o755),
    ] {
        assert_eq!(mode(path), (expected, 0), "{}", path.display());
    }
    for top in node.folders().cgroups.folders() {
        let mut find = Command::new("find");
        let closed = find.arg(&top).args(["-type", "d", "!", "-perm", "755"]).output().unwrap().stdout;
        assert_eq!(String::from_utf8_lossy(&closed), "", "cgroups that are not 0755");
    }
    node.assert_clean();
}

fn the_pods_files_can_be_edited_and_cannot_fill_the_node() {
    const FILES: [&str; 3] = ["/etc/hosts", "/etc/resolv.conf", "/etc/hostname"];
    let node = Node::start();
    let pod = node.run_pod("web");
    let one = pod.run_in("one", ["sleep", "1000"]);
    for file in FILES {
        one.shell(&format!("echo '# edited' >>{file}"));
    }
    let read = format!("cat {}", FILES.join(" "));
    let edited = one.shell(&read);
    assert_eq!(edited.matches("# edited").count(), 3);

    node.restart_daemon();
    let other = pod.run_in("other", ["sleep", "1000"]);
    assert_eq!(other.shell(&read), edited, "they are the pod's, for its life");
    assert!(!node.run_pod("second").run_in("main", ["sleep", "1000"]).shell(&read).contains("edited"));

    let fixed = pod.create_with("fixed", BUSYBOX, ["sleep", "1000"], readonly_root);
    fixed.start();
    let refused = fixed.exec(["sh", "-c", "echo >>/etc/hosts"]);
    assert!(refused.code != 0 && refused.stderr.contains("Read-only"), "{refused:?}");

    for file in FILES {
        let full =
            one.exec(["dd", "if=/dev/zero", &format!("of={file}"), "bs=1M", "count=64", "conv=notrunc"]);
        assert!(full.code != 0 && full.stderr.contains("No space left"), "{file}: {full:?}");
    }
    let state = node.run("du", ["-sk", &node.path("state").to_string_lossy()]);
    let kib: u64 = state.split_whitespace().next().unwrap().parse().unwrap();
    assert!(kib < 1024, "the daemon's state has grown to {kib} KiB");
    // Nor does it harm the pod itself.
    let late = pod.run_in("late", ["sleep", "1000"]);
    late.shell("echo 127.0.0.1 localhost >/etc/hosts");
    assert_eq!(one.shell("cat /etc/hosts"), "127.0.0.1 localhost\n");
    node.assert_clean();
}

/// Places in the file systems of the node that `container` has mounted and could write to.
fn writable_places(node: &Node, container: &Container<'_>) -> Vec<String> {
    let table = node.read(&format!("/proc/{}/mountinfo", container.pid()));
    let own = node.path("").to_string_lossy().trim_end_matches('/').rsplit('/').next().unwrap().to_owned();
    let place = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        let is_writable = fields[5].split(',').any(|option| option == "rw");
        let at = fields[3].split_once(&own).map(|(_, within)| within.to_owned());
        at.filter(|_| is_writable)
    };
    table.lines().filter_map(place).collect()
}

fn nothing_that_a_workload_writes_to_is_the_daemons() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let plain = pod.run_in("plain", ["sleep", "1000"]);
    assert_eq!(writable_places(&node, &plain), [""; 0]);
    let with_volumes = pod.create_with("volumes", VOLUMES, ["sleep", "1000"], readonly_root);
    with_volumes.start();
    let mut places = writable_places(&node, &with_volumes);
    places.sort();
    let own = |number| format!("/root/containers/{}/volumes/{number}", with_volumes.id);
    assert_eq!(places, [own(0), own(1), own(2), own(3)]);
    node.assert_clean();
}

fn an_images_volumes_are_filled_writable_and_each_containers_own() {
    let look = "stat -c '%a %u:%g %h %F %n' /data /data/* /data/inner/* /run/spool /missing/deep /cache; \
                readlink /data/link; cat /data/kept";
    let expected = "\
2750 1000:2000 3 directory /data
1777 0:0 2 directory /data/inner
640 1000:2000 2 regular file /data/kept
777 0:0 1 symbolic link /data/link
666 0:0 1 character special file /data/null
755 0:0 1 regular file /data/raw
640 1000:2000 2 regular file /data/inner/second
4755 0:0 1 regular file /data/inner/tool
700 1000:2000 2 directory /run/spool
755 0:0 2 directory /missing/deep
755 0:0 2 directory /cache
inner/tool
of the image
";
    let node = Node::start();
    let pod = node.run_pod("db");
    for (name, is_read_only) in [("writable", false), ("read-only", true)] {
        let container = pod.create_with(name, VOLUMES, ["sleep", "1000"], |config| {
            if is_read_only {
                readonly_root(config);
            }
        });
        container.start();
        assert_eq!(container.shell(look), expected, "{name} root");
        container.shell("touch /data/new /data/inner/new /var/run/spool/new /missing/deep/new /cache/new");
        assert_eq!(container.exec(["touch", "/new"]).code == 0, !is_read_only, "{name} root");
        // What an overlay cannot be used for, a database or another overlay, is what images have volumes for.
        assert_eq!(container.shell("grep -c ' /data .* overlay ' /proc/self/mountinfo || true"), "0\n");
        let raw = node.path("root/containers").join(&container.id).join("volumes/1/raw");
        let mut value = [0; 64];
        let length = rustix::fs::getxattr(&raw, "security.capability", &mut value).unwrap();
        assert_eq!((length, value[4..8].to_vec()), (20, vec![0, 32, 0, 0]), "capabilities of a program");
        let folder = node.path("root/containers").join(&container.id);
        container.kill();
        container.remove();
        assert!(!folder.exists(), "{}", folder.display());
    }
    node.assert_clean();
}

fn a_mount_of_the_request_takes_the_place_of_an_images_volume() {
    let node = Node::start();
    let pod = node.run_pod("db");
    fs::write(node.path("shared/of-node"), "").unwrap();
    let container = pod.create_with("main", VOLUMES, ["sleep", "1000"], |config| {
        let host_path = node.path("shared").to_string_lossy().into_owned();
        config.mounts = vec![v1::Mount { container_path: "/data".into(), host_path, ..Default::default() }];
    });
    container.start();

    assert_eq!(container.shell("ls /data"), "of-node\n");
    let volumes = node.path("root/containers").join(&container.id).join("volumes");
    assert_eq!(fs::read_dir(volumes).unwrap().count(), 3, "the other three");
    node.assert_clean();
}

fn settings_of_the_pods_interface_are_set() {
    let node = Node::start();
    let asking = |name: &str, sysctls: &[(&str, &str)]| {
        node.try_run_pod(name, |config| {
            let asked = sysctls.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            config.linux.get_or_insert_default().sysctls.extend(asked);
        })
    };
    let wanted = [
        ("net.ipv4.conf.eth0.rp_filter", "2"),
        ("net/ipv4/conf/eth0/arp_ignore", "1"),
        ("net/ipv4/neigh/eth0/gc_stale_time", "77"),
        ("net.ipv4.conf.default.arp_announce", "2"),
    ];
    let pod = asking("web", &wanted).unwrap();
    let container = pod.run_in("main", ["sleep", "1000"]);
    let read = "cd /proc/sys/net/ipv4; cat conf/eth0/rp_filter conf/eth0/arp_ignore neigh/eth0/gc_stale_time \
                conf/eth0/arp_announce";
    assert_eq!(container.shell(read), "2\n1\n77\n2\n");

    for bad in [("net.ipv4.conf.eth0.no_such", "1"), ("net/ipv4/conf/eth7/rp_filter", "1")] {
        let refused = asking("bad", &[bad]).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        assert!(refused.message().contains(&bad.0.replace('/', ".")), "{refused}");
    }
    node.assert_clean();
}

fn a_directory_of_devices_is_every_device_in_it() {
    let node = Node::start();
    let pod = node.run_pod("media");
    let devices = node.path("devices");
    fs::create_dir_all(devices.join("by-id")).unwrap();
    for (path, minor) in [("zero", "5"), ("by-id/null", "3")] {
        node.run("mknod", [&devices.join(path).to_string_lossy(), "c", "1", minor]);
    }
    fs::write(devices.join("readme"), "").unwrap();
    symlink("zero", devices.join("link")).unwrap();
    let asking = |name: &str, host_path: &Path| {
        pod.try_create(name, BUSYBOX, ["sleep", "1000"], |config| {
            config.devices = vec![v1::Device {
                host_path: host_path.to_string_lossy().into_owned(),
                container_path: "/dev/mine".into(),
                permissions: "rw".into(),
            }];
        })
    };
    let container = asking("main", &devices).unwrap();
    container.start();
    assert_eq!(container.shell("cd /dev/mine; ls -d * */*"), "by-id\nby-id/null\nzero\n");
    assert_eq!(container.shell("head -c 3 /dev/mine/zero | wc -c; echo >/dev/mine/by-id/null"), "3\n");

    let refused = asking("file", &devices.join("readme")).unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("readme: is neither a device nor a directory"), "{refused}");
    node.assert_clean();
}

fn a_log_is_written_beneath_its_directory_or_not_at_all() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let logs = Path::new(&pod.config.log_directory).to_path_buf();
    let elsewhere = node.path("elsewhere");
    fs::create_dir_all(&elsewhere).unwrap();
    fs::create_dir_all(&logs).unwrap();
    symlink(&elsewhere, logs.join("turned")).unwrap();

    let refused = pod.try_create("turned", BUSYBOX, ["true"], |_| {}).unwrap_err();
    assert!(
        refused.message().contains("turned/0.log") && refused.message().contains("symbolic link"),
        "{refused}"
    );

    let container = pod.run_in("main", ["sh", "-c", "while :; do echo line; sleep 0.1; done"]);
    wait_until("it logs", || !container.log().is_empty());
    let kept = logs.join("kept");
    fs::rename(logs.join("main"), &kept).unwrap();
    symlink(&elsewhere, logs.join("main")).unwrap();
    let reopen = v1::ReopenContainerLogRequest { container_id: container.id.clone() };
    let refused = node.cri().reopen_container_log(reopen.clone()).unwrap_err();
    assert!(refused.message().contains("symbolic link"), "{refused}");
    let size = || fs::metadata(kept.join("0.log")).unwrap().len();
    let before = size();
    wait_until("the old log goes on", || size() > before);
    assert_eq!(fs::read_dir(&elsewhere).unwrap().count(), 0, "something was written elsewhere");

    fs::remove_file(logs.join("main")).unwrap();
    fs::create_dir(logs.join("main")).unwrap();
    node.cri().reopen_container_log(reopen).unwrap();
    wait_until("the new log is written", || !container.log().is_empty());
    node.assert_clean();
}

fn a_pod_is_not_put_beside_the_nodes_own_cgroups() {
    let node = Node::start();
    for root in ["/", "//", "-.slice"] {
        let refused = node
            .try_run_pod("web", |config| config.linux.get_or_insert_default().cgroup_parent = root.into())
            .unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{root}: {refused}");
        assert!(refused.message().contains("root"), "{root}: {refused}");
    }
    node.assert_clean();
}
