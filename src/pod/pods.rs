//! The face of the room: calls about pods and containers, passed to the drivers.

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;
use tracing::error;

use super::{
    audit,
    drive::{Driver, Pod},
    error::{Error, chain},
    exec::{ExecOutput, client_of, exec_sync},
    life::{Answer, Call, Event},
    node::{Deps, Node},
    reach::{Mail, Reach, SupervisorAccess},
    reconcile, recover,
    storage::{self, StorageFault},
    users,
    view::{Board, ContainerView, PodView, View},
};
use crate::{
    event::{self, Subscriber},
    image::Images,
    model::{
        ContainerConfig, ContainerId, IdPrefix, NetworkMode, PodConfig, PodId, PodLimits, Resources,
        UnixNanos,
    },
    network,
    supervisor::Zygote,
    sys::descriptors,
    telemetry::task,
};

/// How long a status may wait for the disk to say what network is configured.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// Every pod and container of the node. Cheap to clone.
///
/// What changes something is done by the pod's driver, to the end, also when the caller goes away. Ids may be
/// unique prefixes.
#[derive(Clone, Debug)]
pub struct Pods {
    node: Arc<Node>,
    zygote: Arc<Zygote>,
}

impl Pods {
    /// Reads the records of earlier daemons and takes their pods over. When this returns, all are listed, as
    /// their supervisors say; those of a supervisor that takes its time, as recorded.
    ///
    /// # Errors
    /// When the folders cannot be made or listed. A bad record is no error: it costs its own object.
    pub async fn start_up(deps: Deps) -> Result<Self, Error> {
        let (node, zygote) = Node::new(deps);
        let (node, zygote) = (Arc::new(node), Arc::new(zygote));
        let reader = Arc::clone(&node);
        let survey = move || {
            if let Err(error) = reader.places.make() {
                // A disk that is read-only or full keeps nobody from listing and stopping what runs.
                error!(error = %chain(&error), "could not prepare the folders of pods");
            }
            recover::survey::survey(&reader)
        };
        let survey = task::blocking("survey", survey).await?;
        recover::recover(&node, survey).await;
        task::spawn("reconciler", reconcile::run(Arc::clone(&node)));
        task::spawn("audit", audit::run(Arc::clone(&node)));
        Ok(Self { node, zygote })
    }

    /// RunPodSandbox. A retry of a call that is still at work waits for its result; one of a pod that is ready
    /// gets its id.
    ///
    /// # Errors
    /// [`Error::UnknownHandler`], and what the network can never do, before anything is taken; after any other nothing is left, and the name is free.
    pub async fn run(&self, mut config: PodConfig) -> Result<PodId, Error> {
        self.node.handlers.settle(&mut config)?;
        if config.namespaces.users.map().is_some() {
            self.node.users.check().map_err(Error::NoUserNamespaces)?;
        }
        if config.namespaces.network == NetworkMode::Pod {
            self.node.network.admit(&config).await?;
        }
        let config = Arc::new(config);
        let id = PodId::from_bytes(random_bytes()?);
        // The name comes before the turn: a retry finds the first call, also while that waits in the queue.
        let (reply, answer) = oneshot::channel();
        let mut mail = Some(Mail { call: Call::Run { config: Arc::clone(&config) }, reply });
        let begin = || self.begin_run(id, &config, &mut mail);
        let (id, reach) = self.node.names().reserve(&config.metadata, begin)?;
        if let (None, Some(map)) = (&mail, config.namespaces.users.map()) {
            users::tell_shared_ids(&id, map, &self.view());
        }
        if let Some(mail) = mail {
            // One that is gone drops the mail, and with it the reply.
            let _sent = reach.calls.send(mail).await;
        }
        match answer.await.ok() {
            Some(answer) => answer.map(|_| id),
            None => Err(Error::WrongState {
                object: format!("pod {id} of that name"),
                state: "being removed",
                wanted: "try again",
            }),
        }
    }

    /// Starts the driver of a pod that is to be made, with the call that asks for it: a pod that cannot be made may be
    /// over before a call in the mailbox is read. The labels are settled here, for a retry needs none.
    fn begin_run(
        &self,
        id: PodId,
        asked: &Arc<PodConfig>,
        first: &mut Option<Mail>,
    ) -> Result<(PodId, Reach), Error> {
        let config = match self.node.selinux.settle(&id, asked)? {
            None => Arc::clone(asked),
            labels => Arc::new(PodConfig { selinux: labels, ..PodConfig::clone(asked) }),
        };
        let pod = Pod {
            node: Arc::clone(&self.node),
            folder: self.node.places.live(&id),
            created_at: self.node.creation_time(),
            cgroup: None,
            access: Arc::<SupervisorAccess>::default(),
            id: id.clone(),
            config,
        };
        let (driver, reach) = Driver::of_new(pod, Arc::clone(&self.zygote));
        task::spawn("pod", driver.serve_first(first.take()));
        Ok((id, reach))
    }

