//! Pods with users of their own (hostUsers: false): root inside, nobody on the node.

use std::{fs, os::unix::fs::MetadataExt as _};

use tonic::Code;

use crate::harness::{
    BUSYBOX, Container, Node, Pod,
    runner::tests,
    v1::{self, ContainerState, NamespaceMode},
    wait_until,
};

tests![
    root_of_a_pod_is_nobody_on_the_node,
    namespaces_and_kernel_file_systems_are_the_pods,
    volumes_belong_to_the_ids_that_they_are_mapped_to,
    an_image_is_a_volume_of_the_pods_root,
    containers_that_share_processes_see_each_other,
    an_exec_is_confined_in_the_pods_users,
    an_init_does_not_choose_where_an_exec_lands,
    devices_and_limits_hold,
    the_nodes_network_goes_with_users_of_the_pod,
    a_new_daemon_takes_a_pod_over_and_leaves_nothing_of_it,
    what_cannot_be_is_refused_in_words,
    the_kubelet_is_told_what_the_node_can,
    a_privileged_container_is_root_of_its_pod_only,
];

const LAYERS: &str = "registry.test/pintle/layers:1";

/// Ids of the node that the first pod of a story has.
const FIRST: u32 = 200_000;
const LENGTH: u32 = 65_536;

fn mapping(host_id: u32) -> Vec<v1::IdMapping> {
    vec![v1::IdMapping { host_id, container_id: 0, length: LENGTH }]
}

fn own_users(host_id: u32) -> v1::UserNamespace {
    v1::UserNamespace { mode: NamespaceMode::Pod.into(), uids: mapping(host_id), gids: mapping(host_id) }
}

fn options(config: &mut v1::PodSandboxConfig) -> &mut v1::NamespaceOption {
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default().namespace_options.get_or_insert_default()
}

fn pod_of<'n>(node: &'n Node, name: &str, first: u32) -> Pod<'n> {
    node.run_pod_with(name, |config| options(config).userns_options = Some(own_users(first)))
}

fn security(config: &mut v1::ContainerConfig) -> &mut v1::LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

/// Neither a filter nor a profile stands before the namespaces.
fn confine_by_namespaces_alone(config: &mut v1::ContainerConfig) {
    let unconfined = v1::security_profile::ProfileType::Unconfined.into();
    security(config).seccomp = None;
    security(config).apparmor = Some(v1::SecurityProfile { profile_type: unconfined, ..Default::default() });
}

fn run_with<'n>(pod: &Pod<'n>, change: impl FnOnce(&mut v1::ContainerConfig)) -> Container<'n> {
    let container = pod.create_with("main", BUSYBOX, ["sleep", "1000"], change);
    container.start();
    container
}

/// A field of a process's status as the node sees it.
fn status(node: &Node, pid: u32, field: &str) -> String {
    let text = node.read(&format!("/proc/{pid}/status"));
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {field} in {text}")).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn four(id: u32) -> String {
    [id.to_string(), id.to_string(), id.to_string(), id.to_string()].join(" ")
}

