//! The proof that clients of every release since 1.29 are understood: a field that a client does not know yet acts as
//! before there was one, and one that we do not know yet is passed over.
//!
//! `proto/runtime/v1/since.txt` says which release brought which field; `proto/runtime/v1/requests` has what clients of
//! several releases send, those of crictl recorded from crictl itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use prost::Message as _;

use super::{
    parse::{create_container, run_pod},
    wire,
};
use crate::model::{ContainerConfig, GroupsPolicy, ImageVolume, MountOptions, PodConfig};

const FACTS: &str = include_str!("../../proto/runtime/v1/wire.txt");
const SINCE: &str = include_str!("../../proto/runtime/v1/since.txt");
const REQUESTS: &str = "proto/runtime/v1/requests";

const CREATE: &str = "CreateContainerRequest";
const RUN: &str = "RunPodSandboxRequest";
/// The release of the protocol that is compiled here.
const NEWEST: u32 = 37;
/// A number that no field has.
const NO_FIELD: u32 = 1_000;

/// Both requests, as they were parsed.
#[derive(Clone, Debug, PartialEq)]
struct Parsed {
    pod: PodConfig,
    container: ContainerConfig,
}

/// A field that is newer than 1.29, and what its absence means.
type Absence = (&'static str, fn(&mut Parsed));

const ABSENCES: [Absence; 11] = [
    ("Mount.recursive_read_only", |parsed| mounts(parsed, |mount| mount.recursive_read_only = false)),
    // Without its image such a mount is no mount: see `an_image_volume_is_never_taken_for_a_mount_of_the_host`.
    ("Mount.image", |parsed| parsed.container.mounts.retain(|mount| mount.image.is_none())),
    ("Mount.image_sub_path", |parsed| {
        mounts(parsed, |mount| {
            mount.image.iter_mut().for_each(|image: &mut ImageVolume| image.sub_path.clear());
        });
    }),
    ("Mount.mount_options", |parsed| mounts(parsed, |mount| mount.options = MountOptions::default())),
    ("LinuxSandboxSecurityContext.supplemental_groups_policy", |parsed| {
        parsed.pod.security.user.groups_policy = GroupsPolicy::Merge;
    }),
    ("LinuxContainerSecurityContext.supplemental_groups_policy", |parsed| {
        parsed.container.security.user.groups_policy = GroupsPolicy::Merge;
    }),
    ("ContainerConfig.stop_signal", |parsed| parsed.container.stop_signal = None),
    ("ImageSpec.image_ref", |_| {}),
    // Of Windows containers, which are refused.
    ("WindowsContainerResources.affinity_cpus", |_| {}),
    ("WindowsCpuGroupAffinity.cpu_mask", |_| {}),
    ("WindowsCpuGroupAffinity.cpu_group", |_| {}),
];

fn mounts(parsed: &mut Parsed, change: impl Fn(&mut crate::model::Mount)) {
    parsed.container.mounts.iter_mut().for_each(change);
}

/// The messages of the protocol: each field's number, name and type.
struct Protocol(BTreeMap<&'static str, Vec<(u32, &'static str, &'static str)>>);

impl Protocol {
    fn new() -> Self {
        let mut messages = BTreeMap::<_, Vec<_>>::new();
        for fact in FACTS.lines().filter_map(|line| line.strip_prefix("field ")) {
            let words: Vec<&str> = fact.split(' ').collect();
            let [message, number, _label, kind, name, ..] = words[..] else { panic!("{fact}") };
            messages.entry(message).or_default().push((number.parse().unwrap(), name, kind));
        }
        Self(messages)
    }

    fn field(&self, message: &str, number: u32) -> Option<(&'static str, &'static str)> {
        let found = self.0.get(message)?.iter().find(|field| field.0 == number);
        found.map(|(_, name, kind)| (*name, *kind))
    }

    /// `Message.field` of all messages that a request is made of.
    fn reached_from(&self, requests: &[&str]) -> BTreeSet<String> {
        let (mut reached, mut names) = (BTreeSet::new(), BTreeSet::new());
        let mut next: Vec<&str> = requests.to_vec();
        while let Some(message) = next.pop() {
            let Some(fields) = self.0.get(message) else { continue };
            if reached.insert(message) {
                names.extend(fields.iter().map(|(_, name, _)| format!("{message}.{name}")));
                next.extend(fields.iter().map(|(.., kind)| *kind));
            }
        }
        names
    }

    /// Rewrites a message and all messages in it: `keep` says which fields stay, `more` is put at the end of each.
    fn rewrite(&self, message: &str, mut bytes: &[u8], keep: &dyn Fn(&str) -> bool, more: &[u8]) -> Vec<u8> {
        let mut written = Vec::new();
        while !bytes.is_empty() {
            let (number, value, rest) = split_field(bytes);
            let whole = &bytes[..bytes.len() - rest.len()];
            let (name, kind) = self.field(message, number).unwrap_or(("unknown", ""));
            if keep(&format!("{message}.{name}")) {
                match value.filter(|_| self.0.contains_key(kind)) {
                    Some(inner) => put_bytes(&mut written, number, &self.rewrite(kind, inner, keep, more)),
                    None => written.extend_from_slice(whole),
                }
            }
            bytes = rest;
        }
        written.extend_from_slice(more);
        written
    }
}

/// Protocol Buffers encoding: a varint from the front of `bytes`, and the rest.
fn split_varint(bytes: &[u8]) -> (u64, &[u8]) {
    let length = bytes.iter().position(|byte| byte & 0x80 == 0).unwrap() + 1;
    let value = bytes[..length].iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f));
    (value, &bytes[length..])
}

