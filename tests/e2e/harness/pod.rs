//! Pods and containers as a story speaks of them.

use std::{fs, path::PathBuf};

use tonic::{Code, Status};

use super::{
    cri::v1::{self, ContainerState},
    node::Node,
    wait::wait_until,
};

/// Grace that a story gives when it does not care.
const GRACE_S: i64 = 10;

/// Seconds that an exec may take.
const EXEC_S: i64 = 20;

/// What the kubelet hides from an ordinary container.
const MASKED_PATHS: [&str; 8] = [
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];

/// What the kubelet lets an ordinary container read only.
const READ_ONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// A pod that was run.
#[derive(Clone, Debug)]
pub(crate) struct Pod<'n> {
    node: &'n Node,
    pub(crate) id: String,
    pub(crate) config: v1::PodSandboxConfig,
}

/// A container that was created.
#[derive(Clone, Debug)]
pub(crate) struct Container<'n> {
    node: &'n Node,
    pub(crate) id: String,
    pub(crate) pod: Pod<'n>,
    pub(crate) config: v1::ContainerConfig,
}

/// What an exec said, and its exit code.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Output {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) code: i32,
}

/// A pod's config as a kubelet would write it.
pub(crate) fn pod_config(node: &Node, name: &str) -> v1::PodSandboxConfig {
    let logs = node.path("logs").join(name);
    let metadata = v1::PodSandboxMetadata {
        name: name.into(),
        uid: format!("{name}-uid"),
        namespace: "e2e".into(),
        attempt: 0,
    };
    let namespaces = v1::NamespaceOption { pid: v1::NamespaceMode::Container.into(), ..Default::default() };
    let security =
        v1::LinuxSandboxSecurityContext { namespace_options: Some(namespaces), ..Default::default() };
    let linux = v1::LinuxPodSandboxConfig {
        cgroup_parent: node.folders().cgroups.parent_of(name),
        security_context: Some(security),
        ..Default::default()
    };
    v1::PodSandboxConfig {
        metadata: Some(metadata),
        hostname: name.into(),
        log_directory: logs.to_string_lossy().into_owned(),
        labels: [("app".into(), name.into())].into(),
        annotations: [("e2e/note".into(), "kept byte for byte: \u{2713}".into())].into(),
        linux: Some(linux),
        ..Default::default()
    }
}

impl<'n> Pod<'n> {
    pub(crate) fn run(
        node: &'n Node,
        name: &str,
        handler: &str,
        change: impl FnOnce(&mut v1::PodSandboxConfig),
    ) -> Result<Self, Status> {
        let mut config = pod_config(node, name);
        change(&mut config);
        Self::run_config(node, config, handler)
    }

