//! Debts: what is still to be taken away, of pods that nobody drives any more and of containers that were never to
//! be. Those of a pod are a file on disk, and retried by `reconcile.rs` until they are paid.

use std::{
    collections::BTreeMap,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tracing::error;

use super::{Places, blocking, pods_in, put};
use crate::{
    cgroup,
    model::{ContainerId, PodId, UnixNanos},
    pod::error::chain,
    store::{self, Durability},
};

/// Between two tries: short at first, then as long as what is down stays down.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// The longest pause of a network's debts once plugins have released another pod: they are well again. Not shorter, for one
/// pod's debt may never be paid while others come and go.
const PAUSE_AFTER_RELEASE: Duration = Duration::from_secs(5);

/// The debts of one pod. Fields are only ever added.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(in crate::pod) struct Debt {
    /// Its link and addresses are to be released.
    #[serde(default)]
    pub(in crate::pod) network: bool,
    /// To be emptied and removed.
    #[serde(default)]
    pub(in crate::pod) cgroup: Option<cgroup::Handle>,
    /// Its folders are to be removed, when nothing else of it is a debt.
    #[serde(default)]
    pub(in crate::pod) records: bool,
    /// Containers of which something is left, while their pod goes on or does not.
    #[serde(default)]
    pub(in crate::pod) containers: BTreeMap<ContainerId, ContainerDebt>,
    /// Why the last try has failed.
    #[serde(default)]
    pub(in crate::pod) cause: String,
    /// When it was made.
    #[serde(default)]
    pub(in crate::pod) since: UnixNanos,
}

/// What is still to be taken away of a container, its records last. Its writable layer and the mark that keeps its
/// image always are.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(in crate::pod) struct ContainerDebt {
    /// The pod's cgroup, in which the container's is to be removed.
    #[serde(default)]
    pub(in crate::pod) cgroup: Option<cgroup::Handle>,
}

/// The file of a pod's debts.
#[derive(Debug, Deserialize, Serialize)]
struct DebtRecord {
    pod: PodId,
    #[serde(flatten)]
    debt: Debt,
}

impl Debt {
    pub(in crate::pod) fn is_paid(&self) -> bool {
        !self.network && self.cgroup.is_none() && !self.records && self.containers.is_empty()
    }

    /// Because of this.
    pub(in crate::pod) fn because(self, cause: impl ToString) -> Self {
        Self { cause: cause.to_string(), ..self }
    }

    /// What is to be taken away, in an operator's words.
    pub(in crate::pod) fn objects(&self) -> Vec<String> {
        let mut objects = Vec::new();
        if self.network {
            objects.push("network".to_owned());
        }
        if let Some(cgroup) = &self.cgroup {
            objects.push(format!("cgroup {}", cgroup.path()));
        }
        objects.extend(self.containers.keys().map(|id| format!("container {id}")));
        if self.records {
            objects.push("records".to_owned());
        }
        objects
    }
}

/// A debt, and when it is tried again.
#[derive(Clone, Debug)]
struct Entry {
    debt: Debt,
    /// Since when `pause` is waited for: the debt was made, or the last try ended.
    since: Instant,
    pause: Duration,
    /// A try is under way; there is never another beside it.
    tried_now: bool,
}

impl Entry {
    fn next(&self) -> Instant {
        self.since + self.pause
    }
}

/// A debt as an operator is shown it.
#[derive(Clone, Debug)]
pub(in crate::pod) struct Outstanding {
    pub(in crate::pod) pod: PodId,
    pub(in crate::pod) debt: Debt,
    pub(in crate::pod) next_try: Duration,
}

/// All debts of this node. What the disk does not take is kept here, for as long as the daemon lives.
#[derive(Debug, Default)]
pub(in crate::pod) struct Debts {
    by_pod: Mutex<BTreeMap<PodId, Entry>>,
    grown: Notify,
}

impl Debts {
    /// Reads the debts of earlier daemons, to be tried at once. Blocking.
    pub(in crate::pod) fn load(&self, places: &Places) {
        for pod in pods_in(&places.debts()).unwrap_or_default() {
            // Before there were other debts, the file held the pod's id: its network was one.
            let network = || Debt { network: true, ..Debt::default() };
            let record = store::get::<DebtRecord>(&places.debts().join(pod.as_str())).ok();
            let debt = record.filter(|record| record.pod == pod).map_or_else(network, |record| record.debt);
            let (since, pause) = (Instant::now(), Duration::ZERO);
            self.locked().insert(pod, Entry { debt, since, pause, tried_now: false });
        }
    }

