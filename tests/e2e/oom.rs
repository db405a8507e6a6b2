//! Whose fault an end was when memory ran out: the table of docs/ARCHITECTURE.md, "Out of memory".
//!
//! `PINTLE_E2E_OOM_KILLS` is how many ends to judge, `PINTLE_E2E_SEED` repeats a run's chances,
//! `PINTLE_E2E_FIGURES` names a file for the figures.

use std::{collections::BTreeMap, env, fmt::Write as _, fs, path::Path, thread, time::Duration};

use crate::{
    harness::{
        BUSYBOX, Container, Node, Pod, chance::Chance, figures, is_unified, runner::tests, v1, wait_until,
    },
    update::{Limits, cgroup_file},
};

tests![every_end_under_a_lack_of_memory_has_its_reason, the_first_of_two_kills_is_the_reason];

/// Room for a shell, and little more.
const LIMIT_BYTES: i64 = 16 << 20;

/// Fills all memory that it gets.
const GREEDY: &str = "tail /dev/zero";

/// Containers of one pod, one after the other.
const PER_POD: u64 = 20;

/// What happens to a container of one kind, and how it must be reported.
#[derive(Clone, Copy, Debug)]
struct Kind {
    name: &'static str,
    /// For a shell, which may hand itself over to the greedy program by `exec`.
    script: &'static str,
    act: Act,
    code: i32,
    reason: &'static str,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Act {
    /// It ends by itself.
    Wait,
    /// As `Wait`, on v2 only: the kernel kills the whole cgroup at once.
    Group,
    /// The daemon is dead while it ends.
    Away,
    /// We kill it a while after the kernel has killed a child.
    KillLater,
    /// We kill it, and the kernel never did.
    Kill,
    /// The kernel kills it, we kill it, and only then its supervisor sees either.
    KernelFirst,
    /// We kill it at about the moment at which the kernel does; who was first decides.
    Race,
}

const KINDS: [Kind; 13] = [
    kind("the init is killed", "exec tail /dev/zero", Act::Wait, 137, "OOMKilled"),
    kind("a child is killed, the shell fails", "tail /dev/zero; exit $?", Act::Wait, 137, "OOMKilled"),
    kind("a child is killed, the shell fails otherwise", "tail /dev/zero; exit 3", Act::Wait, 3, "OOMKilled"),
    kind("a child is killed, the init ends well", "tail /dev/zero; exit 0", Act::Wait, 0, "Completed"),
    kind("a child is killed, the init ends well later", "tail /dev/zero; sleep 3", Act::Wait, 0, "Completed"),
    kind("a child is killed, the init fails later", "tail /dev/zero; sleep 3; exit 3", Act::Wait, 3, "Error"),
    kind("the whole cgroup is killed for a child", "tail /dev/zero; sleep 9", Act::Group, 137, "OOMKilled"),
    kind("the init is killed without a daemon", "sleep 1; exec tail /dev/zero", Act::Away, 137, "OOMKilled"),
    kind("a child is killed without a daemon", "sleep 1; tail /dev/zero; exit 3", Act::Away, 3, "OOMKilled"),
    kind("a child is killed, then we kill", "tail /dev/zero; sleep 99", Act::KillLater, 137, "Error"),
    kind("we kill, the kernel does not", "sleep 99", Act::Kill, 137, "Error"),
    kind("the kernel kills before we do", "", Act::KernelFirst, 137, "OOMKilled"),
    kind("the kernel kills while we do", "exec tail /dev/zero", Act::Race, 137, ""),
];

const fn kind(name: &'static str, script: &'static str, act: Act, code: i32, reason: &'static str) -> Kind {
    Kind { name, script, act, code, reason }
}

fn every_end_under_a_lack_of_memory_has_its_reason() {
    let setting = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = setting("PINTLE_E2E_SEED").unwrap_or(u64::from(std::process::id()));
    let kinds: Vec<Kind> = KINDS.into_iter().filter(|kind| is_unified() || kind.act != Act::Group).collect();
    let ends = setting("PINTLE_E2E_OOM_KILLS").unwrap_or(kinds.len() as u64);
    println!("oom: {ends} ends, PINTLE_E2E_SEED={seed}");
    let node = Node::start();
    node.pull(BUSYBOX);
    let mut chance = Chance::new(seed);
    let mut right: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    let mut wrong = Vec::new();
    let mut pod = None;
    for (number, kind) in (0..ends).zip(kinds.iter().cycle()) {
        if number % PER_POD == 0 {
            node.remove_pods();
            pod = None;
        }
        let pod = pod.get_or_insert_with(|| node.run_pod(&format!("batch-{number}")));
        let (reported, expected) = end_one(&node, pod, number, kind, &mut chance);
        let count = right.entry(kind.name).or_default();
        count.1 += 1;
        if reported == expected {
            count.0 += 1;
        } else {
            wrong.push(format!("{}: {reported:?}, not {expected:?}", kind.name));
        }
    }
    let mut figures = format!("seed: {seed}\nends: {ends}\nright reasons: {}\n", ends - wrong.len() as u64);
    for (name, (right, all)) in right {
        writeln!(figures, "{name}: {right} of {all}").unwrap();
    }
    figures::keep(&figures);
    assert_eq!(wrong, [""; 0], "PINTLE_E2E_SEED={seed}");
    node.assert_clean();
}

