//! Notification when the kernel kills for want of memory, so that *when* is known and not only how often.

use std::{
    fs::File,
    os::fd::{AsRawFd, OwnedFd},
};

use rustix::event::{EventfdFlags, epoll::EventFlags, eventfd};

use super::{Container, Error, error, file, group::Version};

/// A descriptor that becomes ready at an OOM kill.
#[derive(Debug)]
pub struct OomWatch {
    fd: OwnedFd,
    counts_reads: bool,
}

impl OomWatch {
    /// The events to poll for: a file of cgroup v2 is always readable, and says by `PRI` that it changed.
    pub fn readiness(&self) -> EventFlags {
        if self.counts_reads { EventFlags::IN } else { EventFlags::PRI }
    }

    /// v1 tells that memory is short before it kills, v2 that it has killed.
    pub fn is_early(&self) -> bool {
        self.counts_reads
    }

    /// Takes the word, so that the next one is heard.
    pub fn acknowledge(&self) {
        if self.counts_reads {
            // Without a word there, nothing is taken.
            let _taken = rustix::io::read(&self.fd, &mut [0; 8]);
        } else {
            // A poll of memory.events is armed again by reading it.
            let _armed = rustix::io::pread(&self.fd, &mut [0; 512], 0);
        }
    }
}

impl std::os::fd::AsFd for OomWatch {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Container {
    /// Watches for OOM kills in it. `None`: the host has no memory controller.
    ///
    /// v1: an eventfd registered in `cgroup.event_control`; it needs no other descriptor and goes with the
    /// cgroup. v2: `memory.events` itself.
    ///
    /// # Errors
    /// When a file cannot be opened or the kernel refuses.
    pub fn watch_oom(&self) -> Result<Option<OomWatch>, Error> {
        let Some(directory) = self.controller("memory") else { return Ok(None) };
        match self.version() {
            Version::V1 => {
                let failed = |error: rustix::io::Errno| error::file("watch", &directory)(error.into());
                let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(failed)?;
                let path = directory.join("memory.oom_control");
                let control = File::open(&path).map_err(error::file("open", &path))?;
                let line = format!("{} {}", fd.as_raw_fd(), control.as_raw_fd());
                file::write(&directory.join("cgroup.event_control"), &line)?;
                Ok(Some(OomWatch { fd, counts_reads: true }))
            }
            Version::V2 => {
                let path = directory.join("memory.events");
                let fd = File::open(&path).map_err(error::file("open", &path))?.into();
                Ok(Some(OomWatch { fd, counts_reads: false }))
            }
        }
    }
}
