//! Sections H and K: logs, and the daemon's own files.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
    process::Command,
};

use super::{Canary, bind, run_with, starts};
use crate::harness::{ContainerState, Node, Setup, v1, wait_until};

/// CVE-2025-0750: a log is a regular file beneath its pod's directory, or there is none.
pub(super) fn h_01_log_path() {
    let (node, canary) = Canary::start();
    let pod = node.run_pod("web");
    let logs = Path::new(&pod.config.log_directory).to_path_buf();
    fs::create_dir_all(logs.join("folder.log")).unwrap();
    symlink("/srv/secret", logs.join("link.log")).unwrap();
    symlink("/srv/new", logs.join("dangling.log")).unwrap();
    symlink("/srv/open", logs.join("turned")).unwrap();
    node.run("mkfifo", [&logs.join("pipe.log").to_string_lossy()]);
    let victim = node.path("shared/victim");
    fs::write(&victim, "kept").unwrap();
    // Both are in the node's folder: a hard link stays within a file system.
    fs::hard_link(&victim, logs.join("hard.log")).unwrap();
    for path in [
        "folder.log",
        "link.log",
        "dangling.log",
        "pipe.log",
        "hard.log",
        "turned/a.log",
        "../../../../../srv/a.log",
        "/srv/a.log",
        "a/../../../srv/a.log",
        "..",
        ".",
        "a\0b",
        "a\nb",
    ] {
        let started = starts(&pod, "main", |config| {
            config.command = ["echo", "written"].map(String::from).to_vec();
            config.log_path = path.into();
        });
        assert!(!started, "{path:?} is a log");
        canary.assert_untouched(&node, path);
    }
    for directory in ["/srv/../srv/open", "relative", "/proc/self/cwd"] {
        let run = node.try_run_pod("other", |config| config.log_directory = directory.into());
        if let Ok(pod) = run {
            starts(&pod, "main", |_| {});
            pod.stop();
            pod.remove();
        }
        assert!(!node.has("/relative"), "{directory}");
    }
    assert_eq!(fs::read_to_string(&victim).unwrap(), "kept");
    let good = run_with(&pod, "good", |config| {
        config.command = ["sh", "-c", "echo one; sleep 1000"].map(String::from).to_vec()
    });
    wait_until("it logs", || !good.log().is_empty());
    assert_eq!(fs::metadata(good.log_file()).unwrap().mode() & 0o7777, 0o640);
    node.assert_clean();
}

/// A termination log and any other file of a volume are mounted and never opened: a pipe would wait for ever.
pub(super) fn h_04_pipe_as_volume() {
    let (node, canary) = Canary::start();
    let pod = node.run_pod("web");
    let pipe = node.path("shared/pipe");
    node.run("mkfifo", [&pipe.to_string_lossy()]);
    let container = run_with(&pod, "main", |config| {
        config.mounts = vec![bind("/dev/termination-log", &pipe.to_string_lossy())]
    });
    assert_eq!(container.shell("stat -c %F /dev/termination-log"), "fifo\n");
    let link = node.path("shared/link");
    symlink("/srv/secret", &link).unwrap();
    let container = run_with(&pod, "link", |config| {
        config.mounts =
            vec![v1::Mount { readonly: true, ..bind("/dev/termination-log", &link.to_string_lossy()) }];
    });
    assert_eq!(container.state(), ContainerState::ContainerRunning);
    canary.assert_untouched(&node, "a termination log");
    node.assert_clean();
}

/// CVE-2021-25743: what others name cannot write lines or colours into our log.
pub(super) fn h_05_log_injection() {
    const FORGED: &str = "a\u{1b}[31m\n{\"level\":\"ERROR\",\"message\":\"forged\"}\r";
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = pod.run_in("main", ["sleep", "1000"]);
    node.try_pull(&format!("registry.test/{FORGED}:1")).unwrap_err();
    container.try_exec([&format!("/{FORGED}")], 5).unwrap_err();
    node.try_run_pod("bad", |config| config.hostname = FORGED.into()).unwrap_err();
    node.try_run_pod("bad", |config| config.metadata.get_or_insert_default().name = FORGED.into())
        .unwrap_err();
    assert!(!starts(&pod, "bad", |config| config.mounts = vec![bind("/data", &format!("/{FORGED}"))]));
    let status = v1::ContainerStatusRequest { container_id: FORGED.into(), verbose: false };
    node.cri().container_status(status).unwrap_err();
    node.try_run_pod("handler", |config| drop(config.annotations.insert(FORGED.into(), FORGED.into())))
        .map(|pod| pod.stop())
        .ok();

    let log = fs::read_to_string(node.path("daemon.log")).unwrap();
    for line in log.lines() {
        assert!(!line.bytes().any(|byte| byte < b' '), "{line:?}");
        let line: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        assert_ne!(line["message"], "forged");
    }
    node.assert_clean();
}

