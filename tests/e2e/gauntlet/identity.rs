//! Section B: users, groups, capabilities, filters and environment.

use std::fs;

use super::{field, number, run_with, security, starts};
use crate::harness::{BUSYBOX, Node, v1};

/// CVE-2024-40635.
pub(super) fn b_01_uid_overflow() {
    let node = Node::start();
    let pod = node.run_pod("web");
    for uid in [-1, 4_294_967_295, 4_294_967_296, i64::MAX, i64::MIN] {
        assert!(!starts(&pod, "bad", |config| security(config).run_as_user = number(uid)), "{uid}");
    }
    for name in ["4294967295", "4294967296", "18446744073709551616", "-1", "+1", "0x0", " 0"] {
        assert!(!starts(&pod, "bad", |config| security(config).run_as_username = name.into()), "{name:?}");
    }
    for uid in [2_147_483_647, 2_147_483_648, 4_294_967_294] {
        for attempt in 0..2 {
            let container = run_with(&pod, &format!("u{uid}-{attempt}"), |config| {
                security(config).run_as_user = number(uid)
            });
            let status = node.read(&format!("/proc/{}/status", container.pid()));
            let [id, ..] = field(&status, "Uid").split('\t').collect::<Vec<_>>()[..] else {
                panic!("{status}")
            };
            assert_eq!(id, uid.to_string());
            assert_eq!(container.shell("id -u"), format!("{uid}\n"));
        }
    }
    node.assert_clean();
}

/// CVE-2022-24769 and its kin.
pub(super) fn b_04_capabilities() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let all = |add: bool| {
        let (mut chosen, names) = (v1::Capability::default(), vec!["ALL".to_owned()]);
        if add {
            chosen.add_capabilities = names
        } else {
            chosen.drop_capabilities = names
        }
        Some(chosen)
    };
    for (name, capabilities, user) in
        [("default", None, 0), ("all", all(true), 0), ("none", all(false), 0), ("user", all(true), 1000)]
    {
        let container = run_with(&pod, name, |config| {
            security(config).capabilities = capabilities;
            security(config).run_as_user = number(user);
        });
        let init = node.read(&format!("/proc/{}/status", container.pid()));
        for status in [init, container.shell("cat /proc/self/status")] {
            for set in ["CapInh", "CapAmb"] {
                assert_eq!(field(&status, set), "0000000000000000", "{name}: {set}");
            }
            assert!(user == 0 || field(&status, "CapEff") == "0000000000000000", "{name}: {status}");
        }
    }
    node.assert_clean();
}

/// CVE-2022-2995, CVE-2023-25173: who can leave a group escapes what its files deny it.
pub(super) fn b_05_groups() {
    let node = Node::start();
    let pod = node.run_pod("web");
    for (name, group, others, groups) in [
        ("user", None, vec![], "0"),
        ("group", number(77), vec![], "77"),
        ("more", number(77), vec![60, 77, 61], "77 60 61"),
        ("zero", number(0), vec![60], "0 60"),
    ] {
        let container = run_with(&pod, name, |config| {
            security(config).run_as_user = number(12345);
            security(config).run_as_group = group;
            security(config).supplemental_groups = others;
        });
        let mut expected: Vec<&str> = groups.split(' ').collect();
        expected.sort_unstable();
        let init = node.read(&format!("/proc/{}/status", container.pid()));
        for status in [init, container.shell("cat /proc/self/status")] {
            let mut held: Vec<&str> = field(&status, "Groups").split(' ').collect();
            held.sort_unstable();
            assert_eq!(held, expected, "{name}");
        }
    }
    node.assert_clean();
}

