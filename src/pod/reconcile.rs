//! The reconciler: retries what could not be taken away of a pod that nobody drives any more, for as long as the
//! daemon lives, and from its start on.

use std::{sync::Arc, time::Duration};

use tracing::{info, warn};

use super::{
    drive::clear,
    error::chain,
    keep::{
        blocking,
        owed::{self, Debt},
    },
    node::Node,
};

/// Between two rounds of retries: short at first, then as long as what is down stays down.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Pays what is owed, for ever.
pub(super) async fn run(node: Arc<Node>) {
    let mut pause = PAUSE_MIN;
    loop {
        for debt in node.debts.all() {
            pay(&node, debt).await;
        }
        let waits = !node.debts.all().is_empty();
        tokio::select! {
            () = node.debts.grown() => pause = PAUSE_MIN,
            () = tokio::time::sleep(pause), if waits => pause = (pause * 2).min(PAUSE_MAX),
        }
    }
}

/// One try at everything that is owed of a pod; its records go last, for they name the rest.
async fn pay(node: &Node, debt: Debt) {
    let pod = debt.pod.clone();
    let mut left = debt.clone();
    if debt.network {
        match node.network.detach(&pod).await {
            Ok(()) => left.network = false,
            Err(error) => warn!(%pod, error = %chain(&error), "the pod's network is still not released"),
        }
    }
    if let Some(cgroup) = debt.cgroup {
        match clear(cgroup).await {
            Ok(()) => left.cgroup = None,
            Err(error) => warn!(%pod, error = %chain(&error), "the pod's cgroup is still not removed"),
        }
    }
    if debt.records && !left.network && left.cgroup.is_none() {
        let (places, owned) = (node.places.clone(), pod.clone());
        match blocking(move || owed::remove_folders(&places, &owned)).await {
            Ok(()) => left.records = false,
            Err(error) => warn!(%pod, %error, "the pod's records are still not removed"),
        }
    }
    if left.is_paid() {
        info!(%pod, "took away at last what was left of a pod");
    }
    node.debts.pay(&node.places, left).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cgroup, model::PodId, pod::keep};

    #[tokio::test]
    async fn records_stay_until_nothing_else_is_owed() {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::fake(folder.path());
        let pod = PodId::from_bytes([7; 32]);
        for folder in [node.places.live(&pod), node.places.known(&pod)] {
            keep::make_folder(&folder).unwrap();
        }
        let cgroup = Some(cgroup::Handle::fake(&pod));
        node.debts.add(&node.places, Debt { pod: pod.clone(), network: false, cgroup, records: true }).await;
        pay(&node, node.debts.all().remove(0)).await;
        assert!(node.debts.all().is_empty() && !node.places.live(&pod).exists());
        assert!(!node.places.known(&pod).exists());
    }
}
