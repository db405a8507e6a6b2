//! Seccomp profiles in JSON: the OCI runtime spec's `linux.seccomp`, with the conditions (`includes`,
//! `excludes`, `archMap`) that profiles written for other engines use.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Deserializer, de::IgnoredAny};

use super::{
    Error,
    abi::{Abi, Machine},
    policy::{Action, Condition, Policy, Rule},
};
use crate::spec::capability;

/// A call has six arguments.
const ARG_INDEX_MAX: u32 = 5;
/// The kernel cuts larger numbers down to this (`MAX_ERRNO`, linux/err.h).
const ERRNO_MAX: u32 = 4095;
/// The errors that a refusal can sensibly be (errno(3)), for profiles that give a name alone.
const ERRNO_NAMES: [(&str, u32); 10] = [
    ("EPERM", 1),
    ("ENOENT", 2),
    ("EIO", 5),
    ("EAGAIN", 11),
    ("EACCES", 13),
    ("EBUSY", 16),
    ("EINVAL", 22),
    ("ENOSYS", 38),
    ("EOPNOTSUPP", 95),
    ("EAFNOSUPPORT", 97),
];
/// Most unknown keys that are told of.
const UNKNOWN_KEYS_MAX: usize = 8;

/// Keys that nothing here reads: of a later version of the format, of another engine, or misspelt. They are
/// passed over, as the engines do whose profiles these are, and told of.
type Unknown = BTreeMap<String, IgnoredAny>;

/// A whole profile.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Profile {
    default_action: ActionName,
    default_errno_ret: Option<u32>,
    /// The name of that number.
    default_errno: Option<String>,
    architectures: Option<Vec<String>>,
    arch_map: Option<Vec<ArchMap>>,
    flags: Option<Vec<Flag>>,
    #[serde(default, deserialize_with = "or_default")]
    listener_path: String,
    #[serde(rename = "listenerMetadata")]
    _listener_metadata: Option<String>,
    syscalls: Option<Vec<Syscalls>>,
    #[serde(flatten)]
    unknown: Unknown,
}

/// A native architecture and those that it brings with it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

/// One rule. Without names it is about nothing.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Syscalls {
    /// The older spelling of `names`.
    #[serde(default, deserialize_with = "or_default")]
    name: String,
    #[serde(default, deserialize_with = "or_default")]
    names: Vec<String>,
    action: ActionName,
    errno_ret: Option<u32>,
    /// The name of that number.
    errno: Option<String>,
    args: Option<Vec<Arg>>,
    #[serde(rename = "comment")]
    _comment: Option<String>,
    includes: Option<Filter>,
    excludes: Option<Filter>,
    #[serde(flatten)]
    unknown: Unknown,
}

/// When a rule applies. An empty list asks for nothing.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Filter {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
    #[serde(flatten)]
    unknown: Unknown,
}

/// A test of one argument. Numbers that are absent or null are 0, as Go reads them.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Arg {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) index: u32,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) value: u64,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) value_two: u64,
    pub(super) op: Operator,
    #[serde(flatten)]
    unknown: Unknown,
}

