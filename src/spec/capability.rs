//! Capabilities by name: bit N of a set is capability N (capabilities(7), as of Linux 6.18).

/// From 0 on, without `CAP_`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Every capability there is.
pub(super) const ALL: u64 = (1 << NAMES.len()) - 1;

pub(super) const DAC_OVERRIDE: u64 = 1 << 1;
pub(super) const DAC_READ_SEARCH: u64 = 1 << 2;
pub(super) const SETGID: u64 = 1 << 6;
pub(super) const SETUID: u64 = 1 << 7;
pub(super) const SETPCAP: u64 = 1 << 8;
pub(super) const SYS_MODULE: u64 = 1 << 16;
pub(super) const SYS_RAWIO: u64 = 1 << 17;
pub(super) const SYS_CHROOT: u64 = 1 << 18;
pub(super) const SYS_PTRACE: u64 = 1 << 19;
pub(super) const SYS_PACCT: u64 = 1 << 20;
pub(super) const SYS_ADMIN: u64 = 1 << 21;
pub(super) const SYS_BOOT: u64 = 1 << 22;
pub(super) const SYS_NICE: u64 = 1 << 23;
pub(super) const SYS_RESOURCE: u64 = 1 << 24;
pub(super) const SYS_TIME: u64 = 1 << 25;
pub(super) const SYS_TTY_CONFIG: u64 = 1 << 26;
pub(super) const SYSLOG: u64 = 1 << 34;
pub(super) const PERFMON: u64 = 1 << 38;
pub(super) const BPF: u64 = 1 << 39;

/// Whether a name without `CAP_` is a capability's.
pub fn is_capability(name: &str) -> bool {
    NAMES.contains(&name)
}

/// The set with one capability, named with or without `CAP_`; `None` if there is none of that name.
pub(super) fn bit(name: &str) -> Option<u64> {
    let name = name.strip_prefix("CAP_").unwrap_or(name);
    NAMES.iter().position(|known| *known == name).map(|number| 1 << number)
}

/// The names in a set, in the order of their numbers, with `CAP_`.
pub(super) fn names(set: u64) -> impl Iterator<Item = String> {
    let held = move |(number, _): &(usize, &&str)| set & (1 << number) != 0;
    NAMES.iter().enumerate().filter(held).map(|(_, name)| format!("CAP_{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_its_bit_are_those_of_the_kernel_header() {
        for (name, set) in [
            ("CAP_DAC_OVERRIDE", DAC_OVERRIDE),
            ("SETUID", SETUID),
            ("SYS_ADMIN", SYS_ADMIN),
            ("CAP_SYSLOG", SYSLOG),
            ("BPF", BPF),
            ("CHECKPOINT_RESTORE", 1 << 40),
        ] {
            assert_eq!(bit(name), Some(set), "{name}");
        }
        assert_eq!(bit("CAP_CAP_BPF"), None);
        assert_eq!(bit("bpf"), None);
        assert_eq!(ALL, 0x1ff_ffff_ffff);
    }

    #[test]
    fn a_set_is_listed_in_order() {
        let listed: Vec<_> = names(SYS_ADMIN | SETUID).collect();
        assert_eq!(listed, ["CAP_SETUID", "CAP_SYS_ADMIN"]);
    }
}
