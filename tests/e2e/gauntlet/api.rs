//! Section G: what a client of an API could do to the daemon, and a container to its sockets.

use tonic::{Code, Status};

use crate::harness::{BUSYBOX, Node, v1};

/// CVE-2020-8558: nothing of ours is heard outside of the node.
pub(super) fn g_07_bind() {
    let node = Node::start();
    let container = node.run_pod("web").run_in("main", ["sleep", "1000"]);
    let request = v1::ExecRequest {
        container_id: container.id.clone(),
        cmd: vec!["true".into()],
        stdout: true,
        ..Default::default()
    };
    let url = node.cri().exec(request).unwrap().url;
    let port = url.trim_start_matches("http://127.0.0.1:").split('/').next().unwrap().parse::<u16>().unwrap();

    let tables = node.namespaces().read_proc("net/tcp") + &node.namespaces().read_proc("net/tcp6");
    let fields = tables.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let listening: Vec<String> =
        fields.filter(|fields| fields.get(3) == Some(&"0A")).map(|fields| fields[1].to_owned()).collect();
    assert!(listening.iter().any(|place| place.ends_with(&format!(":{port:04X}"))), "{listening:?}");
    let loopback = ["0100007F:", "00000000000000000000000001000000:"];
    let open: Vec<_> =
        listening.iter().filter(|place| !loopback.iter().any(|own| place.starts_with(own))).collect();
    assert!(open.is_empty(), "{open:?}");
    node.assert_clean();
}

/// CVE-2023-44487: a client that asks and takes it back, again and again, costs the others nothing.
pub(super) fn g_10_reset_storm() {
    const RESETS: usize = 20_000;
    let node = Node::start();
    let resident = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", node.daemon_pid())).unwrap();
        super::field(&status, "VmRSS").trim_end_matches(" kB").trim().parse::<u64>().unwrap()
    };
    node.connect().version_and_reset(RESETS / 10);
    let (pid, before) = (node.daemon_pid(), resident());
    node.connect().version_and_reset(RESETS);
    assert!(node.cri().status(v1::StatusRequest::default()).is_ok());
    assert!(node.daemon_lives() && node.daemon_pid() == pid);
    assert!(resident() < before + (8 << 10), "{before} kB before, {} kB now", resident());
    node.assert_clean();
}

/// CVE-2020-15257: a container in the node's network finds no socket of ours there.
pub(super) fn g_11_sockets() {
    let node = Node::start();
    let pod = node.run_pod_with("host", |config| {
        let linux = config.linux.get_or_insert_default();
        let security = linux.security_context.get_or_insert_default();
        security.namespace_options.get_or_insert_default().network = v1::NamespaceMode::Node.into();
    });
    let container = pod.create_with("main", BUSYBOX, ["sleep", "1000"], |config| {
        let security = super::security(config);
        security.namespace_options.get_or_insert_default().network = v1::NamespaceMode::Node.into();
    });
    container.start();
    let sockets = container.shell("cat /proc/net/unix");
    assert!(sockets.contains("pintle.sock"), "it is in the node's network: {sockets}");
    let named = sockets.lines().filter_map(|line| line.split_whitespace().nth(7));
    let paths: Vec<&str> = named.collect();
    for path in &paths {
        assert!(!path.starts_with('@'), "an abstract socket: {path}");
        assert_ne!(container.exec(["test", "-e", path]).code, 0, "{path} is in the container");
    }
    node.assert_clean();
}

