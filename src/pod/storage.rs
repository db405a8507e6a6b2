//! Whether the daemon's folders can be written to. A read-only or full disk is a condition of the runtime: what runs is
//! listed and stopped all the same.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{StatVfsMountFlags, statvfs};

use super::{keep::blocking, node::Node};

/// How long a file system may take to say how full it is.
const STATFS_MAX: Duration = Duration::from_secs(1);

/// Bytes that must be free: enough for the records of some containers.
const FREE_BYTES_MIN: u64 = 256 << 10;

/// Why nothing can be made.
#[derive(Debug, thiserror::Error)]
pub enum StorageFault {
    #[error("{} is on a read-only file system; pods are listed and stopped, and none can be made", folder.display())]
    ReadOnly { folder: PathBuf },
    #[error("the file system of {} is full; free some space or inodes", folder.display())]
    Full { folder: PathBuf },
    #[error("the file system of {} does not answer", folder.display())]
    Hangs { folder: PathBuf },
    #[error("look at the file system of {}", folder.display())]
    Unknown {
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// # Errors
/// What keeps records from being written.
pub(super) async fn ready(node: &Node) -> Result<(), StorageFault> {
    let folders = [node.places.root.clone(), node.places.state.clone()];
    let folder = node.places.root.clone();
    let ask = move || Ok(folders.iter().try_for_each(|folder| can_write(folder)));
    match tokio::time::timeout(STATFS_MAX, blocking(ask)).await {
        Ok(Ok(result)) => result,
        Ok(Err(source)) => Err(StorageFault::Unknown { folder, source }),
        Err(_) => Err(StorageFault::Hangs { folder }),
    }
}

fn can_write(folder: &Path) -> Result<(), StorageFault> {
    let folder = folder.to_owned();
    let stat = match statvfs(&folder) {
        Ok(stat) => stat,
        Err(errno) => return Err(StorageFault::Unknown { folder, source: errno.into() }),
    };
    if stat.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(StorageFault::ReadOnly { folder });
    }
    // Some file systems count neither blocks nor inodes.
    let no_bytes = stat.f_blocks > 0 && stat.f_bfree.saturating_mul(stat.f_frsize) < FREE_BYTES_MIN;
    let no_inodes = stat.f_files > 0 && stat.f_ffree == 0;
    if no_bytes || no_inodes { Err(StorageFault::Full { folder }) } else { Ok(()) }
}

/// Whether a step failed because its file system is read-only: another try changes nothing.
pub(super) fn is_read_only(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.downcast_ref::<io::Error>().is_some_and(|io| io.kind() == io::ErrorKind::ReadOnlyFilesystem)
        {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::error::Error;

    #[test]
    fn a_read_only_disk_is_seen_below_what_it_caused() {
        let of = |kind| Error::io("write", Path::new("/x"))(io::Error::from(kind));
        assert!(is_read_only(&of(io::ErrorKind::ReadOnlyFilesystem)));
        assert!(!is_read_only(&of(io::ErrorKind::StorageFull)));
    }

    #[test]
    fn an_ordinary_folder_can_be_written_to_and_sysfs_is_not_full() {
        can_write(Path::new("/tmp")).unwrap();
        can_write(Path::new("/proc")).unwrap();
        assert!(matches!(can_write(Path::new("/not/there")), Err(StorageFault::Unknown { .. })));
    }
}
