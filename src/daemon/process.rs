//! The daemon's own process: descriptors, OOM score.

use std::fs;

use rustix::{fs::Mode, process::umask};
use tracing::warn;

use crate::sys::{descriptors, privilege};

/// Descriptors kept back for stopping, removing and new connections. A step of those takes a handful.
const RESERVE_MAX: u64 = 64;
/// Last to be killed but for the kernel's own favourites. Not −1000: that would be inherited as "never".
const OOM_SCORE: &str = "-999";

/// Sets what the daemon wants for itself. None of it is worth not starting for.
pub(super) fn prepare() {
    // What the daemon writes is its own. What it makes for others (cgroups, folders above its own) gets its mode
    // by chmod(2), and the zygote has a umask of its own for all that workloads see.
    umask(Mode::RWXG | Mode::RWXO);
    if let Err(error) = descriptors::raise_limit() {
        warn!(%error, "cannot raise the limit of open files");
    }
    descriptors::hold_reserve(reserve_of(descriptors::limit()));
    if let Err(error) = fs::write("/proc/self/oom_score_adj", OOM_SCORE) {
        warn!(%error, "cannot lower the OOM score (CAP_SYS_RESOURCE is missing), the kernel may kill the daemon first");
    }
    // Its memory has credentials of registries, which are not for a core dump. Not a limit of core files: workloads
    // would have it too, and a handler of core dumps (core(5)) would not care.
    if let Err(error) = privilege::forbid_inspection() {
        warn!(%error, "a crash may leave secrets in a core dump");
    }
}

/// Of a low limit a quarter: the daemon itself needs some twenty, and a pod two.
fn reserve_of(limit: u64) -> usize {
    usize::try_from((limit / 4).min(RESERVE_MAX)).unwrap_or(0)
}
