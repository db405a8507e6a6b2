//! Debts: what is still to be taken away of pods that nobody drives any more. Each is a file on disk, and retried
//! by `reconcile.rs` until it is paid.

use std::{
    collections::BTreeMap,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tracing::error;

use super::{Places, blocking, pods_in, put};
use crate::{
    cgroup,
    model::PodId,
    pod::error::chain,
    store::{self, Durability},
};

/// What is owed of one pod. Fields are only ever added.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(in crate::pod) struct Debt {
    pub(in crate::pod) pod: PodId,
    /// Its link and addresses are to be released.
    #[serde(default)]
    pub(in crate::pod) network: bool,
    /// To be emptied and removed.
    #[serde(default)]
    pub(in crate::pod) cgroup: Option<cgroup::Handle>,
    /// Its folders are to be removed, when nothing else is owed.
    #[serde(default)]
    pub(in crate::pod) records: bool,
}

impl Debt {
    pub(in crate::pod) fn is_paid(&self) -> bool {
        !self.network && self.cgroup.is_none() && !self.records
    }
}

/// All that is owed on this node. What the disk does not take is kept here, for as long as the daemon lives.
#[derive(Debug, Default)]
pub(in crate::pod) struct Debts {
    by_pod: Mutex<BTreeMap<PodId, Debt>>,
    grown: Notify,
}

impl Debts {
    /// Reads what earlier daemons owed. Blocking.
    pub(in crate::pod) fn load(&self, places: &Places) {
        for pod in pods_in(&places.owed()).unwrap_or_default() {
            // Before there were other debts, the file held the pod's id: its network was owed.
            let network = || Debt { pod: pod.clone(), network: true, cgroup: None, records: false };
            let debt = store::get::<Debt>(&places.owed().join(pod.as_str())).ok();
            let debt = debt.filter(|debt| debt.pod == pod).unwrap_or_else(network);
            self.locked().insert(pod, debt);
        }
    }

    /// Owes this too.
    pub(in crate::pod) async fn add(&self, places: &Places, debt: Debt) {
        if debt.is_paid() {
            return;
        }
        let whole = {
            let mut all = self.locked();
            let whole = all.entry(debt.pod.clone()).or_insert_with(|| debt.clone());
            whole.network |= debt.network;
            whole.records |= debt.records;
            whole.cgroup = whole.cgroup.take().or(debt.cgroup);
            whole.clone()
        };
        self.grown.notify_one();
        write(places, whole).await;
    }

    /// What is left of a debt of which something was paid.
    pub(in crate::pod) async fn pay(&self, places: &Places, left: Debt) {
        if !left.is_paid() {
            self.locked().insert(left.pod.clone(), left.clone());
            return write(places, left).await;
        }
        self.locked().remove(&left.pod);
        let path = places.owed().join(left.pod.as_str());
        if let Err(error) = blocking(move || store::remove(&path, Durability::Process)).await {
            // It will be paid again, which is success.
            error!(pod = %left.pod, %error, "could not strike out what was owed of a pod");
        }
    }

    pub(in crate::pod) fn all(&self) -> Vec<Debt> {
        self.locked().values().cloned().collect()
    }

    /// The pods of which anything is owed.
    pub(in crate::pod) fn pods(&self) -> Vec<PodId> {
        self.locked().keys().cloned().collect()
    }

    /// Waits until more is owed.
    pub(in crate::pod) async fn grown(&self) {
        self.grown.notified().await;
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<PodId, Debt>> {
        self.by_pod.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn write(places: &Places, debt: Debt) {
    let (pod, path) = (debt.pod.clone(), places.owed().join(debt.pod.as_str()));
    if let Err(error) = put(path, debt).await {
        error!(%pod, error = %chain(&error), "what is owed of a pod could not be noted; this daemon remembers it");
    }
}

/// Removes the folders of a pod. The disk goes first: a folder that is only on tmpfs cannot come back after a
/// reboot. Blocking.
pub(in crate::pod) fn remove_folders(places: &Places, pod: &PodId) -> io::Result<()> {
    super::remove_folder(&places.known(pod))?;
    super::remove_folder(&places.live(pod))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn debts_outlive_the_daemon_and_are_struck_out_when_paid() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places { state: folder.path().join("run"), root: folder.path().join("lib") };
        places.make().unwrap();
        let pod = PodId::from_bytes([7; 32]);
        let handle = cgroup::Handle::fake(&pod);
        let debts = Debts::default();
        let debt = |network, cgroup| Debt { pod: pod.clone(), network, cgroup, records: false };
        debts.add(&places, debt(true, None)).await;
        debts.add(&places, debt(false, Some(handle.clone()))).await;
        let later = Debts::default();
        later.load(&places);
        assert_eq!(later.all(), [debt(true, Some(handle))]);
        later.pay(&places, debt(false, None)).await;
        let last = Debts::default();
        last.load(&places);
        assert_eq!((last.all(), later.all()), (vec![], vec![]));
        // As earlier releases wrote it.
        put(places.owed().join(pod.as_str()), pod.clone()).await.unwrap();
        last.load(&places);
        assert_eq!(last.all(), [debt(true, None)]);
    }

    #[tokio::test]
    async fn what_the_disk_does_not_take_is_owed_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places { state: folder.path().join("run"), root: folder.path().join("absent") };
        let debts = Debts::default();
        let pod = PodId::from_bytes([7; 32]);
        debts.add(&places, Debt { pod: pod.clone(), network: true, cgroup: None, records: true }).await;
        assert_eq!(debts.pods(), [pod]);
    }
}
