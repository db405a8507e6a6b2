//! Retrying what could not be taken away, for as long as the daemon lives.

use std::{sync::Arc, time::Duration};

use tracing::{info, warn};

use super::{
    error::chain,
    keep::{blocking, owed},
    node::Node,
};
use crate::model::PodId;

/// Between two rounds of retries: a plugin that is down stays down for minutes, and an address is not urgent.
const PAUSE: Duration = Duration::from_secs(60);

/// Releases the networks that are owed.
pub(super) async fn run(node: Arc<Node>) {
    loop {
        let places = node.places.clone();
        for pod in blocking(move || Ok(owed::list(&places))).await.unwrap_or_default() {
            release(&node, &pod).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn release(node: &Node, pod: &PodId) {
    match node.network.detach(pod).await {
        Ok(()) => {
            if let Err(error) = owed::strike_out(&node.places, pod).await {
                warn!(%pod, %error, "could not strike out a released network");
            }
            info!(%pod, "released the network of a stopped pod at last");
        }
        Err(error) => {
            warn!(%pod, error = %chain(&error), "the network of a stopped pod is still not released");
        }
    }
}
