use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures_util::future::{BoxFuture, Shared};
use tokio::sync::{mpsc, watch};

use super::{
    admission::Admission, announce::Event, config::Config, driver::Call, error::Error, exec::Execs,
    keep::Places, names::Names, view::Board,
};
use crate::{
    cgroup,
    event::Journal,
    image::Images,
    model::{ContainerId, PodId, ProcessPlan, UnixNanos},
    network::Network,
    supervisor::{Client, Zygote},
};

/// What the pods of a node stand on.
#[derive(Debug)]
pub struct Deps {
    pub zygote: Zygote,
    pub cgroups: cgroup::Manager,
    pub network: Network,
    pub images: Images,
    /// `/run/pintle`: gone after a reboot.
    pub state_dir: PathBuf,
    /// `/var/lib/pintle`: kept.
    pub root_dir: PathBuf,
    /// `/proc/sys/kernel/random/boot_id`
    pub boot_id: String,
    pub config: Config,
}

/// A call that several may wait for.
pub(super) type Join = Shared<BoxFuture<'static, Result<PodId, Arc<Error>>>>;

/// How to reach a pod's driver.
#[derive(Clone, Debug)]
pub(super) struct Reach {
    pub(super) calls: mpsc::Sender<Call>,
    pub(super) access: Arc<SupervisorAccess>,
}

/// What is asked of a pod's supervisor past its driver: execs and logs, which change no state.
#[derive(Debug, Default)]
pub(super) struct SupervisorAccess {
    /// `None` while the supervisor cannot be reached.
    client: watch::Sender<Option<Client>>,
    /// What each container's init was planned as; filled when first needed.
    inits: Mutex<HashMap<ContainerId, Arc<ProcessPlan>>>,
}

/// How long an exec waits for a supervisor that is being reached, as after a start of the daemon: as long as
/// a supervisor may take to answer.
const REACH_WAIT_MAX: Duration = Duration::from_secs(2);

impl SupervisorAccess {
    pub(super) fn set_client(&self, client: Option<Client>) {
        self.client.send_replace(client);
    }

    /// `None` when it could not be reached in time.
    pub(super) async fn client(&self) -> Option<Client> {
        let mut changes = self.client.subscribe();
        let reached = tokio::time::timeout(REACH_WAIT_MAX, changes.wait_for(Option::is_some)).await;
        reached.ok()?.ok()?.clone()
    }

    pub(super) fn init(&self, id: &ContainerId) -> Option<Arc<ProcessPlan>> {
        locked(&self.inits).get(id).cloned()
    }

    pub(super) fn keep_init(&self, id: &ContainerId, plan: Arc<ProcessPlan>) {
        locked(&self.inits).insert(id.clone(), plan);
    }

    pub(super) fn forget_init(&self, id: &ContainerId) {
        locked(&self.inits).remove(id);
    }
}

/// What all drivers share.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) cgroups: cgroup::Manager,
    pub(super) network: Network,
    pub(super) images: Images,
    pub(super) places: Places,
    pub(super) boot_id: String,
    /// What this node can give to a container at most.
    pub(super) held_capabilities: u64,
    pub(super) config: Config,
    pub(super) creates: Admission,
    pub(super) execs: Execs,
    pub(super) board: Arc<Board>,
    pub(super) events: Journal<Event>,
    names: Mutex<Names<Join, Reach>>,
    latest: AtomicI64,
}

impl Node {
    pub(super) fn new(deps: Deps) -> (Self, Zygote) {
        let Deps { zygote, cgroups, network, images, state_dir, root_dir, boot_id, config } = deps;
        let places = Places { state: state_dir, root: root_dir };
        (Self::on(cgroups, network, images, places, boot_id, config), zygote)
    }

    /// Without the process that new pods come from: recovery needs none.
    pub(super) fn on(
        cgroups: cgroup::Manager,
        network: Network,
        images: Images,
        places: Places,
        boot_id: String,
        config: Config,
    ) -> Self {
        Self {
            cgroups,
            network,
            images,
            places,
            boot_id,
            held_capabilities: crate::sys::privilege::held_capabilities().unwrap_or(u64::MAX),
            creates: Admission::new(config.creates_running(), config.creates_waiting_max),
            config,
            execs: Execs::default(),
            board: Arc::default(),
            events: Journal::default(),
            names: Mutex::default(),
            latest: AtomicI64::new(0),
        }
    }

    /// Never held over an await: the guard is not `Send`.
    pub(super) fn names(&self) -> MutexGuard<'_, Names<Join, Reach>> {
        locked(&self.names)
    }

    /// A moment for `created_at`: later than every one before, also when the clock was set back. The kubelet
    /// takes the newest of a pod's sandboxes for the one that counts.
    pub(super) fn creation_time(&self) -> UnixNanos {
        let now = UnixNanos::from(SystemTime::now()).0;
        let later = |latest| Some(now.max(latest + 1));
        match self.latest.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later) {
            Ok(latest) => UnixNanos(now.max(latest + 1)),
            Err(latest) => UnixNanos(latest),
        }
    }

    /// A moment that an earlier daemon has given out.
    pub(super) fn seen_creation(&self, at: UnixNanos) {
        self.latest.fetch_max(at.0, Ordering::Relaxed);
    }
}

/// A panic ends the daemon (`panic = "abort"`), so a poisoned lock can only be met in a test.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
