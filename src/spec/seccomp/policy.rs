//! The policy of a filter, before it is a program: the form that profiles and our own table share.

use std::collections::BTreeSet;

use super::abi::Abi;

/// A filter's decisions, by name of the call.
#[derive(Debug)]
pub(super) struct Policy<'a> {
    /// Calls of any other ABI end the process.
    pub(super) abis: Vec<Abi>,
    /// For calls that no rule speaks of.
    pub(super) default: Action,
    pub(super) rules: Vec<Rule<'a>>,
}

impl Policy<'_> {
    /// The names of the calls about which a rule counts.
    pub(super) fn decided(&self) -> BTreeSet<&str> {
        let counting = self.rules.iter().filter(|rule| rule.says_something(self.default));
        counting.flat_map(|rule| rule.names.iter().copied()).collect()
    }
}

/// One decision. Of several rules for one call, those with conditions come first, in their order, then the first
/// without; but a refusal without conditions decides alone, and a permission without conditions decides how all are
/// permitted. A rule that says what is the default already counts for nothing, unless it refuses under conditions.
#[derive(Clone, Debug)]
pub(super) struct Rule<'a> {
    pub(super) names: Vec<&'a str>,
    /// All must hold.
    pub(super) conditions: Vec<Condition>,
    pub(super) action: Action,
}

impl Rule<'_> {
    /// Whether the rule counts where that is the default.
    pub(super) fn says_something(&self, default: Action) -> bool {
        self.action != default || (!default.allows() && !self.conditions.is_empty())
    }
}

/// A test of one argument.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Condition {
    /// Whether `low <= argument <= high` is `inside`. `low > high` holds nothing.
    Within { arg: u8, low: u64, high: u64, inside: bool },
    /// `argument & mask == value`.
    Masked { arg: u8, mask: u64, value: u64 },
}

/// The answer of a filter to the kernel: a `SECCOMP_RET_*` value (linux/seccomp.h).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct Action(pub(super) u32);

impl Action {
    pub(super) const ALLOW: Self = Self(0x7fff_0000);
    pub(super) const LOG: Self = Self(0x7ffc_0000);
    pub(super) const TRAP: Self = Self(0x0003_0000);
    pub(super) const KILL_PROCESS: Self = Self(0x8000_0000);
    pub(super) const KILL_THREAD: Self = Self(0);
    pub(super) const ENOSYS: Self = Self::errno(38);
    pub(super) const EPERM: Self = Self::errno(1);

    pub(super) const fn errno(number: u16) -> Self {
        Self(0x0005_0000 | number as u32)
    }

    pub(super) const fn trace(message: u16) -> Self {
        Self(0x7ff0_0000 | message as u32)
    }

    /// Whether the call may happen. A tracer decides for itself.
    pub(super) fn allows(self) -> bool {
        matches!(self.0 & 0xffff_0000, 0x7fff_0000 | 0x7ffc_0000 | 0x7ff0_0000)
    }
}
