//! What has gone through a pod's interfaces, read from `/proc/PID/net/dev` of a process in the pod, or by a thread
//! that enters the pod's namespace for it.
//!
//! A pod may have as many interfaces as it likes, under names of bytes that are no text: what is read of them
//! is limited, and shown as text.

use std::{
    fs::File,
    io::Read,
    os::{
        fd::AsFd,
        unix::{ffi::OsStrExt, fs::MetadataExt as _},
    },
    path::{Path, PathBuf},
    thread,
};

use crate::sys::process;

/// Most that is read of one `net/dev`; bytes. An interface takes some 130.
const BYTES_MAX: u64 = 64 * 1024;

/// Interfaces of one pod that are reported; the kernel lists them in the order in which they were made, so the
/// pod's own comes first.
const INTERFACES_MAX: usize = 64;

/// Counters of one interface since it was made.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct InterfaceTraffic {
    pub name: String,
    pub received: Counters,
    pub sent: Counters,
}

/// One direction.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    pub bytes: u64,
    pub packets: u64,
    pub errors: u64,
    pub dropped: u64,
}

/// The interfaces, without loopback, of the network namespace that process `pid` is in. `None`: the process is
/// gone, or is in the namespace of the caller, whose traffic is no pod's.
pub fn traffic_of(pid: u32) -> Option<Vec<InterfaceTraffic>> {
    if identity(format!("/proc/{pid}/ns/net"))? == own()? {
        return None;
    }
    read(&format!("/proc/{pid}/net/dev"))
}

/// As [`traffic_of`], of the network namespace that process `pid` holds open without being in it, as a supervisor
/// does: the way to a pod in which no process lives.
pub fn traffic_held_by(pid: u32) -> Option<Vec<InterfaceTraffic>> {
    let host = own()?;
    let held = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten().map(|entry| entry.path());
    let of_network = |path: &PathBuf| {
        std::fs::read_link(path).is_ok_and(|target| target.as_os_str().as_bytes().starts_with(b"net:["))
    };
    let namespace = held.filter(of_network).find(|path| identity(path).is_some_and(|it| it != host))?;
    let namespace = File::open(namespace).ok()?;
    // A thread of its own, which ends there: no other may ever be in a pod's namespace.
    let inside = move || {
        process::enter(namespace.as_fd(), process::Namespaces::NETWORK).ok()?;
        read("/proc/thread-self/net/dev")
    };
    thread::Builder::new().name("pod-traffic".into()).spawn(inside).ok()?.join().ok()?
}

/// What tells one namespace from another (namespaces(7)).
fn identity(path: impl AsRef<Path>) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

fn own() -> Option<(u64, u64)> {
    identity("/proc/thread-self/ns/net")
}

fn read(path: &str) -> Option<Vec<InterfaceTraffic>> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(parse(&String::from_utf8_lossy(&bytes)))
}

/// Two lines of head, then `  eth0: 8 counters received, 8 sent`. A last line that was cut off is left out.
fn parse(text: &str) -> Vec<InterfaceTraffic> {
    let lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    lines.skip(2).filter_map(interface).filter(|one| one.name != "lo").take(INTERFACES_MAX).collect()
}

fn interface(line: &str) -> Option<InterfaceTraffic> {
    let (name, counters) = line.split_once(':')?;
    let counters: Vec<u64> = counters.split_ascii_whitespace().map_while(|word| word.parse().ok()).collect();
    let direction = |at: usize| {
        let [bytes, packets, errors, dropped] = *counters.get(at..at + 4)? else { return None };
        Some(Counters { bytes, packets, errors, dropped })
    };
    Some(InterfaceTraffic {
        name: name.trim_start().to_owned(),
        received: direction(0)?,
        sent: direction(8)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "Inter-|   Receive                                                |  Transmit\n \
        face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n";

    #[test]
    fn each_interface_but_loopback_is_told() {
        let text = format!(
            "{HEAD}    lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n  eth0: 100 2 3 4 0 0 0 0 500 6 7 8 0 0 0 0\n\
             tun0:1 1 1 1 1 1 1 1 2 2 2 2 2 2 2 2\n"
        );
        let all = parse(&text);
        assert_eq!(all.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["eth0", "tun0"]);
        assert_eq!(all[0].received, Counters { bytes: 100, packets: 2, errors: 3, dropped: 4 });
        assert_eq!(all[0].sent, Counters { bytes: 500, packets: 6, errors: 7, dropped: 8 });
    }

    #[test]
    fn what_is_cut_off_or_nonsense_is_left_out() {
        for line in ["", "eth0", "eth0: 1 2 3\n", "eth0: 1 1 1 1 1 1 1 1 2 2 2 2", "eth0: x x x x\n", ":\n"] {
            assert_eq!(parse(&format!("{HEAD}{line}")), [], "{line:?}");
        }
        assert_eq!(parse(""), []);
    }

    #[test]
    fn interfaces_without_end_are_cut() {
        let line = |nth: usize| format!("  veth{nth}: 1 1 1 1 1 1 1 1 2 2 2 2 2 2 2 2\n");
        let text: String = std::iter::once(HEAD.to_owned()).chain((0..1000).map(line)).collect();
        assert_eq!(parse(&text).len(), INTERFACES_MAX);
    }

    #[test]
    fn the_hosts_own_traffic_is_no_pods() {
        assert_eq!(traffic_of(std::process::id()), None);
        assert_eq!(traffic_of(u32::MAX), None);
        // A namespace of the host's that is held open is the host's, too. Not by this process: other tests hold some.
        let held = File::open("/proc/thread-self/ns/net").unwrap();
        let mut holder = std::process::Command::new("sleep").arg("1000").stdin(held).spawn().unwrap();
        let traffic = traffic_held_by(holder.id());
        holder.kill().unwrap();
        holder.wait().unwrap();
        assert_eq!(traffic, None);
        assert_eq!(traffic_held_by(u32::MAX), None);
    }
}
