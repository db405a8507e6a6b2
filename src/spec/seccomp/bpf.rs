//! Classic BPF: instructions, and a builder that writes a program from its end to its beginning.
//!
//! Jumps only go forward, so writing backwards means that every target is known when it is needed, and
//! that equal pieces are found and shared at once.

/// One instruction (`struct sock_filter`, linux/filter.h).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Insn {
    pub(super) code: u16,
    /// Instructions to skip when the test holds.
    pub(super) jt: u8,
    /// Instructions to skip when it does not.
    pub(super) jf: u8,
    pub(super) k: u32,
}

/// The operations used here. `A` is the accumulator.
pub(super) mod op {
    /// A = the 32-bit word at offset k of `struct seccomp_data`.
    pub(in super::super) const LOAD: u16 = 0x20;
    pub(in super::super) const AND: u16 = 0x54;
    pub(in super::super) const JUMP: u16 = 0x05;
    pub(in super::super) const JUMP_EQUAL: u16 = 0x15;
    pub(in super::super) const JUMP_GREATER: u16 = 0x25;
    pub(in super::super) const JUMP_GREATER_EQUAL: u16 = 0x35;
    pub(in super::super) const RETURN: u16 = 0x06;
}

/// The kernel refuses programs longer than `BPF_MAXINSNS` (linux/bpf_common.h), and the launcher puts a few in front.
pub(super) const INSTRUCTIONS_MAX: usize = 4096 - crate::sys::passage::INSTRUCTIONS_MAX;
/// How far a conditional jump reaches (8 bits), less one for the jump that may have to be put between.
const REACH: usize = 254;

/// A place in a program: how many instructions it and those after it are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Label(usize);

/// A program in the making, last instruction first.
#[derive(Debug, Default)]
pub(super) struct Builder {
    reversed: Vec<Insn>,
    /// The latest `RETURN` of each value.
    returns: std::collections::HashMap<u32, Label>,
}

impl Builder {
    fn push(&mut self, insn: Insn) -> Label {
        self.reversed.push(insn);
        Label(self.reversed.len())
    }

    /// How many instructions one put in front now would have to skip to get to `target`.
    fn distance(&self, target: Label) -> usize {
        self.reversed.len() - target.0
    }

    /// A place that ends the program with `value`, at hand or new.
    pub(super) fn ret(&mut self, value: u32) -> Label {
        if let Some(&label) = self.returns.get(&value)
            && self.distance(label) < REACH
        {
            return label;
        }
        let label = self.push(Insn { code: op::RETURN, jt: 0, jf: 0, k: value });
        self.returns.insert(value, label);
        label
    }

    /// `target`, or a jump to it within reach.
    fn near(&mut self, target: Label) -> Label {
        if self.distance(target) <= REACH {
            return target;
        }
        // A far return is as well repeated: one instruction either way, and one less to run.
        match self.reversed[target.0 - 1] {
            Insn { code: op::RETURN, k, .. } => self.ret(k),
            _ => self.jump(target),
        }
    }

    fn jump(&mut self, target: Label) -> Label {
        // Always fits: a distance is below the number of instructions.
        let k = u32::try_from(self.distance(target)).unwrap_or(u32::MAX);
        self.push(Insn { code: op::JUMP, jt: 0, jf: 0, k })
    }

    /// Goes to `yes` if A `test` `k`, else to `no`.
    pub(super) fn branch(&mut self, test: u16, k: u32, yes: Label, no: Label) -> Label {
        if yes == no {
            return yes;
        }
        let yes = self.near(yes);
        let no = self.near(no);
        debug_assert!(self.distance(yes) <= REACH + 1 && self.distance(no) <= REACH + 1);
        let skip = |label| u8::try_from(self.distance(label)).unwrap_or(u8::MAX);
        let (jt, jf) = (skip(yes), skip(no));
        self.push(Insn { code: test, jt, jf, k })
    }

    /// Does one thing without a jump, then goes on at `next`.
    pub(super) fn then(&mut self, code: u16, k: u32, next: Label) -> Label {
        if self.distance(next) != 0 {
            self.jump(next);
        }
        self.push(Insn { code, jt: 0, jf: 0, k })
    }

    /// The program that begins at the instruction written last.
    pub(super) fn finish(mut self) -> Vec<Insn> {
        self.reversed.reverse();
        self.reversed
    }

    pub(super) fn len(&self) -> usize {
        self.reversed.len()
    }
}

/// As the kernel reads it: `struct sock_filter` after `struct sock_filter`, native byte order.
pub(super) fn bytes(program: &[Insn]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(program.len() * 8);
    for insn in program {
        bytes.extend(insn.code.to_ne_bytes());
        bytes.extend([insn.jt, insn.jf]);
        bytes.extend(insn.k.to_ne_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_is_eight_bytes_in_the_order_of_the_kernel_struct() {
        let insn = Insn { code: op::JUMP_EQUAL, jt: 1, jf: 2, k: 0x0102_0304 };
        let mut expected = 0x15_u16.to_ne_bytes().to_vec();
        expected.extend([1, 2]);
        expected.extend(0x0102_0304_u32.to_ne_bytes());
        assert_eq!(bytes(&[insn]), expected);
    }

    #[test]
    fn a_target_out_of_reach_is_reached_by_a_jump() {
        let mut builder = Builder::default();
        let end = builder.ret(1);
        let far = builder.then(op::AND, 7, end);
        let mut top = builder.ret(2);
        for _ in 0..300 {
            top = builder.then(op::AND, 0, top);
        }
        builder.branch(op::JUMP_EQUAL, 0, far, top);
        let program = builder.finish();
        assert_eq!(program[0], Insn { code: op::JUMP_EQUAL, jt: 0, jf: 1, k: 0 });
        assert_eq!(program[1], Insn { code: op::JUMP, jt: 0, jf: 0, k: 301 });
        assert_eq!(program[1 + 1 + 301], Insn { code: op::AND, jt: 0, jf: 0, k: 7 });
    }
}
