//! Tests of whole plans: what a container of a request gets, field by field.

use expect_test::{Expect, expect};
use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::Value;

use super::*;
use crate::{
    model::{
        ContainerConfig, ContainerId, DeviceMapping, ImageConfig, IpcMode, Mount, PodConfig, Propagation,
        RootfsLayers, SeccompChoice, UserChoice,
    },
    spec::seccomp,
};

fn image() -> ImageConfig {
    ImageConfig {
        user: "web".into(),
        env: vec!["PATH=/bin".into(), "LANG=C".into()],
        entrypoint: vec!["/entry".into()],
        cmd: vec!["run".into()],
        working_dir: "/srv".into(),
        ..ImageConfig::default()
    }
}

fn pod() -> PodConfig {
    let mut pod =
        PodConfig { hostname: "web-0".into(), log_directory: "/var/log/pods/p".into(), ..Default::default() };
    pod.annotations.insert("secret.example/annotation".into(), "leak".into());
    pod.labels.insert("secret.example/label".into(), "leak".into());
    pod
}

fn plan(pod: &PodConfig, container: &ContainerConfig, image: &ImageConfig) -> Result<ContainerPlan, Error> {
    build(&Inputs {
        id: &ContainerId::from_bytes([7; 32]),
        pod,
        container,
        image,
        layers: &RootfsLayers { lower: vec!["/layers/2".into(), "/layers/1".into()] },
        volume_layers: &[],
        writable: "/containers/c".into(),
        pod_dir: "/pods/p".into(),
        seccomp: Some(seccomp::default(crate::spec::capabilities(container)?)),
        seccomp_flags: 0,
        apparmor: String::new(),
        held_capabilities: u64::MAX,
    })
}

