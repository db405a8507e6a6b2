//! One layer, written entry by entry. Names are taken as they are: a test may want `../../etc/passwd`.

use std::io::{self, Write as _};

use flate2::{Compression, write::GzEncoder};
use tar::{Builder, EntryType, Header};

use super::{Result, digest::digest};

/// A layer as it is stored: compressed, with the digest of its uncompressed bytes.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    /// Digest of the tar: an image's `rootfs.diff_ids`.
    pub(crate) diff_id: String,
    pub(crate) gzip: Vec<u8>,
}

/// Collects entries.
pub(crate) struct Tar {
    builder: Builder<Vec<u8>>,
}

impl Tar {
    pub(crate) fn new() -> Self {
        Self { builder: Builder::new(Vec::new()) }
    }

    pub(crate) fn dir(&mut self, path: &str, mode: u32) -> Result<()> {
        self.entry(path, EntryType::Directory, mode, "", &[])
    }

    pub(crate) fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        self.entry(path, EntryType::Regular, mode, "", bytes)
    }

    pub(crate) fn symlink(&mut self, path: &str, target: &str) -> Result<()> {
        self.entry(path, EntryType::Symlink, 0o777, target, &[])
    }

    pub(crate) fn hardlink(&mut self, path: &str, target: &str) -> Result<()> {
        self.entry(path, EntryType::Link, 0o755, target, &[])
    }

    /// A directory or file of somebody other than root.
    pub(crate) fn owned(
        &mut self,
        path: &str,
        mode: u32,
        owner: (u64, u64),
        content: Option<&[u8]>,
    ) -> Result<()> {
        let kind = if content.is_some() { EntryType::Regular } else { EntryType::Directory };
        let content = content.unwrap_or_default();
        let mut header = header(path, kind, mode, content.len() as u64)?;
        header.set_uid(owner.0);
        header.set_gid(owner.1);
        header.set_cksum();
        self.builder.append(&header, content)?;
        Ok(())
    }

    /// A file with one extended attribute.
    pub(crate) fn file_with_xattr(
        &mut self,
        path: &str,
        mode: u32,
        bytes: &[u8],
        (name, value): (&str, &[u8]),
    ) -> Result<()> {
        let key = format!("SCHILY.xattr.{name}");
        self.builder.append_pax_extensions([(key.as_str(), value)])?;
        self.file(path, mode, bytes)
    }

    /// A character device.
    pub(crate) fn char_device(&mut self, path: &str, mode: u32, major: u32, minor: u32) -> Result<()> {
        let mut header = header(path, EntryType::Char, mode, 0)?;
        header.set_device_major(major)?;
        header.set_device_minor(minor)?;
        header.set_cksum();
        self.builder.append(&header, io::empty())?;
        Ok(())
    }

    /// Hides `name` of the layers below.
    pub(crate) fn whiteout(&mut self, folder: &str, name: &str) -> Result<()> {
        self.file(&format!("{folder}/.wh.{name}"), 0o644, &[])
    }

    /// Hides everything that the layers below have in `folder`.
    pub(crate) fn opaque(&mut self, folder: &str) -> Result<()> {
        self.whiteout(folder, ".wh..opq")
    }

    pub(crate) fn finish(self) -> Result<Layer> {
        let tar = self.builder.into_inner()?;
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&tar)?;
        Ok(Layer { diff_id: digest(&tar), gzip: gzip.finish()? })
    }

    fn entry(&mut self, path: &str, kind: EntryType, mode: u32, target: &str, bytes: &[u8]) -> Result<()> {
        let mut header = header(path, kind, mode, bytes.len() as u64)?;
        copy_into(&mut header.as_old_mut().linkname, target)?;
        header.set_cksum();
        self.builder.append(&header, bytes)?;
        Ok(())
    }
}

/// A header whose name is set byte by byte, because the library refuses the names that tests are about.
fn header(path: &str, kind: EntryType, mode: u32, size_bytes: u64) -> Result<Header> {
    let mut header = Header::new_gnu();
    copy_into(&mut header.as_old_mut().name, path)?;
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size_bytes);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    Ok(header)
}

fn copy_into(field: &mut [u8; 100], text: &str) -> Result<()> {
    let room = field.get_mut(..text.len()).ok_or_else(|| format!("name too long for this tar: {text}"))?;
    room.copy_from_slice(text.as_bytes());
    Ok(())
}
