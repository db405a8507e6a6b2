//! Between the protocol's messages and the model's types. What a later release added reads as its default.

use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use super::{limits, v1};
use crate::{
    cgroup,
    model::{
        ContainerId, ContainerPlan, DeviceForm, DeviceNode, Exit, ExitReason, Failure, GroupsPolicy, IdMap,
        IdPrefix, IdRange, IpcMode, LogPath, MountOptions, NetworkMode, PidMode, PodId, PodPlan, ProcessPlan,
        Propagation, ResolvedUser, Stage, UnixNanos, UserChoice, Volume, VolumeSource,
    },
    supervisor::ContainerFacts,
};

/// A path as bytes: it need not be UTF-8.
pub(super) fn to_bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

/// The path that the bytes are.
pub(super) fn to_path(bytes: Vec<u8>) -> PathBuf {
    OsString::from_vec(bytes).into()
}

/// The failure of a message with a bad part.
pub(super) fn bad(what: &str, why: impl ToString) -> Failure {
    Failure::new(Stage::Request, what, why.to_string())
}

/// The message of a failure.
pub(crate) fn failure_message(failure: Failure) -> v1::Failure {
    v1::Failure {
        stage: failure.stage.number(),
        object: failure.object,
        errno: failure.errno,
        path: failure.path,
        text: failure.text,
    }
}

/// The failure of a message.
pub(crate) fn failure(message: v1::Failure) -> Failure {
    Failure {
        stage: Stage::from_number(message.stage),
        object: message.object,
        errno: message.errno,
        path: message.path,
        text: message.text,
    }
}

/// The request that sets up a pod in `dir`.
pub(crate) fn setup_request(pod: &PodId, dir: &Path, plan: &PodPlan, cgroup: &cgroup::Handle) -> v1::Setup {
    v1::Setup {
        pod_id: pod.to_string(),
        dir: to_bytes(dir),
        cgroup: Some(limits::cgroup_message(cgroup)),
        own_network: plan.network == NetworkMode::Pod,
        own_ipc: plan.ipc == IpcMode::Pod,
        hostname: plan.hostname.clone(),
        sysctls: plan
            .sysctls
            .iter()
            .map(|(key, value)| v1::Pair { key: key.clone(), value: value.clone() })
            .collect(),
        shm_bytes: plan.shm_bytes,
        name: plan.name.clone(),
        uids: plan.users.iter().flat_map(|map| range_messages(&map.uids)).collect(),
        gids: plan.users.iter().flat_map(|map| range_messages(&map.gids)).collect(),
        mount_label: plan.mount_label.clone(),
    }
}

/// Id, folder, plan and cgroup of the pod that is to be set up.
///
/// # Errors
/// Stage `Request` for a bad id or cgroup.
pub(crate) fn pod_plan(message: v1::Setup) -> Result<(PodId, PathBuf, PodPlan, cgroup::Handle), Failure> {
    let pod = PodId::parse(&message.pod_id).map_err(|error| bad("pod id", error))?;
    let cgroup = limits::cgroup_handle(message.cgroup.ok_or_else(|| bad("setup", "no cgroup"))?)?;
    let plan = PodPlan {
        name: message.name,
        network: if message.own_network { NetworkMode::Pod } else { NetworkMode::Node },
        ipc: if message.own_ipc { IpcMode::Pod } else { IpcMode::Node },
        hostname: message.hostname,
        sysctls: message.sysctls.into_iter().map(|pair| (pair.key, pair.value)).collect(),
        shm_bytes: message.shm_bytes,
        users: id_map(message.uids, message.gids),
        mount_label: message.mount_label,
    };
    Ok((pod, to_path(message.dir), plan, cgroup))
}

fn range_messages(ranges: &[IdRange]) -> impl Iterator<Item = v1::IdRange> {
    let message = |range: &IdRange| {
        let IdRange { container, host, length } = *range;
        v1::IdRange { container, host, length }
    };
    ranges.iter().map(message)
}