fn root_of_a_pod_is_nobody_on_the_node() {
    let node = Node::start();
    node.pull(BUSYBOX);
    let pod = pod_of(&node, "web", FIRST);
    let container = run_with(&pod, |_| {});

    let map = container.shell("cat /proc/self/uid_map; cat /proc/self/gid_map");
    let lines: Vec<Vec<_>> = map.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines, [["0", "200000", "65536"], ["0", "200000", "65536"]]);
    assert_eq!(container.shell("id -u; id -g"), "0\n0\n");
    assert_eq!(status(&node, container.pid(), "Uid"), four(FIRST));
    assert_eq!(status(&node, container.pid(), "Gid"), four(FIRST));

    // What the image has, what the runtime makes, what the container writes.
    let owned = "/ /bin /bin/busybox /dev /dev/shm /dev/pts /etc/hosts /etc/hostname /etc/resolv.conf";
    let owners = container.shell(&format!("stat -c '%u:%g %n' {owned}"));
    assert!(owners.lines().all(|line| line.starts_with("0:0 ")), "{owners}");
    container.shell("echo written > /marker; chown 7:8 /marker; echo more >> /etc/hosts; touch /dev/shm/x");
    assert_eq!(container.shell("stat -c %u:%g /marker"), "7:8\n");
    let root = node.path("root").to_string_lossy().into_owned();
    assert_eq!(
        node.run("find", [root.as_str(), "-name", "marker", "-printf", "%U:%G\n"]),
        format!("{}:{}\n", FIRST + 7, FIRST + 8)
    );
    let foreign = node.run("find", [&format!("{root}/layers"), "-uid", "+0"]);
    assert_eq!(foreign, "", "layers stay shared, as they are on the disk");

    // Another user, and one that the pod does not have.
    let other = pod.create_with("other", BUSYBOX, ["sleep", "1000"], |config| {
        security(config).run_as_user = Some(v1::Int64Value { value: 1000 });
    });
    other.start();
    assert_eq!(status(&node, other.pid(), "Uid"), four(FIRST + 1000));
    assert_eq!(other.exec(["id", "-u"]).stdout, "1000\n");
    let refused = pod.try_create("far", BUSYBOX, ["true"], |config| {
        security(config).run_as_user = Some(v1::Int64Value { value: 70_000 });
    });
    let refused = refused.map(|made| made.id).unwrap_err();
    assert!(refused.message().contains("no user 70000"), "{refused}");

    let shown = pod.status().linux.unwrap().namespaces.unwrap().options.unwrap().userns_options;
    assert_eq!(shown, Some(own_users(FIRST)));
    node.assert_clean();
}

fn namespaces_and_kernel_file_systems_are_the_pods() {
    let node = Node::start();
    node.pull(BUSYBOX);
    let pod = node.run_pod_with("web", |config| {
        options(config).userns_options = Some(own_users(FIRST));
        let sysctls = [("net.ipv4.tcp_syncookies", "0"), ("kernel.shmmni", "77")];
        config.linux.get_or_insert_default().sysctls =
            sysctls.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    });
    let container = run_with(&pod, |config| {
        let add = ["SYS_ADMIN", "NET_ADMIN"].map(str::to_owned).into();
        security(config).capabilities = Some(v1::Capability { add_capabilities: add, ..Default::default() });
        confine_by_namespaces_alone(config);
    });

    let pid = container.pid();
    for kind in ["user", "net", "ipc", "uts", "pid", "mnt", "cgroup"] {
        let link = |of: &str| node.run("readlink", [&format!("/proc/{of}/ns/{kind}")]);
        assert_ne!(link(&pid.to_string()), link("self"), "{kind}");
    }
    // Only whoever's user namespace owns them may do these.
    container.shell("hostname renamed && ip link set lo mtu 1000");
    container
        .shell("mkdir /p /s /m && mount -t proc proc /p && mount -t sysfs sysfs /s && mount -t mqueue q /m");
    container.shell("mkdir /t && mount -t tmpfs tmpfs /t && umount /t");
    let read = |path: &str| container.shell(&format!("cat {path}"));
    assert_eq!(read("/proc/sys/net/ipv4/tcp_syncookies"), "0\n");
    assert_eq!(read("/proc/sys/kernel/shmmni"), "77\n");
    assert_eq!(read("/proc/sys/net/ipv4/ping_group_range"), "0\t65535\n");
    assert_eq!(read("/proc/sys/net/ipv4/ip_unprivileged_port_start"), "0\n");
    let masked = "test ! -s /proc/kcore && test -z \"$(ls /sys/firmware)\" && ! touch /proc/sys/kernel/panic";
    container.shell(masked);
    for (place, kind) in
        [("/proc", "proc"), ("/sys", "sysfs"), ("/dev/mqueue", "mqueue"), ("/dev/shm", "tmpfs")]
    {
        let found = container.shell(&format!("grep ' {place} ' /proc/mounts"));
        assert!(found.split(' ').nth(2) == Some(kind), "{found}");
    }
    // The node's own: what has no namespace stays out of reach.
    for (reach, refusal) in [
        ("echo 1 > /proc/sys/vm/drop_caches", "Read-only"),
        ("mknod /d b 8 0", "not permitted"),
        ("date -s 2000-01-01", "not permitted"),
    ] {
        let refused = container.exec(["sh", "-c", reach]);
        assert!(refused.stderr.contains(refusal), "{reach}: {refused:?}");
    }
    assert!(!node.has(&format!("/proc/{pid}/root/d")));
    container.shell("ping -c 1 -W 5 127.0.0.1");
    assert_eq!(pod.ip(), container.shell("ip -4 -o addr show eth0 | awk '{print $4}' | cut -d/ -f1").trim());
    node.assert_clean();
}

