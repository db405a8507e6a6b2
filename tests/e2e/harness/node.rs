//! One machine of a test's own, with pintle on it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use tonic::Status;

use super::{
    cri::{ClocklessCri, Cri, v1},
    folders::Folders,
    init::{Namespaces, pid_of_program},
    leak::Baseline,
    pod::Pod,
    programs::{pintle, test_images},
    wait::wait_until,
};

/// Where the registry listens, in the node's own loopback; `hosts/` names it.
const REGISTRY: &str = "127.0.0.1:5000";

/// How much of the daemon's log a failed test shows.
const LOG_LINES_SHOWN: usize = 40;

/// What a daemon says that has started without its connection to systemd.
const BUSY_SYSTEMD: &str = "systemd does not answer yet";

/// What a test may want otherwise than usual.
#[derive(Clone, Debug, Default)]
pub(crate) struct Setup {
    /// A configuration drop-in.
    pub(crate) config: String,
    /// `PINTLE_FAILPOINTS` of the daemon that is started with this; one started later has none.
    pub(crate) failpoints: String,
    /// `PINTLE_FAILPOINT_TRACE`: a file that collects the names of the points passed.
    pub(crate) trace: Option<PathBuf>,
    /// `PINTLE_SELINUX`: a folder that stands in for SELinux.
    pub(crate) selinux: Option<PathBuf>,
    /// A program with its arguments that runs the daemon (prlimit(1), nice(1)); several may follow each other.
    pub(crate) under: Vec<String>,
    /// Where the daemon's stderr leads; otherwise to the node's `daemon.log`.
    pub(crate) stderr: Option<Arc<fs::File>>,
    /// A folder that the node sees as its systemd journal's, with the journal's `socket`.
    pub(crate) journal: Option<PathBuf>,
}

/// Dropped, it takes everything along: daemon, supervisors, containers, cgroups, files.
#[derive(Debug)]
pub(crate) struct Node {
    // Dropped in this order: processes first, then what they used.
    registry: Child,
    daemon: Mutex<Option<Daemon>>,
    namespaces: Namespaces,
    folders: Folders,
    cri: Cri,
    baseline: Baseline,
}

/// A running `pintle serve`.
#[derive(Debug)]
struct Daemon {
    nsenter: Child,
    /// As the test sees it.
    pid: u32,
}

impl Node {
    pub(crate) fn start() -> Self {
        Self::start_with(&Setup::default())
    }

    /// A node whose daemon answers and whose registry serves.
    pub(crate) fn start_with(setup: &Setup) -> Self {
        let (folders, namespaces) = (Folders::new(), Namespaces::new());
        let registry = start_registry(&folders, &namespaces);
        write_config(&folders, &setup.config);
        if let Some(journal) = &setup.journal {
            put_journal(&namespaces, journal);
        }
        let cri = Cri::new(&folders.path("pintle.sock"));
        let mut node = Self {
            registry,
            daemon: Mutex::new(None),
            namespaces,
            folders,
            cri,
            baseline: Baseline::default(),
        };
        node.start_daemon_with(setup);
        if node.log_tail().contains(BUSY_SYSTEMD) {
            // It would connect with its first pod, and have a socket more from then on.
            node.end_daemon("-TERM");
            node.start_daemon_with(setup);
        }
        node.baseline = Baseline::of(&node);
        node
    }

    pub(crate) fn cri(&self) -> &Cri {
        &self.cri
    }

    /// A connection of its own.
    pub(crate) fn connect(&self) -> Cri {
        Cri::new(&self.path("pintle.sock"))
    }

    /// A connection of its own whose client has no deadlines: what it says of one, the daemon said.
    pub(crate) fn connect_without_clock(&self) -> ClocklessCri {
        ClocklessCri::new(&self.path("pintle.sock"))
    }

