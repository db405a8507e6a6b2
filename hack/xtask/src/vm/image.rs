//! The machine's disk: a small Debian with systemd, and what the end-to-end tests run beside pintle.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::debian::MIRROR;
use crate::images::{self, Result, package::run};

/// The release whose C library runs what a host of the same or an earlier release built.
const RELEASE: &str = "trixie";

/// Largest the disk may grow; it takes what is written only.
const DISK: &str = "6G";

/// What is in it beside what Debian cannot do without, one a line.
const PACKAGES: &str = include_str!("../../../vm/packages");

/// All that decides what the image holds.
const SOURCES: [&str; 5] = [
    include_str!("image.rs"),
    PACKAGES,
    include_str!("../../../vm/customise"),
    include_str!("../../../vm/pintle-vm.service"),
    include_str!("../../../vm/pintle-vm.target"),
];

/// Makes the image unless the cache has it, and answers with its file.
pub(super) fn build() -> Result<PathBuf> {
    let image = images::cache()?.join("vm").join(format!("root-{}.img", images::key_of(&SOURCES)));
    if image.exists() {
        return Ok(image);
    }
    for (program, package) in [("mmdebstrap", "mmdebstrap"), ("mkfs.ext4", "e2fsprogs")] {
        if Command::new(program).arg("--version").output().is_err() {
            return Err(format!("{program} is missing: install the Debian package {package}").into());
        }
    }
    eprintln!("xtask vm: making the root image, once");
    let work = tempfile::Builder::new().prefix("making-").tempdir_in(images::folder_of("vm")?)?;
    let (tree, disk) = (work.path().join("tree"), work.path().join("disk"));
    debian(&tree)?;
    run(Command::new("truncate").args(["-s", DISK]).arg(&disk))?;
    let lazy = "lazy_itable_init=1,lazy_journal_init=1";
    run(Command::new("mkfs.ext4").args(["-q", "-E", lazy, "-d"]).arg(&tree).arg(&disk))?;
    fs::rename(disk, &image)?;
    Ok(image)
}

fn debian(tree: &Path) -> Result<()> {
    let packages: Vec<&str> = PACKAGES.lines().collect();
    let customise = concat!(env!("CARGO_MANIFEST_DIR"), "/../vm/customise");
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--mode=root", "--variant=essential", "--format=directory"]);
    command.arg(format!("--include={}", packages.join(",")));
    command.args(["--aptopt=Acquire::Languages \"none\"", "--aptopt=APT::Install-Recommends \"false\""]);
    for documents in ["man", "doc", "info", "locale"] {
        command.arg(format!("--dpkgopt=path-exclude=/usr/share/{documents}/*"));
    }
    command.arg(format!("--customize-hook={customise} \"$1\""));
    run(command.arg(RELEASE).arg(tree).arg(MIRROR))
}
