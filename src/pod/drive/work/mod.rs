//! What takes time: the supervisor, images, the network, processes that will not die. Each piece of work is a
//! future that decides nothing; what came of it goes back to the driver as a [`Report`].

mod erase;
mod kill;
mod limit;
mod make_container;
mod make_pod;
mod reach;
mod signal;
mod tear_down;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::{sync::OwnedSemaphorePermit, time};

use super::pod::Pod;
use crate::{
    model::{ContainerId, Failure},
    pod::{
        error::Error,
        life::{Ends, Outcome, Work},
    },
    supervisor::{Client, Zygote},
};

pub(in crate::pod) use erase::erase_pod_files;
pub(super) use make_pod::Leftovers;
pub(in crate::pod) use tear_down::{clear, end_pod};

/// How long a supervisor may take for a signal or a kill before the daemon does it itself.
const SUPERVISOR_ANSWER_MAX: Duration = Duration::from_secs(2);

/// Work on the way.
pub(super) type Running = Pin<Box<dyn Future<Output = Report> + Send>>;

/// What came of it.
#[derive(Debug)]
pub(super) enum Report {
    Nothing,
    Outcome(Outcome),
    /// There is a connection to the supervisor.
    Connected(Client, Outcome),
    SupervisorEnded,
    /// A container may be made.
    Turn(ContainerId, OwnedSemaphorePermit),
    /// The pod could not be made, and this is left of it.
    PodFailed(Leftovers, Error),
}

/// What the driver gives to a piece of work.
#[derive(Debug)]
pub(super) struct Means {
    pub(super) pod: Arc<Pod>,
    /// The supervisor, if it can be reached.
    pub(super) client: Option<Client>,
    /// A supervisor to which the connection was lost.
    pub(super) lost: Option<Client>,
    /// For a new pod.
    pub(super) zygote: Option<Arc<Zygote>>,
    /// What a failed making has left; `None`: all of the pod.
    pub(super) leftovers: Option<Leftovers>,
    /// The turn in which the container of this work is made.
    pub(super) turn: Option<OwnedSemaphorePermit>,
}

/// Begins the work.
pub(super) fn begin(work: Work, means: Means) -> Running {
    let Means { pod, client, lost, zygote, leftovers, turn } = means;
    match work {
        Work::MakePod => Box::pin(make_pod::make(pod, zygote)),
        Work::UndoPod => Box::pin(make_pod::undo(pod, client, leftovers)),
        Work::Reach { pid, once: true } => Box::pin(reach::try_once(pod, pid)),
        Work::Reach { pid, once: false } => Box::pin(reach::keep_trying(pod, lost, pid)),
        Work::AwaitTurn(id) => Box::pin(make_container::await_turn(pod, id)),
        Work::MakeContainer { id, config } => Box::pin(make_container::make(pod, client, id, config, turn)),
        Work::UnmakeContainer(id) => Box::pin(make_container::unmake(pod, client, id)),
        Work::Start(id) => Box::pin(reach::start(pod, client, id)),
        Work::Signal { id, signal, init } => Box::pin(signal::signal(client, id, signal, init)),
        Work::KillRound { id, init, round } => Box::pin(kill::round(pod, client, id, init, round)),
        Work::KillLeaf(id) => Box::pin(kill::leaf(pod, id)),
        Work::FindEnds(Ends::Orphaned(ids)) => Box::pin(kill::orphans(pod, ids)),
        Work::FindEnds(Ends::Unknown(id)) => Box::pin(kill::unknown(pod, id)),
        Work::Disown(id) => Box::pin(reach::disown(client, id)),
        Work::Acknowledge(id) => Box::pin(reach::acknowledge(client, id)),
        Work::KeepEnd { id, started_at, exit } => Box::pin(erase::keep_end(pod, id, started_at, *exit)),
        Work::Limit(change) => Box::pin(limit::container(pod, *change)),
        Work::LimitPod { after } => Box::pin(limit::pod(pod, *after)),
        Work::TakeBack(id, changed) => Box::pin(limit::take_back(pod, id, changed)),
        Work::EraseContainer(id) => Box::pin(erase::container(pod, client, id)),
        Work::TearDown => Box::pin(tear_down::tear_down(pod, client)),
        Work::ErasePod => Box::pin(erase::pod(pod)),
    }
}

/// Whether the supervisor has done it, in time.
async fn answered(call: impl Future<Output = Result<(), Failure>>) -> bool {
    matches!(time::timeout(SUPERVISOR_ANSWER_MAX, call).await, Ok(Ok(())))
}
