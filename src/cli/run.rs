//! `pintle run`: one container in a pod of its own, from pull to removal.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::ValueEnum;
use tokio::{select, sync::watch, time::sleep};

use super::{
    attach,
    client::{self, Client, Streams},
    console::Console,
    detach::DetachKeys,
    exit::Exit,
    logs::{Follow, FollowError, Printer},
    place::Place,
    session::{End, Session},
    signals::Signals,
    tls::{self, Trust},
};
use crate::{
    cri::wire::{
        ContainerConfig, ContainerMetadata, ContainerState, ContainerStatus, ImageSpec, LinuxContainerConfig,
        LinuxContainerSecurityContext, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode,
        NamespaceOption, PodSandboxConfig, PodSandboxMetadata, SecurityProfile,
        security_profile::ProfileType,
    },
    spec::{MASKED_PATHS, READONLY_PATHS},
    telemetry::{log::chain, task},
};

/// How often output and state are looked at: below what a person notices.
const POLL: Duration = Duration::from_millis(50);
/// What a container gets to stop in after the first ctrl-c.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// A daemon that is being restarted or upgraded is waited for this long; the container goes on.
pub(super) const DAEMON_AWAY_MAX: Duration = Duration::from_secs(30);
const LOG_NAME: &str = "run.log";
/// The namespace of the pods that `run` makes.
pub(super) const NAMESPACE: &str = "pintle-run";
/// How the folders begin that `run` makes, one for each pod's log.
const FOLDER_PREFIX: &str = "pintle-run-";

/// The network of a pod that `run` makes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum Network {
    /// The host's own
    Host,
    /// An address of its own
    Pod,
}

/// What `pintle run` was asked for.
#[derive(Clone, Debug)]
pub(super) struct Order {
    pub(super) network: Network,
    pub(super) interactive: bool,
    pub(super) tty: bool,
    pub(super) detach_keys: DetachKeys,
    pub(super) tls: tls::Files,
    pub(super) image: String,
    pub(super) command: Vec<String>,
}

