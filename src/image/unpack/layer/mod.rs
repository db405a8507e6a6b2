//! The unpacking of one layer: a tar stream, entry by entry, into the layer's directory.

use std::{
    collections::VecDeque,
    fs::File,
    io::{Read, Write as _},
    os::{fd::OwnedFd, unix::fs::FileExt as _},
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags},
    io::Errno,
};

use super::{
    Archive, ENTRIES_MAX, FOREIGN_LINKS_MAX, LayerError,
    archive::{Entry, Kind},
    directories::{Directories, Directory},
    name::{Meaning, Name},
    tree::{self, Tree, Was},
};
use crate::failpoint;

/// The least size of a file on disk, for the sum that is shown as the layer's size; bytes.
const DISK_BLOCK_BYTES: u64 = 4096;

/// How much one layer may take.
#[derive(Clone, Copy, Debug)]
pub(in crate::image) struct Limits {
    /// Of one file, holes included. The stream itself is limited where it is read.
    pub(in crate::image) file_bytes_max: u64,
}

/// Facts about a layer that unpacking found out.
#[derive(Debug, Default, Eq, PartialEq)]
pub(in crate::image) struct Unpacked {
    /// On disk, in whole blocks.
    pub(in crate::image) bytes: u64,
    pub(in crate::image) inodes: u64,
    /// Directories that the tar only implies (`a` in `a/b`): here with made-up mode and owner.
    pub(in crate::image) implied: Vec<Vec<u8>>,
    /// Hard links to files that this layer does not have: (name, target).
    pub(in crate::image) links: Vec<(Vec<u8>, Vec<u8>)>,
    /// Directories that hide the lower layers' of the same name. They still have to be marked so ([`mark_opaque`]).
    pub(in crate::image) opaque: Vec<Vec<u8>>,
}

/// Unpacks a whole tar stream into the empty directory `root`, and reads the stream to its end.
///
/// # Errors
/// [`LayerError`]; the directory then holds a part of the layer and is of no use.
pub(in crate::image) fn unpack(
    archive: &mut Archive<impl Read>,
    root: OwnedFd,
    limits: Limits,
) -> Result<Unpacked, LayerError> {
    let mut layer = Layer::new(root, limits);
    while let Some(entry) = archive.next()? {
        layer.count += 1;
        if layer.count > ENTRIES_MAX {
            return Err(LayerError::Limit { what: "number of files in a layer", limit: ENTRIES_MAX });
        }
        layer.add(&entry, archive)?;
        if layer.count == 1 {
            failpoint!("image.layer-half"); // something of it is on disk, and not all
        }
    }
    archive.drain()?;
    layer.finish()
}

/// Marks directories of a layer as those that hide the lower layers' of the same name: the last step of an unpacking,
/// and not for an image worker, because it takes CAP_SYS_ADMIN.
///
/// # Errors
/// [`LayerError`]; also for a name that is no directory of the layer.
pub(in crate::image) fn mark_opaque(root: OwnedFd, directories: &[Vec<u8>]) -> Result<(), LayerError> {
    let mut tree = Tree::new(root);
    for path in directories {
        let failed = |source| LayerError::write("mark opaque", path, source);
        let directory = tree.directory(&Name::parse(path)?).map_err(failed)?;
        tree::set_opaque(&directory).map_err(failed)?;
    }
    Ok(())
}

struct Layer {
    tree: Tree,
    limits: Limits,
    count: u64,
    bytes: u64,
    directories: Directories,
    links: VecDeque<(Vec<u8>, Vec<u8>)>,
}

impl Layer {
    fn new(root: OwnedFd, limits: Limits) -> Self {
        Self {
            tree: Tree::new(root),
            limits,
            count: 0,
            bytes: 0,
            directories: Directories::default(),
            links: VecDeque::new(),
        }
    }

    fn add(&mut self, entry: &Entry, archive: &mut Archive<impl Read>) -> Result<(), LayerError> {
        if matches!(entry.kind, Kind::Other) {
            return Ok(());
        }
        match Meaning::of(&entry.path)? {
            Meaning::Leftover => Ok(()),
            Meaning::Root if matches!(entry.kind, Kind::Directory) => {
                tree::dress(self.tree.root(), entry)?;
                self.directories.note(Vec::new(), Directory::Described { mtime: entry.mtime })
            }
            Meaning::Root => Err(LayerError::entry(&entry.path, "only a directory can be the root")),
            Meaning::Opaque { directory } => {
                let directory = self.tree.resolve(&directory)?;
                self.directory(&directory)?;
                self.directories.note_opaque(directory.to_bytes())
            }
            Meaning::Whiteout { parent, file } => self.whiteout(&parent, &file, entry),
            Meaning::File { parent, file } => self.file(&parent, &file, entry, archive),
        }
    }

