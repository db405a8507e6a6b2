//! Tests of compiled programs: each is run by the interpreter against its policy.

use proptest::{collection::vec, prelude::*, sample::select};

use super::{reading::Reading, *};
use crate::spec::{
    capability,
    seccomp::{
        abi::{AMD64, ARM64, Machine},
        default,
        interpret::{Call, check, run},
        policy::Rule,
    },
};

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
                    let values = if telling.contains(&Some(number)) { telling_arguments() } else { vec![0] };
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
fn a_rule_that_says_the_default_decides_nothing_about_a_wrapper_and_what_it_wraps() {
    const SOCKET: u64 = 1;
    const BIND: u64 = 2;
    let rule = |name, action| Rule { names: vec![name], conditions: Vec::new(), action };
    let (refused, allowed, logged) = (Action::EPERM, Action::ALLOW, Action::LOG);
    for (default, of_socket, of_socketcall, answers) in [
        (refused, allowed, refused, [allowed, refused]),
        (allowed, logged, allowed, [logged, allowed]),
        (refused, refused, allowed, [allowed, allowed]),
    ] {
        let rules = vec![rule("socket", of_socket), rule("socketcall", of_socketcall)];
        let policy = Policy { abis: vec![Abi::X86_64, Abi::X86], default, rules };
        let program = compile(&policy).unwrap();
        let number = Abi::X86.number("socketcall").unwrap();
        for (wrapped, expected) in [SOCKET, BIND].into_iter().zip(answers) {
            let call = Call { audit: Abi::X86.audit(), number, args: [wrapped, 0, 0, 0, 0, 0] };
            assert_eq!(run(&program, &call).0, expected, "{policy:?}");
            assert_eq!(Reading::of(&policy, &AMD64).expected(&call), expected, "{policy:?}");
        }
    }
}

#[test]
fn a_wrapper_is_known_where_what_it_wraps_is_named() {
    // `recv` has no number of its own there; that of `socketcall` is above `getppid`'s.
    let rule = Rule { names: vec!["recv", "write"], conditions: Vec::new(), action: Action::EPERM };
    let policy = Policy { abis: vec![Abi::X86_64, Abi::X86], default: Action::EPERM, rules: vec![rule] };
    let program = compile(&policy).unwrap();
    for (name, expected) in
        [("getppid", Action::EPERM), ("socketcall", Action::EPERM), ("openat2", Action::ENOSYS)]
    {
        let number = Abi::X86.number(name).unwrap();
        let call = Call { audit: Abi::X86.audit(), number, args: [0; 6] };
        assert_eq!(run(&program, &call).0, expected, "{name}");
        assert_eq!(Reading::of(&policy, &AMD64).expected(&call), expected, "{name}");
    }
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
            .map(|n| Rule { names: Vec::clone(names), conditions: vec![condition(n)], action: Action::LOG })
            .collect(),
    };
    let (one, four) = (compile(&policy(&vec!["read"])).unwrap(), compile(&policy(&names)).unwrap());
    assert!(four.len() < one.len() + 20, "{} against {}", four.len(), one.len());
}
