//! What a workload may do, and what of the node it can see.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{ErrorKind, Read as _, Seek as _, SeekFrom},
};

use rustix::fs::{Mode, OFlags};

use crate::harness::{BUSYBOX, Container, Node, Pod, runner::tests, v1, wait_until};

tests![
    every_process_is_filtered_and_holds_what_was_planned,
    the_filter_is_what_refuses,
    the_kernel_logs_what_a_profile_asks_for,
    a_setuid_program_gains_only_if_it_may,
    the_nodes_secrets_are_masked,
    the_nodes_disks_cannot_be_opened,
    no_descriptor_but_the_three_reaches_a_workload,
    the_nodes_mount_table_is_not_touched,
    private_mounts_stay_on_their_side,
    the_nodes_later_mounts_reach_a_container_that_asked,
    mounts_travel_both_ways_only_if_asked,
];

/// What `/proc/<pid>/status` says of a process's power.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Power {
    seccomp: String,
    no_new_privs: String,
    effective: u64,
    bounding: u64,
}

/// chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service net_raw sys_chroot mknod
/// audit_write setfcap
const DEFAULT_CAPABILITIES: u64 = 0xa804_25fb;
const NET_ADMIN: u64 = 1 << 12;

fn power(status: &str) -> Power {
    let fields: BTreeMap<&str, &str> = status.lines().filter_map(|line| line.split_once(":\t")).collect();
    let capabilities = |name| u64::from_str_radix(fields[name], 16).unwrap();
    Power {
        seccomp: fields["Seccomp"].into(),
        no_new_privs: fields["NoNewPrivs"].into(),
        effective: capabilities("CapEff"),
        bounding: capabilities("CapBnd"),
    }
}

/// A container whose security settings `change` decides.
fn run_with<'n>(
    pod: &Pod<'n>,
    name: &str,
    change: impl FnOnce(&mut v1::LinuxContainerSecurityContext),
) -> Container<'n> {
    let container = pod.create_with(name, BUSYBOX, ["sleep", "1000"], |config| {
        change(config.linux.get_or_insert_default().security_context.get_or_insert_default());
    });
    container.start();
    container
}

fn privileged_pod<'n>(node: &'n Node, name: &str) -> Pod<'n> {
    node.run_pod_with(name, |config| {
        config.linux.get_or_insert_default().security_context.get_or_insert_default().privileged = true;
    })
}

fn unconfined() -> Option<v1::SecurityProfile> {
    let profile_type = v1::security_profile::ProfileType::Unconfined.into();
    Some(v1::SecurityProfile { profile_type, localhost_ref: String::new() })
}

