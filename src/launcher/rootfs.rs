//! The container's root file system: an overlay that is mounted nowhere until a helper's own namespace.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags},
};

use crate::{
    model::{Failure, Stage},
    sys::{
        mount::{Change, PeerGroup, attach, change, detached},
        process::{self, Namespaces},
    },
};

use super::{
    label::MountLabel,
    template::{BUNDLE, enter_copy},
    users::Users,
};

/// Overlays `lower` (top first) with `writable/upper`, all of it with `label`; gives a detached mount.
///
/// # Errors
/// Stage `Rootfs`, naming the directory.
pub(super) fn overlay(lower: &[PathBuf], writable: &Path, label: MountLabel<'_>) -> Result<OwnedFd, Failure> {
    let at = |path: &Path| {
        let path = path.to_path_buf();
        move |error: io::Error| Failure::io(Stage::Rootfs, "", &path, &error)
    };
    // Named by descriptor: a path in a mount option must be short (255 bytes) and may hold no colon.
    let mut open = Vec::with_capacity(lower.len() + 2);
    for layer in lower {
        open.push(layer_directory(layer)?);
    }
    let mut halves = Vec::with_capacity(2);
    for (half, mode) in [("upper", 0o755), ("work", 0o700)] {
        let path = writable.join(half);
        match rustix::fs::mkdir(&path, Mode::from_raw_mode(mode)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(at(&path)(error.into())),
        }
        halves.push(layer_directory(&path)?);
    }
    mount(&open, &halves, label).map_err(|error| Failure::io(Stage::Rootfs, "overlay on", writable, &error))
}

