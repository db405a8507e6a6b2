//! pintle seen from outside: stories that a kubelet, an operator or an attacker could tell.
//!
//! Needs root, `docker-registry`, and the clients of `hack/tools`; `hack/test` brings what is missing. Each
//! test has a node of its own and leaves nothing behind. `cargo test --test e2e --features failpoints -- pod::`
//! runs the tests of one file.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod harness;
mod pod;

use std::{env, process::ExitCode};

use harness::{NODE_INIT, node_init, runner};

fn main() -> ExitCode {
    if env::args().nth(1).as_deref() == Some(NODE_INIT) {
        return node_init();
    }
    runner::name_panics();
    let files = [pod::TESTS];
    runner::run(files.iter().copied().flatten().copied())
}
