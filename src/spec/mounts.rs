//! The mounts of a container: by libcontainer, and as volumes over that.

use std::{collections::HashSet, path::PathBuf};

use oci_spec::runtime;

use super::{Error, Inputs};
use crate::model::{Mount, MountOptions, Propagation, RootfsLayers, Volume, VolumeSource};

/// Mounts in one request at most.
const MOUNTS_MAX: usize = 1000;
/// A path's length in bytes at most, so that it fits `PATH_MAX` with its NUL.
const PATH_BYTES_MAX: usize = 4095;

/// Files in `/proc` that tools like lxcfs put a container's own numbers over. Whatever else is there the
/// set-up itself relies on, so nothing may be mounted over it (as in runc).
const PROC_TARGETS: [&str; 8] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
];

/// Files of the pod that all its containers share: name in the pod's folder, place in the container.
const POD_FILES: [(&str, &str); 3] =
    [("hostname", "/etc/hostname"), ("hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf")];

/// The mounts that libcontainer makes. `/dev/shm` and `/sys/fs/cgroup` come from the helper. With the host's IPC
/// namespace the message queues are the host's, as they should be.
pub(super) fn oci(privileged: bool) -> Vec<runtime::Mount> {
    let sys = if privileged { "rw" } else { "ro" };
    [
        ("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"][..]),
        ("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        (
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        ("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        ("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", sys]),
    ]
    .map(|(destination, kind, source, options)| {
        let mut mount = runtime::Mount::default();
        mount
            .set_destination(destination.into())
            .set_typ(Some(kind.into()))
            .set_source(Some(source.into()))
            .set_options(Some(options.iter().map(ToString::to_string).collect()));
        mount
    })
    .into()
}

/// The volumes in the order in which to mount them: parents first, else the pod's files, the image's volumes, and
/// those of the request as asked. Where the request has a mount, neither of the others is made. `relabels`: whether the
/// container's label is that of volumes which are to have it.
pub(super) fn volumes(inputs: &Inputs<'_>, relabels: bool) -> Result<Vec<Volume>, Error> {
    let Inputs { container, image, .. } = inputs;
    let given = container.mounts.len() + image.volumes.len();
    if given > MOUNTS_MAX {
        return Err(Error::Limit { what: "mounts", given, max: MOUNTS_MAX });
    }
    let mut layers = inputs.volume_layers.iter();
    let own_users = inputs.pod.namespaces.users.map().is_some();
    let asked = container
        .mounts
        .iter()
        .map(|mount| volume(mount, container.security.privileged, own_users, &mut layers));
    let mut asked = asked.collect::<Result<Vec<_>, _>>()?;
    for volume in asked.iter_mut() {
        volume.relabel &= relabels;
    }
    let mut targets = HashSet::new();
    if let Some(twice) = asked.iter().find(|volume| !targets.insert(volume.target.clone())) {
        return Err(Error::DuplicateMount { path: twice.target.clone() });
    }
    let own = POD_FILES.into_iter().filter(|(_, target)| !targets.contains(*target));
    let own = own.map(|(name, target)| Volume {
        source: VolumeSource::PodFile(inputs.pod_dir.join(name)),
        target: target.into(),
        readonly: container.security.readonly_rootfs,
        recursive_read_only: false,
        propagation: Propagation::Private,
        options: MountOptions::default(),
        id_map: None,
        relabel: false,
    });
    let mut volumes: Vec<Volume> = own.collect();
    for (number, path) in image.volumes.iter().enumerate() {
        let target = image_target(path, container.security.privileged)?;
        if targets.insert(target.clone()) {
            volumes.push(image_volume(target, inputs.writable.join("volumes").join(number.to_string())));
        }
    }
    volumes.extend(asked);
    volumes.sort_by_key(|volume| depth(&volume.target));
    Ok(volumes)
}

/// The place of a `VOLUME`; some images mean it relative to `/`, as they do their working directory.
fn image_target(path: &str, privileged: bool) -> Result<String, Error> {
    absolute("volume of the image", &format!("/{path}"))?;
    let target = clean(path);
    match target_problem(&target, privileged) {
        None => Ok(target),
        Some(problem) => Err(Error::Mount { path: format!("{path} (VOLUME of the image)"), problem }),
    }
}

/// Writable also where the root is read-only: that is what images have them for.
fn image_volume(target: String, folder: PathBuf) -> Volume {
    Volume {
        source: VolumeSource::Image(folder),
        target,
        readonly: false,
        recursive_read_only: false,
        propagation: Propagation::Private,
        options: MountOptions::default(),
        id_map: None,
        relabel: false,
    }
}

/// A mount of the request; one of an image takes the next of `layers`.
fn volume<'a>(
    mount: &Mount,
    privileged: bool,
    own_users: bool,
    layers: &mut impl Iterator<Item = &'a RootfsLayers>,
) -> Result<Volume, Error> {
    let source = match &mount.image {
        Some(image) => {
            let layers = layers.next().ok_or(Error::NoVolumeLayers)?;
            VolumeSource::Layers { lower: layers.lower.clone(), sub_path: image.sub_path.clone() }
        }
        None => {
            absolute("mount source", &mount.host_path)?;
            VolumeSource::Host(mount.host_path.clone().into())
        }
    };
    absolute("mount destination", &mount.container_path)?;
    let target = clean(&mount.container_path);
    let problem = if let Some(problem) = target_problem(&target, privileged) {
        problem
    } else if own_users && mount.propagation == Propagation::Bidirectional {
        "propagation BIDIRECTIONAL would have mounts of the pod's user namespace appear on the host"
    } else if mount.recursive_read_only && !mount.readonly {
        "recursive_read_only needs readonly"
    } else if mount.recursive_read_only && mount.propagation != Propagation::Private {
        "recursive_read_only needs private propagation"
    } else {
        return Ok(Volume {
            source,
            target,
            readonly: mount.readonly,
            recursive_read_only: mount.recursive_read_only,
            propagation: mount.propagation,
            options: mount.options,
            id_map: mount.id_map.clone(),
            relabel: mount.selinux_relabel && mount.image.is_none(),
        });
    };
    Err(Error::Mount { path: mount.container_path.clone(), problem })
}

