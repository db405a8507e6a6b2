//! Messages of the helper to the supervisor: steps taken, a failure, what init is.

use std::{
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
};

use serde::{Deserialize, Serialize};

use super::user::Identity;
use crate::{
    model::{Failure, Stage},
    sys::fdpass,
};

/// Bytes of one report at most; a failure's text is cut to fit.
const REPORT_BYTES_MAX: usize = 16 * 1024;
/// Bytes of libcontainer's own error lines that are kept.
pub(super) const TRACE_BYTES_MAX: usize = 4 * 1024;

/// A message of a helper, or of the init it makes, to its supervisor.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub enum Report {
    /// The identity that the process will have.
    Identity(Identity),
    /// From here on the container may speak in the process's place: nothing is believed but that it waits or failed.
    Sealed,
    /// A container's init has given up what its program is not to have, and waits at the barrier.
    Waiting,
    /// There will be no process, or it cannot execute its program.
    Failed(Failure),
    /// The master of the container's terminal comes with it.
    Terminal,
    /// A line of libcontainer's error log: the cause behind the next failure.
    Trace(String),
}

/// One end of the SEQPACKET pair between a supervisor and the processes of one launch. It is also the
/// start barrier: the init waits here for a `G`, and the end of the stream tells it that the supervisor
/// is gone; to the supervisor, the end of the stream says that every process on the other side has
/// executed its program or ended.
#[derive(Debug)]
pub struct Reporter(std::fs::File);

impl Reporter {
    pub fn new(socket: OwnedFd) -> Self {
        Self(socket.into())
    }

    /// Sends one report; that nobody listens is not an error here (the reader's end decides).
    pub fn send(&self, report: &Report) {
        if let Ok(bytes) = encode(report) {
            let _told: io::Result<usize> = (&self.0).write(&bytes);
        }
    }

    /// The same socket once more.
    ///
    /// # Errors
    /// Stage `Internal` when there are no descriptors left.
    pub fn another(&self) -> Result<Self, Failure> {
        let copy = self.0.try_clone().map_err(|error| Failure::io(Stage::Internal, "report", "", &error))?;
        Ok(Self(copy))
    }

    /// Sends the master of the container's terminal.
    ///
    /// # Errors
    /// When the supervisor is gone.
    pub(super) fn send_terminal(&self, master: &OwnedFd) -> io::Result<()> {
        let bytes = serde_json::to_vec(&Report::Terminal)?;
        fdpass::send(self.0.as_fd(), &bytes, &[master.as_fd()]).map(drop)
    }

    /// Lets the init on the other side go (supervisor's end).
    ///
    /// # Errors
    /// When the init is gone.
    pub fn go(&self) -> io::Result<()> {
        (&self.0).write_all(b"G")
    }

    /// The next report and its descriptor, if it has one (supervisor's end); `None` is the end.
    ///
    /// # Errors
    /// `WouldBlock` on a non-blocking socket without a report; `InvalidData` for what is no report.
    pub fn receive(&self) -> io::Result<Option<(Report, Option<OwnedFd>)>> {
        let mut buffer = [0; REPORT_BYTES_MAX];
        let mut fds = Vec::new();
        let length = fdpass::receive(self.0.as_fd(), &mut buffer, &mut fds)?;
        if length == 0 {
            return Ok(None);
        }
        Ok(Some((serde_json::from_slice(&buffer[..length])?, fds.pop())))
    }
}

/// A report as it travels. Half of one would be none: a failure that is told in too many words would be taken
/// for a start that worked, so its words are cut.
pub(super) fn encode(report: &Report) -> serde_json::Result<Vec<u8>> {
    let bytes = serde_json::to_vec(report)?;
    if bytes.len() <= REPORT_BYTES_MAX {
        return Ok(bytes);
    }
    serde_json::to_vec(&match report {
        Report::Failed(failure) => Report::Failed(Failure {
            object: cut(&failure.object),
            path: cut(&failure.path),
            text: cut(&failure.text),
            ..failure.clone()
        }),
        Report::Trace(line) => Report::Trace(cut(line)),
        Report::Identity(_) | Report::Sealed | Report::Waiting | Report::Terminal => {
            Report::Failed(Failure::new(Stage::Internal, "report", format!("{} bytes", bytes.len())))
        }
    })
}

fn cut(text: &str) -> String {
    /// Escaped, a character takes twelve bytes at most; three of these fit into one report.
    const CHARS_MAX: usize = 400;
    let mut short: String = text.chars().take(CHARS_MAX).collect();
    if short.len() < text.len() {
        short.push('\u{2026}');
    }
    short
}

impl std::os::fd::AsFd for Reporter {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_arrives_however_long_its_words() {
        let long = "\u{1}".repeat(100_000);
        let failure =
            Failure { path: long.clone(), errno: 36, ..Failure::new(Stage::Execve, &*long, &*long) };
        let bytes = encode(&Report::Failed(failure)).unwrap();
        assert!(bytes.len() <= REPORT_BYTES_MAX, "{} bytes", bytes.len());
        let Report::Failed(told) = serde_json::from_slice(&bytes).unwrap() else { panic!("not a failure") };
        assert_eq!((told.stage, told.errno, told.text.chars().count()), (Stage::Execve, 36, 401));
        let short = Report::Trace("short".into());
        assert_eq!(serde_json::from_slice::<Report>(&encode(&short).unwrap()).unwrap(), short);
    }
}
