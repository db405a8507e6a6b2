//! A runtime under measurement: its daemon, in folders and a cgroup of its own.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint};

use super::{
    Result,
    image::{archive, run},
    network::write_configuration,
};

pub(crate) mod v1 {
    //! The messages, compiled for this program from `proto/runtime/v1/api.proto`.
    #![allow(
        clippy::allow_attributes_without_reason,
        clippy::all,
        dead_code,
        missing_debug_implementations,
        reason = "generated code"
    )]

    tonic::include_proto!("runtime.v1");

    /// Written by hand, because it holds secrets; this program has none.
    impl std::fmt::Debug for AuthConfig {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("AuthConfig")
        }
    }
}

use v1::{image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient};

const IMAGE: &str = "docker.io/library/busybox:bench";
const PAUSE: &str = "registry.k8s.io/pause:bench";
/// Hierarchies of cgroup v1 that a figure is read from.
const CPU: &str = "/sys/fs/cgroup/cpuacct";
const START_MAX: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Peer {
    Pintle,
    Containerd,
}

impl Peer {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pintle => "pintle",
            Self::Containerd => "containerd + runc",
        }
    }

    pub(crate) fn is_installed(self) -> bool {
        match self {
            Self::Pintle => true,
            Self::Containerd => Command::new("containerd").arg("--version").output().is_ok(),
        }
    }
}

/// The network of pods that are not on the host's; the daemon is then in a network namespace of its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Network {
    /// pintle's own bridge.
    Bridge,
    /// CNI's bridge plugin.
    Cni,
}

pub(crate) struct Node {
    peer: Peer,
    network: Option<Network>,
    daemon: Child,
    /// On disk: images, layers, logs.
    folder: PathBuf,
    /// On tmpfs, as `/run` is: live records and sockets.
    state: PathBuf,
    cgroup: String,
    /// pintle's own: what the next daemon is started from.
    program: PathBuf,
    pub(crate) runtime: RuntimeServiceClient<Channel>,
}

impl Node {
    /// A daemon whose pods are on the host's network.
    pub(crate) async fn start(peer: Peer) -> Result<Self> {
        Self::start_in(peer, None).await
    }

