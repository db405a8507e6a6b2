//! From a policy to a program.
//!
//! Numbers of calls are cut into runs of equal decisions. A balanced binary search finds the run; what
//! is decided there is written once and shared, also between ABIs. Arguments are 64 bits wide and BPF
//! has 32, so each is compared as two halves.

use std::collections::{BTreeMap, HashMap};

use super::{
    Error,
    abi::{Abi, MULTIPLEXERS, Multiplexer},
    bpf::{Builder, INSTRUCTIONS_MAX, Insn, Label, op},
    policy::{Action, Condition, Policy},
};

/// Offsets in `struct seccomp_data` (linux/seccomp.h).
const NUMBER_OFFSET: u32 = 0;
const ARCH_OFFSET: u32 = 4;
const ARGS_OFFSET: u32 = 16;

/// The decision about one call.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Decision {
    /// The first whose conditions hold.
    cases: Vec<(Vec<Condition>, Action)>,
    otherwise: Action,
}

impl Decision {
    fn always(action: Action) -> Self {
        Self { cases: Vec::new(), otherwise: action }
    }

    fn new(mut cases: Vec<(Vec<Condition>, Action)>, otherwise: Action) -> Self {
        while cases.last().is_some_and(|(_, action)| *action == otherwise) {
            cases.pop();
        }
        Self { cases, otherwise }
    }

    /// The first way in which the call may be refused.
    fn refusal(&self) -> Option<Action> {
        self.cases.iter().map(|(_, action)| *action).chain([self.otherwise]).find(|action| !action.allows())
    }
}

/// The numbers from `first` up to the next run's.
#[derive(Debug)]
struct Run {
    first: u32,
    decision: Decision,
}

/// The program for `policy`.
///
/// # Errors
/// [`Error::TooLong`] if the kernel would not take it.
pub(super) fn compile(policy: &Policy<'_>) -> Result<Vec<Insn>, Error> {
    let decisions = decisions(policy);
    let mut builder = Builder::default();
    let mut leaves = HashMap::new();
    let mut next = builder.ret(Action::KILL_PROCESS.0);
    // Written backwards: the machine's own ABI, named first, is then the first to be asked for.
    for (audit, runs) in tables(policy, &decisions).iter().rev() {
        for run in runs {
            if !run.decision.cases.is_empty() {
                leaf(&mut builder, &mut leaves, &run.decision);
            }
            if builder.len() > INSTRUCTIONS_MAX {
                return Err(Error::TooLong { instructions: builder.len() });
            }
        }
        let found = search(&mut builder, &mut leaves, runs);
        let found = builder.then(op::LOAD, NUMBER_OFFSET, found);
        next = builder.branch(op::JUMP_EQUAL, *audit, found, next);
    }
    builder.then(op::LOAD, ARCH_OFFSET, next);
    if builder.len() > INSTRUCTIONS_MAX {
        return Err(Error::TooLong { instructions: builder.len() });
    }
    Ok(builder.finish())
}

/// The decision about each call that the policy names.
fn decisions<'a>(policy: &Policy<'a>) -> BTreeMap<&'a str, Decision> {
    type Draft = (Vec<(Vec<Condition>, Action)>, Option<Action>);
    let mut drafts: BTreeMap<&str, Draft> = BTreeMap::new();
    for rule in &policy.rules {
        for name in &rule.names {
            let (cases, otherwise) = drafts.entry(name).or_default();
            if rule.says_something(policy.default) {
                if rule.conditions.is_empty() {
                    otherwise.get_or_insert(rule.action);
                } else {
                    cases.push((rule.conditions.clone(), rule.action));
                }
            }
        }
    }
    let decision = |(cases, otherwise): Draft| match otherwise {
        None => Decision::new(cases, policy.default),
        Some(refusal) if !refusal.allows() => Decision::always(refusal),
        Some(permission) => {
            let permitted = |(conditions, action): (Vec<Condition>, Action)| {
                (conditions, if action.allows() { permission } else { action })
            };
            Decision::new(cases.into_iter().map(permitted).collect(), permission)
        }
    };
    drafts.into_iter().map(|(name, draft)| (name, decision(draft))).collect()
}