/// Why the container was not run to its end.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Daemon(#[from] client::Error),
    /// StartContainer was refused.
    #[error(transparent)]
    Start(client::Error),
    #[error(transparent)]
    Attach(#[from] attach::Error),
    #[error("connect the standard streams")]
    Streams(#[source] io::Error),
    #[error(transparent)]
    Output(#[from] FollowError),
    #[error("{doing} {}", path.display())]
    File {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("get a random name")]
    Random(#[source] getrandom::Error),
    #[error("interrupted")]
    Interrupted,
}

/// `pintle run`: ends with the container's own exit code.
pub(super) fn run(place: Place, order: &Order) -> Result<Exit, Exit> {
    let config = place.load(None)?.config;
    let runtime = client::runtime()?;
    runtime.block_on(async {
        let interrupts = Interrupts::listen().map_err(|error| Exit::SOFTWARE.because(&error))?;
        let listen = config.listen();
        let client = Client::connect(listen.path()).await;
        let client = client.map_err(|error| Exit::RUN.because(&error))?;
        let client = client.trusting(Trust::new(order.tls.clone(), &config.streaming));
        let mut visit = Visit::begin(client, interrupts).map_err(|error| Exit::RUN.because(&error))?;
        let outcome = visit.work(order).await;
        let cleaned = visit.clean().await;
        let exit = outcome.map_err(|error| match &error {
            Error::Interrupted => Exit::INTERRUPTED,
            Error::Output(FollowError::Write(cause)) | Error::Attach(attach::Error::Write(cause))
                if cause.kind() == io::ErrorKind::BrokenPipe =>
            {
                Exit::BROKEN_PIPE
            }
            Error::Start(cause) => Exit::of_start_failure(&cause.to_string()).because(&error),
            _ => Exit::RUN.because(&error),
        });
        cleaned.map_err(|error| Exit::RUN.because(&error))?;
        exit
    })
}

/// What one `run` has made and must take away again.
struct Visit {
    client: Client,
    interrupts: Interrupts,
    /// Random, in every name.
    token: String,
    folder: PathBuf,
    pod: Option<String>,
    /// The container goes on, and so nothing is taken away.
    detached: bool,
}

impl Visit {
    fn begin(client: Client, interrupts: Interrupts) -> Result<Self, Error> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(Error::Random)?;
        let token = format!("{:016x}", u64::from_be_bytes(random));
        let folder = std::env::temp_dir().join(format!("{FOLDER_PREFIX}{token}"));
        DirBuilder::new().mode(0o700).create(&folder).map_err(|source| Error::File {
            doing: "make folder",
            path: folder.clone(),
            source,
        })?;
        Ok(Self { client, interrupts, token, folder, pod: None, detached: false })
    }

    async fn work(&mut self, order: &Order) -> Result<Exit, Error> {
        let image = self.image(&order.image).await?;
        let pod_config = self.pod_config(order.network);
        // Not dropped at ctrl-c: the daemon would go on, and nobody would know the pod's id.
        let pod = self.client.run_pod(pod_config.clone()).await?;
        self.pod = Some(pod.clone());
        self.interrupts.none_yet()?;
        let config = container_config(order, &image);
        let container = self.client.create(&pod, pod_config, config).await?;
        self.interrupts.none_yet()?;
        let Order { interactive, tty, .. } = *order;
        // What is shown comes from the log, which waits for its reader, unless there is a terminal.
        let streams = Streams { stdin: interactive, stdout: tty, stderr: false, tty };
        let session = if interactive || tty {
            Some(attach::open(&mut self.client, &container, streams).await?)
        } else {
            None
        };
        self.client.start(&container).await.map_err(Error::Start)?;
        let status = match session {
            Some(session) if tty => {
                let keys = order.detach_keys.clone();
                match self.converse(&container, session, streams, keys).await? {
                    Some(status) => status,
                    None => return Ok(Exit::OK),
                }
            }
            session => self.watch(&container, session).await?,
        };
        Ok(Exit::of_container(&status))
    }

    /// The image's id; pulled when it is not here.
    async fn image(&mut self, reference: &str) -> Result<String, Error> {
        if let Some(id) = self.client.find_image(reference).await? {
            return Ok(id);
        }
        eprintln!("pintle: pulling {reference}");
        select! {
            pulled = self.client.pull_image(reference) => Ok(pulled?),
            _ = self.interrupts.more_than(0) => Err(Error::Interrupted),
        }
    }

    fn pod_config(&self, network: Network) -> PodSandboxConfig {
        let name = self.name();
        let security = LinuxSandboxSecurityContext {
            namespace_options: Some(namespaces(network)),
            seccomp: Some(runtime_default()),
            ..Default::default()
        };
        PodSandboxConfig {
            // On the host's network the name is the host's, too.
            hostname: if network == Network::Pod { name.clone() } else { String::new() },
            metadata: Some(PodSandboxMetadata {
                name,
                uid: self.token.clone(),
                namespace: NAMESPACE.into(),
                attempt: 0,
            }),
            log_directory: self.folder.to_string_lossy().into_owned(),
            linux: Some(LinuxPodSandboxConfig { security_context: Some(security), ..Default::default() }),
            ..Default::default()
        }
    }

    /// Connects the terminal until the container has exited; `None` when the person has detached.
    async fn converse(
        &mut self,
        container: &str,
        session: Session,
        streams: Streams,
        keys: DetachKeys,
    ) -> Result<Option<ContainerStatus>, Error> {
        let mut console = Console::open(streams.stdin, true, keys).map_err(Error::Streams)?;
        let mut client = self.client.clone();
        let ended = {
            let stay = attach::stay(&mut client, container, streams, session, &mut console);
            tokio::pin!(stay);
            let mut stopping = 0;
            loop {
                select! {
                    ended = &mut stay => break ended,
                    count = self.interrupts.more_than(stopping) => {
                        self.stop(container, if stopping == 0 { STOP_GRACE } else { Duration::ZERO });
                        stopping = count;
                    }
                }
            }
        };
        console.close().await.map_err(attach::Error::Write)?;
        if ended? == attach::Ended::Person {
            self.detached = true;
            let name = self.name();
            eprintln!("pintle: detached; `pintle attach {name}` goes on, and removes it when it has ended");
            return Ok(None);
        }
        Ok(Some(attach::exit_of(&mut self.client, container).await?))
    }

    /// Copies output until the container has exited and its log is at its end; over `session` goes what it is typed.
    async fn watch(&mut self, container: &str, session: Option<Session>) -> Result<ContainerStatus, Error> {
        let mut typing = std::pin::pin!(type_into(session));
        let mut typed = false;
        let path = self.folder.join(LOG_NAME);
        let log = File::open(&path).map_err(|source| Error::File { doing: "open log", path, source })?;
        let (mut log, mut printer) = (Follow::new(log), Printer::default());
        let (mut stopping, mut away_since) = (0, None);
        loop {
            // Asked before reading: the log of a container that has exited is complete.
            let status = match self.client.status(container).await {
                Ok(status) => Some(status),
                Err(error) if error.is_away() => {
                    let since = *away_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > DAEMON_AWAY_MAX {
                        return Err(error.into());
                    }
                    None
                }
                Err(error) => return Err(error.into()),
            };
            log.copy(&mut printer, &mut io::stdout().lock(), &mut io::stderr().lock())?;
            if let Some(status) = status {
                away_since = None;
                if status.state == i32::from(ContainerState::ContainerExited) {
                    return Ok(status);
                }
            }
            select! {
                () = sleep(POLL) => {}
                lost = &mut typing, if !typed => {
                    typed = true;
                    if lost? {
                        eprintln!("pintle: lost the connection to the daemon, and with it the container's input");
                    }
                }
                count = self.interrupts.more_than(stopping) => {
                    self.stop(container, if stopping == 0 { STOP_GRACE } else { Duration::ZERO });
                    stopping = count;
                }
            }
        }
    }

    /// Asks for a stop, and does not wait: output goes on until the exit.
    fn stop(&self, container: &str, grace: Duration) {
        let (mut client, container) = (self.client.clone(), container.to_owned());
        task::spawn("stop", async move {
            if let Err(error) = client.stop(&container, grace).await {
                eprintln!("pintle: {}", chain(&error));
            }
        });
    }

    /// The name of the pod.
    fn name(&self) -> String {
        format!("run-{}", self.token)
    }

    /// Takes away what was made, all of it even when a part fails.
    async fn clean(&mut self) -> Result<(), Error> {
        if self.detached {
            return Ok(());
        }
        let removed = match self.pod.take() {
            Some(pod) => self.client.remove_pod(&pod).await.map_err(Error::from),
            None => Ok(()),
        };
        fs::remove_dir_all(&self.folder).map_err(|source| Error::File {
            doing: "remove folder",
            path: self.folder.clone(),
            source,
        })?;
        removed
    }
}

/// Gives the container what is typed, to the end of the session; whether that came too early.
async fn type_into(session: Option<Session>) -> Result<bool, Error> {
    let Some(session) = session else { return std::future::pending().await };
    let mut console = Console::open(true, false, DetachKeys::none()).map_err(Error::Streams)?;
    Ok(session.run(&mut console).await == End::Lost)
}

/// Takes away what a `run` has made from which somebody had detached.
pub(super) async fn remove(client: &mut Client, pod: &str, log_path: &str) -> Result<(), attach::Error> {
    client.remove_pod(pod).await?;
    let Some(folder) = Path::new(log_path).parent() else { return Ok(()) };
    let name = folder.file_name().and_then(|name| name.to_str());
    if name.is_some_and(|name| name.starts_with(FOLDER_PREFIX)) {
        let removed = fs::remove_dir_all(folder);
        removed.map_err(|source| attach::Error::Folder { path: folder.into(), source })?;
    }
    Ok(())
}

fn namespaces(network: Network) -> NamespaceOption {
    let network = match network {
        Network::Host => NamespaceMode::Node,
        Network::Pod => NamespaceMode::Pod,
    };
    let pid = NamespaceMode::Container.into();
    NamespaceOption { network: network.into(), pid, ..Default::default() }
}

fn runtime_default() -> SecurityProfile {
    SecurityProfile { profile_type: ProfileType::RuntimeDefault.into(), localhost_ref: String::new() }
}

fn container_config(order: &Order, image: &str) -> ContainerConfig {
    let security = LinuxContainerSecurityContext {
        namespace_options: Some(namespaces(order.network)),
        seccomp: Some(runtime_default()),
        // What a request says of these is exactly what holds, so a request without them would hide nothing.
        masked_paths: MASKED_PATHS.map(String::from).to_vec(),
        readonly_paths: READONLY_PATHS.map(String::from).to_vec(),
        ..Default::default()
    };
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: "run".into(), attempt: 0 }),
        image: Some(ImageSpec {
            image: image.into(),
            user_specified_image: order.image.clone(),
            ..Default::default()
        }),
        args: order.command.clone(),
        stdin: order.interactive,
        // The end of what is piped in is the end of its input; a terminal can be attached to again.
        stdin_once: order.interactive && !order.tty,
        tty: order.tty,
        log_path: LOG_NAME.into(),
        linux: Some(LinuxContainerConfig { security_context: Some(security), ..Default::default() }),
        ..Default::default()
    }
}

