//! Programs and images that others build: found in the cache, or built now.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

/// critest pulls one image by a digest that it has from its makers' registry.
const CRITEST_DIGEST: &str = "9700f9a2f5bf2c45f2f605a0bd3bce7cf37420ec9d3ed50ac2758413308766bf";

static TOOLS: LazyLock<PathBuf> = LazyLock::new(|| {
    made_before("PINTLE_E2E_TOOLS").unwrap_or_else(|| printed_folder(&mut Command::new("hack/tools/build")))
});
static OTHER_CLIENTS: LazyLock<PathBuf> =
    LazyLock::new(|| printed_folder(&mut Command::new("hack/tools/clients")));
static NEW_PLUGINS: LazyLock<PathBuf> = LazyLock::new(|| {
    made_before("PINTLE_E2E_PLUGINS")
        .unwrap_or_else(|| printed_folder(&mut Command::new("hack/tools/plugins")))
});
static IMAGES: LazyLock<PathBuf> = LazyLock::new(|| {
    let mut make = Command::new(env!("CARGO"));
    make.args(["run", "-q", "-p", "xtask", "--", "images"]);
    made_before("PINTLE_E2E_IMAGES").unwrap_or_else(|| printed_folder(&mut make))
});

static STREAMS: LazyLock<PathBuf> = LazyLock::new(|| {
    made_before("PINTLE_E2E_STREAMS")
        .unwrap_or_else(|| printed_folder(&mut Command::new("hack/tools/streams/build")))
});

/// The folder that a variable names: a machine that only runs the tests can make nothing.
fn made_before(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from)
}

/// The folder with CNI plugins of a release that knows version 1.1, `cnitool` and `cachecheck`.
pub(crate) fn new_plugins() -> &'static Path {
    &NEW_PLUGINS
}

/// `crictl` or `critest`, of the version that `hack/tools` pins.
pub(crate) fn client(name: &str) -> PathBuf {
    TOOLS.join(name)
}

/// The folder with gRPC clients in other languages than Go: `python/` and `java/`.
pub(crate) fn other_clients() -> &'static Path {
    &OTHER_CLIENTS
}

/// The client of streams on client-go's own packages.
pub(crate) fn streams() -> &'static Path {
    &STREAMS
}

/// The folder with the registry's storage, `hosts/` and `digests.json`.
pub(crate) fn test_images() -> &'static Path {
    &IMAGES
}

/// The `pintle` under test: `PINTLE_BIN`, else the one built beside this program.
pub(crate) fn pintle() -> PathBuf {
    env::var_os("PINTLE_BIN").map_or_else(|| env!("CARGO_BIN_EXE_pintle").into(), PathBuf::from)
}

/// A copy of critest in `folder` that pulls our image where it would pull one that cannot be had here.
pub(crate) fn patched_critest(folder: &Path) -> PathBuf {
    let mut program = fs::read(client("critest")).unwrap();
    let ours = digest_of("k8s-staging-cri-tools/test-image-digest:latest");
    let places: Vec<usize> = (0..program.len() - CRITEST_DIGEST.len())
        .filter(|&at| program[at..].starts_with(CRITEST_DIGEST.as_bytes()))
        .collect();
    assert!(!places.is_empty(), "critest no longer names {CRITEST_DIGEST}");
    for at in places {
        program[at..at + CRITEST_DIGEST.len()].copy_from_slice(ours.trim_start_matches("sha256:").as_bytes());
    }
    let copy = folder.join("critest");
    fs::write(&copy, program).unwrap();
    fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    copy
}

/// The digest that a tag of the test registry names.
fn digest_of(name: &str) -> String {
    let digests = fs::read(test_images().join("digests.json")).unwrap();
    let digests: serde_json::Value = serde_json::from_slice(&digests).unwrap();
    digests[name].as_str().unwrap_or_else(|| panic!("no image {name}")).into()
}

/// Runs a command that prints a folder as its last word.
fn printed_folder(command: &mut Command) -> PathBuf {
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().lines().last().unwrap_or_default().into()
}