    /// As the kubelet asks, config and all.
    pub(crate) fn run_config(
        node: &'n Node,
        config: v1::PodSandboxConfig,
        handler: &str,
    ) -> Result<Self, Status> {
        let request =
            v1::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: handler.into() };
        let id = node.cri().run_pod_sandbox(request)?.pod_sandbox_id;
        Ok(Self { node, id, config })
    }

    #[track_caller]
    pub(crate) fn status(&self) -> v1::PodSandboxStatus {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: self.id.clone(), verbose: false };
        self.node.cri().pod_sandbox_status(request).unwrap().status.expect("a status")
    }

    /// Its primary address.
    #[track_caller]
    pub(crate) fn ip(&self) -> String {
        self.status().network.expect("a network status").ip
    }

    /// Creates and starts a container of busybox.
    #[track_caller]
    pub(crate) fn run_in<const N: usize>(&self, name: &str, command: [&str; N]) -> Container<'n> {
        let container = self.create(name, super::BUSYBOX, command);
        container.start();
        container
    }

    #[track_caller]
    pub(crate) fn create<const N: usize>(
        &self,
        name: &str,
        image: &str,
        command: [&str; N],
    ) -> Container<'n> {
        self.create_with(name, image, command, |_| {})
    }

    /// Creates a container; `change` has the last word on its config.
    #[track_caller]
    pub(crate) fn create_with<const N: usize>(
        &self,
        name: &str,
        image: &str,
        command: [&str; N],
        change: impl FnOnce(&mut v1::ContainerConfig),
    ) -> Container<'n> {
        let created = self.try_create(name, image, command, change);
        created.unwrap_or_else(|error| panic!("create container {name}: {error}"))
    }

    pub(crate) fn try_create<const N: usize>(
        &self,
        name: &str,
        image: &str,
        command: [&str; N],
        change: impl FnOnce(&mut v1::ContainerConfig),
    ) -> Result<Container<'n>, Status> {
        let mut config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: name.into(), attempt: 0 }),
            image: Some(v1::ImageSpec { image: image.into(), ..Default::default() }),
            command: command.map(String::from).to_vec(),
            log_path: format!("{name}/0.log"),
            labels: [("io.kubernetes.container.name".into(), name.into())].into(),
            linux: Some(linux_config()),
            ..Default::default()
        };
        change(&mut config);
        self.create_config(config)
    }

    /// As the kubelet asks, config and all.
    pub(crate) fn create_config(&self, config: v1::ContainerConfig) -> Result<Container<'n>, Status> {
        if let Some(image) = &config.image
            && !self.has_image(&image.image)
        {
            self.node.try_pull(&image.image)?;
        }
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(config.clone()),
            sandbox_config: Some(self.config.clone()),
        };
        let id = self.node.cri().create_container(request)?.container_id;
        Ok(Container { node: self.node, id, pod: self.clone(), config })
    }

    #[track_caller]
    pub(crate) fn stop(&self) {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: self.id.clone() };
        self.node.cri().stop_pod_sandbox(request).unwrap();
    }

    #[track_caller]
    pub(crate) fn remove(&self) {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: self.id.clone() };
        self.node.cri().remove_pod_sandbox(request).unwrap();
    }

    fn has_image(&self, reference: &str) -> bool {
        let image = Some(v1::ImageSpec { image: reference.into(), ..Default::default() });
        let reply = self.node.cri().image_status(v1::ImageStatusRequest { image, verbose: false });
        reply.is_ok_and(|reply| reply.image.is_some())
    }
}

impl<'n> Container<'n> {
    #[track_caller]
    pub(crate) fn start(&self) {
        self.try_start().unwrap_or_else(|error| panic!("start container: {error}"));
    }

    pub(crate) fn try_start(&self) -> Result<(), Status> {
        let request = v1::StartContainerRequest { container_id: self.id.clone() };
        self.node.cri().start_container(request).map(|_| ())
    }

    #[track_caller]
    pub(crate) fn status(&self) -> v1::ContainerStatus {
        self.try_status().unwrap()
    }

    pub(crate) fn try_status(&self) -> Result<v1::ContainerStatus, Status> {
        let request = v1::ContainerStatusRequest { container_id: self.id.clone(), verbose: false };
        let reply = self.node.cri().container_status(request)?;
        Ok(reply.status.expect("a status"))
    }

    #[track_caller]
    pub(crate) fn state(&self) -> ContainerState {
        self.status().state()
    }

    /// The pid of its first process as the node sees it, from the verbose status.
    #[track_caller]
    pub(crate) fn pid(&self) -> u32 {
        let request = v1::ContainerStatusRequest { container_id: self.id.clone(), verbose: true };
        let info = self.node.cri().container_status(request).unwrap().info;
        let info: serde_json::Value = serde_json::from_str(info.get("info").expect("verbose info")).unwrap();
        u32::try_from(info["pid"].as_u64().expect("a pid in the verbose info")).unwrap()
    }

    /// Waits for the end and answers with the exit code.
    #[track_caller]
    pub(crate) fn wait(&self) -> i32 {
        wait_until("the container exits", || self.state() == ContainerState::ContainerExited);
        self.status().exit_code
    }

