//! CreateContainer: from an intent to a process at its start barrier, or to nothing.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use tokio::sync::OwnedSemaphorePermit;
use tracing::warn;

use super::{super::pod::Pod, Report, erase::erase_container};
use crate::{
    image::Image,
    model::{ContainerConfig, ContainerId, ContainerPlan, Failure, ImageVolume, PodConfig, Stage},
    pod::{
        cdi,
        error::{Error, chain},
        keep::{
            self, ContainerRecord, Made, blocking,
            debts::{ContainerDebt, Debt},
            files,
        },
        life::Outcome,
        seccomp,
        signal::stop_signal,
        view::{ContainerState, ContainerView},
    },
    spec,
    store::{self, Durability},
    supervisor::Client,
};

/// The create's place in the node's queue.
pub(super) async fn await_turn(pod: Arc<Pod>, id: ContainerId) -> Report {
    match pod.node.creates.enter().await {
        Ok(turn) => Report::Turn(id, turn),
        Err(busy) => Report::Outcome(Outcome::Turn(id, Err(busy))),
    }
}

pub(super) async fn make(
    pod: Arc<Pod>,
    client: Option<Client>,
    id: ContainerId,
    config: Arc<ContainerConfig>,
    turn: Option<OwnedSemaphorePermit>,
) -> Report {
    let made = match (pod.node.images.find(&config.image), &client) {
        (Err(error), _) => Err(error.into()),
        (Ok(None), _) => Err(Error::NoSuchImage(config.image.clone())),
        (_, None) => Err(Failure::new(Stage::Connection, format!("of pod {}", pod.id), "").into()),
        (Ok(Some(image)), Some(client)) => {
            let made = match volume_images(&pod, &config) {
                Ok(volume_images) => {
                    let creation = ContainerCreation { pod: &pod, client, image: &image, volume_images };
                    creation.run(&id, config).await
                }
                Err(error) => Err(error),
            };
            if made.is_err() {
                undo(&pod, Some(client), &id).await;
            }
            made
        }
    };
    drop(turn);
    Report::Outcome(Outcome::Made(id, made.map(Box::new)))
}

/// The images that are the content of mounts. They must be here: the kubelet pulls them beforehand, with the pod's
/// credentials.
fn volume_images(pod: &Pod, config: &ContainerConfig) -> Result<Vec<Arc<Image>>, Error> {
    let asked = config.mounts.iter().filter_map(|mount| mount.image.as_ref());
    let find = |volume: &ImageVolume| {
        let found = pod.node.images.find(&volume.reference)?;
        found.ok_or_else(|| Error::NoSuchImage(volume.reference.clone()))
    };
    asked.map(find).collect()
}

/// For a container that is not to be, or that an earlier daemon left half-made.
pub(super) async fn unmake(pod: Arc<Pod>, client: Option<Client>, id: ContainerId) -> Report {
    undo(&pod, client.as_ref(), &id).await;
    Report::Outcome(Outcome::Unmade(id))
}

async fn undo(pod: &Arc<Pod>, client: Option<&Client>, id: &ContainerId) {
    if let Err(error) = erase_container(pod, client, id).await {
        // Its records stay, as an intent, until that is done.
        warn!(pod = %pod.id, container = %id, error = %chain(&error), "could not undo a failed create");
        let left = ContainerDebt { cgroup: pod.cgroup.clone() };
        let containers = BTreeMap::from([(id.clone(), left)]);
        let debt = Debt { containers, ..Debt::default() }.because(chain(&error));
        pod.node.debts.add(&pod.node.places, &pod.id, debt).await;
    }
}

/// A container that is being made.
struct ContainerCreation<'a> {
    pod: &'a Arc<Pod>,
    client: &'a Client,
    image: &'a Image,
    /// The content of mounts, in the order of those in the request.
    volume_images: Vec<Arc<Image>>,
}

