//! Volumes as detached mount trees: opened and changed in the host's mount namespace, where nobody sees them,
//! and moved into place by the container's own init. Only so does BIDIRECTIONAL work, and nothing of a
//! volume ever stands in the host's mount table.
//!
//! Invariant: nothing that a container can write to is in the daemon's `state` or `root`, but its own writable layer
//! and the volumes of its image beside that. The pod's files are in the pod's memory, 1 MiB for all of them.

use std::{
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::DirBuilderExt as _,
    },
    path::Path,
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags},
    mount::UnmountFlags,
};

use super::{
    copy_up::{NotCopied, copy_up},
    label::{MountLabel, NotLabelled, relabel},
    rootfs,
    template::{FILES, PodNamespaces, VOLUME_IMAGE},
    users::Users,
};
use crate::{
    model::{ContainerPlan, Failure, IdMap, MountOptions, Propagation, Stage, Volume, VolumeSource},
    sys::{
        mount::{self, Change, PeerGroup},
        path::{self, Make},
    },
};

/// A tree and where it goes.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub(super) fd: std::rc::Rc<OwnedFd>,
    pub(super) target: String,
    pub(super) kind: Make,
    /// Made read-only only after other trees were put into it.
    pub(super) read_only_last: bool,
}

impl Tree {
    pub(super) fn new(fd: OwnedFd, target: &str) -> io::Result<Self> {
        let found = rustix::fs::fstat(&fd)?;
        let directory = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
        let kind = if directory { Make::Directory } else { Make::File };
        Ok(Self { fd: fd.into(), target: target.into(), kind, read_only_last: false })
    }
}

/// As much of a volume as can be opened in the host's mount namespace.
#[derive(Debug)]
pub(super) enum Opened<'a> {
    Tree(Tree),
    /// The whole image, and the path in it that is the content.
    Image(OwnedFd, &'a str),
    /// One of the pod's files, which are in the template.
    PodFile(&'a Path),
}

/// Opens a volume in the host's mount namespace; `root` is the root of the container that `plan` is of, as its image left
/// it.
///
/// # Errors
/// Stage `MountSource`, `Propagation` or `ImageVolume`, naming the source.
pub(super) fn open<'a>(
    volume: &'a Volume,
    root: &OwnedFd,
    namespaces: &PodNamespaces,
    plan: &ContainerPlan,
) -> Result<Opened<'a>, Failure> {
    let label = plan.mount_label.as_str();
    let pods = namespaces.users.as_ref();
    let mapping = volume.id_map.as_ref().map(|map| Mapping::of(map, pods)).transpose()?;
    match &volume.source {
        VolumeSource::Host(path) => open_host(volume, path, mapping.as_ref(), label).map(Opened::Tree),
        VolumeSource::Image(folder) => open_image(volume, folder, root, pods, label).map(Opened::Tree),
        VolumeSource::PodFile(file) => Ok(Opened::PodFile(file)),
        VolumeSource::Layers { lower, sub_path } => {
            let label = MountLabel(label);
            let lower = rootfs::labelled_layers(lower, &plan.writable, label)?;
            let image = match mapping.as_ref().map(Mapping::users).or(pods) {
                Some(users) => rootfs::image_for(users, &namespaces.template, &lower, label),
                None => rootfs::image(&lower, label),
            };
            let image = image.map_err(|failure| Failure { stage: Stage::ImageVolume, ..failure })?;
            Ok(Opened::Image(image, sub_path))
        }
    }
}

/// The user namespace that says how the ids on a volume are mapped.
enum Mapping<'a> {
    Pods(&'a Users),
    /// One for this volume alone: a mount keeps the map of a namespace that is gone.
    Own(Users),
}

impl<'a> Mapping<'a> {
    fn of(map: &IdMap, pods: Option<&'a Users>) -> Result<Self, Failure> {
        match pods.filter(|users| users.map() == map) {
            Some(users) => Ok(Self::Pods(users)),
            None => Users::make(map).map(Self::Own),
        }
    }

    fn users(&self) -> &Users {
        match self {
            Self::Pods(users) => users,
            Self::Own(users) => users,
        }
    }
}

/// Opens what is left of a volume, in a copy of the template's mount namespace.
///
/// # Errors
/// Stage `MountSource` or `ImageVolume`, naming the source.
pub(super) fn complete(volume: &Volume, opened: Opened<'_>) -> Result<Tree, Failure> {
    match opened {
        Opened::Tree(tree) => Ok(tree),
        Opened::Image(image, sub_path) => open_in_image(volume, image, sub_path),
        Opened::PodFile(file) => open_pod_file(volume, file),
    }
}

/// The changes to the mount of `volume` itself, and not to the mounts below it.
fn own_change(volume: &Volume) -> Change {
    let MountOptions { nodev, noexec, nosuid } = volume.options;
    Change { read_only: volume.readonly, nodev, noexec, nosuid, ..Change::default() }
}

