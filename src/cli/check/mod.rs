//! `pintle check`: what this host can and cannot do, in an operator's words.
//!
//! - `host`: where facts come from; tests put a folder in the place of `/`.
//! - `kernel`, `cgroup`, `security`, `services`: the questions.
//!
//! Invariant: nothing is changed. A question that could only be answered by changing something is answered
//! from what the kernel says about itself.
//! Invariant: `fail` means that pods will not run; `warn` names what is lost.

mod cgroup;
mod host;
mod kernel;
mod security;
mod services;

use std::fmt;

use self::host::Host;
use super::{
    command::{Place, say},
    exit::Exit,
};

/// One answer.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Finding {
    level: Level,
    /// What was asked about, in a word or two.
    topic: &'static str,
    /// How it is, what that means, and what to do.
    text: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Level {
    Ok,
    Warn,
    Fail,
}

fn ok(topic: &'static str, text: impl Into<String>) -> Finding {
    Finding { level: Level::Ok, topic, text: text.into() }
}

fn warn(topic: &'static str, text: impl Into<String>) -> Finding {
    Finding { level: Level::Warn, topic, text: text.into() }
}

fn fail(topic: &'static str, text: impl Into<String>) -> Finding {
    Finding { level: Level::Fail, topic, text: text.into() }
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
    let findings: Vec<Finding> = [
        kernel::questions(&host, &config.root),
        cgroup::questions(&host),
        security::questions(&host),
        services::questions(&host),
    ]
    .concat();
    let lines: Vec<_> = findings.iter().map(|finding| format!("{finding}\n")).collect();
    say(&lines.concat())?;
    let failed = findings.iter().any(|finding| finding.level == Level::Fail);
    Ok(if failed { Exit::FAILED } else { Exit::OK })
}
