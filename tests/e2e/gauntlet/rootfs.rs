//! Section A: what a container's root, mounts and descriptors could reach of the node.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, symlink},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use tonic::Code;

use super::{Canary, bind, number, run_with, security, starts};
use crate::harness::{BUSYBOX, Node, Setup, pintle, v1};

/// CVE-2026-41579, CVE-2026-47766: what is made in `/dev` before the root is changed is made on the node.
pub(super) fn a_01_dev_symlink() {
    let (node, canary) = Canary::start();
    let pod = node.run_pod("web");
    for way in ["dev", "dev-bare", "dev-relative", "dev-second", "proc", "sys"] {
        let reference = format!("registry.test/broken/{way}-symlink:1");
        let refused =
            pod.try_create(way, &reference, ["true"], |_| {}).map(|container| container.id).unwrap_err();
        assert!(
            matches!(refused.code(), Code::InvalidArgument | Code::FailedPrecondition),
            "{way}: {refused}"
        );
        assert!(refused.message().contains(&way[..3]), "{way}: {refused}");
        canary.assert_untouched(&node, way);
    }
    // These are below what is mounted over /dev.
    for way in ["pts", "shm", "mqueue"] {
        let reference = format!("registry.test/broken/dev-{way}-symlink:1");
        let created = pod.try_create(way, &reference, ["sleep", "1000"], |_| {});
        if created.is_ok_and(|container| container.try_start().is_ok()) {
            canary.assert_untouched(&node, &format!("a running container with {way}"));
        }
        canary.assert_untouched(&node, way);
    }
    node.assert_clean();
}

/// CVE-2025-31133 and its kin: whoever holds the node's inode can change its owner and mode.
pub(super) fn a_03_dev_null() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let facts = || node.run("stat", ["-c", "%d:%i %u:%g %a", "/dev/null"]);
    let before = facts();
    let container = run_with(&pod, "user", |config| security(config).run_as_user = number(1000));

    assert_eq!(facts(), before, "the owner of the node's /dev/null");
    let inode = before.split(' ').next().unwrap();
    let init = node.run("stat", ["-L", "-c", "%d:%i", &format!("/proc/{}/fd/0", container.pid())]);
    assert_ne!(init.trim(), inode, "standard input of the first process");
    let exec = container.shell("stat -L -c %d:%i /proc/self/fd/0");
    assert_ne!(exec.trim(), inode, "standard input of an exec");
    assert_eq!(container.shell("cat; echo end"), "end\n");
    node.assert_clean();
}

pub(super) fn a_03_given_device() {
    let node = Node::start();
    let device = node.path("device").to_string_lossy().into_owned();
    node.run("mknod", ["-m", "640", &device, "c", "1", "5"]);
    let container = run_with(&node.run_pod("web"), "main", |config| {
        let (container_path, host_path) = ("/dev/given".into(), device.clone());
        config.devices = vec![v1::Device { container_path, host_path, permissions: "rw".into() }];
    });

    assert_eq!(container.shell("stat -c '%t:%T %u %a' /dev/given"), "1:5 0 640\n");
    container.shell("head -c 1 /dev/given >/dev/null && chmod 666 /dev/given && chown 1000 /dev/given");
    let now = fs::metadata(&device).unwrap();
    assert_eq!((now.uid(), now.mode() & 0o777), (0, 0o640));
    node.assert_clean();
}

/// CVE-2024-21626.
pub(super) fn a_04_fd_leak() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let below_proc = (0..24).map(|fd| format!("/proc/self/fd/{fd}"));
    for directory in below_proc.chain(["/proc/self/root".into(), "/proc/1/cwd".into()]) {
        let there = pod.try_create("cwd", BUSYBOX, ["sleep", "1000"], |config| {
            config.working_dir = format!("{directory}/../../..");
        });
        if let Ok(container) = there {
            assert!(container.try_start().is_err(), "{directory} was entered");
            container.remove();
        }
        let program = format!("{directory}/../../../../bin/true");
        let container = pod.create("program", BUSYBOX, [&program]);
        if directory.contains("/fd/") {
            assert!(container.try_start().is_err(), "{program} was run");
            assert_eq!(container.status().reason, "StartError");
        }
        container.remove();
    }
    let container = pod.run_in("exec", ["sleep", "1000"]);
    for fd in 0..24 {
        let program = format!("/proc/self/fd/{fd}/../../../../bin/true");
        let ran = container.try_exec([&program], 5);
        assert!(ran.is_err(), "{program} was run: {ran:?}");
    }
    node.assert_clean();
}

