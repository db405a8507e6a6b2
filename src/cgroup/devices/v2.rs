//! A `BPF_PROG_TYPE_CGROUP_DEVICE` program (kernel's Documentation/admin-guide/cgroup-v2.rst, "Device
//! controller"; instructions: Documentation/bpf/standardization/instruction-set.rst).
//!
//! The program goes through the rules from the last to the first and keeps what is still asked for: a rule that
//! allows takes its accesses off and ends with "yes" when none is left, a rule that denies one of those left
//! ends with "no". Each test loads its word anew: of a register that lives longer the kernel's verifier remembers
//! what each test has taught it, and takes eight times as long for a program of a thousand rules.

use std::ffi::CStr;

use super::{Error, check, is_everything};
use crate::{model::DeviceRule, sys::bpf::Instruction};

/// The program's name in `bpftool`.
pub(in super::super) const PROGRAM_NAME: &CStr = c"pintle_devices";

/// `BPF_DEVCG_DEV_*` and `BPF_DEVCG_ACC_*` (linux/bpf.h). Of the word that has both, the upper half is what is
/// asked for.
const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;
const MAKE: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;
const ACCESS_SHIFT: u32 = 16;

/// Offsets of the words in `struct bpf_cgroup_dev_ctx`; bytes.
const AT_KIND_AND_ACCESS: i16 = 0;
const AT_MAJOR: i16 = 4;
const AT_MINOR: i16 = 8;

/// Registers. The first has the answer at the end, the second the context at the start.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const TESTED: u8 = 2;
const WANTED: u8 = 3;

/// The operations used here; all but `SET` work on 32 bits.
mod op {
    pub(super) const LOAD: u8 = 0x61;
    pub(super) const SET: u8 = 0xb7;
    pub(super) const AND: u8 = 0x54;
    pub(super) const SHIFT_RIGHT: u8 = 0x74;
    pub(super) const JUMP: u8 = 0x05;
    pub(super) const JUMP_IF_EQUAL: u8 = 0x16;
    pub(super) const JUMP_IF_OTHER: u8 = 0x56;
    /// Jumps when the two have a bit in common.
    pub(super) const JUMP_IF_ANY: u8 = 0x46;
    pub(super) const EXIT: u8 = 0x95;
}

/// Instructions that one rule needs at most; with as many rules as there may be, a jump over all of them
/// fits in 15 bits.
const RULE_INSTRUCTIONS_MAX: usize = 9;
const _: () = assert!(super::RULES_MAX * RULE_INSTRUCTIONS_MAX < i16::MAX as usize - 16);

/// The program for rules; `None` where they filter nothing: none at all, or everything is allowed.
pub(in super::super) fn program(rules: &[DeviceRule]) -> Result<Option<Vec<Instruction>>, Error> {
    check(rules)?;
    let said = rules.iter().rposition(is_everything);
    let all = said.and_then(|at| rules.get(at)).is_some_and(|rule| rule.allow);
    let rules = rules.get(said.map_or(0, |at| at + 1)..).unwrap_or_default();
    if said.is_none() && rules.is_empty() || all && rules.iter().all(|rule| rule.allow) {
        return Ok(None);
    }
    // Written from its end, so that every target is known.
    let mut program = Backwards::default();
    let yes = program.answer(1);
    let no = program.answer(0);
    program.push(op::JUMP, 0, if all { yes } else { no }, 0);
    for rule in rules {
        program.rule(rule, yes, no);
    }
    // Asking for nothing (access(2) with F_OK) is no access.
    program.push(op::JUMP_IF_EQUAL, WANTED, yes, 0);
    program.push(op::SHIFT_RIGHT, WANTED, Label::NEXT, ACCESS_SHIFT);
    program.load(WANTED, AT_KIND_AND_ACCESS);
    Ok(Some(program.finish()))
}

/// How many instructions there are from a place to the end; `NEXT` needs no jump.
#[derive(Clone, Copy)]
struct Label(usize);

impl Label {
    const NEXT: Self = Self(0);
}

