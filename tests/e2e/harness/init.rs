//! A node's first process: it reaps what daemons and pods orphan, and takes all of it along when it ends.
//!
//! Its standard input is a pipe that the test holds: when the test ends, however it ends, the pipe closes,
//! this process exits, and the kernel kills everything in its process namespace.
//!
//! With `PINTLE_E2E_PIDS=machine` a node has no process namespace of its own: systemd before version 254 can only be
//! given a process by its number, which must then mean the same to pintle. The machine's first process reaps orphans
//! there, and the test ends what is left. That is for machines that are thrown away after the tests.

use std::{
    collections::HashMap,
    env, fs,
    io::{self, Read as _},
    net::TcpStream,
    os::fd::AsFd as _,
    path::PathBuf,
    process::{Child, ChildStdin, Command, ExitCode, Stdio},
    sync::LazyLock,
    thread,
    time::Duration,
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitOptions, kill_process, wait},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::wait::wait_until;

/// The argument that makes this program a node's first process.
pub(crate) const ROLE: &str = "node-init";

/// The variable that says in which process namespace nodes are.
const PIDS: &str = "PINTLE_E2E_PIDS";

/// Whether each node has a process namespace of its own.
static OWN_PIDS: LazyLock<bool> = LazyLock::new(|| match env::var(PIDS).unwrap_or_default().as_str() {
    "" | "node" => true,
    "machine" => false,
    other => panic!("{PIDS} is node or machine, not {other:?}"),
});

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
        let pids: &[&str] = if *OWN_PIDS { &["--pid", "--fork", "--mount-proc"] } else { &[] };
        let mut unshare = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private"])
            .args(pids)
            .arg("--")
            .arg(env::current_exe().unwrap())
            .arg(ROLE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("run unshare: these tests need root and util-linux");
        let life = unshare.stdin.take().unwrap();
        let mut said = [0; 6];
        unshare.stdout.take().unwrap().read_exact(&mut said).expect("the node's first process starts");
        assert_eq!(&said, b"ready\n");
        let pid = pid_of_program(&mut unshare).expect("unshare runs one program");
        Self { unshare, life: Some(life), pid }
    }

    /// `program`, to be run inside.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.pid.to_string(), "--net", "--mount"]);
        command.args(OWN_PIDS.then_some("--pid")).arg("--").arg(program);
        command
    }

    /// A connection in this network, wherever its other end is then used.
    #[track_caller]
    pub(crate) fn connect(&self, address: &str) -> TcpStream {
        let network = fs::File::open(format!("/proc/{}/ns/net", self.pid)).unwrap();
        // A thread of its own enters it, and ends there.
        let connected = thread::scope(|scope| {
            let connect = || {
                move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
                TcpStream::connect(address)
            };
            scope.spawn(connect).join().unwrap()
        });
        connected.unwrap_or_else(|error| panic!("connect to {address}: {error}"))
    }

    /// The root directory as the node sees it.
    pub(crate) fn root(&self) -> PathBuf {
        format!("/proc/{}/root", self.pid).into()
    }

    /// A file about the first process itself.
    pub(crate) fn read_proc(&self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.pid)).unwrap_or_default()
    }

    /// The numbers of the node's processes, as the node sees them.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let all = fs::read_dir(self.root().join("proc")).unwrap().flatten();
        let all = all.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
        if *OWN_PIDS { all.collect() } else { self.own_among(&all.collect::<Vec<_>>()) }
    }

    /// The node's processes: pid inside, and command line.
    pub(crate) fn processes(&self) -> Vec<(u32, String)> {
        let describe = |pid: u32| {
            let read =
                |name: &str| fs::read(self.root().join(format!("proc/{pid}/{name}"))).unwrap_or_default();
            let line = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
            // A zombie has no command line, but still a name.
            let name = if line.is_empty() {
                format!("[{}]", String::from_utf8_lossy(&read("comm")).trim())
            } else {
                line
            };
            (pid, name.trim().to_owned())
        };
        self.pids().into_iter().map(describe).collect()
    }

    /// Those that are in the node's mount namespace, and their descendants.
    fn own_among(&self, pids: &[u32]) -> Vec<u32> {
        let mounts = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        let parent = |pid: u32| -> Option<u32> {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
        };
        let ours = mounts(self.pid);
        let parents: HashMap<u32, u32> = pids.iter().filter_map(|&pid| Some((pid, parent(pid)?))).collect();
        let is_ours = |pid: u32| {
            let mut line = std::iter::successors(Some(pid), |pid| parents.get(pid).copied());
            line.any(|pid| mounts(pid).is_some_and(|its| Some(its) == ours))
        };
        pids.iter().copied().filter(|&pid| is_ours(pid)).collect()
    }
}

impl Namespaces {
    /// Ends every process in them. Programs that were entered into them are reaped by their own `nsenter`,
    /// which must still be there: the machine's first process would do it seconds later.
    pub(crate) fn end(&mut self) {
        if !*OWN_PIDS && self.life.is_some() {
            wait_until("the node's processes have ended", || self.kill_all() == 0);
        }
        drop(self.life.take());
        let _ = self.unshare.wait();
    }

    /// SIGKILL to all but the first process; how many there were.
    fn kill_all(&self) -> usize {
        let others: Vec<u32> = self.pids().into_iter().filter(|&pid| pid != self.pid).collect();
        for pid in others.iter().filter_map(|&pid| Pid::from_raw(pid.try_into().ok()?)) {
            // It may have ended meanwhile.
            let _ = kill_process(pid, Signal::KILL);
        }
        others.len()
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        self.end();
    }
}

/// The program that `nsenter` or `unshare` runs: they execute it themselves, or as their one child if it is to be in
/// another process namespace. `None` if it has come and gone.
pub(crate) fn pid_of_program(runner: &mut Child) -> Option<u32> {
    if *OWN_PIDS { only_child(runner) } else { Some(runner.id()) }
}

/// The one child of a process, once it is there: `nsenter` and `unshare` fork before they execute. `None` if it
/// has come and gone.
fn only_child(parent: &mut Child) -> Option<u32> {
    let list = format!("/proc/{0}/task/{0}/children", parent.id());
    let mut children = String::new();
    wait_until("the program is forked", || {
        children = fs::read_to_string(&list).unwrap_or_default();
        !children.is_empty() || !matches!(parent.try_wait(), Ok(None))
    });
    children.split_whitespace().next()?.parse().ok()
}
