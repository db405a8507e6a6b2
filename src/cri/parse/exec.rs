//! ExecSync, Exec, Attach and PortForward, and how long things may take.

use std::time::Duration;

use super::{
    At as _, Refusal, Why, id,
    limits::{FORWARDED_PORTS_MAX, TIMEOUT_S_MAX},
    text::{count, words},
};
use crate::{cri::wire, model::IdPrefix, streaming::Streams};

/// A command to run to its end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ExecSync {
    pub(crate) container: IdPrefix,
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

/// A command whose streams a client will connect to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Exec {
    pub(crate) container: IdPrefix,
    pub(crate) command: Vec<String>,
    pub(crate) streams: Streams,
}

pub(crate) fn exec(request: wire::ExecRequest) -> Result<Exec, Refusal> {
    let wire::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr } = request;
    let container = id("container_id", &container_id)?;
    let object = format!("container {container}");
    command(&cmd).at("cmd").map_err(|refusal| refusal.of(&object))?;
    let streams = streams(Streams { stdin, stdout, stderr, tty }).map_err(|refusal| refusal.of(&object))?;
    Ok(Exec { container, command: cmd, streams })
}

/// A client for the streams of a container's own process.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Attach {
    pub(crate) container: IdPrefix,
    pub(crate) streams: Streams,
}

pub(crate) fn attach(request: wire::AttachRequest) -> Result<Attach, Refusal> {
    let wire::AttachRequest { container_id, stdin, tty, stdout, stderr } = request;
    let container = id("container_id", &container_id)?;
    let object = format!("container {container}");
    let streams = streams(Streams { stdin, stdout, stderr, tty }).map_err(|refusal| refusal.of(&object))?;
    Ok(Attach { container, streams })
}

/// A terminal has one output, and a client that wants none of the streams wants nothing.
fn streams(streams: Streams) -> Result<Streams, Refusal> {
    if streams.tty && streams.stderr {
        return Err(Why::from("and tty exclude each other: a terminal has one output")).at("stderr");
    }
    if !(streams.stdin || streams.stdout || streams.stderr) {
        return Err(Why::from("are all false")).at("stdin, stdout and stderr");
    }
    Ok(streams)
}

/// Ports of a pod that a client will connect to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PortForward {
    pub(crate) pod: IdPrefix,
    pub(crate) ports: Vec<u16>,
}

pub(crate) fn port_forward(request: wire::PortForwardRequest) -> Result<PortForward, Refusal> {
    let pod = id("pod_sandbox_id", &request.pod_sandbox_id)?;
    let object = format!("pod {pod}");
    count(FORWARDED_PORTS_MAX, request.port.len()).at("port").map_err(|refusal| refusal.of(&object))?;
    let port = |port: &i32| match u16::try_from(*port) {
        Ok(port @ 1..) => Ok(port),
        _ => Err(Why::from(format!("{port} is not from 1 to 65535"))),
    };
    let ports = request.port.iter().map(port).collect::<Result<_, _>>();
    let ports = ports.at("port").map_err(|refusal| refusal.of(&object))?;
    Ok(PortForward { pod, ports })
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
    fn a_terminal_has_one_output_and_a_client_wants_something() {
        let of = |tty, stdin, stdout, stderr| {
            let cmd = vec!["sh".to_owned()];
            let request = wire::ExecRequest { container_id: "abc".into(), cmd, tty, stdin, stdout, stderr };
            exec(request).map_err(|refusal| refusal.to_string())
        };
        let streams = Streams { stdin: true, stdout: true, stderr: false, tty: true };
        assert_eq!(of(true, true, true, false).unwrap().streams, streams);
        assert!(of(false, false, false, true).is_ok());
        let why = "container abc: stderr and tty exclude each other: a terminal has one output";
        assert_eq!(of(true, true, true, true).unwrap_err(), why);
        let why = "container abc: stdin, stdout and stderr are all false";
        assert_eq!(of(true, false, false, false).unwrap_err(), why);
    }

    #[test]
    fn a_port_is_a_number_that_can_be_connected_to() {
        let of = |port: Vec<i32>| {
            let request = wire::PortForwardRequest { pod_sandbox_id: "abc".into(), port };
            port_forward(request).map_err(|refusal| refusal.to_string())
        };
        assert_eq!(
            of(vec![1, 65_535]).unwrap(),
            PortForward { pod: IdPrefix::parse("abc").unwrap(), ports: vec![1, 65_535] }
        );
        assert!(of(vec![]).is_ok());
        for port in [0, 65_536, -1, i32::MIN] {
            let why = format!("pod abc: port {port} is not from 1 to 65535");
            assert_eq!(of(vec![80, port]).unwrap_err(), why);
        }
        assert!(of(vec![80; FORWARDED_PORTS_MAX + 1]).unwrap_err().contains("more than the 127 allowed"));
    }

    #[test]
    fn a_timeout_of_zero_is_none() {
        let exec = exec_sync(request(&["true", ""], 0)).unwrap();
        let command = vec!["true".to_owned(), String::new()];
        assert_eq!(exec, ExecSync { container: IdPrefix::parse("abc").unwrap(), command, timeout: None });
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
