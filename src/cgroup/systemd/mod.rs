//! Cgroups made by systemd (v2): one transient scope for each pod, delegated to us.
//!
//! ```text
//! <slice>/pintle-<pod id>.scope/            made by systemd, whose limits of it are systemd's
//! <slice>/pintle-<pod id>.scope/<pod id>/   the pod's cgroup, ours with all below it
//! ```
//!
//! A scope starts with a process in it, so it is made once the pod's supervisor runs. That is the one D-Bus call
//! of a pod's life: all else is file operations, and systemd removes the scope when it is empty.
//!
//! - `bus`, `proxy`: the connection and what is called over it. The only place that names `zbus`.

mod bus;
mod proxy;

use std::{os::fd::BorrowedFd, path::Path, sync::Arc};

use super::{
    Driver, Error, Handle, file,
    group::Version,
    handle::PodPath,
    host::Host,
    slice::{Slice, scope_of},
};
use crate::{
    failpoint,
    model::{PodId, Resources},
    telemetry::task,
};

/// The socket of the system bus (dbus-daemon(1)).
const BUS_SOCKET: &str = "/run/dbus/system_bus_socket";

/// systemd, asked over D-Bus.
#[derive(Clone, Debug)]
pub(super) struct Systemd {
    host: Arc<Host>,
    bus: Arc<bus::Bus>,
}

impl Systemd {
    /// # Errors
    /// Why it cannot work on this host. A bus that is there and does not answer is none: it may later.
    pub(super) fn new(host: Arc<Host>) -> Result<Self, &'static str> {
        match (host.systemd, host.version) {
            (false, Version::V1) => {
                Err("it was not started by systemd, and has cgroup v1, where v2 is needed")
            }
            (false, Version::V2) => Err("it was not started by systemd"),
            (true, Version::V1) => Err("it has cgroup v1, where v2 is needed"),
            (true, Version::V2) if !Path::new(BUS_SOCKET).exists() => {
                Err("the system bus is not there: no socket /run/dbus/system_bus_socket")
            }
            (true, Version::V2) => Ok(Self { host, bus: Arc::new(bus::Bus::system()) }),
        }
    }

    /// As [`super::Manager::greet`].
    pub(super) async fn greet(&self) -> Result<(), Error> {
        self.bus.greet().await
    }

    /// The cgroup that the pod will have; makes nothing.
    pub(super) fn plan(&self, slice: &Slice, pod: &PodId, limited: bool) -> Handle {
        let scope = format!("{}/{}", slice.path(), scope_of(pod.as_str()));
        Handle {
            driver: Driver::Systemd,
            version: Version::V2,
            path: PodPath::new(&scope, pod),
            trees: self.host.trees.clone().into(),
            limited,
        }
    }

    /// Has systemd start the pod's scope around its supervisor, then makes the pod's cgroup in it.
    ///
    /// # Errors
    /// As [`super::Manager::take_in`].
    pub(super) async fn take_in(
        &self,
        handle: &Handle,
        pid: u32,
        pidfd: BorrowedFd<'_>,
        resources: &Resources,
    ) -> Result<(), Error> {
        let Some((scope, slice)) = handle.scope() else {
            return Err(Error::Foreign { path: handle.path().into() });
        };
        let name = scope.rsplit('/').next().unwrap_or_default();
        let description = format!("pod {}", handle.path().rsplit('/').next().unwrap_or_default());
        let unit = bus::Scope { name, slice: &slice, description: &description, pid, pidfd };
        self.bus.start_scope(&unit).await?;
        failpoint!("cgroup.scope-started");
        let (scope, handle, resources) = (scope.to_owned(), handle.clone(), resources.clone());
        let furnish = move || {
            in_scope(pid, &scope)?;
            handle.join_supervisor(pid)?;
            if handle.limited { handle.limit(&resources) } else { Ok(()) }
        };
        task::blocking("furnish scope", furnish).await
    }
}

/// Whether systemd has put the process where we take the scope to be.
fn in_scope(pid: u32, scope: &str) -> Result<(), Error> {
    let text = file::read(Path::new(&format!("/proc/{pid}/cgroup")))?;
    let found = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    if found == scope {
        return Ok(());
    }
    Err(Error::Elsewhere { pid, scope: scope.into(), found: found.into() })
}
