//! Networks that could not be released when their pod was stopped. Each is a file on disk, so that it is retried
//! until it works (`reconcile.rs`): the pod may be long removed by then.

use tracing::error;

use super::{Places, blocking, pods_in, put};
use crate::{
    model::PodId,
    pod::error::chain,
    store::{self, Durability},
};

/// Writes down that the pod's network is to be released.
pub(in crate::pod) async fn note(places: &Places, pod: &PodId) {
    let path = places.owed().join(pod.as_str());
    if let Err(error) = put(path, pod.clone()).await {
        error!(%pod, error = %chain(&error), "the pod's network is not released, and that could not be noted");
    }
}

/// The pods whose network is owed.
pub(in crate::pod) fn list(places: &Places) -> Vec<PodId> {
    pods_in(&places.owed()).unwrap_or_default()
}

/// The pod's network is released.
///
/// # Errors
/// When that cannot be noted: it will be released again, which is success.
pub(in crate::pod) async fn strike_out(places: &Places, pod: &PodId) -> std::io::Result<()> {
    let path = places.owed().join(pod.as_str());
    blocking(move || store::remove(&path, Durability::Process)).await
}
