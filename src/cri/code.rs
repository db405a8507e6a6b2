//! What a caller is told when something fails: a gRPC code, and the whole chain of causes once.
//!
//! The kubelet acts on few codes: NotFound (the object is gone), DeadlineExceeded (a probe timed out) and
//! Unimplemented (use another way). The others are for people and for crictl's exit code. For PullImage it
//! strips the code Unknown and compares the first word of what is left ("RegistryUnavailable").
//!
//! Invariant: no `_` below. A new failure must be given its code here.

#![deny(clippy::wildcard_enum_match_arm)]

use std::error::Error;

use tonic::{Code, Status};

use super::parse::Refusal;
use crate::{
    cgroup, event, image,
    model::{Failure, Stage},
    network, pod,
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
            Self::Ambiguous(_) | Self::UnknownHandler(_) | Self::Invalid(_) => Code::InvalidArgument,
            Self::WrongState { .. } => Code::FailedPrecondition,
            Self::Busy { .. }
            | Self::OpenFiles { .. }
            | Self::TooManyExecs { .. }
            | Self::TooManyUpdates { .. } => Code::ResourceExhausted,
            Self::Shared(error) => error.code(),
            Self::ExecTimeout(_) => Code::DeadlineExceeded,
            Self::Supervisor(failure) => failure.code(),
            Self::Image(error) => error.code(),
            Self::Network(network::Error::Sysctl { .. }) => Code::InvalidArgument,
            // The network may be there a moment later, and the kubelet tries again.
            Self::Network(_) => Code::Unavailable,
            // The request and the image together make no container.
            Self::Spec(_) => Code::InvalidArgument,
            Self::Cgroup(error) => error.code(),
            Self::Io { .. } | Self::Record { .. } => Code::Internal,
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
            Self::Write { .. } | Self::BelowUsage { .. } | Self::NotTaken { .. } => Code::FailedPrecondition,
            // systemd may be back a moment later, and the kubelet tries again.
            Self::NoBus { .. } | Self::BusLate { .. } | Self::Bus { .. } => Code::Unavailable,
            Self::File { .. }
            | Self::NotSetBack { .. }
            | Self::NoCgroups { .. }
            | Self::NoSystemd { .. }
            | Self::ParentOfOther { .. }
            | Self::Refused { .. }
            | Self::Elsewhere { .. }
            | Self::NoController { .. }
            | Self::DeviceFilter { .. }
            | Self::Foreign { .. }
            | Self::Unkillable { .. }
            | Self::FrozenAbove { .. } => Code::Internal,
        }
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
            Self::RegistryRefused { .. } | Self::BadHosts { .. } | Self::Store { .. } => Code::Internal,
        }
    }
}

impl Coded for Failure {
    fn code(&self) -> Code {
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
            | Stage::Propagation
            | Stage::WorkingDir
            | Stage::Execve
            | Stage::Device
            | Stage::Sysctl => Code::InvalidArgument,
            // The node could not do it.
            Stage::Internal
            | Stage::Namespace
            | Stage::Cgroup
            | Stage::Rootfs
            | Stage::Launch
            | Stage::Privileges
            | Stage::Log
            | Stage::Record => Code::Internal,
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
    use crate::network;

    const NO_NETWORK: &str =
        "no network is configured: the built-in bridge is switched off (network.enabled)";

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
            (pod::Error::UnknownHandler("k".into()), Code::InvalidArgument, "unknown runtime handler \"k\""),
            (pod::Error::Busy { waiting: 256 }, Code::ResourceExhausted, "256 creates are waiting already"),
            (
                pod::Error::ExecTimeout(Duration::from_secs(1)),
                Code::DeadlineExceeded,
                "command timed out after 1s",
            ),
            (network::Error::NotConfigured.into(), Code::Unavailable, NO_NETWORK),
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
    fn every_cause_is_told_once_and_in_order() {
        #[derive(Debug, thiserror::Error)]
        #[error("start container c1")]
        struct Outer(#[source] pod::Error);

        let inner = pod::Error::Io { doing: "open log /x".into(), source: io::Error::other("no space") };
        assert_eq!(chain(&Outer(inner)), "start container c1: open log /x: no space");
    }

    #[test]
    fn a_long_text_is_cut_to_what_a_header_takes() {
        let status = of(pod::Error::Invalid("é".repeat(MESSAGE_BYTES_MAX)));
        assert!(status.message().len() <= MESSAGE_BYTES_MAX, "{}", status.message().len());
        assert!(status.message().ends_with("é…"));
    }
}
