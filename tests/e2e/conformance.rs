//! critest, the specification's own tests, against what we expect of each.
//!
//! `critest.expected` names every spec: `pass NAME`, `skip NAME # why`, `fail NAME # the missing feature`. Where
//! hosts differ there is a word for each: `skip/fail/fail NAME # why` is for cgroup v1, for cgroup v2 with
//! cgroupfs, and with systemd. A spec that does otherwise fails this test, and so does one that is not named.
//! `CRITEST_REFRESH=1` writes this host's words anew, keeping the others and the reasons: read the difference
//! like code.

use std::{
    collections::BTreeMap,
    env, fs,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::harness::{Driver, Node, is_unified, patched_critest, runner::tests};

tests![critest_says_what_we_expect_of_each_spec];

const EXPECTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/critest.expected");

const PASS: &str = "pass";

/// critest skips its benchmarks without a word.
const UNEXPLAINED: &str = "only in benchmark mode";

/// A reason is one line to read, not a stack of errors.
const REASON_CHARS_MAX: usize = 160;

/// Kinds of hosts, in the order of their words in the file.
const HOSTS: [(bool, Driver); 3] =
    [(false, Driver::Cgroupfs), (true, Driver::Cgroupfs), (true, Driver::Systemd)];

/// The spec that reaches a container through a host port, which takes a kernel with NAT.
const NEEDS_NAT: &str = "[k8s.io] Networking runtime should support networking runtime should support port mapping \
                         with host port and container port [Conformance]";

/// What a spec shall do on each kind of host.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Expected {
    words: [String; HOSTS.len()],
    /// Why it does not pass everywhere.
    reason: String,
}

/// What a spec did.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Verdict {
    word: String,
    /// Why it is skipped or fails.
    reason: String,
}

fn critest_says_what_we_expect_of_each_spec() {
    let host = HOSTS.iter().position(|host| *host == (is_unified(), Driver::chosen())).expect("a known host");
    let node = Node::start();
    let report = node.path("critest.json");
    let log = fs::File::create(node.path("critest.log")).unwrap();
    let mut command = node.command(patched_critest(&node.path("")));
    command.args(["-runtime-endpoint", &node.endpoint(), "-image-endpoint", &node.endpoint()]);
    command.args(["-ginkgo.seed", "1", "-ginkgo.no-color", "-ginkgo.json-report"]).arg(&report);
    command.args(env::var("CRITEST_FLAGS").unwrap_or_default().split_whitespace());
    command.current_dir(node.path("")).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    command.status().unwrap(); // a spec that may fail makes it fail: the report decides

    let said = verdicts(&fs::read_to_string(&report).expect("critest wrote its report"));
    let mut expected =
        expected(&fs::read_to_string(EXPECTED).unwrap_or_else(|error| panic!("{EXPECTED}: {error}")));
    if env::var_os("CRITEST_REFRESH").is_some() {
        fs::write(EXPECTED, written(&said, &expected, host)).unwrap();
        return;
    }
    if !has_nat() {
        let spec = expected.get_mut(NEEDS_NAT).expect("the file names the spec of host ports");
        spec.words[host] = "fail".into();
    }
    let surprises: Vec<String> = said
        .keys()
        .chain(expected.keys())
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .filter_map(|name| {
            let did = said.get(name).map_or("nothing", |verdict| verdict.word.as_str());
            let shall = expected.get(name).map_or("nothing", |expected| expected.words[host].as_str());
            let reason = said.get(name).map(|verdict| verdict.reason.as_str()).unwrap_or_default();
            (did != shall).then(|| format!("{name}: {did}, expected {shall}: {reason}"))
        })
        .collect();
    let count = |word: &str| said.values().filter(|verdict| verdict.word == word).count();
    println!("critest: {} passed, {} failed, {} skipped", count("pass"), count("fail"), count("skip"));
    assert_eq!(surprises, [""; 0], "critest surprised us");
    node.assert_clean();
}

/// Whether nftables of this kernel has chains of type `nat`; of the test machine's kernels only the built one has.
fn has_nat() -> bool {
    let chain = "add table inet t; add chain inet t c { type nat hook prerouting priority 0; }";
    let status = Command::new("unshare").args(["--net", "nft", chain]).stderr(Stdio::null()).status();
    status.expect("unshare starts").success()
}

/// Name → verdict, of a report as ginkgo writes it.
fn verdicts(report: &str) -> BTreeMap<String, Verdict> {
    let suites: Value = serde_json::from_str(report).unwrap();
    let specs =
        suites.as_array().into_iter().flatten().filter_map(|suite| suite["SpecReports"].as_array()).flatten();
    let specs = specs.filter(|spec| spec["LeafNodeType"] == "It");
    specs.map(|spec| (name_of(spec), verdict_of(spec))).collect()
}

fn name_of(spec: &Value) -> String {
    let above = spec["ContainerHierarchyTexts"].as_array().into_iter().flatten().filter_map(Value::as_str);
    above.chain(spec["LeafNodeText"].as_str()).collect::<Vec<_>>().join(" ")
}

fn verdict_of(spec: &Value) -> Verdict {
    let word = match spec["State"].as_str() {
        Some("passed") => PASS,
        Some("skipped" | "pending") => "skip",
        _ => "fail",
    };
    let reason = spec["Failure"]["Message"].as_str().unwrap_or_default();
    Verdict { word: word.into(), reason: reason.lines().collect::<Vec<_>>().join(" ") }
}

fn expected(text: &str) -> BTreeMap<String, Expected> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (words, rest) = line.split_once(' ').unwrap_or_else(|| panic!("no name in {line:?}"));
            let (name, reason) = rest.split_once(" # ").unwrap_or((rest, ""));
            assert!(words == PASS || !reason.is_empty(), "no reason in {line:?}");
            let words: Vec<String> = words.split('/').map(String::from).collect();
            let words = match <[String; 1]>::try_from(words) {
                Ok([word]) => [(); HOSTS.len()].map(|()| word.clone()),
                Err(words) => words.try_into().unwrap_or_else(|_| panic!("not a word a host in {line:?}")),
            };
            (name.to_owned(), Expected { words, reason: reason.into() })
        })
        .collect()
}

/// The file, with what was said on this host; a reason that was written by hand is kept.
fn written(said: &BTreeMap<String, Verdict>, before: &BTreeMap<String, Expected>, host: usize) -> String {
    let mut text = String::from(
        "# What critest says of pintle, spec by spec: one word for all hosts, or v1/v2 cgroupfs/v2 systemd.\n\
         # Written by CRITEST_REFRESH=1.\n",
    );
    for (name, verdict) in said {
        // A spec that is new is taken to do the same everywhere.
        let known = before.get(name).cloned();
        let mut expected = known.unwrap_or_else(|| Expected {
            words: [(); HOSTS.len()].map(|()| verdict.word.clone()),
            reason: String::new(),
        });
        if expected.words[host] != verdict.word {
            expected.words[host].clone_from(&verdict.word);
            if !verdict.reason.is_empty() {
                expected.reason.clone_from(&verdict.reason);
            }
        }
        let same = expected.words.iter().all(|word| *word == verdict.word);
        let words = if same { verdict.word.clone() } else { expected.words.join("/") };
        let reason = [&expected.reason, &verdict.reason].into_iter().find(|reason| !reason.is_empty());
        let reason: String =
            reason.map_or(UNEXPLAINED, |reason| reason).chars().take(REASON_CHARS_MAX).collect();
        text +=
            &if words == PASS { format!("{words} {name}\n") } else { format!("{words} {name} # {reason}\n") };
    }
    text
}