/// For each value of `seccomp_data.arch`, the runs that cover all numbers.
fn tables(policy: &Policy<'_>, decisions: &BTreeMap<&str, Decision>) -> Vec<(u32, Vec<Run>)> {
    let mut tables: Vec<(u32, Vec<Run>)> = Vec::new();
    for &abi in &policy.abis {
        let wrapped;
        let decisions = if abi == Abi::X86 {
            wrapped = with_multiplexers(decisions, policy);
            &wrapped
        } else {
            decisions
        };
        let runs = runs(abi, policy.default, decisions);
        match tables.iter_mut().find(|(audit, _)| *audit == abi.audit()) {
            Some((_, table)) => table.extend(runs),
            None => tables.push((abi.audit(), runs)),
        }
    }
    for (audit, table) in &mut tables {
        if *audit == Abi::X86_64.audit() {
            // Two ABIs share this table. What is above both is no call at all (-1 is one that a tracer has
            // skipped).
            if !policy.abis.contains(&Abi::X32) {
                let kill = Decision::always(Action::KILL_PROCESS);
                table.push(Run { first: Abi::X32.span().0, decision: kill });
            }
            let above = Decision::always(newer(policy.default));
            table.push(Run { first: Abi::X32.span().1 + 1, decision: above });
        }
        table.sort_by_key(|run| run.first);
        table.dedup_by(|next, run| next.decision == run.decision);
    }
    tables
}

/// A call that the policy's author cannot have known is answered as a kernel without it would: libraries
/// then fall back to older calls, while EPERM makes them give up.
fn newer(default: Action) -> Action {
    if default.allows() { default } else { Action::ENOSYS }
}

/// The runs of one ABI's part of the numbers.
fn runs(abi: Abi, default: Action, decisions: &BTreeMap<&str, Decision>) -> Vec<Run> {
    let by_number: BTreeMap<u32, &Decision> =
        decisions.iter().filter_map(|(name, decision)| Some((abi.number(name)?, decision))).collect();
    let island = abi.island().unwrap_or(u32::MAX..u32::MAX);
    // With nothing named, nothing is newer than what is named.
    let newest = by_number.keys().copied().rfind(|number| !island.contains(number)).unwrap_or(u32::MAX);
    let gap = |first: u32| {
        let known = first <= newest || island.contains(&first);
        Run { first, decision: Decision::always(if known { default } else { newer(default) }) }
    };

    let mut starts = vec![abi.span().0, island.start, island.end];
    starts.extend(newest.checked_add(1));
    starts.extend(by_number.keys().filter_map(|number| number.checked_add(1)));
    let mut runs: BTreeMap<u32, Run> = starts.into_iter().map(|first| (first, gap(first))).collect();
    for (number, decision) in by_number {
        runs.insert(number, Run { first: number, decision: decision.clone() });
    }
    let (first, last) = abi.span();
    runs.into_values().filter(|run| (first..=last).contains(&run.first)).collect()
}

/// Adds to the i386 wrappers what is decided about the calls they wrap. A call that may be refused for
/// its arguments is always refused there, where its arguments cannot be seen.
fn with_multiplexers<'a>(
    decisions: &BTreeMap<&'a str, Decision>,
    policy: &Policy<'a>,
) -> BTreeMap<&'a str, Decision> {
    let mut decisions = decisions.clone();
    // A rule that counts for nothing decides neither about a wrapper nor about what it wraps.
    let decided = policy.decided();
    for Multiplexer { name, mask, calls } in MULTIPLEXERS {
        let named = decisions.get(name).filter(|_| decided.contains(name)).cloned();
        if named.as_ref().is_some_and(|own| own.cases.is_empty() && !own.otherwise.allows()) {
            continue; // refused whole
        }
        let (mut cases, mut is_known) = (Vec::new(), named.is_some());
        for &(number, call) in calls {
            let Some(wrapped) = decisions.get(call) else { continue };
            // Whoever names a call knows how i386 makes it.
            is_known = true;
            if !decided.contains(call) {
                continue;
            }
            let case = Condition::Masked { arg: 0, mask, value: number };
            match wrapped.refusal() {
                Some(refusal) => cases.push((vec![case], refusal)),
                // A profile that names the wrapper has itself said what else it may do.
                None if named.is_none() => cases.push((vec![case], wrapped.otherwise)),
                None => {}
            }
        }
        if !is_known {
            continue;
        }
        let own = named.unwrap_or_else(|| Decision::always(policy.default));
        cases.extend(own.cases);
        decisions.insert(name, Decision::new(cases, own.otherwise));
    }
    decisions
}

fn search(builder: &mut Builder, leaves: &mut HashMap<Decision, Label>, runs: &[Run]) -> Label {
    match runs {
        // Never so: every ABI covers its numbers.
        [] => builder.ret(Action::KILL_PROCESS.0),
        [run] => leaf(builder, leaves, &run.decision),
        _ => {
            let (lower, upper) = runs.split_at(runs.len() / 2);
            let first = upper[0].first;
            let upper = search(builder, leaves, upper);
            let lower = search(builder, leaves, lower);
            builder.branch(op::JUMP_GREATER_EQUAL, first, upper, lower)
        }
    }
}