/// CVE-2022-4318, CVE-2026-15809.
pub(super) fn b_07_passwd_injection() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let plain = node.run_pod("plain").run_in("main", ["sleep", "1000"]).shell("cat /etc/passwd");
    for (number, home) in ["/root\nx::0:0::/:/bin/sh", "/root\rx", "/r\\nx::0:0::/:/bin/sh", "a:b:c", ""]
        .into_iter()
        .enumerate()
    {
        let created = pod.try_create(&format!("c{number}"), BUSYBOX, ["sleep", "1000"], |config| {
            config.envs = vec![v1::KeyValue { key: "HOME".into(), value: home.into() }];
        });
        let Ok(container) = created else {
            assert!(!home.contains('\\'), "{home:?} is harmless");
            continue;
        };
        container.start();
        assert_eq!(container.shell("cat /etc/passwd"), plain, "{home:?}");
        assert_eq!(container.shell("tr '\\0' '\\n' </proc/1/environ | grep -c ^HOME="), "1\n", "{home:?}");
    }
    node.assert_clean();
}

/// CVE-2023-2431.
pub(super) fn b_10_seccomp_empty() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let file = |name: &str, text: &str| {
        let path = node.path("shared").join(name);
        fs::write(&path, text).unwrap();
        path.to_string_lossy().into_owned()
    };
    let folder = node.path("shared").to_string_lossy().into_owned();
    let bad = [
        String::new(),
        "profile.json".into(),
        "../profile.json".into(),
        "/nowhere/profile.json".into(),
        folder,
        file("empty", ""),
        file("no.json", "{"),
        file("null.json", "null"),
        file("what.json", "{\"defaultAction\":\"SCMP_ACT_WHAT\"}"),
    ];
    for localhost_ref in bad {
        let profile_type = v1::security_profile::ProfileType::Localhost.into();
        let profile = v1::SecurityProfile { profile_type, localhost_ref: localhost_ref.clone() };
        assert!(!starts(&pod, "bad", |config| security(config).seccomp = Some(profile)), "{localhost_ref:?}");
    }
    node.assert_clean();
}

pub(super) fn b_12_no_new_privs() {
    let node = Node::start();
    let pod = node.run_pod("web");
    for (user, no_new_privs, unconfined) in [
        (0, false, false),
        (0, true, false),
        (1000, false, false),
        (1000, true, false),
        (1000, false, true),
        (1000, true, true),
    ] {
        let container = run_with(&pod, &format!("c{user}-{no_new_privs}-{unconfined}"), |config| {
            security(config).run_as_user = number(user);
            security(config).no_new_privs = no_new_privs;
            if unconfined {
                let profile_type = v1::security_profile::ProfileType::Unconfined.into();
                security(config).seccomp = Some(v1::SecurityProfile { profile_type, ..Default::default() });
            }
        });
        let expected = (if no_new_privs { "1" } else { "0" }, if unconfined { "0" } else { "2" });
        let init = node.read(&format!("/proc/{}/status", container.pid()));
        for status in [init, container.shell("cat /proc/self/status")] {
            assert_eq!((field(&status, "NoNewPrivs"), field(&status, "Seccomp")), expected, "{user}");
        }
    }
    node.assert_clean();
}

/// CVE-2024-40635: the user that an image names is a number as it stands, or none.
pub(super) fn b_01_image_user() {
    let node = Node::start();
    let pod = node.run_pod("web");
    for (number, uid) in ["2147483647", "2147483648", "4294967294"].iter().enumerate() {
        let reference = format!("registry.test/broken/user-{number}:1");
        let container = pod.create(&format!("good-{number}"), &reference, ["sleep", "1000"]);
        container.start();
        assert_eq!(container.shell("id -u"), format!("{uid}\n"));
        let image = Some(v1::ImageSpec { image: reference, ..Default::default() });
        let image =
            node.cri().image_status(v1::ImageStatusRequest { image, verbose: false }).unwrap().image.unwrap();
        assert_eq!(image.uid.map(|uid| uid.value.to_string()).as_deref(), Some(*uid), "{image:?}");
    }
    for number in 3..12 {
        let reference = format!("registry.test/broken/user-{number}:1");
        let created = pod.try_create(&format!("bad-{number}"), &reference, ["sleep", "1000"], |_| {});
        if let Ok(container) = created {
            assert!(container.try_start().is_err(), "{reference} runs as {}", container.shell("id"));
            container.remove();
        }
    }
    node.assert_clean();
}

