//! Section F: what an image could make the runtime do on the node.

use std::{collections::BTreeSet, fs, os::unix::fs::symlink};

use super::{Canary, bind, starts};
use crate::harness::{BUSYBOX, Node, v1};

/// CVE-2026-55686, CVE-2024-21626: a working directory is made inside, wherever links lead.
pub(super) fn f_03_working_directory() {
    let (node, canary) = Canary::start();
    let pod = node.run_pod("web");
    let links = node.path("shared/links");
    fs::create_dir_all(&links).unwrap();
    symlink("/srv", links.join("absolute")).unwrap();
    symlink("../../../../../../../srv", links.join("relative")).unwrap();
    symlink("/proc/1/root/srv", links.join("magic")).unwrap();
    let volume = || vec![bind("/links", &links.to_string_lossy())];
    for (number, directory) in [
        "/links/absolute/new",
        "/links/relative/closed",
        "/links/absolute/../../srv/x",
        "/a/../../../../srv/y",
    ]
    .iter()
    .enumerate()
    {
        let created = pod.try_create(&format!("c{number}"), BUSYBOX, ["sleep", "1000"], |config| {
            config.mounts = volume();
            config.working_dir = (*directory).into();
        });
        if let Ok(container) = created
            && container.try_start().is_ok()
        {
            let inside = container.shell("pwd -P; ls -ld .");
            assert!(inside.starts_with("/srv"), "{directory}: {inside}");
            assert!(!container.shell("ls -A /srv").contains("secret"), "{directory}");
        }
        canary.assert_untouched(&node, directory);
    }
    for directory in
        ["/bin/sh", "/proc/self/fd/3", "/proc/self/cwd/x", "/links/magic", "relative/../..", "/a\0b"]
    {
        let started = starts(&pod, "bad", |config| {
            config.mounts = volume();
            config.working_dir = directory.into();
        });
        // These two may be found inside; then nothing was led astray.
        assert!(!started || ["/links/magic", "relative/../.."].contains(&directory), "{directory}");
        canary.assert_untouched(&node, directory);
    }
    assert_eq!(fs::read_dir(&links).unwrap().count(), 3);
    node.assert_clean();
}

/// CVE-2024-5154: the files that are mounted below `/etc` are not written where the image's links lead.
pub(super) fn f_04_links_in_etc() {
    let (node, canary) = Canary::start();
    let pod = node.run_pod("web");
    for way in ["etc-symlink", "etc-links"] {
        let reference = format!("registry.test/broken/{way}:1");
        let created = pod.try_create(way, &reference, ["sleep", "1000"], |_| {});
        if let Ok(container) = created
            && container.try_start().is_ok()
        {
            canary.assert_untouched(&node, &format!("{way} while it runs"));
            for file in ["hosts", "hostname", "resolv.conf", "mtab", "passwd", "secret"] {
                let read = container.exec(["cat", &format!("/etc/{file}")]);
                assert!(!read.stdout.contains(Canary::SECRET), "{way}: /etc/{file}: {read:?}");
            }
        }
        canary.assert_untouched(&node, way);
    }
    node.assert_clean();
}

/// CVE-2019-14271, CVE-2021-33635, CVE-2026-41567: no program and no library of an image is ever run by what is
/// outside of its container.
pub(super) fn f_06_programs_of_the_image() {
    let (node, canary) = Canary::start();
    let before = libraries(&node);
    let pod = node.run_pod("web");
    let reference = "registry.test/broken/programs:1";
    let container = pod.create("main", reference, ["sleep", "1000"]);
    container.start();
    // What the trap does it does inside.
    assert_eq!(
        container.shell("/bin/mount; cat /srv/trapped; cd /srv; echo *"),
        "by mount\nloaded trapped\n"
    );

    assert_eq!(libraries(&node), before, "what is mapped into pintle's processes");
    container.stop_within(0);
    container.remove();
    canary.assert_untouched(&node, "a program of the image");
    node.assert_clean();
}

/// The names of the executable files that are mapped into processes of pintle.
fn libraries(node: &Node) -> BTreeSet<String> {
    let processes = node.namespaces().processes();
    let ours = processes.iter().filter(|(_, line)| line.contains("pintle"));
    let maps: String = ours.map(|(pid, _)| node.read(&format!("/proc/{pid}/maps"))).collect();
    let executable =
        maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|mode| mode.contains('x')));
    let names = executable
        .filter_map(|line| line.rsplit_once('/'))
        .map(|(_, name)| name.trim_end_matches(" (deleted)"));
    // The program itself, as a file or as a copy in memory.
    names.filter(|name| !name.contains("pintle")).map(String::from).collect()
}

/// CVE-2024-9676 and its kin: a part of an image is found in that image, and read only.
pub(super) fn f_09_image_volume() {
    const IMAGE: &str = "registry.test/broken/etc-links:1";
    let (node, canary) = Canary::start();
    let pod = node.run_pod("web");
    node.pull(IMAGE);
    let volume = |sub_path: &str| {
        let image = Some(v1::ImageSpec { image: IMAGE.into(), ..Default::default() });
        vec![v1::Mount { image, image_sub_path: sub_path.into(), readonly: true, ..bind("/volume", "") }]
    };
    for sub_path in [
        "..",
        "../../../../srv",
        "/srv",
        "etc/../../srv",
        "etc/hosts",
        "etc/resolv.conf",
        "etc/door",
        "etc/door/closed",
        "a\0b",
        "a,upperdir=/srv",
    ] {
        let created =
            pod.try_create("main", BUSYBOX, ["sleep", "1000"], |config| config.mounts = volume(sub_path));
        if let Ok(container) = created {
            if container.try_start().is_ok() {
                let there = container.shell("ls -AR /volume; cat /volume /volume/secret 2>/dev/null || true");
                assert!(
                    !there.contains("half-open") && !there.contains(Canary::SECRET),
                    "{sub_path}: {there}"
                );
                assert_ne!(
                    container.exec(["sh", "-c", "echo x >/volume/new || echo x >/volume"]).code,
                    0,
                    "{sub_path}"
                );
            }
            container.remove();
        }
        canary.assert_untouched(&node, sub_path);
    }
    node.assert_clean();
}
