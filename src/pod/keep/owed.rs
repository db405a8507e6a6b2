//! Networks that could not be released when their pod was stopped. Each is a file on disk, retried until it
//! works: the pod may be long removed by then.

use std::{sync::Arc, time::Duration};

use tracing::{error, info, warn};

use super::{blocking, pods_in, put};
use crate::{
    model::PodId,
    pod::{error::chain, node::Node},
    store::{self, Durability},
};

/// Between two rounds of retries: a plugin that is down stays down for minutes, and an address is not urgent.
const PAUSE: Duration = Duration::from_secs(60);

/// Writes down that the pod's network is to be released.
pub(in crate::pod) async fn note(node: &Node, pod: &PodId) {
    let path = node.places.owed().join(pod.as_str());
    if let Err(error) = put(path, pod.clone()).await {
        error!(%pod, error = %chain(&error), "the pod's network is not released, and that could not be noted");
    }
}

/// The pods whose network is owed.
pub(in crate::pod) fn list(node: &Node) -> Vec<PodId> {
    pods_in(&node.places.owed()).unwrap_or_default()
}

/// Releases what is owed, for as long as the daemon lives.
pub(in crate::pod) async fn repay(node: Arc<Node>) {
    loop {
        let reader = Arc::clone(&node);
        for pod in blocking(move || Ok(list(&reader))).await.unwrap_or_default() {
            repay_one(&node, &pod).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn repay_one(node: &Node, pod: &PodId) {
    match node.network.detach(pod).await {
        Ok(()) => {
            let path = node.places.owed().join(pod.as_str());
            if let Err(error) = blocking(move || store::remove(&path, Durability::Process)).await {
                warn!(%pod, %error, "could not strike out a released network");
            }
            info!(%pod, "released the network of a stopped pod at last");
        }
        Err(error) => {
            warn!(%pod, error = %chain(&error), "the network of a stopped pod is still not released")
        }
    }
}
