use std::path::Path;

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat2, statfs},
    io::Errno,
    mount::{FsOpenFlags, fsconfig_set_string, fsopen},
    process::{PidfdFlags, getpid, pidfd_open},
};

use super::{Finding, fail, host::Host, ok, warn};

/// The oldest kernel that pintle is made for.
const OLDEST: Version = Version(5, 14);
/// Overlay mounts may have idmapped lower layers.
const IDMAPPED_OVERLAY: Version = Version(5, 19);
/// statfs(2): the upper folder of an overlay cannot be on another overlay or on NFS.
const OVERLAYFS_MAGIC: i64 = 0x794c_7630;
const NFS_MAGIC: i64 = 0x6969;

pub(super) fn questions(host: &Host, root: &Path) -> Vec<Finding> {
    let release = host.read("proc/sys/kernel/osrelease").unwrap_or_default();
    let version = Version::parse(&release);
    vec![
        kernel(&release, version),
        openat2_works(),
        pidfd_works(),
        overlay(host),
        lowerdir_plus(),
        idmapped(version, host.has("proc/self/ns/user")),
        storage(root),
    ]
}

/// The first two numbers of a kernel's release.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Version(u32, u32);

impl Version {
    fn parse(release: &str) -> Option<Self> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some(Self(numbers.next()?.ok()?, numbers.next()?.ok()?))
    }
}

fn kernel(release: &str, version: Option<Version>) -> Finding {
    match version {
        Some(version) if version >= OLDEST => ok("kernel", release),
        Some(_) => fail("kernel", format!("{release} is older than 5.14; pods need a newer one")),
        None => warn("kernel", format!("its release {release:?} cannot be read; 5.14 or newer is needed")),
    }
}

fn openat2_works() -> Finding {
    let opened = openat2(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_SYMLINKS);
    match opened {
        Ok(_) => ok("openat2", "paths of images can be walked safely"),
        Err(error) => fail("openat2", format!("{error}: a seccomp filter around pintle may forbid it")),
    }
}

fn pidfd_works() -> Finding {
    match pidfd_open(getpid(), PidfdFlags::empty()) {
        Ok(_) => ok("pidfd", "signals cannot hit a process that took over a pid"),
        Err(error) => fail("pidfd", format!("{error}: a seccomp filter around pintle may forbid it")),
    }
}

fn overlay(host: &Host) -> Finding {
    match fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(_) => ok("overlayfs", "images can be mounted"),
        Err(Errno::PERM) => warn("overlayfs", "only root can tell; run `pintle check` as root"),
        Err(Errno::NODEV) if host.has_module("overlay") => {
            warn("overlayfs", "its module is not loaded; `modprobe overlay`, or let pintle.service do it")
        }
        Err(error) => fail("overlayfs", format!("{error}: no container can have a root file system")),
    }
}

fn lowerdir_plus() -> Finding {
    let set = |key| {
        fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)
            .and_then(|overlay| fsconfig_set_string(&overlay, key, "/"))
    };
    // One that takes any word takes this one for nothing: it will be refused when a container is made.
    let takes_any = set("no-such-option").is_ok();
    match set("lowerdir+") {
        Ok(()) if !takes_any => ok("lowerdir+", "images may have any number of layers"),
        Err(Errno::PERM) => warn("lowerdir+", "only root can tell; run `pintle check` as root"),
        Ok(()) | Err(_) => {
            warn("lowerdir+", "not here (Linux 6.5): images with many layers may not fit one mount option")
        }
    }
}

fn idmapped(version: Option<Version>, user_namespaces: bool) -> Finding {
    let topic = "idmapped mounts";
    if !user_namespaces {
        return warn(topic, "of no use without user namespaces");
    }
    match version {
        Some(version) if version >= IDMAPPED_OVERLAY => {
            ok(topic, "pods with hostUsers: false can use images")
        }
        _ => warn(topic, "overlayfs has them from Linux 5.19 on: pods with hostUsers: false will fail"),
    }
}

/// The file system of `root`, or of the nearest folder that exists.
fn storage(root: &Path) -> Finding {
    let topic = "storage";
    let Some(folder) = root.ancestors().find(|folder| folder.exists()) else {
        return fail(topic, format!("{} cannot be reached", root.display()));
    };
    match statfs(folder) {
        Ok(stat) if [OVERLAYFS_MAGIC, NFS_MAGIC].contains(&stat.f_type) => fail(
            topic,
            format!(
                "{} is on an overlay or NFS, which cannot hold writable layers; choose another root",
                folder.display()
            ),
        ),
        Ok(_) => ok(topic, format!("{} can hold images and writable layers", folder.display())),
        Err(error) => fail(topic, format!("{}: {error}", folder.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Level, *};

    #[test]
    fn a_release_is_judged_by_its_first_two_numbers() {
        for (release, level) in [
            ("6.18.0-rc1", Level::Ok),
            ("5.14.0-427.el9.x86_64", Level::Ok),
            ("5.4.0-200-generic", Level::Fail),
            ("4.18.0", Level::Fail),
            ("custom", Level::Warn),
        ] {
            assert_eq!(kernel(release, Version::parse(release)).level, level, "{release}");
        }
    }

    #[test]
    fn idmapped_overlays_need_the_kernel_and_user_namespaces() {
        assert_eq!(idmapped(Some(Version(5, 19)), true).level, Level::Ok);
        assert_eq!(idmapped(Some(Version(5, 18)), true).level, Level::Warn);
        assert_eq!(idmapped(Some(Version(6, 18)), false).level, Level::Warn);
    }
}
