//! Whether this node can give pods users of their own, tried as a pod's start does it.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::ExitCode,
};

use rustix::{
    fs::AtFlags,
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags},
};

use super::{
    label::MountLabel,
    rootfs,
    template::{self, PodNamespaces},
    users::Users,
};
use crate::model::{Failure, IdMap, IdRange, IpcMode, NetworkMode, PodPlan, Stage};

/// The ids of the pod that is tried: some of no user of the host.
const RANGE: IdRange = IdRange { container: 0, host: 1 << 31, length: 65_536 };

/// Makes the namespaces of a pod with a user namespace, and on the file system of `folder`, which is empty, the root of
/// a container in it. This process must have a single thread. What was made in `folder` stays, nothing else does.
///
/// # Errors
/// The step that this node cannot do.
pub fn try_user_namespace(folder: &Path) -> Result<(), Failure> {
    let map = IdMap { uids: vec![RANGE], gids: vec![RANGE] };
    let namespaces = template::build(&PodPlan {
        name: "pintle/probe".into(),
        network: NetworkMode::Pod,
        ipc: IpcMode::Pod,
        hostname: String::new(),
        sysctls: Vec::new(),
        shm_bytes: 1 << 20,
        users: Some(map),
        mount_label: String::new(),
    })?;
    let PodNamespaces { users: Some(users), template, .. } = &namespaces else {
        return Err(Failure::new(Stage::Internal, "user", "no namespace was made"));
    };
    root_file_system(folder, users, template)?;
    let tmpfs = || -> io::Result<OwnedFd> {
        let fs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        rustix::mount::fsconfig_create(fs.as_fd())?;
        let flags = MountAttrFlags::empty();
        Ok(rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags)?)
    };
    // Volumes that the kubelet makes, secrets among them, are such.
    let mapped = tmpfs().and_then(|mount| users.map_mount(mount.as_fd(), false));
    mapped.map_err(|error| Failure::io(Stage::MountSource, "tmpfs (it can from Linux 6.3 on)", "", &error))
}

fn root_file_system(folder: &Path, users: &Users, template: &OwnedFd) -> Result<(), Failure> {
    let failed = |what: &str, error: io::Error| Failure::io(Stage::Rootfs, what, folder, &error);
    let lower = [folder.join("upper-layer"), folder.join("lower-layer")];
    let writable = folder.join("writable");
    for made in lower.iter().chain([&writable]) {
        fs::create_dir(made).map_err(|error| failed("make layers in", error))?;
    }
    let [_, layer] = &lower;
    fs::write(layer.join("file"), "x").map_err(|error| failed("make layers in", error))?;
    let root = rootfs::overlay_for(users, template, &lower, &writable, MountLabel(""))?;
    rootfs::guard(&root, Some(users))?;
    for name in ["file", "dev"] {
        let found = rustix::fs::statat(&root, name, AtFlags::SYMLINK_NOFOLLOW);
        let found = found.map_err(|error| failed("look into an overlay in", error.into()))?;
        if (found.st_uid, found.st_gid) != (RANGE.host, RANGE.host) {
            let text = format!("{name} of a mapped layer belongs to {}:{}", found.st_uid, found.st_gid);
            return Err(failed("an overlay in", io::Error::other(text)));
        }
    }
    Ok(())
}

/// The program `pintle probe-users FOLDER`: fails with words on standard error if this node cannot do it. The folder is
/// made for it, and removed.
pub fn probe_users_main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(2) else { return ExitCode::FAILURE };
    let folder = Path::new(&folder);
    let tried = || -> Result<(), String> {
        // That of an earlier one that was killed.
        let made = remove(folder).and_then(|()| fs::create_dir(folder));
        made.map_err(|error| format!("make {}: {error}", folder.display()))?;
        try_user_namespace(folder).map_err(|failure| failure.to_string())
    };
    let tried = tried();
    if let Err(error) = remove(folder) {
        eprintln!("remove {}: {error}", folder.display());
    }
    match tried {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