/// The container that the JSON describes, as far as it does.
fn container(json: &str) -> ContainerConfig {
    let mut whole = serde_json::to_value(ContainerConfig::default()).unwrap();
    merge(&mut whole, serde_json::from_str(json).unwrap());
    serde_json::from_value(whole).unwrap()
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

#[track_caller]
fn check(config: &str, pointer: &str, expected: Expect) {
    let plan = plan(&pod(), &container(config), &image()).unwrap();
    let spec: Value = serde_json::from_slice(&plan.oci).unwrap();
    expected.assert_eq(&serde_json::to_string_pretty(spec.pointer(pointer).unwrap()).unwrap());
}

#[test]
fn the_spec_of_a_plain_container() {
    check(
        "{}",
        "",
        expect![[r#"
        {
          "linux": {
            "maskedPaths": [
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
              "/sys/firmware"
            ],
            "readonlyPaths": [
              "/proc/bus",
              "/proc/fs",
              "/proc/irq",
              "/proc/sys",
              "/proc/sysrq-trigger"
            ]
          },
          "mounts": [
            {
              "destination": "/proc",
              "options": [
                "nosuid",
                "noexec",
                "nodev"
              ],
              "source": "proc",
              "type": "proc"
            },
            {
              "destination": "/dev",
              "options": [
                "nosuid",
                "strictatime",
                "mode=755",
                "size=65536k"
              ],
              "source": "tmpfs",
              "type": "tmpfs"
            },
            {
              "destination": "/dev/pts",
              "options": [
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5"
              ],
              "source": "devpts",
              "type": "devpts"
            },
            {
              "destination": "/dev/mqueue",
              "options": [
                "nosuid",
                "noexec",
                "nodev"
              ],
              "source": "mqueue",
              "type": "mqueue"
            },
            {
              "destination": "/sys",
              "options": [
                "nosuid",
                "noexec",
                "nodev",
                "ro"
              ],
              "source": "sysfs",
              "type": "sysfs"
            }
          ],
          "ociVersion": "1.2.0",
          "process": {
            "args": [
              "init"
            ],
            "capabilities": {
              "ambient": [],
              "bounding": [
                "CAP_CHOWN",
                "CAP_DAC_OVERRIDE",
                "CAP_FOWNER",
                "CAP_FSETID",
                "CAP_KILL",
                "CAP_SETGID",
                "CAP_SETUID",
                "CAP_SETPCAP",
                "CAP_NET_BIND_SERVICE",
                "CAP_NET_RAW",
                "CAP_SYS_CHROOT",
                "CAP_SYS_ADMIN",
                "CAP_SYS_RESOURCE",
                "CAP_MKNOD",
                "CAP_AUDIT_WRITE",
                "CAP_SETFCAP"
              ],
              "effective": [
                "CAP_CHOWN",
                "CAP_DAC_OVERRIDE",
                "CAP_FOWNER",
                "CAP_FSETID",
                "CAP_KILL",
                "CAP_SETGID",
                "CAP_SETUID",
                "CAP_SETPCAP",
                "CAP_NET_BIND_SERVICE",
                "CAP_NET_RAW",
                "CAP_SYS_CHROOT",
                "CAP_SYS_ADMIN",
                "CAP_SYS_RESOURCE",
                "CAP_MKNOD",
                "CAP_AUDIT_WRITE",
                "CAP_SETFCAP"
              ],
              "inheritable": [],
              "permitted": [
                "CAP_CHOWN",
                "CAP_DAC_OVERRIDE",
                "CAP_FOWNER",
                "CAP_FSETID",
                "CAP_KILL",
                "CAP_SETGID",
                "CAP_SETUID",
                "CAP_SETPCAP",
                "CAP_NET_BIND_SERVICE",
                "CAP_NET_RAW",
                "CAP_SYS_CHROOT",
                "CAP_SYS_ADMIN",
                "CAP_SYS_RESOURCE",
                "CAP_MKNOD",
                "CAP_AUDIT_WRITE",
                "CAP_SETFCAP"
              ]
            },
            "cwd": "/",
            "env": [
              "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
              "HOME=/"
            ],
            "terminal": false,
            "user": {
              "gid": 0,
              "uid": 0
            }
          },
          "root": {
            "path": "",
            "readonly": false
          }
        }"#]],
    );
}

#[test]
fn a_terminal_and_a_command_get_into_the_plan() {
    check(r#"{"tty": true, "command": ["sh", "-c", "x"]}"#, "/process/terminal", expect!["true"]);
    let config = container(r#"{"tty": true, "command": ["sh"], "args": ["a"]}"#);
    assert_eq!(plan(&pod(), &config, &image()).unwrap().process.args, [b"sh".to_vec(), b"a".to_vec()]);
}

#[test]
fn a_container_without_capabilities_is_set_up_with_six() {
    check(
        r#"{"security": {"capabilities": {"drop": ["ALL"]}}}"#,
        "/process/capabilities/bounding",
        expect![[r#"
            [
              "CAP_DAC_OVERRIDE",
              "CAP_SETGID",
              "CAP_SETUID",
              "CAP_SETPCAP",
              "CAP_SYS_ADMIN",
              "CAP_SYS_RESOURCE"
            ]"#]],
    );
}

#[test]
fn a_privileged_container_sees_all_of_sys_and_proc() {
    check(
        r#"{"security": {"privileged": true}}"#,
        "/linux",
        expect![[r#"
        {
          "maskedPaths": [],
          "readonlyPaths": []
        }"#]],
    );
    check(
        r#"{"security": {"privileged": true}}"#,
        "/mounts/4/options",
        expect![[r#"
        [
          "nosuid",
          "noexec",
          "nodev",
          "rw"
        ]"#]],
    );
}

#[test]
fn a_request_replaces_the_masked_paths() {
    check(
        r#"{"security": {"masked_paths": [], "readonly_paths": ["/proc/sys"]}}"#,
        "/linux",
        expect![[r#"
            {
              "maskedPaths": [],
              "readonlyPaths": [
                "/proc/sys"
              ]
            }"#]],
    );
}

#[test]
fn the_plan_says_the_rest() {
    let config = container(
        r#"{"args": ["a"], "tty": true, "stdin": true, "log_path": "web/0.log",
            "resources": {"oom_score_adj": 985, "memory_bytes": 1000},
            "security": {"readonly_rootfs": true, "no_new_privs": true, "seccomp": "RuntimeDefault", "user": {"uid": 1000},
                         "capabilities": {"add": ["NET_ADMIN"], "ambient": ["NET_ADMIN", "SYS_TIME"]}}}"#,
    );
    let plan = plan(&pod(), &config, &image()).unwrap();
    let process = ProcessPlan {
        args: vec![b"/entry".to_vec(), b"a".to_vec()],
        env: ["PATH=/bin", "LANG=C", "HOSTNAME=web-0", "TERM=xterm"].map(Vec::from).into(),
        cwd: "/srv".into(),
        user: UserChoice { uid: Some(1000), ..UserChoice::default() },
        image_user: "web".into(),
        tty: true,
        capabilities: 0xa804_25fb | 1 << 12,
        ambient: 1 << 12,
        no_new_privs: true,
        seccomp: Some(seccomp::default(0xa804_25fb)),
        seccomp_flags: 0,
        apparmor: String::new(),
        selinux: String::new(),
        oom_score_adj: 985,
        nofile: (1024, 524_288),
    };
    assert_eq!(plan.process, process);
    assert_eq!(plan.lower, [PathBuf::from("/layers/2"), PathBuf::from("/layers/1")]);
    assert_eq!(plan.writable, PathBuf::from("/containers/c"));
    assert_eq!(plan.resources, config.resources);
    let log = LogPath { directory: "/var/log/pods/p".into(), file: "web/0.log".into() };
    assert_eq!(plan.log, Some(log));
    assert_eq!(
        (plan.readonly_rootfs, plan.privileged, plan.stdin, plan.stdin_once),
        (true, false, true, false)
    );
}

#[test]
fn a_log_stays_in_its_directory_and_needs_both_halves() {
    let of = |directory: &str, path: &str| {
        let pod = PodConfig { log_directory: directory.into(), ..pod() };
        let container = ContainerConfig { log_path: path.into(), ..Default::default() };
        plan(&pod, &container, &image()).map(|plan| plan.log)
    };
    assert_eq!(of("", "a").unwrap(), None);
    assert_eq!(of("/l", "").unwrap(), None);
    let log = LogPath { directory: "/l".into(), file: "a/b".into() };
    assert_eq!(of("/l/", "/a//./b").unwrap(), Some(log));
    assert!(matches!(of("/l", "../a"), Err(Error::Path { what: "log", .. })));
    assert!(matches!(of("l", "a"), Err(Error::Path { what: "log", .. })));
}

#[test]
fn the_handler_decides_about_the_hosts_devices_and_annotations() {
    let privileged = |without: bool, privileged: bool| {
        let mut pod = pod();
        pod.handler.privileged_without_host_devices = without;
        let mut container = ContainerConfig::default();
        container.security.privileged = privileged;
        let plan = plan(&pod, &container, &image()).unwrap();
        (plan.privileged, plan.host_devices, plan.device_rules.len() == 1)
    };
    assert_eq!(privileged(false, true), (true, true, true));
    assert_eq!(privileged(true, true), (true, false, false));
    assert_eq!(privileged(false, false), (false, false, false));

    let mut pod = pod();
    pod.handler.allowed_annotations = vec!["a.io/*".into(), "b.io/one".into()];
    let annotations = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    };
    pod.annotations = annotations(&[("a.io/x", "pod"), ("a.io/y", "pod"), ("c.io/x", "pod")]);
    let container = ContainerConfig {
        annotations: annotations(&[("a.io/y", "container"), ("b.io/one", "1"), ("b.io/two", "2")]),
        ..Default::default()
    };
    let spec: Value = serde_json::from_slice(&plan(&pod, &container, &image()).unwrap().oci).unwrap();
    let expected = serde_json::json!({"a.io/x": "pod", "a.io/y": "container", "b.io/one": "1"});
    assert_eq!(spec["annotations"], expected);
}

#[test]
fn an_oom_score_out_of_range_is_an_error() {
    for (value, ok) in [(-1000, true), (1000, true), (-1001, false), (1001, false), (i64::MIN, false)] {
        let mut config = ContainerConfig::default();
        config.resources.oom_score_adj = value;
        assert_eq!(plan(&pod(), &config, &image()).is_ok(), ok, "{value}");
    }
}

fn any_path() -> impl Strategy<Value = String> {
    let parts = select(vec!["", ".", "..", "a", "b", "proc", "sys", "etc", "hosts", "dev", "x\ny", "\0"]);
    (any::<bool>(), vec(parts, 0..4))
        .prop_map(|(absolute, parts)| if absolute { "/" } else { "" }.to_string() + &parts.join("/"))
}

fn good_path() -> impl Strategy<Value = String> {
    vec(select(vec!["a", "b", "c", ".", "etc", "hosts"]), 1..5)
        .prop_map(|parts| format!("/m/{}", parts.join("/")))
}

fn any_mount() -> impl Strategy<Value = Mount> {
    let path = prop_oneof![8 => good_path(), 1 => any_path()];
    let propagation =
        select(vec![Propagation::Private, Propagation::HostToContainer, Propagation::Bidirectional]);
    (path, good_path(), any::<bool>(), propagation).prop_map(
        |(container_path, host_path, readonly, propagation)| Mount {
            container_path,
            host_path,
            readonly,
            propagation,
            ..Mount::default()
        },
    )
}

fn any_security() -> impl Strategy<Value = Security> {
    let names = || {
        let names = vec!["ALL", "CHOWN", "NET_ADMIN", "SYS_ADMIN", "CAP_BPF", "SETUID"];
        proptest::collection::btree_set(select(names).prop_map(String::from), 0..3)
    };
    let seccomp = select(vec![
        SeccompChoice::RuntimeDefault,
        SeccompChoice::Unconfined,
        SeccompChoice::Localhost("/p".into()),
    ]);
    let paths = || option::of(vec(good_path(), 0..3));
    (any::<[bool; 3]>(), (names(), names(), names()), seccomp, paths(), paths(), option::of(any::<u32>()))
        .prop_map(|(flags, (add, drop, ambient), seccomp, masked_paths, readonly_paths, uid)| Security {
            privileged: flags[0],
            readonly_rootfs: flags[1],
            no_new_privs: flags[2],
            user: UserChoice { uid, ..UserChoice::default() },
            capabilities: crate::model::Capabilities { add, drop, ambient },
            seccomp,
            apparmor: Default::default(),
            selinux: Default::default(),
            masked_paths,
            readonly_paths,
        })
}

prop_compose! {
    fn any_container()(
        command in vec("[a-z]{0,4}", 0..3),
        args in vec("\\PC{0,4}", 0..3),
        working_dir in prop_oneof![3 => Just(String::new()), 1 => any_path()],
        envs in vec(("[A-C=]{0,3}", vec(any::<u8>(), 0..3)), 0..4),
        mounts in vec(any_mount(), 0..6),
        devices in vec((any_path(), "[rwmx]{0,3}"), 0..2),
        oom_score_adj in prop_oneof![-1000..=1000_i64, any::<i64>()],
        security in any_security(),
        tty in any::<bool>(),
        host_ipc in any::<bool>(),
    ) -> ContainerConfig {
        let devices = devices.into_iter().map(|(path, permissions)| DeviceMapping {
            container_path: path.clone(), host_path: path, permissions, ..DeviceMapping::default()
        });
        let mut container = ContainerConfig {
            command, args, working_dir, envs, mounts, security, tty,
            devices: devices.collect(),
            ..ContainerConfig::default()
        };
        container.annotations.insert("secret.example/annotation".into(), "leak".into());
        container.labels.insert("secret.example/label".into(), "leak".into());
        container.resources.oom_score_adj = oom_score_adj;
        container.namespaces.ipc = if host_ipc { IpcMode::Node } else { IpcMode::Pod };
        container
    }
}

proptest! {
    #[test]
    fn whatever_is_asked_the_plan_keeps_to_its_rules(
        container in any_container(),
        user in prop_oneof![2 => "[a-z]{0,3}", 1 => "\\PC{0,5}"],
        env in vec("[A-C=]{0,4}", 0..3),
    ) {
        let image = ImageConfig { user, env, ..image() };
        let Ok(plan) = plan(&pod(), &container, &image) else { return Ok(()) };
        let text = String::from_utf8(plan.oci.clone()).unwrap();
        prop_assert!(!text.contains("leak") && !text.contains("secret.example"));
        rules::check(&container, &plan);
        let again = super::super::build(&Inputs {
            id: &plan.id, pod: &pod(), container: &container, image: &image,
            layers: &RootfsLayers { lower: plan.lower.clone() }, volume_layers: &[],
            writable: plan.writable.clone(), pod_dir: "/pods/p".into(),
            seccomp: Some(seccomp::default(crate::spec::capabilities(&container).unwrap())),
            seccomp_flags: 0, apparmor: String::new(), held_capabilities: u64::MAX,
        });
        prop_assert_eq!(again.unwrap(), plan);
    }
}
