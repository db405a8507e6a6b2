//! The `pintle` binary; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    pintle::cli::main()
}