    /// A file or folder of the node.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folders.path(name)
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("unix://{}", self.path("pintle.sock").display())
    }

    pub(crate) fn folders(&self) -> &Folders {
        &self.folders
    }

    pub(crate) fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// `program`, to be run on the node.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.namespaces.command(program)
    }

    /// Runs a program on the node and expects success.
    #[track_caller]
    pub(crate) fn run<const N: usize>(&self, program: &str, arguments: [&str; N]) -> String {
        let output = self.command(program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{program} {arguments:?}: {}", text_of(&output));
        text_of(&output)
    }

    /// A file as a process on the node reads it.
    pub(crate) fn read(&self, path: &str) -> String {
        let path = self.namespaces.root().join(path.trim_start_matches('/'));
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
    }

    /// Whether something is at `path` on the node.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.namespaces.root().join(path.trim_start_matches('/')).symlink_metadata().is_ok()
    }

    /// What a web server at `address` answers to the node; empty if nothing does.
    pub(crate) fn http_get(&self, address: &str) -> String {
        let program = std::env::current_exe().unwrap();
        self.run(&program.to_string_lossy(), [super::http::ROLE, address])
    }

    #[track_caller]
    pub(crate) fn pull(&self, reference: &str) -> String {
        self.try_pull(reference).unwrap_or_else(|error| panic!("pull {reference}: {error}"))
    }

    pub(crate) fn try_pull(&self, reference: &str) -> Result<String, Status> {
        let image = Some(v1::ImageSpec { image: reference.into(), ..Default::default() });
        let reply = self.cri.pull_image(v1::PullImageRequest { image, ..Default::default() })?;
        Ok(reply.image_ref)
    }

    /// A running pod on the pod network.
    #[track_caller]
    pub(crate) fn run_pod(&self, name: &str) -> Pod<'_> {
        self.run_pod_with(name, |_| {})
    }

    /// A running pod; `change` has the last word on its config.
    #[track_caller]
    pub(crate) fn run_pod_with(&self, name: &str, change: impl FnOnce(&mut v1::PodSandboxConfig)) -> Pod<'_> {
        self.try_run_pod(name, change).unwrap_or_else(|error| panic!("run pod {name}: {error}"))
    }

    pub(crate) fn try_run_pod(
        &self,
        name: &str,
        change: impl FnOnce(&mut v1::PodSandboxConfig),
    ) -> Result<Pod<'_>, Status> {
        Pod::run(self, name, &handler(), change)
    }

    /// The ids of all pods that are listed.
    pub(crate) fn pods(&self) -> Vec<String> {
        let listed = self.cri.list_pod_sandbox(v1::ListPodSandboxRequest::default()).unwrap();
        listed.items.into_iter().map(|pod| pod.id).collect()
    }

    /// The ids of all containers that are listed.
    pub(crate) fn containers(&self) -> Vec<String> {
        let listed = self.cri.list_containers(v1::ListContainersRequest::default()).unwrap();
        listed.containers.into_iter().map(|container| container.id).collect()
    }

    /// Ends the daemon as an init system would, and starts a new one.
    pub(crate) fn restart_daemon(&self) {
        self.restart_daemon_with(&Setup::default());
    }

    pub(crate) fn restart_daemon_with(&self, setup: &Setup) {
        self.end_daemon("-TERM");
        self.start_daemon_with(setup);
    }

    /// Ends the daemon as the kernel would, without a word.
    pub(crate) fn kill_daemon(&self) {
        self.end_daemon("-KILL");
    }

    pub(crate) fn start_daemon(&self) {
        self.start_daemon_with(&Setup::default());
    }

    /// Starts a daemon as `setup` says; if that is to die and does so at once, one that is not.
    pub(crate) fn start_daemon_with(&self, setup: &Setup) {
        if self.try_start_daemon(setup) {
            return;
        }
        assert!(!setup.failpoints.is_empty(), "the daemon ended at once:\n{}", self.log_tail());
        self.start_daemon();
    }

    /// Starts a daemon and ends it `after` that, most likely before it answers.
    pub(crate) fn kill_starting_daemon(&self, after: Duration) {
        if self.spawn_daemon(&Setup::default()) {
            thread::sleep(after);
            self.kill_daemon();
        }
    }

    /// Whether `pintle serve` runs.
    pub(crate) fn daemon_lives(&self) -> bool {
        let mut daemon = self.daemon.lock().unwrap_or_else(PoisonError::into_inner);
        daemon.as_mut().is_some_and(|daemon| matches!(daemon.nsenter.try_wait(), Ok(None)))
    }

    /// The daemon's pid, as the test sees it.
    pub(crate) fn daemon_pid(&self) -> u32 {
        let daemon = self.daemon.lock().unwrap_or_else(PoisonError::into_inner);
        daemon.as_ref().expect("a daemon was started").pid
    }

    /// Stops and removes every pod.
    #[track_caller]
    pub(crate) fn remove_pods(&self) {
        for id in self.pods() {
            let stop = v1::StopPodSandboxRequest { pod_sandbox_id: id.clone() };
            self.cri.stop_pod_sandbox(stop).unwrap_or_else(|error| panic!("stop pod {id}: {error}"));
            let remove = v1::RemovePodSandboxRequest { pod_sandbox_id: id.clone() };
            self.cri.remove_pod_sandbox(remove).unwrap_or_else(|error| panic!("remove pod {id}: {error}"));
        }
    }

    /// Removes every pod, then fails the test unless the node is as it was when it started.
    #[track_caller]
    pub(crate) fn assert_clean(&self) {
        self.remove_pods();
        assert_eq!((self.pods(), self.containers()), (vec![], vec![]));
        self.baseline.assert_same(self);
    }

    /// Returns when the daemon answers, or has ended instead.
    fn try_start_daemon(&self, setup: &Setup) -> bool {
        if !self.spawn_daemon(setup) {
            return false;
        }
        let mut lives = true;
        wait_until("the daemon answers", || {
            lives = self.daemon_lives();
            !lives || self.cri.version(v1::VersionRequest::default()).is_ok()
        });
        lives
    }

    /// `false` if it has come and gone.
    fn spawn_daemon(&self, setup: &Setup) -> bool {
        let log = fs::File::options().create(true).append(true).open(self.path("daemon.log")).unwrap();
        let mut command = self.namespaces.command("env");
        command.args(&setup.under).arg(pintle()).arg("serve").arg("--config").arg(self.path("config.toml"));
        command.env("PINTLE_FAILPOINTS", &setup.failpoints).env("RUST_BACKTRACE", "1");
        if let Some(trace) = &setup.trace {
            command.env("PINTLE_FAILPOINT_TRACE", trace);
        }
        if let Some(folder) = &setup.selinux {
            command.env("PINTLE_SELINUX", folder);
        }
        let stderr = setup.stderr.as_ref().map_or_else(|| log.try_clone(), |stderr| stderr.try_clone());
        command.stdin(Stdio::null()).stdout(log).stderr(stderr.unwrap());
        let mut nsenter = command.spawn().expect("run nsenter");
        let Some(pid) = pid_of_program(&mut nsenter) else { return false };
        *self.daemon.lock().unwrap_or_else(PoisonError::into_inner) = Some(Daemon { nsenter, pid });
        true
    }

    fn end_daemon(&self, signal: &str) {
        let mut held = self.daemon.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut daemon) = held.take() else { return };
        let _ = Command::new("kill").args([signal, &daemon.pid.to_string()]).stderr(Stdio::null()).status();
        wait_until("the daemon ends", || !matches!(daemon.nsenter.try_wait(), Ok(None)));
    }

    fn log_tail(&self) -> String {
        let log = fs::read(self.path("daemon.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if thread::panicking() {
            let name = thread::current().name().unwrap_or_default().to_owned();
            eprintln!("---- the daemon's last words in {name}\n{}\n----", self.log_tail());
        }
        self.end_daemon("-KILL");
        self.folders.cgroups.thaw();
        self.namespaces.end();
        let _ = self.registry.wait();
    }
}

