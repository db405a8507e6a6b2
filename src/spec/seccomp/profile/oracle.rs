//! Programs compared with libseccomp's: both answer the same to random calls under random profiles, and the numbers of
//! calls are the same, on all three ABIs of amd64.
//!
//! Where they differ on purpose is in `docs/seccomp.md`; [`Difference::of`] knows each of those cases.

use std::{
    collections::{BTreeSet, HashMap},
    io::{BufRead, BufReader, Write as _},
    process::{Child, ChildStdout, Command, Stdio},
};

use proptest::{collection::vec, prelude::*, sample::select, test_runner::TestRunner};
use serde_json::{Value, json};

use super::*;
use crate::spec::seccomp::{
    abi::{AMD64, MULTIPLEXERS},
    bpf::Insn,
    compile::compile,
    containerd,
    interpret::{Call, run},
};

/// libseccomp behind its Python binding.
struct Oracle {
    child: Child,
    answers: BufReader<ChildStdout>,
    /// The numbers of calls by ABI and name; negative: there is no such call.
    numbers: HashMap<String, HashMap<String, i64>>,
}

impl Oracle {
    /// `None` where python3-seccomp is not installed; `hack/test` installs it.
    fn start(names: &[&str]) -> Option<Self> {
        let python = "/usr/bin/python3"; // Debian's, which has Debian's packages
        let installed = Command::new(python).args(["-c", "import seccomp"]).stderr(Stdio::null()).status();
        if !installed.is_ok_and(|status| status.success()) {
            eprintln!("skipped: python3-seccomp is not installed");
            return None;
        }
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/hack/tools/seccomp/oracle.py");
        let mut child =
            Command::new(python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        let mut oracle = Self { child, answers, numbers: HashMap::new() };
        oracle.numbers = serde_json::from_value(oracle.ask(&json!(names))).unwrap();
        Some(oracle)
    }

    fn ask(&mut self, question: &Value) -> Value {
        writeln!(self.child.stdin.as_mut().unwrap(), "{question}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?} for {question}"))
    }

    /// The program for a profile; `None`: libseccomp refuses it.
    fn compile(&mut self, profile: &Value) -> Option<Vec<Insn>> {
        let program: Option<Vec<(u16, u8, u8, u32)>> = serde_json::from_value(self.ask(profile)).unwrap();
        Some(program?.into_iter().map(|(code, jt, jf, k)| Insn { code, jt, jf, k }).collect())
    }

    fn knows(&self, abi: Abi, name: &str) -> bool {
        self.numbers[abi.oci_name()].get(name).is_some_and(|number| *number >= 0)
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        drop(self.child.stdin.take()); // the end for it
        self.child.wait().unwrap();
    }
}

/// A case in which pintle decides otherwise than runc with libseccomp, and means to; `docs/seccomp.md` says why.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Difference {
    /// An ABI that is not listed ends the process, and not only its thread.
    ForeignAbi,
    /// A number above all that the profile names is answered ENOSYS.
    Newer,
    /// Of several rules with conditions the first that holds counts. libseccomp has an order of its own, and misses some
    /// behind another that does not hold.
    Several,
    /// A refusal under a condition counts beside a permission without one, or where all is refused by default.
    Refused,
    /// The wrappers of i386 are refused where what they wrap may be.
    Wrapped,
}

impl Difference {
    /// Whether every profile has it, so that it is told once.
    fn is_general(self) -> bool {
        matches!(self, Self::ForeignAbi | Self::Newer)
    }

