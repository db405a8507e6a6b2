//! Additions to a stack of finished layers, so that overlayfs shows the image that was meant.
//!
//! Layers are unpacked each on its own, which is right for all but three things a tar may hold. They are
//! put right by small extra layers, so that the layers themselves stay shareable between images:
//!
//! - A directory that is only implied (`a` in `a/b`) hides the mode and owner of the lower layers' `a`.
//!   [`attributes`] makes one layer for the very top with just those directories as they should be.
//! - A hard link to a lower layer's file. [`patch`] puts, right above its layer, a hard link to the lower
//!   layer's own inode: layers share a file system and are never written to, so nothing is copied.
//! - An implied directory that is a symbolic link below (`lib/x` where `lib` leads to `usr/lib`). The same
//!   patch shows the link again and has the contents where it leads.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
};

use rustix::{
    fs::{self, AtFlags, Dir, FileType, Mode, Stat},
    io::Errno,
};

use super::{
    LayerError, Unpacked,
    name::Name,
    overlay::{Below, Look, follow, look, open},
    tree::{self, Tree, Was},
};

/// Directories below one that is shown elsewhere; each level holds two descriptors.
const MOVED_DEPTH_MAX: usize = 64;

/// Fills the empty directory `into` with what has to lie right above the top layer of `stack` (bottom
/// first). `None`, and nothing is made, when nothing has to.
pub(in crate::image) fn patch(
    stack: &[Below],
    into: impl FnOnce() -> Result<OwnedFd, LayerError>,
) -> Result<Option<Unpacked>, LayerError> {
    let Some((top, lower)) = stack.split_last() else { return Ok(None) };
    let moved = links_in_the_way(top, lower)?;
    if top.links.is_empty() && moved.is_empty() {
        return Ok(None);
    }
    let mut patch = Patch { tree: Tree::new(into()?), implied: BTreeSet::new(), inodes: 0 };
    for (path, target) in &moved {
        patch.show_link(lower, path)?;
        let from = open(&top.root, path)?;
        let to = patch.directory(target)?;
        patch.copy_by_link(&from, &to, target, 0)?;
    }
    for (path, target) in &top.links {
        patch.link(stack, path, target)?;
    }
    let implied: Vec<_> = patch.implied.into_iter().collect();
    let (bytes, inodes) = (patch.inodes * 4096, patch.inodes);
    Ok(Some(Unpacked { bytes, inodes, implied, ..Unpacked::default() }))
}

/// Fills the empty directory `into` with the directories of `stack` (bottom first) whose mode and owner are
/// hidden by one that was only implied. `None`, and nothing is made, when there are none.
pub(in crate::image) fn attributes(
    stack: &[Below],
    into: impl FnOnce() -> Result<OwnedFd, LayerError>,
) -> Result<Option<Unpacked>, LayerError> {
    let mut wanted = BTreeSet::new();
    for path in stack.iter().flat_map(|layer| &layer.implied).collect::<BTreeSet<_>>() {
        let Look::Directory(dirs) = look(stack, &Name::parse(path)?, false)? else { continue };
        let implied = |(layer, _): &(usize, OwnedFd)| stack[*layer].implied.contains(path);
        if implied(&dirs[0]) && !dirs.iter().all(implied) {
            let parts = Name::parse(path)?.parts().to_vec();
            wanted.extend((1..=parts.len()).map(|depth| Name::of(&parts[..depth]).to_bytes()));
        }
    }
    if wanted.is_empty() {
        return Ok(None);
    }
    let mut made = Tree::new(into()?);
    let mut times = BTreeMap::new();
    for path in &wanted {
        let name = Name::parse(path)?;
        let Look::Directory(dirs) = look(stack, &name, false)? else { continue };
        let source = dirs.iter().find(|(layer, _)| !stack[*layer].implied.contains(path)).unwrap_or(&dirs[0]);
        let fd = made.make_directories(&name, |made| made.mark())?;
        copy_attributes(&source.1, &fd, path)?;
        times.insert(path, fs::fstat(&source.1).map_err(|e| LayerError::write("look at", path, e))?);
    }
    for (path, stat) in &times {
        let failed = |source| LayerError::write("set time of", path, source);
        let fd = made.directory(&Name::parse(path)?).map_err(failed)?;
        fs::futimens(&fd, &tree::times(mtime(stat))).map_err(|e| failed(e.into()))?;
    }
    let inodes = wanted.len() as u64;
    Ok(Some(Unpacked { bytes: inodes * 4096, inodes, ..Unpacked::default() }))
}

