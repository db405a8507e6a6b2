//! What the CDI devices of a container change about it.

use std::time::Duration;

use tracing::warn;

use super::{error::Error, keep::blocking};
use crate::{cdi, model::ContainerConfig};

/// A folder of specs may lie on a file system that does not answer. The create fails then, and only it.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes the changes to `config`, which is the container's for its plan and not the one that is recorded.
///
/// # Errors
/// [`Error::Cdi`] for a device that is not there or cannot be had, [`Error::CdiLate`].
pub(super) async fn inject(settings: &cdi::Config, config: &mut ContainerConfig) -> Result<(), Error> {
    if config.cdi_devices.is_empty() {
        return Ok(());
    }
    let (settings, names) = (settings.clone(), config.cdi_devices.clone());
    let read = blocking(move || Ok(cdi::edits(&settings, &names)));
    let read = tokio::time::timeout(READ_TIMEOUT, read).await.map_err(|_| Error::CdiLate)?;
    let edits = read.map_err(Error::io("read CDI specs for", config.metadata.name.as_ref()))??;
    let hooks = edits.ignored_hooks();
    if !hooks.is_empty() {
        let (container, hooks) = (&config.metadata.name, hooks.join(", "));
        warn!(container, hooks, "hooks of CDI devices are not run (cdi.hooks)");
    }
    edits.apply(config);
    Ok(())
}
