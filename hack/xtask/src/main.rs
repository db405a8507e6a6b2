//! The repository's own commands.
//!
//! ```text
//! cargo xtask check            format, lints, unit tests: no root needed
//! cargo xtask images           makes the images that the end-to-end tests pull, and prints their folder
//! cargo xtask e2e [name]…      the end-to-end tests whose names hold one of the words; needs root
//! ```

mod images;

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
        other => Err(format!("unknown command {other:?}; there are check, images and e2e").into()),
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
        "clippy --workspace --all-targets --features failpoints -- -D warnings",
        "test --workspace --features failpoints",
    ];
    steps.iter().try_for_each(|step| cargo(step.split(' ').map(String::from)))
}

/// Runs cargo, which speaks for itself.
fn cargo(arguments: impl Iterator<Item = String>) -> Result<()> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments: Vec<String> = arguments.collect();
    let status = Command::new(cargo).args(&arguments).status()?;
    if status.success() { Ok(()) } else { Err(format!("cargo {}: {status}", arguments.join(" ")).into()) }
}
