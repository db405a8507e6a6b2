//! Images from files: OCI layouts (folder or tar) and Docker archives (`docker save`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufReader, Read, Seek as _, SeekFrom},
    os::fd::AsFd as _,
    path::Path,
    sync::Arc,
};

use rustix::fs::{self as rfs, Mode, OFlags, ResolveFlags};
use serde::Deserialize;
use tracing::info;

use super::{
    Error, Image,
    document::{self, Blob, IndexWalk, Manifest, Step},
    ingest,
    layers::Layer,
    local::{Draft, Local},
    reference::{Query, Reference, Target},
    unpack::{Archive, Kind},
};
use crate::model::Digest;

/// Files of an archive that are remembered; a layout has three per layer at most.
const MEMBERS_MAX: usize = 100_000;
/// Images in one archive.
const IMAGES_MAX: usize = 1000;

/// How far a load has come.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Progress {
    /// A layer is about to be unpacked: its digest, its place from 1 on, of how many.
    Layer { digest: Digest, number: usize, of: usize },
    /// An image is complete.
    Image { id: Digest },
}

/// Loads every image of `path`. Blocks.
pub(super) fn load(
    local: &Local,
    path: &Path,
    progress: &dyn Fn(Progress),
) -> Result<Vec<Arc<Image>>, Error> {
    let source = Source::open(path)?;
    let found = if source.has("index.json") {
        layout(&source)?
    } else if source.has("manifest.json") {
        docker(&source)?
    } else {
        return Err(
            source.bad("it is neither an OCI layout (index.json) nor a Docker archive (manifest.json)")
        );
    };
    if found.is_empty() {
        return Err(source.bad("it holds no image for this machine"));
    }
    let mut ids = Vec::new();
    for image in &found {
        let image = publish(local, &source, image, progress)?;
        // An archive lists an image once for each of its names.
        if !ids.contains(&image.id) {
            ids.push(image.id.clone());
        }
    }
    let view = local.view()?;
    ids.into_iter().filter_map(|id| view.resolve(&Query::Id(id)).transpose()).collect()
}

/// An image as an archive describes it.
struct Found {
    id: Digest,
    config: document::Config,
    /// (file, what it must be), bottom first. A Docker archive promises nothing about the file itself.
    layers: Vec<(String, Option<Blob>)>,
    repo_tags: Vec<String>,
    repo_digests: Vec<String>,
}

fn publish(
    local: &Local,
    source: &Source,
    found: &Found,
    progress: &dyn Fn(Progress),
) -> Result<Arc<Image>, Error> {
    let mut layers: Vec<Arc<Layer>> = Vec::new();
    for (place, ((file, blob), diff_id)) in found.layers.iter().zip(&found.config.diff_ids).enumerate() {
        progress(Progress::Layer { digest: diff_id.clone(), number: place + 1, of: found.layers.len() });
        let layer = match local.layers.find(diff_id.hex())? {
            Some(layer) => layer,
            None => take(local, source, file, blob.clone(), diff_id)?,
        };
        layers.push(layer);
    }
    let draft = Draft {
        id: found.id.clone(),
        repo_tags: found.repo_tags.clone(),
        repo_digests: found.repo_digests.clone(),
        config: found.config.process.clone(),
        layers,
    };
    let image = local.publish(draft)?;
    info!(image = %image.id, names = ?image.repo_tags, "image loaded");
    progress(Progress::Image { id: image.id.clone() });
    Ok(image)
}

fn take(
    local: &Local,
    source: &Source,
    file: &str,
    blob: Option<Blob>,
    diff_id: &Digest,
) -> Result<Arc<Layer>, Error> {
    let (bytes, size) = source.open_member(file)?;
    if size > local.config.layer_compressed_bytes_max {
        return Err(Error::Limit { what: "size of a layer", limit: local.config.layer_compressed_bytes_max });
    }
    match blob {
        Some(blob) => ingest::take(local, BufReader::with_capacity(128 << 10, bytes), blob, diff_id),
        None => {
            // Only the diff id is promised: the file is read twice, first for a digest to report.
            let mut hash = sha2::Sha256::default();
            std::io::copy(&mut { bytes }, &mut HashWriter(&mut hash))
                .map_err(|e| source.bad(&e.to_string()))?;
            let digest = Digest::from_bytes(sha2::Digest::finalize(hash).into());
            let (bytes, _) = source.open_member(file)?;
            ingest::take(local, BufReader::with_capacity(128 << 10, bytes), Blob { digest, size }, diff_id)
        }
    }
}

