//! Removing containers and pods, and what is kept of their ends.

use std::sync::Arc;

use tracing::warn;

use super::{super::pod::Pod, Report, answered, tear_down::clear};
use crate::{
    model::{ContainerId, Exit, UnixNanos},
    pod::{
        error::{Error, chain},
        keep::{self, EndRecord, blocking},
        life::Outcome,
    },
    store::{self, Durability},
    supervisor::Client,
    sys::descriptors,
};

/// What will be known of a container's end after a reboot. Not written on the way of any answer.
pub(super) async fn keep_end(
    pod: Arc<Pod>,
    id: ContainerId,
    started_at: Option<UnixNanos>,
    exit: Exit,
) -> Report {
    let path = keep::end_file(&pod.node.places.known(&pod.id), &id);
    if let Err(error) = keep::put(path, EndRecord { started_at, exit }).await {
        warn!(pod = %pod.id, container = %id, error = %chain(&error), "could not keep an exit on disk");
    }
    Report::Nothing
}

pub(super) async fn container(pod: Arc<Pod>, client: Option<Client>, id: ContainerId) -> Report {
    let result = erase_container(&pod, client.as_ref(), &id).await;
    Report::Outcome(Outcome::Erased(id, result))
}

/// Takes all of a container away. Each step is success when there is nothing to do, so it can be repeated
/// from the start after any failure. The records go last: what has one is found again.
pub(in crate::pod) async fn erase_container(
    pod: &Arc<Pod>,
    client: Option<&Client>,
    id: &ContainerId,
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
    pod.node.images.remove_writable(id).await?;
    let (live, known) = (pod.folder.clone(), pod.node.places.known(&pod.id));
    let owned = id.clone();
    let remove = move || {
        let paths = keep::files_of_container(&live, &known, &owned);
        paths.iter().try_for_each(|path| store::remove(path, Durability::Process))
    };
    blocking(remove).await.map_err(Error::io("remove the records of a container in", &pod.folder))?;
    crate::failpoint!("container.record-removed");
    pod.node.images.release(id);
    pod.access.forget_init(id);
    Ok(())
}

pub(super) async fn pod(pod: Arc<Pod>) -> Report {
    Report::Outcome(Outcome::PodErased(erase_pod_files(&pod).await))
}

/// The disk goes first: a folder that is only on tmpfs cannot come back after a reboot.
pub(in crate::pod) async fn erase_pod_files(pod: &Arc<Pod>) -> Result<(), Error> {
    let _reserve = descriptors::lend_reserve();
    let (live, known) = (pod.folder.clone(), pod.node.places.known(&pod.id));
    let remove = move || {
        keep::remove_folder(&known)?;
        match store::remove(&keep::pod_file(&live), Durability::Process) {
            // A file lies in the folder's place: it goes next.
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {}
            removed => removed?,
        }
        crate::failpoint!("pod.record-removed");
        keep::remove_folder(&live)?;
        crate::failpoint!("pod.dir-removed");
        Ok(())
    };
    blocking(remove).await.map_err(Error::io("remove the records of a pod in", &pod.folder))
}
