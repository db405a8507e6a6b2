//! The one place that calls libcontainer: it makes the namespaces, the default mounts and devices, masks
//! paths and pivots; our [`Executor`] does what it cannot or does wrongly (docs/upstream.md).

use std::{
    collections::HashMap,
    ffi::{CString, OsString},
    fmt,
    io::{self, Write as _},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStringExt,
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    rc::Rc,
};

use libcontainer::{
    container::builder::ContainerBuilder,
    oci_spec::runtime::{LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, RootBuilder, Spec},
    syscall::syscall::SyscallType,
    workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError},
};
use rustix::{
    fs::{CWD, Mode, OFlags},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags},
};

use super::{
    device::{self, Device},
    finish::{Keyring, Route, confine},
    joined::{self, Joined},
    label::{MountLabel, label_queues},
    lsm::NodeProc,
    report::{Report, Reporter, TRACE_BYTES_MAX},
    rootfs,
    stdio::{open_terminal, own_null, speak_through},
    template::{self, BUNDLE, PodNamespaces, ROOTFS, SHM},
    user::{self, Identity},
    users,
    volume::{self, Tree},
};
use crate::{
    model::{ContainerPlan, Failure, IdMap, PidMode, ProcessPlan, Stage},
    sys::{
        mount::{Change, PeerGroup, attach, detached},
        path::{Make, make_in_root},
        pids::Slot,
        process::{self, Namespaces, OneThread},
        title,
    },
};

/// The input of a helper that makes one container.
#[derive(Debug)]
pub struct Launch<'a> {
    pub plan: &'a ContainerPlan,
    pub namespaces: &'a PodNamespaces,
    /// The pid namespace of others to join; `None` is the host's or a new one, as `plan.pid` says.
    pub joined: Option<Joined>,
    /// The devices that were asked for.
    pub devices: &'a [Device],
    /// The directories that the container sees below `/sys/fs/cgroup`: name there, host directory.
    pub cgroup_views: Vec<(String, PathBuf)>,
    /// `None` with a terminal.
    pub stdio: Option<Stdio>,
    /// The slot for the host pid of its init, filled before init reports that it waits at the barrier.
    pub pid: Slot,
    pub report: Reporter,
    pub one_thread: OneThread,
}

