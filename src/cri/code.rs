//! Errors as gRPC statuses: a code for each kind, and the whole chain of causes once.
//!
//! The kubelet acts on few codes: NotFound (the object is gone), DeadlineExceeded (a probe timed out) and
//! Unimplemented (use another way). The others are for people and for crictl's exit code. For PullImage it
//! strips the code Unknown and compares the first word of what is left ("RegistryUnavailable").
//!
//! Invariant: no `_` below. A new failure must be given its code here.

#![deny(clippy::wildcard_enum_match_arm)]

use std::{error::Error, io};

use rustix::io::Errno;
use tonic::{Code, Status};

use super::parse::Refusal;
use crate::{
    cdi, cgroup, event, image,
    model::{Failure, Stage},
    network, pod, spec, streaming,
    telemetry::log,
};

/// Bytes of an error's text. It travels in an HTTP/2 header, percent-encoded (up to three times as long), and
/// clients take 16 KiB of headers at least.
const MESSAGE_BYTES_MAX: usize = 4096;

/// The answer for any failure of a handler.
pub(super) fn of(error: impl Coded) -> Status {
    Status::new(error.code(), chain(&error))
}

/// The answer for a pull that failed: it names the reference, but not before a first word that the kubelet
/// compares.
pub(super) fn of_pull(reference: &str, error: image::Error) -> Status {
    let (code, text) = (error.code(), chain(&error));
    if text.contains(reference) {
        return Status::new(code, text);
    }
    let compared = matches!(error.decisive(), image::Error::RegistryUnavailable { .. });
    let text =
        if compared { format!("{text} (pull {reference})") } else { format!("pull {reference}: {text}") };
    Status::new(code, text)
}

/// A failure that has a place in the table.
pub(super) trait Coded: Error {
    fn code(&self) -> Code;
}

impl Coded for Refusal {
    fn code(&self) -> Code {
        Code::InvalidArgument
    }
}

impl Coded for pod::Error {
    fn code(&self) -> Code {
        match self {
            Self::NoSuchPod(_) | Self::NoSuchContainer(_) | Self::NoSuchImage(_) => Code::NotFound,
            Self::Ambiguous(_)
            | Self::UnknownHandler { .. }
            | Self::EmptyCommand
            | Self::PrivilegedContainer
            | Self::OtherUsers(_)
            | Self::Dns { .. }
            | Self::TooManySettings { .. }
            | Self::SeccompProfile { .. } => Code::InvalidArgument,
            Self::WrongState { .. } => Code::FailedPrecondition,
            Self::Busy { .. }
            | Self::OpenFiles { .. }
            | Self::TooManyExecs { .. }
            | Self::TooManyUpdates { .. } => Code::ResourceExhausted,
            // It mends by itself.
            Self::SeccompLate { .. } | Self::CdiLate => Code::Unavailable,
            Self::Cdi(error) => error.code(),
            // Only an operator can install the parser, or another kernel.
            Self::AppArmor { .. } | Self::NoUserNamespaces(_) | Self::NoSelinuxLabels(_) => {
                Code::FailedPrecondition
            }
            Self::SeccompFile { source, .. } => shortage(source).unwrap_or(Code::FailedPrecondition),
            Self::Shared(error) => error.code(),
            Self::ExecTimeout(_) => Code::DeadlineExceeded,
            Self::Supervisor(failure) => failure.code(),
            Self::Image(error) => error.code(),
            Self::Network(error) => error.code(),
            Self::Spec(error) => error.code(),
            Self::Cgroup(error) => error.code(),
            Self::Io { source, .. } => of_io(source),
            Self::Record { .. } | Self::Defect(_) => Code::Internal,
        }
    }
}

/// `ResourceExhausted` if the node has run out of something: disk, quota, descriptors, memory. The error's text names
/// the path.
fn shortage(error: &io::Error) -> Option<Code> {
    let short = [Errno::NOSPC, Errno::DQUOT, Errno::MFILE, Errno::NFILE, Errno::NOMEM];
    Errno::from_io_error(error).is_some_and(|errno| short.contains(&errno)).then_some(Code::ResourceExhausted)
}

/// A system call that failed without anybody having asked for what cannot be.
fn of_io(error: &io::Error) -> Code {
    shortage(error).unwrap_or(Code::Internal)
}

