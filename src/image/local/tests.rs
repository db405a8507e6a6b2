//! Tests of the image store: publishing, removing, crashes, damaged records, on a real file system.

use std::{io::Write as _, os::unix::fs::MetadataExt as _};

use super::super::{
    document::{Blob, digest_of},
    ingest,
    testregistry::gzip,
    unpack::testtar::TestTar,
    worker::{Leash, Threads},
};
use super::*;

struct Node {
    folder: tempfile::TempDir,
    local: Arc<Local>,
}

impl Node {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let local = Arc::new(
            Local::open(&folder.path().join("store"), &Config::default(), Arc::new(Threads)).unwrap(),
        );
        Self { folder, local }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join("store").join(path)
    }

    /// As after a crash: nothing was put in order. The old process's lock goes with it.
    fn restart(self) -> Self {
        let Self { folder, local } = self;
        drop(local);
        let local = Arc::new(
            Local::open(&folder.path().join("store"), &Config::default(), Arc::new(Threads)).unwrap(),
        );
        Self { folder, local }
    }

    /// A second process on the same root.
    fn second(&self) -> Arc<Local> {
        Arc::new(Local::open(&self.path(""), &Config::default(), Arc::new(Threads)).unwrap())
    }

    fn layers(&self) -> usize {
        std::fs::read_dir(self.path("layers")).unwrap().count()
    }

    fn publish(&self, tag: &str, files: &[&str]) -> Arc<Image> {
        publish(&self.local, tag, files)
    }
}

fn layer(local: &Local, file: &str) -> Arc<Layer> {
    let tar = TestTar::new().file(file, file).done();
    let diff_id = digest_of(&tar);
    if let Some(layer) = local.layers.find(diff_id.hex()).unwrap() {
        return layer;
    }
    let packed = gzip(&tar);
    let blob = Blob { digest: digest_of(&packed), size: packed.len() as u64 };
    ingest::take(local, packed.as_slice(), blob, &diff_id, &Leash::default()).unwrap()
}

/// An image with one layer for each file.
fn publish(local: &Local, tag: &str, files: &[&str]) -> Arc<Image> {
    let draft = Draft {
        id: digest_of(tag.as_bytes()),
        repo_tags: vec![format!("registry.test/{tag}:latest")],
        repo_digests: Vec::new(),
        config: ImageConfig::default(),
        layers: files.iter().map(|file| layer(local, file)).collect(),
    };
    local.publish(draft).unwrap()
}

#[test]
fn removal_frees_what_no_other_image_has() {
    let node = Node::new();
    let first = node.publish("first", &["shared", "own"]);
    let second = node.publish("second", &["shared"]);
    assert_eq!(node.layers(), 2);
    assert_eq!(first.layers.lower[1], second.layers.lower[0]);
    let used = node.local.usage().unwrap().0;

    node.local.remove("registry.test/first").unwrap();
    assert_eq!((node.layers(), node.local.view().unwrap().images.len()), (1, 1));
    assert!(second.layers.lower[0].join("shared").exists());
    assert!(node.local.usage().unwrap().0.used_bytes < used.used_bytes);
    node.local.remove("registry.test/first").unwrap(); // unknown is success
    node.local.remove(second.id.hex()).unwrap();
    assert_eq!((node.layers(), node.local.usage().unwrap().0.used_bytes), (0, 0));
}

#[test]
fn an_image_goes_with_all_its_names() {
    let node = Node::new();
    let mut draft = Draft {
        id: digest_of(b"id"),
        repo_tags: vec!["registry.test/a:1".into(), "registry.test/b:2".into()],
        repo_digests: vec![format!("registry.test/a@{}", digest_of(b"manifest"))],
        config: ImageConfig::default(),
        layers: vec![layer(&node.local, "x")],
    };
    node.local.publish(draft.clone()).unwrap();
    draft.repo_tags = vec!["registry.test/c:3".into()];
    assert_eq!(node.local.publish(draft).unwrap().repo_tags.len(), 3);
    node.local.remove("registry.test/b:2").unwrap();
    assert_eq!(node.local.view().unwrap().images.len(), 0);
    assert!(node.local.view().unwrap().find("registry.test/c:3").is_none());
}

