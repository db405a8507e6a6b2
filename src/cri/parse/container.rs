//! CreateContainer → [`ContainerConfig`].

use std::collections::{BTreeMap, HashSet};

use super::{
    At as _, Refusal, Under as _, Why, absent, id,
    image::reference,
    limits::*,
    present,
    resources::resources,
    security::{self, Asker},
    text::{absolute_path, count, known, labels, line, name, no_way_up, path, quote, words},
    users,
};
use crate::{
    cri::{signal, wire},
    model::{
        CdiDeviceName, ContainerConfig, ContainerMetadata, DeviceForm, DeviceMapping, IdPrefix, ImageVolume,
        Mount, MountOptions, NamespaceModes, Propagation, Security,
    },
};

/// How device plugins ask for CDI devices where there is no field for it: `cdi.k8s.io/PLUGIN_ID: NAME,NAME`.
const CDI_ANNOTATION: &str = "cdi.k8s.io/";

/// The pod's id (or a prefix) and what to make in it. The request's copy of the pod's configuration is not
/// read: the pod has its own.
pub(crate) fn create_container(
    request: wire::CreateContainerRequest,
) -> Result<(IdPrefix, ContainerConfig), Refusal> {
    let pod = id("pod_sandbox_id", &request.pod_sandbox_id)?;
    let mut config = present("config", request.config)?;
    let metadata = present("metadata", config.metadata.take()).under("config")?;
    let metadata = ContainerMetadata {
        name: name(metadata.name).at("config.metadata.name")?,
        attempt: metadata.attempt,
    };
    let object = format!("container {}", metadata.name);
    let parsed = container(config, metadata).under("config");
    Ok((pod, parsed.map_err(|refusal| refusal.of(&object))?))
}

fn container(wire: wire::ContainerConfig, metadata: ContainerMetadata) -> Result<ContainerConfig, Refusal> {
    absent("windows", wire.windows.is_some(), "is for Windows nodes")?;
    words(wire.command.iter().chain(&wire.args)).at("command and args")?;
    let user_specified_image = wire.image.as_ref().map(|image| image.user_specified_image.clone());
    let user_specified_image = user_specified_image.unwrap_or_default();
    line(REFERENCE_BYTES_MAX, &user_specified_image).at("image.user_specified_image")?;
    let (labels, annotations) = labels(wire.labels, wire.annotations)?;
    let cdi_devices = cdi_devices(&wire.cdi_devices, &annotations)?;
    let linux = linux(wire.linux.unwrap_or_default()).under("linux")?;
    let stop_signal = known(wire.stop_signal).at("stop_signal")?;
    Ok(ContainerConfig {
        metadata,
        image: reference(wire.image)?,
        user_specified_image,
        command: wire.command,
        args: wire.args,
        working_dir: working_dir(wire.working_dir).at("working_dir")?,
        envs: envs(wire.envs).at("envs")?,
        mounts: mounts(wire.mounts)?,
        devices: devices(wire.devices)?,
        cdi_devices,
        labels,
        annotations,
        log_path: log_path(wire.log_path).at("log_path")?,
        stdin: wire.stdin,
        stdin_once: wire.stdin_once,
        tty: wire.tty,
        resources: linux.resources,
        namespaces: linux.namespaces,
        security: linux.security,
        stop_signal: signal::number(stop_signal),
    })
}

struct Linux {
    resources: crate::model::Resources,
    namespaces: NamespaceModes,
    security: Security,
}

fn linux(mut wire: wire::LinuxContainerConfig) -> Result<Linux, Refusal> {
    let options = wire.security_context.as_mut().and_then(|context| context.namespace_options.take());
    Ok(Linux {
        resources: resources(wire.resources.unwrap_or_default()).under("resources")?,
        namespaces: security::namespaces(options, Asker::Container)
            .under("security_context.namespace_options")?,
        security: match wire.security_context {
            Some(context) => security::container(context).under("security_context")?,
            None => security::unsaid(),
        },
    })
}

fn working_dir(value: String) -> Result<String, Why> {
    if value.is_empty() { Ok(value) } else { absolute_path(value) }
}

/// Joined to the pod's log directory, which it must not leave.
fn log_path(value: String) -> Result<String, Why> {
    if value.starts_with('/') {
        return Err(format!("{} is not below the pod's log directory", quote(&value)).into());
    }
    if value.is_empty() { Ok(value) } else { path(value).and_then(no_way_up) }
}

