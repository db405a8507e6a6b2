//! A person at a terminal with a command of pintle.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::{Child, Command},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    termios::{LocalModes, OutputModes, Winsize, tcgetattr, tcsetwinsize},
};

use crate::{
    harness::{pid_of_program, wait_until},
    streaming::{in_terminal, terminal},
};

/// As for all other waits of these stories.
const SHOWN_MAX: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

/// A terminal in which a command runs.
pub(super) struct Seat {
    master: File,
    /// Held, so that the modes are there when the command has ended.
    slave: OwnedFd,
    program: Child,
    shown: String,
}

impl Seat {
    /// Starts the command in a new terminal of this size.
    pub(super) fn of(command: Command, columns: u16, rows: u16) -> Self {
        let (master, slave) = terminal(columns, rows);
        let program = in_terminal(command, &slave);
        Self { master, slave, program, shown: String::new() }
    }

    /// Waits until the terminal shows this.
    #[track_caller]
    pub(super) fn wait_for(&mut self, expected: &str) {
        while !self.shown.contains(expected) {
            let mut fds = [PollFd::new(&self.master, PollFlags::IN)];
            let ready = poll(&mut fds, Some(&SHOWN_MAX)).unwrap();
            assert!(ready > 0, "{expected:?} never came: {:?}", self.shown);
            let mut chunk = [0; 4096];
            let count = self.master.read(&mut chunk).unwrap();
            self.shown += &String::from_utf8_lossy(&chunk[..count]);
        }
    }

    pub(super) fn write(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Pulls the window to another size.
    pub(super) fn resize(&mut self, columns: u16, rows: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.master, size).unwrap();
        // The kernel tells whoever has the terminal as its own; here it is the test's.
        self.kill("-WINCH");
    }

    /// Sends a signal to pintle; what the test has started is nsenter.
    pub(super) fn kill(&mut self, signal: &str) {
        let pid = pid_of_program(&mut self.program).expect("pintle runs").to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Whether each key goes to the program, and not through the terminal's own line.
    pub(super) fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.slave).unwrap();
        !modes.local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// Waits for the end of the command, whose exit code this is, and looks whether the terminal is as it was.
    #[track_caller]
    pub(super) fn end(&mut self) -> Option<i32> {
        let mut code = None;
        wait_until("the command ends", || {
            code = self.program.try_wait().unwrap();
            code.is_some()
        });
        let modes = tcgetattr(&self.slave).unwrap();
        assert!(modes.local_modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG));
        assert!(modes.output_modes.contains(OutputModes::OPOST));
        code.unwrap().code()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Only of a failed test: it would hold the node.
        if let Ok(None) = self.program.try_wait() {
            let _ = self.program.kill();
            let _ = self.program.wait();
        }
    }
}
