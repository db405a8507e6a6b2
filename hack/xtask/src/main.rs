//! The repository's own commands.
//!
//! ```text
//! cargo xtask check            format, lints, unit tests: no root needed
//! cargo xtask images           makes the images that the end-to-end tests pull, and prints their folder
//! cargo xtask e2e [name]…      the end-to-end tests whose names hold one of the words; needs root
//! cargo xtask gauntlet         the attacks of docs/gauntlet.md, and a line of what came of each; needs root
//! cargo xtask fuzz [name]…     the parsers of foreign bytes on noise, 20 s each or as PINTLE_FUZZ_SECONDS says
//! cargo xtask bench [name]     speed and memory, beside containerd and runc where they are installed; root
//! cargo xtask proof [name]     the long ones; without a name, which there are and which are built;
//!                              with --vm in that machine, with --driver NAME under that cgroup driver
//! cargo xtask vm test [name]…  the end-to-end tests in a machine with cgroup v2, systemd and swap; root
//! cargo xtask vm run COMMAND   a shell command in there
//! ```

mod fuzz;
mod gauntlet;
mod images;
mod proof;
mod vm;

use std::{
    env,
    process::{Command, ExitCode},
};

use images::Result;

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let command = arguments.next().unwrap_or_default();
    let done = match command.as_str() {
        "check" => check(),
        "images" => images::build().map(|folder| println!("{}", folder.display())),
        "e2e" => cargo(
            ["test", "--features", "failpoints", "--test", "e2e", "--"]
                .map(String::from)
                .into_iter()
                .chain(arguments),
        ),
        "gauntlet" => gauntlet::run(),
        "fuzz" => fuzz::command(arguments),
        "bench" => bench(arguments.next()),
        "proof" => proof::prove(arguments),
        "vm" => vm::command(arguments),
        other => Err(format!(
            "unknown command {other:?}; there are check, images, e2e, gauntlet, fuzz, bench, proof and vm"
        )
        .into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask {command}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn check() -> Result<()> {
    let steps = [
        "fmt --all --check",
        "clippy --workspace --all-targets --test e2e --features failpoints -- -D warnings",
        // What is released has no failpoints.
        "clippy --lib --bins --benches -- -D warnings",
        "test --workspace --features failpoints",
    ];
    steps.iter().try_for_each(|step| cargo(step.split(' ').map(String::from)))?;
    let status = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tools/deny")).status()?;
    if status.success() { Ok(()) } else { Err(format!("hack/tools/deny: {status}").into()) }
}

fn bench(name: Option<String>) -> Result<()> {
    let which = name.map_or(vec!["--benches".to_owned()], |name| vec!["--bench".into(), name]);
    cargo(["bench".to_owned()].into_iter().chain(which))
}

/// Runs cargo, which speaks for itself.
fn cargo(arguments: impl Iterator<Item = String>) -> Result<()> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments: Vec<String> = arguments.collect();
    let status = Command::new(cargo).args(&arguments).status()?;
    if status.success() { Ok(()) } else { Err(format!("cargo {}: {status}", arguments.join(" ")).into()) }
}
