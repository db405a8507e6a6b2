//! What no kubelet should ask for, and images that no registry should serve: each is refused with the code
//! that says whose fault it is, in words that name the object, and nothing is left.

use tonic::{Code, Status};

use crate::harness::{BUSYBOX, Node, Pod, pod_config, runner::tests, v1};

tests![
    a_pod_that_makes_no_sense_is_refused,
    a_container_that_makes_no_sense_is_refused,
    a_reference_that_is_none_is_refused,
    a_message_over_the_limit_is_refused_and_the_next_is_served,
    what_a_registry_serves_must_be_what_it_says,
    a_layer_that_ends_early_is_told_as_such,
    a_layer_cannot_write_outside_its_image,
    sharing_mounts_of_what_is_not_shared_is_refused,
];

/// A message longer than the kubelet's own limit of 16 MiB.
const TOO_LONG_BYTES: usize = 17 * 1024 * 1024;

/// Refused with one of `codes`, naming `object`.
#[track_caller]
fn assert_refused<T: std::fmt::Debug>(what: &str, outcome: Result<T, Status>, codes: &[Code], object: &str) {
    match outcome {
        Ok(done) => panic!("{what}: done: {done:?}"),
        Err(error) => {
            assert!(codes.contains(&error.code()), "{what}: {error}");
            assert!(error.message().contains(object), "{what}: {object:?} is not in {:?}", error.message());
        }
    }
}

type ChangePod = fn(&mut v1::PodSandboxConfig);

fn a_pod_that_makes_no_sense_is_refused() {
    let node = Node::start();
    let cases: [(&str, ChangePod, &str); 9] = [
        ("no metadata", |config| config.metadata = None, "metadata"),
        ("no name", |config| config.metadata.get_or_insert_default().name.clear(), "name"),
        ("no uid", |config| config.metadata.get_or_insert_default().uid.clear(), "uid"),
        (
            "a name with a slash",
            |config| config.metadata.get_or_insert_default().name = "a/../b".into(),
            "a/../b",
        ),
        ("a long name", |config| config.hostname = "x".repeat(5000), "hostname"),
        (
            "a cgroup above its parent",
            |config| config.linux.get_or_insert_default().cgroup_parent = "/pods/../../system".into(),
            "/pods/../../system",
        ),
        ("a relative log folder", |config| config.log_directory = "logs/../..".into(), "logs/../.."),
        (
            "a sysctl of the whole node",
            |config| {
                drop(config.linux.get_or_insert_default().sysctls.insert("vm.swappiness".into(), "1".into()))
            },
            "vm.swappiness",
        ),
        (
            "a group without a user",
            |config| {
                let security = config.linux.get_or_insert_default().security_context.get_or_insert_default();
                security.run_as_group = Some(v1::Int64Value { value: 1000 });
            },
            "group",
        ),
    ];
    for (what, change, object) in cases {
        let outcome = node.try_run_pod("bad", change).map(|pod| pod.id);
        assert_refused(what, outcome, &[Code::InvalidArgument], object);
    }
    let unknown = Pod::run_config(&node, pod_config(&node, "bad"), "no-such-handler").map(|pod| pod.id);
    assert_refused(
        "an unknown handler",
        unknown,
        &[Code::InvalidArgument, Code::NotFound],
        "no-such-handler\"; there are pintle",
    );
    let nothing = node.cri().run_pod_sandbox(v1::RunPodSandboxRequest::default());
    assert_refused("no config", nothing, &[Code::InvalidArgument], "config");

    assert_eq!(node.pods(), [""; 0]);
    node.assert_clean();
}

type ChangeContainer = fn(&mut v1::ContainerConfig);

fn security(config: &mut v1::ContainerConfig) -> &mut v1::LinuxContainerSecurityContext {
    config.linux.get_or_insert_default().security_context.get_or_insert_default()
}

fn mount(container_path: &str, host_path: &str) -> v1::Mount {
    v1::Mount { container_path: container_path.into(), host_path: host_path.into(), ..Default::default() }
}

