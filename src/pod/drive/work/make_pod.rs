//! RunPodSandbox: from an intent to a pod all of whose parts are there, or to nothing.
//!
//! ```text
//! Intended ──cgroup──► Grouped ──supervisor──► Supervised ──network──► Attached ──files──► made
//! ```
//! Each phase is a type that holds what has been made so far; a step that fails gives what is to be taken away.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tracing::warn;

use super::{super::pod::Pod, Report, tear_down::clear};
use crate::{
    cgroup,
    model::{NamespaceModes, NetworkMode, PodConfig, PodPlan, Resources},
    network::{self, Attachment},
    pod::{
        config::Config,
        error::{Error, chain},
        keep::{
            self, PodRecord, blocking,
            debts::{self, Debt},
            files,
        },
        life::{MadePod, Outcome, PodPhase},
    },
    store::{self, Durability},
    supervisor::{Client, Ready, Zygote},
    sys::descriptors,
};

/// What there is of a pod that could not be made, besides its records.
#[derive(Debug, Default)]
pub(in crate::pod) struct Leftovers {
    cgroup: Option<cgroup::Handle>,
    supervisor: Option<Client>,
    /// An attach that fails half-way may have taken an address.
    network: bool,
}

/// A step that failed.
struct Failed {
    leftovers: Leftovers,
    error: Error,
}

/// Waits for its turn and makes the pod.
pub(super) async fn make(pod: Arc<Pod>, zygote: Option<Arc<Zygote>>) -> Report {
    let Some(zygote) = zygote else {
        let error = Error::Defect("there is no zygote to fork a supervisor from");
        return Report::PodFailed(Leftovers::default(), error);
    };
    // The turn ends with the making, before anybody is answered.
    let turn = match pod.node.creates.enter().await {
        Ok(turn) => turn,
        Err(busy) => return Report::PodFailed(Leftovers::default(), busy),
    };
    match steps(&pod, &zygote, turn).await {
        Ok((client, made)) => Report::Connected(client, Outcome::PodMade(Ok(Box::new(made)))),
        Err(Failed { leftovers, error }) => Report::PodFailed(leftovers, error),
    }
}

async fn steps(pod: &Pod, zygote: &Zygote, turn: OwnedSemaphorePermit) -> Result<(Client, MadePod), Failed> {
    let grouped = Intended::write(pod).await?.make_cgroup().await?;
    let supervised = grouped.spawn(zygote).await?;
    // Plugins have turns of their own: those that hang must not keep pods back that need none.
    let _turn = Some(turn).filter(|_| !pod.node.network.asks_plugins());
    supervised.attach().await?.write_files().await
}

/// The records say that there is to be a pod.
struct Intended<'a> {
    pod: &'a Pod,
}

impl<'a> Intended<'a> {
    /// First on tmpfs, for a daemon that is killed; then on disk, for a machine that is.
    async fn write(pod: &'a Pod) -> Result<Self, Failed> {
        let (live, known) = (pod.folder.clone(), pod.node.places.known(&pod.id));
        let record = PodRecord {
            id: pod.id.clone(),
            boot_id: pod.node.boot_id.clone(),
            state: PodPhase::Starting,
            config: Arc::clone(&pod.config),
            created_at: pod.created_at,
            attachment: None,
            supervisor_pid: 0,
            limits: None,
            cgroup: None,
            root: Some(pod.node.places.root.clone()),
        };
        let write = move || {
            keep::make_folder(&live)?;
            store::put(&keep::pod_file(&live), &record, Durability::Process)?;
            keep::make_folder(&known)?;
            store::put(&keep::pod_file(&known), &record, Durability::Process)
        };
        let written = blocking(write).await.map_err(Error::io("write the records of a pod in", &pod.folder));
        written.map_err(|error| Failed { leftovers: Leftovers::default(), error })?;
        crate::failpoint!("pod.intent-written");
        Ok(Self { pod })
    }

    /// Recorded before it is made: whoever finds the pod unfinished knows what to take away, also under another
    /// driver. In a file of its own, so that it can be read when the pod's record cannot.
    async fn make_cgroup(self) -> Result<Grouped<'a>, Failed> {
        let Self { pod } = self;
        let failed = |error| Failed { leftovers: Leftovers::default(), error };
        let config = &pod.config;
        let planned = pod.node.cgroups.plan_pod(&config.cgroup_parent, &pod.id);
        let cgroup = planned.map_err(|error| failed(error.into()))?;
        keep::put(keep::cgroup_file(&pod.folder), cgroup.clone()).await.map_err(failed)?;
        if let Err(error) = pod.node.cgroups.create_pod(&cgroup, &pod_resources(config)).await {
            // It has undone itself, unless that failed too.
            let leftovers = Leftovers { cgroup: Some(cgroup), ..Leftovers::default() };
            return Err(Failed { leftovers, error: error.into() });
        }
        crate::failpoint!("pod.cgroup-made");
        Ok(Grouped { pod, cgroup })
    }
}

