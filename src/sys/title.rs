//! What ps(1) shows of a process: its arguments, overwritten where they lie.

use std::{
    fs, io,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::process::check;

/// Bytes of a title at most.
const BYTES_MAX: usize = 200;
/// Bytes of a name at most (prctl(2), `PR_SET_NAME`).
const NAME_BYTES_MAX: usize = 15;

/// Bytes of all arguments as the kernel put them; 0 until [`claim`].
static ROOM: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" {
    /// The first argument, where the kernel put it (program_invocation_name(3)).
    #[link_name = "program_invocation_name"]
    static FIRST_ARGUMENT: *mut libc::c_char;
}

/// A first argument that begins with `name` and is long enough for every title: none can be longer than the
/// arguments were.
pub fn room(name: &str) -> String {
    format!("{name:<BYTES_MAX$}")
}

/// Finds out how much room the arguments leave. They must not be asked for any more.
///
/// # Errors
/// When `/proc/self/cmdline` cannot be read.
pub fn claim() -> io::Result<()> {
    ROOM.store(fs::read("/proc/self/cmdline")?.len(), Ordering::Relaxed);
    Ok(())
}

/// Shows `title` as this process's command line and `name` as what it is called, both cut to what there is room
/// for. A process that was forked has the room of the one that it was forked from.
///
/// # Errors
/// As prctl(2).
pub fn set(title: &str, name: &str) -> io::Result<()> {
    let name: Vec<u8> = shown(name).take(NAME_BYTES_MAX).chain([0]).collect();
    // SAFETY: a live, NUL-terminated string; the kernel reads at most 16 bytes of it.
    check(unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0, 0, 0) }.into())?;
    let room = ROOM.load(Ordering::Relaxed);
    if room >= 2 {
        let mut bytes: Vec<u8> = shown(title).take(room - 2).collect();
        bytes.resize(room - 1, 0);
        // An end that is not NUL tells the kernel that this is a title: it is shown up to its NUL (proc(5)).
        bytes.push(b'.');
        // SAFETY: the arguments lie one after the other from the first on, `room` bytes in all, and are ours to
        // change; nobody asks for them any more.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), FIRST_ARGUMENT.cast(), room) };
    }
    Ok(())
}

/// The text as it can stand in a line of a terminal.
fn shown(text: &str) -> impl Iterator<Item = u8> {
    text.bytes().map(|byte| if byte.is_ascii_control() { b'?' } else { byte })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_is_one_line_and_has_room() {
        assert_eq!(shown("a\n\0b\u{7f}c").collect::<Vec<_>>(), b"a??b?c");
        assert_eq!(room("pintle").len(), BYTES_MAX);
        assert!(room("pintle").starts_with("pintle "));
    }
}
