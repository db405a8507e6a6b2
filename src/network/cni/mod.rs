//! Networks that plugins make: the Container Network Interface, versions 0.1.0 to 1.1.0 of its specification.
//!
//! - `config.rs`, `folder.rs`: which configuration counts, and the folder that it is read from.
//! - `capability.rs`, `invocation.rs`: what plugins are given of a pod, and how.
//! - `plugin.rs`, `chain.rs`: one plugin as a child process; all of a network, one after another.
//! - `result.rs`: what they answer.
//! - `cache.rs`: what is kept of an attachment, for DEL and for libcni's tools.
//! - `netns.rs`: the path of a pod's namespace.
//! - `ranges.rs`, `template.rs`: the node's pod CIDRs, and the configuration that is made of them where one is wanted.
//! - `probe.rs`: whether the network could serve a pod, asked beside the requests.
//!
//! Invariant: an attachment is recorded before its ADD and until its DEL has ended well, with all that DEL needs.
//! Invariant: a plugin is a child process with a deadline, in a process group that is killed as a whole, without the
//! daemon's environment and descriptors.
//! Not here: when DEL is tried again (`pod`), host ports without a plugin for them.

use std::{collections::HashSet, os::fd::AsFd as _, path::PathBuf, sync::Arc};

use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};
use tracing::{debug, warn};

use self::{
    cache::{Attached, Cache},
    chain::Chain,
    config::{NetworkList, PluginConfig},
    folder::{Folder, Loaded, Seen},
    invocation::{Subject, Valid},
    plugin::Plugins,
    probe::Probe,
    ranges::Ranges,
};
use super::{Attachment, Config, Error, INTERFACE, NetworkKind, Request, Traces, netlink};
use crate::{
    failpoint,
    model::{PodConfig, PodId},
    telemetry::{log::chain, task},
};

mod cache;
mod capability;
mod chain;
mod config;
mod folder;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod invocation;
mod netns;
mod plugin;
mod probe;
mod ranges;
mod result;
mod template;

pub use capability::BadPod;
pub use plugin::Fault;

/// Pods that are added at the same time, and as many that are deleted. Each is some processes, and all of them wait for
/// the kernel's one lock on links.
const TURNS: usize = 16;

/// Pods that may wait to be added: behind plugins that hang it is long.
const WAITING_MAX: usize = 256;

/// The network of the plugins.
#[derive(Debug)]
pub(super) struct Cni {
    folder: Arc<Folder>,
    plugins: Arc<Plugins>,
    cache: Arc<Cache>,
    ranges: Arc<Ranges>,
    /// Where namespaces are mounted for plugins to find.
    netns: PathBuf,
    adds: Semaphore,
    /// Those being added and those that wait for it.
    queue: Semaphore,
    /// A turn of its own kind: what hangs while pods are added must not keep others from being stopped.
    deletes: Semaphore,
    /// A DEL has ended well.
    released: Notify,
    probe: Arc<Probe>,
}

impl Cni {
    /// Keeps the records of attachments below the folder `records`, which should outlive a reboot.
    pub(super) fn open(config: &Config, records: PathBuf) -> Result<Self, Error> {
        let plugins = Arc::new(Plugins::new(config.cni_bin_dirs.clone(), config.cni_timeout()));
        Ok(Self {
            folder: Arc::new(Folder::new(config.cni_conf_dir.clone())),
            ranges: Arc::new(Ranges::open(
                records.with_extension("ranges"),
                config.cni_conf_template.clone(),
            )),
            cache: Arc::new(Cache::open(records, &config.cni_cache_dir)?),
            netns: config.netns_dir.clone(),
            adds: Semaphore::new(TURNS),
            queue: Semaphore::new(TURNS + WAITING_MAX),
            deletes: Semaphore::new(TURNS),
            released: Notify::new(),
            probe: Arc::new(Probe::new(Arc::clone(&plugins))),
            plugins,
        })
    }

    /// Reads the folder of configurations again, and has the plugins asked for their status where that is due.
    pub(super) async fn refresh(&self) {
        let _seen = self.look().await;
    }

