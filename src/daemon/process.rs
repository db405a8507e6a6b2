use std::fs;

use rustix::{
    fs::Mode,
    process::{Resource, getrlimit, setrlimit, umask},
};
use tracing::warn;

/// Open files that the daemon wants: connections, streams and a handful per pod. The hard limit stays as it
/// is: containers get limits of their own.
const OPEN_FILES_MAX: u64 = 65_536;
/// Last to be killed but for the kernel's own favourites. Not −1000: that would be inherited as "never".
const OOM_SCORE: &str = "-999";

/// Sets what the daemon wants for itself. None of it is worth not starting for.
pub(super) fn prepare() {
    // What the daemon writes is its own. What it makes for others (cgroups, folders above its own) gets its mode
    // by chmod(2), and the zygote has a umask of its own for all that workloads see.
    umask(Mode::RWXG | Mode::RWXO);
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(OPEN_FILES_MAX, |hard| hard.min(OPEN_FILES_MAX));
    if limit.current.is_some_and(|soft| soft < wanted) {
        let raised = rustix::process::Rlimit { current: Some(wanted), ..limit };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            warn!(%error, wanted, "cannot raise the limit of open files");
        }
    }
    if let Err(error) = fs::write("/proc/self/oom_score_adj", OOM_SCORE) {
        warn!(%error, "cannot lower the OOM score (CAP_SYS_RESOURCE is missing), the kernel may kill the daemon first");
    }
}