    /// The reason, in the table of `docs/seccomp.md`.
    fn words(self) -> &'static str {
        match self {
            Self::ForeignAbi => "an ABI that is not listed ends the process",
            Self::Newer => "a newer call does not exist",
            Self::Several => "the first of several rules that holds counts",
            Self::Refused => "a refusal under a condition counts",
            Self::Wrapped => "refused where a wrapped call may be: its arguments cannot be seen",
        }
    }

    fn of(
        policy: &Policy<'_>,
        call: &Call,
        abi: Abi,
        name: &str,
        ours: Action,
        theirs: Action,
    ) -> Option<Self> {
        if !policy.abis.contains(&abi) {
            let killed = ours == Action::KILL_PROCESS && theirs == Action::KILL_THREAD;
            return killed.then_some(Self::ForeignAbi);
        }
        if abi == Abi::X86 && MULTIPLEXERS.iter().any(|wrapper| wrapper.name == name) {
            return (!ours.allows()).then_some(Self::Wrapped);
        }
        let numbers = policy.rules.iter().flat_map(|rule| &rule.names).filter_map(|name| abi.number(name));
        let island = abi.island().unwrap_or(u32::MAX..u32::MAX);
        let newest = numbers.filter(|number| !island.contains(number)).max();
        if ours == Action::ENOSYS && newest.is_none_or(|newest| call.number > newest) {
            return Some(Self::Newer);
        }
        if theirs.allows() && !ours.allows() {
            return Some(Self::Refused);
        }
        let several =
            policy.rules.iter().filter(|rule| rule.names.contains(&name) && !rule.conditions.is_empty());
        (several.count() > 1).then_some(Self::Several)
    }
}

/// Calls whose rules are tried: common ones, those with arguments, wrapped ones, x32's own.
const NAMES: [&str; 12] = [
    "read",
    "write",
    "openat",
    "socket",
    "bind",
    "semop",
    "ioctl",
    "execve",
    "clone",
    "clone3",
    "personality",
    "mount",
];

fn any_profile() -> impl Strategy<Value = Value> {
    let action = || {
        select(vec![
            ("SCMP_ACT_ALLOW", None),
            ("SCMP_ACT_ERRNO", None),
            ("SCMP_ACT_ERRNO", Some(13)),
            ("SCMP_ACT_KILL_PROCESS", None),
            ("SCMP_ACT_KILL_THREAD", None),
            ("SCMP_ACT_LOG", None),
            ("SCMP_ACT_TRACE", Some(7)),
            ("SCMP_ACT_TRAP", None),
        ])
    };
    let operator = select(vec![
        "SCMP_CMP_EQ",
        "SCMP_CMP_GE",
        "SCMP_CMP_GT",
        "SCMP_CMP_LE",
        "SCMP_CMP_LT",
        "SCMP_CMP_MASKED_EQ",
        "SCMP_CMP_NE",
    ]);
    let number = || prop_oneof![0..8_u64, any::<u32>().prop_map(u64::from)];
    let arg = (0..3_u32, number(), number(), operator).prop_map(|(index, value, two, op)| {
        // A mask of nothing holds always, and libseccomp takes it for no condition.
        let value = if op == "SCMP_CMP_MASKED_EQ" { value | 1 } else { value };
        json!({"index": index, "value": value, "valueTwo": two, "op": op})
    });
    let names = proptest::sample::subsequence(NAMES.as_slice(), 1..5);
    let rule = (names, action(), vec(arg, 0..3)).prop_map(|(names, (action, errno), args)| {
        json!({"names": names, "action": action, "errnoRet": errno, "args": args})
    });
    let arches = proptest::sample::subsequence(vec!["SCMP_ARCH_X86", "SCMP_ARCH_X32"], 0..=2);
    (action(), arches, vec(rule, 0..6)).prop_map(|((action, errno), mut arches, mut syscalls): (_, Vec<&str>, Vec<Value>)| {
        // libseccomp 2.5 forgets to load the number of the call on i386 where the first rule there is of a wrapped one.
        let wrapped = ["socket", "bind", "semop"].iter().any(|name| syscalls.iter().any(|rule| rule["names"].as_array().unwrap().contains(&json!(name))));
        arches.retain(|arch| !wrapped || *arch != "SCMP_ARCH_X86");
        // Of several rules with conditions libseccomp makes a tree that may take it minutes.
        let mut conditional = BTreeSet::new();
        syscalls.retain(|rule| {
            let names = rule["names"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned());
            rule["args"].as_array().unwrap().is_empty() || names.filter(|name| !conditional.insert(name.clone())).count() == 0
        });
        arches.insert(0, "SCMP_ARCH_X86_64");
        json!({"defaultAction": action, "defaultErrnoRet": errno, "architectures": arches, "syscalls": syscalls})
    })
}

