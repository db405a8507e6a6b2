//! Signals to the init of a container, by its supervisor or by the daemon itself.

use std::os::fd::AsFd;

use super::{Report, answered};
use crate::{
    model::ContainerId,
    pod::{keep::blocking, life::Init},
    supervisor::Client,
    sys::{descriptors, process, signal},
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
    if !sent {
        signal_directly(init, signal).await;
    }
    crate::failpoint!("container.stop-signalled");
    Report::Nothing
}

/// To an init whose supervisor does not answer. The pid may be somebody else's by now: so it is pinned first,
/// then looked at, then signalled.
/// `signal` is a number of signal(7), one of the real-time signals too, as systemd in a container wants it.
pub(super) async fn signal_directly(init: Option<Init>, signal: i32) {
    let _reserve = descriptors::lend_reserve();
    let Some(Init { pid, parent }) = init else { return };
    let send = move || {
        let process = process::pidfd(pid.try_into()?)?;
        if parent_of(&std::fs::read_to_string(format!("/proc/{pid}/status"))?) == Some(parent) {
            signal::send(process.as_fd(), signal)?;
        }
        Ok(())
    };
    // That it has ended meanwhile is what was wanted.
    let _sent = blocking(send).await;
}

/// Reads `PPid` out of `/proc/PID/status`.
pub(super) fn parent_of(status: &str) -> Option<u32> {
    process::field(status, "PPid")?.parse().ok()
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
        signal_directly(Some(Init { pid, parent: pid }), 9).await;
    }

    #[tokio::test]
    async fn a_real_time_signal_reaches_an_init_whose_supervisor_does_not_answer() {
        /// SIGRTMIN+3: what systemd in a container takes for its end.
        const HALT: i32 = 37;
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let init = Init { pid: child.id(), parent: std::process::id() };
        super::signal(None, ContainerId::from_bytes([1; 32]), HALT, Some(init)).await;
        let ended = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(HALT));
    }
}
