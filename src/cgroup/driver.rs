//! Drivers, and the manager that chooses one for each pod by the form of its parent.

use std::{
    fmt,
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{Cgroupfs, Config, DriverChoice, Error, Handle, host::Host, parent::Parent, systemd::Systemd};
use crate::{
    model::{PodId, Resources},
    telemetry::task,
};

/// The driver that made a cgroup (CRI `CgroupDriver`).
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Driver {
    /// pintle, by making directories.
    Cgroupfs,
    /// systemd, asked over D-Bus.
    Systemd,
}

impl Driver {
    /// As the configuration names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cgroupfs => "cgroupfs",
            Self::Systemd => "systemd",
        }
    }

    /// The parent of pods whose request names none, where the configuration names none either.
    pub fn default_parent(self) -> &'static str {
        match self {
            Self::Cgroupfs => "/pintle",
            Self::Systemd => "pintle.slice",
        }
    }
}

/// How cgroups are made on this node. Chosen once, at start; cheap to clone.
#[derive(Clone, Debug)]
pub enum Manager {
    /// The drivers that work here. A pod's parent decides between them.
    Host(Arc<Drivers>),
    /// Makes nothing and always succeeds.
    #[cfg(test)]
    Fake,
}

/// Both drivers, and which of them the configuration wants.
#[derive(Debug)]
pub struct Drivers {
    cgroupfs: Cgroupfs,
    systemd: Result<Systemd, &'static str>,
    /// The parent of pods whose request names none. Its form is that of the configured driver.
    parent: Parent,
    /// A pod came with a parent in the other form.
    differs: AtomicBool,
}

impl Manager {
    /// Looks at the host and takes the driver that `config` asks for.
    ///
    /// # Errors
    /// No cgroups, a driver that cannot work here, or a parent in a form that is not the driver's. The daemon
    /// refuses to start with it.
    pub fn detect(config: &Config) -> Result<Self, Error> {
        let host = Arc::new(Host::look()?);
        let cgroupfs = Cgroupfs::new(Arc::clone(&host));
        let systemd = Systemd::new(host);
        let parent = configured_parent(config, systemd.as_ref().err().copied())?;
        let drivers = Drivers { cgroupfs, systemd, parent, differs: AtomicBool::new(false) };
        Ok(Self::Host(Arc::new(drivers)))
    }

    /// Connects to systemd, if that is the configured driver, within some seconds.
    ///
    /// # Errors
    /// No answer. Nothing but the making of pods depends on it, and each tries again.
    pub async fn greet(&self) -> Result<(), Error> {
        match self {
            Self::Host(drivers) => match (self.driver(), &drivers.systemd) {
                (Driver::Systemd, Ok(systemd)) => systemd.greet().await,
                (Driver::Systemd | Driver::Cgroupfs, _) => Ok(()),
            },
            #[cfg(test)]
            Self::Fake => Ok(()),
        }
    }

    /// The driver that RuntimeConfig reports to the kubelet.
    pub fn driver(&self) -> Driver {
        match self {
            Self::Host(drivers) => drivers.parent.driver(),
            #[cfg(test)]
            Self::Fake => Driver::Cgroupfs,
        }
    }

    /// A warning for the operator, when the kubelet uses the other driver; else `None`.
    pub fn notice(&self) -> Option<String> {
        match self {
            Self::Host(drivers) => drivers.differs.load(Ordering::Relaxed).then(|| drivers.notice()),
            #[cfg(test)]
            Self::Fake => None,
        }
    }

    /// The cgroup that the pod will have under `parent` (empty: the configured one). Makes nothing, so that it
    /// can be recorded before anything is made.
    ///
    /// # Errors
    /// A parent that makes no sense, or a slice on a host where systemd cannot make cgroups.
    pub fn plan_pod(&self, parent: &str, pod: &PodId) -> Result<Handle, Error> {
        match self {
            Self::Host(drivers) => drivers.plan(parent, pod),
            #[cfg(test)]
            Self::Fake => Ok(Handle::fake(pod)),
        }
    }

