//! critest, the specification's own tests, against what we expect of each.
//!
//! `critest.expected` names every spec: `pass NAME`, `skip NAME # why`, `fail NAME # the missing feature`. A
//! spec that does otherwise fails this test, and so does one that is not named. `CRITEST_REFRESH=1` writes
//! the file anew, keeping the reasons: read the difference like code.

use std::{collections::BTreeMap, env, fs, process::Stdio};

use serde_json::Value;

use crate::harness::{Node, patched_critest, runner::tests};

tests![critest_says_what_we_expect_of_each_spec];

const EXPECTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/critest.expected");

/// critest skips its benchmarks without a word.
const UNEXPLAINED: &str = "only in benchmark mode";

/// A reason is one line to read, not a stack of errors.
const REASON_CHARS_MAX: usize = 160;

/// What a spec did, or shall do.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Verdict {
    word: String,
    /// Why it is skipped or fails.
    reason: String,
}

fn critest_says_what_we_expect_of_each_spec() {
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
    let expected = expected(&fs::read_to_string(EXPECTED).unwrap_or_default());
    if env::var_os("CRITEST_REFRESH").is_some() {
        fs::write(EXPECTED, written(&said, &expected)).unwrap();
        return;
    }
    let words =
        |verdict: Option<&Verdict>| verdict.map_or("nothing", |verdict| verdict.word.as_str()).to_owned();
    let surprises: Vec<String> = said
        .keys()
        .chain(expected.keys())
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .filter(|name| words(said.get(*name)) != words(expected.get(*name)))
        .map(|name| {
            let (did, shall) = (words(said.get(name)), words(expected.get(name)));
            let reason = said.get(name).map(|verdict| verdict.reason.as_str()).unwrap_or_default();
            format!("{name}: {did}, expected {shall}: {reason}")
        })
        .collect();
    let count = |word: &str| said.values().filter(|verdict| verdict.word == word).count();
    println!("critest: {} passed, {} failed, {} skipped", count("pass"), count("fail"), count("skip"));
    assert_eq!(surprises, [""; 0], "critest surprised us");
    node.assert_clean();
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
        Some("passed") => "pass",
        Some("skipped" | "pending") => "skip",
        _ => "fail",
    };
    let reason = spec["Failure"]["Message"].as_str().unwrap_or_default();
    Verdict { word: word.into(), reason: reason.lines().collect::<Vec<_>>().join(" ") }
}

fn expected(text: &str) -> BTreeMap<String, Verdict> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (word, rest) = line.split_once(' ').unwrap_or_else(|| panic!("no name in {line:?}"));
            let (name, reason) = rest.split_once(" # ").unwrap_or((rest, ""));
            assert!(word == "pass" || !reason.is_empty(), "no reason in {line:?}");
            (name.to_owned(), Verdict { word: word.into(), reason: reason.into() })
        })
        .collect()
}

/// The file, with what was said; a reason that was written by hand is kept.
fn written(said: &BTreeMap<String, Verdict>, expected: &BTreeMap<String, Verdict>) -> String {
    let mut text =
        String::from("# What critest says of pintle, spec by spec. Written by CRITEST_REFRESH=1.\n");
    for (name, verdict) in said {
        let known = expected.get(name).filter(|known| known.word == verdict.word && !known.reason.is_empty());
        let reason = known.map_or(&verdict.reason, |known| &known.reason);
        let reason = if reason.is_empty() { UNEXPLAINED } else { reason };
        let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
        text += &match verdict.word.as_str() {
            "pass" => format!("pass {name}\n"),
            word => format!("{word} {name} # {reason}\n"),
        };
    }
    text
}