/// It has a cgroup.
struct Grouped<'a> {
    pod: &'a Pod,
    cgroup: cgroup::Handle,
}

impl<'a> Grouped<'a> {
    async fn spawn(self, zygote: &Zygote) -> Result<Supervised<'a>, Failed> {
        let Self { pod, cgroup } = self;
        match Self::supervisor(pod, &cgroup, zygote).await {
            Ok((client, ready)) => {
                crate::failpoint!("pod.supervisor-spawned");
                Ok(Supervised { pod, cgroup, client, ready })
            }
            Err(error) => {
                let leftovers = Leftovers { cgroup: Some(cgroup), ..Leftovers::default() };
                Err(Failed { leftovers, error })
            }
        }
    }

    async fn supervisor(
        pod: &Pod,
        cgroup: &cgroup::Handle,
        zygote: &Zygote,
    ) -> Result<(Client, Ready), Error> {
        let config = &pod.config;
        let plan = PodPlan {
            name: format!("{}/{}", config.metadata.namespace, config.metadata.name),
            network: config.namespaces.network,
            ipc: config.namespaces.ipc,
            hostname: files::hostname(config),
            sysctls: sysctls(config, &pod.node.config).0,
            shm_bytes: pod.node.config.shm_bytes(),
            users: config.namespaces.users.map().cloned(),
            mount_label: config.selinux.as_ref().map(|labels| labels.file.to_string()).unwrap_or_default(),
        };
        let newborn = zygote.fork(&pod.id, cgroup).await?;
        let (pid, pidfd) = (newborn.pid(), newborn.pidfd());
        pod.node.cgroups.take_in(cgroup, pid, pidfd, &pod_resources(config)).await?;
        Ok(newborn.set_up(&pod.id, &pod.folder, &plan, cgroup).await?)
    }
}

/// It has a supervisor, which holds its namespaces.
struct Supervised<'a> {
    pod: &'a Pod,
    cgroup: cgroup::Handle,
    client: Client,
    ready: Ready,
}

impl<'a> Supervised<'a> {
    async fn attach(self) -> Result<Attached<'a>, Failed> {
        let Self { pod, cgroup, client, ready: Ready { pid, netns } } = self;
        let config = &pod.config;
        let attachment = match (config.namespaces.network, netns) {
            (NetworkMode::Node, _) => Ok(None),
            (NetworkMode::Pod, Some(netns)) => {
                let sysctls = sysctls(config, &pod.node.config).1;
                let request = network::Request { pod: &pod.id, config, netns, sysctls: &sysctls };
                let attached = pod.node.network.attach(request).await;
                crate::failpoint!("pod.network-attached");
                attached.map(Some).map_err(|error| (true, error.into()))
            }
            (NetworkMode::Pod, None) => {
                Err((false, Error::Defect("the supervisor made no network namespace")))
            }
        };
        match attachment {
            Ok(attachment) => Ok(Attached { pod, cgroup, client, pid, attachment }),
            Err((network, error)) => {
                let leftovers = Leftovers { cgroup: Some(cgroup), supervisor: Some(client), network };
                Err(Failed { leftovers, error })
            }
        }
    }
}

/// It is on its network.
struct Attached<'a> {
    pod: &'a Pod,
    cgroup: cgroup::Handle,
    client: Client,
    pid: u32,
    attachment: Option<Attachment>,
}

impl Attached<'_> {
    async fn write_files(self) -> Result<(Client, MadePod), Failed> {
        let Self { pod, cgroup, client, pid, attachment } = self;
        let (folder, config) = (pod.folder.clone(), Arc::clone(&pod.config));
        let addresses = attachment.clone().unwrap_or_default().addresses;
        let written = blocking(move || Ok(files::write(&folder, &config, &addresses))).await;
        let written = written.map_err(Error::io("write the files of a pod in", &pod.folder)).flatten();
        if let Err(error) = written {
            let network = attachment.is_some();
            let leftovers = Leftovers { cgroup: Some(cgroup), supervisor: Some(client), network };
            return Err(Failed { leftovers, error });
        }
        crate::failpoint!("pod.files-written");
        Ok((client, MadePod { cgroup, supervisor_pid: pid, attachment }))
    }
}

