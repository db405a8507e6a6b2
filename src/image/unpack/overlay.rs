//! A name in a stack of finished layers, as overlayfs would show it when they are mounted on each other.

use std::{collections::HashSet, os::fd::OwnedFd};

use rustix::{
    fs::{self, AtFlags, FileType, Stat},
    io::Errno,
};

use super::{LayerError, name::Name, tree};

/// Symbolic links followed for one name, as in the kernel.
const LINKS_FOLLOWED_MAX: usize = 40;

/// One finished layer of a stack.
#[derive(Debug)]
pub(in crate::image) struct Below {
    pub(super) root: OwnedFd,
    pub(super) implied: HashSet<Vec<u8>>,
    pub(super) links: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Below {
    pub(in crate::image) fn new(root: OwnedFd, implied: &[Vec<u8>], links: &[(Vec<u8>, Vec<u8>)]) -> Self {
        Self { root, implied: implied.iter().cloned().collect(), links: links.to_vec() }
    }
}

/// The kind of file that an overlay of the stack has at a name.
pub(super) enum Look {
    Absent,
    /// The directories that are merged there: (place in the stack, directory), top first.
    Directory(Vec<(usize, OwnedFd)>),
    File {
        parent: OwnedFd,
        file: Vec<u8>,
        stat: Stat,
    },
}

/// The file that overlayfs would show at `name`. `through_links`: symbolic links on the way (not at the end) are
/// followed, in the merged root; otherwise a name that leads through one is absent.
pub(super) fn look(stack: &[Below], name: &Name, through_links: bool) -> Result<Look, LayerError> {
    let name = if through_links { resolve_parent(stack, name)? } else { name.clone() };
    let failed = |source: std::io::Error| LayerError::write("look at", &name.to_bytes(), source);
    let mut dirs = Vec::new();
    for (place, layer) in stack.iter().enumerate().rev() {
        dirs.push((place, layer.root.try_clone().map_err(failed)?));
    }
    for (depth, part) in name.parts().iter().enumerate() {
        match step(dirs, part).map_err(failed)? {
            Look::Directory(below) => dirs = below,
            found if depth + 1 == name.parts().len() => return Ok(found),
            _ => return Ok(Look::Absent),
        }
    }
    Ok(Look::Directory(dirs))
}

/// One component further down, by overlayfs' rules.
fn step(dirs: Vec<(usize, OwnedFd)>, part: &[u8]) -> std::io::Result<Look> {
    let mut found = Vec::new();
    for (place, dir) in dirs {
        match fs::statat(&dir, part, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let below = tree::open_directory(&dir, part)?;
                    let opaque = tree::is_opaque(&below);
                    found.push((place, below));
                    if opaque {
                        break;
                    }
                }
                FileType::CharacterDevice if stat.st_rdev == 0 => break,
                _ if found.is_empty() => return Ok(Look::File { parent: dir, file: part.to_vec(), stat }),
                _ => break,
            },
        }
    }
    Ok(if found.is_empty() { Look::Absent } else { Look::Directory(found) })
}

/// `name` without symbolic links in its directories, in the merged root.
fn resolve_parent(stack: &[Below], name: &Name) -> Result<Name, LayerError> {
    let Some((parent, file)) = name.clone().split() else { return Ok(name.clone()) };
    let mut parts = follow(stack, &parent)?.parts().to_vec();
    parts.push(file);
    Ok(Name::of(&parts))
}

/// The name that `name` leads to in the merged root when every link is followed. It need not exist.
pub(super) fn follow(stack: &[Below], name: &Name) -> Result<Name, LayerError> {
    let mut ahead: Vec<Vec<u8>> = name.parts().iter().rev().cloned().collect();
    let mut done: Vec<Vec<u8>> = Vec::new();
    let mut followed = 0;
    while let Some(part) = ahead.pop() {
        match part.as_slice() {
            b"" | b"." => continue,
            b".." => {
                done.pop();
                continue;
            }
            _ => done.push(part),
        }
        let Look::File { parent, file, stat } = look(stack, &Name::of(&done), false)? else { continue };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            continue;
        }
        followed += 1;
        if followed > LINKS_FOLLOWED_MAX {
            return Err(LayerError::entry(&name.to_bytes(), "it goes through too many links"));
        }
        let target = fs::readlinkat(&parent, file.as_slice(), Vec::new())
            .map_err(|source| LayerError::write("read link", &name.to_bytes(), source))?
            .into_bytes();
        done.pop();
        if target.starts_with(b"/") {
            done.clear();
        }
        ahead.extend(target.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
    }
    Ok(Name::of(&done))
}

pub(super) fn open(root: &OwnedFd, path: &[u8]) -> Result<OwnedFd, LayerError> {
    let path = if path.is_empty() { b".".as_slice() } else { path };
    tree::open_directory(root, path).map_err(|source| LayerError::write("open directory", path, source))
}
