//! SELinux on this node: whether pods get labels, those that the policy has for them, and the level that each has alone.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::Deserialize;
use tracing::{info, warn};

use super::error::Error;
use crate::{
    model::{Level, PodConfig, PodId, PodLabels},
    spec::{self, SelinuxContexts},
    telemetry,
};

/// Bytes of a file of the policy's that is read.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Labels of SELinux for pods. A pod keeps those that it was made with.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Whether containers get labels of SELinux: a level of their pod's own, and the types that the policy has for
    /// containers.
    pub enabled: bool,
    /// Categories that levels are made of, from `c0` on: of these each pod gets two that no other pod has. 2 to 1024.
    pub categories: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self { enabled: false, categories: CATEGORIES_MAX }
    }
}

/// As many as the policies of distributions have.
const CATEGORIES_MAX: u16 = 1024;

/// How SELinux is on a host.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum HostSelinux {
    /// The kernel has none, or no policy is loaded.
    Off,
    /// Its policy has no labels for containers, for this reason.
    NoContexts(String),
    On(Box<SelinuxContexts>),
}

impl HostSelinux {
    /// Looks at this host, or at the folder that stands in for its SELinux.
    pub fn look() -> Self {
        match telemetry::selinux_stand_in() {
            Some(folder) => Self::look_in(&folder.join("fs"), &folder.join("etc"), folder),
            None => Self::look_below(Path::new("/")),
        }
    }

    /// Looks at the host whose `/` is at `root`.
    pub fn look_below(root: &Path) -> Self {
        Self::look_in(&root.join("sys/fs/selinux"), &root.join("etc/selinux"), &root.join("proc"))
    }

    /// With selinuxfs, the policies (selinux_config(5)) and proc(5) at these paths.
    fn look_in(selinuxfs: &Path, policies: &Path, proc: &Path) -> Self {
        // The label of all processes until a policy is loaded.
        const NO_POLICY: &[u8] = b"kernel";
        let current = fs::read(proc.join("self/attr/current")).unwrap_or_default();
        let loaded =
            current.split(|byte| *byte == 0).next().is_some_and(|label| label.trim_ascii() != NO_POLICY);
        if !selinuxfs.join("enforce").exists() || !loaded {
            return Self::Off;
        }
        match contexts(policies) {
            Err(reason) => Self::NoContexts(reason),
            Ok(contexts) => {
                let known =
                    contexts.unconfined().is_some_and(|label| knows(selinuxfs, &label.to_string()).is_ok());
                Self::On(Box::new(if known { contexts } else { contexts.without_unconfined() }))
            }
        }
    }
}

/// The labels that the loaded policy has for containers.
fn contexts(policies: &Path) -> Result<SelinuxContexts, String> {
    let read = |path: PathBuf| -> Result<String, String> {
        let open = || -> io::Result<String> {
            let mut text = String::new();
            io::Read::read_to_string(&mut io::Read::take(fs::File::open(&path)?, FILE_BYTES_MAX), &mut text)?;
            Ok(text)
        };
        open().map_err(|error| format!("{}: {error}", path.display()))
    };
    let config = policies.join("config");
    let policy = read(config.clone())?;
    let policy =
        spec::selinux_policy(&policy).ok_or_else(|| format!("{} names no policy", config.display()))?;
    let contexts = policies.join(policy).join("contexts/lxc_contexts");
    let text = read(contexts.clone()).map_err(|error| format!("{error} (package container-selinux)"))?;
    spec::selinux_contexts(&text).map_err(|fault| format!("{}: {fault}", contexts.display()))
}

/// Asks the kernel whether the policy knows a label (selinuxfs, `context`).
fn knows(selinuxfs: &Path, label: &str) -> io::Result<()> {
    let mut file = fs::File::options().write(true).open(selinuxfs.join("context"))?;
    io::Write::write_all(&mut file, label.as_bytes())
}

/// SELinux as far as pods have to do with it.
#[derive(Debug)]
pub struct Selinux {
    /// `None`: no pod gets labels.
    host: Option<Result<SelinuxContexts, String>>,
    categories: u16,
    /// The level of each pod that is being made or that is there.
    levels: Mutex<HashMap<PodId, Level>>,
}