/// A map has ranges of both kinds.
fn id_map(uids: Vec<v1::IdRange>, gids: Vec<v1::IdRange>) -> Option<IdMap> {
    let range = |message: v1::IdRange| {
        let v1::IdRange { container, host, length } = message;
        IdRange { container, host, length }
    };
    let ranges = |messages: Vec<v1::IdRange>| messages.into_iter().map(range).collect::<Vec<_>>();
    (!uids.is_empty()).then(|| IdMap { uids: ranges(uids), gids: ranges(gids) })
}

/// The message of a process to start.
pub(crate) fn process_message(plan: &ProcessPlan) -> v1::Process {
    let user = &plan.user;
    v1::Process {
        args: plan.args.clone(),
        env: plan.env.clone(),
        cwd: plan.cwd.clone(),
        user: Some(v1::User {
            uid: user.uid,
            name: user.name.clone(),
            gid: user.gid,
            supplemental_groups: user.supplemental_groups.clone(),
            strict_groups: user.groups_policy == GroupsPolicy::Strict,
        }),
        image_user: plan.image_user.clone(),
        tty: plan.tty,
        capabilities: plan.capabilities,
        ambient: plan.ambient,
        no_new_privs: plan.no_new_privs,
        seccomp: plan.seccomp.as_deref().unwrap_or_default().to_vec(),
        seccomp_flags: plan.seccomp_flags,
        oom_score_adj: plan.oom_score_adj,
        nofile_soft: plan.nofile.0,
        nofile_hard: plan.nofile.1,
        apparmor: plan.apparmor.clone(),
        selinux: plan.selinux.clone(),
    }
}

/// The process of a message.
pub(crate) fn process_plan(message: v1::Process) -> ProcessPlan {
    let user = message.user.unwrap_or_default();
    let policy = if user.strict_groups { GroupsPolicy::Strict } else { GroupsPolicy::Merge };
    ProcessPlan {
        args: message.args,
        env: message.env,
        cwd: message.cwd,
        user: UserChoice {
            uid: user.uid,
            name: user.name,
            gid: user.gid,
            supplemental_groups: user.supplemental_groups,
            groups_policy: policy,
        },
        image_user: message.image_user,
        tty: message.tty,
        capabilities: message.capabilities,
        ambient: message.ambient,
        no_new_privs: message.no_new_privs,
        seccomp: (!message.seccomp.is_empty()).then(|| message.seccomp.into()),
        seccomp_flags: message.seccomp_flags,
        oom_score_adj: message.oom_score_adj,
        nofile: (message.nofile_soft, message.nofile_hard),
        apparmor: message.apparmor,
        selinux: message.selinux,
    }
}

/// For a supervisor that speaks `version` of the protocol.
pub(crate) fn create_request(plan: &ContainerPlan, version: u32) -> Result<v1::Create, Failure> {
    let (pid_mode, pid_target) = match &plan.pid {
        PidMode::Pod => (v1::PidMode::Pod, ""),
        PidMode::Container => (v1::PidMode::Container, ""),
        PidMode::Node => (v1::PidMode::Node, ""),
        PidMode::Target(id) => (v1::PidMode::Target, id.as_str()),
    };
    let mut create = v1::Create {
        container_id: plan.id.to_string(),
        oci: plan.oci.clone(),
        process: Some(process_message(&plan.process)),
        lower: plan.lower.iter().map(|path| to_bytes(path)).collect(),
        writable: to_bytes(&plan.writable),
        mount_label: plan.mount_label.clone(),
        readonly_rootfs: plan.readonly_rootfs,
        volumes: plan.volumes.iter().map(volume_message).collect(),
        devices: plan.devices.iter().map(device_message).collect(),
        pid_mode: pid_mode.into(),
        pid_target: pid_target.into(),
        privileged: plan.privileged,
        without_host_devices: plan.privileged && !plan.host_devices,
        log: plan.log.as_ref().map(|log| to_bytes(&log.whole())).unwrap_or_default(),
        log_directory: plan.log.as_ref().map(|log| to_bytes(&log.directory)).unwrap_or_default(),
        stdin: plan.stdin,
        stdin_once: plan.stdin_once,
        ..v1::Create::default()
    };
    limits::set_limits(&mut create, version, &plan.device_rules, &plan.resources)?;
    Ok(create)
}