/// Values are bytes of any kind but NUL: a newline in one is the workload's own affair.
fn envs(wire: Vec<wire::KeyValue>) -> Result<Vec<(String, Vec<u8>)>, Why> {
    count(ENVS_MAX, wire.len())?;
    let bytes: usize = wire.iter().map(|env| env.key.len() + env.value.len() + 2).sum();
    if bytes > ENV_BYTES_MAX {
        return Err(format!("has {bytes} bytes, more than the {ENV_BYTES_MAX} allowed").into());
    }
    // One of nothing at all sets nothing.
    wire.into_iter().filter(|env| !(env.key.is_empty() && env.value.is_empty())).map(env).collect()
}

fn env(wire: wire::KeyValue) -> Result<(String, Vec<u8>), Why> {
    if wire.key.is_empty() || wire.key.contains('=') || wire.key.contains(char::is_control) {
        return Err(format!("has the key {}, which no environment can hold", quote(&wire.key)).into());
    }
    if wire.value.contains(&0) {
        return Err(format!("has a NUL in the value of {}", quote(&wire.key)).into());
    }
    Ok((wire.key, wire.value))
}

fn mounts(wire: Vec<wire::Mount>) -> Result<Vec<Mount>, Refusal> {
    count(MOUNTS_MAX, wire.len()).at("mounts")?;
    wire.into_iter()
        .enumerate()
        .map(|(index, each)| mount(each).under(format_args!("mounts[{index}]")))
        .collect()
}

fn mount(wire: wire::Mount) -> Result<Mount, Refusal> {
    let id_map = users::of_mount(&wire.uid_mappings, &wire.gid_mappings)?;
    let propagation = match known(wire.propagation).at("propagation")? {
        wire::MountPropagation::PropagationPrivate => Propagation::Private,
        wire::MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
        wire::MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
    };
    if wire.recursive_read_only {
        absent("recursive_read_only", !wire.readonly, "needs readonly")?;
        absent("recursive_read_only", propagation != Propagation::Private, "needs PROPAGATION_PRIVATE")?;
    }
    let container_path = absolute_path(wire.container_path).at("container_path")?;
    let is_root = container_path.split('/').all(|part| matches!(part, "" | "."));
    absent("container_path", is_root, "is the container's root")?;
    let (host_path, image) = match wire.image {
        None => {
            absent("image_sub_path", !wire.image_sub_path.is_empty(), "needs an image")?;
            (absolute_path(wire.host_path).at("host_path")?, None)
        }
        Some(image) => {
            absent("host_path", !wire.host_path.is_empty(), "excludes an image")?;
            absent("readonly", !wire.readonly, "must be set for an image")?;
            absent(
                "propagation",
                propagation != Propagation::Private,
                "must be PROPAGATION_PRIVATE for an image",
            )?;
            (String::new(), Some(image_volume(image, wire.image_sub_path)?))
        }
    };
    Ok(Mount {
        container_path,
        host_path,
        readonly: wire.readonly,
        recursive_read_only: wire.recursive_read_only,
        propagation,
        selinux_relabel: wire.selinux_relabel,
        image,
        options: mount_options(&wire.mount_options).at("mount_options")?,
        id_map,
    })
}

fn image_volume(image: wire::ImageSpec, sub_path: String) -> Result<ImageVolume, Refusal> {
    let absolute = sub_path.starts_with('/');
    absent("image_sub_path", absolute, "is absolute, and must be relative to the image's root")?;
    if !sub_path.is_empty() {
        path(sub_path.clone()).and_then(no_way_up).at("image_sub_path")?;
    }
    Ok(ImageVolume { reference: reference(Some(image))?, sub_path })
}

/// The options that Kubernetes has (`VolumeMount.bindMountOptions`); another one could take back what was asked for.
fn mount_options(names: &[String]) -> Result<MountOptions, Why> {
    let mut options = MountOptions::default();
    for name in names {
        *match name.as_str() {
            "nodev" => &mut options.nodev,
            "noexec" => &mut options.noexec,
            "nosuid" => &mut options.nosuid,
            _ => return Err(format!("has {}, not nodev, noexec or nosuid", quote(name)).into()),
        } = true;
    }
    Ok(options)
}

fn devices(wire: Vec<wire::Device>) -> Result<Vec<DeviceMapping>, Refusal> {
    count(DEVICES_MAX, wire.len()).at("devices")?;
    wire.into_iter()
        .enumerate()
        .map(|(index, each)| device(each).under(format_args!("devices[{index}]")))
        .collect()
}

