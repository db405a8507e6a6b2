//! The mounts that all containers of a pod have in common, made once in a process of its own that then ends.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, Mode, OFlags},
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, UnmountFlags},
};

use super::{joined::PROC, label::MountLabel, users::Users};
use crate::{
    model::{Failure, IpcMode, NetworkMode, PodPlan, Stage, Volume, VolumeSource},
    sys::{
        link,
        process::{self, Fork, Namespaces, OneThread},
        sysctl,
    },
};

/// Descriptors of a pod's namespaces. `None`: the host's.
#[derive(Debug)]
pub struct PodNamespaces {
    /// The mount namespace in which helpers work: only `/proc`, `/sys`, `/dev`, the pod's `/shm`, its `/files`, a place
    /// for the proc(5) of others and two empty folders. No host path exists there.
    pub template: OwnedFd,
    /// The template's `/files`.
    files: OwnedFd,
    pub users: Option<Users>,
    pub network: Option<OwnedFd>,
    pub ipc: Option<OwnedFd>,
    pub uts: Option<OwnedFd>,
}

impl PodNamespaces {
    /// The namespaces that the pod does not share with the host, but for the template.
    pub fn shared(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let others = [&self.network, &self.ipc, &self.uts].into_iter().flatten().map(AsFd::as_fd);
        self.users.as_ref().map(Users::namespace).into_iter().chain(others)
    }

    /// Enters those that the pod does not share with the host, but for the template. In a user namespace of the pod's
    /// this process is root from then on.
    ///
    /// # Errors
    /// As setns(2).
    pub fn enter_shared(&self) -> io::Result<()> {
        if let Some(users) = &self.users {
            users.enter()?;
        }
        let kinds = [
            (&self.network, Namespaces::NETWORK),
            (&self.ipc, Namespaces::IPC),
            (&self.uts, Namespaces::UTS),
        ];
        for (namespace, kind) in kinds {
            if let Some(namespace) = namespace {
                process::enter(namespace.as_fd(), kind)?;
            }
        }
        Ok(())
    }
}

/// The folder in the template of the files that all containers of the pod see. Containers may write to them, and what
/// they write is in the template's own memory: as much as [`TEMPLATE_OPTIONS`] allow, and never on a disk of the host.
pub(super) const FILES: &str = "/files";
/// Bytes of one such file when it is made; the daemon makes none that is larger.
const FILE_BYTES_MAX: u64 = 128 << 10;
/// Nothing but directories and the pod's files is in the template, so a page less would do too.
const TEMPLATE_OPTIONS: &str = "mode=0755,size=1m";
/// The folder in the template of the pod's shared memory.
pub(super) const SHM: &str = "/shm";
/// A helper mounts its bundle here.
pub(super) const BUNDLE: &str = "/b";
/// A helper mounts the image of a volume here, while it looks for a path in it; in [`BUNDLE`].
pub(super) const VOLUME_IMAGE: &str = "/b/image";
/// A helper mounts the container's root here.
pub(super) const ROOTFS: &str = "/rootfs";

/// The folder that `pivot_root` starts from; it exists on every Linux and nothing is left in it.
const STAGE: &str = "/tmp";

/// Makes the pod's namespaces.
///
/// # Errors
/// A [`Failure`] of stage `Namespace` or `Sysctl`; then nothing is left.
pub fn build(plan: &PodPlan) -> Result<PodNamespaces, Failure> {
    let failed = |what: &str, error: &io::Error| Failure::io(Stage::Namespace, what, "", error);
    let users = plan.users.as_ref().map(Users::make).transpose()?;
    let (ours, theirs) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|error| failed("socketpair", &error.into()))?;
    let one_thread = OneThread::prove().map_err(|error| failed("fork", &error))?;
    match process::fork(one_thread).map_err(|error| failed("fork", &error))? {
        Fork::Child => {
            drop(ours);
            let mut theirs = File::from(theirs);
            let result = make(plan, users.as_ref());
            let bytes = serde_json::to_vec(&result).unwrap_or_default();
            // A supervisor that reads nothing knows that this process has failed; one that is gone needs nothing.
            let written = io::Write::write_all(&mut theirs, &bytes);
            // The namespaces must be held by us until the supervisor has opened them.
            let _end: io::Result<usize> = written.and_then(|()| io::Read::read(&mut theirs, &mut [0; 1]));
            process::exit_now(0)
        }
        Fork::Parent(pid) => {
            drop(theirs);
            let mut ours = File::from(ours);
            let mut bytes = vec![0; 8192];
            let length = io::Read::read(&mut ours, &mut bytes).map_err(|error| failed("child", &error))?;
            let made: Result<(), Failure> = serde_json::from_slice(&bytes[..length])
                .map_err(|_| Failure::new(Stage::Namespace, "", "the process that makes them died"))?;
            let namespaces = made.and_then(|()| {
                let open = |kind: &str| {
                    let path = format!("/proc/{pid}/ns/{kind}");
                    File::open(&path).map(OwnedFd::from).map_err(|error| failed(&path, &error))
                };
                let own_network = plan.network == NetworkMode::Pod;
                let files = format!("/proc/{pid}/root{FILES}");
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                Ok(PodNamespaces {
                    template: open("mnt")?,
                    files: rustix::fs::open(&files, flags, Mode::empty())
                        .map_err(|error| failed(&files, &error.into()))?,
                    network: own_network.then(|| open("net")).transpose()?,
                    uts: own_network.then(|| open("uts")).transpose()?,
                    ipc: (plan.ipc == IpcMode::Pod).then(|| open("ipc")).transpose()?,
                    users,
                })
            });
            drop(ours);
            // Its answer is there; a child that cannot be waited for is none.
            let _ended: io::Result<process::Ended> = process::wait(pid);
            namespaces
        }
    }
}

