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

/// What happens to one call.
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

/// What is decided about each call that the policy names.
fn decisions<'a>(policy: &Policy<'a>) -> BTreeMap<&'a str, Decision> {
    type Draft = (Vec<(Vec<Condition>, Action)>, Option<Action>);
    let mut drafts: BTreeMap<&str, Draft> = BTreeMap::new();
    for rule in &policy.rules {
        for name in &rule.names {
            let (cases, otherwise) = drafts.entry(name).or_default();
            if rule.conditions.is_empty() {
                otherwise.get_or_insert(rule.action);
            } else {
                cases.push((rule.conditions.clone(), rule.action));
            }
        }
    }
    drafts
        .into_iter()
        .map(|(name, (cases, otherwise))| (name, Decision::new(cases, otherwise.unwrap_or(policy.default))))
        .collect()
}

/// For each value of `seccomp_data.arch`, the runs that cover all numbers.
fn tables(policy: &Policy<'_>, decisions: &BTreeMap<&str, Decision>) -> Vec<(u32, Vec<Run>)> {
    let mut tables: Vec<(u32, Vec<Run>)> = Vec::new();
    for &abi in &policy.abis {
        let wrapped;
        let decisions = if abi == Abi::X86 {
            wrapped = with_multiplexers(decisions, policy.default);
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
    default: Action,
) -> BTreeMap<&'a str, Decision> {
    let mut decisions = decisions.clone();
    for Multiplexer { name, mask, calls } in MULTIPLEXERS {
        let named = decisions.get(name).cloned();
        if named.as_ref().is_some_and(|own| own.cases.is_empty() && !own.otherwise.allows()) {
            continue; // refused whole
        }
        let mut cases = Vec::new();
        for &(number, call) in calls {
            let Some(wrapped) = decisions.get(call) else { continue };
            let case = Condition::Masked { arg: 0, mask, value: number };
            match wrapped.refusal() {
                Some(refusal) => cases.push((vec![case], refusal)),
                // A profile that names the wrapper has itself said what else it may do.
                None if named.is_none() => cases.push((vec![case], wrapped.otherwise)),
                None => {}
            }
        }
        if named.is_none() && cases.is_empty() {
            continue;
        }
        let own = named.unwrap_or_else(|| Decision::always(default));
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

    /// Where it lies in `struct seccomp_data`: a `__u64` in the machine's own order.
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

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;
    use crate::spec::{
        capability,
        seccomp::{
            abi::{AMD64, ARM64, Machine},
            default,
            interpret::{Call, check, run},
            policy::Rule,
        },
    };

    /// The policy read as its types are documented, call by call.
    struct Reading<'a> {
        policy: &'a Policy<'a>,
        machine: &'a Machine,
        /// The call of each number that the policy speaks of.
        named: HashMap<(Abi, u32), &'a str>,
    }

    impl<'a> Reading<'a> {
        fn of(policy: &'a Policy<'a>, machine: &'a Machine) -> Self {
            let names = || policy.rules.iter().flat_map(|rule| rule.names.iter().copied());
            let mut named = HashMap::new();
            for &abi in &policy.abis {
                named.extend(names().filter_map(|name| Some(((abi, abi.number(name)?), name))));
            }
            // A wrapper is spoken of where what it wraps is.
            for wrapper in MULTIPLEXERS {
                if policy.abis.contains(&Abi::X86)
                    && names().any(|name| wrapper.calls.iter().any(|call| call.1 == name))
                {
                    named.insert((Abi::X86, Abi::X86.number(wrapper.name).unwrap()), wrapper.name);
                }
            }
            Self { policy, machine, named }
        }

        fn expected(&self, call: &Call) -> Action {
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

    fn by_name(policy: &Policy<'_>, name: &str, call: &Call, abi: Abi) -> Action {
        let of = |name: &str| {
            let rules: Vec<_> =
                policy.rules.iter().filter(|rule| rule.names.contains(&name)).cloned().collect();
            let (general, special): (Vec<_>, Vec<_>) =
                rules.into_iter().partition(|rule| rule.conditions.is_empty());
            (special, general.first().map(|rule| rule.action))
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

    const MACHINES: [&Machine; 2] = [&AMD64, &ARM64];

    /// Every number worth asking about.
    fn numbers() -> impl Iterator<Item = u32> {
        let edges = [0x3fff_ffff, 0x7fff_ffff, 0x8000_0000, 0xf_0000, u32::MAX];
        (0..600).chain(0x4000_0000..0x4000_0000 + 600).chain(0xf_0000..0xf_0008).chain(edges)
    }

    /// First arguments at which some decision of the default profile changes.
    fn telling_arguments() -> Vec<u64> {
        let mut values: Vec<u64> = (0..64).collect();
        values.extend([0x2_0000, 0x2_0008, 0x7e02_0000, 0x1000_0000, 0xffff_ffff]);
        values.extend(values.clone().iter().map(|value| value | 1 << 32));
        values
    }

    fn capability_sets() -> Vec<u64> {
        let mut sets = vec![0, capability::ALL, 0xa804_25fb];
        sets.extend((0..41).map(|bit| 1 << bit));
        sets
    }

    #[test]
    fn the_default_profile_decides_as_its_table_says() {
        for machine in MACHINES {
            for capabilities in [0, capability::ALL, 0xa804_25fb] {
                let policy = default::policy(machine, capabilities);
                let program = compile(&policy).unwrap();
                check(&program);
                let reading = Reading::of(&policy, machine);
                for abi in machine.abis {
                    let telling = ["socket", "socketcall", "ipc", "personality", "clone"];
                    let telling = telling.map(|name| abi.number(name));
                    for number in numbers() {
                        let values =
                            if telling.contains(&Some(number)) { telling_arguments() } else { vec![0] };
                        for value in values {
                            let call = Call { audit: abi.audit(), number, args: [value, 0, 0, 0, 0, 0] };
                            let expected = reading.expected(&call);
                            assert_eq!(run(&program, &call).0, expected, "{abi:?} {call:x?}");
                        }
                    }
                }
                let foreign = Call { audit: 0x8000_0016, number: 0, args: [0; 6] }; // s390x
                assert_eq!(run(&program, &foreign).0, Action::KILL_PROCESS);
            }
        }
    }

    #[test]
    fn the_default_program_is_short_and_quickly_run() {
        let (mut longest, mut deepest) = (0, 0);
        for machine in MACHINES {
            for capabilities in capability_sets() {
                let program = compile(&default::policy(machine, capabilities)).unwrap();
                longest = longest.max(program.len());
                for abi in machine.abis {
                    for number in numbers() {
                        let args = [40, 0, 0, 0, 0, 0]; // the address family that is refused last
                        deepest = deepest.max(run(&program, &Call { audit: abi.audit(), number, args }).1);
                    }
                }
            }
        }
        assert!(longest <= 900, "{longest} instructions");
        assert!(deepest <= 70, "{deepest} steps");
    }

    /// Names that meet all kinds of trouble: wrapped calls, wrappers, numbers of x32's own, the newest.
    const NAMES: [&str; 16] = [
        "read",
        "socket",
        "bind",
        "socketcall",
        "ipc",
        "semop",
        "shmget",
        "ioctl",
        "execve",
        "mseal",
        "set_tls",
        "clone3",
        "no_such_call",
        "file_setattr",
        "openat",
        "send",
    ];

    fn any_number() -> impl Strategy<Value = u64> {
        prop_oneof![0..40_u64, any::<u64>(), any::<u32>().prop_map(|n| u64::from(n) << 32), Just(u64::MAX)]
    }

    fn any_condition() -> impl Strategy<Value = Condition> {
        let within = (0..6_u8, any_number(), any_number(), any::<bool>())
            .prop_map(|(arg, low, high, inside)| Condition::Within { arg, low, high, inside });
        let masked = (0..6_u8, any_number(), any_number()).prop_map(|(arg, mask, value)| Condition::Masked {
            arg,
            mask,
            value: value & mask,
        });
        prop_oneof![within, masked]
    }

    fn any_action() -> impl Strategy<Value = Action> {
        select(vec![Action::ALLOW, Action::LOG, Action::EPERM, Action::errno(13), Action::KILL_THREAD])
    }

    fn any_rule() -> impl Strategy<Value = Rule<'static>> {
        (vec(select(NAMES.as_slice()), 1..6), vec(any_condition(), 0..3), any_action())
            .prop_map(|(names, conditions, action)| Rule { names, conditions, action })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 200, ..Default::default() })]

        #[test]
        fn any_policy_is_compiled_as_it_reads(
            machine in select(MACHINES.as_slice()),
            listed in any::<(bool, bool)>(),
            default in any_action(),
            rules in vec(any_rule(), 0..12),
            args in vec(proptest::array::uniform6(any_number()), 4),
        ) {
            // The native one always is.
            let listed = machine.abis.iter().zip([true, listed.0, listed.1]).filter(|(_, listed)| *listed);
            let policy = Policy { abis: listed.map(|(abi, _)| *abi).collect(), default, rules };
            let program = compile(&policy).unwrap();
            check(&program);
            let reading = Reading::of(&policy, machine);
            let named = NAMES.iter().flat_map(|name| machine.abis.iter().filter_map(|abi| abi.number(name)));
            let near = named.flat_map(|number| [number.wrapping_sub(1), number, number + 1]);
            for number in near.chain([0, 520, 0x4000_01ff, 0x4000_0224, u32::MAX]) {
                for abi in machine.abis {
                    for args in &args {
                        // The numbers in the conditions are small or huge; some arguments should meet them.
                        let audit = abi.audit();
                        for args in [*args, args.map(|arg| arg % 40)] {
                            let call = Call { audit, number, args };
                            let expected = reading.expected(&call);
                            prop_assert_eq!(run(&program, &call).0, expected, "{:?} {:x?}", abi, call);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_wrapper_that_is_refused_under_every_condition_is_refused_as_it_says() {
        const BIND: u64 = 2;
        let any = Condition::Masked { arg: 0, mask: 0, value: 0 };
        let rules = vec![
            Rule { names: vec!["socketcall"], conditions: vec![any], action: Action::KILL_THREAD },
            Rule { names: vec!["bind"], conditions: Vec::new(), action: Action::EPERM },
        ];
        let policy = Policy { abis: vec![Abi::X86_64, Abi::X86], default: Action::KILL_THREAD, rules };
        let number = Abi::X86.number("socketcall").unwrap();
        let call = Call { audit: Abi::X86.audit(), number, args: [BIND, 0, 0, 0, 0, 0] };
        assert_eq!(run(&compile(&policy).unwrap(), &call).0, Action::KILL_THREAD);
        assert_eq!(Reading::of(&policy, &AMD64).expected(&call), Action::KILL_THREAD);
    }

    #[test]
    fn a_program_that_the_kernel_would_not_take_is_an_error() {
        let condition = |n: u64| Condition::Within { arg: 0, low: 2 * n, high: 2 * n, inside: true };
        let rule = |n| Rule { names: vec!["read"], conditions: vec![condition(n)], action: Action::ALLOW };
        let rules = (0..5000).map(rule).collect();
        let policy = Policy { abis: vec![Abi::X86_64], default: Action::EPERM, rules };
        assert!(matches!(compile(&policy), Err(Error::TooLong { instructions }) if instructions > 4096));
    }

    #[test]
    fn equal_decisions_are_written_once() {
        let names = vec!["read", "write", "openat", "ioctl"];
        let condition = |n: u64| Condition::Within { arg: 1, low: n, high: 3 * n, inside: true };
        let policy = |names| Policy {
            abis: vec![Abi::X86_64],
            default: Action::EPERM,
            rules: (1..40)
                .map(|n| Rule {
                    names: Vec::clone(names),
                    conditions: vec![condition(n)],
                    action: Action::LOG,
                })
                .collect(),
        };
        let (one, four) = (compile(&policy(&vec!["read"])).unwrap(), compile(&policy(&names)).unwrap());
        assert!(four.len() < one.len() + 20, "{} against {}", four.len(), one.len());
    }
}