fn device(wire: wire::Device) -> Result<DeviceMapping, Refusal> {
    let letters = &wire.permissions;
    if letters.is_empty() || letters.len() > 3 || letters.contains(|c: char| !matches!(c, 'r' | 'w' | 'm')) {
        let why = format!("{} is not made of \"r\", \"w\" and \"m\"", quote(letters));
        return Err(Why::from(why)).at("permissions");
    }
    Ok(DeviceMapping {
        container_path: absolute_path(wire.container_path).and_then(no_way_up).at("container_path")?,
        host_path: absolute_path(wire.host_path).and_then(no_way_up).at("host_path")?,
        permissions: wire.permissions,
        form: DeviceForm::default(),
    })
}

/// The devices of the field, then those of annotations, each once: a kubelet sends the same devices both ways.
fn cdi_devices(
    field: &[wire::CdiDevice],
    annotations: &BTreeMap<String, String>,
) -> Result<Vec<CdiDeviceName>, Refusal> {
    let parse = |name: &str| {
        CdiDeviceName::parse(name).map_err(|error| Why::from(format!("{}: {error}", quote(name))))
    };
    count(DEVICES_MAX, field.len()).at("CDI_devices")?;
    let named = field.iter().map(|device| parse(&device.name));
    let mut all = named.collect::<Result<Vec<_>, _>>().at("CDI_devices")?;
    for (key, value) in annotations.iter().filter(|(key, _)| key.starts_with(CDI_ANNOTATION)) {
        let of_annotation = format_args!("annotations[{key:?}]").to_string();
        for name in value.split(',') {
            all.push(parse(name).at(&of_annotation)?);
            count(DEVICES_MAX, all.len()).at(&of_annotation)?;
        }
    }
    let mut seen = HashSet::new();
    all.retain(|name| seen.insert(name.clone()));
    Ok(all)
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::model::{IdMap, IdRange, PidMode, Resources, SeccompChoice};

    pub(in crate::cri::parse) fn request() -> wire::CreateContainerRequest {
        let config = wire::ContainerConfig {
            metadata: Some(wire::ContainerMetadata { name: "main".into(), attempt: 3 }),
            image: Some(wire::ImageSpec {
                image: "sha256:abc".into(),
                user_specified_image: "busybox".into(),
                ..Default::default()
            }),
            command: vec!["sh".into()],
            args: vec!["-c".into(), String::new()],
            working_dir: "/srv".into(),
            envs: vec![
                wire::KeyValue { key: "A".into(), value: b"\xff\n=".into() },
                wire::KeyValue::default(),
            ],
            mounts: vec![wire::Mount {
                container_path: "/data".into(),
                host_path: "/mnt/data".into(),
                readonly: true,
                recursive_read_only: true,
                selinux_relabel: true,
                mount_options: vec!["noexec".into(), "nodev".into()],
                uid_mappings: vec![wire::IdMapping { host_id: 9, container_id: 5, length: 2 }],
                gid_mappings: vec![wire::IdMapping { host_id: 8, container_id: 6, length: 3 }],
                ..Default::default()
            }],
            devices: vec![wire::Device {
                container_path: "/dev/fuse".into(),
                host_path: "/dev/fuse".into(),
                permissions: "rwm".into(),
            }],
            labels: HashMap::from([("l".into(), "1".into())]),
            annotations: HashMap::from([("a".into(), "2".into())]),
            log_path: "main/3.log".into(),
            stdin: true,
            stdin_once: true,
            tty: true,
            linux: Some(wire::LinuxContainerConfig {
                resources: Some(wire::LinuxContainerResources { cpu_shares: 512, ..Default::default() }),
                security_context: Some(wire::LinuxContainerSecurityContext {
                    namespace_options: Some(wire::NamespaceOption { pid: 1, ..Default::default() }),
                    ..Default::default()
                }),
            }),
            stop_signal: wire::Signal::Sigusr1.into(),
            ..Default::default()
        };
        wire::CreateContainerRequest {
            pod_sandbox_id: "pod".into(),
            config: Some(config),
            sandbox_config: None,
        }
    }

    fn changed(change: impl FnOnce(&mut wire::ContainerConfig)) -> Result<ContainerConfig, Refusal> {
        let mut request = request();
        change(request.config.as_mut().unwrap());
        create_container(request).map(|(_, config)| config)
    }

    #[test]
    fn every_field_arrives() {
        let expected = ContainerConfig {
            metadata: ContainerMetadata { name: "main".into(), attempt: 3 },
            image: "sha256:abc".into(),
            user_specified_image: "busybox".into(),
            command: vec!["sh".into()],
            args: vec!["-c".into(), String::new()],
            working_dir: "/srv".into(),
            envs: vec![("A".into(), b"\xff\n=".into())],
            mounts: vec![Mount {
                container_path: "/data".into(),
                host_path: "/mnt/data".into(),
                readonly: true,
                recursive_read_only: true,
                propagation: Propagation::Private,
                selinux_relabel: true,
                image: None,
                options: MountOptions { nodev: true, noexec: true, nosuid: false },
                id_map: Some(IdMap {
                    uids: vec![IdRange { container: 5, host: 9, length: 2 }],
                    gids: vec![IdRange { container: 6, host: 8, length: 3 }],
                }),
            }],
            devices: vec![DeviceMapping {
                container_path: "/dev/fuse".into(),
                host_path: "/dev/fuse".into(),
                permissions: "rwm".into(),
                form: DeviceForm::default(),
            }],
            cdi_devices: vec![],
            labels: BTreeMap::from([("l".into(), "1".into())]),
            annotations: BTreeMap::from([("a".into(), "2".into())]),
            log_path: "main/3.log".into(),
            stdin: true,
            stdin_once: true,
            tty: true,
            resources: Resources { cpu_shares: 512, ..Default::default() },
            namespaces: NamespaceModes { pid: PidMode::Container, ..Default::default() },
            security: Security {
                seccomp: SeccompChoice::Unsaid,
                masked_paths: Some(vec![]),
                readonly_paths: Some(vec![]),
                ..Default::default()
            },
            stop_signal: Some(10),
        };
        assert_eq!(create_container(request()), Ok((IdPrefix::parse("pod").unwrap(), expected)));
    }

    fn annotate(config: &mut wire::ContainerConfig, devices: &str) {
        config.annotations.insert("cdi.k8s.io/x".into(), devices.into());
    }

    #[test]
    fn a_cdi_device_is_asked_for_in_a_field_or_an_annotation_and_had_once() {
        let config = changed(|config| {
            let device = |name: &str| wire::CdiDevice { name: name.into() };
            config.cdi_devices = ["v/c=b", "v/c=a", "v/c=b"].map(device).into();
            annotate(config, "v/c=a,w/c=a");
        });
        let config = config.unwrap();
        let names: Vec<_> = config.cdi_devices.iter().map(CdiDeviceName::as_str).collect();
        assert_eq!(names, ["v/c=b", "v/c=a", "w/c=a"]);
        // They are shown as they were asked for.
        assert_eq!(config.annotations["cdi.k8s.io/x"], "v/c=a,w/c=a");
    }

    /// The first mount of a request, made one of an image.
    fn image_mount(config: &mut wire::ContainerConfig) -> &mut wire::Mount {
        let mount = &mut config.mounts[0];
        mount.host_path = String::new();
        mount.image = Some(wire::ImageSpec { image: "tools:1".into(), ..Default::default() });
        mount
    }

    #[test]
    fn an_image_may_be_the_content_of_a_mount() {
        let config = changed(|config| image_mount(config).image_sub_path = "usr/lib".into()).unwrap();
        let expected = ImageVolume { reference: "tools:1".into(), sub_path: "usr/lib".into() };
        assert_eq!(
            (config.mounts[0].image.as_ref(), config.mounts[0].host_path.as_str()),
            (Some(&expected), "")
        );
    }

    #[test]
    fn without_a_security_context_hidden_paths_are_ours() {
        let config = changed(|config| config.linux = None).unwrap();
        assert_eq!((config.security.masked_paths, config.security.readonly_paths), (None, None));
    }

    #[test]
    fn bad_containers_are_refused_by_field_and_name() {
        type Change = fn(&mut wire::ContainerConfig);
        let bad: [(&str, Change); 49] = [
            ("metadata.name", |c| c.metadata.as_mut().unwrap().name = "a/b".into()),
            ("image", |c| c.image = None),
            ("image.image", |c| c.image.as_mut().unwrap().image = String::new()),
            ("image.image", |c| c.image.as_mut().unwrap().image = "busy box".into()),
            ("image.user_specified_image", |c| c.image.as_mut().unwrap().user_specified_image = "a\n".into()),
            ("command and args", |c| c.command = vec!["a\0".into()]),
            ("command and args", |c| c.args = vec![String::new(); ARGS_MAX]),
            ("working_dir", |c| c.working_dir = "srv".into()),
            ("working_dir", |c| c.working_dir = "/a\0".into()),
            ("envs", |c| c.envs[0].key = String::new()), // of a value
            ("envs", |c| c.envs[0].key = "A=B".into()),
            ("envs", |c| c.envs[0].key = "A\0".into()),
            ("envs", |c| c.envs[0].value = b"a\0b".into()),
            ("envs", |c| c.envs[0].value = vec![b'a'; ENV_BYTES_MAX]),
            ("envs", |c| c.envs = vec![c.envs[0].clone(); ENVS_MAX + 1]),
            ("mounts", |c| c.mounts = vec![c.mounts[0].clone(); MOUNTS_MAX + 1]),
            ("mounts[0].container_path", |c| c.mounts[0].container_path = "data".into()),
            ("mounts[0].container_path", |c| c.mounts[0].container_path = "/./".into()),
            ("mounts[0].container_path", |c| c.mounts[0].container_path = "/a".repeat(PATH_BYTES_MAX)),
            ("mounts[0].host_path", |c| c.mounts[0].host_path = String::new()),
            ("mounts[0].host_path", |c| c.mounts[0].host_path = "/a\0".into()),
            ("mounts[0].propagation", |c| c.mounts[0].propagation = 3),
            ("mounts[0].recursive_read_only", |c| c.mounts[0].readonly = false),
            ("mounts[0].recursive_read_only", |c| c.mounts[0].propagation = 1),
            ("mounts[0].image_sub_path", |c| c.mounts[0].image_sub_path = "a".into()),
            ("mounts[0].host_path", |c| c.mounts[0].image = Some(Default::default())),
            ("mounts[0].image.image", |c| image_mount(c).image = Some(Default::default())),
            ("mounts[0].readonly", |c| {
                let mount = image_mount(c);
                (mount.readonly, mount.recursive_read_only) = (false, false);
            }),
            ("mounts[0].propagation", |c| {
                let mount = image_mount(c);
                (mount.propagation, mount.recursive_read_only) = (1, false);
            }),
            ("mounts[0].image_sub_path", |c| image_mount(c).image_sub_path = "/etc".into()),
            ("mounts[0].image_sub_path", |c| image_mount(c).image_sub_path = "a/../..".into()),
            ("mounts[0].uidMappings", |c| c.mounts[0].uid_mappings = vec![Default::default()]),
            ("mounts[0].gidMappings", |c| c.mounts[0].gid_mappings = vec![Default::default()]),
            ("mounts[0].mount_options", |c| c.mounts[0].mount_options = vec!["exec".into()]),
            ("devices", |c| c.devices = vec![c.devices[0].clone(); DEVICES_MAX + 1]),
            ("devices[0].host_path", |c| c.devices[0].host_path = "/dev/../etc".into()),
            ("devices[0].container_path", |c| c.devices[0].container_path = "dev".into()),
            ("devices[0].permissions", |c| c.devices[0].permissions = "rwx".into()),
            ("devices[0].permissions", |c| c.devices[0].permissions = String::new()),
            ("CDI_devices", |c| c.cdi_devices = vec![Default::default()]),
            ("CDI_devices", |c| c.cdi_devices = vec![wire::CdiDevice { name: "v/c".into() }]),
            ("CDI_devices", |c| {
                c.cdi_devices = vec![wire::CdiDevice { name: "v/c=d".into() }; DEVICES_MAX + 1];
            }),
            ("annotations[\"cdi.k8s.io/x\"]", |c| annotate(c, "v/c=d,")),
            ("annotations[\"cdi.k8s.io/x\"]", |c| annotate(c, "")),
            ("annotations[\"cdi.k8s.io/x\"]", |c| annotate(c, &vec!["v/c=d"; DEVICES_MAX + 1].join(","))),
            ("windows", |c| c.windows = Some(Default::default())),
            ("log_path", |c| c.log_path = "/etc/passwd".into()),
            ("log_path", |c| c.log_path = "a/../../b".into()),
            ("stop_signal", |c| c.stop_signal = 66),
        ];
        for (field, change) in bad {
            let refusal = changed(change).unwrap_err();
            assert_eq!(refusal.field, format!("config.{field}"));
            assert_eq!(refusal.object.is_empty(), field.starts_with("metadata"), "{refusal}");
        }
        let refusal = changed(|config| config.log_path = "../x".into()).unwrap_err();
        assert_eq!(refusal.to_string(), "container main: config.log_path \"../x\" has a part \"..\"");
    }

    #[test]
    fn a_container_needs_a_pod_a_config_and_a_name() {
        let refusal = |request| create_container(request).unwrap_err().to_string();
        let no_pod = wire::CreateContainerRequest { pod_sandbox_id: "../x".into(), ..request() };
        assert_eq!(refusal(no_pod), "pod_sandbox_id \"../x\" has a slash");
        let empty = wire::CreateContainerRequest { config: None, ..request() };
        assert_eq!(refusal(empty), "config is missing");
        let nameless = changed(|config| config.metadata = None).unwrap_err();
        assert_eq!(nameless.to_string(), "config.metadata is missing");
    }
}