fn volumes_belong_to_the_ids_that_they_are_mapped_to() {
    let node = Node::start();
    node.pull(BUSYBOX);
    let folder = node.path("shared/data");
    fs::create_dir_all(folder.join("memory")).unwrap();
    let memory = folder.join("memory").to_string_lossy().into_owned();
    let file = folder.join("file").to_string_lossy().into_owned();
    node.run("mount", ["-t", "tmpfs", "tmpfs", &memory]);
    node.run(
        "sh",
        ["-c", &format!("echo a > {file}; chown 5:6 {file}; echo b > {memory}/file; chmod 777 {memory}")],
    );
    let host_path = folder.to_string_lossy().into_owned();
    let at = |container_path: &str| v1::Mount {
        container_path: container_path.into(),
        host_path: host_path.clone(),
        ..Default::default()
    };
    let mapped = |path: &str, uids, gids| v1::Mount { uid_mappings: uids, gid_mappings: gids, ..at(path) };
    // As the pod; not at all; and ids of the disk moved by 100.
    let moved = || vec![v1::IdMapping { container_id: 0, host_id: FIRST + 100, length: 100 }];
    let one_file = v1::Mount { host_path: file.clone(), ..mapped("/one", mapping(FIRST), mapping(FIRST)) };
    let pod = pod_of(&node, "web", FIRST);
    let container = run_with(&pod, |config| {
        config.mounts = vec![
            mapped("/mapped", mapping(FIRST), mapping(FIRST)),
            at("/plain"),
            mapped("/moved", moved(), moved()),
            one_file,
        ];
    });

    let owner = |path: &str| container.shell(&format!("stat -c %u:%g {path}"));
    assert_eq!(owner("/mapped/file"), "5:6\n");
    assert_eq!(owner("/mapped/memory/file"), "0:0\n", "also what is mounted below");
    assert_eq!(owner("/plain/file"), "65534:65534\n");
    assert_eq!(owner("/moved/file"), "105:106\n");
    assert_eq!(owner("/one"), "5:6\n");
    container.shell("touch /mapped/new /mapped/memory/new && chown 9:10 /mapped/new");
    let seen = |path: &str| {
        let found = fs::metadata(node.namespaces().root().join(path.trim_start_matches('/'))).unwrap();
        (found.uid(), found.gid())
    };
    assert_eq!(seen(&folder.join("new").to_string_lossy()), (9, 10));
    assert_eq!(seen(&format!("{memory}/new")), (0, 0));
    let shown = &container.status().mounts[2];
    assert_eq!((&shown.uid_mappings, &shown.gid_mappings), (&moved(), &moved()));

    // A mapped mount needs no user namespace of the pod's.
    let host = node.run_pod("host");
    let container = run_with(&host, |config| config.mounts = vec![mapped("/moved", moved(), moved())]);
    assert_eq!(container.shell("stat -c %u:%g /moved/file"), format!("{}:{}\n", FIRST + 105, FIRST + 106));

    let proc = v1::Mount { host_path: "/proc".into(), ..mapped("/p", mapping(FIRST), mapping(FIRST)) };
    let refused = pod.try_create("bad", BUSYBOX, ["true"], |config| config.mounts = vec![proc]);
    let refused = refused.map(|made| made.id).unwrap_err();
    assert!(refused.message().contains("cannot have its ids mapped"), "{refused}");
    node.remove_pods();
    node.run("umount", [&memory]);
    node.assert_clean();
}

