//! The ways to a pod: to its driver by calls, and past it to its supervisor.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot, watch};

use super::{
    error::Error,
    life::{Answer, Call},
};
use crate::{
    model::{ContainerId, ProcessPlan},
    supervisor::Client,
};

/// Where an answer goes. The caller may be gone; the work is not.
pub(super) type Reply = oneshot::Sender<Result<Answer, Error>>;

/// A call on its way to a driver.
#[derive(Debug)]
pub(super) struct Mail {
    pub(super) call: Call,
    pub(super) reply: Reply,
}

/// How to reach a pod's driver.
#[derive(Clone, Debug)]
pub(super) struct Reach {
    pub(super) calls: mpsc::Sender<Mail>,
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

/// A panic ends the daemon (`panic = "abort"`), so a poisoned lock can only be met in a test.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
