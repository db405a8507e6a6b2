//! What takes time: the supervisor, images, the network, processes that will not die. Each effect is a future
//! that decides nothing; what came of it goes back to the driver as [`Done`].

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::{sync::OwnedSemaphorePermit, time};
use tracing::warn;

use super::{
    container::exit,
    driver::Pod,
    error::{Error, chain},
    keep::{self, EndRecord, blocking},
    update::Update,
    view::ContainerView,
};
use crate::{
    cgroup,
    model::{ContainerId, Digest, Exit, ExitReason, Failure, NetworkMode, PodLimits, Resources, UnixNanos},
    network,
    store::{self, Durability},
    supervisor::{self, Client, ContainerFacts, Event},
    sys::descriptors,
};

/// How long a supervisor may take for a signal or a kill before the daemon does it itself.
const SUPERVISOR_ANSWER_MAX: Duration = Duration::from_secs(2);

/// How long a supervisor may take to end after it was told to.
const SUPERVISOR_END_MAX: Duration = Duration::from_secs(5);

/// Between two looks at whether a kill has worked. An exit is reported long before the first.
const KILL_CHECK: Duration = Duration::from_secs(2);

/// How long killed processes may take to leave their cgroup before it is an error.
const CGROUP_EMPTY_MAX: Duration = Duration::from_secs(5);

/// Between two looks at whether a cgroup is empty.
const CGROUP_POLL: Duration = Duration::from_millis(5);

/// Between two tries to reach a supervisor: short at first, then often enough to be seen as soon.
const REACH_PAUSE_MIN: Duration = Duration::from_millis(20);
const REACH_PAUSE_MAX: Duration = Duration::from_secs(5);

/// The longest that a timer is set for at once.
pub(super) const TIMER_MAX: Duration = Duration::from_secs(86_400);

/// Work on the way.
pub(super) type Effect = Pin<Box<dyn Future<Output = Done> + Send>>;

/// What came of it.
#[derive(Debug)]
pub(super) enum Done {
    Nothing,
    Event(Event),
    /// The supervisor was reached again.
    Reached(Client, Vec<ContainerFacts>),
    SupervisorEnded,
    /// A create may begin, or there are too many.
    Turn(ContainerId, Result<OwnedSemaphorePermit, Error>),
    /// On failure all of it is undone.
    Made(ContainerId, Result<Box<ContainerView>, Error>),
    /// A container that was made too late is gone.
    Unmade(ContainerId),
    Started(ContainerId, Result<UnixNanos, Failure>),
    KillDue(ContainerId),
    /// How it ended, if that was found out.
    KillChecked(ContainerId, Option<Exit>),
    /// The kernel took the limits, or refused them.
    Updated(ContainerId, Result<Box<Update<Resources>>, cgroup::Error>),
    PodUpdated(Result<Box<Update<PodLimits>>, cgroup::Error>),
    Erased(ContainerId, Result<(), Error>),
    TornDown(Result<(), TearDownError>),
    PodErased(Result<(), Error>),
}

/// Why a pod could not be torn down.
#[derive(Debug)]
pub(super) struct TearDownError {
    pub(super) error: Error,
    /// Its link and addresses are still taken.
    pub(super) network_held: bool,
    /// Trying again at once would change nothing.
    pub(super) hopeless: bool,
}

// ---- the supervisor ----

pub(super) fn next_event(client: Client) -> Effect {
    Box::pin(async move { Done::Event(client.event().await) })
}

pub(super) fn until_ended(client: Client) -> Effect {
    Box::pin(async move {
        client.ended().await;
        Done::SupervisorEnded
    })
}

pub(super) fn acknowledge(client: Client, id: ContainerId) -> Effect {
    Box::pin(async move {
        // If this is lost, the exit is repeated on the next connection.
        let _ = client.acknowledge(&id).await;
        crate::failpoint!("container.exit-acknowledged");
        Done::Nothing
    })
}

/// A container that no record knows: a create that was undone while its supervisor could not be reached.
pub(super) fn disown(client: Client, id: ContainerId) -> Effect {
    Box::pin(async move {
        if let Err(error) = client.remove(&id).await {
            warn!(container = %id, %error, "could not remove a container that no record knows");
        }
        Done::Nothing
    })
}