    /// Hides what lower layers have at this name. What this layer itself has there stays, whichever came
    /// first (OCI image spec: whiteouts apply to lower layers only).
    fn whiteout(&mut self, parent: &Name, file: &[u8], entry: &Entry) -> Result<(), LayerError> {
        let failed = |source| LayerError::write("make whiteout", &entry.path, source);
        let fd = self.directory(parent)?;
        match tree::kind_at(&fd, file).map_err(failed)? {
            Was::Nothing => tree::make_whiteout(&fd, file).map_err(failed),
            Was::Whiteout | Was::Other => Ok(()),
            Was::Directory => {
                let mut parts = self.tree.resolve(parent)?.parts().to_vec();
                parts.push(file.to_vec());
                self.directories.note_opaque(Name::of(&parts).to_bytes())
            }
        }
    }

    fn file(
        &mut self,
        parent: &Name,
        file: &[u8],
        entry: &Entry,
        archive: &mut Archive<impl Read>,
    ) -> Result<(), LayerError> {
        let failed = |operation| move |source: Errno| LayerError::write(operation, &entry.path, source);
        let parent = self.tree.resolve(parent)?;
        let fd = self.directory(&parent)?;
        let mut parts = parent.parts().to_vec();
        parts.push(file.to_vec());
        let name = Name::of(&parts);

        if matches!(entry.kind, Kind::Directory) {
            return self.described_directory(&fd, file, &name, entry);
        }
        if let Kind::Hardlink { target } = &entry.kind {
            return self.hardlink(&fd, file, &name, target);
        }
        let was = self.tree.clear(&fd, file).map_err(|e| LayerError::write("replace", &entry.path, e))?;
        if was == Was::Directory {
            self.directories.forget(&name);
        }
        match &entry.kind {
            Kind::File { size } => self.content(&fd, file, entry, *size, &[(0, *size)], archive),
            Kind::Sparse { size, regions } => self.content(&fd, file, entry, *size, regions, archive),
            Kind::Symlink { target } => {
                fs::symlinkat(target.as_slice(), &fd, file).map_err(failed("make link"))?;
                tree::dress_link(&fd, file, entry)
                    .map_err(|e| LayerError::write("set owner of", &entry.path, e))
            }
            Kind::Character { major, minor } => {
                self.node(&fd, file, entry, FileType::CharacterDevice, (*major, *minor))
            }
            Kind::Block { major, minor } => {
                self.node(&fd, file, entry, FileType::BlockDevice, (*major, *minor))
            }
            Kind::Fifo => self.node(&fd, file, entry, FileType::Fifo, (0, 0)),
            Kind::Directory | Kind::Hardlink { .. } | Kind::Other => Ok(()),
        }
    }

    fn described_directory(
        &mut self,
        parent: &OwnedFd,
        file: &[u8],
        name: &Name,
        entry: &Entry,
    ) -> Result<(), LayerError> {
        let failed = |source| LayerError::write("make directory", &entry.path, source);
        match tree::kind_at(parent, file).map_err(failed)? {
            Was::Directory => {}
            Was::Nothing => tree::make_directory(parent, file, false).map_err(failed)?,
            Was::Whiteout => {
                tree::make_directory(parent, file, true).map_err(failed)?;
                self.directories.note_opaque(name.to_bytes())?;
            }
            Was::Other => {
                self.tree.clear(parent, file).map_err(failed)?;
                tree::make_directory(parent, file, false).map_err(failed)?;
            }
        }
        let fd = self.tree.directory(name).map_err(failed)?;
        tree::dress(&fd, entry)?;
        self.directories.note(name.to_bytes(), Directory::Described { mtime: entry.mtime })
    }

