//! Errors of cgroup operations.

use std::{io, path::PathBuf};

use crate::{
    model::{Failure, Stage},
    telemetry::log::chain,
};

/// An error of the D-Bus library, which no other room knows.
type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a cgroup could not be made, limited, joined, killed, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{doing} {}", path.display())]
    File {
        /// The operation that failed, as a verb: `read`, `make`, `remove`.
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The kernel refused a value (cgroups(7): EINVAL for a bad one, EBUSY for a limit below the usage).
    #[error("write {value:?} to {}", path.display())]
    Write {
        path: PathBuf,
        value: String,
        #[source]
        source: io::Error,
    },
    /// v2 would kill for it.
    #[error("{} cannot be {value}: {used} bytes are in use", path.display())]
    BelowUsage { path: PathBuf, value: String, used: u64 },
    /// The kernel made another value of it.
    #[error("{value:?} was written to {}, which now reads {found:?}", path.display())]
    NotTaken { path: PathBuf, value: String, found: String },
    /// A change failed half-way, and this file keeps what it was changed to.
    #[error("limits were changed in part: {} could not be set back", path.display())]
    NotSetBack {
        path: PathBuf,
        #[source]
        source: Box<Error>,
    },
    #[error("this host has no usable cgroups: {why}")]
    NoCgroups { why: &'static str },
    #[error("driver = \"systemd\" cannot work on this host: {why}")]
    NoSystemd { why: &'static str },
    #[error(
        "cgroup parent {parent:?} is a systemd slice, but the cgroup driver of this host is cgroupfs, \
         which needs an absolute path, and systemd cannot make it: {why}"
    )]
    SliceWithoutSystemd { parent: String, why: &'static str },
    #[error("parent = {parent:?} does not go with driver = {driver:?}, which needs {wanted}")]
    ParentOfOther { parent: String, driver: &'static str, wanted: &'static str },
    /// No connection to the system bus, or to systemd on it.
    #[error("reach systemd over D-Bus")]
    NoBus {
        #[source]
        source: Cause,
    },
    #[error("{doing}: no answer over D-Bus within {seconds} s")]
    BusLate { doing: String, seconds: u64 },
    #[error("have systemd start {unit} over D-Bus")]
    Bus {
        unit: String,
        #[source]
        source: Cause,
    },
    #[error("systemd refused to start {unit}")]
    Refused {
        unit: String,
        #[source]
        source: Cause,
    },
    #[error("systemd put process {pid} into cgroup {found:?} instead of {scope:?}")]
    Elsewhere { pid: u32, scope: String, found: String },
    #[error("cgroup parent {parent:?} {fault}")]
    BadParent { parent: String, fault: &'static str },
    #[error("{limit} cannot be set: the {controller} controller is not available at {}", path.display())]
    NoController { limit: &'static str, controller: &'static str, path: PathBuf },
    #[error("{limit} cannot be {value:?}: {fault}")]
    BadLimit { limit: &'static str, value: String, fault: &'static str },
    /// Loading or attaching the device filter of cgroup v2 (bpf(2)).
    #[error("{doing} the device filter of {}", path.display())]
    DeviceFilter {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{given} device rules are more than {max}")]
    DeviceRules { given: usize, max: usize },
    #[error("device rule {rule:?} {fault}")]
    BadDeviceRule { rule: String, fault: &'static str },
    /// The record of a pod's cgroup does not name a pod's cgroup.
    #[error("cgroup {path:?} is not one of a pod of ours: it is left alone")]
    Foreign { path: String },
    #[error("{processes} processes in {} do not end", path.display())]
    Unkillable { path: PathBuf, processes: usize },
    /// SIGKILL was sent, and takes effect only when that cgroup is thawed.
    #[error(
        "{} is killed but frozen, by {} or a cgroup above it, which is not the pod's: thaw that",
        path.display(),
        above.display()
    )]
    FrozenAbove { path: PathBuf, above: PathBuf },
}

pub(super) fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::File { doing, path, source }
}

impl Error {
    /// The error as it crosses from a process of the pod to the daemon. `object` is what it happened to.
    pub fn failure(&self, object: &str) -> Failure {
        let cause = std::error::Error::source(self);
        let errno =
            cause.and_then(|cause| cause.downcast_ref::<io::Error>()).and_then(io::Error::raw_os_error);
        // The number says it all when there is one; other causes are words.
        let text = if errno.is_some() { self.to_string() } else { chain(self) };
        Failure { errno: errno.unwrap_or(0), ..Failure::new(Stage::Cgroup, object, text) }
    }
}
