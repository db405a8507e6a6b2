//! RunPodSandbox → [`PodConfig`].

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use super::{
    At as _, Refusal, Under as _, Why, absent,
    limits::*,
    present,
    resources::resources,
    security::{self, Asker},
    text::{absolute_path, count, known, labels, line, name, no_way_up, path, quote},
};
use crate::{
    cri::wire,
    model::{
        Dns, Handler, IpcMode, NamespaceModes, NetworkMode, PodConfig, PodMetadata, PortMapping,
        PortProtocol, Resources, Security,
    },
    sys::sysctl::dotted,
};

pub(crate) fn run_pod(request: wire::RunPodSandboxRequest) -> Result<PodConfig, Refusal> {
    let mut config = present("config", request.config)?;
    let metadata = metadata(config.metadata.take()).under("config")?;
    let object = format!("pod {}/{}", metadata.namespace, metadata.name);
    let handler = line(NAME_BYTES_MAX, &request.runtime_handler).at("runtime_handler");
    handler.map_err(|refusal| refusal.of(&object))?;
    let parsed = pod(config, metadata, request.runtime_handler).under("config");
    parsed.map_err(|refusal| refusal.of(&object))
}

fn metadata(wire: Option<wire::PodSandboxMetadata>) -> Result<PodMetadata, Refusal> {
    let wire = present("metadata", wire)?;
    Ok(PodMetadata {
        name: name(wire.name).at("metadata.name")?,
        uid: name(wire.uid).at("metadata.uid")?,
        namespace: name(wire.namespace).at("metadata.namespace")?,
        attempt: wire.attempt,
    })
}

fn pod(
    wire: wire::PodSandboxConfig,
    metadata: PodMetadata,
    runtime_handler: String,
) -> Result<PodConfig, Refusal> {
    absent("windows", wire.windows.is_some(), "is for Windows nodes")?;
    let (labels, annotations) = labels(wire.labels, wire.annotations)?;
    let linux = linux(wire.linux.unwrap_or_default()).under("linux")?;
    Ok(PodConfig {
        metadata,
        hostname: hostname(wire.hostname).at("hostname")?,
        log_directory: log_directory(wire.log_directory).at("log_directory")?,
        dns: wire.dns_config.map(dns).transpose().under("dns_config")?,
        port_mappings: ports(wire.port_mappings)?,
        labels,
        annotations,
        cgroup_parent: linux.cgroup_parent,
        namespaces: linux.namespaces,
        sysctls: linux.sysctls,
        security: linux.security,
        overhead: linux.overhead,
        resources: linux.resources,
        runtime_handler,
        handler: Handler::default(),
        selinux: None,
    })
}

struct Linux {
    cgroup_parent: String,
    namespaces: NamespaceModes,
    sysctls: BTreeMap<String, String>,
    security: Security,
    overhead: Option<Resources>,
    resources: Option<Resources>,
}

fn linux(mut wire: wire::LinuxPodSandboxConfig) -> Result<Linux, Refusal> {
    let options = wire.security_context.as_mut().and_then(|context| context.namespace_options.take());
    let namespaces = security::namespaces(options, Asker::Pod).under("security_context.namespace_options")?;
    let security = match wire.security_context {
        Some(context) => security::sandbox(context).under("security_context")?,
        None => security::unsaid(),
    };
    let sysctls = sysctls(wire.sysctls, &namespaces).at("sysctls")?;
    Ok(Linux {
        cgroup_parent: cgroup_parent(wire.cgroup_parent).at("cgroup_parent")?,
        namespaces,
        sysctls,
        security,
        overhead: wire.overhead.map(resources).transpose().under("overhead")?,
        resources: wire.resources.map(resources).transpose().under("resources")?,
    })
}

