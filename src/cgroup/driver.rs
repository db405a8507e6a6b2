use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Cgroupfs, Config, DriverChoice, Error, Handle, group::Version, host::Host};
use crate::model::{PodId, Resources};

/// What made a cgroup (CRI `CgroupDriver`).
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Driver {
    /// pintle, by making directories.
    Cgroupfs,
    /// systemd, asked over D-Bus.
    Systemd,
}

/// How cgroups are made on this node. Chosen once, at start.
#[derive(Clone, Debug)]
pub enum Manager {
    Cgroupfs(Cgroupfs),
    /// Makes nothing and always succeeds.
    #[cfg(test)]
    Fake,
}

impl Manager {
    /// Looks at the host and takes the driver that `config` asks for.
    ///
    /// # Errors
    /// No cgroups, a driver that cannot work here, or a parent in a form that is not the driver's. The daemon
    /// refuses to start with it.
    pub fn detect(config: &Config) -> Result<Self, Error> {
        let host = Host::look()?;
        match config.driver {
            DriverChoice::Systemd => Err(Error::NoSystemd { why: without_systemd(&host) }),
            // systemd is the better choice where it booted a v2 host; until its driver is there, directories
            // work on those too, as every container runtime's default has shown.
            DriverChoice::Auto | DriverChoice::Cgroupfs => Ok(Self::Cgroupfs(Cgroupfs::new(host, config)?)),
        }
    }

    /// What the kubelet is told in RuntimeConfig.
    pub fn driver(&self) -> Driver {
        match self {
            Self::Cgroupfs(_) => Driver::Cgroupfs,
            #[cfg(test)]
            Self::Fake => Driver::Cgroupfs,
        }
    }

    /// Makes the pod's cgroup under `parent` (empty: the configured one), with what is missing above it.
    ///
    /// `resources` limit the pod's cgroup only under the configured parent; under a parent that the kubelet
    /// named it has set them itself.
    ///
    /// # Errors
    /// A parent in a form that is not the driver's, or the kernel's refusal. Then nothing is left behind.
    pub async fn create_pod(
        &self,
        parent: &str,
        pod: &PodId,
        resources: &Resources,
    ) -> Result<Handle, Error> {
        match self {
            Self::Cgroupfs(cgroupfs) => {
                let (cgroupfs, parent, pod, resources) =
                    (cgroupfs.clone(), parent.to_owned(), pod.clone(), resources.clone());
                let work = move || cgroupfs.create_pod(&parent, &pod, &resources);
                tokio::task::spawn_blocking(work).await.map_err(|_| Error::Interrupted)?
            }
            #[cfg(test)]
            Self::Fake => Ok(Handle::fake(pod)),
        }
    }

    /// What was found and chosen, for `pintle check` and the log at start: several lines.
    pub fn describe(&self) -> impl fmt::Display {
        match self {
            Self::Cgroupfs(cgroupfs) => format!("driver cgroupfs\n{}", cgroupfs.host()),
            #[cfg(test)]
            Self::Fake => "driver fake\n".to_owned(),
        }
    }
}

fn without_systemd(host: &Host) -> &'static str {
    match (host.systemd, host.version) {
        (false, Version::V1) => "it was not started by systemd, and has cgroup v1, where v2 is needed",
        (false, Version::V2) => "it was not started by systemd",
        (true, Version::V1) => "it has cgroup v1, where v2 is needed",
        (true, Version::V2) => "this release of pintle has no systemd driver yet; use driver = \"cgroupfs\"",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(driver: DriverChoice, parent: &str) -> Result<Manager, Error> {
        Manager::detect(&Config { driver, parent: parent.into() })
    }

    #[test]
    fn systemd_is_refused_with_a_reason() {
        let error = detect(DriverChoice::Systemd, "/pintle").unwrap_err();
        assert!(matches!(error, Error::NoSystemd { .. }), "{error}");
        assert!(error.to_string().contains("driver = \"systemd\""));
    }

    #[test]
    fn a_configured_slice_is_refused_at_start() {
        let error = detect(DriverChoice::Auto, "pintle.slice").unwrap_err();
        assert!(matches!(error, Error::SliceUnderCgroupfs { .. }), "{error}");
    }

    #[test]
    fn auto_is_cgroupfs_and_says_what_it_found() {
        let manager = detect(DriverChoice::Auto, "/pintle").unwrap();
        assert_eq!(manager.driver(), Driver::Cgroupfs);
        assert!(manager.describe().to_string().starts_with("driver cgroupfs\ncgroup v"));
    }
}