fn every_process_is_filtered_and_holds_what_was_planned() {
    let node = Node::start();
    let pod = privileged_pod(&node, "web");
    let all =
        u64::from_str_radix(node.read("/proc/1/status").split("CapBnd:\t").nth(1).unwrap()[..16].trim(), 16)
            .unwrap();
    let filtered =
        |effective, bounding| Power { seccomp: "2".into(), no_new_privs: "0".into(), effective, bounding };
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let choose = |add: &[&str], drop: &[&str]| {
        Some(v1::Capability {
            add_capabilities: names(add),
            drop_capabilities: names(drop),
            ..Default::default()
        })
    };

    let cases: [(&str, Container<'_>, Power); 7] = [
        ("default", run_with(&pod, "default", |_| {}), filtered(DEFAULT_CAPABILITIES, DEFAULT_CAPABILITIES)),
        (
            "user",
            run_with(&pod, "user", |security| security.run_as_user = Some(v1::Int64Value { value: 1000 })),
            filtered(0, DEFAULT_CAPABILITIES),
        ),
        (
            "dropped",
            run_with(&pod, "dropped", |security| security.capabilities = choose(&[], &["ALL"])),
            filtered(0, 0),
        ),
        (
            "added",
            run_with(&pod, "added", |security| {
                security.capabilities = choose(&["NET_ADMIN"], &["CAP_MKNOD"])
            }),
            filtered(
                (DEFAULT_CAPABILITIES | NET_ADMIN) & !(1 << 27),
                (DEFAULT_CAPABILITIES | NET_ADMIN) & !(1 << 27),
            ),
        ),
        (
            "no-new-privs",
            run_with(&pod, "no-new-privs", |security| security.no_new_privs = true),
            Power { no_new_privs: "1".into(), ..filtered(DEFAULT_CAPABILITIES, DEFAULT_CAPABILITIES) },
        ),
        (
            "unconfined",
            run_with(&pod, "unconfined", |security| security.seccomp = unconfined()),
            Power { seccomp: "0".into(), ..filtered(DEFAULT_CAPABILITIES, DEFAULT_CAPABILITIES) },
        ),
        (
            "privileged",
            run_with(&pod, "privileged", |security| security.privileged = true),
            Power { seccomp: "0".into(), ..filtered(all, all) },
        ),
    ];
    for (name, container, planned) in cases {
        let init = node.read(&format!("/proc/{}/status", container.pid()));
        assert_eq!(power(&init), planned, "first process, {name}");
        let exec = container.shell("cat /proc/self/status");
        assert_eq!(power(&exec), planned, "exec, {name}");
    }
    node.assert_clean();
}

fn the_filter_is_what_refuses() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let filtered = run_with(&pod, "filtered", |_| {});
    let open = run_with(&pod, "open", |security| security.seccomp = unconfined());
    let new_user_namespace = ["unshare", "--user", "true"];

    assert_eq!(open.exec(new_user_namespace).code, 0);
    let refused = filtered.exec(new_user_namespace);
    assert!(refused.code != 0 && refused.stderr.contains("not permitted"), "{refused:?}");
    node.assert_clean();
}

/// SCMP_ACT_LOG lets a call happen and has the kernel log it; with SECCOMP_FILTER_FLAG_LOG it logs refused calls too
/// (seccomp(2)).
fn the_kernel_logs_what_a_profile_asks_for() {
    const LOGGED: &str = "code=0x7ffc0000";
    const REFUSED: &str = "code=0x50000";
    const RULES: &str = r#"[{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_LOG"},
                            {"names": ["rmdir", "unlinkat"], "action": "SCMP_ACT_ERRNO"}]"#;
    if let Some(why) = seccomp_is_not_logged() {
        eprintln!("skipped: {why}");
        return;
    }
    let node = Node::start();
    let pod = node.run_pod("web");
    for (name, flags, codes) in
        [("plain", "[]", vec![LOGGED]), ("flagged", r#"["SECCOMP_FILTER_FLAG_LOG"]"#, vec![REFUSED, LOGGED])]
    {
        let file = node.path("shared").join(name);
        let profile =
            format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "flags": {flags}, "syscalls": {RULES}}}"#);
        fs::write(&file, profile).unwrap();
        let container = run_with(&pod, name, |security| {
            let profile_type = v1::security_profile::ProfileType::Localhost.into();
            let localhost_ref = file.to_string_lossy().into_owned();
            security.seccomp = Some(v1::SecurityProfile { profile_type, localhost_ref });
        });
        // The log is the whole machine's: the program is called as no other there is.
        let program = format!("busybox{}", &container.id[..8]);
        container.shell(&format!("cp /bin/busybox /bin/{program}"));
        let mut log = kernel_log();
        let mut lines = Vec::new();
        // The refused call comes first, so that its line would be there with that of the other. Both are tried again:
        // the kernel prints ten such lines in five seconds, whoever they are of.
        let calls = format!("{program} rmdir /tmp 2>/dev/null || {program} mkdir -p /made/$$ && ls /made");
        let found = |lines: &[String], code: &&str| lines.iter().any(|line| line.contains(*code));
        wait_until("the kernel has logged the calls", || {
            assert_ne!(container.shell(&calls), "", "{name}: the call has not happened");
            lines.extend(kernel_lines(&mut log).into_iter().filter(|line| line.contains(&program)));
            codes.iter().all(|code| found(&lines, code))
        });
        let found: Vec<_> = [REFUSED, LOGGED].into_iter().filter(|code| found(&lines, code)).collect();
        assert_eq!(found, codes, "{name}: {lines:#?}");
    }
    node.assert_clean();
}