impl Selinux {
    /// Looks at this host if labels are wanted, and logs what that means.
    pub fn of_this_node(config: &Config) -> Self {
        let host = if config.enabled { HostSelinux::look() } else { HostSelinux::Off };
        let host = match host {
            HostSelinux::Off if config.enabled => {
                warn!(
                    "selinux.enabled is set, but the kernel has no SELinux or no policy: pods get no labels"
                );
                None
            }
            HostSelinux::Off => None,
            HostSelinux::NoContexts(reason) => {
                warn!(%reason, "the policy of SELinux has no labels for containers: no pod can be made");
                Some(Err(reason))
            }
            HostSelinux::On(contexts) => {
                info!("pods get labels of SELinux");
                Some(Ok(*contexts))
            }
        };
        Self { host, categories: config.categories.clamp(2, CATEGORIES_MAX), levels: Mutex::default() }
    }

    /// For a node whose pods get none.
    pub(super) fn off() -> Self {
        Self { host: None, categories: CATEGORIES_MAX, levels: Mutex::default() }
    }

    /// The labels of a pod that is to be made, with a level that is its own until [`Self::free`]; `None`: it gets none.
    ///
    /// # Errors
    /// [`Error::NoSelinuxLabels`].
    pub(super) fn settle(&self, id: &PodId, asked: &PodConfig) -> Result<Option<PodLabels>, Error> {
        let contexts = match &self.host {
            None => return Ok(None),
            Some(Err(reason)) => return Err(Error::NoSelinuxLabels(reason.clone())),
            Some(Ok(contexts)) => contexts,
        };
        let mut levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = &asked.security.selinux;
        let level = match &asked.level {
            Some(level) => level.clone(),
            None => {
                let first = getrandom::u64().unwrap_or_default();
                let free =
                    free_level(self.categories, first, |level| levels.values().any(|held| held == level));
                free.ok_or_else(|| Error::NoSelinuxLabels("every level is another pod's".into()))?
            }
        };
        let labels = spec::pod_labels(contexts, asked, Some(level.clone()));
        levels.insert(id.clone(), level);
        Ok(Some(labels))
    }