fn volume_message(volume: &Volume) -> v1::Volume {
    let propagation = match volume.propagation {
        Propagation::Private => v1::Propagation::Private,
        Propagation::HostToContainer => v1::Propagation::HostToContainer,
        Propagation::Bidirectional => v1::Propagation::Bidirectional,
    };
    let (kind, source) = match &volume.source {
        VolumeSource::Host(_) if volume.id_map.is_some() => (v1::VolumeKind::Mapped, Vec::new()),
        VolumeSource::Host(path) => (v1::VolumeKind::Host, to_bytes(path)),
        VolumeSource::PodFile(path) => (v1::VolumeKind::PodFile, to_bytes(path)),
        VolumeSource::Image(path) => (v1::VolumeKind::Image, to_bytes(path)),
        VolumeSource::Layers { .. } => (v1::VolumeKind::Layers, Vec::new()),
    };
    let (lower, sub_path) = match &volume.source {
        VolumeSource::Layers { lower, sub_path } => {
            (lower.iter().map(|layer| to_bytes(layer)).collect(), sub_path.clone())
        }
        VolumeSource::Host(_) | VolumeSource::PodFile(_) | VolumeSource::Image(_) => Default::default(),
    };
    let mapped_source = match &volume.source {
        VolumeSource::Host(path) if volume.id_map.is_some() => to_bytes(path),
        _ => Vec::new(),
    };
    v1::Volume {
        source,
        target: volume.target.clone(),
        readonly: volume.readonly,
        recursive_read_only: volume.recursive_read_only,
        propagation: propagation.into(),
        create_source: matches!(kind, v1::VolumeKind::Host | v1::VolumeKind::Image),
        kind: kind.into(),
        lower,
        sub_path,
        nodev: volume.options.nodev,
        noexec: volume.options.noexec,
        nosuid: volume.options.nosuid,
        uids: volume.id_map.iter().flat_map(|map| range_messages(&map.uids)).collect(),
        gids: volume.id_map.iter().flat_map(|map| range_messages(&map.gids)).collect(),
        mapped_source,
        relabel: volume.relabel,
    }
}

fn volume_source(message: &mut v1::Volume) -> VolumeSource {
    let (kind, create_source) = (message.kind(), message.create_source);
    let path = to_path(std::mem::take(&mut message.source));
    match kind {
        v1::VolumeKind::Host if create_source => VolumeSource::Host(path),
        // A daemon that knows no kinds creates all but the pod's files.
        v1::VolumeKind::Host | v1::VolumeKind::PodFile => VolumeSource::PodFile(path),
        v1::VolumeKind::Image => VolumeSource::Image(path),
        v1::VolumeKind::Mapped => VolumeSource::Host(to_path(std::mem::take(&mut message.mapped_source))),
        v1::VolumeKind::Layers => VolumeSource::Layers {
            lower: std::mem::take(&mut message.lower).into_iter().map(to_path).collect(),
            sub_path: std::mem::take(&mut message.sub_path),
        },
    }
}

/// A daemon that sends no directory sends a whole path; then the last part of it is the file.
fn log_path(whole: Vec<u8>, directory: Vec<u8>) -> Option<LogPath> {
    let (whole, directory) = (to_path(whole), to_path(directory));
    let directory = if directory.as_os_str().is_empty() { whole.parent()?.to_path_buf() } else { directory };
    let file = whole.strip_prefix(&directory).ok()?.to_path_buf();
    Some(LogPath { directory, file })
}

