//! Cgroups: made, limited, joined, killed, read and removed.
//!
//! ```text
//! <parent>/<pod id>/                  made here; limited here only under the configured parent (which with
//!                                     systemd is the pod's scope, see `systemd`)
//! <parent>/<pod id>/supervisor/       the pod's supervisor, without limits of its own
//! <parent>/<pod id>/<container id>/   the container's limits, and its init
//!                       …/exec-<n>/   one exec; on v1 in the freezer hierarchy only
//! ```
//!
//! The same path exists in every mounted hierarchy: each of v1, `name=systemd` and a hybrid host's cgroup2
//! included. The record of it, a [`Handle`], says which driver made it, and whoever holds the handle needs no
//! driver to work with it: the daemon and the supervisor call the same file operations.
//!
//! Invariant: nothing outside a pod's own directory is limited, killed or removed, and above
//! the parent that was named no `cgroup.subtree_control` is written. Parents made for a pod go with the last pod in them.
//! Invariant: a failed creation leaves nothing behind; a failed change leaves the limits as they were.
//! Invariant: removing is recursive, bounded in time, and absence is success.
//! Invariant: reading what is used never fails: what is missing or vanishes costs its own figure only.
//! Not here: `oom_score_adj` (the supervisor), which device rules a container gets (`spec`), rates.

mod cgroupfs;
mod change;
mod config;
mod container;
mod delegate;
mod detail;
mod devices;
mod driver;
mod error;
mod figures;
mod file;
mod group;
mod handle;
mod host;
mod kill;
mod limits;
mod parent;
mod settle;
mod slice;
mod systemd;
#[cfg(test)]
mod tests;
mod tree;
mod usage;
mod watch;

pub use cgroupfs::Cgroupfs;
pub use change::{changed, pod_changed, step};
pub use config::{Config, DriverChoice};
pub use container::{Container, OomCounts};
pub use detail::Detail;
#[cfg(test)]
pub(crate) use detail::Hugepages;
pub use driver::{Driver, Manager};
pub use error::Error;
pub use figures::{DeviceIo, Pressure, Stall};
pub use group::Version;
pub use handle::{Handle, Parts};
pub use kill::Killing;
pub use settle::Changed;
pub use usage::{Memory, Swap, Usage};
pub use watch::OomWatch;