    async fn look(&self) -> Seen {
        let folder = Arc::clone(&self.folder);
        let seen = task::blocking("CNI configuration", move || folder.look()).await;
        if let Some(loaded) = &seen.good {
            self.probe.ask(loaded);
        }
        seen
    }

    /// Whether there is a configuration, good or not, as of the last look.
    pub(super) fn is_configured(&self) -> bool {
        self.folder.last_seen() != Seen::default()
    }

    /// `Ok` when the plugins could serve a pod, as of the last look and the plugins' last word.
    pub(super) fn ready(&self) -> Result<(), Error> {
        let loaded = self.usable(self.folder.last_seen())?;
        self.probe.verdict(&loaded)
    }

    pub(super) fn admit(&self, pod: &PodConfig) -> Result<(), Error> {
        self.usable(self.folder.last_seen())?;
        let nobody = PodId::from_bytes([0; 32]);
        capability::args(&nobody, pod).map(drop).map_err(Error::Pod)
    }

    /// Whether a plugin forwards host ports, as of the last look.
    pub(super) fn maps_ports(&self) -> bool {
        self.usable(self.folder.last_seen()).is_ok_and(|loaded| loaded.list.takes("portMappings"))
    }

    /// ADD. A failure leaves the record of the attempt: [`Cni::detach`] is to follow, whatever happened.
    pub(super) async fn attach(&self, request: Request<'_>) -> Result<Attachment, Error> {
        let Request { pod, config, netns, sysctls } = request;
        let loaded = self.usable(self.look().await)?;
        let path = netns::path(&self.netns, pod);
        let ranges = self.ranges.get();
        let args = capability::args(pod, config).map_err(Error::Pod)?;
        let capabilities = capability::capabilities(config, &ranges).map_err(Error::Bandwidth)?;
        let identity = netns::identity(netns.as_fd());
        let mut attached = Attached {
            list: loaded.list.clone(),
            subject: Subject {
                container: pod.to_string(),
                netns: path.to_string_lossy().into_owned(),
                interface: INTERFACE.into(),
                args,
                capabilities,
            },
            result: None,
            namespace: Some(identity.map_err(|source| Error::Namespace { pod: pod.clone(), source })?),
        };
        let copy = || netns.try_clone().map_err(|source| Error::Namespace { pod: pod.clone(), source });
        let _place = self.queue.try_acquire().map_err(|_| Error::Busy { waiting: WAITING_MAX })?;
        let _turn = self.adds.acquire().await;
        self.blocking({
            let (pod, netns, attached) = (pod.clone(), copy()?, attached.clone());
            move |cache| {
                cache.begin(&pod, &attached)?;
                failpoint!("cni.intent-written");
                netns::pin(netns.as_fd(), &path)
            }
        })
        .await?;
        failpoint!("cni.netns-pinned");
        let result = Chain { plugins: &self.plugins, list: &loaded.list }.add(&attached).await?;
        failpoint!("cni.added");
        let attachment = attachment(&result, &attached.subject.netns)?;
        netlink::set_sysctls(pod, copy()?, sysctls).await?;
        attached.result = Some(result);
        let pod = pod.clone();
        debug!(%pod, network = loaded.list.name, addresses = ?attachment.addresses, "pod attached by CNI plugins");
        self.blocking(move |cache| cache.keep(&pod, &attached)).await?;
        failpoint!("cni.result-written");
        Ok(attachment)
    }

    /// What the pod has, by its record; `None` where the plugins gave it nothing.
    pub(super) async fn attachment_of(&self, pod: &PodId) -> Result<Option<Attachment>, Error> {
        let pod = pod.clone();
        let attached = self.blocking(move |cache| cache.get(&pod)).await?;
        let Some(Attached { subject, result: Some(result), .. }) = attached else { return Ok(None) };
        attachment(&result, &subject.netns).map(Some)
    }

