//! The command line: the only room that prints to stdout, and the one that turns failures into exit codes.
//!
//! - `command`: what may be typed, and which function answers.
//! - `serve`, `config`, `image`, `run`, `check`: one file or folder for each command.
//! - `client`: a small CRI client over the unix socket, for `run` and `image`.
//! - `follow`: container logs in the kubelet's format, back into the output they were.
//! - `exit`: exit codes, from sysexits(3).
//!
//! Invariant: `zygote` and `anchor` are looked for before anything else is done: each such process is the
//! memory of every pod.
//! Invariant: `run` leaves nothing behind, however it ends, unless it is killed with SIGKILL.
//! Not here: anything that a kubelet can also ask for. `run` and `image` are clients like any other.

mod check;
mod client;
mod command;
mod config;
mod exit;
mod follow;
mod image;
mod run;
mod serve;

pub use command::main;