#[test]
fn layers_in_use_stay_until_they_are_released_even_over_a_restart() {
    let node = Node::new();
    let image = node.publish("app", &["x"]);
    node.local.retain(&image.id, "container-1");
    node.local.retain(&image.id, "container-2");
    node.local.remove("registry.test/app").unwrap();
    assert_eq!((node.layers(), node.local.view().unwrap().images.len()), (1, 0));

    let node = node.restart();
    assert_eq!((node.layers(), node.local.view().unwrap().images.len()), (1, 0));
    assert!(image.layers.lower[0].join("x").exists());
    node.local.release("container-1");
    assert_eq!(node.layers(), 1);
    node.local.release("container-2");
    assert_eq!(node.layers(), 0);
    assert_eq!(std::fs::read_dir(node.path("images")).unwrap().count(), 0);
}

#[test]
fn what_unknown_containers_left_is_cleared() {
    let node = Node::new();
    let image = node.publish("app", &["x"]);
    for container in ["live", "dead"] {
        node.local.retain(&image.id, container);
        node.local.writable.make(container).unwrap();
    }
    node.local.remove(image.id.hex()).unwrap();
    let node = node.restart();
    node.local.keep_only(&BTreeSet::from(["live".into()])).unwrap();
    assert_eq!(node.local.writable.containers().unwrap(), ["live"]);
    assert_eq!(node.layers(), 1);
    node.local.keep_only(&BTreeSet::new()).unwrap();
    assert_eq!(node.layers(), 0);
}

#[test]
fn a_crash_leaves_only_what_the_next_start_clears() {
    let node = Node::new();
    let image = node.publish("app", &["x"]);
    // Unfinished work of a process that is gone, and a layer whose image was never recorded.
    std::fs::create_dir_all(node.path("ingest/dead/0/fs")).unwrap();
    std::fs::create_dir_all(node.path("layers/orphan/fs/etc")).unwrap();
    std::fs::create_dir_all(node.path(&format!("layers/{}/fs", "f".repeat(64)))).unwrap();
    let node = node.restart();
    assert_eq!(node.layers(), 1);
    assert!(!node.path("ingest/dead").exists());
    assert_eq!(node.local.view().unwrap().find("registry.test/app").unwrap().id, image.id);
}

#[test]
fn a_damaged_record_costs_its_image_and_no_other() {
    let node = Node::new();
    let bad = node.publish("bad", &["x"]);
    let good = node.publish("good", &["y"]);
    let path = node.path(&format!("images/{}", bad.id.hex()));
    for damage in [b"".as_slice(), b"{", &[0xff; 1000]] {
        std::fs::File::create(&path).unwrap().write_all(damage).unwrap();
        let node = node.second();
        let view = node.view().unwrap();
        assert_eq!(view.images.iter().map(|image| &image.id).collect::<Vec<_>>(), [&good.id]);
    }
    assert!(!path.exists());
    assert!(node.path(&format!("quarantine/{}", bad.id.hex())).exists());
    // A record under another image's name is no record.
    std::fs::copy(node.path(&format!("images/{}", good.id.hex())), &path).unwrap();
    assert_eq!(node.second().view().unwrap().images.len(), 1);
}

#[test]
fn an_image_without_its_layer_is_not_listed() {
    let node = Node::new();
    let image = node.publish("app", &["x"]);
    let layer = image.layers.lower[0].parent().unwrap();
    std::fs::remove_file(layer.join("record")).unwrap();
    let node = node.restart();
    assert_eq!(node.local.view().unwrap().images.len(), 0);
}

#[test]
fn another_process_may_publish_and_remove() {
    let node = Node::new();
    let other = node.second();
    let image = publish(&other, "app", &["x"]);
    assert_eq!(
        node.local.view().unwrap().find("registry.test/app").map(|found| found.id.clone()),
        Some(image.id.clone())
    );
    // What the other one is about to publish is not rubbish to us.
    let pending = layer(&other, "pending");
    node.local.remove("registry.test/app").unwrap();
    assert_eq!(other.view().unwrap().images.len(), 0);
    drop(pending);
}