    /// Makes the planned cgroup with what is missing above it, where that needs no process: systemd's are made by
    /// [`Manager::take_in`].
    ///
    /// `resources` limit the pod's cgroup only under the configured parent; under a parent that the kubelet
    /// named it has set them itself.
    ///
    /// # Errors
    /// The kernel's refusal. Then nothing is left behind.
    pub async fn create_pod(&self, planned: &Handle, resources: &Resources) -> Result<(), Error> {
        match self {
            Self::Host(drivers) if planned.driver == Driver::Cgroupfs => {
                let (cgroupfs, planned, resources) =
                    (drivers.cgroupfs.clone(), planned.clone(), resources.clone());
                let work = move || cgroupfs.create_pod(&planned, &resources);
                task::blocking("make cgroup", work).await
            }
            Self::Host(_) => Ok(()),
            #[cfg(test)]
            Self::Fake => Ok(()),
        }
    }

    /// Makes what could not be made without the pod's supervisor, process `pid` behind `pidfd`, and has it in the
    /// pod's cgroup. Nothing to do with cgroupfs: there the supervisor joins.
    ///
    /// # Errors
    /// systemd's refusal, or no answer of it in time. If the supervisor is ended then, nothing is left behind.
    pub async fn take_in(
        &self,
        handle: &Handle,
        pid: u32,
        pidfd: BorrowedFd<'_>,
        resources: &Resources,
    ) -> Result<(), Error> {
        match self {
            Self::Host(drivers) if handle.driver == Driver::Systemd => match &drivers.systemd {
                Ok(systemd) => systemd.take_in(handle, pid, pidfd, resources).await,
                Err(why) => Err(Error::NoSystemd { why }),
            },
            Self::Host(_) => Ok(()),
            #[cfg(test)]
            Self::Fake => Ok(()),
        }
    }

    /// The cgroups found and the driver chosen, for `pintle check` and the log at start: several lines.
    pub fn describe(&self) -> impl fmt::Display {
        match self {
            Self::Host(drivers) => format!("driver {}\n{}", self.driver().name(), drivers.cgroupfs.host()),
            #[cfg(test)]
            Self::Fake => "driver fake\n".to_owned(),
        }
    }
}

impl Drivers {
    fn plan(&self, parent: &str, pod: &PodId) -> Result<Handle, Error> {
        let configured = parent.is_empty();
        let named = if configured { None } else { Some(Parent::parse(parent)?) };
        let chosen = named.as_ref().unwrap_or(&self.parent);
        let handle = match chosen {
            Parent::Path(path) => self.cgroupfs.plan(path, pod, configured),
            Parent::Slice(slice) => match &self.systemd {
                Ok(systemd) => systemd.plan(slice, pod, configured),
                Err(why) => return Err(Error::SliceWithoutSystemd { parent: parent.into(), why }),
            },
        };
        if chosen.driver() != self.parent.driver() && !self.differs.swap(true, Ordering::Relaxed) {
            warn!(pod = %pod, parent, "{}", self.notice());
        }
        Ok(handle)
    }

    fn notice(&self) -> String {
        let (ours, kubelets) = match self.parent.driver() {
            Driver::Cgroupfs => (Driver::Cgroupfs, Driver::Systemd),
            Driver::Systemd => (Driver::Systemd, Driver::Cgroupfs),
        };
        format!(
            "pods come with cgroup parents of the driver {}, while the configured one is {}: \
             give the kubelet and pintle the same",
            kubelets.name(),
            ours.name()
        )
    }
}

