//! Our default profile compared with containerd's, call by call, for each set of capabilities. What libseccomp makes of
//! containerd's, and pintle does not, is in the table of `docs/seccomp.md`.
//!
//! `containerd.json` is what `hack/tools/seccomp` prints, which asks containerd itself.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    abi::AMD64,
    bpf::Insn,
    compile::compile,
    default,
    interpret::{Call, run},
    profile::{Profile, Subject},
};
use crate::spec::capability;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Containerd {
    containerd: String,
    default_action: String,
    architectures: Vec<String>,
    without: Decisions,
    /// By capability, the calls that are decided otherwise with it.
    with: BTreeMap<String, Decisions>,
}

#[derive(Deserialize)]
struct Decisions {
    allow: Vec<String>,
    #[serde(default)]
    rules: BTreeMap<String, Vec<Value>>,
}

impl Containerd {
    fn read() -> Self {
        serde_json::from_str(include_str!("containerd.json")).unwrap()
    }

    /// The profile, as runc would get it, of a process with these capabilities.
    fn profile(&self, capabilities: u64) -> Value {
        let held = |name: &String| capability::bit(name).is_some_and(|bit| capabilities & bit != 0);
        let mut rules: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
        let with = self.with.iter().filter(|(name, _)| held(name)).map(|(_, decisions)| decisions);
        for decisions in [&self.without].into_iter().chain(with) {
            for name in &decisions.allow {
                rules.insert(name, vec![json!({"action": "SCMP_ACT_ALLOW"})]);
            }
            for (name, said) in &decisions.rules {
                rules.insert(name, said.clone());
            }
        }
        let syscalls = rules.into_iter().flat_map(|(name, rules)| {
            rules.into_iter().map(move |mut rule| {
                rule["names"] = json!([name]);
                rule
            })
        });
        json!({"defaultAction": self.default_action, "architectures": self.architectures,
            "syscalls": syscalls.collect::<Vec<_>>()})
    }
}

/// The sets that are compared: none, each alone, a usual one, all.
fn capability_sets() -> Vec<(String, u64)> {
    let mut sets = vec![("none".to_owned(), 0), ("the 14 usual ones".to_owned(), 0xa804_25fb)];
    sets.extend(
        capability::names(capability::ALL)
            .map(|name| (name.to_string(), capability::bit(&name.to_string()).unwrap())),
    );
    sets.push(("all".to_owned(), capability::ALL));
    sets
}

/// First arguments at which some decision changes.
fn arguments(name: &str) -> Vec<u64> {
    match name {
        "socket" | "socketcall" | "ipc" | "personality" | "clone" => {
            let mut values: Vec<u64> = (0..64).collect();
            values.extend([
                0x2_0000,
                0x2_0008,
                0x4_0000,
                0x0002_0000,
                0x1000_0011,
                0x4000_0000,
                0x7e02_0000,
                0xffff_ffff,
            ]);
            values.extend(values.clone().iter().map(|value| value | 1 << 32));
            values
        }
        _ => vec![0],
    }
}

fn theirs(profile: &Value) -> Vec<Insn> {
    let profile: Profile = serde_json::from_value(profile.clone()).unwrap();
    compile(&profile.policy(Subject { machine: &AMD64, capabilities: 0, kernel: (6, 1) }).unwrap()).unwrap()
}

#[test]
fn the_default_profile_decides_every_call_as_containerds() {
    let containerd = Containerd::read();
    let (mut differences, mut compared) = (BTreeSet::new(), 0);
    for (set, capabilities) in capability_sets() {
        let ours = compile(&default::policy(&AMD64, capabilities)).unwrap();
        let theirs = theirs(&containerd.profile(capabilities));
        for &abi in AMD64.abis {
            for name in abi.names() {
                let Some(number) = abi.number(name) else { continue };
                for argument in arguments(name) {
                    let call = Call { audit: abi.audit(), number, args: [argument, 0, 0, 0, 0, 0] };
                    let (ours, theirs) = (run(&ours, &call).0, run(&theirs, &call).0);
                    compared += 1;
                    if ours != theirs {
                        differences.insert(format!(
                            "{abi:?} {name} {argument:#x} with {set}: {ours:x?}, {theirs:x?}"
                        ));
                    }
                }
            }
        }
    }
    assert!(compared > 40_000, "{compared}");
    assert_eq!(differences, BTreeSet::new(), "containerd {}", containerd.containerd);
}

/// containerd's default profile for a process with these capabilities, as runc would get it.
pub(super) fn profile(capabilities: u64) -> Value {
    Containerd::read().profile(capabilities)
}
