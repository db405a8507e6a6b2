//! A node's cgroup: what a kubelet makes of it before pods come, and what is left of it afterwards.
//!
//! `PINTLE_E2E_DRIVER` says who makes the pods' cgroups: `cgroupfs`, which is also the default, or `systemd`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
};

use super::{KUBELETS, folders::below, wait::wait_until};

/// The variable that chooses the driver.
const DRIVER: &str = "PINTLE_E2E_DRIVER";

/// Where cgroup v2 is, if it is the host's only one.
const UNIFIED: &str = "/sys/fs/cgroup";

/// Nodes of this run so far.
static NODES: AtomicU32 = AtomicU32::new(0);

/// Who makes the cgroups of pods.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Driver {
    Cgroupfs,
    Systemd,
}

impl Driver {
    /// What the environment asks for.
    pub(crate) fn chosen() -> Self {
        match env::var(DRIVER).unwrap_or_default().as_str() {
            "" | "cgroupfs" => Self::Cgroupfs,
            "systemd" => Self::Systemd,
            other => panic!("{DRIVER} is systemd or cgroupfs, not {other:?}"),
        }
    }

    /// As the configuration names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cgroupfs => "cgroupfs",
            Self::Systemd => "systemd",
        }
    }
}

/// Whether the host has cgroup v2 and nothing else.
pub(crate) fn is_unified() -> bool {
    Path::new(UNIFIED).join("cgroup.controllers").exists()
}

/// The cgroups of one node, in every hierarchy; dropped, they are removed.
#[derive(Debug)]
pub(crate) struct Cgroups {
    driver: Driver,
    /// Of the node's, without what the driver puts around it.
    name: String,
}

impl Cgroups {
    pub(crate) fn new() -> Self {
        let driver = Driver::chosen();
        let name = format!("pintle_e2e_{}_{}", process::id(), NODES.fetch_add(1, Ordering::Relaxed));
        let cgroups = Self { driver, name };
        if driver == Driver::Cgroupfs && is_unified() {
            let kubelets = cgroups.kubelets(&cgroups.top(Path::new(UNIFIED)));
            cgroups.make(&kubelets);
            hand_down(&kubelets);
        }
        cgroups
    }

    pub(crate) fn driver(&self) -> Driver {
        self.driver
    }

    /// The parent of pods whose request names none.
    pub(crate) fn configured_parent(&self) -> String {
        match self.driver {
            Driver::Cgroupfs => format!("/{}", self.name),
            Driver::Systemd => format!("{}.slice", self.name),
        }
    }

    /// The parent that a kubelet names for a pod, and has made where it makes any.
    pub(crate) fn parent_of(&self, pod: &str) -> String {
        match self.driver {
            Driver::Cgroupfs if is_unified() => self.make(&self.folder_of(pod)),
            Driver::Cgroupfs | Driver::Systemd => {}
        }
        match self.driver {
            Driver::Cgroupfs => format!("/{}/{KUBELETS}/{pod}", self.name),
            Driver::Systemd => self.slice_of(pod),
        }
    }

    /// Where the processes of that pod can be seen and killed.
    pub(crate) fn folder_of(&self, pod: &str) -> PathBuf {
        let killing = if is_unified() { UNIFIED.into() } else { Path::new(UNIFIED).join("freezer") };
        let kubelets = self.kubelets(&self.top(&killing));
        kubelets.join(match self.driver {
            Driver::Cgroupfs => pod.to_owned(),
            Driver::Systemd => self.slice_of(pod),
        })
    }

    /// The node's folders, one for each hierarchy that has it.
    pub(crate) fn folders(&self) -> Vec<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let hierarchies = mounts.lines().filter_map(|line| {
            let (place, kind) = line.split_once(" - ")?;
            kind.starts_with("cgroup").then(|| place.split(' ').nth(4))?
        });
        let tops = hierarchies.map(|hierarchy| self.top(Path::new(hierarchy)));
        tops.filter(|folder| folder.exists()).collect()
    }

    /// Thaws what a daemon that was killed in the midst of a kill has left frozen: on v1 it would not die.
    pub(crate) fn thaw(&self) {
        for top in self.folders() {
            // From the top down: what is below a frozen group stays frozen.
            for folder in std::iter::once(top.clone()).chain(below(&top)) {
                let state = folder.join("freezer.state");
                if state.exists() {
                    // The group may have gone meanwhile.
                    let _ = fs::write(state, "THAWED");
                }
            }
        }
    }

    /// The part of the node's folder `top` that a kubelet makes and removes itself: this, and the pods' in it.
    pub(crate) fn kubelets(&self, top: &Path) -> PathBuf {
        top.join(match self.driver {
            Driver::Cgroupfs => KUBELETS.to_owned(),
            Driver::Systemd => format!("{}-{KUBELETS}.slice", self.name),
        })
    }

    fn top(&self, hierarchy: &Path) -> PathBuf {
        hierarchy.join(self.configured_parent().trim_start_matches('/'))
    }

    /// A dash in a slice's name is a step down (systemd.slice(5)), so a kubelet writes `_` for it.
    fn slice_of(&self, pod: &str) -> String {
        format!("{}-{KUBELETS}-{}.slice", self.name, pod.replace('-', "_"))
    }

    /// Makes a cgroup on v2 as a kubelet does: all above it hands down every controller, itself none.
    fn make(&self, folder: &Path) {
        fs::create_dir_all(folder).unwrap();
        let below = folder.strip_prefix(UNIFIED).unwrap();
        let mut above = PathBuf::from(UNIFIED);
        for name in below {
            hand_down(&above);
            above.push(name);
        }
    }
}

fn hand_down(folder: &Path) {
    let all = fs::read_to_string(folder.join("cgroup.controllers")).unwrap();
    let all: Vec<String> = all.split_whitespace().map(|name| format!("+{name}")).collect();
    fs::write(folder.join("cgroup.subtree_control"), all.join(" "))
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        if self.driver == Driver::Systemd {
            let _ = Command::new("systemctl")
                .args(["stop", "--no-ask-password", &self.configured_parent()])
                .status();
        }
        for cgroup in self.folders() {
            // Nobody is left in it, unless the test has failed on a machine whose process namespace it shares.
            let _ = fs::write(cgroup.join("cgroup.kill"), "1");
            // The processes are dead, but the kernel may still be about to forget them.
            wait_until("the node's cgroup is removed", || remove_tree(&cgroup));
        }
    }
}

fn remove_tree(cgroup: &Path) -> bool {
    below(cgroup).iter().rev().chain([&cgroup.to_path_buf()]).all(|folder| match fs::remove_dir(folder) {
        Ok(()) => true,
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    })
}