/// CVE-2019-5736.
pub(super) fn a_05_self_exe() {
    let node = Node::start();
    let program = fs::read(pintle()).unwrap();
    let pod = node.run_pod("web");
    let container = pod.run_in("main", ["sleep", "1000"]);
    container.shell("ln -s /proc/self/exe /tmp/sh");
    container.shell(
        "(while :; do for p in /proc/[0-9]*; do echo x 2>/dev/null >$p/exe; done; done) >/dev/null 2>&1 &",
    );

    for _ in 0..40 {
        let ours = container.exec(["/tmp/sh", "--version"]);
        assert!(ours.stdout.starts_with("pintle ") || ours.stderr.contains("shared libraries"), "{ours:?}");
    }
    assert_eq!(container.exec(["true"]).code, 0);

    // Also as the first process of a container.
    let scripts = node.path("shared/scripts");
    fs::create_dir_all(&scripts).unwrap();
    fs::write(scripts.join("entry"), "#!/proc/self/exe --version\n").unwrap();
    node.run("chmod", ["755", &scripts.join("entry").to_string_lossy()]);
    let created = pod.try_create("entry", BUSYBOX, ["/scripts/entry"], |config| {
        config.mounts = vec![bind("/scripts", &scripts.to_string_lossy())];
    });
    if let Ok(container) = created {
        drop(container.try_start());
    }
    assert!(fs::read(pintle()).unwrap() == program, "the program of pintle was changed");
    node.assert_clean();
}

/// CVE-2021-30465 and CVE-2019-18837, without the race: links decide where a volume goes.
pub(super) fn a_07_mount_destination() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let (links, data) = (node.path("shared/links"), node.path("shared/data"));
    fs::create_dir_all(&links).unwrap();
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("file"), "here").unwrap();
    let canary = node.path("canary");
    for (name, to) in
        [("dangling", "/made/../made/in"), ("up", "../../../../../../made/up"), ("proc", "/proc/self")]
    {
        std::os::unix::fs::symlink(to, links.join(name)).unwrap();
    }
    std::os::unix::fs::symlink(&canary, links.join("canary")).unwrap();
    let volumes = |target: &str| -> Vec<v1::Mount> {
        [(&links, "/links"), (&data, target)]
            .map(|(host, container_path)| v1::Mount {
                container_path: container_path.into(),
                host_path: host.to_string_lossy().into_owned(),
                ..Default::default()
            })
            .into()
    };

    for (target, seen) in
        [("/links/dangling", "/made/in"), ("/links/up/x", "/made/up/x"), ("/links/canary/x", "")]
    {
        let container =
            run_with(&pod, &target.replace('/', "-")[1..], |config| config.mounts = volumes(target));
        let place = if seen.is_empty() { target } else { seen };
        assert_eq!(container.shell(&format!("cat {place}/file")), "here", "{target}");
        assert!(!canary.exists());
    }
    for target in ["/links/proc", "/links/proc/attr", "/links/proc/root/sys"] {
        assert!(!starts(&pod, "bad", |config| config.mounts = volumes(target)), "{target}");
    }
    node.assert_clean();
}

/// CVE-2021-43784 and five of buildah's: a path is no option string.
pub(super) fn a_08_mount_source() {
    let node = Node::start();
    let pod = node.run_pod("web");
    for (number, name) in ["a,upperdir=b", "a:b", "a\\b", "a b", "\u{2713}"].iter().enumerate() {
        let host = node.path("shared").join(name);
        fs::create_dir_all(&host).unwrap();
        fs::write(host.join("file"), name).unwrap();
        let container = run_with(&pod, &format!("c{number}"), |config| {
            config.mounts = vec![v1::Mount {
                container_path: format!("/data/{name}"),
                host_path: host.to_string_lossy().into_owned(),
                ..Default::default()
            }];
        });
        let read = container.exec(["cat", &format!("/data/{name}/file")]);
        assert_eq!(read.stdout, *name, "{read:?}");
    }
    for path in ["/a\0b", "/a\nb", "/../../..", &format!("/{}", "a/".repeat(2048))] {
        let mounted = starts(&pod, "bad", |config| {
            let host_path = node.path("shared").to_string_lossy().into_owned();
            config.mounts = vec![v1::Mount { container_path: path.into(), host_path, ..Default::default() }];
        });
        assert!(!mounted, "{path:?}");
    }
    node.assert_clean();
}