/// The container's ends of its three pipes.
#[derive(Debug)]
pub struct Stdio {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// Makes the container; its init, a child of this process's parent, goes on to the start barrier by itself. The
/// process must be single-threaded, in the container's cgroup and end right after.
///
/// # Errors
/// Whatever step failed. Nothing that this process made outlives it.
pub fn create(launch: Launch<'_>) -> Result<(), Failure> {
    let Launch { plan, namespaces, joined, devices, cgroup_views, stdio, pid, report, one_thread } = launch;
    // There is none yet: the process is this launch's own.
    let _first: Result<(), _> =
        tracing::subscriber::set_global_default(CauseTrace { to: report.another()?, sent: 0.into() });

    let proc = NodeProc::open(&plan.process)?;
    let mut trees = Vec::with_capacity(plan.volumes.len() + devices.len() + 12);
    let label = MountLabel(&plan.mount_label);
    trees.extend(cgroups(&cgroup_views, plan.privileged, label)?);
    let root = match &namespaces.users {
        Some(users) => rootfs::overlay_for(users, &namespaces.template, &plan.lower, &plan.writable, label)?,
        None => rootfs::overlay(&plan.lower, &plan.writable, label)?,
    };
    rootfs::guard(&root, namespaces.users.as_ref())?;
    let volumes = plan.volumes.iter().map(|volume| volume::open(volume, &root, namespaces, plan));
    let volumes = volumes.collect::<Result<Vec<_>, _>>()?;
    let identity = user::resolve(&root, &plan.process.user, &plan.process.image_user)?;
    if let Some(users) = &namespaces.users {
        users.check(&identity)?;
    }
    report.send(&Report::Identity(identity.clone()));
    if let Some(stdio) = &stdio {
        // Pipes of this container alone. So that the process may open /dev/stdout again, whoever it is.
        let owner = users::host_uid(namespaces.users.as_ref(), identity.user.uid);
        let owner = rustix::fs::Uid::from_raw(owner);
        for fd in [&stdio.stdin, &stdio.stdout, &stdio.stderr] {
            rustix::fs::fchown(fd, Some(owner), None)
                .map_err(|error| Failure::io(Stage::Launch, "standard streams", "", &error.into()))?;
        }
    }

    // From here on this process is in other mount namespaces than the host's.
    let target_proc = joined.as_ref().map(|joined| joined.clone_target_proc()).transpose()?.flatten();
    let in_template = || -> io::Result<()> {
        template::enter_copy(&namespaces.template)?;
        if let Some(proc) = target_proc {
            joined::attach_target_proc(&proc)?;
        }
        // Before the volumes, which may want to cover it.
        let private = Change { peers: Some(PeerGroup::Private), ..Change::default() };
        trees.insert(0, Tree::new(detached(CWD, Path::new(SHM), private)?, "/dev/shm")?);
        let target = rustix::fs::open(ROOTFS, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        attach(root.as_fd(), target.as_fd())?;
        let options = CString::new(format!("mode=0700,size=1m{}", label.option()))?;
        rustix::mount::mount("bundle", BUNDLE, "tmpfs", MountFlags::empty(), options.as_c_str())?;
        label.stand_in_at(BUNDLE)
    };
    in_template().map_err(|error| Failure::io(Stage::Rootfs, "template", "", &error))?;
    for (volume, opened) in plan.volumes.iter().zip(volumes) {
        trees.push(volume::complete(volume, opened)?);
    }
    let owner = users::on_host(namespaces.users.as_ref(), &identity.user);
    for (number, device) in devices.iter().enumerate() {
        trees.push(device.make(&Path::new(BUNDLE).join(format!("device-{number}")), &owner)?);
    }

    let spec = complete(plan, namespaces, joined.is_some())?;
    let others = joined.map(|joined| Rc::new(joined.pid_namespace));
    let executor = Init {
        plan: Rc::new(plan.process.clone()),
        no_input: !plan.stdin && !plan.process.tty,
        identity: Rc::new(identity),
        keyring: Keyring::of(&plan.id, true),
        proc: Rc::new(proc),
        trees: trees.into(),
        label: plan.mount_label.as_str().into(),
        readonly_rootfs: plan.readonly_rootfs,
        others: others.clone(),
        pid,
        report: Rc::new(report),
        one_thread,
    };
    build(plan, &spec, stdio, executor)?;
    drop((others, root));
    Ok(())
}

fn build(plan: &ContainerPlan, spec: &Spec, stdio: Option<Stdio>, executor: Init) -> Result<(), Failure> {
    // Where it joins others, libcontainer's process forks the one that is the container's.
    let pid = executor.others.is_none().then_some(executor.pid);
    let failed = |text: String| Failure::new(Stage::Launch, plan.id.as_str(), text);
    spec.save(Path::new(BUNDLE).join("config.json")).map_err(|error| failed(error.to_string()))?;
    // libcontainer's own name for it, in a folder of this process's own: any will do.
    const NAME: &str = "c";
    let state = Path::new(BUNDLE).join("s");
    let mut builder = ContainerBuilder::new(NAME.into(), SyscallType::default())
        .with_root_path(&state)
        .map_err(|error| failed(error.to_string()))?
        .with_executor(executor);
    if let Some(stdio) = stdio {
        builder = builder.with_stdin(stdio.stdin).with_stdout(stdio.stdout).with_stderr(stdio.stderr);
    }
    let container = builder
        .as_init(BUNDLE)
        .with_systemd(false)
        .with_detach(true)
        .as_sibling(true)
        .build()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(slot) = pid {
        let pid = container.pid().ok_or_else(|| failed("libcontainer gave no pid".into()))?;
        slot.store(&pid.as_raw().cast_unsigned().try_into());
    }
    // The barrier that counts is ours, in `Init::exec`.
    UnixStream::connect(state.join(NAME).join("notify.sock"))
        .and_then(|mut socket| socket.write_all(b"start container"))
        .map_err(|error| Failure::io(Stage::Launch, plan.id.as_str(), "notify.sock", &error))
}

/// The daemon's spec with what only this process knows: namespaces and the root's path.
fn complete(plan: &ContainerPlan, namespaces: &PodNamespaces, joins: bool) -> Result<Spec, Failure> {
    let bad = |text: String| Failure::new(Stage::Request, plan.id.as_str(), text);
    let mut spec: Spec = serde_json::from_slice(&plan.oci).map_err(|error| bad(error.to_string()))?;
    let one = |kind: LinuxNamespaceType, path: Option<BorrowedFd<'_>>| -> Result<LinuxNamespace, Failure> {
        let builder = LinuxNamespaceBuilder::default().typ(kind);
        match path {
            Some(fd) => builder.path(PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))).build(),
            None => builder.build(),
        }
        .map_err(|error| bad(error.to_string()))
    };
    let mut list = vec![one(LinuxNamespaceType::Mount, None)?];
    if let Some(users) = &namespaces.users {
        list.push(one(LinuxNamespaceType::User, Some(users.namespace()))?);
    }
    for (kind, path) in [
        (LinuxNamespaceType::Network, &namespaces.network),
        (LinuxNamespaceType::Ipc, &namespaces.ipc),
        (LinuxNamespaceType::Uts, &namespaces.uts),
    ] {
        if path.is_some() {
            list.push(one(kind, path.as_ref().map(AsFd::as_fd))?);
        }
    }
    match plan.pid {
        PidMode::Container => list.push(one(LinuxNamespaceType::Pid, None)?),
        // That of others is entered last, with nothing in hand (`Init::exec`).
        PidMode::Node | PidMode::Pod | PidMode::Target(_) => {}
    }
    if !plan.privileged {
        list.push(one(LinuxNamespaceType::Cgroup, None)?);
    }
    let mut linux = spec.linux().clone().unwrap_or_default();
    if linux.resources().is_some() || linux.seccomp().is_some() {
        return Err(bad("the spec has resources or seccomp, which are not libcontainer's here".into()));
    }
    if plan.host_devices {
        linux.set_devices(Some(device::of_host()));
    }
    linux.set_namespaces(Some(list));
    if let Some(process) = spec.process_mut() {
        // The terminal is ours (`Init::terminal`).
        process.set_terminal(Some(false));
    }
    linux.set_cgroups_path(Some("/c".into()));
    spec.set_linux(Some(linux));
    if joins {
        joined::use_joined_proc(&mut spec);
    }
    if let Some(users) = &namespaces.users {
        fit_mounts(&mut spec, users.map(), namespaces.network.is_some());
    }
    MountLabel(&plan.mount_label).add_to(&mut spec);
    let root = RootBuilder::default().path(ROOTFS).readonly(false).build();
    spec.set_root(Some(root.map_err(|error| bad(error.to_string()))?));
    Ok(spec)
}