/// Which parent, and by it which driver; `without_systemd` says why that cannot work.
fn configured_parent(config: &Config, without_systemd: Option<&'static str>) -> Result<Parent, Error> {
    let given = if config.parent.is_empty() { None } else { Some(Parent::parse(&config.parent)?) };
    let other = |driver: Driver, wanted| {
        Err(Error::ParentOfOther { parent: config.parent.clone(), driver: driver.name(), wanted })
    };
    match (config.driver, given, without_systemd) {
        (DriverChoice::Systemd, _, Some(why)) => Err(Error::NoSystemd { why }),
        (DriverChoice::Systemd, Some(Parent::Path(_)), None) => {
            other(Driver::Systemd, "the name of a slice, as in \"pintle.slice\"")
        }
        (DriverChoice::Cgroupfs, Some(Parent::Slice(_)), _) => {
            other(Driver::Cgroupfs, "an absolute path, as in \"/pintle\"")
        }
        (DriverChoice::Auto, Some(Parent::Slice(_)), Some(why)) => {
            Err(Error::SliceWithoutSystemd { parent: config.parent.clone(), why })
        }
        (_, Some(given), _) => Ok(given),
        (DriverChoice::Systemd | DriverChoice::Auto, None, None) => {
            Parent::parse(Driver::Systemd.default_parent())
        }
        (DriverChoice::Cgroupfs, None, _) | (DriverChoice::Auto, None, Some(_)) => {
            Parent::parse(Driver::Cgroupfs.default_parent())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(driver: DriverChoice, parent: &str) -> Config {
        Config { driver, parent: parent.into() }
    }

    const NONE: Option<&str> = Some("it was not started by systemd");

    #[test]
    fn auto_follows_the_host_and_the_form_of_the_parent() {
        let choose = |parent, without| {
            configured_parent(&config(DriverChoice::Auto, parent), without).map(|parent| parent.driver())
        };
        assert_eq!(choose("", None).unwrap(), Driver::Systemd);
        assert_eq!(choose("", NONE).unwrap(), Driver::Cgroupfs);
        assert_eq!(choose("/pods", None).unwrap(), Driver::Cgroupfs);
        assert_eq!(choose("pods.slice", None).unwrap(), Driver::Systemd);
        let error = choose("pods.slice", NONE).unwrap_err().to_string();
        assert!(["systemd", "cgroupfs", "pods.slice"].iter().all(|word| error.contains(word)), "{error}");
    }

    #[test]
    fn a_driver_that_was_asked_for_is_taken_or_refused_with_the_reason() {
        let choose = |driver, parent, without| configured_parent(&config(driver, parent), without);
        let refused = choose(DriverChoice::Systemd, "", NONE).unwrap_err().to_string();
        assert!(refused.contains("driver = \"systemd\"") && refused.contains("not started by systemd"));
        assert_eq!(choose(DriverChoice::Systemd, "", None).unwrap(), Parent::parse("pintle.slice").unwrap());
        assert_eq!(choose(DriverChoice::Cgroupfs, "", None).unwrap(), Parent::Path("/pintle".into()));
        for (driver, parent) in [(DriverChoice::Systemd, "/pods"), (DriverChoice::Cgroupfs, "pods.slice")] {
            let refused = choose(driver, parent, None).unwrap_err();
            assert!(matches!(refused, Error::ParentOfOther { .. }), "{refused}");
        }
    }

    #[test]
    fn what_was_found_is_described() {
        let manager = Manager::detect(&config(DriverChoice::Cgroupfs, "")).unwrap();
        assert_eq!(manager.driver(), Driver::Cgroupfs);
        assert!(manager.describe().to_string().starts_with("driver cgroupfs\ncgroup v"));
    }

    #[test]
    fn a_parent_in_the_other_form_is_noticed_once_it_comes() {
        let manager = Manager::detect(&config(DriverChoice::Cgroupfs, "")).unwrap();
        let Manager::Host(drivers) = &manager else { unreachable!() };
        let pod = PodId::from_bytes([1; 32]);
        assert!(!manager.plan_pod("/kubepods/pod1", &pod).unwrap().limited);
        assert!(manager.plan_pod("", &pod).unwrap().limited);
        assert_eq!(manager.notice(), None);
        match (&drivers.systemd, manager.plan_pod("kubepods.slice", &pod)) {
            (Ok(_), planned) => {
                assert_eq!(planned.unwrap().driver(), Driver::Systemd);
                assert!(manager.notice().unwrap().contains("systemd, while the configured one is cgroupfs"));
            }
            (Err(_), refused) => assert!(matches!(refused, Err(Error::SliceWithoutSystemd { .. }))),
        }
    }
}
