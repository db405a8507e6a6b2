//! The machine's disk: a small Debian with systemd, and what the end-to-end tests run beside pintle.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
};

use super::debian::MIRROR;
use crate::images::{self, Result, package::run};

/// Which Debian it is. Its C library runs what a host of the same or an earlier release built.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Release {
    #[default]
    Debian13,
    /// With systemd 252, which knows no `PIDFDs`.
    Debian12,
}

impl Release {
    /// As its archive is called.
    fn suite(self) -> &'static str {
        match self {
            Self::Debian13 => "trixie",
            Self::Debian12 => "bookworm",
        }
    }
}

impl FromStr for Release {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "debian-13" => Ok(Self::Debian13),
            "debian-12" => Ok(Self::Debian12),
            other => Err(format!("--root is debian-13 or debian-12, not {other:?}")),
        }
    }
}

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
pub(super) fn build(release: Release) -> Result<PathBuf> {
    let name = format!("root-{}-{}.img", release.suite(), images::key_of(&SOURCES));
    let image = images::cache()?.join("vm").join(name);
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
    debian(release, &tree)?;
    run(Command::new("truncate").args(["-s", DISK]).arg(&disk))?;
    let lazy = "lazy_itable_init=1,lazy_journal_init=1";
    run(Command::new("mkfs.ext4").args(["-q", "-E", lazy, "-d"]).arg(&tree).arg(&disk))?;
    fs::rename(disk, &image)?;
    Ok(image)
}

fn debian(release: Release, tree: &Path) -> Result<()> {
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
    run(command.arg(release.suite()).arg(tree).arg(MIRROR))
}