/// Leaves out of the spec what a user namespace cannot mount: a sysfs of a network that is not its own, and a devpts
/// that belongs to a group which it does not have.
fn fit_mounts(spec: &mut Spec, map: &IdMap, own_network: bool) {
    /// Of the terminals, everywhere in the field.
    const TTY: (u32, &str) = (5, "gid=5");
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for mount in &mut mounts {
        let mut options = mount.options().clone().unwrap_or_default();
        match mount.typ().as_deref() {
            Some("devpts") if map.host_gid(TTY.0).is_none() => options.retain(|option| option != TTY.1),
            // With what is mounted in it: the kernel shows no mount without what another one hides of it.
            Some("sysfs") if !own_network => {
                options.push("rbind".into());
                mount.set_typ(Some("bind".into())).set_source(Some("/sys".into()));
            }
            _ => {}
        }
        mount.set_options(Some(options));
    }
    spec.set_mounts(Some(mounts));
}

/// The container's view of its own cgroups, read-only unless it is privileged.
fn cgroups(views: &[(String, PathBuf)], writable: bool, label: MountLabel<'_>) -> Result<Vec<Tree>, Failure> {
    const TARGET: &str = "/sys/fs/cgroup";
    let failed = |path: &Path, error: &io::Error| Failure::io(Stage::Cgroup, "", path, error);
    let change = Change { read_only: !writable, peers: Some(PeerGroup::Private), ..Change::default() };
    let mut trees = Vec::with_capacity(views.len() + 1);
    if views.iter().any(|(name, _)| !name.is_empty()) {
        let folders = || -> io::Result<Tree> {
            let fs = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
            rustix::mount::fsconfig_set_string(fs.as_fd(), "mode", "0755")?;
            label.configure(fs.as_fd())?;
            rustix::mount::fsconfig_create(fs.as_fd())?;
            let flags = MountAttrFlags::MOUNT_ATTR_NOEXEC
                | MountAttrFlags::MOUNT_ATTR_NOSUID
                | MountAttrFlags::MOUNT_ATTR_NODEV;
            let tree = rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, flags)?;
            for (name, _) in views {
                rustix::fs::mkdirat(&tree, name, Mode::from_raw_mode(0o755))?;
            }
            Ok(Tree { read_only_last: !writable, ..Tree::new(tree, TARGET)? })
        };
        trees.push(folders().map_err(|error| failed(Path::new(TARGET), &error))?);
    }
    for (name, host) in views {
        let tree = detached(CWD, host, change).map_err(|error| failed(host, &error))?;
        let target = if name.is_empty() { TARGET.to_owned() } else { format!("{TARGET}/{name}") };
        trees.push(Tree::new(tree, &target).map_err(|error| failed(host, &error))?);
    }
    Ok(trees)
}

/// The executor that libcontainer calls in the container's init.
#[derive(Clone)]
struct Init {
    plan: Rc<ProcessPlan>,
    /// Standard input is the container's own `/dev/null`.
    no_input: bool,
    identity: Rc<Identity>,
    keyring: Keyring,
    proc: Rc<NodeProc>,
    trees: Rc<[Tree]>,
    /// The SELinux label of its files; empty: none.
    label: Rc<str>,
    readonly_rootfs: bool,
    /// The pid namespace of others that it joins.
    others: Option<Rc<OwnedFd>>,
    pid: Slot,
    report: Rc<Reporter>,
    one_thread: OneThread,
}

