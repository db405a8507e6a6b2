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
    /// The same in words, beside the number.
    #[serde(rename = "defaultErrno")]
    _default_errno: Option<String>,
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

/// What a native architecture brings with it.
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
    #[serde(rename = "errno")]
    _errno: Option<String>,
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

/// What a profile's conditions may ask for.
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

/// How the filter is to be loaded. All are met or do no harm: there is one thread when it is loaded,
/// logging is the node's business, and the mitigations that `SPEC_ALLOW` would drop stay.
#[derive(Clone, Copy, Debug, Deserialize)]
enum Flag {
    #[serde(rename = "SECCOMP_FILTER_FLAG_LOG")]
    Log,
    #[serde(rename = "SECCOMP_FILTER_FLAG_SPEC_ALLOW")]
    SpecAllow,
    #[serde(rename = "SECCOMP_FILTER_FLAG_TSYNC")]
    Tsync,
    #[serde(rename = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV")]
    WaitKillableRecv,
}

impl Profile {
    /// What the profile says to a process on a machine.
    ///
    /// # Errors
    /// What is wrong with it, or beyond us.
    pub(super) fn policy(&self, subject: Subject<'_>) -> Result<Policy<'_>, Error> {
        if !self.listener_path.is_empty() {
            return Err(Error::Notify);
        }
        // Accepted and without effect; see `Flag`.
        let _ = &self.flags;
        let mut rules = Vec::new();
        for entry in self.syscalls.iter().flatten() {
            if entry.applies(subject)? {
                entry.rules(&mut rules)?;
            }
        }
        let default = self.default_action.action(self.default_errno_ret)?;
        Ok(Policy { abis: self.abis(subject.machine)?, default, rules })
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
        let action = self.action.action(self.errno_ret)?;
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
mod tests {
    use proptest::{prelude::*, sample::select};

    use super::*;
    use crate::spec::seccomp::{
        abi::{AMD64, ARM64},
        compile::compile,
        interpret::{Call, run},
    };

    fn amd64(capabilities: u64) -> Subject<'static> {
        Subject { machine: &AMD64, capabilities, kernel: (5, 14) }
    }

    /// What a profile answers on amd64 to a call in the native ABI (or another, by `abi`).
    #[track_caller]
    fn answer(profile: &str, capabilities: u64, (abi, name, args): (Abi, &str, [u64; 2])) -> Action {
        let profile: Profile = serde_json::from_str(profile).unwrap();
        let program = compile(&profile.policy(amd64(capabilities)).unwrap()).unwrap();
        let number = abi.number(name).unwrap();
        run(&program, &Call { audit: abi.audit(), number, args: [args[0], args[1], 0, 0, 0, 0] }).0
    }

    #[track_caller]
    fn refused(profile: &str) -> String {
        match serde_json::from_str::<Profile>(profile) {
            Ok(profile) => match profile.policy(amd64(0)) {
                Ok(policy) => compile(&policy).unwrap_err().to_string(),
                Err(error) => error.to_string(),
            },
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn conditions_on_different_arguments_are_and_on_the_same_one_or() {
        let profile = r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 2, "op": "SCMP_CMP_EQ"}]},
            {"names": ["write"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]}
        ]}"#;
        for (name, args, allowed) in [
            ("read", [1, 2], true),
            ("read", [1, 3], false),
            ("read", [2, 2], false),
            ("write", [1, 0], true),
            ("write", [2, 0], true),
            ("write", [3, 0], false),
        ] {
            let action = answer(profile, 0, (Abi::X86_64, name, args));
            assert_eq!(action == Action::ALLOW, allowed, "{name} {args:?}");
        }
    }

    #[test]
    fn a_refusal_equal_to_the_default_still_wins_over_a_general_permission() {
        let profile = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "syscalls": [
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": [
                {"index": 0, "value": 38, "op": "SCMP_CMP_EQ"}]}
        ]}"#;
        assert_eq!(answer(profile, 0, (Abi::X86_64, "socket", [38, 0])), Action::EPERM);
        assert_eq!(answer(profile, 0, (Abi::X86_64, "socket", [2, 0])), Action::ALLOW);
    }

    #[test]
    fn a_refused_socket_is_refused_through_socketcall_too() {
        let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "syscalls": [
            {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 97, "args": [
                {"index": 0, "value": 38, "op": "SCMP_CMP_EQ"}]},
            {"names": ["semget"], "action": "SCMP_ACT_ERRNO"}
        ]}"#;
        for (name, args, expected) in [
            ("socketcall", [1, 0], Action::errno(97)),
            ("socketcall", [2, 0], Action::ALLOW),
            ("ipc", [2, 0], Action::EPERM),
            ("ipc", [0x1_0002, 0], Action::EPERM), // version 1
            ("ipc", [1, 0], Action::ALLOW),
        ] {
            assert_eq!(answer(profile, 0, (Abi::X86, name, args)), expected, "{name} {args:x?}");
        }
    }

    #[test]
    fn architectures_that_are_not_listed_are_killed_but_never_the_native_one() {
        let profile =
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X32", "SCMP_ARCH_S390X"]}"#;
        assert_eq!(answer(profile, 0, (Abi::X86_64, "read", [0, 0])), Action::ALLOW);
        assert_eq!(answer(profile, 0, (Abi::X32, "read", [0, 0])), Action::ALLOW);
        assert_eq!(answer(profile, 0, (Abi::X86, "read", [0, 0])), Action::KILL_PROCESS);
        let map = r#"{"defaultAction": "SCMP_ACT_ALLOW", "archMap": [
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}]}"#;
        assert_eq!(answer(map, 0, (Abi::X86, "read", [0, 0])), Action::ALLOW);
        assert_eq!(answer(map, 0, (Abi::X32, "read", [0, 0])), Action::KILL_PROCESS);
        let map: Profile = serde_json::from_str(map).unwrap();
        assert_eq!(
            map.policy(Subject { machine: &ARM64, ..amd64(0) }).unwrap().abis,
            [Abi::Aarch64, Abi::Arm]
        );
    }

    #[test]
    fn a_call_newer_than_the_profile_does_not_exist() {
        let of = |default: &str| {
            format!(
                r#"{{"defaultAction": "{default}", "syscalls": [
                {{"names": ["openat2", "read"], "action": "SCMP_ACT_ALLOW"}}]}}"#
            )
        };
        for (default, known, newer) in [
            ("SCMP_ACT_ERRNO", Action::EPERM, Action::ENOSYS),
            ("SCMP_ACT_KILL", Action::KILL_THREAD, Action::ENOSYS),
            ("SCMP_ACT_LOG", Action::LOG, Action::LOG),
        ] {
            assert_eq!(answer(&of(default), 0, (Abi::X86_64, "write", [0, 0])), known, "{default}");
            assert_eq!(answer(&of(default), 0, (Abi::X86_64, "mseal", [0, 0])), newer, "{default}");
        }
    }

    #[test]
    fn includes_and_excludes_follow_capabilities_and_machine() {
        let profile = r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "comment": "", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["umount2"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"], "arches": ["s390"]}},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}, "excludes": {}},
            {"names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
            {"name": "openat", "action": "SCMP_ACT_ALLOW", "args": null}
        ]}"#;
        for (name, without, with) in [
            ("mount", false, true),
            ("umount2", true, false),
            ("ptrace", true, true),
            ("read", false, false),
            ("openat", true, true),
        ] {
            for (capabilities, allowed) in [(0, without), (capability::SYS_ADMIN, with)] {
                let action = answer(profile, capabilities, (Abi::X86_64, name, [0, 0]));
                assert_eq!(action == Action::ALLOW, allowed, "{name} {capabilities:x}");
            }
        }
    }

    #[test]
    fn what_other_engines_read_is_read() {
        let profile = r#"{"defaultAction": "SCMP_ACT_ERRNO", "listenerPath": null, "flags": null, "archMap": null,
            "architectures": null, "defaultErrnoRet": null, "comment": "ours", "syscalls": [
            {"names": [], "action": "SCMP_ACT_KILL"},
            {"names": null, "name": null, "action": "SCMP_ACT_KILL"},
            {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": null, "priority": 7, "includes": {"distro": "x"}},
            {"names": ["write"], "action": "SCMP_ACT_ALLOW", "errnoRet": null, "comment": null,
                "args": [{"value": 1, "index": null, "valueTwo": null, "op": "SCMP_CMP_EQ", "why": "stdout"}]},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_OF_TOMORROW"]}},
            {"names": ["close"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_OF_TOMORROW"]}},
            {"names": ["openat"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "5.14"}},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "9.1"}}
        ]}"#;
        for (name, args, allowed) in [
            ("read", [0, 0], true),
            ("write", [1, 0], true),
            ("write", [2, 0], false),
            ("mount", [0, 0], false),
            ("close", [0, 0], true),
            ("openat", [0, 0], true),
            ("ptrace", [0, 0], false),
            ("getpid", [0, 0], false),
        ] {
            let action = answer(profile, capability::ALL, (Abi::X86_64, name, args));
            assert_eq!(action == Action::ALLOW, allowed, "{name} {args:?}");
        }
        let profile: Profile = serde_json::from_str(profile).unwrap();
        assert_eq!(profile.unknown_keys(), ["comment", "distro", "priority", "why"]);
        assert!(
            serde_json::from_str::<Profile>(r#"{"defaultAction": "SCMP_ACT_LOG", "syscalls": null}"#).is_ok()
        );
    }

    #[test]
    fn what_is_not_understood_is_refused_and_named() {
        let rule = |inside: &str| {
            format!(
                r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{{"action": "SCMP_ACT_ERRNO", {inside}}}]}}"#
            )
        };
        for (profile, word) in [
            (r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#.into(), "SCMP_ACT_NOTIFY"),
            (r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}"#.into(), "SCMP_ACT_NOTIFY"),
            (r#"{"defaultAction": "SCMP_ACT_SING"}"#.into(), "SCMP_ACT_SING"),
            (r#"{"defaultAction": "SCMP_ACT_ALLOW", "defaultAction": "SCMP_ACT_LOG"}"#.into(), "duplicate"),
            (r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SPEED"]}"#.into(), "SPEED"),
            (
                r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_ARM"],
                    "archMap": [{"architecture": "SCMP_ARCH_ARM"}]}"#
                    .into(),
                "archMap",
            ),
            ("{}".into(), "defaultAction"),
            ("[".into(), "sequence"),
            (rule(r#""names": ["read"], "name": "write""#), "both name and names"),
            (rule(r#""names": ["read"], "errnoRet": 4096"#), "4096"),
            (rule(r#""names": ["read"], "errnoRet": -1"#), "-1"),
            (rule(r#""names": ["read"], "includes": {"minKernel": "new"}"#), "new"),
            (
                rule(r#""names": ["read"], "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]"#),
                "argument 6",
            ),
            (rule(r#""names": ["read"], "args": [{"index": 0, "value": 0, "op": "SCMP_CMP"}]"#), "SCMP_CMP"),
        ] {
            let message = refused(&profile);
            assert!(message.contains(word), "{profile}: {message}");
        }
    }

    proptest! {
        #[test]
        fn a_condition_holds_when_its_operator_does(
            op in select(vec![
                Operator::Equal, Operator::GreaterEqual, Operator::Greater, Operator::LessEqual,
                Operator::Less, Operator::MaskedEqual, Operator::NotEqual,
            ]),
            value in prop_oneof![any::<u64>(), 0..4_u64, Just(u64::MAX)],
            value_two in any::<u64>(),
            near in -2..3_i64,
            far in any::<u64>(),
        ) {
            let arg = Arg { index: 0, value, value_two, op, unknown: Unknown::default() };
            for given in [value.wrapping_add_signed(near), far, value_two & value, 0, u64::MAX] {
                let expected = match op {
                    Operator::Equal => given == value,
                    Operator::GreaterEqual => given >= value,
                    Operator::Greater => given > value,
                    Operator::LessEqual => given <= value,
                    Operator::Less => given < value,
                    Operator::MaskedEqual => given & value == value_two & value,
                    Operator::NotEqual => given != value,
                };
                let rules = vec![Rule { names: vec!["read"], conditions: vec![arg.condition().unwrap()], action: Action::ALLOW }];
                let policy = Policy { abis: vec![Abi::X86_64], default: Action::EPERM, rules };
                let call = Call { audit: Abi::X86_64.audit(), number: 0, args: [given, 0, 0, 0, 0, 0] };
                let action = run(&compile(&policy).unwrap(), &call).0;
                prop_assert_eq!(action == Action::ALLOW, expected, "{:?} {:x}", arg, given);
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = super::super::from_json(&bytes, 0, (5, 14));
        }
    }
}