/// Takes away what there is of a pod that could not be made: the last thing first, all of it, whatever fails.
/// What cannot be taken away is a debt, and the records stay until that is paid. Without `leftovers` all of its parts
/// are there.
pub(super) async fn undo(pod: Arc<Pod>, client: Option<Client>, leftovers: Option<Leftovers>) -> Report {
    let _reserve = descriptors::lend_reserve();
    let whole = || Leftovers {
        cgroup: pod.cgroup.clone(),
        supervisor: client,
        network: pod.config.namespaces.network == NetworkMode::Pod,
    };
    let Leftovers { cgroup, supervisor, network } = leftovers.unwrap_or_else(whole);
    let log =
        |error: &Error| warn!(pod = %pod.id, error = %chain(error), "could not undo a failed start of a pod");
    let mut debt = Debt::default();
    if network && let Err(error) = pod.node.network.detach(&pod.id).await {
        debt.cause = chain(&error).to_string();
        log(&error.into());
        debt.network = true;
    }
    if let Some(client) = supervisor {
        // Its cgroup is killed next; this only lets it end in order.
        let _ended = client.shutdown().await;
    }
    if let Some(cgroup) = cgroup
        && let Err(error) = clear(cgroup.clone()).await
    {
        log(&error);
        debt.cause = chain(&error).to_string();
        debt.cgroup = Some(cgroup);
    }
    let (places, id) = (pod.node.places.clone(), pod.id.clone());
    let removed =
        if debt.is_paid() { blocking(move || debts::remove_folders(&places, &id)).await } else { Ok(()) };
    if let Err(error) = &removed {
        warn!(pod = %pod.id, %error, "could not remove the records of a pod that was undone");
        debt.cause = error.to_string();
    }
    debt.records = removed.is_err() || !debt.is_paid();
    pod.node.debts.add(&pod.node.places, &pod.id, debt).await;
    Report::Outcome(Outcome::PodUndone)
}

/// Limits of the pod's cgroup. Under a parent of the kubelet's, that parent has them.
fn pod_resources(config: &PodConfig) -> Resources {
    if config.cgroup_parent.is_empty() { config.limits().total() } else { Resources::default() }
}

/// What a pod with a network of its own may do as under other runtimes, unless the operator says otherwise: `ping` and
/// ports below 1024 need no capability there.
fn sysctls_default(namespaces: &NamespaceModes, node: &Config) -> Vec<(&'static str, String)> {
    /// As many groups as the kernel takes.
    const GROUP_MAX: u32 = i32::MAX.cast_unsigned();
    if namespaces.network != NetworkMode::Pod {
        return Vec::new();
    }
    // In a user namespace the groups that it has.
    let groups = namespaces.users.map().and_then(|map| map.gids.first());
    let last = groups.map_or(GROUP_MAX, |range| range.length - 1);
    let ports = ("net.ipv4.ip_unprivileged_port_start", "0".into());
    let ping = ("net.ipv4.ping_group_range", format!("0 {last}"));
    let all = [(node.unprivileged_ports, ports), (node.unprivileged_ping, ping)];
    all.into_iter().filter_map(|(wanted, sysctl)| wanted.then_some(sysctl)).collect()
}

type Sysctls = Vec<(String, String)>;

/// The defaults, and over them what was asked for: (those of the namespaces, which are set as these are made; those of
/// the pod's interface, which are set when it is there).
fn sysctls(config: &PodConfig, node: &Config) -> (Sysctls, Sysctls) {
    let defaults = sysctls_default(&config.namespaces, node).into_iter();
    let defaults = defaults.map(|(key, value)| (key.to_owned(), value));
    let asked = config.sysctls.iter().map(|(key, value)| (key.clone(), value.clone()));
    defaults.chain(asked).partition(|(key, _)| !network::is_of_interface(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_of_the_kubelets_cgroup_has_no_limits_of_its_own() {
        let resources = Resources { memory_bytes: 100, cpu_shares: 5, ..Resources::default() };
        let overhead = Resources { memory_bytes: 20, cpu_quota_us: 7, ..Resources::default() };
        let mut config =
            PodConfig { resources: Some(resources), overhead: Some(overhead), ..PodConfig::default() };
        assert_eq!(
            pod_resources(&config),
            Resources { memory_bytes: 120, cpu_shares: 5, ..Resources::default() }
        );
        config.cgroup_parent = "/kubepods/pod1".into();
        assert_eq!(pod_resources(&config), Resources::default());
    }
}