/// Letters, digits, dots and dashes; a part neither begins nor ends with a dash.
fn hostname(value: String) -> Result<String, Why> {
    let part_is_good = |part: &str| {
        let inner = part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        inner && !part.is_empty() && !part.starts_with('-') && !part.ends_with('-')
    };
    if !value.is_empty() && (value.len() > HOSTNAME_BYTES_MAX || !value.split('.').all(part_is_good)) {
        return Err(format!("{} is no host name of at most {HOSTNAME_BYTES_MAX} bytes", quote(&value)).into());
    }
    Ok(value)
}

fn log_directory(value: String) -> Result<String, Why> {
    if value.is_empty() { Ok(value) } else { absolute_path(value).and_then(no_way_up) }
}

fn cgroup_parent(value: String) -> Result<String, Why> {
    if value.is_empty() { Ok(value) } else { path(value).and_then(no_way_up) }
}

/// Each entry becomes a word of a line in resolv.conf, so it must not begin another word or line.
fn dns(wire: wire::DnsConfig) -> Result<Dns, Refusal> {
    let words = |field, values: Vec<String>| {
        count(DNS_ENTRIES_MAX, values.len()).at(field)?;
        for value in &values {
            let plain = !value.is_empty() && !value.contains(char::is_whitespace);
            line(DNS_ENTRY_BYTES_MAX, value).at(field)?;
            if !plain {
                return Err(Why::from(format!("has {}, which is empty or has spaces", quote(value))))
                    .at(field);
            }
        }
        Ok(values)
    };
    Ok(Dns {
        servers: words("servers", wire.servers)?,
        searches: words("searches", wire.searches)?,
        options: words("options", wire.options)?,
    })
}

fn ports(wire: Vec<wire::PortMapping>) -> Result<Vec<PortMapping>, Refusal> {
    count(PORTS_MAX, wire.len()).at("port_mappings")?;
    wire.into_iter()
        .enumerate()
        .map(|(index, port)| port_mapping(port).under(format_args!("port_mappings[{index}]")))
        .collect()
}

fn port_mapping(wire: wire::PortMapping) -> Result<PortMapping, Refusal> {
    let protocol = match known(wire.protocol).at("protocol")? {
        wire::Protocol::Tcp => PortProtocol::Tcp,
        wire::Protocol::Udp => PortProtocol::Udp,
        wire::Protocol::Sctp => PortProtocol::Sctp,
    };
    let number = |value: i32| u16::try_from(value).map_err(|_| Why::from(format!("is {value}, no port")));
    let container_port = number(wire.container_port).at("container_port")?;
    absent("container_port", container_port == 0, "is 0, no port")?;
    if !wire.host_ip.is_empty() && wire.host_ip.parse::<IpAddr>().is_err() {
        return Err(Why::from(format!("{} is no IP address", quote(&wire.host_ip)))).at("host_ip");
    }
    // Zero and below: nothing is forwarded.
    let host_port = number(wire.host_port.max(0)).at("host_port")?;
    Ok(PortMapping { protocol, container_port, host_port, host_ip: wire.host_ip })
}

/// By their dotted names; each once, whatever separator it was asked for with.
fn sysctls(
    wire: HashMap<String, String>,
    namespaces: &NamespaceModes,
) -> Result<BTreeMap<String, String>, Why> {
    count(SYSCTLS_MAX, wire.len())?;
    let mut sysctls = BTreeMap::new();
    for (name, value) in wire {
        let key = dotted(&name);
        sysctl(&key, &value, namespaces)?;
        if sysctls.insert(key, value).is_some() {
            return Err(format!("has {} twice, with both separators", quote(&name)).into());
        }
    }
    Ok(sysctls)
}