fn device_message(device: &DeviceNode) -> v1::Device {
    v1::Device {
        source: to_bytes(&device.source),
        target: device.target.clone(),
        access: device.access.clone(),
        kind: device.form.kind.map(String::from).unwrap_or_default(),
        numbered: device.form.numbers.is_some(),
        major: device.form.numbers.map_or(0, |(major, _)| major),
        minor: device.form.numbers.map_or(0, |(_, minor)| minor),
        mode: device.form.mode,
        uid: device.form.uid,
        gid: device.form.gid,
        of_user: device.form.of_user,
    }
}

fn device(message: v1::Device) -> DeviceNode {
    let form = DeviceForm {
        kind: message.kind.chars().next(),
        numbers: message.numbered.then_some((message.major, message.minor)),
        mode: message.mode,
        uid: message.uid,
        gid: message.gid,
        of_user: message.of_user,
    };
    DeviceNode { source: to_path(message.source), target: message.target, access: message.access, form }
}

/// The container whose pid namespace another joins.
fn target(text: &str) -> Result<IdPrefix, Failure> {
    IdPrefix::parse(text).map_err(|fault| bad("target container", fault))
}

/// The container that is to be created.
///
/// # Errors
/// Stage `Request` for a bad id, or limits that cannot be read.
pub(crate) fn container_plan(mut message: v1::Create) -> Result<ContainerPlan, Failure> {
    let (device_rules, resources) = limits::take_limits(&mut message)?;
    let pid = match message.pid_mode() {
        v1::PidMode::Pod => PidMode::Pod,
        v1::PidMode::Container => PidMode::Container,
        v1::PidMode::Node => PidMode::Node,
        v1::PidMode::Target => PidMode::Target(target(&message.pid_target)?),
    };
    let volume = |mut volume: v1::Volume| Volume {
        propagation: match volume.propagation() {
            v1::Propagation::Private => Propagation::Private,
            v1::Propagation::HostToContainer => Propagation::HostToContainer,
            v1::Propagation::Bidirectional => Propagation::Bidirectional,
        },
        source: volume_source(&mut volume),
        id_map: id_map(volume.uids, volume.gids),
        target: volume.target,
        readonly: volume.readonly,
        recursive_read_only: volume.recursive_read_only,
        options: MountOptions { nodev: volume.nodev, noexec: volume.noexec, nosuid: volume.nosuid },
        relabel: volume.relabel,
    };
    Ok(ContainerPlan {
        id: ContainerId::parse(&message.container_id).map_err(|error| bad("container id", error))?,
        oci: message.oci,
        process: process_plan(message.process.ok_or_else(|| bad("create", "no process"))?),
        lower: message.lower.into_iter().map(to_path).collect(),
        writable: to_path(message.writable),
        mount_label: message.mount_label,
        readonly_rootfs: message.readonly_rootfs,
        volumes: message.volumes.into_iter().map(volume).collect(),
        devices: message.devices.into_iter().map(device).collect(),
        device_rules,
        resources,
        pid,
        privileged: message.privileged,
        host_devices: message.privileged && !message.without_host_devices,
        log: log_path(message.log, message.log_directory),
        stdin: message.stdin,
        stdin_once: message.stdin_once,
    })
}

/// The message of an exit.
pub(super) fn exit_message(exit: &Exit) -> v1::Exit {
    v1::Exit {
        code: exit.code,
        reason: exit.reason.as_str().into(),
        at: exit.at.0,
        message: exit.message.clone(),
    }
}

/// The exit of a message; a reason of a later release reads as unknown.
pub(crate) fn exit(message: v1::Exit) -> Exit {
    let known = [
        ExitReason::Completed,
        ExitReason::Error,
        ExitReason::OOMKilled,
        ExitReason::StartError,
        ExitReason::SupervisorDied,
        ExitReason::NodeReboot,
    ];
    let reason = known.into_iter().find(|reason| reason.as_str() == message.reason);
    Exit {
        code: message.code,
        reason: reason.unwrap_or(ExitReason::Unknown),
        at: UnixNanos(message.at),
        message: message.message,
    }
}

