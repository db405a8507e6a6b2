//! Section C: sysctls, annotations and cgroups.

use std::{collections::HashMap, process::Command};

use tonic::Code;

use super::{Canary, number, security};
use crate::harness::{BUSYBOX, Container, ContainerState, Driver, Node, Pod, is_unified, v1};

/// CVE-2022-0811: a sysctl is of the pod's own namespaces, one name and one value, or it is refused.
pub(super) fn c_01_sysctls() {
    let node = Node::start();
    let settings = [
        "kernel/core_pattern",
        "kernel/sem",
        "kernel/shm_rmid_forced",
        "vm/swappiness",
        "net/core/somaxconn",
    ];
    let host = || settings.map(|name| node.read(&format!("/proc/sys/{name}")));
    let before = host();
    let refused = |name: &str, key: &str, value: &str, change: &dyn Fn(&mut v1::NamespaceOption)| {
        let outcome = node.try_run_pod(name, |config| {
            let linux = config.linux.get_or_insert_default();
            linux.sysctls.insert(key.into(), value.into());
            change(linux.security_context.get_or_insert_default().namespace_options.get_or_insert_default());
        });
        let error = outcome.map(|pod| pod.id).expect_err(&format!("{key}={value}"));
        assert_eq!(error.code(), Code::InvalidArgument, "{key}={value}: {error}");
    };
    for (key, value) in [
        ("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/x"),
        ("kernel.shm_rmid_forced", "1\nkernel.core_pattern=|/x"),
        ("kernel.shm_rmid_forced=1+kernel.core_pattern", "|/x"),
        ("kernel.core_pattern", "core"),
        ("kernel.sem kernel.core_pattern", "1"),
        ("kernel.sem,kernel.core_pattern", "1"),
        ("kernel.sem\n", "1"),
        ("+kernel.sem", "1"),
        ("kernel..sem", "1"),
        ("net/../vm/swappiness", "1"),
        ("net.../vm.swappiness", "1"),
        ("net./././vm/swappiness", "1"),
        ("kernel.shm/../core_pattern", "core"),
        ("", "1"),
    ] {
        refused("bad", key, value, &|_| {});
    }
    let on_node = i32::from(v1::NamespaceMode::Node);
    refused("net", "net.core.somaxconn", "7", &|namespaces| namespaces.network = on_node);
    refused("ipc", "kernel.sem", "1 2 3 4", &|namespaces| namespaces.ipc = on_node);
    assert_eq!(host(), before);
    node.assert_clean();
}

/// What other runtimes let annotations decide, some of it without asking the operator: CVE-2024-3154,
/// CVE-2023-6476, CVE-2026-44210, CVE-2022-4318, CVE-2025-0750.
const ANNOTATIONS: [(&str, &str); 22] = [
    ("org.systemd.property.ExecStartPre", "[('/bin/touch', ['touch', '/srv/run'], false)]"),
    ("org.systemd.property.BindsTo", "['dbus.service']"),
    ("org.systemd.property.TimeoutStopUSec", "uint64 1"),
    ("org.systemd.property.Delegate", "false"),
    ("run.oci.keep_original_groups", "1"),
    ("run.oci.handler", "krun"),
    ("run.oci.hooks.stderr", "/srv/hook"),
    ("run.oci.systemd.subgroup", "other"),
    ("io.katacontainers.config.hypervisor.path", "/bin/sh"),
    ("io.katacontainers.config.hypervisor.virtio_fs_extra_args", "[\"--shared-dir=/\"]"),
    ("io.kubernetes.cri-o.unified-cgroup.main", "bWVtb3J5Lm1heD1tYXg="),
    ("cpu-quota.crio.io", "disable"),
    ("cpu-load-balancing.crio.io", "disable"),
    ("irq-load-balancing.crio.io", "disable"),
    ("io.kubernetes.cri-o.Devices", "/dev/mem"),
    ("io.kubernetes.cri-o.LinkLogs", "../../../../../../srv/logs"),
    ("io.kubernetes.cri-o.ShmSize", "1Gi"),
    ("io.kubernetes.cri-o.userns-mode", "auto"),
    ("io.kubernetes.cri-o.umask", "0"),
    ("io.kubernetes.cri-o.cgroup2-mount-hierarchy-rw", "true"),
    ("seccomp-profile.kubernetes.cri-o.io", "unconfined"),
    ("container.seccomp.security.alpha.kubernetes.io/main", "unconfined"),
];