    pub(crate) async fn start_in(peer: Peer, network: Option<Network>) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("pintle-bench-{}-{peer:?}", std::process::id()));
        fs::create_dir_all(folder.join("logs"))?;
        let state = Path::new("/dev/shm").join(format!("pintle-bench-{}-{peer:?}", std::process::id()));
        fs::create_dir_all(&state)?;
        let cgroup = format!("/pintle-bench-{}-{peer:?}", std::process::id());
        fs::create_dir_all(format!("{CPU}{cgroup}/daemon"))?;
        make_parents(&format!("{cgroup}/pods"))?;
        let image = archive(&folder, IMAGE, &["sh"])?;
        let program = PathBuf::from(env!("CARGO_BIN_EXE_pintle"));
        write_configuration(&folder)?;
        let mut command = command(peer, &program, &folder, &state, network)?;
        if peer == Peer::Pintle {
            let root = folder.join("root");
            run(Command::new(&program).args(["image", "load", "--root"]).arg(root).arg(&image))?;
        }
        let daemon = spawn(&mut command, &folder, &cgroup)?;
        let runtime = connect(&socket_in(&folder)).await?;
        let mut node = Self { peer, network, daemon, folder, state, cgroup, program, runtime };
        if peer == Peer::Containerd {
            let pause = archive(&node.folder, PAUSE, &["sleep", "1000000"])?;
            for image in [&image, &pause] {
                let mut ctr = Command::new("ctr");
                run(ctr
                    .arg("-a")
                    .arg(socket_in(&node.folder))
                    .args(["-n", "k8s.io", "images", "import"])
                    .arg(image))?;
            }
        }
        node.version().await?;
        Ok(node)
    }

    /// Ends the daemon and starts another one; the pods go on. `upgraded`: pintle's program is another file with
    /// another content, so that supervisors of before and after have no page in common.
    pub(crate) async fn restart(&mut self, upgraded: bool) -> Result<()> {
        run(Command::new("kill").arg(self.daemon.id().to_string()))?;
        self.daemon.wait()?;
        if upgraded {
            let next = self.folder.join(format!("pintle-{}", self.daemon.id()));
            fs::copy(&self.program, &next)?;
            // What follows the sections of a program is nothing to the kernel.
            fs::File::options().append(true).open(&next)?.write_all(b"x")?;
            self.program = next;
        }
        let mut command = command(self.peer, &self.program, &self.folder, &self.state, self.network)?;
        fs::remove_file(socket_in(&self.folder)).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })?;
        self.daemon = spawn(&mut command, &self.folder, &self.cgroup)?;
        self.runtime = connect(&socket_in(&self.folder)).await?;
        self.version().await.map(drop)
    }

    pub(crate) async fn version(&mut self) -> Result<String> {
        let began = Instant::now();
        loop {
            match self.runtime.version(v1::VersionRequest::default()).await {
                Ok(version) => return Ok(version.into_inner().runtime_version),
                Err(status) if began.elapsed() > START_MAX => return Err(status.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// A client of the daemon's image service.
    pub(crate) async fn images(&self) -> Result<ImageServiceClient<Channel>> {
        Ok(ImageServiceClient::new(channel(&socket_in(&self.folder)).await?))
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The daemon's process id.
    pub(crate) fn daemon(&self) -> u32 {
        self.daemon.id()
    }

    /// A command in the network namespace of the daemon.
    pub(crate) fn in_network(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.daemon.id())).arg("--").arg(program);
        command
    }

    pub(crate) fn pod_config(&self, name: &str, network: v1::NamespaceMode) -> v1::PodSandboxConfig {
        v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: name.into(),
                uid: name.into(),
                namespace: "bench".into(),
                attempt: 0,
            }),
            log_directory: self.folder.join("logs").display().to_string(),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: format!("{}/pods", self.cgroup),
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces(network)),
                    seccomp: Some(runtime_default()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// The three calls that make a pod run.
    pub(crate) async fn start_pod(&mut self, name: &str, command: &[&str]) -> Result<(String, String)> {
        let config = self.pod_config(name, v1::NamespaceMode::Node);
        let request = v1::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        let pod = self.runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
        let container = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: name.into(), attempt: 0 }),
            image: Some(v1::ImageSpec { image: IMAGE.into(), ..Default::default() }),
            command: command.iter().map(|word| (*word).into()).collect(),
            log_path: format!("{name}.log"),
            linux: Some(v1::LinuxContainerConfig {
                resources: Some(v1::LinuxContainerResources { cpu_shares: 102, ..Default::default() }),
                security_context: Some(v1::LinuxContainerSecurityContext {
                    namespace_options: Some(namespaces(v1::NamespaceMode::Node)),
                    seccomp: Some(runtime_default()),
                    ..Default::default()
                }),
            }),
            ..Default::default()
        };
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: pod.clone(),
            config: Some(container),
            sandbox_config: Some(config),
        };
        let container = self.runtime.create_container(request).await?.into_inner().container_id;
        let request = v1::StartContainerRequest { container_id: container.clone() };
        self.runtime.start_container(request).await?;
        Ok((pod, container))
    }

    pub(crate) async fn end_pod(&mut self, pod: &str, container: &str) -> Result<()> {
        let container_id = container.to_owned();
        let stop = v1::StopContainerRequest { container_id: container_id.clone(), timeout: 0 };
        self.runtime.stop_container(stop).await?;
        self.runtime.remove_container(v1::RemoveContainerRequest { container_id }).await?;
        let pod_sandbox_id = pod.to_owned();
        let stop = v1::StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() };
        self.runtime.stop_pod_sandbox(stop).await?;
        self.runtime.remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id }).await?;
        Ok(())
    }

    /// The address of the CRI, as its clients want it.
    pub(crate) fn endpoint(&self) -> String {
        format!("unix://{}", socket_in(&self.folder).display())
    }

    pub(crate) fn log_of(&self, name: &str) -> PathBuf {
        self.folder.join("logs").join(format!("{name}.log"))
    }

    /// CPU time of the daemon and of everything it ever started.
    pub(crate) fn cpu_nanos(&self) -> Result<u64> {
        Ok(fs::read_to_string(format!("{CPU}{}/cpuacct.usage", self.cgroup))?.trim().parse()?)
    }

    /// CPU time of the daemon alone.
    pub(crate) fn daemon_cpu_nanos(&self) -> Result<u64> {
        // The 14th and 15th fields, counted in hundredths of a second; the name, in brackets, may hold spaces.
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.daemon.id()))?;
        let (_, fields) = stat.rsplit_once(')').ok_or("no name in /proc/PID/stat")?;
        let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
        Ok(ticks.sum::<std::result::Result<u64, _>>()? * 10_000_000)
    }

    pub(crate) fn daemon_rss_kib(&self) -> Result<u64> {
        status_kib(self.daemon.id(), "VmRSS:").ok_or_else(|| "the daemon died".into())
    }

    /// PSS and page tables of every process but the daemon and the workloads: what a pod costs.
    pub(crate) fn helpers_kib(&self) -> Result<u64> {
        let mut total = 0;
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            let Ok(cgroup) = fs::read_to_string(entry.path().join("cgroup")) else { continue };
            let Ok(exe) = fs::read_link(entry.path().join("exe")) else { continue };
            let exe = exe.display().to_string();
            let ours = cgroup.contains(&self.cgroup) && pid != self.daemon.id();
            // The pause process of a pod counts; the sleeping workload (the same busybox) is one of two.
            let helper = match self.peer {
                Peer::Pintle => exe.contains("memfd:pintle"),
                Peer::Containerd => exe.contains("containerd-shim") || is_pause(pid),
            };
            if ours && helper {
                let rollup = fs::read_to_string(entry.path().join("smaps_rollup"))?;
                total += kib(&rollup, "Pss:").unwrap_or(0) + status_kib(pid, "VmPTE:").unwrap_or(0);
            }
        }
        Ok(total)
    }

    /// Memory of the copies of itself that pintle's supervisors run from, in KiB; what is not mapped counts too.
    pub(crate) fn copies_kib(&self) -> Result<u64> {
        let mut copies = BTreeMap::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            let exe = entry.path().join("exe");
            let is_copy =
                fs::read_link(&exe).is_ok_and(|exe| exe.display().to_string().contains("memfd:pintle"));
            let cgroup = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            if is_copy && cgroup.contains(&self.cgroup) {
                let copy = fs::metadata(&exe)?;
                copies.insert(copy.ino(), copy.blocks() / 2);
            }
        }
        Ok(copies.values().sum())
    }

    pub(crate) fn stop(mut self) -> Result<()> {
        run(Command::new("kill").arg(self.daemon.id().to_string()))?;
        self.daemon.wait()?;
        for _ in 0..50 {
            if remove_cgroups(&self.cgroup) {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        fs::remove_dir_all(&self.folder)?;
        fs::remove_dir_all(&self.state)?;
        Ok(())
    }
}

impl Drop for Node {
    /// A measurement that failed must not leave its daemon behind.
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// The parent of the pods in every hierarchy: the kubelet makes it before it asks for a pod. A cpuset takes a
/// process only once it has CPUs and memory nodes.
fn make_parents(path: &str) -> Result<()> {
    for hierarchy in fs::read_dir("/sys/fs/cgroup")?.flatten() {
        let mut directory = hierarchy.path();
        for name in path.trim_start_matches('/').split('/') {
            let above = directory.clone();
            directory.push(name);
            fs::create_dir_all(&directory)?;
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(value) = fs::read(above.join(file)) {
                    fs::write(directory.join(file), value)?;
                }
            }
        }
    }
    Ok(())
}

fn remove_cgroups(path: &str) -> bool {
    fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().all(|hierarchy| {
        let top = hierarchy.path().join(path.trim_start_matches('/'));
        if !top.exists() {
            return true;
        }
        let _ = Command::new("find")
            .arg(&top)
            .args(["-depth", "-type", "d", "-exec", "rmdir", "{}", "+"])
            .output();
        !top.exists()
    })
}

fn is_pause(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == b"sleep\x001000000\x00")
}