impl Coded for network::Error {
    fn code(&self) -> Code {
        match self {
            Self::HostPortTwice { .. }
            | Self::Sysctl { .. }
            | Self::Pod(_)
            | Self::Bandwidth(_)
            | Self::BadPodRange { .. } => Code::InvalidArgument,
            // Free again once the other pod is gone.
            Self::HostPortTaken { .. }
            | Self::GatewayTaken { .. }
            | Self::NoWay { .. }
            | Self::InUse { .. } => Code::FailedPrecondition,
            // Only an operator can mend these.
            Self::NotConfigured
            | Self::BadConfig { .. }
            | Self::NotABridge { .. }
            | Self::Template { .. } => Code::FailedPrecondition,
            // The plugins may be there, or of another mind, in a moment.
            Self::NotReady(_) | Self::Plugin { .. } => Code::Unavailable,
            Self::BadResult(_) | Self::BadAttachment { .. } => Code::Internal,
            Self::Exhausted { .. } | Self::Busy { .. } => Code::ResourceExhausted,
            // The kernel was busy: another try may do better.
            Self::Deadline { .. } => Code::Unavailable,
            Self::Lease { source, .. }
            | Self::File { source, .. }
            | Self::Netlink { source, .. }
            | Self::Namespace { source, .. }
            | Self::Firewall { source, .. }
            | Self::Settings { source, .. } => of_io(source),
            Self::HostNamespace { .. } => Code::Internal,
            Self::Sweep { first, .. } => first.code(),
        }
    }
}

impl Coded for cdi::Error {
    fn code(&self) -> Code {
        match self {
            // Only an operator, or the device's driver, can mend these.
            Self::Missing { .. } | Self::Conflict { .. } | Self::Unsupported { .. } => {
                Code::FailedPrecondition
            }
            Self::Host { source, .. } => shortage(source).unwrap_or(Code::FailedPrecondition),
        }
    }
}

impl Coded for spec::Error {
    fn code(&self) -> Code {
        match self {
            Self::Capability { .. }
            | Self::DevicePermissions { .. }
            | Self::DuplicateMount { .. }
            | Self::Environment { .. }
            | Self::GroupWithoutUser
            | Self::Limit { .. }
            | Self::Mount { .. }
            | Self::NoAppArmor { .. }
            | Self::NoCommand
            | Self::OomScore { .. }
            | Self::Path { .. }
            | Self::User { .. } => Code::InvalidArgument,
            // Ours to mend.
            Self::NoFilter | Self::NoVolumeLayers | Self::Oci(_) => Code::Internal,
        }
    }
}

impl Coded for cgroup::Error {
    fn code(&self) -> Code {
        match self {
            Self::BadParent { .. }
            | Self::SliceWithoutSystemd { .. }
            | Self::BadLimit { .. }
            | Self::BadDeviceRule { .. }
            | Self::DeviceRules { .. } => Code::InvalidArgument,
            // The same may be granted another time: to a smaller container, or under a larger parent.
            Self::Write { .. }
            | Self::BelowUsage { .. }
            | Self::NotTaken { .. }
            | Self::NoController { .. } => Code::FailedPrecondition,
            // systemd may be back a moment later, and the kubelet tries again.
            Self::NoBus { .. } | Self::BusLate { .. } | Self::Bus { .. } => Code::Unavailable,
            Self::File { source, .. } | Self::DeviceFilter { source, .. } => of_io(source),
            Self::NotSetBack { .. }
            | Self::NoCgroups { .. }
            | Self::NoSystemd { .. }
            | Self::ParentOfOther { .. }
            | Self::Refused { .. }
            | Self::Elsewhere { .. }
            | Self::Foreign { .. }
            | Self::Unkillable { .. }
            | Self::FrozenAbove { .. } => Code::Internal,
        }
    }
}

impl Coded for streaming::TooManyPending {
    fn code(&self) -> Code {
        Code::ResourceExhausted
    }
}

impl Coded for event::Error {
    fn code(&self) -> Code {
        match self {
            Self::TooMany { .. } => Code::ResourceExhausted,
            // What was not read is gone; only a list tells what is true now.
            Self::Behind { .. } => Code::DataLoss,
            Self::Closed => Code::Unavailable,
        }
    }
}

