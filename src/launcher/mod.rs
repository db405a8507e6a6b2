//! How a container's processes are made: namespaces, root file system, volumes, identity, execve.
//!
//! | file | what |
//! |---|---|
//! | `template.rs` | the pod's namespaces, and the mount namespace in which libcontainer works |
//! | `rootfs.rs` | layers → overlay, and the guard that looks at it before anyone else does |
//! | `volume.rs` | mounts as detached trees: opened on the host, moved in by the container's init |
//! | `copy_up.rs` | the image's content of a volume that the image asks for |
//! | `device.rs` | the host's devices, those asked for and those of privileged containers |
//! | `users.rs` | the user namespace of a pod, and whose its files are |
//! | `user.rs` | who the process runs as, from the image's passwd and group |
//! | `libcontainer.rs` | the call of libcontainer: spec, `build()`, our `Executor` |
//! | `lsm.rs` | the AppArmor profile or SELinux label of a process |
//! | `label.rs` | SELinux labels of files: mounts, and volumes |
//! | `joined.rs` | a container in the pid namespace of others |
//! | `finish.rs` | the last steps before execve, the same for a container's init and for an exec |
//! | `program.rs` | the program: looked for in PATH, explained when the kernel does not take it |
//! | `probe.rs` | whether this node can give pods users of their own |
//! | `exec.rs` | a process in a container that runs already |
//! | `stdio.rs` | the standard streams of a process, pipes or a terminal |
//! | `report.rs` | what these processes tell the supervisor |
//!
//! Everything here runs in short-lived processes that the supervisor forks, with one thread, no descriptor
//! but their own, an empty environment and no way back: they report and end.
//!
//! Invariant: nothing is mounted in the host's mount namespace, not for a moment.
//! Invariant: libcontainer never sees a host path, a cgroup or a seccomp profile.
//! Invariant: what comes into a pid namespace where others may be has no more than its container from its first
//! instruction: identity, capabilities, descriptors, filter (docs/decisions/0006-confined-before-the-fork.md).
//! Invariant: no system call of ours between the seccomp filter and execve can be forbidden by that filter.
//! Not here: cgroups (the supervisor has the helper join one first), pipes, logs, reaping.

mod copy_up;
mod device;
mod exec;
mod finish;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod joined;
mod label;
mod libcontainer;
mod lsm;
mod probe;
mod program;
mod report;
mod rootfs;
mod stdio;
mod template;
mod user;
mod users;
mod volume;

pub use device::{Device, find_devices};
pub use exec::{Exec, exec};
pub use joined::{Joined, mount_pod_proc, mount_pod_proc_from_outside};
pub use libcontainer::{Launch, Stdio, create};
pub use probe::{probe_users_main, try_user_namespace};
pub use report::{Report, Reporter};
pub use rootfs::try_overlay;
pub use stdio::ExecStdio;
pub use template::{PodNamespaces, build as build_namespaces};
pub use user::Identity;
pub use users::Users;