fn leaf(builder: &mut Builder, leaves: &mut HashMap<Decision, Label>, decision: &Decision) -> Label {
    if decision.cases.is_empty() {
        return builder.ret(decision.otherwise.0);
    }
    if let Some(label) = leaves.get(decision) {
        return *label;
    }
    let mut next = builder.ret(decision.otherwise.0);
    for (conditions, action) in decision.cases.iter().rev() {
        let mut pass = builder.ret(action.0);
        for condition in conditions.iter().rev() {
            pass = test(builder, *condition, pass, next);
        }
        next = pass;
    }
    leaves.insert(decision.clone(), next);
    next
}

/// Goes to `pass` if the condition holds, else to `fail`.
fn test(builder: &mut Builder, condition: Condition, pass: Label, fail: Label) -> Label {
    match condition {
        Condition::Within { arg, low, high, inside: true } => within(builder, arg, low, high, pass, fail),
        Condition::Within { arg, low, high, inside: false } => within(builder, arg, low, high, fail, pass),
        Condition::Masked { arg, mask, value } => {
            let (mask, value) = (halves(mask), halves(value));
            let mut next = pass;
            for half in [Half::Low, Half::High] {
                let (mask, value) = (half.of(mask), half.of(value));
                // Nothing asked of this half, and nothing wanted.
                if mask == 0 && value == 0 {
                    continue;
                }
                next = builder.branch(op::JUMP_EQUAL, value, next, fail);
                next = builder.then(op::AND, mask, next);
                next = builder.then(op::LOAD, half.offset(arg), next);
            }
            next
        }
    }
}

fn within(builder: &mut Builder, arg: u8, low: u64, high: u64, pass: Label, fail: Label) -> Label {
    if low > high {
        return fail;
    }
    let (least, most) = (halves(low), halves(high));
    if least.1 == most.1 {
        // One upper half will do: the common case of small numbers.
        let mut next = pass;
        if least.0 == most.0 {
            next = builder.branch(op::JUMP_EQUAL, least.0, next, fail);
        } else {
            if most.0 != u32::MAX {
                next = builder.branch(op::JUMP_GREATER, most.0, fail, next);
            }
            if least.0 != 0 {
                next = builder.branch(op::JUMP_GREATER_EQUAL, least.0, next, fail);
            }
        }
        if next != pass {
            next = builder.then(op::LOAD, Half::Low.offset(arg), next);
        }
        next = builder.branch(op::JUMP_EQUAL, least.1, next, fail);
        return builder.then(op::LOAD, Half::High.offset(arg), next);
    }
    let mut next = pass;
    if high != u64::MAX {
        let lower = builder.branch(op::JUMP_GREATER, most.0, fail, next);
        let lower = builder.then(op::LOAD, Half::Low.offset(arg), lower);
        let upper = builder.branch(op::JUMP_EQUAL, most.1, lower, next);
        let upper = builder.branch(op::JUMP_GREATER, most.1, fail, upper);
        next = builder.then(op::LOAD, Half::High.offset(arg), upper);
    }
    if low != 0 {
        let lower = builder.branch(op::JUMP_GREATER_EQUAL, least.0, next, fail);
        let lower = builder.then(op::LOAD, Half::Low.offset(arg), lower);
        let upper = builder.branch(op::JUMP_EQUAL, least.1, lower, fail);
        let upper = builder.branch(op::JUMP_GREATER, least.1, next, upper);
        next = builder.then(op::LOAD, Half::High.offset(arg), upper);
    }
    next
}

/// Half of a 64-bit argument.
#[derive(Clone, Copy, Debug)]
enum Half {
    Low,
    High,
}

impl Half {
    fn of(self, (low, high): (u32, u32)) -> u32 {
        match self {
            Self::Low => low,
            Self::High => high,
        }
    }

    /// The offset of this half in `struct seccomp_data`: a `__u64` in the machine's own order.
    fn offset(self, arg: u8) -> u32 {
        let second = matches!(self, Self::High) == cfg!(target_endian = "little");
        ARGS_OFFSET + 8 * u32::from(arg) + if second { 4 } else { 0 }
    }
}

fn halves(value: u64) -> (u32, u32) {
    #[expect(clippy::cast_possible_truncation, reason = "the two halves are what is wanted")]
    let halves = (value as u32, (value >> 32) as u32);
    halves
}

#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod reading;
#[cfg(test)]
mod tests;