fn make(plan: &PodPlan, users: Option<&Users>) -> Result<(), Failure> {
    let failed = |what: &str, error: &io::Error| Failure::io(Stage::Namespace, what, "", error);
    // The template is the host's, so that helpers can work in it; all else is the user namespace's.
    process::unshare(Namespaces::MOUNT).map_err(|error| failed("unshare", &error))?;
    template(plan, users).map_err(|error| failed("template", &error))?;
    if let Some(users) = users {
        users.enter().map_err(|error| failed("user", &error))?;
    }
    let own_network = plan.network == NetworkMode::Pod;
    let kinds = Namespaces::NONE
        .and_if(own_network, Namespaces::NETWORK)
        .and_if(own_network, Namespaces::UTS)
        .and_if(plan.ipc == IpcMode::Pod, Namespaces::IPC);
    process::unshare(kinds).map_err(|error| failed("unshare", &error))?;
    if own_network {
        link::bring_up_loopback().map_err(|error| failed("lo", &error))?;
    }
    if own_network && !plan.hostname.is_empty() {
        process::set_hostname(&plan.hostname).map_err(|error| failed(&plan.hostname, &error))?;
    }
    for (key, value) in &plan.sysctls {
        sysctl::set(key, value)
            .map_err(|error| Failure::io(Stage::Sysctl, key.clone(), sysctl::path(key), &error))?;
    }
    Ok(())
}

/// Replaces this process's root by a tmpfs with little in it.
fn template(plan: &PodPlan, users: Option<&Users>) -> io::Result<()> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private)?;
    // The flags are those of the pod's files in its containers.
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let label = MountLabel(&plan.mount_label);
    let options = std::ffi::CString::new(format!("{TEMPLATE_OPTIONS}{}", label.option()))?;
    rustix::mount::mount("template", STAGE, "tmpfs", flags, options.as_c_str())?;
    label.stand_in_at(STAGE)?;
    for folder in ["proc", "sys", "dev", "shm", "files", "b", "rootfs", PROC.trim_start_matches('/')] {
        fs::create_dir(Path::new(STAGE).join(folder))?;
    }
    // `/sys` and `/proc` must be whole: a mount over a part of them would forbid mounting fresh ones in a
    // user namespace. `/sys/fs/cgroup` is a folder made to be mounted on, so covering it is allowed.
    for folder in ["proc", "sys", "dev"] {
        let target = Path::new(STAGE).join(folder);
        rustix::mount::mount_bind(Path::new("/").join(folder), target)?;
    }
    // An empty folder is what libcontainer takes for a host with cgroup v1 and no hierarchies: it then
    // neither makes nor joins nor changes any (docs/decisions/0003-libcontainer-sees-no-cgroups.md).
    let cgroup = Path::new(STAGE).join("sys/fs/cgroup");
    rustix::mount::mount("none", cgroup, "tmpfs", MountFlags::empty(), c"mode=0755,size=0")?;
    if plan.ipc == IpcMode::Pod {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        let owner = users.map(Users::tmpfs_options).unwrap_or_default();
        let options = format!("mode=1777,size={}{owner}{}", plan.shm_bytes, label.option());
        let (options, shm) = (std::ffi::CString::new(options)?, Path::new(STAGE).join("shm"));
        rustix::mount::mount("shm", &shm, "tmpfs", flags, options.as_c_str())?;
        label.stand_in_at(&shm)?;
    } else {
        rustix::mount::mount_bind("/dev/shm", Path::new(STAGE).join("shm"))?;
    }
    rustix::process::chdir(STAGE)?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    Ok(())
}

impl PodNamespaces {
    /// Copies those of the pod's files that are among `volumes` into the template, unless they are there: containers
    /// may have changed them since.
    ///
    /// # Errors
    /// Stage `MountSource`, naming the file; then there is no piece of it.
    pub fn keep_files(&self, volumes: &[Volume]) -> Result<(), Failure> {
        for volume in volumes {
            let VolumeSource::PodFile(source) = &volume.source else { continue };
            self.keep_file(source)
                .map_err(|error| Failure::io(Stage::MountSource, "file of the pod", source, &error))?;
        }
        Ok(())
    }

    fn keep_file(&self, source: &Path) -> io::Result<()> {
        let name = source.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let kept = match rustix::fs::openat(&self.files, name, flags, Mode::from_raw_mode(0o644)) {
            Ok(kept) => kept,
            Err(Errno::EXIST) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let copy = || -> io::Result<()> {
            let mut source = io::Read::take(File::open(source)?, FILE_BYTES_MAX);
            if let Some(users) = &self.users {
                users.give_to_root(&kept)?;
            }
            io::copy(&mut source, &mut File::from(kept)).map(drop)
        };
        let copied = copy();
        if copied.is_err() {
            // Tried again with the next container; a piece of it would be taken for all of it.
            // If it stays too, that is the same failure.
            let _unlinked: rustix::io::Result<()> = rustix::fs::unlinkat(&self.files, name, AtFlags::empty());
        }
        copied
    }
}

/// Enters a private copy of the template.
///
/// # Errors
/// As setns(2), unshare(2).
pub(super) fn enter_copy(template: &OwnedFd) -> io::Result<()> {
    process::enter(template.as_fd(), Namespaces::MOUNT)?;
    process::unshare(Namespaces::MOUNT)
}
