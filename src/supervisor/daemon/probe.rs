//! Asks whether this node can give pods users of their own: in a process of its own, for a daemon does not fork.

use std::{path::Path, process::Stdio, time::Duration};

use tokio::{process::Command, time};

/// Like a start of a pod, and some milliseconds for an execve.
const PROBE_MAX: Duration = Duration::from_secs(10);
/// The folder below `root` in which it is tried.
const FOLDER: &str = "probe-users";
/// Bytes of what the probe says that are kept.
const WORDS_BYTES_MAX: usize = 1024;

/// Tries it on the file system of `root`.
///
/// # Errors
/// Why this node cannot, in words.
pub async fn probe_users(root: &Path) -> Result<(), String> {
    let mut command = Command::new("/proc/self/exe");
    command.arg("probe-users").arg(root.join(FOLDER)).env_clear().current_dir("/").kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let output = time::timeout(PROBE_MAX, command.output()).await;
    let output = output.map_err(|_| format!("to try it took longer than {} s", PROBE_MAX.as_secs()))?;
    let output = output.map_err(|error| format!("run pintle probe-users: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let words = output.stderr.get(..output.stderr.len().min(WORDS_BYTES_MAX)).unwrap_or_default();
    match String::from_utf8_lossy(words).trim() {
        "" => Err(format!("pintle probe-users ended with {}", output.status)),
        words => Err(words.to_owned()),
    }
}