fn a_container_that_makes_no_sense_is_refused() {
    let node = Node::start();
    node.pull(BUSYBOX);
    let pod = node.run_pod("web");
    let bad_request: [(&str, ChangeContainer, &str); 7] = [
        ("no metadata", |config| config.metadata = None, "metadata"),
        (
            "a log outside its folder",
            |config| config.log_path = "../../escaped.log".into(),
            "../../escaped.log",
        ),
        ("an absolute log", |config| config.log_path = "/etc/escaped.log".into(), "/etc/escaped.log"),
        ("a relative mount", |config| config.mounts = vec![mount("data", "/tmp")], "data"),
        ("a mount of nothing", |config| config.mounts = vec![mount("/data", "")], "host_path"),
        (
            "a group without a user",
            |config| security(config).run_as_group = Some(v1::Int64Value { value: 7 }),
            "group",
        ),
        (
            "a filter that is not there",
            |config| {
                let profile_type = v1::security_profile::ProfileType::Localhost.into();
                security(config).seccomp =
                    Some(v1::SecurityProfile { profile_type, localhost_ref: "x.json".into() });
            },
            "x.json",
        ),
    ];
    for (what, change, object) in bad_request {
        let outcome = pod.try_create("bad", BUSYBOX, ["true"], change).map(|container| container.id);
        assert_refused(what, outcome, &[Code::InvalidArgument], object);
    }
    let refusals = [Code::InvalidArgument, Code::FailedPrecondition, Code::NotFound];
    let unknown_user = pod.try_create("bad", BUSYBOX, ["true"], |config| {
        security(config).run_as_username = "no-such-user".into();
    });
    let started = unknown_user.and_then(|container| {
        let started = container.try_start();
        container.remove();
        started
    });
    assert_refused("an unknown user", started, &refusals, "no-such-user");
    let nothing = pod.try_create("bad", "registry.test/broken/no-entrypoint:1", [], |_| {}).map(|it| it.id);
    assert_refused("nothing to run", nothing, &refusals, "command");
    let power = pod.try_create("bad", BUSYBOX, ["true"], |config| security(config).privileged = true);
    assert_refused("more power than the pod", power.map(|it| it.id), &refusals, "privileged");

    assert_eq!(node.containers(), [""; 0]);
    node.assert_clean();
}

fn a_reference_that_is_none_is_refused() {
    let node = Node::start();
    for reference in
        ["", "UPPER/case", "a b", "name:", "name@sha256:12", "../../etc/passwd", "http://host/name"]
    {
        assert_refused(reference, node.try_pull(reference), &[Code::InvalidArgument], reference);
    }
    node.assert_clean();
}

fn a_message_over_the_limit_is_refused_and_the_next_is_served() {
    let node = Node::start();
    let outcome = node.try_run_pod("big", |config| {
        config.annotations.insert("big".into(), "x".repeat(TOO_LONG_BYTES));
    });
    let codes = [Code::OutOfRange, Code::ResourceExhausted, Code::InvalidArgument];
    assert_refused("17 MiB", outcome.map(|pod| pod.id), &codes, "");

    node.run_pod("small");
    node.assert_clean();
}

fn what_a_registry_serves_must_be_what_it_says() {
    let node = Node::start();
    let codes = [Code::DataLoss, Code::FailedPrecondition, Code::NotFound, Code::Unknown];
    for way in ["other-bytes", "diff-id", "missing-blob"] {
        let reference = format!("registry.test/broken/{way}:1");
        assert_refused(way, node.try_pull(&reference), &codes, &reference);
    }
    let images = node.cri().list_images(v1::ListImagesRequest::default()).unwrap().images;
    assert_eq!(images, []);
    node.pull(BUSYBOX);
    node.assert_clean();
}

fn a_layer_that_ends_early_is_told_as_such() {
    let node = Node::start();
    let codes = [Code::DataLoss, Code::FailedPrecondition, Code::Unavailable, Code::Unknown];
    assert_refused("truncated", node.try_pull("registry.test/broken/truncated:1"), &codes, "truncated");
    node.assert_clean();
}

fn a_layer_cannot_write_outside_its_image() {
    let node = Node::start();
    let hosts = node.read("/etc/hosts");
    let ways = ["dot-dot", "absolute", "through-symlink", "through-relative-symlink", "hardlink"];
    for way in ways {
        // Refused, or kept inside: both are sound.
        if let Err(refused) = node.try_pull(&format!("registry.test/broken/{way}:1")) {
            assert_ne!(refused.code(), Code::Internal, "{way}: {refused}");
        }
        assert!(!node.has("/tmp/pintle-escaped"), "{way} got out");
    }
    assert_eq!(node.read("/etc/hosts"), hosts);
    node.assert_clean();
}

fn sharing_mounts_of_what_is_not_shared_is_refused() {
    let node = Node::start();
    let pod = node.run_pod_with("web", |config| {
        config.linux.get_or_insert_default().security_context.get_or_insert_default().privileged = true;
    });
    let shared = node.path("shared").to_string_lossy().into_owned();
    let outcome = pod.try_create("main", BUSYBOX, ["true"], |config| {
        security(config).privileged = true;
        let propagation = v1::MountPropagation::PropagationBidirectional.into();
        config.mounts = vec![v1::Mount { propagation, ..mount("/data", &shared) }];
    });
    let codes = [Code::FailedPrecondition, Code::InvalidArgument];
    assert_refused("a private mount", outcome.map(|container| container.id), &codes, &shared);
    assert_eq!(node.containers(), [""; 0]);
    node.assert_clean();
}