    /// What an operator should know about cgroups; see [`crate::cgroup::Manager::notice`].
    pub fn cgroup_notice(&self) -> Option<String> {
        self.node.cgroups.notice()
    }

    /// StopPodSandbox. An unknown pod is success.
    ///
    /// # Errors
    /// When its network could not be released, or something in it does not die. To be called again.
    pub async fn stop_pod(&self, id: &IdPrefix) -> Result<(), Error> {
        let _reserve = descriptors::lend_reserve();
        let Some(reach) = self.reach_pod(id)? else { return Ok(()) };
        done(&reach, Call::StopPod).await.unwrap_or(Ok(()))
    }

    /// RemovePodSandbox, with all its containers. An unknown pod is success.
    ///
    /// # Errors
    /// As `stop_pod`; or a file that cannot be removed. To be called again.
    pub async fn remove_pod(&self, id: &IdPrefix) -> Result<(), Error> {
        let _reserve = descriptors::lend_reserve();
        let Some(reach) = self.reach_pod(id)? else { return Ok(()) };
        done(&reach, Call::RemovePod).await.unwrap_or(Ok(()))
    }

    /// CreateContainer. A retry waits for the call that is still at work, or gets its result.
    ///
    /// # Errors
    /// After any of them nothing is left, and the name is free.
    pub async fn create(&self, pod: &IdPrefix, config: ContainerConfig) -> Result<ContainerId, Error> {
        let id = self.pod(pod)?.id.clone();
        let reach = self.node.names().reach(&id).ok_or_else(|| Error::NoSuchPod(pod.to_string()))?;
        let call = Call::Create { id: ContainerId::from_bytes(random_bytes()?), config: Arc::new(config) };
        match ask(&reach, call).await {
            Some(Ok(Answer::Created(id))) => Ok(id),
            Some(Err(error)) => Err(error),
            Some(Ok(Answer::Done)) | None => Err(Error::NoSuchPod(pod.to_string())),
        }
    }

    /// StartContainer. The answer is that execve worked.
    ///
    /// # Errors
    /// The cause; the container is then Exited with code 128 and reason StartError.
    pub async fn start(&self, id: &IdPrefix) -> Result<(), Error> {
        let (container, reach) = self.reach_container(id)?;
        let started = done(&reach, Call::Start { id: container.id.clone() }).await;
        started.unwrap_or_else(|| Err(Error::NoSuchContainer(id.to_string())))
    }

    /// StopContainer: the stop signal, `grace`, SIGKILL. Returns when the container is seen to be Exited. Of
    /// two calls the one that kills earlier counts. An unknown container is success.
    ///
    /// # Errors
    /// When it does not die. The killing goes on.
    pub async fn stop(&self, id: &IdPrefix, grace: Duration) -> Result<(), Error> {
        let _reserve = descriptors::lend_reserve();
        let Some((container, reach)) = known(self.reach_container(id))? else { return Ok(()) };
        let id = container.id.clone();
        done(&reach, Call::Stop { id, grace }).await.unwrap_or(Ok(()))
    }

    /// RemoveContainer, by force. Its log stays. An unknown container is success.
    ///
    /// # Errors
    /// When it does not die or something of it cannot be removed. To be called again.
    pub async fn remove(&self, id: &IdPrefix) -> Result<(), Error> {
        let _reserve = descriptors::lend_reserve();
        let Some((container, reach)) = known(self.reach_container(id))? else { return Ok(()) };
        let id = container.id.clone();
        done(&reach, Call::Remove { id }).await.unwrap_or(Ok(()))
    }

    /// UpdateContainerResources: what `change` does not set stays. The answer is that the kernel holds the
    /// container to it and that its status says so.
    ///
    /// # Errors
    /// [`Error::WrongState`] once it has exited; the kernel's refusal, with file and value. Then nothing has
    /// changed.
    pub async fn update(&self, id: &IdPrefix, change: Resources) -> Result<(), Error> {
        let (container, reach) = self.reach_container(id)?;
        let (id, change) = (container.id.clone(), Box::new(change));
        let updated = done(&reach, Call::Update { id, change }).await;
        updated.unwrap_or_else(|| Err(Error::NoSuchContainer(container.id.to_string())))
    }

    /// UpdatePodSandboxResources: kept and shown, and put into the pod's cgroup where that is ours to limit.
    ///
    /// # Errors
    /// As `update`, for a pod that is ready.
    pub async fn update_pod(&self, id: &IdPrefix, change: PodLimits) -> Result<(), Error> {
        let pod = self.pod(id)?;
        let reach = self.node.names().reach(&pod.id).ok_or_else(|| Error::NoSuchPod(id.to_string()))?;
        let change = Box::new(change);
        let updated = done(&reach, Call::UpdatePod { change }).await;
        updated.unwrap_or_else(|| Err(Error::NoSuchPod(id.to_string())))
    }