/// A program in the making, last instruction first.
#[derive(Default)]
struct Backwards(Vec<Instruction>);

impl Backwards {
    fn here(&self) -> Label {
        Label(self.0.len())
    }

    fn push(&mut self, code: u8, registers: u8, target: Label, immediate: u32) {
        let skipped = if target.0 == 0 { 0 } else { self.0.len() - target.0 };
        // The assertion above keeps it in range.
        let offset = i16::try_from(skipped).unwrap_or(i16::MAX);
        self.0.push(Instruction { code, registers, offset, immediate: immediate.cast_signed() });
    }

    fn load(&mut self, register: u8, offset: i16) {
        self.0.push(Instruction {
            code: op::LOAD,
            registers: register | (CONTEXT << 4),
            offset,
            immediate: 0,
        });
    }

    fn answer(&mut self, answer: u32) -> Label {
        self.push(op::EXIT, 0, Label::NEXT, 0);
        self.push(op::SET, ANSWER, Label::NEXT, answer);
        self.here()
    }

    fn rule(&mut self, rule: &DeviceRule, yes: Label, no: Label) {
        let after = self.here();
        let access = access(rule);
        if rule.allow {
            self.push(op::JUMP_IF_EQUAL, WANTED, yes, 0);
            self.push(op::AND, WANTED, Label::NEXT, !access);
        } else {
            self.push(op::JUMP_IF_ANY, WANTED, no, access);
        }
        for (at, number) in [(AT_MINOR, rule.minor), (AT_MAJOR, rule.major)] {
            if let Some(number) = number {
                self.push(op::JUMP_IF_OTHER, TESTED, after, number);
                self.load(TESTED, at);
            }
        }
        let kind = if rule.kind == 'b' { BLOCK } else { CHARACTER };
        self.push(op::JUMP_IF_OTHER, TESTED, after, kind);
        self.push(op::AND, TESTED, Label::NEXT, (1 << ACCESS_SHIFT) - 1);
        self.load(TESTED, AT_KIND_AND_ACCESS);
    }

    fn finish(mut self) -> Vec<Instruction> {
        self.0.reverse();
        self.0
    }
}

