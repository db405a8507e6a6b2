//! The end of a process: its code, its reason and its moment.

use serde::{Deserialize, Serialize};

use super::UnixNanos;

/// How a container ended. Decided once, by the pod's supervisor (or, when that died, by the daemon).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Exit {
    /// The process's exit code, or 128 + the signal that ended it.
    pub code: i32,
    /// Why, in the one word that the kubelet shows.
    pub reason: ExitReason,
    /// When the process was reaped.
    pub at: UnixNanos,
    /// A short cause for people; empty when the code says it all.
    #[serde(default)]
    pub message: String,
}

/// CRI `ContainerStatus.reason`. The kubelet, autoscalers and people match on the literal words.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum ExitReason {
    /// Exit code 0.
    Completed,
    /// Any other exit code or signal.
    Error,
    /// The kernel killed it for memory; the rule is the table in `supervisor/exit.rs`.
    OOMKilled,
    /// The process never ran: execve or the set-up before it failed (exit code 128).
    StartError,
    /// Its supervisor was lost, so the daemon killed it (exit code 137).
    SupervisorDied,
    /// The machine was restarted under it (exit code 255).
    NodeReboot,
    /// The process was found gone and nobody saw it end (exit code 255).
    Unknown,
}

impl ExitReason {
    /// The literal word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "Completed",
            Self::Error => "Error",
            Self::OOMKilled => "OOMKilled",
            Self::StartError => "StartError",
            Self::SupervisorDied => "SupervisorDied",
            Self::NodeReboot => "NodeReboot",
            Self::Unknown => "Unknown",
        }
    }
}
