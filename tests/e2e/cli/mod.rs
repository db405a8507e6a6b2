//! The commands that an operator types, as pintle itself has them.

mod attach;
mod exec;
mod logs;
mod run;
mod seat;
mod tls;

use std::process::{Command, Output, Stdio};

use crate::harness::{Node, pintle, runner::Test};

pub(crate) const TESTS: [&[Test]; 5] = [logs::TESTS, exec::TESTS, attach::TESTS, run::TESTS, tls::TESTS];

/// `pintle COMMAND`, with the daemon of the node.
fn command<const N: usize>(node: &Node, name: &str, arguments: [&str; N]) -> Command {
    let mut command = node.command(pintle());
    command.arg(name).arg("--config").arg(node.path("config.toml")).args(arguments);
    command
}

fn run<const N: usize>(node: &Node, name: &str, arguments: [&str; N]) -> Output {
    command(node, name, arguments).stdin(Stdio::null()).output().unwrap()
}

/// Stdout, stderr and exit code.
fn said(output: &Output) -> (String, String, Option<i32>) {
    (stdout(output), stderr(output), output.status.code())
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
