//! The rooms and stores that all drivers of the node share.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::SystemTime,
};

use super::{
    admission::{Admission, Execs},
    apparmor,
    config::Config,
    findings::Findings,
    handler::Handlers,
    keep::{Places, debts::Debts},
    life::Event,
    names::Names,
    reach::Reach,
    selinux::Selinux,
    users::UserNamespaces,
    view::Board,
};
use crate::{
    cdi, cgroup, event::Journal, image::Images, model::UnixNanos, network::Network, supervisor::Zygote,
};

/// What the pods of a node stand on.
#[derive(Debug)]
pub struct Deps {
    pub zygote: Zygote,
    pub cgroups: cgroup::Manager,
    pub network: Network,
    pub images: Images,
    pub cdi: cdi::Config,
    /// `/run/pintle`: gone after a reboot.
    pub state_dir: PathBuf,
    /// `/var/lib/pintle`: kept.
    pub root_dir: PathBuf,
    /// `/proc/sys/kernel/random/boot_id`
    pub boot_id: String,
    pub config: Config,
    pub handlers: Handlers,
    pub users: UserNamespaces,
    pub selinux: Selinux,
}

/// What all drivers share.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) cgroups: cgroup::Manager,
    pub(super) network: Network,
    pub(super) images: Images,
    pub(super) cdi: cdi::Config,
    pub(super) places: Places,
    pub(super) boot_id: String,
    pub(super) apparmor: apparmor::Profiles,
    /// What this node can give to a container at most.
    pub(super) held_capabilities: u64,
    pub(super) config: Config,
    pub(super) handlers: Handlers,
    /// Whether pods can have users of their own.
    pub(super) users: UserNamespaces,
    pub(super) selinux: Selinux,
    pub(super) creates: Admission,
    pub(super) execs: Execs,
    /// What is to be taken away and could not be yet.
    pub(super) debts: Debts,
    /// What is not as the records say.
    pub(super) findings: Findings,
    pub(super) board: Arc<Board>,
    pub(super) events: Journal<Event>,
    names: Mutex<Names<Reach>>,
    latest: AtomicI64,
}

impl Node {
    pub(super) fn new(deps: Deps) -> (Self, Zygote) {
        let Deps {
            zygote,
            cgroups,
            network,
            images,
            cdi,
            state_dir,
            root_dir,
            boot_id,
            config,
            handlers,
            users,
            selinux,
        } = deps;
        let places = Places { state: state_dir, root: root_dir };
        let node = Self::on(cgroups, network, images, places, boot_id, config);
        (Self { cdi, handlers, users, selinux, ..node }, zygote)
    }

    /// Without the process that new pods come from: recovery needs none.
    pub(super) fn on(
        cgroups: cgroup::Manager,
        network: Network,
        images: Images,
        places: Places,
        boot_id: String,
        config: Config,
    ) -> Self {
        Self {
            cgroups,
            network,
            images,
            cdi: cdi::Config::default(),
            places,
            boot_id,
            apparmor: apparmor::Profiles::of_this_node(),
            held_capabilities: crate::sys::privilege::held_capabilities().unwrap_or(u64::MAX),
            creates: Admission::new(config.creates_running(), config.creates_waiting_max),
            config,
            handlers: Handlers::default(),
            users: UserNamespaces::untried(),
            selinux: Selinux::off(),
            execs: Execs::default(),
            debts: Debts::default(),
            findings: Findings::default(),
            board: Arc::default(),
            events: Journal::default(),
            names: Mutex::default(),
            latest: AtomicI64::new(0),
        }
    }

    /// Never held over an await: the guard is not `Send`.
    pub(super) fn names(&self) -> MutexGuard<'_, Names<Reach>> {
        // A panic ends the daemon (`panic = "abort"`), so a poisoned lock can only be met in a test.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A moment for `created_at`: later than every one before, also when the clock was set back. The kubelet
    /// takes the newest of a pod's sandboxes for the one that counts.
    pub(super) fn creation_time(&self) -> UnixNanos {
        let now = UnixNanos::from(SystemTime::now()).0;
        let later = |latest| Some(now.max(latest + 1));
        match self.latest.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later) {
            Ok(latest) => UnixNanos(now.max(latest + 1)),
            Err(latest) => UnixNanos(latest),
        }
    }

    /// A moment that an earlier daemon has given out.
    pub(super) fn seen_creation(&self, at: UnixNanos) {
        self.latest.fetch_max(at.0, Ordering::Relaxed);
    }
}

#[cfg(test)]
impl Node {
    /// A node in a folder of its own: no processes, no cgroups, no network.
    pub(super) fn fake(folder: &std::path::Path) -> Arc<Self> {
        let (state, root) = (folder.join("run"), folder.join("lib"));
        let images = Images::open(
            &folder.join("images"),
            &crate::image::Config::default(),
            Arc::new(crate::image::NoWorkers),
        )
        .unwrap();
        let network = crate::network::Config { mode: crate::network::Mode::Bridge, ..Default::default() };
        let network = Network::open(&network, &folder.join("lib")).unwrap();
        let places = Places { state, root };
        places.make().unwrap();
        let cgroups = cgroup::Manager::Fake;
        Arc::new(Self::on(cgroups, network, images, places, "this boot".to_owned(), Config::default()))
    }
}
