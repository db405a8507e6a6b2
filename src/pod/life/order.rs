//! The words between a ledger and its driver: inputs and orders. Plain data.

use std::{sync::Arc, time::Duration};

use super::{announce::Event, limits::Limited, pod::PodPhase};
use crate::{
    cgroup::{self, Changed},
    model::{ContainerConfig, ContainerId, Exit, Failure, PodConfig, PodLimits, Resources, UnixNanos},
    network::Attachment,
    pod::{
        error::Error,
        view::{ContainerView, PodView},
    },
    supervisor::ContainerFacts,
};

/// The number of a caller who waits for an answer.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(in crate::pod) struct Ticket(pub(in crate::pod) u64);

/// What is asked of a pod.
#[derive(Clone, Debug)]
pub(in crate::pod) enum Call {
    /// RunPodSandbox, the first one and its retries.
    Run {
        config: Arc<PodConfig>,
    },
    /// `id` is the new container's, unless this is a retry.
    Create {
        id: ContainerId,
        config: Arc<ContainerConfig>,
    },
    Start {
        id: ContainerId,
    },
    Stop {
        id: ContainerId,
        grace: Duration,
    },
    Remove {
        id: ContainerId,
    },
    Update {
        id: ContainerId,
        change: Box<Resources>,
    },
    UpdatePod {
        change: Box<PodLimits>,
    },
    StopPod,
    RemovePod,
}

/// What a call that succeeded gives.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::pod) enum Answer {
    Done,
    /// To CreateContainer.
    Created(ContainerId),
}

/// What has happened.
#[derive(Debug)]
pub(in crate::pod) enum Input {
    Call(Ticket, Call),
    /// The supervisor has reaped a container's init.
    Exited(ContainerId, Exit),
    /// The connection is gone; the supervisor may live.
    SupervisorLost,
    /// The process is gone, and with it the pod's namespaces.
    SupervisorEnded,
    /// A piece of work is done.
    Done(Outcome),
    /// A record is on the disk, or could not be written.
    Written(Written, Result<(), Error>),
    /// The moment has come that [`super::Ledger::wake_at`] named, or any other.
    Time,
}

/// What came of a [`Work`].
#[derive(Debug)]
pub(in crate::pod) enum Outcome {
    PodMade(Result<Box<MadePod>, Error>),
    PodUndone,
    /// The supervisor answers; what it knows of its containers, and its pid.
    Reached(Vec<ContainerFacts>, u32),
    /// It does not answer yet.
    Silent,
    /// A create may begin, or there are too many.
    Turn(ContainerId, Result<(), Error>),
    /// On failure the work has undone itself.
    Made(ContainerId, Result<Box<ContainerView>, Error>),
    Unmade(ContainerId),
    /// The answer to a start, and when it came.
    Started(ContainerId, Result<UnixNanos, Failure>, UnixNanos),
    /// A round of killing is over: how the container ended, if that was found out.
    KillChecked(ContainerId, Option<Exit>),
    /// How those containers ended; `None` for one that still has processes.
    EndsFound(Vec<(ContainerId, Option<Exit>)>),
    /// The kernel took the limits, or refused them.
    Limited(ContainerId, Result<Box<Limited<Resources>>, cgroup::Error>),
    PodLimited(Result<Box<Limited<PodLimits>>, cgroup::Error>),
    /// Limits are again as they were. `None`: the pod's.
    TakenBack(Option<ContainerId>),
    Erased(ContainerId, Result<(), Error>),
    TornDown(Result<(), TearDownError>),
    PodErased(Result<(), Error>),
}

/// A pod whose parts are all there.
#[derive(Debug)]
pub(in crate::pod) struct MadePod {
    pub(in crate::pod) cgroup: cgroup::Handle,
    pub(in crate::pod) supervisor_pid: u32,
    pub(in crate::pod) attachment: Option<Attachment>,
}

/// Why a pod could not be torn down.
#[derive(Debug)]
pub(in crate::pod) struct TearDownError {
    pub(in crate::pod) error: Error,
    /// Its link and addresses are still taken.
    pub(in crate::pod) network_held: bool,
    /// Its cgroup is still there.
    pub(in crate::pod) cgroup_held: bool,
    /// Trying again at once would change nothing.
    pub(in crate::pod) hopeless: bool,
}

/// What is to be done, in this order.
#[derive(Debug)]
pub(in crate::pod) enum Order {
    /// Before anything else is done or decided. Its result comes back when all orders of this input are given.
    Write(Write),
    /// Takes time; an outcome follows, unless the order says otherwise.
    Work(Work),
    /// Readers are to see this.
    Show(Arc<PodView>),
    Announce(Event),
    /// Nobody is to find the pod any more, and its name is free.
    Withdraw,
    Reply(Ticket, Result<Answer, Error>),
    /// For the log.
    Notice(Notice),
}