/// Tries until the supervisor answers or is certainly gone. With `old` its end is seen at once.
pub(super) fn reach(pod: Arc<Pod>, old: Option<Client>, pid: u32) -> Effect {
    Box::pin(async move {
        let ended = async {
            match &old {
                Some(client) => client.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = ended => Done::SupervisorEnded,
            done = keep_trying(&pod, pid) => done,
        }
    })
}

async fn keep_trying(pod: &Arc<Pod>, pid: u32) -> Done {
    let mut pause = REACH_PAUSE_MIN;
    loop {
        match Client::connect(&pod.id, &pod.folder).await {
            Ok((client, facts)) => return Done::Reached(client, facts),
            Err(failure) if certainly_gone(pod, &failure, pid).await => return Done::SupervisorEnded,
            Err(_) => {}
        }
        time::sleep(pause).await;
        pause = (pause * 2).min(REACH_PAUSE_MAX);
    }
}

/// Whether a failed connection means that the process is gone. On any doubt it is not: a stopped or a busy
/// supervisor still holds its containers.
pub(super) async fn certainly_gone(pod: &Arc<Pod>, failure: &Failure, pid: u32) -> bool {
    use rustix::io::Errno;
    // Numbers, because the failure came from another process and may hold any: `Errno` takes no others than its own.
    if [Errno::CONNREFUSED, Errno::NOENT, Errno::SRCH].map(Errno::raw_os_error).contains(&failure.errno) {
        return true;
    }
    let alive = i32::try_from(pid).ok().and_then(Pid::from_raw).map(rustix::process::test_kill_process);
    if alive == Some(Err(Errno::SRCH)) {
        return true;
    }
    let Some(handle) = pod.cgroup.clone() else { return false };
    matches!(blocking(move || Ok(handle.populated())).await, Ok(Ok(false)))
}

// ---- starting and stopping a container ----

pub(super) fn start(client: Client, id: ContainerId) -> Effect {
    Box::pin(async move {
        let result = client.start(&id).await;
        Done::Started(id, result)
    })
}

pub(super) fn kill_timer(id: ContainerId, at: Instant) -> Effect {
    Box::pin(async move {
        time::sleep_until(at.into()).await;
        Done::KillDue(id)
    })
}

/// The stop signal. A supervisor that does not answer is passed over: the workload has a right to its grace.
pub(super) fn signal(client: Option<Client>, id: ContainerId, signal: i32, init: Option<Init>) -> Effect {
    Box::pin(async move {
        let sent = match &client {
            Some(client) => answered(client.signal(&id, signal)).await,
            None => false,
        };
        if let (false, Some(signal)) = (sent, Signal::from_named_raw(signal)) {
            signal_directly(init, signal).await;
        }
        crate::failpoint!("container.stop-signalled");
        Done::Nothing
    })
}

/// One round of killing and a look, a while later, at whether it has worked.
pub(super) fn kill_round(
    pod: Arc<Pod>,
    client: Option<Client>,
    id: ContainerId,
    init: Option<Init>,
    round: u32,
) -> Effect {
    Box::pin(async move {
        let asked = match &client {
            Some(client) => answered(client.kill(&id)).await,
            None => false,
        };
        if !asked || round > 0 {
            kill_directly(&pod, &id).await;
            signal_directly(init, Signal::KILL).await;
        }
        crate::failpoint!("container.killed");
        time::sleep(KILL_CHECK).await;
        let end = found_end(&pod, &id, round).await;
        Done::KillChecked(id, end)
    })
}

/// How a killed container ended, if its supervisor has written it down; and if no process is left of it after
/// the supervisor has had a second chance to tell, that too is an end.
async fn found_end(pod: &Arc<Pod>, id: &ContainerId, round: u32) -> Option<Exit> {
    let _reserve = descriptors::lend_reserve();
    let (folder, leaf, id) =
        (pod.folder.clone(), pod.cgroup.as_ref().map(|handle| handle.container(id)), id.clone());
    let look = move || {
        let empty = leaf.is_none_or(|leaf| matches!(leaf.populated(), Ok(false)));
        Ok((supervisor::recorded_exit(&folder, &id), empty))
    };
    match blocking(look).await {
        Ok((Some(exit), _)) => Some(exit),
        Ok((None, true)) if round > 0 => {
            Some(exit(137, ExitReason::Error, "killed; its supervisor does not answer".into()))
        }
        Ok((None, _)) | Err(_) => None,
    }
}

/// SIGKILL to a container that no answer came for.
pub(super) fn kill_leaf(pod: Arc<Pod>, id: ContainerId) -> Effect {
    Box::pin(async move {
        kill_directly(&pod, &id).await;
        Done::Nothing
    })
}

async fn kill_directly(pod: &Arc<Pod>, id: &ContainerId) {
    let _reserve = descriptors::lend_reserve();
    let Some(leaf) = pod.cgroup.as_ref().map(|handle| handle.container(id)) else { return };
    if let Ok(Err(error)) = blocking(move || Ok(leaf.kill())).await {
        warn!(pod = %pod.id, container = %id, error = %chain(&error), "could not kill by cgroup");
    }
}

/// A container's init, as the daemon can find it without its supervisor's help.
#[derive(Clone, Copy, Debug)]
pub(super) struct Init {
    pub(super) pid: u32,
    /// The supervisor. A process with another parent is another process.
    pub(super) parent: u32,
}

/// To an init whose supervisor does not answer. The pid may be somebody else's by now: so it is pinned first,
/// then looked at, then signalled.
async fn signal_directly(init: Option<Init>, signal: Signal) {
    let _reserve = descriptors::lend_reserve();
    let Some(Init { pid, parent }) = init else { return };
    let send = move || {
        let Some(process) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
        let process = rustix::process::pidfd_open(process, PidfdFlags::empty())?;
        if parent_of(&std::fs::read_to_string(format!("/proc/{pid}/status"))?) == Some(parent) {
            rustix::process::pidfd_send_signal(process, signal)?;
        }
        Ok(())
    };
    // That it has ended meanwhile is what was wanted.
    let _ = blocking(send).await;
}

/// Reads `PPid` out of `/proc/PID/status`.
pub(super) fn parent_of(status: &str) -> Option<u32> {
    crate::sys::process::field(status, "PPid")?.parse().ok()
}

async fn answered(call: impl Future<Output = Result<(), Failure>>) -> bool {
    matches!(time::timeout(SUPERVISOR_ANSWER_MAX, call).await, Ok(Ok(())))
}

/// What will be known of a container's end after a reboot. Not written on the way of any answer.
pub(super) fn keep_end(pod: Arc<Pod>, id: ContainerId, end: EndRecord) -> Effect {
    Box::pin(async move {
        let path = keep::end_file(&pod.node.places.known(&pod.id), &id);
        if let Err(error) = keep::put(path, end).await {
            warn!(pod = %pod.id, container = %id, error = %chain(&error), "could not keep an exit on disk");
        }
        Done::Nothing
    })
}

// ---- removing ----

pub(super) fn erase(pod: Arc<Pod>, client: Option<Client>, id: ContainerId, image: Digest) -> Effect {
    Box::pin(async move {
        let result = erase_container(&pod, client.as_ref(), &id, Some(&image)).await;
        Done::Erased(id, result)
    })
}

/// Takes all of a container away. Each step is success when there is nothing to do, so it can be repeated
/// from the start after any failure. The records go last: what has one is found again.
pub(super) async fn erase_container(
    pod: &Arc<Pod>,
    client: Option<&Client>,
    id: &ContainerId,
    image: Option<&Digest>,
) -> Result<(), Error> {
    let _reserve = descriptors::lend_reserve();
    let by_supervisor = match client {
        Some(client) => answered(client.remove(id)).await,
        None => false,
    };
    if !by_supervisor && let Some(handle) = &pod.cgroup {
        clear(handle.container(id)).await?;
    }
    crate::failpoint!("container.removed");
    pod.node.images.remove_writable(id.as_str()).await?;
    let (live, known) = (pod.folder.clone(), pod.node.places.known(&pod.id));
    let owned = id.clone();
    let remove = move || {
        let mut paths = vec![keep::container_file(&known, &owned), keep::end_file(&known, &owned)];
        paths.extend([keep::init_file(&live, &owned), keep::exit_file(&live, &owned)]);
        paths.push(keep::container_file(&live, &owned));
        paths.iter().try_for_each(|path| store::remove(path, Durability::Process))
    };
    blocking(remove).await.map_err(Error::io("remove the records of a container in", &pod.folder))?;
    crate::failpoint!("container.record-removed");
    if let Some(image) = image {
        pod.node.images.release(image, id.as_str());
    }
    pod.access.forget_init(id);
    Ok(())
}

/// Ends what is left of a pod whose containers have ended: the supervisor, the network, the cgroup. All three
/// are tried, whatever fails.
pub(super) fn tear_down(pod: Arc<Pod>, client: Option<Client>) -> Effect {
    Box::pin(async move { Done::TornDown(end_pod(&pod, client.as_ref()).await) })
}

pub(super) async fn end_pod(pod: &Arc<Pod>, client: Option<&Client>) -> Result<(), TearDownError> {
    let _reserve = descriptors::lend_reserve();
    if let Some(client) = client {
        let end = async {
            let _ = client.shutdown().await;
            client.ended().await;
        };
        let _ = time::timeout(SUPERVISOR_END_MAX, end).await;
    }
    kill_pod(pod).await;
    crate::failpoint!("pod.supervisor-ended");
    let network = match pod.config.namespaces.network {
        NetworkMode::Pod => pod.node.network.detach(&pod.id).await,
        NetworkMode::Node => Ok(()),
    };
    crate::failpoint!("pod.network-detached");
    let cgroup = match pod.cgroup.clone() {
        Some(handle) => clear(handle).await,
        None => Ok(()),
    };
    crate::failpoint!("pod.cgroup-removed");
    match (network, cgroup) {
        (Ok(()), Ok(())) => Ok(()),
        (Ok(()), Err(error)) => Err(TearDownError { error, network_held: false, hopeless: false }),
        (Err(error), cgroup) => {
            if let Err(error) = cgroup {
                warn!(pod = %pod.id, error = %chain(&error), "could not remove the pod's cgroup");
            }
            let hopeless = matches!(error, network::Error::NotConfigured);
            Err(TearDownError { error: error.into(), network_held: true, hopeless })
        }
    }
}

/// SIGKILL to everything in the pod's cgroup, the supervisor too.
pub(super) async fn kill_pod(pod: &Arc<Pod>) {
    let Some(handle) = pod.cgroup.clone() else { return };
    if let Ok(Err(error)) = blocking(move || Ok(handle.kill())).await {
        warn!(pod = %pod.id, error = %chain(&error), "could not kill the pod's cgroup");
    }
}

pub(super) fn erase_pod(pod: Arc<Pod>) -> Effect {
    Box::pin(async move { Done::PodErased(erase_pod_files(&pod).await) })
}

/// The disk goes first: a folder that is only on tmpfs cannot come back after a reboot.
pub(super) async fn erase_pod_files(pod: &Arc<Pod>) -> Result<(), Error> {
    let _reserve = descriptors::lend_reserve();
    let (live, known) = (pod.folder.clone(), pod.node.places.known(&pod.id));
    let remove = move || {
        keep::remove_folder(&known)?;
        store::remove(&keep::pod_file(&live), Durability::Process)?;
        crate::failpoint!("pod.record-removed");
        keep::remove_folder(&live)?;
        crate::failpoint!("pod.dir-removed");
        Ok(())
    };
    blocking(remove).await.map_err(Error::io("remove the records of a pod in", &pod.folder))
}

/// A cgroup that can be emptied and removed: a pod's or a container's.
pub(super) trait Cgroup: Clone + Send + 'static {
    fn kill(&self) -> Result<(), cgroup::Error>;
    fn populated(&self) -> Result<bool, cgroup::Error>;
    fn remove(&self) -> Result<(), cgroup::Error>;
}