/// Implied directories of `top` that are symbolic links below it: (directory, where the link leads). One
/// below another is left out: it goes with it.
fn links_in_the_way(top: &Below, lower: &[Below]) -> Result<Vec<(Vec<u8>, Name)>, LayerError> {
    let mut found: Vec<(Vec<u8>, Name)> = Vec::new();
    if lower.is_empty() {
        return Ok(found);
    }
    for path in top.implied.iter().collect::<BTreeSet<_>>() {
        let within = |(outer, _): &(Vec<u8>, Name)| path.starts_with(&[outer.as_slice(), b"/"].concat());
        // It took the place of a whiteout: what is below has nothing to say any more.
        if found.iter().any(within) || tree::is_opaque(&open(&top.root, path)?) {
            continue;
        }
        let name = Name::parse(path)?;
        if let Look::File { stat, .. } = look(lower, &name, false)?
            && FileType::from_raw_mode(stat.st_mode) == FileType::Symlink
        {
            found.push((path.clone(), follow(lower, &name)?));
        }
    }
    Ok(found)
}

struct Patch {
    tree: Tree,
    implied: BTreeSet<Vec<u8>>,
    inodes: u64,
}

impl Patch {
    fn directory(&mut self, name: &Name) -> Result<std::rc::Rc<OwnedFd>, LayerError> {
        let Self { tree, implied, inodes } = self;
        tree.make_directories(name, |made| {
            made.mark()?;
            implied.insert(made.path);
            *inodes += 1;
            Ok(())
        })
    }

    /// Shows the lower layers' symbolic link `path` again.
    fn show_link(&mut self, lower: &[Below], path: &[u8]) -> Result<(), LayerError> {
        let name = Name::parse(path)?;
        let Look::File { parent, file, .. } = look(lower, &name, false)? else { return Ok(()) };
        self.link_at(&parent, &file, name)
    }

    /// Makes `path` another name of the file that `target` is in the stack.
    fn link(&mut self, stack: &[Below], path: &[u8], target: &[u8]) -> Result<(), LayerError> {
        let name = Name::parse(path)?;
        let Some((dir, file)) = name.clone().split() else { return Ok(()) };
        let Some((top, lower)) = stack.split_last() else { return Ok(()) };
        // A later entry of the layer took the name.
        if let Ok(dir) = open(&top.root, &dir.to_bytes())
            && !matches!(tree::kind_at(&dir, &file), Ok(Was::Nothing | Was::Whiteout))
        {
            return Ok(());
        }
        let target = Name::parse(target)?;
        let found = self.own(&target).or_else(|| match look(lower, &target, true) {
            Ok(Look::File { parent, file, .. }) => Some((parent, file)),
            _ => None,
        });
        let found = found.or_else(|| match look(stack, &target, true) {
            Ok(Look::File { parent, file, .. }) => Some((parent, file)),
            _ => None,
        });
        match found {
            Some((parent, file)) => self.link_at(&parent, &file, name),
            None => Err(LayerError::entry(path, "it is a hard link to a file that no layer has")),
        }
    }

    /// The file `name`, if an earlier link made it.
    fn own(&mut self, name: &Name) -> Option<(OwnedFd, Vec<u8>)> {
        let (dir, file) = name.clone().split()?;
        let dir = self.tree.directory(&dir).ok()?;
        (tree::kind_at(&dir, &file).ok()? == Was::Other).then(|| Some((dir.try_clone().ok()?, file)))?
    }

