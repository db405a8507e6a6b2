//! Signals to the init of a container, by its supervisor or by the daemon itself.

use rustix::process::{Pid, PidfdFlags, Signal};

use super::{Report, answered};
use crate::{
    model::ContainerId,
    pod::{keep::blocking, life::Init},
    supervisor::Client,
    sys::descriptors,
};

/// The stop signal. A supervisor that does not answer is passed over: the workload has a right to its grace.
pub(super) async fn signal(
    client: Option<Client>,
    id: ContainerId,
    signal: i32,
    init: Option<Init>,
) -> Report {
    let sent = match &client {
        Some(client) => answered(client.signal(&id, signal)).await,
        None => false,
    };
    if let (false, Some(signal)) = (sent, Signal::from_named_raw(signal)) {
        signal_directly(init, signal).await;
    }
    crate::failpoint!("container.stop-signalled");
    Report::Nothing
}

/// To an init whose supervisor does not answer. The pid may be somebody else's by now: so it is pinned first,
/// then looked at, then signalled.
pub(super) async fn signal_directly(init: Option<Init>, signal: Signal) {
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