#[test]
fn a_layer_that_went_away_meanwhile_is_noticed() {
    let node = Node::new();
    node.publish("app", &["x"]);
    let other = node.second();
    let held = layer(&other, "x");
    node.local.remove("registry.test/app").unwrap();
    let draft = Draft {
        id: digest_of(b"id"),
        repo_tags: Vec::new(),
        repo_digests: Vec::new(),
        config: ImageConfig::default(),
        layers: vec![held],
    };
    assert!(matches!(other.publish(draft), Err(Error::LayerRemoved(_))));
    assert_eq!(other.view().unwrap().images.len(), 0);
}

#[test]
fn a_layer_that_someone_counts_on_is_not_collected() {
    let node = Node::new();
    node.publish("app", &["x"]);
    let held = layer(&node.local, "x");
    node.local.remove("registry.test/app").unwrap();
    assert_eq!(node.layers(), 1);
    drop(held);
    assert_eq!(node.restart().layers(), 0);
}

#[test]
fn nobody_else_gets_in() {
    let node = Node::new();
    node.publish("app", &["x"]);
    for path in ["", "images", "layers", "ingest", "containers", "quarantine", "retained"] {
        assert_eq!(std::fs::metadata(node.path(path)).unwrap().mode() & 0o7777, 0o700, "{path}");
    }
    std::fs::set_permissions(node.path("layers"), std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .unwrap();
    let node = node.restart();
    assert_eq!(std::fs::metadata(node.path("layers")).unwrap().mode() & 0o7777, 0o700);
}

#[test]
fn a_writable_layer_is_made_measured_and_removed() {
    let node = Node::new();
    let path = node.local.writable.make("container").unwrap();
    assert_eq!(std::fs::metadata(path.join("upper")).unwrap().mode() & 0o7777, 0o755);
    std::fs::write(path.join("upper/data"), vec![1; 100_000]).unwrap();
    std::fs::create_dir_all(path.join("volumes/0")).unwrap();
    std::fs::write(path.join("volumes/0/data"), vec![1; 100_000]).unwrap();
    std::fs::create_dir_all(path.join("work/work")).unwrap();
    std::fs::set_permissions(path.join("work/work"), std::os::unix::fs::PermissionsExt::from_mode(0o000))
        .unwrap();
    // A new one is known at once: nothing is in it but `upper` itself.
    assert_eq!(node.local.writable_usage("container").unwrap().inodes_used, 1);
    // Another daemon knows none, and what it is asked first has it look.
    let node = node.restart();
    assert!(node.local.writable_usage("container").is_none());
    node.local.usage().unwrap();
    let usage = node.local.usage().unwrap().1;
    assert!(usage.used_bytes >= 200_000 && usage.inodes_used == 8, "{usage:?}");
    let own = node.local.writable_usage("container").unwrap();
    assert!(own.used_bytes >= 200_000 && own.inodes_used == 5, "{own:?}");
    assert_eq!(own.mountpoint, usage.mountpoint);
    node.local.writable.remove("container").unwrap();
    node.local.writable.remove("container").unwrap();
    assert!(!path.exists());
    for bad in ["", "..", "a/b", "../images"] {
        assert!(node.local.writable.make(bad).is_err() && node.local.writable.remove(bad).is_err(), "{bad}");
    }
}

#[test]
fn an_ambiguous_prefix_removes_nothing() {
    let node = Node::new();
    let id = |last: &str| crate::model::Digest::parse(&format!("sha256:{}{last}", "a".repeat(63))).unwrap();
    for last in ["b", "c"] {
        let layers = vec![layer(&node.local, "x")];
        let (repo_tags, repo_digests) = (Vec::new(), Vec::new());
        node.local
            .publish(Draft { id: id(last), repo_tags, repo_digests, config: ImageConfig::default(), layers })
            .unwrap();
    }
    assert!(matches!(node.local.remove("aaaa"), Err(Error::AmbiguousPrefix(_))));
    assert!(node.local.view().unwrap().find("aaaa").is_none());
    node.local.remove(id("b").hex()).unwrap();
    assert_eq!(node.local.view().unwrap().find("sha256:aaaa").unwrap().id, id("c"));
}

/// Runs `test` again in a process of its own, by `wrapper`; true in that process.
fn is_alone(test: &str, wrapper: &[&str]) -> bool {
    const ALONE: &str = "PINTLE_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let mut command = std::process::Command::new(wrapper[0]);
    command.args(&wrapper[1..]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "--nocapture", &format!("image::local::tests::{test}")]);
    let output = command.env(ALONE, "").output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    false
}