fn open_host(
    volume: &Volume,
    source: &Path,
    mapping: Option<&Mapping<'_>>,
    label: &str,
) -> Result<Tree, Failure> {
    let failed = |error: &io::Error| source_failed(volume, source, error);
    if !source.exists() {
        fs::create_dir_all(source).map_err(|error| failed(&error))?;
    }
    let peers = match volume.propagation {
        Propagation::Private => PeerGroup::Private,
        Propagation::HostToContainer => PeerGroup::Slave,
        Propagation::Bidirectional => {
            require_shared(source)?;
            PeerGroup::Shared
        }
    };
    let recursive = Change { peers: Some(peers), recursive: true, ..Change::default() };
    let tree = mount::detached(CWD, source, recursive).map_err(|error| failed(&error))?;
    if volume.relabel && !label.is_empty() {
        relabel(&tree, label).map_err(|not| not_labelled(source, &not))?;
    }
    if volume.recursive_read_only {
        let read_only = Change { read_only: true, recursive: true, ..Change::default() };
        mount::change(tree.as_fd(), read_only).map_err(|error| failed(&error))?;
    }
    // Only the top: what is mounted below it keeps its own flags, as bind mounts always did.
    mount::change(tree.as_fd(), own_change(volume)).map_err(|error| failed(&error))?;
    if let Some(mapping) = mapping {
        mapping.users().map_mount(tree.as_fd(), true).map_err(|error| failed(&error))?;
    }
    Tree::new(tree, &volume.target).map_err(|error| failed(&error))
}

/// Makes `folder` with what the image has at the target, root's and 0755 if that is nothing.
fn open_image(
    volume: &Volume,
    folder: &Path,
    root: &OwnedFd,
    users: Option<&Users>,
    label: &str,
) -> Result<Tree, Failure> {
    let failed = |error: &io::Error| source_failed(volume, folder, error);
    let of_image =
        |error: &io::Error| Failure::io(Stage::MountSource, "volume of the image", &volume.target, error);
    let make = || -> io::Result<OwnedFd> {
        if let Some(all) = folder.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(all)?;
        }
        fs::create_dir(folder)?;
        Ok(rustix::fs::open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
    };
    let made = make().map_err(|error| failed(&error))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK;
    match path::open_in_root(root.as_fd(), Path::new(&volume.target), flags) {
        Ok(content) => copy_up(&content, &made).map_err(|NotCopied { path, error }| {
            let path = Path::new(&volume.target).join(path);
            Failure::io(Stage::MountSource, "copy of the image's", &path, &error)
        })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if let Some(users) = users {
                users.give_to_root(&made).map_err(|error| failed(&error))?;
            }
        }
        Err(error) => return Err(of_image(&error)),
    }
    if !label.is_empty() {
        relabel(&made, label).map_err(|not| not_labelled(folder, &not))?;
    }
    let private = Change { peers: Some(PeerGroup::Private), ..Change::default() };
    let tree = mount::detached(made.as_fd(), Path::new(""), private).map_err(|error| failed(&error))?;
    Tree::new(tree, &volume.target).map_err(|error| failed(&error))
}

