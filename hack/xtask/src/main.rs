//! The repository's own commands: `cargo xtask images` makes the images that the end-to-end tests pull.

mod images;

use std::{env, process::ExitCode};

fn main() -> ExitCode {
    let command = env::args().nth(1).unwrap_or_default();
    let done = match command.as_str() {
        "images" => images::build().map(|folder| println!("{}", folder.display())),
        other => Err(format!("unknown command {other:?}; there is: images").into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask {command}: {error}");
            ExitCode::FAILURE
        }
    }
}
