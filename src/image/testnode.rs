//! A registry and a node's image store, for tests of pulls.

use std::{path::Path, sync::Arc, time::Duration};

use super::{
    Config, Error, Image, Images, document,
    testregistry::{TestImage, TestRegistry},
    unpack::testtar::TestTar,
    worker::Threads,
};

/// A registry and a node's image store.
pub(super) struct Node {
    pub(super) registry: TestRegistry,
    pub(super) root: tempfile::TempDir,
    pub(super) images: Images,
}

impl Node {
    pub(super) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let images =
            Images::open(&root.path().join("store"), &Self::config(root.path()), Arc::new(Threads)).unwrap();
        Self { registry: TestRegistry::start(), root, images }
    }

    pub(super) fn config(root: &Path) -> Config {
        Config { registry_config_dir: root.join("hosts.d"), ..Config::default() }
    }

    pub(super) fn store(&self, path: &str) -> std::path::PathBuf {
        self.root.path().join("store").join(path)
    }

    pub(super) fn hosts(&self, registry: &str, text: &str) {
        let folder = self.root.path().join("hosts.d").join(registry);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("hosts.toml"), text).unwrap();
    }

    pub(super) async fn pull(&self, name: &str) -> Result<Arc<Image>, Error> {
        self.images.pull(&self.registry.name(name), None).await
    }

    pub(super) fn layers(&self) -> usize {
        std::fs::read_dir(self.store("layers")).unwrap().count()
    }

    /// No unfinished work is left by this process; threads that unpack may need a moment to notice.
    #[track_caller]
    pub(super) fn assert_no_ingest(&self) {
        let mine = std::fs::read_dir(self.store("ingest")).unwrap().next().unwrap().unwrap().path();
        for _ in 0..200 {
            if std::fs::read_dir(&mine).unwrap().count() == 0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("ingest is not empty");
    }
}

/// Two layers: what the upper one implies makes a third.
pub(super) fn image() -> TestImage {
    TestImage::new(&[
        TestTar::new().dir("etc", 0o755).file("etc/base", "base"),
        TestTar::new().file("etc/top", &"top".repeat(100_000)),
    ])
}

pub(super) fn tokio_test(test: impl Future<Output = ()>) {
    tokio::runtime::Runtime::new().unwrap().block_on(test);
}

/// The part of a blob's address that names it.
pub(super) fn digest_part(bytes: &[u8]) -> String {
    document::digest_of(bytes).to_string()
}
