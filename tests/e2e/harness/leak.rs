//! What a node has when it is idle, to be compared with what it has after pods came and went.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, mem,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use super::{
    folders::below,
    node::Node,
    wait::{wait_for, wait_until},
};

/// Longer than the pauses in a start.
const BETWEEN_LOOKS: Duration = Duration::from_millis(150);

/// Enough to see what kind of thing was left.
const LINES_SHOWN: usize = 40;

/// Everything that must come back to what it was. Lines, so that a difference can be read.
#[derive(Debug, Default)]
pub(crate) struct Baseline {
    idle: BTreeSet<String>,
}

impl Baseline {
    /// Looks until two looks agree: a daemon that has just started still makes folders for itself.
    pub(crate) fn of(node: &Node) -> Self {
        let mut idle = idle_lines(node);
        wait_until("the node is idle", || {
            thread::sleep(BETWEEN_LOOKS);
            let before = mem::replace(&mut idle, idle_lines(node));
            before == idle
        });
        Self { idle }
    }

    /// Waits for things to settle: a process or a cgroup is gone a moment after its pod.
    #[track_caller]
    pub(crate) fn assert_same(&self, node: &Node) {
        wait_for("the node is as it was, less and more:", &Difference::default(), || Difference {
            gone: self.idle.difference(&idle_lines(node)).take(LINES_SHOWN).cloned().collect(),
            left: idle_lines(node).difference(&self.idle).take(LINES_SHOWN).cloned().collect(),
        });
    }
}

#[derive(Debug, Default, PartialEq)]
struct Difference {
    gone: Vec<String>,
    left: Vec<String>,
}

fn idle_lines(node: &Node) -> BTreeSet<String> {
    let lines = processes(node).into_iter().chain(mounts(node)).chain(cgroups(node)).chain(links(node));
    lines.chain(files(node)).chain(descriptors(node)).collect()
}

/// How many of each program run, zombies included.
fn processes(node: &Node) -> Vec<String> {
    let mut count = BTreeMap::<String, u32>::new();
    for (_, line) in node.namespaces().processes() {
        *count.entry(line).or_default() += 1;
    }
    count.into_iter().map(|(line, count)| format!("process {line} x{count}")).collect()
}

/// The node's mount table, and what of the node is in the machine's.
fn mounts(node: &Node) -> Vec<String> {
    let place = |line: &str| line.split(' ').nth(4).map(str::to_owned);
    let own = node.namespaces().read_proc("mountinfo");
    let own = own.lines().filter_map(place).map(|place| format!("mount {place}"));
    let machine = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let folder = node.path("").to_string_lossy().trim_end_matches('/').to_owned();
    let machine = machine.lines().filter_map(place).filter(|place| place.starts_with(&folder));
    own.chain(machine.map(|place| format!("mount on the machine {place}"))).collect()
}

/// Cgroups below the node's, in any hierarchy, but those that are the kubelet's.
fn cgroups(node: &Node) -> Vec<String> {
    let (cgroups, mut found) = (&node.folders().cgroups, Vec::new());
    for top in cgroups.folders() {
        let kubelets = cgroups.kubelets(&top);
        let own = |folder: &PathBuf| *folder != kubelets && folder.parent() != Some(&kubelets);
        found.extend(below(&top).into_iter().filter(own));
    }
    found.iter().map(|folder| format!("cgroup {}", folder.display())).collect()
}

/// Network interfaces of pods, and named network namespaces.
fn links(node: &Node) -> Vec<String> {
    let links = node.run("ip", ["-o", "link", "show", "type", "veth"]);
    let names = links.lines().filter_map(|line| line.split(": ").nth(1));
    let named = fs::read_dir(node.path("netns")).into_iter().flatten().flatten();
    let named = named.map(|entry| format!("netns {}", entry.file_name().display()));
    names.map(|name| format!("link {name}")).chain(named).collect()
}

/// Files of the daemon.
fn files(node: &Node) -> Vec<String> {
    let mut found = Vec::new();
    for top in ["root", "state"] {
        let top = node.path(top);
        for folder in below(&top).into_iter().chain([top.clone()]) {
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            found.extend(entries.map(|entry| entry.path()).filter(|path| !is_kept(path, &top)));
        }
    }
    found.iter().map(|path| format!("file {}", path.display())).collect()
}

/// Kept on purpose after the last pod: what was pulled, the daemon's own folder for unfinished pulls, which is
/// named after its process, the address given out last, so that the next pod gets another, and the pod CIDRs.
fn is_kept(path: &Path, top: &Path) -> bool {
    let within = path.strip_prefix(top).unwrap_or(path);
    let pulled = ["images", "layers"].iter().any(|kept| within.starts_with(kept));
    let own = within.parent() == Some(Path::new("ingest"));
    let last = ["last_reserved_ip.0", "last_reserved_ip.1", "network/sysctls.json"];
    pulled || own || last.iter().any(|kept| within.ends_with(kept)) || within == Path::new("cni.ranges")
}

/// The daemon's descriptors by what they are. TCP connections to a registry may linger for a while.
fn descriptors(node: &Node) -> Vec<String> {
    let mut count = BTreeMap::<String, u32>::new();
    let tcp = tcp_inodes(node);
    for entry in fs::read_dir(format!("/proc/{}/fd", node.daemon_pid())).into_iter().flatten().flatten() {
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let target = target.to_string_lossy().into_owned();
        // Of sockets only: a file has a number in its own file system, which may be a socket's too.
        let socket = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        // Numbers go, names stay: `anon_inode:[pidfd]`.
        let kind =
            if target.starts_with("anon_inode:") { Some(target.as_str()) } else { target.split(":[").next() };
        let kind = kind.unwrap_or(&target);
        // The folder for unfinished pulls has another name in each daemon.
        let kind = kind.split_inclusive("/ingest/").next().unwrap_or(kind).to_owned();
        if !socket.is_some_and(|socket| tcp.contains(socket)) {
            *count.entry(kind).or_default() += 1;
        }
    }
    count.into_iter().map(|(kind, count)| format!("descriptor {kind} x{count}")).collect()
}

fn tcp_inodes(node: &Node) -> BTreeSet<String> {
    let tables = node.namespaces().read_proc("net/tcp") + &node.namespaces().read_proc("net/tcp6");
    tables.lines().filter_map(|line| line.split_whitespace().nth(9)).map(str::to_owned).collect()
}