impl Coded for image::Error {
    fn code(&self) -> Code {
        match self {
            Self::Everywhere { decisive, .. } => decisive.code(),
            Self::NotInRegistry { .. } => Code::NotFound,
            Self::BadReference { .. } | Self::AmbiguousPrefix(_) | Self::BadArchive { .. } => {
                Code::InvalidArgument
            }
            // The kubelet strips this code and compares the first word.
            Self::RegistryUnavailable { .. } => Code::Unknown,
            Self::Unauthorized { .. } => Code::PermissionDenied,
            Self::Full { .. } | Self::Limit { .. } => Code::ResourceExhausted,
            Self::Abandoned(_) => Code::Cancelled,
            Self::LayerRemoved(_) => Code::Aborted,
            // The image is not what it says it is, or not for us: another try changes nothing.
            Self::BadDocument { .. }
            | Self::NoPlatform { .. }
            | Self::Unsupported { .. }
            | Self::Mismatch { .. }
            | Self::Layer { .. } => Code::FailedPrecondition,
            // Nor does it with these: the registry's mind, or an operator's file, must change first.
            Self::RegistryRefused { .. } | Self::BadHosts { .. } => Code::FailedPrecondition,
            Self::Store { source, .. } => of_io(source),
        }
    }
}

impl Coded for Failure {
    fn code(&self) -> Code {
        let shortage = shortage(&io::Error::from_raw_os_error(self.errno));
        match self.stage {
            Stage::NotFound => Code::NotFound,
            Stage::WrongState => Code::FailedPrecondition,
            Stage::Deadline => Code::DeadlineExceeded,
            Stage::Connection => Code::Unavailable,
            Stage::Limit => Code::ResourceExhausted,
            // The request or the image asks for what cannot be.
            Stage::Request
            | Stage::RootfsGuard
            | Stage::User
            | Stage::MountSource
            | Stage::MountTarget
            | Stage::ImageVolume
            | Stage::Propagation
            | Stage::WorkingDir
            | Stage::Execve
            | Stage::Device
            | Stage::Sysctl => shortage.unwrap_or(Code::InvalidArgument),
            // The node could not do it.
            Stage::Internal
            | Stage::Namespace
            | Stage::Cgroup
            | Stage::Rootfs
            | Stage::Launch
            | Stage::Privileges
            | Stage::Log
            | Stage::Record => shortage.unwrap_or(Code::Internal),
        }
    }
}