    /// An earlier daemon has made this pod.
    pub(super) fn hold(&self, id: &PodId, config: &PodConfig) {
        let level = config.selinux.as_ref().and_then(|labels| labels.process.level.clone());
        if let Some(level) = level {
            self.levels.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), level);
        }
    }

    /// The pod is gone, or is not to be.
    pub(super) fn free(&self, id: &PodId) {
        self.levels.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

/// A level of two of `categories` that nobody has; `first`: a number by chance, where the search begins.
fn free_level(categories: u16, first: u64, is_held: impl Fn(&Level) -> bool) -> Option<Level> {
    let pairs = u64::from(categories) * u64::from(categories.saturating_sub(1)) / 2;
    let pair = |number: u64| {
        // The pairs below (0, n) are those of the n smallest.
        let (mut higher, mut rest) = (1, number);
        while rest >= u64::from(higher) {
            rest -= u64::from(higher);
            higher += 1;
        }
        Level::of_categories(u16::try_from(rest).unwrap_or_default(), higher)
    };
    (0..pairs).map(|step| pair((first % pairs + step) % pairs)).find(|level| !is_held(level))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::model::{LabelParts, Security};

    const CONTEXTS: &str =
        "process = \"system_u:system_r:container_t:s0\"\nfile = \"system_u:object_r:container_file_t:s0\"\n";

    /// A host that has the files, and no more.
    fn host(files: &[(&str, &str)]) -> HostSelinux {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        HostSelinux::look_in(&folder.path().join("fs"), &folder.path().join("etc"), folder.path())
    }

    const ENFORCES: (&str, &str) = ("fs/enforce", "1");
    const CURRENT: (&str, &str) = ("self/attr/current", "system_u:system_r:init_t:s0\0");
    const CONFIG: (&str, &str) = ("etc/config", "SELINUX=enforcing\nSELINUXTYPE=targeted\n");
    const LABELS: (&str, &str) = ("etc/targeted/contexts/lxc_contexts", CONTEXTS);

    #[test]
    fn a_host_has_selinux_when_a_policy_is_loaded_that_has_labels_for_containers() {
        assert_eq!(host(&[]), HostSelinux::Off);
        assert_eq!(host(&[ENFORCES, ("self/attr/current", "kernel\0")]), HostSelinux::Off);
        for (files, said) in [
            (&[ENFORCES, CURRENT][..], "etc/config"),
            (&[ENFORCES, CURRENT, ("etc/config", "SELINUX=disabled\n")], "names no policy"),
            (&[ENFORCES, CURRENT, CONFIG], "container-selinux"),
            (&[ENFORCES, CURRENT, CONFIG, (LABELS.0, "process = \"x\"\n")], "process"),
        ] {
            let HostSelinux::NoContexts(reason) = host(files) else { panic!("{files:?}") };
            assert!(reason.contains(said), "{reason}");
        }
        let contexts = spec::selinux_contexts(CONTEXTS).unwrap();
        let known = [ENFORCES, CURRENT, CONFIG, LABELS, ("fs/context", "")];
        assert_eq!(host(&known), HostSelinux::On(contexts.clone().into()));
        assert_eq!(host(&known[..4]), HostSelinux::On(contexts.without_unconfined().into()), "no spc_t");
    }

    fn on(categories: u16) -> Selinux {
        Selinux { host: Some(spec::selinux_contexts(CONTEXTS)), categories, levels: Mutex::default() }
    }

    fn id(byte: u8) -> PodId {
        PodId::from_bytes([byte; 32])
    }

    fn level(labels: Option<PodLabels>) -> String {
        labels.unwrap().process.level.unwrap().to_string()
    }

    #[test]
    fn no_two_pods_have_one_level_and_that_of_a_pod_that_is_gone_is_given_again() {
        let selinux = on(4);
        let settled = |number| selinux.settle(&id(number), &PodConfig::default());
        let levels: HashSet<_> = (0..6).map(|number| level(settled(number).unwrap())).collect();
        assert_eq!(levels.len(), 6, "{levels:?}");
        assert!(settled(6).unwrap_err().to_string().contains("every level"));
        selinux.free(&id(3));
        assert!(levels.contains(&level(settled(6).unwrap())));
    }

    #[test]
    fn a_level_that_was_asked_for_or_recorded_is_nobody_elses() {
        let selinux = on(2);
        let asked: Level = "s0:c1,c0".parse().unwrap();
        let parts = LabelParts { level: Some(asked), ..LabelParts::default() };
        let with = PodConfig {
            security: Security { selinux: parts.clone(), ..Security::default() },
            ..PodConfig::default()
        };
        let labels = selinux.settle(&id(1), &with).unwrap();
        assert_eq!(level(labels.clone()), "s0:c0,c1");
        assert!(selinux.settle(&id(2), &PodConfig::default()).is_err());
        selinux.settle(&id(3), &with).expect("pods may be given one level");

        let next = on(2);
        next.hold(&id(1), &PodConfig { selinux: labels, ..with });
        assert!(next.settle(&id(2), &PodConfig::default()).is_err());
        next.free(&id(1));
        next.settle(&id(2), &PodConfig::default()).unwrap();
    }

    #[test]
    fn every_pair_is_reached_from_wherever_the_search_begins() {
        for first in [0, 5, u64::MAX] {
            let mut held = HashSet::new();
            while let Some(level) = free_level(5, first, |level| held.contains(level)) {
                held.insert(level);
            }
            assert_eq!(held.len(), 10);
            assert!(held.contains(&Level::of_categories(0, 1)) && held.contains(&Level::of_categories(3, 4)));
        }
        assert_eq!(free_level(1024, 523_775, |_| false), Some(Level::of_categories(1022, 1023)));
    }

    #[test]
    fn a_node_whose_policy_has_no_labels_makes_no_pod_and_one_without_selinux_makes_them_without() {
        let broken = Selinux { host: Some(Err("no file".into())), ..on(2) };
        assert!(broken.settle(&id(1), &PodConfig::default()).is_err());
        assert_eq!(Selinux::off().settle(&id(1), &PodConfig::default()).unwrap(), None);
    }
}
