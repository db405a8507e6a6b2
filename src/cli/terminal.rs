//! The terminal that this process was started in: its modes, while a program elsewhere has it, and its size.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    panic,
    sync::{Mutex, Once},
};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::model::TerminalSize;

/// The terminal that is in raw mode, and its modes before. Not in [`RawTerminal`]: a panic ends this process without
/// dropping anything, and its hook must find it.
static CHANGED: Mutex<Option<(OwnedFd, Termios)>> = Mutex::new(None);

/// A terminal in raw mode: each key goes to the program as it is, and nothing is echoed here. Dropped, it has the modes
/// that it had, and so it has after a panic. Signals end this process by dropping it.
#[derive(Debug)]
pub(super) struct RawTerminal(());

impl RawTerminal {
    /// Changes the modes of `terminal`, of which there is one at a time.
    ///
    /// # Errors
    /// As tcsetattr(3), for instance when it is no terminal.
    pub(super) fn enter(terminal: impl AsFd) -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let before = panic::take_hook();
            panic::set_hook(Box::new(move |panic| {
                restore();
                before(panic);
            }));
        });
        let terminal = terminal.as_fd().try_clone_to_owned()?;
        let modes = tcgetattr(&terminal)?;
        let mut raw = modes.clone();
        raw.make_raw();
        if let Ok(mut changed) = CHANGED.lock() {
            tcsetattr(&terminal, OptionalActions::Now, &raw)?;
            *changed = Some((terminal, modes));
        }
        Ok(Self(()))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Takes no lock that a panic may hold for ever.
fn restore() {
    if let Ok(mut changed) = CHANGED.try_lock()
        && let Some((terminal, modes)) = changed.take()
    {
        // A terminal that has gone needs no modes.
        let _set = tcsetattr(terminal, OptionalActions::Now, &modes);
    }
}

/// Its size, if it has one.
pub(super) fn size(terminal: impl AsFd) -> Option<TerminalSize> {
    let size = tcgetwinsize(terminal).ok()?;
    TerminalSize::new(size.ws_col, size.ws_row)
}

#[cfg(test)]
mod tests {
    use rustix::{
        pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt},
        termios::LocalModes,
    };

    use super::*;

    /// One test, since there is one terminal at a time.
    #[test]
    fn a_terminal_has_its_modes_again_after_the_end_and_after_a_panic() {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let master = openpt(flags).unwrap();
        unlockpt(&master).unwrap();
        let terminal = ioctl_tiocgptpeer(&master, flags).unwrap();
        let echoes =
            || tcgetattr(&terminal).unwrap().local_modes.contains(LocalModes::ECHO | LocalModes::ICANON);
        assert!(echoes());

        let raw = RawTerminal::enter(&terminal).unwrap();
        assert!(!echoes());
        drop(raw);
        assert!(echoes());

        let raw = RawTerminal::enter(&terminal).unwrap();
        let thread = std::thread::spawn(|| panic!("this is meant to be"));
        assert!(thread.join().is_err());
        assert!(echoes(), "the guard is still held: this was the hook");
        drop(raw);

        assert!(RawTerminal::enter(std::fs::File::open("/dev/null").unwrap()).is_err());
        assert_eq!(size(std::fs::File::open("/dev/null").unwrap()), None);
    }
}