fn an_image_is_a_volume_of_the_pods_root() {
    let node = Node::start();
    node.pull(LAYERS);
    node.pull(BUSYBOX);
    let of_image = |image: &str, sub_path: &str, place: &str| v1::Mount {
        image: Some(v1::ImageSpec { image: image.into(), ..Default::default() }),
        image_sub_path: sub_path.into(),
        container_path: place.into(),
        readonly: true,
        ..Default::default()
    };
    let pod = pod_of(&node, "web", FIRST);
    let container = run_with(&pod, |config| {
        config.mounts = vec![
            of_image(LAYERS, "", "/model"),
            of_image(LAYERS, "data", "/part"),
            v1::Mount {
                uid_mappings: mapping(FIRST),
                gid_mappings: mapping(FIRST),
                ..of_image(BUSYBOX, "", "/tools")
            },
        ];
    });
    let text = container.shell("cat /model/data/replaced /part/replaced; /tools/bin/busybox echo runs");
    assert_eq!(text, "of the upper layer\nof the upper layer\nruns\n");
    let owners = container.shell("stat -c %u:%g /model /model/kept/file /part/replaced /tools/bin/busybox");
    assert_eq!(owners, "0:0\n".repeat(4));
    assert!(container.exec(["touch", "/model/new"]).stderr.contains("Read-only"));
    node.assert_clean();
}

fn containers_that_share_processes_see_each_other() {
    let node = Node::start();
    node.pull(BUSYBOX);
    let pod = node.run_pod_with("web", |config| {
        options(config).userns_options = Some(own_users(FIRST));
        options(config).pid = NamespaceMode::Pod.into();
    });
    let shared = |config: &mut v1::ContainerConfig| {
        let options = security(config).namespace_options.get_or_insert_default();
        options.pid = NamespaceMode::Pod.into();
        options.userns_options = Some(own_users(FIRST));
    };
    let one = pod.create_with("one", BUSYBOX, ["sleep", "1001"], shared);
    one.start();
    let two = pod.create_with("two", BUSYBOX, ["sleep", "1002"], shared);
    two.start();
    let shown = one.shell("ps -o pid,user,args");
    assert!(shown.contains("/pause") && shown.contains("sleep 1002"), "{shown}");
    assert_eq!(status(&node, two.pid(), "Uid"), four(FIRST));

    let target = pod.create_with("debug", BUSYBOX, ["sleep", "1003"], |config| {
        let options = security(config).namespace_options.get_or_insert_default();
        options.pid = NamespaceMode::Target.into();
        options.target_id = one.id.clone();
    });
    target.start();
    assert!(target.shell("ps -o args").contains("sleep 1001"));
    node.assert_clean();
}

fn an_exec_is_confined_in_the_pods_users() {
    let node = Node::start();
    node.pull(BUSYBOX);
    let pod = pod_of(&node, "web", FIRST);
    let container = run_with(&pod, |config| security(config).no_new_privs = true);

    let of_init = container.shell("grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups)' /proc/1/status");
    let of_exec = container.shell("grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups)' /proc/self/status");
    assert_eq!(of_exec, of_init);
    assert!(of_exec.contains("Seccomp:\t2") && of_exec.contains("NoNewPrivs:\t1"), "{of_exec}");
    for kind in ["user", "mnt", "net", "ipc", "uts", "pid"] {
        let same = format!("test $(readlink /proc/1/ns/{kind}) = $(readlink /proc/self/ns/{kind})");
        assert_eq!(container.exec(["sh", "-c", &same]).code, 0, "{kind}");
    }
    let limits = |of: &str| container.shell(&format!("grep 'open files' /proc/{of}/limits"));
    assert_eq!(limits("self"), limits("1"));
    assert_eq!(container.shell("echo x > /marker && stat -c %u:%g /marker"), "0:0\n");
    assert!(container.exec(["unshare", "-U", "true"]).code != 0, "by the filter");
    // Its own output may be opened again, whoever it is.
    assert_eq!(container.shell("echo again > /dev/stdout"), "again\n");
    node.assert_clean();
}