/// Everything that an annotation of another runtime could have changed, without what differs between any two
/// containers.
fn described(node: &Node, container: &Container<'_>) -> Vec<String> {
    let pid = container.pid();
    let status = node.read(&format!("/proc/{pid}/status"));
    let kept = [
        "Uid",
        "Gid",
        "Groups",
        "CapInh",
        "CapPrm",
        "CapEff",
        "CapBnd",
        "CapAmb",
        "NoNewPrivs",
        "Seccomp",
        "Umask",
        "Cpus_allowed",
    ];
    let kept = |line: &str| kept.iter().any(|name| line.split(':').next() == Some(name));
    let mut lines: Vec<String> = status.lines().filter(|line| kept(line)).map(String::from).collect();
    lines.extend(node.read(&format!("/proc/{pid}/limits")).lines().map(String::from));
    lines.extend(
        container
            .shell("ls -l /dev | cut -c1-10; cat /proc/1/cmdline; tr '\\0' '\\n' </proc/1/environ")
            .lines()
            .map(String::from),
    );
    let mounts = container
        .shell("cut -d' ' -f5,6 /proc/self/mountinfo; cut -d' ' -f3 /proc/mounts; df /dev/shm | tail -1");
    lines.extend(mounts.lines().map(String::from));
    for line in node.read(&format!("/proc/{pid}/cgroup")).lines() {
        let [_, controller, path] = line.splitn(3, ':').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let hierarchy = if controller.is_empty() {
            String::new()
        } else {
            format!("/{}", controller.trim_start_matches("name="))
        };
        for file in [
            "memory.max",
            "memory.limit_in_bytes",
            "cpu.max",
            "cpu.cfs_quota_us",
            "pids.max",
            "devices.list",
            "cpuset.cpus",
        ] {
            let file = format!("/sys/fs/cgroup{hierarchy}{path}/{file}");
            let short = file.rsplit('/').next().unwrap_or_default();
            if node.has(&file) {
                lines.push(format!("{short}: {}", node.read(&file)));
            }
        }
    }
    lines
}

/// CVE-2024-3154, CVE-2023-6476: a container with annotations is as one without. Held with them: C-03 and K-07.
pub(super) fn c_02_annotations() {
    let (node, canary) = Canary::start();
    let annotations: HashMap<String, String> =
        ANNOTATIONS.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    let resources = v1::LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        cpu_quota: 50_000,
        cpu_period: 100_000,
        ..Default::default()
    };
    let run = |annotations: &HashMap<String, String>| {
        let pod = node.run_pod_with("web", |config| config.annotations.extend(annotations.clone()));
        let container = pod.create_with("main", BUSYBOX, ["sleep", "1000"], |config| {
            config.annotations = annotations.clone();
            config.linux.get_or_insert_default().resources = Some(resources.clone());
        });
        container.start();
        (pod, container)
    };
    let end = |pod: &Pod<'_>| {
        pod.stop();
        pod.remove();
    };
    let (pod, container) = run(&HashMap::new());
    let plain = (described(&node, &container), units(&node, &pod));
    end(&pod);
    let (pod, container) = run(&annotations);
    assert_eq!((described(&node, &container), units(&node, &pod)), plain);
    let helpers = node.namespaces().processes();
    assert!(!helpers.iter().any(|(_, line)| line.contains("shared-dir")), "{helpers:?}");
    end(&pod);
    canary.assert_untouched(&node, "an annotation");
    node.assert_clean();
}

/// In names of properties of systemd's units that differ between any two pods: identity, times, what is in use, and what
/// other units want of this one, which a removed pod's may do for a moment longer.
const OF_ONE_UNIT: [&str; 12] = [
    "InvocationID",
    "ControlGroupId",
    "Timestamp",
    "Current",
    "Peak",
    "Available",
    "CPUUsage",
    "IORead",
    "IOWrite",
    "RequiredBy",
    "SliceOf",
    "Before",
];