macro_rules! cgroups {
    ($($name:ty),*) => {$(
        impl Cgroup for $name {
            fn kill(&self) -> Result<(), cgroup::Error> {
                <$name>::kill(self)
            }
            fn populated(&self) -> Result<bool, cgroup::Error> {
                <$name>::populated(self)
            }
            fn remove(&self) -> Result<(), cgroup::Error> {
                <$name>::remove(self)
            }
        }
    )*};
}
cgroups!(cgroup::Handle, cgroup::Container);

/// Kills all that is in the cgroup, waits until it is empty and removes it.
pub(super) async fn clear<C: Cgroup>(group: C) -> Result<(), Error> {
    let run = |work: fn(&C) -> Result<bool, cgroup::Error>| {
        let group = group.clone();
        async move {
            let done = blocking(move || Ok(work(&group))).await;
            done.map_err(|source| Error::Io { doing: "work on a cgroup".into(), source })?
                .map_err(Error::Cgroup)
        }
    };
    if !run(C::populated).await.unwrap_or(true) {
        return run(|group| group.remove().map(|()| true)).await.map(drop);
    }
    run(|group| group.kill().map(|()| true)).await?;
    let deadline = Instant::now() + CGROUP_EMPTY_MAX;
    while run(C::populated).await.unwrap_or(false) && Instant::now() < deadline {
        time::sleep(CGROUP_POLL).await;
    }
    run(|group| group.remove().map(|()| true)).await.map(drop)
}

/// For file work whose failure is only worth a log line.
pub(super) fn logged(doing: &'static str, result: io::Result<()>) {
    if let Err(error) = result {
        warn!(error = %chain(&error), "{doing} failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_read_from_the_kernels_own_words() {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        assert_eq!(parent_of(&status), Some(std::os::unix::process::parent_id()));
        assert_eq!(parent_of("Name:\tPPid: 7\nPPid:\t12\n"), Some(12));
        assert_eq!(parent_of(""), None);
    }

    #[tokio::test]
    async fn a_process_of_another_parent_is_never_signalled() {
        // Were it signalled, this test would be killed.
        let pid = std::process::id();
        signal_directly(Some(Init { pid, parent: pid }), Signal::KILL).await;
    }
}
