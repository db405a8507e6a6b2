use super::{
    command::{Place, say},
    exit::Exit,
};
use crate::network::Network;

/// `pintle network reset`
pub(super) fn reset(place: Place) -> Result<Exit, Exit> {
    let config = place.load(None)?.config;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Exit::SOFTWARE.because(&error))?;
    let reset = async { Network::open(&config.network, &config.root)?.reset().await };
    let done = runtime.block_on(reset).map_err(|error| Exit::FAILED.because(&error))?;
    match done.as_slice() {
        [] => say("there was nothing to undo\n"),
        lines => say(&format!("{}\n", lines.join("\n"))),
    }
}
