//! Text on stdout, of commands that print once and end.

use std::io::{self, Write as _};

use super::exit::Exit;

/// Prints to stdout.
pub(super) fn say(text: &str) -> Result<Exit, Exit> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(Exit::OK),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Exit::BROKEN_PIPE),
        Err(error) => Err(Exit::IO.because(&error)),
    }
}