/// An error and its causes, joined by ": ", cut to what a header takes.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = log::chain(error);
    if text.len() > MESSAGE_BYTES_MAX {
        let end = text.floor_char_boundary(MESSAGE_BYTES_MAX - '…'.len_utf8());
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::{io, time::Duration};

    use super::*;
    const NO_NETWORK: &str =
        "no network is configured: pods of their own network are switched off (network.mode = \"none\")";

    fn failure(stage: Stage) -> Failure {
        Failure { stage, object: "c1".into(), errno: 0, path: String::new(), text: String::new() }
    }

    #[test]
    fn the_kubelet_is_told_what_it_acts_on() {
        let wrong =
            || pod::Error::WrongState { object: "pod a".into(), state: "stopped", wanted: "start it" };
        let io = || pod::Error::Io { doing: "write record /x".into(), source: io::Error::other("no space") };
        for (error, code, text) in [
            (pod::Error::NoSuchPod("a".into()), Code::NotFound, "no pod a"),
            (pod::Error::NoSuchContainer("a".into()), Code::NotFound, "no container a"),
            (pod::Error::NoSuchImage("a".into()), Code::NotFound, "image a is not here; pull it first"),
            (pod::Error::Ambiguous("a".into()), Code::InvalidArgument, "id prefix a matches more than one"),
            (wrong(), Code::FailedPrecondition, "pod a is stopped; start it"),
            (
                pod::Error::UnknownHandler { name: "k".into(), known: "a, b".into() },
                Code::InvalidArgument,
                "unknown runtime handler \"k\"; there are a, b",
            ),
            (pod::Error::Busy { waiting: 256 }, Code::ResourceExhausted, "256 creates are waiting already"),
            (
                pod::Error::ExecTimeout(Duration::from_secs(1)),
                Code::DeadlineExceeded,
                "command timed out after 1s",
            ),
            (network::Error::NotConfigured.into(), Code::FailedPrecondition, NO_NETWORK),
            (failure(Stage::Deadline).into(), Code::DeadlineExceeded, "deadline exceeded: c1"),
            (failure(Stage::Connection).into(), Code::Unavailable, "lost connection to supervisor c1"),
            (failure(Stage::WrongState).into(), Code::FailedPrecondition, "wrong state c1"),
            (failure(Stage::Execve).into(), Code::InvalidArgument, "could not execute c1"),
            (failure(Stage::Internal).into(), Code::Internal, "internal error c1"),
            (io(), Code::Internal, "write record /x: no space"),
        ] {
            let status = of(error);
            assert_eq!((status.code(), status.message()), (code, text));
        }
    }

    #[test]
    fn a_follower_is_told_why_it_is_told_no_more() {
        let codes = [
            event::Error::TooMany { limit: 1 },
            event::Error::Behind { events: 1, bytes: 1 },
            event::Error::Closed,
        ]
        .map(|error| of(error).code());
        assert_eq!(codes, [Code::ResourceExhausted, Code::DataLoss, Code::Unavailable]);
    }

    #[test]
    fn what_never_mends_is_not_unavailable_and_what_is_ours_is_not_the_callers() {
        let netlink = |errno| network::Error::Netlink {
            operation: "make link",
            object: "veth0".into(),
            source: io::Error::from_raw_os_error(errno),
        };
        let profile = || "/p.json".to_owned();
        let denied = io::ErrorKind::PermissionDenied.into();
        for (error, code) in [
            (
                network::Error::Firewall { operation: "write", source: io::Error::from(Errno::PERM) }.into(),
                Code::Internal,
            ),
            (network::Error::NotABridge { name: "b".into() }.into(), Code::FailedPrecondition),
            (netlink(libc_errno(Errno::BUSY)).into(), Code::Internal),
            (netlink(libc_errno(Errno::NOMEM)).into(), Code::ResourceExhausted),
            (spec::Error::NoCommand.into(), Code::InvalidArgument),
            (spec::Error::NoFilter.into(), Code::Internal),
            (pod::Error::Defect("no namespace"), Code::Internal),
            (pod::Error::EmptyCommand, Code::InvalidArgument),
            (pod::Error::SeccompProfile { profile: profile(), fault: "bad".into() }, Code::InvalidArgument),
            (pod::Error::SeccompFile { profile: profile(), source: denied }, Code::FailedPrecondition),
            (pod::Error::SeccompLate { profile: profile() }, Code::Unavailable),
        ] {
            assert_eq!((error.to_string(), error.code()), (error.to_string(), code));
        }
    }

    fn libc_errno(errno: Errno) -> i32 {
        errno.raw_os_error()
    }

    #[test]
    fn a_node_that_has_run_out_of_something_says_of_what_and_where() {
        let full = || io::Error::from(Errno::NOSPC);
        let failed = Failure::io(Stage::MountTarget, "c1", "/data", &full());
        let late = Failure { errno: libc_errno(Errno::NOSPC), ..failure(Stage::WrongState) };
        for (status, code, text) in [
            (
                of(pod::Error::Io { doing: "write the records of a pod in /run/p".into(), source: full() }),
                Code::ResourceExhausted,
                "write the records of a pod in /run/p: No space left on device (os error 28)",
            ),
            (
                of(cgroup::Error::File { doing: "make", path: "/sys/fs/cgroup/p".into(), source: full() }),
                Code::ResourceExhausted,
                "make /sys/fs/cgroup/p: No space left on device (os error 28)",
            ),
            (
                of(network::Error::Lease { operation: "write", path: "/var/n/1".into(), source: full() }),
                Code::ResourceExhausted,
                "write /var/n/1: No space left on device (os error 28)",
            ),
            (
                of(failed),
                Code::ResourceExhausted,
                "could not mount at c1 /data (No space left on device (os error 28))",
            ),
            (of(late), Code::FailedPrecondition, "wrong state c1 (No space left on device (os error 28))"),
        ] {
            assert_eq!((status.code(), status.message()), (code, text));
        }
    }

    #[test]
    fn every_cause_is_told_once_and_in_order() {
        #[derive(Debug, thiserror::Error)]
        #[error("start container c1")]
        struct Outer(#[source] pod::Error);

        let inner = pod::Error::Io { doing: "open log /x".into(), source: io::Error::other("no space") };
        assert_eq!(chain(&Outer(inner)), "start container c1: open log /x: no space");
    }

    #[test]
    fn a_long_text_is_cut_to_what_a_header_takes() {
        let status = of(pod::Error::NoSuchPod("é".repeat(MESSAGE_BYTES_MAX)));
        assert!(status.message().len() <= MESSAGE_BYTES_MAX, "{}", status.message().len());
        assert!(status.message().ends_with("é…"));
    }
}