/// As [`overlay`], for a pod with a user namespace: the layers stay as they are on the disk and are mapped, what is
/// written belongs to the ids of the host that the container's are.
///
/// # Errors
/// As [`overlay`].
pub(super) fn overlay_for(
    users: &Users,
    template: &OwnedFd,
    lower: &[PathBuf],
    writable: &Path,
    label: MountLabel<'_>,
) -> Result<OwnedFd, Failure> {
    let failed = |what: &str, error: &io::Error| Failure::io(Stage::Rootfs, what, writable, error);
    let mut trees = mapped_layers(users, lower)?;
    // One mount holds both: overlayfs wants that.
    let private = Change { peers: Some(PeerGroup::Private), ..Change::default() };
    let writes = detached(CWD, writable, private).map_err(|error| failed("", &error))?;
    let halves = || -> io::Result<[OwnedFd; 2]> {
        let half = |name: &str, mode: u32| -> io::Result<OwnedFd> {
            match rustix::fs::mkdirat(&writes, name, Mode::from_raw_mode(mode)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            Ok(rustix::fs::openat(&writes, name, flags, Mode::empty())?)
        };
        let (upper, work) = (half("upper", 0o755)?, half("work", 0o700)?);
        // It is the root of the container, and the kernel does not write to an upper layer that is mapped.
        users.give_to_root(&upper)?;
        Ok([upper, work])
    };
    let halves = halves().map_err(|error| failed("", &error))?;
    trees.push(writes);
    let mounted = in_copy_of(template, || {
        attach_all(&trees)?;
        let layers = trees.get(..lower.len()).unwrap_or_default();
        mount(layers, &halves, label)
    });
    mounted.map_err(|error| failed("overlay on", &error))
}

/// As [`image`], for a pod with a user namespace.
///
/// # Errors
/// As [`image`].
pub(super) fn image_for(
    users: &Users,
    template: &OwnedFd,
    lower: &[PathBuf],
    label: MountLabel<'_>,
) -> Result<OwnedFd, Failure> {
    let first = lower.first().map_or(Path::new(""), PathBuf::as_path);
    let failed = |error: &io::Error| Failure::io(Stage::Rootfs, "overlay of", first, error);
    let mut trees = mapped_layers(users, lower)?;
    if trees.len() == 1
        && let Some(only) = trees.pop()
    {
        return Ok(only);
    }
    let mounted = in_copy_of(template, || {
        attach_all(&trees)?;
        let mounted = mount(&trees, &[], label)?;
        change(mounted.as_fd(), Change { read_only: true, ..Change::default() })?;
        Ok(mounted)
    });
    mounted.map_err(|error| failed(&error))
}

/// The layers as detached mounts with mapped ids, read-only.
fn mapped_layers(users: &Users, lower: &[PathBuf]) -> Result<Vec<OwnedFd>, Failure> {
    let read_only = Change { read_only: true, peers: Some(PeerGroup::Private), ..Change::default() };
    let mapped = |layer: &PathBuf| {
        let map = || -> io::Result<OwnedFd> {
            let tree = detached(CWD, layer, read_only)?;
            users.map_mount(tree.as_fd(), false)?;
            Ok(tree)
        };
        map().map_err(|error| Failure::io(Stage::Rootfs, "layer", layer, &error))
    };
    lower.iter().map(mapped).collect()
}

/// Runs `work` in a copy of the template's mount namespace, which is gone afterwards with all that was mounted there.
fn in_copy_of<T>(template: &OwnedFd, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let own = rustix::fs::open("/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    enter_copy(template)?;
    let done = work();
    process::enter(own.as_fd(), Namespaces::MOUNT)?;
    done
}

/// Attaches detached mounts below [`BUNDLE`]: before Linux 6.15 overlayfs takes no layer that is mounted nowhere.
fn attach_all(trees: &[OwnedFd]) -> io::Result<()> {
    rustix::mount::mount("layers", BUNDLE, "tmpfs", MountFlags::empty(), c"mode=0700,size=1m")?;
    for (number, tree) in trees.iter().enumerate() {
        let place = Path::new(BUNDLE).join(number.to_string());
        std::fs::create_dir(&place)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        attach(tree.as_fd(), rustix::fs::open(&place, flags, Mode::empty())?.as_fd())?;
    }
    Ok(())
}

/// The layers to show of an image that is to have `label`: two at least, for only an overlay can have one, and an image
/// without a writable layer that has one layer is none. The second is an empty folder in `writable`.
///
/// # Errors
/// Stage `Rootfs`, naming the folder.
pub(super) fn labelled_layers(
    lower: &[PathBuf],
    writable: &Path,
    label: MountLabel<'_>,
) -> Result<Vec<PathBuf>, Failure> {
    let mut layers = lower.to_vec();
    if layers.len() == 1 && !label.0.is_empty() {
        let empty = writable.join("empty");
        match rustix::fs::mkdir(&empty, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => layers.push(empty),
            Err(error) => return Err(Failure::io(Stage::Rootfs, "", &empty, &error.into())),
        }
    }
    Ok(layers)
}

/// The content of an image without a writable layer: `lower`, top first; gives a detached read-only mount.
///
/// # Errors
/// Stage `Rootfs`, naming the directory.
pub(super) fn image(lower: &[PathBuf], label: MountLabel<'_>) -> Result<OwnedFd, Failure> {
    let read_only = Change { read_only: true, peers: Some(PeerGroup::Private), ..Change::default() };
    // The kernel overlays two layers at least if none is writable.
    if let [only] = lower {
        return detached(CWD, only, read_only).map_err(|error| Failure::io(Stage::Rootfs, "", only, &error));
    }
    let failed = |error: io::Error| {
        Failure::io(
            Stage::Rootfs,
            "overlay of",
            lower.first().map_or(Path::new(""), PathBuf::as_path),
            &error,
        )
    };
    let open = lower.iter().map(|layer| layer_directory(layer)).collect::<Result<Vec<_>, _>>()?;
    let mounted = mount(&open, &[], label).map_err(failed)?;
    change(mounted.as_fd(), Change { peers: None, ..read_only }).map_err(failed)?;
    Ok(mounted)
}

fn layer_directory(path: &Path) -> Result<OwnedFd, Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|error| Failure::io(Stage::Rootfs, "", path, &error.into()))
}

/// Overlays `layers` empty layers and a writable one, all in `folder`, as a container's are, and writes through it: for
/// `pintle check`. Nothing is mounted anywhere afterwards; what was made in `folder` stays.
///
/// # Errors
/// As [`overlay`], and stage `Rootfs` for what cannot be made in `folder`.
pub fn try_overlay(folder: &Path, layers: usize) -> Result<(), Failure> {
    let failed = |what: &str, error: io::Error| Failure::io(Stage::Rootfs, what, folder, &error);
    let lower: Vec<PathBuf> = (0..layers).map(|number| folder.join(format!("lower-{number}"))).collect();
    let writable = folder.join("writable");
    for made in lower.iter().chain([&writable]) {
        std::fs::create_dir(made).map_err(|error| failed("make layers in", error))?;
    }
    let root = overlay(&lower, &writable, MountLabel(""))?;
    guard(&root, None)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&root, "file", flags, Mode::RUSR);
    let written = file.and_then(|file| rustix::io::write(&file, b"x"));
    written.map(drop).map_err(|error| failed("write to an overlay in", error.into()))
}

