//! The reconciler: retries what could not be taken away of pods and containers that nobody drives any more, for as
//! long as the daemon lives, and from its start on.

use std::{sync::Arc, time::Instant};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::Semaphore;
use tracing::{info, warn};

use super::{
    drive::clear,
    error::{Error, chain},
    keep::{
        self, blocking,
        debts::{self, ContainerDebt, Debt},
    },
    node::Node,
};
use crate::{
    model::{ContainerId, PodId},
    store::{self, Durability},
    sys::descriptors,
};

/// Networks that are released at the same time. Fewer than plugins may be asked for at once, so that those that hang here
/// keep no pod from being stopped.
const RELEASES: usize = 4;

/// Pays debts, for ever. Each pod's are a try of their own: one that hangs keeps no other from being paid.
pub(super) async fn run(node: Arc<Node>) {
    let (node, releases) = (&*node, &Semaphore::new(RELEASES));
    let mut tries = FuturesUnordered::new();
    loop {
        for (pod, debt) in node.debts.begin_due(Instant::now()) {
            tries.push(async move { pay(node, &pod, debt, releases).await });
        }
        let next = async {
            match node.debts.next() {
                Some(next) => tokio::time::sleep_until(next.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(()) = tries.next() => {}
            () = node.debts.grown() => {}
            () = node.network.plugins_released() => node.debts.hurry_networks(),
            () = next => {}
        }
    }
}

/// One try at all debts of a pod; its records go last, for they name the rest.
async fn pay(node: &Node, pod: &PodId, debt: Debt, releases: &Semaphore) {
    let _reserve = descriptors::lend_reserve();
    let mut left = Debt { cause: String::new(), ..debt.clone() };
    for (container, owed) in &debt.containers {
        match pay_container(node, pod, container, owed).await {
            Ok(()) => drop(left.containers.remove(container)),
            Err(error) => still(&mut left, pod, &format!("container {container}"), &error),
        }
    }
    if let Some(cgroup) = debt.cgroup.clone() {
        match clear(cgroup).await {
            Ok(()) => left.cgroup = None,
            Err(error) => still(&mut left, pod, "cgroup", &error),
        }
    }
    if debt.network {
        let _turn = releases.acquire().await;
        match node.network.detach(pod).await {
            Ok(()) => left.network = false,
            Err(error) => still(&mut left, pod, "network", &error.into()),
        }
    }
    if debt.records && !left.network && left.cgroup.is_none() && left.containers.is_empty() {
        let (places, owned) = (node.places.clone(), pod.clone());
        match blocking(move || debts::remove_folders(&places, &owned)).await {
            Ok(()) => left.records = false,
            Err(error) => {
                still(&mut left, pod, "records", &Error::io("remove", &node.places.live(pod))(error))
            }
        }
    }
    if left.is_paid() {
        info!(%pod, objects = ?debt.objects(), "took away at last what was left");
    }
    node.debts.settle(&node.places, pod, &debt, left).await;
}

/// Another try has failed. The log has each cause once.
fn still(left: &mut Debt, pod: &PodId, object: &str, error: &Error) {
    left.cause = format!("{object}: {}", chain(error));
    warn!(%pod, object, error = %chain(error), "still not taken away");
}

async fn pay_container(
    node: &Node,
    pod: &PodId,
    id: &ContainerId,
    debt: &ContainerDebt,
) -> Result<(), Error> {
    if let Some(handle) = &debt.cgroup {
        clear(handle.container(id)).await?;
    }
    node.images.remove_writable(id).await?;
    let (live, known) = (node.places.live(pod), node.places.known(pod));
    let (folder, owned) = (live.clone(), id.clone());
    let remove = move || {
        let paths = keep::files_of_container(&live, &known, &owned);
        paths.iter().try_for_each(|path| store::remove(path, Durability::Process))
    };
    blocking(remove).await.map_err(Error::io("remove the records of a container in", &folder))?;
    node.images.release(id);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs};

    use super::*;
    use crate::cgroup;

    fn folders(node: &Node, pod: &PodId) -> [std::path::PathBuf; 2] {
        let folders = [node.places.live(pod), node.places.known(pod)];
        folders.iter().for_each(|folder| keep::make_folder(folder).unwrap());
        folders
    }

    #[tokio::test]
    async fn records_stay_until_nothing_else_is_a_debt() {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::fake(folder.path());
        let pod = PodId::from_bytes([7; 32]);
        let [live, known] = folders(&node, &pod);
        let cgroup = Some(cgroup::Handle::fake(&pod));
        let debt = Debt { cgroup, records: true, ..Debt::default() };
        node.debts.add(&node.places, &pod, debt.clone()).await;
        pay(&node, &pod, debt, &Semaphore::new(1)).await;
        assert!(node.debts.pods().is_empty() && !live.exists() && !known.exists());
    }

    #[tokio::test]
    async fn a_container_is_taken_away_with_its_writable_layer_and_the_pod_stays() {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::fake(folder.path());
        let pod = PodId::from_bytes([7; 32]);
        let [live, known] = folders(&node, &pod);
        let id = ContainerId::from_bytes([8; 32]);
        let writable = node.images.make_writable(&id).unwrap();
        let own = keep::files_of_container(&live, &known, &id);
        own.iter().for_each(|path| fs::write(path, "").unwrap());
        fs::write(keep::pod_file(&live), "").unwrap();
        let containers = BTreeMap::from([(id, ContainerDebt::default())]);
        let debt = Debt { containers, ..Debt::default() };
        node.debts.add(&node.places, &pod, debt.clone()).await;
        pay(&node, &pod, debt, &Semaphore::new(1)).await;
        assert!(node.debts.pods().is_empty() && !writable.exists());
        assert!(own.iter().all(|path| !path.exists()) && keep::pod_file(&live).exists());
    }
}
