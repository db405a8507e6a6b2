//! `pintle serve`: the daemon, and the exit code of its failure.

use super::{exit::Exit, place::Place};
use crate::daemon::{Daemon, Error};

/// `pintle serve`
pub(super) fn serve(place: Place, log_level: Option<String>) -> Result<Exit, Exit> {
    let loaded = place.load(log_level)?;
    Daemon::run(loaded).map(|()| Exit::OK).map_err(|error| match error {
        Error::Log(_) => code(&error).because(&error),
        // It is in the log, and whoever reads stderr may keep us waiting for ever.
        _ => code(&error),
    })
}

fn code(error: &Error) -> Exit {
    match error {
        Error::Log(_) | Error::Rooms(_) => Exit::CONFIG,
        Error::Roots(_) | Error::Socket(_) => Exit::TEMPORARY,
        Error::Runtime(_) => Exit::SOFTWARE,
    }
}
