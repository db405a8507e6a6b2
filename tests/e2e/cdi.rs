//! Devices by the Container Device Interface: files on the node say what a container needs to use them.

use std::fs;

use crate::harness::{BUSYBOX, Container, Node, Pod, Setup, pintle, runner::tests, v1};

tests![
    a_container_gets_what_its_devices_need,
    a_change_of_a_file_is_seen_by_the_next_container,
    a_device_that_cannot_be_had_is_an_error_and_leaves_nothing,
    hooks_are_gone_without_only_where_the_operator_says_so,
    a_check_says_what_is_wrong_with_a_file,
];

/// Puts a file into one of the node's two folders: `etc`, or `run`, which wins.
fn write(node: &Node, name: &str, text: &str) {
    let path = node.path("cdi").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn try_create<'n>(
    pod: &Pod<'n>,
    name: &str,
    devices: &[&str],
    change: impl Fn(&mut v1::ContainerConfig),
) -> Result<Container<'n>, tonic::Status> {
    pod.try_create(name, BUSYBOX, ["sleep", "1000"], |config| {
        let device = |name: &&str| v1::CdiDevice { name: (*name).into() };
        config.cdi_devices = devices.iter().map(device).collect();
        change(config);
    })
}

fn run<'n>(
    pod: &Pod<'n>,
    name: &str,
    devices: &[&str],
    change: impl Fn(&mut v1::ContainerConfig),
) -> Container<'n> {
    let container = try_create(pod, name, devices, change).unwrap_or_else(|error| panic!("{name}: {error}"));
    container.start();
    container
}

fn as_user(config: &mut v1::ContainerConfig) {
    let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
    security.run_as_user = Some(v1::Int64Value { value: 1234 });
    security.run_as_group = Some(v1::Int64Value { value: 1001 });
}

fn a_container_gets_what_its_devices_need() {
    let node = Node::start();
    // Devices of the node with names of their own: one that gives zeros, one that takes all, and one that a container
    // cannot open unless it was given to it.
    let [zero, null, fuse] =
        ["zero", "null", "fuse"].map(|name| node.path("shared").join(name).display().to_string());
    node.run("mknod", ["-m", "666", &fuse, "c", "10", "229"]);
    node.run("mknod", ["-m", "600", &zero, "c", "1", "5"]);
    node.run("mknod", ["-m", "600", &null, "c", "1", "3"]);
    write(&node, "library", "of the vendor\n");
    let library = node.path("cdi/library").display().to_string();
    let spec = format!(
        "cdiVersion: 0.7.0\nkind: vendor.com/zero\ncontainerEdits:\n  env: [FROM=file, ASKED=file]\ndevices:\n\
         - name: one\n  containerEdits:\n    env: [FROM=device]\n    additionalGids: [44, 0]\n    deviceNodes:\n    \
         - {{path: /dev/vendor/one, hostPath: {zero}, permissions: r, fileMode: 0640}}\n    mounts:\n    \
         - {{hostPath: {library}, containerPath: /lib/vendor.so, options: [ro, nosuid, nodev, bind]}}\n\
         - name: made\n  containerEdits:\n    deviceNodes:\n    \
         - {{path: /dev/made, type: c, major: 1, minor: 5, uid: 7, gid: 8}}\n    \
         - {{path: /dev/fuse, hostPath: {fuse}, permissions: r}}\n"
    );
    write(&node, "etc/vendor.yaml", &spec);
    let json = format!(
        r#"{{"cdiVersion": "0.5.0", "kind": "other/null", "devices": [{{"name": "0", "containerEdits":
            {{"deviceNodes": [{{"path": "/dev/other", "hostPath": "{null}"}}]}}}}]}}"#
    );
    write(&node, "run/other.json", &json);

    let pod = node.run_pod("web");
    let container = run(&pod, "web", &["vendor.com/zero=one"], |config| {
        as_user(config);
        config.envs = vec![v1::KeyValue { key: "ASKED".into(), value: b"request".into() }];
        config.annotations =
            [("cdi.k8s.io/plugin_1".into(), "vendor.com/zero=one,vendor.com/zero=made,other/null=0".into())]
                .into();
    });
    assert_eq!(container.shell("head -c 3 /dev/vendor/one | od -An -tx1 | tr -d ' \\n'"), "000000");
    assert_eq!(container.shell("echo $FROM $ASKED"), "device file\n");
    assert_eq!(container.shell("id -u; id -g; id -G"), "1234\n1001\n1001 44\n");
    assert_eq!(container.shell("stat -c '%a %u %g' /dev/vendor/one /dev/made"), "640 1234 1001\n666 7 8\n");
    assert_eq!(
        container.shell("cat /lib/vendor.so; echo x > /dev/other && echo taken"),
        "of the vendor\ntaken\n"
    );
    // What the file does not give: to write to the device, or to its library. A kernel without FUSE has another error for
    // who may open it.
    let refused = |container: &Container<'_>, script: &str| {
        container.exec(["sh", "-c", script]).stderr.contains("not permitted")
    };
    assert!(!refused(&container, ": < /dev/fuse") && refused(&container, ": > /dev/fuse"));
    assert_ne!(container.exec(["sh", "-c", "echo x > /lib/vendor.so"]).code, 0);

    // The kubelet compares what it is shown with what it asked for.
    assert_eq!(container.status().mounts.len(), 0);
    node.restart_daemon();
    assert_eq!(container.shell("echo $FROM; head -c 1 /dev/vendor/one | wc -c"), "device\n1\n");
    // Another container of the pod has nothing of it.
    let other = pod.run_in("other", ["sleep", "1000"]);
    assert_eq!(other.shell("ls /dev/vendor /lib/vendor.so 2>/dev/null; echo $FROM"), "\n");
    assert!(refused(&other, "mknod /tmp/fuse c 10 229; : < /tmp/fuse"));
    node.assert_clean();
}