    /// Runs a program inside and expects it to have run, whatever its exit code.
    #[track_caller]
    pub(crate) fn exec<const N: usize>(&self, command: [&str; N]) -> Output {
        self.try_exec(command, EXEC_S).unwrap_or_else(|error| panic!("exec {command:?}: {error}"))
    }

    pub(crate) fn try_exec<const N: usize>(
        &self,
        command: [&str; N],
        timeout_s: i64,
    ) -> Result<Output, Status> {
        let request = v1::ExecSyncRequest {
            container_id: self.id.clone(),
            cmd: command.map(String::from).to_vec(),
            timeout: timeout_s,
        };
        let reply = self.node.cri().exec_sync(request)?;
        Ok(Output {
            stdout: String::from_utf8_lossy(&reply.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&reply.stderr).into_owned(),
            code: reply.exit_code,
        })
    }

    /// What a shell command inside prints; its success is expected.
    #[track_caller]
    pub(crate) fn shell(&self, script: &str) -> String {
        let output = self.exec(["sh", "-c", script]);
        assert_eq!(output.code, 0, "{script}: {output:?}");
        output.stdout
    }

    #[track_caller]
    pub(crate) fn stop(&self) {
        self.stop_within(GRACE_S);
    }

    #[track_caller]
    pub(crate) fn stop_within(&self, grace_s: i64) {
        let request = v1::StopContainerRequest { container_id: self.id.clone(), timeout: grace_s };
        self.node.cri().stop_container(request).unwrap();
    }

    /// Ends it without grace.
    #[track_caller]
    pub(crate) fn kill(&self) {
        self.stop_within(0);
    }

    #[track_caller]
    pub(crate) fn remove(&self) {
        let request = v1::RemoveContainerRequest { container_id: self.id.clone() };
        self.node.cri().remove_container(request).unwrap();
    }

    /// Whether the daemon has forgotten it.
    pub(crate) fn is_unknown(&self) -> bool {
        self.try_status().is_err_and(|error| error.code() == Code::NotFound)
    }

    pub(crate) fn log_file(&self) -> PathBuf {
        PathBuf::from(&self.pod.config.log_directory).join(&self.config.log_path)
    }

    /// Its log so far: stream and text of each line.
    pub(crate) fn log(&self) -> Vec<(String, String)> {
        let text = fs::read_to_string(self.log_file()).unwrap_or_default();
        text.lines().map(parse_log_line).collect()
    }

    /// The texts of its log so far.
    pub(crate) fn log_texts(&self) -> Vec<String> {
        self.log().into_iter().map(|(_, text)| text).collect()
    }
}

/// `<RFC 3339 with nanoseconds> <stdout|stderr> <P|F> <text>`
fn parse_log_line(line: &str) -> (String, String) {
    let mut parts = line.splitn(4, ' ');
    let (time, stream, tag) = (parts.next(), parts.next(), parts.next());
    assert!(time.is_some_and(|time| time.len() >= 20 && time.contains('T')), "no time in {line:?}");
    assert!(matches!(tag, Some("F" | "P")), "no tag in {line:?}");
    (stream.unwrap_or_default().into(), parts.next().unwrap_or_default().into())
}

fn linux_config() -> v1::LinuxContainerConfig {
    let namespaces = v1::NamespaceOption { pid: v1::NamespaceMode::Container.into(), ..Default::default() };
    let seccomp = v1::SecurityProfile {
        profile_type: v1::security_profile::ProfileType::RuntimeDefault.into(),
        localhost_ref: String::new(),
    };
    let security = v1::LinuxContainerSecurityContext {
        namespace_options: Some(namespaces),
        seccomp: Some(seccomp),
        masked_paths: MASKED_PATHS.map(String::from).to_vec(),
        readonly_paths: READ_ONLY_PATHS.map(String::from).to_vec(),
        ..Default::default()
    };
    v1::LinuxContainerConfig { security_context: Some(security), ..Default::default() }
}