    /// ExecSync. Not zero is no error. Dropping the future kills the command.
    ///
    /// # Errors
    /// [`Error::ExecTimeout`] when it was killed at `timeout`.
    pub async fn exec_sync(
        &self,
        id: &IdPrefix,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, Error> {
        let (container, reach) = self.reach_container(id)?;
        exec_sync(&self.node, &reach, &container, command, timeout).await
    }

    /// ReopenContainerLog.
    ///
    /// # Errors
    /// When the container does not run; then no file has been made.
    pub async fn reopen_log(&self, id: &IdPrefix) -> Result<(), Error> {
        let (container, reach) = self.reach_container(id)?;
        Ok(client_of(&reach, &container).await?.reopen_log(&container.id).await?)
    }

    /// Everything, for lists; never waits.
    pub fn view(&self) -> Arc<View> {
        self.node.board.view()
    }

    /// Where the views are, for those who only read.
    pub fn board(&self) -> Arc<Board> {
        Arc::clone(&self.node.board)
    }

    /// Follows what happens to pods and containers. What has happened before is in the lists, if they are asked
    /// for after this.
    ///
    /// # Errors
    /// [`event::Error::TooMany`].
    pub fn follow(&self) -> Result<Subscriber<Event>, event::Error> {
        self.node.events.subscribe()
    }

    /// A moment for what is looked at after this call: no event that shows less is later.
    pub fn moment(&self) -> UnixNanos {
        self.node.events.moment()
    }

    /// The daemon ends. Its followers get the end of the stream and have to come back; the pods go on.
    pub fn end_following(&self) {
        self.node.events.close();
    }

    /// One pod, by id or unique prefix.
    ///
    /// # Errors
    /// [`Error::NoSuchPod`], [`Error::Ambiguous`].
    pub fn pod(&self, id: &IdPrefix) -> Result<Arc<PodView>, Error> {
        self.view().pod(id).cloned().map_err(|lookup| Error::no_pod(id, lookup))
    }

    /// One container, by id or unique prefix.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`], [`Error::Ambiguous`].
    pub fn container(&self, id: &IdPrefix) -> Result<Arc<ContainerView>, Error> {
        self.view().container(id).cloned().map_err(|lookup| Error::no_container(id, lookup))
    }

    /// Whether pods can be attached to the network; else why not. Never waits for a plugin, and for a slow disk a second
    /// at most.
    ///
    /// # Errors
    /// The network's own word.
    pub async fn network_ready(&self) -> Result<(), network::Error> {
        let _late = tokio::time::timeout(LOOK_MAX, self.node.network.look()).await;
        self.node.network.ready()
    }

    /// The CNI configuration and how it was loaded, for a verbose status.
    pub fn cni_info(&self) -> Option<(serde_json::Value, String)> {
        self.node.network.cni_info()
    }

    /// UpdateRuntimeConfig: the ranges that this node's pods are to have addresses of. None is no change.
    ///
    /// # Errors
    /// The network's own word.
    pub async fn set_pod_ranges(&self, ranges: Vec<String>) -> Result<(), network::Error> {
        self.node.network.set_pod_ranges(ranges).await
    }

    /// Whether the daemon's folders can be written to; else why not.
    ///
    /// # Errors
    /// A disk that is read-only, full or hangs.
    pub async fn storage_ready(&self) -> Result<(), StorageFault> {
        storage::ready(&self.node).await
    }

    /// What is still to be taken away, and what the last audit has found.
    pub fn report(&self) -> audit::Report {
        audit::report(&self.node)
    }

    pub fn images(&self) -> &Images {
        &self.node.images
    }

    pub(super) fn reach_pod(&self, id: &IdPrefix) -> Result<Option<Reach>, Error> {
        let Some(pod) = known(self.pod(id))? else { return Ok(None) };
        Ok(self.node.names().reach(&pod.id))
    }

    pub(super) fn node(&self) -> Arc<Node> {
        Arc::clone(&self.node)
    }

    pub(super) fn reach_container(&self, id: &IdPrefix) -> Result<(Arc<ContainerView>, Reach), Error> {
        let container = self.container(id)?;
        let reach = self.node.names().reach(&container.pod);
        reach.map(|reach| (container, reach)).ok_or_else(|| Error::NoSuchContainer(id.to_string()))
    }
}

/// Absence is success for those who want it gone.
fn known<T>(found: Result<T, Error>) -> Result<Option<T>, Error> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Error::NoSuchPod(_) | Error::NoSuchContainer(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Asks a driver and waits. `None`: its pod was removed before the answer.
async fn ask(reach: &Reach, call: Call) -> Option<Result<Answer, Error>> {
    let (reply, answer) = oneshot::channel();
    reach.calls.send(Mail { call, reply }).await.ok()?;
    answer.await.ok()
}

/// As [`ask`], of calls that give nothing but their success.
async fn done(reach: &Reach, call: Call) -> Option<Result<(), Error>> {
    ask(reach, call).await.map(|answer| answer.map(|_| ()))
}

/// # Errors
/// Never on a kernel that has been up for a second.
fn random_bytes() -> Result<[u8; 32], Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| Error::Io {
        doing: "make an id".into(),
        source: std::io::Error::other(error.to_string()),
    })?;
    Ok(bytes)
}