struct HashWriter<'a>(&'a mut sha2::Sha256);

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        sha2::Digest::update(self.0, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// OCI image spec, "Image layout".
fn layout(source: &Source) -> Result<Vec<Found>, Error> {
    #[derive(Deserialize)]
    struct Index {
        manifests: Vec<document::wire::Descriptor>,
    }
    let bytes = source.read("index.json", document::MANIFEST_BYTES_MAX)?;
    let index: Index = document::read("image layout", "index.json", &bytes)?;
    if index.manifests.len() > IMAGES_MAX {
        return Err(Error::Limit { what: "number of images in an archive", limit: IMAGES_MAX as u64 });
    }
    let mut found = Vec::new();
    for entry in index.manifests.iter().filter(|entry| document::fits_host(entry)) {
        let digest = document::digest("image layout", "index.json", &entry.digest)?;
        let blob = Blob { digest: digest.clone(), size: entry.size };
        let manifest = match manifest(source, &blob)? {
            Some(manifest) => manifest,
            None => continue,
        };
        let annotation = |key: &str| entry.annotations.get(key);
        // The second is the tag alone; only the first says of which repository.
        let name = annotation("io.containerd.image.name")
            .or_else(|| annotation("org.opencontainers.image.ref.name"));
        let name = name.filter(|name| name.contains([':', '/', '@']));
        let (repo_tags, repo_digests) = names(name, Some(&digest))?;
        let config = config(source, &blob_file(&manifest.config.digest), &manifest.config)?;
        let layers = manifest.layers.into_iter().map(|blob| (blob_file(&blob.digest), Some(blob))).collect();
        found.push(checked(Found { id: manifest.config.digest, config, layers, repo_tags, repo_digests })?);
    }
    Ok(found)
}

/// The manifest that `blob` is or leads to; `None` when it leads to nothing for this machine.
fn manifest(source: &Source, blob: &Blob) -> Result<Option<Manifest>, Error> {
    let (mut blob, mut walk) = (blob.clone(), IndexWalk::default());
    loop {
        let bytes =
            source.read_blob(&blob_file(&blob.digest), &blob, "manifest", document::MANIFEST_BYTES_MAX)?;
        match walk.step(&blob.digest.to_string(), &bytes) {
            Ok(Step::Manifest(manifest)) => return Ok(Some(manifest)),
            Ok(Step::Next(next)) => blob = next,
            Err(Error::NoPlatform { .. }) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// `docker save`: a list of images that name their files.
fn docker(source: &Source) -> Result<Vec<Found>, Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Saved {
        config: String,
        repo_tags: Option<Vec<String>>,
        layers: Vec<String>,
    }
    let bytes = source.read("manifest.json", document::MANIFEST_BYTES_MAX)?;
    let saved: Vec<Saved> = document::read("Docker archive", "manifest.json", &bytes)?;
    if saved.len() > IMAGES_MAX {
        return Err(Error::Limit { what: "number of images in an archive", limit: IMAGES_MAX as u64 });
    }
    let mut found = Vec::new();
    for image in saved {
        let bytes = source.read(&image.config, document::CONFIG_BYTES_MAX)?;
        // An image's id is the digest of its config, whatever the file is called.
        let id = document::digest_of(&bytes);
        let config = document::Config::parse(&image.config, &bytes)?;
        let mut repo_tags = BTreeSet::new();
        for tag in image.repo_tags.unwrap_or_default() {
            repo_tags.extend(names(Some(&tag), None)?.0);
        }
        let layers = image.layers.into_iter().map(|file| (file, None)).collect();
        let repo_tags = repo_tags.into_iter().collect();
        found.push(checked(Found { id, config, layers, repo_tags, repo_digests: Vec::new() })?);
    }
    Ok(found)
}

fn checked(found: Found) -> Result<Found, Error> {
    if found.layers.len() == found.config.diff_ids.len() {
        return Ok(found);
    }
    let why =
        format!("it has {} layers and its manifest {}", found.config.diff_ids.len(), found.layers.len());
    Err(Error::document("image config", &found.id, why))
}

fn config(source: &Source, file: &str, blob: &Blob) -> Result<document::Config, Error> {
    let bytes = source.read_blob(file, blob, "image config", document::CONFIG_BYTES_MAX)?;
    document::Config::parse(&blob.digest.to_string(), &bytes)
}

/// (repo tags, repo digests) that a name in an archive gives its image.
fn names(name: Option<&String>, digest: Option<&Digest>) -> Result<(Vec<String>, Vec<String>), Error> {
    let Some(name) = name else { return Ok((Vec::new(), Vec::new())) };
    let reference = Reference::parse(name)?;
    let digests = digest.map(|digest| reference.with_digest(digest)).into_iter().collect();
    match &reference.target {
        Target::Tag(_) => Ok((vec![reference.to_string()], digests)),
        Target::Digest(_) => Ok((Vec::new(), digests)),
    }
}

fn blob_file(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// The files of an archive, by name.
struct Source {
    path: std::path::PathBuf,
    file: File,
    /// Of a tar: where each member's bytes are, and how many. `None` for a folder.
    members: Option<BTreeMap<String, (u64, u64)>>,
}

impl Source {
    fn open(path: &Path) -> Result<Self, Error> {
        let bad = |why: String| Error::BadArchive { path: path.into(), why };
        let file = File::open(path).map_err(|error| bad(error.to_string()))?;
        let is_folder = file.metadata().map_err(|error| bad(error.to_string()))?.is_dir();
        let members = if is_folder { None } else { Some(members(&file).map_err(bad)?) };
        Ok(Self { path: path.into(), file, members })
    }

    fn bad(&self, why: &str) -> Error {
        Error::BadArchive { path: self.path.clone(), why: why.into() }
    }

    fn has(&self, name: &str) -> bool {
        self.open_member(name).is_ok()
    }

    /// A member's bytes and how many they are. In a folder, only regular files in it, through no link: an
    /// archive must not name the host's files.
    fn open_member(&self, name: &str) -> Result<(Box<dyn Read + Send>, u64), Error> {
        let missing = |why: &str| self.bad(&format!("{name:?}: {why}"));
        match &self.members {
            Some(members) => {
                let (offset, size) =
                    *members.get(name.trim_start_matches("./")).ok_or_else(|| missing("not in it"))?;
                let mut file = File::open(&self.path).map_err(|error| missing(&error.to_string()))?;
                file.seek(SeekFrom::Start(offset)).map_err(|error| missing(&error.to_string()))?;
                Ok((Box::new(file.take(size)), size))
            }
            None => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
                let fd = rfs::openat2(self.file.as_fd(), name, flags, Mode::empty(), resolve);
                let file = File::from(fd.map_err(|error| missing(&error.to_string()))?);
                let metadata = file.metadata().map_err(|error| missing(&error.to_string()))?;
                if !metadata.is_file() {
                    return Err(missing("not a file"));
                }
                Ok((Box::new(file), metadata.len()))
            }
        }
    }

    fn read(&self, name: &str, bytes_max: u64) -> Result<Vec<u8>, Error> {
        let (bytes, size) = self.open_member(name)?;
        if size > bytes_max {
            return Err(Error::Limit { what: "a document in an archive", limit: bytes_max });
        }
        let mut content = Vec::new();
        bytes.take(bytes_max).read_to_end(&mut content).map_err(|error| self.bad(&error.to_string()))?;
        Ok(content)
    }

    fn read_blob(
        &self,
        name: &str,
        blob: &Blob,
        what: &'static str,
        bytes_max: u64,
    ) -> Result<Vec<u8>, Error> {
        let content = self.read(name, bytes_max)?;
        if content.len() as u64 == blob.size && document::digest_of(&content) == blob.digest {
            return Ok(content);
        }
        Err(Error::Mismatch {
            what,
            expected: blob.digest.clone(),
            why: format!("{name:?} is something else"),
        })
    }
}

/// Where the files of a tar are. Hard and symbolic links between its members (old `docker save`) are
/// followed by name, within the tar.
fn members(file: &File) -> Result<BTreeMap<String, (u64, u64)>, String> {
    let mut members = BTreeMap::new();
    let mut links = Vec::new();
    let mut archive = Archive::new(file);
    while let Some((entry, offset)) = archive.next_at().map_err(|error| words(&error))? {
        if members.len() + links.len() == MEMBERS_MAX {
            return Err(format!("it has more than {MEMBERS_MAX} files"));
        }
        let Ok(name) = String::from_utf8(entry.path) else { continue };
        let name = name.trim_start_matches("./").to_string();
        match entry.kind {
            Kind::File { size } => drop(members.insert(name, (offset, size))),
            Kind::Hardlink { target } => links.push((name, String::from_utf8_lossy(&target).into_owned())),
            Kind::Symlink { target } => {
                let target = String::from_utf8_lossy(&target).into_owned();
                links.push((name.clone(), beside(&name, &target)));
            }
            _ => {}
        }
    }
    for (name, target) in links {
        if let Some(place) = members.get(target.trim_start_matches("./")).copied() {
            members.insert(name, place);
        }
    }
    Ok(members)
}

/// `a/b/c` with the link `../d/e` → `a/d/e`
fn beside(name: &str, target: &str) -> String {
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn words(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::{
        Config,
        testregistry::{OCI_MANIFEST, TestImage, descriptor},
        unpack::testtar::TestTar,
    };
    use super::*;

    struct Node {
        folder: tempfile::TempDir,
        local: Local,
    }

    impl Node {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let local = Local::open(&folder.path().join("store"), &Config::default()).unwrap();
            Self { folder, local }
        }

        fn load(&self, path: &Path) -> Result<Vec<Arc<Image>>, Error> {
            load(&self.local, path, &|_| ())
        }

        fn tar(&self, files: &[(String, Vec<u8>)]) -> PathBuf {
            let mut tar = TestTar::new();
            for (name, bytes) in files {
                tar = tar.raw(name.as_bytes(), b'0', 0o644, b"", bytes.len() as u64, bytes);
            }
            let path = self.folder.path().join("archive.tar");
            std::fs::write(&path, tar.done()).unwrap();
            path
        }

        fn layers(&self) -> usize {
            std::fs::read_dir(self.folder.path().join("store/layers")).unwrap().count()
        }
    }

    fn image() -> TestImage {
        TestImage::new(&[TestTar::new().file("a", "a"), TestTar::new().file("b", "b")])
    }

    fn blob(bytes: &[u8]) -> (String, Vec<u8>) {
        (blob_file(&document::digest_of(bytes)), bytes.to_vec())
    }

    /// The files of an OCI layout with one image called `name`.
    fn layout_of(image: &TestImage, name: &str) -> Vec<(String, Vec<u8>)> {
        let manifest = image.manifest();
        let entry = descriptor(OCI_MANIFEST, manifest.as_bytes());
        let entry = entry.trim_end_matches('}');
        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{entry},"annotations":{{"org.opencontainers.image.ref.name":"{name}"}}}}]}}"#
        );
        let mut files = vec![("index.json".into(), index.into_bytes()), blob(manifest.as_bytes())];
        files.push(blob(image.config.as_bytes()));
        files.extend(image.blobs.iter().map(|layer| blob(layer)));
        files
    }

    #[test]
    fn a_layout_is_loaded_from_a_tar_and_from_a_folder() {
        let node = Node::new();
        let image = image();
        let files = layout_of(&image, "registry.test/app:v1");
        let path = node.tar(&files);
        let progress = std::cell::RefCell::new(Vec::new());
        let made = load(&node.local, &path, &|step| progress.borrow_mut().push(step)).unwrap();
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
}