/// CVE-2026-30892: an exec is of the same user and groups as the first process, whatever they look like.
pub(super) fn b_03_exec_user() {
    let node = Node::start();
    let pod = node.run_pod("web");
    for (user, group) in
        [(0, None), (1, None), (1, Some(0)), (1, Some(1)), (1000, None), (1000, Some(7)), (0, Some(1))]
    {
        let container = run_with(&pod, &format!("u{user}-{}", group.unwrap_or(-1)), |config| {
            security(config).run_as_user = number(user);
            security(config).run_as_group = group.and_then(number);
        });
        let init = node.read(&format!("/proc/{}/status", container.pid()));
        let exec = container.shell("cat /proc/self/status");
        for name in ["Uid", "Gid", "Groups"] {
            assert_eq!(field(&exec, name), field(&init, name), "{user}:{group:?} {name}");
        }
        let gid = group.unwrap_or(if user == 1000 { 1000 } else { 0 });
        for (name, id) in [("Uid", user), ("Gid", gid)] {
            // Real, effective, saved and of the file system.
            assert_eq!(field(&exec, name), vec![id.to_string(); 4].join("\t"), "{user}:{group:?} {name}");
        }
    }
    node.assert_clean();
}

/// CVE-2022-36109, CVE-2023-25173: groups of the image are given or withheld exactly as asked, and a file that denies
/// a group denies it to the members.
pub(super) fn b_05_group_policies() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let file = node.path("shared/file");
    fs::write(&file, "for others").unwrap();
    node.run("chown", ["0:50000", &file.to_string_lossy()]);
    node.run("chmod", ["604", &file.to_string_lossy()]);
    for (name, policy, groups, reads) in [
        ("merge", v1::SupplementalGroupsPolicy::Merge, "60 1000 50000", false),
        ("strict", v1::SupplementalGroupsPolicy::Strict, "60 1000", true),
    ] {
        let container = run_with(&pod, name, |config| {
            config.mounts = vec![super::bind("/file", &file.to_string_lossy())];
            security(config).run_as_username = "default-user".into();
            security(config).supplemental_groups = vec![60];
            security(config).supplemental_groups_policy = policy.into();
            security(config).capabilities =
                Some(v1::Capability { drop_capabilities: vec!["ALL".into()], ..Default::default() });
        });
        for status in [
            node.read(&format!("/proc/{}/status", container.pid())),
            container.shell("cat /proc/self/status"),
        ] {
            let mut held: Vec<u32> =
                field(&status, "Groups").split(' ').map(|gid| gid.parse().unwrap()).collect();
            held.sort_unstable();
            assert_eq!(held.iter().map(u32::to_string).collect::<Vec<_>>().join(" "), groups, "{name}");
        }
        assert_eq!(container.exec(["cat", "/file"]).code == 0, reads, "{name}");
    }
    node.assert_clean();
}

/// CVE-2019-11245: the user of the image holds for every container made of it.
pub(super) fn b_13_same_user_again() {
    let node = Node::start();
    let pod = node.run_pod("web");
    for attempt in 0..3 {
        let image = "gcr.io/k8s-staging-cri-tools/test-image-user-uid:latest";
        let container = pod.create_with("main", image, ["sleep", "1000"], |config| {
            config.metadata.get_or_insert_default().attempt = attempt;
        });
        container.start();
        assert_eq!(container.shell("id -u"), "1002\n", "attempt {attempt}");
        container.kill();
        if attempt == 1 {
            node.restart_daemon();
        }
    }
    node.assert_clean();
}