/// What systemd knows of the pod's scope and of each slice above it, where systemd makes them. The test itself asks: a
/// process of another process namespace than systemd's, as on the node, is not answered.
fn units(node: &Node, pod: &Pod<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    if node.folders().cgroups.driver() != Driver::Systemd {
        return lines;
    }
    let mut unit = format!("pintle-{}.scope", pod.id);
    while unit != "-.slice" {
        let shown = Command::new("systemctl").args(["show", &unit]).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        assert!(shown.contains("\nLoadState=loaded\n"), "{unit}: {shown}");
        let above = shown.lines().find_map(|line| line.strip_prefix("Slice=")).expect("a slice above");
        let name = |line: &str| line.split('=').next().unwrap_or_default().to_owned();
        let kept = shown.lines().filter(|line| !OF_ONE_UNIT.iter().any(|part| name(line).contains(part)));
        lines.extend(kept.map(|line| format!("{unit}: {line}").replace(&pod.id, "POD")));
        unit = above.to_owned();
    }
    lines
}

/// CVE-2019-14891: a container that fills its memory ends alone; who watches over it does not.
pub(super) fn c_05_supervisor_cgroup() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let limit = 16 << 20;
    let container =
        pod.create_with("main", BUSYBOX, ["sh", "-c", "sleep 1; exec tail /dev/zero"], |config| {
            config.linux.get_or_insert_default().resources = Some(v1::LinuxContainerResources {
                memory_limit_in_bytes: limit,
                memory_swap_limit_in_bytes: limit,
                ..Default::default()
            });
            security(config).run_as_user = number(1000);
        });
    container.start();
    let status = node.read(&format!("/proc/{}/status", container.pid()));
    let supervisor = super::field(&status, "PPid").to_owned();
    let cgroup = node.read(&format!("/proc/{supervisor}/cgroup"));
    assert!(!cgroup.contains(&container.id), "{cgroup}");
    assert_eq!((container.wait(), container.status().reason.as_str()), (137, "OOMKilled"));
    assert!(node.has(&format!("/proc/{supervisor}/exe")), "the supervisor ended");
    assert_eq!(pod.run_in("next", ["sleep", "1000"]).state(), ContainerState::ContainerRunning);
    assert!(is_unified() || cgroup.lines().any(|line| line.contains(":memory:")), "{cgroup}");
    node.assert_clean();
}

/// CVE-2025-47291: a container of a pod with users of its own is in that pod's cgroup, and its limits hold there.
pub(super) fn b_11_user_namespace_cgroup() {
    let node = Node::start();
    let ids = || vec![v1::IdMapping { host_id: 2_000_000, container_id: 0, length: 65_536 }];
    let users = v1::UserNamespace { mode: v1::NamespaceMode::Pod.into(), uids: ids(), gids: ids() };
    let pod = node.run_pod_with("web", |config| {
        let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
        security.namespace_options.get_or_insert_default().userns_options = Some(users.clone());
    });
    let container = pod.create_with("main", BUSYBOX, ["sleep", "1000"], |config| {
        security(config).namespace_options.get_or_insert_default().userns_options = Some(users.clone());
        config.linux.get_or_insert_default().resources =
            Some(v1::LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..Default::default() });
    });
    container.start();
    let pid = container.pid();
    assert_ne!(
        node.run("readlink", [&format!("/proc/{pid}/ns/user")]),
        node.run("readlink", ["/proc/1/ns/user"])
    );

    let groups = node.read(&format!("/proc/{pid}/cgroup"));
    let place = format!("/{}/{}", pod.id, container.id);
    assert!(groups.lines().all(|line| line.ends_with(&place)), "{groups}");
    let path = |name: &str| {
        let line = groups.lines().find(|line| line.split(':').nth(1) == Some(name))?;
        line.splitn(3, ':').nth(2).map(str::to_owned)
    };
    let file = match path("memory") {
        Some(path) => format!("/sys/fs/cgroup/memory{path}/memory.limit_in_bytes"),
        None => format!("/sys/fs/cgroup{}/memory.max", path("").expect("a cgroup")),
    };
    assert_eq!(node.read(&file).trim(), (64 << 20).to_string());
    node.assert_clean();
}
