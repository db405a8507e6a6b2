//! Removing trees that someone else filled.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    fs::{self, AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags},
    io::Errno,
};

/// Directories held open on the way down. What lies deeper is first moved up, so that no tree is too deep
/// for our stack or for the limit on open files.
const DEPTH_MAX: usize = 64;

/// Removes `name` in `parent` with everything below it; absent is success.
///
/// Goes by descriptor, follows no link and enters no mount. Access modes do not matter to root, so the
/// `work` folder that overlayfs leaves with mode 000 goes like any other.
///
/// # Errors
/// The first obstacle, such as a mount (`EBUSY`, `EXDEV`) or an immutable file; the rest stays for another try.
pub(super) fn at(parent: impl AsFd, name: impl rustix::path::Arg + Copy) -> io::Result<()> {
    let parent = parent.as_fd();
    match fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let top = match open(parent, name) {
        Ok(top) => top,
        Err(Errno::NOTDIR) => return Err(Errno::PERM.into()),
        Err(error) => return Err(error.into()),
    };
    let mut moved = 0;
    loop {
        empty(&top, top.as_fd(), 1, &mut moved)?;
        match fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            // Something was moved up into it on this round.
            Err(Errno::NOTEMPTY) if moved > 0 => moved = 0,
            Err(error) => return Err(error.into()),
        }
    }
}

fn empty(directory: &OwnedFd, top: BorrowedFd<'_>, depth: usize, moved: &mut u64) -> io::Result<()> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if entry.file_type() != FileType::Directory {
            match fs::unlinkat(directory, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        if depth == DEPTH_MAX {
            move_up(directory, name, top, moved)?;
            continue;
        }
        let emptied = open(directory.as_fd(), name).map_err(io::Error::from);
        match emptied.and_then(|below| empty(&below, top, depth + 1, moved)) {
            // As if it were too deep: at the top there are fewer to hold.
            Err(error) if is_out_of_descriptors(&error) && depth > 1 => {
                move_up(directory, name, top, moved)?;
                continue;
            }
            emptied => emptied?,
        }
        match fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    Errno::from_io_error(error).is_some_and(|errno| matches!(errno, Errno::MFILE | Errno::NFILE))
}

/// Moves a directory to a free name in the top one, where the next round finds it near.
fn move_up(
    directory: &OwnedFd,
    name: &std::ffi::CStr,
    top: BorrowedFd<'_>,
    moved: &mut u64,
) -> io::Result<()> {
    loop {
        *moved += 1;
        let free = format!(".deep-{moved}");
        match fs::renameat_with(directory, name, top, free, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(()),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Opens a directory in `parent` on the same mount; a link is no directory.
pub(super) fn open(parent: impl AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    fs::openat2(parent, name, flags, Mode::empty(), resolve)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn a_tree_goes_and_what_its_links_point_at_stays() {
        let folder = tempfile::tempdir().unwrap();
        let canary = folder.path().join("canary");
        std::fs::create_dir_all(canary.join("inside")).unwrap();
        let tree = folder.path().join("tree");
        std::fs::create_dir_all(tree.join("work/work/index")).unwrap();
        std::fs::write(tree.join("work/work/file"), "x").unwrap();
        symlink(&canary, tree.join("link")).unwrap();
        std::fs::set_permissions(tree.join("work/work"), std::fs::Permissions::from_mode(0o000)).unwrap();

        let parent = std::fs::File::open(folder.path()).unwrap();
        at(&parent, "tree").unwrap();
        at(&parent, "tree").unwrap(); // absent is success
        assert!(!tree.exists());
        assert!(canary.join("inside").exists());
    }

    #[test]
    fn a_link_is_removed_and_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("canary")).unwrap();
        symlink("canary", folder.path().join("link")).unwrap();
        at(std::fs::File::open(folder.path()).unwrap(), "link").unwrap();
        assert!(folder.path().join("canary").exists());
        assert!(!folder.path().join("link").exists());
    }

    #[test]
    fn no_tree_is_too_deep() {
        let folder = tempfile::tempdir().unwrap();
        let mut here: OwnedFd = std::fs::File::open(folder.path()).unwrap().into();
        for _ in 0..5000 {
            fs::mkdirat(&here, "d", Mode::from_raw_mode(0o755)).unwrap();
            fs::mkdirat(&here, ".deep-1", Mode::from_raw_mode(0o755)).unwrap();
            here = open(here.as_fd(), "d").unwrap();
        }
        at(std::fs::File::open(folder.path()).unwrap(), "d").unwrap();
        assert!(!folder.path().join("d").exists());
    }
}
