//! AppArmor: under which profile a container's processes run. A host without it says so.

use std::{fs, io::Write as _, process::Stdio};

use crate::harness::{BUSYBOX, Container, Node, Pod, runner::tests, v1};

tests![
    a_container_is_confined_by_pintles_own_profile,
    a_container_runs_under_the_profile_of_the_host_that_it_names,
    a_profile_that_is_not_loaded_is_an_error_that_names_it,
    who_asks_for_none_is_not_confined,
];

/// Only where a kernel enforces it there is something to see.
fn is_on() -> bool {
    let on =
        fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'));
    if !on {
        eprintln!("skipped: no AppArmor");
    }
    on
}

type Security = v1::LinuxContainerSecurityContext;

fn run_with<'n>(pod: &Pod<'n>, name: &str, change: impl Fn(&mut Security)) -> Container<'n> {
    let container = pod.create_with(name, BUSYBOX, ["sleep", "1000"], |config| {
        change(config.linux.get_or_insert_default().security_context.get_or_insert_default());
    });
    container.start();
    container
}

fn profile(kind: v1::security_profile::ProfileType, name: &str) -> Option<v1::SecurityProfile> {
    Some(v1::SecurityProfile { profile_type: kind.into(), localhost_ref: name.into() })
}

/// The profiles of init and of an exec in it.
fn profiles(node: &Node, container: &Container<'_>) -> [String; 2] {
    let of_init = node.read(&format!("/proc/{}/attr/current", container.pid()));
    [of_init.trim_end().to_owned(), container.shell("cat /proc/self/attr/current").trim_end().to_owned()]
}

fn a_container_is_confined_by_pintles_own_profile() {
    if !is_on() {
        return;
    }
    let node = Node::start();
    let pod = node.run_pod("web");
    let confined = ["pintle-default (enforce)"; 2];
    let plain = run_with(&pod, "plain", |_| {});
    assert_eq!(profiles(&node, &plain), confined);
    let strict = run_with(&pod, "strict", |security| security.no_new_privs = true);
    assert_eq!(profiles(&node, &strict), confined);

    // Root with the capability, and no mask or filter before it: the profile is what refuses.
    let strong = run_with(&pod, "strong", |security| {
        security.capabilities =
            Some(v1::Capability { add_capabilities: vec!["SYS_ADMIN".into()], ..Default::default() });
    });
    assert_eq!(profiles(&node, &strong), confined);
    let refused = strong.exec(["mount", "-t", "tmpfs", "none", "/dev/shm"]);
    assert!(refused.code != 0 && refused.stderr.contains("ermission denied"), "{refused:?}");
    assert_eq!(strong.shell("kill -0 1 && echo signalled"), "signalled\n");

    node.restart_daemon();
    assert_eq!(profiles(&node, &plain), confined);
    let later = run_with(&pod, "later", |_| {});
    assert_eq!(profiles(&node, &later), confined);
    node.assert_clean();
}

fn a_container_runs_under_the_profile_of_the_host_that_it_names() {
    use v1::security_profile::ProfileType::{Localhost, RuntimeDefault};
    if !is_on() {
        return;
    }
    let node = Node::start();
    let name = format!("pintle-e2e-{}", std::process::id());
    parse("--replace", &name);
    let pod = node.run_pod("web");
    let new = run_with(&pod, "new", |security| security.apparmor = profile(Localhost, &name));
    let old = run_with(&pod, "old", |security| deprecated(security, &format!("localhost/{name}")));
    let both = run_with(&pod, "both", |security| {
        security.apparmor = profile(RuntimeDefault, "");
        deprecated(security, &format!("localhost/{name}"));
    });

    for container in [&new, &old] {
        assert_eq!(profiles(&node, container), [format!("{name} (enforce)"), format!("{name} (enforce)")]);
        let refused = container.exec(["touch", "/tmp/new"]);
        assert!(refused.code != 0 && refused.stderr.contains("ermission denied"), "{refused:?}");
    }
    assert_eq!(profiles(&node, &both), ["pintle-default (enforce)"; 2]);
    node.remove_pods();
    parse("--remove", &name);
    node.assert_clean();
}

#[allow(deprecated, reason = "kubelets before 1.30 know this field alone")]
fn deprecated(security: &mut Security, profile: &str) {
    security.apparmor_profile = profile.into();
}

/// Loads or removes a profile of the test's own, under which nothing can be written.
fn parse(action: &str, name: &str) {
    let text = format!(
        "profile {name} flags=(attach_disconnected) {{ file, network, capability, deny /tmp/** w, }}\n"
    );
    let mut parser = std::process::Command::new("apparmor_parser")
        .args([action, "--skip-cache", "--quiet"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    parser.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(parser.wait().unwrap().success());
}

fn a_profile_that_is_not_loaded_is_an_error_that_names_it() {
    use v1::security_profile::ProfileType::Localhost;
    let node = Node::start();
    let pod = node.run_pod("web");
    let refused = pod.try_create("bad", BUSYBOX, ["true"], |config| {
        let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
        security.apparmor = profile(Localhost, "no-such-profile");
    });
    let refused = refused.map(|made| made.id).unwrap_err();
    let why = if is_on() { "not loaded" } else { "AppArmor is off" };
    assert!(refused.message().contains("no-such-profile") && refused.message().contains(why), "{refused}");
    assert_eq!(node.containers(), [""; 0]);
    node.assert_clean();
}

fn who_asks_for_none_is_not_confined() {
    use v1::security_profile::ProfileType::Unconfined;
    if !is_on() {
        return;
    }
    let node = Node::start();
    let pod = node.run_pod_with("web", |config| {
        config.linux.get_or_insert_default().security_context.get_or_insert_default().privileged = true;
    });
    for (name, change) in [
        ("unconfined", (|security| security.apparmor = profile(Unconfined, "")) as fn(&mut Security)),
        ("privileged", |security| security.privileged = true),
    ] {
        let container = run_with(&pod, name, change);
        assert_eq!(profiles(&node, &container), ["unconfined"; 2], "{name}");
    }
    node.assert_clean();
}
