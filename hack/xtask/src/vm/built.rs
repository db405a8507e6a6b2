//! A kernel of our own: Debian's newest source with `hack/vm/kernel.config`.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use super::debian::Lists;
use crate::images::{self, Result, package::run};

/// What is set in a kernel of ours.
const CONFIG: &str = include_str!("../../../vm/kernel.config");

/// Programs that the build needs, and the packages that bring them.
const TOOLS: [(&str, &str); 6] = [
    ("gcc", "gcc"),
    ("make", "make"),
    ("flex", "flex"),
    ("bison", "bison"),
    ("bc", "bc"),
    ("xz", "xz-utils"),
];

/// Builds it unless the cache has it, and answers with the program.
pub(super) fn program() -> Result<PathBuf> {
    let key = images::key_of(&[CONFIG, include_str!("built.rs")]);
    let program = images::cache()?.join("vm").join(format!("linux-{key}"));
    if !program.exists() {
        let missing: Vec<&str> =
            TOOLS.iter().filter(|(tool, _)| !is_there(tool)).map(|(_, package)| *package).collect();
        if !missing.is_empty() {
            return Err(format!("install the Debian packages {}", missing.join(" ")).into());
        }
        eprintln!("xtask vm: building a kernel, once; about six minutes on two idle processors");
        let work = tempfile::Builder::new().prefix("making-").tempdir_in(images::folder_of("vm")?)?;
        fs::rename(build(work.path())?, &program)?;
    }
    Ok(program)
}

/// Fetches, configures and builds below `work`; answers with the program.
fn build(work: &Path) -> Result<PathBuf> {
    let lists = Lists::fetch("sid", work.join("apt"))?;
    let package = lists.target_of("linux-source")?;
    lists.unpack(&[&package], work)?;
    let archive = work.join("usr/src").join(format!("{package}.tar.xz"));
    let source = work.join("source");
    fs::create_dir(&source)?;
    run(Command::new("tar").args(["--strip-components=1", "-xf"]).arg(&archive).arg("-C").arg(&source))?;
    let make = |targets: &[&str]| {
        let jobs = thread::available_parallelism().map_or(1, usize::from);
        let mut command = Command::new("make");
        command.args(["-s", "ARCH=um", "SUBARCH=x86_64", &format!("-j{jobs}")]).args(targets);
        run(command.current_dir(&source).env_remove("MAKEFLAGS"))
    };
    make(&["x86_64_defconfig"])?;
    let config = source.join(".config");
    fs::write(&config, fs::read_to_string(&config)? + CONFIG)?;
    make(&["olddefconfig"])?;
    let missing = missing(CONFIG, &fs::read_to_string(&config)?);
    if !missing.is_empty() {
        return Err(format!("{package} has not, or not any more: {}", missing.join(", ")).into());
    }
    make(&["linux"])?;
    run(Command::new("strip").arg(source.join("linux")))?;
    Ok(source.join("linux"))
}

/// The settings that were asked for and are not in the kernel's configuration.
fn missing<'a>(asked: &'a str, config: &str) -> Vec<&'a str> {
    let set: BTreeSet<&str> = config.lines().collect();
    let on = asked.lines().filter(|line| line.starts_with("CONFIG_") && !set.contains(line));
    let off = asked.lines().filter(|line| {
        let name = line.strip_prefix("# ").and_then(|line| line.strip_suffix(" is not set"));
        name.is_some_and(|name| set.iter().any(|set| set.strip_prefix(name).is_some_and(|rest| rest == "=y")))
    });
    on.chain(off).collect()
}

fn is_there(tool: &str) -> bool {
    Command::new(tool).arg("--version").output().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_did_not_take_is_named() {
        let asked = "# Words.\nCONFIG_A=y\nCONFIG_B=y\n# CONFIG_C is not set\n# CONFIG_D is not set\n";
        let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=y\nCONFIG_CC=y\n";
        assert_eq!(missing(asked, config), ["CONFIG_B=y", "# CONFIG_C is not set"]);
        assert_eq!(missing(asked, "CONFIG_A=y\nCONFIG_B=y\n"), [""; 0]);
    }
}
