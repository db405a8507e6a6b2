//! Tests of loading archives: layouts and Docker archives, packed, piped, damaged, with and without names.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use super::super::{
    Config, document,
    testregistry::{OCI_MANIFEST, TestImage, descriptor, gzip},
    unpack::testtar::TestTar,
    worker::Threads,
};
use super::*;

struct Node {
    folder: tempfile::TempDir,
    local: Local,
}

impl Node {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let local = Local::open(&folder.path().join("store"), &Config::default(), Arc::new(Threads)).unwrap();
        Self { folder, local }
    }

    /// All of them, or the first thing that is wrong.
    fn load(&self, path: &Path) -> Result<Vec<Arc<Image>>, Error> {
        let loaded = self.load_as(path, None)?;
        match loaded.failed.into_iter().chain(loaded.skipped).next() {
            Some((_, error)) => Err(error),
            None => Ok(loaded.images.into_iter().map(|loaded| loaded.image).collect()),
        }
    }

    fn load_as(&self, path: &Path, name: Option<&str>) -> Result<Loaded, Error> {
        load(&self.local, Input::open(path)?, name, &|_| ())
    }

    fn tar(&self, files: &[(String, Vec<u8>)]) -> PathBuf {
        let mut tar = TestTar::new();
        for (name, bytes) in files {
            tar = tar.raw(name.as_bytes(), b'0', 0o644, b"", bytes.len() as u64, bytes);
        }
        self.file("archive.tar", &tar.done())
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// The number of unfinished layers.
    fn ingest(&self) -> usize {
        let own = std::fs::read_dir(self.folder.path().join("store/ingest")).unwrap().next().unwrap();
        std::fs::read_dir(own.unwrap().path()).unwrap().count()
    }

    fn layers(&self) -> usize {
        std::fs::read_dir(self.folder.path().join("store/layers")).unwrap().count()
    }
}

fn image() -> TestImage {
    TestImage::new(&[TestTar::new().file("a", "a"), TestTar::new().file("b", "b")])
}

fn blob(bytes: &[u8]) -> (String, Vec<u8>) {
    (format!("blobs/sha256/{}", document::digest_of(bytes).hex()), bytes.to_vec())
}

/// The blobs of an image, and its entry in an index; `extra` are members of that.
fn parts_of(image: &TestImage, extra: &str) -> (String, Vec<(String, Vec<u8>)>) {
    let manifest = image.manifest();
    let entry = descriptor(OCI_MANIFEST, manifest.as_bytes());
    let entry = format!("{}{extra}}}", entry.trim_end_matches('}'));
    let mut files = vec![blob(manifest.as_bytes()), blob(image.config.as_bytes())];
    files.extend(image.blobs.iter().map(|layer| blob(layer)));
    (entry, files)
}

