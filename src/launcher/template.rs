//! What all containers of a pod have in common, made once in a process of its own that then ends.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use crate::{
    model::{Failure, IpcMode, NetworkMode, PodPlan, Stage},
    sys::{
        process::{self, Fork, Namespaces},
        sysctl,
    },
};

/// Descriptors of a pod's namespaces. `None`: the host's.
#[derive(Debug)]
pub struct PodNamespaces {
    /// The mount namespace in which helpers work: only `/proc`, `/sys`, `/dev`, the pod's `/shm` and three
    /// empty folders. No host path exists there.
    pub template: OwnedFd,
    pub network: Option<OwnedFd>,
    pub ipc: Option<OwnedFd>,
    pub uts: Option<OwnedFd>,
}

/// Where the template keeps the pod's shared memory.
pub(super) const SHM: &str = "/shm";
/// A helper mounts its bundle here.
pub(super) const BUNDLE: &str = "/b";
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
    let (ours, theirs) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .map_err(|error| failed("socketpair", &error.into()))?;
    match process::fork().map_err(|error| failed("fork", &error))? {
        Fork::Child => {
            drop(ours);
            let mut theirs = File::from(theirs);
            let result = make(plan);
            let _ = serde_json::to_vec(&result).map(|bytes| io::Write::write(&mut theirs, &bytes));
            // The namespaces must be held by us until the supervisor has opened them.
            let _ = io::Read::read(&mut theirs, &mut [0; 1]);
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
                Ok(PodNamespaces {
                    template: open("mnt")?,
                    network: own_network.then(|| open("net")).transpose()?,
                    uts: own_network.then(|| open("uts")).transpose()?,
                    ipc: (plan.ipc == IpcMode::Pod).then(|| open("ipc")).transpose()?,
                })
            });
            drop(ours);
            let _ = process::wait(pid);
            namespaces
        }
    }
}

fn make(plan: &PodPlan) -> Result<(), Failure> {
    let failed = |what: &str, error: &io::Error| Failure::io(Stage::Namespace, what, "", error);
    let own_network = plan.network == NetworkMode::Pod;
    let kinds = Namespaces::MOUNT
        .and_if(own_network, Namespaces::NETWORK)
        .and_if(own_network, Namespaces::UTS)
        .and_if(plan.ipc == IpcMode::Pod, Namespaces::IPC);
    process::unshare(kinds).map_err(|error| failed("unshare", &error))?;
    if own_network && !plan.hostname.is_empty() {
        process::set_hostname(&plan.hostname).map_err(|error| failed(&plan.hostname, &error))?;
    }
    for (key, value) in &plan.sysctls {
        sysctl::set(key, value)
            .map_err(|error| Failure::io(Stage::Sysctl, key.clone(), sysctl::path(key), &error))?;
    }
    template(plan).map_err(|error| failed("template", &error))
}

/// Replaces this process's root by a tmpfs with little in it.
fn template(plan: &PodPlan) -> io::Result<()> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private)?;
    rustix::mount::mount("template", STAGE, "tmpfs", MountFlags::empty(), c"mode=0755,size=1m")?;
    for folder in ["proc", "sys", "dev", "shm", "b", "rootfs"] {
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
        let options = std::ffi::CString::new(format!("mode=1777,size={}", plan.shm_bytes))?;
        rustix::mount::mount("shm", Path::new(STAGE).join("shm"), "tmpfs", flags, options.as_c_str())?;
    } else {
        rustix::mount::mount_bind("/dev/shm", Path::new(STAGE).join("shm"))?;
    }
    rustix::process::chdir(STAGE)?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    Ok(())
}

/// Enters a private copy of the template.
///
/// # Errors
/// As setns(2), unshare(2).
pub(super) fn enter_copy(template: &OwnedFd) -> io::Result<()> {
    process::enter(template.as_fd(), Namespaces::MOUNT)?;
    process::unshare(Namespaces::MOUNT)
}