/// Only what has a namespace, and only in a namespace that is the pod's own; anything else would change the
/// host. The key becomes a path below `/proc/sys`, in which a slash of the key is a dot.
fn sysctl(key: &str, value: &str, namespaces: &NamespaceModes) -> Result<(), Why> {
    let plain = key.split('.').all(|part| {
        // All slashes would be `.` or `..` in the path.
        !part.bytes().all(|byte| byte == b'/')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'/'))
    });
    let network = key.starts_with("net.");
    let ipc = key == "kernel.sem"
        || ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|prefix| key.starts_with(prefix));
    if !plain || key.len() > NAME_BYTES_MAX || !(network || ipc) {
        return Err(format!("has {}, which no namespace holds", quote(key)).into());
    }
    if network && namespaces.network == NetworkMode::Node {
        return Err(format!("has {key}, but the pod uses the host's network").into());
    }
    if ipc && namespaces.ipc == IpcMode::Node {
        return Err(format!("has {key}, but the pod uses the host's IPC namespace").into());
    }
    let harmless = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b' ' | b'\t' | b'-' | b'_' | b'.' | b',' | b':');
    if value.is_empty() || value.len() > SYSCTL_VALUE_BYTES_MAX || !value.bytes().all(harmless) {
        return Err(format!("has for {key} the bad value {}", quote(value)).into());
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::{GroupsPolicy, PidMode, SeccompChoice, UserChoice};

    pub(in crate::cri::parse) fn request() -> wire::RunPodSandboxRequest {
        let linux = wire::LinuxPodSandboxConfig {
            cgroup_parent: "/kubepods/burstable/pod1".into(),
            security_context: Some(wire::LinuxSandboxSecurityContext {
                namespace_options: Some(wire::NamespaceOption { pid: 1, ..Default::default() }),
                run_as_user: Some(wire::Int64Value { value: 1000 }),
                seccomp: Some(wire::SecurityProfile::default()),
                ..Default::default()
            }),
            sysctls: HashMap::from([("net.ipv4.tcp_rmem".into(), "4096 87380 6291456".into())]),
            overhead: Some(wire::LinuxContainerResources { cpu_shares: 2, ..Default::default() }),
            resources: None,
        };
        wire::RunPodSandboxRequest {
            config: Some(wire::PodSandboxConfig {
                metadata: Some(wire::PodSandboxMetadata {
                    name: "web".into(),
                    uid: "u-1".into(),
                    namespace: "default".into(),
                    attempt: 2,
                }),
                hostname: "web-0.example".into(),
                log_directory: "/var/log/pods/default_web_u-1".into(),
                dns_config: Some(wire::DnsConfig {
                    servers: vec!["10.96.0.10".into()],
                    searches: vec!["svc.cluster.local".into()],
                    options: vec!["ndots:5".into()],
                }),
                port_mappings: vec![wire::PortMapping {
                    protocol: 1,
                    container_port: 53,
                    host_port: -1,
                    host_ip: "::1".into(),
                }],
                labels: HashMap::from([("app".into(), "web".into())]),
                annotations: HashMap::from([("note".into(), "two\nlines".into())]),
                linux: Some(linux),
                windows: None,
            }),
            runtime_handler: "fast".into(),
        }
    }

    fn changed(change: impl FnOnce(&mut wire::PodSandboxConfig)) -> Result<PodConfig, Refusal> {
        let mut request = request();
        change(request.config.as_mut().unwrap());
        run_pod(request)
    }

    #[test]
    fn every_field_arrives() {
        let expected = PodConfig {
            metadata: PodMetadata {
                name: "web".into(),
                uid: "u-1".into(),
                namespace: "default".into(),
                attempt: 2,
            },
            hostname: "web-0.example".into(),
            log_directory: "/var/log/pods/default_web_u-1".into(),
            dns: Some(Dns {
                servers: vec!["10.96.0.10".into()],
                searches: vec!["svc.cluster.local".into()],
                options: vec!["ndots:5".into()],
            }),
            port_mappings: vec![PortMapping {
                protocol: PortProtocol::Udp,
                container_port: 53,
                host_port: 0,
                host_ip: "::1".into(),
            }],
            labels: BTreeMap::from([("app".into(), "web".into())]),
            annotations: BTreeMap::from([("note".into(), "two\nlines".into())]),
            cgroup_parent: "/kubepods/burstable/pod1".into(),
            namespaces: NamespaceModes { pid: PidMode::Container, ..Default::default() },
            sysctls: BTreeMap::from([("net.ipv4.tcp_rmem".into(), "4096 87380 6291456".into())]),
            security: Security {
                user: UserChoice {
                    uid: Some(1000),
                    groups_policy: GroupsPolicy::Merge,
                    ..Default::default()
                },
                seccomp: SeccompChoice::RuntimeDefault,
                ..Default::default()
            },
            overhead: Some(Resources { cpu_shares: 2, ..Default::default() }),
            resources: None,
            runtime_handler: "fast".into(),
            selinux: None,
            handler: Handler::default(),
        };
        assert_eq!(run_pod(request()), Ok(expected));
    }

    #[test]
    fn a_pod_may_be_nothing_but_a_name() {
        let pod = changed(|config| {
            *config = wire::PodSandboxConfig { metadata: config.metadata.take(), ..Default::default() };
        });
        let pod = pod.unwrap();
        assert_eq!((pod.dns, pod.namespaces), (None, NamespaceModes::default()));
        assert_eq!(pod.security.seccomp, SeccompChoice::Unsaid);
    }

    #[test]
    fn bad_pods_are_refused_by_field_and_name() {
        type Change = fn(&mut wire::PodSandboxConfig);
        let bad: [(&str, Change); 28] = [
            ("config.metadata", |c| c.metadata = None),
            ("config.metadata.name", |c| c.metadata.as_mut().unwrap().name = String::new()),
            ("config.metadata.uid", |c| c.metadata.as_mut().unwrap().uid = "a/b".into()),
            ("config.metadata.namespace", |c| c.metadata.as_mut().unwrap().namespace = "a;b=c".into()),
            ("config.hostname", |c| c.hostname = "a\nb".into()),
            ("config.hostname", |c| c.hostname = "-a".into()),
            ("config.hostname", |c| c.hostname = "a..b".into()),
            ("config.hostname", |c| c.hostname = "a".repeat(HOSTNAME_BYTES_MAX + 1)),
            ("config.log_directory", |c| c.log_directory = "logs".into()),
            ("config.log_directory", |c| c.log_directory = "/var/log/../../etc".into()),
            ("config.dns_config.servers", |c| {
                c.dns_config.as_mut().unwrap().servers = vec!["1.1.1.1\nx".into()]
            }),
            ("config.dns_config.searches", |c| c.dns_config.as_mut().unwrap().searches = vec!["a b".into()]),
            ("config.dns_config.options", |c| c.dns_config.as_mut().unwrap().options = vec![String::new()]),
            ("config.dns_config.servers", |c| {
                c.dns_config.as_mut().unwrap().servers = vec!["1.1.1.1".into(); 65]
            }),
            ("config.port_mappings[0].protocol", |c| c.port_mappings[0].protocol = 7),
            ("config.port_mappings[0].container_port", |c| c.port_mappings[0].container_port = 0),
            ("config.port_mappings[0].container_port", |c| c.port_mappings[0].container_port = 65_536),
            ("config.port_mappings[0].host_port", |c| c.port_mappings[0].host_port = 65_536),
            ("config.port_mappings[0].host_ip", |c| c.port_mappings[0].host_ip = "host".into()),
            ("config.port_mappings", |c| c.port_mappings = vec![c.port_mappings[0].clone(); PORTS_MAX + 1]),
            ("config.labels key", |c| c.labels = HashMap::from([("a\n".into(), String::new())])),
            ("config.windows", |c| c.windows = Some(Default::default())),
            ("config.linux.cgroup_parent", |c| c.linux.as_mut().unwrap().cgroup_parent = "/a/../b".into()),
            ("config.linux.cgroup_parent", |c| c.linux.as_mut().unwrap().cgroup_parent = "..".into()),
            ("config.linux.cgroup_parent", |c| c.linux.as_mut().unwrap().cgroup_parent = "a\0".into()),
            ("config.linux.overhead.cpu_shares", |c| {
                c.linux.as_mut().unwrap().overhead.as_mut().unwrap().cpu_shares = -1;
            }),
            ("config.linux.security_context.namespace_options.ipc", |c| {
                let context = c.linux.as_mut().unwrap().security_context.as_mut().unwrap();
                context.namespace_options.as_mut().unwrap().ipc = 1;
            }),
            ("config.linux.sysctls", |c| {
                c.linux.as_mut().unwrap().sysctls =
                    (0..=SYSCTLS_MAX).map(|n| (format!("net.a{n}"), "1".into())).collect();
            }),
        ];
        for (field, change) in bad {
            let refusal = changed(change).unwrap_err();
            assert_eq!(refusal.field, field);
            assert_eq!(refusal.object.is_empty(), field.starts_with("config.metadata"), "{refusal}");
        }
        let nameless = run_pod(wire::RunPodSandboxRequest::default()).unwrap_err();
        assert_eq!(nameless.to_string(), "config is missing");
        let handler = wire::RunPodSandboxRequest { runtime_handler: "a\n".into(), ..request() };
        assert_eq!(run_pod(handler).unwrap_err().field, "runtime_handler");
        let refusal = changed(|config| config.log_directory = "logs".into()).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            "pod default/web: config.log_directory \"logs\" is not an absolute path"
        );
    }

    #[test]
    fn a_sysctl_stays_in_the_pods_own_namespaces() {
        let own = NamespaceModes::default();
        let host =
            NamespaceModes { network: NetworkMode::Node, ipc: IpcMode::Node, ..NamespaceModes::default() };
        let good = [
            ("kernel.shm_rmid_forced", "1"),
            ("kernel.sem", "250 32000 100 128"),
            ("fs.mqueue.msg_max", "100"),
            ("net.ipv4.ip_local_reserved_ports", "1000-2000,3000"),
            ("net.ipv4.conf.eth0/5.rp_filter", "2"),
        ];
        for (key, value) in good {
            assert_eq!(sysctl(key, value, &own), Ok(()), "{key}");
            assert!(sysctl(key, value, &host).is_err(), "{key} on the host");
        }
        let bad = [
            ("kernel.shm_rmid_forced", "1+kernel.core_pattern=|/x"),
            ("kernel.shm_rmid_forced", "1\n2"),
            ("kernel.shm_rmid_forced", ""),
            ("kernel.core_pattern", "x"),
            ("kernel.hostname", "x"),
            ("kernel.sem2", "1"),
            ("vm.swappiness", "1"),
            ("net/ipv4/ip_forward", "1"),
            ("net.//.//.kernel.core_pattern", "1"),
            ("net./.x", "1"),
            ("net..ipv4", "1"),
            ("net.ipv4.a=b", "1"),
            ("net.ipv4.a b", "1"),
            ("net.ipv4.a\n", "1"),
            ("net.ipv4.a+b", "1"),
            ("", "1"),
        ];
        for (key, value) in bad {
            assert!(sysctl(key, value, &own).is_err(), "{key} = {value}");
        }
    }

    #[test]
    fn a_sysctl_may_be_named_with_either_separator() {
        let asked = |names: &[&str]| {
            changed(|config| {
                let asked = names.iter().map(|name| ((*name).into(), "1".into()));
                config.linux.as_mut().unwrap().sysctls = asked.collect();
            })
            .map(|pod| pod.sysctls.into_keys().collect::<Vec<_>>())
        };
        let kept = ["net.ipv4.conf.eth0.rp_filter", "net.ipv4.conf.eth0/5.rp_filter"];
        assert_eq!(asked(&kept).unwrap(), kept);
        assert_eq!(asked(&["net/ipv4/conf/eth0/rp_filter", "net/ipv4/conf/eth0.5/rp_filter"]).unwrap(), kept);
        for bad in [
            &["net/ipv4/ip_forward", "net.ipv4.ip_forward"][..],
            &["net/../kernel/core_pattern"],
            &["/net/x"],
        ] {
            assert_eq!(asked(bad).unwrap_err().field, "config.linux.sysctls", "{bad:?}");
        }
    }
}