    /// Links to what this layer has. What it does not have is in a lower layer, which may not be there
    /// yet: kept for the caller.
    fn hardlink(
        &mut self,
        parent: &OwnedFd,
        file: &[u8],
        name: &Name,
        target: &[u8],
    ) -> Result<(), LayerError> {
        let path = name.to_bytes();
        let failed = |source| LayerError::write("make hard link", &path, source);
        let target = Name::parse(target)?;
        let Some((target_parent, target_file)) = target.clone().split() else {
            return Err(LayerError::entry(&path, "it is a hard link to the root"));
        };
        let target_parent = self.tree.resolve(&target_parent)?;
        let from = match self.tree.directory(&target_parent) {
            Ok(from) => tree::kind_at(&from, &target_file).map_err(failed)?.is_something().then_some(from),
            Err(_) => None,
        };
        let Some(from) = from else {
            if self.links.len() == FOREIGN_LINKS_MAX {
                return Err(LayerError::Limit {
                    what: "links to lower layers",
                    limit: FOREIGN_LINKS_MAX as u64,
                });
            }
            let was = self.tree.clear(parent, file).map_err(failed)?;
            if was == Was::Directory {
                self.directories.forget(name);
            }
            self.directories.count_name(path.len() + target.to_bytes().len())?;
            let mut resolved = target_parent.parts().to_vec();
            resolved.push(target_file);
            self.links.push_back((path, Name::of(&resolved).to_bytes()));
            return Ok(());
        };
        if tree::kind_at(&from, &target_file).map_err(failed)? == Was::Directory {
            return Err(LayerError::entry(&path, "it is a hard link to a directory"));
        }
        if target_parent.to_bytes() == name.clone().split().map(|(dir, _)| dir.to_bytes()).unwrap_or_default()
            && target_file == file
        {
            return Ok(()); // to itself
        }
        let was = self.tree.clear(parent, file).map_err(failed)?;
        if was == Was::Directory {
            self.directories.forget(name);
        }
        fs::linkat(&from, target_file.as_slice(), parent, file, AtFlags::empty())
            .map_err(|e| failed(e.into()))
    }

    fn node(
        &mut self,
        parent: &OwnedFd,
        file: &[u8],
        entry: &Entry,
        kind: FileType,
        device: (u32, u32),
    ) -> Result<(), LayerError> {
        tree::make_node(parent, file, kind, device, entry)
            .map_err(|source| LayerError::write("make node", &entry.path, source))
    }

    fn content(
        &mut self,
        parent: &OwnedFd,
        file: &[u8],
        entry: &Entry,
        size: u64,
        regions: &[(u64, u64)],
        archive: &mut Archive<impl Read>,
    ) -> Result<(), LayerError> {
        let failed = |source| LayerError::write("write", &entry.path, source);
        if size > self.limits.file_bytes_max {
            return Err(LayerError::Limit {
                what: "size of a file in a layer",
                limit: self.limits.file_bytes_max,
            });
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::openat(parent, file, flags, Mode::from_raw_mode(0o600)).map_err(|e| failed(e.into()))?;
        let mut out = File::from(fd);
        let whole = matches!(regions, [(0, length)] if *length == size);
        for (offset, length) in regions {
            let mut done = 0;
            while done < *length {
                let piece = archive.content(length - done)?;
                if piece.is_empty() {
                    return Err(LayerError::Read(std::io::ErrorKind::UnexpectedEof.into()));
                }
                if whole {
                    out.write_all(piece).map_err(failed)?;
                } else {
                    out.write_all_at(piece, offset + done).map_err(failed)?;
                }
                done += piece.len() as u64;
                self.bytes += piece.len() as u64;
            }
            self.bytes = self.bytes.next_multiple_of(DISK_BLOCK_BYTES);
        }
        if !whole {
            out.set_len(size).map_err(failed)?;
        }
        let fd = OwnedFd::from(out);
        tree::dress(&fd, entry)?;
        fs::futimens(&fd, &tree::times(entry.mtime)).map_err(|e| failed(e.into()))
    }

    fn directory(&mut self, name: &Name) -> Result<std::rc::Rc<OwnedFd>, LayerError> {
        let name = self.tree.resolve(name)?;
        let mut made = Vec::new();
        let fd = self.tree.make_directories(&name, |directory| {
            made.push((directory.path, directory.hides));
            Ok(())
        })?;
        for (path, hides) in made {
            if hides {
                self.directories.note_opaque(path.clone())?;
            }
            self.directories.note(path, Directory::Implied)?;
        }
        Ok(fd)
    }

    fn finish(mut self) -> Result<Unpacked, LayerError> {
        let directories = std::mem::take(&mut self.directories);
        let mut implied = Vec::new();
        for (path, directory) in directories.iter() {
            match directory {
                Directory::Implied => implied.push(path.clone()),
                Directory::Described { mtime } => {
                    let failed = |source| LayerError::write("set time of", path, source);
                    let fd = self.tree.directory(&Name::parse(path)?).map_err(failed)?;
                    fs::futimens(&fd, &tree::times(*mtime)).map_err(|e| failed(e.into()))?;
                }
            }
        }
        let implied_count = implied.len() as u64;
        Ok(Unpacked {
            bytes: self.bytes + directories.len() as u64 * DISK_BLOCK_BYTES,
            inodes: self.count + implied_count,
            implied,
            links: self.links.into(),
            opaque: directories.into_opaque(),
        })
    }
}

impl Was {
    /// Something that a hard link can point at.
    fn is_something(self) -> bool {
        !matches!(self, Self::Nothing | Self::Whiteout)
    }
}

#[cfg(test)]
mod tests;
