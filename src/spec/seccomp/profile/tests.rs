//! Tests of JSON profiles: what is read, what is refused, what a rule means.

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

/// The answer of a profile on amd64 to a call in the native ABI (or another, by `abi`).
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
    assert_eq!(map.policy(Subject { machine: &ARM64, ..amd64(0) }).unwrap().abis, [Abi::Aarch64, Abi::Arm]);
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
fn an_error_without_a_number_is_found_by_its_name() {
    let of = |default: &str, name: &str| {
        format!(
            r#"{{"defaultAction": "SCMP_ACT_ERRNO", {default} "syscalls": [{{"names": ["read"], "action": "SCMP_ACT_ALLOW"}},
                {{"names": ["ptrace"], "action": "SCMP_ACT_ERRNO", "errno": "{name}"}}]}}"#
        )
    };
    let ptrace = (Abi::X86_64, "ptrace", [0, 0]);
    let default = (Abi::X86_64, "close", [0, 0]); // below the number of the newest
    assert_eq!(answer(&of("", "EACCES"), 0, ptrace), Action::errno(13));
    assert_eq!(answer(&of(r#""defaultErrno": "EINVAL","#, "EPERM"), 0, default), Action::errno(22));
    assert_eq!(
        answer(&of(r#""defaultErrno": "EINVAL", "defaultErrnoRet": 5,"#, "EPERM"), 0, default),
        Action::errno(5)
    );
    assert_eq!(answer(&of(r#""defaultErrno": "","#, ""), 0, default), Action::EPERM);
    assert!(refused(&of("", "EWHATEVER")).contains("EWHATEVER"));
}

#[test]
fn flags_are_those_that_say_something_here() {
    let of = |flags: &str| {
        let profile = format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "flags": {flags}}}"#);
        serde_json::from_str::<Profile>(&profile).map(|profile| profile.flags()).ok()
    };
    assert_eq!(of("null"), Some(0));
    assert_eq!(of(r#"["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]"#), Some(0));
    assert_eq!(of(r#"["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]"#), Some(6));
    assert_eq!(of(r#"["SECCOMP_FILTER_FLAG_NEW_LISTENER"]"#), None);
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
        (rule(r#""names": ["read"], "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]"#), "argument 6"),
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
