//! Pulling, naming and removing images, and what is in their files.

use tonic::Code;

use crate::harness::{BUSYBOX, ContainerState, Node, runner::tests, v1, wait_until};

tests![
    a_pulled_image_is_found_by_every_name_it_has,
    an_unknown_image_is_no_error_until_it_is_pulled,
    the_index_gives_this_machines_image,
    three_tags_of_one_image_are_one_image,
    one_pull_is_shared_by_all_who_ask,
    removing_by_a_tag_removes_the_image,
    a_removed_image_lives_on_in_its_container,
    layers_are_laid_over_each_other_as_they_say,
    what_is_used_is_counted,
    images_outlive_the_daemon,
    a_saved_and_packed_image_comes_through_a_pipe_and_runs,
];

fn spec(image: &str) -> Option<v1::ImageSpec> {
    Some(v1::ImageSpec { image: image.into(), ..Default::default() })
}

fn find(node: &Node, reference: &str) -> Option<v1::Image> {
    let request = v1::ImageStatusRequest { image: spec(reference), verbose: false };
    node.cri().image_status(request).unwrap().image
}

fn images(node: &Node) -> Vec<v1::Image> {
    node.cri().list_images(v1::ListImagesRequest::default()).unwrap().images
}

fn remove(node: &Node, reference: &str) {
    node.cri().remove_image(v1::RemoveImageRequest { image: spec(reference) }).unwrap();
}

fn a_pulled_image_is_found_by_every_name_it_has() {
    let node = Node::start();
    let id = node.pull("busybox");

    let image = find(&node, BUSYBOX).expect("found by its full name");
    assert_eq!(image.id, id);
    assert_eq!(image.repo_tags, [BUSYBOX]);
    assert!(image.size > 0);
    assert_eq!(image.repo_digests.len(), 1, "{image:?}");
    assert!(image.repo_digests[0].starts_with("docker.io/library/busybox@sha256:"), "{image:?}");
    for name in [id.as_str(), &id["sha256:".len()..], "busybox", "busybox:latest", &image.repo_digests[0]] {
        assert_eq!(find(&node, name).map(|image| image.id), Some(id.clone()), "by {name}");
    }
}

fn an_unknown_image_is_no_error_until_it_is_pulled() {
    let node = Node::start();
    assert_eq!(find(&node, "registry.test/no/such:1"), None);
    remove(&node, "registry.test/no/such:1");

    let refused = node.try_pull("registry.test/no/such:1").unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused}");
    assert!(refused.message().contains("registry.test/no/such:1"), "{refused}");
}

fn the_index_gives_this_machines_image() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = pod.create("main", "registry.k8s.io/e2e-test-images/busybox:1.29-2", ["ls", "/"]);
    container.start();

    assert_eq!(container.wait(), 0);
    assert!(!container.log_texts().contains(&"wrong-architecture".to_owned()));
    node.assert_clean();
}

fn three_tags_of_one_image_are_one_image() {
    let node = Node::start();
    let tags = ["1", "2", "3"].map(|tag| format!("gcr.io/k8s-staging-cri-tools/test-image-tags:{tag}"));
    tags.iter().for_each(|tag| drop(node.pull(tag)));

    let [image] = images(&node).try_into().expect("one image");
    let mut found = image.repo_tags;
    found.sort();
    assert_eq!(found, tags);
}

fn one_pull_is_shared_by_all_who_ask() {
    let node = Node::start();
    let ids: Vec<String> = std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..8).map(|_| scope.spawn(|| node.pull(BUSYBOX))).collect();
        pulls.into_iter().map(|pull| pull.join().unwrap()).collect()
    });

    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(images(&node).len(), 1);
}

fn removing_by_a_tag_removes_the_image() {
    let node = Node::start();
    node.pull("gcr.io/k8s-staging-cri-tools/test-image-tags:1");
    node.pull("gcr.io/k8s-staging-cri-tools/test-image-tags:2");

    remove(&node, "gcr.io/k8s-staging-cri-tools/test-image-tags:1");

    assert_eq!(images(&node), []);
    assert_eq!(find(&node, "gcr.io/k8s-staging-cri-tools/test-image-tags:2"), None);
}