/// The message of what is known of a container.
pub(crate) fn facts_message(facts: &ContainerFacts) -> v1::ContainerFacts {
    v1::ContainerFacts {
        container_id: facts.id.to_string(),
        pid: facts.pid,
        uid: facts.user.uid,
        gid: facts.user.gid,
        groups: facts.user.groups.clone(),
        started_at: facts.started_at.map_or(0, |at| at.0),
        exit: facts.exit.as_ref().map(exit_message),
    }
}

/// What is known of a container.
///
/// # Errors
/// Stage `Request` for a bad id.
pub(crate) fn facts(message: v1::ContainerFacts) -> Result<ContainerFacts, Failure> {
    Ok(ContainerFacts {
        id: ContainerId::parse(&message.container_id).map_err(|error| bad("container id", error))?,
        pid: message.pid,
        user: ResolvedUser { uid: message.uid, gid: message.gid, groups: message.groups },
        started_at: (message.started_at != 0).then_some(UnixNanos(message.started_at)),
        exit: message.exit.map(exit),
    })
}

#[cfg(test)]
pub(in crate::supervisor) mod tests {
    use super::{super::PROTOCOL_MAX, *};
    use crate::model::{DeviceRule, HugepageLimit, Resources};

    fn mapped_volume() -> Volume {
        Volume {
            source: VolumeSource::Host("/m".into()),
            target: "/t".into(),
            readonly: false,
            recursive_read_only: false,
            propagation: Propagation::Private,
            options: MountOptions::default(),
            id_map: Some(id_map()),
            relabel: true,
        }
    }

    fn id_map() -> IdMap {
        let range = |container, host, length| IdRange { container, host, length };
        IdMap { uids: vec![range(0, 65_536, 9), range(9, 1, 2)], gids: vec![range(3, 4, 5)] }
    }

    #[test]
    fn a_mapped_volume_is_nothing_to_a_supervisor_that_maps_none() {
        let message = volume_message(&mapped_volume());
        assert!(message.source.is_empty() && !message.create_source);
    }