/// An image, or the file or directory at `sub_path` in it. Links of the image lead nowhere but into the image.
fn open_in_image(volume: &Volume, image: OwnedFd, sub_path: &str) -> Result<Tree, Failure> {
    let failed = |error: &io::Error| {
        let text = format!("{sub_path:?} in the image for {}", volume.target);
        Failure::io(Stage::ImageVolume, text, "", error)
    };
    let change = Change { peers: Some(PeerGroup::Private), ..own_change(volume) };
    if sub_path.is_empty() {
        mount::change(image.as_fd(), change).map_err(|error| failed(&error))?;
        return Tree::new(image, &volume.target).map_err(|error| failed(&error));
    }
    let open = || -> io::Result<OwnedFd> {
        // Before Linux 6.15 only of an attached mount a part can be copied.
        fs::create_dir_all(VOLUME_IMAGE)?;
        let place = rustix::fs::open(VOLUME_IMAGE, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        mount::attach(image.as_fd(), place.as_fd())?;
        let part = path::open_in_root(image.as_fd(), Path::new(sub_path), OFlags::PATH)
            .and_then(|part| mount::detached(part.as_fd(), Path::new(""), change));
        rustix::mount::unmount(VOLUME_IMAGE, UnmountFlags::DETACH)?;
        part
    };
    open().and_then(|part| Tree::new(part, &volume.target)).map_err(|error| failed(&error))
}

/// The pod's copy of one of its files.
fn open_pod_file(volume: &Volume, file: &Path) -> Result<Tree, Failure> {
    let failed = |error: &io::Error| source_failed(volume, file, error);
    let name = file.file_name().unwrap_or_default();
    let change = Change { peers: Some(PeerGroup::Private), ..own_change(volume) };
    let tree = mount::detached(CWD, &Path::new(FILES).join(name), change).map_err(|error| failed(&error))?;
    Tree::new(tree, &volume.target).map_err(|error| failed(&error))
}

fn not_labelled(source: &Path, NotLabelled { path, error }: &NotLabelled) -> Failure {
    Failure::io(Stage::MountSource, "SELinux label of", source.join(path), error)
}

fn source_failed(volume: &Volume, source: &Path, error: &io::Error) -> Failure {
    Failure::io(Stage::MountSource, format!("of {}", volume.target), source, error)
}

/// Puts the trees in their places, in their order, inside the root this process has.
///
/// # Errors
/// Stage `MountTarget`, naming the target.
pub(super) fn attach_all(root: BorrowedFd<'_>, trees: &[Tree]) -> Result<(), Failure> {
    for tree in trees {
        let failed = |error: &io::Error| Failure::io(Stage::MountTarget, "", &tree.target, error);
        let target = path::make_in_root(root, Path::new(&tree.target), tree.kind).map_err(|e| failed(&e))?;
        // Those that may be are known by their names; a link of the image must not lead to another.
        let by_link = !tree.target.starts_with("/proc/");
        if by_link && path::is_in_proc(target.as_fd()).map_err(|error| failed(&error))? {
            return Err(failed(&io::Error::other("a link leads it into /proc")));
        }
        mount::attach(tree.fd.as_fd(), target.as_fd())
            .map_err(|error| failed(&unlike(target.as_fd(), tree.kind).unwrap_or(error)))?;
    }
    for tree in trees.iter().filter(|tree| tree.read_only_last) {
        let change = Change { read_only: true, ..Change::default() };
        mount::change(tree.fd.as_fd(), change)
            .map_err(|error| Failure::io(Stage::MountTarget, "", &tree.target, &error))?;
    }
    Ok(())
}

/// The error when a directory is to cover a file, or a file a directory, which no mount can.
fn unlike(target: BorrowedFd<'_>, source: Make) -> Option<io::Error> {
    let found = FileType::from_raw_mode(rustix::fs::fstat(target).ok()?.st_mode);
    let text = match (source, found == FileType::Directory) {
        (Make::Directory, false) => "the source is a directory, but the container has a file there",
        (Make::File, true) => "the source is a file, but the container has a directory there",
        (Make::Directory, true) | (Make::File, false) => return None,
    };
    Some(io::Error::other(text))
}

/// Fails unless the mount that holds `source` is shared: BIDIRECTIONAL on a private one would silently
/// carry nothing.
fn require_shared(source: &Path) -> Result<(), Failure> {
    let failed = |error: &io::Error| Failure::io(Stage::Propagation, "", source, error);
    let real = fs::canonicalize(source).map_err(|error| failed(&error))?;
    let table = fs::read_to_string("/proc/self/mountinfo").map_err(|error| failed(&error))?;
    if holds_shared(&table, &real) {
        return Ok(());
    }
    let text = "propagation BIDIRECTIONAL needs a shared mount, and its mount is private";
    Err(Failure { path: source.display().to_string(), ..Failure::new(Stage::Propagation, "", text) })
}

/// Whether the last mount in `table` (proc(5), mountinfo) that holds `path` is a shared one.
fn holds_shared(table: &str, path: &Path) -> bool {
    let mut best: Option<(usize, bool)> = None;
    for line in table.lines() {
        let mut fields = line.split(' ');
        let Some(point) = fields.nth(4).map(unescape) else { continue };
        let shared = fields.take_while(|field| *field != "-").any(|field| field.starts_with("shared:"));
        if path.starts_with(&point) && best.is_none_or(|(length, _)| point.len() >= length) {
            best = Some((point.len(), shared));
        }
    }
    best.is_some_and(|(_, shared)| shared)
}

/// Undoes the octal escapes of mountinfo.
fn unescape(field: &str) -> String {
    field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
25 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 25 0:40 / /mnt/a\\040b rw shared:7 master:2 - tmpfs t rw
41 40 0:41 / /mnt/a\\040b/in rw - tmpfs t rw
42 25 0:42 / /mnt/over rw - tmpfs t rw
43 42 0:43 / /mnt/over rw shared:9 - tmpfs t rw
";

    #[test]
    fn the_innermost_and_uppermost_mount_decides_whether_a_path_is_shared() {
        for (path, shared) in [
            ("/etc", false),
            ("/mnt/a b", true),
            ("/mnt/a b/x", true),
            ("/mnt/a b/in/x", false),
            ("/mnt/a bc", false),
            ("/mnt/over/x", true),
        ] {
            assert_eq!(holds_shared(TABLE, Path::new(path)), shared, "{path}");
        }
    }
}