    fn link_at(&mut self, parent: &OwnedFd, file: &[u8], name: Name) -> Result<(), LayerError> {
        let path = name.to_bytes();
        let Some((dir, new)) = name.split() else { return Ok(()) };
        let dir = self.directory(&dir)?;
        self.tree.clear(&dir, &new).map_err(|e| LayerError::write("replace", &path, e))?;
        self.inodes += 1;
        fs::linkat(parent, file, &dir, new.as_slice(), AtFlags::empty())
            .map_err(|source| LayerError::write("make hard link", &path, source))
    }

    /// The tree `from`, with new directories and the same files, in `to`.
    fn copy_by_link(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        at: &Name,
        depth: usize,
    ) -> Result<(), LayerError> {
        let path = at.to_bytes();
        let failed = |source: Errno| LayerError::write("show again below", &path, source);
        if depth > MOVED_DEPTH_MAX {
            return Err(LayerError::entry(&path, "it is too deep below a link of a lower layer"));
        }
        for entry in Dir::read_from(from).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let file = entry.file_name().to_bytes();
            if matches!(file, b"." | b"..") {
                continue;
            }
            self.inodes += 1;
            if tree::kind_at(from, file).map_err(|e| LayerError::write("look at", &path, e))?
                != Was::Directory
            {
                self.tree.clear(to, file).map_err(|e| LayerError::write("replace", &path, e))?;
                fs::linkat(from, file, to, file, AtFlags::empty()).map_err(failed)?;
                continue;
            }
            let mut parts = at.parts().to_vec();
            parts.push(file.to_vec());
            let name = Name::of(&parts);
            let source = open(from, file)?;
            let fd = self.tree.make_directories(&name, |made| made.mark())?;
            copy_attributes(&source, &fd, &name.to_bytes())?;
            if tree::is_opaque(&source) {
                tree::set_opaque(&fd).map_err(|e| LayerError::write("mark opaque", &path, e))?;
            }
            self.copy_by_link(&source, &fd, &name, depth + 1)?;
            let stat = fs::fstat(&source).map_err(failed)?;
            fs::futimens(&fd, &tree::times(mtime(&stat))).map_err(failed)?;
        }
        Ok(())
    }
}

/// Owner, mode and the attributes that a tar may give; never overlayfs' own.
fn copy_attributes(from: &OwnedFd, to: &OwnedFd, path: &[u8]) -> Result<(), LayerError> {
    let failed = |source: Errno| LayerError::write("copy attributes of", path, source);
    let stat = fs::fstat(from).map_err(failed)?;
    fs::fchown(to, Some(fs::Uid::from_raw(stat.st_uid)), Some(fs::Gid::from_raw(stat.st_gid)))
        .map_err(failed)?;
    fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777)).map_err(failed)?;
    for (name, value) in tree::allowed_xattrs(from).map_err(failed)? {
        fs::fsetxattr(to, name.as_slice(), &value, fs::XattrFlags::empty()).map_err(failed)?;
    }
    Ok(())
}