/// What this kernel or machine lacks to show in its log what a filter had logged.
fn seccomp_is_not_logged() -> Option<&'static str> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let actions = read("/proc/sys/kernel/seccomp/actions_logged");
    let logs = |action: &str| actions.split_whitespace().any(|logged| logged == action);
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut names = processes.map(|entry| fs::read_to_string(entry.path().join("comm")).unwrap_or_default());
    if !logs("log") || !logs("errno") {
        Some("kernel.seccomp.actions_logged is without log or errno")
    } else if !fs::exists("/proc/self/loginuid").unwrap() {
        Some("a kernel without auditing (CONFIG_AUDIT)")
    } else if read("/proc/cmdline").split_whitespace().any(|word| matches!(word, "audit=0" | "audit=off")) {
        Some("a kernel that was started with audit=0")
    } else if names.any(|name| name == "auditd\n") {
        Some("an auditd takes what the kernel would log")
    } else {
        None
    }
}

/// The kernel's log, from its end on.
fn kernel_log() -> File {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut log = File::from(rustix::fs::open("/dev/kmsg", flags, Mode::empty()).unwrap());
    log.seek(SeekFrom::End(0)).unwrap();
    log
}

/// The lines of the kernel's log that were not read yet.
fn kernel_lines(log: &mut File) -> Vec<String> {
    let mut lines = Vec::new();
    let mut record = [0; 8192];
    loop {
        match log.read(&mut record) {
            Ok(length) => lines.push(String::from_utf8_lossy(&record[..length]).into_owned()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return lines,
            // EPIPE: the next one was overwritten meanwhile; reading goes on after it.
            Err(error) => assert_eq!(error.kind(), ErrorKind::BrokenPipe, "{error}"),
        }
    }
}

fn a_setuid_program_gains_only_if_it_may() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let run = |name: &str, no_new_privs: bool| {
        let image = "registry.k8s.io/e2e-test-images/nonewprivs:1.3";
        let container = pod.create_with(name, image, [], |config| {
            let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
            security.run_as_user = Some(v1::Int64Value { value: 1000 });
            security.no_new_privs = no_new_privs;
        });
        container.start();
        assert_eq!(container.wait(), 0);
        container.log_texts()
    };

    assert_eq!(run("may", false), ["Effective uid: 0"]);
    assert_eq!(run("may-not", true), ["Effective uid: 1000"]);
    node.assert_clean();
}

fn the_nodes_secrets_are_masked() {
    let node = Node::start();
    let container = node.run_pod("web").run_in("main", ["sleep", "1000"]);

    for masked in ["/proc/kcore", "/proc/keys", "/proc/timer_list"] {
        // The mask makes it empty; where AppArmor is on, its profile refuses before.
        let read = container.shell(&format!("[ ! -e {masked} ] || head -c 10 {masked} 2>/dev/null || true"));
        assert_eq!(read, "", "{masked} was read");
    }
    for fixed in ["/proc/sys/kernel/panic", "/proc/sysrq-trigger", "/proc/irq/default_smp_affinity"] {
        let refused = container.exec(["sh", "-c", &format!("echo 1 >{fixed}")]);
        assert!(refused.code != 0, "{fixed} was written");
    }
    assert_ne!(
        container.exec(["sh", "-c", "mkdir /sys/fs/cgroup/mine || mkdir /sys/fs/cgroup/memory/mine"]).code,
        0
    );
    assert_ne!(container.exec(["mount", "-t", "tmpfs", "none", "/tmp"]).code, 0);
    node.assert_clean();
}

