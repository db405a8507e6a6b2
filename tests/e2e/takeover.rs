//! A container that takes over every process it can see (`tests/e2e/images/seizer.rs`) wins nothing by it.
//!
//! `PINTLE_E2E_TAKEOVERS` says how many processes are made before its eyes; the figure in docs/security.md is of 500.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
};

use crate::harness::{BUSYBOX, Container, Node, Pod, runner::tests, v1};

tests![
    a_program_run_in_a_container_has_no_more_than_that_from_its_first_instruction,
    a_container_that_joins_others_has_nothing_that_they_could_take,
    what_is_made_beside_others_sees_them_and_has_a_terminal,
    a_supervisor_forgets_the_environment_of_its_containers,
];

const SEIZER: &str = "registry.test/pintle/seizer:1";

fn rounds() -> usize {
    std::env::var("PINTLE_E2E_TAKEOVERS").ok().and_then(|text| text.parse().ok()).unwrap_or(40)
}

fn sharing_pod<'n>(node: &'n Node, name: &str) -> Pod<'n> {
    node.run_pod_with(name, |config| share_processes(config.linux.get_or_insert_default()))
}

fn share_processes(linux: &mut v1::LinuxPodSandboxConfig) {
    let options = linux.security_context.get_or_insert_default().namespace_options.get_or_insert_default();
    options.pid = v1::NamespaceMode::Pod.into();
}

fn shared(config: &mut v1::ContainerConfig) {
    let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    security.namespace_options.get_or_insert_default().pid = v1::NamespaceMode::Pod.into();
}

/// A container that seizes, under the default filter and with CAP_SYS_PTRACE on top of the default capabilities.
fn seizer<'n>(pod: &Pod<'n>, change: impl FnOnce(&mut v1::ContainerConfig)) -> Container<'n> {
    let container = pod.create_with("seizer", SEIZER, ["/seizer"], |config| {
        let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
        let add_capabilities = vec!["SYS_PTRACE".into()];
        security.capabilities = Some(v1::Capability { add_capabilities, ..Default::default() });
        change(config);
    });
    container.start();
    crate::harness::wait_until("it seizes", || container.log_texts().contains(&"ready".into()));
    container
}

/// Lets it say what it has found: how many it got hold of, and how many of them had more than it.
fn result(seizer: &Container<'_>) -> (u32, u32) {
    seizer.exec(["touch", "/tmp/stop"]);
    assert_eq!(seizer.wait(), 0);
    let said = seizer.log_texts();
    let last = said.last().expect("a last line");
    println!("{last}");
    let numbers = last.strip_prefix("seized ").and_then(|rest| rest.split_once(", more "));
    let (seized, more) = numbers.unwrap_or_else(|| panic!("{said:?}"));
    assert_eq!(more, "0", "{said:?}");
    (seized.parse().unwrap(), more.parse().unwrap())
}

fn a_program_run_in_a_container_has_no_more_than_that_from_its_first_instruction() {
    let node = Node::start();
    let seizer = seizer(&node.run_pod("web"), |_| {});

    // One that stays, so that there is something to seize however fast the others are.
    seizer.exec(["sh", "-c", "sleep 1000 >/dev/null 2>&1 &"]);
    for _ in 0..rounds() {
        assert_eq!(seizer.exec(["true"]).code, 0);
    }
    assert!(result(&seizer).0 > 0, "it is no seizer");
    node.assert_clean();
}

fn a_container_that_joins_others_has_nothing_that_they_could_take() {
    let node = Node::start();
    let pod = sharing_pod(&node, "web");
    let seizer = seizer(&pod, shared);

    for round in 0..rounds() {
        let beside = pod.create_with(&format!("beside-{round}"), BUSYBOX, ["sleep", "1000"], shared);
        beside.start();
        assert_eq!(beside.exec(["true"]).code, 0);
        beside.kill();
        beside.remove();
    }
    assert!(result(&seizer).0 > 0, "it is no seizer");
    node.assert_clean();
}