/// The number of the field at the front, the content of one that has a length, and the rest.
fn split_field(bytes: &[u8]) -> (u32, Option<&[u8]>, &[u8]) {
    let (key, rest) = split_varint(bytes);
    let number = u32::try_from(key >> 3).unwrap();
    match key & 7 {
        0 => (number, None, split_varint(rest).1),
        1 => (number, None, &rest[8..]),
        2 => {
            let (length, rest) = split_varint(rest);
            let (value, rest) = rest.split_at(usize::try_from(length).unwrap());
            (number, Some(value), rest)
        }
        5 => (number, None, &rest[4..]),
        other => panic!("wire type {other}"),
    }
}

fn put_varint(into: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        into.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    into.push(u8::try_from(value).unwrap());
}

fn put_bytes(into: &mut Vec<u8>, number: u32, value: &[u8]) {
    put_varint(into, u64::from(number) << 3 | 2);
    put_varint(into, value.len() as u64);
    into.extend_from_slice(value);
}

/// Requests as bytes, by the names of their messages.
type Requests = BTreeMap<&'static str, Vec<u8>>;

fn parse(requests: &Requests) -> Result<Parsed, String> {
    let run = wire::RunPodSandboxRequest::decode(requests[RUN].as_slice()).unwrap();
    let create = wire::CreateContainerRequest::decode(requests[CREATE].as_slice()).unwrap();
    let pod = run_pod(run).map_err(|refusal| refusal.to_string())?;
    let (_, container) = create_container(create).map_err(|refusal| refusal.to_string())?;
    Ok(Parsed { pod, container })
}

fn rewritten(requests: &Requests, keep: &dyn Fn(&str) -> bool, more: &[u8]) -> Requests {
    let protocol = Protocol::new();
    let rewrite =
        |(name, bytes): (&&'static str, &Vec<u8>)| (*name, protocol.rewrite(name, bytes, keep, more));
    requests.iter().map(rewrite).collect()
}

/// The fields of requests that are newer than 1.29, with the release that brought them.
fn newer_fields() -> BTreeMap<String, u32> {
    let reached = Protocol::new().reached_from(&[RUN, CREATE]);
    let facts = SINCE.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let [release, message, _number, _label, _kind, name] = words[..] else { panic!("{line}") };
        let release = release.strip_prefix("v1.").unwrap().parse().unwrap();
        (format!("{message}.{name}"), release)
    });
    facts.filter(|(name, _)| reached.contains(name)).collect()
}

/// Whether a client of `release` knows a field.
fn knows(release: u32) -> impl Fn(&str) -> bool {
    let newer = newer_fields();
    move |field| newer.get(field).is_none_or(|since| *since <= release)
}

