//! `pintle network reset`: takes the built-in network off the node.

use super::{client, exit::Exit, place::Place, say::say};
use crate::network::Network;

/// `pintle network reset`
pub(super) fn reset(place: Place) -> Result<Exit, Exit> {
    let config = place.load(None)?.config;
    let runtime = client::runtime()?;
    let reset = async { Network::open(&config.network, &config.root)?.reset().await };
    let done = runtime.block_on(reset).map_err(|error| Exit::FAILED.because(&error))?;
    match done.as_slice() {
        [] => say("there was nothing to undo\n"),
        lines => say(&format!("{}\n", lines.join("\n"))),
    }
}
