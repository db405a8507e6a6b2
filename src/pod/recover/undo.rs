//! Taking away what there may be of a pod that does not go on, by whatever can be known of it.

use std::{path::Path, sync::Arc};

use tracing::{info, warn};

use super::decide::Remains;
use crate::{
    cgroup,
    pod::{
        drive::{Pod, end_pod, erase_pod_files},
        error::chain,
        keep::debts::Debt,
        node::Node,
    },
    supervisor::Client,
};

/// Its containers end with it; what images keep for them goes too. What cannot be taken away is a debt, and the
/// records stay until that is paid.
pub(super) async fn undo(node: &Arc<Node>, remains: Remains) {
    let Remains { id, config, created_at, cgroup, containers } = remains;
    let folder = node.places.live(&id);
    let node = Arc::clone(node);
    let pod = Arc::new(Pod { node, id, config, created_at, folder, cgroup, access: Arc::default() });
    for container in containers {
        pod.node.images.release(&container);
        if let Err(error) = pod.node.images.remove_writable(&container).await {
            warn!(%container, error = %chain(&error), "could not remove a writable layer");
        }
    }
    let connected = Client::connect(&pod.id, &pod.folder).await.ok().map(|(client, _)| client);
    // A folder that was moved here brings another pod's supervisor along.
    let client = connected.filter(|client| pod.cgroup.as_ref().is_some_and(|own| holds(own, client.pid())));
    if let Err(failure) = end_pod(&pod, client.as_ref()).await {
        warn!(pod = %pod.id, error = %chain(&failure.error), "could not undo all of a pod");
        let cgroup = pod.cgroup.clone().filter(|_| failure.cgroup_held);
        let debt = Debt { network: failure.network_held, cgroup, records: true, ..Debt::default() };
        let debt = debt.because(chain(&failure.error));
        return pod.node.debts.add(&pod.node.places, &pod.id, debt).await;
    }
    if let Err(error) = erase_pod_files(&pod).await {
        warn!(pod = %pod.id, error = %chain(&error), "could not remove the records of an undone pod");
        let debt = Debt { records: true, ..Debt::default() }.because(chain(&error));
        return pod.node.debts.add(&pod.node.places, &pod.id, debt).await;
    }
    info!(pod = %pod.id, "undid a pod");
}

/// Whether process `pid` is in the pod's cgroup (proc_pid_cgroup(5), `hierarchy:controllers:path`).
pub(super) fn holds(cgroup: &cgroup::Handle, pid: u32) -> bool {
    let below = |line: &str| {
        line.splitn(3, ':').nth(2).is_some_and(|path| Path::new(path).starts_with(cgroup.path()))
    };
    std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.lines().any(below))
}