/// The namespaces of a process, by kind, as the node sees them.
fn namespaces(node: &Node, pid: u32) -> Vec<String> {
    let link = |kind| node.run("readlink", [&format!("/proc/{pid}/ns/{kind}")]).trim().to_owned();
    KINDS.map(link).into()
}

const KINDS: [&str; 7] = ["user", "net", "ipc", "uts", "pid", "cgroup", "mnt"];

fn an_init_does_not_choose_where_an_exec_lands() {
    let node = Node::start();
    node.pull(BUSYBOX);
    // All that an init without privileges can leave; `-p` only for its children.
    let leaves = "exec unshare -U -r -m -n -i -u -p sh -c 'mount -t tmpfs own /dev/shm && exec sleep 1001'";
    for (pod, root) in [(pod_of(&node, "own", FIRST), FIRST), (node.run_pod("host"), 0)] {
        let stays = run_with(&pod, |_| {});
        let container = pod.create_with("leaves", BUSYBOX, ["sh", "-c", leaves], |config| {
            confine_by_namespaces_alone(config);
        });
        container.start();
        wait_until("init has left", || {
            node.read(&format!("/proc/{}/cmdline", container.pid())).contains("1001")
        });
        let (of_pod, of_init) = (namespaces(&node, stays.pid()), namespaces(&node, container.pid()));

        let script = KINDS.map(|kind| format!("readlink /proc/self/ns/{kind};")).concat();
        let of_exec = container.exec(["sh", "-c", &script]);
        let of_exec: Vec<_> = of_exec.stdout.lines().map(str::to_owned).collect();
        for (at, kind) in KINDS.iter().enumerate() {
            let (pods, inits) = (of_exec[at] == of_pod[at], of_exec[at] == of_init[at]);
            match *kind {
                "user" | "net" | "ipc" | "uts" => assert!(pods && !inits, "{kind}: {of_exec:?}"),
                "cgroup" => assert!(!pods && !inits, "{kind}: {of_exec:?}"),
                _ => assert!(inits && !pods, "{kind}: {of_exec:?}"),
            }
        }
        assert!(container.shell("grep '^own ' /proc/mounts").contains("/dev/shm tmpfs"));
        let map = container.shell("cat /proc/self/uid_map");
        assert_eq!(map.split_whitespace().nth(1), Some(root.to_string().as_str()), "{map}");
        let held = "grep CapBnd /proc/self/status";
        assert_eq!(container.shell(held), stays.shell(held));
        assert_eq!(container.shell("ps -o args | grep -c 'sleep 100[1]'"), "1\n");
    }
    node.assert_clean();
}

fn devices_and_limits_hold() {
    let node = Node::start();
    node.pull(BUSYBOX);
    let pod = pod_of(&node, "web", FIRST);
    let container = run_with(&pod, |config| {
        config.devices = vec![v1::Device {
            host_path: "/dev/zero".into(),
            container_path: "/dev/nought".into(),
            permissions: "r".into(),
        }];
        config.linux.get_or_insert_default().resources =
            Some(v1::LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..Default::default() });
    });
    let script = "head -c 3 /dev/zero | wc -c; head -c 4 /dev/nought | wc -c; head -c 5 /dev/urandom | wc -c; \
                  echo x > /dev/null; test -c /dev/tty && test -c /dev/full && echo all";
    assert_eq!(container.shell(script), "3\n4\n5\nall\n");
    // The device is the node's, or one like it: nobody here may change it.
    assert!(container.exec(["chmod", "000", "/dev/null"]).code != 0);
    assert!(container.exec(["mknod", "/dev/disk", "b", "8", "0"]).code != 0);
    assert_eq!(container.limits().memory_limit_in_bytes, 64 << 20);
    let cgroup = node.read(&format!("/proc/{}/cgroup", container.pid()));
    assert!(cgroup.lines().any(|line| line.contains(&container.id)), "{cgroup}");
    assert!(!container.shell("cat /proc/self/cgroup").contains(&container.id));
    node.assert_clean();
}

