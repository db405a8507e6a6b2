//! Terminals (tty_ioctl(4)).

use std::{io, os::fd::AsFd};

use rustix::termios::{Winsize, tcsetwinsize};

/// Sets the size of a terminal in characters, through either of its ends; its foreground processes get SIGWINCH.
///
/// # Errors
/// As ioctl(2) with `TIOCSWINSZ`.
pub fn resize(terminal: impl AsFd, columns: u16, rows: u16) -> io::Result<()> {
    Ok(tcsetwinsize(terminal, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?)
}