    #[test]
    fn a_pod_survives_the_wire() {
        let plan = PodPlan {
            name: "default/web".into(),
            network: NetworkMode::Node,
            ipc: IpcMode::Pod,
            hostname: "web".into(),
            sysctls: vec![("a".into(), "b".into())],
            shm_bytes: 7,
            users: Some(id_map()),
            mount_label: "u:o:f:s0:c1,c2".into(),
        };
        let pod = PodId::from_bytes([1; 32]);
        let handle = format!(r#"{{"driver":"Cgroupfs","version":"v1","path":"/{pod}","trees":[]}}"#);
        let handle = serde_json::from_str(&handle).unwrap();
        let message = setup_request(&pod, Path::new("/p"), &plan, &handle);
        assert_eq!(pod_plan(message).unwrap().2, plan);
    }

    pub(in crate::supervisor) fn plan() -> ContainerPlan {
        ContainerPlan {
            id: ContainerId::from_bytes([7; 32]),
            oci: b"{}".to_vec(),
            process: ProcessPlan {
                args: vec![b"sh".to_vec(), vec![0xff]],
                env: vec![b"A=\xfe".to_vec()],
                cwd: "/w".into(),
                user: UserChoice {
                    uid: Some(0),
                    name: "n".into(),
                    gid: None,
                    supplemental_groups: vec![1, 2],
                    groups_policy: GroupsPolicy::Strict,
                },
                image_user: "www-data".into(),
                tty: true,
                capabilities: 0xa804_25fb,
                ambient: 1 << 10,
                no_new_privs: true,
                seccomp: Some([1, 2, 3, 4, 5, 6, 7, 8].into()),
                seccomp_flags: 2,
                apparmor: "web".into(),
                selinux: "u:r:t:s0:c1,c2".into(),
                oom_score_adj: -5,
                nofile: (1024, 4096),
            },
            lower: vec!["/l/1".into(), "/l/2".into()],
            writable: "/w".into(),
            mount_label: "u:o:f:s0".into(),
            readonly_rootfs: true,
            volumes: [
                VolumeSource::Host("/s".into()),
                VolumeSource::PodFile("/p/hosts".into()),
                VolumeSource::Image("/w/v".into()),
                VolumeSource::Layers { lower: vec!["/l/2".into(), "/l/1".into()], sub_path: "usr".into() },
            ]
            .map(|source| Volume {
                source,
                target: "/t".into(),
                readonly: true,
                recursive_read_only: true,
                propagation: Propagation::Bidirectional,
                options: MountOptions { nodev: true, noexec: false, nosuid: true },
                id_map: None,
                relabel: false,
            })
            .into_iter()
            .chain([mapped_volume()])
            .collect(),
            devices: [
                DeviceForm::default(),
                DeviceForm {
                    kind: Some('b'),
                    numbers: Some((7, 0)),
                    mode: Some(0o640),
                    uid: Some(0),
                    gid: Some(6),
                    of_user: true,
                },
            ]
            .map(|form| DeviceNode {
                source: "/dev/x".into(),
                target: "/dev/y".into(),
                access: "rw".into(),
                form,
            })
            .into(),
            device_rules: vec![DeviceRule {
                allow: true,
                kind: 'c',
                major: Some(1),
                minor: None,
                access: "rwm".into(),
            }],
            resources: Resources {
                cpu_period_us: 1,
                cpu_quota_us: -1,
                cpu_shares: 9,
                memory_bytes: -1,
                memory_and_swap_bytes: 7,
                oom_score_adj: -5,
                cpuset_cpus: "0-1".into(),
                cpuset_mems: "0".into(),
                hugepages: vec![HugepageLimit { page_size: "2MB".into(), limit_bytes: 8 }],
                unified: [("memory.high".into(), "max".into())].into(),
                pids_max: 3,
            },
            pid: PidMode::Target(IdPrefix::parse("abc").unwrap()),
            privileged: true,
            host_devices: false,
            log: Some(LogPath { directory: "/logs".into(), file: "main/0.log".into() }),
            stdin: true,
            stdin_once: true,
        }
    }

    #[test]
    fn a_plan_survives_the_wire() {
        let sent = plan();
        assert_eq!(container_plan(create_request(&sent, PROTOCOL_MAX).unwrap()), Ok(sent));
    }

    #[test]
    fn what_an_earlier_daemon_sends_is_understood() {
        let mut message = create_request(&plan(), PROTOCOL_MAX).unwrap();
        message.volumes.truncate(3);
        message.log_directory.clear();
        for volume in &mut message.volumes {
            volume.kind = 0;
        }
        let read = container_plan(message).unwrap();
        assert_eq!(read.log, Some(LogPath { directory: "/logs/main".into(), file: "0.log".into() }));
        let sources: Vec<_> = read.volumes.into_iter().map(|volume| volume.source).collect();
        let host = |path: &str| VolumeSource::Host(path.into());
        assert_eq!(sources, [host("/s"), VolumeSource::PodFile("/p/hosts".into()), host("/w/v")]);
        assert_eq!(log_path(Vec::new(), Vec::new()), None);
    }

    #[test]
    fn a_create_without_a_process_is_refused() {
        let message = v1::Create { process: None, ..create_request(&plan(), PROTOCOL_MAX).unwrap() };
        assert_eq!(container_plan(message), Err(bad("create", "no process")));
    }

    #[test]
    fn facts_and_exits_survive_the_wire_and_a_later_reason_is_unknown() {
        let exit = Exit { code: 137, reason: ExitReason::OOMKilled, at: UnixNanos(5), message: "m".into() };
        let sent = ContainerFacts {
            id: ContainerId::from_bytes([1; 32]),
            pid: 4,
            user: ResolvedUser { uid: 1, gid: 2, groups: vec![2, 3] },
            started_at: Some(UnixNanos(3)),
            exit: Some(exit.clone()),
        };
        assert_eq!(facts(facts_message(&sent)), Ok(sent));
        let later = v1::Exit { reason: "Newer".into(), ..exit_message(&exit) };
        assert_eq!(super::exit(later).reason, ExitReason::Unknown);
    }
}
