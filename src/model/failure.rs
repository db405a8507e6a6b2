//! Failures of starting a process: the stage, the cause, and the text that a user sees.

use std::{fmt, io, path::Path};

use serde::{Deserialize, Serialize};

/// Why something in the supervisor, a helper or a container's set-up failed, as it crosses processes.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, thiserror::Error)]
pub struct Failure {
    /// Which step.
    pub stage: Stage,
    /// The object of the operation: a container id, a mount destination, a user name.
    pub object: String,
    /// The kernel's error number; 0 where there is none.
    pub errno: i32,
    /// The path in question; may be empty.
    pub path: String,
    /// The cause in words; at most 4 KiB.
    pub text: String,
}

impl Failure {
    /// A failure in words.
    pub fn new(stage: Stage, object: impl Into<String>, text: impl Into<String>) -> Self {
        Self { stage, object: object.into(), errno: 0, path: String::new(), text: text.into() }
    }

    /// A failed system call on `path` (which may be empty).
    pub fn io(stage: Stage, object: impl Into<String>, path: impl AsRef<Path>, error: &io::Error) -> Self {
        let errno = error.raw_os_error().unwrap_or(0);
        Self {
            stage,
            object: object.into(),
            errno,
            path: path.as_ref().display().to_string(),
            text: if errno == 0 { error.to_string() } else { String::new() },
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.stage.as_str())?;
        for part in [&self.object, &self.path] {
            if !part.is_empty() {
                write!(f, " {part}")?;
            }
        }
        if !self.text.is_empty() {
            write!(f, ": {}", self.text)?;
        }
        if self.errno != 0 {
            write!(f, " ({})", std::io::Error::from_raw_os_error(self.errno))?;
        }
        Ok(())
    }
}

macro_rules! stages {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// The step that failed. Numbers cross the supervisor's protocol: add, never renumber.
        #[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
        pub enum Stage { $($(#[$doc])* $name,)* }

        impl Stage {
            /// The number on the wire.
            pub fn number(self) -> u32 {
                match self { $(Self::$name => $number,)* }
            }
            /// From the wire; a number of a later release reads as [`Stage::Internal`].
            pub fn from_number(number: u32) -> Self {
                match number { $($number => Self::$name,)* _ => Self::Internal }
            }
            /// In an operator's words: "could not …".
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

stages! {
    /// A defect of ours, or a stage that this release does not know.
    Internal = 1, "internal error";
    /// The request makes no sense to the supervisor.
    Request = 2, "bad request";
    /// The object is not known to the supervisor.
    NotFound = 3, "not found";
    /// The object is in another state than the request needs.
    WrongState = 4, "wrong state";
    /// Making or entering the pod's namespaces.
    Namespace = 5, "could not make namespace";
    /// Writing a sysctl.
    Sysctl = 6, "could not set sysctl";
    /// Making, limiting or joining a cgroup.
    Cgroup = 7, "could not set up cgroup";
    /// Mounting the container's root file system.
    Rootfs = 8, "could not mount root file system";
    /// The image has something other than a directory at `/dev`, `/proc` or `/sys`.
    RootfsGuard = 9, "unsafe root file system:";
    /// Resolving the user or group in the image.
    User = 10, "could not resolve user";
    /// The source of a volume.
    MountSource = 11, "could not open mount source";
    /// The destination of a volume.
    MountTarget = 12, "could not mount at";
    /// BIDIRECTIONAL on a source that is not a shared mount.
    Propagation = 13, "could not share mounts of";
    /// libcontainer's part.
    Launch = 14, "could not create container";
    /// The working directory.
    WorkingDir = 15, "could not enter working directory";
    /// Identity, capabilities, limits, seccomp.
    Privileges = 16, "could not set privileges:";
    /// execve.
    Execve = 17, "could not execute";
    /// Opening, writing or reopening a log file.
    Log = 18, "could not open log";
    /// A host device.
    Device = 19, "could not make device";
    /// The operation took longer than its deadline.
    Deadline = 20, "deadline exceeded:";
    /// The other side of the connection went away.
    Connection = 21, "lost connection to supervisor";
    /// A durable record.
    Record = 22, "could not write record";
    /// More than a limit allows.
    Limit = 23, "limit reached:";
    /// The image of a volume; the kubelet knows the word.
    ImageVolume = 24, "ImageVolumeMountFailed:";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_survives_the_wire_and_a_later_one_is_internal() {
        assert_eq!(Stage::from_number(Stage::Execve.number()), Stage::Execve);
        assert_eq!(Stage::from_number(9999), Stage::Internal);
    }

    #[test]
    fn a_failure_reads_as_one_sentence() {
        let failure = Failure {
            stage: Stage::Execve,
            object: String::new(),
            errno: 2,
            path: "/bin/nope".into(),
            text: String::new(),
        };
        assert_eq!(
            failure.to_string(),
            "could not execute /bin/nope (No such file or directory (os error 2))"
        );
    }
}