/// Why nothing may be mounted at a place that is [`clean`].
fn target_problem(target: &str, privileged: bool) -> Option<&'static str> {
    match target {
        "/" => Some("it would replace the root file system"),
        "/proc" => Some("it would replace the container's processes"),
        // Storage drivers do, and have nothing masked that it could bare.
        "/sys" if !privileged => {
            Some("it would bare what is masked in /sys; only a privileged container may")
        }
        target if target.starts_with("/proc/") && !PROC_TARGETS.contains(&target) => {
            Some("it is inside /proc")
        }
        _ => None,
    }
}

/// Whether `path` is a whole path that a system call can take.
pub(super) fn absolute(what: &'static str, path: &str) -> Result<(), Error> {
    let problem = if !path.starts_with('/') {
        "is not absolute"
    } else if path.contains('\0') {
        "contains NUL"
    } else if path.len() > PATH_BYTES_MAX {
        "is longer than 4095 bytes"
    } else {
        return Ok(());
    };
    Err(Error::Path { what, path: path.into(), problem })
}

/// An absolute path without empty parts, `.` and `..`, by its letters alone.
pub(super) fn clean(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn depth(cleaned: &str) -> usize {
    cleaned.matches('/').count()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::{ContainerConfig, ContainerId, ImageConfig, ImageVolume, PodConfig, Security};

    fn at(container_path: &str) -> Mount {
        Mount { container_path: container_path.into(), host_path: "/h".into(), ..Default::default() }
    }

    /// Of an image without volumes.
    fn volumes(container: &ContainerConfig, pod_dir: &Path) -> Result<Vec<Volume>, Error> {
        volumes_of(container, pod_dir, &ImageConfig::default(), &[])
    }

    fn volumes_of(
        container: &ContainerConfig,
        pod_dir: &Path,
        image: &ImageConfig,
        volume_layers: &[RootfsLayers],
    ) -> Result<Vec<Volume>, Error> {
        let inputs = Inputs {
            id: &ContainerId::from_bytes([7; 32]),
            pod: &PodConfig::default(),
            container,
            image,
            layers: &RootfsLayers::default(),
            volume_layers,
            writable: "/writable".into(),
            pod_dir: pod_dir.into(),
            seccomp: None,
            seccomp_flags: 0,
            apparmor: String::new(),
            held_capabilities: 0,
        };
        super::volumes(&inputs, true)
    }

    #[test]
    fn each_mount_of_an_image_shows_the_layers_of_its_own() {
        let of_image = |path: &str, sub_path: &str| Mount {
            image: Some(ImageVolume { reference: "i".into(), sub_path: sub_path.into() }),
            host_path: String::new(),
            readonly: true,
            options: MountOptions { noexec: true, ..MountOptions::default() },
            ..at(path)
        };
        let container = with(vec![of_image("/deep/tools", "usr"), at("/data"), of_image("/model", "")]);
        let layers = ["/l/tools", "/l/model"].map(|layer| RootfsLayers { lower: vec![layer.into()] });
        let made = volumes_of(&container, Path::new("/pod"), &ImageConfig::default(), &layers).unwrap();
        let source = |target: &str| made.iter().find(|volume| volume.target == target).unwrap();
        let expected = |layer: &str, sub_path: &str| VolumeSource::Layers {
            lower: vec![layer.into()],
            sub_path: sub_path.into(),
        };
        assert_eq!(source("/deep/tools").source, expected("/l/tools", "usr"));
        assert_eq!(source("/model").source, expected("/l/model", ""));
        assert!(source("/model").readonly && source("/model").options.noexec);
        assert_eq!(source("/data").source, VolumeSource::Host("/h".into()));

        let too_few = volumes_of(&container, Path::new("/pod"), &ImageConfig::default(), &layers[..1]);
        assert!(matches!(too_few, Err(Error::NoVolumeLayers)), "{too_few:?}");
    }

    fn with(mounts: Vec<Mount>) -> ContainerConfig {
        ContainerConfig { mounts, ..Default::default() }
    }

    #[track_caller]
    fn targets(mounts: &[&str]) -> Vec<String> {
        let container = with(mounts.iter().map(|path| at(path)).collect());
        let volumes = volumes(&container, Path::new("/pod")).unwrap();
        volumes.into_iter().map(|volume| volume.target).collect()
    }

    #[test]
    fn parents_are_mounted_before_children_and_equals_as_asked() {
        let expected = ["/z", "/b", "/a", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/a/c", "/a/b"];
        assert_eq!(targets(&["/z", "/a/c/", "/b", "//a/./b", "/x/../a"]), expected);
    }

    #[test]
    fn a_mount_from_the_request_stands_in_for_the_pods_file() {
        let container = ContainerConfig {
            security: Security { readonly_rootfs: true, ..Default::default() },
            ..with(vec![at("/etc/hosts")])
        };
        let volumes = volumes(&container, Path::new("/pod")).unwrap();
        let listed: Vec<_> =
            volumes.iter().map(|v| (v.source.clone(), v.target.as_str(), v.readonly)).collect();
        assert_eq!(
            listed,
            [
                (VolumeSource::PodFile("/pod/hostname".into()), "/etc/hostname", true),
                (VolumeSource::PodFile("/pod/resolv.conf".into()), "/etc/resolv.conf", true),
                (VolumeSource::Host("/h".into()), "/etc/hosts", false),
            ]
        );
    }

    #[test]
    fn an_images_volumes_are_folders_of_the_container_unless_the_request_mounts_there() {
        let volumes_of = |paths: &[&str], container: &ContainerConfig| {
            let volumes = paths.iter().map(|path| (*path).into()).collect();
            let image = ImageConfig { volumes, ..ImageConfig::default() };
            volumes_of(container, Path::new("/pod"), &image, &[])
        };
        let container = ContainerConfig {
            security: Security { readonly_rootfs: true, ..Default::default() },
            ..with(vec![at("/cache"), at("/data/db/inner")])
        };
        let made = volumes_of(&["/data/db", "cache/", "/data//./db", "logs"], &container).unwrap();
        let of_image: Vec<_> = made
            .iter()
            .filter_map(|volume| match &volume.source {
                VolumeSource::Image(folder) => {
                    Some((folder.to_str().unwrap(), volume.target.as_str(), volume.readonly))
                }
                _ => None,
            })
            .collect();
        assert_eq!(
            of_image,
            [("/writable/volumes/3", "/logs", false), ("/writable/volumes/0", "/data/db", false)]
        );
        let inner = made.iter().position(|volume| volume.target == "/data/db/inner");
        assert!(inner > made.iter().position(|volume| volume.target == "/data/db"), "{made:?}");

        for path in ["", "/", "..", "/proc", "/proc/sys", "/sys"] {
            let refused = volumes_of(&[path], &with(vec![]));
            assert!(
                matches!(&refused, Err(Error::Mount { path: named, .. }) if named.contains("VOLUME")),
                "{path:?}: {refused:?}"
            );
        }
        assert!(matches!(volumes_of(&["/a\0b"], &with(vec![])), Err(Error::Path { .. })));
        let many: Vec<String> = (0..1001).map(|n| format!("/{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(matches!(volumes_of(&many, &with(vec![])), Err(Error::Limit { given: 1001, .. })));
    }

    #[test]
    fn a_mount_where_none_may_be_is_an_error_that_names_it() {
        for path in
            ["/", "/..", "/proc", "/proc/", "/x/../proc", "/proc/sys", "/proc/self/attr", "/sys", "//sys/"]
        {
            let refused = volumes(&with(vec![at(path)]), Path::new("/pod"));
            assert!(
                matches!(&refused, Err(Error::Mount { path: named, .. }) if named == path),
                "{path} {refused:?}"
            );
        }
        for path in ["", "a", "/a\0b", &format!("/{}", "a".repeat(4095))] {
            let refused = volumes(&with(vec![at(path)]), Path::new("/pod"));
            assert!(matches!(&refused, Err(Error::Path { .. })), "{path} {refused:?}");
            let source = Mount { host_path: path.into(), ..at("/a") };
            assert!(matches!(volumes(&with(vec![source]), Path::new("/pod")), Err(Error::Path { .. })));
        }
        let many = with((0..1001).map(|n| at(&format!("/{n}"))).collect());
        assert!(matches!(volumes(&many, Path::new("/pod")), Err(Error::Limit { given: 1001, .. })));
    }

    #[test]
    fn what_the_field_mounts_may_be_mounted() {
        let awkward = "/a,b:c\\d\ne upperdir=";
        for path in ["/proc/meminfo", "/procs", "/sys/fs/bpf", "/dev", "/dev/shm", awkward] {
            assert!(targets(&[path]).contains(&path.to_string()), "{path}");
        }
        let mut container = with(vec![at("/sys")]);
        container.security.privileged = true;
        assert!(volumes(&container, Path::new("/pod")).is_ok());
    }

    #[test]
    fn two_mounts_at_one_place_are_an_error() {
        let refused = volumes(&with(vec![at("/a/b"), at("/a/./b/")]), Path::new("/pod"));
        assert!(matches!(refused, Err(Error::DuplicateMount { path }) if path == "/a/b"));
    }

    #[test]
    fn recursive_read_only_is_read_only_and_private() {
        for (readonly, propagation, ok) in [
            (true, Propagation::Private, true),
            (false, Propagation::Private, false),
            (true, Propagation::HostToContainer, false),
            (true, Propagation::Bidirectional, false),
        ] {
            let mount = Mount { readonly, propagation, recursive_read_only: true, ..at("/a") };
            let result = volumes(&with(vec![mount]), Path::new("/pod"));
            assert_eq!(result.is_ok(), ok, "{readonly} {propagation:?}");
        }
    }
}