/// Compares the answers of both to calls of every ABI, and gives the differences that are meant: which, of which call
/// and on which ABI.
fn compare(
    oracle: &mut Oracle,
    profile: &Value,
    names: &[&'static str],
    args: &[[u64; 6]],
) -> Result<BTreeSet<(Difference, &'static str, Abi)>, TestCaseError> {
    let mut differences = BTreeSet::new();
    let read: Profile = serde_json::from_value(profile.clone()).unwrap();
    let policy = read.policy(Subject { machine: &AMD64, capabilities: 0, kernel: (6, 1) }).unwrap();
    let ours = compile(&policy).unwrap();
    let Some(theirs) = oracle.compile(profile) else { return Ok(differences) };
    for &abi in AMD64.abis {
        for &name in names.iter().filter(|name| oracle.knows(abi, name)) {
            let Some(number) = abi.number(name) else { continue };
            for &args in args {
                let call = Call { audit: abi.audit(), number, args };
                let (ours, theirs) = (run(&ours, &call).0, run(&theirs, &call).0);
                if ours != theirs {
                    let difference = Difference::of(&policy, &call, abi, name, ours, theirs);
                    let Some(difference) = difference else {
                        return Err(TestCaseError::fail(format!(
                            "{abi:?} {name} {args:x?}: {ours:x?}, libseccomp {theirs:x?}"
                        )));
                    };
                    differences.insert((difference, name, abi));
                }
            }
        }
    }
    Ok(differences)
}

#[test]
fn libseccomp_decides_the_same() {
    let Some(mut oracle) = Oracle::start(&NAMES) else { return };
    let number = || prop_oneof![0..8_u64, any::<u32>().prop_map(u64::from)];
    let args = vec(proptest::array::uniform6(number()), 8);
    let mut runner = TestRunner::new(ProptestConfig { cases: 400, ..ProptestConfig::default() });
    let oracle = std::cell::RefCell::new(&mut oracle);
    runner
        .run(&(any_profile(), args), |(profile, args)| {
            compare(&mut oracle.borrow_mut(), &profile, &NAMES, &args).map(drop)
        })
        .unwrap();
}

#[test]
fn libseccomp_has_the_same_numbers() {
    let names: Vec<&str> = AMD64.abis.iter().flat_map(|abi| abi.names()).collect();
    let Some(oracle) = Oracle::start(&names) else { return };
    let wrapped =
        |name: &str| MULTIPLEXERS.iter().any(|wrapper| wrapper.calls.iter().any(|call| call.1 == name));
    let mut compared = 0;
    for &abi in AMD64.abis {
        for name in names.iter().filter(|name| oracle.knows(abi, name)) {
            // libseccomp means the wrapper by these.
            if abi == Abi::X86 && wrapped(name) {
                continue;
            }
            let theirs = oracle.numbers[abi.oci_name()][*name];
            assert_eq!(abi.number(name).map(i64::from), Some(theirs), "{abi:?} {name}");
            compared += 1;
        }
    }
    assert!(compared > 1000, "{compared}");
}

/// A profile as others publish it, shortened to what is peculiar to it.
#[derive(Deserialize)]
struct Published {
    name: String,
    source: String,
    profile: Value,
}

/// The profile as runc gets it: conditions decided, errors as numbers.
fn flattened(json: &Value, capabilities: u64) -> Result<Value, Error> {
    let profile: Profile = serde_json::from_value(json.clone()).map_err(Error::Json)?;
    let subject = Subject { machine: &AMD64, capabilities, kernel: (6, 1) };
    let mut syscalls = Vec::new();
    for (nth, rule) in profile.syscalls.iter().flatten().enumerate() {
        if rule.applies(subject)? {
            let mut flat = json["syscalls"][nth].clone();
            (flat["includes"], flat["excludes"]) = (Value::Null, Value::Null);
            if !rule.name.is_empty() {
                flat["names"] = json!([std::mem::take(&mut flat["name"])]);
            }
            flat["errnoRet"] = json!(errno(rule.errno_ret, rule.errno.as_deref())?);
            syscalls.push(flat);
        }
    }
    let arches: Vec<_> = profile.abis(subject.machine)?.iter().map(|abi| abi.oci_name()).collect();
    let errno = errno(profile.default_errno_ret, profile.default_errno.as_deref())?;
    let default = &json["defaultAction"];
    Ok(
        json!({"defaultAction": default, "defaultErrnoRet": errno, "architectures": arches, "syscalls": syscalls}),
    )
}

/// Calls that are tried under each published profile, besides those that it names.
const OTHERS: [&str; 6] = ["getpid", "ipc", "kexec_load", "reboot", "socketcall", "splice"];

#[test]
fn published_profiles_are_read_and_decide_as_libseccomp_does() {
    let mut published: Vec<Published> = serde_json::from_str(include_str!("published.json")).unwrap();
    assert_eq!(published.len(), 10);
    for capabilities in [0, capability::ALL] {
        let profile = containerd::profile(capabilities);
        published.push(Published {
            name: "containerd's default".into(),
            source: "containerd".into(),
            profile,
        });
    }
    let names: Vec<&str> = AMD64.abis.iter().flat_map(|abi| abi.names()).collect();
    let mut oracle = Oracle::start(&names);
    let args: Vec<[u64; 6]> = [0, 1, 2, 8, 9, 16, 38, 40, 0x2_0000, 0x2_0008, 0x1000_0011, 0xffff_ffff]
        .into_iter()
        .flat_map(|first| [0, 9].map(|third| [first, 0, third, 0, 0, 0]))
        .collect();
    let mut seen = Vec::new();
    for Published { name, source, profile } in &published {
        for capabilities in [0, capability::ALL] {
            let whole: Profile = serde_json::from_value(profile.clone()).unwrap();
            let policy = whole.policy(Subject { machine: &AMD64, capabilities, kernel: (6, 1) });
            if name == "bypass4netns" {
                assert!(matches!(policy, Err(Error::Notify)));
                continue;
            }
            let policy = policy.unwrap_or_else(|error| panic!("{name} of {source}: {error}"));
            let mentioned: Vec<&str> = names
                .iter()
                .copied()
                .filter(|name| {
                    OTHERS.contains(name) || policy.rules.iter().any(|rule| rule.names.contains(name))
                })
                .collect();
            let flat = flattened(profile, capabilities).unwrap();
            if let Some(oracle) = &mut oracle {
                let found = compare(oracle, &flat, &mentioned, &args)
                    .unwrap_or_else(|error| panic!("{name}: {error}"));
                let meant = found.into_iter().filter(|(difference, ..)| !difference.is_general());
                seen.extend(meant.map(|(difference, call, abi)| {
                    format!("| {name} | {call} | {} | {} |", abi.oci_name(), difference.words())
                }));
            }
        }
    }
    seen.sort();
    seen.dedup();
    if oracle.is_some() {
        let page = include_str!("../../../../docs/seccomp.md");
        let table = page.lines().skip_while(|line| !line.starts_with("| profile | call |")).skip(2);
        assert_eq!(table.take_while(|line| line.starts_with('|')).collect::<Vec<_>>(), seen);
    }
}
