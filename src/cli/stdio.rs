//! The standard streams of this process, as whoever started it left them.

use std::{
    io::{self, Write},
    os::fd::BorrowedFd,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

/// A standard output that is written at once. It may be one that does not block, because another process that has it
/// too wants it so: then this waits for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct StandardOutput(BorrowedFd<'static>);

pub(super) fn stdout() -> StandardOutput {
    StandardOutput(rustix::stdio::stdout())
}

pub(super) fn stderr() -> StandardOutput {
    StandardOutput(rustix::stdio::stderr())
}

impl Write for StandardOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(self.0, bytes) {
                Err(Errno::AGAIN) => wait(&mut [PollFd::new(&self.0, PollFlags::OUT)])?,
                Err(Errno::INTR) => {}
                written => return Ok(written?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits until one of `fds` is ready, or broken.
fn wait(fds: &mut [PollFd<'_>]) -> io::Result<()> {
    match poll(fds, None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
