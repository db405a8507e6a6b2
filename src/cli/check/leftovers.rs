//! What the running daemon could not take away yet, and what its audits have found.

use std::path::Path;

use serde::Deserialize;

use super::{Finding, ok, warn};
use crate::cli::client::{Client, Error};

/// What is read of the daemon's status.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Info {
    debts: Vec<Debt>,
    findings: Vec<Found>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Debt {
    pod: String,
    objects: Vec<String>,
    cause: String,
    age_seconds: u64,
    next_try_seconds: u64,
}

#[derive(Debug, Deserialize)]
struct Found {
    object: String,
    fault: String,
}

/// Asks the daemon that listens at `socket`; one that does not run leaves nothing to say.
pub(super) fn questions(socket: &Path) -> Vec<Finding> {
    let topic = "leftovers";
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return vec![warn(topic, format!("the daemon cannot be asked: {error}"))],
    };
    let asked = runtime.block_on(async { Client::connect(socket).await?.info().await });
    match asked {
        Ok(info) => findings(&serde_json::from_str(&info).unwrap_or_default()),
        Err(Error::Connect { .. }) => vec![],
        Err(error) => vec![warn(topic, format!("the daemon does not say: {error}"))],
    }
}

fn findings(info: &Info) -> Vec<Finding> {
    let debt = |debt: &Debt| {
        let Debt { pod, objects, cause, age_seconds, next_try_seconds } = debt;
        let objects = objects.join(", ");
        let text = format!(
            "of pod {pod}: {objects} could not be taken away for {age_seconds} s, next try in {next_try_seconds} s: {cause}"
        );
        warn("leftovers", text)
    };
    let found = |found: &Found| warn("audit", format!("{}: {}", found.object, found.fault));
    let all: Vec<_> = info.debts.iter().map(debt).chain(info.findings.iter().map(found)).collect();
    if all.is_empty() { vec![ok("leftovers", "the daemon has nothing left to take away")] } else { all }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_debt_and_each_finding_is_a_line() {
        let text = r#"{"version": "1", "debts": [{"pod": "ab", "objects": ["network", "records"], "cause": "it hangs",
            "ageSeconds": 70, "nextTrySeconds": 3}], "findings": [{"object": "folder /x", "fault": "it is nobody's"}]}"#;
        let lines: Vec<_> =
            findings(&serde_json::from_str(text).unwrap()).iter().map(ToString::to_string).collect();
        assert!(lines[0].ends_with(
            "of pod ab: network, records could not be taken away for 70 s, next try in 3 s: it hangs"
        ));
        assert!(lines[1].starts_with("warn") && lines[1].ends_with("folder /x: it is nobody's"));
        assert_eq!(findings(&Info::default())[0].text, "the daemon has nothing left to take away");
    }
}
