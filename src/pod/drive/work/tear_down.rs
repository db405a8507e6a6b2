//! Ending what is left of a pod whose containers have ended.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time;
use tracing::warn;

use super::{super::pod::Pod, Report};
use crate::{
    cgroup,
    model::NetworkMode,
    network,
    pod::{
        error::{Error, chain},
        keep::blocking,
        life::{Outcome, TearDownError},
        storage::is_read_only,
    },
    supervisor::Client,
    sys::descriptors,
};

/// How long a supervisor may take to end after it was asked to.
const SUPERVISOR_END_MAX: Duration = Duration::from_secs(5);

/// How long killed processes may take to leave their cgroup before it is an error.
pub(super) const CGROUP_EMPTY_MAX: Duration = Duration::from_secs(5);

/// Between two looks at whether a cgroup is empty.
pub(super) const CGROUP_POLL: Duration = Duration::from_millis(5);

pub(super) async fn tear_down(pod: Arc<Pod>, client: Option<Client>) -> Report {
    crate::failpoint!("pod.containers-killed");
    Report::Outcome(Outcome::TornDown(end_pod(&pod, client.as_ref()).await))
}

/// Ends the supervisor, the network and the cgroup. All three are tried, whatever fails.
pub(in crate::pod) async fn end_pod(pod: &Arc<Pod>, client: Option<&Client>) -> Result<(), TearDownError> {
    let _reserve = descriptors::lend_reserve();
    if let Some(client) = client {
        let end = async {
            let _ended = client.shutdown().await;
            client.ended().await;
        };
        // One that does not end by itself is killed with the pod's cgroup.
        let _ended = time::timeout(SUPERVISOR_END_MAX, end).await;
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
    let (network_held, cgroup_held) = (network.is_err(), cgroup.is_err());
    // Another try right now would change nothing.
    let hopeless = match &network {
        Err(network::Error::BadAttachment { .. }) => true,
        Err(error) => is_read_only(error),
        Ok(()) => false,
    };
    if let (Err(_), Err(error)) = (&network, &cgroup) {
        warn!(pod = %pod.id, error = %chain(error), "could not remove the pod's cgroup");
    }
    let result = network.map_err(Error::from).and(cgroup);
    result.map_err(|error| TearDownError { error, network_held, cgroup_held, hopeless })
}

/// SIGKILL to everything in the pod's cgroup, the supervisor too.
pub(super) async fn kill_pod(pod: &Arc<Pod>) {
    let Some(handle) = pod.cgroup.clone() else { return };
    if let Ok(Err(error)) = blocking(move || Ok(handle.kill())).await {
        warn!(pod = %pod.id, error = %chain(&error), "could not kill the pod's cgroup");
    }
}

/// A cgroup that can be emptied and removed: a pod's or a container's.
pub(in crate::pod) trait Cgroup: Clone + Send + 'static {
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
pub(in crate::pod) async fn clear<C: Cgroup>(group: C) -> Result<(), Error> {
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