/// CVE-2025-31133: what is masked with a file of the container's own choice is not masked.
pub(super) fn a_03_volume_over_dev() {
    let (node, canary) = Canary::start();
    let pod = node.run_pod("web");
    let folder = |name: &str| {
        let folder = node.path("shared").join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    };
    fs::write(folder("file").join("null"), "chosen by the container").unwrap();
    symlink("/proc/sysrq-trigger", folder("link").join("null")).unwrap();
    symlink("/srv/secret", folder("canary").join("null")).unwrap();
    node.run("mknod", ["-m", "666", &folder("zero").join("null").to_string_lossy(), "c", "1", "5"]);
    for kind in ["file", "link", "canary", "zero"] {
        let host = folder(kind);
        let facts = || {
            fs::symlink_metadata(host.join("null")).map(|now| (now.uid(), now.mode(), now.ctime())).unwrap()
        };
        let before = facts();
        let created = pod.try_create(kind, BUSYBOX, ["sleep", "1000"], |config| {
            config.mounts = vec![bind("/dev", &host.to_string_lossy())];
            security(config).run_as_user = number(if kind == "file" { 1000 } else { 0 });
        });
        if let Ok(container) = created
            && container.try_start().is_ok()
        {
            for path in &container
                .config
                .linux
                .clone()
                .unwrap_or_default()
                .security_context
                .unwrap_or_default()
                .masked_paths
            {
                let read = container.exec([
                    "sh",
                    "-c",
                    &format!("[ -d {path} ] && ls -A {path} || head -c 64 {path}"),
                ]);
                assert_eq!(read.stdout, "", "{kind}: {path}");
            }
        }
        assert_eq!(facts(), before, "{kind}: the node's file");
        canary.assert_untouched(&node, kind);
    }
    node.assert_clean();
}

/// What a service manager handed to the daemon is the daemon's alone.
pub(super) fn a_04_listen_fds() {
    let script = r#"exec 7</ 8</etc/hostname 9</proc; export LISTEN_FDS=7 LISTEN_PID=$$ NOTIFY_SOCKET=/run/none; exec "$@""#;
    let under = ["sh", "-c", script, "sh"].map(String::from).to_vec();
    let node = Node::start_with(&Setup { under, ..Setup::default() });
    let held = node.run("ls", [&format!("/proc/{}/fd", daemon_inside(&node))]);
    assert!(["7", "8", "9"].iter().all(|fd| held.lines().any(|line| line == *fd)), "the daemon has {held}");
    let container = node.run_pod("web").run_in("main", ["sleep", "1000"]);

    assert_eq!(node.run("ls", [&format!("/proc/{}/fd", container.pid())]), "0\n1\n2\n");
    // The fourth is the folder that `ls` reads.
    assert_eq!(container.shell("ls /proc/self/fd"), "0\n1\n2\n3\n");
    let environments = container.shell("tr '\\0' '\\n' </proc/1/environ; env");
    assert!(!environments.contains("LISTEN_") && !environments.contains("NOTIFY_"), "{environments}");
    node.assert_clean();
}

/// The daemon's pid, as the node sees it.
fn daemon_inside(node: &Node) -> u32 {
    let processes = node.namespaces().processes();
    processes.iter().find(|(_, line)| line.contains(" serve --config")).expect("a daemon").0
}

/// CVE-2021-30465 and CVE-2024-45310: a place that is a directory when it is looked at and a link when it is used.
pub(super) fn a_07_mount_race() {
    const CREATES: usize = 60;
    let (node, canary) = Canary::start();
    let pod = node.run_pod("web");
    let (volume, data) = (node.path("shared/volume"), node.path("shared/data"));
    fs::create_dir_all(volume.join("place")).unwrap();
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("mark"), "data").unwrap();
    symlink(Canary::PLACE, volume.join("link")).unwrap();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let (place, link) = (volume.join("place"), volume.join("link"));
            while !over.load(Ordering::Relaxed) {
                renameat_with(CWD, &place, CWD, &link, RenameFlags::EXCHANGE).unwrap();
            }
        });
        let race = || {
            for number in 0..CREATES {
                let target =
                    ["/volume/place/open", "/volume/place/new", "/volume/link/half-open"][number % 3];
                let created = pod.try_create(&format!("c{number}"), BUSYBOX, ["sleep", "1000"], |config| {
                    config.mounts = vec![
                        bind("/volume", &volume.to_string_lossy()),
                        bind(target, &data.to_string_lossy()),
                    ];
                });
                if let Ok(container) = created {
                    drop(container.try_start());
                    container.remove();
                }
            }
        };
        let raced = std::panic::catch_unwind(std::panic::AssertUnwindSafe(race));
        over.store(true, Ordering::Relaxed);
        raced.unwrap();
    });
    canary.assert_untouched(&node, "the race");
    assert_eq!(fs::read_dir(&data).unwrap().count(), 1, "something was made in the other volume");
    node.assert_clean();
}