    /// DEL, if anything is recorded of the pod: with what ADD was given, and without the namespace if that is gone.
    pub(super) async fn detach(&self, pod: &PodId) -> Result<(), Error> {
        let known = {
            let pod = pod.clone();
            self.blocking(move |cache| cache.get(&pod)).await
        };
        if known.is_err() {
            // Nobody can ask for DEL; the namespace at least is not kept for that.
            let path = netns::path(&self.netns, pod);
            self.blocking(move |_| netns::unpin(&path)).await?;
        }
        let Some(mut attached) = known? else { return Ok(()) };
        let pinned = PathBuf::from(&attached.subject.netns);
        {
            let (pinned, known) = (pinned.clone(), attached.namespace);
            if !self.blocking(move |_| Ok(netns::is_there(&pinned, known))).await? {
                attached.subject.netns.clear();
            }
        }
        let _turn = self.deletes.acquire().await;
        Chain { plugins: &self.plugins, list: &attached.list }.del(&attached).await?;
        self.released.notify_one();
        failpoint!("cni.deleted");
        debug!(%pod, network = attached.list.name, "pod detached by CNI plugins");
        let pod = pod.clone();
        self.blocking(move |cache| {
            netns::unpin(&pinned)?;
            failpoint!("cni.netns-unpinned");
            cache.forget(&pod, Some(&attached))
        })
        .await
    }

    /// Waits until a DEL has ended well; one that did while nobody waited ends the next wait.
    pub(super) async fn released(&self) {
        self.released.notified().await;
    }

    /// Whether an attachment of the pod is recorded. Blocking, for a moment.
    pub(super) fn has(&self, pod: &PodId) -> bool {
        self.cache.has(pod)
    }

    /// The pods of which an attachment is recorded, and those whose namespace is mounted for plugins.
    pub(super) async fn traces(&self) -> Result<Traces, Error> {
        let folder = self.netns.clone();
        let list = move |cache: &Cache| {
            let failed = |source| Error::File {
                operation: "list network namespaces in",
                path: folder.clone(),
                source,
            };
            let owned = cache.pods()?.into_iter().map(|pod| (pod, "CNI attachment".into())).collect();
            let pinned = netns::pinned(&folder).map_err(failed)?.into_iter();
            let pinned = pinned.map(|pod| {
                let object = format!("network namespace {}", netns::path(&folder, &pod).display());
                (pod, object)
            });
            Ok(Traces { owned, pinned: pinned.collect() })
        };
        self.blocking(list).await
    }

    /// The recorded pods that are not among `live`: DEL is due for them. The others are checked.
    pub(super) async fn sweep(&self, live: &HashSet<PodId>) -> Result<Vec<PodId>, Error> {
        let pods = self.blocking(Cache::pods).await?;
        let (valid, dead): (Vec<PodId>, Vec<PodId>) = pods.into_iter().partition(|pod| live.contains(pod));
        self.check(valid);
        Ok(dead)
    }

    /// GC: has the plugins free what belongs to no attachment that is recorded here. One whose DEL is due is valid until
    /// then: its address must not be free while rules still lead to it.
    pub(super) async fn collect(&self) -> Result<(), Error> {
        let Some(loaded) = self.look().await.good else { return Ok(()) };
        let valid = self.blocking(Cache::pods).await?;
        let valid = valid.iter().map(|pod| Valid { container: pod.to_string(), interface: INTERFACE.into() });
        Chain { plugins: &self.plugins, list: &loaded.list }.gc(&valid.collect::<Vec<_>>()).await
    }

    /// Has the plugins CHECK what they gave to `pods`, in a task of its own: a node may have lost it while there was no
    /// daemon. A loss is logged; what to do about it is an operator's to say.
    fn check(&self, pods: Vec<PodId>) {
        let (cache, plugins) = (Arc::clone(&self.cache), Arc::clone(&self.plugins));
        task::spawn("CNI check", async move {
            for pod in pods {
                let (reader, id) = (Arc::clone(&cache), pod.clone());
                let there = move || {
                    let attached = reader.get(&id).ok()??;
                    let path = PathBuf::from(&attached.subject.netns);
                    netns::is_there(&path, attached.namespace).then_some(attached)
                };
                let Some(attached) = task::blocking("CNI attachment", there).await else { continue };
                let checked = Chain { plugins: &plugins, list: &attached.list }.check(&attached).await;
                // One that is being detached is no loss.
                if let (Err(error), true) = (checked, cache.has(&pod)) {
                    warn!(%pod, error = %chain(&error), "a pod's CNI attachment is not what it was");
                }
            }
        });
    }

