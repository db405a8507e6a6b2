//! The path at which plugins find a pod's network namespace: a file under which it is mounted, as `ip netns` has them.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd},
        unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::mount::{UnmountFlags, mount_bind, unmount};
use serde::{Deserialize, Serialize};

use crate::{model::PodId, network::Error};

/// `NSFS_MAGIC` of linux/magic.h: what statfs(2) says of a namespace.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// What tells one namespace from another for as long as either lives (namespaces(7)).
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Identity {
    pub(super) device: u64,
    pub(super) inode: u64,
}

/// Where the namespace of `pod` is to be found.
pub(super) fn path(folder: &Path, pod: &PodId) -> PathBuf {
    folder.join(format!("pintle-{pod}"))
}

/// The pods whose namespaces are mounted in `folder`, by the names of the places. Blocking.
pub(super) fn pinned(folder: &Path) -> io::Result<Vec<PodId>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let pod = |name: String| PodId::parse(name.strip_prefix("pintle-")?).ok();
    Ok(entries.filter_map(|entry| pod(entry.ok()?.file_name().into_string().ok()?)).collect())
}

/// Which namespace a descriptor is of.
pub(super) fn identity(netns: BorrowedFd<'_>) -> io::Result<Identity> {
    let stat = rustix::fs::fstat(netns)?;
    Ok(Identity { device: stat.st_dev, inode: stat.st_ino })
}

/// Mounts the namespace at `path`, which keeps it alive. Blocking.
///
/// # Errors
/// Then there is neither mount nor file.
pub(super) fn pin(netns: BorrowedFd<'_>, path: &Path) -> Result<(), Error> {
    let failed = |operation| move |source| Error::File { operation, path: path.into(), source };
    if let Some(folder) = path.parent() {
        let made = DirBuilder::new().recursive(true).mode(0o755).create(folder);
        made.map_err(failed("make the folder of network namespaces for"))?;
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o444).open(path);
    file.map_err(failed("make a place for a network namespace at"))?;
    mount_bind(format!("/proc/self/fd/{}", netns.as_raw_fd()), path).map_err(|errno| {
        let _removed = fs::remove_file(path); // the mount's failure is the error
        failed("mount a network namespace at")(errno.into())
    })
}

/// Takes mount and file away. Absent is success. Blocking.
pub(super) fn unpin(path: &Path) -> Result<(), Error> {
    let failed = |operation| move |source| Error::File { operation, path: path.into(), source };
    while is_namespace(path) {
        unmount(path, UnmountFlags::DETACH)
            .map_err(|errno| failed("unmount the network namespace at")(errno.into()))?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(failed("remove the place of a network namespace at")(error))
        }
        _ => Ok(()),
    }
}

/// Whether the namespace is still at `path`, and is the one that it was: after a reboot nothing is there, and what
/// somebody else has put there must not be taken for the pod's. Blocking.
pub(super) fn is_there(path: &Path, known: Option<Identity>) -> bool {
    let Ok(metadata) = fs::metadata(path) else { return false };
    let found = Identity { device: metadata.dev(), inode: metadata.ino() };
    is_namespace(path) && known.is_none_or(|known| known == found)
}

fn is_namespace(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type == NSFS_MAGIC)
}
