//! Debian packages of any release, without a change to the host's own package lists.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::images::{Result, package::run};

/// Where packages come from; apt's own settings for it (a proxy, say) hold.
pub(super) const MIRROR: &str = "http://deb.debian.org/debian";

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// How often a download is tried: a mirror may refuse for a moment.
const TRIES: u32 = 3;

/// The package lists of one release, in a folder of their own.
#[derive(Debug)]
pub(super) struct Lists {
    folder: PathBuf,
}

impl Lists {
    /// Fetches the lists of `release` into `folder`.
    pub(super) fn fetch(release: &str, folder: PathBuf) -> Result<Self> {
        for below in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(below))?;
        }
        let sources = format!("deb [signed-by={KEYRING}] {MIRROR} {release} main\n");
        fs::write(folder.join("sources.list"), sources)?;
        let lists = Self { folder };
        again(|| run(lists.apt("apt-get").args(["-q", "update"])))?;
        Ok(lists)
    }

    /// What a package that only points at another one points at.
    pub(super) fn target_of(&self, package: &str) -> Result<String> {
        let output = self.apt("apt-cache").args(["depends", package]).output()?;
        let text = String::from_utf8(output.stdout)?;
        let target = text.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
        target.map(String::from).ok_or_else(|| format!("{package} depends on nothing").into())
    }

    /// Unpacks the packages below `root`.
    pub(super) fn unpack(&self, packages: &[&str], root: &Path) -> Result<()> {
        let folder = self.folder.join("packages");
        fs::create_dir_all(&folder)?;
        fs::create_dir_all(root)?;
        again(|| run(self.apt("apt-get").args(["-q", "download"]).args(packages).current_dir(&folder)))?;
        for entry in fs::read_dir(&folder)? {
            run(Command::new("dpkg-deb").arg("-x").arg(entry?.path()).arg(root))?;
        }
        Ok(fs::remove_dir_all(folder)?)
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let places = [
            ("Dir::Etc::sourcelist", self.folder.join("sources.list")),
            ("Dir::Etc::sourceparts", "-".into()),
            ("Dir::State::lists", self.folder.join("lists")),
            ("Dir::State::status", "/dev/null".into()),
            ("Dir::Cache", self.folder.join("cache")),
            ("Acquire::Languages", "none".into()),
            ("APT::Sandbox::User", "root".into()),
        ];
        for (name, place) in places {
            let mut option = OsString::from(format!("{name}="));
            option.push(place);
            command.arg("-o").arg(option);
        }
        command
    }
}

fn again(mut work: impl FnMut() -> Result<()>) -> Result<()> {
    let mut tries = 1;
    loop {
        match work() {
            Err(_) if tries < TRIES => tries += 1,
            done => return done,
        }
    }
}