fn access(rule: &DeviceRule) -> u32 {
    let bits = [('m', MAKE), ('r', READ), ('w', WRITE)];
    bits.iter().filter(|(name, _)| rule.access.contains(*name)).map(|(_, bit)| bit).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::rule, *};

    /// A question of the kernel: may this device be opened so?
    #[derive(Clone, Copy, Debug)]
    struct Asked {
        kind: u32,
        major: u32,
        minor: u32,
        access: u32,
    }

    /// Does what the instructions say; panics at one that the kernel would refuse.
    fn run(program: &[Instruction], asked: Asked) -> bool {
        let mut registers = [0xdead_beef_u32; 4];
        let mut at = 0;
        loop {
            let Instruction { code, registers: names, offset, immediate } = program[at];
            let (to, from) = (usize::from(names & 15), usize::from(names >> 4));
            let immediate = immediate.cast_unsigned();
            at += 1;
            let jump = match code {
                op::LOAD => {
                    assert_eq!(from, 1, "the context");
                    let words = [asked.kind | (asked.access << 16), asked.major, asked.minor];
                    registers[to] = words[usize::try_from(offset / 4).unwrap()];
                    continue;
                }
                op::SET => {
                    registers[to] = immediate;
                    continue;
                }
                op::AND => {
                    registers[to] &= immediate;
                    continue;
                }
                op::SHIFT_RIGHT => {
                    registers[to] >>= immediate;
                    continue;
                }
                op::JUMP => true,
                op::JUMP_IF_EQUAL => registers[to] == immediate,
                op::JUMP_IF_OTHER => registers[to] != immediate,
                op::JUMP_IF_ANY => registers[to] & immediate != 0,
                op::EXIT => return registers[0] == 1,
                other => panic!("{other:#x}"),
            };
            if jump {
                at += usize::try_from(offset).unwrap();
            }
        }
    }

    /// The rules' meaning in other words: each access on its own, by the last rule that names it.
    fn meant(rules: &[DeviceRule], asked: Asked) -> bool {
        [MAKE, READ, WRITE].into_iter().filter(|bit| asked.access & bit != 0).all(|bit| {
            let names = |rule: &&DeviceRule| {
                let kind = match rule.kind {
                    'b' => asked.kind == BLOCK,
                    'c' => asked.kind == CHARACTER,
                    _ => true,
                };
                kind && rule.major.is_none_or(|major| major == asked.major)
                    && rule.minor.is_none_or(|minor| minor == asked.minor)
                    && access(rule) & bit != 0
            };
            rules.iter().rfind(names).is_some_and(|rule| rule.allow)
        })
    }

    fn allows(rules: &[DeviceRule], asked: Asked) -> bool {
        program(rules).unwrap().is_none_or(|program| run(&program, asked))
    }

    const NULL: Asked = Asked { kind: CHARACTER, major: 1, minor: 3, access: READ | WRITE };
    const DISK: Asked = Asked { kind: BLOCK, major: 8, minor: 0, access: READ };

    #[test]
    fn what_is_allowed_can_be_opened_and_nothing_else() {
        let rules = [rule(false, 'a', None, None, "rwm"), rule(true, 'c', Some(1), Some(3), "rw")];
        assert!(allows(&rules, NULL));
        assert!(!allows(&rules, Asked { access: READ | MAKE, ..NULL }));
        assert!(!allows(&rules, Asked { minor: 5, ..NULL }));
        assert!(!allows(&rules, Asked { kind: BLOCK, ..NULL }));
        assert!(!allows(&rules, DISK));
        assert!(allows(&rules, Asked { access: 0, ..DISK }), "asking for nothing is no access");
    }

    #[test]
    fn accesses_that_two_rules_give_can_be_asked_for_together() {
        let rules = [rule(true, 'b', Some(8), None, "r"), rule(true, 'b', Some(8), Some(0), "w")];
        assert!(allows(&rules, Asked { access: READ | WRITE, ..DISK }));
        assert!(!allows(&rules, Asked { access: READ | WRITE, minor: 1, ..DISK }));
    }

    #[test]
    fn only_rules_that_end_by_allowing_everything_need_no_program() {
        let (all, none) = (rule(true, 'a', None, None, "rwm"), rule(false, 'a', None, None, "rwm"));
        let null = rule(true, 'c', Some(1), Some(3), "rwm");
        let no_null = rule(false, 'c', Some(1), Some(3), "rwm");
        let is_none = |rules: &[DeviceRule]| program(rules).unwrap().is_none();
        assert!(is_none(&[]));
        assert!(is_none(&[none.clone(), all.clone()]));
        assert!(is_none(&[none.clone(), all.clone(), null.clone()]));
        assert!(!is_none(&[all.clone(), no_null]));
        assert!(!is_none(&[all, none.clone()]));
        assert!(!is_none(&[none, null]));
    }

    fn any_rule() -> impl Strategy<Value = DeviceRule> {
        let number = || prop_oneof![Just(None), (0..3_u32).prop_map(Some), Just(Some(u32::MAX))];
        let narrow = (any::<bool>(), "[bc]", number(), number(), "[rwm]{1,3}").prop_map(
            |(allow, kind, major, minor, access)| {
                rule(allow, kind.chars().next().unwrap(), major, minor, &access)
            },
        );
        let wide = any::<bool>().prop_map(|allow| rule(allow, 'a', None, None, "rwm"));
        prop_oneof![8 => narrow, 1 => wide]
    }

    proptest! {
        #[test]
        fn the_program_says_what_the_rules_mean(
            rules in prop::collection::vec(any_rule(), 1..12),
            kind in 1..3_u32,
            major in prop_oneof![0..3_u32, Just(u32::MAX)],
            minor in prop_oneof![0..3_u32, Just(u32::MAX)],
            access in 0..8_u32,
        ) {
            let asked = Asked { kind, major, minor, access };
            prop_assert_eq!(allows(&rules, asked), meant(&rules, asked));
        }
    }
}