/// The requests of a kubelet of today for a pod that uses all that came after 1.29.
fn newest() -> Requests {
    let image = |image: &str| {
        let image_ref = "sha256:0123".to_owned();
        wire::ImageSpec { image: image.into(), image_ref, ..Default::default() }
    };
    let user = wire::LinuxContainerSecurityContext {
        run_as_user: Some(wire::Int64Value { value: 1000 }),
        supplemental_groups: vec![7],
        supplemental_groups_policy: wire::SupplementalGroupsPolicy::Strict.into(),
        namespace_options: Some(wire::NamespaceOption { pid: 1, ..Default::default() }),
        seccomp: Some(wire::SecurityProfile::default()),
        masked_paths: vec!["/proc/kcore".into()],
        ..Default::default()
    };
    let mount = |container_path: &str, host_path: &str| wire::Mount {
        container_path: container_path.into(),
        host_path: host_path.into(),
        readonly: true,
        ..Default::default()
    };
    let config = wire::ContainerConfig {
        metadata: Some(wire::ContainerMetadata { name: "main".into(), attempt: 1 }),
        image: Some(image("busybox")),
        envs: vec![wire::KeyValue { key: "A".into(), value: "b=c".into() }],
        mounts: vec![
            wire::Mount { recursive_read_only: true, ..mount("/data", "/srv/data") },
            wire::Mount { mount_options: vec!["noexec".into()], ..mount("/more", "/srv/more") },
            wire::Mount {
                image: Some(image("tools:1")),
                image_sub_path: "usr".into(),
                ..mount("/tools", "")
            },
        ],
        log_path: "main/1.log".into(),
        linux: Some(wire::LinuxContainerConfig {
            resources: Some(wire::LinuxContainerResources { cpu_shares: 2, ..Default::default() }),
            security_context: Some(user),
        }),
        stop_signal: wire::Signal::Sigusr1.into(),
        ..Default::default()
    };
    let sandbox = wire::PodSandboxConfig {
        metadata: Some(wire::PodSandboxMetadata {
            name: "web".into(),
            uid: "u-1".into(),
            namespace: "default".into(),
            attempt: 0,
        }),
        log_directory: "/var/log/pods/web".into(),
        labels: [("app".to_owned(), "web".to_owned())].into(),
        linux: Some(wire::LinuxPodSandboxConfig {
            cgroup_parent: "/kubepods/pod1".into(),
            security_context: Some(wire::LinuxSandboxSecurityContext {
                supplemental_groups_policy: wire::SupplementalGroupsPolicy::Strict.into(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let create = wire::CreateContainerRequest {
        pod_sandbox_id: "ab".repeat(32),
        config: Some(config),
        sandbox_config: Some(sandbox.clone()),
    };
    let run = wire::RunPodSandboxRequest { config: Some(sandbox), runtime_handler: String::new() };
    BTreeMap::from([(CREATE, create.encode_to_vec()), (RUN, run.encode_to_vec())])
}

#[test]
fn every_field_that_is_newer_has_a_meaning_when_it_is_absent() {
    let newer: BTreeSet<_> = newer_fields().into_keys().collect();
    assert_eq!(newer, ABSENCES.iter().map(|(name, _)| (*name).to_owned()).collect());
    assert!(newer_fields().values().all(|release| (30..=NEWEST).contains(release)));
}

#[test]
fn a_field_that_is_taken_away_acts_as_before_there_was_one() {
    let all = newest();
    let expected = parse(&all).unwrap();
    for (field, absence) in ABSENCES.iter().filter(|(field, _)| *field != "Mount.image") {
        let without = rewritten(&all, &|name| name != *field, &[]);
        assert_eq!(without == all, field.starts_with("Windows"), "{field} is not in the requests");
        let mut changed = expected.clone();
        absence(&mut changed);
        assert_eq!(parse(&without), Ok(changed), "{field}");
    }
}

#[test]
fn an_image_volume_is_never_taken_for_a_mount_of_the_host() {
    let without = rewritten(&newest(), &|name| name != "Mount.image", &[]);
    let refused = parse(&without).unwrap_err();
    assert!(refused.contains("config.mounts[2].image_sub_path needs an image"), "{refused}");
    let neither = rewritten(&newest(), &|name| !name.starts_with("Mount.image"), &[]);
    let refused = parse(&neither).unwrap_err();
    assert!(refused.contains("config.mounts[2].host_path is empty"), "{refused}");
}

/// The requests of a client of `release` that has the same pod, and what they mean.
fn of_release(release: u32) -> (Requests, Parsed) {
    let mut all = newest();
    let newer = newer_fields();
    let mut expected = parse(&all).unwrap();
    for (field, absence) in ABSENCES.iter().filter(|(field, _)| newer[*field] > release) {
        absence(&mut expected);
        if *field == "Mount.image" {
            // Such a client has no such volume.
            let mut create = wire::CreateContainerRequest::decode(all[CREATE].as_slice()).unwrap();
            create.config.as_mut().unwrap().mounts.retain(|mount| mount.image.is_none());
            all.insert(CREATE, create.encode_to_vec());
        }
    }
    (rewritten(&all, &knows(release), &[]), expected)
}

#[test]
fn a_client_of_any_release_gets_what_it_asks_for() {
    for release in 29..=NEWEST {
        let (requests, expected) = of_release(release);
        assert_eq!(parse(&requests), Ok(expected), "1.{release}");
    }
    let (oldest, newest) = (of_release(29).1, of_release(NEWEST).1);
    assert_eq!((oldest.container.mounts.len(), newest.container.mounts.len()), (2, 3));
}

#[test]
fn fields_of_a_release_to_come_are_passed_over() {
    let mut more = Vec::new();
    put_bytes(&mut more, NO_FIELD, b"\xff later");
    put_varint(&mut more, u64::from(NO_FIELD + 1) << 3);
    put_varint(&mut more, u64::MAX);
    let all = newest();
    let later = rewritten(&all, &|_| true, &more);
    assert!(later[CREATE].len() > all[CREATE].len() + 10 * more.len());
    assert_eq!(parse(&later), parse(&all));
}

fn stored(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(REQUESTS).join(name)
}

fn read_stored(client: &str) -> Requests {
    let read = |message: &'static str| {
        let text = fs::read_to_string(stored(&format!("{client}.{message}"))).unwrap();
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let bytes = digits.chunks(2).map(|two| u8::from_str_radix(str::from_utf8(two).unwrap(), 16).unwrap());
        (message, bytes.collect())
    };
    [CREATE, RUN].map(read).into()
}

/// In lines of 32 bytes.
fn hex(bytes: &[u8]) -> String {
    let line = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n";
    bytes.chunks(32).map(line).collect()
}

#[test]
fn the_stored_requests_of_kubelets_mean_what_they_did() {
    for release in 34..=NEWEST {
        let (requests, expected) = of_release(release);
        let client = format!("kubelet-1.{release}");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            for (message, bytes) in &requests {
                fs::write(stored(&format!("{client}.{message}")), hex(bytes)).unwrap();
            }
        }
        assert_eq!(parse(&read_stored(&client)), Ok(expected), "{client}");
    }
}

#[test]
fn the_recorded_requests_of_crictl_are_understood() {
    for client in ["crictl-1.30.0", "crictl-1.36.0"] {
        let requests = read_stored(client);
        let Parsed { pod, container } = parse(&requests).unwrap();
        assert_eq!((pod.metadata.name.as_str(), pod.metadata.attempt), ("web", 2), "{client}");
        assert_eq!(pod.cgroup_parent, "/kubepods/pod1");
        assert_eq!(container.metadata.name, "main");
        assert_eq!(container.command, ["sleep", "10"]);
        assert_eq!(container.envs, [("A".to_owned(), b"b=c".to_vec())]);
        let [mount] = &container.mounts[..] else { panic!("{client}: {container:?}") };
        assert_eq!((mount.container_path.as_str(), mount.readonly), ("/data", true));
        assert_eq!(container.resources.memory_bytes, 64 << 20);
        assert_eq!(container.security.user.uid, Some(1000));
        // The older one does not know the fields, though they are in its file.
        let knows = client == "crictl-1.36.0";
        assert_eq!(container.stop_signal.is_some(), knows, "{client}");
        let policy = if knows { GroupsPolicy::Strict } else { GroupsPolicy::Merge };
        assert_eq!(container.security.user.groups_policy, policy, "{client}");
        assert!(mount.recursive_read_only, "both know it: {client}");
    }
}