fn the_first_of_two_kills_is_the_reason() {
    let node = Node::start();
    let pod = node.run_pod("web");
    for (number, act) in [(0, Act::KernelFirst), (1, Act::KillLater), (2, Act::KernelFirst)] {
        let kind = KINDS.iter().find(|kind| kind.act == act).unwrap();
        let (reported, expected) = end_one(&node, &pod, number, kind, &mut Chance::new(1));
        assert_eq!(reported, expected, "{}", kind.name);
    }
    node.assert_clean();
}

type End = (i32, String);

/// Runs a container of this kind to its end: how that was reported, and how it must be.
fn end_one(node: &Node, pod: &Pod<'_>, number: u64, kind: &Kind, chance: &mut Chance) -> (End, End) {
    let go = format!("go-{}-{number}", pod.config.metadata.as_ref().unwrap().name);
    let waiting = format!("while [ ! -e /shared/{go} ]; do sleep 0.02; done; exec {GREEDY}");
    let script = if kind.act == Act::KernelFirst { waiting.as_str() } else { kind.script };
    let container = pod.create_with(&format!("c{number}"), BUSYBOX, ["sh", "-c", script], |config| {
        let host_path = node.path("shared").to_string_lossy().into_owned();
        config.mounts = vec![v1::Mount { container_path: "/shared".into(), host_path, ..Default::default() }];
        let mut limits = Limits {
            memory_limit_in_bytes: LIMIT_BYTES,
            memory_swap_limit_in_bytes: LIMIT_BYTES,
            ..Default::default()
        };
        if kind.act == Act::Group {
            limits.unified = [("memory.oom.group".into(), "1".into())].into();
        }
        config.linux.get_or_insert_default().resources = Some(limits);
    });
    let events = cgroup_file(node, container.pid(), "memory", "memory.oom_control", "memory.events");
    container.start();
    match kind.act {
        Act::Wait | Act::Group => {}
        Act::Away => {
            let pid = container.pid();
            node.kill_daemon();
            wait_until("it ends without a daemon", || !node.has(&format!("/proc/{pid}")));
            node.start_daemon();
        }
        Act::KillLater => {
            wait_until("the kernel kills a child", || oom_kills(&events) > 0);
            thread::sleep(Duration::from_millis(chance.between(0, 300)));
            container.kill();
        }
        Act::Kill => container.kill(),
        Act::KernelFirst => kill_after_the_kernel(node, &container, &go),
        Act::Race => {
            thread::sleep(Duration::from_micros(chance.between(0, 40_000)));
            container.kill();
        }
    }
    let code = container.wait();
    let reason = container.status().reason;
    let expected = match kind.act {
        // What already ends is not counted, and there was nobody but the init.
        Act::Race if oom_kills(&events) > 0 => "OOMKilled",
        Act::Race => "Error",
        _ => kind.reason,
    };
    container.remove();
    ((code, reason), (kind.code, expected.to_owned()))
}

/// The supervisor is held while the daemon asks it to kill and the kernel has done so, and then finds both.
fn kill_after_the_kernel(node: &Node, container: &Container<'_>, go: &str) {
    let pid = container.pid();
    let status = node.read(&format!("/proc/{pid}/status"));
    let supervisor = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().to_owned();
    let signal = |name: &str| node.run("kill", [name, &supervisor]);
    signal("-STOP");
    thread::scope(|scope| {
        let stop = scope.spawn(|| container.kill());
        thread::sleep(Duration::from_millis(150));
        fs::write(node.path("shared").join(go), "").unwrap();
        wait_until("the kernel kills the init", || {
            node.read(&format!("/proc/{pid}/status")).contains("State:\tZ")
        });
        signal("-CONT");
        stop.join().unwrap();
    });
}

fn oom_kills(events: &Path) -> u64 {
    let text = fs::read_to_string(events).unwrap_or_default();
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
    count.unwrap_or(0)
}
