//! The room's configuration: defaults and limits of pods and containers.

use serde::Deserialize;

/// Defaults and limits of pods and containers.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Processes and threads that one container may have. 0 is no limit.
    pub pids_max: u64,
    /// MiB of each pod's `/dev/shm`.
    pub shm_mib: u64,
    /// Open files that a container's process may have (soft RLIMIT_NOFILE). Programs that close every
    /// possible descriptor at their start are slow when this is high.
    pub nofile_soft: u64,
    /// Open files to which a container's process may raise its limit (hard RLIMIT_NOFILE).
    pub nofile_hard: u64,
    /// Pods and containers made at the same time. 0 is twice the number of processors.
    pub creates_running_max: usize,
    /// Creates that wait for their turn. One more is refused.
    pub creates_waiting_max: usize,
    /// Seconds between two audits, which compare kernel and disk with the pods that are known. A tenth more at most,
    /// by chance. 0: only at the start.
    pub audit_interval_s: u64,
    /// Whether programs of a pod with a network of its own may listen on ports below 1024 without a capability
    /// (`net.ipv4.ip_unprivileged_port_start` is 0), unless the pod sets that sysctl itself.
    pub unprivileged_ports: bool,
    /// Whether programs of a pod with a network of its own may send ICMP echo requests (`ping`) without a capability
    /// (`net.ipv4.ping_group_range` is all groups), unless the pod sets that sysctl itself.
    pub unprivileged_ping: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            pids_max: 0,
            shm_mib: 64,
            nofile_soft: 1024,
            nofile_hard: 524_288,
            creates_running_max: 0,
            creates_waiting_max: 256,
            audit_interval_s: 300,
            unprivileged_ports: true,
            unprivileged_ping: true,
        }
    }
}

impl Config {
    /// `None`: there is an audit at the start only.
    pub(super) fn audit_interval(&self) -> Option<std::time::Duration> {
        (self.audit_interval_s > 0).then(|| std::time::Duration::from_secs(self.audit_interval_s))
    }

    pub(super) fn shm_bytes(&self) -> u64 {
        self.shm_mib.saturating_mul(1 << 20)
    }

    pub(super) fn creates_running(&self) -> usize {
        match self.creates_running_max {
            0 => 2 * std::thread::available_parallelism().map_or(1, usize::from),
            max => max,
        }
    }
}