fn what_is_made_beside_others_sees_them_and_has_a_terminal() {
    let node = Node::start();
    let pod = sharing_pod(&node, "web");
    let first = pod.create_with("first", BUSYBOX, ["sleep", "4321"], shared);
    first.start();
    let second =
        pod.create_with("second", BUSYBOX, ["sh", "-c", "tty; ps; echo done; sleep 1000"], |config| {
            shared(config);
            config.tty = true;
        });
    second.start();
    let alone = node.run_pod("alone").run_in("main", ["sleep", "4321"]);
    let debugger =
        alone.pod.create_with("debugger", BUSYBOX, ["sh", "-c", "ps; echo done; sleep 1000"], |config| {
            let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
            let options = security.namespace_options.get_or_insert_default();
            (options.pid, options.target_id) = (v1::NamespaceMode::Target.into(), alone.id.clone());
        });
    debugger.start();

    let texts = |container: &Container<'_>| {
        let done = || container.log_texts().iter().any(|line| line.trim() == "done");
        crate::harness::wait_until("it is done", done);
        container.log_texts().join("\n")
    };
    let said = texts(&second);
    assert!(said.contains("/dev/pts/0") && said.contains("sleep 4321"), "{said}");
    assert!(
        said.lines().any(|line| line.trim_start().starts_with("1 ") && line.contains("/pause")),
        "{said}"
    );
    // Its own session, with its terminal: fields 6 and 7 of proc(5), `/proc/PID/stat`.
    let stat = node.read(&format!("/proc/{}/stat", second.pid()));
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    assert_eq!(fields[3], second.pid().to_string(), "its session");
    assert_ne!(fields[4], "0", "its terminal");
    let said = texts(&debugger);
    assert!(
        said.lines().any(|line| line.trim_start().starts_with("1 ") && line.contains("sleep 4321")),
        "{said}"
    );
    for masked in ["/proc/kcore", "/proc/keys"] {
        for container in [&second, &debugger] {
            // Empty, or refused by a security module beside that.
            let seen = container.exec(["sh", "-c", &format!("[ ! -e {masked} ] || head -c 10 {masked}")]);
            assert_eq!(seen.stdout, "", "{masked}");
            assert!(seen.code == 0 || seen.stderr.contains("Permission denied"), "{masked}: {seen:?}");
            assert!(container.exec(["sh", "-c", "echo 1 >/proc/sys/kernel/panic"]).code != 0);
        }
    }
    node.assert_clean();
}

/// The host pid of the pod's supervisor.
fn supervisor_of(pod: &Pod<'_>) -> u32 {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let title = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        (title.starts_with("pintle: supervisor of pod") && title.contains(&pod.id)).then_some(pid)
    });
    pids.last().expect("the pod has a supervisor")
}

/// The host pids of its children.
fn children(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.split_whitespace().map(|child| child.parse().unwrap()).collect()
}

/// How often `what` is in the memory that process `pid` can write to.
fn occurrences(pid: u32, what: &[u8]) -> usize {
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let writable =
        maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|mode| mode.starts_with("rw")));
    let within = |line: &str| {
        let (start, end) = line.split(' ').next()?.split_once('-')?;
        let address = |text| u64::from_str_radix(text, 16).ok();
        let (start, end) = (address(start)?, address(end)?);
        let mut bytes = vec![0; usize::try_from(end - start).ok()?];
        memory.read_exact_at(&mut bytes, start).ok()?;
        Some(memchr::memmem::find_iter(&bytes, what).count())
    };
    writable.filter_map(within).sum()
}

fn a_supervisor_forgets_the_environment_of_its_containers() {
    const SECRET: &str = "only-for-this-container-7d793037a076";
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = pod.create_with("main", BUSYBOX, ["sleep", "1000"], |config| {
        config.envs = vec![v1::KeyValue { key: "PASSWORD".into(), value: SECRET.into() }];
    });
    container.start();
    assert_eq!(container.shell("echo $PASSWORD"), format!("{SECRET}\n"));
    let supervisor = supervisor_of(&pod);
    let init = children(supervisor).pop().expect("the supervisor has a child");
    assert!(occurrences(init, SECRET.as_bytes()) > 0, "it is found where it is");
    assert_eq!(occurrences(supervisor, SECRET.as_bytes()), 0);
    node.assert_clean();
}
