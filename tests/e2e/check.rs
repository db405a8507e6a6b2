//! `pintle check`: what is said of a host is what was tried on it.

use std::fs;

use crate::harness::{Driver, Node, is_unified, pintle, runner::tests, wait_for};

tests![
    what_works_is_tried_and_leaves_nothing,
    what_does_not_work_is_found_by_trying,
    an_attempt_that_dies_leaves_no_process,
];

/// What every pod needs.
const NEEDED: [&str; 14] = [
    "openat2",
    "pidfd",
    "privileges",
    "namespaces",
    "seccomp",
    "overlayfs",
    "layers",
    "storage",
    "user namespaces",
    "cgroup of a pod",
    "limits",
    "device rules",
    "pod network",
    "forwarding",
];

/// Whether it passed, and its lines: level, topic, text.
type Answer = (bool, Vec<(String, String, String)>);

/// Runs it on the node with these capabilities of root's missing.
fn check<const N: usize>(node: &Node, without: &str, arguments: [&str; N]) -> Answer {
    let mut command = node.command("setpriv");
    if !without.is_empty() {
        command.arg(format!("--bounding-set=-{without}")).arg(format!("--inh-caps=-{without}"));
    }
    command.arg(pintle()).arg("check").args(arguments);
    if !arguments.contains(&"--config") {
        command.arg("--config").arg(node.path("config.toml"));
    }
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let parse = |line: &str| {
        let (level, rest) = line.split_once(' ').unwrap();
        let (topic, text) = rest.trim().split_once("  ").unwrap();
        (level.to_owned(), topic.to_owned(), text.trim().to_owned())
    };
    (output.status.success(), text.lines().map(parse).collect())
}

/// Level and text of one line.
fn line<'a>((_, lines): &'a Answer, topic: &str) -> (&'a str, &'a str) {
    let found = lines.iter().find(|(_, of, _)| of == topic);
    let (level, _, text) = found.unwrap_or_else(|| panic!("nothing on {topic}: {lines:?}"));
    (level, text)
}

fn what_works_is_tried_and_leaves_nothing() {
    let node = Node::start();
    let links = || node.run("ip", ["-o", "link"]) + &node.run("ip", ["route"]);
    let (before, table) = (links(), node.namespaces().read_proc("mountinfo"));

    let answer = check(&node, "", []);
    for topic in NEEDED {
        assert_eq!(line(&answer, topic).0, "ok", "{topic}: {}", line(&answer, topic).1);
    }
    assert!(answer.0, "{:?}", answer.1);
    if !is_unified() {
        let table = node.read("/proc/cgroups");
        let mounted = |name: &str| {
            table.lines().any(|row| row.starts_with(name) && !row.starts_with(&format!("{name}\t0")))
        };
        let warned = answer.1.iter().any(|(level, topic, _)| level == "warn" && topic == "huge pages");
        assert_eq!(warned, !mounted("hugetlb"), "{:?}", answer.1);
    }
    if Driver::chosen() == Driver::Cgroupfs {
        let parent = format!("pintle-check-{}", std::process::id());
        let config = format!("root = {:?}\n[cgroup]\nparent = \"/{parent}\"\n", node.path("root"));
        fs::write(node.path("other.toml"), config).unwrap();
        let answer = check(&node, "", ["--config", &node.path("other.toml").to_string_lossy()]);
        assert_eq!(line(&answer, "cgroup of a pod").0, "ok");
        let left = node.run("find", ["/sys/fs/cgroup", "-maxdepth", "2", "-name", &parent]);
        assert_eq!(left, "", "a parent was left");
    }
    assert_eq!((links(), node.namespaces().read_proc("mountinfo")), (before, table));
    node.assert_clean();
}

fn what_does_not_work_is_found_by_trying() {
    let node = Node::start();
    for (without, topic, level, word) in [
        ("net_admin", "pod network", "warn", "not permitted"),
        ("sys_admin", "privileges", "FAIL", "not permitted"),
        ("sys_admin", "seccomp", "FAIL", "filter"),
        ("mknod", "privileges", "FAIL", "make a device"),
        ("setuid", "privileges", "FAIL", "become another user"),
        ("sys_resource", "OOM score", "warn", "CAP_SYS_RESOURCE"),
    ] {
        let answer = check(&node, without, []);
        let (found, text) = line(&answer, topic);
        assert!(found == level && text.contains(word), "without {without}: {found} {text}");
        assert_eq!(answer.0, answer.1.iter().all(|(level, ..)| level != "FAIL"), "without {without}");
    }

    // An overlay has no place for the writable layers of others.
    let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|name| {
        fs::create_dir(node.path("shared").join(name)).unwrap();
        node.path("shared").join(name).to_string_lossy().into_owned()
    });
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
    node.run("mount", ["-t", "overlay", "check", "-o", &options, &merged]);
    let answer = check(&node, "", ["--root", &format!("{merged}/not/there/yet")]);
    let (level, text) = line(&answer, "storage");
    assert!(!answer.0 && level == "FAIL" && text.starts_with(&merged), "{level} {text}");
    assert_eq!(fs::read_dir(&upper).unwrap().count(), 0, "something was left");
    node.run("umount", [&merged]);
    node.assert_clean();
}

fn an_attempt_that_dies_leaves_no_process() {
    let node = Node::start();
    let before = node.namespaces().processes();
    let said = node.path("check.out"); // no pipe: a process that was left would keep it open
    let mut command = node.command("env");
    command.arg("PINTLE_FAILPOINTS=cgroup.supervisor-joined=kill").arg(pintle()).arg("check");
    command.arg("--config").arg(node.path("config.toml"));
    command.stdout(fs::File::create(&said).unwrap()).status().unwrap();
    wait_for("no process is left", &before, || node.namespaces().processes());
    let text = fs::read_to_string(said).unwrap();
    let told = "FAIL  cgroup of a pod     the process that tried it died: pods cannot be made";
    assert!(text.lines().any(|line| line == told), "{text}");
    // Not a clean node: without systemd the cgroup of the attempt stays, as after any kill.
}