    /// Adds to the debts of a pod; the first try is a second away.
    pub(in crate::pod) async fn add(&self, places: &Places, pod: &PodId, debt: Debt) {
        if debt.is_paid() {
            return;
        }
        let whole = {
            let since = Instant::now();
            let mut all = self.locked();
            let entry = all.entry(pod.clone()).or_insert_with(|| {
                let debt = Debt { since: SystemTime::now().into(), ..Debt::default() };
                Entry { debt, since, pause: PAUSE_MIN, tried_now: false }
            });
            (entry.pause, entry.since) = (PAUSE_MIN, since);
            let whole = &mut entry.debt;
            whole.network |= debt.network;
            whole.records |= debt.records;
            whole.cgroup = whole.cgroup.take().or(debt.cgroup);
            whole.containers.extend(debt.containers);
            whole.cause = debt.cause;
            whole.clone()
        };
        self.grown.notify_one();
        write(places, pod, whole).await;
    }

    /// One try at `tried` is over, and this is left of it. What was added meanwhile stays.
    pub(in crate::pod) async fn settle(&self, places: &Places, pod: &PodId, tried: &Debt, left: Debt) {
        let whole = {
            let mut all = self.locked();
            let Some(entry) = all.get_mut(pod) else { return };
            let whole = &mut entry.debt;
            whole.network &= left.network || !tried.network;
            whole.records &= left.records || !tried.records;
            if left.cgroup.is_none() && whole.cgroup == tried.cgroup {
                whole.cgroup = None;
            }
            whole
                .containers
                .retain(|id, _| left.containers.contains_key(id) || !tried.containers.contains_key(id));
            if !left.cause.is_empty() {
                whole.cause = left.cause;
            }
            entry.pause = (entry.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
            (entry.since, entry.tried_now) = (Instant::now(), false);
            let whole = entry.debt.clone();
            if whole.is_paid() {
                all.remove(pod);
            }
            whole
        };
        if !whole.is_paid() {
            return write(places, pod, whole).await;
        }
        let path = places.debts().join(pod.as_str());
        if let Err(error) = blocking(move || store::remove(&path, Durability::Process)).await {
            // It will be paid again, which is success.
            error!(%pod, %error, "could not remove the record of a debt that is paid");
        }
    }

    /// Begins a try at those whose time has come; [`Debts::settle`] ends it.
    pub(in crate::pod) fn begin_due(&self, now: Instant) -> Vec<(PodId, Debt)> {
        let mut all = self.locked();
        let due = all.iter_mut().filter(|(_, entry)| !entry.tried_now && entry.next() <= now);
        let begin = |(pod, entry): (&PodId, &mut Entry)| {
            entry.tried_now = true;
            (pod.clone(), entry.debt.clone())
        };
        due.map(begin).collect()
    }

    /// When the next try is due; `None`: there are no debts but those of tries under way.
    pub(in crate::pod) fn next(&self) -> Option<Instant> {
        self.locked().values().filter(|entry| !entry.tried_now).map(Entry::next).min()
    }

    /// Plugins have just released another pod: what they would not release before is tried again soon.
    pub(in crate::pod) fn hurry_networks(&self) {
        for entry in self.locked().values_mut().filter(|entry| entry.debt.network) {
            entry.pause = entry.pause.min(PAUSE_AFTER_RELEASE);
        }
    }

    /// All of them.
    pub(in crate::pod) fn outstanding(&self) -> Vec<Outstanding> {
        let now = Instant::now();
        let shown = |(pod, entry): (&PodId, &Entry)| Outstanding {
            pod: pod.clone(),
            debt: entry.debt.clone(),
            next_try: entry.next().saturating_duration_since(now),
        };
        self.locked().iter().map(shown).collect()
    }

    /// The pods that have debts.
    pub(in crate::pod) fn pods(&self) -> Vec<PodId> {
        self.locked().keys().cloned().collect()
    }

    /// Waits until there are more.
    pub(in crate::pod) async fn grown(&self) {
        self.grown.notified().await;
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<PodId, Entry>> {
        self.by_pod.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn write(places: &Places, pod: &PodId, debt: Debt) {
    let path = places.debts().join(pod.as_str());
    if let Err(error) = put(path, DebtRecord { pod: pod.clone(), debt }).await {
        error!(%pod, error = %chain(&error), "the debts of a pod could not be written; this daemon remembers them");
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

    fn debts_of(debts: &Debts) -> Vec<Debt> {
        let debt = |outstanding: Outstanding| Debt { since: UnixNanos::default(), ..outstanding.debt };
        debts.outstanding().into_iter().map(debt).collect()
    }

    #[tokio::test]
    async fn debts_outlive_the_daemon_and_are_struck_out_when_paid() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places { state: folder.path().join("run"), root: folder.path().join("lib") };
        places.make().unwrap();
        let pod = PodId::from_bytes([7; 32]);
        let cgroup = Some(cgroup::Handle::fake(&pod));
        let container = ContainerDebt { cgroup: cgroup.clone() };
        let containers = BTreeMap::from([(ContainerId::from_bytes([8; 32]), container)]);
        let debts = Debts::default();
        let network = Debt { network: true, ..Debt::default() };
        debts.add(&places, &pod, network.clone()).await;
        debts.add(&places, &pod, Debt { cgroup: cgroup.clone(), ..Debt::default() }).await;
        let last = Debt { containers: containers.clone(), ..Debt::default() }.because("a volume hangs");
        debts.add(&places, &pod, last).await;
        let later = Debts::default();
        later.load(&places);
        let whole = Debt { network: true, cgroup, containers, ..Debt::default() }.because("a volume hangs");
        assert_eq!(debts_of(&later), std::slice::from_ref(&whole));
        assert_eq!(later.begin_due(Instant::now()).len(), 1, "a start tries at once");
        assert_eq!(later.begin_due(Instant::now()), [], "nobody tries beside another");
        // What was added during a try is not paid by it.
        later.add(&places, &pod, Debt { records: true, ..Debt::default() }.because("full")).await;
        later.settle(&places, &pod, &whole, Debt::default()).await;
        let records = Debt { records: true, ..Debt::default() };
        assert_eq!(debts_of(&later), [records.clone().because("full")]);
        later.settle(&places, &pod, &records, Debt::default()).await;
        let last = Debts::default();
        last.load(&places);
        assert_eq!((debts_of(&last), debts_of(&later)), (vec![], vec![]));
        // As earlier releases wrote it.
        put(places.debts().join(pod.as_str()), pod.clone()).await.unwrap();
        last.load(&places);
        assert_eq!(debts_of(&last), [network]);
    }

    #[tokio::test]
    async fn what_the_disk_does_not_take_is_a_debt_all_the_same_and_tried_less_and_less_often() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places { state: folder.path().join("run"), root: folder.path().join("absent") };
        let debts = Debts::default();
        let pod = PodId::from_bytes([7; 32]);
        let debt = Debt { network: true, records: true, ..Debt::default() };
        debts.add(&places, &pod, debt.clone()).await;
        assert_eq!((debts.pods(), debts.begin_due(Instant::now()).len()), (vec![pod.clone()], 0));
        let mut pauses = Vec::new();
        for _ in 0..7 {
            debts.settle(&places, &pod, &debt, debt.clone()).await;
            pauses.push(debts.locked()[&pod].pause.as_secs());
        }
        assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60]);
    }

    #[tokio::test]
    async fn debts_of_networks_are_tried_soon_after_plugins_have_released_a_pod() {
        let folder = tempfile::tempdir().unwrap();
        let places = Places { state: folder.path().join("run"), root: folder.path().join("lib") };
        places.make().unwrap();
        let debts = Debts::default();
        let (network, other) = (PodId::from_bytes([7; 32]), PodId::from_bytes([8; 32]));
        for (pod, debt) in [
            (&network, Debt { network: true, ..Debt::default() }),
            (&other, Debt { records: true, ..Debt::default() }),
        ] {
            debts.add(&places, pod, debt.clone()).await;
            for _ in 0..6 {
                debts.settle(&places, pod, &debt, debt.clone()).await;
            }
        }
        let due_in = |seconds| {
            let due = debts.begin_due(Instant::now() + Duration::from_secs(seconds));
            due.into_iter().map(|(pod, _)| pod).collect::<Vec<_>>()
        };
        assert_eq!(due_in(30), []);
        debts.hurry_networks();
        assert_eq!(due_in(1), [], "another try at once would be one for each pod that goes");
        assert_eq!(due_in(6), std::slice::from_ref(&network));
        assert_eq!(debts.next().map(|next| next > Instant::now() + Duration::from_secs(30)), Some(true));
    }
}
