//! Writing the records that a ledger orders.

use std::sync::Arc;

use tracing::error;

use super::pod::Pod;
use crate::pod::{
    error::{Error, chain},
    keep::{self, ContainerRecord, Made, PodRecord, debts::Debt},
    life::{PodRecordReason, RecordReason, Write},
    view::ContainerView,
};

/// Writes a record of the pod.
///
/// # Errors
/// What the disk says; that is logged already.
pub(super) async fn write_record(pod: &Pod, write: Write) -> Result<(), Error> {
    match write {
        Write::Pod { reason, phase, attachment, supervisor_pid, limits } => {
            let record = PodRecord {
                id: pod.id.clone(),
                boot_id: pod.node.boot_id.clone(),
                state: phase,
                config: Arc::clone(&pod.config),
                created_at: pod.created_at,
                attachment,
                supervisor_pid,
                limits: Some(*limits),
                cgroup: pod.cgroup.clone(),
                root: Some(pod.node.places.root.clone()),
            };
            let result = keep::put(keep::pod_file(&pod.folder), record).await;
            if let Err(error) = &result {
                error!(pod = %pod.id, error = %chain(error), "could not write the pod's record");
                return result;
            }
            match reason {
                PodRecordReason::Ready => crate::failpoint!("pod.ready-written"),
                PodRecordReason::Stopping => crate::failpoint!("pod.stopping-written"),
                PodRecordReason::NotReady => crate::failpoint!("pod.notready-written"),
                PodRecordReason::Limits => crate::failpoint!("pod.limits-written"),
            }
            result
        }
        Write::Container { reason, view, starting } => write_container(pod, reason, &view, starting).await,
        Write::Debt { network, cgroup, cause } => {
            let cgroup = pod.cgroup.clone().filter(|_| cgroup);
            let debt = Debt { network, cgroup, ..Debt::default() }.because(cause);
            pod.node.debts.add(&pod.node.places, &pod.id, debt).await;
            Ok(())
        }
    }
}

async fn write_container(
    pod: &Pod,
    reason: RecordReason,
    view: &ContainerView,
    starting: bool,
) -> Result<(), Error> {
    let made = Made { state: view.state.clone(), user: view.user.clone(), starting };
    let record = ContainerRecord { made: Some(made), ..ContainerRecord::of(view) };
    let result = keep::put(keep::container_file(&pod.folder, &view.id), record).await;
    if let Err(error) = &result {
        error!(pod = %pod.id, container = %view.id, error = %chain(error), "could not write the record");
        return result;
    }
    match reason {
        RecordReason::Created => crate::failpoint!("container.created-written"),
        RecordReason::Starting => crate::failpoint!("container.starting"),
        RecordReason::Started => crate::failpoint!("container.started-written"),
        RecordReason::StartFailed | RecordReason::Exited => crate::failpoint!("container.exit-written"),
        RecordReason::Limits => crate::failpoint!("container.limits-written"),
    }
    result
}
