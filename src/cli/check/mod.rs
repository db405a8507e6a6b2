//! `pintle check`: what this host can and cannot do, in an operator's words.
//!
//! - `scratch`: processes and namespaces in which something is tried.
//! - `kernel`, `process`, `storage`, `cgroup`, `network`: the attempts. Each does what a pod's start does, where it can
//!   with the very function.
//! - `policy`: settings of the host. There is nothing to try about a setting: it is read.
//! - `cdi`: the files that say what devices need, read as a create reads them.
//! - `monitoring`: what is configured for metrics, since what a kubelet shows depends on it.
//! - `leftovers`: what the running daemon could not take away yet, which it is asked.
//! - `host`: where settings come from; tests put a folder in the place of `/`.
//!
//! Invariant: nothing is left changed. What is tried is tried in namespaces of its own; a cgroup and a folder, which
//! have none, are made under names of their own and removed.
//! Invariant: `fail` means that pods will not run; `warn` names what is lost.

mod cdi;
mod cgroup;
mod host;
mod kernel;
mod leftovers;
mod monitoring;
mod network;
mod policy;
mod process;
mod scratch;
mod storage;

use std::fmt;

use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use self::host::Host;
use super::{exit::Exit, place::Place, say::say};

/// One answer.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Finding {
    level: Level,
    /// What was asked about, in a word or two.
    topic: String,
    /// How it is, what that means, and what to do.
    text: String,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
enum Level {
    Ok,
    Warn,
    Fail,
}

fn ok(topic: &str, text: impl Into<String>) -> Finding {
    Finding { level: Level::Ok, topic: topic.into(), text: text.into() }
}

fn warn(topic: &str, text: impl Into<String>) -> Finding {
    Finding { level: Level::Warn, topic: topic.into(), text: text.into() }
}

fn fail(topic: &str, text: impl Into<String>) -> Finding {
    Finding { level: Level::Fail, topic: topic.into(), text: text.into() }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        write!(f, "{level:4}  {:18}  {}", self.topic, self.text)
    }
}

/// `pintle check`
pub(super) fn check(place: Place) -> Result<Exit, Exit> {
    let config = place.load(None)?.config;
    let host = Host::real();
    let findings: Vec<Finding> = if geteuid().is_root() {
        [
            kernel::questions(&host),
            process::questions(),
            storage::questions(&config.root),
            cgroup::questions(&host, &config.cgroup),
            network::questions(&host, &config.network),
            policy::questions(&host, &config.selinux),
            cdi::questions(&config.cdi),
            monitoring::questions(&config.metrics),
            leftovers::questions(config.listen().path()),
        ]
        .concat()
    } else {
        vec![fail("privileges", "pintle runs as root, and so must `pintle check`: nothing else was tried")]
    };
    let lines: Vec<_> = findings.iter().map(|finding| format!("{finding}\n")).collect();
    say(&lines.concat())?;
    let failed = findings.iter().any(|finding| finding.level == Level::Fail);
    Ok(if failed { Exit::FAILED } else { Exit::OK })
}
