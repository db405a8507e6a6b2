//! SELinux: which labels the processes and files of pods get. No kernel of the tests has a policy, so a folder stands in
//! for selinuxfs and for a process's attributes: what is written there is what a kernel would be told. Labels of files
//! are attributes that any kernel keeps, and a mount that would have one has it on its root.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tonic::Code;

use crate::harness::{BUSYBOX, Container, Node, Pod, Setup, runner::tests, v1};

tests![
    processes_and_mounts_get_the_labels_of_their_pod,
    what_is_asked_for_completes_the_label_and_who_is_not_kept_from_the_host_is_kept_from_nothing,
    volumes_get_the_label_when_that_is_asked_for_and_the_hosts_directories_never,
    levels_are_kept_over_a_restart_and_given_again_after_a_removal,
    without_selinux_nobody_gets_a_label,
];

const LAYERS: &str = "registry.test/pintle/layers:1";
const VOLUMES: &str = "registry.test/pintle/volumes:1";

/// A folder that stands in for SELinux with a policy for containers.
struct StandIn(tempfile::TempDir);

impl StandIn {
    fn new() -> Self {
        let stand_in = Self(tempfile::tempdir().unwrap());
        for (path, text) in [
            ("fs/enforce", "1"),
            ("fs/context", ""),
            ("etc/config", "SELINUX=enforcing\nSELINUXTYPE=targeted\n"),
            (
                "etc/targeted/contexts/lxc_contexts",
                "process = \"system_u:system_r:container_t:s0\"\nfile = \"system_u:object_r:container_file_t:s0\"\n",
            ),
            ("self/attr/current", "system_u:system_r:container_runtime_t:s0"),
            ("self/attr/exec", ""),
            ("self/attr/keycreate", ""),
        ] {
            let path = stand_in.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        stand_in
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// Without AppArmor: a kernel enforces one of the two, and the folder stands in for both's attributes.
    fn setup(&self, config: &str) -> Setup {
        let config = format!("{config}\n[handlers.pintle]\napparmor = \"unconfined\"\n");
        Setup { config, selinux: Some(self.0.path().into()), ..Setup::default() }
    }

    /// What the last process asked for, its next program's label and that of its keys; then nobody has asked.
    fn take_asked(&self) -> String {
        let take = |attribute: &str| {
            let path = self.path("self/attr").join(attribute);
            let text = fs::read_to_string(&path).unwrap();
            fs::write(path, "").unwrap();
            text
        };
        let (program, keys) = (take("exec"), take("keycreate"));
        assert_eq!(program, keys);
        program
    }
}

const ENABLED: &str = "[selinux]\nenabled = true\n";

/// The label of a file, seen in the node; empty: it has none.
fn label(node: &Node, path: &str) -> String {
    let path = node.namespaces().root().join(path.trim_start_matches('/'));
    let mut value = Vec::with_capacity(1024);
    match rustix::fs::getxattr(&path, "security.selinux", rustix::buffer::spare_capacity(&mut value)) {
        Ok(_) => String::from_utf8(value).unwrap().trim_end_matches('\0').to_owned(),
        Err(rustix::io::Errno::NODATA) => String::new(),
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

/// The label of a file in a container.
fn label_in(node: &Node, container: &Container<'_>, path: &str) -> String {
    label(node, &format!("/proc/{}/root{path}", container.pid()))
}

fn security(config: &mut v1::ContainerConfig) -> &mut v1::LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

fn option(kind: &str, level: &str) -> Option<v1::SeLinuxOption> {
    Some(v1::SeLinuxOption { r#type: kind.into(), level: level.into(), ..Default::default() })
}

fn run<'n>(pod: &Pod<'n>, name: &str, change: impl Fn(&mut v1::ContainerConfig)) -> Container<'n> {
    let container = pod.create_with(name, BUSYBOX, ["sleep", "1000"], change);
    container.start();
    container
}

/// Runs a container whose label a process has to ask for, and gives the level in that.
fn level_of(stand_in: &StandIn, pod: &Pod<'_>, name: &str) -> String {
    run(pod, name, |_| {});
    let asked = stand_in.take_asked();
    let level = asked.strip_prefix("system_u:system_r:container_t:");
    level.unwrap_or_else(|| panic!("asked for {asked:?}")).to_owned()
}

fn processes_and_mounts_get_the_labels_of_their_pod() {
    let stand_in = StandIn::new();
    let node = Node::start_with(&stand_in.setup(ENABLED));
    node.pull(BUSYBOX);
    node.pull(VOLUMES);
    let pod = node.run_pod("web");
    let level = level_of(&stand_in, &pod, "one");
    assert!(level.starts_with("s0:c") && level.matches(",c").count() == 1, "{level}");

    let container = run(&pod, "two", |_| {});
    assert_eq!(stand_in.take_asked(), format!("system_u:system_r:container_t:{level}"));
    container.exec(["true"]);
    assert_eq!(stand_in.take_asked(), format!("system_u:system_r:container_t:{level}"));
    let file = format!("system_u:object_r:container_file_t:{level}");
    assert_eq!(label_in(&node, &container, "/"), file);
    assert_eq!(label_in(&node, &container, "/dev/shm"), file);

    // A volume of the image is on a disk of the node's.
    let volumes = pod.create("volumes", VOLUMES, ["sleep", "1000"]);
    volumes.start();
    let folder = node.path("root/containers").join(&volumes.id).join("volumes/0");
    assert_eq!(label(&node, &folder.to_string_lossy()), file);

    let other = level_of(&stand_in, &node.run_pod("other"), "one");
    assert_ne!(other, level);
    node.assert_clean();
}

fn what_is_asked_for_completes_the_label_and_who_is_not_kept_from_the_host_is_kept_from_nothing() {
    let stand_in = StandIn::new();
    let node = Node::start_with(&stand_in.setup(ENABLED));
    node.pull(BUSYBOX);
    let pod = node.run_pod_with("web", |config| {
        let context = config.linux.get_or_insert_default().security_context.get_or_insert_default();
        context.privileged = true;
        context.selinux_options = option("", "s0:c7,c5");
    });
    run(&pod, "plain", |_| {});
    assert_eq!(stand_in.take_asked(), "system_u:system_r:container_t:s0:c5,c7");
    let own = run(&pod, "own", |config| security(config).selinux_options = option("web_t", "s0:c9"));
    assert_eq!(stand_in.take_asked(), "system_u:system_r:web_t:s0:c9");
    assert_eq!(label_in(&node, &own, "/"), "system_u:object_r:container_file_t:s0:c9");
    run(&pod, "privileged", |config| security(config).privileged = true);
    assert_eq!(stand_in.take_asked(), "system_u:system_r:spc_t:s0:c5,c7");

    let host = node.run_pod("host");
    run(&host, "host-pid", |config| {
        security(config).namespace_options.get_or_insert_default().pid = v1::NamespaceMode::Node.into();
    });
    assert_eq!(stand_in.take_asked(), "system_u:system_r:spc_t:s0");
    let refused = pod.try_create("bad", BUSYBOX, ["true"], |config| {
        security(config).selinux_options = option("", "c1,c2");
    });
    let refused = refused.map(|made| made.id).unwrap_err();
    let named = refused.message().contains("selinux_options.level") && refused.message().contains("c1,c2");
    assert!(refused.code() == Code::InvalidArgument && named, "{refused}");
    node.assert_clean();
}

fn volumes_get_the_label_when_that_is_asked_for_and_the_hosts_directories_never() {
    let stand_in = StandIn::new();
    let node = Node::start_with(&stand_in.setup(ENABLED));
    node.pull(BUSYBOX);
    node.pull(LAYERS);
    let pod = node.run_pod("web");
    let volume = |name: &str| {
        let folder = node.path("shared").join(name);
        fs::create_dir_all(folder.join("deep")).unwrap();
        fs::write(folder.join("deep/file"), "x").unwrap();
        folder
    };
    let [asked, plain, unconfined] = ["asked", "plain", "unconfined"].map(volume);
    let mount = |folder: &Path, selinux_relabel| v1::Mount {
        container_path: format!("/{}", folder.file_name().unwrap().to_string_lossy()),
        host_path: folder.to_string_lossy().into_owned(),
        selinux_relabel,
        ..Default::default()
    };
    let image = v1::Mount {
        container_path: "/image".into(),
        image: Some(v1::ImageSpec { image: LAYERS.into(), ..Default::default() }),
        readonly: true,
        selinux_relabel: true,
        ..Default::default()
    };
    let container = run(&pod, "main", |config| {
        let read_only = v1::Mount { readonly: true, recursive_read_only: true, ..mount(&asked, true) };
        config.mounts = vec![read_only, mount(&plain, false), image.clone()];
    });
    let level = stand_in.take_asked();
    let level = level.strip_prefix("system_u:system_r:container_t:").unwrap();
    let file = format!("system_u:object_r:container_file_t:{level}");
    let of = |folder: &Path, path: &str| label(&node, &folder.join(path).to_string_lossy());
    for path in ["", "deep", "deep/file"] {
        assert_eq!((of(&asked, path).as_str(), of(&plain, path).as_str()), (file.as_str(), ""), "{path}");
    }
    assert!(container.exec(["touch", "/asked/new"]).stderr.contains("Read-only"));
    assert_eq!(container.shell("cat /image/data/replaced"), "of the upper layer\n");
    assert!(container.status().mounts.iter().any(|mount| mount.selinux_relabel));

    run(&pod, "unconfined", |config| {
        security(config).selinux_options = option("spc_t", "");
        config.mounts = vec![mount(&unconfined, true)];
    });
    assert_eq!(of(&unconfined, "deep"), "", "it may read that anyway");
    let refused = pod.try_create("bad", BUSYBOX, ["true"], |config| {
        config.mounts = vec![v1::Mount { container_path: "/host".into(), ..mount(Path::new("/etc"), true) }];
    });
    let refused = refused.map(|made| made.id).unwrap_err();
    assert!(refused.message().contains("/etc of the host must keep its SELinux labels"), "{refused}");
    assert_eq!(label(&node, "/etc"), "");
    node.assert_clean();
}

fn levels_are_kept_over_a_restart_and_given_again_after_a_removal() {
    let stand_in = StandIn::new();
    let setup = stand_in.setup("[selinux]\nenabled = true\ncategories = 3\n");
    let node = Node::start_with(&setup);
    node.pull(BUSYBOX);
    let pods = ["one", "two", "three"].map(|name| node.run_pod(name));
    let levels = pods.each_ref().map(|pod| level_of(&stand_in, pod, "main"));
    let mut each = levels.to_vec();
    each.sort_unstable();
    assert_eq!(each, ["s0:c0,c1", "s0:c0,c2", "s0:c1,c2"]);
    let full = || {
        let refused = node.try_run_pod("four", |_| {}).map(|pod| pod.id).unwrap_err();
        assert!(refused.message().contains("every level is another pod's"), "{refused}");
    };
    full();
    node.kill_daemon();
    node.start_daemon_with(&setup);
    full();
    for (pod, level) in pods.iter().zip(&levels) {
        // A retry of the kubelet's finds its pod, though there is no level for another one.
        let again = Pod::run_config(&node, pod.config.clone(), "").map(|again| again.id);
        assert_eq!(again.ok().as_ref(), Some(&pod.id));
        assert_eq!(level_of(&stand_in, pod, "later"), *level);
    }
    let [_, two, _] = &pods;
    two.stop();
    full();
    two.remove();
    assert_eq!(level_of(&stand_in, &node.run_pod("four"), "main"), levels[1]);
    node.assert_clean();
}

fn without_selinux_nobody_gets_a_label() {
    let stand_in = StandIn::new();
    let given = |node: &Node| {
        node.pull(BUSYBOX);
        let pod = node.run_pod_with("web", |config| {
            let context = config.linux.get_or_insert_default().security_context.get_or_insert_default();
            context.selinux_options = option("web_t", "s0:c1");
        });
        let folder = node.path("shared/data");
        fs::create_dir_all(&folder).unwrap();
        let folder = folder.to_string_lossy().into_owned();
        let container = run(&pod, "main", |config| {
            config.mounts = vec![v1::Mount {
                container_path: "/data".into(),
                host_path: folder.clone(),
                selinux_relabel: true,
                ..Default::default()
            }];
        });
        let labels = [label_in(node, &container, "/"), label(node, &folder), stand_in.take_asked()];
        assert_eq!(labels, ["", "", ""]);
        node.assert_clean();
    };
    given(&Node::start_with(&stand_in.setup("")));

    fs::remove_file(stand_in.path("fs/enforce")).unwrap();
    let node = Node::start_with(&stand_in.setup(ENABLED));
    given(&node);
    let log = fs::read_to_string(node.path("daemon.log")).unwrap();
    assert!(log.contains("the kernel has no SELinux or no policy"), "{log}");

    fs::write(stand_in.path("fs/enforce"), "1").unwrap();
    fs::remove_file(stand_in.path("etc/config")).unwrap();
    let node = Node::start_with(&stand_in.setup(ENABLED));
    let refused = node.try_run_pod("web", |_| {}).map(|pod| pod.id).unwrap_err();
    assert!(
        refused.code() == Code::FailedPrecondition && refused.message().contains("etc/config"),
        "{refused}"
    );
    node.assert_clean();
}