/// null is as good as absent: what Go writes for an empty text or list.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// The facts that a profile's conditions may ask for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    pub(super) machine: &'a Machine,
    /// Bit N is capability N.
    pub(super) capabilities: u64,
    /// Major and minor version of the running kernel.
    pub(super) kernel: (u32, u32),
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
pub(super) enum Operator {
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    #[serde(rename = "SCMP_CMP_GE")]
    GreaterEqual,
    #[serde(rename = "SCMP_CMP_GT")]
    Greater,
    #[serde(rename = "SCMP_CMP_LE")]
    LessEqual,
    #[serde(rename = "SCMP_CMP_LT")]
    Less,
    /// `value` is the mask, `valueTwo` what must be left.
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEqual,
    #[serde(rename = "SCMP_CMP_NE")]
    NotEqual,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
enum ActionName {
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    #[serde(rename = "SCMP_ACT_KILL_THREAD", alias = "SCMP_ACT_KILL")]
    KillThread,
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    #[serde(rename = "SCMP_ACT_NOTIFY")]
    Notify,
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
}

/// How the filter is to be loaded (seccomp(2)).
#[derive(Clone, Copy, Debug, Deserialize)]
enum Flag {
    /// All that is not allowed is logged.
    #[serde(rename = "SECCOMP_FILTER_FLAG_LOG")]
    Log,
    /// The processor's mitigation of speculative store bypass stays off.
    #[serde(rename = "SECCOMP_FILTER_FLAG_SPEC_ALLOW")]
    SpecAllow,
    /// For all threads: there is one when it is loaded.
    #[serde(rename = "SECCOMP_FILTER_FLAG_TSYNC")]
    Tsync,
    /// About waiting for a listener: there is none.
    #[serde(rename = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV")]
    WaitKillableRecv,
}

impl Flag {
    /// `SECCOMP_FILTER_FLAG_*` (linux/seccomp.h); none for what is so already.
    fn bits(self) -> u32 {
        match self {
            Self::Log => 1 << 1,
            Self::SpecAllow => 1 << 2,
            Self::Tsync | Self::WaitKillableRecv => 0,
        }
    }
}

impl Profile {
    /// The policy that the profile has for a process on a machine.
    ///
    /// # Errors
    /// What is wrong with it, or beyond us.
    pub(super) fn policy(&self, subject: Subject<'_>) -> Result<Policy<'_>, Error> {
        if !self.listener_path.is_empty() {
            return Err(Error::Notify);
        }
        let mut rules = Vec::new();
        for entry in self.syscalls.iter().flatten() {
            if entry.applies(subject)? {
                entry.rules(&mut rules)?;
            }
        }
        let default =
            self.default_action.action(errno(self.default_errno_ret, self.default_errno.as_deref())?)?;
        Ok(Policy { abis: self.abis(subject.machine)?, default, rules })
    }

    /// How the filter is to be loaded, for seccomp(2).
    pub(super) fn flags(&self) -> u32 {
        self.flags.iter().flatten().fold(0, |all, flag| all | flag.bits())
    }

    /// Some of the keys that have no effect, each once.
    pub(super) fn unknown_keys(&self) -> Vec<&str> {
        let rules = self.syscalls.iter().flatten();
        let of_rules = rules.flat_map(|rule| {
            let filters =
                [&rule.includes, &rule.excludes].into_iter().flatten().map(|filter| &filter.unknown);
            let args = rule.args.iter().flatten().map(|arg| &arg.unknown);
            std::iter::once(&rule.unknown).chain(filters).chain(args)
        });
        let keys: BTreeSet<&str> = std::iter::once(&self.unknown)
            .chain(of_rules)
            .flat_map(BTreeMap::keys)
            .map(String::as_str)
            .collect();
        keys.into_iter().take(UNKNOWN_KEYS_MAX).collect()
    }

    /// The native ABI is always among them. Those of other machines are no concern of ours.
    fn abis(&self, machine: &Machine) -> Result<Vec<Abi>, Error> {
        let listed: Vec<&str> = match (self.architectures.as_deref(), self.arch_map.as_deref()) {
            (Some([_, ..]), Some([_, ..])) => return Err(Error::ArchitecturesTwice),
            (_, Some(maps)) => maps
                .iter()
                .filter(|map| map.architecture == machine.abis[0].oci_name())
                .flat_map(|map| map.sub_architectures.iter().flatten())
                .map(String::as_str)
                .collect(),
            (Some(names), None) => names.iter().map(String::as_str).collect(),
            (None, None) => Vec::new(),
        };
        let wanted = |abi: &Abi| *abi == machine.abis[0] || listed.contains(&abi.oci_name());
        Ok(machine.abis.iter().copied().filter(wanted).collect())
    }
}

impl Syscalls {
    fn applies(&self, subject: Subject<'_>) -> Result<bool, Error> {
        let included = match &self.includes {
            Some(filter) => filter.all(subject)?,
            None => true,
        };
        let excluded = match &self.excludes {
            Some(filter) => filter.any(subject)?,
            None => false,
        };
        Ok(included && !excluded)
    }