fn called(name: &str) -> String {
    format!(r#","annotations":{{"org.opencontainers.image.ref.name":"{name}"}}"#)
}

fn index_of(entries: &[String]) -> (String, Vec<u8>) {
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
    ("index.json".into(), index.into_bytes())
}

/// The files of an OCI layout with one image called `name`.
fn layout_of(image: &TestImage, name: &str) -> Vec<(String, Vec<u8>)> {
    let (entry, blobs) = parts_of(image, &called(name));
    [vec![index_of(&[entry])], blobs].concat()
}

/// The files of a Docker archive with that list of images, each of which has the one layer.
fn docker_of(manifest: &str) -> Vec<(String, Vec<u8>)> {
    let layer = TestTar::new().file("a", "a");
    let image = TestImage::new(std::slice::from_ref(&layer));
    vec![
        ("manifest.json".into(), manifest.as_bytes().to_vec()),
        ("config.json".into(), image.config.into_bytes()),
        ("layer.tar".into(), layer.done()),
    ]
}

fn tags(loaded: &Loaded) -> Vec<&[String]> {
    loaded.images.iter().map(|loaded| loaded.image.repo_tags.as_slice()).collect()
}

#[test]
fn a_layout_is_loaded_from_a_tar_and_from_a_folder() {
    let node = Node::new();
    let image = image();
    let files = layout_of(&image, "registry.test/app:v1");
    let path = node.tar(&files);
    let progress = std::cell::RefCell::new(Vec::new());
    let input = Input::open(&path).unwrap();
    let made = load(&node.local, input, None, &|step| progress.borrow_mut().push(step)).unwrap();
    let made: Vec<_> = made.images.iter().map(|loaded| &loaded.image).collect();
    assert_eq!(made[0].repo_tags, ["registry.test/app:v1"]);
    let manifest = document::digest_of(image.manifest().as_bytes());
    assert_eq!(made[0].repo_digests, [format!("registry.test/app@{manifest}")]);
    assert_eq!(made[0].id, document::digest_of(image.config.as_bytes()));
    assert_eq!(std::fs::read_to_string(made[0].layers.lower[1].join("a")).unwrap(), "a");
    assert_eq!(progress.borrow().len(), 3);
    assert_eq!(progress.borrow()[2], Progress::Image { id: made[0].id.clone() });

    let node = Node::new();
    let folder = node.folder.path().join("layout");
    for (name, bytes) in &files {
        std::fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
        std::fs::write(folder.join(name), bytes).unwrap();
    }
    assert_eq!(node.load(&folder).unwrap()[0].id, made[0].id);
}

#[test]
fn a_docker_archive_is_loaded() {
    let node = Node::new();
    let image = image();
    let manifest = r#"[{"Config":"config.json","RepoTags":["app:v1","team/app:v2"],"Layers":["0/layer.tar","1/layer.tar"]}]"#;
    let files = [
        ("manifest.json".to_string(), manifest.as_bytes().to_vec()),
        ("config.json".into(), image.config.clone().into_bytes()),
        ("0/layer.tar".into(), TestTar::new().file("a", "a").done()),
        ("1/layer.tar".into(), TestTar::new().file("b", "b").done()),
    ];
    let made = node.load(&node.tar(&files)).unwrap();
    assert_eq!(made[0].id, document::digest_of(image.config.as_bytes()));
    assert_eq!(made[0].repo_tags, ["docker.io/library/app:v1", "docker.io/team/app:v2"]);
    assert_eq!(made[0].repo_digests, [""; 0]);
}

#[test]
fn what_is_wrong_with_an_archive_leaves_nothing() {
    let image = image();
    let good = layout_of(&image, "app:v1");
    let mut flipped = good.clone();
    flipped[4].1[20] ^= 1;
    let mut swapped = good.clone();
    swapped[3].1 = good[4].1.clone();
    let mut missing = good.clone();
    missing.remove(4);
    let mut escaping = good.clone();
    escaping[0].1 = br#"{"manifests":[{"digest":"sha256:../../../../etc/passwd","size":1}]}"#.to_vec();
    let mut bad_name = layout_of(&image, "bad/../name:v1");
    bad_name.truncate(5);
    let docker = vec![(
        "manifest.json".to_string(),
        br#"[{"Config":"/etc/passwd","RepoTags":null,"Layers":["../../etc/shadow"]}]"#.to_vec(),
    )];
    for files in
        [flipped, swapped, missing, escaping, bad_name, docker, vec![("x".into(), b"x".to_vec())], vec![]]
    {
        let node = Node::new();
        assert!(node.load(&node.tar(&files)).is_err());
        assert_eq!((node.layers(), node.local.view().unwrap().images.len()), (0, 0));
    }
    let node = Node::new();
    std::fs::write(node.folder.path().join("no.tar"), "this is no tar at all").unwrap();
    assert!(node.load(&node.folder.path().join("no.tar")).is_err());
}

#[test]
fn a_folder_shows_nothing_of_the_host() {
    let node = Node::new();
    let folder = node.folder.path().join("layout");
    std::fs::create_dir(&folder).unwrap();
    let manifest = r#"[{"Config":"link","RepoTags":null,"Layers":[]}]"#;
    std::fs::write(folder.join("manifest.json"), manifest).unwrap();
    std::fs::write(node.folder.path().join("config"), r#"{"rootfs":{"diff_ids":[]}}"#).unwrap();
    std::os::unix::fs::symlink("../config", folder.join("link")).unwrap();
    assert!(matches!(node.load(&folder), Err(Error::BadArchive { .. })));
    std::fs::write(folder.join("manifest.json"), manifest.replace("link", "../config")).unwrap();
    assert!(matches!(node.load(&folder), Err(Error::BadArchive { .. })));
}

#[test]
fn an_image_of_no_layers_has_an_empty_one() {
    let node = Node::new();
    let made = node.load(&node.tar(&layout_of(&TestImage::new(&[]), "scratch:v1"))).unwrap();
    assert_eq!(made[0].layers.lower.len(), 1);
    assert_eq!(std::fs::read_dir(&made[0].layers.lower[0]).unwrap().count(), 0);
}

#[test]
fn an_archive_may_be_packed_or_come_through_a_pipe() {
    let tar = {
        let node = Node::new();
        std::fs::read(node.tar(&layout_of(&image(), "app:v1"))).unwrap()
    };
    let zstd = zstd::encode_all(tar.as_slice(), 1).unwrap();
    let padded = [gzip(&tar), vec![0; 10_000]].concat();
    for (packing, bytes) in
        [("none", &tar), ("gzip", &gzip(&tar)), ("gzip with zeros", &padded), ("zstd", &zstd)]
    {
        let node = Node::new();
        let loaded = node.load_as(&node.file("archive", bytes), None).unwrap();
        assert_eq!(tags(&loaded), [["docker.io/library/app:v1"]], "{packing}");
        assert_eq!(node.ingest(), 0, "{packing}");

        let node = Node::new();
        let pipe = node.folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
            .unwrap();
        let (bytes, to) = (bytes.clone(), pipe.clone());
        let writer = std::thread::spawn(move || {
            std::fs::File::options().write(true).open(to).unwrap().write_all(&bytes).unwrap();
        });
        let loaded = node.load_as(&pipe, None).unwrap();
        writer.join().unwrap();
        assert_eq!(tags(&loaded), [["docker.io/library/app:v1"]], "{packing} through a pipe");
        assert_eq!(node.ingest(), 0, "{packing} through a pipe");
    }
}

#[test]
fn what_is_wrong_with_a_packed_archive_is_said_and_leaves_nothing() {
    let node = Node::new();
    let tar = std::fs::read(node.tar(&layout_of(&image(), "app:v1"))).unwrap();
    let packed = gzip(&tar);
    let mut flipped = packed.clone();
    flipped[packed.len() / 2] ^= 0xff;
    for (bytes, words) in [
        (&packed[..packed.len() - 20], "archive: "),
        (&flipped, "archive: "),
        (b"\xfd7zXZ\0 and more", "xz is not supported"),
        (b"BZh91AY", "bzip2 is not supported"),
        (&gzip(b"no tar"), "it is no tar archive"),
        (&b"root:x:0:0:root:/root:/bin/bash\n".repeat(40), "it is no tar archive"),
        (b"", "neither an OCI layout"),
    ] {
        let error = node.load_as(&node.file("archive", bytes), None).unwrap_err();
        assert!(matches!(error, Error::BadArchive { .. }), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!((node.layers(), node.ingest()), (0, 0), "{error}");
    }
    assert!(node.load_as(Path::new("/not/there"), None).unwrap_err().to_string().contains("/not/there"));
}

#[test]
fn an_image_without_a_name_gets_the_one_that_is_given() {
    let load = |files: &[(String, Vec<u8>)], name| {
        let node = Node::new();
        node.load_as(&node.tar(files), name)
    };
    let (unnamed, blobs) = parts_of(&image(), "");
    let unnamed = [vec![index_of(&[unnamed])], blobs].concat();
    let bare = layout_of(&image(), "v1");
    let named = layout_of(&image(), "team/app:v1");
    let docker = docker_of(r#"[{"Config":"config.json","RepoTags":null,"Layers":["layer.tar"]}]"#);
    for (files, name, expected) in [
        (&unnamed, None, &[][..]),
        (&unnamed, Some("registry.test:5000/app"), &["registry.test:5000/app:latest"]),
        (&unnamed, Some("registry.test/app:v7"), &["registry.test/app:v7"]),
        (&bare, None, &[]),
        (&bare, Some("app"), &["docker.io/library/app:v1"]),
        (&bare, Some("app:v7"), &["docker.io/library/app:v7"]),
        (&named, Some("app:v7"), &["docker.io/library/app:v7", "docker.io/team/app:v1"]),
        (&docker, None, &[]),
        (&docker, Some("app:v7"), &["docker.io/library/app:v7"]),
    ] {
        let loaded = load(files, name).unwrap();
        assert_eq!(tags(&loaded), [expected], "{name:?}");
        let unknown = expected.is_empty() && std::ptr::eq(files, &bare);
        assert_eq!(loaded.images[0].bare_tag, unknown.then(|| "v1".into()), "{name:?}");
    }
    let digest = document::digest_of(image().manifest().as_bytes());
    assert_eq!(
        load(&bare, Some("app")).unwrap().images[0].image.repo_digests,
        [format!("docker.io/library/app@{digest}")]
    );
    for bad in ["", "UPPER/case", &format!("app@{digest}")] {
        assert!(matches!(load(&bare, Some(bad)), Err(Error::BadReference { .. })), "{bad}");
    }
}

#[test]
fn several_images_share_a_given_name_by_their_tags() {
    let other = TestImage::new(&[TestTar::new().file("other", "other")]);
    let ((first, mut blobs), (second, more)) =
        (parts_of(&image(), &called("v1")), parts_of(&other, &called("v2")));
    blobs.extend(more);
    let files = [vec![index_of(&[first, second])], blobs].concat();
    let node = Node::new();
    let loaded = node.load_as(&node.tar(&files), Some("app")).unwrap();
    assert_eq!(tags(&loaded), [["docker.io/library/app:v1"], ["docker.io/library/app:v2"]]);
    // One name for two images would be the last one's.
    let node = Node::new();
    let loaded = node.load_as(&node.tar(&files), Some("app:v9")).unwrap();
    assert_eq!(tags(&loaded), [["docker.io/library/app:v9"]]);
    let (called, error) = &loaded.failed[0];
    assert!(called == "v2" && error.to_string().contains("another image"), "{called}: {error}");
}

#[test]
fn what_is_no_image_or_broken_costs_no_other() {
    let chart = r#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}"#;
    let chart_entry = descriptor(OCI_MANIFEST, chart.as_bytes());
    let other = TestImage::new(&[TestTar::new().file("other", "other")]);
    let (broken, mut blobs) = parts_of(&other, &called("broken:v1"));
    blobs.pop(); // its layer
    let (good, more) = parts_of(&image(), &called("good:v1"));
    blobs.extend(more);
    blobs.push(blob(chart.as_bytes()));
    let elsewhere = r#"{"digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","size":1,"platform":{"os":"plan9","architecture":"vax"}}"#;
    let entries =
        [chart_entry, broken, "null".into(), r#"{"digest":7}"#.into(), elsewhere.into(), good].to_vec();
    let node = Node::new();
    let loaded = node.load_as(&node.tar(&[vec![index_of(&entries)], blobs].concat()), None).unwrap();
    assert_eq!(tags(&loaded), [["docker.io/library/good:v1"]]);
    assert_eq!(loaded.skipped.len(), 1);
    assert!(loaded.skipped[0].1.to_string().contains("helm"), "{:?}", loaded.skipped);
    let failed: Vec<_> = loaded.failed.iter().map(|(called, _)| called.as_str()).collect();
    assert_eq!(failed, ["broken:v1", "entry 3 of index.json", "entry 4 of index.json"]);
    assert_eq!((node.layers(), node.local.view().unwrap().images.len()), (2, 1));

    let docker = docker_of(
        r#"[null, {"Config":"config.json","RepoTags":["<none>:<none>",null,""],"Layers":["layer.tar"]},
            {"Config":"absent.json","RepoTags":["broken:v1"],"Layers":null},
            {"Config":"config.json","RepoTags":["good:v1"],"Layers":["layer.tar"]}]"#,
    );
    let node = Node::new();
    let loaded = node.load_as(&node.tar(&docker), None).unwrap();
    // Both entries are one image.
    assert_eq!(tags(&loaded), [["docker.io/library/good:v1"]]);
    let failed: Vec<_> = loaded.failed.iter().map(|(called, _)| called.as_str()).collect();
    assert_eq!(failed, ["entry 1 of manifest.json", "broken:v1"]);
}

#[test]
fn an_archive_of_both_kinds_is_read_as_the_one_that_lists_images() {
    let mut files = docker_of(r#"[{"Config":"config.json","RepoTags":["app:v1"],"Layers":["layer.tar"]}]"#);
    for index in [r#"{"manifests":null}"#, r#"{"schemaVersion":2,"manifests":[]}"#, "{}"] {
        files.truncate(3);
        files.push(("index.json".into(), index.into()));
        let node = Node::new();
        assert_eq!(tags(&node.load_as(&node.tar(&files), None).unwrap()), [["docker.io/library/app:v1"]]);
    }
    let node = Node::new();
    let error = node.load_as(&node.tar(&docker_of("null")), None).unwrap_err();
    assert!(error.to_string().contains("no image for this machine"), "{error}");
}
