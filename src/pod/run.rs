//! RunPodSandbox: from a name to a pod that is ready, or to nothing.

use std::{path::PathBuf, sync::Arc};

use tracing::{info, warn};

use super::{
    announce::Change,
    container::random_bytes,
    driver::{Driver, Pod, Start},
    effect::clear,
    error::{Error, chain},
    keep::{self, PodRecord, blocking, files, owed},
    node::{Node, SupervisorAccess},
    state::{PodInput, PodState},
};
use crate::{
    cgroup,
    model::{NetworkMode, PodConfig, PodId, PodPlan, Resources},
    network::{self, Attachment},
    store::{self, Durability},
    supervisor::{Client, Ready, Zygote},
    sys::descriptors,
};

/// Waits for its turn, makes the pod, answers, and drives it until it is removed. Runs as a task of its own: a
/// caller that hangs up changes nothing. `told` is called once, when the pod can be listed or nothing is left of
/// it.
pub(super) async fn run(
    node: Arc<Node>,
    zygote: Arc<Zygote>,
    config: PodConfig,
    told: impl FnOnce(Result<PodId, Error>),
) {
    let name = config.metadata.clone();
    let made = match node.creates.enter().await {
        // The turn ends here, before anybody is told.
        Ok(_turn) => bring_up(&node, &zygote, config).await,
        Err(busy) => Err(busy),
    };
    match made {
        Ok(driver) => {
            told(Ok(driver.pod.id.clone()));
            driver.serve().await;
        }
        Err(error) => {
            warn!(pod = name.name, namespace = name.namespace, error = %chain(&error), "pod could not be made");
            node.names().give_up(&name);
            told(Err(error));
        }
    }
}

async fn bring_up(node: &Arc<Node>, zygote: &Zygote, config: PodConfig) -> Result<Driver, Error> {
    let id = PodId::from_bytes(random_bytes()?);
    let mut creation = PodCreation {
        node,
        zygote,
        folder: node.places.live(&id),
        record: PodRecord {
            id,
            boot_id: node.boot_id.clone(),
            state: PodState::Starting,
            config: Arc::new(config),
            created_at: node.creation_time(),
            attachment: None,
            supervisor_pid: 0,
            limits: None,
        },
        undos: Vec::new(),
    };
    match creation.all().await {
        Ok(driver) => Ok(driver),
        Err(error) => {
            creation.undo().await;
            Err(error)
        }
    }
}

/// What has to be taken back, in the order in which it was made.
enum Undo {
    Records,
    Cgroup(cgroup::Handle),
    Supervisor(Client),
    Network,
}

struct PodCreation<'a> {
    node: &'a Arc<Node>,
    zygote: &'a Zygote,
    folder: PathBuf,
    record: PodRecord,
    undos: Vec<Undo>,
}