fn a_removed_image_lives_on_in_its_container() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = pod.run_in("main", ["sleep", "1000"]);

    remove(&node, BUSYBOX);

    assert_eq!(container.state(), ContainerState::ContainerRunning);
    assert_eq!(container.shell("cat /etc/mark /etc/group | grep -c root"), "1\n");
    container.kill();
    container.remove();
    node.pull(BUSYBOX);
    assert_eq!(pod.run_in("again", ["true"]).wait(), 0);
    node.assert_clean();
}

fn layers_are_laid_over_each_other_as_they_say() {
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = pod.create("main", "registry.test/pintle/layers:1", ["sleep", "1000"]);
    container.start();

    assert_eq!(container.shell("ls /data"), "first\nnull\nraw\nreplaced\nsecond\n");
    assert_eq!(container.shell("cat /data/replaced /kept/file"), "of the upper layer\nof the lower layer\n");
    assert_eq!(container.shell("ls -A /hidden"), "new\n");
    assert_eq!(
        container.shell("stat -c '%a %u' /data /kept /data/replaced /kept/file"),
        "700 0\n750 0\n600 0\n640 0\n"
    );
    assert_eq!(container.shell("stat -c '%h' /data/first /data/second"), "2\n2\n");
    assert_eq!(container.shell("stat -c '%F %t %T' /data/null"), "character special file 1 3\n");
    let capability = node.run("getcap", [&format!("/proc/{}/root/data/raw", container.pid())]);
    assert!(capability.contains("cap_net_raw=ep"), "{capability:?}");
    node.assert_clean();
}

fn what_is_used_is_counted() {
    let node = Node::start();
    let used = || {
        let info = node.cri().image_fs_info(v1::ImageFsInfoRequest::default()).unwrap();
        let images = info.image_filesystems.first().expect("a file system for images");
        assert!(node.has(&images.fs_id.as_ref().expect("a place").mountpoint), "{images:?}");
        assert_eq!(info.container_filesystems.len(), 1);
        images.used_bytes.expect("a figure").value
    };
    let before = used();
    node.pull(BUSYBOX);

    wait_until("the image is counted", || used() > before + 1_000_000);
}

fn images_outlive_the_daemon() {
    let node = Node::start();
    node.pull(BUSYBOX);
    node.pull("gcr.io/k8s-staging-cri-tools/test-image-tags:1");
    let before = images(&node);

    node.kill_daemon();
    node.start_daemon();

    let by_id = |mut images: Vec<v1::Image>| {
        images.sort_by(|one, other| one.id.cmp(&other.id));
        images
    };
    assert_eq!(by_id(images(&node)), by_id(before));
}

/// As `docker save | gzip` is loaded on a node without a registry.
fn a_saved_and_packed_image_comes_through_a_pipe_and_runs() {
    let node = Node::start();
    node.pull(BUSYBOX);
    let folder = node.path("saved");
    std::fs::create_dir(&folder).unwrap();
    let script = r#"
        set -e
        cd "$1"
        tar -C "$2"/root/layers/*/fs -cf layer.tar .
        sum=$(sha256sum layer.tar | cut -d' ' -f1)
        echo '{"os":"linux","config":{"Env":null,"Cmd":["sleep","1000"]},"rootfs":{"type":"layers","diff_ids":["sha256:'$sum'"]}}' > config.json
        echo '[{"Config":"config.json","RepoTags":["<none>:<none>"],"Layers":["layer.tar"]}]' > manifest.json
        tar -c manifest.json config.json layer.tar | gzip > saved.tgz
        cat saved.tgz | "$3" image load --config "$2"/config.toml --tag saved.test/busybox:old -
        if echo no archive | "$3" image load --config "$2"/config.toml -; then exit 1; fi
        if "$3" image rm --config "$2"/config.toml saved.test/other:1 2>&1; then exit 1; fi
    "#;
    let program = crate::harness::pintle();
    let [folder, node_folder] = [folder, node.path("")].map(|path| path.to_string_lossy().into_owned());
    let said = node.run("sh", ["-c", script, "sh", &folder, &node_folder, &program.to_string_lossy()]);
    assert!(said.contains("loaded saved.test/busybox:old\n"), "{said}");
    assert!(said.contains("remove image saved.test/other:1: it is not here\n"), "{said}");

    let image = find(&node, "saved.test/busybox:old").unwrap();
    assert_eq!(image.repo_tags, ["saved.test/busybox:old"]);
    let container = node.run_pod("web").create("main", "saved.test/busybox:old", []);
    container.start();
    assert_eq!(container.shell("echo runs"), "runs\n");
    node.assert_clean();
}