    /// The ranges that the kubelet has named.
    pub(super) fn pod_ranges(&self) -> Vec<String> {
        self.ranges.get()
    }

    /// Keeps the ranges; where there is a template and no configuration, makes one of it if `wanted`.
    pub(super) async fn set_pod_ranges(&self, ranges: Vec<String>, wanted: bool) -> Result<(), Error> {
        let none = self.look().await == Seen::default();
        let (kept, folder) = (Arc::clone(&self.ranges), self.folder.path().to_owned());
        let made = task::blocking("pod CIDRs", move || {
            kept.set(&ranges)?;
            if wanted && none { kept.make_configuration(&ranges, &folder) } else { Ok(false) }
        })
        .await?;
        if made {
            self.refresh().await;
        }
        Ok(())
    }

    /// The configuration as containerd shows it in a verbose status (`cniconfig`), and whether the folder could be read
    /// (`lastCNILoadStatus`). As of the last look.
    pub(super) fn info(&self) -> (Value, String) {
        let Seen { good, broken } = self.folder.last_seen();
        let networks: Vec<Value> = good.iter().map(|loaded| network_info(&loaded.list)).collect();
        let config = json!({
            "PluginDirs": self.plugins.path().split(':').collect::<Vec<_>>(),
            "PluginConfDir": self.folder.path(),
            "PluginMaxConfNum": 1,
            "Prefix": "eth",
            "Networks": networks,
        });
        let status = match (broken, good) {
            (Some(reason), _) => reason,
            (None, Some(_)) => "OK".into(),
            (None, None) => format!("no CNI configuration in {}", self.folder.path().display()),
        };
        (config, status)
    }

    fn usable(&self, seen: Seen) -> Result<Arc<Loaded>, Error> {
        match seen {
            Seen { good: Some(loaded), .. } => Ok(loaded),
            Seen { broken: Some(reason), .. } => Err(Error::NotReady(format!("CNI configuration {reason}"))),
            Seen { .. } => {
                Err(Error::NotReady(format!("no CNI configuration in {}", self.folder.path().display())))
            }
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Cache) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let cache = Arc::clone(&self.cache);
        task::blocking("CNI attachment", move || work(&cache)).await
    }
}

/// Whether pods of this node could be attached by plugins: the file of the configuration and its network's name; `None`
/// where there is no configuration. Asks the plugins.
///
/// # Errors
/// What they lack, as [`super::Network::ready`] would say.
pub async fn inspect(config: &Config) -> Result<Option<(PathBuf, String)>, Error> {
    let folder = Folder::new(config.cni_conf_dir.clone());
    match task::blocking("CNI configuration", move || folder.look()).await {
        Seen { broken: Some(reason), .. } => Err(Error::NotReady(format!("CNI configuration {reason}"))),
        Seen { good: None, .. } => Ok(None),
        Seen { good: Some(loaded), .. } => {
            let plugins = Plugins::new(config.cni_bin_dirs.clone(), config.cni_timeout());
            Probe::new(Arc::new(plugins)).answer(&loaded).await?;
            Ok(Some((loaded.path.clone(), loaded.list.name.clone())))
        }
    }
}

fn network_info(list: &NetworkList) -> Value {
    let plugin = |plugin: &PluginConfig| {
        let source = Value::Object(plugin.object.clone());
        json!({"Network": source, "Source": source.to_string()})
    };
    json!({
        "Config": {
            "Name": list.name,
            "CNIVersion": list.version.to_string(),
            "Plugins": list.plugins.iter().map(plugin).collect::<Vec<_>>(),
            "Source": String::from_utf8_lossy(&list.bytes),
        },
        "IFName": INTERFACE,
    })
}

/// What the result of an ADD gives to a pod: IPv4 first, as containerd has it.
fn attachment(result: &Value, netns: &str) -> Result<Attachment, Error> {
    let mut addresses =
        result::addresses(result, INTERFACE).map_err(|error| Error::BadResult(error.to_string()))?;
    addresses.sort_by_key(std::net::IpAddr::is_ipv6);
    let netns = Some(PathBuf::from(netns));
    Ok(Attachment {
        interface: INTERFACE.into(),
        addresses,
        made_by: NetworkKind::Cni,
        netns,
        ..Attachment::default()
    })
}