fn status_kib(pid: u32, key: &str) -> Option<u64> {
    kib(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, key)
}

fn kib(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key))?.trim().trim_end_matches(" kB").parse().ok()
}

fn namespaces(network: v1::NamespaceMode) -> v1::NamespaceOption {
    v1::NamespaceOption {
        network: network.into(),
        pid: v1::NamespaceMode::Container.into(),
        ..Default::default()
    }
}

fn runtime_default() -> v1::SecurityProfile {
    v1::SecurityProfile::default()
}

/// Starts a daemon in its cgroup, with its log in the folder.
fn spawn(command: &mut Command, folder: &Path, cgroup: &str) -> Result<Child> {
    let log = fs::File::options().create(true).append(true).open(folder.join("daemon.log"))?;
    let daemon = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
    fs::write(format!("{CPU}{cgroup}/daemon/cgroup.procs"), daemon.id().to_string())?;
    Ok(daemon)
}

fn socket_in(folder: &Path) -> PathBuf {
    folder.join("cri.sock")
}

/// The command that starts a daemon.
fn command(
    peer: Peer,
    program: &Path,
    folder: &Path,
    state: &Path,
    network: Option<Network>,
) -> Result<Command> {
    let daemon = match peer {
        Peer::Pintle => pintle(program, folder, state, network)?,
        Peer::Containerd => containerd(folder, state)?,
    };
    if network.is_none() {
        return Ok(daemon);
    }
    // unshare becomes the daemon: the process stays the same.
    let mut apart = Command::new("unshare");
    apart.args(["--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]);
    apart.arg(daemon.get_program()).args(daemon.get_args());
    Ok(apart)
}

fn pintle(program: &Path, folder: &Path, state: &Path, network: Option<Network>) -> Result<Command> {
    let config = folder.join("pintle.toml");
    let mode = if network == Some(Network::Cni) { "cni" } else { "bridge" };
    fs::write(
        &config,
        format!(
            "[network]\nmode = {mode:?}\ncni_conf_dir = {:?}\ncni_cache_dir = {:?}\nnetns_dir = {:?}\n",
            folder.join("cni"),
            folder.join("cache"),
            state.join("netns"),
        ),
    )?;
    let mut command = Command::new(program);
    command.arg("serve").arg("--config").arg(config);
    command.arg("--root").arg(folder.join("root")).arg("--state").arg(state);
    command.arg("--listen").arg(format!("unix://{}", socket_in(folder).display()));
    Ok(command)
}

fn containerd(folder: &Path, state: &Path) -> Result<Command> {
    let (config, root, socket) = (folder.join("containerd.toml"), folder.join("root"), socket_in(folder));
    fs::write(
        &config,
        format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\n[grpc]\naddress = {socket:?}\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"{PAUSE}\"\n\
             restrict_oom_score_adj = true\n\
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"/usr/lib/cni\"\nconf_dir = {:?}\n",
            folder.join("cni"),
        ),
    )?;
    let mut command = Command::new("containerd");
    command.arg("--config").arg(config);
    Ok(command)
}

/// Connects as soon as the daemon listens, which is after its socket is there.
async fn connect(socket: &Path) -> Result<RuntimeServiceClient<Channel>> {
    Ok(RuntimeServiceClient::new(channel(socket).await?).max_decoding_message_size(16 << 20))
}

/// A connection, once the daemon listens.
async fn channel(socket: &Path) -> Result<Channel> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let (endpoint, began) = (Endpoint::try_from("http://localhost")?, Instant::now());
    loop {
        match endpoint.connect_with_connector(connector.clone()).await {
            Ok(channel) => return Ok(channel),
            Err(error) if began.elapsed() > START_MAX => {
                return Err(format!("connect to {}: {error}", socket.display()).into());
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
