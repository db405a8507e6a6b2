//! Image workers: what the process that unpacks a layer has, and what becomes of a layer whose worker ends.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use rustix::process::{Pid, Signal};

use crate::harness::{BUSYBOX, Node, Setup, client, pid_of_program, pintle, runner::tests, wait_until};

tests![
    what_unpacks_a_layer_has_its_directory_and_nothing_else,
    what_decompresses_a_layer_has_nothing,
    a_worker_that_is_killed_is_the_error_of_its_pull_alone,
    a_worker_that_panics_says_why,
    a_worker_ends_with_the_pull_that_is_given_up,
    a_worker_ends_with_the_daemon,
    a_worker_whose_zygote_dies_is_reaped,
    a_layer_of_an_archive_is_unpacked_in_the_same_way,
];

/// Unpackers stay where they have given up everything and have read nothing.
const HELD: &str = "image.worker-confined=delay(600000)";
/// CHOWN, DAC_OVERRIDE, FOWNER, FSETID, MKNOD, SETFCAP.
const CAPABILITIES: &str = "000000008800001b";
const NO_CAPABILITIES: &str = "0000000000000000";

/// The two kinds of worker.
#[derive(Clone, Copy)]
enum Kind {
    Unpacker,
    Decompressor,
}

const KINDS: [Kind; 2] = [Kind::Unpacker, Kind::Decompressor];

impl Kind {
    /// How its command line begins.
    fn title(self) -> &'static str {
        match self {
            Self::Unpacker => "pintle: image worker of sha256:",
            Self::Decompressor => "pintle: decompressor of sha256:",
        }
    }

    /// The failpoint at which it is confined.
    fn point(self) -> &'static str {
        match self {
            Self::Unpacker => "image.worker-confined",
            Self::Decompressor => "image.decompressor-confined",
        }
    }

    fn verb(self) -> &'static str {
        match self {
            Self::Unpacker => "unpacks",
            Self::Decompressor => "decompresses",
        }
    }
}

fn node_with(failpoints: &str) -> Node {
    Node::start_with(&Setup { failpoints: failpoints.into(), ..Setup::default() })
}

/// Folders below `/proc` of the node's workers of a kind.
fn of_kind(node: &Node, kind: Kind) -> Vec<PathBuf> {
    let processes = node.namespaces().processes().into_iter();
    let workers = processes.filter(|(_, line)| line.starts_with(kind.title()));
    workers.map(|(pid, _)| node.namespaces().root().join(format!("proc/{pid}"))).collect()
}

/// Those of both kinds.
fn workers(node: &Node) -> Vec<PathBuf> {
    KINDS.into_iter().flat_map(|kind| of_kind(node, kind)).collect()
}

/// Waits until a worker of the kind is held.
fn a_worker(node: &Node, kind: Kind) -> PathBuf {
    let mut found = Vec::new();
    let is_held = |worker: &PathBuf| status(worker, "Seccomp") == "2";
    wait_until("a worker is held", || {
        found = of_kind(node, kind);
        found.retain(is_held);
        !found.is_empty()
    });
    found.remove(0)
}

