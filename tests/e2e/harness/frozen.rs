//! Cgroups that somebody else has frozen.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{cgroups::is_unified, node::Node, pod::Container};

/// Dropped, it is thawed: what is frozen (v1) does not even die.
#[derive(Debug)]
pub(crate) struct Frozen {
    directory: PathBuf,
}

impl Frozen {
    /// Freezes a container's cgroup.
    pub(crate) fn new(node: &Node, container: &Container<'_>) -> Self {
        Self::freeze(&freezer_of(node, container))
    }

    /// Freezes the cgroup of a container's pod.
    pub(crate) fn with_its_pod(node: &Node, container: &Container<'_>) -> Self {
        Self::freeze(freezer_of(node, container).parent().unwrap())
    }

    fn freeze(directory: &Path) -> Self {
        let frozen = Self { directory: directory.to_owned() };
        frozen.write(["FROZEN", "1"]).unwrap();
        frozen
    }

    /// Whether it still is.
    pub(crate) fn is_so(&self) -> bool {
        let (file, word) = if is_unified() { ("cgroup.freeze", "1") } else { ("freezer.state", "FROZEN") };
        fs::read_to_string(self.directory.join(file)).unwrap().trim() == word
    }

    pub(crate) fn exists(&self) -> bool {
        self.directory.exists()
    }

    /// Of v1's word and v2's the one that counts here.
    fn write(&self, [v1, v2]: [&str; 2]) -> io::Result<()> {
        let (file, word) = if is_unified() { ("cgroup.freeze", v2) } else { ("freezer.state", v1) };
        fs::write(self.directory.join(file), word)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // It may be gone by now.
        let _ = self.write(["THAWED", "0"]);
    }
}

/// Where a container's processes can be frozen.
pub(crate) fn freezer_of(node: &Node, container: &Container<'_>) -> PathBuf {
    let groups = node.read(&format!("/proc/{}/cgroup", container.pid()));
    let (prefix, hierarchy) = if is_unified() { ("0::", "") } else { (":freezer:", "freezer") };
    let path = groups.lines().find_map(|line| line.split_once(prefix)).expect("a freezer").1;
    PathBuf::from("/sys/fs/cgroup").join(hierarchy).join(path.trim_start_matches('/'))
}

/// A file system of the node's that is frozen (fsfreeze(8)): who writes to it waits in the kernel.
pub(crate) struct FrozenDisk<'n> {
    node: &'n Node,
    place: String,
}

impl<'n> FrozenDisk<'n> {
    /// Mounts one, not frozen yet.
    pub(crate) fn mount(node: &'n Node, place: &str) -> Self {
        let image = node.path("disk.img").to_string_lossy().into_owned();
        fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        node.run("mkfs.ext4", ["-q", &image]);
        node.run("mount", ["-o", "loop", &image, place]);
        Self { node, place: place.into() }
    }

    pub(crate) fn freeze(&self) {
        self.node.run("fsfreeze", ["--freeze", &self.place]);
    }

    pub(crate) fn thaw(&self) {
        self.node.run("fsfreeze", ["--unfreeze", &self.place]);
    }
}

impl Drop for FrozenDisk<'_> {
    fn drop(&mut self) {
        let run = |program: &str, arguments: &[&str]| {
            let _ = self.node.command(program).args(arguments).output();
        };
        run("fsfreeze", &["--unfreeze", &self.place]);
        run("umount", &["--lazy", &self.place]);
    }
}
