//! A second reading of policies, call by call and slow, with which compiled programs are compared.

use std::collections::HashMap;

use crate::spec::seccomp::{
    abi::{Abi, MULTIPLEXERS, Machine, Multiplexer},
    interpret::Call,
    policy::{Action, Condition, Policy, Rule},
};

/// The policy read as its types are documented, call by call.
pub(in crate::spec::seccomp) struct Reading<'a> {
    policy: &'a Policy<'a>,
    machine: &'a Machine,
    /// The call of each number that the policy speaks of.
    named: HashMap<(Abi, u32), &'a str>,
}

impl<'a> Reading<'a> {
    pub(in crate::spec::seccomp) fn of(policy: &'a Policy<'a>, machine: &'a Machine) -> Self {
        let names = || policy.rules.iter().flat_map(|rule| rule.names.iter().copied());
        let mut named = HashMap::new();
        for &abi in &policy.abis {
            named.extend(names().filter_map(|name| Some(((abi, abi.number(name)?), name))));
        }
        // A wrapper is spoken of where what it wraps is.
        for wrapper in MULTIPLEXERS {
            if policy.abis.contains(&Abi::X86)
                && names().any(|name| wrapper.calls.iter().any(|call| call.1 == name))
                && let Some(number) = Abi::X86.number(wrapper.name)
            {
                named.insert((Abi::X86, number), wrapper.name);
            }
        }
        Self { policy, machine, named }
    }

    /// The answer to a call.
    pub(in crate::spec::seccomp) fn expected(&self, call: &Call) -> Action {
        let policy = self.policy;
        let newer = if policy.default.allows() { policy.default } else { Action::ENOSYS };
        let of_audit = || self.machine.abis.iter().filter(|abi| abi.audit() == call.audit);
        let spanning = |abi: &&Abi| (abi.span().0..=abi.span().1).contains(&call.number);
        let Some(&abi) = of_audit().find(spanning) else {
            return if of_audit().count() == 0 { Action::KILL_PROCESS } else { newer };
        };
        if !policy.abis.contains(&abi) {
            return Action::KILL_PROCESS;
        }
        if let Some(name) = self.named.get(&(abi, call.number)) {
            return by_name(policy, name, call, abi);
        }
        let in_island = |number: u32| abi.island().is_some_and(|island| island.contains(&number));
        let numbers = self.named.keys().filter(|named| named.0 == abi && !in_island(named.1));
        let newest = numbers.map(|named| named.1).max().unwrap_or(u32::MAX);
        if in_island(call.number) || call.number <= newest { policy.default } else { newer }
    }
}

fn by_name<'a>(policy: &Policy<'a>, name: &str, call: &Call, abi: Abi) -> Action {
    let of = |name: &str| {
        let rules: Vec<_> = policy
            .rules
            .iter()
            .filter(|rule| rule.names.contains(&name) && rule.says_something(policy.default))
            .cloned()
            .collect();
        let (general, special): (Vec<_>, Vec<_>) =
            rules.into_iter().partition(|rule| rule.conditions.is_empty());
        match general.first().map(|rule| rule.action) {
            Some(refusal) if !refusal.allows() => (Vec::new(), Some(refusal)),
            Some(permission) => {
                let permitted = |rule: Rule<'a>| match rule.action.allows() {
                    true => Rule { action: permission, ..rule },
                    false => rule,
                };
                (special.into_iter().map(permitted).collect(), Some(permission))
            }
            None => (special, None),
        }
    };
    let (special, general) = of(name);
    let own = || {
        special
            .iter()
            .find(|rule| rule.conditions.iter().all(|condition| holds(condition, call)))
            .map(|rule| rule.action)
            .or(general)
            .unwrap_or(policy.default)
    };
    let wrapper = MULTIPLEXERS.iter().find(|wrapper| abi == Abi::X86 && wrapper.name == name);
    let Some(Multiplexer { mask, calls, .. }) = wrapper else { return own() };
    let wrapper_named = !special.is_empty() || general.is_some();
    let otherwise = general.unwrap_or(policy.default);
    // Conditions in the end that change nothing are none.
    if wrapper_named && special.iter().all(|rule| rule.action == otherwise) && !otherwise.allows() {
        return own();
    }
    // The kernel looks at the lower half only, but an i386 process has no upper.
    let wrapped = calls.iter().find(|(n, _)| call.args[0] & mask == *n);
    let Some((_, wrapped)) = wrapped else { return own() };
    let (cases, last) = of(wrapped);
    if cases.is_empty() && last.is_none() {
        return own();
    }
    let last = last.unwrap_or(policy.default);
    let mut outcomes: Vec<_> = cases.iter().map(|rule| rule.action).collect();
    while outcomes.last() == Some(&last) {
        outcomes.pop();
    }
    outcomes.push(last);
    match outcomes.into_iter().find(|action| !action.allows()) {
        Some(refusal) => refusal,
        None if wrapper_named => own(),
        None => last,
    }
}

fn holds(condition: &Condition, call: &Call) -> bool {
    match *condition {
        Condition::Within { arg, low, high, inside } => {
            (low..=high).contains(&call.args[usize::from(arg)]) == inside
        }
        Condition::Masked { arg, mask, value } => call.args[usize::from(arg)] & mask == value,
    }
}
