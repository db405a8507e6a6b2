//! The command line: the only room that prints to stdout, and the one that turns failures into exit codes.
//!
//! - `command`: what may be typed, and which function answers.
//! - `serve`, `config`, `image`, `run`, `exec`, `attach`, `logs`, `network`, `check`: one file or folder for each
//!   command.
//! - `client`: a small CRI client over the unix socket. `lookup`: which container an argument means.
//! - `session`: the client's side of an exec or attach, with `tls` where streams are served so. `console`: the person's, with `stdio` (standard streams),
//!   `terminal` (raw mode, size) and `detach` (keys that end it). `signals`: what ends a command from outside.
//! - `place`: where the daemon is, the arguments that all commands share. `say`: text on stdout. `exit`: exit codes, from
//!   sysexits(3).
//!
//! Invariant: `zygote` and `anchor` are looked for before anything else is done: each such process is the
//! memory of every pod.
//! Invariant: `run` leaves nothing behind, however it ends, unless it is killed with SIGKILL or detached from.
//! Invariant: a terminal has its modes again when a command ends, however it ends, unless it is killed with SIGKILL.
//! Not here: anything that a kubelet can also ask for. The commands are clients like any other.

mod attach;
mod check;
mod client;
mod command;
mod config;
mod console;
mod detach;
mod exec;
mod exit;
mod image;
mod logs;
mod lookup;
mod network;
mod place;
mod run;
mod say;
mod serve;
mod session;
mod signals;
mod stdio;
mod terminal;
mod tls;

pub use command::main;
