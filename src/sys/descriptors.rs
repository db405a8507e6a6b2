//! Open files of this process: how many there are, and a reserve of them.
//!
//! A process at its limit can open nothing, and so can end nothing either: to kill a cgroup is to open a file.
//! So some descriptors are held from the start ([`hold_reserve`]), on nothing, and let go for the time in which
//! something is taken down ([`lend_reserve`]). Who wants more for long asks [`has_room_for`] first.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::{
    fs::{CWD, Mode, OFlags, RawDir},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

/// The reserve of this process. Descriptors belong to the process, and so does it.
static RESERVE: Mutex<Reserve> = Mutex::new(Reserve { held: Vec::new(), size: 0, loans: 0 });

#[derive(Debug)]
struct Reserve {
    held: Vec<OwnedFd>,
    /// How many it is to hold while nobody borrows.
    size: usize,
    loans: usize,
}

impl Reserve {
    /// Takes back what is missing, as far as that can be had.
    fn refill(&mut self) {
        self.held.truncate(self.size);
        while self.loans == 0 && self.held.len() < self.size {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let spare = match self.held.first() {
                Some(held) => rustix::io::fcntl_dupfd_cloexec(held, 0),
                None => rustix::fs::open("/dev/null", flags, Mode::empty()),
            };
            match spare {
                Ok(spare) => self.held.push(spare),
                Err(_) => return,
            }
        }
    }

    /// How many are lent, or could not be taken back yet.
    fn missing(&self) -> u64 {
        self.size.saturating_sub(self.held.len()) as u64
    }
}

/// The time in which the reserve is open to all. Dropped by the last borrower, it is taken back.
#[derive(Debug)]
pub struct Loan(());

impl Drop for Loan {
    fn drop(&mut self) {
        let mut reserve = reserve();
        reserve.loans -= 1;
        reserve.refill();
    }
}

fn reserve() -> MutexGuard<'static, Reserve> {
    RESERVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on keeps `size` descriptors back, as far as there are so many.
pub fn hold_reserve(size: usize) {
    let mut reserve = reserve();
    reserve.size = size;
    reserve.refill();
}

/// Lets the reserve go, for whoever takes something down that may need descriptors.
pub fn lend_reserve() -> Loan {
    let mut reserve = reserve();
    reserve.loans += 1;
    reserve.held.clear();
    Loan(())
}

/// Whether `count` more files can be opened with the reserve left alone; if not, how many are open and how many
/// may be. What cannot be found out is taken for room: the open itself will tell.
pub fn has_room_for(count: u64) -> Result<(), (u64, u64)> {
    let mut reserve = reserve();
    reserve.refill();
    let limit = limit();
    let open = match open_files() {
        Ok(open) => open,
        Err(error) if error.raw_os_error() == Some(libc::EMFILE) => limit,
        Err(_) => return Ok(()),
    };
    let wanted = count.saturating_add(reserve.missing());
    if open.saturating_add(wanted) <= limit { Ok(()) } else { Err((open, limit)) }
}

/// How many files this process may have open.
pub fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Raises this process's own soft limit of open files to the hard one.
///
/// # Errors
/// As setrlimit(2).
pub fn raise_limit() -> io::Result<()> {
    let hard = getrlimit(Resource::Nofile).maximum;
    Ok(setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard })?)
}

/// The kernel says it as the size of the folder since Linux 6.2; before, the entries are counted.
fn open_files() -> io::Result<u64> {
    const FOLDER: &str = "/proc/self/fd";
    let size = rustix::fs::stat(FOLDER)?.st_size;
    if size > 0 {
        return Ok(size.cast_unsigned());
    }
    let folder =
        rustix::fs::openat(CWD, FOLDER, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut buffer = Vec::with_capacity(8 << 10);
    let mut entries = RawDir::new(folder, buffer.spare_capacity_mut());
    let mut count: u64 = 0;
    while let Some(entry) = entries.next() {
        entry?;
        count += 1;
    }
    // `.`, `..` and the descriptor of this look.
    Ok(count.saturating_sub(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uses the whole process's reserve, so it is one test.
    #[test]
    fn the_reserve_is_lent_taken_back_and_never_promised_to_others() {
        hold_reserve(8);
        let open = || open_files().unwrap();
        let (before, room) = (open(), |count| has_room_for(count));
        let first = lend_reserve();
        let second = lend_reserve();
        assert_eq!(reserve().held.len(), 0);
        // Other tests open and close files meanwhile: only what cannot depend on them is asserted.
        assert!(room(0).is_ok());
        assert!(matches!(room(limit()), Err((_, of)) if of == limit()));
        drop(first);
        assert_eq!(reserve().held.len(), 0);
        drop(second);
        assert_eq!(reserve().held.len(), 8);
        assert_eq!(reserve().missing(), 0);
        assert!(before > 8);
        hold_reserve(0);
        assert_eq!(reserve().held.len(), 0);
    }
}