/// A change of the folder that no file system's clock is too slow for.
fn touch_records(node: &Node) {
    let folder = std::fs::File::open(node.path("images")).unwrap();
    folder.set_modified(SystemTime::now() - std::time::Duration::from_secs(5)).unwrap();
}

#[test]
fn without_descriptors_images_are_an_error_and_not_gone() {
    if !is_alone("without_descriptors_images_are_an_error_and_not_gone", &["prlimit", "--nofile=64:64"]) {
        return;
    }
    let node = Node::new();
    let (first, second) = (node.publish("first", &["x"]), node.publish("second", &["y"]));
    // With one left the folder can be listed and no record read, with two no layer's.
    for left in 0..3 {
        touch_records(&node);
        let mut taken: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
        taken.truncate(taken.len() - left);
        if left < 2 {
            let error = node.local.view().unwrap_err();
            assert!(matches!(error, Error::Store { .. }), "{error}");
            assert!(node.local.usage().is_err());
        }
        if left == 0 {
            node.local.remove("registry.test/first").unwrap_err();
            node.local
                .layers
                .find(first.layers.lower[0].parent().unwrap().file_name().unwrap().to_str().unwrap())
                .unwrap_err();
        }
        drop(taken);
        let view = node.local.view().unwrap();
        assert_eq!(view.images.len(), 2);
        assert_eq!(view.find("registry.test/second").unwrap().id, second.id);
    }
}

#[test]
fn a_record_that_the_disk_does_not_give_costs_nothing_that_was_known() {
    let name = "a_record_that_the_disk_does_not_give_costs_nothing_that_was_known";
    if !is_root() || !is_alone(name, &["unshare", "--mount", "--propagation", "private"]) {
        return;
    }
    let node = Node::new();
    let (bad, good) = (node.publish("bad", &["x"]), node.publish("good", &["y"]));
    // A file that opens as any other and whose first read is an I/O error.
    let record = node.path(&format!("images/{}", bad.id.hex()));
    rustix::mount::mount_bind("/proc/self/mem", &record).unwrap();
    touch_records(&node);
    let view = node.local.view().unwrap();
    assert_eq!(view.images.len(), 2);
    assert_eq!(view.find("registry.test/bad").unwrap().id, bad.id);
    // One who has never read it lists the others, and takes no layer for rubbish.
    let second = node.second();
    let view = second.view().unwrap();
    assert_eq!(view.images.iter().map(|image| &image.id).collect::<Vec<_>>(), [&good.id]);
    second.remove("registry.test/good").unwrap();
    assert_eq!(node.layers(), 2);
    rustix::mount::unmount(&record, rustix::mount::UnmountFlags::empty()).unwrap();
    touch_records(&node);
    assert_eq!(second.view().unwrap().find("registry.test/bad").unwrap().id, bad.id);
}

#[test]
fn a_layer_whose_record_is_damaged_is_made_whole_by_the_next_pull() {
    let node = Node::new();
    let image = node.publish("app", &["x"]);
    let layer = image.layers.lower[0].parent().unwrap().to_path_buf();
    for damage in [true, false] {
        std::fs::write(layer.join("record"), "").unwrap();
        if damage {
            // A container may be using the files.
            std::fs::write(layer.join("fs/in-use"), "").unwrap();
        } else {
            std::fs::remove_dir_all(layer.join("fs")).unwrap();
        }
        assert_eq!(node.second().view().unwrap().images.len(), 0);
        assert_eq!(node.publish("app", &["x"]).id, image.id);
        assert_eq!(std::fs::read_to_string(layer.join("fs/x")).unwrap(), "x");
        assert_eq!(layer.join("fs/in-use").exists(), damage);
    }
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}