/// A record to be written.
#[derive(Debug)]
pub(in crate::pod) enum Write {
    Pod {
        reason: PodRecordReason,
        phase: PodPhase,
        attachment: Option<Attachment>,
        supervisor_pid: u32,
        limits: Box<PodLimits>,
    },
    Container {
        reason: RecordReason,
        view: Arc<ContainerView>,
        /// An answer to its start is waited for.
        starting: bool,
    },
    /// What could not be taken away: to be retried also when the pod is gone.
    Debt { network: bool, cgroup: bool, cause: String },
}

/// Which write it was.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::pod) enum Written {
    Pod(PodRecordReason),
    Container(ContainerId, RecordReason),
    Debt,
}

impl Write {
    pub(in crate::pod) fn written(&self) -> Written {
        match self {
            Self::Pod { reason, .. } => Written::Pod(*reason),
            Self::Container { reason, view, .. } => Written::Container(view.id.clone(), *reason),
            Self::Debt { .. } => Written::Debt,
        }
    }
}

/// Why a pod's record is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::pod) enum PodRecordReason {
    Ready,
    Stopping,
    NotReady,
    Limits,
}

/// Why a container's record is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::pod) enum RecordReason {
    Created,
    /// It is to be started: an intent.
    Starting,
    Started,
    StartFailed,
    Exited,
    Limits,
}

/// What takes time.
#[derive(Debug)]
pub(in crate::pod) enum Work {
    MakePod,
    /// Takes away what a failed `MakePod` has left.
    UndoPod,
    /// Tries to reach the supervisor: once, or until it answers or is certainly gone.
    Reach {
        pid: u32,
        once: bool,
    },
    /// A create's place in the node's queue.
    AwaitTurn(ContainerId),
    MakeContainer {
        id: ContainerId,
        config: Arc<ContainerConfig>,
    },
    UnmakeContainer(ContainerId),
    Start(ContainerId),
    /// The stop signal. Nothing comes back.
    Signal {
        id: ContainerId,
        signal: i32,
        init: Option<Init>,
    },
    KillRound {
        id: ContainerId,
        init: Option<Init>,
        round: u32,
    },
    /// SIGKILL to a container that no answer came for. Nothing comes back.
    KillLeaf(ContainerId),
    FindEnds(Ends),
    /// A container that no record knows. Nothing comes back.
    Disown(ContainerId),
    /// The supervisor need not repeat the exit. Nothing comes back.
    Acknowledge(ContainerId),
    /// What will be known of an end after a reboot. Nothing comes back.
    KeepEnd {
        id: ContainerId,
        started_at: Option<UnixNanos>,
        exit: Box<Exit>,
    },
    Limit(Box<LimitChange>),
    LimitPod {
        after: Box<PodLimits>,
    },
    /// Sets limits back that could not be written down. `None`: the pod's.
    TakeBack(Option<ContainerId>, Changed),
    EraseContainer(ContainerId),
    TearDown,
    ErasePod,
}

/// Containers that no supervisor answers for any more.
#[derive(Debug)]
pub(in crate::pod) enum Ends {
    /// The supervisor is gone: all that is left in the pod is killed first.
    Orphaned(Vec<ContainerId>),
    /// The supervisor does not know it; it is killed first.
    Unknown(ContainerId),
}

/// How a container's limits are to be changed.
#[derive(Debug)]
pub(in crate::pod) struct LimitChange {
    pub(in crate::pod) id: ContainerId,
    /// What to write.
    pub(in crate::pod) step: Resources,
    /// What that makes.
    pub(in crate::pod) after: Resources,
    /// The init whose OOM score is to change.
    pub(in crate::pod) score: Option<Init>,
    /// What the OOM score was.
    pub(in crate::pod) score_before: i64,
}

/// A container's init, as the daemon can find it without its supervisor's help.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::pod) struct Init {
    pub(in crate::pod) pid: u32,
    /// The supervisor. A process with another parent is another process.
    pub(in crate::pod) parent: u32,
}

/// Something that an operator should know.
#[derive(Debug, Eq, PartialEq)]
pub(in crate::pod) enum Notice {
    /// A container survives being killed.
    Undying { id: ContainerId, pid: Option<u32> },
    /// A report that cannot be true of a container in this state.
    Impossible { id: ContainerId, state: &'static str },
    /// The exit of a container that was undone.
    UnknownExit(ContainerId),
    /// Limits are changed. `None`: the pod's.
    Limited(Option<ContainerId>),
}
