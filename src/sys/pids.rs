//! A page of memory that a process shares with those it forks: there they leave the pids of those that they fork.
//!
//! Whoever stands in a container's namespaces can be taken over by the container, and so can every descriptor that
//! it inherited. What it says of pids must not be believed; what the kernel writes on this page, which it has not
//! (see [`Slot::exclude_from_forks`]), can be.

use std::{
    io,
    sync::atomic::{AtomicI32, Ordering},
};

use super::process::{Pid, check};

/// Numbers on the page.
pub const SLOTS: usize = 1024;

/// The page. It is never given back: there is one for each supervisor.
#[derive(Debug)]
pub struct Page(&'static [AtomicI32; SLOTS]);

/// One number on the page: 0, a pid, or the negative error number of a fork.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    page: &'static [AtomicI32; SLOTS],
    index: usize,
}

const PAGE_BYTES: usize = size_of::<[AtomicI32; SLOTS]>();

impl Page {
    /// A page that processes forked from now on share.
    ///
    /// # Errors
    /// As mmap(2).
    pub fn new() -> io::Result<Self> {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping wherever the kernel likes; nothing that exists is changed.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), PAGE_BYTES, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a fresh mapping of that size, page-aligned and all zero, which is never unmapped here.
        Ok(Self(unsafe { &*start.cast::<[AtomicI32; SLOTS]>() }))
    }

    /// The slot of number `index` (below [`SLOTS`]), cleared.
    pub fn clear(&self, index: usize) -> Slot {
        let slot = Slot { page: self.0, index: index % SLOTS };
        slot.number().store(0, Ordering::Relaxed);
        slot
    }
}

impl Slot {
    /// Where the kernel or a process writes it.
    pub fn number(&self) -> &'static AtomicI32 {
        &self.page[self.index]
    }

    /// Its place on the page.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The pid, once it is there; or why there is none.
    ///
    /// # Errors
    /// That of the fork.
    pub fn pid(&self) -> io::Result<Option<Pid>> {
        match self.number().load(Ordering::Acquire) {
            0 => Ok(None),
            pid if pid > 0 => Ok(Some(pid.cast_unsigned().try_into()?)),
            error => Err(io::Error::from_raw_os_error(error.saturating_neg())),
        }
    }

    /// Leaves the pid of a process that was forked, or why it could not be.
    pub fn store(&self, forked: &io::Result<Pid>) {
        let number = match forked {
            Ok(pid) => pid.get().cast_signed(),
            Err(error) => -error.raw_os_error().unwrap_or(libc::EIO),
        };
        self.number().store(number, Ordering::Release);
    }

    /// Those that this process forks from now on have not the page (madvise(2), `MADV_DONTFORK`).
    ///
    /// # Errors
    /// As madvise(2).
    pub fn exclude_from_forks(&self) -> io::Result<()> {
        let start = self.page.as_ptr().cast_mut().cast();
        // SAFETY: the whole of a mapping that was made by `Page::new`. A child that touched it would only fault.
        check(unsafe { libc::madvise(start, PAGE_BYTES, libc::MADV_DONTFORK) }.into()).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_says_the_pid_or_the_error_or_nothing_yet() {
        let page = Page::new().unwrap();
        let (first, second) = (page.clear(0), page.clear(SLOTS - 1));
        assert_eq!(first.pid().unwrap(), None);
        let pid = Pid::try_from(4_194_304).unwrap();
        first.store(&Ok(pid));
        second.store(&Err(io::Error::from_raw_os_error(libc::EAGAIN)));
        assert_eq!(first.pid().unwrap(), Some(pid));
        assert_eq!(second.pid().unwrap_err().raw_os_error(), Some(libc::EAGAIN));
        assert_eq!(page.clear(0).pid().unwrap(), None);
        first.exclude_from_forks().unwrap();
    }
}
