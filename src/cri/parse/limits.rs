//! How much of anything a request may hold. More is refused before a byte of it is kept.

/// Bytes of a name: a Kubernetes name has 253 at most.
pub(crate) const NAME_BYTES_MAX: usize = 256;
/// Bytes of a path, without the NUL that ends it for the kernel (`PATH_MAX`).
pub(crate) const PATH_BYTES_MAX: usize = 4095;
/// Bytes of a host name (`HOST_NAME_MAX`).
pub(crate) const HOSTNAME_BYTES_MAX: usize = 64;
/// Bytes of a label's or annotation's key: a prefix of 253, a slash, a name of 63.
pub(crate) const LABEL_KEY_BYTES_MAX: usize = 317;
/// Bytes of the annotations of one object, as Kubernetes allows (`TotalAnnotationSizeLimitB`). What the kubelet
/// itself adds to those of a pod does not count, or the largest pod that can be made could not run.
pub(crate) const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;
/// Bytes of all labels and annotations: labels and what the kubelet adds get as much again.
pub(crate) const LABELS_BYTES_MAX: usize = 512 << 10;
/// Environment variables of one container.
pub(crate) const ENVS_MAX: usize = 10_000;
/// Bytes of the environment: what execve takes for arguments and environment by default (`ARG_MAX`).
pub(crate) const ENV_BYTES_MAX: usize = 2 << 20;
/// Words of a command.
pub(crate) const ARGS_MAX: usize = 10_000;
/// Bytes of a command, as [`ENV_BYTES_MAX`].
pub(crate) const ARGS_BYTES_MAX: usize = 2 << 20;
/// Volumes of one container.
pub(crate) const MOUNTS_MAX: usize = 1000;
/// Devices of one container.
pub(crate) const DEVICES_MAX: usize = 500;
/// Masked paths, and read-only paths, of one container.
pub(crate) const HIDDEN_PATHS_MAX: usize = 1000;
/// Sysctls of one pod.
pub(crate) const SYSCTLS_MAX: usize = 200;
/// Bytes of a sysctl's value: the kernel reads a page at most.
pub(crate) const SYSCTL_VALUE_BYTES_MAX: usize = 4095;
/// Port mappings of one pod.
pub(crate) const PORTS_MAX: usize = 1000;
/// Ports that one port-forward names. Old WebSocket clients have two channels of one byte's number for each.
pub(crate) const FORWARDED_PORTS_MAX: usize = 127;
/// Servers, searches or options of a resolv.conf; Kubernetes allows 3 servers and 32 searches.
pub(crate) const DNS_ENTRIES_MAX: usize = 64;
/// Bytes of one of them; a domain name has 253.
pub(crate) const DNS_ENTRY_BYTES_MAX: usize = 255;
/// Ranges of ids in one map: as many as the kernel takes (user_namespaces(7)).
pub(crate) const ID_RANGES_MAX: usize = 340;
/// Additional groups of a process (the kernel's `NGROUPS_MAX`).
pub(crate) const GROUPS_MAX: usize = 65_536;
/// Names in one list of capabilities; the kernel has fewer than half as many.
pub(crate) const CAPABILITIES_MAX: usize = 128;
/// Sizes of huge pages; no machine has more than a handful.
pub(crate) const HUGEPAGES_MAX: usize = 32;
/// Raw cgroup v2 settings; the kernel has fewer files in a cgroup.
pub(crate) const UNIFIED_MAX: usize = 200;
/// Bytes of a list of CPUs or memory nodes, or of a raw cgroup v2 value: one page.
pub(crate) const CGROUP_VALUE_BYTES_MAX: usize = 4095;
/// Bytes of an image reference.
pub(crate) const REFERENCE_BYTES_MAX: usize = 4096;
/// Bytes of a user name, password or token; the longest tokens seen are a few KiB.
pub(crate) const CREDENTIAL_BYTES_MAX: usize = 64 << 10;
/// Seconds that a stop or a command may take: one year is "for ever" and cannot overflow a clock.
pub(crate) const TIMEOUT_S_MAX: u64 = 365 * 24 * 3600;