fn mount(lower: &[OwnedFd], halves: &[OwnedFd], label: MountLabel<'_>) -> io::Result<OwnedFd> {
    let mounted = match mount_as(Layers::OneByOne, lower, halves, label) {
        // Linux before 6.5 has no `lowerdir+`, and says so only when everything is set: until then its overlayfs
        // takes any word.
        Err(refused) if refused.errno == Errno::INVAL => mount_as(Layers::Listed, lower, halves, label),
        mounted => mounted,
    }
    .map_err(|refused| io::Error::other(format!("{}{}", io::Error::from(refused.errno), refused.log)))?;
    if !halves.is_empty() {
        // One without a writable layer takes no attribute.
        label.stand_in(&mounted)?;
    }
    Ok(mounted)
}

/// How overlayfs is told its layers.
#[derive(Clone, Copy)]
enum Layers {
    OneByOne,
    /// In one option, which has room for about fifteen.
    Listed,
}

/// The kernel's message about a failed call, which is gone with the context.
struct Refused {
    errno: Errno,
    log: String,
}

fn mount_as(
    layers: Layers,
    lower: &[OwnedFd],
    halves: &[OwnedFd],
    label: MountLabel<'_>,
) -> Result<OwnedFd, Refused> {
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let silent = |errno| Refused { errno, log: String::new() };
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(silent)?;
    let told = |errno| Refused { errno, log: kernel_log(&fs) };
    let set =
        |key: &str, value: &str| rustix::mount::fsconfig_set_string(fs.as_fd(), key, value).map_err(told);
    match layers {
        Layers::OneByOne => lower.iter().try_for_each(|layer| set("lowerdir+", &name(layer)))?,
        Layers::Listed => set("lowerdir", &lower.iter().map(name).collect::<Vec<_>>().join(":"))?,
    }
    if let [upper, work] = halves {
        set("upperdir", &name(upper))?;
        set("workdir", &name(work))?;
        // What a container wrote is never read again after a crash, so it need not be synced when it ends.
        rustix::mount::fsconfig_set_flag(fs.as_fd(), "volatile").map_err(told)?;
    }
    label.configure(fs.as_fd()).map_err(told)?;
    rustix::mount::fsconfig_create(fs.as_fd()).map_err(told)?;
    rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).map_err(silent)
}

/// The kernel's messages about a failed fsconfig(2).
fn kernel_log(fs: &OwnedFd) -> String {
    let mut text = String::new();
    let mut line = [0; 256];
    while let Ok(length) = rustix::io::read(fs, &mut line) {
        if length == 0 || text.len() > 1024 {
            break;
        }
        text.push_str(": ");
        text.push_str(String::from_utf8_lossy(&line[..length]).trim_end());
    }
    text
}

/// Makes sure that `/dev`, `/proc` and `/sys` of the root are directories, by descriptor, before libcontainer
/// sets them up by path: it would follow an image's `/dev` link out onto the host.
///
/// # Errors
/// Stage `RootfsGuard`, naming the path and what it is.
pub(super) fn guard(root: &OwnedFd, users: Option<&Users>) -> Result<(), Failure> {
    for name in ["dev", "proc", "sys"] {
        let refused = |error: Errno| Failure::io(Stage::RootfsGuard, "", format!("/{name}"), &error.into());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        match rustix::fs::openat2(root, name, flags, Mode::empty(), resolve) {
            Ok(_) => {}
            Err(Errno::NOENT) => {
                rustix::fs::mkdirat(root, name, Mode::from_raw_mode(0o755)).map_err(refused)?;
                if let Some(users) = users {
                    let given = users.give_entry_to_root(root, name);
                    given.map_err(|error| Failure::io(Stage::RootfsGuard, "", format!("/{name}"), &error))?;
                }
            }
            Err(Errno::LOOP | Errno::NOTDIR) => {
                let found = rustix::fs::statat(root, name, AtFlags::SYMLINK_NOFOLLOW).map_err(refused)?;
                let kind = match FileType::from_raw_mode(found.st_mode) {
                    FileType::Symlink => "a symbolic link",
                    FileType::RegularFile => "a file",
                    _ => "something other than a directory",
                };
                let text = format!("the image has {kind} there, where a directory must be");
                return Err(Failure {
                    path: format!("/{name}"),
                    ..Failure::new(Stage::RootfsGuard, "", text)
                });
            }
            Err(error) => return Err(refused(error)),
        }
    }
    Ok(())
}
