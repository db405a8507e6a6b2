//! The records of pods and containers: what is written of each, and how it is written and read.

use std::{io, path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    cgroup,
    model::{
        ContainerConfig, ContainerId, Digest, Exit, PodConfig, PodId, PodLimits, ResolvedUser, Resources,
        UnixNanos,
    },
    network::Attachment,
    pod::{
        error::Error,
        life::PodPhase,
        view::{ContainerState, ContainerView},
    },
    store::{self, BadRecord, Durability},
    telemetry::task,
};

/// A pod.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(in crate::pod) struct PodRecord {
    pub(in crate::pod) id: PodId,
    /// `/proc/sys/kernel/random/boot_id` of the boot in which it was written.
    pub(in crate::pod) boot_id: String,
    pub(in crate::pod) state: PodPhase,
    pub(in crate::pod) config: Arc<PodConfig>,
    pub(in crate::pod) created_at: UnixNanos,
    #[serde(default)]
    pub(in crate::pod) attachment: Option<Attachment>,
    #[serde(default)]
    pub(in crate::pod) supervisor_pid: u32,
    /// As they were last changed; `None`: as configured.
    #[serde(default)]
    pub(in crate::pod) limits: Option<PodLimits>,
    /// As `cgroup.record` has it, once it is made: either may be damaged.
    #[serde(default)]
    pub(in crate::pod) cgroup: Option<cgroup::Handle>,
    /// The root folder of the daemon that wrote it: a copy of it is not about a pod of the daemon that finds it.
    #[serde(default)]
    pub(in crate::pod) root: Option<PathBuf>,
}

/// A container. `made` is `None` while it is only intended.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(in crate::pod) struct ContainerRecord {
    pub(in crate::pod) id: ContainerId,
    pub(in crate::pod) pod: PodId,
    pub(in crate::pod) config: Arc<ContainerConfig>,
    pub(in crate::pod) image_id: Digest,
    pub(in crate::pod) image_ref: String,
    /// The images that are the content of mounts, in the order of those in `config`.
    #[serde(default)]
    pub(in crate::pod) volume_images: Vec<Digest>,
    pub(in crate::pod) image_name: String,
    pub(in crate::pod) created_at: UnixNanos,
    pub(in crate::pod) log_path: Option<String>,
    pub(in crate::pod) resources: Resources,
    pub(in crate::pod) stop_signal: i32,
    #[serde(default)]
    pub(in crate::pod) made: Option<Made>,
}

/// What is known once its process exists.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(in crate::pod) struct Made {
    pub(in crate::pod) state: ContainerState,
    pub(in crate::pod) user: ResolvedUser,
    /// It was to be started, and no answer to that is recorded yet.
    #[serde(default)]
    pub(in crate::pod) starting: bool,
}

/// How a container ended: what is on disk of it for the time after a reboot.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(in crate::pod) struct EndRecord {
    pub(in crate::pod) started_at: Option<UnixNanos>,
    pub(in crate::pod) exit: Exit,
}

impl ContainerRecord {
    pub(in crate::pod) fn of(view: &ContainerView) -> Self {
        Self {
            id: view.id.clone(),
            pod: view.pod.clone(),
            config: Arc::clone(&view.config),
            image_id: view.image_id.clone(),
            image_ref: view.image_ref.clone(),
            volume_images: view.volume_images.clone(),
            image_name: view.image_name.clone(),
            created_at: view.created_at,
            log_path: view.log_path.clone(),
            resources: view.resources.clone(),
            stop_signal: view.stop_signal,
            made: Some(Made { state: view.state.clone(), user: view.user.clone(), starting: false }),
        }
    }

    /// The images whose layers it uses: its own, and those that its mounts show.
    pub(in crate::pod) fn images(&self) -> impl Iterator<Item = &Digest> {
        [&self.image_id].into_iter().chain(&self.volume_images)
    }

    /// What readers see once it is made as `made` says.
    pub(in crate::pod) fn view(&self, made: Made) -> ContainerView {
        ContainerView {
            id: self.id.clone(),
            pod: self.pod.clone(),
            config: Arc::clone(&self.config),
            image_id: self.image_id.clone(),
            image_ref: self.image_ref.clone(),
            volume_images: self.volume_images.clone(),
            image_name: self.image_name.clone(),
            state: made.state,
            created_at: self.created_at,
            user: made.user,
            log_path: self.log_path.clone(),
            resources: self.resources.clone(),
            stop_signal: self.stop_signal,
        }
    }
}

/// Writes a record from an async task.
pub(in crate::pod) async fn put<T: Serialize + Send + 'static>(path: PathBuf, value: T) -> Result<(), Error> {
    let named = path.clone();
    blocking(move || store::put(&path, &value, Durability::Process)).await.map_err(Error::io("write", &named))
}

/// Reads a record from an async task.
pub(in crate::pod) async fn get<T: DeserializeOwned + Send + 'static>(path: PathBuf) -> Result<T, Error> {
    let doing = format!("read {}", path.display());
    let got = blocking(move || Ok(store::get(&path))).await;
    got.map_err(BadRecord::Io).flatten().map_err(|source| Error::Record { doing, source })
}

/// File work, away from the threads that answer requests.
pub(in crate::pod) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    task::blocking("pod files", work).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ProcessPlan, UserChoice};

    #[test]
    fn a_plan_survives_its_record() {
        let plan = ProcessPlan {
            args: vec![b"sh".to_vec()],
            env: vec![b"X=\xff".to_vec()],
            cwd: "/".into(),
            user: UserChoice { uid: Some(7), ..UserChoice::default() },
            image_user: "www".into(),
            tty: true,
            capabilities: 1 << 40,
            ambient: 2,
            no_new_privs: true,
            seccomp: Some(Arc::from([1, 2, 3].as_slice())),
            seccomp_flags: 2,
            apparmor: "web".into(),
            selinux: "u:r:t:s0".into(),
            oom_score_adj: -7,
            nofile: (1, 2),
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.init");
        store::put(&path, &plan, Durability::Process).unwrap();
        assert_eq!(store::get::<ProcessPlan>(&path).unwrap(), plan);
    }
}
