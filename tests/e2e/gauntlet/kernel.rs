//! Section A: what a container could reach of the kernel.

use std::path::Path;

use super::{field, run_with, security};
use crate::harness::{Container, Node, Pod, v1};

/// CVE-2023-25809.
pub(super) fn a_10_cgroup() {
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

pub(super) fn a_11_masked_paths() {
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
        let look = format!("if [ -d {path} ]; then ls -A {path}; elif [ -e {path} ]; then cat {path}; fi");
        // Empty, or refused by a security module beside that.
        let seen = container.exec(["sh", "-c", &look]);
        assert_eq!(seen.stdout, "", "{path}");
        assert!(seen.code == 0 || seen.stderr.contains("Permission denied"), "{path}: {seen:?}");
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
pub(super) fn a_14_namespaces() {
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

/// What prints the error of each system call that it tries.
const PROBE: &str = "registry.test/pintle/probe:1";

const PERMITTED: i32 = 0;
const EPERM: i32 = 1;
const ENOSYS: i32 = 38;

/// Name and error of each call that the probe made, unfiltered or as by default.
fn probed(pod: &Pod<'_>, what: &str, filtered: bool) -> Vec<(String, i32)> {
    let container = pod.create_with(&format!("{what}-{filtered}"), PROBE, ["/probe", what], |config| {
        if !filtered {
            let profile_type = v1::security_profile::ProfileType::Unconfined.into();
            security(config).seccomp = Some(v1::SecurityProfile { profile_type, ..Default::default() });
        }
    });
    container.start();
    let code = container.wait();
    let lines = container.log_texts();
    assert_eq!(code, 0, "{what}, filtered {filtered}: {lines:?}");
    let parse = |line: &String| {
        let (name, error) = line.split_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        (name.to_owned(), error.parse().unwrap())
    };
    lines.iter().map(parse).collect()
}

#[track_caller]
fn assert_all_refused(tried: &[(String, i32)], least: usize) {
    assert!(tried.len() >= least, "{tried:?}");
    let open: Vec<_> = tried.iter().filter(|(_, error)| ![EPERM, ENOSYS].contains(error)).collect();
    assert!(open.is_empty(), "not refused: {open:?}");
}

/// CVE-2022-0185, CVE-2022-0492, CVE-2026-31431: what the attacks on the kernel begin with is refused.
pub(super) fn a_14_system_calls() {
    let node = Node::start();
    let pod = node.run_pod("web");
    assert_all_refused(&probed(&pod, "calls", true), 20);
    // Without the filter the kernel gives some of it to anybody: so the filter is what refused.
    let open = probed(&pod, "calls", false);
    for name in ["unshare-user", "keyctl"] {
        assert!(open.contains(&(name.into(), PERMITTED)), "{name}: {open:?}");
    }
    node.assert_clean();
}

/// CVE-2026-123876: a 32-bit program has another way to a socket.
pub(super) fn a_15_socketcall() {
    let node = Node::start();
    let pod = node.run_pod("web");
    // User-mode Linux takes a call of i386 for the call of x86-64 with that number.
    let has_i386 = cfg!(target_arch = "x86_64") && Path::new("/proc/sys/abi/vsyscall32").exists();
    if has_i386 {
        assert_all_refused(&probed(&pod, "calls32", true), 6);
        // A kernel without CONFIG_IA32_EMULATION, which has no such way, kills the probe.
        let open = probed(&pod, "calls32", false);
        let sockets = open.iter().filter(|(name, _)| name == "socketcall-alg");
        assert!(
            sockets.clone().count() == 1
                && sockets.clone().all(|(_, error)| ![EPERM, ENOSYS].contains(error)),
            "{open:?}"
        );
    } else {
        eprintln!("skipped: the kernel has no system calls of i386 (CONFIG_IA32_EMULATION)");
    }
    node.assert_clean();
}

/// A terminal is of the container's own devpts(5), and only who asked for one has it.
pub(super) fn a_16_terminal() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let with = run_with(&pod, "with", |config| config.tty = true);
    let without = run_with(&pod, "without", |_| {});
    let device_of = |path: &str| node.run("stat", ["-L", "-c", "%d", path]);
    let terminal_of = |container: &Container<'_>| {
        let stat = node.read(&format!("/proc/{}/stat", container.pid()));
        let after_name = stat.rsplit_once(") ").unwrap().1.to_owned();
        after_name.split(' ').nth(4).unwrap().parse::<u64>().unwrap()
    };

    assert_ne!(device_of(&format!("/proc/{}/fd/0", with.pid())), device_of("/dev/pts"));
    assert_eq!(with.shell("ls /dev/pts"), "0\nptmx\n");
    assert_ne!(terminal_of(&with), 0);
    assert_eq!(terminal_of(&without), 0);
    for container in [&with, &without] {
        let stat = container.shell("cat /proc/self/stat");
        assert_eq!(
            stat.rsplit_once(") ").unwrap().1.split(' ').nth(4),
            Some("0"),
            "terminal of an exec: {stat}"
        );
        let pushed = container.exec(["sh", "-c", "exec 3<>/dev/tty"]);
        assert_ne!(pushed.code, 0, "an exec without a terminal opened one: {pushed:?}");
    }
    let status = node.read(&format!("/proc/{}/status", with.pid()));
    assert_eq!(field(&status, "Seccomp"), "2");
    node.assert_clean();
}
