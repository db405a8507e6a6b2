//! Debian packages, taken apart: files to put into layers.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::Result;

/// Packages whose files the images hold, one a line.
pub(crate) const NAMES: &str =
    "busybox-static\ndash\nlibc6\nlibcrypt1\nlibpcre2-8-0\nlibssl3\nzlib1g\nnginx\nutil-linux";

/// How often a download is tried: a mirror may refuse for a moment.
const DOWNLOAD_TRIES: u32 = 3;

/// The files of all packages, in one tree.
#[derive(Debug)]
pub(crate) struct Packages {
    root: PathBuf,
}

/// Downloads the packages and unpacks them below `folder`.
pub(crate) fn unpack(folder: &Path) -> Result<Packages> {
    let root = folder.join("root");
    fs::create_dir_all(&root)?;
    let mut tries = 0;
    while let Err(error) =
        run(Command::new("apt-get").arg("download").args(NAMES.lines()).current_dir(folder))
    {
        tries += 1;
        if tries == DOWNLOAD_TRIES {
            return Err(error);
        }
        run(Command::new("apt-get").arg("update"))?;
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg-deb").arg("-x").arg(&path).arg(&root))?;
        }
    }
    Ok(Packages { root })
}

impl Packages {
    /// The bytes of one file, links followed inside the tree's folder.
    pub(crate) fn read(&self, path: &str) -> Result<Vec<u8>> {
        let path = self.root.join(path.trim_start_matches('/'));
        fs::read(&path).map_err(|error| format!("read {}: {error}", path.display()).into())
    }

    /// The names of all programs in busybox.
    pub(crate) fn applets(&self) -> Result<Vec<String>> {
        let listed = Command::new(self.root.join("bin/busybox")).arg("--list").output()?;
        Ok(String::from_utf8(listed.stdout)?.lines().map(String::from).collect())
    }

    /// The folder of shared libraries on this machine's architecture, without a leading slash.
    pub(crate) fn library_folder(&self) -> Result<String> {
        let lib = self.root.join("lib");
        for entry in fs::read_dir(&lib)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.ends_with("-linux-gnu") {
                return Ok(format!("lib/{name}"));
            }
        }
        Err(format!("no libraries in {}", lib.display()).into())
    }

    /// A shared library, wherever its package keeps it.
    pub(crate) fn library(&self, folder: &str, name: &str) -> Result<Vec<u8>> {
        self.read(&format!("{folder}/{name}")).or_else(|_| self.read(&format!("usr/{folder}/{name}")))
    }
}

/// Runs a program; its words are shown only if it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)).into())
}
