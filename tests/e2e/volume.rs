//! Mounts that are more than a directory of the host: images as volumes, and options of a mount.

use std::fs;

use crate::harness::{
    BUSYBOX, Container, Node, Pod,
    runner::tests,
    v1::{self, ContainerState},
};

tests![
    an_image_is_a_read_only_volume,
    a_part_of_an_image_is_a_volume,
    a_path_that_the_image_does_not_have_is_no_volume,
    an_image_that_was_removed_lives_on_as_a_volume,
    options_of_a_mount_hold_in_the_container_and_not_on_the_node,
];

const LAYERS: &str = "registry.test/pintle/layers:1";

fn of_image(image: &str, sub_path: &str, place: &str) -> v1::Mount {
    v1::Mount {
        image: Some(v1::ImageSpec { image: image.into(), ..Default::default() }),
        image_sub_path: sub_path.into(),
        container_path: place.into(),
        readonly: true,
        ..Default::default()
    }
}

fn run_with<'n>(pod: &Pod<'n>, name: &str, mounts: Vec<v1::Mount>) -> Container<'n> {
    let container = pod.create_with(name, BUSYBOX, ["sleep", "1000"], |config| config.mounts = mounts);
    container.start();
    container
}

fn an_image_is_a_read_only_volume() {
    let node = Node::start();
    let (layers, busybox) = (node.pull(LAYERS), node.pull(BUSYBOX));
    let pod = node.run_pod("web");
    let mounts = vec![of_image(LAYERS, "", "/model"), of_image(BUSYBOX, "", "/tools")];
    let one = run_with(&pod, "one", mounts.clone());
    let two = run_with(&pod, "two", mounts);

    for container in [&one, &two] {
        assert_eq!(
            container.shell("cat /model/data/replaced /model/kept/file"),
            "of the upper layer\nof the lower layer\n"
        );
        assert_eq!(container.shell("ls -A /model/hidden; /tools/bin/busybox echo runs"), "new\nruns\n");
        for file in ["/model/new", "/model/data/replaced", "/tools/new"] {
            let refused = container.exec(["touch", file]);
            assert!(refused.code != 0 && refused.stderr.contains("Read-only"), "{file}: {refused:?}");
        }
    }
    let shown: Vec<_> = one.status().mounts.into_iter().map(|mount| mount.image.unwrap()).collect();
    assert_eq!([shown[0].image_ref.as_str(), &shown[1].image_ref], [layers.as_str(), &busybox]);
    assert_eq!(shown[0].image, LAYERS);
    node.assert_clean();
}

fn a_part_of_an_image_is_a_volume() {
    let node = Node::start();
    node.pull(LAYERS);
    let pod = node.run_pod("web");
    let mounts = vec![of_image(LAYERS, "data", "/folder"), of_image(LAYERS, "kept/file", "/file")];
    let container = run_with(&pod, "main", mounts);

    assert_eq!(container.shell("cat /folder/replaced /file"), "of the upper layer\nof the lower layer\n");
    let refused = container.exec(["touch", "/folder/new"]);
    assert!(refused.code != 0 && refused.stderr.contains("Read-only"), "{refused:?}");
    let table = container.shell("cat /proc/self/mountinfo");
    assert!(!table.contains("/b/image"), "{table}");
    node.assert_clean();
}

fn a_path_that_the_image_does_not_have_is_no_volume() {
    let node = Node::start();
    node.pull(LAYERS);
    let pod = node.run_pod("web");
    // In the image var/run is a link to /run, which only the node has.
    for (image, path) in [(LAYERS, "data/none"), (BUSYBOX, "var/run/pintle")] {
        let mounts = vec![of_image(image, path, "/data")];
        let refused = pod.try_create("bad", BUSYBOX, ["true"], |config| config.mounts = mounts);
        let refused = refused.map(|made| made.id).unwrap_err();
        let words = refused.message();
        assert!(words.contains("ImageVolumeMountFailed") && words.contains(path), "{words}");
    }
    let missing = vec![of_image("registry.test/never/pulled:1", "", "/data")];
    let refused = pod.try_create("bad", BUSYBOX, ["true"], |config| config.mounts = missing);
    let refused = refused.map(|made| made.id).unwrap_err();
    assert!(refused.message().contains("never/pulled"), "{refused}");
    assert_eq!(node.containers(), [""; 0]);
    node.assert_clean();
}

fn an_image_that_was_removed_lives_on_as_a_volume() {
    let node = Node::start();
    node.pull(LAYERS);
    let pod = node.run_pod("web");
    let container = run_with(&pod, "main", vec![of_image(LAYERS, "", "/model")]);
    let remove = || {
        let image = Some(v1::ImageSpec { image: LAYERS.into(), ..Default::default() });
        node.cri().remove_image(v1::RemoveImageRequest { image }).unwrap();
    };

    let used = || fs::read_dir(node.path("root/retained")).unwrap().count();
    assert_eq!(used(), 2);
    remove();
    node.restart_daemon();
    assert_eq!(container.state(), ContainerState::ContainerRunning);
    assert_eq!(container.shell("cat /model/kept/file"), "of the lower layer\n");
    container.kill();
    container.remove();
    assert_eq!(used(), 0);
    node.assert_clean();
}

fn options_of_a_mount_hold_in_the_container_and_not_on_the_node() {
    let node = Node::start();
    let script = node.path("shared/script");
    fs::write(&script, "#!/bin/sh\necho runs\n").unwrap();
    node.run("chmod", ["755", script.to_str().unwrap()]);
    let pod = node.run_pod("web");
    let host_path = node.path("shared").to_string_lossy().into_owned();
    let plain = v1::Mount { container_path: "/plain".into(), host_path, ..Default::default() };
    let hard = v1::Mount {
        container_path: "/hard".into(),
        mount_options: ["nodev", "noexec", "nosuid"].map(str::to_owned).into(),
        ..plain.clone()
    };
    let unknown = v1::Mount { mount_options: vec!["exec".into()], ..plain.clone() };
    let container = run_with(&pod, "main", vec![plain, hard]);

    assert_eq!(container.shell("/plain/script"), "runs\n");
    assert_eq!(container.shell("/hard/script 2>/dev/null; echo $?"), "126\n");
    let options = |place: &str| container.shell(&format!("grep ' {place} ' /proc/mounts | cut -d' ' -f4"));
    for option in ["nodev", "noexec", "nosuid"] {
        assert!(options("/hard").contains(option) && !options("/plain").contains(option), "{option}");
    }
    assert_eq!(container.status().mounts[1].mount_options, ["nodev", "noexec", "nosuid"]);
    assert_eq!(node.run(script.to_str().unwrap(), []), "runs\n");

    let refused = pod.try_create("bad", BUSYBOX, ["true"], |config| config.mounts = vec![unknown]);
    let refused = refused.map(|made| made.id).unwrap_err();
    assert!(refused.message().contains("mount_options"), "{refused}");
    node.assert_clean();
}