    fn rules<'a>(&'a self, rules: &mut Vec<Rule<'a>>) -> Result<(), Error> {
        let action = self.action.action(errno(self.errno_ret, self.errno.as_deref())?)?;
        let mut names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        match (self.name.as_str(), names.is_empty()) {
            ("", false) => {}
            ("", true) => return Ok(()),
            (name, true) => names.push(name),
            (_, false) => return Err(Error::Names),
        }
        let args = self.args.as_deref().unwrap_or_default();
        let conditions = args.iter().map(|arg| arg.condition()).collect::<Result<Vec<_>, _>>()?;
        let named_twice =
            args.iter().enumerate().any(|(n, arg)| args[..n].iter().any(|other| other.index == arg.index));
        if named_twice {
            // The OCI spec is silent; in the field this means "any of them".
            let each = |condition| Rule { names: names.clone(), conditions: vec![condition], action };
            rules.extend(conditions.into_iter().map(each));
        } else {
            rules.push(Rule { names, conditions, action });
        }
        Ok(())
    }
}

impl Filter {
    /// For `includes`: every capability, one of the machines, the kernel.
    fn all(&self, subject: Subject<'_>) -> Result<bool, Error> {
        let caps = self.caps.iter().flatten().all(|name| subject.has(name));
        let arches = self.arches.as_deref().unwrap_or_default();
        let arches = arches.is_empty() || arches.iter().any(|name| name == subject.machine.name);
        Ok(caps && arches && self.kernel(subject)?.unwrap_or(true))
    }

    /// For `excludes`: any of them.
    fn any(&self, subject: Subject<'_>) -> Result<bool, Error> {
        let caps = self.caps.iter().flatten().any(|name| subject.has(name));
        let arches = self.arches.iter().flatten().any(|name| name == subject.machine.name);
        Ok(caps || arches || self.kernel(subject)?.unwrap_or(false))
    }

    /// Whether the kernel is at least the one asked for.
    fn kernel(&self, subject: Subject<'_>) -> Result<Option<bool>, Error> {
        let Some(text) = self.min_kernel.as_deref().filter(|text| !text.is_empty()) else { return Ok(None) };
        let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
        match (major.parse(), minor.parse()) {
            (Ok(major), Ok(minor)) => Ok(Some((major, minor) <= subject.kernel)),
            _ => Err(Error::Kernel { version: text.into() }),
        }
    }
}

impl Subject<'_> {
    /// A capability that this release does not know is one that no process has.
    fn has(&self, name: &str) -> bool {
        capability::bit(name).is_some_and(|bit| self.capabilities & bit != 0)
    }
}

/// The number of an error, which is given as such, or by its name alone (as containers/common reads it).
fn errno(number: Option<u32>, name: Option<&str>) -> Result<Option<u32>, Error> {
    match (number, name.filter(|name| !name.is_empty())) {
        (None, Some(name)) => match ERRNO_NAMES.iter().find(|(known, _)| *known == name) {
            Some((_, number)) => Ok(Some(*number)),
            None => Err(Error::ErrnoName { name: name.into() }),
        },
        (number, _) => Ok(number),
    }
}

impl ActionName {
    fn action(self, number: Option<u32>) -> Result<Action, Error> {
        let number = |max| match number.unwrap_or(1) {
            number if number <= max => Ok(u16::try_from(number).unwrap_or(u16::MAX)),
            number => Err(Error::Errno { number }),
        };
        Ok(match self {
            Self::Allow => Action::ALLOW,
            Self::Errno => Action::errno(number(ERRNO_MAX)?),
            Self::KillProcess => Action::KILL_PROCESS,
            Self::KillThread => Action::KILL_THREAD,
            Self::Log => Action::LOG,
            Self::Notify => return Err(Error::Notify),
            Self::Trace => Action::trace(number(u16::MAX.into())?),
            Self::Trap => Action::TRAP,
        })
    }
}

impl Arg {
    pub(super) fn condition(&self) -> Result<Condition, Error> {
        if self.index > ARG_INDEX_MAX {
            return Err(Error::Index { index: self.index });
        }
        let arg = u8::try_from(self.index).unwrap_or(u8::MAX);
        let within = |low, high| Condition::Within { arg, low, high, inside: true };
        let nothing = within(1, 0);
        let value = self.value;
        Ok(match self.op {
            Operator::Equal => within(value, value),
            Operator::NotEqual => Condition::Within { arg, low: value, high: value, inside: false },
            Operator::GreaterEqual => within(value, u64::MAX),
            Operator::Greater => value.checked_add(1).map_or(nothing, |low| within(low, u64::MAX)),
            Operator::LessEqual => within(0, value),
            Operator::Less => value.checked_sub(1).map_or(nothing, |high| within(0, high)),
            Operator::MaskedEqual => Condition::Masked { arg, mask: value, value: self.value_two & value },
        })
    }
}

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;