/// A line of its `status`; empty when it is gone.
fn status(process: &Path, name: &str) -> String {
    let text = fs::read_to_string(process.join("status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().trim().to_owned()
}

fn namespace(process: &Path, kind: &str) -> PathBuf {
    fs::read_link(process.join("ns").join(kind)).unwrap()
}

/// Sends SIGKILL, as the node sees the process.
fn kill(node: &Node, process: &Path) {
    node.run("kill", ["-KILL", process.file_name().unwrap().to_str().unwrap()]);
}

/// A pull that another process waits for.
fn pull_elsewhere(node: &Node) -> std::process::Child {
    let mut crictl = node.command(client("crictl"));
    crictl.args([
        "--runtime-endpoint",
        &node.endpoint(),
        "--image-endpoint",
        &node.endpoint(),
        "pull",
        BUSYBOX,
    ]);
    crictl.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn end(mut pull: std::process::Child) {
    let program = pid_of_program(&mut pull).expect("it waits");
    rustix::process::kill_process(program.try_into().ok().and_then(Pid::from_raw).unwrap(), Signal::KILL)
        .unwrap();
    pull.wait().unwrap();
}

/// Layers that are unfinished, of every process.
fn unfinished(node: &Node) -> Vec<PathBuf> {
    let folders =
        |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    folders(node.path("root/ingest")).flat_map(folders).collect()
}

/// The names in a `/proc/net/dev`.
fn links(devices: &str) -> Vec<&str> {
    devices.lines().skip(2).filter_map(|line| line.split(':').next()).map(str::trim).collect()
}

fn assert_is_confined(worker: &Path, capabilities: &str) {
    for (name, expected) in [
        ("CapInh", NO_CAPABILITIES),
        ("CapPrm", capabilities),
        ("CapEff", capabilities),
        ("CapBnd", capabilities),
        ("CapAmb", NO_CAPABILITIES),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("Threads", "1"),
    ] {
        assert_eq!(status(worker, name), expected, "{name}");
    }
    // A session of its own, with no terminal.
    assert_eq!(status(worker, "NSsid"), worker.file_name().unwrap().to_str().unwrap());
    let limits = fs::read_to_string(worker.join("limits")).unwrap();
    for line in ["Max core file size        0                    0", "Max address space         1073741824 "]
    {
        assert!(limits.contains(line), "{limits}");
    }
    assert_eq!(fs::read_to_string(worker.join("oom_score_adj")).unwrap().trim(), "900");
}

/// What it has open, without the numbers of pipes and sockets.
fn open_files(worker: &Path) -> Vec<String> {
    let open = |entry: fs::DirEntry| fs::read_link(entry.path()).unwrap().to_string_lossy().into_owned();
    let mut open: Vec<_> = fs::read_dir(worker.join("fd")).unwrap().flatten().map(open).collect();
    open.iter_mut().for_each(|target| target.truncate(target.find(':').unwrap_or(target.len())));
    open.sort();
    open
}

fn assert_unpacks_confined(node: &Node, worker: &Path) {
    assert_is_confined(worker, CAPABILITIES);
    // Its root is a directory that is being filled, on a mount of its own on which nothing works.
    let root = fs::metadata(worker.join("root/.")).unwrap();
    let directories: Vec<_> = unfinished(node).into_iter().map(|folder| folder.join("fs")).collect();
    let is_root = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (root.dev(), root.ino()))
    };
    assert!(directories.iter().any(is_root), "{directories:?}");
    let mounts = fs::read_to_string(worker.join("mountinfo")).unwrap();
    let [mount] = mounts.lines().collect::<Vec<_>>().try_into().expect("one mount");
    for flag in ["nosuid", "nodev", "noexec"] {
        assert!(mount.split([' ', ',']).any(|option| option == flag), "{mount}");
    }
    // A network that nobody has added a link to: `lo`, and what else this kernel puts into each, such as `sit0`.
    let fresh = node.run("unshare", ["--net", "cat", "/proc/net/dev"]);
    assert_eq!(links(&fs::read_to_string(worker.join("net/dev")).unwrap()), links(&fresh));
    // What it has open: nothing, the daemon's connection, its root.
    let open = open_files(worker);
    let [root, pipes @ .., socket] = open.as_slice() else { panic!("{open:?}") };
    assert!(root.starts_with('/') && socket == "socket" && *pipes == ["pipe"; 3], "{open:?}");
}

fn what_unpacks_a_layer_has_its_directory_and_nothing_else() {
    let node = node_with(HELD);
    let pull = pull_elsewhere(&node);
    let worker = a_worker(&node, Kind::Unpacker);
    assert_unpacks_confined(&node, &worker);
    assert_eq!(fs::read_link(worker.join("exe")).unwrap(), Path::new("/memfd:pintle (deleted)"));
    let daemon = PathBuf::from(format!("/proc/{}", node.daemon_pid()));
    for kind in ["mnt", "net", "ipc", "uts"] {
        assert_ne!(namespace(&worker, kind), namespace(&daemon, kind), "{kind}");
    }
    assert_eq!(
        fs::read_to_string(worker.join("cgroup")).unwrap(),
        fs::read_to_string(daemon.join("cgroup")).unwrap()
    );
    end(pull);
    wait_until("the worker is gone", || workers(&node).is_empty());
    node.assert_clean();
}

fn what_decompresses_a_layer_has_nothing() {
    let node = node_with("image.decompressor-confined=delay(600000)");
    let pull = pull_elsewhere(&node);
    let worker = a_worker(&node, Kind::Decompressor);
    // That it cannot get more is what its filter's unit test shows (`sys::privilege`).
    assert_is_confined(&worker, NO_CAPABILITIES);
    assert_eq!(open_files(&worker), ["pipe", "pipe", "pipe", "socket"]);
    let limits = fs::read_to_string(worker.join("limits")).unwrap();
    assert!(limits.contains("Max file size             0                    0"), "{limits}");
    end(pull);
    wait_until("the worker is gone", || workers(&node).is_empty());
    node.assert_clean();
}

fn a_worker_that_is_killed_is_the_error_of_its_pull_alone() {
    for kind in KINDS {
        // Long enough to find one and kill it, and no longer than the other pull can wait.
        let node = node_with(&format!("{}=delay(10000)", kind.point()));
        thread::scope(|scope| {
            let killed = scope.spawn(|| node.try_pull(BUSYBOX));
            let worker = a_worker(&node, kind);
            let other = scope.spawn(|| node.try_pull("gcr.io/k8s-staging-cri-tools/test-image-tags:1"));
            kill(&node, &worker);
            let error = killed.join().unwrap().unwrap_err();
            assert!(error.message().contains("unpack layer sha256:"), "{error}");
            let expected = format!("the process that {} it was killed by signal 9", kind.verb());
            assert!(error.message().contains(&expected), "{error}");
            other.join().unwrap().unwrap();
        });
        assert!(node.daemon_lives());
        wait_until("nothing is left of it", || unfinished(&node).is_empty() && workers(&node).is_empty());
        node.pull(BUSYBOX);
        node.assert_clean();
    }
}

fn a_worker_that_panics_says_why() {
    for kind in KINDS {
        let node = node_with(&format!("{}=panic", kind.point()));
        let error = node.try_pull(BUSYBOX).unwrap_err();
        assert!(error.message().contains("unpack layer sha256:"), "{error}");
        assert!(error.message().contains(&format!("failpoint {}", kind.point())), "{error}");
        assert!(node.daemon_lives());
        wait_until("nothing is left of it", || unfinished(&node).is_empty() && workers(&node).is_empty());
        node.restart_daemon();
        node.pull(BUSYBOX);
        node.assert_clean();
    }
}

fn a_worker_ends_with_the_pull_that_is_given_up() {
    for kind in KINDS {
        let node = node_with(&format!("{}=delay(600000)", kind.point()));
        let pull = pull_elsewhere(&node);
        a_worker(&node, kind);
        end(pull);
        wait_until("the worker is gone", || workers(&node).is_empty());
        wait_until("nothing is left of it", || unfinished(&node).is_empty());
        node.assert_clean();
    }
}

fn a_worker_ends_with_the_daemon() {
    for kind in KINDS {
        let node = node_with(&format!("{}=delay(600000)", kind.point()));
        let mut pull = pull_elsewhere(&node);
        a_worker(&node, kind);
        node.kill_daemon();
        wait_until("the worker is gone", || workers(&node).is_empty());
        pull.wait().unwrap();
        node.start_daemon();
        node.pull(BUSYBOX);
        node.assert_clean();
    }
}

fn a_worker_whose_zygote_dies_is_reaped() {
    let node = node_with("supervisor.image-worker-forked=kill");
    let error = node.try_pull(BUSYBOX).unwrap_err();
    assert!(error.message().contains("the zygote is dead"), "{error}");
    let is_zombie = |process: &PathBuf| status(process, "State").starts_with('Z');
    wait_until("no process is left to be reaped", || {
        let pids = node.namespaces().pids().into_iter();
        let mut processes = pids.map(|pid| node.namespaces().root().join(format!("proc/{pid}")));
        !processes.any(|process| is_zombie(&process))
    });
    node.restart_daemon();
    node.pull(BUSYBOX);
    node.assert_clean();
}

fn a_layer_of_an_archive_is_unpacked_in_the_same_way() {
    let node = Node::start();
    let folder = node.path("saved");
    fs::create_dir(&folder).unwrap();
    let script = r#"
        set -e
        cd "$1"
        echo hello > file
        tar -cf layer.tar file
        sum=$(sha256sum layer.tar | cut -d' ' -f1)
        echo '{"os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:'$sum'"]}}' > config.json
        echo '[{"Config":"config.json","RepoTags":["saved.test/one:1"],"Layers":["layer.tar"]}]' > manifest.json
        tar -cf saved.tar manifest.json config.json layer.tar
    "#;
    node.run("sh", ["-c", script, "sh", &folder.to_string_lossy()]);
    let load = |failpoints: &str| -> Command {
        let mut load = node.command(pintle());
        load.args(["image", "load", "--config"]).arg(node.path("config.toml")).arg(folder.join("saved.tar"));
        load.env("PINTLE_FAILPOINTS", failpoints).stdout(Stdio::piped()).stderr(Stdio::piped());
        load
    };
    let loading = load(HELD).spawn().unwrap();
    let worker = a_worker(&node, Kind::Unpacker);
    assert_unpacks_confined(&node, &worker);
    // A command makes no copy of its program: it has no containers.
    let inode = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).unwrap();
    assert_eq!(inode(&worker.join("exe")), inode(&pintle()));
    kill(&node, &worker);
    let output = loading.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("the process that unpacks it was killed by signal 9"), "{said}");
    assert!(!output.status.success());

    let output = load("").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    node.assert_clean();
}
