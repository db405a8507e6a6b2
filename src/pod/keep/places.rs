//! Where the records of pods and containers are, and how their folders and files are named.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use crate::{
    model::{ContainerId, PodId},
    pod::error::Error,
    store,
};

/// Ends the name of a record file.
const RECORD: &str = ".record";

/// Where everything is.
#[derive(Clone, Debug)]
pub(in crate::pod) struct Places {
    /// Gone after a reboot.
    pub(in crate::pod) state: PathBuf,
    /// Kept over a reboot.
    pub(in crate::pod) root: PathBuf,
}

impl Places {
    pub(in crate::pod) fn live_pods(&self) -> PathBuf {
        self.state.join("pods")
    }

    pub(in crate::pod) fn known_pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// A file for each pod of which something is still to be taken away.
    pub(in crate::pod) fn debts(&self) -> PathBuf {
        self.root.join("owed")
    }

    pub(in crate::pod) fn live(&self, pod: &PodId) -> PathBuf {
        self.live_pods().join(pod.as_str())
    }

    pub(in crate::pod) fn known(&self, pod: &PodId) -> PathBuf {
        self.known_pods().join(pod.as_str())
    }

    /// # Errors
    /// Whatever the file system says.
    pub(in crate::pod) fn make(&self) -> Result<(), Error> {
        let prepare = |folder: PathBuf| {
            make_folder(&folder).map_err(Error::io("make", &folder))?;
            store::sweep(&folder).map_err(Error::io("clean", &folder))
        };
        // One that fails does not keep the others from being made.
        let all = [self.live_pods(), self.known_pods(), self.debts()].map(prepare);
        all.into_iter().collect()
    }
}

pub(in crate::pod) fn pod_file(folder: &Path) -> PathBuf {
    folder.join("pod.record")
}

pub(in crate::pod) fn cgroup_file(folder: &Path) -> PathBuf {
    folder.join("cgroup.record")
}

pub(in crate::pod) fn container_file(folder: &Path, id: &ContainerId) -> PathBuf {
    folder.join(format!("{id}{RECORD}"))
}

pub(in crate::pod) fn init_file(folder: &Path, id: &ContainerId) -> PathBuf {
    folder.join(format!("{id}.init"))
}

pub(in crate::pod) fn end_file(folder: &Path, id: &ContainerId) -> PathBuf {
    folder.join(format!("{id}.end"))
}

/// The supervisor's own record of an exit.
pub(in crate::pod) fn exit_file(folder: &Path, id: &ContainerId) -> PathBuf {
    folder.join(format!("{id}.exit"))
}

/// All files of a container, in the order in which they are removed: what has the last one is found again.
pub(in crate::pod) fn files_of_container(live: &Path, known: &Path, id: &ContainerId) -> [PathBuf; 5] {
    [
        container_file(known, id),
        end_file(known, id),
        init_file(live, id),
        exit_file(live, id),
        container_file(live, id),
    ]
}

/// Folder 0700 with all above it.
pub(in crate::pod) fn make_folder(folder: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Absent is success.
pub(in crate::pod) fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        // Something else lies in its place.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => fs::remove_file(folder),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The pods that have a folder in `folder`, whatever is in it.
pub(in crate::pod) fn pods_in(folder: &Path) -> io::Result<Vec<PodId>> {
    let entries = match fs::read_dir(folder) {
        // It could not be made: nothing is in it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(|name| PodId::parse(&name).ok()).collect())
}

/// The containers that have a record in `folder`, readable or not.
pub(in crate::pod) fn containers_in(folder: &Path) -> io::Result<Vec<ContainerId>> {
    let entries = match fs::read_dir(folder) {
        // Also where something else lies in the folder's place.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        entries => entries?,
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(|name| ContainerId::parse(name.strip_suffix(RECORD)?).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