impl PodCreation<'_> {
    async fn all(&mut self) -> Result<Driver, Error> {
        self.undos.push(Undo::Records);
        self.write_intent().await?;
        let cgroup = self.make_cgroup().await?;
        let (client, ready) = self.spawn(&cgroup).await?;
        self.record.supervisor_pid = ready.pid;
        self.record.attachment = self.attach(ready).await?;
        self.write_files().await?;

        let ready = self.record.state.step(PodInput::Started);
        self.record.state = ready.map_err(|refusal| Error::refused("new pod", refusal))?;
        keep::put(keep::pod_file(&self.folder), self.record.clone()).await?;
        crate::failpoint!("pod.ready-written");
        Ok(self.driver(cgroup, client))
    }

    /// First on tmpfs, for a daemon that is killed; then on disk, for a machine that is.
    async fn write_intent(&self) -> Result<(), Error> {
        let (live, known) = (self.folder.clone(), self.node.places.known(&self.record.id));
        let record = self.record.clone();
        let write = move || {
            keep::make_folder(&live)?;
            store::put(&keep::pod_file(&live), &record, Durability::Process)?;
            keep::make_folder(&known)?;
            store::put(&keep::pod_file(&known), &record, Durability::Process)
        };
        blocking(write).await.map_err(Error::io("write the records of a pod in", &self.folder))?;
        crate::failpoint!("pod.intent-written");
        Ok(())
    }

    /// Recorded before it is made: whoever finds the pod unfinished knows what to take away, also under another
    /// driver. In a file of its own, so that it can be read when the pod's record cannot.
    async fn make_cgroup(&mut self) -> Result<cgroup::Handle, Error> {
        let config = &self.record.config;
        let handle = self.node.cgroups.plan_pod(&config.cgroup_parent, &self.record.id)?;
        keep::put(keep::cgroup_file(&self.folder), handle.clone()).await?;
        self.node.cgroups.create_pod(&handle, &pod_resources(config)).await?;
        self.undos.push(Undo::Cgroup(handle.clone()));
        crate::failpoint!("pod.cgroup-made");
        Ok(handle)
    }

    async fn spawn(&mut self, cgroup: &cgroup::Handle) -> Result<(Client, Ready), Error> {
        let config = &self.record.config;
        let plan = PodPlan {
            network: config.namespaces.network,
            ipc: config.namespaces.ipc,
            hostname: files::hostname(config),
            sysctls: sysctls(config).0,
            shm_bytes: self.node.config.shm_bytes(),
        };
        let newborn = self.zygote.fork(&self.record.id, cgroup).await?;
        let (pid, pidfd) = (newborn.pid(), newborn.pidfd());
        self.node.cgroups.take_in(cgroup, pid, pidfd, &pod_resources(config)).await?;
        let (client, ready) = newborn.set_up(&self.record.id, &self.folder, &plan, cgroup).await?;
        self.undos.push(Undo::Supervisor(client.clone()));
        crate::failpoint!("pod.supervisor-spawned");
        Ok((client, ready))
    }

    async fn attach(&mut self, ready: Ready) -> Result<Option<Attachment>, Error> {
        let config = &self.record.config;
        let netns = match (config.namespaces.network, ready.netns) {
            (NetworkMode::Node, _) => return Ok(None),
            (NetworkMode::Pod, Some(netns)) => netns,
            (NetworkMode::Pod, None) => {
                return Err(Error::Invalid("the supervisor made no network namespace".into()));
            }
        };
        // An attach that fails half-way may have taken an address.
        self.undos.push(Undo::Network);
        let attached = self
            .node
            .network
            .attach(&self.record.id, netns, &config.port_mappings, &sysctls(config).1)
            .await?;
        crate::failpoint!("pod.network-attached");
        Ok(Some(attached))
    }

    async fn write_files(&self) -> Result<(), Error> {
        let (folder, config) = (self.folder.clone(), Arc::clone(&self.record.config));
        let attachment = self.record.attachment.clone().unwrap_or_default();
        let written = blocking(move || Ok(files::write(&folder, &config, &attachment.addresses))).await;
        written.map_err(Error::io("write the files of a pod in", &self.folder)).flatten()?;
        crate::failpoint!("pod.files-written");
        Ok(())
    }

    /// From here on the pod can be listed and found. It has to be before anybody is told its id.
    fn driver(&self, cgroup: cgroup::Handle, client: Client) -> Driver {
        let (record, node) = (&self.record, self.node);
        let (mut driver, reach) = Driver::new(Start {
            pod: Pod {
                node: Arc::clone(node),
                id: record.id.clone(),
                config: Arc::clone(&record.config),
                created_at: record.created_at,
                folder: self.folder.clone(),
                cgroup: Some(cgroup),
                access: Arc::<SupervisorAccess>::default(),
            },
            state: record.state,
            limits: record.config.limits(),
            attachment: record.attachment.clone(),
            supervisor_pid: record.supervisor_pid,
            containers: Vec::new(),
        });
        driver.supervise(client, record.supervisor_pid);
        let (id, name) = (&record.id, &record.config.metadata);
        driver.publish();
        node.names().hold(name, id.clone(), reach);
        driver.tell(None, Change::Created);
        driver.tell(None, Change::Started);
        info!(pod = %id, name = name.name, namespace = name.namespace, "pod ready");
        driver
    }

    /// In reverse, all of them, whatever fails. After a failure the records stay, and the next start of the
    /// daemon tries again; the name is free at once.
    async fn undo(&mut self) {
        let _reserve = descriptors::lend_reserve();
        let pod = &self.record.id;
        let mut clean = true;
        while let Some(undo) = self.undos.pop() {
            let undone = match undo {
                Undo::Network => self.release().await,
                Undo::Supervisor(client) => {
                    // Its cgroup is killed next; this only lets it end in order.
                    let _ = client.shutdown().await;
                    Ok(())
                }
                Undo::Cgroup(handle) => clear(handle).await,
                Undo::Records if clean => self.remove_records().await,
                Undo::Records => Ok(()),
            };
            if let Err(error) = undone {
                clean = false;
                warn!(%pod, error = %chain(&error), "could not undo a failed start of a pod");
            }
        }
    }

    async fn release(&self) -> Result<(), Error> {
        let released = self.node.network.detach(&self.record.id).await;
        if released.is_err() {
            owed::note(self.node, &self.record.id).await;
        }
        Ok(released?)
    }

    async fn remove_records(&self) -> Result<(), Error> {
        let (live, known) = (self.folder.clone(), self.node.places.known(&self.record.id));
        let remove = move || {
            keep::remove_folder(&known)?;
            keep::remove_folder(&live)
        };
        blocking(remove).await.map_err(Error::io("remove the records of a pod in", &self.folder))
    }
}

/// Limits of the pod's cgroup. Under a parent of the kubelet's, that parent has them.
fn pod_resources(config: &PodConfig) -> Resources {
    if config.cgroup_parent.is_empty() { config.limits().total() } else { Resources::default() }
}

/// What a pod with a network of its own may do as under other runtimes: `ping` and ports below 1024 need no
/// capability there.
const SYSCTLS_DEFAULT: [(&str, &str); 2] =
    [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

type Sysctls = Vec<(String, String)>;

/// The defaults, and over them what was asked for: (those of the namespaces, which are set as these are made; those of
/// the pod's interface, which are set when it is there).
fn sysctls(config: &PodConfig) -> (Sysctls, Sysctls) {
    let own_network = config.namespaces.network == NetworkMode::Pod;
    let defaults = SYSCTLS_DEFAULT.iter().filter(|_| own_network).map(|(key, value)| (*key, *value));
    let asked = config.sysctls.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    let all = defaults.chain(asked).map(|(key, value)| (key.to_owned(), value.to_owned()));
    all.partition(|(key, _)| !network::is_of_interface(key))
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