fn the_nodes_network_goes_with_users_of_the_pod() {
    let node = Node::start();
    node.pull(BUSYBOX);
    let pod = node.run_pod_with("web", |config| {
        options(config).network = NamespaceMode::Node.into();
        options(config).userns_options = Some(own_users(FIRST));
    });
    let container = run_with(&pod, |config| {
        let add = vec!["NET_ADMIN".to_owned()];
        security(config).capabilities = Some(v1::Capability { add_capabilities: add, ..Default::default() });
    });
    let net = |of: &str| node.run("readlink", [&format!("/proc/{of}/ns/net")]);
    assert_eq!(net(&container.pid().to_string()), net("self"));
    assert_eq!(container.shell("ls /sys/class/net"), node.run("ls", ["/sys/class/net"]));
    assert!(container.exec(["ip", "link", "set", "lo", "mtu", "1000"]).code != 0, "it is the node's");
    assert!(container.exec(["touch", "/sys/kernel/x"]).code != 0);
    assert!(container.shell("ls -A /sys/firmware").is_empty());
    assert_eq!(status(&node, container.pid(), "Uid"), four(FIRST));
    node.assert_clean();
}

fn a_new_daemon_takes_a_pod_over_and_leaves_nothing_of_it() {
    let node = Node::start();
    node.pull(BUSYBOX);
    let pod = pod_of(&node, "web", FIRST);
    let container = run_with(&pod, |_| {});
    let created = pod.create("next", BUSYBOX, ["sleep", "1000"]);
    node.kill_daemon();
    node.start_daemon();
    assert_eq!(container.state(), ContainerState::ContainerRunning);
    assert_eq!(container.shell("id -u; touch /after"), "0\n");
    created.start();
    assert_eq!(status(&node, created.pid(), "Uid"), four(FIRST));
    let third = pod.run_in("third", ["sleep", "1000"]);
    assert_eq!(status(&node, third.pid(), "Uid"), four(FIRST));
    let shown = pod.status().linux.unwrap().namespaces.unwrap().options.unwrap().userns_options;
    assert_eq!(shown, Some(own_users(FIRST)));
    container.kill();
    container.remove();
    created.kill();
    third.kill();
    pod.stop();
    pod.remove();
    node.assert_clean();
}

fn what_cannot_be_is_refused_in_words() {
    let node = Node::start();
    node.pull(BUSYBOX);
    type Change = fn(&mut v1::UserNamespace);
    let bad: [(Change, &str); 6] = [
        (|users| users.uids.push(users.uids[0]), "uids has 2 ranges"),
        (|users| users.gids[0].container_id = 1, "gids begins with id 1"),
        (|users| users.uids[0].host_id = 0, "uids begins with the host's root"),
        (|users| users.gids[0].length = 1, "gids have 1 ids"),
        (|users| users.mode = NamespaceMode::Container.into(), "mode may only be POD or NODE"),
        (|users| users.mode = NamespaceMode::Target.into(), "mode may only be POD or NODE"),
    ];
    for (change, words) in bad {
        let mut users = own_users(FIRST);
        change(&mut users);
        let refused = node.try_run_pod("bad", |config| options(config).userns_options = Some(users));
        let refused = refused.map(|pod| pod.id).unwrap_err();
        assert!(refused.code() == Code::InvalidArgument && refused.message().contains(words), "{refused}");
    }
    let pod = pod_of(&node, "web", FIRST);
    let create = |change: &dyn Fn(&mut v1::ContainerConfig)| {
        let made = pod.try_create("bad", BUSYBOX, ["true"], change);
        made.map(|made| made.id).unwrap_err().message().to_owned()
    };
    let asks = |users: v1::UserNamespace| {
        create(&move |config: &mut v1::ContainerConfig| {
            let options = security(config).namespace_options.get_or_insert_default();
            options.userns_options = Some(users.clone());
        })
    };
    assert!(asks(own_users(FIRST + LENGTH)).contains("other ids than that of its pod"));
    let node_users = v1::UserNamespace { mode: NamespaceMode::Node.into(), ..Default::default() };
    assert!(asks(node_users).contains("the host's users"));
    let shared = node.path("shared").to_string_lossy().into_owned();
    let words = create(&|config| {
        config.mounts = vec![v1::Mount {
            container_path: "/data".into(),
            host_path: shared.clone(),
            propagation: v1::MountPropagation::PropagationBidirectional.into(),
            ..Default::default()
        }];
    });
    assert!(words.contains("BIDIRECTIONAL") && words.contains("/data"), "{words}");
    let words = create(&|config| {
        security(config).namespace_options.get_or_insert_default().pid = NamespaceMode::Node.into();
    });
    assert!(words.contains("pid namespace"), "{words}");

    // Two pods with ids in common run, and an operator can read of it.
    let other = pod_of(&node, "other", FIRST + LENGTH - 1);
    let log = fs::read_to_string(node.path("daemon.log")).unwrap();
    let told = |line: &&str| line.contains("ids of the host in common") && line.contains(&other.id);
    assert!(log.lines().filter(told).any(|line| line.contains(&pod.id)), "{log}");
    node.assert_clean();
}