fn mtime(stat: &Stat) -> (i64, u32) {
    (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::fs::MetadataExt as _,
        path::{Path, PathBuf},
    };

    use super::super::{Archive, Limits, mark_opaque, testtar::TestTar, unpack};
    use super::*;
    use crate::image::folder;

    /// Layers in folders `0`, `1`, …, bottom first.
    struct Stack {
        folder: tempfile::TempDir,
        below: Vec<Below>,
    }

    impl Stack {
        fn of(tars: Vec<TestTar>) -> Self {
            let mut stack = Self { folder: tempfile::tempdir().unwrap(), below: Vec::new() };
            for tar in tars {
                let root = stack.make(&stack.below.len().to_string());
                let limits = Limits { file_bytes_max: 1 << 20 };
                let done =
                    unpack(&mut Archive::new(&tar.done()[..]), root.try_clone().unwrap(), limits).unwrap();
                mark_opaque(root.try_clone().unwrap(), &done.opaque).unwrap();
                stack.below.push(Below::new(root, &done.implied, &done.links));
            }
            stack
        }

        fn make(&self, name: &str) -> OwnedFd {
            let path = self.path(name);
            std::fs::create_dir(&path).unwrap();
            folder::open(&path).unwrap()
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn patch(&self) -> Result<Option<Unpacked>, LayerError> {
            patch(&self.below, || Ok(self.make("patch")))
        }
    }

    fn mode(path: &Path) -> (u32, u32, i64) {
        let metadata = std::fs::metadata(path).unwrap();
        (metadata.mode() & 0o7777, metadata.uid(), metadata.mtime())
    }

    #[test]
    fn an_implied_directory_keeps_the_lower_layers_mode_and_owner() {
        let lower = TestTar::new().dir("tmp", 0o1777).dir("home", 0o750).owned(5, 5, 0).dir("home/me", 0o700);
        let stack = Stack::of(vec![
            lower,
            TestTar::new().file("tmp/x", "x").file("home/me/y", "y").file("new/z", "z"),
        ]);
        assert_eq!(stack.patch().unwrap(), None);
        let done = attributes(&stack.below, || Ok(stack.make("top"))).unwrap().unwrap();
        assert_eq!(done.inodes, 3);
        assert_eq!(mode(&stack.path("top/tmp")), (0o1777, 0, 1000));
        assert_eq!(mode(&stack.path("top/home")), (0o750, 5, 1000));
        assert_eq!(mode(&stack.path("top/home/me")), (0o700, 0, 1000));
        assert!(!stack.path("top/new").exists());
    }

    #[test]
    fn nothing_is_added_where_nothing_is_hidden() {
        let lower = TestTar::new().dir("a", 0o700).dir("b", 0o700);
        // `a` is described in both; the new `b` has nothing to do with the old one.
        let stack = Stack::of(vec![
            lower,
            TestTar::new().dir("a", 0o755).file("a/x", "").whiteout(".wh.b").file("b/x", ""),
        ]);
        assert_eq!(stack.patch().unwrap(), None);
        assert_eq!(attributes(&stack.below, || Ok(stack.make("top"))).unwrap(), None);
        assert!(!stack.path("top").exists());
    }

    #[test]
    fn a_hard_link_finds_its_file_in_a_lower_layer() {
        let lower = TestTar::new().dir("etc", 0o755).file("etc/old", "content").symlink("conf", "/etc");
        let middle = TestTar::new().whiteout("etc/.wh.gone");
        let stack = Stack::of(vec![
            lower,
            middle,
            TestTar::new().hardlink("a/new", "conf/old").hardlink("b", "a/new"),
        ]);
        let done = stack.patch().unwrap().unwrap();
        assert_eq!(done.implied, [b"a".to_vec()]);
        let inode = |name: &str| std::fs::metadata(stack.path(name)).unwrap().ino();
        assert_eq!(inode("patch/a/new"), inode("0/etc/old"));
        assert_eq!(inode("patch/b"), inode("0/etc/old"));
    }

    #[test]
    fn a_hard_link_to_what_no_layer_has_is_an_error() {
        let hidden = TestTar::new().whiteout(".wh.old");
        for tars in [
            vec![TestTar::new().hardlink("new", "old")],
            vec![TestTar::new().file("old", ""), hidden, TestTar::new().hardlink("new", "old")],
            vec![TestTar::new().dir("old", 0o755), TestTar::new().hardlink("new", "old")],
        ] {
            assert!(matches!(Stack::of(tars).patch(), Err(LayerError::Entry { .. })));
        }
    }

    #[test]
    fn files_below_a_lower_layers_link_go_where_it_leads() {
        let lower = TestTar::new().dir("usr", 0o755).dir("usr/lib", 0o711).symlink("lib", "usr/lib");
        let upper = TestTar::new().file("lib/x", "x").dir("lib/sub", 0o700).file("lib/sub/y", "y");
        let stack = Stack::of(vec![lower, upper]);
        let done = stack.patch().unwrap().unwrap();
        assert_eq!(done.implied, [b"usr".to_vec(), b"usr/lib".to_vec()]);
        assert_eq!(std::fs::read_link(stack.path("patch/lib")).unwrap(), Path::new("usr/lib"));
        assert_eq!(std::fs::read_to_string(stack.path("patch/usr/lib/x")).unwrap(), "x");
        assert_eq!(std::fs::read_to_string(stack.path("patch/usr/lib/sub/y")).unwrap(), "y");
        assert_eq!(mode(&stack.path("patch/usr/lib/sub")), (0o700, 0, 1000));
    }

    #[test]
    fn a_lower_layers_link_to_the_host_leads_into_the_image() {
        let stack = Stack::of(vec![
            TestTar::new().symlink("d", "/../../etc"),
            TestTar::new().file("d/passwd", "evil"),
        ]);
        stack.patch().unwrap().unwrap();
        assert_eq!(std::fs::read_to_string(stack.path("patch/etc/passwd")).unwrap(), "evil");
        let looped = Stack::of(vec![TestTar::new().symlink("d", "d"), TestTar::new().file("d/x", "")]);
        assert!(looped.patch().is_err());
    }

    #[test]
    fn overlayfs_agrees() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let lower = TestTar::new()
            .dir("d", 0o700)
            .file("d/old", "old")
            .dir("o", 0o755)
            .file("o/old", "")
            .file("gone", "")
            .dir("usr", 0o755)
            .dir("usr/lib", 0o755)
            .file("usr/lib/a", "a")
            .symlink("lib", "usr/lib");
        let upper = TestTar::new()
            .file("d/new", "new")
            .whiteout("o/.wh..wh..opq")
            .whiteout(".wh.gone")
            .hardlink("linked", "d/old")
            .file("lib/b", "b");
        let mut stack = Stack::of(vec![lower, upper]);
        let mut names = vec!["0", "1"];
        let done = stack.patch().unwrap().unwrap();
        stack.below.push(Below::new(folder::open(&stack.path("patch")).unwrap(), &done.implied, &done.links));
        names.push("patch");
        attributes(&stack.below, || Ok(stack.make("top"))).unwrap().unwrap();
        names.push("top");
        let lowers: Vec<_> =
            names.iter().rev().map(|name| stack.path(name).to_str().unwrap().to_string()).collect();
        let merged = match mount(&lowers) {
            Ok(merged) => merged,
            Err(error) => {
                eprintln!("skipped: no overlayfs here: {error}");
                return;
            }
        };
        let stat = |name: &str| rustix::fs::statat(&merged, name, AtFlags::SYMLINK_NOFOLLOW);
        assert_eq!(stat("d").unwrap().st_mode & 0o7777, 0o700);
        for name in ["d/old", "d/new", "linked", "usr/lib/a", "usr/lib/b", "o"] {
            assert!(stat(name).is_ok(), "{name}");
        }
        for name in ["gone", "o/old"] {
            assert_eq!(stat(name).map(|_| ()), Err(Errno::NOENT), "{name}");
        }
        assert_eq!(FileType::from_raw_mode(stat("lib").unwrap().st_mode), FileType::Symlink);
    }

    /// A mount that is attached nowhere.
    fn mount(lowers: &[String]) -> Result<OwnedFd, Errno> {
        use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
        let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for lower in lowers {
            rustix::mount::fsconfig_set_string(context.as_fd(), "lowerdir+", lower.as_str())?;
        }
        rustix::mount::fsconfig_create(context.as_fd())?;
        rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    }

    use std::os::fd::AsFd as _;
}
