//! Errors of pods and containers.

use std::{io, path::Path, sync::Arc, time::Duration};

pub(super) use crate::telemetry::log::chain;

use super::names::Lookup;
use crate::model::IdPrefix;
use crate::{cdi, cgroup, image, model::Failure, network, spec, store::BadRecord};

/// Why a pod or container could not be had, made, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no pod {0}")]
    NoSuchPod(String),
    #[error("no container {0}")]
    NoSuchContainer(String),
    #[error("id prefix {0} matches more than one")]
    Ambiguous(String),
    #[error("image {0} is not here; pull it first")]
    NoSuchImage(String),
    #[error("{object} is {state}; {wanted}")]
    WrongState { object: String, state: &'static str, wanted: &'static str },
    #[error("unknown runtime handler {name:?}; there are {known}")]
    UnknownHandler { name: String, known: String },
    #[error("the command is empty")]
    EmptyCommand,
    /// The node cannot make what the pod asks for.
    #[error("no pod can have a user namespace of its own on this node: {0}")]
    NoUserNamespaces(String),
    /// SELinux is enabled, and there is no label that the pod could have.
    #[error("no pod can have a label of SELinux on this node: {0}")]
    NoSelinuxLabels(String),
    /// What the container asks for is not its pod's.
    #[error("{0}")]
    OtherUsers(&'static str),
    #[error("a privileged container needs a privileged pod")]
    PrivilegedContainer,
    /// What the pod's resolv.conf(5) was to say.
    #[error("DNS {what}: {fault}")]
    Dns { what: &'static str, fault: String },
    /// More settings than one container may have, of all that it was given so far.
    #[error("more than {settings} raw settings or {hugepages} sizes of huge pages")]
    TooManySettings { settings: usize, hugepages: usize },
    /// AppArmor is on, and the profile that containers get by default is not there.
    #[error(
        "load the AppArmor profile pintle-default: {fault}; without it only Unconfined containers can be made"
    )]
    AppArmor { fault: String },
    #[error(transparent)]
    Cdi(#[from] cdi::Error),
    #[error("the folders of CDI specs do not answer")]
    CdiLate,
    /// The profile says what no filter can do, or is none.
    #[error("seccomp profile {profile}: {fault}")]
    SeccompProfile { profile: String, fault: String },
    #[error("read seccomp profile {profile}")]
    SeccompFile {
        profile: String,
        #[source]
        source: io::Error,
    },
    #[error("the file system of seccomp profile {profile} does not answer")]
    SeccompLate { profile: String },
    /// A defect of ours: something that cannot happen did.
    #[error("internal error: {0}")]
    Defect(&'static str),
    #[error("{waiting} creates are waiting already")]
    Busy { waiting: usize },
    /// The daemon has too few descriptors left for anything new.
    #[error(
        "pintle has {open} of {limit} files open and keeps the rest for stopping and removing; raise its limit of open files (LimitNOFILE=)"
    )]
    OpenFiles { open: u64, limit: u64 },
    /// More execs at once than the container (or the node) may have.
    #[error("{running} commands are running in {object} already")]
    TooManyExecs { object: String, running: usize },
    /// More changes of its limits at once than can wait.
    #[error("{waiting} changes of {object} are waiting already")]
    TooManyUpdates { object: String, waiting: usize },
    #[error("command timed out after {0:?}")]
    ExecTimeout(Duration),
    #[error(transparent)]
    Supervisor(#[from] Failure),
    #[error(transparent)]
    Network(#[from] network::Error),
    #[error(transparent)]
    Cgroup(#[from] cgroup::Error),
    #[error(transparent)]
    Image(#[from] image::Error),
    #[error(transparent)]
    Spec(#[from] spec::Error),
    #[error("{doing}")]
    Io {
        doing: String,
        #[source]
        source: io::Error,
    },
    /// A record of ours cannot be used.
    #[error("{doing}")]
    Record {
        doing: String,
        #[source]
        source: BadRecord,
    },
    /// Several callers joined one piece of work, and this is why it failed for all of them. To be judged by
    /// what is inside.
    #[error(transparent)]
    Shared(Arc<Error>),
}

/// Why the rules of a life refuse something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Refusal {
    /// What it is.
    pub(super) state: &'static str,
    /// What the caller could have known.
    pub(super) wanted: &'static str,
}

impl Error {
    /// For `map_err` of file work: `doing` and the path.
    pub(super) fn io(doing: &str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let doing = format!("{doing} {}", path.display());
        move |source| Self::Io { doing, source }
    }

    pub(super) fn refused(object: impl Into<String>, refusal: Refusal) -> Self {
        Self::WrongState { object: object.into(), state: refusal.state, wanted: refusal.wanted }
    }

    pub(super) fn no_pod(id: &IdPrefix, lookup: Lookup) -> Self {
        match lookup {
            Lookup::Unknown => Self::NoSuchPod(id.to_string()),
            Lookup::Ambiguous => Self::Ambiguous(id.to_string()),
        }
    }

    pub(super) fn no_container(id: &IdPrefix, lookup: Lookup) -> Self {
        match lookup {
            Lookup::Unknown => Self::NoSuchContainer(id.to_string()),
            Lookup::Ambiguous => Self::Ambiguous(id.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_names_every_cause_once() {
        let error = Error::io("write", Path::new("/run/x"))(io::Error::other("disk on fire"));
        assert_eq!(chain(&error), "write /run/x: disk on fire");
        assert_eq!(chain(&Error::Shared(Arc::new(error))), "write /run/x: disk on fire");
    }
}