/// Paths of the daemon that others may write to, but what belongs to workloads and images.
fn writable(node: &Node) -> Vec<String> {
    let mut find = Command::new("find");
    find.args([node.path("root"), node.path("state"), node.path("pintle.sock")]);
    find.args(["-perm", "-0002", "!", "-type", "l", "!", "-perm", "-1000", "-print"]);
    let open = String::from_utf8(find.output().unwrap().stdout).unwrap();
    let ours = open.lines().filter(|path| !path.contains("/images/") && !path.contains("/layers/"));
    ours.map(String::from).collect()
}

/// CVE-2021-41103, CVE-2024-25621: the daemon's folders are its own, whoever looks.
pub(super) fn k_01_modes() {
    let node = Node::start();
    let container = node.run_pod("web").run_in("main", ["sleep", "1000"]);
    wait_until("it runs", || container.exec(["true"]).code == 0);

    assert_modes(&node);
    // The folder of the test is in nobody's way.
    fs::set_permissions(node.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let nobody = |arguments: &[&str]| {
        let mut command = node.command("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).args(arguments);
        command.output().unwrap()
    };
    let [root, state, socket] =
        ["root", "state", "pintle.sock"].map(|name| node.path(name).to_string_lossy().into_owned());
    assert!(nobody(&["ls", "-d", &root]).status.success(), "nobody gets as far as the folder");
    for place in [&root, &state] {
        let seen = nobody(&["find", place, "-mindepth", "1"]);
        assert!(seen.stdout.is_empty(), "nobody sees {}", String::from_utf8_lossy(&seen.stdout));
    }
    assert!(!nobody(&["test", "-w", &socket]).status.success(), "nobody may connect");
    node.assert_clean();
}

#[track_caller]
fn assert_modes(node: &Node) {
    assert_eq!(writable(node), [""; 0], "writable by everyone");
    let mode = |name: &str| node.path(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("root") & 0o077, 0);
    assert_eq!(mode("state") & 0o066, 0, "only who knows a name gets through");
    assert_eq!(mode("pintle.sock"), 0o600);
}

/// Whatever umask the daemon was started with, its files and what it makes for workloads have their modes.
pub(super) fn k_01_umask() {
    for umask in ["000", "077"] {
        let script = format!(r#"umask {umask}; exec "$@""#);
        let under = ["sh", "-c", &script, "sh"].map(String::from).to_vec();
        let node = Node::start_with(&Setup { under, ..Setup::default() });
        let container =
            run_with(&node.run_pod("web"), "main", |config| config.working_dir = "/made/here".into());
        assert_modes(&node);
        assert_eq!(
            container.shell("stat -c '%a %n' /made/here /etc/hosts /etc/hostname /etc/resolv.conf; umask"),
            "755 /made/here\n644 /etc/hosts\n644 /etc/hostname\n644 /etc/resolv.conf\n0022\n",
            "umask {umask}"
        );
        node.assert_clean();
    }
}

/// CVE-2025-4953: no name is made where everybody may make names.
pub(super) fn k_03_temporary_files() {
    // The node's folder, with the last argument in it, is in one of these places, so it is put into the new one.
    let script = r#"
        set -e
        for last; do :; done
        folder=$(dirname "$last")
        mount --bind "$folder" /srv
        for place in /tmp /var/tmp /dev/shm; do
            if [ -d $place ]; then mount -t tmpfs -o mode=1777 tmpfs $place; fi
        done
        mkdir -p "$folder"
        mount --bind /srv "$folder"
        umount /srv
        exec "$@"
    "#;
    let under = ["sh", "-c", script, "sh"].map(String::from).to_vec();
    let node = Node::start_with(&Setup { under, ..Setup::default() });
    // The time of a directory tells that a name was made or removed in it.
    let looks = || {
        node.run(
            "find",
            [
                "/tmp",
                "/var/tmp",
                "/dev/shm",
                "-xdev",
                "!",
                "-name",
                "pintle-e2e-*",
                "-printf",
                "%p %T@ %C@\n",
            ],
        )
    };
    let before = looks();
    let pod = node.run_pod("web");
    for number in 0..3 {
        let container = pod.run_in(&format!("c{number}"), ["sleep", "1000"]);
        container.shell("echo >/dev/shm/of-the-pod; echo >/tmp/of-the-container");
        container.kill();
        container.remove();
    }
    node.try_pull("registry.test/broken/truncated:1").unwrap_err();
    node.pull("registry.test/pintle/layers:1");
    assert_eq!(looks(), before);
    node.assert_clean();
}
