//! A sealed copy of the running program.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::{FileExt as _, MetadataExt as _},
    },
    path::Path,
    time::Duration,
};

use rustix::fs::{MemfdFlags, SealFlags};

/// What the copy is called where the kernel shows it.
const NAME: &str = "pintle";
/// Where `/proc/PID/exe` of a process that runs from one leads.
const EXE: &str = "/memfd:pintle (deleted)";
/// Nobody can change it.
const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);
/// Executed by anybody: the anchor of a pod with a user namespace is nobody here. Read by root alone; so the kernel lets
/// nobody inspect who has executed it without being root (ptrace(2), `PR_SET_DUMPABLE`).
const MODE: u32 = 0o511;
/// The kernel itself waits for a sixth of a second each time.
const SEAL_TRIES: u32 = 20;
const SEAL_PAUSE: Duration = Duration::from_millis(20);
/// Compared at once.
const BUFFER_BYTES: usize = 256 << 10;

/// This program in an anonymous file that can never be written again, so that a container which reaches it
/// through `/proc/PID/exe` has nothing to overwrite (CVE-2019-5736).
///
/// The copy from which a supervisor of ours already runs is used again, if there is one: a program of some MiB
/// would otherwise be held once more for each restart of the daemon, and supervisors of different daemons
/// share pages only if they run from the same file.
///
/// # Errors
/// When the program cannot be read or there is not enough memory.
pub fn sealed_self() -> io::Result<OwnedFd> {
    let own = File::open("/proc/self/exe")?;
    match living_copy(&own) {
        Some(copy) => Ok(copy.into()),
        None => sealed_copy(&own),
    }
}

fn sealed_copy(mut own: &File) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // A host may make memory files not executable unless asked (`vm.memfd_noexec`); before Linux 6.3 there is
    // no such question.
    let executable = MemfdFlags::from_bits_retain(libc::MFD_EXEC);
    let memfd = match rustix::fs::memfd_create(NAME, flags | executable) {
        Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create(NAME, flags)?,
        made => made?,
    };
    let mut copy = File::from(memfd);
    io::copy(&mut own, &mut copy)?;
    rustix::fs::fchmod(&copy, rustix::fs::Mode::from_raw_mode(MODE))?;
    seal(&copy)?;
    // An open for writing would make execve fail (ETXTBSY): hand out a read-only descriptor.
    Ok(File::open(format!("/proc/self/fd/{}", copy.as_raw_fd()))?.into())
}

/// Seals the copy. The kernel refuses (`EBUSY`) while anything holds one of its pages: compaction, reclaim or a monitor
/// of memory does for a moment.
fn seal(copy: &File) -> io::Result<()> {
    for _ in 0..SEAL_TRIES {
        match rustix::fs::fcntl_add_seals(copy, SEALS) {
            Err(rustix::io::Errno::BUSY) => std::thread::sleep(SEAL_PAUSE),
            sealed => return Ok(sealed?),
        }
    }
    Ok(rustix::fs::fcntl_add_seals(copy, SEALS)?)
}

/// The copy from which a process runs, if it is one that this process could have made: sealed, of the same
/// bytes, and used outside containers. What cannot be looked at is passed over.
fn living_copy(own: &File) -> Option<File> {
    let mut seen = BTreeSet::new();
    let processes = fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.path());
    for process in processes.filter(|path| runs_from_copy(path)) {
        let Ok(copy) = File::open(process.join("exe")) else { continue };
        let Ok(metadata) = copy.metadata() else { continue };
        let is_new = seen.insert((metadata.dev(), metadata.ino()));
        if is_new && is_sealed(&copy, &metadata) && is_same(own, &copy).unwrap_or(false) {
            return Some(copy);
        }
    }
    None
}

/// A process of another mount namespace may be a container's, and its file with it: the bytes could not be
/// changed, but the mode could, and the memory is that container's.
fn runs_from_copy(process: &Path) -> bool {
    let leads_to = |path: &Path| fs::read_link(path).ok();
    let shares = |namespace: &str| {
        let (theirs, ours) = (process.join("ns").join(namespace), Path::new("/proc/self/ns").join(namespace));
        leads_to(&theirs).is_some_and(|theirs| Some(theirs) == leads_to(&ours))
    };
    leads_to(&process.join("exe")).is_some_and(|exe| exe == Path::new(EXE)) && shares("mnt") && shares("user")
}

fn is_sealed(copy: &File, metadata: &fs::Metadata) -> bool {
    let owner = rustix::process::geteuid().as_raw();
    metadata.uid() == owner
        && metadata.mode() & 0o7777 == MODE
        && rustix::fs::fcntl_get_seals(copy).is_ok_and(|seals| seals.contains(SEALS))
}

fn is_same(own: &File, copy: &File) -> io::Result<bool> {
    if own.metadata()?.len() != copy.metadata()?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    let mut at = 0;
    loop {
        let length = own.read_at(&mut left, at)?;
        if length == 0 {
            return Ok(true);
        }
        copy.read_exact_at(&mut right[..length], at)?;
        if left[..length] != right[..length] {
            return Ok(false);
        }
        at += length as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    /// A process that runs from `file` until it is killed.
    struct Running(Child);

    impl Running {
        /// Children of other tests may have the descriptor that it was written through.
        async fn from(file: &OwnedFd) -> Self {
            let mut program = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
            program.arg("1000");
            Self(crate::sys::spawn::once_written(|| program.spawn()).await.unwrap())
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    fn inode(file: &impl std::os::fd::AsFd) -> u64 {
        rustix::fs::fstat(file).unwrap().st_ino
    }

    #[tokio::test]
    async fn a_living_copy_is_used_again_if_it_is_the_same_and_sealed() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let sleep = File::open(fs::canonicalize("/usr/bin/sleep").unwrap()).unwrap();
        assert!(living_copy(&sleep).is_none());
        let copy = sealed_copy(&sleep).unwrap();
        let running = Running::from(&copy).await;
        assert_eq!(living_copy(&sleep).map(|found| inode(&found)), Some(inode(&copy)));
        // Another program, an earlier build say.
        assert!(living_copy(&File::open(fs::canonicalize("/usr/bin/cat").unwrap()).unwrap()).is_none());
        drop(running);
        assert!(living_copy(&sleep).is_none());

        let open = rustix::fs::memfd_create(NAME, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        let mut open = File::from(open);
        io::copy(&mut File::open("/usr/bin/sleep").unwrap(), &mut open).unwrap();
        rustix::fs::fchmod(&open, rustix::fs::Mode::from_raw_mode(MODE)).unwrap();
        let read_only: OwnedFd = File::open(format!("/proc/self/fd/{}", open.as_raw_fd())).unwrap().into();
        drop(open);
        let _running = Running::from(&read_only).await;
        assert!(living_copy(&sleep).is_none());
    }
}