fn text_of(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() { out.into_owned() } else { format!("{}: {out}{err}", output.status) }
}

/// Puts a folder in the place of the journal's, on the node only. A machine without systemd has no such place.
fn put_journal(namespaces: &Namespaces, folder: &Path) {
    let script = "test -d /run/systemd/journal || { mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal; } && \
                  mount --bind \"$0\" /run/systemd/journal";
    let status = namespaces.command("sh").args(["-c", script]).arg(folder).status().unwrap();
    assert!(status.success(), "put a journal into the node: {status}");
}

/// Debian's registry over the cached images, which it may only read.
fn start_registry(folders: &Folders, namespaces: &Namespaces) -> Child {
    let config = folders.path("registry.yml");
    let storage = test_images().join("registry");
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nhttp: {{addr: {REGISTRY}}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  \
         maintenance: {{readonly: {{enabled: true}}}}\n",
        storage.display()
    );
    fs::write(&config, text).unwrap();
    let log = fs::File::create(folders.path("registry.log")).unwrap();
    let mut command = namespaces.command("docker-registry");
    command.arg("serve").arg(config).stdout(Stdio::null()).stderr(log);
    let registry = command.spawn().expect("run docker-registry");
    let listening = || namespaces.read_proc("net/tcp").contains(&format!(":{:04X} ", 5000));
    wait_until("the registry listens", listening);
    registry
}

/// The handler of pods that say nothing of theirs: the one without a name, or that of `PINTLE_E2E_HANDLER`.
fn handler() -> String {
    std::env::var("PINTLE_E2E_HANDLER").unwrap_or_default()
}

/// The node's own places, and what the test adds.
fn write_config(folders: &Folders, more: &str) {
    let text = format!(
        "root = {:?}\nstate = {:?}\nlisten = \"unix://{}\"\n\n[image]\nregistry_config_dir = {:?}\n\n[cgroup]\ndriver = {:?}\nparent = {:?}\n\n\
         [network]\ncni_conf_dir = {:?}\ncni_bin_dirs = [{:?}, \"/usr/lib/cni\"]\ncni_cache_dir = {:?}\nnetns_dir = {:?}\n\n[cdi]\nspec_dirs = [{:?}, {:?}]\n",
        folders.path("root"),
        folders.path("state"),
        folders.path("pintle.sock").display(),
        test_images().join("hosts"),
        folders.cgroups.driver().name(),
        folders.cgroups.configured_parent(),
        folders.path("cni/net.d"),
        folders.path("cni/bin"),
        folders.path("cni/cache"),
        folders.path("netns"),
        folders.path("cdi/etc"),
        folders.path("cdi/run"),
    );
    let table = Some(handler()).filter(|name| !name.is_empty());
    let table = table.map(|name| format!("\n[handlers.{name}]\n")).unwrap_or_default();
    fs::write(folders.path("config.toml"), text + &table).unwrap();
    if !more.is_empty() {
        fs::write(folders.path("conf.d/test.toml"), more).unwrap();
    }
}
