//! pintle seen from outside: stories that a kubelet, an operator or an attacker could tell.
//!
//! Needs root, `docker-registry`, and the clients of `hack/tools`; `hack/test` brings what is missing. Each
//! test has a node of its own and leaves nothing behind. `cargo test --test e2e --features failpoints -- pod::`
//! runs the tests of one file.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod apparmor;
mod attach;
mod bad_input;
mod cdi;
mod cgroup;
mod check;
mod churn;
mod cli;
mod clients;
mod cni;
mod conformance;
mod container;
mod crictl;
mod descriptors;
mod event;
mod exec;
mod faults;
mod gauntlet;
mod handler;
mod harness;
mod health;
mod image;
mod launch;
mod logs;
mod network;
mod oom;
mod own_log;
mod paths;
mod plugins;
mod pod;
mod restart;
mod security;
mod selinux;
mod stats;
mod stream;
mod streaming;
mod swap;
mod takeover;
mod update;
mod userns;
mod voice;
mod volume;
mod worker;

use std::{env, process::ExitCode};

use harness::{
    NODE_GET, NODE_INIT, node_get, node_init,
    runner::{self, Test},
};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [NODE_INIT] => return node_init(),
        [NODE_GET, address] => return node_get(address),
        _ => {}
    }
    runner::name_panics();
    runner::run(stories())
}

/// All stories, in the order in which they begin.
fn stories() -> impl Iterator<Item = Test> {
    let files = [
        restart::TESTS,
        faults::TESTS,
        health::TESTS,
        churn::TESTS,
        conformance::TESTS,
        pod::TESTS,
        container::TESTS,
        volume::TESTS,
        cdi::TESTS,
        userns::TESTS,
        handler::TESTS,
        cgroup::TESTS,
        update::TESTS,
        voice::TESTS,
        swap::TESTS,
        takeover::TESTS,
        oom::TESTS,
        paths::TESTS,
        exec::TESTS,
        launch::TESTS,
        logs::TESTS,
        own_log::TESTS,
        image::TESTS,
        worker::TESTS,
        network::TESTS,
        cni::TESTS,
        plugins::TESTS,
        security::TESTS,
        apparmor::TESTS,
        selinux::TESTS,
        gauntlet::TESTS,
        event::TESTS,
        event::CHURN_TESTS,
        stream::TESTS,
        streaming::TESTS,
        streaming::gone::TESTS,
        streaming::ports::TESTS,
        streaming::protocol::TESTS,
        streaming::many::TESTS,
        streaming::tls::TESTS,
        streaming::rows::TESTS,
        attach::TESTS,
        bad_input::TESTS,
        check::TESTS,
        crictl::TESTS,
        descriptors::TESTS,
        clients::TESTS,
        stats::TESTS,
    ];
    files.into_iter().chain(cli::TESTS).flatten().copied()
}