impl ContainerCreation<'_> {
    async fn run(&self, id: &ContainerId, config: Arc<ContainerConfig>) -> Result<ContainerView, Error> {
        let record = self.intent(id, config);
        for image in record.images() {
            self.pod.node.images.retain(image, id);
        }
        let writable = self.write_intent(record.clone()).await?;
        let plan = self.plan(&record, writable).await?;
        let init = keep::init_file(&self.pod.folder, id);
        keep::put(init, plan.process.clone()).await?;
        self.pod.access.keep_init(id, Arc::new(plan.process.clone()));
        let facts = self.client.create(&plan).await?;
        crate::failpoint!("container.created");
        let state = ContainerState::Created { pid: facts.pid };
        Ok(record.view(Made { state, user: facts.user, starting: false }))
    }

    fn intent(&self, id: &ContainerId, config: Arc<ContainerConfig>) -> ContainerRecord {
        let (pod, image) = (self.pod, self.image);
        let mut resources = config.resources.clone();
        if resources.pids_max == 0 {
            resources.pids_max = pod.node.config.pids_max;
        }
        let named = [&config.user_specified_image, &config.image].into_iter().find(|name| !name.is_empty());
        let image_name = match (config.user_specified_image.as_str(), image.repo_tags.first()) {
            ("", Some(tag)) => tag.clone(),
            (_, Some(_) | None) => named.cloned().unwrap_or_else(|| image.id.to_string()),
        };
        let logged = !config.log_path.is_empty() && !pod.config.log_directory.is_empty();
        ContainerRecord {
            id: id.clone(),
            pod: pod.id.clone(),
            image_id: image.id.clone(),
            image_ref: image.repo_digests.first().cloned().unwrap_or_else(|| image.id.to_string()),
            volume_images: self.volume_images.iter().map(|image| image.id.clone()).collect(),
            image_name,
            created_at: pod.node.creation_time(),
            log_path: logged.then(|| {
                let path = std::path::Path::new(&pod.config.log_directory).join(&config.log_path);
                path.to_string_lossy().into_owned()
            }),
            resources,
            stop_signal: stop_signal(config.stop_signal, &image.config.stop_signal),
            config,
            made: None,
        }
    }

    /// First on tmpfs, for a daemon that is killed; then on disk, for a machine that is; then the folder for
    /// the writable layer, which is given back.
    async fn write_intent(&self, record: ContainerRecord) -> Result<PathBuf, Error> {
        let live = keep::container_file(&self.pod.folder, &record.id);
        let known = self.pod.node.places.known(&self.pod.id);
        let images = self.pod.node.images.clone();
        let doing = Error::io("write the records of a container in", &self.pod.folder);
        let write = move || {
            store::put(&live, &record, Durability::Process)?;
            crate::failpoint!("container.intent-written");
            keep::make_folder(&known)?;
            store::put(&keep::container_file(&known, &record.id), &record, Durability::Process)?;
            Ok(images.make_writable(&record.id))
        };
        let writable = blocking(write).await.map_err(doing)??;
        crate::failpoint!("container.writable-made");
        Ok(writable)
    }

    async fn plan(&self, record: &ContainerRecord, writable: PathBuf) -> Result<ContainerPlan, Error> {
        let mut config = ContainerConfig { resources: record.resources.clone(), ..(*record.config).clone() };
        self.pod.config.handler.complete(&mut config.security);
        cdi::inject(&self.pod.node.cdi, &mut config).await?;
        // `build` knows no host, so the name is settled here.
        let pod = PodConfig { hostname: files::hostname(&self.pod.config), ..(*self.pod.config).clone() };
        let volume_layers: Vec<_> = self.volume_images.iter().map(|image| image.layers.clone()).collect();
        let filter = seccomp::filter(&config).await?;
        let mut plan = spec::build(&spec::Inputs {
            id: &record.id,
            pod: &pod,
            container: &config,
            image: &self.image.config,
            layers: &self.image.layers,
            volume_layers: &volume_layers,
            writable,
            pod_dir: self.pod.folder.clone(),
            seccomp_flags: filter.as_ref().map_or(0, |filter| filter.flags),
            seccomp: filter.map(|filter| filter.program),
            apparmor: self.pod.node.apparmor.profile(&config).await?,
            held_capabilities: self.pod.node.held_capabilities,
        })?;
        plan.process.nofile = (self.pod.node.config.nofile_soft, self.pod.node.config.nofile_hard);
        Ok(plan)
    }
}