/// A spec of one device that sets a variable.
fn naming(value: &str) -> String {
    format!(
        r#"{{"cdiVersion": "0.3.0", "kind": "v/c", "devices": [{{"name": "d", "containerEdits": {{"env": ["V={value}"]}}}}]}}"#
    )
}

fn a_change_of_a_file_is_seen_by_the_next_container() {
    let node = Node::start();
    let pod = node.run_pod("web");
    assert!(try_create(&pod, "none", &["v/c=d"], |_| {}).is_err());
    write(&node, "etc/a.json", &naming("1"));
    let first = run(&pod, "first", &["v/c=d"], |_| {});
    write(&node, "etc/a.json", &naming("2"));
    assert_eq!(run(&pod, "second", &["v/c=d"], |_| {}).shell("echo $V"), "2\n");
    write(&node, "run/b.json", &naming("3"));
    assert_eq!(run(&pod, "third", &["v/c=d"], |_| {}).shell("echo $V"), "3\n");
    assert_eq!(first.shell("echo $V"), "1\n");
    node.assert_clean();
}

fn a_device_that_cannot_be_had_is_an_error_and_leaves_nothing() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let refused = |devices: &[&str], words: &[&str]| {
        let error = try_create(&pod, "bad", devices, |_| {}).map(|made| made.id).unwrap_err();
        for word in words {
            assert!(error.message().contains(word), "{word}: {error}");
        }
        error.code()
    };
    write(&node, "etc/a.json", &naming("1"));
    let [etc, missing] = ["cdi/etc", "shared/missing"].map(|name| node.path(name).display().to_string());
    let code = refused(&["v/c=d", "v/c=e"], &["v/c=e", "no file in", &etc]);
    assert_eq!(code, tonic::Code::FailedPrecondition);
    assert_eq!(refused(&["v/c"], &["config.CDI_devices", "\"v/c\""]), tonic::Code::InvalidArgument);

    write(&node, "etc/b.json", &naming("2"));
    refused(&["v/c=d"], &["v/c=d", "a.json", "b.json"]);
    write(&node, "etc/b.json", "{");
    refused(&["v/c=e"], &["v/c=e", "b.json", "EOF"]);
    let lacking = format!(
        r#"{{"cdiVersion": "0.3.0", "kind": "w/c", "devices": [{{"name": "d", "containerEdits": {{"mounts":
            [{{"hostPath": "{missing}", "containerPath": "/lib/x"}}]}}}}]}}"#
    );
    write(&node, "etc/c.json", &lacking);
    refused(&["w/c=d"], &["w/c=d", "c.json", &missing]);
    assert!(!node.has(&missing), "a folder was made on the node");
    assert_eq!(node.containers(), [""; 0]);
    node.assert_clean();
}

fn hooks_are_gone_without_only_where_the_operator_says_so() {
    let node = Node::start();
    let mark = node.path("shared/mark");
    let spec = format!(
        "cdiVersion: 0.3.0\nkind: v/c\ndevices:\n- name: d\n  containerEdits:\n    env: [V=1]\n    hooks:\n    \
         - {{hookName: createContainer, path: /bin/touch, args: [touch, {}]}}\n",
        mark.display()
    );
    write(&node, "etc/a.yaml", &spec);
    let pod = node.run_pod("web");
    let error = try_create(&pod, "bad", &["v/c=d"], |_| {}).map(|made| made.id).unwrap_err();
    for word in ["v/c=d", "a.yaml", "createContainer hook /bin/touch", "cdi.hooks"] {
        assert!(error.message().contains(word), "{word}: {error}");
    }
    fs::write(node.path("conf.d/hooks.toml"), "[cdi]\nhooks = \"ignore\"\n").unwrap();
    node.restart_daemon_with(&Setup::default());
    assert_eq!(run(&pod, "web", &["v/c=d"], |_| {}).shell("echo $V"), "1\n");
    let log = fs::read_to_string(node.path("daemon.log")).unwrap();
    assert!(
        log.contains("hooks of CDI devices are not run") && log.contains("createContainer /bin/touch"),
        "{log}"
    );
    assert!(!mark.exists(), "the hook ran");
    node.assert_clean();
}

fn a_check_says_what_is_wrong_with_a_file() {
    let node = Node::start();
    write(&node, "etc/good.json", &naming("1"));
    write(&node, "etc/bad.yaml", "cdiVersion: 9.0.0\nkind: v/c\ndevices: [{name: d}]\n");
    let mut command = node.command(pintle());
    let output = command.arg("check").arg("--config").arg(node.path("config.toml")).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = text.lines().filter(|line| line.contains("  CDI  ")).collect();
    let [found, fault] = lines[..] else { panic!("{text}") };
    assert!(found.starts_with("ok ") && found.ends_with("1 devices in 2 files"), "{found}");
    assert!(
        fault.starts_with("warn ") && fault.contains("bad.yaml: cdiVersion \"9.0.0\" is none of"),
        "{fault}"
    );
    node.assert_clean();
}
