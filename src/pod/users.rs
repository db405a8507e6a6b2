//! Users of their own: whether this node can give pods some, and whose ids meet.

use std::path::Path;

use tracing::{info, warn};

use super::view::View;
use crate::{
    model::{IdMap, IdRange, PodId},
    supervisor,
};

/// Whether pods can have user namespaces of their own on this node, or why not. Asked once, when the daemon starts.
#[derive(Clone, Debug)]
pub struct UserNamespaces(Result<(), String>);

impl UserNamespaces {
    /// Tries it, in a process of its own, on the file system of `root`.
    pub async fn probe(root: &Path) -> Self {
        let probed = supervisor::probe_users(root).await;
        match &probed {
            Ok(()) => info!("pods can have user namespaces"),
            Err(reason) => warn!(%reason, "no pod can have a user namespace of its own"),
        }
        Self(probed)
    }

    /// For a node that makes no pods.
    pub(super) fn untried() -> Self {
        Self(Err("it was not tried".into()))
    }

    /// Whether they can.
    pub fn are_possible(&self) -> bool {
        self.0.is_ok()
    }

    /// Why they cannot.
    pub(super) fn check(&self) -> Result<(), String> {
        self.0.clone()
    }
}

/// Logs whose ids a new pod has too: whoever gets out of one of the two could be whoever is in the other. The kubelet
/// gives each pod its own.
pub(super) fn tell_shared_ids(id: &PodId, map: &IdMap, view: &View) {
    /// The users of the host itself, as distributions give them out (useradd(8), systemd's UIDS-GIDS).
    const HOST: IdRange = IdRange { container: 0, host: 0, length: 65_536 };
    let host = IdMap { uids: vec![HOST], gids: vec![HOST] };
    if map.shares_host_ids(&host) {
        warn!(pod = %id, "ids of the pod's user namespace are below 65536, and may be users of the host");
    }
    for other in view.pods.iter().filter(|pod| pod.ready && pod.id != *id) {
        if other.config.namespaces.users.map().is_some_and(|others| map.shares_host_ids(others)) {
            warn!(pod = %id, other = %other.id, "the user namespaces of two pods have ids of the host in common");
        }
    }
}