/// GHSA-x7pf-2jmj-pgcq: an id is never a path.
pub(super) fn g_13_ids() {
    type Call<'c> = (&'static str, &'c dyn Fn(&str) -> Result<(), Status>);
    let node = Node::start();
    let pod = node.run_pod("web");
    let container = pod.run_in("main", ["sleep", "1000"]);
    let cri = node.cri();
    let calls: [Call<'_>; 16] = [
        ("status", &|id| {
            cri.container_status(v1::ContainerStatusRequest { container_id: id.into(), verbose: true })
                .map(drop)
        }),
        ("start", &|id| cri.start_container(v1::StartContainerRequest { container_id: id.into() }).map(drop)),
        ("stop", &|id| {
            cri.stop_container(v1::StopContainerRequest { container_id: id.into(), timeout: 0 }).map(drop)
        }),
        ("remove", &|id| {
            cri.remove_container(v1::RemoveContainerRequest { container_id: id.into() }).map(drop)
        }),
        ("update", &|id| {
            cri.update_container_resources(v1::UpdateContainerResourcesRequest {
                container_id: id.into(),
                linux: Some(v1::LinuxContainerResources::default()),
                ..Default::default()
            })
            .map(drop)
        }),
        ("reopen", &|id| {
            cri.reopen_container_log(v1::ReopenContainerLogRequest { container_id: id.into() }).map(drop)
        }),
        ("stats", &|id| cri.container_stats(v1::ContainerStatsRequest { container_id: id.into() }).map(drop)),
        ("exec sync", &|id| {
            cri.exec_sync(v1::ExecSyncRequest {
                container_id: id.into(),
                cmd: vec!["true".into()],
                timeout: 1,
            })
            .map(drop)
        }),
        ("exec", &|id| {
            cri.exec(v1::ExecRequest {
                container_id: id.into(),
                cmd: vec!["true".into()],
                stdout: true,
                ..Default::default()
            })
            .map(drop)
        }),
        ("attach", &|id| {
            cri.attach(v1::AttachRequest { container_id: id.into(), stdout: true, ..Default::default() })
                .map(drop)
        }),
        ("stop pod", &|id| {
            cri.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: id.into() }).map(drop)
        }),
        ("remove pod", &|id| {
            cri.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id: id.into() }).map(drop)
        }),
        ("pod status", &|id| {
            cri.pod_sandbox_status(v1::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: true })
                .map(drop)
        }),
        ("pod stats", &|id| {
            cri.pod_sandbox_stats(v1::PodSandboxStatsRequest { pod_sandbox_id: id.into() }).map(drop)
        }),
        ("port forward", &|id| {
            cri.port_forward(v1::PortForwardRequest { pod_sandbox_id: id.into(), port: vec![80] }).map(drop)
        }),
        ("create", &|id| {
            let config = Some(container.config.clone());
            let request = v1::CreateContainerRequest {
                pod_sandbox_id: id.into(),
                config,
                sandbox_config: Some(pod.config.clone()),
            };
            cri.create_container(request).map(drop)
        }),
    ];
    let long = "a".repeat(10_000);
    let below = format!("../containers/{}", container.id);
    for id in ["", "/", "../../etc", "a/b", "a\0b", "a\nb", "\u{1b}[31m", &long, &below] {
        for (name, call) in &calls {
            let outcome = call(id);
            let refused = outcome.as_ref().is_err_and(|error| error.code() == Code::InvalidArgument);
            assert!(refused, "{name} {id:?}: {outcome:?}");
        }
    }
    // An id is compared and never a path, so these are ids that are not known: to stop such a one is a success.
    for id in [".", ".."] {
        for (name, call) in &calls {
            let outcome = call(id);
            let unknown = outcome.as_ref().map_or_else(
                |error| matches!(error.code(), Code::NotFound | Code::InvalidArgument),
                |()| name.starts_with("stop") || name.starts_with("remove"),
            );
            assert!(unknown, "{name} {id:?}: {outcome:?}");
        }
    }
    assert!(node.path("state/pods").join(&pod.id).exists());
    for id in [&pod.id, &container.id] {
        assert!(id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    }
    assert_eq!(container.shell("echo lives"), "lives\n");
    // An id that could be one and is not known is another matter.
    cri.stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: "0".repeat(64) }).unwrap();
    node.assert_clean();
}
