//! A BPF machine for tests: what the kernel would make of a program (Documentation/networking/filter.rst).

use super::{
    bpf::{Insn, op},
    policy::Action,
};

/// A call as a filter sees it (`struct seccomp_data`).
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) audit: u32,
    pub(super) number: u32,
    pub(super) args: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        let mut bytes = Vec::new();
        bytes.extend(self.number.to_ne_bytes());
        bytes.extend(self.audit.to_ne_bytes());
        bytes.extend([0; 8]); // the instruction pointer
        bytes.extend(self.args.iter().flat_map(|arg| arg.to_ne_bytes()));
        let offset = offset as usize;
        assert_eq!(offset % 4, 0, "unaligned load");
        u32::from_ne_bytes(*bytes[offset..].first_chunk().expect("a load inside of the data"))
    }
}

/// The answer, and how many instructions it took.
#[track_caller]
pub(super) fn run(program: &[Insn], call: &Call) -> (Action, usize) {
    let (mut at, mut a) = (0, 0);
    for steps in 1.. {
        let insn = program[at];
        at += 1;
        let mut skip = |holds: bool| at += usize::from(if holds { insn.jt } else { insn.jf });
        match insn.code {
            op::LOAD => a = call.word(insn.k),
            op::AND => a &= insn.k,
            op::JUMP => at += insn.k as usize,
            op::JUMP_EQUAL => skip(a == insn.k),
            op::JUMP_GREATER => skip(a > insn.k),
            op::JUMP_GREATER_EQUAL => skip(a >= insn.k),
            op::RETURN => return (Action(insn.k), steps),
            code => panic!("instruction {code:#x} at {at}"),
        }
    }
    unreachable!("every jump goes forward")
}

/// Checks a program as the kernel does: known instructions, jumps that stay inside, an end that returns.
#[track_caller]
pub(super) fn check(program: &[Insn]) {
    assert!(program.len() <= super::bpf::INSTRUCTIONS_MAX, "{} instructions", program.len());
    assert_eq!(program.last().map(|insn| insn.code), Some(op::RETURN));
    for (at, insn) in program.iter().enumerate() {
        let furthest = match insn.code {
            op::JUMP => insn.k as usize,
            op::JUMP_EQUAL | op::JUMP_GREATER | op::JUMP_GREATER_EQUAL => insn.jt.max(insn.jf).into(),
            op::LOAD => {
                assert!(insn.k % 4 == 0 && insn.k <= 60, "load at {at}");
                0
            }
            op::AND => 0,
            op::RETURN => continue,
            code => panic!("instruction {code:#x} at {at}"),
        };
        assert!(at + 1 + furthest < program.len(), "jump at {at}");
    }
}