fn the_nodes_disks_cannot_be_opened() {
    let node = Node::start();
    let container = node.run_pod("web").run_in("main", ["sleep", "1000"]);
    let partitions = node.read("/proc/partitions");
    let disk: Vec<&str> =
        partitions.lines().filter(|line| !line.is_empty()).nth(1).unwrap().split_whitespace().collect();

    container.shell(&format!("mknod /tmp/disk b {} {}", disk[0], disk[1])); // making it is allowed
    let refused = container.exec(["head", "-c", "1", "/tmp/disk"]);
    assert!(refused.code != 0 && refused.stderr.contains("not permitted"), "{refused:?}");
    container.shell("head -c 1 /dev/zero >/dev/null && head -c 1 /dev/urandom >/dev/full || true");
    node.assert_clean();
}

fn no_descriptor_but_the_three_reaches_a_workload() {
    let node = Node::start();
    let container = node.run_pod("web").run_in("main", ["sleep", "1000"]);

    assert_eq!(node.run("ls", [&format!("/proc/{}/fd", container.pid())]), "0\n1\n2\n");
    // The fourth is the folder that `ls` reads.
    assert_eq!(container.shell("ls /proc/self/fd"), "0\n1\n2\n3\n");
    node.assert_clean();
}

fn the_nodes_mount_table_is_not_touched() {
    let node = Node::start();
    let before = node.namespaces().read_proc("mountinfo");
    let pod = node.run_pod("web");
    let container = pod.create_with("main", BUSYBOX, ["sleep", "1000"], |config| {
        let host_path = node.path("shared").to_string_lossy().into_owned();
        config.mounts = vec![v1::Mount { container_path: "/data".into(), host_path, ..Default::default() }];
    });
    container.start();
    container.shell("true");

    assert_eq!(node.namespaces().read_proc("mountinfo"), before);
    node.assert_clean();
}

/// A container that sees `shared` of the node at `/data`, and may mount if `privileged`.
fn with_shared<'n>(node: &'n Node, propagation: v1::MountPropagation) -> Container<'n> {
    let shared = node.path("shared").to_string_lossy().into_owned();
    node.run("mount", ["-t", "tmpfs", "pintle-e2e", &shared]);
    node.run("mount", ["--make-shared", &shared]);
    let pod = privileged_pod(node, "mounter");
    let container = pod.create_with("main", BUSYBOX, ["sleep", "1000"], |config| {
        config.linux.get_or_insert_default().security_context.get_or_insert_default().privileged = true;
        let propagation = propagation.into();
        config.mounts = vec![v1::Mount {
            container_path: "/data".into(),
            host_path: shared,
            propagation,
            ..Default::default()
        }];
    });
    container.start();
    container
}

/// Mounts a file system on each side; answers whether the container sees the node's, and the node the
/// container's.
fn seen(node: &Node, container: &Container<'_>) -> (bool, bool) {
    let shared = node.path("shared").to_string_lossy().into_owned();
    let (on_node, inside) = (format!("{shared}/on-node"), format!("{shared}/inside"));
    node.run("mkdir", [&on_node, &inside]);
    node.run("mount", ["-t", "tmpfs", "on-node", &on_node]);
    container.shell("mount -t tmpfs inside /data/inside && grep -q /data/inside /proc/self/mountinfo");
    let down = container.exec(["grep", "-q", "/data/on-node", "/proc/self/mountinfo"]).code == 0;
    let up = node.namespaces().read_proc("mountinfo").contains(&inside);
    if up {
        node.run("umount", [&inside]);
    }
    node.run("umount", [&on_node]);
    container.kill();
    node.run("umount", [&shared]);
    (down, up)
}

fn private_mounts_stay_on_their_side() {
    let node = Node::start();
    let container = with_shared(&node, v1::MountPropagation::PropagationPrivate);
    assert_eq!(seen(&node, &container), (false, false));
    node.assert_clean();
}

fn the_nodes_later_mounts_reach_a_container_that_asked() {
    let node = Node::start();
    let container = with_shared(&node, v1::MountPropagation::PropagationHostToContainer);
    assert_eq!(seen(&node, &container), (true, false));
    node.assert_clean();
}

fn mounts_travel_both_ways_only_if_asked() {
    let node = Node::start();
    let container = with_shared(&node, v1::MountPropagation::PropagationBidirectional);
    assert_eq!(seen(&node, &container), (true, true));
    node.assert_clean();
}
