#!/usr/bin/python3
"""Compiles seccomp profiles with libseccomp, for a test that compares pintle's programs with it.

Reads a profile a line (the OCI runtime specification's linux.seccomp), and answers each with a line: the program's
instructions, or null where libseccomp refuses the profile. Rules are given to libseccomp as runc gives them. The first
line is a list of names of calls, and is answered with the number of each on each architecture.
"""

import json
import os
import sys

import seccomp

ARCHES = {
    "SCMP_ARCH_X86_64": seccomp.Arch.X86_64,
    "SCMP_ARCH_X86": seccomp.Arch.X86,
    "SCMP_ARCH_X32": seccomp.Arch.X32,
}

OPERATORS = {
    "SCMP_CMP_NE": seccomp.NE,
    "SCMP_CMP_LT": seccomp.LT,
    "SCMP_CMP_LE": seccomp.LE,
    "SCMP_CMP_EQ": seccomp.EQ,
    "SCMP_CMP_GE": seccomp.GE,
    "SCMP_CMP_GT": seccomp.GT,
    "SCMP_CMP_MASKED_EQ": seccomp.MASKED_EQ,
}

INSTRUCTION_BYTES = 8


def action(name, errno):
    errno = 1 if errno is None else errno
    return {
        "SCMP_ACT_ALLOW": seccomp.ALLOW,
        "SCMP_ACT_ERRNO": seccomp.ERRNO(errno),
        "SCMP_ACT_KILL_PROCESS": seccomp.KILL_PROCESS,
        "SCMP_ACT_KILL_THREAD": seccomp.KILL,
        "SCMP_ACT_LOG": seccomp.LOG,
        "SCMP_ACT_TRACE": seccomp.TRACE(errno),
        "SCMP_ACT_TRAP": seccomp.TRAP,
    }[name]


def condition(arg):
    operator, value = OPERATORS[arg["op"]], arg["value"]
    if operator == seccomp.MASKED_EQ:
        return seccomp.Arg(arg["index"], operator, value, arg.get("valueTwo", 0))
    return seccomp.Arg(arg["index"], operator, value)


def compile_profile(profile):
    default = action(profile["defaultAction"], profile.get("defaultErrnoRet"))
    filter = seccomp.SyscallFilter(default)
    for name in profile["architectures"]:
        if not filter.exist_arch(ARCHES[name]):
            filter.add_arch(ARCHES[name])
    for rule in profile["syscalls"]:
        wanted = action(rule["action"], rule.get("errnoRet"))
        if wanted == default:
            continue
        args = rule.get("args") or []
        conditions = [condition(arg) for arg in args]
        twice = len({arg["index"] for arg in args}) < len(args)
        for name in rule["names"]:
            if seccomp.resolve_syscall(seccomp.Arch.NATIVE, name) == -1:
                continue
            if twice:
                for one in conditions:
                    filter.add_rule(wanted, name, one)
            else:
                filter.add_rule(wanted, name, *conditions)
    read, write = os.pipe()
    with open(read, "rb") as program, open(write, "wb") as out:
        # A pipe holds 64 KiB, which is twice the longest program.
        filter.export_bpf(out)
        out.close()
        code = program.read()
    return [
        [
            int.from_bytes(code[at : at + 2], "little"),
            code[at + 2],
            code[at + 3],
            int.from_bytes(code[at + 4 : at + INSTRUCTION_BYTES], "little"),
        ]
        for at in range(0, len(code), INSTRUCTION_BYTES)
    ]


def main():
    names = json.loads(sys.stdin.readline())
    numbers = {arch: {name: seccomp.resolve_syscall(number, name) for name in names} for arch, number in ARCHES.items()}
    print(json.dumps(numbers), flush=True)
    for line in sys.stdin:
        try:
            answer = compile_profile(json.loads(line))
        except (OSError, RuntimeError, ValueError) as error:
            print(error, file=sys.stderr)
            answer = None
        print(json.dumps(answer), flush=True)


main()