fn the_kubelet_is_told_what_the_node_can() {
    let node = Node::start();
    let told = || {
        let status = node.cri().status(v1::StatusRequest::default()).unwrap();
        let handlers = status.runtime_handlers.iter().map(|one| one.features.unwrap().user_namespaces);
        let same: Vec<bool> =
            handlers.chain([status.features.unwrap().user_namespaces_host_network]).collect();
        assert!(same.iter().all(|one| *one == same[0]), "{same:?}");
        same[0]
    };
    assert!(told());
    assert!(!node.path("root/probe-users").exists());

    // An overlay cannot be mapped, so none of its folders can be a layer.
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| {
        fs::create_dir(node.path("shared").join(name)).unwrap();
        node.path("shared").join(name).to_string_lossy().into_owned()
    });
    let root = node.path("root").to_string_lossy().into_owned();
    let layers = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    node.kill_daemon();
    node.run("mount", ["-t", "overlay", "check", "-o", &layers, &root]);
    node.start_daemon();
    assert!(!told());
    let refused = node.try_run_pod("web", |config| options(config).userns_options = Some(own_users(FIRST)));
    let refused = refused.map(|pod| pod.id).unwrap_err();
    let (code, words) = (refused.code(), refused.message());
    assert!(code == Code::FailedPrecondition && words.contains("cannot have its ids mapped"), "{refused}");
    assert_eq!(node.pods(), [""; 0]);
    node.kill_daemon();
    node.run("umount", [&root]);
    node.start_daemon();
    assert!(told());
    node.assert_clean();
}

fn a_privileged_container_is_root_of_its_pod_only() {
    let node = Node::start();
    node.pull(BUSYBOX);
    let pod = node.run_pod_with("web", |config| {
        options(config).userns_options = Some(own_users(FIRST));
        config.linux.get_or_insert_default().security_context.get_or_insert_default().privileged = true;
    });
    let container = run_with(&pod, |config| {
        security(config).privileged = true;
        security(config).masked_paths.clear();
        security(config).readonly_paths.clear();
    });
    assert_eq!(status(&node, container.pid(), "Uid"), four(FIRST));
    container.shell("mkdir /t && mount -t tmpfs tmpfs /t && hostname renamed && head -c 1 /dev/zero");
    let panic = node.read("/proc/sys/kernel/panic");
    // Whoever is on the node may read the kernel's messages, unless `kernel.dmesg_restrict` is set.
    for reach in
        ["echo 9 > /proc/sys/kernel/panic", "mknod /d b 8 0", "head -c 1 /dev/vda", "echo x > /dev/kmsg"]
    {
        assert!(container.exec(["sh", "-c", reach]).code != 0, "{reach}");
    }
    assert_eq!(node.read("/proc/sys/kernel/panic"), panic);
    node.assert_clean();
}
