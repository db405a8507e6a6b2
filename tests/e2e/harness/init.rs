//! A node's first process: it reaps what daemons and pods orphan, and takes all of it along when it ends.
//!
//! Its standard input is a pipe that the test holds: when the test ends, however it ends, the pipe closes,
//! this process exits, and the kernel kills everything in its process namespace.

use std::{
    fs,
    io::{self, Read as _},
    path::PathBuf,
    process::{Child, ChildStdin, Command, ExitCode, Stdio},
    thread,
    time::Duration,
};

use rustix::{
    io::Errno,
    process::{WaitOptions, wait},
};

use super::wait::wait_until;

/// The argument that makes this program a node's first process.
pub(crate) const ROLE: &str = "node-init";

/// Between looks for children where there are none.
const IDLE: Duration = Duration::from_millis(20);

/// The life of a node's first process.
pub(crate) fn node_init() -> ExitCode {
    let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
    if !up.is_ok_and(|status| status.success()) {
        eprintln!("could not set up loopback");
        return ExitCode::FAILURE;
    }
    println!("ready");
    thread::spawn(|| {
        let _ = io::stdin().read(&mut [0]); // the end, or anything else, is the end
        std::process::exit(0)
    });
    loop {
        if let Err(Errno::CHILD) = wait(WaitOptions::empty()) {
            thread::sleep(IDLE);
        }
    }
}

/// The namespaces of a node, held open by their first process.
#[derive(Debug)]
pub(crate) struct Namespaces {
    unshare: Child,
    /// Held, never written to; dropped, it ends the first process.
    life: Option<ChildStdin>,
    /// The first process, as the test sees it.
    pid: u32,
}

impl Namespaces {
    /// Makes network, mount and process namespaces; returns when loopback is up.
    pub(crate) fn new() -> Self {
        let mut unshare = Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--fork", "--mount-proc", "--propagation", "private", "--"])
            .arg(std::env::current_exe().unwrap())
            .arg(ROLE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("run unshare: these tests need root and util-linux");
        let life = unshare.stdin.take().unwrap();
        let mut said = [0; 6];
        unshare.stdout.take().unwrap().read_exact(&mut said).expect("the node's first process starts");
        assert_eq!(&said, b"ready\n");
        let pid = only_child(unshare.id()).expect("unshare has one child");
        Self { unshare, life: Some(life), pid }
    }

    /// `program`, to be run inside.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid.to_string(), "--net", "--mount", "--pid", "--"]).arg(program);
        command
    }

    /// The root directory as the node sees it.
    pub(crate) fn root(&self) -> PathBuf {
        format!("/proc/{}/root", self.pid).into()
    }

    /// A file about the first process itself.
    pub(crate) fn read_proc(&self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.pid)).unwrap_or_default()
    }

    /// The process namespace's processes: pid inside, and command line.
    pub(crate) fn processes(&self) -> Vec<(u32, String)> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.root().join("proc")).unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse() else { continue };
            let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
            let line = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
            // A zombie has no command line, but still a name.
            let name = if line.is_empty() {
                format!("[{}]", String::from_utf8_lossy(&read("comm")).trim())
            } else {
                line
            };
            found.push((pid, name.trim().to_owned()));
        }
        found
    }
}

impl Namespaces {
    /// Ends every process in them. Programs that were entered into them are reaped by their own `nsenter`,
    /// which must still be there: the machine's first process would do it seconds later.
    pub(crate) fn end(&mut self) {
        drop(self.life.take());
        let _ = self.unshare.wait();
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.end();
    }
}

/// The one child of a process, once it is there: `nsenter` and `unshare` fork before they execute.
pub(crate) fn only_child(parent: u32) -> Option<u32> {
    let children =
        || fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    wait_until("the program is forked", || !children().is_empty());
    children().split_whitespace().next()?.parse().ok()
}
