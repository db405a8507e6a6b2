//! A kernel that Debian built, with its modules and the C library that it wants.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::debian::Lists;
use crate::images::{self, Result};

/// What is unpacked.
const PACKAGES: [&str; 2] = ["user-mode-linux", "libc6"];

/// Unpacks it unless the cache has it, and answers with the root folder that holds it.
pub(super) fn tree(release: &str) -> Result<PathBuf> {
    let key = images::key_of(&[include_str!("prebuilt.rs")]);
    let tree = images::cache()?.join("vm").join(format!("kernel-{release}-{key}"));
    if !tree.exists() {
        eprintln!("xtask vm: fetching the User-mode Linux of Debian {release}, once");
        let work = tempfile::Builder::new().prefix("making-").tempdir_in(images::folder_of("vm")?)?;
        let unpacked = work.path().join("tree");
        Lists::fetch(release, work.path().join("apt"))?.unpack(&PACKAGES, &unpacked)?;
        for folder in ["lib", "lib64"].map(|name| unpacked.join(name)) {
            if !folder.exists() {
                let name = folder.file_name().unwrap_or_default();
                std::os::unix::fs::symlink(Path::new("usr").join(name), &folder)?;
            }
        }
        fs::rename(unpacked, &tree)?;
    }
    Ok(tree)
}
