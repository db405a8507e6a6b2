//! ExecSync, and how long things may take.

use std::time::Duration;

use super::{At as _, Refusal, Why, id, limits::TIMEOUT_S_MAX, text::words};
use crate::cri::wire;

/// A command to run to its end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ExecSync {
    pub(crate) container: String,
    pub(crate) command: Vec<String>,
    /// `None`: for as long as it takes.
    pub(crate) timeout: Option<Duration>,
}

pub(crate) fn exec_sync(request: wire::ExecSyncRequest) -> Result<ExecSync, Refusal> {
    let container = id("container_id", &request.container_id)?;
    command(&request.cmd).at("cmd").map_err(|refusal| refusal.of(&format!("container {container}")))?;
    let timeout = seconds(request.timeout).at("timeout")?;
    let timeout = (!timeout.is_zero()).then_some(timeout);
    Ok(ExecSync { container, command: request.cmd, timeout })
}

/// StopContainer's grace period.
pub(crate) fn grace(timeout_s: i64) -> Result<Duration, Refusal> {
    seconds(timeout_s).at("timeout")
}

fn command(command: &[String]) -> Result<(), Why> {
    if command.first().is_none_or(String::is_empty) {
        return Err("is empty".into());
    }
    words(command.iter())
}

/// More than [`TIMEOUT_S_MAX`] is as good as that.
fn seconds(value: i64) -> Result<Duration, Why> {
    match u64::try_from(value) {
        Ok(value) => Ok(Duration::from_secs(value.min(TIMEOUT_S_MAX))),
        Err(_) => Err(format!("is {value}, less than 0 seconds").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(cmd: &[&str], timeout: i64) -> wire::ExecSyncRequest {
        let cmd = cmd.iter().map(|&word| word.into()).collect();
        wire::ExecSyncRequest { container_id: "abc".into(), cmd, timeout }
    }

    #[test]
    fn a_timeout_of_zero_is_none() {
        let exec = exec_sync(request(&["true", ""], 0)).unwrap();
        let command = vec!["true".to_owned(), String::new()];
        assert_eq!(exec, ExecSync { container: "abc".into(), command, timeout: None });
        assert_eq!(exec_sync(request(&["true"], 7)).unwrap().timeout, Some(Duration::from_secs(7)));
    }

    #[test]
    fn bad_commands_and_times_are_refused() {
        for (request, why) in [
            (request(&[], 0), "container abc: cmd is empty"),
            (request(&["", "x"], 0), "container abc: cmd is empty"),
            (request(&["a\0b"], 0), "container abc: cmd \"a\\0b\" has a NUL"),
            (request(&["true"], -1), "timeout is -1, less than 0 seconds"),
        ] {
            assert_eq!(exec_sync(request).unwrap_err().to_string(), why);
        }
    }

    #[test]
    fn the_longest_grace_cannot_overflow_a_clock() {
        assert_eq!(grace(i64::MAX), Ok(Duration::from_secs(TIMEOUT_S_MAX)));
        assert_eq!(grace(0), Ok(Duration::ZERO));
        assert!(grace(i64::MIN).is_err());
    }
}
