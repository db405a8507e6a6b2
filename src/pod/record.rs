//! What pods and containers leave on disk, and where. The tree is drawn at the head of `mod.rs`.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    error::Error,
    state::PodState,
    view::{ContainerState, ContainerView},
};
use crate::{
    model::{
        ContainerConfig, ContainerId, Digest, Exit, PodConfig, PodId, PodLimits, ResolvedUser, Resources,
        UnixNanos,
    },
    network::Attachment,
    store::{self, BadRecord, Durability},
    telemetry::task,
};

/// Ends the name of a record file.
const RECORD: &str = ".record";

/// A pod.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct PodRecord {
    pub(super) id: PodId,
    /// `/proc/sys/kernel/random/boot_id` of the boot in which it was written.
    pub(super) boot_id: String,
    pub(super) state: PodState,
    pub(super) config: Arc<PodConfig>,
    pub(super) created_at: UnixNanos,
    #[serde(default)]
    pub(super) attachment: Option<Attachment>,
    #[serde(default)]
    pub(super) supervisor_pid: u32,
    /// As they were last changed; `None`: as configured.
    #[serde(default)]
    pub(super) limits: Option<PodLimits>,
}

/// A container. `made` is `None` while it is only intended.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct ContainerRecord {
    pub(super) id: ContainerId,
    pub(super) pod: PodId,
    pub(super) config: Arc<ContainerConfig>,
    pub(super) image_id: Digest,
    pub(super) image_ref: String,
    pub(super) image_name: String,
    pub(super) created_at: UnixNanos,
    pub(super) log_path: Option<String>,
    pub(super) resources: Resources,
    pub(super) stop_signal: i32,
    #[serde(default)]
    pub(super) made: Option<Made>,
}

/// What is known once its process exists.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct Made {
    pub(super) state: ContainerState,
    pub(super) user: ResolvedUser,
}

/// How a container ended: what is on disk of it for the time after a reboot.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(super) struct EndRecord {
    pub(super) started_at: Option<UnixNanos>,
    pub(super) exit: Exit,
}

impl ContainerRecord {
    pub(super) fn of(view: &ContainerView) -> Self {
        Self {
            id: view.id.clone(),
            pod: view.pod.clone(),
            config: Arc::clone(&view.config),
            image_id: view.image_id.clone(),
            image_ref: view.image_ref.clone(),
            image_name: view.image_name.clone(),
            created_at: view.created_at,
            log_path: view.log_path.clone(),
            resources: view.resources.clone(),
            stop_signal: view.stop_signal,
            made: Some(Made { state: view.state.clone(), user: view.user.clone() }),
        }
    }

    /// What readers see once it is made as `made` says.
    pub(super) fn view(&self, made: Made) -> ContainerView {
        ContainerView {
            id: self.id.clone(),
            pod: self.pod.clone(),
            config: Arc::clone(&self.config),
            image_id: self.image_id.clone(),
            image_ref: self.image_ref.clone(),
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

/// Where everything is.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// Gone after a reboot.
    pub(super) state: PathBuf,
    /// Kept over a reboot.
    pub(super) root: PathBuf,
}

impl Places {
    pub(super) fn live_pods(&self) -> PathBuf {
        self.state.join("pods")
    }

    pub(super) fn known_pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// Pods whose network has still to be released.
    pub(super) fn owed(&self) -> PathBuf {
        self.root.join("owed")
    }

    pub(super) fn live(&self, pod: &PodId) -> PathBuf {
        self.live_pods().join(pod.as_str())
    }

    pub(super) fn known(&self, pod: &PodId) -> PathBuf {
        self.known_pods().join(pod.as_str())
    }

    /// # Errors
    /// Whatever the file system says.
    pub(super) fn make(&self) -> Result<(), Error> {
        for folder in [self.live_pods(), self.known_pods(), self.owed()] {
            make_folder(&folder).map_err(Error::io("make", &folder))?;
            store::sweep(&folder).map_err(Error::io("clean", &folder))?;
        }
        Ok(())
    }
}

pub(super) fn pod_file(folder: &Path) -> PathBuf {
    folder.join("pod.record")
}

pub(super) fn cgroup_file(folder: &Path) -> PathBuf {
    folder.join("cgroup.record")
}

pub(super) fn container_file(folder: &Path, id: &ContainerId) -> PathBuf {
    folder.join(format!("{id}{RECORD}"))
}

pub(super) fn init_file(folder: &Path, id: &ContainerId) -> PathBuf {
    folder.join(format!("{id}.init"))
}

pub(super) fn end_file(folder: &Path, id: &ContainerId) -> PathBuf {
    folder.join(format!("{id}.end"))
}

/// The supervisor's own record of an exit.
pub(super) fn exit_file(folder: &Path, id: &ContainerId) -> PathBuf {
    folder.join(format!("{id}.exit"))
}

/// Folder 0700 with all above it.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Absent is success.
pub(super) fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The pods that have a folder in `folder`, whatever is in it.
pub(super) fn pods_in(folder: &Path) -> io::Result<Vec<PodId>> {
    let names = fs::read_dir(folder)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(|name| PodId::parse(&name).ok()).collect())
}

/// The containers that have a record in `folder`, readable or not.
pub(super) fn containers_in(folder: &Path) -> io::Result<Vec<ContainerId>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(|name| ContainerId::parse(name.strip_suffix(RECORD)?).ok()).collect())
}

/// Writes a record from an async task.
pub(super) async fn put<T: Serialize + Send + 'static>(path: PathBuf, value: T) -> Result<(), Error> {
    let named = path.clone();
    blocking(move || store::put(&path, &value, Durability::Process)).await.map_err(Error::io("write", &named))
}

/// Reads a record from an async task.
pub(super) async fn get<T: DeserializeOwned + Send + 'static>(path: PathBuf) -> Result<T, Error> {
    let doing = format!("read {}", path.display());
    let got = blocking(move || Ok(store::get(&path))).await;
    got.map_err(BadRecord::Io).flatten().map_err(|source| Error::Record { doing, source })
}

/// File work, away from the threads that answer requests.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    task::blocking("pod files", work).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ProcessPlan, UserChoice};

    #[test]
    fn a_folder_lists_only_what_is_named_by_an_id() {
        let folder = tempfile::tempdir().unwrap();
        let id = ContainerId::from_bytes([7; 32]);
        for name in ["pod.record", "cgroup.record", "hosts", &format!("{id}.init"), &format!("{id}.record")] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        assert_eq!(containers_in(folder.path()).unwrap(), [id]);
        assert_eq!(containers_in(&folder.path().join("absent")).unwrap(), []);
    }

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
            oom_score_adj: -7,
            nofile: (1, 2),
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.init");
        store::put(&path, &plan, Durability::Process).unwrap();
        assert_eq!(store::get::<ProcessPlan>(&path).unwrap(), plan);
    }
}