/// How often we were told to stop.
struct Interrupts(watch::Receiver<u32>);

impl Interrupts {
    fn listen() -> io::Result<Self> {
        let (sender, receiver) = watch::channel(0);
        let mut signals = Signals::listen()?;
        task::spawn("interrupts", async move {
            loop {
                signals.next().await;
                sender.send_modify(|count| *count += 1);
            }
        });
        Ok(Self(receiver))
    }

    fn none_yet(&self) -> Result<(), Error> {
        if *self.0.borrow() == 0 { Ok(()) } else { Err(Error::Interrupted) }
    }

    /// Waits until it was more than `seen` times; how often it is then.
    async fn more_than(&mut self, seen: u32) -> u32 {
        match self.0.wait_for(|count| *count > seen).await {
            Ok(count) => *count,
            // The task that counts never ends before the process.
            Err(_) => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(command: &[&str]) -> Order {
        let command = command.iter().map(ToString::to_string).collect();
        let (interactive, tty, detach_keys) = (false, false, DetachKeys::none());
        Order {
            network: Network::Pod,
            interactive,
            tty,
            detach_keys,
            tls: tls::Files::default(),
            image: "busybox".into(),
            command,
        }
    }

    #[test]
    fn a_command_replaces_the_images_arguments_and_keeps_its_entrypoint() {
        let config = container_config(&order(&["ls", "/"]), "sha256:0");
        assert_eq!(config.args, ["ls", "/"]);
        assert_eq!(config.command, [""; 0]);
    }

    #[test]
    fn pod_and_container_name_the_same_namespaces_and_both_are_filtered() {
        for network in [Network::Host, Network::Pod] {
            let config = container_config(&Order { network, ..order(&[]) }, "sha256:0");
            let security = config.linux.unwrap().security_context.unwrap();
            assert_eq!(security.namespace_options, Some(namespaces(network)));
            assert_eq!(security.seccomp, Some(runtime_default()));
        }
        assert_eq!(namespaces(Network::Host).network, 2);
        assert_eq!((namespaces(Network::Pod).network, namespaces(Network::Pod).pid), (0, 1));
    }

    #[tokio::test]
    async fn interrupts_are_counted_not_lost() {
        let (sender, receiver) = watch::channel(0);
        let mut interrupts = Interrupts(receiver);
        assert!(interrupts.none_yet().is_ok());
        sender.send_modify(|count| *count += 1);
        sender.send_modify(|count| *count += 1);
        assert!(matches!(interrupts.none_yet(), Err(Error::Interrupted)));
        assert_eq!(interrupts.more_than(0).await, 2);
        assert_eq!(interrupts.more_than(1).await, 2);
    }
}
