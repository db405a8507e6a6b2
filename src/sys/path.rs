//! Walking a file system that somebody else filled, without ever leaving it (openat2(2)).

use std::{
    collections::VecDeque,
    ffi::OsString,
    io,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags},
    io::Errno,
};

/// How often a path is walked again that has `..` in it, in a link for instance: the kernel gives the walk up when
/// anything is renamed or mounted on the node meanwhile, for it cannot tell then whether the root was left.
const RACES_MAX: u32 = 1000;

/// Opens `path` inside `root` as that root's own processes would: symbolic links are followed, but none
/// leads out, and none of `/proc`'s magic ones is.
///
/// # Errors
/// As openat2(2).
pub fn open_in_root(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let open = || rustix::fs::openat2(root, relative, flags | OFlags::CLOEXEC, Mode::empty(), resolve);
    let mut opened = open();
    for _ in 0..RACES_MAX {
        if !matches!(opened, Err(Errno::AGAIN)) {
            break;
        }
        opened = open();
    }
    Ok(opened?)
}

/// What `make_in_root` makes at the end of the path.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Make {
    Directory,
    File,
}

/// Dangling links that are followed at most, as the kernel does with links (path_resolution(7)).
const LINKS_MAX: u32 = 40;

/// As [`open_in_root`] with `O_PATH`, making what is missing (directories 0755, a file 0644). What a dangling
/// link points to is made too, inside the root: images have such a link at `/etc/resolv.conf`.
///
/// # Errors
/// As openat2(2), mkdirat(2); `ELOOP` for links without end.
pub fn make_in_root(root: BorrowedFd<'_>, path: &Path, last: Make) -> io::Result<OwnedFd> {
    let mut done = PathBuf::from(".");
    let mut at = open_in_root(root, &done, OFlags::PATH | OFlags::DIRECTORY)?;
    let mut names: VecDeque<OsString> = names(path).collect();
    let mut links = 0;
    while let Some(name) = names.pop_front() {
        let next = done.join(&name);
        let found = open_in_root(root, &next, OFlags::PATH);
        if found.as_ref().is_err_and(is_missing) {
            if let Ok(target) = rustix::fs::readlinkat(&at, &name, Vec::new()) {
                links += 1;
                if links > LINKS_MAX {
                    return Err(Errno::LOOP.into());
                }
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                if target.is_absolute() {
                    done = PathBuf::from(".");
                    at = open_in_root(root, &done, OFlags::PATH | OFlags::DIRECTORY)?;
                }
                self::names(&target).rev().for_each(|name| names.push_front(name));
                continue;
            }
            make_one(&at, &name, names.is_empty() && last == Make::File)?;
            at = open_in_root(root, &next, OFlags::PATH)?;
        } else {
            at = found?;
        }
        done = next;
    }
    Ok(at)
}

fn names(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    })
}

fn is_missing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NOENT.raw_os_error())
}

/// Whether this is something of a proc(5) file system.
///
/// # Errors
/// As fstatfs(2).
pub fn is_in_proc(file: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(rustix::fs::fstatfs(file)?.f_type == rustix::fs::PROC_SUPER_MAGIC)
}

fn make_one(at: &OwnedFd, name: &std::ffi::OsStr, file: bool) -> io::Result<()> {
    let made = if file {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
        rustix::fs::openat(at, name, flags, Mode::from_raw_mode(0o644)).map(drop)
    } else {
        rustix::fs::mkdirat(at, name, Mode::from_raw_mode(0o755))
    };
    match made {
        // Another container of the pod made it in a shared volume just now.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::fd::AsFd, os::unix::fs::symlink};

    use super::*;

    /// Makes `path` in a root with these links; gives what exists there then, relative to the root.
    fn made(links: &[(&str, &str)], path: &str, last: Make) -> io::Result<Vec<String>> {
        let top = tempfile::tempdir().unwrap();
        let root = top.path().join("root");
        fs::create_dir(&root).unwrap();
        for (name, target) in links {
            symlink(target, root.join(name)).unwrap();
        }
        make_in_root(fs::File::open(&root).unwrap().as_fd(), Path::new(path), last)?;
        assert_eq!(fs::read_dir(top.path()).unwrap().count(), 1, "something was made outside the root");
        let mut found = Vec::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                let name = entry.path().strip_prefix(&root).unwrap().display().to_string();
                match entry.file_type().unwrap() {
                    kind if kind.is_dir() => {
                        folders.push(entry.path());
                        found.push(name + "/");
                    }
                    kind if kind.is_file() => found.push(name),
                    _ => {}
                }
            }
        }
        found.sort();
        Ok(found)
    }

    #[test]
    fn a_walk_that_meets_a_rename_is_repeated() {
        let top = tempfile::tempdir().unwrap();
        for folder in ["root/a", "root/b", "other"] {
            fs::create_dir_all(top.path().join(folder)).unwrap();
        }
        fs::write(top.path().join("other/0"), []).unwrap();
        let root = fs::File::open(top.path().join("root")).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let name = |number: u32| top.path().join("other").join(number.to_string());
                for number in 0.. {
                    fs::rename(name(number), name(number + 1)).unwrap();
                    if done.load(std::sync::atomic::Ordering::Relaxed) {
                        break;
                    }
                }
            });
            let walk = || open_in_root(root.as_fd(), Path::new("a/../b/../a/../b"), OFlags::PATH);
            let failed = (0..20_000).find_map(|_| walk().err());
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(failed.is_none(), "{failed:?}");
        });
    }

    #[test]
    fn what_a_dangling_link_points_to_is_made_inside_the_root() {
        let file = |links: &[(&str, &str)], path| made(links, path, Make::File).unwrap();
        assert_eq!(file(&[], "/a/b"), ["a/", "a/b"]);
        assert_eq!(file(&[("x", "/run/r")], "/x"), ["run/", "run/r"]);
        assert_eq!(file(&[("x", "../../../run/r")], "/x"), ["run/", "run/r"]);
        assert_eq!(file(&[("x", "y"), ("y", "/z/")], "/x/f"), ["z/", "z/f"]);
        assert_eq!(made(&[("x", "a/../b")], "/x/c", Make::Directory).unwrap(), ["a/", "b/", "b/c/"]);
    }

    #[test]
    fn links_without_end_are_an_error() {
        for links in [&[("x", "x")][..], &[("x", "y/../x"), ("y", "x")]] {
            let error = made(links, "/x/f", Make::File).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(Errno::LOOP.raw_os_error()));
        }
    }
}