impl Init {
    /// In the container's root, before `build()` returns in the helper: its error is the helper's.
    fn furnish(&self) -> Result<(), Failure> {
        let io = |error: rustix::io::Errno| Failure::io(Stage::Rootfs, "", "/", &error.into());
        let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(io)?;
        // Of the fresh `/dev`, before a volume may cover it.
        let of_dev = |error: io::Error| Failure::io(Stage::Launch, "terminal", "", &error);
        if self.plan.tty {
            self.terminal(&root).map_err(of_dev)?;
        } else if self.no_input
            && let Some(null) = own_null(root.as_fd())
        {
            rustix::stdio::dup2_stdin(null).map_err(|error| of_dev(error.into()))?;
        }
        if !self.label.is_empty() {
            label_queues(root.as_fd(), &self.label)
                .map_err(|error| Failure::io(Stage::Rootfs, "SELinux label of", "/dev/mqueue", &error))?;
        }
        volume::attach_all(root.as_fd(), &self.trees)?;
        make_in_root(root.as_fd(), Path::new(&self.plan.cwd), Make::Directory)
            .map_err(|error| Failure::io(Stage::WorkingDir, "", &self.plan.cwd, &error))?;
        if self.readonly_rootfs {
            let change = Change { read_only: true, ..Change::default() };
            crate::sys::mount::change(root.as_fd(), change)
                .map_err(|error| Failure::io(Stage::Rootfs, "read-only", "/", &error))?;
        }
        Ok(())
    }

    /// A pseudo-terminal of the container's own devpts as its three standard streams and `/dev/console`;
    /// the master goes to the supervisor.
    fn terminal(&self, root: &OwnedFd) -> io::Result<()> {
        let (master, slave) = open_terminal(root.as_fd(), self.identity.user.uid)?;
        let name = rustix::pty::ptsname(&master, Vec::new())?;
        let name = PathBuf::from(OsString::from_vec(name.into_bytes()));
        let console = make_in_root(root.as_fd(), Path::new("/dev/console"), Make::File)?;
        let tree = detached(CWD, &name, Change { peers: Some(PeerGroup::Private), ..Change::default() })?;
        attach(tree.as_fd(), console.as_fd())?;
        if self.others.is_none() {
            rustix::process::ioctl_tiocsctty(&slave)?;
        }
        speak_through(&slave)?;
        self.report.send_terminal(&master)
    }
}

impl Executor for Init {
    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        self.furnish().map_err(|failure| {
            let text = failure.to_string();
            self.report.send(&Report::Failed(failure));
            ExecutorValidationError::ArgValidationError(text)
        })
    }

    /// The environment is execve's argument; this process keeps none.
    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }

    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        // What it is called is for people.
        let _named: io::Result<()> =
            title::set("pintle: init of a container that is not started", "pintle:init");
        let fork = self.others.is_some();
        let enter = || match &self.others {
            Some(others) => process::enter(others.as_fd(), Namespaces::PID)
                .map_err(|error| Failure::io(Stage::Namespace, "pid", "", &error)),
            None => Ok(()),
        };
        let route = Route {
            fork: fork.then_some(self.pid),
            terminal: fork && self.plan.tty,
            one_thread: self.one_thread,
        };
        let confined = enter().and_then(|()| {
            confine(&self.plan, &self.identity, &self.keyring, &self.proc, route, &self.report)
        });
        match confined {
            Err(failure) => {
                self.report.send(&Report::Failed(failure));
                process::exit_now(127)
            }
            Ok(confined) => {
                if fork {
                    confined.seal();
                    confined.fork_if_needed();
                }
                if confined.wait_for_go() { confined.execute() } else { confined.exit(0) }
            }
        }
    }
}

impl fmt::Debug for Init {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Init").field("plan", &self.plan.args).finish_non_exhaustive()
    }
}

/// Sends libcontainer's ERROR lines to the supervisor: its own errors lose their cause between its processes.
struct CauseTrace {
    to: Reporter,
    sent: std::sync::atomic::AtomicUsize,
}

impl tracing::Subscriber for CauseTrace {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() == tracing::Level::ERROR
    }
    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::ERROR)
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        let sent = self.sent.fetch_add(line.0.len(), std::sync::atomic::Ordering::Relaxed);
        if sent < TRACE_BYTES_MAX {
            self.to.send(&Report::Trace(line.0));
        }
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// The fields of one event, on one line.
struct Line(String);

impl tracing::field::Visit for Line {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
        use fmt::Write as _;
        let separator = if self.0.is_empty() { "" } else { " " };
        // Writing to a string cannot fail.
        let _written: fmt::Result = match field.name() {
            "message" => write!(self.0, "{separator}{value:?}"),
            name => write!(self.0, "{separator}{name}={value:?}"),
        };
    }
}
