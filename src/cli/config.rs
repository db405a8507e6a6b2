//! `pintle config`: the default configuration, and a check of the configured one.

use super::{exit::Exit, place::Place, say::say};
use crate::config::DEFAULT;

/// `pintle config default`
pub(super) fn default() -> Result<Exit, Exit> {
    say(DEFAULT)
}

/// `pintle config check`
pub(super) fn check(place: Place) -> Result<Exit, Exit> {
    let loaded = place.load(None)?;
    let files: Vec<_> = loaded.files.iter().map(|file| format!("read {}\n", file.display())).collect();
    let read = if files.is_empty() { "no file: every key has its default\n".into() } else { files.concat() };
    say(&format!("{read}the configuration is right; the CRI is served on {}\n", loaded.config.listen()))
}
